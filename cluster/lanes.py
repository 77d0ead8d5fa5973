"""Bytes between nodes: two lanes to each peer, authenticated, batched, bounded. A hint each, never a promise.

    lanes           opens the ports; `run` ends by cancellation
    |- receive      one task for each port: open the seal, ask the ledger, hand the items up
    |- watch        tells the log of connections that came to nothing
    |- greeting     one for each address that is greeted; ends by itself
    `- peer         one for each peer: the two tasks that send to it

How two nodes meet: one knows an address of the other, from a lease, from gossip, or from its command line,
and says hello there until it is answered. The other one hands the hello up (`on_hello`), and whoever
decides who is a member connects back. Items flow to a peer once its session is known, and are taken by it
only if they were made for that very run.

All of it lives in the Trio thread. Callbacks must be quick, and may call `connect`, `disconnect` and
`send_nowait`.
"""

import secrets
from collections.abc import Callable, Iterable
from contextlib import suppress
from typing import Final

import structlog
import trio

from cluster.envelope import MAX_ITEM_BYTES, Envelope, Hello, Lane, Refusal, Refused, Seal
from cluster.lane_ledger import Ledger
from cluster.lane_peer import Origin, Peer, PeerAddress
from cluster.lane_stats import LanesStats, LaneStats, PeerStats
from cluster.nng_socket import LaneTls, PullSocket, PushSocket

__all__ = [
    "MAX_ITEM_BYTES",
    "Lane",
    "LaneStats",
    "LaneTls",
    "Lanes",
    "LanesStats",
    "PeerAddress",
    "PeerStats",
]

GREET_S: Final = 5.0  # for a connection to be made, twice over if the first SYN is lost
MAX_GREETINGS: Final = 64
LOG_INTERVAL_S: Final = 60.0  # one line for each reason; whoever floods us does not fill the disk as well
WATCH_INTERVAL_S: Final = 10.0
# Envelopes in one go before the other tasks have their turn. A large one needs a millisecond with what
# follows.
_RECEIVE_AT_ONCE: Final = 8
# Nobody who has the secret sends these: the connection is closed, and nng's next attempt waits ever longer.
_HANG_UP: Final = frozenset({Refusal.NOT_OURS, Refusal.VERSION, Refusal.TAG, Refusal.MALFORMED})

log = structlog.get_logger(__name__)


def _ignore_hello(node_id: str, boot: int, address: PeerAddress) -> None:
    """Where the peers are known from elsewhere, and connected to."""


