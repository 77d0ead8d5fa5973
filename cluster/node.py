"""One node's part in the cluster, put together: shards, lanes, gossip, presence, routing and fan-out.

    cluster         one_for_all: whatever fails, the node begins a new life with a new boot
    |- keeper       lease and shards
    |- links        lanes, gossip, presence, the second's beat: all of one boot
    |- router       ends calls that last too long
    `- healer       reads from the store what was lost on the way

It fits server.chat_core.Surroundings. What it needs of the actors comes in by `serve`.
"""

import zlib
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from typing import Final, Protocol

import msgspec
import structlog
import trio

from actors.address import SHARD_COUNT, Address
from actors.healer import History, StoreHealer
from actors.hub import Hub
from actors.messages import Delivered
from actors.router import LocalRouter
from actors.supervisor import ChildSpec, ChildStatus, Strategy, Supervisor, at_once
from cluster import wire
from cluster.fanout import ClusterFanout
from cluster.gossip import Gossip
from cluster.inquiries import Inquiries
from cluster.lanes import Lanes, LaneTls, PeerAddress
from cluster.member import Member, NodeMeta, Status
from cluster.membership_events import KnownNode
from cluster.membership_settings import MembershipSettings
from cluster.mesh import LaneSet, Mesh
from cluster.overview import Overview
from cluster.ownership import Ownership
from cluster.presence import PresenceDirectory
from cluster.presence_messages import PresenceAck
from cluster.router import ClusterRouter
from cluster.routes import ShardRoute
from cluster.shards import KeeperSettings, ShardKeeper
from protocol.notify_node import NodeAnswer, NodeQuestion
from protocol.records import NodeLease
from protocol.types import PresenceState

ANNOUNCE_TIMEOUT_S: Final = 0.5  # a session is not held up longer by a peer that is slow to know of it
BEAT_S: Final = 1.0
UNANSWERED_AFTER_S: Final = 10.0  # to be told of: another secret, another store, or nobody there
COMPLAIN_EVERY_S: Final = 60.0
MAX_OWNERLESS: Final = 50_000  # more users than one node holds
LEAVE_S: Final = 1.0  # for saying good-bye; who misses it finds out by itself

log = structlog.get_logger(__name__)


class ClusterSettings(msgspec.Struct, frozen=True, kw_only=True):
    """Where this node is, and what it says of itself. It listens at `port` and the one after it."""

    node_id: str
    host: str
    port: int
    advertise: tuple[str, int] | None = None  # where others reach it, if not there
    secret: bytes = b""
    tls: LaneTls | None = None
    seeds: tuple[tuple[str, int], ...] = ()
    zone: str = ""
    version: str = ""
    keeper: KeeperSettings = KeeperSettings()
    membership: MembershipSettings = MembershipSettings()


class Actors(Protocol):
    """What the cluster asks of this node's actors; server.chat_core.ChatCore fits this."""

    async def hand_over(self, shards: Collection[int], deadline_s: float) -> None: ...

    def cut_off(self, shards: Collection[int]) -> None: ...

    def shards_moved(self, shards: Collection[int], *, ours: Collection[int]) -> None:
        """Other actors serve these shards from now on; `ours`: those that this node has taken."""
        ...

    def user_lost(self, user_id: str, at_ms: int) -> None:
        """The last connection of a user was on a node that was lost then."""
        ...

    def answer(self, question: NodeQuestion) -> NodeAnswer | None:
        """Another node asks about this one; None: that is not known here."""
        ...


class Store(Ownership, History, Protocol):
    """What the cluster needs of the store."""


