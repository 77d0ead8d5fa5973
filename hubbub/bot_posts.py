"""What a bot's handlers of posts work with, and how far the bot has got with its feed."""

from typing import TYPE_CHECKING

from hubbub.client import Client
from protocol.events import Event
from protocol.feed_events import FeedPosted
from protocol.feed_types import Comment, FeedItem, Post
from protocol.types import Profile

if TYPE_CHECKING:
    from hubbub.bot import Bot


def new_post(event: Event) -> Post | None:
    """Return the post that an event of the live feed tells of; None for other events."""
    return event.item.post if isinstance(event, FeedPosted) and event.item is not None else None


class PostContext:
    """What a handler is given: one new post of the bot's feed, and what can be done about it."""

    def __init__(self, bot: "Bot", client: Client, item: FeedItem, post: Post) -> None:
        self.bot = bot
        self.client = client
        self.item = item  # with why it is in the feed
        self.post = post
        self._comment_count = 0

    @property
    def original(self) -> Post:
        """What a repost repeats; else the post itself."""
        return self.item.original or self.post

    @property
    def text(self) -> str:
        return self.original.text

    def client_id(self, label: str) -> str:
        """Make an idempotency key that is the same when this post is handled again after a crash."""
        return f"{label}:{self.post.post_id}"[:64]

    async def comment(self, text: str, *, client_id: str | None = None) -> Comment:
        """Comment on the post (of a repost: on what it repeats); once, also when it is handled again."""
        self._comment_count += 1
        key = client_id or self.client_id(f"comment{self._comment_count}")
        return await self.client.posts.comment(self.original.post_id, text, client_id=key)

    async def like(self) -> None:
        """Like the post (of a repost: what it repeats)."""
        await self.client.posts.like(self.original.post_id)

    async def repost(self) -> Post:
        """Repeat the post to the bot's own followers."""
        return await self.client.posts.repost(self.post.post_id, client_id=self.client_id("repost"))

    async def author(self) -> Profile:
        """Read who posted it; remembered after the first time."""
        return await self.bot.profile(self.post.author_id)


class PostProgress:
    """Up to which post_id all posts are handled, while several are at work. Pure."""

    def __init__(self, position: int) -> None:
        self.position = position
        self._at_work: set[int] = set()
        self._newest_done = position

    def begin(self, post_id: int) -> None:
        """Note that a post came and is not handled yet."""
        self._at_work.add(post_id)

    def done(self, post_id: int) -> None:
        """Note that a post is handled."""
        self._at_work.discard(post_id)
        self._newest_done = max(self._newest_done, post_id)
        oldest = min(self._at_work, default=self._newest_done + 1)
        self.position = max(self.position, min(self._newest_done, oldest - 1))
