"""Write a graph of follows straight into a store, as the actors would leave it.

A quarter of a million people who follow each other by commands would take minutes, and is not what is
measured. So users, follows, followers, authors, 20 earlier posts of each author and the feeds of all who have
read them lately are written as rows before the server starts. What commands leave besides, the events in
the log that tell of them, is left out: nothing that is measured reads them.
"""

import time
from collections.abc import Iterable, Iterator
from hashlib import blake2b
from itertools import islice
from pathlib import Path
from typing import Final

import msgspec
import trio

from actors.address import Address
from actors.feed.address import partition_of
from actors.feed.feed import Feed
from actors.feed.ids import PostIds
from bench.feed_graph import Graph
from protocol.limits import FEED_CAP
from protocol.records import AppKey, AuthorRow, FeedRow, FollowerRow, FollowRow, PostRow, Put, Row, User
from storage import SqliteStore, open_store

HISTORY: Final = 20  # earlier posts of each author: a page
TEXT_BYTES: Final = 200
# Of a node's 200,000 kept feeds some partitions would have too many, were all of them used.
MOST_ACTIVE: Final = 190_000
ACTIVE_SHARE: Final = 0.8
_CHUNK: Final = 5_000  # rows of one commit: a tenth of a second
_HISTORY_AGO_MS: Final = 7 * 24 * 3600 * 1000  # the earlier posts lie between a week and two weeks back


class Loaded(msgspec.Struct, frozen=True, kw_only=True):
    """What was written, and how long that took."""

    user_count: int
    follow_count: int
    post_count: int
    feed_count: int
    entry_count: int
    row_count: int
    seconds: float

    def __str__(self) -> str:
        return (
            f"{self.user_count:,} users, {self.follow_count:,} follows, {self.post_count:,} posts, "
            f"{self.feed_count:,} feeds with {self.entry_count:,} entries: {self.row_count:,} rows in "
            f"{self.seconds:.1f} s, {self.row_count / max(self.seconds, 1e-9):,.0f}/s"
        )


def name_of(account: int) -> str:
    """How an app's backend calls an account: the subject of its tokens."""
    return f"a{account}"


def user_id_of(account: int) -> str:
    """The id of an account's user: spread like those that the server makes, and the same each time."""
    return f"u_{blake2b(b'bench feed %d' % account, digest_size=12).hexdigest()}"


def text_of(number: int) -> str:
    """The text of a measured post."""
    return f"p{number:08d} ".ljust(TEXT_BYTES, "x")


def earlier_text_of(author: int, number: int) -> str:
    """The text of an author's n-th earlier post."""
    return f"h{author:08d} {number} ".ljust(TEXT_BYTES, "y")


def active_share_of(graph: Graph) -> float:
    """Which part of the accounts have read their feed lately: four fifths, or as many as a node keeps."""
    return min(ACTIVE_SHARE, MOST_ACTIVE / graph.account_count)


def is_active(account: int, share: float) -> bool:
    """Tell whether an account has read its feed lately: the same each time, and by nothing but chance."""
    digest = blake2b(b"bench active %d" % account, digest_size=8).digest()
    return int.from_bytes(digest, "big") < share * 2**64


