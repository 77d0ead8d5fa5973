"""What an app's developers have yet to be told, when, and what they were told within the last hour. Pure.

An alert is about one thing of one kind. It is told at once; whatever more comes of it within the hour is
counted, and told as a number when the hour is over. So each entry ends: an hour after it was told, if nothing
more came, or a day after it could not be told. Times are Unix ms.
"""

from collections.abc import Callable, Mapping
from typing import Final

import msgspec

EVERY_MS: Final = 3_600_000
GIVE_UP_MS: Final = 86_400_000
FIRST_BACKOFF_MS, MAX_BACKOFF_MS = 2_000, 900_000
# Things of one app that are told apart; beyond that only kinds are, as what providers answer is anything.
MAX_THINGS: Final = 200

Key = tuple[str, str]
"""Kind, and what it is about."""


class Alert(msgspec.Struct, frozen=True, kw_only=True):
    """What is told: the body of the webhook."""

    kind: str
    app_id: str
    at_ms: int
    count: int
    detail: dict[str, str]


class Waiting(msgspec.Struct):
    """One thing: how often it came since it was told, and when to tell of it next."""

    key: Key
    app_id: str
    detail: dict[str, str]
    at_ms: int  # when the first of these came
    count: int
    next_at_ms: int
    attempt: int = 0
    on_told: Callable[[], None] | None = None
    is_mailed: bool = False
    was_told: bool = False

    @property
    def alert(self) -> Alert:
        """What is to be told of it by now."""
        kind, _ = self.key
        return Alert(kind=kind, app_id=self.app_id, at_ms=self.at_ms, count=self.count, detail=self.detail)


def about(detail: Mapping[str, str]) -> str:
    """Name the thing: all but the words for people."""
    return "|".join(f"{name}={value}" for name, value in sorted(detail.items()) if name != "detail")[:300]


class AlertBook:
    """The alerts of all apps."""

    def __init__(self) -> None:
        self._apps: dict[str, dict[Key, Waiting]] = {}

    @property
    def apps(self) -> list[str]:
        """Apps with something to tell, or told within the last hour."""
        return list(self._apps)

    def add(self, app_id: str, kind: str, detail: dict[str, str], now_ms: int) -> None:
        """It came once more."""
        waiting = self._entry(app_id, kind, detail, now_ms)
        waiting.count += 1

    def stand(
        self,
        app_id: str,
        kind: str,
        detail: dict[str, str],
        now_ms: int,
        *,
        count: int,
        on_told: Callable[[], None] | None = None,
    ) -> bool:
        """So many there are by now; said again as long as that is so. True where it is news.

        `on_told`: for whoever tells to call once these have been told.
        """
        waiting = self._entry(app_id, kind, detail, now_ms)
        is_news = not waiting.count and not waiting.was_told
        waiting.count = count
        waiting.on_told = on_told
        return is_news

    def settle(self, app_id: str, kind: str, detail: Mapping[str, str]) -> None:
        """It is over: if it was told it need not be told again."""
        waiting = self._apps.get(app_id, {}).get((kind, about(detail)))
        if waiting is not None and waiting.was_told:
            waiting.count = 0

    def due(self, app_id: str, now_ms: int) -> list[Waiting]:
        """What is to be told now, in order of arrival. Forgets what was told an hour ago."""
        entries = self._apps.get(app_id, {})
        due = [waiting for waiting in entries.values() if waiting.next_at_ms <= now_ms]
        for waiting in due:
            if not waiting.count:
                self._forget(waiting)
        return [waiting for waiting in due if waiting.count]

    def next_at_ms(self, app_id: str) -> int | None:
        """When to ask for what is due; None: there is nothing."""
        return min((waiting.next_at_ms for waiting in self._apps.get(app_id, {}).values()), default=None)

    def told(self, waiting: Waiting, count: int, now_ms: int) -> None:
        """So many of it were told; those that came meanwhile wait for the hour to pass."""
        waiting.count = max(0, waiting.count - count)
        waiting.at_ms = now_ms
        waiting.next_at_ms = now_ms + EVERY_MS
        waiting.attempt = 0
        waiting.is_mailed = False
        waiting.was_told = True

    def failed(self, waiting: Waiting, now_ms: int) -> bool:
        """It could not be told; try later. False where it is given up."""
        if now_ms - waiting.at_ms > GIVE_UP_MS:
            self._forget(waiting)
            return False
        waiting.next_at_ms = now_ms + min(MAX_BACKOFF_MS, FIRST_BACKOFF_MS << min(waiting.attempt, 20))
        waiting.attempt += 1
        return True

    def _entry(self, app_id: str, kind: str, detail: dict[str, str], now_ms: int) -> Waiting:
        entries = self._apps.setdefault(app_id, {})
        key = (kind, about(detail))
        if key not in entries and len(entries) >= MAX_THINGS:
            key = (kind, "")
        waiting = entries.get(key)
        if waiting is None:
            waiting = entries[key] = Waiting(key, app_id, detail, now_ms, 0, now_ms)
        elif not waiting.count:
            waiting.at_ms = now_ms
        waiting.detail = detail
        return waiting

    def _forget(self, waiting: Waiting) -> None:
        entries = self._apps.get(waiting.app_id, {})
        if entries.get(waiting.key) is waiting:
            del entries[waiting.key]
        if not entries:
            self._apps.pop(waiting.app_id, None)
