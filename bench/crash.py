"""W6: is anything lost that was acked, when the server is killed with kill -9 in the middle of W1?

200 users in 100 pairs, 100-byte texts, 10 sends unacked per pair. Three times within `seconds` the server's
process is killed and started again at once, on the same directory and ports. All clients connect again as
soon as it serves, send what is unacked once more under the same client_ids, and go on. At the end every send
is acked, and the other side of each pair reads its conversation back: sync from 0, page by page.

What this cannot show is fsync: the kernel outlives the process, and its page cache keeps what was written
and is not yet on the disk. Only a power cut tells whether an ack has waited for that; that all servers ask
for it is read in their code (`synchronous=FULL`).

Lost: acked messages that are not at the seq that their ack told. Doubled: messages that are there more than
once. Both must be 0; a server without dedup by client_id (the peer is one) has no choice but to double what
it had stored and could not ack, so there doubled is counted and no fault. Each sender's messages must stand
in the order in which they were first sent. Times: from the kill to the first ack on a new connection, and
until all 200 are welcomed again, the server's start included; acks are timed from the first send, so that
the outages show. Measured are `seconds` and the outages.
"""

from collections import Counter
from collections.abc import Mapping, Sequence
from itertools import pairwise
from secrets import token_hex
from statistics import median
from typing import Final

import msgspec

from bench.load.client import Account, Connection, ask_all, open_all
from bench.load.loop import Loop, now
from bench.load.meter import Meter, calm
from bench.load.target import Target
from bench.load.trial import (
    SETTLE_TIMEOUT_S,
    WARM_UP_S,
    Samples,
    Setting,
    Trial,
    Workload,
    close_all,
    measured,
)
from bench.load.wires import Got, WireFormat, encoded
from bench.report.results import Figure
from protocol.commands import OpenDirect, Send, Sync
from protocol.limits import MAX_PAGE

PAIR_COUNT: Final = 100
WINDOW: Final = 10
KILL_COUNT: Final = 3
TEXT: Final = "x" * 100
PREFIX_CHARS: Final = 8
RECONNECT_DELAY_S: Final = 0.05  # real clients wait longer; they are not what is measured
BACK_TIMEOUT_S: Final = 60.0


class Verdict(msgspec.Struct, frozen=True):
    """What became of one sender's messages."""

    lost: int
    """Acked, and not stored at the seq that the ack told."""
    doubled: int
    """Stored once more than once."""
    reordered: int
    """Acked at a seq that is not above the one of the message sent before."""


def judge(acked: Mapping[int, int], stored: Sequence[tuple[int, int]]) -> Verdict:
    """Compare what was acked (number → seq) with what is stored: (seq, number) of each message."""
    numbers = dict(stored)
    copies = Counter(numbers.values())
    lost = sum(numbers.get(seq) != number for number, seq in acked.items())
    doubled = sum(count - 1 for count in copies.values())
    seqs = [seq for _, seq in sorted(acked.items())]
    reordered = sum(later <= earlier for earlier, later in pairwise(seqs))
    return Verdict(lost, doubled, reordered)


