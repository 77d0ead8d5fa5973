"""W2: how many deliveries a second does a group of 500 connected members get, and when has the last one it?

Variants: "window 1" (one sender, one message under way) and "5 senders x 5" (five members keep five unacked
each). A message counts as delivered 500 times. Latency "last member": from the send until the 500th
connection has read it. Texts of 100 bytes.

"5 senders x 5, one stalls" is the second with one member that reads until a quarter of the run is over, and
then nothing, with little room in its kernel: the other 499 are measured, and the stalled one must catch up
with everything afterwards, or be told to sync. If it hears everything, the server had nothing to give up, and
a note says that the stall was not exercised.

Connections count their messages (the order within a group is the same for all, so the n-th message of each
connection is the n-th of the group). One of them decodes each frame as it comes, and checks order and sender;
ten others, picked by chance, keep their frames, which are compared afterwards with all that was acked: seq,
sender, client_id and text.
"""

import random
from array import array
from collections import Counter
from collections.abc import Sequence
from secrets import token_hex
from typing import Final

from bench.load.client import Account, Connection, as_dict, ask_all, open_all
from bench.load.loop import Loop, now
from bench.load.meter import Meter, calm
from bench.load.trial import (
    LATE_S,
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
from protocol.commands import CreateGroup, Send

MEMBER_COUNT: Final = 500
TEXT: Final = "x" * 100
PREFIX_CHARS: Final = 8
RESYNC: Final = b"resync"  # in none of the texts
KEEPER_COUNT: Final = 10
KEPT_BYTES: Final = 32 * 1024 * 1024  # by each keeper: minutes of the fastest run
NOT_EXERCISED: Final = "the stall was not exercised: too little came for the server to give anything up"
STALL_AFTER: Final = 0.25  # of the measured part
STALLED_BUFFER_BYTES: Final = 4096  # what waits there is not the server's to keep or to give up

Heard = tuple[int, str, str, str]
"""A message as it must be: seq, user_id, client_id, text."""


class Listener(Connection):
    """Counts the group's messages; keeps when it had how many."""

    def __init__(self, loop: Loop, wire: WireFormat, address: tuple[str, int], account: Account) -> None:
        super().__init__(loop, wire, address, account)
        self.count = 0
        self.reads = array("d")  # at, messages so far, at, …
        self.is_told_to_sync = False

    def received(self, data: bytes, at: float) -> bytes:
        found, taken = self.wire.count(data)
        if not self.is_told_to_sync and RESYNC in data:
            self.is_told_to_sync = True
        if found:
            self.count += found
            self.reads.append(at)
            self.reads.append(self.count)
        return data[taken:] if taken else data


class Keeper(Listener):
    """Keeps its frames as well, to be compared when nothing is measured any more."""

    def __init__(self, loop: Loop, wire: WireFormat, address: tuple[str, int], account: Account) -> None:
        super().__init__(loop, wire, address, account)
        self.kept: list[bytes] = []
        self.kept_bytes = 0

    def received(self, data: bytes, at: float) -> bytes:
        rest = super().received(data, at)
        taken = len(data) - len(rest)
        if taken and self.kept_bytes + taken <= KEPT_BYTES:
            self.kept.append(data[:taken])
            self.kept_bytes += taken
        else:
            self.kept_bytes += taken
        return rest

    @property
    def is_whole(self) -> bool:
        """Tell whether all that came was kept."""
        return self.kept_bytes <= KEPT_BYTES

    def heard(self) -> list[Heard]:
        """Decode what was kept."""
        payloads, _ = self.wire.split(b"".join(self.kept))
        return [
            (event["seq"], event["user_id"], event["client_id"], event["text"])
            for event in (as_dict(payload, self.wire) for payload in payloads)
            if event["type"] == "message"
        ]


class Stalling(Listener):
    """Has little room in its kernel, so that what it does not read is soon the server's burden."""

    receive_buffer_bytes = STALLED_BUFFER_BYTES


def faults(keepers: Sequence[Keeper], expected: Sequence[Heard]) -> list[str]:
    """Name what is wrong with what each keeper heard, which must be all that is expected, in its order."""
    found = []
    for keeper in keepers:
        heard = keeper.heard()
        if heard != (expected if keeper.is_whole else expected[: len(heard)]):
            found.append("other messages than were acked")
    return found


class Witness(Connection):
    """Decodes every frame: each message once and in order, by the seqs and by each sender's numbers."""

    def __init__(self, loop: Loop, wire: WireFormat, address: tuple[str, int], account: Account) -> None:
        super().__init__(loop, wire, address, account)
        self.count = 0
        self.reads = array("d")
        self.last_seq = 0
        self.last_numbers: dict[str, int] = {}
        self.errors: list[str] = []

    def got(self, got: Got, payload: bytes, at: float) -> None:
        if got.type != "message":
            if got.type in ("resync", "error"):
                self.errors.append(got.type)
            return
        self.count += 1
        self.reads.append(at)
        self.reads.append(self.count)
        number = int(got.client_id[PREFIX_CHARS:])
        if self.last_seq and got.seq != self.last_seq + 1:
            self.errors.append("hole")
        if number != self.last_numbers.get(got.user_id, 0) + 1:
            self.errors.append("out_of_order")
        self.last_seq = got.seq
        self.last_numbers[got.user_id] = number


class Sender(Connection):
    """A member that keeps its window full, and hears the group as well."""

    def __init__(self, loop: Loop, wire: WireFormat, address: tuple[str, int], account: Account) -> None:
        super().__init__(loop, wire, address, account)
        self.prefix = token_hex(PREFIX_CHARS // 2)
        self.conversation_id = ""
        self.is_sending = True
        self.number = 0
        self.open_count = 0
        self.acked_count = 0
        self.sent_at: list[float] = []
        self.positions: dict[int, float] = {}  # the group's seq -> when it was sent
        self.numbers: dict[int, int] = {}  # the group's seq -> which of ours
        self.acks = Samples()
        self.count = 0
        self.reads = array("d")
        self.errors: list[str] = []

    def send_next(self) -> None:
        """Send one more message to the group."""
        self.number = number = self.number + 1
        self.open_count += 1
        client_id = f"{self.prefix}{number}"
        command = Send(id=number, conversation_id=self.conversation_id, client_id=client_id, text=TEXT)
        frame = encoded(command, self.wire)
        self.sent_at.append(now())
        self.send(frame)

    def got(self, got: Got, payload: bytes, at: float) -> None:
        if got.type == "message":
            self.count += 1
            self.reads.append(at)
            self.reads.append(self.count)
        elif got.type == "sent":
            self.open_count -= 1
            self.acked_count += 1
            sent_at = self.sent_at[got.id - 1]
            self.positions[got.seq] = sent_at
            self.numbers[got.seq] = got.id
            self.acks.add(at, at - sent_at)
            if self.is_sending:
                self.send_next()
        elif got.type == "error":
            self.open_count -= 1
            self.errors.append(str(got.code))


def _acked(senders: Sequence[Sender]) -> list[Heard]:
    """All that was acked, in the group's order."""
    return sorted(
        (seq, sender.user_id, f"{sender.prefix}{number}", TEXT)
        for sender in senders
        for seq, number in sender.numbers.items()
    )


def run(setting: Setting, variant: str) -> Trial:
    """Run one variant."""
    sender_count, window = (1, 1) if variant == "window 1" else (5, 5)
    has_stalled = variant.endswith("one stalls")
    loop, wire = Loop(), setting.wire
    member_count = setting.scaled(MEMBER_COUNT, least=sender_count + 3)

    def account(number: int) -> Account:
        return setting.target.account(f"member{number}")

    senders = [Sender(loop, wire, setting.address(n), account(n)) for n in range(sender_count)]
    witness = Witness(loop, wire, setting.address(sender_count), account(sender_count))
    numbers = range(sender_count + 1, member_count - has_stalled)
    keeping = set(random.sample(numbers, min(KEEPER_COUNT, len(numbers))))
    others = [
        (Keeper if n in keeping else Listener)(loop, wire, setting.address(n), account(n)) for n in numbers
    ]
    keepers = [other for other in others if isinstance(other, Keeper)]
    last = member_count - 1
    stalled = Stalling(loop, wire, setting.address(last), account(last)) if has_stalled else None
    hearing: list[Sender | Witness | Listener] = [*senders, witness, *others]
    connections: list[Connection] = [*hearing, *([stalled] if stalled else [])]
    open_all(loop, connections)
    create = CreateGroup(
        client_id=token_hex(8), title="Fan-out", member_ids=[c.user_id for c in connections[1:]]
    )
    (answer,) = ask_all(loop, [(senders[0], create)])
    for sender in senders:
        sender.conversation_id = answer["conversation"]["conversation_id"]
    loop.run_for(0.5)  # what the new group tells its members
    meter = Meter(setting.target)
    with calm():
        for sender in senders:
            for _ in range(window):
                sender.send_next()
        loop.run_for(WARM_UP_S)
        before = sum(c.count for c in hearing)
        meter.start()
        loop.run_for(setting.seconds * STALL_AFTER)
        if stalled is not None and stalled.is_open:
            stalled.stop_reading()
        loop.run_for(meter.started_at + setting.seconds - now())
        meter.stop()
        delivered = sum(c.count for c in hearing) - before
        for sender in senders:
            sender.is_sending = False
        loop.run_until(
            lambda: (
                not any(s.open_count for s in senders)
                and min(c.count for c in hearing) >= sum(s.acked_count for s in senders)
            ),
            timeout_s=SETTLE_TIMEOUT_S,
            what="every send is acked and heard by every member",
        )
        loop.run_for(LATE_S)
    errors = [*witness.errors, *(error for sender in senders for error in sender.errors)]
    errors += [f"closed: {c.error}" for c in hearing if c.is_closed]
    acked_count = sum(sender.acked_count for sender in senders)
    errors += ["heard twice" for c in hearing if c.count != acked_count]
    errors += faults(keepers, _acked(senders))
    samples = _last_member(senders, hearing, meter.started_at, meter.started_at + meter.seconds)
    findings = [
        f"{acked_count:,} sends acked, each heard once by all of {len(hearing)} members: "
        f"{len(keepers) + 1} of them verified in full and in order, the others counted"
    ]
    notes = [
        f"{len(keepers)} members were verified in full for their first {KEPT_BYTES:,} bytes"
        for whole in {keeper.is_whole for keeper in keepers}
        if not whole
    ]
    if stalled is not None:
        findings.append(_stalled_story(loop, stalled, acked_count, errors))
        if not stalled.is_told_to_sync and not stalled.is_closed:
            notes.append(NOT_EXERCISED)
    close_all(loop, connections)
    return measured(
        meter,
        variant=variant,
        figures=[
            Figure(name="deliveries", value=delivered / meter.seconds, unit="/s", is_headline=True),
            *meter.cpu_per_thousand(delivered),
        ],
        samples={"last member": samples},
        errors=errors,
        findings=findings if not errors else [f"errors: {dict(Counter(errors))}"],
        is_sound=not errors,
        notes=notes,
    )


def _last_member(
    senders: list[Sender], hearing: list[Sender | Witness | Listener], start: float, end: float
) -> Samples:
    """For each message: when the last connection had it, and how long that took."""
    sent_at: dict[int, float] = {}
    for sender in senders:
        sent_at |= sender.positions
    order = sorted(sent_at)  # the n-th of the group is the n-th seq
    last_at = [0.0] * len(order)
    for connection in hearing:
        done = 0
        reads = connection.reads
        for position in range(0, len(reads), 2):
            at, count = reads[position], int(reads[position + 1])
            for index in range(done, min(count, len(order))):
                if at > last_at[index]:
                    last_at[index] = at
            done = count
    samples = Samples()
    for at, seq in sorted(zip(last_at, order, strict=True)):
        if start <= at <= end:
            samples.add(at, at - sent_at[seq])
    return samples


def _stalled_story(loop: Loop, stalled: Listener, acked_count: int, errors: list[str]) -> str:
    """Let the stalled member read on: it hears everything, or is told what to sync, or was cut off."""
    stalled.read_on()
    try:
        loop.run_until(
            lambda: stalled.is_closed or stalled.is_told_to_sync or stalled.count >= acked_count,
            timeout_s=SETTLE_TIMEOUT_S,
            what="the stalled member is told",
        )
    except TimeoutError:
        errors.append("the stalled member was forgotten")
    if stalled.is_closed:
        return f"the stalled member was cut off after {stalled.count:,} messages, to connect again and sync"
    if stalled.count < acked_count:
        return f"the stalled member heard {stalled.count:,} messages, then was told to sync the rest"
    return "the stalled member heard everything late"


WORKLOAD: Final = Workload(
    name="W2",
    title="fan-out: a group of 500 connected members",
    variants=("window 1", "5 senders x 5", "5 senders x 5, one stalls"),
    run=run,
    node_counts=(1, 2, 3),
)
