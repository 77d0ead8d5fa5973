"""The real node under the driver of tests/feed/driver.py: real store, real actors, small constants.

A crash is exact to the append. From the one that is chosen on, nothing reaches the store any more, as when
the power fails; and in every other crash that one is stored, but nobody hears of it. Then a new node opens
the same directory.
"""

from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from pathlib import Path
from tempfile import TemporaryDirectory

import trio

from actors.feed.address import feed_address
from actors.feed.feed import FeedLimits
from actors.messages import Evict
from protocol import feed_replies as r
from protocol.commands import Command
from protocol.errors import HubbubError, Unavailable
from protocol.records import FanoutJob, Tell
from protocol.replies import Reply
from server.identity import Identity
from tests.feed.driver import USERS, Node
from tests.feed.machine import Cache
from tests.server.world import World, open_world

SMALL: FeedLimits = FeedLimits(cap=10, hot_followers=5, cool_followers=4)


class RealNode:
    """Fits driver.Node."""

    soon_s = 20.0  # a tell that found its target busy is brought again after a second

    def __init__(self, directory: Path, limits: FeedLimits, *, timeout_s: float) -> None:
        self._directory = directory
        self._limits = limits
        self._timeout_s = timeout_s
        self._stack = AsyncExitStack()
        self._identities: dict[str, Identity] = {}
        self.crash_count = 0
        self.world: World

    @property
    def now_ms(self) -> int:
        return self.world.now_ms

    @now_ms.setter
    def now_ms(self, now_ms: int) -> None:
        self.world.now_ms = now_ms

    async def start(self) -> None:
        self.world = await self._stack.enter_async_context(
            open_world(self._directory, timeout_s=self._timeout_s, feed_limits=self._limits)
        )

    async def stop(self) -> None:
        await self._stack.aclose()

    async def identity(self, user_id: str) -> Identity:
        found = self._identities.get(user_id)
        if found is None:
            found = self._identities[user_id] = await self.world.user(user_id.removeprefix("u_"))
        return found

    # -- driver.Node --------------------------------------------------------------------------------

    async def do(self, user_id: str, command: Command) -> Reply:
        """As a device does: what is refused for now is asked again."""
        identity = await self.identity(user_id)
        while True:
            try:
                return await self.world.core.service.execute(identity, command)
            except Unavailable as error:
                await trio.sleep(error.retry_after_s or 0.05)

    async def do_and_crash(self, user_id: str, command: Command, appends: int) -> Reply:
        self.crash_count += 1
        flaky = self.world.flaky
        replies: list[Reply] = []
        async with trio.open_nursery() as nursery:

            async def act() -> None:
                # A refusal is nothing that a crash could lose; it comes again below.
                with suppress(HubbubError):
                    replies.append(await self.do(user_id, command))
                await self.settle()
                nursery.cancel_scope.cancel()  # there were not so many appends

            unplugged = flaky.unplug_after(appends // 2, stores_last=appends % 2 == 1)
            nursery.start_soon(act)
            await unplugged.wait()
            nursery.cancel_scope.cancel()
        await self.restart(orderly=False)
        again = await self.do(user_id, command)
        for reply in replies:
            if isinstance(reply, r.PostInfo):
                assert isinstance(again, r.PostInfo)
                assert again.post.post_id == reply.post.post_id, "what was acked is another post now"
        return again

    async def settle(self) -> None:
        store, flaky = self.world.store, self.world.flaky
        with trio.fail_after(self.soon_s):
            while True:
                concluded = flaky.concluded
                tells = await store.find(Tell, {}, limit=10)
                jobs = await store.find(FanoutJob, {}, limit=10)
                if not tells and not jobs:
                    return
                await concluded.wait()

    def next_change(self) -> trio.Event:
        return self.world.flaky.concluded

    async def restart(self, *, orderly: bool) -> None:
        now_ms = self.now_ms
        if orderly:
            await self.world.core.hand_over(range(256), deadline_s=5.0)
        else:
            self.world.flaky.unplug_after(0)
            self.world.flaky.let_go()
        await self.stop()
        await self.start()
        self.now_ms = now_ms

    async def evict(self, user_id: str) -> None:
        await self.world.core.router.ask(feed_address(user_id), Evict((user_id,)), timeout_s=10.0)


@asynccontextmanager
async def open_real_node(
    cache: Cache, *, limits: FeedLimits = SMALL, timeout_s: float = 120.0
) -> AsyncIterator[RealNode]:
    """A node with the driver's users, in a directory of its own."""
    if cache == "off":
        limits = FeedLimits(
            cap=limits.cap,
            hot_followers=limits.hot_followers,
            cool_followers=limits.cool_followers,
            ttl_s=0.0,
        )
    with TemporaryDirectory() as directory:
        node = RealNode(Path(directory) / "data", limits, timeout_s=timeout_s)
        await node.start()
        try:
            for user_id in USERS:
                await node.identity(user_id)
            yield node
        finally:
            await node.stop()


def as_node(node: RealNode) -> Node:
    """Says that it fits."""
    return node
