"""Feeds over several nodes: authors, readers and their partitions each where their shards happen to be."""

from pathlib import Path

from protocol import commands, feed_commands, feed_events, feed_replies
from tests.cluster.worlds import open_cluster
from tests.server.feeds import follow, page, post, texts


async def test_an_acked_post_is_in_the_next_read_on_every_node(tmp_path: Path) -> None:
    """The partition of a reader learns of a post from the log, not from a message that may be late."""
    async with open_cluster(tmp_path, "n1", "n2", "n3") as cluster:
        one, two, three = (cluster.members[name] for name in ("n1", "n2", "n3"))
        authors = [await one.person(f"author{number}") for number in range(4)]
        readers = [await node.person(f"reader{node.name}") for node in (two, three)]
        for reader in readers:
            assert texts(await page(reader)) == []
            for author in authors:
                await follow(reader, author)
        expected: list[str] = []
        for number in range(12):
            author = authors[number % len(authors)]
            for node in cluster.members.values():
                node.now_ms = 1_700_000_000_000 + 10 * number  # the order of posts is that of their times
            await post(author, f"p{number}")
            expected.insert(0, f"p{number}")
            for reader in readers:
                assert texts(await page(reader)) == expected


async def test_a_deletion_and_a_block_count_at_the_next_read_on_every_node(tmp_path: Path) -> None:
    async with open_cluster(tmp_path, "n1", "n2") as cluster:
        one, two = (cluster.members[name] for name in ("n1", "n2"))
        authors = [await one.person(f"author{number}") for number in range(4)]
        reader = await two.person("reader")
        ids = []
        for author in authors:
            await follow(reader, author)
            ids.append(await post(author, author.user_id))
        assert len((await page(reader)).items) == 4
        await authors[0].do(feed_commands.DeletePost(post_id=ids[0]))
        assert len((await page(reader)).items) == 3
        await authors[1].do(commands.Block(user_id=reader.user_id))
        assert len((await page(reader)).items) == 2
        await reader.do(commands.Block(user_id=authors[2].user_id))
        assert texts(await page(reader)) == [authors[3].user_id]


async def test_watchers_hear_of_posts_and_counts_wherever_they_are_connected(tmp_path: Path) -> None:
    async with open_cluster(tmp_path, "n1", "n2") as cluster:
        one, two = (cluster.members[name] for name in ("n1", "n2"))
        author = await one.person("author")
        reader = await two.person("reader")
        await follow(reader, author)
        await page(reader)
        await reader.do(feed_commands.WatchFeed(feed=True))
        first = await post(author, "first")
        event = (await reader.until(feed_events.FeedPosted))[0]
        assert event.item is not None
        assert event.item.post is not None
        assert event.item.post.text == "first"
        await author.do(feed_commands.WatchFeed(post_ids=[first]))
        reply = await reader.do(feed_commands.LikePost(post_id=first))
        assert isinstance(reply, feed_replies.PostCountsInfo)
        await author.until_heard(lambda event: isinstance(event, feed_events.PostCounts) and event.likes == 1)
        item = (await page(reader)).items[0]
        assert item.liked


async def test_a_post_reaches_all_followers_although_its_node_dies(tmp_path: Path) -> None:
    """Whoever takes the author's shard goes on pushing; until then the post is merged in when read."""
    async with open_cluster(tmp_path, "n1", "n2", "n3") as cluster:
        one, two, three = (cluster.members[name] for name in ("n1", "n2", "n3"))
        author = await one.person("author")
        readers = [await node.person(f"reader{index}") for index, node in enumerate((two, three, two, three))]
        for reader in readers:
            await follow(reader, author)
            await page(reader)
        await post(author, "last words")
        await cluster.kill("n1")
        await cluster.settled("n2", "n3")
        for reader in readers:
            assert texts(await page(reader)) == ["last words"]
