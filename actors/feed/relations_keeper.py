"""Whom a reader follows and mutes, what they are not interested in, how far they have read: decided and
stored.

A part of the feed partition's actor (actors.feed.partition), which is the only writer of these rows. The
author's side of a follow, and of its count, is the author's actor's: each tells the other what has changed,
durably.

What a follow or a mute is decided by is read beside the mailbox, so a reader who follows many holds up
nobody's pages; each reader's commands wait for each other. The decision itself awaits nothing, and knows
better than what was read wherever this incarnation has decided since.
"""

from collections import OrderedDict
from dataclasses import dataclass
from typing import Final

import msgspec

from actors.address import Address
from actors.feed.ad_book import AdBook
from actors.feed.address import KIND, author_address
from actors.feed.feed import FeedLimits, Relations
from actors.feed.feed_follower import FeedFollower
from actors.feed.ids import first_id_at
from actors.feed.index import FeedNode
from actors.feed.interest import Interests, interest_of, said, target_of, undone
from actors.feed.notices import follow_requested
from actors.feed.ranked_feed import RankedFeeds
from actors.feed.turns import Turns
from actors.feed.unstored import Unstored
from actors.messages import (
    Ask,
    BlockStands,
    FollowAnswered,
    FollowCounted,
    FollowerMoved,
    FollowMoved,
    FollowSettled,
    Told,
    decode_tell,
)
from actors.notify.address import notify_address
from actors.ports import Fanout, FeedReads, Leases, Log, Relay, WallClock
from actors.reply import NO_REPLY, Reply
from actors.stream_actor import Staged, StreamActor
from actors.user_rules import needs_other
from protocol import feed_commands, feed_replies, replies
from protocol.errors import HubbubError, Refused, Unavailable
from protocol.feed_types import FollowState
from protocol.limits import MAX_FOLLOWING, MAX_MUTED
from protocol.records import (
    Appended,
    BlockRow,
    FeedPosition,
    FollowRow,
    InterestRow,
    MuteRow,
    Op,
    Put,
    Relation,
    Remove,
    Tell,
    feed_stream,
)

_KNOWN_EDGES: Final = 16_384  # follows decided lately: the store may not have them yet


class FeedStats(msgspec.Struct):
    """Counters since the start, of all partitions of a node."""

    entry_count: int = 0
    page_count: int = 0
    cold_load_count: int = 0
    late_page_count: int = 0  # pages that had to wait for the store
    written_down_count: int = 0


@dataclass(frozen=True, slots=True)
class PartitionNeeds:
    """What a feed partition needs of the world, and shares with the others of its node."""

    log: Log
    reads: FeedReads
    leases: Leases
    relay: Relay
    fanout: Fanout
    now_ms: WallClock
    node: FeedNode
    follower: FeedFollower
    limits: FeedLimits
    stats: FeedStats
    ranked: RankedFeeds
    ads: AdBook


@dataclass(eq=False, slots=True)
class _Look:
    """A command about another user, for which the store is being read beside the mailbox."""

    ask: Ask
    other_id: str
    reply: Reply
    # Of the reader, when it began: what the store may not show yet.
    follows: dict[str, bool]
    mutes: dict[str, bool]
    is_stale: bool = False  # a block between the two has come since


@dataclass(eq=False, slots=True)
class _UnstoredInterests:
    """What a reader is not interested in once all that is on its way to the store is there."""

    interests: Interests
    owed: int = 0


class _Seen(msgspec.Struct, frozen=True):
    """What was found, or why nothing was."""

    look: _Look
    found: Relation | HubbubError


