"""A device that keeps a feed by events, and reads where they leave a gap.

It does what the SDK and the page do: watch, read down to what is known, then take events by their position.
"""

from collections.abc import Callable

import trio

from protocol import feed_commands as f
from protocol import feed_events as e
from protocol import feed_replies as r
from protocol.errors import Unavailable
from protocol.events import Event, Resync
from protocol.replies import Reply
from server.identity import Identity
from tests.server.world import Device, World

PAGE = 4


class LiveFeed:
    """One reader's device. `run` keeps it up to date until cancelled, also when it is disconnected."""

    def __init__(self, world: World, identity: Identity, on_event: Callable[[], None]) -> None:
        self.user_id = identity.user.user_id
        self.seen: dict[int, str] = {}  # post_id -> text, as last heard or read
        self.connects = 0
        self.live_count = 0  # posts that came by an event, and were not read before
        self.gap_count = 0
        self._world = world
        self._identity = identity
        self._on_event = on_event
        self._device: Device | None = None
        self._position = 0
        self._lost = trio.Event()

    def disconnect(self) -> None:
        self._lost.set()

    async def run(self) -> None:
        while True:
            self._lost = trio.Event()
            self.connects += 1
            device = await self._world.connect(self._identity, device_id="live")
            await self._ask(device, f.WatchFeed(feed=True))
            await self._catch_up(device)
            handled = 0
            while not self._lost.is_set():
                while handled < len(device.events):
                    event = device.events[handled]
                    handled += 1
                    await self._take(device, event)
                await self._next_event_or_loss(device, handled)
            device.disconnect()
            self._world.devices.remove(device)

    async def _next_event_or_loss(self, device: Device, handled: int) -> None:
        async with trio.open_nursery() as nursery:

            async def first(wait: Callable[[], object]) -> None:
                await wait()  # type: ignore[misc]  # an async function
                nursery.cancel_scope.cancel()

            nursery.start_soon(first, lambda: device.until_count(handled + 1))
            nursery.start_soon(first, self._lost.wait)

    async def _take(self, device: Device, event: Event) -> None:
        match event:
            case e.FeedPosted():
                if event.position <= self._position:
                    return  # what was read since it was sent
                is_next = event.position == self._position + 1
                if not is_next or event.item is None or event.item.post is None:
                    self.gap_count += not is_next
                    await self._catch_up(device)
                    return
                self._position = event.position
                post = event.item.post
                await self._expect_readable(device, post.post_id)
                self.live_count += post.post_id not in self.seen
                self.seen[post.post_id] = post.text
            case e.FeedNews():
                await self._catch_up(device)
            case Resync() if event.conversation_id == "feed":
                await self._catch_up(device)
            case _:
                return
        self._on_event()

    async def _expect_readable(self, device: Device, post_id: int) -> None:
        """An event must not be earlier than a read that shows it."""
        before = ""
        while True:
            page = await self._read(device, before)
            ids = [item.post.post_id for item in page.items if item.post is not None]
            if post_id in ids:
                return
            assert page.before, f"{self.user_id} heard of {post_id}, and could not read it"
            assert min(ids) > post_id, f"{self.user_id} heard of {post_id}, and could not read it: {ids}"
            before = page.before

    async def _catch_up(self, device: Device) -> None:
        """Read from the newest down to the end: what is in the middle may be new as well, after a follow."""
        page = await self._read(device, "")
        position = page.position
        while True:
            for item in page.items:
                assert item.post is not None
                self.seen[item.post.post_id] = item.post.text
            if not page.before:
                break
            page = await self._read(device, page.before)
        self._position = position
        self._on_event()

    async def _read(self, device: Device, before: str) -> r.FeedPage:
        reply = await self._ask(device, f.ReadFeed(before=before, limit=PAGE))
        assert isinstance(reply, r.FeedPage)
        assert reply.complete
        return reply

    async def _ask(self, device: Device, command: f.WatchFeed | f.ReadFeed) -> Reply:
        while True:
            try:
                return await device.do(command)
            except Unavailable as error:
                await trio.sleep(error.retry_after_s or 0.05)
