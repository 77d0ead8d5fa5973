"""What an app's developers have yet to be told, when, and what they were told within the last hour. Pure.

An alert is about one thing of one kind. It is told at once; whatever more comes of it within the hour is
counted, and told as a number when the hour is over. So each entry ends: an hour after it was told, if nothing
more came, or a day after it could not be told. Times are Unix ms.

What is being told is fixed with the first try, under an id of its own: each try says the same, so that a
receiver that knows the id has had all of it. What comes meanwhile waits for the next alert.
"""

from collections.abc import Callable, Collection
from typing import Final

import msgspec

from protocol.notify_records import AlertRow
from server.notify.waiting_alert import Alert, Key, Place, Waiting, about, alert_of, cut

EVERY_MS: Final = 3_600_000
GIVE_UP_MS: Final = 86_400_000
# Things of one app that are told apart; beyond that only kinds are, as what providers answer is anything.
MAX_THINGS: Final = 200
MAX_ENTRIES: Final = 20_000  # of all apps; beyond that only kinds are, too: each is a row, read at the start
# Rows were within those limits where they were written. They stay apart, with their ids: a book has room for
# its own life before, in which kinds came on top, and for what gone nodes have left.
RESTORED: Final = 2

_detail = msgspec.json.Decoder(dict[str, str]).decode


