"""What feeds must not do: lose, leak, claim what is not so, or wait for ever."""

from functools import partial
from pathlib import Path

import pytest
import trio
import trio.testing

from actors.feed.address import author_address, feed_address
from actors.feed.feed import FeedLimits
from actors.feed.feed_follower import FeedFollower
from actors.feed.index import FeedNode
from actors.messages import BlockStands, Evict, Told, encode_tell
from protocol import commands, events, feed_commands, feed_events, feed_replies
from protocol.errors import Unavailable
from protocol.feed_found import FeedChange, FoundPost
from protocol.records import AuthorRow, FanoutJob, FeedRow, FollowRow, InterestRow, PostRow, Put, Tell
from tests.server.feeds import HeldReads, follow, page, post, texts
from tests.server.world import open_world


async def test_whoever_watches_a_post_is_not_told_what_they_may_not_see(tmp_path: Path) -> None:
    async with open_world(tmp_path) as world:
        ann, bob = await world.people("ann", "bob")
        post_id = await post(ann, "for followers", visibility="followers")
        assert await bob.refusal(feed_commands.GetPost(post_id=post_id)) == "post_not_found"
        await bob.do(feed_commands.WatchFeed(post_ids=[post_id]))
        await ann.do(feed_commands.EditPost(post_id=post_id, text="still for followers"))
        await ann.do(feed_commands.LikePost(post_id=post_id))
        await trio.testing.wait_all_tasks_blocked(0.3)
        assert bob.heard(feed_events.FeedChanged) == []
        assert bob.heard(feed_events.PostCounts) == []


async def test_a_block_ends_live_events_of_posts_on_the_screen(tmp_path: Path) -> None:
    async with open_world(tmp_path) as world:
        ann, bob = await world.people("ann", "bob")
        post_id = await post(ann, "public")
        await bob.do(feed_commands.WatchFeed(post_ids=[post_id]))
        await ann.do(commands.Block(user_id=bob.user_id))
        await ann.do(feed_commands.EditPost(post_id=post_id, text="not for bob"))
        await trio.testing.wait_all_tasks_blocked(0.1)
        assert bob.heard(feed_events.FeedChanged) == []


async def test_taking_back_a_like_that_was_never_given_tells_nothing(tmp_path: Path) -> None:
    async with open_world(tmp_path) as world:
        ann, bob = await world.people("ann", "bob")
        post_id = await post(ann, "for followers", visibility="followers")
        await ann.do(feed_commands.LikePost(post_id=post_id))
        command = feed_commands.LikePost(post_id=post_id, removed=True)
        assert await bob.refusal(command) == "post_not_found"


async def test_a_ranked_feed_whose_newest_posts_are_all_hidden_goes_on(tmp_path: Path) -> None:
    limits = FeedLimits(cap=10, max_examined=10)
    async with open_world(tmp_path, feed_limits=limits) as world:
        ann, bob, cat = await world.people("ann", "bob", "cat")
        await follow(bob, ann)
        await follow(bob, cat)
        await post(ann, "from ann")
        for number in range(30):
            await post(cat, f"c{number}")
        await bob.do(feed_commands.MuteUser(user_id=cat.user_id))
        found = await page(bob, order="chronological")
        seen = texts(found)
        while found.before:
            found = await page(bob, before=found.before)
            seen += texts(found)
        assert seen == ["from ann"]
        found = await page(bob, order="ranked")
        seen = texts(found)
        while found.before:
            found = await page(bob, before=found.before)
            seen += texts(found)
        assert seen == ["from ann"]


