"""One thing that an app's developers have yet to be told: as it waits, as it is told, and as a row. Pure.

Times are Unix ms.
"""

from collections.abc import Callable, Mapping
from hashlib import blake2b
from typing import Final

import msgspec

from protocol.notify_records import AlertRow

MAX_WORD_CHARS: Final = 1_000  # of one value of `detail`
# Looks at the store say how many they are by now; no row says that for later, so what is over is told once.
RECOUNTED: Final = frozenset({"deadline_passed"})

Key = tuple[str, str]
"""Kind, and what it is about."""
Place = tuple[str, str, str]
"""App, kind, and what it is about: the key of a row, but for the node."""

_encode = msgspec.json.Encoder().encode


class Alert(msgspec.Struct, frozen=True, kw_only=True):
    """What is told: the body of the webhook. `alert_id`: the same at each try, and after a restart."""

    alert_id: str
    kind: str
    app_id: str
    at_ms: int
    count: int
    detail: dict[str, str]


_alert = msgspec.json.Decoder(Alert).decode


def alert_of(row: AlertRow) -> Alert | None:
    """What is being told of a row's thing; None: that has not begun. Raises: msgspec.MsgspecError."""
    return _alert(row.telling) if row.telling else None


class Waiting(msgspec.Struct):
    """One thing: how often it came since it was told, and when to tell of it next."""

    key: Key
    app_id: str
    detail: dict[str, str]
    at_ms: int  # when the first of these came
    count: int
    next_at_ms: int
    last_at_ms: int = 0  # when the newest came that was added
    failures: int = 0  # in a row
    told_at_ms: int = 0  # 0: it was not
    is_found: bool = False  # counted anew at each look at the store
    found_as: str = ""  # names what a look has found: the same, the same name
    on_told: Callable[[], None] | None = None
    telling: Alert | None = None
    on_this_told: Callable[[], None] | None = None
    is_mailed: bool = False
    reason: str = ""  # why the last try failed

    @property
    def place(self) -> Place:
        return (self.app_id, *self.key)

    @property
    def is_recounted(self) -> bool:
        """A look at the store says how many they are."""
        return self.is_found or self.key[0] in RECOUNTED

    def begun(self, node_id: str) -> Alert:
        """What is said of all that came so far, under an id of its own.

        What a look has found has the same id on whichever node has looked.
        """
        kind, _ = self.key
        named = ("", *self.place, self.found_as) if self.is_found else (node_id, *self.place, str(self.at_ms))
        return Alert(
            alert_id=blake2b(_encode(named), digest_size=16).hexdigest(),
            kind=kind,
            app_id=self.app_id,
            at_ms=self.at_ms,
            count=self.count,
            detail=self.detail,
        )

    def end_telling(self) -> None:
        """All that belongs to what is being told, and to its tries, is over."""
        self.telling = self.on_this_told = None
        self.is_mailed = False
        self.failures = 0
        self.reason = ""

    def row(self, node_id: str) -> AlertRow:
        """As it is stored."""
        kind, thing = self.key
        return AlertRow(
            node_id=node_id,
            app_id=self.app_id,
            kind=kind,
            about=thing,
            detail=_encode(self.detail).decode(),
            at_ms=self.at_ms,
            count=self.count,
            telling=_encode(self.telling).decode() if self.telling is not None else "",
            is_mailed=self.is_mailed,
            is_found=self.is_found,
            told_at_ms=self.told_at_ms,
            reason=self.reason,
        )


def about(detail: Mapping[str, str]) -> str:
    """Name the thing: all but the words for people."""
    return "|".join(f"{name}={value}" for name, value in sorted(detail.items()) if name != "detail")[:300]


def cut(detail: Mapping[str, str]) -> dict[str, str]:
    """As much of it as is kept."""
    return {name: value[:MAX_WORD_CHARS] for name, value in detail.items()}