class Lanes:
    """The lanes of one boot of this node."""

    def __init__(
        self,
        *,
        node_id: str,
        boot: int,
        host: str,
        port: int,
        data_port: int | None = None,
        advertise: PeerAddress | None = None,
        secret: bytes,
        tls: LaneTls | None,
        on_items: Callable[[Lane, str, int, list[bytes]], None],
        on_gap: Callable[[str, int], None],
        on_link: Callable[[str, bool], None],
        on_hello: Callable[[str, int, PeerAddress], None] = _ignore_hello,
    ) -> None:
        """Control comes in at `port` (0: any that is free), data at `data_port` (or the next one).

        `advertise`: where others reach this node, if not there. Without a `secret` everybody is believed.
        `on_items`: (lane, sender's node_id, its boot, items), in the order they were sent.
        `on_gap`: data of that sender did not come, or its lane begins anew: look elsewhere what it was.
        `on_link`: the ways to and from a connected peer work, or do so no more.
        `on_hello`: a node says where it is. Nothing proves that it lives; it may be connected to.
        """
        self._host = host
        self._port = port
        self._data_port = data_port if data_port is not None else (port + 1 if port else 0)
        self._boot = boot
        self._node_id = node_id
        self._advertise = advertise
        self._tls = tls
        self._on_items = on_items
        self._on_gap = on_gap
        self._on_link = on_link
        self._on_hello = on_hello
        self._seal = Seal(secret)
        self._session = secrets.randbits(63) | 1  # never 0, and an int64 wherever it is shown
        self._ledger = Ledger(node_id, boot, self._session)
        self._origin: Origin | None = None  # while it runs
        self._nursery: trio.Nursery | None = None
        self._pulls: dict[Lane, PullSocket] = {}
        self._wanted: dict[str, PeerAddress] = {}
        self._peers: dict[str, Peer] = {}  # of those wanted, while it runs
        self._greeting: dict[tuple[str, int], PushSocket] = {}
        self._refused: dict[Refusal, int] = {}
        self._former_failures: dict[str, int] = {}  # of sockets that were closed
        self._log_at: dict[str, float] = {}
        self._envelopes_received = 0
        self._items_received = 0
        self._gap_count = 0

    @property
    def address(self) -> PeerAddress:
        """Where others reach this node; known once `run` has started."""
        assert self._origin is not None
        return self._origin.address

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Open the ports and serve until cancelled; what is queued then has half a second to get out.

        Once only. Raises: OSError, if a port cannot be opened or a file of `tls` cannot be read.
        """
        assert self._origin is None
        try:
            for lane in Lane:
                self._pulls[lane] = PullSocket(self._tls)
            port = self._pulls[Lane.CONTROL].listen(self._host, self._port)
            data_port = self._pulls[Lane.DATA].listen(self._host, self._data_port)
            address = self._advertise or PeerAddress(self._node_id, self._boot, self._host, port, data_port)
            self._origin = Origin(address, self._session, self._seal)
            async with trio.open_nursery() as nursery:
                self._nursery = nursery
                for lane, pull in self._pulls.items():
                    nursery.start_soon(self._receive, lane, pull)
                nursery.start_soon(self._watch)
                for wanted in self._wanted.values():
                    self._open(wanted)
                task_status.started()
        finally:
            self._nursery = None
            self._peers.clear()
            for pull in self._pulls.values():
                pull.close()
            self._pulls.clear()

    # -- peers --------------------------------------------------------------------------------------

    def connect(self, peer: PeerAddress) -> None:
        """Have lanes to a peer.

        Another boot or address replaces what is known of that node_id; its queues are lost.

        The link counts as down then, without a call of `on_link`.
        """
        if peer.node_id == self._node_id or self._wanted.get(peer.node_id) == peer:
            return
        self.disconnect(peer.node_id)
        self._wanted[peer.node_id] = peer
        self._open(peer)

    def disconnect(self, node_id: str) -> None:
        """Have no lanes to a peer any more.

        What is queued for it is lost; what comes from it is still taken.
        """
        self._wanted.pop(node_id, None)
        peer = self._peers.pop(node_id, None)
        if peer is not None:
            self._remember_failures(peer.failures())
            peer.stop()

    def greet(self, host: str, port: int, data_port: int = 0) -> None:
        """Say hello to whoever runs at an address; the answer is a hello. (`data_port` is not needed.)"""
        if self._nursery is not None and len(self._greeting) < MAX_GREETINGS:
            key = (host, port)
            if key not in self._greeting:
                self._greeting[key] = PushSocket(self._tls, host, port)
                self._nursery.start_soon(self._greet, key)

    def send_nowait(self, node_id: str, lane: Lane, item: bytes) -> bool:
        """Queue an item for a peer. Never blocks, never raises.

        False: the peer is unknown, its lane full (1 MiB of control, 4 MiB of data; then until it has
        drained to half), the data lane down, or the item longer than MAX_ITEM_BYTES. True promises nothing:
        the way may break.
        """
        peer = self._peers.get(node_id)
        return peer is not None and peer.send_nowait(lane, item)

    def is_reachable(self, node_id: str) -> bool:
        """Tell whether both directions were proven in the last seconds, on the control lane."""
        peer = self._peers.get(node_id)
        return peer is not None and peer.is_up

    def heard_at(self, node_id: str) -> float:
        """When the newest life of a node was heard last, in trio.current_time() seconds; -inf: never."""
        sender = self._ledger.sender(node_id)
        return float("-inf") if sender is None else sender.heard_at

    # -- numbers ------------------------------------------------------------------------------------

    def refused(self) -> dict[str, int]:
        """What was not taken, by reason: frames by Refusal, connections as `<reason>_in` and `<reason>_out`.

        tls: no certificate of the CA, another name, or no TLS at all; handshake: not nng; too_many. Of many
        that fail at once nng counts but ten a second.
        """
        counts: dict[str, int] = {str(reason): count for reason, count in self._refused.items()}
        return counts | self._failures()

    def stats(self) -> LanesStats:
        """How the lanes are doing."""
        return LanesStats(
            peers={node_id: peer.stats() for node_id, peer in self._peers.items()},
            envelopes_received=self._envelopes_received,
            items_received=self._items_received,
            gaps=self._gap_count,
            refused=self.refused(),
        )

    def _failures(self) -> dict[str, int]:
        """Connections that came to nothing, those of sockets closed since included."""
        counts = dict(self._former_failures)
        _add(counts, "_in", (pull.failures() for pull in self._pulls.values()))
        _add(counts, "_out", (peer.failures() for peer in self._peers.values()))
        _add(counts, "_out", (socket.failures() for socket in self._greeting.values()))
        return counts

    def _remember_failures(self, failures: dict[str, int]) -> None:
        _add(self._former_failures, "_out", [failures])

    # -- tasks --------------------------------------------------------------------------------------

    def _open(self, address: PeerAddress) -> None:
        if self._nursery is None or self._origin is None:
            return  # `run` opens what is wanted
        peer = Peer(
            address,
            origin=self._origin,
            tls=self._tls,
            sender=self._ledger.sender,
            on_link=self._on_link,
        )
        self._peers[address.node_id] = peer
        self._nursery.start_soon(peer.run)

    async def _receive(self, lane: Lane, pull: PullSocket) -> None:
        while True:  # until cancelled
            for _ in range(_RECEIVE_AT_ONCE):
                sealed = pull.receive_nowait()
                if sealed is None:
                    await pull.wait_readable()
                    break
                try:
                    self._take(lane, sealed)
                except Refused as refused:
                    self._count_refused(refused.reason, lane, len(sealed))
                    if refused.reason in _HANG_UP:
                        pull.hang_up()
            else:
                await trio.lowlevel.checkpoint()

    def _take(self, lane: Lane, sealed: bytes) -> None:
        """Raises: Refused."""
        frame = self._seal.open(sealed)
        try:
            verdict = self._ledger.judge(frame, lane, trio.current_time())
        except Refused as refused:
            if refused.reason is Refusal.STALE_RECEIVER:
                self._answer(frame)
            raise
        node_id, boot = frame.sender, frame.boot
        peer = self._peers.get(node_id)
        if isinstance(frame, Hello):
            if not verdict.is_proven:
                self._answer(frame)
            self._on_hello(node_id, boot, PeerAddress(node_id, boot, frame.host, frame.port, frame.data_port))
        else:
            self._envelopes_received += 1
            self._items_received += len(frame.items)
        if peer is not None and peer.address.boot == boot and verdict.is_proven:
            peer.heard(verdict.sender, frame.heard_seq if isinstance(frame, Envelope) else 0)
        if verdict.is_new_session or verdict.lost_count:
            self._gap_count += 1
            self._on_gap(node_id, boot)
        if isinstance(frame, Envelope) and frame.items:
            self._on_items(lane, node_id, boot, frame.items)

    def _answer(self, frame: Hello | Envelope) -> None:
        """Tell whoever does not know this run who we are, if we have a way to them."""
        peer = self._peers.get(frame.sender)
        if peer is not None:
            peer.answer()

    async def _greet(self, key: tuple[str, int]) -> None:
        socket = self._greeting[key]
        assert self._origin is not None
        try:
            # A connection that is lost took the hello with it; whoever greets does so again.
            with suppress(trio.ClosedResourceError), trio.move_on_after(GREET_S):
                while not socket.send_nowait(self._origin.hello()):
                    await socket.wait_writable()
                await socket.wait_writable()  # until it is on its way
        finally:
            del self._greeting[key]
            self._remember_failures(socket.failures())
            socket.close()

    async def _watch(self) -> None:
        """Tell the log of connections that came to nothing; nng itself says nothing of them."""
        known: dict[str, int] = {}
        while True:
            await trio.sleep(WATCH_INTERVAL_S)
            failures = self._failures()
            for reason, count in failures.items():
                if count > known.get(reason, 0) and self._may_log(reason):
                    log.warning("lane_connections_refused", reason=reason, count=count - known.get(reason, 0))
            known = failures

    def _count_refused(self, reason: Refusal, lane: Lane, size_bytes: int) -> None:
        count = self._refused[reason] = self._refused.get(reason, 0) + 1
        if self._may_log(reason):
            log.warning(
                "envelope_refused",
                reason=reason.value,
                lane=lane.name.lower(),
                size_bytes=size_bytes,
                count=count,
            )

    def _may_log(self, reason: str) -> bool:
        now = trio.current_time()
        if now < self._log_at.get(reason, float("-inf")):
            return False
        self._log_at[reason] = now + LOG_INTERVAL_S
        return True


def _add(counts: dict[str, int], suffix: str, failures: Iterable[dict[str, int]]) -> None:
    for by_reason in failures:
        for reason, count in by_reason.items():
            counts[reason + suffix] = counts.get(reason + suffix, 0) + count
