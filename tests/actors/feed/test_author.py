"""The author's actor over the real store: what is acked is stored once, counted once, and known to feeds."""

from pathlib import Path
from typing import cast

import trio

from actors.messages import FollowAnswered, FollowCounted, FollowerMoved
from protocol import feed_commands, feed_replies, replies
from protocol.commands import Command
from protocol.feed_events import FeedChanged, PostCounts
from protocol.limits import MAX_COMMENT_TEXT_BYTES, MAX_POST_TEXT_BYTES
from protocol.records import (
    BlockRow,
    CommentRow,
    FanoutJob,
    FileRow,
    FollowerRow,
    PostLike,
    PostRow,
    Put,
    RepostRow,
    author_stream,
)
from tests.actors.feed.author_world import everybody, open_world


async def test_a_post_is_stored_known_and_then_pushed_to_all(tmp_path: Path) -> None:
    async with open_world(tmp_path) as world:
        await world.people("ann", "bob", "cai")
        await world.follow("ann", "bob", "cai")
        info = await world.post("ann", "Look: #Zürich, #zürich and #2026 #x_1", visibility="followers")
        post = info.post
        assert (post.author_id, post.visibility, post.language) == ("ann", "followers", "nl")
        assert post.hashtags == ["zürich", "x_1"]
        assert not info.duplicate
        assert ("posted", post.post_id, True) in world.index.calls  # before the answer
        await world.all_pushed()
        assert world.partitions.got(post.post_id) == ["ann", "bob", "cai"]
        assert await world.store.get(FanoutJob, post.post_id) is None
        entries = await world.store.read(author_stream("ann"), after=0, limit=10)
        assert [entry.kind for entry in entries] == ["posted", "pushed"]
        author = await world.author("ann")
        assert (author.follower_count, author.post_count, author.last_post_id) == (2, 1, post.post_id)


async def test_the_same_key_gets_the_first_post_now_later_and_after_a_restart(tmp_path: Path) -> None:
    async with open_world(tmp_path) as world:
        await world.people("ann")
        command = feed_commands.CreatePost(client_id="k", text="once")
        slots = [world.ask("ann", command) for _ in range(3)]
        infos = [cast(feed_replies.PostInfo, await slot.wait()) for slot in slots]
        assert [info.duplicate for info in infos] == [False, True, True]
        assert len({info.post.post_id for info in infos}) == 1
        later = cast(feed_replies.PostInfo, await world.do("ann", command))
        assert later.duplicate
        other = feed_commands.CreatePost(client_id="k", text="other")
        assert await world.refusal("ann", other) == "payload_conflict"
        await world.all_pushed()
        first_id = infos[0].post.post_id
    async with open_world(tmp_path) as world:
        again = cast(feed_replies.PostInfo, await world.do("ann", command))
        assert again.duplicate
        assert again.post.post_id == first_id
        assert await world.refusal("ann", other) == "payload_conflict"
        assert (await world.author("ann")).post_count == 1
        assert world.partitions.attempts == []
        newer = await world.post("ann")
        assert newer.post.post_id > first_id


