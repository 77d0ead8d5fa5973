"""Carry messages to actors on whatever node runs them, in order, and bring the answers back.

A call goes to the node that is thought to own the actor's shard. One that does not run it says so and does
nothing; then what follows for that shard is held here, in order, until the shard's next owner is known.
Holding is bounded in number and time: beyond that senders are told busy, and try again. A call is never sent
twice unless its receiver has said that it did nothing.

Order: between one node and one shard calls travel in one lane. When some come back, those behind them are
held until all that are under way are decided, and then go out in the order in which they were made. The same
when the owner, its epoch or the way to it changes: what goes elsewhere waits for what is still under way.
"""

from collections import deque
from collections.abc import Callable, Iterable
from secrets import randbits
from typing import Final, NamedTuple, Protocol

import structlog
import trio

from actors.address import Address
from actors.reply import NO_REPLY, Reply, ReplySlot
from actors.router import LocalRouter, UnknownKind
from cluster import wire
from cluster.routes import ShardRoute
from protocol.errors import CODES, PROTOCOL_CODES, HubbubError, ProtocolError, Refused, Unavailable

MAX_HELD: Final = 1000  # messages of all shards together; a shard changes hands within moments
MAX_HELD_S: Final = 2.0  # longer than a hand-over takes; a failover takes longer, and senders are told so
MAX_UNDER_WAY: Final = 20_000  # calls without an answer: 600 sessions' worth of unanswered commands
ANSWER_TIMEOUT_S: Final = 10.0  # the same as a local ask's
SWEEP_S: Final = 0.25
ASK_AGAIN_S: Final = (
    0.5  # an owner that gave up its lease for a moment may have it again under the same epoch
)
BUSY_RETRY_S: Final = 0.5
_CORR_BITS: Final = 60  # MessagePack's integers have 64

log = structlog.get_logger(__name__)


class Placement(Protocol):
    """Who runs the actors of a shard; cluster.shards.ShardKeeper fits this."""

    def owns(self, shard: int) -> bool: ...

    def route_of(self, shard: int) -> ShardRoute: ...


class Way(Protocol):
    """The way to another node; cluster.mesh.Mesh fits this."""

    def send(self, node_id: str, item: wire.Item) -> bool:
        """Queue an item in the data lane; False: it could not be taken."""
        ...

    def next_hop(self, node_id: str) -> str:
        """Who gets an item for that node first: itself, or one that passes it on. "": it is dead."""
        ...


class _Pending:
    """One call that was made here and is not answered yet."""

    __slots__ = ("address", "deadline", "held_until", "message", "reply", "wants_reply")

    def __init__(self, address: Address, message: object, reply: Reply, *, wants_reply: bool) -> None:
        self.address = address
        self.message = message
        self.reply = reply
        self.wants_reply = wants_reply
        self.deadline = 0.0  # for its answer; trio.current_time() seconds
        self.held_until = 0.0  # set when it is first held, however often it is sent and comes back


class _Target(NamedTuple):
    """Where the calls for a shard go. What would go elsewhere waits for them, or it could overtake."""

    node_id: str
    epoch: int
    hop: str


class _ShardWay:
    """The calls for one shard: under way in the order of sending, come back, and held."""

    __slots__ = ("epoch_refused", "held", "refused_at", "returned", "stuck_since", "target", "under_way")

    def __init__(self) -> None:
        self.under_way: dict[int, _Pending] = {}
        self.target = _Target("", -1, "")  # of all that is under way
        self.returned: dict[int, _Pending] = {}
        self.held: deque[_Pending] = deque()
        self.stuck_since: float | None = None  # since when nobody takes anything
        # Its owner said that it does not run the shard: wait for a newer epoch, or ask it again later.
        self.epoch_refused = -1
        self.refused_at = 0.0

    @property
    def is_empty(self) -> bool:
        return not (self.under_way or self.returned or self.held)