class RelationsKeeper(StreamActor):
    """Decide on follows, mutes, interests and read positions."""

    def __init__(self, partition: int, needs: PartitionNeeds) -> None:
        super().__init__(
            Address(KIND, str(partition)),
            feed_stream(partition),
            log=needs.log,
            leases=needs.leases,
            relay=needs.relay,
            now_ms=needs.now_ms,
        )
        self._partition = partition
        self._reads = needs.reads
        self._fanout = needs.fanout
        self._node = needs.node
        self._limits = needs.limits
        # What this incarnation has decided and the store may not hold yet: None for an edge that was removed.
        self._edges: OrderedDict[tuple[str, str], FollowRow | None] = OrderedDict()
        self._version = 0
        self._turns: Turns[tuple[Ask, str, Reply]] = Turns()
        self._looks: dict[str, _Look] = {}  # by reader: whose turn it is
        self._unstored_follows = Unstored()
        self._unstored_mutes = Unstored()
        self._unstored_interests: dict[str, _UnstoredInterests] = {}  # by reader

    async def receive(self, message: object, reply: Reply) -> None:
        if isinstance(message, _Seen):
            self._seen(message)
        else:
            await super().receive(message, reply)

    def receive_nowait(self, message: object, reply: Reply) -> bool:
        if isinstance(message, _Seen):
            self._seen(message)
            return True
        return super().receive_nowait(message, reply)

    def may_passivate(self) -> bool:
        return super().may_passivate() and not self._looks

    def is_arriving(self, user_id: str) -> bool:
        """Tell whether a feed is being read from the store."""
        raise NotImplementedError

    def cover(self, user_id: str, post_ids: list[int], *, new_from: int) -> list[Op]:
        """Put posts of a newly followed author into a feed that is kept; returns what stores that.

        Those from the id `new_from` on are news: who watches is told.
        """
        raise NotImplementedError

    # -- commands -----------------------------------------------------------------------------------

    async def relate(self, ask: Ask, reply: Reply) -> bool:
        """Carry out a command that changes how a reader stands to others; False: it is none of these."""
        match ask.command:
            case (
                feed_commands.FollowUser(user_id=other_id)
                | feed_commands.Unfollow(user_id=other_id)
                | feed_commands.MuteUser(user_id=other_id)
            ):
                needs_other(ask.user_id, other_id)
                if self._turns.join(ask.user_id, (ask, other_id, reply)):
                    self._look(ask, other_id, reply)
            case feed_commands.SetFeedPosition(post_id=post_id):
                self._set_position(ask.user_id, post_id, reply)
            case _:
                return False
        return True

    # Whoever follows or mutes somebody waits for one read, and nobody else of the partition waits with them.

    def _look(self, ask: Ask, other_id: str, reply: Reply) -> None:
        user_id = ask.user_id
        follows, mutes = self._unstored_follows.of(user_id), self._unstored_mutes.of(user_id)
        look = self._looks[user_id] = _Look(ask, other_id, reply, follows, mutes)
        self._ctx.start_soon(self._read_relation, look)

    async def _read_relation(self, look: _Look) -> None:
        found: Relation | HubbubError
        try:
            found = await self._log.posts.relation(
                look.ask.user_id, look.other_id, but_follows=look.follows, but_mutes=look.mutes
            )
        except HubbubError as error:
            found = error
        self._ctx.post(_Seen(look, found))

    def _seen(self, message: _Seen) -> None:
        """Decide by what was read, and go on with the reader's next command."""
        look = message.look
        user_id = look.ask.user_id
        if look.is_stale:
            self._look(look.ask, look.other_id, look.reply)
            return
        try:
            self._decide(look, message.found)
        except HubbubError as error:
            look.reply.fail(error)
        following = self._turns.leave(user_id)
        if following is None:
            del self._looks[user_id]
        else:
            self._look(*following)

    def _decide(self, look: _Look, found: Relation | HubbubError) -> None:
        if isinstance(found, HubbubError):
            raise found
        self._log.check_room()  # a refused append would end the incarnation
        match look.ask.command:
            case feed_commands.FollowUser():
                self._follow(look, found)
            case feed_commands.Unfollow():
                self._unfollow(look, found)
            case feed_commands.MuteUser(removed=removed):
                self._mute(look, found, is_muted=not removed)

    def _follow(self, look: _Look, found: Relation) -> None:
        user_id, author_id = look.ask.user_id, look.other_id
        if found.app_id != look.ask.app_id:
            raise Refused("user_not_found")
        if found.is_blocked:
            raise Refused("blocked")
        edge = self._edges.get((user_id, author_id), found.edge)
        if edge is not None:
            self._answer_follow(look.reply, author_id, _state_of(edge))
            return
        if found.follow_count + sum(look.follows.values()) >= MAX_FOLLOWING:
            raise Refused("too_many_follows")
        state: FollowState = "requested" if found.is_private else "following"
        self._stage_edge(user_id, author_id, state, look.reply)
        if found.is_private:
            self._stage_tell(author_id, FollowerMoved(user_id, "requested"))
            self._stage_tell_to(notify_address(author_id), follow_requested(author_id, found.app_id, user_id))

    def _unfollow(self, look: _Look, found: Relation) -> None:
        edge = self._edges.get((look.ask.user_id, look.other_id), found.edge)
        if edge is None:
            self._answer_follow(look.reply, look.other_id, "none")
        else:
            self._stage_end(edge, look.reply)

    def _answer_follow(self, reply: Reply, author_id: str, state: FollowState) -> None:
        self._answer_in_order(reply, feed_replies.FollowInfo(user_id=author_id, follow=state))

    def _stage_edge(
        self, user_id: str, author_id: str, state: FollowState, reply: Reply, *, version: int = 0
    ) -> None:
        """Stage that a reader follows an author, or asks to. `version`: of the request; 0: it begins now."""
        at_ms = self._at_ms()
        if not version:
            version = self._version = max(self._version + 1, at_ms * 1000)
        row = FollowRow(user_id=user_id, author_id=author_id, state=state, since_ms=at_ms, version=version)
        self._know(row.user_id, row.author_id, row)
        move = self._unstored_follows.put(user_id, author_id, is_there=True)

        def after(_at: Appended | None) -> None:
            self._unstored_follows.stored(move)
            if state == "following":
                self._node.followed(user_id, author_id)

        answer = feed_replies.FollowInfo(user_id=author_id, follow=state)
        self._stage_ops([Put(row)], Staged(reply, lambda _at: answer, after=after))
        self._stage_tell(user_id, FollowSettled(author_id, state))
        # Also of a request: the account may have become public meanwhile, and then it is accepted.
        self._stage_tell_to(author_address(author_id), FollowMoved(user_id))

    def _stage_end(self, edge: FollowRow, reply: Reply) -> None:
        """Stage that a reader does not follow an author any more, or does not ask to."""
        user_id, author_id = edge.user_id, edge.author_id
        self._know(user_id, author_id, None)
        move = self._unstored_follows.put(user_id, author_id, is_there=False)

        def after(_at: Appended | None) -> None:
            self._unstored_follows.stored(move)
            self._node.relate(user_id, lambda relations: relations.unfollow(author_id))

        answer = feed_replies.FollowInfo(user_id=author_id, follow="none")
        gone = Remove(FollowRow, {"user_id": user_id, "author_id": author_id})
        self._stage_ops([gone], Staged(reply, lambda _at: answer, after=after))
        self._stage_tell(user_id, FollowSettled(author_id, "none"))
        if edge.state == "following":
            self._stage_tell_to(author_address(author_id), FollowMoved(user_id))
        else:
            self._stage_tell(author_id, FollowerMoved(user_id, "none"))

    def _mute(self, look: _Look, found: Relation, *, is_muted: bool) -> None:
        user_id, other_id = look.ask.user_id, look.other_id
        if found.app_id != look.ask.app_id:
            raise Refused("user_not_found")
        op: Op
        if is_muted:
            count = found.mute_count + sum(look.mutes.values())
            if count >= MAX_MUTED and not look.mutes.get(other_id, found.is_muted):
                raise Refused("too_many_muted")
            op = Put(MuteRow(user_id=user_id, other_id=other_id, since_ms=self._at_ms()))
        else:
            op = Remove(MuteRow, {"user_id": user_id, "other_id": other_id})
        move = self._unstored_mutes.put(user_id, other_id, is_there=is_muted)

        def after(_at: Appended | None) -> None:
            self._unstored_mutes.stored(move)
            self._node.relate(user_id, lambda relations: relations.mute(other_id, muted=is_muted))

        self._stage_ops([op], Staged(look.reply, lambda _at: replies.Ok(), after=after))

    def set_interest(
        self, user_id: str, command: feed_commands.SetInterest, relations: Relations, reply: Reply
    ) -> None:
        """Stage it. The oldest gives way when there are too many, so what there is must be known.

        And what there will be: many said at once are stored together, and each makes another one go.
        """
        target = target_of(command.kind, command.target, user_id)
        row = said(user_id, command.kind, target, self._at_ms())
        ops: list[Op] = []
        unstored = self._unstored_interests.get(user_id)
        if unstored is None:
            unstored = self._unstored_interests[user_id] = _UnstoredInterests(relations.interests.copy())
        unstored.owed += 1
        if command.removed:
            unstored.interests.remove(command.kind, target)
            ops.append(Remove(InterestRow, {"user_id": user_id, "kind": command.kind, "target": target}))
            answer = feed_replies.InterestInfo(interest=undone(row))
        else:
            ops.append(Put(row))
            answer = feed_replies.InterestInfo(interest=interest_of(row, row.since_ms))
            oldest = unstored.interests.add(row)
            if oldest is not None:
                where: dict[str, str | int] = {
                    "user_id": user_id,
                    "kind": oldest.kind,
                    "target": oldest.target,
                }
                ops.append(Remove(InterestRow, where))

        def change(relations: Relations) -> None:
            if command.removed:
                relations.interests.remove(command.kind, target)
            else:
                relations.interests.add(row)

        def after(_at: Appended | None) -> None:
            unstored.owed -= 1
            if not unstored.owed:
                del self._unstored_interests[user_id]
            self._node.relate(user_id, change)

        self._stage_ops(ops, Staged(reply, lambda _at: answer, after=after))

    def _set_position(self, user_id: str, post_id: int, reply: Reply) -> None:
        row = FeedPosition(user_id=user_id, post_id=post_id, at_ms=self._at_ms())

        def change(relations: Relations) -> None:
            relations.read_position = post_id

        def after(_at: Appended | None) -> None:
            self._node.relate(user_id, change)

        self._stage_ops([Put(row)], Staged(reply, lambda _at: replies.Ok(), after=after))

    # -- what others told ---------------------------------------------------------------------------

    async def told(self, message: Told, reply: Reply) -> None:
        """Store the effect of a durable tell and remove the tell, in one append."""
        done = Remove(Tell, {"tell_id": message.tell_id})
        match decode_tell(message.body):
            case FollowCounted() as tell:
                await self._counted(tell)
            case FollowAnswered() as tell:
                await self._answered(tell)
            case BlockStands() as tell:
                await self._block_stands(tell)
            case tell:
                raise TypeError(f"a feed partition is not told {type(tell).__name__}")
        self._stage_ops([done], Staged(reply, lambda _at: replies.Ok()))

    async def _answered(self, tell: FollowAnswered) -> None:
        edge = await self._edge(tell.user_id, tell.author_id)
        if edge is None:
            return
        if not tell.accepted:
            if tell.version in (0, edge.version):  # else it speaks of an edge that is no more
                self._stage_end(edge, NO_REPLY)
        elif edge.state == "requested":
            self._stage_edge(tell.user_id, tell.author_id, "following", NO_REPLY, version=edge.version)

    async def _block_stands(self, tell: BlockStands) -> None:
        """End a follow across a block, unless the block has been lifted since."""
        user_id, other_id = tell.user_id, tell.other_id
        look = self._looks.get(user_id)
        if look is not None and look.other_id == other_id:
            look.is_stale = True  # it may have read the store before the block was in it
        edge = await self._edge(user_id, other_id)
        if edge is not None and (
            await self._log.get(BlockRow, user_id, other_id) is not None
            or await self._log.get(BlockRow, other_id, user_id) is not None
        ):
            self._stage_end(edge, NO_REPLY)

    async def _counted(self, tell: FollowCounted) -> None:
        """From now on the author pushes to this reader; what was posted before is put into the feed.

        What was posted after the follow, and before the author heard of it, nobody else tells live.
        """
        user_id, author_id = tell.user_id, tell.author_id
        edge = await self._edge(user_id, author_id)
        if edge is None or edge.version != tell.version or edge.state != "following" or edge.covered:
            return  # it speaks of an edge that is no more
        if self.is_arriving(user_id):
            raise Unavailable("busy", retry_after_s=0.1)  # what is being read may be from before it
        ops: list[Op] = []
        feed = self._node.feeds.get(user_id)
        if feed is not None and tell.upto:
            after = max(0, feed.covered_from - 1)
            post_ids = await self._reads.author_ids(
                author_id, after=after, before=tell.upto + 1, limit=self._limits.cap + 1
            )  # one more than fits: only then the feed knows that there are older ones
            if self._node.feeds.get(user_id) is feed:
                ops = self.cover(user_id, post_ids, new_from=first_id_at(edge.since_ms))
        row = FollowRow(
            user_id=user_id,
            author_id=author_id,
            state="following",
            since_ms=edge.since_ms,
            version=edge.version,
            covered=True,
        )
        self._know(user_id, author_id, row)

        def after_commit(_at: Appended | None) -> None:
            self._node.relate(user_id, lambda relations: relations.covered(author_id))

        self._stage_ops([Put(row), *ops], Staged(NO_REPLY, None, after=after_commit))

    # -- plumbing -----------------------------------------------------------------------------------

    async def _edge(self, user_id: str, author_id: str) -> FollowRow | None:
        key = (user_id, author_id)
        if key in self._edges:
            return self._edges[key]
        return await self._log.get(FollowRow, user_id, author_id)

    def _know(self, user_id: str, author_id: str, row: FollowRow | None) -> None:
        self._edges[user_id, author_id] = row
        self._edges.move_to_end((user_id, author_id))
        if len(self._edges) > _KNOWN_EDGES:
            self._edges.popitem(last=False)


def _state_of(edge: FollowRow) -> FollowState:
    return "requested" if edge.state == "requested" else "following"
