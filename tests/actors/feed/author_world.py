"""Authors over the real store; feed partitions, users and listeners are stand-ins that record what comes."""

from collections import defaultdict
from collections.abc import AsyncIterator, Callable, Collection
from contextlib import asynccontextmanager
from pathlib import Path
from secrets import token_hex
from typing import TypeVar, cast

import pytest
import structlog.testing
import trio

from actors.address import Address
from actors.crash_history import CrashPolicy
from actors.entity_host import EntityHost
from actors.feed.address import author_address, feed_address, partition_of
from actors.feed.author import AuthorActor
from actors.feed.ids import PostIds
from actors.feed.resumer import FanoutResumer
from actors.messages import ActorTell, Ask, FanOut, FollowMoved, Told, decode_tell, encode_tell
from actors.ports import Fanout
from actors.relay import TellRelay
from actors.reply import Reply, ReplySlot
from actors.router import LocalRouter
from protocol import feed_commands, feed_replies, replies
from protocol.codec import Encoded
from protocol.commands import Command
from protocol.errors import HubbubError
from protocol.records import (
    AuthorRow,
    FollowRow,
    Insert,
    Op,
    PostCountsRow,
    PostRow,
    Put,
    Remove,
    Tell,
    User,
)
from server.chat_core import Alone
from storage.sqlite import SqliteStore, open_store

R = TypeVar("R")
APP = "default"


class Partitions:
    """Feed partitions that take every push, unless they are told to refuse, or to keep it in hand."""

    kind = "feed"

    def __init__(self, world: "World") -> None:
        self._world = world
        self.pushes: list[FanOut] = []  # taken, in order
        self.tells: list[tuple[int, ActorTell]] = []  # (partition, what it was told)
        self.refusals: dict[int, HubbubError] = {}
        self.attempts: list[tuple[int, FanOut]] = []
        self.is_holding = False
        self.held: list[tuple[FanOut, Reply]] = []

    def deliver(
        self, address: Address, message: object, reply: Reply, *, may_be_at_once: bool = False
    ) -> None:
        partition = int(address.id)
        if isinstance(message, FanOut):
            self.attempts.append((partition, message))
            self._world.news()
            if (error := self.refusals.get(partition)) is not None:
                raise error
            assert all(partition_of(user_id) == partition for user_id in message.user_ids)
            if self.is_holding:
                self.held.append((message, reply))
            else:
                self.take(message, reply)
        else:
            assert isinstance(message, Told)
            self.tells.append((partition, decode_tell(message.body)))
            self._world.settle(message, reply)

    def deliver_if_active(self, address: Address, message: object) -> bool:
        return False

    def take(self, message: FanOut, reply: Reply) -> None:
        self.pushes.append(message)
        reply.resolve(replies.Ok())
        self._world.news()

    def release(self, count: int | None = None) -> None:
        """Take what is in hand, or the first of it."""
        taken, self.held = self.held[:count], [] if count is None else self.held[count:]
        for message, reply in taken:
            self.take(message, reply)

    def got(self, post_id: int) -> list[str]:
        """Who has got a post, as often as they did."""
        return sorted(u for push in self.pushes if push.post_id == post_id for u in push.user_ids)

    def told(self, kind: type[R]) -> list[R]:
        return [tell for _, tell in self.tells if isinstance(tell, kind)]


class Users:
    """Users' actors, or notification partitions, that record what they are told."""

    def __init__(self, world: "World", kind: str = "user") -> None:
        self.kind = kind
        self._world = world
        self.tells: list[tuple[str, ActorTell]] = []

    def deliver(
        self, address: Address, message: object, reply: Reply, *, may_be_at_once: bool = False
    ) -> None:
        assert isinstance(message, Told)
        self.tells.append((address.id, decode_tell(message.body)))
        self._world.settle(message, reply)

    def deliver_if_active(self, address: Address, message: object) -> bool:
        return False


class Index:
    """A FeedIndex that writes down what it is told."""

    def __init__(self, world: "World") -> None:
        self._world = world
        self.calls: list[tuple[object, ...]] = []
        self.pending: set[int] = set()
        self.posts: dict[int, PostRow] = {}
        self.counts: dict[int, PostCountsRow] = {}
        self.authors: dict[str, AuthorRow] = {}
        self.forgotten: list[str] = []

    def _note(self, *call: object) -> None:
        self.calls.append(call)
        self._world.news()

    def posted(self, post: PostRow, *, is_pending: bool) -> None:
        self.posts[post.post_id] = post
        if is_pending:
            self.pending.add(post.post_id)
        self._note("posted", post.post_id, is_pending)

    def pushed(self, post_id: int, author_id: str) -> None:
        self.pending.discard(post_id)
        self._note("pushed", post_id, author_id)

    def edited(self, post: PostRow) -> None:
        self.posts[post.post_id] = post
        self._note("edited", post.post_id)

    def deleted(self, post: PostRow) -> None:
        self.posts[post.post_id] = post
        self._note("deleted", post.post_id)

    def counted(self, counts: PostCountsRow) -> None:
        self.counts[counts.post_id] = counts
        self._note("counted", counts.post_id)

    def liked(self, post: PostRow, user_id: str, *, removed: bool) -> None:
        self._note("liked", post.post_id, user_id, removed)

    def commented(self, post: PostRow, user_id: str) -> None:
        self._note("commented", post.post_id, user_id)

    def reposted(self, post: PostRow, user_id: str, *, removed: bool) -> None:
        self._note("reposted", post.post_id, user_id, removed)

    def author_changed(self, author: AuthorRow) -> None:
        self.authors[author.user_id] = author
        self._note("author_changed", author.user_id)

    def blocked(self, user_id: str, other_id: str, *, blocked: bool) -> None:
        self._note("blocked", user_id, other_id, blocked)

    def is_hot(self, author_id: str) -> bool:
        """Whether the author's next post is merged in at read, as was told last."""
        return self.authors[author_id].is_hot

    def forget(self, author_id: str) -> None:
        self.forgotten.append(author_id)
        self._note("forget", author_id)

    def started(self, author: AuthorRow) -> None:
        self._note("started", author.user_id)


