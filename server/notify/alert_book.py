"""What an app's developers have yet to be told, when, and what they were told within the last hour. Pure.

An alert is about one thing of one kind. It is told at once; whatever more comes of it within the hour is
counted, and told as a number when the hour is over. So each entry ends: an hour after it was told, if nothing
more came, or a day after it could not be told. Times are Unix ms.

What is being told is fixed with the first try, under an id of its own: each try says the same, so that a
receiver that knows the id has had all of it. What comes meanwhile waits for the next alert.
"""

from collections.abc import Callable, Mapping
from hashlib import blake2b
from typing import Final

import msgspec

from protocol.notify_records import AlertRow

EVERY_MS: Final = 3_600_000
GIVE_UP_MS: Final = 86_400_000
# Things of one app that are told apart; beyond that only kinds are, as what providers answer is anything.
MAX_THINGS: Final = 200
MAX_ENTRIES: Final = 20_000  # of all apps; beyond that only kinds are, too: each is a row, read at the start
MAX_WORD_CHARS: Final = 1_000  # of one value of `detail`

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
_detail = msgspec.json.Decoder(dict[str, str]).decode


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


def about(detail: Mapping[str, str]) -> str:
    """Name the thing: all but the words for people."""
    return "|".join(f"{name}={value}" for name, value in sorted(detail.items()) if name != "detail")[:300]