async def test_what_a_post_may_not_hold_is_refused_by_code(tmp_path: Path) -> None:
    async with open_world(tmp_path) as world:
        await world.people("ann")
        await world.people("eve", app_id="other")
        files = [
            FileRow(
                file_id=name,
                app_id=app_id,
                user_id="ann",
                sha256=name,
                name=f"{name}.png",
                media_type="image/png",
                size_bytes=5,
                width=2,
                height=3,
                at_ms=1,
            )
            for name, app_id in [("f1", "default"), ("f2", "other")]
        ]
        await world.store.commit([Put(row) for row in files])

        def create(**fields: object) -> feed_commands.CreatePost:
            return feed_commands.CreatePost(client_id=world.client_id(), **fields)  # type: ignore[arg-type]

        assert await world.refusal("ann", create(text=" \n")) == "text_empty"
        assert (
            await world.refusal("ann", create(text="é" * (MAX_POST_TEXT_BYTES // 2 + 1))) == "text_too_long"
        )
        assert await world.refusal("ann", create(file_ids=["f2"])) == "file_not_found"
        assert await world.refusal("ann", create(file_ids=["nope"])) == "file_not_found"
        assert await world.refusal("ann", create(text="@eve", mentions=["eve"])) == "user_not_found"
        assert await world.refusal("eve", create(text="x"), of="ann") == "not_author"
        whole = await world.post("ann", "é" * (MAX_POST_TEXT_BYTES // 2))
        assert len(whole.post.text.encode()) == MAX_POST_TEXT_BYTES
        with_file = await world.post("ann", "", file_ids=["f1"])
        assert [(f.file_id, f.width) for f in with_file.post.files] == [("f1", 2)]


async def test_of_posts_that_one_may_not_see_nothing_is_told_apart_from_none(tmp_path: Path) -> None:
    """`not_author` tells that a post exists."""
    async with open_world(tmp_path) as world:
        await world.people("ann", "bob", "cai")
        await world.people("eve", app_id="other")
        post_id = (await world.post("ann")).post.post_id
        close_id = (await world.post("ann", visibility="followers")).post.post_id
        repost = await world.do("cai", feed_commands.Repost(client_id="r", post_id=post_id))
        assert isinstance(repost, feed_replies.PostInfo)

        async def codes(user_id: str, app_id: str = "default") -> list[str]:
            found: list[str] = []
            for one in (post_id, close_id, repost.post.post_id):
                edited = feed_commands.EditPost(post_id=one, text="x")
                deleted = feed_commands.DeletePost(post_id=one)
                code = await world.refusal(user_id, edited, app_id=app_id)
                assert await world.refusal(user_id, deleted, app_id=app_id) == code
                found.append(code)
            return found

        there, none = "not_author", "post_not_found"
        assert await codes("eve", "other") == [none, none, none]
        assert await codes("bob") == [there, none, there]
        await world.edge("bob", "ann", "following")
        assert await codes("bob") == [there, there, there]
        await world.store.commit([Put(BlockRow(user_id="ann", other_id="bob", since_ms=1))])
        assert await codes("bob") == [none, none, none]  # nor what repeats it
        await world.do("ann", feed_commands.DeletePost(post_id=post_id))
        gone = feed_commands.EditPost(post_id=post_id, text="x")
        assert await world.refusal("cai", gone) == none


async def test_a_post_is_edited_and_deleted_by_its_author_alone(tmp_path: Path) -> None:
    async with open_world(tmp_path) as world:
        await world.people("ann", "bob")
        post_id = (await world.post("ann", "#one", mentions=["bob"])).post.post_id
        edit = feed_commands.EditPost(post_id=post_id, text="#two", visibility="followers")
        assert await world.refusal("bob", edit) == "not_author"
        assert await world.refusal("bob", feed_commands.DeletePost(post_id=post_id)) == "not_author"
        assert await world.refusal("ann", feed_commands.EditPost(post_id=1, text="x")) == "post_not_found"
        assert await world.refusal("ann", feed_commands.EditPost(post_id=post_id, text="")) == "text_empty"
        info = cast(feed_replies.PostInfo, await world.do("ann", edit))
        assert (info.post.text, info.post.hashtags, info.post.mentions) == ("#two", ["two"], ["bob"])
        assert info.post.edited_at_ms > 0
        assert world.listeners.events == []  # who watches need not be a follower
        await world.do("ann", feed_commands.EditPost(post_id=post_id, text="#three"))
        assert world.listeners.events == []  # and may have been one before
        await world.do("ann", feed_commands.EditPost(post_id=post_id, mentions=[], visibility="public"))
        event = world.listeners.events[0][1]
        assert isinstance(event, FeedChanged)
        assert event.post.mentions == []
        for _ in range(2):
            assert isinstance(await world.do("ann", feed_commands.DeletePost(post_id=post_id)), replies.Ok)
        row = await world.store.get(PostRow, post_id)
        assert row is not None
        assert (row.text, row.mentions, row.hashtags, row.deleted_at_ms > 0) == ("", "", "", True)
        assert world.index.posts[post_id] == row
        assert (await world.author("ann")).post_count == 0
        assert await world.refusal("ann", edit) == "post_not_found"
        assert await world.refusal("bob", edit) == "post_not_found"
        assert (
            await world.refusal("bob", feed_commands.LikePost(post_id=post_id), of="ann") == "post_not_found"
        )


async def test_a_repost_is_made_once_counted_once_and_undone(tmp_path: Path) -> None:
    async with open_world(tmp_path) as world:
        await world.people("ann", "bob", "cai")
        root = (await world.post("ann", "root")).post
        first = cast(
            feed_replies.PostInfo,
            await world.do("bob", feed_commands.Repost(client_id="r1", post_id=root.post_id)),
        )
        assert (first.post.repost_of, first.original, first.reposted) == (root.post_id, root, True)
        # Of the repost: its root. And once, whatever the key.
        of_it = feed_commands.Repost(client_id="r1", post_id=first.post.post_id)
        cais = cast(feed_replies.PostInfo, await world.do("cai", of_it))
        assert cais.post.repost_of == root.post_id
        slots = [
            world.ask("bob", feed_commands.Repost(client_id=key, post_id=root.post_id))
            for key in ("r1", "r2")
        ]
        for slot in slots:
            again = cast(feed_replies.PostInfo, await slot.wait())
            assert (again.post.post_id, again.duplicate, again.reposted) == (first.post.post_id, True, True)
        await world.told_all()
        assert await world.counts(root.post_id) == (0, 0, 2)
        edit = feed_commands.EditPost(post_id=first.post.post_id, text="no")
        assert await world.refusal("bob", edit) == "forbidden"
        await world.do("bob", feed_commands.DeletePost(post_id=first.post.post_id))
        await world.told_all()
        assert await world.counts(root.post_id) == (0, 0, 1)
        assert await world.store.get(RepostRow, root.post_id, "bob") is None
        second = cast(
            feed_replies.PostInfo,
            await world.do("bob", feed_commands.Repost(client_id="r3", post_id=root.post_id)),
        )
        assert not second.duplicate
        await world.told_all()
        assert await world.counts(root.post_id) == (0, 0, 2)
        row = await world.store.get(RepostRow, root.post_id, "bob")
        assert row is not None
        assert row.repost_id == second.post.post_id
        own = feed_commands.Repost(client_id="r", post_id=root.post_id)
        assert isinstance(await world.do("ann", own), feed_replies.PostInfo)


async def test_only_what_everybody_may_see_is_reposted(tmp_path: Path) -> None:
    async with open_world(tmp_path) as world:
        await world.people("ann", "bob", "pia")
        await world.people("eve", app_id="other")
        hidden = (await world.post("ann", "x", visibility="followers")).post.post_id
        gone = (await world.post("ann", "y")).post.post_id
        await world.do("ann", feed_commands.DeletePost(post_id=gone))
        private = (await world.post("pia", "z")).post.post_id
        await world.do("pia", feed_commands.UpdateAuthor(is_private=True))
        for post_id, code in [
            (hidden, "not_repostable"),
            (private, "not_repostable"),
            (gone, "post_not_found"),
            (7, "post_not_found"),
        ]:
            command = feed_commands.Repost(client_id=world.client_id(), post_id=post_id)
            assert await world.refusal("bob", command) == code
        command = feed_commands.Repost(client_id="k", post_id=(await world.post("ann")).post.post_id)
        assert await world.refusal("eve", command, app_id="other") == "post_not_found"


async def test_likes_are_exact_whoever_says_what_how_often_at_once(tmp_path: Path) -> None:
    """Appends are pipelined: what is in flight must not be counted again."""
    async with open_world(tmp_path) as world:
        await world.people("ann")
        post_id = (await world.post("ann")).post.post_id
        slots = []
        for number in range(60):
            for removed in (False, False, True, True, False) if number % 3 else (False, True, True):
                command = feed_commands.LikePost(post_id=post_id, removed=removed)
                slots.append(world.ask(f"u{number}", command, of="ann"))
                if len(slots) % 50 == 0:
                    await trio.lowlevel.checkpoint()
        answers = [cast(feed_replies.PostCountsInfo, await slot.wait()) for slot in slots]
        likers = {row.user_id for row in await world.store.find(PostLike, {"post_id": post_id})}
        assert likers == {f"u{number}" for number in range(60) if number % 3}
        assert await world.counts(post_id) == (40, 0, 0)
        assert answers[-1].likes == 40
        assert world.index.counts[post_id].likes == 40
        await world.until(lambda: bool(world.listeners.events))
        post, event = world.listeners.events[-1]
        assert post == post_id
        assert isinstance(event, PostCounts)
        assert event.likes == 40
        assert len(world.listeners.events) < 10  # coalesced
        await world.crash("ann")
        assert await world.like("u1", "ann", post_id) == 40
        assert await world.like("u1", "ann", post_id, removed=True) == 39


async def test_comments_are_counted_answered_one_level_deep_and_keep_their_places(tmp_path: Path) -> None:
    async with open_world(tmp_path) as world:
        await world.people("ann", "bob", "cai")
        post_id = (await world.post("ann")).post.post_id
        other_id = (await world.post("ann")).post.post_id
        top = await world.comment("bob", "ann", post_id, "top", client_id="c", mentions=["cai"])
        assert await world.comment("bob", "ann", post_id, "top", client_id="c") == top
        answer = await world.comment("cai", "ann", post_id, "answer", client_id="c", parent_id=top)
        assert answer > top
        assert await world.counts(post_id) == (0, 2, 0)

        def add(post: int, **fields: object) -> feed_commands.AddComment:
            values: dict[str, object] = {"client_id": world.client_id(), "text": "x"} | fields
            return feed_commands.AddComment(post_id=post, **values)  # type: ignore[arg-type]

        refused: list[tuple[Command, str]] = [
            (add(post_id, parent_id=answer), "comment_not_found"),
            (add(other_id, parent_id=top), "comment_not_found"),
            (add(post_id, parent_id=5), "comment_not_found"),
            (add(post_id, client_id="c", text="else"), "payload_conflict"),
            (add(post_id, text=" "), "text_empty"),
            (add(post_id, text="x" * (MAX_COMMENT_TEXT_BYTES + 1)), "text_too_long"),
            (add(post_id, mentions=["nobody"]), "user_not_found"),
            (add(9), "post_not_found"),
            (feed_commands.DeleteComment(post_id=other_id, comment_id=top), "comment_not_found"),
        ]
        for command, code in refused:
            assert await world.refusal("bob", command, of="ann") == code
        delete = feed_commands.DeleteComment(post_id=post_id, comment_id=answer)
        assert await world.refusal("bob", delete, of="ann") == "forbidden"
        for _ in range(2):
            await world.do("ann", delete)  # the author of the post
        await world.do("bob", feed_commands.DeleteComment(post_id=post_id, comment_id=top), of="ann")
        assert await world.counts(post_id) == (0, 0, 0)
        rows = await world.store.find(CommentRow, {"post_id": post_id}, order_by="comment_id")
        assert [(r.comment_id, r.text, r.mentions, r.replies, r.deleted_at_ms > 0) for r in rows] == [
            (top, "", "", 0, True),
            (answer, "", "", 0, True),
        ]
        assert await world.refusal("cai", add(post_id, parent_id=top), of="ann") == "comment_not_found"


async def test_a_follow_is_counted_by_what_is_stored_however_it_is_told(tmp_path: Path) -> None:
    async with open_world(tmp_path) as world:
        await world.people("ann", "bob")
        post_id = (await world.post("ann")).post.post_id
        await world.edge("bob", "ann", "following", version=1)
        await world.edge("bob", "ann", "following", version=1)
        await world.told_all()
        assert world.partitions.told(FollowCounted) == [FollowCounted("bob", "ann", 1, post_id)]
        await world.edge("bob", "ann", "following", version=2)  # ended and begun again, told as one
        await world.told_all()
        assert world.partitions.told(FollowCounted)[1:] == [FollowCounted("bob", "ann", 2, post_id)]
        row = await world.store.get(FollowerRow, "ann", "bob")
        assert row is not None
        assert row.version == 2
        assert (await world.author("ann")).follower_count == 1
        for _ in range(2):
            await world.edge("bob", "ann", "")
        await world.told_all()
        assert (await world.author("ann")).follower_count == 0
        assert await world.store.get(FollowerRow, "ann", "bob") is None
        assert world.users.tells == [
            ("ann", FollowerMoved("bob", "following")),
            ("ann", FollowerMoved("bob", "none")),
        ]
        await world.post("ann")
        await world.all_pushed()
        assert all("bob" not in push.user_ids for push in world.partitions.pushes)


async def test_the_threshold_is_crossed_with_hysteresis_and_the_mode_stays_with_the_post(
    tmp_path: Path,
) -> None:
    names = [f"u{number}" for number in range(6)]
    async with open_world(tmp_path, hot_followers=5, cool_followers=3) as world:
        await world.people("ann")
        await world.follow("ann", *names[:4])
        pushed = (await world.post("ann")).post.post_id
        await world.all_pushed()
        await world.follow("ann", names[4])
        assert world.index.is_hot("ann")
        hot = (await world.post("ann")).post.post_id
        assert ("posted", hot, False) in world.index.calls
        assert world.index.authors["ann"].last_hot_id == hot
        for name in names[:2]:
            await world.edge(name, "ann", "")
        await world.told_all()
        assert world.index.is_hot("ann")  # three are left
        await world.edge(names[2], "ann", "")
        await world.told_all()
        assert not world.index.is_hot("ann")
        again = (await world.post("ann")).post.post_id
        await world.all_pushed()
        assert world.partitions.got(pushed) == everybody("ann", names[:4])
        assert world.partitions.got(hot) == []
        assert world.partitions.got(again) == everybody("ann", names[3:5])
        rows = [await world.store.get(PostRow, post_id) for post_id in (pushed, hot, again)]
        assert [row.is_hot for row in rows if row is not None] == [False, True, False]
        assert (await world.author("ann")).last_hot_id == hot
        entries = await world.store.read(author_stream("ann"), after=0, limit=20)
        assert [entry.kind for entry in entries if entry.kind != "pushed"] == [
            "posted",
            "author_changed",
            "posted",
            "author_changed",
            "posted",
        ]


async def test_requests_are_answered_and_let_in_when_the_account_becomes_public(tmp_path: Path) -> None:
    async with open_world(tmp_path) as world:
        await world.people("ann")
        reply = await world.do("ann", feed_commands.UpdateAuthor(is_private=True))
        assert isinstance(reply, feed_replies.AuthorInfo)
        assert reply.author.is_private
        askers = [f"u{number:03}" for number in range(250)]
        for asker in askers:
            await world.edge(asker, "ann", "requested")
        await world.told_all()
        answered = world.partitions.told(FollowAnswered)
        assert answered == []
        accept = feed_commands.AnswerFollow(user_id="u000", accept=True)
        await world.do("ann", accept)
        await world.do("ann", feed_commands.AnswerFollow(user_id="u001", accept=False))
        assert await world.refusal("ann", feed_commands.AnswerFollow(user_id="x", accept=True)) == (
            "follow_not_found"
        )
        await world.edge("u000", "ann", "following", version=2)
        await world.edge("u001", "ann", "")
        await world.told_all()
        assert world.partitions.told(FollowAnswered) == [
            FollowAnswered("u000", "ann", True),
            FollowAnswered("u001", "ann", False, 1),
        ]
        assert isinstance(await world.do("ann", accept), replies.Ok)  # said again
        await world.do("ann", feed_commands.UpdateAuthor(is_private=False))
        await world.until(lambda: len(world.partitions.told(FollowAnswered)) == 250)
        await world.told_all()
        let_in = world.partitions.told(FollowAnswered)[2:]
        assert sorted(tell.user_id for tell in let_in) == askers[2:]
        assert all(tell.accepted for tell in let_in)
        assert not world.index.authors["ann"].is_private


async def test_a_request_that_crosses_the_change_to_public_does_not_wait_for_ever(tmp_path: Path) -> None:
    async with open_world(tmp_path) as world:
        await world.people("ann")
        await world.edge("bob", "ann", "requested")
        await world.told_all()
        # By the tell, and by the look at what is open when the actor woke up: once would do.
        assert set(world.partitions.told(FollowAnswered)) == {FollowAnswered("bob", "ann", True)}


async def test_a_follower_is_removed_by_their_partition(tmp_path: Path) -> None:
    async with open_world(tmp_path) as world:
        await world.people("ann")
        remove = feed_commands.RemoveFollower(user_id="bob")
        assert await world.refusal("ann", remove) == "follow_not_found"
        await world.follow("ann", "bob")
        await world.do("ann", remove)
        await world.told_all()
        assert world.partitions.told(FollowAnswered) == [FollowAnswered("bob", "ann", False, 1)]
        assert (await world.author("ann")).follower_count == 1  # until the edge is gone