async def test_a_follow_counted_while_the_feed_is_dropped_leaves_no_stale_feed(tmp_path: Path) -> None:
    """A stored feed that is not in memory gets no pushes, and is believed at the next start."""
    async with open_world(tmp_path) as world:
        ann, bob = await world.people("ann", "bob")
        await post(ann, "p0")
        await page(bob)
        get = world.store.get
        author_waits, author_goes, tell_waits, tell_goes = (trio.Event() for _ in range(4))

        async def slow_get(kind: type, *key: object) -> object:
            if kind is FollowRow and key == (bob.user_id, ann.user_id) and not author_waits.is_set():
                author_waits.set()
                await author_goes.wait()
            if kind is FollowRow and key == (bob.user_id, "u_nobody"):
                tell_waits.set()
                await tell_goes.wait()
            return await get(kind, *key)  # type: ignore[arg-type, func-returns-value]

        world.flaky.get = slow_get  # type: ignore[attr-defined]
        await follow(bob, ann)
        await author_waits.wait()
        told = Told("t", encode_tell(BlockStands(bob.user_id, "u_nobody")))
        ask = partial(world.core.router.ask, feed_address(bob.user_id), timeout_s=5.0)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(ask, told)  # the partition is in the middle of it
            await tell_waits.wait()
            nursery.start_soon(ask, Evict((bob.user_id,)))
            await trio.sleep(0.05)
            author_goes.set()
            await trio.sleep(0.3)  # until FollowCounted waits behind it
            tell_goes.set()
        await trio.sleep(0.3)
        await post(ann, "p1")
        assert (await get(FeedRow, bob.user_id) is None) == (bob.user_id not in world.core.feeds.node.feeds)
    async with open_world(tmp_path) as world:
        assert texts(await page(await world.person("bob"))) == ["p1", "p0"]


def _row(post_id: int, *, is_hot: bool) -> PostRow:
    return PostRow(
        post_id=post_id, author_id="hot", app_id="a", at_ms=1, client_id=str(post_id), text="x", is_hot=is_hot
    )


@pytest.mark.parametrize("is_hot", [True, False])
def test_a_post_that_a_page_has_read_before_the_log_told_of_it_is_merged_in(is_hot: bool) -> None:
    """On another node: pulls read the store at once, the log is read before each page."""
    node = FeedNode(has_others=True)
    row = _row(4096, is_hot=is_hot)
    moment = node.posts.begin_read()
    node.posts.end_read(moment, [4096], [FoundPost(row, None, False)])
    node.apply(FeedChange(lsn=1, kind="posted", user_id="hot", post=FoundPost(row, None, False)))
    if is_hot:
        assert node.hot["hot"].last_hot_id == 4096
    else:
        assert node.pending == {"hot": [4096]}


async def test_what_is_posted_before_the_author_has_heard_of_a_follow_is_told_live(tmp_path: Path) -> None:
    """A bot that follows somebody and waits for the next post would wait for ever."""
    async with open_world(tmp_path) as world:
        ann, bob = await world.people("ann", "bob")
        await post(ann, "before")
        await page(bob)
        await bob.do(feed_commands.WatchFeed(feed=True))
        hint, held = world.core.relay.hint, list[Tell]()
        world.core.relay.hint = lambda tells: held.extend(tells)  # type: ignore[method-assign]
        world.now_ms += 1
        await follow(bob, ann)
        post_ids = [await post(ann, "between"), await post(ann, "and one more")]
        world.core.relay.hint = hint  # type: ignore[method-assign]
        hint(held)
        told = await bob.until(feed_events.FeedPosted, 2)
        post_ids.append(await post(ann, "after"))
        told = await bob.until(feed_events.FeedPosted, 3)
        assert [event.item.post.post_id for event in told if event.item and event.item.post] == post_ids
        first = told[0].position
        assert [event.position for event in told] == [first, first + 1, first + 2]
        assert (await page(bob)).position == first + 2
    async with open_world(tmp_path) as world:
        bob = await world.person("bob")
        found = await page(bob)
        assert texts(found) == ["after", "and one more", "between", "before"]
        assert found.position == first + 2


