"""The way out to one life of one peer: a socket, a queue and a task for each of its two lanes.

Nothing here is sent twice. What is lost with a connection shows at the receiver, as a gap in lane_seq.

The link is *up* while the peer was heard lately and has acknowledged what was sent to it lately; so both
ways are proven, whatever TCP thinks of them. Until it is, each beat is preceded by a hello, which says
where we are and whom we take the peer for: whichever side knew the other's former life learns the new one
within a second.
"""

from collections import deque
from collections.abc import Callable
from typing import Final

import msgspec
import trio

from cluster.envelope import FORMAT, MAX_ITEM_BYTES, Envelope, Hello, Lane, Seal
from cluster.lane_ledger import Sender
from cluster.lane_queue import LaneQueue
from cluster.lane_stats import LaneStats, PeerStats
from cluster.nng_socket import LaneTls, PushSocket

BEAT_S: Final = 1.0
LINK_TIMEOUT_S: Final = 3.0  # three beats: two of them may be lost or late
CONTROL_QUEUE_BYTES: Final = 1024 * 1024
DATA_QUEUE_BYTES: Final = 4 * 1024 * 1024
# A probe's answer or a suspicion that could not be sent for so long is of no use to anybody.
CONTROL_STALE_S: Final = LINK_TIMEOUT_S
# TCP sends again after 1, 2, 4, … up to 120 s. After a cut of some length a new connection is there sooner.
REDIAL_AFTER_S: Final = 6.0
REDIAL_MAX_S: Final = 30.0
DRAIN_S: Final = 0.5  # on leaving: for the good-bye, which is small and worth little
_ANSWER_MIN_S: Final = 0.05  # two nodes that both wait for the link do not answer each other faster than this
_ACK_STEP_S: Final = 0.05  # how exactly we remember when a lane_seq was sent


class PeerAddress(msgspec.Struct, frozen=True):
    """One life of a node, and where its lanes end."""

    node_id: str
    boot: int
    host: str
    port: int
    data_port: int


class Origin(msgspec.Struct, frozen=True):
    """This run: what it says of itself in each frame."""

    address: PeerAddress  # as others reach it
    session: int
    seal: Seal

    def hello(self, receiver: str = "", boot: int = 0, session: int = 0) -> bytes:
        """A hello to a node, or to whoever runs there."""
        me = self.address
        return self.seal.close(
            Hello(
                format=FORMAT,
                sender=me.node_id,
                boot=me.boot,
                session=self.session,
                receiver=receiver,
                receiver_boot=boot,
                receiver_session=session,
                host=me.host,
                port=me.port,
                data_port=me.data_port,
            )
        )


class _Outbound:
    """One lane's queue, what has become of it, and its place in the sequence."""

    def __init__(self, lane: Lane, limit_bytes: int, socket: PushSocket) -> None:
        self.lane = lane
        self.queue = LaneQueue(limit_bytes)
        self.socket = socket
        self.wake = trio.Event()
        self.seq = 0  # of the last envelope that was sent, or whose items were left out
        self.envelopes_sent = 0
        self.items_sent = 0

    def stats(self) -> LaneStats:
        return LaneStats(
            queued_bytes=self.queue.size_bytes,
            envelopes_sent=self.envelopes_sent,
            items_sent=self.items_sent,
            items_refused=self.queue.refused_count,
            items_dropped=self.queue.dropped_count,
        )


