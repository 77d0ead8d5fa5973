"""W5: how long does a message take while 200 people chat at a given rate?

200 users in 100 pairs and 1,000 messages a second, 100 bytes each: each user in turn sends to the other of
the pair, by a timetable that is laid down beforehand. A message is due at its time whatever has happened to
those before it, and its latency counts from there (so a stall counts for everything that it held up:
coordinated omission). Latencies: due to delivery, and due to ack. How late the client itself sent is a
figure of its own.
"""

from collections import Counter
from secrets import token_hex
from typing import Final

from bench.load.client import Account, Connection, ask_all, open_all
from bench.load.loop import Loop, now
from bench.load.meter import Meter, calm
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
from bench.report.statistics import percentiles
from protocol.commands import OpenDirect, Send

PAIR_COUNT: Final = 100
PER_S: Final = 1000
TEXT: Final = "x" * 100
PREFIX_CHARS: Final = 8
MAX_LAG_MS: Final = 1.0  # p99; a client that is later than this measures itself


class Timetable:
    """When each message is due: number n at `start + n / per_s`, sent by party n modulo their count."""

    def __init__(self, loop: Loop, per_s: float) -> None:
        self._loop = loop
        self._interval_s = 1 / per_s
        self._start_at = 0.0
        self._end_at = 0.0
        self.parties: list[Party] = []
        # Keys of an earlier run in the same conversation would be repetitions to the server.
        self.prefix = token_hex(PREFIX_CHARS // 2)
        self.number = 0  # of the next message
        self.acked_count = 0
        self.delivered_count = 0
        self.counts_from = self.counts_to = float("inf")  # due times that are measured
        self.lags = Samples()
        self.deliveries = Samples()
        self.acks = Samples()
        self.errors: list[str] = []

    def start(self, seconds: float) -> None:
        """Send for so long from now on."""
        self._start_at = now()
        self._end_at = self._start_at + seconds
        self._loop.at(self._start_at, self._send)

    def count(self, seconds: float) -> None:
        """Measure what is due from now on, for so long."""
        self.counts_from = now()
        self.counts_to = self.counts_from + seconds

    def due_at(self, number: int) -> float:
        """When a message is due."""
        return self._start_at + number * self._interval_s

    def add(self, samples: Samples, number: int, at: float) -> None:
        """Note when something happened to a message, if it belongs to the measured part."""
        due_at = self.due_at(number)
        if self.counts_from <= due_at < self.counts_to:
            samples.add(at, at - due_at)

    def _send(self) -> None:
        number = self.number
        party = self.parties[number % len(self.parties)]
        frame = party.frame(number)
        self.add(self.lags, number, now())
        party.send(frame)
        self.number = number + 1
        due_at = self.due_at(self.number)
        if due_at < self._end_at:
            self._loop.at(due_at, self._send)


class Party(Connection):
    """One of a pair: sends in turn, and sees that each message of the other comes once and in order."""

    def __init__(
        self, loop: Loop, wire: WireFormat, address: tuple[str, int], account: Account, timetable: Timetable
    ) -> None:
        super().__init__(loop, wire, address, account)
        self.timetable = timetable
        self.conversation_id = ""
        self.next_number = 0  # of the next message from the other

    def frame(self, number: int) -> bytes:
        """Encode one message."""
        command = Send(
            id=number + 1,
            conversation_id=self.conversation_id,
            client_id=f"{self.timetable.prefix}{number}",
            text=TEXT,
        )
        return encoded(command, self.wire)

    def got(self, got: Got, payload: bytes, at: float) -> None:
        timetable = self.timetable
        if got.type == "message":
            if got.user_id == self.user_id:
                return  # its own, as every connection of every member hears it
            number = int(got.client_id[PREFIX_CHARS:])
            if number != self.next_number:
                timetable.errors.append("out_of_order")
            self.next_number = number + len(timetable.parties)
            timetable.delivered_count += 1
            timetable.add(timetable.deliveries, number, at)
        elif got.type == "sent":
            timetable.acked_count += 1
            timetable.add(timetable.acks, got.id - 1, at)
        elif got.type == "error":
            timetable.errors.append(str(got.code))


def run(setting: Setting, variant: str) -> Trial:
    """Run the only variant."""
    loop, wire = Loop(), setting.wire
    timetable = Timetable(loop, setting.scaled(PER_S))
    pair_count = setting.scaled(PAIR_COUNT)

    def party(side: str, number: int) -> Party:
        account = setting.target.account(f"{side}{number}")
        return Party(loop, wire, setting.address(number + (side == "right")), account, timetable)

    lefts = [party("left", number) for number in range(pair_count)]
    rights = [party("right", number) for number in range(pair_count)]
    parties = timetable.parties = [*lefts, *rights]
    open_all(loop, parties)
    pairs = list(zip(lefts, rights, strict=True))
    answers = ask_all(loop, [(left, OpenDirect(user_id=right.user_id)) for left, right in pairs])
    for (left, right), answer in zip(pairs, answers, strict=True):
        left.conversation_id = right.conversation_id = answer["conversation"]["conversation_id"]
    for number, each in enumerate(parties):
        each.next_number = (number + pair_count) % len(parties)  # the other's first
    meter = Meter(setting.target)
    with calm():
        timetable.start(WARM_UP_S + setting.seconds)
        loop.run_for(WARM_UP_S)
        meter.start()
        timetable.count(setting.seconds)
        loop.run_for(setting.seconds)
        meter.stop()
        loop.run_until(
            lambda: timetable.acked_count == timetable.delivered_count == timetable.number,
            timeout_s=SETTLE_TIMEOUT_S,
            what="every message is acked and delivered",
        )
    errors = list(timetable.errors)
    errors += [f"closed: {each.error}" for each in parties if each.is_closed]
    close_all(loop, parties)
    lag_ms = _p99_ms(timetable.lags)
    is_late = lag_ms > MAX_LAG_MS
    trial = measured(
        meter,
        variant=variant,
        figures=_figures(timetable, meter, lag_ms),
        samples={"delivery": timetable.deliveries, "ack": timetable.acks, "client lag": timetable.lags},
        errors=errors,
        findings=[
            f"{timetable.number:,} messages sent when due, each acked, and delivered once and in order"
            if not errors
            else f"errors: {dict(Counter(errors))}"
        ],
        is_sound=not errors,
        notes=[f"The client sent late, p99 {lag_ms:.1f} ms: so much of the latency is its own."]
        if is_late
        else [],
    )
    trial.is_client_bound = is_late  # by its lateness, whatever its share of a core
    return trial


def _figures(timetable: Timetable, meter: Meter, lag_ms: float) -> list[Figure]:
    delivery = percentiles(timetable.deliveries.values[1::2])
    return [
        Figure(name="p99", value=delivery.p99_ms, unit="ms", is_higher_better=False, is_headline=True),
        Figure(name="p50", value=delivery.p50_ms, unit="ms", is_higher_better=False),
        Figure(name="p99.9", value=delivery.p999_ms, unit="ms", is_higher_better=False),
        Figure(name="ack p99", value=_p99_ms(timetable.acks), unit="ms", is_higher_better=False),
        Figure(name="client lag p99", value=lag_ms, unit="ms", is_higher_better=False),
        *meter.cpu_per_thousand(len(timetable.deliveries)),
    ]


def _p99_ms(samples: Samples) -> float:
    return percentiles(samples.values[1::2]).p99_ms


WORKLOAD: Final = Workload(
    name="W5", title="fixed rate: 1,000 messages/s over 200 users", variants=("1,000 messages/s",), run=run
)
