"""Whom a user might follow, by the follows of those followed; and how a user stands to authors."""

import random
import time
from contextlib import closing
from pathlib import Path

import pytest

from protocol.records import AuthorRow, BlockRow, Disabled, InterestRow, MuteRow, Op, Put
from storage import Store, open_store
from storage.check import DATABASE_NAME
from storage.reader import open_read_only
from storage.recommend_queries import (
    MAX_EDGES,
    MAX_FRIENDS,
    FriendOfFriends,
    Standing,
    friends_of_friends,
)
from tests.storage.follows import follow, put_all

SINCE_MS = 1_000  # interests from before have ended


async def friends(store: Store, user_id: str, limit: int = 10) -> list[FriendOfFriends]:
    return await store.trends.friends_of_friends(user_id, uninterested_since_ms=SINCE_MS, limit=limit)


async def test_authors_are_counted_by_who_of_those_followed_follows_them(tmp_path: Path) -> None:
    """The reader is told because of whom: the newest friends first, three at most."""
    async with open_store(tmp_path) as store:
        ops: list[Op] = [follow("me", f"friend{number}", number) for number in range(1, 6)]
        ops += [follow(f"friend{number}", "popular", 9) for number in range(1, 6)]
        ops += [follow(f"friend{number}", "known", 9) for number in (2, 4)]
        ops += [follow("stranger", "unknown", 9), follow("friend1", "me", 9), follow("friend1", "friend2", 9)]
        ops.append(follow("friend1", "asked", 9, state="requested"))
        await put_all(store, ops)
        assert await friends(store, "me") == [
            FriendOfFriends("popular", ["friend5", "friend4", "friend3"], 5),
            FriendOfFriends("known", ["friend4", "friend2"], 2),
        ]
        assert [found.author_id for found in await friends(store, "me", limit=1)] == ["popular"]
        assert await friends(store, "nobody") == []


@pytest.mark.parametrize(
    "op",
    [
        follow("me", "author", 5),
        follow("me", "author", 5, state="requested"),
        Put(BlockRow(user_id="me", other_id="author", since_ms=1)),
        Put(BlockRow(user_id="author", other_id="me", since_ms=1)),
        Put(MuteRow(user_id="me", other_id="author", since_ms=1)),
        Put(InterestRow(user_id="me", kind="author", target="author", since_ms=SINCE_MS + 1)),
        Put(Disabled(user_id="author", at_ms=1)),
    ],
    ids=["followed", "asked", "blocked", "blocked by", "muted", "not interested", "disabled"],
)
async def test_whom_the_reader_knows_or_does_not_want_is_left_out(tmp_path: Path, op: Put) -> None:
    """A recommendation must never bring back what somebody has shut out."""
    async with open_store(tmp_path) as store:
        await put_all(store, [follow("me", "friend"), follow("friend", "author"), follow("friend", "other")])
        assert [found.author_id for found in await friends(store, "me")] == ["author", "other"]
        await put_all(store, [op])
        assert [found.author_id for found in await friends(store, "me")] == ["other"]


async def test_what_has_ended_or_is_another_s_changes_nothing(tmp_path: Path) -> None:
    """The mute of somebody else, and an old "not interested", hide nobody."""
    async with open_store(tmp_path) as store:
        await put_all(
            store,
            [
                follow("me", "friend"),
                follow("friend", "author"),
                Put(MuteRow(user_id="friend", other_id="author", since_ms=1)),
                Put(BlockRow(user_id="friend", other_id="x", since_ms=1)),
                Put(InterestRow(user_id="me", kind="author", target="author", since_ms=SINCE_MS)),
                Put(InterestRow(user_id="me", kind="hashtag", target="author", since_ms=SINCE_MS + 1)),
            ],
        )
        assert [found.author_id for found in await friends(store, "me")] == ["author"]


async def test_only_the_newest_follows_are_looked_at(tmp_path: Path) -> None:
    """The work is bounded: 50 friends, 200 of whom each follows."""
    async with open_store(tmp_path) as store:
        ops: list[Op] = [follow("me", "oldest friend", 1)]
        ops += [follow("me", f"friend{number}", 2 + number) for number in range(MAX_FRIENDS)]
        ops += [follow("oldest friend", "out of reach"), follow("friend0", "oldest edge", 1)]
        ops += [follow("friend0", f"edge{number}", 2 + number) for number in range(MAX_EDGES)]
        await put_all(store, ops)
        found = await friends(store, "me", limit=1_000)
        assert {friend.author_id for friend in found} == {f"edge{number}" for number in range(MAX_EDGES)}


