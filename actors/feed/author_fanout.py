"""An author's posts on their way into the feeds of the followers: resumable, idempotent, in bounded steps.

A post is stored with a FanoutJob, and the job removed once every partition has answered. Whatever happens in
between, the next incarnation begins the job anew: a feed takes a post once, however often it is pushed.
"""

from random import random
from typing import Final

import msgspec

from actors.address import Address
from actors.feed import author_rules as rules
from actors.feed.address import partition_address
from actors.feed.author_base import Needs
from actors.feed.author_notices import AuthorNotices
from actors.feed.followers import Followers, Step
from actors.feed.pushes import Push, Pushes
from actors.messages import FanOut
from actors.reply import NO_REPLY
from actors.stream_actor import Batch, Staged
from protocol.errors import HubbubError
from protocol.records import Appended, FanoutJob, Remove

_LOAD_PAGE: Final = 2000  # followers in one read
ROOM_RETRY_S: Final = 1.0  # a store that takes nothing is mended by a person, or within seconds
_TOLD_AT: Final = 8  # refusals in a row: a minute or so, which no move of a shard takes


class _Arrived(msgspec.Struct, frozen=True):
    push: Push


class _NotTaken(msgspec.Struct, frozen=True):
    push: Push
    error: HubbubError


class _PushAgain(msgspec.Struct, frozen=True):
    partition: int


class _AllHaveIt(msgspec.Struct, frozen=True):
    """Everybody has a post, and the store had no room to hear of it: try again."""

    post_id: int


class EdgeMove:
    """A change of one follower's edge that is not committed yet; the version is None when it ends."""

    __slots__ = ("version",)

    def __init__(self, version: int | None) -> None:
        self.version = version


class AuthorFanout(AuthorNotices):
    """Push posts, and keep the followers that they are pushed to."""

    def __init__(self, address: Address, needs: Needs) -> None:
        super().__init__(address, needs)
        self._pushes = Pushes()
        self._followers: Followers | None = None  # read when first needed; of a hot author never
        self._unconcluded: set[int] = set()  # posts that all have, and the store does not know it yet
        self._moving: dict[str, EdgeMove] = {}  # by follower_id: what the store may not show yet

    async def _load_followers(self) -> Followers:
        """The followers, as decided by now."""
        if self._followers is None:
            followers = Followers(self._id)
            after = ""
            while True:
                page = await self._log.posts.follower_versions(self._id, after=after, limit=_LOAD_PAGE)
                for follower_id, version in page:
                    followers.put(follower_id, version)
                if len(page) < _LOAD_PAGE:
                    break
                after = page[-1][0]
            for follower_id, move in self._moving.items():
                if move.version is None:
                    followers.discard(follower_id)
                else:
                    followers.put(follower_id, move.version)
            self._followers = followers
        return self._followers

    async def _steps(self) -> list[Step]:
        """Who is to get a post that is decided now. Those who are counted later fetch it themselves."""
        return (await self._load_followers()).steps(self._fanout.is_connected)

    def _begin_push(self, post_id: int, steps: list[Step]) -> None:
        """Push a post that is stored."""
        self._pushes.add(post_id, steps)
        self._push_on()

    def _push_on(self) -> None:
        ask = self._ctx.router.ask_nowait
        for push in self._pushes.take():
            message = FanOut(push.post_id, self._id, push.user_ids)
            ask(partition_address(push.partition), message, _Receipt(self, push))

    def is_patient(self, batch: Batch) -> bool:
        """That posts are everywhere is told to nobody."""
        return not batch.tells and all(staged.reply is NO_REPLY for staged in batch.staged)

    def _fanout_message(self, message: object) -> bool:
        """Take what became of a push; returns whether it was that."""
        if isinstance(message, _Arrived):
            if self._pushes.arrived(message.push):
                self._conclude_push(message.push.post_id)
            self._push_on()
        elif isinstance(message, _AllHaveIt):
            self._conclude_push(message.post_id)
        elif isinstance(message, _NotTaken):
            push, error = message.push, message.error
            refused_count = self._pushes.refused(push)
            if refused_count:
                delay_s = rules.retry_delay_s(refused_count, error.retry_after_s, random())
                self._ctx.post_after(delay_s, _PushAgain(push.partition))
            if refused_count == _TOLD_AT:
                self._ctx.log.warning(
                    "push_refused", partition=push.partition, code=error.code, attempt=refused_count
                )
            self._push_on()
        elif isinstance(message, _PushAgain):
            self._pushes.resume(message.partition)
            self._push_on()
        else:
            return False
        return True

    def _conclude_push(self, post_id: int) -> None:
        """Everybody has the post: its job is done, as soon as the store has room for that."""
        self._unconcluded.add(post_id)
        if not self._has_room():
            self._ctx.post_after(ROOM_RETRY_S, _AllHaveIt(post_id))
            return

        def after(_at: Appended | None) -> None:
            self._unconcluded.discard(post_id)
            self._index.pushed(post_id, self._id)

        self._stage_ops([Remove(FanoutJob, {"post_id": post_id})])
        row = self._event("pushed", {"post_id": post_id}, at_ms=self._at_ms())
        self._stage_row(row, Staged(NO_REPLY, None, after=after))

    def _has_room(self) -> bool:
        """Tell whether the store takes anything now: a refused append would end the incarnation."""
        try:
            self._log.check_room()
        except HubbubError:
            return False
        return True

    def _answered(self, message: _Arrived | _NotTaken) -> None:
        self._ctx.post(message)


class _Receipt:
    """The reply of one push."""

    __slots__ = ("_actor", "_push", "is_done")

    def __init__(self, actor: AuthorFanout, push: Push) -> None:
        self._actor = actor
        self._push = push
        self.is_done = False

    def resolve(self, value: object) -> None:
        if not self.is_done:
            self.is_done = True
            self._actor._answered(_Arrived(self._push))

    def fail(self, error: HubbubError) -> None:
        if not self.is_done:
            self.is_done = True
            self._actor._answered(_NotTaken(self._push, error))
