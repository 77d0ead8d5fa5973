"""Who is told of likes, comments, follows and mentions; of many of them as a number, whatever crashes."""

from pathlib import Path

import pytest

from actors.feed import author_notices
from actors.feed.author_notices import MAX_TOLD
from actors.messages import NoticeDue
from protocol import feed_commands
from protocol.notify_records import NoticeBacklog
from protocol.records import BlockRow, Put
from tests.actors.feed.author_world import World, open_world


def due(world: World) -> list[NoticeDue]:
    return [tell for _, tell in world.notified.tells if isinstance(tell, NoticeDue)]


def brief(world: World) -> list[tuple[str, str, str]]:
    return sorted((tell.user_id, tell.template, tell.actor_id) for tell in due(world))


async def test_comments_answers_and_mentions_tell_each_once_and_nobody_of_their_own(tmp_path: Path) -> None:
    async with open_world(tmp_path) as world:
        await world.people("ann", "bob", "cai", "dan")
        post_id = (await world.post("ann", "hi", mentions=["bob", "ann"])).post.post_id
        await world.like("ann", "ann", post_id)
        await world.comment("ann", "ann", post_id)
        first = await world.comment("bob", "ann", post_id, "bob says", mentions=["cai", "ann", "bob"])
        await world.comment("cai", "ann", post_id, "no", parent_id=first, mentions=["bob", "dan"])
        await world.told_all()
        assert brief(world) == [
            ("ann", "comment", "bob"),
            ("ann", "comment", "cai"),
            ("bob", "comment", "cai"),
            ("bob", "mention", "ann"),
            ("cai", "mention", "bob"),
            ("dan", "mention", "cai"),
        ]
        answer = next(tell for tell in due(world) if (tell.user_id, tell.template) == ("bob", "comment"))
        assert (answer.data["text"], answer.url) == ("no", f"/#post/{post_id}")


async def test_who_may_not_see_a_post_is_not_told_that_it_mentions_them(tmp_path: Path) -> None:
    async with open_world(tmp_path) as world:
        await world.people("ann", "bob", "cai", "dan")
        await world.follow("ann", "bob")
        await world.store.commit([Put(BlockRow(user_id="dan", other_id="ann", since_ms=1))])
        await world.post("ann", "hi", mentions=["bob", "cai"], visibility="followers")
        await world.post("ann", "ho", mentions=["dan"])
        await world.told_all()
        assert [told for told in brief(world) if told[1] == "mention"] == [("bob", "mention", "ann")]


async def test_many_likes_are_told_as_a_number(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A thousand likes a minute are a few rows, and every like counts."""
    monkeypatch.setattr(author_notices, "WINDOW_S", 0.2)
    names = [f"p{number}" for number in range(30)]
    async with open_world(tmp_path) as world:
        await world.people("ann", *names)
        post_id = (await world.post("ann", "hi")).post.post_id
        for name in names:
            await world.like(name, "ann", post_id)
        await world.until(lambda: sum(tell.actor_count for tell in due(world)) >= 30)
        await world.told_all()
        assert sum(tell.actor_count for tell in due(world)) == 30
        assert {tell.template for tell in due(world)} == {"like"}
        assert await world.store.find(NoticeBacklog, {}) == []


async def test_what_was_counted_is_told_after_a_crash_and_a_restart(tmp_path: Path) -> None:
    """The backlog and the counts are stored; nobody has to like it again."""
    names = [f"p{number}" for number in range(20)]
    async with open_world(tmp_path) as world:
        await world.people("ann", *names)
        post_id = (await world.post("ann", "hi")).post.post_id
        for name in names[:10]:
            await world.like(name, "ann", post_id)
        await world.told_all()
        assert [tell.actor_count for tell in due(world)] == [1] * MAX_TOLD
        (row,) = await world.store.find(NoticeBacklog, {})
        assert (row.kind, row.thing_id, row.count, row.actor_id) == ("like", post_id, MAX_TOLD, "p5")
        await world.crash("ann")
        await world.do("ann", feed_commands.CreatePost(client_id="k", text="awake again"))
        await world.told_all()
        assert [tell.actor_count for tell in due(world)] == [1] * MAX_TOLD + [5]
        for name in names[10:]:
            await world.like(name, "ann", post_id)
        await world.like("p0", "ann", post_id, removed=True)
        await world.told_all()
    async with open_world(tmp_path) as world:
        await world.do("ann", feed_commands.CreatePost(client_id="k2", text="awake again"))
        await world.told_all()
        # Ten more: five of them one by one, and one like was taken back.
        assert [tell.actor_count for tell in due(world)] == [4]
        assert await world.store.find(NoticeBacklog, {}) == []


async def test_followers_are_told_of_unless_the_author_let_them_in(tmp_path: Path) -> None:
    async with open_world(tmp_path) as world:
        await world.people("ann", "bob", "cai")
        await world.follow("ann", "bob")
        await world.do("ann", feed_commands.UpdateAuthor(is_private=True))
        await world.follow("ann", "cai")
        await world.told_all()
        assert brief(world) == [("ann", "follow", "bob")]