class World:
    """A graph as rows. Iterate each kind once, and posts before authors and feeds."""

    def __init__(
        self, graph: Graph, app_id: str, *, hot_from: int, active_share: float, history: int, now_ms: int
    ) -> None:
        self.graph = graph
        self.active_share = active_share
        self.app_id = app_id
        self.hot_from = hot_from
        self.history = history
        self.now_ms = now_ms
        self.entry_count = 0
        self._user_ids = [user_id_of(account) for account in range(graph.account_count)]
        self._since_ms = now_ms - 3 * _HISTORY_AGO_MS
        self._post_ids: dict[int, list[int]] = {}  # author -> newest first

    def users(self) -> Iterator[User]:
        for account, user_id in self._in_order(range(self.graph.account_count)):
            name = name_of(account)
            yield User(
                user_id=user_id,
                app_id=self.app_id,
                username=name,
                username_key=name,
                name=name,
                name_key=name,
                external_id=name,
                created_at_ms=self._since_ms,
            )

    def follows(self) -> Iterator[FollowRow]:
        for account, user_id in self._in_order(self.graph.following()):
            for author in self.graph.followees(account):
                yield FollowRow(
                    user_id=user_id,
                    author_id=self._user_ids[author],
                    state="following",
                    since_ms=self._since_ms,
                    version=1,
                    covered=True,
                )

    def followers(self) -> Iterator[FollowerRow]:
        for author, author_id in self._in_order(self.graph.followed()):
            for account in self.graph.followers(author):
                yield FollowerRow(
                    author_id=author_id,
                    follower_id=self._user_ids[account],
                    since_ms=self._since_ms,
                    version=1,
                )

    def posts(self) -> Iterator[PostRow]:
        """By rising id, as time goes: each author posts once in a round."""
        authors = self.graph.followed()
        ids, shards = PostIds(), [Address("author", self._user_ids[author]).shard for author in authors]
        round_ms = _HISTORY_AGO_MS // max(1, self.history)
        hot = [self.is_hot(author) for author in authors]
        made: list[list[int]] = [[] for _ in authors]
        start_ms = self.now_ms - 2 * _HISTORY_AGO_MS
        for number in range(self.history):
            for place, author in enumerate(authors):
                at_ms = start_ms + number * round_ms + place * round_ms // len(authors)
                post_id = ids.next(shards[place], at_ms)
                made[place].append(post_id)
                yield PostRow(
                    post_id=post_id,
                    author_id=self._user_ids[author],
                    app_id=self.app_id,
                    at_ms=at_ms,
                    client_id=f"h{number}",
                    text=earlier_text_of(author, number),
                    is_hot=hot[place],
                )
        for place, author in enumerate(authors):
            self._post_ids[author] = made[place][::-1]

    def authors(self) -> Iterator[AuthorRow]:
        for author, author_id in self._in_order(self.graph.followed()):
            last_id = self._post_ids[author][0] if self._post_ids.get(author) else 0
            is_hot = self.is_hot(author)
            yield AuthorRow(
                user_id=author_id,
                app_id=self.app_id,
                is_hot=is_hot,
                follower_count=self.graph.follower_count(author),
                post_count=self.history,
                last_post_id=last_id,
                last_hot_id=last_id if is_hot else 0,
            )

    def feeds(self) -> Iterator[FeedRow]:
        """Feeds of all who read lately, with the earlier posts of those who push."""
        for account, user_id in self._in_order(range(self.graph.account_count)):
            if not is_active(account, self.active_share):
                continue
            authors = (*self.graph.followees(account), account)
            ids = sorted(
                post_id
                for author in authors
                if not self.is_hot(author)
                for post_id in self._post_ids.get(author, ())
            )[-FEED_CAP:]
            self.entry_count += len(ids)
            feed = Feed(user_id, partition_of(user_id), ids, cap=FEED_CAP, covered_from=0)
            yield FeedRow(
                user_id=user_id,
                partition=feed.partition,
                covered_from=feed.ids[0] if len(ids) == FEED_CAP else 0,
                position=len(ids),
                upto_seq=0,
                read_at_ms=self.now_ms,
                entries=feed.entries(),
            )

    def is_hot(self, author: int) -> bool:
        return self.graph.follower_count(author) >= self.hot_from

    def _in_order(self, accounts: Iterable[int]) -> list[tuple[int, str]]:
        """Accounts by rising user id: rows that come in the order of their key are written much faster."""
        return sorted(((account, self._user_ids[account]) for account in accounts), key=lambda pair: pair[1])


def prepare(directory: Path) -> None:
    """Make an empty data directory, as a node's first start does."""
    trio.run(_prepare, directory)


async def _prepare(directory: Path) -> None:
    async with open_store(directory):
        pass


def write_users(directory: Path, graph: Graph) -> int:
    """Write the accounts alone, and return how many there are; see `write`."""
    return trio.run(_write_users, directory, graph, time.time_ns() // 1_000_000)


async def _write_users(directory: Path, graph: Graph, now_ms: int) -> int:
    async with open_store(directory) as store:
        (key,) = await store.find(AppKey, {})
        world = World(graph, key.app_id, hot_from=0, active_share=0.0, history=0, now_ms=now_ms)
        return await _put(store, world.users())


def write(
    directory: Path,
    graph: Graph,
    *,
    hot_from: int,
    history: int = HISTORY,
    active_share: float | None = None,
    now_ms: int | None = None,
) -> Loaded:
    """Fill a data directory that has one app key and no users; the accounts are users of that key's app."""
    if now_ms is None:
        now_ms = time.time_ns() // 1_000_000
    share = active_share_of(graph) if active_share is None else active_share
    return trio.run(_write, directory, graph, hot_from, history, share, now_ms)


async def _write(
    directory: Path, graph: Graph, hot_from: int, history: int, active_share: float, now_ms: int
) -> Loaded:
    started_at = time.monotonic()
    async with open_store(directory) as store:
        (key,) = await store.find(AppKey, {})
        world = World(
            graph, key.app_id, hot_from=hot_from, active_share=active_share, history=history, now_ms=now_ms
        )
        kinds: list[Iterator[Row]] = [
            world.users(),
            world.follows(),
            world.followers(),
            world.posts(),
            world.authors(),
            world.feeds(),
        ]
        users, follows, followers, posts, authors, feeds = [await _put(store, rows) for rows in kinds]
    return Loaded(
        user_count=users,
        follow_count=follows,
        post_count=posts,
        feed_count=feeds,
        entry_count=world.entry_count,
        row_count=users + follows + followers + posts + authors + feeds,
        seconds=time.monotonic() - started_at,
    )


async def _put(store: SqliteStore, rows: Iterator[Row]) -> int:
    """Write rows, so many in a transaction; return how many there were."""
    count = 0
    while chunk := [Put(row) for row in islice(rows, _CHUNK)]:
        await store.commit(chunk)
        count += len(chunk)
    return count
