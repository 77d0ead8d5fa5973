"""What tests of feeds do again and again."""

from typing import Any, cast

import trio

from protocol import feed_commands, feed_replies
from protocol.errors import HubbubError
from protocol.records import Relation
from tests.server.world import Device, World


class HeldReads:
    """The store's reads, where what was read for one user waits until the test lets it go."""

    def __init__(self, world: World, user_id: str) -> None:
        self._posts = world.flaky.posts
        self._user_id = user_id
        self.was_read, self.goes_on = trio.Event(), trio.Event()
        self.error: HubbubError | None = None
        world.flaky.posts = self  # type: ignore[attr-defined]

    async def relation(self, user_id: str, other_id: str, **more: Any) -> Relation:
        found = cast(Relation, await self._posts.relation(user_id, other_id, **more))  # type: ignore[attr-defined]
        if user_id == self._user_id:
            self.was_read.set()
            await self.goes_on.wait()
            if self.error is not None:
                raise self.error
        return found

    def __getattr__(self, name: str) -> object:
        return getattr(self._posts, name)


async def post(device: Device, text: str, **more: object) -> int:
    """Publish a post, a millisecond after the last one; give its id."""
    device.world.now_ms += 1
    reply = await device.do(
        feed_commands.CreatePost(client_id=device.world.new_client_id(), text=text, **more)  # type: ignore[arg-type]
    )
    assert isinstance(reply, feed_replies.PostInfo)
    return reply.post.post_id


async def follow(device: Device, other: Device) -> str:
    """Follow somebody; give how one stands to them now."""
    reply = await device.do(feed_commands.FollowUser(user_id=other.user_id))
    assert isinstance(reply, feed_replies.FollowInfo)
    return reply.follow


async def page(device: Device, **more: object) -> feed_replies.FeedPage:
    """Read a page of the own feed."""
    reply = await device.do(feed_commands.ReadFeed(**more))  # type: ignore[arg-type]
    assert isinstance(reply, feed_replies.FeedPage)
    return reply


def texts(found: feed_replies.FeedPage) -> list[str]:
    """The texts of a page's posts."""
    return [item.post.text for item in found.items if item.post is not None]
