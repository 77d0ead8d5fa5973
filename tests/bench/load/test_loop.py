"""The load generator's loop: timers are never early, and never in the way of what has come."""

import socket
from collections.abc import Iterator

import pytest

from bench.load.loop import Loop, now


@pytest.fixture
def loop() -> Iterator[Loop]:
    made = Loop()
    yield made
    made.close()


@pytest.mark.parametrize("in_s", [0.0, 0.0004, 0.0011, 0.003, 0.02])
def test_a_timer_is_never_early(loop: Loop, in_s: float) -> None:
    """A timetable's latencies count from when a send was due; an early one would flatter the server."""
    due_at = now() + in_s
    called_at: list[float] = []
    loop.at(due_at, lambda: called_at.append(now()))
    loop.run_until(lambda: bool(called_at), timeout_s=10, what="the timer is called")
    assert called_at[0] >= due_at


@pytest.mark.parametrize("in_s", [0.0015, 0.5])
def test_what_can_be_read_is_read_before_a_timer_that_is_not_due(loop: Loop, in_s: float) -> None:
    """A client that looks at its timetable only would measure its own inattention."""
    left, right = socket.socketpair()
    happened: list[str] = []

    def on_event(events: int) -> None:
        left.recv(10)
        happened.append("read")

    with left, right:
        loop.watch(left.fileno(), on_event)
        right.send(b"x")
        loop.at(now() + in_s, lambda: happened.append("timer"))
        loop.run_until(lambda: len(happened) == 2, timeout_s=10, what="both have happened")
        loop.forget(left.fileno())
    assert happened == ["read", "timer"]


def test_timers_are_called_in_order_of_their_times(loop: Loop) -> None:
    """Two that are due at once are called as they were made."""
    at = now() + 0.005
    happened: list[int] = []
    loop.at(at + 0.001, lambda: happened.append(3))
    loop.at(at, lambda: happened.append(1))
    loop.at(at, lambda: happened.append(2))
    loop.run_until(lambda: len(happened) == 3, timeout_s=10, what="all timers are called")
    assert happened == [1, 2, 3]