async def test_candidates_beyond_those_left_out_are_found(tmp_path: Path) -> None:
    """Muting many popular authors does not end the recommendations."""
    async with open_store(tmp_path) as store:
        ops: list[Op] = [follow("me", "friend1"), follow("me", "friend2"), follow("friend1", "quiet")]
        for number in range(150):
            ops += [follow(f"friend{side}", f"loud{number}") for side in (1, 2)]
            ops.append(Put(MuteRow(user_id="me", other_id=f"loud{number}", since_ms=1)))
        await put_all(store, ops)
        assert await friends(store, "me") == [FriendOfFriends("quiet", ["friend1"], 1)]


async def test_standings_tell_each_author_apart(tmp_path: Path) -> None:
    """What may be shown unasked, and who may be recommended, hangs on these flags."""
    async with open_store(tmp_path) as store:
        await put_all(
            store,
            [
                follow("me", "followed"),
                follow("me", "asked", state="requested"),
                Put(BlockRow(user_id="me", other_id="blocked", since_ms=1)),
                Put(BlockRow(user_id="blocking", other_id="me", since_ms=1)),
                Put(MuteRow(user_id="me", other_id="muted", since_ms=1)),
                Put(InterestRow(user_id="me", kind="author", target="dull", since_ms=SINCE_MS + 1)),
                Put(AuthorRow(user_id="private", app_id="app", is_private=True)),
                Put(AuthorRow(user_id="public", app_id="app")),
                Put(Disabled(user_id="disabled", at_ms=1)),
            ],
        )
        asked = ["followed", "asked", "blocked", "blocking", "muted", "dull", "private", "public", "disabled"]
        found = await store.trends.standings("me", [*asked, 'odd "id"'], uninterested_since_ms=SINCE_MS)
        assert found == {
            "followed": Standing("followed", "following"),
            "asked": Standing("asked", "requested"),
            "blocked": Standing("blocked", "none", is_blocked=1),
            "blocking": Standing("blocking", "none", is_blocked=1),
            "muted": Standing("muted", "none", is_muted=1),
            "dull": Standing("dull", "none", is_uninteresting=1),
            "private": Standing("private", "none", is_private=1),
            "public": Standing("public", "none"),
            "disabled": Standing("disabled", "none", is_disabled=1),
            'odd "id"': Standing('odd "id"', "none"),
        }
        shown = [author_id for author_id in asked if found[author_id].may_be_shown]
        assert shown == ["followed", "asked", "public"]
        recommended = [author_id for author_id in asked if found[author_id].may_be_recommended]
        assert recommended == ["private", "public"]
        assert await store.trends.standings("me", [], uninterested_since_ms=SINCE_MS) == {}


@pytest.mark.slow
async def test_a_reader_who_follows_ten_thousand_waits_no_longer(tmp_path: Path) -> None:
    """The largest reader there may be, among others who follow much, and mostly the same authors."""
    dice = random.Random(3)
    async with open_store(tmp_path, synchronous="NORMAL") as store:
        authors = [f"author{number:06d}" for number in range(12_000)]
        mine = dice.sample(authors, 10_000)
        ops: list[Op] = [follow("me", author_id, number) for number, author_id in enumerate(mine)]
        for friend_id in mine[-MAX_FRIENDS:]:
            ops += [follow(friend_id, other, n) for n, other in enumerate(dice.sample(authors, 400))]
        await put_all(store, ops)
        found = await friends(store, "me", limit=20)
        assert len(found) == 20
        assert not {friend.author_id for friend in found} & set(mine)
        # Its work, by the clock of its thread: others share the machine.
        with closing(open_read_only(tmp_path / DATABASE_NAME)) as connection:
            works_ms = []
            for _ in range(7):
                started_at = time.thread_time()
                assert friends_of_friends(connection, "me", SINCE_MS, 20) == found
                works_ms.append((time.thread_time() - started_at) * 1000)
        assert min(works_ms) < 20