class Listeners:
    """The part of Fanout that authors use."""

    def __init__(self, world: "World") -> None:
        self._world = world
        self.connected: set[str] = set()
        self.events: list[tuple[int, object]] = []  # (post_id, event)

    def is_connected(self, user_id: str) -> bool:
        return user_id in self.connected

    def publish_post(self, post_id: int, key: str | tuple[str, ...], encoded: Encoded) -> None:
        self.events.append((post_id, encoded.event))
        self._world.news()


class _Relay(TellRelay):
    """The relay, which says when a tell has arrived."""

    world: "World"

    def concluded(self, tell_id: str, address: Address, error: HubbubError | None) -> None:
        super().concluded(tell_id, address, error)
        self.world.news()


class World:
    def __init__(
        self, store: SqliteStore, epochs: dict[int, int], *, hot_followers: int, cool_followers: int
    ) -> None:
        self.store = store
        self.now_ms = 1_700_000_000_000
        self._news = trio.Event()
        self._nursery: trio.Nursery | None = None
        self.partitions = Partitions(self)
        self.users = Users(self)
        self.notified = Users(self, "notify")
        self.index = Index(self)
        self.listeners = Listeners(self)
        self.router = LocalRouter([self.partitions, self.users, self.notified])
        self.leases = Alone(epochs, self.router, cast(Fanout, self.listeners))  # type: ignore[arg-type]
        self.relay = _Relay(store, self.router, owns=lambda _: True)
        self.relay.world = self
        self.resumer = FanoutResumer(store, self.router, owns=lambda _: True)
        self.dead: list[BaseException] = []  # what crashed an author, and was not meant to
        self.poisoned: list[BaseException] = []
        ids = PostIds()

        def author(address: Address) -> AuthorActor:
            return AuthorActor(
                address,
                log=store,
                leases=self.leases,
                relay=self.relay,
                now_ms=lambda: self.now_ms,
                fanout=cast(Fanout, self.listeners),
                index=self.index,
                ids=ids,
                hot_followers=hot_followers,
                cool_followers=cool_followers,
            )

        self.host = EntityHost(
            "author",
            author,
            router=self.router,
            on_dead_letter=self._set_aside,
            crash_policy=CrashPolicy(max_crashes=1_000_000),
        )
        self.router.add(self.host)
        self._client_ids = 0
        self._name = token_hex(4)  # so that a restart makes no key anew

    # -- waiting ------------------------------------------------------------------------------------

    def news(self) -> None:
        news, self._news = self._news, trio.Event()
        news.set()

    async def until(self, test: Callable[[], bool]) -> None:
        """Wait until what the stand-ins have recorded passes the test."""
        while not test():
            await self._news.wait()

    async def all_pushed(self) -> None:
        await self.until(lambda: not self.index.pending)

    def settle(self, told: Told, reply: Reply) -> None:
        """Do as an actor does that stores the effect of a tell and removes it."""
        assert self._nursery is not None
        self._nursery.start_soon(self._remove, told, reply)

    async def _remove(self, told: Told, reply: Reply) -> None:
        await self.store.commit([Remove(Tell, {"tell_id": told.tell_id})])
        reply.resolve(replies.Ok())
        self.news()

    async def told_all(self) -> None:
        """Wait until no durable tell is owed to anybody.

        Those whose actor crashed before it could hint at them are looked for now, and not in half a minute.
        """
        while True:
            news = self._news  # before the look: what comes during it is news
            if not (self.relay.depth or await self.store.find(Tell, {}, limit=1)):
                return
            with trio.move_on_after(0.05):
                await news.wait()
                continue
            self.relay.scan_soon()

    # -- doing --------------------------------------------------------------------------------------

    def client_id(self) -> str:
        self._client_ids += 1
        return f"k{self._client_ids}-{self._name}"

    async def people(self, *names: str, app_id: str = APP) -> None:
        await self.store.commit(
            [
                Put(
                    User(
                        user_id=name,
                        app_id=app_id,
                        username=name,
                        username_key=name,
                        name=name,
                        name_key=name,
                        language="nl",
                        created_at_ms=1,
                    )
                )
                for name in names
            ]
        )

    def ask(self, user_id: str, command: Command, *, of: str = "", app_id: str = APP) -> ReplySlot:
        """Give a command to the actor of `of`, or to the user's own; without waiting."""
        slot = ReplySlot()
        self.router.ask_nowait(author_address(of or user_id), Ask(user_id, app_id, command), slot)
        return slot

    async def do(self, user_id: str, command: Command, *, of: str = "", app_id: str = APP) -> replies.Reply:
        return cast(replies.Reply, await self.ask(user_id, command, of=of, app_id=app_id).wait())

    async def refusal(self, user_id: str, command: Command, *, of: str = "", app_id: str = APP) -> str:
        with pytest.raises(HubbubError) as caught:
            await self.do(user_id, command, of=of, app_id=app_id)
        return caught.value.code

    async def post(self, user_id: str, text: str = "hi", **more: object) -> feed_replies.PostInfo:
        command = feed_commands.CreatePost(
            client_id=str(more.pop("client_id", "")) or self.client_id(),
            text=text,
            **more,  # type: ignore[arg-type]  # fields of CreatePost
        )
        return cast(feed_replies.PostInfo, await self.do(user_id, command))

    async def like(self, user_id: str, of: str, post_id: int, *, removed: bool = False) -> int:
        command = feed_commands.LikePost(post_id=post_id, removed=removed)
        reply = await self.do(user_id, command, of=of)
        assert isinstance(reply, feed_replies.PostCountsInfo)
        return reply.likes

    async def comment(self, user_id: str, of: str, post_id: int, text: str = "so", **more: object) -> int:
        command = feed_commands.AddComment(
            post_id=post_id,
            client_id=str(more.pop("client_id", "")) or self.client_id(),
            text=text,
            **more,  # type: ignore[arg-type]  # fields of AddComment
        )
        reply = await self.do(user_id, command, of=of)
        assert isinstance(reply, feed_replies.CommentInfo)
        return reply.comment.comment_id

    async def edge(self, follower_id: str, author_id: str, state: str, version: int = 1) -> None:
        """Write a follow as the follower's partition does ("" ends it), and tell the author."""
        tell = Tell(
            tell_id=f"t{self.client_id()}",
            shard=author_address(author_id).shard,
            kind="author",
            target_id=author_id,
            body=encode_tell(FollowMoved(follower_id)),
            at_ms=self.now_ms,
        )
        op: Op
        if state:
            op = Put(
                FollowRow(
                    user_id=follower_id,
                    author_id=author_id,
                    state=state,
                    since_ms=self.now_ms,
                    version=version,
                )
            )
        else:
            op = Remove(FollowRow, {"user_id": follower_id, "author_id": author_id})
        await self.store.commit([op, Insert(tell)])
        self.relay.hint([tell])

    async def follow(self, author_id: str, *follower_ids: str) -> None:
        """Let them follow, and wait until that is counted."""
        for follower_id in follower_ids:
            await self.edge(follower_id, author_id, "following")
        await self.told_all()

    async def counts(self, post_id: int) -> tuple[int, int, int]:
        """(likes, comments, reposts) as stored."""
        row = await self.store.get(PostCountsRow, post_id)
        return (0, 0, 0) if row is None else (row.likes, row.comments, row.reposts)

    async def author(self, user_id: str) -> AuthorRow:
        row = await self.store.get(AuthorRow, user_id)
        assert row is not None
        return row

    async def crash(self, user_id: str) -> None:
        """Crash an author's actor, twice: the message that did it is tried again, and then set aside."""
        count = len(self.poisoned)
        self.router.tell(author_address(user_id), "poison")
        await self.until(lambda: len(self.poisoned) > count)

    def _set_aside(self, _address: Address, message: object, error: BaseException, _count: int) -> None:
        (self.poisoned if message == "poison" else self.dead).append(error)
        self.news()

    @asynccontextmanager
    async def running(self) -> AsyncIterator["World"]:
        async with trio.open_nursery() as nursery:
            self._nursery = nursery
            await nursery.start(self.host.run)
            nursery.start_soon(self.relay.run)
            nursery.start_soon(self.resumer.run)
            with trio.fail_after(30):
                yield self
            nursery.cancel_scope.cancel()


@asynccontextmanager
async def open_world(
    directory: Path, *, hot_followers: int = 1_000_000, cool_followers: int = 1_000_000
) -> AsyncIterator[World]:
    """Bring authors to life on a directory; opening it again is a restart."""
    async with open_store(directory) as store:
        epochs = await store.claim_all("n1")
        world = World(store, epochs, hot_followers=hot_followers, cool_followers=cool_followers)
        # A crash is logged with all that was in memory, which takes seconds to print.
        with structlog.testing.capture_logs():
            async with world.running():
                yield world
        assert world.dead == []


def everybody(author_id: str, follower_ids: Collection[str]) -> list[str]:
    return sorted({author_id, *follower_ids})


__all__ = ["APP", "World", "defaultdict", "everybody", "feed_address", "open_world"]