class Peer:
    """Send to one life of a peer. Made in the Trio thread; `run` once."""

    def __init__(
        self,
        address: PeerAddress,
        *,
        origin: Origin,
        tls: LaneTls | None,
        sender: Callable[[str], Sender | None],
        on_link: Callable[[str, bool], None],
    ) -> None:
        """`sender`: what was heard from a node, of whichever life."""
        self.address = address
        self.is_up = False
        self._origin = origin
        self._tls = tls
        self._sender = sender
        self._on_link = on_link
        self._scope = trio.CancelScope()
        self._drains = True
        now = trio.current_time()
        self._began_at = now
        self._control = _Outbound(Lane.CONTROL, CONTROL_QUEUE_BYTES, self._open(Lane.CONTROL))
        self._data = _Outbound(Lane.DATA, DATA_QUEUE_BYTES, self._open(Lane.DATA))
        self._session = 0  # of the peer, that the sequences count for
        self._beat_at = now  # when the next one is due
        self._owes_beat = False
        self._owes_hello = True
        self._answered_at = float("-inf")
        self._sent: deque[tuple[int, float]] = deque()  # (control lane_seq, when it was sent), thinned out
        self._acked_at = float("-inf")  # when the latest envelope that the peer acknowledged was sent
        self._up_at = now  # when the link was up last, or began
        self._redial_after_s = REDIAL_AFTER_S
        self._lenient_until = now

    # -- from outside -------------------------------------------------------------------------------

    def send_nowait(self, lane: Lane, item: bytes) -> bool:
        """Queue an item. False: it is too long, or the lane is full or down; the receiver will see a gap."""
        now = trio.current_time()
        out = self._control if lane is Lane.CONTROL else self._data
        is_down = lane is Lane.DATA and not self.is_up and now > self._began_at + LINK_TIMEOUT_S
        if is_down or len(item) > MAX_ITEM_BYTES:
            out.queue.leave_out(now)
            is_taken = False
        else:
            is_taken = out.queue.offer(item, now)
        out.wake.set()
        return is_taken

    def heard(self, sender: Sender, acked_seq: int) -> None:
        """The peer said something that was meant for this run, and has heard our control lane up to there."""
        was_up = self.is_up
        self._follow(sender.session)
        while self._sent and self._sent[0][0] <= acked_seq:
            self._acked_at = max(self._acked_at, self._sent.popleft()[1])
        now = trio.current_time()
        if self._is_proven(now):
            self._set_up(True, now)
        if not was_up and now >= self._answered_at + _ANSWER_MIN_S:
            self._answered_at = now
            self._beat_now()

    def answer(self) -> None:
        """The peer said something that was not meant for this run: tell it who we are."""
        now = trio.current_time()
        if now >= self._answered_at + _ANSWER_MIN_S:
            self._answered_at = now
            self._owes_hello = True
            self._beat_now()

    def stop(self) -> None:
        """Close at once; what is queued is lost."""
        self._drains = False
        self._scope.cancel()

    def stats(self) -> PeerStats:
        sender = self._heard_sender()
        return PeerStats(
            boot=self.address.boot,
            is_reachable=self.is_up,
            control=self._control.stats(),
            data=self._data.stats(),
            connects=self._control.socket.connects + self._data.socket.connects,
            lost_envelopes=sender.lost_count if sender is not None else 0,
        )

    def failures(self) -> dict[str, int]:
        """Attempts to connect that came to nothing, by reason; of the sockets in use."""
        counts: dict[str, int] = {}
        for out in (self._control, self._data):
            for reason, count in out.socket.failures().items():
                counts[reason] = counts.get(reason, 0) + count
        return counts

    # -- its tasks ----------------------------------------------------------------------------------

    async def run(self) -> None:
        """Send until cancelled or stopped.

        A cancellation from outside lets what is queued out first, if it can.
        """
        with self._scope:
            try:
                async with trio.open_nursery() as nursery:
                    nursery.start_soon(self._run_control)
                    nursery.start_soon(self._run_data)
            finally:
                try:
                    if self._drains and self.is_up:
                        with trio.CancelScope(shield=True, deadline=trio.current_time() + DRAIN_S):
                            await self._drain()
                finally:
                    self._control.socket.close()
                    self._data.socket.close()

    async def _run_control(self) -> None:
        out = self._control
        while True:  # until cancelled
            now = trio.current_time()
            if now >= self._beat_at:
                self._beat(now)
            out.wake = trio.Event()
            with trio.move_on_at(self._beat_at):
                if not self._has_control():
                    await out.wake.wait()
                elif self._send_control():
                    await trio.lowlevel.checkpoint()
                else:
                    # What could not be sent is made anew when it can: it tells what was heard until then.
                    await out.socket.wait_writable()

    async def _run_data(self) -> None:
        out = self._data
        batch: list[bytes] = []
        frame = b""
        frame_for = (0, 0)  # the session and the lane_seq that it was made for
        while True:  # until cancelled
            out.wake = trio.Event()
            self._follow_sender()
            while out.queue.take_hole():
                out.seq += 1
            if not out.queue or not self._session:
                await out.wake.wait()
                continue
            if frame_for != (self._session, out.seq + 1):
                batch = out.queue.batch()
                frame = self._envelope(out, batch)
                frame_for = (self._session, out.seq + 1)
            if out.socket.send_nowait(frame):
                self._was_sent(out, len(batch))
                await trio.lowlevel.checkpoint()
            else:
                await out.socket.wait_writable()

    async def _drain(self) -> None:
        """Send what is queued, and wait until it is with the kernel."""
        for out in (self._control, self._data):
            while out.queue:
                if out.queue.take_hole():
                    out.seq += 1
                    continue
                batch = out.queue.batch()
                if out.socket.send_nowait(self._envelope(out, batch)):
                    self._was_sent(out, len(batch))
                else:
                    await out.socket.wait_writable()
        for out in (self._control, self._data):
            await out.socket.wait_writable()

    # -- what is sent -------------------------------------------------------------------------------

    def _has_control(self) -> bool:
        self._follow_sender()
        return self._owes_hello or bool(self._session and (self._control.queue or self._owes_beat))

    def _send_control(self) -> bool:
        """Send what is due next on the control lane; False: it cannot be sent now."""
        out = self._control
        if self._owes_hello:
            sender = self._heard_sender()
            session = sender.claimed_session if sender is not None else 0
            if not out.socket.send_nowait(
                self._origin.hello(self.address.node_id, self.address.boot, session)
            ):
                return False
            self._owes_hello = False
            return True
        while out.queue.take_hole():
            pass  # what is missing in gossip is said again by others
        batch = out.queue.batch()
        if not out.socket.send_nowait(self._envelope(out, batch)):
            return False
        self._owes_beat = False
        self._was_sent(out, len(batch))
        now = trio.current_time()
        if not self._sent or now >= self._sent[-1][1] + _ACK_STEP_S:
            self._sent.append((out.seq, now))
        return True

    def _envelope(self, out: _Outbound, items: list[bytes]) -> bytes:
        sender = self._heard_sender()
        is_current = sender is not None and sender.session == self._session
        me = self._origin.address
        return self._origin.seal.close(
            Envelope(
                format=FORMAT,
                sender=me.node_id,
                boot=me.boot,
                session=self._origin.session,
                receiver=self.address.node_id,
                receiver_boot=self.address.boot,
                receiver_session=self._session,
                lane=out.lane,
                lane_seq=out.seq + 1,
                data_seq=self._data.seq,
                heard_seq=sender.control.last_seq if sender is not None and is_current else 0,
                items=items,
            )
        )

    def _was_sent(self, out: _Outbound, item_count: int) -> None:
        out.seq += 1
        out.envelopes_sent += 1
        out.items_sent += item_count
        out.queue.sent(item_count)

    # -- the link -----------------------------------------------------------------------------------

    def _beat_now(self) -> None:
        self._owes_beat = True
        self._control.wake.set()

    def _beat(self, now: float) -> None:
        """Look each second how the link is, and say something."""
        if now > self._beat_at + BEAT_S:
            # It was we who were late. What came meanwhile is not read yet, and acknowledges old beats at
            # best.
            self._lenient_until = now + 2 * BEAT_S
        self._beat_at = now + BEAT_S
        self._owes_beat = True
        self._data.socket.tend()
        while self._sent and self._sent[0][1] < now - LINK_TIMEOUT_S:
            self._sent.popleft()  # its acknowledgement would prove nothing any more
        if self._is_proven(now):
            self._set_up(True, now)
        elif now >= self._lenient_until:
            self._set_up(False, now)
        if self.is_up:
            return
        self._owes_hello = True
        self._control.queue.drop_older(now - CONTROL_STALE_S)
        if now >= self._up_at + self._redial_after_s:
            self._redial_after_s = now - self._up_at + min(self._redial_after_s, REDIAL_MAX_S)
            for out in (self._control, self._data):
                if out.socket.is_connected:  # else another one is being made
                    out.socket.drop()

    def _is_proven(self, now: float) -> bool:
        sender = self._heard_sender()
        return (
            sender is not None
            and now - sender.heard_at <= LINK_TIMEOUT_S
            and now - self._acked_at <= LINK_TIMEOUT_S
        )

    def _set_up(self, is_up: bool, now: float) -> None:
        if is_up:
            self._up_at = now
            self._redial_after_s = REDIAL_AFTER_S
        if is_up != self.is_up:
            self.is_up = is_up
            self._on_link(self.address.node_id, is_up)

    def _heard_sender(self) -> Sender | None:
        """What was heard from this life of the peer."""
        sender = self._sender(self.address.node_id)
        return sender if sender is not None and sender.boot == self.address.boot else None

    def _follow_sender(self) -> None:
        sender = self._heard_sender()
        if sender is not None:
            self._follow(sender.address_session)

    def _follow(self, session: int) -> None:
        """Send to that run of the peer from now on; for another one the sequences begin anew."""
        if session != self._session:
            self._session = session
            self._control.seq = self._data.seq = 0
            self._sent.clear()
            self._control.wake.set()
            self._data.wake.set()

    def _open(self, lane: Lane) -> PushSocket:
        port = self.address.port if lane is Lane.CONTROL else self.address.data_port
        on_lost = self._connection_lost if lane is Lane.CONTROL else None
        return PushSocket(self._tls, self.address.host, port, on_lost=on_lost)

    def _connection_lost(self) -> None:
        """The peer's system has closed the connection: no need to wait until its silence tells.

        What was sent before proves nothing any more; a beat over the next connection does.
        """
        self._sent.clear()
        self._acked_at = float("-inf")
        self._set_up(False, trio.current_time())