class Tally:
    """What all pairs have measured together."""

    def __init__(self) -> None:
        self.is_sending = True
        self.is_closing = False
        self.killed_at = 0.0
        self.first_ack_at = 0.0  # after the last kill; 0 until it comes
        self.acks = Samples()
        self.resent_count = 0
        self.stored_before_count = 0  # of the resent: acked as repetitions
        self.errors: list[str] = []
        self.prefix = token_hex(PREFIX_CHARS // 2)


class Member(Connection):
    """One side of a pair, which comes back whenever it is cut off."""

    def __init__(
        self, loop: Loop, wire: WireFormat, address: tuple[str, int], account: Account, tally: Tally
    ) -> None:
        super().__init__(loop, wire, address, account)
        self.loop = loop
        self.tally = tally

    def ended(self) -> None:
        if not self.tally.is_closing:
            self.loop.at(now() + RECONNECT_DELAY_S, self.open)


class Sender(Member):
    """Keeps its window full, and sends again what was not acked when the connection broke."""

    def __init__(
        self, loop: Loop, wire: WireFormat, address: tuple[str, int], account: Account, tally: Tally
    ) -> None:
        super().__init__(loop, wire, address, account, tally)
        self.conversation_id = ""
        self.number = 0
        self.unacked: dict[int, bytes] = {}  # in the order of sending
        self.sent_at: dict[int, float] = {}
        self.acked: dict[int, int] = {}  # number -> seq

    def send_next(self) -> None:
        """Send one more message."""
        self.number = number = self.number + 1
        client_id = f"{self.tally.prefix}{number}"
        command = Send(id=number, conversation_id=self.conversation_id, client_id=client_id, text=TEXT)
        self.unacked[number] = frame = encoded(command, self.wire)
        self.sent_at[number] = now()
        self.send(frame)

    def welcomed(self) -> None:
        self.tally.resent_count += len(self.unacked)
        for frame in tuple(self.unacked.values()):
            self.send(frame)

    def got(self, got: Got, payload: bytes, at: float) -> None:
        tally = self.tally
        if got.type == "sent":
            number = got.id
            if self.unacked.pop(number, None) is None:
                tally.errors.append("acked twice")
                return
            self.acked[number] = got.seq
            tally.acks.add(at, at - self.sent_at[number])
            if b"duplicate" in payload:
                tally.stored_before_count += 1
            if not tally.first_ack_at and self.started_at > tally.killed_at:
                tally.first_ack_at = at
            if tally.is_sending:
                self.send_next()
        elif got.type == "error":
            tally.errors.append(str(got.code))


def run(setting: Setting, variant: str) -> Trial:
    """Run one variant: "N kills, window N"."""
    kill_count = int(variant.split()[0])
    loop, tally, wire = Loop(), Tally(), setting.wire
    pairs: list[tuple[Sender, Member]] = []
    for number in range(setting.scaled(PAIR_COUNT)):
        accounts = [setting.target.account(f"{side}{number}") for side in ("sender", "receiver")]
        sender = Sender(loop, wire, setting.address(number), accounts[0], tally)
        pairs.append((sender, Member(loop, wire, setting.address(number + 1), accounts[1], tally)))
    members: list[Member] = [member for pair in pairs for member in pair]
    open_all(loop, members)
    answers = ask_all(loop, [(sender, OpenDirect(user_id=receiver.user_id)) for sender, receiver in pairs])
    for (sender, _), answer in zip(pairs, answers, strict=True):
        sender.conversation_id = answer["conversation"]["conversation_id"]
    meter = Meter(setting.target)
    first_acks, all_back = Samples(), Samples()
    with calm():
        for sender, _ in pairs:
            for _ in range(WINDOW):
                sender.send_next()
        loop.run_for(WARM_UP_S)
        meter.start()
        for _ in range(kill_count):
            loop.run_for(setting.seconds / (kill_count + 1))
            _crash(loop, setting.target, members, tally)
            first_acks.add(tally.first_ack_at, tally.first_ack_at - tally.killed_at)
            all_back.add(now(), now() - tally.killed_at)
        loop.run_for(setting.seconds / (kill_count + 1))
        meter.stop()
        tally.is_sending = False
        loop.run_until(
            lambda: not any(sender.unacked for sender, _ in pairs),
            timeout_s=SETTLE_TIMEOUT_S,
            what="every send is acked",
        )
    verdicts = [
        judge(sender.acked, stored)
        for (sender, _), stored in zip(pairs, read_back(loop, pairs, tally.errors), strict=True)
    ]
    acked = sum(len(sender.acked) for sender, _ in pairs)
    lost, doubled, reordered = (sum(getattr(v, name) for v in verdicts) for name in Verdict.__struct_fields__)
    errors = list(tally.errors)
    tally.is_closing = True
    close_all(loop, members)
    has_dedup = setting.target.has_dedup
    return measured(
        meter,
        variant=variant,
        figures=[
            Figure(name="lost", value=lost, unit="", is_higher_better=False, is_headline=True),
            Figure(name="doubled", value=doubled, unit="", is_higher_better=False),
            Figure(name="acked", value=acked, unit=""),
            Figure(
                name="first ack after a kill",
                value=median(first_acks.values[1::2]),
                unit="s",
                is_higher_better=False,
            ),
            Figure(name="all back", value=median(all_back.values[1::2]), unit="s", is_higher_better=False),
        ],
        samples={"ack": tally.acks, "first ack after a kill": first_acks, "all back": all_back},
        errors=errors,
        findings=[
            f"{kill_count} kills, {acked:,} acked: {lost} lost, {doubled} doubled, {reordered} out of order",
            f"{tally.resent_count:,} were sent again, {tally.stored_before_count:,} of them had been stored",
            *([f"errors: {dict(Counter(errors))}"] if errors else []),
        ],
        is_sound=not errors and not lost and not reordered and not (has_dedup and doubled),
        notes=[] if has_dedup else ["no dedup by client_id: what is sent again after a kill may double"],
    )


def _crash(loop: Loop, target: Target, members: Sequence[Member], tally: Tally) -> None:
    """kill -9, start again, and wait until all are back and the first send is acked."""
    tally.killed_at, tally.first_ack_at = now(), 0.0
    target.kill()
    target.start()
    loop.run_until(
        lambda: (
            bool(tally.first_ack_at) and all(m.is_open and m.started_at > tally.killed_at for m in members)
        ),
        timeout_s=BACK_TIMEOUT_S,
        what="all clients are back after a kill",
    )


def read_back(
    loop: Loop, pairs: Sequence[tuple[Sender, Member]], errors: list[str]
) -> list[list[tuple[int, int]]]:
    """Read all conversations from the server, as the other side sees them: (seq, number) of the messages.

    Anything else than one gapless sequence of the sender's own messages goes into `errors`.
    """
    stored: list[list[tuple[int, int]]] = [[] for _ in pairs]
    after = [0] * len(pairs)
    left = list(range(len(pairs)))
    while left:
        questions = [
            (
                pairs[position][1],
                Sync(
                    conversation_id=pairs[position][0].conversation_id, after=after[position], limit=MAX_PAGE
                ),
            )
            for position in left
        ]
        more = []
        for position, page in zip(left, ask_all(loop, questions), strict=True):
            sender = pairs[position][0]
            for item in page["items"]:
                if item["seq"] != after[position] + 1:
                    errors.append("hole")
                after[position] = item["seq"]
                if item["type"] != "message":
                    continue
                client_id = item["client_id"]
                if item["user_id"] != sender.user_id or not client_id.startswith(sender.tally.prefix):
                    errors.append("unknown message")
                    continue
                stored[position].append((item["seq"], int(client_id[PREFIX_CHARS:])))
            if page.get("more"):
                if not page["items"]:
                    errors.append("empty page")
                    continue
                more.append(position)
        left = more
    return stored


WORKLOAD: Final = Workload(
    name="W6",
    title="crash: kill -9 in the middle of one-to-one",
    variants=(f"{KILL_COUNT} kills, window {WINDOW}",),
    run=run,
    kills=True,
)
