"""W1: how many messages a second get from one person to another, and how long does each take?

200 users in 100 pairs, 100-byte texts. One side of each pair keeps `window` sends unacked (closed loop: each
ack sends the next); both sides hear each message. Delivered: messages that reached the other side. Latencies:
send to delivery, and send to ack.
"""

from collections import Counter
from secrets import token_hex
from typing import Final

from bench.load.client import Account, Connection, ask_all, open_all
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
from protocol.commands import OpenDirect, Send

PAIR_COUNT: Final = 100
TEXT: Final = "x" * 100
PREFIX_CHARS: Final = 8


class Tally:
    """What all pairs have measured together."""

    def __init__(self) -> None:
        self.is_counting = False
        self.is_sending = True
        self.deliveries = Samples()
        self.acks = Samples()
        self.acked_count = 0
        self.delivered_count = 0
        self.errors: list[str] = []
        # Keys of an earlier run in the same conversation would be repetitions to the server.
        self.prefix = token_hex(PREFIX_CHARS // 2)


class Sender(Connection):
    """Keeps its window full."""

    def __init__(
        self, loop: Loop, wire: WireFormat, address: tuple[str, int], account: Account, tally: Tally
    ) -> None:
        super().__init__(loop, wire, address, account)
        self.tally = tally
        self.conversation_id = ""
        self.sent_at: dict[int, float] = {}
        self.number = 0
        self.open_count = 0

    def send_next(self) -> None:
        """Send one more message."""
        self.number = number = self.number + 1
        self.open_count += 1
        client_id = f"{self.tally.prefix}{number}"
        command = Send(id=number, conversation_id=self.conversation_id, client_id=client_id, text=TEXT)
        frame = encoded(command, self.wire)
        self.sent_at[number] = now()
        self.send(frame)

    def got(self, got: Got, payload: bytes, at: float) -> None:
        tally = self.tally
        if got.type == "sent":
            self.open_count -= 1
            tally.acked_count += 1
            if tally.is_counting:
                tally.acks.add(at, at - self.sent_at[got.id])
            if tally.is_sending:
                self.send_next()
        elif got.type == "error":
            tally.errors.append(str(got.code))
            self.open_count -= 1


class Receiver(Connection):
    """Takes the time of each message of its pair, and sees that each comes once and in order."""

    sender: Sender
    last_number = 0

    def got(self, got: Got, payload: bytes, at: float) -> None:
        if got.type == "message":
            sender = self.sender
            tally = sender.tally
            number = int(got.client_id[PREFIX_CHARS:])
            if number != self.last_number + 1:
                tally.errors.append("out_of_order")
            self.last_number = number
            tally.delivered_count += 1
            if tally.is_counting:
                tally.deliveries.add(at, at - sender.sent_at[number])


def run(setting: Setting, variant: str) -> Trial:
    """Run one variant: "window N"."""
    window = int(variant.split()[1])
    loop, tally, wire = Loop(), Tally(), setting.wire
    pairs: list[tuple[Sender, Receiver]] = []
    for number in range(setting.scaled(PAIR_COUNT)):
        accounts = [setting.target.account(f"{side}{number}") for side in ("sender", "receiver")]
        sender = Sender(loop, wire, setting.address(number), accounts[0], tally)
        receiver = Receiver(loop, wire, setting.address(number + 1), accounts[1])
        receiver.sender = sender
        pairs.append((sender, receiver))
    connections = [connection for pair in pairs for connection in pair]
    open_all(loop, connections)
    answers = ask_all(loop, [(sender, OpenDirect(user_id=receiver.user_id)) for sender, receiver in pairs])
    for (sender, _), answer in zip(pairs, answers, strict=True):
        sender.conversation_id = answer["conversation"]["conversation_id"]
    meter = Meter(setting.target)
    with calm():
        for sender, _ in pairs:
            for _ in range(window):
                sender.send_next()
        loop.run_for(WARM_UP_S)
        tally.is_counting = True
        acked, delivered = tally.acked_count, tally.delivered_count
        meter.start()
        loop.run_for(setting.seconds)
        meter.stop()
        tally.is_counting = False
        acked, delivered = tally.acked_count - acked, tally.delivered_count - delivered
        tally.is_sending = False
        loop.run_until(
            lambda: not any(s.open_count for s, _ in pairs) and tally.delivered_count >= tally.acked_count,
            timeout_s=SETTLE_TIMEOUT_S,
            what="every send is acked and delivered",
        )
        loop.run_for(LATE_S)
    errors = list(tally.errors)
    errors += [f"closed: {c.error}" for c in connections if c.is_closed]
    close_all(loop, connections)
    return measured(
        meter,
        variant=variant,
        figures=[
            Figure(name="delivered", value=delivered / meter.seconds, unit="/s", is_headline=True),
            Figure(name="acked", value=acked / meter.seconds, unit="/s"),
            *meter.cpu_per_thousand(delivered),
        ],
        samples={"delivery": tally.deliveries, "ack": tally.acks},
        errors=errors,
        findings=[
            f"{tally.acked_count:,} sends acked, each delivered once and in order"
            if not errors
            else f"errors: {dict(Counter(errors))}"
        ],
        is_sound=not errors,
    )


WORKLOAD: Final = Workload(
    name="W1",
    title="one-to-one: 100 pairs, 100-byte texts",
    variants=("window 1", "window 10"),
    run=run,
    node_counts=(1, 2, 3),
)
