"""What others do with an author's posts: likes, comments, reposts, and their counts.

A count and what it counts are one append, so it is exact; what is in flight is known here, so a repetition
that comes meanwhile changes nothing.
"""

from typing import Final

import msgspec

from actors.address import Address
from actors.feed import author_rules as rules
from actors.feed import notices
from actors.feed.author_base import CACHED, KnownPost, Needs
from actors.feed.author_notices import AuthorNotices
from actors.feed.lately import Lately
from actors.feed_audience import counts_key
from actors.messages import Ask, RepostMoved, comment_thing
from actors.reply import Reply
from actors.stream_actor import After, Staged
from protocol import feed_commands, replies
from protocol.codec import Encoded
from protocol.errors import Refused
from protocol.feed_events import PostCounts
from protocol.feed_replies import CommentInfo, PostCountsInfo
from protocol.limits import POST_COUNTS_TICK_S
from protocol.notify_records import NoticeBacklog
from protocol.records import Appended, CommentRow, Op, PostCountsRow, PostLike, Put, Remove, RepostRow
from protocol.stored_events import encode_json
from protocol.stored_posts import comment_of

_CACHED_LIKES: Final = 4096  # a burst is from different people, each of whom may say it twice


class _CountsTick(msgspec.Struct, frozen=True):
    """Tell the counts that have changed since the last one."""


