"""Lanes of a cluster in one process, to test what travels in them: ordered, and cut or lossy on demand."""

from collections.abc import Callable
from functools import partial

import trio

from cluster.lanes import Lane, LaneTls, PeerAddress


class MemoryNetwork:
    """Where the lanes of one test meet. A way that is cut loses what is sent; the receiver sees a gap."""

    def __init__(self) -> None:
        self.lanes: dict[str, MemoryLanes] = {}  # by node_id, the newest
        self.cuts: set[tuple[str, str]] = set()  # (from, to)
        self.tells_gaps = True  # False: what is lost is not noticed either, as in the moment before it is
        self.is_lossy: Callable[[str, str, Lane, bytes], bool] = lambda *_: False

    def cut(self, one: str, other: str) -> None:
        """Cut both directions between two nodes; both notice."""
        self.cuts |= {(one, other), (other, one)}
        self._tell(one, other, is_up=False)

    def mend(self, one: str, other: str) -> None:
        self.cuts -= {(one, other), (other, one)}
        self._tell(one, other, is_up=True)

    def _tell(self, one: str, other: str, *, is_up: bool) -> None:
        for here, there in ((one, other), (other, one)):
            if here in self.lanes:
                self.lanes[here].on_link(there, is_up)

    def factory(self) -> Callable[..., "MemoryLanes"]:
        """What stands in for the class of real lanes."""
        return partial(MemoryLanes, self)


class MemoryLanes:
    """Fits cluster.lanes.Lanes, as far as a node uses it."""

    def __init__(
        self,
        network: MemoryNetwork,
        *,
        node_id: str,
        boot: int,
        host: str,
        port: int,
        advertise: PeerAddress,
        secret: bytes,
        tls: LaneTls | None,
        on_items: Callable[[Lane, str, int, list[bytes]], None],
        on_gap: Callable[[str, int], None],
        on_link: Callable[[str, bool], None],
        on_hello: Callable[[str, int, PeerAddress], None],
    ) -> None:
        self.node_id = node_id
        self.boot = boot
        self.on_items = on_items
        self.on_gap = on_gap
        self.on_link = on_link
        self.on_hello = on_hello
        self._network = network
        self._peers: dict[str, PeerAddress] = {}
        self._lost: set[str] = set()  # who has lost something of ours and must be told
        self._queues: dict[str, list[tuple[Lane, bytes]]] = {}
        self._wake = trio.Event()

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        self._network.lanes[self.node_id] = self
        task_status.started()
        try:
            while True:
                await self._wake.wait()
                self._wake = trio.Event()
                queues, self._queues = self._queues, {}
                for node_id, items in queues.items():
                    self._deliver(node_id, items)
        finally:
            if self._network.lanes.get(self.node_id) is self:
                del self._network.lanes[self.node_id]

    def _deliver(self, node_id: str, items: list[tuple[Lane, bytes]]) -> None:
        peer = self._network.lanes.get(node_id)
        known = self._peers.get(node_id)
        if peer is None or known is None or known.boot != peer.boot:
            return
        for lane, item in items:
            if self._network.is_lossy(self.node_id, node_id, lane, item):
                if self._network.tells_gaps:
                    self._lost.add(node_id)
                continue
            if node_id in self._lost:
                self._lost.discard(node_id)
                peer.on_gap(self.node_id, self.boot)
            peer.on_items(lane, self.node_id, self.boot, [item])

    def connect(self, peer: PeerAddress) -> None:
        self._peers[peer.node_id] = peer

    def disconnect(self, node_id: str) -> None:
        self._peers.pop(node_id, None)

    def greet(self, host: str, port: int, data_port: int) -> None:
        raise AssertionError("nodes of these tests know each other by the store")

    def send_nowait(self, node_id: str, lane: Lane, item: bytes) -> bool:
        if node_id not in self._peers:
            return False
        if (self.node_id, node_id) in self._network.cuts:
            self._lost.add(node_id)
            return True  # into the void, as TCP takes it for a while
        self._queues.setdefault(node_id, []).append((lane, item))
        self._wake.set()
        return True

    def is_reachable(self, node_id: str) -> bool:
        return node_id in self._network.lanes and (self.node_id, node_id) not in self._network.cuts

    def refused(self) -> dict[str, int]:
        return {}