async def test_a_feed_that_is_on_a_screen_shows_a_gap_after_it_was_dropped(tmp_path: Path) -> None:
    """A client passes over events whose position is not above its own: it took their posts for read."""
    async with open_world(tmp_path) as world:
        ann, bob = await world.people("ann", "bob")
        await follow(bob, ann)
        await page(bob)
        await bob.do(feed_commands.WatchFeed(feed=True))
        for number in range(3):
            await post(ann, f"p{number}")
        await bob.until(feed_events.FeedPosted, 3)
        reached = (await page(bob)).position
        await world.core.router.ask(feed_address(bob.user_id), Evict((bob.user_id,)), timeout_s=5.0)
        await post(ann, "missed")
        await bob.do(feed_commands.WatchFeed(feed=True))  # as the node itself tells anew after a while
        await trio.sleep(0.2)
        await post(ann, "next")
        await trio.sleep(0.2)
        told = bob.heard(feed_events.FeedPosted)[3:]
        is_told = bool(bob.heard(events.Resync)) or any(event.position > reached for event in told)
        assert is_told, (reached, [event.position for event in told])


async def test_a_post_under_a_clock_that_went_back_is_not_skipped(tmp_path: Path) -> None:
    """The same happens where the clocks of two nodes differ."""
    async with open_world(tmp_path) as world:
        ann, bob, cat = await world.people("ann", "bob", "cat")
        await follow(bob, ann)
        await follow(bob, cat)
        await post(ann, "zeroth")  # both authors are awake
        await trio.sleep(0.3)  # until what the follows have told is done
        world.now_ms += 5_000
        await post(cat, "first")
        found = await page(bob)
        world.now_ms -= 1_000
        await post(ann, "second")
        second = await page(bob, after=found.after)
        assert texts(second) == ["second"], texts(await page(bob))


async def test_ones_own_repost_is_marked_at_the_next_read(tmp_path: Path) -> None:
    async with open_world(tmp_path) as world:
        ann, bob = await world.people("ann", "bob")
        await follow(bob, ann)
        for number in range(10):
            post_id = await post(ann, f"p{number}")
            await page(bob)
            await bob.do(feed_commands.Repost(client_id=f"c{number}", post_id=post_id))
            items = (await page(bob, limit=3)).items
            assert all(
                item.reposted
                for item in items
                if item.post is not None and post_id in (item.post.post_id, item.post.repost_of)
            ), number


async def test_who_waits_for_a_read_that_fails_is_told_so() -> None:
    """Else a page waits until somebody else happens to read."""
    begun = trio.Event()

    class Reads:
        async def state(self) -> object:
            begun.set()
            await trio.sleep(0.01)
            raise Unavailable("store_unavailable")

    follower = FeedFollower(FeedNode(), Reads(), is_needed=True)  # type: ignore[arg-type]  # all that it reads

    async def refresh() -> None:
        with pytest.raises(Unavailable):
            await follower.refresh()

    with trio.fail_after(1):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(follower.run)
            async with trio.open_nursery() as asking:
                asking.start_soon(refresh)
                await begun.wait()
                asking.start_soon(refresh)
            nursery.cancel_scope.cancel()


async def test_an_unfollowed_post_of_another_app_is_not_told_apart_from_none(tmp_path: Path) -> None:
    async with open_world(tmp_path) as world:
        ann = await world.person("ann")
        eve = await world.person("eve", app_id="other")
        post_id = await post(ann, "secret", visibility="followers")
        bob = await world.person("bob")
        for reader in (eve, bob):
            for asked in (post_id, post_id + 1):
                assert await reader.refusal(feed_commands.ExplainPost(post_id=asked)) == "post_not_found"
        public = await post(ann, "for all")
        told = await bob.do(feed_commands.ExplainPost(post_id=public))
        assert isinstance(told, feed_replies.Explanation)
        assert told.left_out == "not_followed"


async def test_who_asks_while_the_account_becomes_public_does_not_wait_for_ever(tmp_path: Path) -> None:
    async with open_world(tmp_path) as world:
        ann, bob = await world.people("ann", "bob")
        await ann.do(feed_commands.UpdateAuthor(is_private=True))
        held = HeldReads(world, bob.user_id)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(follow, bob, ann)
            await held.was_read.wait()
            await ann.do(feed_commands.UpdateAuthor(is_private=False))
            await trio.sleep(0.2)
            held.goes_on.set()
        await trio.sleep(0.5)
        row = await world.store.get(FollowRow, bob.user_id, ann.user_id)
        assert row is not None
        assert row.state == "following"


