"""kill -9 at each step of a fan-out: after the restart every follower has the post exactly once.

The node is let run in slices of a tenth of a millisecond (SIGSTOP, SIGCONT), and between two of them the
database is looked at, until the post has got as far as it should; then it is killed. How far it really was is
read afterwards, when nothing moves any more. A failure prints its seed; HUBBUB_SEED repeats the choices (not
the scheduling).
"""

import os
import random
import time
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path
from typing import Final

import msgspec
import pytest
import trio

from actors.feed.address import author_address, partition_of
from hubbub.accounts import AppBackend
from protocol import feed_commands as f
from protocol import feed_replies as r
from protocol.errors import HubbubError
from tests.chaos.load import provision
from tests.chaos.scenarios import until_owned
from tests.cluster_nodes import LOAD_FLAGS, ClusterNode, ClusterProcesses

IS_LONG: Final = os.environ.get("HUBBUB_LONG") == "1"
FOLLOWERS: Final = 400 if IS_LONG else 60
ROUNDS: Final = 80 if IS_LONG else 8
CLUSTER_ROUNDS: Final = 40 if IS_LONG else 4
STEPS: Final = ("nothing", "stored", "some pushed", "all pushed", "done")
TRIES: Final = 20  # to catch a fan-out at a step
SLICE_S: Final = 0.0001
LONGEST_S: Final = 5.0  # for a fan-out in slices; then it has gone by
DONE_S: Final = 40.0  # for the rest of a fan-out after a restart: leases of a dead node may have to run out
PAGE: Final = 100
pytestmark = [pytest.mark.chaos, pytest.mark.timeout(1800 if IS_LONG else 240)]


class Progress(msgspec.Struct, frozen=True):
    """How far a post has got, as the database has it."""

    post_id: int
    has_job: bool
    partitions: frozenset[int]  # that have stored it

    def step(self, wanted: frozenset[int]) -> str:
        if not self.post_id:
            return "nothing"
        if not self.has_job:
            return "done"
        if not self.partitions:
            return "stored"
        return "all pushed" if self.partitions >= wanted else "some pushed"


