"""The ways to the other nodes: items into lanes and out of them, round a broken way where there is another.

A node that cannot be reached directly, while gossip still calls it alive, is reached over one that both can
reach. Whatever does not arrive is a hint that was lost: its receiver notices the gap.
"""

from collections.abc import Callable, Collection, Iterable
from typing import Final, Protocol

import msgspec
import structlog
import trio

from cluster import wire
from cluster.lanes import Lane, PeerAddress

# A lane that is only just opening is not a broken one; one that has not opened by then is.
OPENING_S: Final = 3.0

OnItem = Callable[[str, int, wire.AnyItem], None]
"""(node_id, boot, item) of the sender, also where a third node passed it on."""

log = structlog.get_logger(__name__)


class LaneSet(Protocol):
    """The lanes to all other nodes; cluster.lanes.Lanes fits this."""

    async def run(self, *, task_status: trio.TaskStatus[None] = ...) -> None: ...

    def connect(self, peer: PeerAddress) -> None: ...

    def disconnect(self, node_id: str) -> None: ...

    def greet(self, host: str, port: int, data_port: int) -> None: ...

    def send_nowait(self, node_id: str, lane: Lane, item: bytes) -> bool: ...

    def is_reachable(self, node_id: str) -> bool: ...

    def refused(self) -> dict[str, int]: ...


class Mesh:
    """Fits cluster.router.Way and cluster.fanout.Peers. Nothing here waits."""

    def __init__(self, node_id: str, on_item: OnItem) -> None:
        self._node_id = node_id
        self._on_item = on_item
        self._lanes: LaneSet | None = None  # while they are open
        self._boot = 0
        self._alive: dict[str, int] = {}  # node_id -> boot, of the other nodes that gossip calls alive
        self._opening_until: dict[str, float] = {}  # of those not reached yet; trio.current_time() seconds
        self._reach: dict[str, frozenset[str]] = {}  # node_id -> the nodes that it says it reaches
        self.malformed_count = 0
        self.relayed_count = 0
        self.dropped_count = 0  # items that no lane took

    def open(self, lanes: LaneSet, boot: int) -> None:
        """Send by these lanes from now on."""
        self._lanes, self._boot = lanes, boot

    def close(self) -> None:
        """There are no lanes for now; nothing is sent."""
        self._lanes = None
        self._alive.clear()
        self._opening_until.clear()
        self._reach.clear()

    def set_alive(self, node_id: str, boot: int | None) -> None:
        """Gossip calls a node alive, or (None) does so no more."""
        if boot is None:
            self._alive.pop(node_id, None)
            self._opening_until.pop(node_id, None)
            self._reach.pop(node_id, None)
        else:
            if self._alive.get(node_id) != boot:
                self._opening_until[node_id] = trio.current_time() + OPENING_S
            self._alive[node_id] = boot

    @property
    def node_ids(self) -> Collection[str]:
        """The other nodes that are thought to be alive."""
        return self._alive.keys()

    def is_reachable(self, node_id: str) -> bool:
        """Tell whether the direct way to a node works."""
        return self._lanes is not None and self._lanes.is_reachable(node_id)

    def reachable(self) -> list[str]:
        """The nodes to which the direct way works, to be told to the others."""
        return [node_id for node_id in self._alive if self.is_reachable(node_id)]

    def set_reach(self, node_id: str, reaches: Iterable[str]) -> None:
        """A node has told which others it reaches."""
        if node_id in self._alive:
            self._reach[node_id] = frozenset(reaches)

    def relays_to(self, node_id: str) -> list[str]:
        """The nodes that we reach, and that say they reach that one."""
        return [
            relay for relay, reaches in self._reach.items() if node_id in reaches and self.is_reachable(relay)
        ]

    # -- sending ------------------------------------------------------------------------------------

    def send(self, node_id: str, item: wire.Item) -> bool:
        """Queue an item in the data lane; False: it could not be taken, or there is no way that works."""
        if node_id not in self._alive:
            return self._counted(False)
        return self._send(node_id, Lane.DATA, wire.encode(item), needs_way=True)

    def send_control(self, node_id: str, item: wire.Item) -> bool:
        """Queue an item in the control lane, directly: what is said there is about the way itself."""
        return self._lanes is not None and self._lanes.send_nowait(node_id, Lane.CONTROL, wire.encode(item))

    def send_all(self, node_ids: Iterable[str], item: wire.Item) -> None:
        """Queue one item, encoded once, in the data lanes of several nodes."""
        payload = wire.encode(item)
        for node_id in node_ids:
            self._send(node_id, Lane.DATA, payload)

    def send_control_all(self, item: wire.Item) -> None:
        """Queue one item in the control lanes of all nodes, round broken ways as well."""
        payload = wire.encode(item)
        for node_id in self._alive:
            self._send(node_id, Lane.CONTROL, payload)

    def next_hop(self, node_id: str) -> str:
        """Who gets an item for that node first: itself, or one that passes it on. "": there is no way."""
        if self._lanes is None or node_id not in self._alive:
            return ""
        return self._hop(self._lanes, node_id)

    def _hop(self, lanes: LaneSet, node_id: str) -> str:
        if lanes.is_reachable(node_id):
            self._opening_until.pop(node_id, None)
        elif trio.current_time() >= self._opening_until.get(node_id, 0.0):
            return next(iter(self.relays_to(node_id)), "")
        return node_id

    def _send(self, node_id: str, lane: Lane, payload: bytes, *, needs_way: bool = False) -> bool:
        """Send directly, or round a broken way. Without any way, what does not need one goes into the lane
        all the same: should it be lost there, the receiver notices.
        """
        lanes = self._lanes
        if lanes is None:
            return False
        hop = self._hop(lanes, node_id)
        if hop not in ("", node_id):
            payload = wire.encode(wire.Relayed(node_id, self._node_id, self._boot, payload))
        elif not hop and needs_way:
            return self._counted(False)
        return self._counted(lanes.send_nowait(hop or node_id, lane, payload))

    def _counted(self, is_taken: bool) -> bool:
        self.dropped_count += not is_taken
        return is_taken

    # -- receiving ----------------------------------------------------------------------------------

    def received(self, lane: Lane, node_id: str, boot: int, payloads: list[bytes]) -> None:
        """Take what a lane brought."""
        for payload in payloads:
            self._take(lane, node_id, boot, payload)

    def _take(self, lane: Lane, node_id: str, boot: int, payload: bytes) -> None:
        item = self._decode(node_id, payload)
        if item is None:
            return
        if not isinstance(item, wire.Relayed):
            self._on_item(node_id, boot, item)
        elif item.to == self._node_id:
            inner = self._decode(item.origin, item.item)
            if isinstance(inner, wire.Relayed):  # nobody wraps twice
                self.malformed_count += 1
            elif inner is not None:
                self._on_item(item.origin, item.origin_boot, inner)
        elif item.origin == node_id and self._lanes is not None:  # passed on once, never round in circles
            self.relayed_count += 1
            self._counted(self._lanes.send_nowait(item.to, lane, payload))

    def _decode(self, node_id: str, payload: bytes) -> wire.AnyItem | None:
        """Decode an item; one of a newer version is skipped, as one would be that was lost on the way."""
        try:
            return wire.decode(payload)
        except (msgspec.MsgspecError, ValueError, RecursionError) as error:
            self.malformed_count += 1
            log.debug("item_not_understood", peer_id=node_id, error=str(error))
        corr = wire.corr_of_unknown_call(payload)
        if corr is not None:  # its sender need not wait in vain
            self.send(node_id, wire.not_understood(corr))
        return None
