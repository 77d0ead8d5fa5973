"""Who follows an author: counted from what the followers' partitions have stored, and who has asked to."""

from typing import Final

import msgspec

from actors.feed import author_rules as rules
from actors.feed import notices
from actors.feed.address import feed_address
from actors.feed.author_fanout import ROOM_RETRY_S, AuthorFanout, EdgeMove
from actors.messages import Ask, FollowAnswered, FollowCounted, FollowerMoved, FollowMoved
from actors.reply import NO_REPLY, Reply
from actors.stream_actor import Staged
from protocol import feed_commands, replies
from protocol.errors import HubbubError, Refused
from protocol.feed_replies import AuthorInfo
from protocol.feed_types import Author
from protocol.records import Appended, FollowerRow, FollowRow, Op, Put, Remove

_ACCEPT_PAGE: Final = 200  # requests accepted by one append, when an account becomes public


class _AcceptRequests(msgspec.Struct, frozen=True):
    """Let in who has asked, beyond this place in the list of requests."""

    after: tuple[int, str] | None = None


class AuthorFollows(AuthorFanout):
    """Count followers, and decide on requests and on privacy."""

    # -- edges --------------------------------------------------------------------------------------

    async def _follow_moved(self, tell: FollowMoved, done: list[Op], reply: Reply) -> None:
        """Count an edge by what is stored of it now, so that order and repetition do not matter."""
        follower_id = tell.follower_id
        follow = await self._log.get(FollowRow, follower_id, self._id)
        counted = await self._version_of(follower_id)
        ops = done
        if follow is not None and follow.state == "following":
            if follow.version != counted:
                self._follows(follow, is_new=counted is None, ops=ops)
        else:
            if counted is not None:
                self._ended_follow(follower_id, ops)
            if follow is not None and follow.state == "requested" and not self._author.is_private:
                # It was asked while the account became public, and would wait for ever.
                self._answer_follow(follower_id, accepted=True)
        self._stage_ops(ops, Staged(reply, _ok))

    def _follows(self, follow: FollowRow, *, is_new: bool, ops: list[Op]) -> None:
        """From here on the follower gets what is posted; what was posted before, they fetch."""
        follower_id = follow.user_id
        ops.append(
            Put(
                FollowerRow(
                    author_id=self._id,
                    follower_id=follower_id,
                    since_ms=follow.since_ms,
                    version=follow.version,
                )
            )
        )
        if self._followers is not None:
            self._followers.put(follower_id, follow.version)
        self._note_move(follower_id, follow.version)
        if is_new:
            self._count_followers(1, ops)
            self._stage_tell(self._id, FollowerMoved(follower_id, "following"))
            if not self._author.is_private:  # else the author has let them in just now
                due = notices.followed(self._id, self._author.app_id, follower_id)
                self._notify_bounded(due, "follow", 0, self._author.follower_count)
        counted = FollowCounted(follower_id, self._id, follow.version, self._author.last_post_id)
        self._stage_tell_to(feed_address(follower_id), counted)

    def _ended_follow(self, follower_id: str, ops: list[Op]) -> None:
        ops.append(Remove(FollowerRow, {"author_id": self._id, "follower_id": follower_id}))
        if self._followers is not None:
            self._followers.discard(follower_id)
        self._note_move(follower_id, None)
        self._count_followers(-1, ops)
        self._stage_tell(self._id, FollowerMoved(follower_id, "none"))

    async def _version_of(self, follower_id: str) -> int | None:
        """The version of the edge that is counted; None: they are not."""
        if self._followers is not None:
            return self._followers.version_of(follower_id)
        move = self._moving.get(follower_id)
        if move is not None:
            return move.version
        row = await self._log.get(FollowerRow, self._id, follower_id)
        return None if row is None else row.version

    def _note_move(self, follower_id: str, version: int | None) -> None:
        """Remember what the store does not show yet, until it does."""
        move = self._moving[follower_id] = EdgeMove(version)

        def after(_at: Appended | None) -> None:
            if self._moving.get(follower_id) is move:
                del self._moving[follower_id]

        self._stage_ops((), Staged(NO_REPLY, None, after=after))

    def _count_followers(self, by: int, ops: list[Op]) -> None:
        """Count, and cross the threshold between the two ways into feeds where that is reached."""
        author = self._author
        follower_count = author.follower_count + by
        is_hot = rules.next_is_hot(
            author.is_hot, follower_count, hot_at=self._hot_followers, cool_at=self._cool_followers
        )
        ops.append(self._change_author(follower_count=follower_count, is_hot=is_hot))
        if is_hot != author.is_hot:
            self._stage_author_changed(NO_REPLY, None)
            if is_hot:
                self._followers = None  # nothing is pushed to them any more

    # -- requests -----------------------------------------------------------------------------------

    async def _answer_request(self, command: feed_commands.AnswerFollow, reply: Reply) -> None:
        follow = await self._log.get(FollowRow, command.user_id, self._id)
        if follow is None or follow.state != "requested":
            if follow is not None and command.accept:  # said twice
                self._answer_in_order(reply, replies.Ok())
                return
            raise Refused("follow_not_found")
        self._answer_follow(
            command.user_id, accepted=command.accept, version=0 if command.accept else follow.version
        )
        if command.accept:
            self._notify(notices.follow_accepted(command.user_id, self._author.app_id, self._id))
        self._stage_ops((), Staged(reply, _ok))

    async def _remove_follower(self, command: feed_commands.RemoveFollower, reply: Reply) -> None:
        follow = await self._log.get(FollowRow, command.user_id, self._id)
        if follow is None:
            raise Refused("follow_not_found")
        self._answer_follow(command.user_id, accepted=False, version=follow.version)
        self._stage_ops((), Staged(reply, _ok))

    def _answer_follow(self, follower_id: str, *, accepted: bool, version: int = 0) -> None:
        """Tell the partition that owns the edge. What ends one names its version: a newer one shall stay."""
        answered = FollowAnswered(follower_id, self._id, accepted, version)
        self._stage_tell_to(feed_address(follower_id), answered)

    # -- privacy ------------------------------------------------------------------------------------

    async def _update_author(self, ask: Ask, command: feed_commands.UpdateAuthor, reply: Reply) -> None:
        following_count = await self._log.posts.following_count(self._id)
        if command.is_private == self._author.is_private:
            self._answer_in_order(reply, self._author_info(following_count))
            return
        op = self._change_author(app_id=ask.app_id, is_private=command.is_private)
        self._stage_ops([op])
        self._stage_author_changed(reply, self._author_info(following_count))
        if not command.is_private:
            self._accept_requests()

    def _stage_author_changed(self, reply: Reply, answer: AuthorInfo | None) -> None:
        """Stage the event that privacy, or the way into feeds, is as the author's row has it now."""
        author = self._author
        body: dict[str, object] = {"is_private": author.is_private, "is_hot": author.is_hot}

        def after(_at: Appended | None) -> None:
            self._index.author_changed(author)

        staged = Staged(reply, None if answer is None else lambda _at: answer, after=after)
        self._stage_row(self._event("author_changed", body, at_ms=self._at_ms()), staged)

    def _accept_requests(self) -> None:
        """Let in all who have asked; what a crash leaves of it, the next incarnation begins with."""
        self._ctx.post(_AcceptRequests())

    async def _follows_message(self, message: object) -> bool:
        """Take what this part has posted to itself; returns whether it was that."""
        if not isinstance(message, _AcceptRequests):
            return False
        if self._author.is_private:
            return True
        try:
            page = await self._log.posts.requests(self._id, after=message.after, limit=_ACCEPT_PAGE)
            self._log.check_room()  # a refused append would end the incarnation
        except HubbubError:
            self._ctx.post_after(ROOM_RETRY_S, message)
            return True
        for _, follower_id in page:
            self._answer_follow(follower_id, accepted=True)
        if len(page) == _ACCEPT_PAGE:
            self._ctx.post(_AcceptRequests(page[-1]))
        return True

    def _author_info(self, following_count: int) -> AuthorInfo:
        author = self._author
        return AuthorInfo(
            author=Author(
                user_id=self._id,
                is_private=author.is_private,
                followers=author.follower_count,
                following=following_count,
                posts=author.post_count,
                hot=author.is_hot,
            )
        )


def _ok(_at: Appended | None) -> replies.Ok:
    return replies.Ok()