class AlertBook:
    """The alerts of all apps, as one node tells them. `node_id` parts its alerts' ids from other nodes'."""

    def __init__(self, node_id: str = "") -> None:
        self._node_id = node_id
        self._apps: dict[str, dict[Key, Waiting]] = {}
        self._size = 0
        self._changed: dict[Place, None] = {}  # since they were last handed out to be stored

    @property
    def apps(self) -> list[str]:
        """Apps with something to tell, or told within the last hour."""
        return list(self._apps)

    @property
    def has_changed(self) -> bool:
        """There is something to be stored."""
        return bool(self._changed)

    def add(self, app_id: str, kind: str, detail: dict[str, str], now_ms: int) -> Waiting:
        """It came once more."""
        waiting = self._entry(app_id, kind, detail, now_ms)
        waiting.count += 1
        waiting.last_at_ms = now_ms
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

    def settle(self, kind: str, *, but: Collection[tuple[str, str]] = ()) -> None:
        """All of a kind is over, but these (app, and what it is about): what was told need not be told again.

        What a look at the store has found, and finds no more, need not be told at all. What is counted anew
        and was not told is told yet, once. Never of kinds that are added.
        """
        crowded = {app_id for app_id, thing in but if (kind, thing) not in self._apps.get(app_id, {})}
        over = [
            waiting
            for app_id, entries in self._apps.items()
            for key, waiting in entries.items()
            if key[0] == kind and (app_id, key[1]) not in but and not (key[1] == "" and app_id in crowded)
        ]
        for waiting in over:
            if not waiting.told_at_ms:
                if waiting.is_found:
                    self._forget(waiting)
            elif waiting.count or waiting.telling is not None:
                waiting.count = 0
                waiting.end_telling()
                waiting.next_at_ms = waiting.told_at_ms + EVERY_MS
                self._changed[waiting.place] = None

    # -- telling --------------------------------------------------------------------------------------

    def due(self, app_id: str, now_ms: int) -> list[Waiting]:
        """What is to be told now, in order of arrival. Forgets what was told an hour ago."""
        entries = self._apps.get(app_id, {})
        due = [waiting for waiting in entries.values() if waiting.next_at_ms <= now_ms]
        for waiting in due:
            if not waiting.count:
                self._forget(waiting)
        return [waiting for waiting in due if waiting.count]

    def is_open(self, waiting: Waiting) -> bool:
        """It is still to be told: it may be over while another one is told."""
        return bool(waiting.count) and self._apps.get(waiting.app_id, {}).get(waiting.key) is waiting

    def next_at_ms(self, app_id: str) -> int | None:
        """When to ask for what is due; None: there is nothing."""
        return min((waiting.next_at_ms for waiting in self._apps.get(app_id, {}).values()), default=None)

    def put_off(self, waiting: Waiting, until_ms: int, *, reason: str) -> None:
        """There is no way to tell it before then."""
        waiting.next_at_ms = until_ms
        if not waiting.reason:
            waiting.reason = reason
            self._changed[waiting.place] = None

    def release(self, app_id: str, until_ms: int, now_ms: int) -> None:
        """What was put off until then can be told now."""
        for waiting in self._apps.get(app_id, {}).values():
            if waiting.next_at_ms == until_ms:
                waiting.next_at_ms = now_ms

    def begin(self, waiting: Waiting) -> Alert:
        """What is to be said of it at this try: the same as at the tries before."""
        if waiting.telling is None:
            waiting.telling = waiting.begun(self._node_id)
            waiting.on_this_told = waiting.on_told
            self._changed[waiting.place] = None
        return waiting.telling

    def mailed(self, waiting: Waiting) -> None:
        """One of the two ways has taken it; the webhook has yet to."""
        if waiting.telling is None:  # it was over meanwhile: what comes next was not mailed
            return
        waiting.is_mailed = True
        self._changed[waiting.place] = None

    def told(self, waiting: Waiting, now_ms: int) -> None:
        """What was begun is told; those that came meanwhile wait for the hour to pass."""
        if waiting.telling is not None:
            waiting.count = max(0, waiting.count - waiting.telling.count)
        waiting.end_telling()
        waiting.at_ms = now_ms
        waiting.next_at_ms = now_ms + EVERY_MS
        waiting.told_at_ms = now_ms
        self._changed[waiting.place] = None

    def failed(
        self, waiting: Waiting, now_ms: int, *, pause_ms: int, reason: str, was_sent: bool = True
    ) -> bool:
        """It could not be told; try again after a pause. False where it is given up.

        `was_sent`: somebody may have had it all the same, so the next try says the same.
        """
        if waiting.telling is None:  # it was over meanwhile
            return True
        waiting.next_at_ms = now_ms + pause_ms
        if now_ms - waiting.telling.at_ms > GIVE_UP_MS:
            self._give_up(waiting, waiting.telling, now_ms, was_sent=was_sent)
            return False
        waiting.failures += 1
        if not was_sent and not waiting.is_mailed:
            waiting.telling = waiting.on_this_told = None
        if reason != waiting.reason:
            waiting.reason = reason
            self._changed[waiting.place] = None
        return True

    def _give_up(self, waiting: Waiting, telling: Alert, now_ms: int, *, was_sent: bool) -> None:
        """Of what was being told nobody will hear; what came since has a day of its own.

        Where there was nobody to tell, all that came is being told. Then the newest is kept.
        """
        rest, since_ms = waiting.count - telling.count, now_ms
        if rest <= 0 and not was_sent and now_ms - waiting.last_at_ms <= GIVE_UP_MS:
            rest, since_ms = 1, waiting.last_at_ms
        if rest <= 0 or waiting.is_recounted:  # the next look counts those that are not too old
            self._forget(waiting)
            return
        failures, reason = waiting.failures + 1, waiting.reason
        waiting.end_telling()
        waiting.failures, waiting.reason = failures, reason  # the webhook is no better
        waiting.count, waiting.at_ms = rest, since_ms
        self._changed[waiting.place] = None

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
        return Waiting((kind, about(detail)), app_id, cut(detail), now_ms, 1, now_ms).row(self._node_id)

    def restore(self, row: AlertRow, now_ms: int) -> None:
        """Take up a row of this node's life before, or of another node: it is told at once if it has to be.

        What a look at the store counts is counted anew: of that the row tells when it was told alone.
        """
        waiting = self._entry(row.app_id, row.kind, _detail(row.detail), now_ms, thing=row.about)
        if not waiting.count:
            waiting.at_ms = row.at_ms
        waiting.at_ms = min(waiting.at_ms, row.at_ms)
        waiting.last_at_ms = max(waiting.last_at_ms, row.at_ms)
        waiting.told_at_ms = max(waiting.told_at_ms, row.told_at_ms)
        waiting.next_at_ms = max(now_ms, row.told_at_ms + EVERY_MS if row.told_at_ms else 0)
        waiting.is_found = row.is_found
        # First where it is counted from now on: what is stored in two commits may come twice, not never.
        self._changed[waiting.place] = None
        self._changed[row.app_id, row.kind, row.about] = None
        if row.is_found or (waiting.is_recounted and row.told_at_ms and not row.telling):
            return
        waiting.count += row.count
        if row.telling and waiting.telling is None:
            waiting.telling = alert_of(row)
            waiting.is_mailed = row.is_mailed
            waiting.next_at_ms = now_ms

    def _row(self, place: Place) -> AlertRow | None:
        app_id, *key = place
        waiting = self._apps.get(app_id, {}).get((key[0], key[1]))
        return None if waiting is None else waiting.row(self._node_id)

    # -- entries --------------------------------------------------------------------------------------

    def _entry(
        self, app_id: str, kind: str, detail: dict[str, str], now_ms: int, *, thing: str | None = None
    ) -> Waiting:
        """`thing`: of a row."""
        entries = self._apps.setdefault(app_id, {})
        key = (kind, about(detail) if thing is None else thing)
        room = 1 if thing is None else RESTORED
        if key not in entries and (len(entries) >= room * MAX_THINGS or self._size >= room * MAX_ENTRIES):
            key = (kind, "")
        waiting = entries.get(key)
        if waiting is None:
            waiting = entries[key] = Waiting(key, app_id, {}, now_ms, 0, now_ms)
            self._size += 1
        elif not waiting.count:
            waiting.at_ms = now_ms
        waiting.detail = cut(detail)
        return waiting

    def _forget(self, waiting: Waiting) -> None:
        entries = self._apps.get(waiting.app_id, {})
        if entries.get(waiting.key) is waiting:
            del entries[waiting.key]
            self._size -= 1
            self._changed[waiting.place] = None
        if not entries:
            self._apps.pop(waiting.app_id, None)
