"""The keeper of this node's shards: its lease, its claims, and handing over. Fits actors.ports.Leases.

The store alone decides who owns what. What members() and shards() say is read every second, and whatever
happens in between (a lost lease, a refused append, a hint) only leads to reading it again.

How long this node may act is another matter, which no task and no store is asked for: its lease counts
from the moment the last successful renewal was *sent*, on a clock that a suspend does not stop, and ends
`margin_s` early. So a frozen node that wakes up knows at once that it owns nothing, before it hears of its
successors.
"""

import math
import time
from collections.abc import Awaitable, Callable, Collection, Mapping, Sequence
from typing import Final

import msgspec
import structlog
import trio

from actors.address import SHARD_COUNT
from cluster.ownership import Ownership
from cluster.placement import MoveRules, desired_owners, free_shards, is_cut_off, plan_claims, plan_moves
from cluster.routes import ShardRoute
from protocol.errors import Unavailable
from protocol.records import NodeLease, ShardOwner

log = structlog.get_logger(__name__)

_POKE_SPACING_S: Final = 0.05  # hints may come in hundreds; one look answers them all
# A process that died gives its sockets back a moment before its locks, so one look may be too early.
_SECOND_LOOK_S: Final = 0.25
_AFTER_END_S: Final = 0.01  # past the end of somebody's lease
_BOOT_CLOCK: Final[int | None] = getattr(time, "CLOCK_BOOTTIME", None)
_NOT_OURS: Final = float("-inf")


class KeeperSettings(msgspec.Struct, frozen=True, kw_only=True):
    """The keeper's times. A killed node's shards are taken within lease_s + watch_s at the latest."""

    # A frozen node's shards are back within 15 s (DESIGN 10), with what clients need to try again.
    lease_s: float = 9.0
    margin_s: float = 1.5  # of clocks that run apart, and of what was begun just before the end
    renew_s: float = 2.0  # three renewals may fail
    retry_s: float = 0.5
    watch_s: float = 1.0
    hand_over_s: float = 5.0  # for the actors of shards that are moved for balance
    # Nodes that start together wait for each other, or the first one would own everything for a while.
    gather_s: float = 2.0
    # A node that has just registered counts before gossip has heard of it.
    newcomer_s: float = 5.0
    moves: MoveRules = MoveRules()


class NodeSuperseded(RuntimeError):
    """A later life of this node_id has begun in the store: this process must end."""


def boot_time_s() -> float:
    """Seconds since the machine started, suspends included where the system counts them (Linux)."""
    return time.monotonic() if _BOOT_CLOCK is None else time.clock_gettime(_BOOT_CLOCK)


def _ignore(_members: Sequence[NodeLease], _dead: Sequence[tuple[str, int]]) -> None:
    """A keeper by itself has nobody to tell."""