class ClusterRouter:
    """Fits actors.router.Router. `received` takes what peers say; `run` ends what lasts too long."""

    def __init__(
        self,
        local: LocalRouter,
        placement: Placement,
        way: Way,
        *,
        node_id: str,
        first_corr: int | None = None,
    ) -> None:
        self._local = local
        self._placement = placement
        self._way = way
        self._node_id = node_id
        self._ways: dict[int, _ShardWay] = {}  # only of shards with calls under way, held, or out of reach
        self._shard_of: dict[int, int] = {}  # corr -> shard
        # An answer to a former process of this node must not be taken for one of ours: it would be an ack of
        # something that was never stored.
        self._next_corr = randbits(_CORR_BITS) if first_corr is None else first_corr
        self._held_count = 0
        self.forwarded_count = 0
        self.refused_count = 0
        # What to do with a hint whose actor sleeps.
        self.on_asleep: Callable[[Address, object], None] = _forget

    # -- actors.router.Router -----------------------------------------------------------------------

    def tell(self, address: Address, message: object) -> None:
        """Hand over a message that needs no answer. Raises: Unavailable, when it was not taken.

        One that was taken may still be lost on its way to another node. Whoever cannot live with that asks.
        """
        shard = address.shard
        if self._is_here(shard):
            self._local.tell(address, message)
        else:
            self._forward(shard, _Pending(address, message, NO_REPLY, wants_reply=False))

    def tell_if_active(self, address: Address, message: object) -> bool:
        """Hand over a hint; True also if it went to another node, whose `on_asleep` takes what is left."""
        shard = address.shard
        if self._placement.owns(shard):
            return self._local.tell_if_active(address, message)
        node_id = self._placement.route_of(shard).node_id
        if not self.reaches(shard):
            return False
        return self._way.send(node_id, wire.Hint(address.kind, address.id, message))  # type: ignore[arg-type]

    def ask_nowait(self, address: Address, message: object, reply: Reply) -> None:
        """Hand over a message whose answer goes to `reply`."""
        shard = address.shard
        if self._is_here(shard):
            self._local.ask_nowait(address, message, reply)
            return
        try:
            self._forward(shard, _Pending(address, message, reply, wants_reply=True))
        except HubbubError as error:
            reply.fail(error)

    async def ask(self, address: Address, message: object, *, timeout_s: float) -> object:
        """Hand over a message and wait for its answer. Raises: HubbubError; Unavailable("timeout")."""
        slot = ReplySlot()
        self.ask_nowait(address, message, slot)
        with trio.move_on_after(timeout_s):
            return await slot.wait()
        raise Unavailable("timeout", retry_after_s=1.0)

    def reaches(self, shard: int) -> bool:
        """Tell whether another node is known that runs the shard's actors, and there is a way to it."""
        node_id = self._placement.route_of(shard).node_id
        return node_id not in ("", self._node_id) and bool(self._way.next_hop(node_id))

    # -- sending ------------------------------------------------------------------------------------

    def _is_here(self, shard: int) -> bool:
        """Tell whether a call can be handed over on this node, with none before it that still waits."""
        if not self._placement.owns(shard):
            return False
        way = self._ways.get(shard)
        if way is not None and way.is_empty:
            del self._ways[shard]
            way = None
        return way is None

    def _target(self, shard: int, way: _ShardWay) -> _Target | None:
        """Where calls for the shard can be sent now; None: to nobody."""
        route = self._placement.route_of(shard)
        if route.node_id in ("", self._node_id):
            return None
        if route.epoch <= way.epoch_refused and trio.current_time() < way.refused_at + ASK_AGAIN_S:
            return None
        hop = self._way.next_hop(route.node_id)
        return _Target(route.node_id, route.epoch, hop) if hop else None

    def _forward(self, shard: int, pending: _Pending) -> None:
        """Send a call, or hold it. Raises: Unavailable("busy")."""
        way = self._ways.get(shard)
        if way is None:
            way = self._ways[shard] = _ShardWay()
        try:
            if way.held or way.returned or not self._send(shard, way, pending):
                self._hold(way, pending)
        finally:
            self._tidy(shard, way)

    def _send(self, shard: int, way: _ShardWay, pending: _Pending) -> bool:
        """Send a call to the shard's owner; False where it has to wait. Raises: Unavailable."""
        target = self._target(shard, way)
        if target is None or (way.under_way and target != way.target):
            return False
        if len(self._shard_of) >= MAX_UNDER_WAY:
            raise self._busy()
        corr = self._next_corr
        call = wire.Call(
            corr=corr,
            kind=pending.address.kind,
            id=pending.address.id,
            epoch=target.epoch,
            message=pending.message,  # type: ignore[arg-type]  # whatever is no ActorMessage fails to encode
            wants_reply=pending.wants_reply,
        )
        if not self._way.send(target.node_id, call):
            raise self._busy()
        self._next_corr += 1
        self.forwarded_count += 1
        pending.deadline = trio.current_time() + ANSWER_TIMEOUT_S
        way.target = target
        way.under_way[corr] = pending
        self._shard_of[corr] = shard
        return True

    def _hold(self, way: _ShardWay, pending: _Pending) -> None:
        now = trio.current_time()
        way.stuck_since = now if way.stuck_since is None else way.stuck_since
        if self._held_count >= MAX_HELD or now - way.stuck_since > MAX_HELD_S:
            raise self._busy()
        pending.held_until = pending.held_until or now + MAX_HELD_S
        way.held.append(pending)
        self._held_count += 1

    def _busy(self) -> Unavailable:
        self.refused_count += 1
        return Unavailable("busy", "This shard is changing hands.", retry_after_s=BUSY_RETRY_S)

    def _tidy(self, shard: int, way: _ShardWay) -> None:
        """Forget a way with nothing in it, unless it remembers since when the shard is out of reach."""
        if way.is_empty and way.stuck_since is None and self._ways.get(shard) is way:
            del self._ways[shard]

    # -- when shards change hands -------------------------------------------------------------------

    def routes_changed(self, shards: Iterable[int]) -> None:
        """Send on what was held for these shards, as far as their owners are known now."""
        for shard in shards:
            way = self._ways.get(shard)
            if way is not None:
                self._resume(shard, way)

    def _resume(self, shard: int, way: _ShardWay) -> None:
        if way.under_way:
            return  # when all that is under way is decided, this comes again
        is_here = self._placement.owns(shard)
        target = None if is_here else self._target(shard, way)
        if not is_here and target is None:
            return
        calls = [*(way.returned[corr] for corr in sorted(way.returned)), *way.held]
        self._held_count -= len(way.held)
        way.returned.clear()
        way.held.clear()
        if target is None or target.epoch > way.epoch_refused:
            way.stuck_since = None  # somebody new; one that is only asked again gets no more time
        if is_here:
            self._ways.pop(shard, None)
        for pending in calls:
            try:
                if not is_here:
                    if not self._send(shard, way, pending):
                        self._hold(way, pending)
                elif pending.wants_reply:
                    self._local.ask_nowait(pending.address, pending.message, pending.reply)
                else:
                    self._local.tell(pending.address, pending.message)
            except HubbubError as error:
                pending.reply.fail(error)
        self._tidy(shard, way)

    def peer_lost(self, node_id: str) -> None:
        """A node has died, or the way to it broke: whether it has done what it was asked is not known.

        It is not waited for: if it answers yet, nobody listens.
        """
        for shard, way in list(self._ways.items()):
            if way.under_way and node_id in (way.target.node_id, way.target.hop):
                for corr in list(way.under_way):
                    del self._shard_of[corr]
                    way.under_way.pop(corr).reply.fail(Unavailable("outcome_unknown", retry_after_s=1.0))
                self._decided(shard, way)

    # -- what peers say -----------------------------------------------------------------------------

    def received(self, node_id: str, item: wire.Item) -> bool:
        """Take an item that concerns calls; False: it is none."""
        if isinstance(item, wire.Call):
            self._called(node_id, item)
        elif isinstance(item, wire.Answer):
            self._answered(node_id, item.corr, item.value, None)
        elif isinstance(item, wire.Failed):
            self._answered(node_id, item.corr, None, _error_of(item))
        elif isinstance(item, wire.NotHere):
            self._came_back(node_id, item.corr)
        elif isinstance(item, wire.Hint):
            self._hinted(Address(item.kind, item.id), item.message)
        else:
            return False
        return True

    def _hinted(self, address: Address, message: object) -> None:
        is_taken = False
        if self._placement.owns(address.shard):
            try:
                is_taken = self._local.tell_if_active(address, message)
            except UnknownKind:  # a newer version's, or a bug of its sender
                return
        if not is_taken:
            self.on_asleep(address, message)

    def _called(self, node_id: str, call: wire.Call) -> None:
        address = Address(call.kind, call.id)
        shard = address.shard
        # A call of an older epoch was made before one that we may have refused since: it must not overtake.
        if not self._placement.owns(shard) or call.epoch < self._placement.route_of(shard).epoch:
            self._way.send(node_id, wire.NotHere(call.corr))
            return
        try:
            if call.wants_reply:
                self._local.ask_nowait(address, call.message, _RemoteReply(self._way, node_id, call.corr))
            else:
                self._local.tell(address, call.message)
                self._way.send(node_id, wire.Answer(call.corr, None))
        except HubbubError as error:
            self._way.send(node_id, _failed(call.corr, error))
        except UnknownKind as error:
            log.warning("call_not_understood", peer_id=node_id, actor=str(address), error=str(error))
            self._way.send(node_id, wire.not_understood(call.corr))

    def _decide(self, node_id: str, corr: int) -> tuple[int, _ShardWay, _Pending] | None:
        """Take a call out of those that are under way; None: it is none of these (any more)."""
        shard = self._shard_of.get(corr)
        if shard is None or self._ways[shard].target.node_id != node_id:
            return None
        del self._shard_of[corr]
        way = self._ways[shard]
        return shard, way, way.under_way.pop(corr)

    def _answered(self, node_id: str, corr: int, value: object, error: HubbubError | None) -> None:
        found = self._decide(node_id, corr)
        if found is None:
            return
        shard, way, pending = found
        if not way.held and not way.returned:
            way.stuck_since = None
        if error is None:
            pending.reply.resolve(value)
        else:
            pending.reply.fail(error)
        self._decided(shard, way)

    def _came_back(self, node_id: str, corr: int) -> None:
        found = self._decide(node_id, corr)
        if found is None:
            return
        shard, way, pending = found
        now = trio.current_time()
        way.stuck_since = now if way.stuck_since is None else way.stuck_since
        way.epoch_refused, way.refused_at = max(way.epoch_refused, way.target.epoch), now
        pending.held_until = pending.held_until or now + MAX_HELD_S
        if min(pending.held_until, way.stuck_since + MAX_HELD_S) > now:
            way.returned[corr] = pending
        else:
            pending.reply.fail(self._busy())
        self._decided(shard, way)

    def _decided(self, shard: int, way: _ShardWay) -> None:
        if not way.under_way:
            if way.returned or way.held:
                self._resume(shard, way)
            self._tidy(shard, way)

    # -- time ---------------------------------------------------------------------------------------

    async def run(self) -> None:
        """Fail what waits for too long, until cancelled."""
        while True:
            await trio.sleep(SWEEP_S)
            now = trio.current_time()
            for shard, way in list(self._ways.items()):
                self._sweep(shard, way, now)

    def _sweep(self, shard: int, way: _ShardWay, now: float) -> None:
        for corr, pending in list(way.under_way.items()):
            if pending.deadline > now:
                break  # the others were sent later
            del self._shard_of[corr]
            way.under_way.pop(corr).reply.fail(Unavailable("timeout", retry_after_s=1.0))
        for corr in [corr for corr, pending in way.returned.items() if pending.held_until <= now]:
            way.returned.pop(corr).reply.fail(self._busy())
        if any(pending.held_until <= now for pending in way.held):
            late = [pending for pending in way.held if pending.held_until <= now]
            way.held = deque(pending for pending in way.held if pending.held_until > now)
            self._held_count -= len(late)
            for pending in late:
                pending.reply.fail(self._busy())
        self._resume(shard, way)
        if way.is_empty and self._is_in_reach(shard, way, now):
            self._ways.pop(shard, None)

    def _is_in_reach(self, shard: int, way: _ShardWay, now: float) -> bool:
        """Tell whether a shard that was out of reach can be taken for a sound one again."""
        if self._placement.owns(shard):
            return True
        target = self._target(shard, way)
        return target is not None and (
            target.epoch > way.epoch_refused or now > way.refused_at + ANSWER_TIMEOUT_S
        )

    @property
    def held_count(self) -> int:
        """Messages that wait for a shard to change hands."""
        return self._held_count

    @property
    def under_way_count(self) -> int:
        """Calls to other nodes that are not answered yet."""
        return len(self._shard_of)


