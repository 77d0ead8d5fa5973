"""Fixed rate: each message counts from when it was due, and has to come once and in order."""

from collections.abc import Iterator

import pytest

from bench.fixed_rate import WORKLOAD, Party, Timetable
from bench.load.client import Account
from bench.load.loop import Loop
from bench.load.wires import Got, JsonWebSocket
from tests.bench.small_run import ENTRANTS, figures_of, run_small

PARTY_COUNT = 4


@pytest.mark.slow
@pytest.mark.parametrize(("kind", "wire"), ENTRANTS)
def test_everything_that_was_due_is_sent_acked_and_delivered(kind: str, wire: str) -> None:
    """The percentiles are of all messages that were due, not of those that a slow server let be sent."""
    trial = run_small(WORKLOAD, "1,000 messages/s", kind, wire)
    assert (trial.is_sound, trial.errors) == (True, [])
    due_count = round(30 * 0.5)  # 1,000/s scaled by 0.03, for half a second
    for name in ("delivery", "ack", "client lag"):
        assert abs(len(trial.samples[name]) - due_count) <= 1
    figures = figures_of(trial)
    assert 0 < figures["p50"] <= figures["p99"] <= figures["p99.9"]
    assert figures["ack p99"] > 0
    assert trial.is_client_bound == bool(trial.notes) == (figures["client lag p99"] > 1.0)


class Late(Party):
    """Sends nothing, but notes what it is given."""

    def __init__(self, loop: Loop, timetable: Timetable, number: int) -> None:
        super().__init__(
            loop, JsonWebSocket(), ("127.0.0.1", 1), Account(name=str(number), token="t"), timetable
        )
        self.user_id = f"user{number}"
        self.conversation_id = "c"
        self.sent: list[bytes] = []

    def send(self, frame: bytes) -> None:
        self.sent.append(frame)


@pytest.fixture
def timetable() -> Iterator[Timetable]:
    """1,000 messages a second, for four parties in two pairs that are not connected to anything."""
    loop = Loop()
    made = Timetable(loop, 1000)
    made.parties = [Late(loop, made, number) for number in range(PARTY_COUNT)]
    made.parties[0].next_number = 2
    yield made
    loop.close()


def message(timetable: Timetable, number: int, user_id: str = "user2") -> Got:
    """What a server delivers."""
    return Got(type="message", user_id=user_id, client_id=f"{timetable.prefix}{number}")


def test_latency_counts_from_when_a_message_was_due(timetable: Timetable) -> None:
    """A server that stalls for a second delays 1,000 messages, not one."""
    timetable.counts_from = timetable.due_at(0)
    receiver = timetable.parties[0]
    for number in (2, 6, 10):
        receiver.got(message(timetable, number), b"", timetable.due_at(10) + 0.005)  # all together
    took_ms = [round(took_s * 1000) for took_s in timetable.deliveries.values[1::2]]
    assert took_ms == [13, 9, 5]


def test_what_was_due_outside_of_the_measured_part_does_not_count(timetable: Timetable) -> None:
    """What is late at the end counts nevertheless, since it was due before."""
    timetable.counts_from, timetable.counts_to = timetable.due_at(6), timetable.due_at(10)
    for number in (2, 6, 10):
        timetable.parties[0].got(message(timetable, number), b"", timetable.due_at(500))
    assert len(timetable.deliveries) == 1
    assert timetable.delivered_count == 3


@pytest.mark.parametrize(("numbers", "is_found"), [((2, 6, 10), False), ((2, 10), True), ((6,), True)])
def test_a_lost_message_is_found_out(timetable: Timetable, numbers: tuple[int, ...], is_found: bool) -> None:
    """Fewer messages are delivered faster."""
    for number in numbers:
        timetable.parties[0].got(message(timetable, number), b"", 1.0)
    assert bool(timetable.errors) is is_found


@pytest.mark.parametrize("numbers", [(2, 2), (2, 6, 2), (6, 2)])
def test_a_doubled_or_reordered_message_is_found_out(timetable: Timetable, numbers: tuple[int, ...]) -> None:
    """The order within a conversation is promised."""
    for number in numbers:
        timetable.parties[0].got(message(timetable, number), b"", 1.0)
    assert "out_of_order" in timetable.errors


def test_the_own_message_is_no_delivery(timetable: Timetable) -> None:
    """Every connection of every member hears it, the sender's too; it has not gone anywhere."""
    timetable.parties[0].got(message(timetable, 0, user_id="user0"), b"", 1.0)
    assert (timetable.delivered_count, timetable.errors) == (0, [])


def test_a_late_client_sends_all_that_is_due_and_says_how_late_it_was(timetable: Timetable) -> None:
    """A pause of the client itself must not thin the load out."""
    timetable.counts_from = 0.0
    timetable.start(0.02)
    timetable._loop.run_for(0.05)
    sent = [len(party.sent) for party in timetable.parties if isinstance(party, Late)]
    assert (sum(sent), timetable.number) == (20, 20)
    assert sent == [5, 5, 5, 5]
    assert len(timetable.lags) == 20
    assert all(lag_s >= 0 for lag_s in timetable.lags.values[1::2])