async def test_what_an_author_takes_up_again_is_not_noted_as_new(tmp_path: Path) -> None:
    """Trends and the count of posts hear of it once more with each incarnation."""
    async with open_world(tmp_path) as world:
        ann = await world.person("ann")
        post_id = await post(ann, "x #tag")
        await trio.sleep(0.3)
        shard = author_address(ann.user_id).shard
        await world.store.commit([Put(FanoutJob(post_id=post_id, author_id=ann.user_id, shard=shard))])
    async with open_world(tmp_path) as world:
        await trio.sleep(0.5)
        assert world.core.feeds.node.post_count == 0


def test_doubt_about_an_author_who_lives_elsewhere_ends() -> None:
    """Else all who follow that author are served from the store for as long as the node runs."""
    node = FeedNode(has_others=True)
    node.forget("ann")  # fenced: another node has the shard by now
    row = PostRow(post_id=4096, author_id="ann", app_id="a", at_ms=1, client_id="c", text="x")
    author = AuthorRow(user_id="ann", app_id="a", last_post_id=4096)
    node.apply(
        FeedChange(lsn=1, kind="posted", user_id="ann", post=FoundPost(row, None, False), author=author)
    )
    node.apply(FeedChange(lsn=2, kind="author_changed", user_id="ann", author=author))
    assert node.doubtful == set()


async def test_comments_on_what_followers_alone_may_see_make_no_trend(tmp_path: Path) -> None:
    async with open_world(tmp_path) as world:
        ann, *others = await world.people("ann", "bob", "cat", "dan", "eve")
        post_ids = [
            await post(ann, "#secret", visibility="followers"),
            await post(ann, "#known", visibility="public"),
        ]
        for other in others:
            await follow(other, ann)
            for post_id in post_ids:
                client_id = world.new_client_id()
                await other.do(
                    feed_commands.AddComment(client_id=client_id, post_id=post_id, text="so it is")
                )
        reply = await ann.do(feed_commands.GetTrends(kind="hashtag"))
        assert isinstance(reply, feed_replies.TrendList)
        assert [item.hashtag for item in reply.items] == ["known"]


async def test_the_oldest_interest_gives_way_in_a_feed_that_was_not_in_memory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("actors.feed.interest.MAX_INTERESTS", 2)
    async with open_world(tmp_path) as world:
        (bob,) = await world.people("bob")
        address = feed_address(bob.user_id)
        for target in ("a", "b", "c"):
            world.now_ms += 1
            await world.core.router.ask(address, Evict((bob.user_id,)), timeout_s=5.0)
            await bob.do(feed_commands.SetInterest(kind="hashtag", target=target))
        for target, is_kept in (("a", False), ("b", True), ("c", True)):
            found = await world.store.get(InterestRow, bob.user_id, "hashtag", target)
            assert (found is not None) is is_kept


async def test_interests_said_at_once_do_not_grow_beyond_the_bound(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("actors.feed.interest.MAX_INTERESTS", 3)
    async with open_world(tmp_path) as world:
        (bob,) = await world.people("bob")
        await page(bob)
        targets = [f"t{number}" for number in range(10)]
        async with trio.open_nursery() as nursery:
            for target in targets:
                nursery.start_soon(bob.do, feed_commands.SetInterest(kind="hashtag", target=target))
        kept = [
            target
            for target in targets
            if await world.store.get(InterestRow, bob.user_id, "hashtag", target) is not None
        ]
        reply = await bob.do(feed_commands.ListInterests())
        assert isinstance(reply, feed_replies.InterestList)
        assert {item.target for item in reply.items} == set(kept)
        assert len(kept) == 3