class AuthorReactions(AuthorNotices):
    """Decide on likes and comments, and count reposts."""

    def __init__(self, address: Address, needs: Needs) -> None:
        super().__init__(address, needs)
        self._likes: Lately[tuple[int, str], bool] = Lately(_CACHED_LIKES)
        self._comments: Lately[int, CommentRow] = Lately(CACHED)
        self._comment_keys: Lately[tuple[int, str, str], int] = Lately(CACHED)  # -> comment_id
        self._reposters: Lately[tuple[int, str], int] = Lately(CACHED)  # -> repost_id; 0: none
        self._untold: dict[int, PostCountsRow] = {}  # counts that are stored, for the next tick

    # -- likes --------------------------------------------------------------------------------------

    async def _like(self, ask: Ask, command: feed_commands.LikePost, reply: Reply) -> None:
        """Count a like, or take it back; the asker may see the post, as the service has looked."""
        known = await self._live_post(ask, command.post_id)
        post_id, user_id = command.post_id, ask.user_id
        is_liked = self._likes.get((post_id, user_id))
        if is_liked is None:
            is_liked = await self._log.get(PostLike, post_id, user_id) is not None
        is_wanted = not command.removed
        self._likes.put((post_id, user_id), is_wanted)
        if is_liked == is_wanted:
            self._answer_in_order(reply, _counts_info(known.counts, liked=is_wanted))
            return
        op: Op
        if is_wanted:
            op = Put(PostLike(post_id=post_id, user_id=user_id, at_ms=self._at_ms()))
        else:
            op = Remove(PostLike, {"post_id": post_id, "user_id": user_id})
        counts = self._count(known, likes=1 if is_wanted else -1)
        row = known.row

        def after(_at: Appended | None) -> None:
            self._index.liked(row, user_id, removed=not is_wanted)
            self._counted(counts)

        self._stage_ops(
            [op, Put(counts)],
            Staged(reply, lambda _at: _counts_info(counts, liked=is_wanted), after=after),
        )
        if is_wanted:
            self._notify_bounded(notices.liked(row, user_id), "like", post_id, counts.likes, post_id=post_id)

    # -- comments -----------------------------------------------------------------------------------

    async def _add_comment(self, ask: Ask, command: feed_commands.AddComment, reply: Reply) -> None:
        """Store a comment; the asker may see the post, as the service has looked."""
        rules.check_comment_text(command.text)
        known = await self._live_post(ask, command.post_id)
        post_id, user_id = command.post_id, ask.user_id
        key = (post_id, user_id, command.client_id)
        first = await self._comment_of(key)
        if first is not None:
            if not first.deleted_at_ms and (first.text, first.parent_id) != (command.text, command.parent_id):
                raise Refused("payload_conflict")
            self._answer_in_order(reply, CommentInfo(comment=comment_of(first), duplicate=True))
            return
        parent: CommentRow | None = None
        if command.parent_id:
            parent = rules.may_answer(await self._comment(command.parent_id), post_id)
        await self._check_mentions(ask.app_id, command.mentions)
        at_ms = self._at_ms()
        comment = CommentRow(
            comment_id=self._ids.next(self._shard, at_ms),
            post_id=post_id,
            user_id=user_id,
            client_id=command.client_id,
            at_ms=at_ms,
            text=command.text,
            parent_id=command.parent_id,
            mentions=encode_json(command.mentions) if command.mentions else "",
        )
        row = known.row
        may_see = await self._who_may_see(row, [*([parent.user_id] if parent else ()), *command.mentions])
        self._comments.put(comment.comment_id, comment)
        self._comment_keys.put(key, comment.comment_id)
        ops: list[Op] = [Put(comment)]
        if parent is not None:
            ops.append(self._count_reply(parent, 1))

        self._stage_counted(
            known,
            ops,
            reply,
            CommentInfo(comment=comment_of(comment)),
            1,
            after=lambda _at: self._index.commented(row, user_id),
        )
        self._notify_of_comment(known, comment, parent, command.mentions, may_see)

    def _notify_of_comment(
        self,
        known: KnownPost,
        comment: CommentRow,
        parent: CommentRow | None,
        mentions: list[str],
        may_see: list[str],
    ) -> None:
        """Let the post's author know, who is answered, and who is mentioned: each of them once."""
        post = known.row
        due = notices.commented(post, comment)
        self._notify_bounded(due, "comment", post.post_id, known.counts.comments, post_id=post.post_id)
        told = {self._id, comment.user_id}
        if parent is not None and parent.user_id in may_see and parent.user_id not in told:
            told.add(parent.user_id)
            due = notices.answered(post, parent, comment)
            count = parent.replies + 1  # `parent` as it was before this one
            self._notify_bounded(due, "answer", parent.comment_id, count, post_id=post.post_id)
        for user_id in may_see:
            if user_id in mentions and user_id not in told:
                self._notify(notices.mentioned_in_comment(post, comment, user_id))

    async def _count_of(self, row: NoticeBacklog) -> int:
        if row.kind == "follow":
            return self._author.follower_count
        known = await self._post(row.post_id)
        if known is None or known.row.deleted_at_ms:
            return 0
        if row.kind == "answer":
            comment = await self._comment(row.thing_id)
            return 0 if comment is None or comment.deleted_at_ms else comment.replies
        return known.counts.likes if row.kind == "like" else known.counts.comments

    async def _delete_comment(self, ask: Ask, command: feed_commands.DeleteComment, reply: Reply) -> None:
        known = await self._live_post(ask, command.post_id)
        comment = await self._comment(command.comment_id)
        if comment is None or comment.post_id != command.post_id:
            raise Refused("comment_not_found")
        rules.may_delete_comment(comment, known.row, ask.user_id)
        if comment.deleted_at_ms:
            self._answer_in_order(reply, replies.Ok())
            return
        told = {self._id, *comment_of(comment).mentions}
        comment = msgspec.structs.replace(comment, text="", mentions="", deleted_at_ms=self._at_ms())
        self._comments.put(comment.comment_id, comment)
        ops: list[Op] = [Put(comment)]
        if comment.parent_id:
            parent = await self._comment(comment.parent_id)
            assert parent is not None  # comments keep their places
            told.add(parent.user_id)
            ops.append(self._count_reply(parent, -1))
        self._withdraw_notices(comment_thing(comment.comment_id), known.row.app_id, told)
        self._stage_counted(known, ops, reply, replies.Ok(), -1)

    async def _comment(self, comment_id: int) -> CommentRow | None:
        comment = self._comments.get(comment_id)
        if comment is None:
            comment = await self._log.get(CommentRow, comment_id)
            if comment is not None:
                self._comments.put(comment_id, comment)
        return comment

    async def _comment_of(self, key: tuple[int, str, str]) -> CommentRow | None:
        """The comment that was made under an idempotency key."""
        comment_id = self._comment_keys.get(key)
        if comment_id is not None:
            return await self._comment(comment_id)
        post_id, user_id, client_id = key
        found = await self._log.find(
            CommentRow, {"post_id": post_id, "user_id": user_id, "client_id": client_id}, limit=1
        )
        if not found:
            return None
        self._comment_keys.put(key, found[0].comment_id)
        return await self._comment(found[0].comment_id)  # as it may be by now

    def _count_reply(self, parent: CommentRow, by: int) -> Op:
        parent = msgspec.structs.replace(parent, replies=parent.replies + by)
        self._comments.put(parent.comment_id, parent)
        return Put(parent)

    def _stage_counted(
        self,
        known: KnownPost,
        ops: list[Op],
        reply: Reply,
        answer: replies.Reply,
        by: int,
        after: After | None = None,
    ) -> None:
        """Stage a comment's coming or going with the post's count."""
        counts = self._count(known, comments=by)

        def noted(at: Appended | None) -> None:
            if after is not None:
                after(at)
            self._counted(counts)

        self._stage_ops([*ops, Put(counts)], Staged(reply, lambda _at: answer, after=noted))

    # -- reposts ------------------------------------------------------------------------------------

    async def _repost_moved(self, tell: RepostMoved, done: list[Op], reply: Reply) -> None:
        """Count a repost by whether it is there now, so that order and repetition do not matter."""
        known = await self._post(tell.post_id)
        found = await self._log.posts.post(tell.repost_id)
        is_there = found is not None and not found[0].deleted_at_ms and found[0].repost_of == tell.post_id
        key = (tell.post_id, tell.user_id)
        counted_id = self._reposters.get(key)
        if counted_id is None:
            row = await self._log.get(RepostRow, *key)
            counted_id = 0 if row is None else row.repost_id
        ops = done
        after: After | None = None
        if known is not None:
            by, repost_id = 0, counted_id
            if is_there and tell.repost_id > counted_id:  # a user has one at a time: the newest
                by, repost_id = int(counted_id == 0), tell.repost_id
                ops.append(
                    Put(
                        RepostRow(
                            post_id=tell.post_id,
                            user_id=tell.user_id,
                            repost_id=repost_id,
                            at_ms=self._at_ms(),
                        )
                    )
                )
            elif not is_there and tell.repost_id == counted_id:
                by, repost_id = -1, 0
                ops.append(Remove(RepostRow, {"post_id": tell.post_id, "user_id": tell.user_id}))
            self._reposters.put(key, repost_id)
            if by:
                counts = self._count(known, reposts=by)
                ops.append(Put(counts))

                def counted(_at: Appended | None) -> None:
                    self._index.reposted(known.row, tell.user_id, removed=by < 0)
                    self._counted(counts)

                after = counted
        self._stage_ops(ops, Staged(reply, lambda _at: replies.Ok(), after=after))

    # -- counts -------------------------------------------------------------------------------------

    def _count(
        self, known: KnownPost, *, likes: int = 0, comments: int = 0, reposts: int = 0
    ) -> PostCountsRow:
        """Change the counts of a post, and return them as they are to be stored."""
        counts = known.counts
        known.counts = PostCountsRow(
            post_id=counts.post_id,
            likes=counts.likes + likes,
            comments=counts.comments + comments,
            reposts=counts.reposts + reposts,
        )
        return known.counts

    def _counted(self, counts: PostCountsRow) -> None:
        """These counts are stored: who watches the post hears the last ones of each tick."""
        self._index.counted(counts)
        if not self._untold:
            self._ctx.post_after(POST_COUNTS_TICK_S, _CountsTick())
        self._untold[counts.post_id] = counts

    def _reactions_message(self, message: object) -> bool:
        """Take what this part has posted to itself; returns whether it was that."""
        if not isinstance(message, _CountsTick):
            return False
        self._tell_counts()
        return True

    def _tell_counts(self) -> None:
        untold, self._untold = self._untold, {}
        for counts in untold.values():
            event = PostCounts(
                post_id=counts.post_id,
                likes=counts.likes,
                comments=counts.comments,
                reposts=counts.reposts,
            )
            self._fanout.publish_post(counts.post_id, counts_key(counts.post_id), Encoded(event))


def _counts_info(counts: PostCountsRow, *, liked: bool) -> PostCountsInfo:
    return PostCountsInfo(
        post_id=counts.post_id,
        likes=counts.likes,
        comments=counts.comments,
        reposts=counts.reposts,
        liked=liked,
    )
