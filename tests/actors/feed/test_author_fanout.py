"""Posts on their way into feeds: nobody is left out, whatever is refused, delayed, repeated, killed."""

from pathlib import Path

import pytest
import trio
import trio.testing

from actors.feed import author_fanout, author_follows
from actors.feed.address import PARTITION_COUNT, author_address, partition_of
from actors.feed.author_posts import MAX_PENDING_POSTS
from actors.feed.followers import LONG_LIST, MAX_STEP
from actors.feed.pushes import IN_FLIGHT_PER_PARTITION
from actors.messages import FollowAnswered, Wake
from protocol import feed_commands
from protocol.errors import StorageUnavailable, Unavailable
from protocol.records import AuthorRow, FanoutJob, FollowerRow, FollowRow, Put
from tests.actors.feed.author_world import World, everybody, open_world

FOLLOWERS = [f"f{number}" for number in range(100)]


async def befollowed(world: World, author_id: str, follower_ids: list[str]) -> None:
    """Count followers as the author's actor would have, before it wakes up."""
    await world.people(author_id)
    author = AuthorRow(user_id=author_id, app_id="default", follower_count=len(follower_ids))
    await world.store.commit(
        [
            Put(author),
            *(
                Put(FollowerRow(author_id=author_id, follower_id=follower_id, since_ms=1, version=1))
                for follower_id in follower_ids
            ),
        ]
    )


async def test_a_post_is_pushed_once_to_each_partition_of_its_followers(tmp_path: Path) -> None:
    async with open_world(tmp_path) as world:
        await befollowed(world, "ann", FOLLOWERS)
        post_id = (await world.post("ann")).post.post_id
        await world.all_pushed()
        assert world.partitions.got(post_id) == everybody("ann", FOLLOWERS)
        partitions = [partition for partition, _ in world.partitions.attempts]
        assert len(partitions) == len(set(partitions))
        assert partitions[0] == partition_of("ann")  # the own feed first


async def test_a_post_without_followers_is_pushed_into_the_own_feed(tmp_path: Path) -> None:
    async with open_world(tmp_path) as world:
        await world.people("ann")
        post_id = (await world.post("ann")).post.post_id
        await world.all_pushed()
        assert world.partitions.got(post_id) == ["ann"]


async def test_in_a_long_list_who_is_connected_comes_first_and_steps_are_bounded(tmp_path: Path) -> None:
    """One partition has more followers than go into one message."""
    crowd = [name for number in range(50_000) if partition_of(name := f"g{number}") == 3][: MAX_STEP + 200]
    async with open_world(tmp_path) as world:
        await befollowed(world, "ann", [*FOLLOWERS, *crowd])
        assert len(crowd) + len(FOLLOWERS) > LONG_LIST
        world.listeners.connected = {"f7", crowd[-1], crowd[0]}
        post_id = (await world.post("ann")).post.post_id
        await world.all_pushed()
        assert world.partitions.got(post_id) == everybody("ann", [*FOLLOWERS, *crowd])
        steps = [set(push.user_ids) for _, push in world.partitions.attempts]
        assert max(len(step) for step in steps) == MAX_STEP
        first = set().union(*steps[: len({partition_of(u) for u in ("ann", "f7", crowd[0])})])
        assert first == {"ann", "f7", crowd[-1], crowd[0]}


async def test_what_is_refused_is_pushed_again_and_holds_up_nobody_else(tmp_path: Path) -> None:
    async with open_world(tmp_path) as world:
        await befollowed(world, "ann", FOLLOWERS)
        stuck = partition_of(FOLLOWERS[0])
        world.partitions.refusals[stuck] = Unavailable("busy", retry_after_s=0.05)
        first = (await world.post("ann", "one")).post.post_id
        second = (await world.post("ann", "two")).post.post_id
        others = [u for u in everybody("ann", FOLLOWERS) if partition_of(u) != stuck]
        await world.until(lambda: world.partitions.got(second) == others)
        assert world.partitions.got(first) == others
        refused = sum(partition == stuck for partition, _ in world.partitions.attempts)
        assert refused <= 2 * IN_FLIGHT_PER_PARTITION  # held until its time, not hammered
        assert world.index.pending == {first, second}
        del world.partitions.refusals[stuck]
        await world.all_pushed()
        assert world.partitions.got(first) == world.partitions.got(second) == everybody("ann", FOLLOWERS)


