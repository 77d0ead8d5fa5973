"""What tests of feeds do again and again."""

from protocol import feed_commands, feed_replies
from tests.server.world import Device


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
