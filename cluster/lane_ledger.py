"""What this node has heard from each other node: whose frames are taken, and what was lost before them.

Pure: frames and `now` in, verdicts out.

A sender is known by (node_id, boot, session). Its session counts once a frame of it was made for this very
run (`receiver_session` is ours); until then it is a claim, good for nothing but to be answered.
"""

from collections import OrderedDict, deque
from typing import Final

import msgspec

from cluster.envelope import (
    FORMAT,
    MAX_HOST_CHARS,
    MAX_NODE_ID_CHARS,
    Envelope,
    Hello,
    Lane,
    Refusal,
    Refused,
)

# Without a secret anybody can make up names; the one that was silent for longest is forgotten.
MAX_SENDERS: Final = 1024
# Beats come each second. What was sent before one beat and is not there at the next, while nothing at all
# came in between, is lost: data that is merely late shows progress.
TAIL_GRACE_S: Final = 0.9
_ENDED_SESSIONS: Final = 16  # runs within one boot; more of them than a supervisor would allow


class _Inbound:
    """One lane of one sender's session, as far as it came."""

    __slots__ = ("excused_seq", "last_seq")

    def __init__(self) -> None:
        self.last_seq = 0
        self.excused_seq = 0  # up to here a loss was reported already; what comes late is taken nevertheless

    @property
    def known_seq(self) -> int:
        return max(self.last_seq, self.excused_seq)


class Sender:
    """One life of another node, as heard here."""

    __slots__ = (
        "_awaited",
        "boot",
        "claimed_session",
        "control",
        "data",
        "ended_sessions",
        "heard_at",
        "lost_count",
        "session",
    )

    def __init__(self, boot: int) -> None:
        self.boot = boot
        self.session = 0  # proven; 0: none yet
        self.claimed_session = 0  # the latest that was said
        self.ended_sessions: deque[int] = deque(maxlen=_ENDED_SESSIONS)
        self.heard_at = float("-inf")
        self.lost_count = 0  # envelopes of the data lane
        self._reset()

    def _reset(self) -> None:
        self.control = _Inbound()
        self.data = _Inbound()
        # (data_seq that was told, last_seq then, when): the end of the data lane that has not come yet
        self._awaited: tuple[int, int, float] | None = None

    @property
    def address_session(self) -> int:
        """The session that answers are made for; 0: none is known."""
        return self.session or self.claimed_session

    def prove(self, session: int) -> bool:
        """A frame of that session was made for this run. Tell whether the session is a new one.

        Raises: Refused, if it was followed by another one already.
        """
        if session == self.session:
            return False
        if session in self.ended_sessions:
            raise Refused(Refusal.OLD_SESSION)
        if self.session:
            self.ended_sessions.append(self.session)
        self.session = self.claimed_session = session
        self._reset()
        return True

    def arrived(self, lane: Lane, lane_seq: int) -> int:
        """Count an envelope, and return how many before it are missing.

        Raises: Refused, if it is a repetition.
        """
        inbound = self.control if lane is Lane.CONTROL else self.data
        if lane_seq <= inbound.last_seq:
            raise Refused(Refusal.REPLAYED)
        lost = max(0, lane_seq - 1 - inbound.known_seq)
        inbound.last_seq = lane_seq
        return lost

    def lost_tail(self, data_seq: int, now: float) -> int:
        """Compare the data lane with what control tells of it; return how many are lost at its end."""
        data = self.data
        if data_seq <= data.known_seq:
            self._awaited = None
            return 0
        if self._awaited is None or data.last_seq > self._awaited[1]:
            self._awaited = (data_seq, data.last_seq, now)
            return 0
        awaited_seq, _, since = self._awaited
        if now - since < TAIL_GRACE_S:
            return 0
        lost = awaited_seq - data.known_seq
        data.excused_seq = max(data.excused_seq, awaited_seq)
        self._awaited = None
        return lost


class Verdict(msgspec.Struct, frozen=True):
    """What to do with a frame that was taken."""

    sender: Sender
    is_proven: bool  # it was made for this run
    is_new_session: bool  # the sender's lanes begin anew with it
    lost_count: int  # envelopes of the data lane that did not come, or not yet


class Ledger:
    """Judge what comes in. `session` is this run's."""

    def __init__(self, node_id: str, boot: int, session: int) -> None:
        self._node_id = node_id
        self._boot = boot
        self._session = session
        self._senders: OrderedDict[str, Sender] = OrderedDict()

    def sender(self, node_id: str) -> Sender | None:
        """The newest life of a node that was heard."""
        return self._senders.get(node_id)

    def judge(self, frame: Hello | Envelope, arrived_on: Lane, now: float) -> Verdict:
        """Take a frame whose seal was right.

        Raises: Refused, and nothing has changed but the sender's claim.
        """
        self._check_names(frame)
        if isinstance(frame, Hello):
            return self._hello(self._sender_of(frame), frame, arrived_on, now)
        if frame.lane != arrived_on:
            raise Refused(Refusal.LANE)
        sender = self._sender_of(frame)
        if frame.receiver_boot != self._boot or frame.receiver_session != self._session:
            raise Refused(Refusal.STALE_RECEIVER)
        is_new = sender.prove(frame.session)
        lost = sender.arrived(arrived_on, frame.lane_seq)
        sender.heard_at = now
        if arrived_on is Lane.CONTROL:
            lost = sender.lost_tail(frame.data_seq, now)  # holes in the control lane itself harm nobody
        sender.lost_count += lost
        return Verdict(sender, is_proven=True, is_new_session=is_new, lost_count=lost)

    def _hello(self, sender: Sender, hello: Hello, arrived_on: Lane, now: float) -> Verdict:
        if arrived_on is not Lane.CONTROL:
            raise Refused(Refusal.LANE)
        if not (0 < len(hello.host) <= MAX_HOST_CHARS and _is_port(hello.port) and _is_port(hello.data_port)):
            raise Refused(Refusal.MALFORMED)
        if hello.receiver_boot > self._boot:
            raise Refused(Refusal.STALE_RECEIVER)  # it was meant for a newer life of this node
        is_proven = hello.receiver_session == self._session
        is_new = is_proven and sender.prove(hello.session)
        if is_proven:
            sender.heard_at = now
        return Verdict(sender, is_proven=is_proven, is_new_session=is_new, lost_count=0)

    def _check_names(self, frame: Hello | Envelope) -> None:
        if frame.format != FORMAT:
            raise Refused(Refusal.FORMAT)
        if frame.sender == self._node_id:
            raise Refused(Refusal.OWN)
        if not 0 < len(frame.sender) <= MAX_NODE_ID_CHARS or frame.session == 0:
            raise Refused(Refusal.MALFORMED)
        if frame.receiver != self._node_id and (frame.receiver or isinstance(frame, Envelope)):
            raise Refused(Refusal.OTHER_RECEIVER)

    def _sender_of(self, frame: Hello | Envelope) -> Sender:
        """The sender's life, which may be a new one. Raises: Refused, if a newer one is known."""
        sender = self._senders.get(frame.sender)
        if sender is None or frame.boot > sender.boot:
            sender = Sender(frame.boot)
            self._senders[frame.sender] = sender
            if len(self._senders) > MAX_SENDERS:
                self._senders.popitem(last=False)
        elif frame.boot < sender.boot:
            raise Refused(Refusal.OLD_BOOT)
        self._senders.move_to_end(frame.sender)
        if frame.session not in sender.ended_sessions:
            sender.claimed_session = frame.session
        return sender


def _is_port(port: int) -> bool:
    return 0 < port < 65536