async def test_few_pushes_are_under_way_at_once(tmp_path: Path) -> None:
    async with open_world(tmp_path) as world:
        await befollowed(world, "ann", FOLLOWERS)
        world.partitions.is_holding = True
        post_ids = [(await world.post("ann")).post.post_id for _ in range(5)]
        used = {partition_of(u) for u in everybody("ann", FOLLOWERS)}
        await world.until(lambda: len(world.partitions.held) == IN_FLIGHT_PER_PARTITION * len(used))
        assert len(world.partitions.held) <= 2 * PARTITION_COUNT
        world.partitions.is_holding = False
        world.partitions.release()
        await world.all_pushed()
        for post_id in post_ids:
            assert world.partitions.got(post_id) == everybody("ann", FOLLOWERS)


async def test_who_posts_more_than_feeds_take_is_told_busy(tmp_path: Path) -> None:
    async with open_world(tmp_path) as world:
        await world.people("ann")
        world.partitions.is_holding = True
        slots = [
            world.ask("ann", feed_commands.CreatePost(client_id=f"p{number}", text="x"))
            for number in range(MAX_PENDING_POSTS)
        ]
        for slot in slots:
            await slot.wait()
        command = feed_commands.CreatePost(client_id="more", text="x")
        assert await world.refusal("ann", command) == "busy"
        world.partitions.is_holding = False
        world.partitions.release()
        await world.all_pushed()
        await world.do("ann", command)


@pytest.mark.parametrize("taken_count", [0, 1, 7, None])
async def test_a_fanout_that_was_cut_off_is_done_by_the_next_incarnation(
    tmp_path: Path, taken_count: int | None
) -> None:
    """Killed after no push was taken, after some, and after all but before that was stored."""
    async with open_world(tmp_path) as world:
        await befollowed(world, "ann", FOLLOWERS)
        world.partitions.is_holding = True
        post_id = (await world.post("ann")).post.post_id
        await world.until(lambda: len(world.partitions.held) > 7)
        world.partitions.release(taken_count)
        await world.crash("ann")
        assert set(world.index.forgotten) == {"ann"}
        world.partitions.is_holding = False
        world.partitions.held.clear()
        world.index.pending.clear()
        world.resumer.scan_soon()
        await world.until(lambda: ("pushed", post_id, "ann") in world.index.calls)
        assert ("posted", post_id, True) in world.index.calls[world.index.calls.index(("forget", "ann")) :]
        assert set(world.partitions.got(post_id)) == set(everybody("ann", FOLLOWERS))
        assert await world.store.get(FanoutJob, post_id) is None


@pytest.mark.parametrize("taken_count", [0, 1, 7])
async def test_a_fanout_goes_on_after_a_restart_by_itself(tmp_path: Path, taken_count: int) -> None:
    taken: set[str] = set()
    async with open_world(tmp_path) as world:
        await befollowed(world, "ann", FOLLOWERS)
        world.partitions.is_holding = True
        post_ids = [(await world.post("ann")).post.post_id for _ in range(2)]
        await world.until(lambda: len(world.partitions.held) > 7)
        world.partitions.release(taken_count)
        taken.update(world.partitions.got(post_ids[0]))
    async with open_world(tmp_path) as world:
        for post_id in post_ids:
            await world.until(lambda post_id=post_id: ("pushed", post_id, "ann") in world.index.calls)  # type: ignore[misc]
            # From the beginning: who had it gets it again, which a feed notices.
            assert world.partitions.got(post_id) == everybody("ann", FOLLOWERS)
        assert await world.store.find(FanoutJob, {}) == []