class Crowd:
    """Two authors, whom everybody follows, and what they have posted."""

    def __init__(self, cluster: ClusterProcesses, seed: int) -> None:
        self.cluster = cluster
        self.rng = random.Random(seed)
        self.authors: list[str] = []
        self.followers: list[str] = []
        self.post_ids: list[int] = []  # newest first
        self.steps: Counter[str] = Counter()
        self._number = 0
        self._partitions: frozenset[int] = frozenset()
        self._backend: AppBackend

    @asynccontextmanager
    async def gathered(self) -> AsyncIterator[None]:
        """Make the users and the follows, and let everybody read once, so that feeds are kept."""
        key, secret = await trio.to_thread.run_sync(self.cluster.app_key)
        urls = [node.url for node in self.cluster.nodes]
        async with AppBackend(urls, key, secret) as self._backend:
            names = ["author0", "author1", *(f"reader{number}" for number in range(FOLLOWERS))]
            ids = list((await provision(self._backend, names)).values())
            self.authors, self.followers = ids[:2], ids[2:]
            async with trio.open_nursery() as nursery:
                limiter = trio.CapacityLimiter(8)
                for user_id in self.followers:
                    nursery.start_soon(self._settle_in, user_id, limiter)
            await self.until_done()
            self._partitions = frozenset(partition_of(user_id) for user_id in self.followers)
            yield

    async def _settle_in(self, user_id: str, limiter: trio.CapacityLimiter) -> None:
        async with limiter:
            for author_id in self.authors:
                await self._backend.command_as(user_id, f.FollowUser(id=1, user_id=author_id), r.FollowInfo)
            await self.feed(user_id)

    async def post_and_kill(self, target: str, node: ClusterNode, author_id: str) -> None:
        """Post until a fan-out is caught at that step, and kill the node there. The last ack may be lost."""
        for count in range(TRIES):
            self._number += 1
            is_last = count == TRIES - 1
            after_lsn = self._last_lsn()
            async with trio.open_nursery() as nursery:
                nursery.start_soon(self._try, author_id)
                reach = partial(self._reach, target, node, author_id, after_lsn, is_last=is_last)
                if await trio.to_thread.run_sync(reach):
                    nursery.cancel_scope.cancel()
                    break
            await self.post_again(author_id)
        step = self._progress(author_id, after_lsn).step(self._partitions)
        self.steps[step] += 1

    async def _try(self, author_id: str) -> None:
        try:
            await self._backend.command_as(author_id, self._command, r.PostInfo)
        except HubbubError:
            return  # it is asked again after the restart

    def _reach(
        self, target: str, node: ClusterNode, author_id: str, after_lsn: int, *, is_last: bool
    ) -> bool:
        """Let the node run until the post is at its step, and kill it; False: that step has gone by."""
        deadline = time.monotonic() + LONGEST_S
        while True:
            node.freeze()
            step = self._progress(author_id, after_lsn).step(self._partitions)
            is_late = STEPS.index(step) > STEPS.index(target) or time.monotonic() > deadline
            if step == target or (is_late and is_last):
                node.kill()
                return True
            node.thaw()
            if is_late:
                return False
            time.sleep(SLICE_S)

    @property
    def _command(self) -> f.CreatePost:
        return f.CreatePost(id=1, client_id=f"post{self._number}", text=f"post {self._number}")

    async def post_again(self, author_id: str) -> None:
        """Ask again, as a client does: the same post, if it was stored."""
        stored = self._progress(author_id, 0).post_id
        reply = await self._backend.command_as(author_id, self._command, r.PostInfo)
        assert (reply.post.post_id, reply.duplicate) == (stored or reply.post.post_id, bool(stored))
        self.post_ids.insert(0, reply.post.post_id)

    async def check(self) -> None:
        """Every feed, to its end, is all posts in their order."""
        limiter = trio.CapacityLimiter(8)
        async with trio.open_nursery() as nursery:
            for user_id in [*self.followers, *self.authors]:
                nursery.start_soon(self._check, user_id, limiter)

    async def _check(self, user_id: str, limiter: trio.CapacityLimiter) -> None:
        async with limiter:
            found = await self.feed(user_id)
        own = [post_id for post_id in found if user_id in self.authors]
        wanted = [post_id for post_id in self.post_ids if user_id not in self.authors or post_id in own]
        assert found == sorted(wanted, reverse=True), f"the feed of {user_id}"

    async def feed(self, user_id: str) -> list[int]:
        found: list[int] = []
        before = ""
        while True:
            page = await self._backend.command_as(
                user_id, f.ReadFeed(id=1, before=before, limit=PAGE), r.FeedPage
            )
            assert page.complete
            found += [item.post.post_id for item in page.items if item.post is not None]
            if not page.before:
                return found
            before = page.before

    async def until_done(self) -> None:
        """Wait until no tell and no fan-out is under way."""
        with trio.fail_after(DONE_S):
            while True:
                if not await trio.to_thread.run_sync(self._owed):
                    return
                await trio.sleep(0.05)  # the store tells nobody when it changes

    # -- the database, read-only --------------------------------------------------------------------

    def _owed(self) -> int:
        with self.cluster.database() as connection:
            count = connection.execute(
                "SELECT (SELECT count(*) FROM tell) + (SELECT count(*) FROM fanout_job)"
            )
            return int(count.fetchone()[0])

    def _last_lsn(self) -> int:
        with self.cluster.database() as connection:
            return int(connection.execute("SELECT coalesce(max(lsn), 0) FROM log").fetchone()[0])

    def _progress(self, author_id: str, after_lsn: int) -> Progress:
        """Of the post that was tried last."""
        with self.cluster.database() as connection:
            row = connection.execute(
                "SELECT post_id FROM post WHERE author_id = ? AND client_id = ?",
                (author_id, self._command.client_id),
            ).fetchone()
            if row is None:
                return Progress(0, False, frozenset())
            post_id = row[0]
            job = connection.execute("SELECT 1 FROM fanout_job WHERE post_id = ?", (post_id,)).fetchone()
            rows = connection.execute(
                "SELECT s.name FROM log l JOIN stream s USING (stream_id) WHERE l.lsn > ?"
                " AND s.name LIKE 'f:%' AND json_extract(l.body, '$.post') = ?",
                (after_lsn, post_id),
            ).fetchall()
        return Progress(post_id, job is not None, frozenset(int(name[2:]) for (name,) in rows))

    def doubled_feeds(self) -> list[str]:
        """Users whose feed, as it is stored, holds a post twice: by the differences between its entries."""
        with self.cluster.database() as connection:
            rows = connection.execute("SELECT user_id, entries FROM feed").fetchall()
        return [
            user_id
            for user_id, entries in rows
            if min(msgspec.json.decode(entries, type=list[int]), default=1) < 1
        ]