class ClusterNode:
    """Fits server.chat_core.Surroundings. `supervisor` runs it; `leave` ends it in order."""

    def __init__(
        self,
        settings: ClusterSettings,
        store: Store,
        local: LocalRouter,
        hub: Hub,
        *,
        now_ms: Callable[[], int],
        load: Callable[[], tuple[int, float, float]],
        open_lanes: Callable[..., LaneSet] = Lanes,
    ) -> None:
        """`load`: this node's (connections, load from 0 to 1, lag of its loop in seconds)."""
        self._open_lanes = open_lanes
        self.settings = settings
        self._hub = hub
        self._now_ms = now_ms
        self._load = load
        self._actors: Actors
        host, port = settings.advertise or (settings.host, settings.port)
        self.mesh = Mesh(settings.node_id, self._received)
        self.keeper = ShardKeeper(
            store,
            node_id=settings.node_id,
            address=f"{host}:{port}",
            alive=self._alive,
            hand_over=self._hand_over,
            cut_off=lambda shards: self._actors.cut_off(shards),
            on_routes=self._routes_changed,
            on_members=self._members_read,
            settings=settings.keeper,
        )
        self.router = ClusterRouter(local, self.keeper, self.mesh, node_id=settings.node_id)
        self.overview = Overview(self)
        self.inquiries = Inquiries(self.mesh)
        self.router.on_asleep = self._asleep
        self.healer = StoreHealer(store, hub)
        hub.healer = self.healer
        self.fanout = ClusterFanout(
            hub,
            self.mesh,
            self.keeper,
            self.healer,
            node_id=settings.node_id,
            boot=lambda: self.boot,
            nodes_of=self._nodes_of,
        )
        self.meta = NodeMeta(
            host=host,
            port=port,
            zone=settings.zone,
            version=settings.version,
        )
        self.on_beat: Callable[[], object] = _nothing  # each second, for whoever looks at `nodes` then
        self.lanes: LaneSet | None = None
        self.gossip: Gossip | None = None
        self.directory: PresenceDirectory | None = None
        self._presence_wake = trio.Event()
        self._announced = trio.Event()  # set and renewed whenever a peer has acked
        # Nodes that did not know of all sessions here, up to which version: until then they sent less.
        self._unaware: dict[str, int] = {}
        # Users whose last connection was on a lost node, while nobody owns their shard: user_id -> at_ms.
        self._ownerless: dict[str, int] = {}
        self.loads: dict[str, wire.Load] = {}
        self.leases_read: tuple[NodeLease, ...] = ()
        self._epochs: dict[int, int] = {}  # of each shard's owner, as was followed last
        self.supervisor = Supervisor(
            "cluster",
            [
                ChildSpec(name="keeper", start=self.keeper.run),
                ChildSpec(name="links", start=self._run_links),
                ChildSpec(name="router", start=at_once(self.router.run)),
                ChildSpec(name="healer", start=at_once(self.healer.run)),
            ],
            strategy=Strategy.ONE_FOR_ALL,
            max_restarts=5,
            period_s=60.0,
        )

    def reached_at(self, url: str, bot_address: str) -> None:
        """Tell where clients reach this node, once its doors are open."""
        self.meta = msgspec.structs.replace(self.meta, url=url, bot_address=bot_address)
        if self.gossip is not None:
            self.gossip.meta_changed(self.meta)

    def serve(self, actors: Actors) -> None:
        """Take this node's actors; called once, before anything runs."""
        self._actors = actors
        self.inquiries.answer = actors.answer

    # -- server.chat_core.Surroundings --------------------------------------------------------------

    @property
    def leases(self) -> ShardKeeper:
        return self.keeper

    @property
    def boot(self) -> int:
        return self.keeper.boot

    @property
    def node_count(self) -> int:
        """How many nodes hold a lease, as of a second ago: no other one can store, and so send, anything."""
        return 1 + len(self._live_leases())

    async def ask_others(self, question: NodeQuestion, timeout_s: float) -> Mapping[str, NodeAnswer | None]:
        """Ask all other nodes that may live: by their lease, or by gossip. None: it did not answer."""
        node_ids = {lease.node_id for lease in self._live_leases()} | set(self.mesh.node_ids)
        answers = await self.inquiries.ask(node_ids, question, timeout_s=timeout_s)
        return {node_id: answers.get(node_id) for node_id in node_ids}

    @property
    def check_members(self) -> Callable[[Iterable[str]], None]:
        return self.healer.check_users

    async def announced(self) -> None:
        """Return when all other nodes know of the sessions attached so far, or are too slow for that."""
        await trio.lowlevel.checkpoint_if_cancelled()
        presence = self.directory
        if presence is None:
            return
        version = presence.version
        with trio.move_on_after(ANNOUNCE_TIMEOUT_S) as scope:
            while self.directory is presence and not presence.announced(version):
                await self._announced.wait()
        if self.directory is not presence:
            return
        if scope.cancelled_caught:
            presence.gave_up(version)
        for node_id in presence.behind(version):
            self._unaware[node_id] = version

    # -- its life -----------------------------------------------------------------------------------

    async def _run_links(self, *, task_status: ChildStatus) -> None:
        """Be connected to the other nodes, for one boot."""
        settings, boot = self.settings, self.keeper.boot
        lanes = self._open_lanes(
            node_id=settings.node_id,
            boot=boot,
            host=settings.host,
            port=settings.port,
            advertise=PeerAddress(settings.node_id, boot, self.meta.host, self.meta.port, self.meta.port + 1),
            secret=settings.secret,
            tls=settings.tls,
            on_items=self._items,
            on_gap=self._gap,
            on_link=self._link,
            on_hello=self._hello,
        )
        seed = zlib.crc32(f"{settings.node_id}.{boot}.{self._now_ms()}".encode())
        gossip = Gossip(
            settings.node_id,
            boot,
            self.meta,
            lanes=lanes,
            mesh=self.mesh,
            on_member=self._member_changed,
            settings=settings.membership,
            seed=seed,
        )
        presence = PresenceDirectory(
            settings.node_id,
            boot,
            on_change=self._hub.presence.elsewhere,
            on_gone=self._user_lost,
            now_ms=self._now_ms,
        )
        try:
            async with trio.open_nursery() as nursery:
                await nursery.start(lanes.run)
                self.lanes, self.gossip, self.directory = lanes, gossip, presence
                self.mesh.open(lanes, boot)
                self._hub.presence.on_here = self._presence_here
                for user_id, state in self._hub.presence.here().items():
                    presence.local_changed(user_id, state, 0, trio.current_time(), urgent=True)
                gossip.start(settings.seeds, [_known(lease) for lease in self._live_leases()])
                nursery.start_soon(gossip.run)
                nursery.start_soon(self._run_presence, presence)
                nursery.start_soon(self._beat)
                task_status.started()
                self.keeper.poke()
        finally:
            self.lanes = self.gossip = self.directory = None
            self._wake_announced()
            self._unaware.clear()
            for node_id in list(self.mesh.node_ids):
                self.router.peer_lost(node_id)
            self.mesh.close()
            self._hub.presence.forget_elsewhere()
            self.loads.clear()

    async def leave(self, deadline_s: float) -> None:
        """Hand the shards over and say good-bye; the supervisor is stopped after it."""
        self.drain()
        await self.keeper.leave(deadline_s)
        if self.gossip is not None:
            await self.gossip.leave(LEAVE_S)

    def drain(self) -> None:
        """Tell the others that nobody should come here any more."""
        self.meta = msgspec.structs.replace(self.meta, is_draining=True)
        if self.gossip is not None:
            self.gossip.meta_changed(self.meta)

    async def _beat(self) -> None:
        """Tell the others each second how this node is doing, and look at what they told."""
        next_complaint = trio.current_time() + UNANSWERED_AFTER_S
        while True:
            due = trio.current_time() + BEAT_S
            await trio.sleep_until(due)
            lag_s = trio.current_time() - due
            if self.gossip is None or self.directory is None:
                return
            self.gossip.lagged(lag_s)
            self.on_beat()
            if self.mesh.node_ids or not self.settings.seeds:
                next_complaint = due + UNANSWERED_AFTER_S
            elif due >= next_complaint:
                next_complaint = due + COMPLAIN_EVERY_S
                log.error("join_unanswered", seeds=[f"{host}:{port}" for host, port in self.settings.seeds])
            self.mesh.send_control_all(self.own_load())

    def own_load(self) -> wire.Load:
        """How this node is doing, as the others are told."""
        connection_count, load, loop_lag_s = self._load()
        presence = self.directory
        return wire.Load(
            connection_count,
            load,
            loop_lag_s,
            "" if presence is None else presence.digest(),
            0 if presence is None else presence.version,
            self.mesh.reachable(),
        )

    # -- lanes --------------------------------------------------------------------------------------

    def _items(self, lane: object, node_id: str, boot: int, payloads: list[bytes]) -> None:
        if self.gossip is not None:
            self.gossip.heard(node_id, boot)
            self.mesh.received(lane, node_id, boot, payloads)  # type: ignore[arg-type]  # a Lane

    def _gap(self, node_id: str, boot: int) -> None:
        log.debug("lane_gap", peer_id=node_id, boot=boot)  # each first contact is one as well
        self.healer.check_all()
        self.mesh.send_all((node_id,), wire.Lost())

    def _link(self, node_id: str, is_up: bool) -> None:
        log.info("link_changed", peer_id=node_id, is_up=is_up)
        if not is_up and self.gossip is not None:
            self.router.peer_lost(node_id)
            self.gossip.way_lost(node_id)
            self.keeper.poke()

    def _hello(self, node_id: str, boot: int, address: PeerAddress) -> None:
        if self.gossip is not None:
            meta = NodeMeta(host=address.host, port=address.port)
            self.gossip.learned([KnownNode(node_id, boot, meta)])

    def _received(self, node_id: str, boot: int, item: wire.AnyItem) -> None:
        if self.router.received(node_id, item) or self.fanout.received(item):
            return
        if self.inquiries.received(node_id, item):
            return
        match item:
            case wire.Gossip(message):
                if self.gossip is not None:
                    try:
                        self.gossip.received(node_id, boot, message)
                    except msgspec.MsgspecError:
                        self.mesh.malformed_count += 1
            case wire.Presence(message):
                self._presence_received(node_id, boot, message)
            case wire.Routes(routes):
                self._learn(routes)
            case wire.Load():
                self.loads[node_id] = item
                self.mesh.set_reach(node_id, item.reaches)
            case wire.Missed():
                self.healer.check_all()
            case wire.Lost():
                self._hub.forget_delivered(lambda _: True)
            case _:
                log.debug("item_ignored", peer_id=node_id, kind=type(item).__name__)

    # -- who is alive -------------------------------------------------------------------------------

    def _alive(self) -> set[str]:
        """The nodes that may own shards: alive by gossip, with a way to them or one that is just opening.

        Gossip learns of a node by its lease, and takes its time to find that it is not let in, as it has
        another secret. Shards that were given to it meanwhile would be out of reach for as long as it runs.
        """
        own = self.settings.node_id
        if self.gossip is None:
            return {own}
        return {node_id for node_id in self.gossip.alive() if node_id == own or self.mesh.next_hop(node_id)}

    def _live_leases(self) -> list[NodeLease]:
        own = self.settings.node_id
        # One without an address is no node of a cluster: whoever runs there can be no peer.
        return [
            lease
            for lease in self.leases_read
            if lease.lease_left_ms > 0
            and lease.node_id != own
            and lease.address.rpartition(":")[2].isdecimal()
        ]

    def _members_read(self, leases: Sequence[NodeLease], dead: Sequence[tuple[str, int]]) -> None:
        self.leases_read = tuple(leases)
        if self.gossip is None:
            return
        for node_id, boot in dead:
            log.warning("peer_died", peer_id=node_id, boot=boot)
            self.gossip.buried(node_id, boot)
        known = [_known(lease) for lease in self._live_leases()]
        if known:
            self.gossip.learned(known)

    def _member_changed(self, member: Member, previous: Member | None) -> None:
        now = trio.current_time()
        node_id, boot = member.node_id, member.boot
        is_new_life = previous is None or previous.boot != boot
        presence = self.directory
        if member.is_live:
            if is_new_life and previous is not None:
                self.router.peer_lost(node_id)
            if presence is not None and (is_new_life or (previous is not None and not previous.is_live)):
                presence.peer_up(node_id, boot, now)
                self._presence_wake.set()
                # From here on it is sent what concerns it; what was not sent before, it has to read.
                self.mesh.send_all((node_id,), wire.Missed())
            if member.status is Status.SUSPECT:
                self.keeper.poke()
            return
        self.loads.pop(node_id, None)
        self._unaware.pop(node_id, None)
        self.router.peer_lost(node_id)
        self.keeper.poke()
        # What it stored last it may have told nobody: also whom it let in, who have no stream to compare.
        self.healer.check_all()
        if presence is not None:
            if member.status is Status.LEFT:
                presence.node_left(node_id, boot, now)
            else:
                presence.node_lost(node_id, boot, now)
            self._presence_wake.set()

    # -- shards -------------------------------------------------------------------------------------

    async def _hand_over(self, shards: frozenset[int], deadline_s: float) -> None:
        await self._actors.hand_over(shards, deadline_s)

    def _learn(self, routes: list[ShardRoute]) -> None:
        before = [self.keeper.route_of(route.shard) for route in routes if 0 <= route.shard < SHARD_COUNT]
        self.keeper.learn(routes)
        changed = [route for old in before if (route := self.keeper.route_of(old.shard)).epoch != old.epoch]
        if changed:
            self._follow(changed)

    def _routes_changed(self, routes: Sequence[ShardRoute]) -> None:
        """The keeper's own shards, or what it read of others', have changed."""
        own = [route for route in routes if route.node_id in ("", self.settings.node_id)]
        if own:
            self.mesh.send_control_all(wire.Routes(own))
        self._follow(routes)

    def _follow(self, routes: Sequence[ShardRoute]) -> None:
        """Send on what waited for these shards, and read what their former owners may not have told."""
        moved: set[int] = set()
        ours: set[int] = set()
        for route in routes:
            if not route.node_id:
                continue
            if self._epochs.get(route.shard) != route.epoch:
                self._epochs[route.shard] = route.epoch
                moved.add(route.shard)
                if route.node_id == self.settings.node_id:
                    ours.add(route.shard)
        self.router.routes_changed([route.shard for route in routes])
        if moved:
            self._actors.shards_moved(moved, ours=ours)
            self.healer.check_shards(moved)
            self._tell_of_lost(moved, ours)
            self._hub.forget_delivered(lambda c: Address("conversation", c).shard in moved)

    def _asleep(self, address: Address, message: object) -> None:
        """A hint found no actor awake; a watermark is kept to be stored."""
        if isinstance(message, Delivered):
            self._hub.watermarks.put_back(address.id, message.seqs)

    # -- presence -----------------------------------------------------------------------------------

    def _nodes_of(self, user_id: str) -> Collection[str]:
        return () if self.directory is None else self.directory.nodes_of(user_id)

    def _presence_here(self, user_id: str, state: PresenceState, last_seen_ms: int) -> None:
        presence = self.directory
        if presence is not None:
            shown = None if state == "offline" else state
            is_urgent = shown is not None
            presence.local_changed(user_id, shown, last_seen_ms, trio.current_time(), urgent=is_urgent)
            self._presence_wake.set()

    def _presence_received(self, node_id: str, boot: int, message: object) -> None:
        presence = self.directory
        if presence is None:
            return
        for answer in presence.received(node_id, boot, message, trio.current_time()):  # type: ignore[arg-type]
            self.mesh.send(node_id, wire.Presence(answer))
        if isinstance(message, PresenceAck):
            self._peer_knows(presence, node_id, message)
        self._wake_announced()
        self._presence_wake.set()

    def _wake_announced(self) -> None:
        announced, self._announced = self._announced, trio.Event()
        announced.set()

    def _peer_knows(self, presence: PresenceDirectory, node_id: str, ack: PresenceAck) -> None:
        """Read what a node may not have sent here before it knew of all our sessions."""
        if ack.is_asking:
            self._unaware[node_id] = presence.version
        version = self._unaware.get(node_id)
        if version is not None and node_id not in presence.behind(version):
            del self._unaware[node_id]
            self.healer.check_all()

    def _user_lost(self, user_id: str, at_ms: int) -> None:
        """The node that owns the user stores it; while there is none, all remember, and its taker does."""
        shard = Address("user", user_id).shard
        if self.keeper.owns(shard):
            self._actors.user_lost(user_id, at_ms)
        elif not self.router.reaches(shard) and len(self._ownerless) < MAX_OWNERLESS:
            self._ownerless[user_id] = at_ms

    def _tell_of_lost(self, moved: set[int], ours: set[int]) -> None:
        for user_id in [u for u in self._ownerless if Address("user", u).shard in moved]:
            at_ms = self._ownerless.pop(user_id)
            if Address("user", user_id).shard in ours and not self._hub.is_connected(user_id):
                self._actors.user_lost(user_id, at_ms)

    async def _run_presence(self, presence: PresenceDirectory) -> None:
        while True:
            self._presence_wake = trio.Event()
            now = trio.current_time()
            if presence.next_deadline <= now:
                for node_id, message in presence.due(now):
                    self.mesh.send(node_id, wire.Presence(message))
                self._wake_announced()
                await trio.lowlevel.checkpoint()  # a long backlog leaves room for others
                continue
            with trio.move_on_at(presence.next_deadline):
                await self._presence_wake.wait()


def _known(lease: NodeLease) -> KnownNode:
    host, _, port = lease.address.rpartition(":")
    return KnownNode(lease.node_id, lease.boot, NodeMeta(host=host, port=int(port)))


def _nothing() -> None:
    pass
