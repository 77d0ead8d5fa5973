"""What happens in a user's notification centre, kept whole over lost events and connections.

An event carries all there is to know of one notification, so what was missed is found by reading the newest
pages and comparing them with what was told.
"""

from collections import OrderedDict, deque
from collections.abc import Awaitable, Callable
from typing import Final, Protocol
from weakref import WeakSet

import msgspec
import trio

from protocol.errors import HubbubError
from protocol.notify_events import NotificationShown, NotificationsMarked
from protocol.notify_replies import NotificationItem, NotificationPage

NOTIFICATIONS: Final = "notifications"  # what a resync of the centre has instead of a conversation_id
CATCH_UP_PAGE: Final = 100
MAX_CATCH_UP_PAGES: Final = 10  # who was away for more is told the newest 1,000
MAX_WAITING: Final = 1_000  # events that nobody has taken; beyond, the centre is read instead
MAX_KNOWN: Final = 2_000  # notifications remembered, to tell what has changed

NotifyLive = NotificationShown | NotificationsMarked


class ReadPage(Protocol):
    """Read a page of the centre; `Notifications.page` fits."""

    def __call__(self, *, before: int, limit: int) -> Awaitable[NotificationPage]: ...


class Watchers:
    """The watches of one client. Its connection tells of welcomes, resyncs, events and the end."""

    def __init__(self, ended: Callable[[], HubbubError | None]) -> None:
        self._ended = ended
        self._watches: WeakSet[NotificationWatch] = WeakSet()

    def add(self, watch: "NotificationWatch") -> "NotificationWatch":
        watch.ended = self._ended
        self._watches.add(watch)
        return watch

    def take(self, event: NotifyLive) -> None:
        """A live event."""
        for watch in tuple(self._watches):
            watch.take(event)

    def miss(self) -> None:
        """A new connection, or events were lost."""
        for watch in tuple(self._watches):
            watch.miss()

    def wake(self) -> None:
        """The client ended."""
        for watch in tuple(self._watches):
            watch.wake()


class NotificationWatch:
    """An iterator over one user's centre. See `Notifications.watch`; for one task at a time."""

    def __init__(self, read: ReadPage) -> None:
        self._read = read
        self.ended: Callable[[], HubbubError | None] = lambda: None
        self.unread = 0  # the badge, as of the last event that was taken
        self._known: OrderedDict[int, NotificationItem] = OrderedDict()
        self._newest = -1  # before the first page
        self._waiting: deque[NotifyLive] = deque()
        self._is_behind = True
        self._wake = trio.Event()

    def __aiter__(self) -> "NotificationWatch":
        return self

    async def __anext__(self) -> NotifyLive:
        while True:  # ends with an event, or with the client
            ended = self.ended()
            if self._is_behind and ended is None:
                await self._catch_up()
            while self._waiting:
                event = self._waiting.popleft()
                if self._is_news(event):
                    self.unread = event.unread
                    return event
            if ended is not None:
                raise ended
            if self._is_behind:
                continue
            self._wake = trio.Event()
            await self._wake.wait()

    async def start(self) -> "NotificationWatch":
        """Read what there is now, so that what comes from here on is told. `__anext__` does it else."""
        if self._newest < 0:
            await self._catch_up()
        return self

    # -- the connection's side ----------------------------------------------------------------------

    def take(self, event: NotifyLive) -> None:
        if self._is_behind:
            return  # it is stored already, so it will be read
        if len(self._waiting) >= MAX_WAITING:
            self._waiting.clear()
            self._is_behind = True
        else:
            self._waiting.append(event)
        self._wake.set()

    def miss(self) -> None:
        self._is_behind = True
        self._wake.set()

    def wake(self) -> None:
        self._wake.set()

    # -- what is told -------------------------------------------------------------------------------

    def _is_news(self, event: NotifyLive) -> bool:
        """Remember what an event tells; False where a page has told it already."""
        if isinstance(event, NotificationShown):
            known = self._known.get(event.item.notification_id)
            self._remember(event.item)
            return known is None or _told(known) != _told(event.item) or known.read != event.item.read
        ids = set(event.notification_ids)
        if event.up_to:
            ids |= {known for known in self._known if known <= event.up_to}
        for notification_id in ids & self._known.keys():
            item = _marked(self._known[notification_id], event.mark)
            if item is None:
                del self._known[notification_id]
            else:
                self._known[notification_id] = item
        return True

    def _remember(self, item: NotificationItem) -> None:
        self._newest = max(self._newest, item.notification_id)
        self._known[item.notification_id] = item
        self._known.move_to_end(item.notification_id)
        if len(self._known) > MAX_KNOWN:
            self._known.popitem(last=False)

    async def _catch_up(self) -> None:
        """Read down to what is known, and queue what is not, oldest first. Raises: HubbubError."""
        is_first = self._newest < 0
        self._is_behind = False
        items: list[NotificationItem] = []
        unread, before = 0, 0
        try:
            for number in range(MAX_CATCH_UP_PAGES):
                page = await self._read(before=before, limit=CATCH_UP_PAGE)
                unread = page.unread if number == 0 else unread
                items += page.items
                is_end = not page.more or not page.items
                if is_end or is_first or page.items[-1].notification_id <= self._newest:
                    break
                before = page.items[-1].notification_id
        except BaseException:
            self._is_behind = True
            raise
        if is_first:
            self._newest = 0
            self.unread = unread
            for item in reversed(items):
                self._remember(item)
            return
        oldest = 0 if is_end else items[-1].notification_id
        found = missed(self._known, items, unread, oldest)
        self._waiting.extendleft(reversed(found))  # before what came live meanwhile


def missed(
    known: "OrderedDict[int, NotificationItem]", items: list[NotificationItem], unread: int, oldest: int
) -> list[NotifyLive]:
    """Tell by events how the centre has become another. `items`: all from `oldest` on, newest first."""
    events: list[NotifyLive] = []
    now = {item.notification_id: item for item in items}
    gone = [one for one in known if one >= oldest and one not in now]
    if gone:
        events.append(NotificationsMarked(mark="dismissed", notification_ids=gone, unread=unread))
    for mark in ("read", "unread", "seen"):
        ids = [one for one, item in now.items() if one in known and _change(known[one], item) == mark]
        if ids:
            events.append(NotificationsMarked(mark=mark, notification_ids=ids, unread=unread))
    for item in reversed(items):
        before = known.get(item.notification_id)
        if before is None or _told(before) != _told(item):
            events.append(NotificationShown(item=item, unread=unread))
    return events


def _told(item: NotificationItem) -> tuple[str, str, str, int]:
    """What a notification says: it is told again when that is another."""
    return item.title, item.text, item.url, item.count


def _change(before: NotificationItem, now: NotificationItem) -> str:
    if _told(before) != _told(now) or (before.read, before.seen) == (now.read, now.seen):
        return ""
    if before.read != now.read:
        return "read" if now.read else "unread"
    return "seen" if now.seen else ""


def _marked(item: NotificationItem, mark: str) -> NotificationItem | None:
    """A notification with a mark; None: it has left the centre."""
    if mark == "dismissed":
        return None
    if mark == "unread":
        return msgspec.structs.replace(item, read=False)
    return msgspec.structs.replace(item, seen=True, read=item.read or mark != "seen")
