"""A small news feed behind the scripted peer: pages, pushes with positions, and what may go wrong there."""

from collections.abc import Sequence

import msgspec

from protocol import events as e
from protocol import feed_commands as fc
from protocol import feed_replies as fr
from protocol import replies as r
from protocol.commands import Command
from protocol.feed_events import FeedNews, FeedPosted
from protocol.feed_types import FeedItem, Post, Why
from protocol.replies import Reply
from tests.hubbub.peer import Outgoing, Peer, PeerSession


class FeedPeer:
    """The feed of the one user of a peer. It answers reads from `items`, and pushes to who watches."""

    def __init__(self, peer: Peer) -> None:
        self.peer = peer
        self.items: dict[int, FeedItem] = {}
        self.position = 0
        self.read_position = 0
        self.clock_ms = 1_000_000
        self.watches: dict[PeerSession, fc.WatchFeed] = {}
        self.reads: list[fc.ReadFeed] = []
        self.lost: set[int] = set()  # post_ids whose event does not come
        peer.on_command = self.answer
        peer.on_reply = self.tell_time

    def tell_time(self, _session: PeerSession, _command: Command, reply: Reply) -> Sequence[Outgoing]:
        if isinstance(reply, r.Welcome | r.HeartbeatAck):
            return (msgspec.structs.replace(reply, now_ms=self.clock_ms),)
        return (reply,)

    def answer(self, session: PeerSession, command: Command) -> Reply | None:
        if isinstance(command, fc.WatchFeed):
            self.watches[session] = command
            return r.Ok(id=command.id)
        if isinstance(command, fc.SetFeedPosition):
            self.read_position = command.post_id
            return r.Ok(id=command.id)
        if isinstance(command, fc.LikePost):
            return fr.PostCountsInfo(id=command.id, post_id=command.post_id, likes=1, liked=True)
        if isinstance(command, fc.ReadFeed):
            self.reads.append(command)
            return self._page(command)
        return None

    def _page(self, command: fc.ReadFeed) -> fr.FeedPage:
        ids = sorted(self.items, reverse=True)
        if command.before:
            ids = [post_id for post_id in ids if post_id < int(command.before)]
        shown = ids[: command.limit]
        return fr.FeedPage(
            id=command.id,
            items=[self.items[post_id] for post_id in shown],
            before=str(shown[-1]) if len(ids) > len(shown) else "",
            after=str(shown[0]) if shown else command.before,
            position=self.position,
            complete=True,
            read_position=self.read_position,
        )

    # -- what a test does to the feed ---------------------------------------------------------------

    def add(self, post_id: int, *, why: Why = "followed", author: str = "bob", at_ms: int = 0) -> FeedItem:
        """Put a post into the feed without a word to anybody."""
        item = FeedItem(
            post=Post(
                post_id=post_id, author_id=author, at_ms=at_ms or self.clock_ms, text=f"post {post_id}"
            ),
            why=why,
        )
        self.items[post_id] = item
        return item

    async def push(self, post_id: int, *, why: Why = "followed", author: str = "bob") -> None:
        """Put a post into the feed and push it to who watches, unless it is to be lost."""
        item = self.items.get(post_id) or self.add(post_id, why=why, author=author)
        self.position += 1
        if post_id not in self.lost:
            await self.tell(FeedPosted(position=self.position, item=item))

    async def tell(self, event: e.Event) -> None:
        """Tell who watches the feed on a connection that lives."""
        watching = {session for session, watch in self.watches.items() if watch.feed}
        told = self.peer.on_live
        self.peer.on_live = lambda session, one: told(session, one) if session in watching else ()
        try:
            await self.peer.tell(event)
        finally:
            self.peer.on_live = told

    async def tell_news(self, count: int, *user_ids: str) -> None:
        await self.tell(FeedNews(count=count, user_ids=list(user_ids)))
