"""A post's way from its author to the feeds of followers, over the real store and actors."""

from pathlib import Path

from protocol import commands, feed_commands, feed_events, feed_replies
from tests.server.feeds import follow, page, post, texts
from tests.server.world import open_world


async def test_a_post_is_in_the_feeds_of_its_followers_at_once(tmp_path: Path) -> None:
    """An ack is a promise: the next read shows it, whether it was pushed by then or not."""
    async with open_world(tmp_path) as world:
        ann, bob, cat = await world.people("ann", "bob", "cat")
        assert texts(await page(bob)) == []
        assert await follow(bob, ann) == "following"
        await post(ann, "one")
        assert texts(await page(bob)) == ["one"]
        await post(ann, "two")
        found = await page(bob)
        assert texts(found) == ["two", "one"]
        assert found.complete
        assert found.before == ""
        assert texts(await page(ann)) == ["two", "one"]
        assert texts(await page(cat)) == []


async def test_what_was_posted_before_the_follow_is_there_and_goes_with_it(tmp_path: Path) -> None:
    async with open_world(tmp_path) as world:
        ann, bob = await world.people("ann", "bob")
        assert texts(await page(bob)) == []
        for number in range(5):
            await post(ann, f"p{number}")
        await follow(bob, ann)
        assert texts(await page(bob)) == ["p4", "p3", "p2", "p1", "p0"]
        await bob.until(feed_events.FollowChanged)
        await ann.until(feed_events.FollowerChanged)
        await bob.do(feed_commands.Unfollow(user_id=ann.user_id))
        assert texts(await page(bob)) == []


async def test_pages_go_on_by_cursor(tmp_path: Path) -> None:
    async with open_world(tmp_path) as world:
        ann, bob = await world.people("ann", "bob")
        await follow(bob, ann)
        for number in range(9):
            await post(ann, f"p{number}")
        first = await page(bob, limit=4)
        assert texts(first) == ["p8", "p7", "p6", "p5"]
        await post(ann, "new")
        second = await page(bob, limit=4, before=first.before)
        assert texts(second) == ["p4", "p3", "p2", "p1"]
        third = await page(bob, limit=4, before=second.before)
        assert texts(third) == ["p0"]
        assert third.before == ""
        assert texts(await page(bob, after=first.after)) == ["new"]
        assert await bob.refusal(feed_commands.ReadFeed(before="nonsense")) == "bad_cursor"
        assert await ann.refusal(feed_commands.ReadFeed(before=first.before)) == "bad_cursor"


async def test_a_watching_reader_is_told_after_the_post_can_be_read(tmp_path: Path) -> None:
    async with open_world(tmp_path) as world:
        ann, bob = await world.people("ann", "bob")
        await follow(bob, ann)
        await page(bob)
        await bob.do(feed_commands.WatchFeed(feed=True))
        await post(ann, "hello")
        event = (await bob.until(feed_events.FeedPosted))[0]
        assert event.item is not None
        assert event.item.post is not None
        assert event.item.post.text == "hello"
        assert event.position == (await page(bob)).position


async def test_block_mute_and_delete_count_at_the_next_read(tmp_path: Path) -> None:
    async with open_world(tmp_path) as world:
        ann, bob, cat = await world.people("ann", "bob", "cat")
        await follow(bob, ann)
        await follow(bob, cat)
        first = await post(ann, "from ann")
        await post(cat, "from cat")
        assert texts(await page(bob)) == ["from cat", "from ann"]
        await bob.do(feed_commands.MuteUser(user_id=cat.user_id))
        assert texts(await page(bob)) == ["from ann"]
        await bob.do(feed_commands.MuteUser(user_id=cat.user_id, removed=True))
        await cat.do(commands.Block(user_id=bob.user_id))
        assert texts(await page(bob)) == ["from ann"]
        await ann.do(feed_commands.DeletePost(post_id=first))
        assert texts(await page(bob)) == []
        assert await bob.refusal(feed_commands.FollowUser(user_id=cat.user_id)) == "blocked"


async def test_feeds_come_back_after_a_restart(tmp_path: Path) -> None:
    async with open_world(tmp_path) as world:
        ann, bob = await world.people("ann", "bob")
        await follow(bob, ann)
        await page(bob)
        await bob.do(feed_commands.WatchFeed(feed=True))
        for number in range(3):
            await post(ann, f"p{number}")
        await bob.until(feed_events.FeedPosted, 3)
        position = (await page(bob)).position
    async with open_world(tmp_path) as world:
        bob = await world.person("bob")
        found = await page(bob)
        assert texts(found) == ["p2", "p1", "p0"]
        assert found.position == position


async def test_likes_are_counted_once_and_heard_live(tmp_path: Path) -> None:
    async with open_world(tmp_path) as world:
        ann, bob = await world.people("ann", "bob")
        await follow(bob, ann)
        post_id = await post(ann, "like me")
        await ann.do(feed_commands.WatchFeed(post_ids=[post_id]))
        await ann.until(feed_events.PostCounts)  # as it stands when the watching begins
        for _ in range(2):
            reply = await bob.do(feed_commands.LikePost(post_id=post_id))
            assert isinstance(reply, feed_replies.PostCountsInfo)
            assert reply.likes == 1
        item = (await page(bob)).items[0]
        assert item.liked
        assert item.post is not None
        assert item.post.likes == 1
        heard = await ann.until(feed_events.PostCounts, 2)
        assert [event.likes for event in heard] == [0, 1]
