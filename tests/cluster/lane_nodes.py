"""Lanes on real sockets of this machine, with all that they tell written down."""

from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

import msgspec
import trio

from cluster.lanes import Lane, Lanes, LaneTls, PeerAddress

SECRET = b"a secret of some length"
HOST = "127.0.0.1"


class LaneNode:
    """Lanes, and what came out of them."""

    def __init__(
        self,
        node_id: str,
        *,
        boot: int = 1,
        port: int = 0,
        data_port: int | None = None,
        secret: bytes = SECRET,
        tls: LaneTls | None = None,
        meets: bool = False,
    ) -> None:
        """`meets`: connect to whoever says hello."""
        self.node_id = node_id
        self.items: list[tuple[Lane, str, int, bytes]] = []
        self.gaps: list[tuple[str, int]] = []
        self.links: list[tuple[str, bool]] = []
        self.hellos: list[PeerAddress] = []
        self.on_item: Callable[[Lane, bytes], None] | None = None
        self.keeps = True
        self._meets = meets
        self._changed = trio.Event()
        self.lanes = Lanes(
            node_id=node_id,
            boot=boot,
            host=HOST,
            port=port,
            data_port=data_port,
            secret=secret,
            tls=tls,
            on_items=self._items,
            on_gap=self._gap,
            on_link=self._link,
            on_hello=self._hello,
        )

    @property
    def address(self) -> PeerAddress:
        return self.lanes.address

    def texts(self, lane: Lane | None = None, sender: str | None = None) -> list[bytes]:
        return [
            item for on, node_id, _, item in self.items if lane in (None, on) and sender in (None, node_id)
        ]

    async def until(self, is_so: Callable[[], object], timeout_s: float = 20.0) -> None:
        """Wait until something that the lanes tell of is so."""
        with trio.fail_after(timeout_s):
            while not is_so():
                changed = self._changed
                with trio.move_on_after(0.05):  # counters change without a call
                    await changed.wait()

    async def until_up(self, *others: "LaneNode") -> None:
        await self.until(lambda: all(self.lanes.is_reachable(other.node_id) for other in others))

    def _tell(self) -> None:
        self._changed.set()
        self._changed = trio.Event()

    def _items(self, lane: Lane, node_id: str, boot: int, items: list[bytes]) -> None:
        if self.on_item is not None:
            for item in items:
                self.on_item(lane, item)
        if self.keeps:
            self.items.extend((lane, node_id, boot, item) for item in items)
        self._tell()

    def _gap(self, node_id: str, boot: int) -> None:
        self.gaps.append((node_id, boot))
        self._tell()

    def _link(self, node_id: str, is_up: bool) -> None:
        self.links.append((node_id, is_up))
        self._tell()

    def _hello(self, node_id: str, boot: int, address: PeerAddress) -> None:
        assert (node_id, boot) == (address.node_id, address.boot)
        self.hellos.append(address)
        if self._meets:
            self.lanes.connect(address)
        self._tell()


@asynccontextmanager
async def running(*nodes: LaneNode, connected: bool = True) -> AsyncIterator[trio.Nursery]:
    """Run some nodes, all of them connected to each other and reachable."""
    async with trio.open_nursery() as nursery:
        for node in nodes:
            await nursery.start(node.lanes.run)
        if connected:
            for node in nodes:
                for other in nodes:
                    node.lanes.connect(other.address)
            for node in nodes:
                await node.until_up(*(other for other in nodes if other is not node))
        yield nursery
        nursery.cancel_scope.cancel()


def encoded(address: PeerAddress) -> str:
    return msgspec.json.encode(address).decode()


def decoded(line: str | bytes) -> PeerAddress:
    return msgspec.json.decode(line, type=PeerAddress)


def rss_bytes(pid: int | str = "self") -> int:
    """The resident memory of a process. Linux only; elsewhere the tests that need it are skipped."""
    with open(f"/proc/{pid}/statm") as statm:
        return int(statm.read().split()[1]) * 4096