class ShardKeeper:
    """Own shards for one node. Everything is for the Trio thread; `run` keeps it alive."""

    def __init__(
        self,
        ownership: Ownership,
        *,
        node_id: str,
        address: str,
        alive: Callable[[], Collection[str]],
        hand_over: Callable[[frozenset[int], float], Awaitable[None]],
        cut_off: Callable[[frozenset[int]], None],
        on_routes: Callable[[Sequence[ShardRoute]], None],
        on_members: Callable[[Sequence[NodeLease], Sequence[tuple[str, int]]], None] = _ignore,
        boot_time_s: Callable[[], float] = boot_time_s,
        settings: KeeperSettings | None = None,
    ) -> None:
        """`alive` tells the node_ids that gossip calls alive, us included.

        `hand_over` lets the actors of these shards finish and leave within so many seconds; `cut_off` stops
        them now, since somebody else may own the shards already. `on_routes` gets the routes that changed:
        ours, and what was read of others'. `on_members` gets what the store says of the nodes each time it
        was read, and which (node_id, boot) it has just proved dead. The last three must neither block nor
        raise.
        """
        self.boot = 0  # known once `run` has started
        self._ownership = ownership
        self._node_id = node_id
        self._address = address
        self._alive = alive
        self._hand_over = hand_over
        self._cut_off = cut_off
        self._on_routes = on_routes
        self._on_members = on_members
        self._boot_time_s = boot_time_s
        self._settings = settings or KeeperSettings()
        self._held: dict[int, int] = {}  # shard -> epoch; ours as long as the lease is
        self._leaving: dict[int, int] = {}  # still ours in the store, but no new work
        self._routes = [ShardRoute(shard) for shard in range(SHARD_COUNT)]
        self._lease_until_s = _NOT_OURS  # by boot_time_s; the margin is taken off
        self._is_cut = False  # the end of the lease was noticed and told
        self._is_draining = False
        self._is_cut_off = False  # from most of the others
        self._has_left = False
        self._is_superseded = False
        self._table = trio.Lock()  # held while the table is read and acted upon
        self._newer: set[int] = set()  # shards whose route changed since the reading began
        self._poked = trio.Event()
        self._lease_ends_at = math.inf  # of a node that gossip calls dead: when to look next at the latest
        self._seen: dict[tuple[str, int], float] = {}  # (node_id, boot) -> when its lease was first seen
        self._live: frozenset[tuple[str, int]] = frozenset()
        self._live_since = 0.0
        self._free_since: dict[int, tuple[int, float]] = {}  # shard -> (epoch, when it was seen free)
        self._given: list[tuple[float, int]] = []  # (when, how many) of voluntary moves
        self._is_moving = False

    # For the actors and the router.

    def owns(self, shard: int) -> bool:
        """Tell whether the shard's actors may act here now."""
        return shard in self._held and self._boot_time_s() < self._lease_until_s

    def epoch_of(self, shard: int) -> int:
        """The epoch to write the shard by. Raises: Unavailable("moved") where `owns` says no."""
        epoch = self._held.get(shard)
        if epoch is None or self._boot_time_s() >= self._lease_until_s:
            raise Unavailable("moved", retry_after_s=0.5)
        return epoch

    def route_of(self, shard: int) -> ShardRoute:
        """Who owns the shard, as far as is known. While it is handed over that is still us."""
        return self._routes[shard]

    @property
    def held(self) -> dict[int, int]:
        """Our shards and their epochs, those that are being handed over left out."""
        return dict(self._held)

    @property
    def lease_left_s(self) -> float:
        """For how long this node may act unless it renews its lease; 0 where it may not."""
        return max(self._lease_until_s - self._boot_time_s(), 0.0)

    def learn(self, routes: Sequence[ShardRoute]) -> None:
        """Take a peer's hints: a higher epoch wins. What concerns our own shards is looked up instead."""
        is_for_us = False
        for route in routes:
            if not 0 <= route.shard < SHARD_COUNT or route.epoch <= self._routes[route.shard].epoch:
                continue
            if route.shard in self._held or route.shard in self._leaving or route.node_id == self._node_id:
                is_for_us = True
                continue
            self._routes[route.shard] = route
            self._newer.add(route.shard)
            is_for_us |= not route.node_id and route.next_id in ("", self._node_id)
        if is_for_us:
            self.poke()

    def fenced(self, shard: int) -> None:
        """An append of ours was refused: stop the shard's actors, and find out who owns it."""
        if self._held.pop(shard, None) is not None:
            log.warning("shard_fenced", shard=shard)
            self._newer.add(shard)
            self._cut_off(frozenset((shard,)))
        self.poke()

    def poke(self) -> None:
        """Look at the leases now: membership changed, or somebody vanished."""
        self._poked.set()

    # Its life.

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Register, claim, say started; then keep lease and shards until cancelled.

        However it ends, this node owns nothing afterwards. Raises: NodeSuperseded; from registering: as
        Store.register_node.
        """
        try:
            if self._is_superseded:
                raise NodeSuperseded(self._node_id)  # a supervisor that starts it again gets no further
            sent_at = self._boot_time_s()
            self.boot = await self._ownership.register_node(
                self._node_id, self._address, lease_ms=self._lease_ms
            )
            self._prolong(sent_at)
            log.info("node_registered", boot=self.boot, address=self._address)
            async with trio.open_nursery() as nursery:
                nursery.start_soon(self._keep_lease, nursery.cancel_scope)
                nursery.start_soon(self._notice_the_end)
                await self._gather()
                await self._look_or_log(nursery, asks_for_dead=True)
                task_status.started()
                await self._watch(nursery)
            if self._is_superseded:
                raise NodeSuperseded(self._node_id)
        finally:
            self._lease_until_s = _NOT_OURS
            self._lose(frozenset(self._held) | frozenset(self._leaving), "stopped")
            self._leaving.clear()

    async def leave(self, deadline_s: float) -> None:
        """Hand everything over in batches and end the lease. `run` must still be running.

        After `deadline_s` what is left is released without waiting for its actors.
        """
        self._is_draining = True
        # Two seconds more for what only the store has to do.
        with trio.move_on_after(deadline_s + 2.0) as scope:
            await self._tell_draining(self._settings.lease_s)
            async with self._table:
                pass  # a claim that was under way is known now
            deadline = trio.current_time() + deadline_s
            while self._held:
                batch_count = -(-len(self._held) // self._settings.moves.batch)
                left_s = max(deadline - trio.current_time(), 0.0)
                await self._give(self._choose_moves(), left_s / batch_count)
            while self._leaving:  # noqa: ASYNC110 - a move for balance that had begun before
                await trio.sleep(self._settings.retry_s / 10)
            self._has_left = True
            self._lease_until_s = _NOT_OURS
            await self._tell_draining(0.0)
        if scope.cancelled_caught:
            log.warning("node_left_in_a_hurry", shard_count=len(self._held) + len(self._leaving))

    async def _tell_draining(self, lease_s: float) -> None:
        sent_at = self._boot_time_s()
        try:
            is_ours = await self._ownership.renew_node(
                self._node_id, self.boot, lease_ms=int(lease_s * 1000), is_draining=True
            )
        except Unavailable as error:
            log.warning("drain_not_told", code=error.code)
            return
        if is_ours and self._boot_time_s() < self._lease_until_s:
            self._prolong(sent_at)

    # The lease.

    @property
    def _lease_ms(self) -> int:
        return int(self._settings.lease_s * 1000)

    def _prolong(self, sent_at: float) -> None:
        if not self._has_left:  # a renewal that was under way then
            until_s = sent_at + self._settings.lease_s - self._settings.margin_s
            self._lease_until_s = max(self._lease_until_s, until_s)
            self._is_cut = False

    async def _keep_lease(self, scope: trio.CancelScope) -> None:
        """Renew, again and again; a store that fails is asked more often, also after the lease has ended.

        Cancels everything where a later life has begun.
        """
        wait_s = self._settings.renew_s
        while True:
            await trio.sleep(wait_s)
            if self._has_left:
                await trio.sleep_forever()
            sent_at = self._boot_time_s()
            try:
                is_ours = await self._ownership.renew_node(
                    self._node_id, self.boot, lease_ms=self._lease_ms, is_draining=self._is_draining
                )
            except Unavailable as error:
                log.warning("lease_not_renewed", code=error.code, lease_left_s=round(self.lease_left_s, 1))
                wait_s = self._settings.retry_s
                continue
            if not is_ours:
                self._is_superseded = True
                log.error("node_superseded", boot=self.boot)
                scope.cancel()
                return
            if self._boot_time_s() < self._lease_until_s:
                self._prolong(sent_at)
            elif not await self._recover(sent_at):
                wait_s = self._settings.retry_s
                continue
            wait_s = max(self._settings.renew_s - (self._boot_time_s() - sent_at), 0.0)

    async def _recover(self, sent_at: float) -> bool:
        """Claim anew what is still ours after the lease had ended. False: the store did not answer.

        The renewal stands in the store already, so nobody takes anything more meanwhile. The new epoch tells
        everybody to read what was stored at the end of the old one and never told.
        """
        async with self._table:
            self._newer.clear()
            try:
                self._apply(await self._ownership.shards())
                ours = await self._ownership.claim(dict(self._held), node_id=self._node_id, boot=self.boot)
            except Unavailable as error:
                log.warning("shard_table_not_read", code=error.code)
                return False
            self._lose(self._held.keys() - ours.keys(), "taken")
            self._held = {shard: epoch for shard, (epoch, _) in ours.items()}
            self._prolong(sent_at)
            self._tell([ShardRoute(s, self._node_id, self.boot, epoch) for s, epoch in self._held.items()])
        log.info("lease_recovered", shard_count=len(self._held))
        return True

    async def _notice_the_end(self) -> None:
        """Stop the actors when the lease has ended; owns() and epoch_of() have said no since that moment."""
        while True:
            left_s = self._lease_until_s - self._boot_time_s()
            if left_s <= 0 and not self._is_cut:
                self._is_cut = True
                shards = frozenset(self._held) | frozenset(self._leaving)
                if shards:
                    log.error("lease_ended", shard_count=len(shards))
                    self._cut_off(shards)
            longest_s = self._settings.watch_s
            await trio.sleep(longest_s if left_s <= 0 else min(max(left_s, 0.01), longest_s))

    # The table.

    async def _gather(self) -> None:
        """Where no node owns anything, wait until no more nodes register."""
        gather_s = self._settings.gather_s
        known: set[str] = set()
        settled_at = 0.0
        try:
            await self._ownership.end_leases_of_the_dead()
            while True:
                members, rows = await self._ownership.members(), await self._ownership.shards()
                live = {member.node_id for member in members if member.lease_left_ms > 0}
                if live != known:
                    known, settled_at = live, trio.current_time() + gather_s
                if len(free_shards(rows, members)) < SHARD_COUNT or trio.current_time() >= settled_at:
                    return
                await trio.sleep(gather_s / 8)
        except Unavailable as error:
            log.warning("shard_table_not_read", code=error.code)

    async def _watch(self, nursery: trio.Nursery) -> None:
        is_second = False
        while True:  # until cancelled
            next_look_at = trio.current_time() + (_SECOND_LOOK_S if is_second else self._settings.watch_s)
            with trio.move_on_at(min(next_look_at, self._lease_ends_at)):
                await self._poked.wait()
            is_poked = self._poked.is_set()
            if is_poked:
                self._poked = trio.Event()
            await self._look_or_log(nursery, asks_for_dead=is_poked or is_second)
            is_second = is_poked
            await trio.sleep(_POKE_SPACING_S)

    async def _look_or_log(self, nursery: trio.Nursery, *, asks_for_dead: bool) -> None:
        try:
            async with self._table:
                await self._look(nursery, asks_for_dead=asks_for_dead)
        except Unavailable as error:
            log.warning("shard_table_not_read", code=error.code)

    async def _look(self, nursery: trio.Nursery, *, asks_for_dead: bool) -> None:
        """Read the table and do what follows from it. Raises: Unavailable."""
        members = await self._ownership.members()
        alive = set(self._alive())
        has_suspects = any(
            member.lease_left_ms > 0 and member.node_id not in alive and member.node_id != self._node_id
            for member in members
        )
        # Gossip only makes us ask: the store ends a lease where it can prove a death, else time does.
        dead: list[tuple[str, int]] = []
        if asks_for_dead or has_suspects:
            dead = await self._ownership.end_leases_of_the_dead()
            if dead:
                members = await self._ownership.members()
        self._on_members(members, dead)
        # The shards of those whom gossip calls dead are free at that moment, and wanted.
        ends_s = [
            member.lease_left_ms / 1000 + _AFTER_END_S
            for member in members
            if member.lease_left_ms > 0 and member.node_id not in alive and member.node_id != self._node_id
        ]
        self._lease_ends_at = trio.current_time() + min(ends_s, default=math.inf)
        self._newer.clear()
        rows = await self._ownership.shards()
        self._apply(rows)
        self._note_live(members, alive)
        if self._is_draining or self._boot_time_s() >= self._lease_until_s:
            return
        await self._claim(free_shards(rows, members))
        moved = self._choose_moves()
        if moved and not self._is_moving:
            self._is_moving = True
            self._given.append((trio.current_time(), len(moved)))
            nursery.start_soon(self._move, moved)

    def _apply(self, rows: Sequence[ShardOwner]) -> None:
        """Believe the table, except where something newer happened since it was read."""
        changed: list[ShardRoute] = []
        lost: set[int] = set()
        for row in rows:
            shard = row.shard
            known = self._routes[shard]
            if shard in self._leaving or (shard in self._newer and row.epoch <= known.epoch):
                continue
            is_ours = row.owner == self._node_id and row.boot == self.boot
            if is_ours and shard not in self._held:
                self._held[shard] = row.epoch  # claimed, but the answer was lost; or fenced for an old epoch
            elif shard in self._held and not (is_ours and row.epoch == self._held[shard]):
                lost.add(shard)
            if (row.owner, row.boot, row.epoch) != (known.node_id, known.boot, known.epoch):
                changed.append(ShardRoute(shard, row.owner, row.boot, row.epoch))
        self._tell(changed)
        self._lose(lost, "taken")

    def _note_live(self, members: Sequence[NodeLease], alive: Collection[str]) -> None:
        """Settle who may own shards: gossip and a live lease must agree, and drainers want none."""
        now = trio.current_time()
        live: set[tuple[str, int]] = set()
        seen: dict[tuple[str, int], float] = {}
        for member in members:
            life = (member.node_id, member.boot)
            if member.lease_left_ms > 0:
                seen[life] = self._seen.get(life, now)
                is_known = member.node_id in alive or member.node_id == self._node_id
                is_new = now - seen[life] < self._settings.newcomer_s
                if (is_known or is_new) and not member.is_draining:
                    live.add(life)
        self._seen = seen
        if live != self._live:
            self._live = frozenset(live)
            self._live_since = now
        # Of a newcomer gossip may not have heard yet.
        old = {node_id for (node_id, _), since in seen.items() if now - since >= self._settings.newcomer_s}
        holders = old - {self._node_id}
        was_cut_off, self._is_cut_off = self._is_cut_off, is_cut_off(holders, alive)
        if self._is_cut_off != was_cut_off:
            log.warning("cut_off_changed", is_cut_off=self._is_cut_off, holders=sorted(holders))

    def _desired(self) -> tuple[str, ...]:
        others_only = self._node_id if self._is_draining or self._is_cut_off else ""
        return desired_owners([node_id for node_id, _ in self._live if node_id != others_only])

    async def _claim(self, free: Mapping[int, int]) -> None:
        now = trio.current_time()
        self._free_since = {
            shard: known
            if (known := self._free_since.get(shard)) is not None and known[0] == epoch
            else (epoch, now)
            for shard, epoch in free.items()
            if shard not in self._held and shard not in self._leaving
        }
        free_for_s = {shard: now - since for shard, (_, since) in self._free_since.items()}
        wanted = plan_claims(free_for_s, self._desired(), self._node_id, rules=self._settings.moves)
        if not wanted:
            return
        won = await self._ownership.claim(
            {shard: free[shard] for shard in wanted}, node_id=self._node_id, boot=self.boot
        )
        routes = []
        for shard, (epoch, _) in won.items():
            self._held[shard] = epoch
            routes.append(ShardRoute(shard, self._node_id, self.boot, epoch))
        self._tell(routes)
        log.info("shards_claimed", shard_count=len(won), wanted_count=len(wanted), held=len(self._held))

    def _tell(self, routes: Sequence[ShardRoute]) -> None:
        for route in routes:
            self._routes[route.shard] = route
            self._newer.add(route.shard)
        if routes:
            self._on_routes(routes)

    def _lose(self, shards: Collection[int], why: str) -> None:
        for shard in shards:
            self._held.pop(shard, None)
        if shards:
            log.warning("shards_lost", shard_count=len(shards), why=why)
            self._cut_off(frozenset(shards))

    # Handing over.

    def _choose_moves(self) -> list[int]:
        if self._is_cut_off and not self._is_draining:
            return []
        now = trio.current_time()
        rules = self._settings.moves
        self._given = [(at, count) for at, count in self._given if now - at < rules.period_s]
        return plan_moves(
            self._held,
            [self._routes[shard].node_id for shard in range(SHARD_COUNT)],
            self._desired(),
            self._node_id,
            is_draining=self._is_draining,
            stable_for_s=now - self._live_since,
            given_lately=sum(count for _, count in self._given),
            rules=rules,
        )

    async def _move(self, shards: Sequence[int]) -> None:
        try:
            await self._give(shards, self._settings.hand_over_s)
        finally:
            self._is_moving = False

    async def _give(self, shards: Sequence[int], deadline_s: float) -> None:
        """Let the shards' actors finish, then free the shards.

        From the start nothing new is taken on; the route stays with us until the release, so that routers
        keep what comes meanwhile.
        """
        leaving = {shard: self._held.pop(shard) for shard in shards if shard in self._held}
        self._leaving |= leaving
        with trio.move_on_after(deadline_s) as scope:
            await self._hand_over(frozenset(leaving), deadline_s)
        if scope.cancelled_caught:
            log.warning("hand_over_cut_short", shard_count=len(leaving), deadline_s=round(deadline_s, 1))
            self._cut_off(frozenset(leaving))
        released = await self._release(leaving)
        for shard in leaving:
            self._leaving.pop(shard, None)
            self._newer.add(shard)
        desired = self._desired()
        self._tell(
            [ShardRoute(shard, "", 0, epoch, next_id=desired[shard]) for shard, epoch in released.items()]
        )
        log.info("shards_given", shard_count=len(released), held=len(self._held))
        if len(released) < len(leaving):
            self.poke()  # some were not ours any more

    async def _release(self, leaving: Mapping[int, int]) -> dict[int, int]:
        while True:  # until the store answers: the actors are gone, so nothing is lost by waiting
            try:
                return await self._ownership.release(leaving)
            except Unavailable as error:
                log.warning("shards_not_released", code=error.code)
                await trio.sleep(self._settings.retry_s)