class AlertBook:
    """The alerts of all apps, as one node tells them. `node_id` parts its alerts' ids from other nodes'."""

    def __init__(self, node_id: str = "") -> None:
        self._node_id = node_id
        self._apps: dict[str, dict[Key, Waiting]] = {}
        self._held_until_ms: dict[str, int] = {}
        self._size = 0
        self._changed: dict[Place, None] = {}  # since they were last handed out to be stored

    @property
    def apps(self) -> list[str]:
        """Apps with something to tell, or told within the last hour."""
        return list(self._apps)

    def add(self, app_id: str, kind: str, detail: dict[str, str], now_ms: int) -> Waiting:
        """It came once more."""
        waiting = self._entry(app_id, kind, detail, now_ms)
        waiting.count += 1
        self._changed[waiting.place] = None
        return waiting

    def stand(
        self,
        app_id: str,
        kind: str,
        detail: dict[str, str],
        now_ms: int,
        *,
        count: int,
        found_as: str = "",
        on_told: Callable[[], None] | None = None,
    ) -> bool:
        """So many there are by now; said again as long as that is so. True where it is news.

        `on_told`: for whoever tells to call once these have been told. `found_as`: names just these, where
        the store itself knows which were not told; then they are found again after a restart.
        """
        waiting = self._entry(app_id, kind, detail, now_ms)
        is_news = not waiting.count and not waiting.told_at_ms
        if waiting.count != count:
            self._changed[waiting.place] = None
        waiting.count = count
        waiting.is_found = bool(found_as)
        waiting.found_as = found_as
        waiting.on_told = on_told
        return is_news

    def settle(self, app_id: str, kind: str, detail: Mapping[str, str]) -> None:
        """It is over: if it was told it need not be told again.

        What a look at the store has found, and finds no more, need not be told at all.
        """
        waiting = self._apps.get(app_id, {}).get((kind, about(detail)))
        if waiting is not None and (waiting.told_at_ms or waiting.is_found):
            waiting.count = 0
            waiting.telling = None
            self._changed[waiting.place] = None

    # -- telling --------------------------------------------------------------------------------------

    def due(self, app_id: str, now_ms: int) -> list[Waiting]:
        """What is to be told now, in order of arrival. Forgets what was told an hour ago."""
        entries = self._apps.get(app_id, {})
        due = [waiting for waiting in entries.values() if waiting.next_at_ms <= now_ms]
        for waiting in due:
            if not waiting.count:
                self._forget(waiting)
        if now_ms < self._held_until_ms.get(app_id, 0):
            return []
        self._held_until_ms.pop(app_id, None)
        return [waiting for waiting in due if waiting.count]

    def next_at_ms(self, app_id: str) -> int | None:
        """When to ask for what is due; None: there is nothing."""
        first = min((waiting.next_at_ms for waiting in self._apps.get(app_id, {}).values()), default=None)
        return None if first is None else max(first, self._held_until_ms.get(app_id, 0))

    def hold(self, app_id: str, until_ms: int) -> None:
        """Tell the app nothing before then: its webhook asks for that. 0: it has another webhook."""
        if until_ms:
            self._held_until_ms[app_id] = until_ms
        else:
            self._held_until_ms.pop(app_id, None)

    def begin(self, waiting: Waiting) -> Alert:
        """What is to be said of it at this try: the same as at the tries before."""
        if waiting.telling is None:
            kind, _ = waiting.key
            named = (
                ("", *waiting.place, waiting.found_as)
                if waiting.is_found
                else (self._node_id, *waiting.place, str(waiting.at_ms))
            )
            waiting.telling = Alert(
                alert_id=blake2b(_encode(named), digest_size=16).hexdigest(),
                kind=kind,
                app_id=waiting.app_id,
                at_ms=waiting.at_ms,
                count=waiting.count,
                detail=waiting.detail,
            )
            waiting.on_this_told = waiting.on_told
            self._changed[waiting.place] = None
        return waiting.telling

    def mailed(self, waiting: Waiting) -> None:
        """One of the two ways has taken it; the webhook has yet to."""
        waiting.is_mailed = True
        self._changed[waiting.place] = None

    def told(self, waiting: Waiting, now_ms: int) -> None:
        """What was begun is told; those that came meanwhile wait for the hour to pass."""
        if waiting.telling is not None:
            waiting.count = max(0, waiting.count - waiting.telling.count)
        waiting.telling = waiting.on_this_told = None
        waiting.at_ms = now_ms
        waiting.next_at_ms = now_ms + EVERY_MS
        waiting.failures = 0
        waiting.is_mailed = False
        waiting.reason = ""
        waiting.told_at_ms = now_ms
        self._changed[waiting.place] = None

    def failed(
        self, waiting: Waiting, now_ms: int, *, pause_ms: int, reason: str, was_sent: bool = True
    ) -> bool:
        """It could not be told; try again after a pause. False where it is given up.

        `was_sent`: somebody may have had it all the same, so the next try says the same.
        """
        since_ms = waiting.telling.at_ms if waiting.telling is not None else waiting.at_ms
        if now_ms - since_ms > GIVE_UP_MS:
            self._forget(waiting)
            return False
        waiting.next_at_ms = now_ms + pause_ms
        waiting.failures += 1
        if not was_sent and not waiting.is_mailed:
            waiting.telling = waiting.on_this_told = None
        if reason != waiting.reason:
            waiting.reason = reason
            self._changed[waiting.place] = None
        return True

    # -- rows -----------------------------------------------------------------------------------------

    def take_changes(self) -> list[tuple[Place, AlertRow | None]]:
        """What has changed since it was last asked, to be stored; None: the row is to go."""
        changed, self._changed = self._changed, {}
        return [(place, self._row(place)) for place in changed]

    def put_back(self, places: list[Place]) -> None:
        """These could not be stored: hand them out again."""
        self._changed.update(dict.fromkeys(places))

    def new_row(self, app_id: str, kind: str, detail: dict[str, str], now_ms: int) -> AlertRow:
        """The row of something that comes for the first time: for storing it with what it tells of."""
        waiting = Waiting((kind, about(detail)), app_id, _cut(detail), now_ms, 1, now_ms)
        return self._row_of(waiting)

    def restore(self, row: AlertRow, now_ms: int) -> None:
        """Take up a row of this node's life before, or of another node: it is told at once if it has to be.

        What a look at the store counts is counted anew: of that the row tells when it was told alone.
        """
        waiting = self._entry(row.app_id, row.kind, _detail(row.detail), now_ms, thing=row.about)
        if not waiting.count:
            waiting.at_ms = row.at_ms
        waiting.at_ms = min(waiting.at_ms, row.at_ms)
        waiting.told_at_ms = max(waiting.told_at_ms, row.told_at_ms)
        waiting.next_at_ms = max(now_ms, row.told_at_ms + EVERY_MS if row.told_at_ms else 0)
        waiting.is_found = row.is_found
        self._changed[waiting.place] = None
        if row.is_found:
            return
        waiting.count += row.count
        if row.telling and waiting.telling is None:
            waiting.telling = alert_of(row)
            waiting.is_mailed = row.is_mailed
            waiting.next_at_ms = now_ms

    def _row(self, place: Place) -> AlertRow | None:
        app_id, *key = place
        waiting = self._apps.get(app_id, {}).get((key[0], key[1]))
        return None if waiting is None else self._row_of(waiting)

    def _row_of(self, waiting: Waiting) -> AlertRow:
        kind, thing = waiting.key
        return AlertRow(
            node_id=self._node_id,
            app_id=waiting.app_id,
            kind=kind,
            about=thing,
            detail=_encode(waiting.detail).decode(),
            at_ms=waiting.at_ms,
            count=waiting.count,
            telling=_encode(waiting.telling).decode() if waiting.telling is not None else "",
            is_mailed=waiting.is_mailed,
            is_found=waiting.is_found,
            told_at_ms=waiting.told_at_ms,
            reason=waiting.reason,
        )

    # -- entries --------------------------------------------------------------------------------------

    def _entry(
        self, app_id: str, kind: str, detail: dict[str, str], now_ms: int, *, thing: str | None = None
    ) -> Waiting:
        entries = self._apps.setdefault(app_id, {})
        key = (kind, about(detail) if thing is None else thing)
        if key not in entries and (len(entries) >= MAX_THINGS or self._size >= MAX_ENTRIES):
            key = (kind, "")
        waiting = entries.get(key)
        if waiting is None:
            waiting = entries[key] = Waiting(key, app_id, {}, now_ms, 0, now_ms)
            self._size += 1
        elif not waiting.count:
            waiting.at_ms = now_ms
        waiting.detail = _cut(detail)
        return waiting

    def _forget(self, waiting: Waiting) -> None:
        entries = self._apps.get(waiting.app_id, {})
        if entries.get(waiting.key) is waiting:
            del entries[waiting.key]
            self._size -= 1
            self._changed[waiting.place] = None
        if not entries:
            self._apps.pop(waiting.app_id, None)
            self._held_until_ms.pop(waiting.app_id, None)


def _cut(detail: Mapping[str, str]) -> dict[str, str]:
    return {name: value[:MAX_WORD_CHARS] for name, value in detail.items()}