class _RemoteReply:
    """The reply of a call that another node made."""

    __slots__ = ("_corr", "_node_id", "_way", "is_done")

    def __init__(self, way: Way, node_id: str, corr: int) -> None:
        self._way = way
        self._node_id = node_id
        self._corr = corr
        self.is_done = False

    def resolve(self, value: object) -> None:
        if not self.is_done:
            self.is_done = True
            if not self._way.send(self._node_id, wire.Answer(self._corr, value)):  # type: ignore[arg-type]
                # Too long for a lane, or the lane is full: a short word may still fit.
                self._way.send(self._node_id, _failed(self._corr, Unavailable("overloaded")))

    def fail(self, error: HubbubError) -> None:
        if not self.is_done:
            self.is_done = True
            self._way.send(self._node_id, _failed(self._corr, error))


def _failed(corr: int, error: HubbubError) -> wire.Failed:
    return wire.Failed(corr, error.code, error.message, error.retry_after_s)


def _error_of(item: wire.Failed) -> HubbubError:
    """The error as it was raised on the other node; a code of a newer version passes as it is."""
    if item.retry_after_s is not None:
        return Unavailable(item.code, item.message, retry_after_s=item.retry_after_s)
    kind = ProtocolError if item.code in PROTOCOL_CODES else Refused
    return kind(item.code, item.message or CODES.get(item.code, item.code))


def _forget(_address: Address, _message: object) -> None:
    """A hint that nobody is awake for has no effect."""