async def test_a_follower_is_counted_or_fetches_but_never_misses_a_post(tmp_path: Path) -> None:
    """Follows and posts cross: what was not pushed to a follower lies at or below what they fetch up to."""
    async with open_world(tmp_path) as world:
        await world.people("ann")
        uptos: dict[str, int] = {}
        posts: list[int] = []
        async with trio.open_nursery() as nursery:

            async def write() -> None:
                for _ in range(30):
                    posts.append((await world.post("ann")).post.post_id)

            nursery.start_soon(write)
            for follower_id in FOLLOWERS[:30]:
                await world.edge(follower_id, "ann", "following")
        await world.told_all()
        await world.all_pushed()
        for _, tell in world.partitions.tells:
            uptos[tell.user_id] = tell.upto  # type: ignore[union-attr]
        assert uptos.keys() == set(FOLLOWERS[:30])
        for post_id in posts:
            got = world.partitions.got(post_id)
            for follower_id in FOLLOWERS[:30]:
                assert follower_id in got or post_id <= uptos[follower_id]


async def test_an_author_stays_awake_while_a_post_is_under_way(tmp_path: Path) -> None:
    async with open_world(tmp_path) as world:
        await world.people("ann")
        world.partitions.is_holding = True
        await world.post("ann")
        cell_stays = await world.host.passivate_matching(lambda _: True, deadline_s=5.0)
        assert cell_stays == 0  # ordered to leave, it goes: the job is stored
        assert len(await world.store.find(FanoutJob, {})) == 1
        world.partitions.is_holding = False
        world.resumer.scan_soon()
        await world.until(lambda: any(call[0] == "pushed" for call in world.index.calls))


class FullStore:
    """Lets the store take nothing, and counts how often it is asked whether it would."""

    def __init__(self, world: World, monkeypatch: pytest.MonkeyPatch) -> None:
        self.asked_count = 0
        self._world = world
        self._patch = monkeypatch
        monkeypatch.setattr(author_fanout, "ROOM_RETRY_S", 0.02)
        monkeypatch.setattr(author_follows, "ROOM_RETRY_S", 0.02)
        monkeypatch.setattr(world.store, "check_room", self.check_room)
        monkeypatch.setattr(world.store, "append_nowait", self.append_nowait)

    def check_room(self) -> None:
        self.asked_count += 1
        self._world.news()
        raise StorageUnavailable("disk")

    def append_nowait(self, append: object, on_done: object) -> None:
        raise StorageUnavailable("disk")

    def mend(self) -> None:
        self._patch.undo()


async def test_that_a_post_is_everywhere_is_noted_when_the_store_has_room(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A refused append would end the incarnation, and all its posts would be pushed anew."""
    async with open_world(tmp_path) as world:
        await befollowed(world, "ann", FOLLOWERS)
        world.partitions.is_holding = True
        post_id = (await world.post("ann")).post.post_id
        steps = len({partition_of(u) for u in everybody("ann", FOLLOWERS)})
        await world.until(lambda: len(world.partitions.held) == steps)
        full = FullStore(world, monkeypatch)
        world.partitions.release()
        await world.until(lambda: full.asked_count >= 3)
        assert world.index.pending == {post_id}
        assert await world.store.get(FanoutJob, post_id) is not None
        full.mend()
        await world.all_pushed()
        assert await world.store.get(FanoutJob, post_id) is None
        assert world.host.stats().stops == 0
        assert world.partitions.got(post_id) == everybody("ann", FOLLOWERS)


async def test_who_has_asked_is_let_in_when_the_store_has_room(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with open_world(tmp_path) as world:
        await world.people("ann", "bob")
        asked = FollowRow(user_id="bob", author_id="ann", state="requested", since_ms=1, version=1)
        await world.store.commit([Put(asked)])
        full = FullStore(world, monkeypatch)
        world.router.tell(author_address("ann"), Wake())
        await world.until(lambda: full.asked_count >= 3)
        assert world.partitions.tells == []
        full.mend()
        await world.until(lambda: bool(world.partitions.tells))
        assert world.partitions.told(FollowAnswered) == [FollowAnswered("bob", "ann", accepted=True)]
        assert world.host.stats().stops == 0