def _seed() -> int:
    seed = int(os.environ.get("HUBBUB_SEED", random.randrange(1 << 32)))
    print(f"seed {seed}: HUBBUB_SEED={seed} makes the same choices again")
    return seed


async def test_a_kill_at_any_step_of_a_fan_out_loses_and_doubles_nothing(tmp_path: Path) -> None:
    """One node: whatever was stored goes on after the restart, and what was not is asked for again."""
    cluster = ClusterProcesses(tmp_path, 1, *LOAD_FLAGS)
    crowd = Crowd(cluster, _seed())
    (node,) = cluster.nodes
    try:
        await trio.to_thread.run_sync(node.start)
        async with crowd.gathered():
            for number in range(ROUNDS):
                author_id = crowd.rng.choice(crowd.authors)
                await crowd.post_and_kill(STEPS[number % len(STEPS)], node, author_id)
                if crowd.rng.random() < 0.4:  # and once more while it starts
                    await trio.to_thread.run_sync(node.start_and_kill, crowd.rng.uniform(0.2, 1.5))
                await trio.to_thread.run_sync(node.start)
                await crowd.post_again(author_id)
                await crowd.check()
                await crowd.until_done()
                await crowd.check()
        print(f"killed: {dict(crowd.steps)}")
        assert crowd.steps["stored"], "no kill was in the middle of a fan-out"
        assert crowd.doubled_feeds() == []
        assert await trio.to_thread.run_sync(node.stop) == 0
    finally:
        cluster.end_all()


async def test_a_kill_of_the_authors_node_is_made_up_for_by_the_others(tmp_path: Path) -> None:
    """Three nodes: the author's shard moves in the middle of a fan-out, to followers on all nodes."""
    cluster = ClusterProcesses(tmp_path, 3)
    crowd = Crowd(cluster, _seed())
    try:
        await trio.to_thread.run_sync(cluster.start_all)
        await until_owned(cluster)
        async with crowd.gathered():
            for number in range(CLUSTER_ROUNDS):
                author_id = crowd.rng.choice(crowd.authors)
                node = _owner(cluster, author_address(author_id).shard)
                await crowd.post_and_kill(STEPS[number % len(STEPS)], node, author_id)
                await crowd.post_again(author_id)  # to those who are left
                await crowd.check()
                await crowd.until_done()
                await crowd.check()
                await trio.to_thread.run_sync(node.start)
                await until_owned(cluster)
                await crowd.check()
        print(f"killed: {dict(crowd.steps)}")
        assert crowd.steps.total() - crowd.steps["nothing"] - crowd.steps["done"] > 0, "no kill was in time"
        assert crowd.doubled_feeds() == []
    finally:
        cluster.end_all()


def _owner(cluster: ClusterProcesses, shard: int) -> ClusterNode:
    owner = next(row.owner for row in cluster.shards() if row.shard == shard)
    return cluster[owner]
