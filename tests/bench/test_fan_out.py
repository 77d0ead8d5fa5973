"""W2: what is verified is said, and a double, a swap or a forgotten member is found out."""

import socket

import msgspec
import pytest

from bench import fan_out
from bench.fan_out import (
    NOT_EXERCISED,
    STALLED_BUFFER_BYTES,
    TEXT,
    WORKLOAD,
    Keeper,
    Listener,
    Stalling,
    faults,
)
from bench.load.client import Account
from bench.load.loop import Loop, now
from bench.load.wires import BotProtocol
from tests.bench.small_run import ENTRANTS, figures_of, run_small, small_setting


@pytest.mark.parametrize(("kind", "wire"), ENTRANTS)
def test_what_was_verified_in_full_and_what_was_counted_is_told(kind: str, wire: str) -> None:
    """To decode 500 members' frames would measure the client; to count them proves less than to read them."""
    trial = run_small(WORKLOAD, "5 senders x 5", kind, wire)
    assert trial.is_sound, trial.findings
    assert figures_of(trial)["deliveries"] > 0
    assert (
        "all of 15 members: 10 of them verified in full and in order, the others counted" in trial.findings[0]
    )


def message(seq: int, **changes: object) -> dict[str, object]:
    """A message event as it must be."""
    return {"type": "message", "seq": seq, "user_id": "u", "client_id": f"c{seq}", "text": TEXT} | changes


def keeper_of(events: list[dict[str, object]]) -> Keeper:
    """A member who has read these events in pieces of 100 bytes."""
    wire = BotProtocol()
    keeper = Keeper(Loop(), wire, ("", 0), Account("k", ""))
    rest = b""
    data = b"".join(wire.frame(msgspec.msgpack.encode(event)) for event in events)
    for start in range(0, len(data), 100):
        rest = keeper.received(rest + data[start : start + 100], now())
    keeper._loop.close()
    return keeper


ALL = [message(seq) for seq in range(5, 9)]
EXPECTED = [(seq, "u", f"c{seq}", TEXT) for seq in range(5, 9)]


def test_what_was_heard_as_it_was_acked_is_right() -> None:
    """The checks below mean something only if the right messages pass, whatever stands between them."""
    assert faults([keeper_of([{"type": "presence", "seq": 1}, *ALL])], EXPECTED) == []


@pytest.mark.parametrize(
    "heard",
    [
        ALL[:-1],
        [*ALL, ALL[-1]],
        [ALL[1], ALL[0], *ALL[2:]],
        [message(5, text="another"), *ALL[1:]],
        [message(5, user_id="v"), *ALL[1:]],
        [message(5, client_id="c6"), *ALL[1:]],
        [],
    ],
)
def test_what_was_heard_otherwise_is_found_out(heard: list[dict[str, object]]) -> None:
    """A count is the same for a swap, and for one message lost and one doubled."""
    assert faults([keeper_of(ALL), keeper_of(heard)], EXPECTED) == ["other messages than were acked"]


def test_a_keeper_keeps_no_more_than_it_may(monkeypatch: pytest.MonkeyPatch) -> None:
    """What it kept is compared; that it is not all is known, and the rest is counted."""
    monkeypatch.setattr(fan_out, "KEPT_BYTES", 400)
    keeper = keeper_of(ALL)
    assert (keeper.is_whole, keeper.count, len(keeper.heard())) == (False, 4, 2)
    assert faults([keeper], EXPECTED) == []


def test_a_late_double_of_the_last_message_is_found_out(monkeypatch: pytest.MonkeyPatch) -> None:
    """It comes when every member has as many as were acked."""
    honest = Listener.received

    def late_double(listener: Listener, data: bytes, at: float) -> bytes:
        rest = honest(listener, data, at)
        last = listener.count

        def come_again() -> None:
            if listener.count == last:
                listener.count += 1

        if last:
            listener._loop.at(now() + 0.15, come_again)
        return rest

    monkeypatch.setattr(Listener, "received", late_double)
    trial = run_small(WORKLOAD, "window 1", "hubbub", "json")
    assert not trial.is_sound
    assert "heard twice" in trial.errors


def test_a_stall_that_cost_the_server_nothing_is_not_called_one(monkeypatch: pytest.MonkeyPatch) -> None:
    """A member that has it all in its kernel's buffer shows nothing about a server's patience."""
    monkeypatch.setattr(fan_out, "STALL_AFTER", 1.0)
    trial = run_small(WORKLOAD, "5 senders x 5, one stalls", "hubbub", "json")
    assert trial.is_sound, trial.findings
    assert trial.notes == [NOT_EXERCISED]


def test_a_member_that_stalls_is_told_to_sync(monkeypatch: pytest.MonkeyPatch) -> None:
    """Its own kernel takes little, so the server has to bound what it keeps for it."""
    stalled: list[tuple[Stalling, int]] = []
    honest = Stalling.stop_reading

    def stop_reading(member: Stalling) -> None:
        room = member._socket.getsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF)
        stalled.append((member, room))
        honest(member)

    monkeypatch.setattr(Stalling, "stop_reading", stop_reading)
    with small_setting("hubbub", "json", scale=0.02) as setting:
        for seconds in (2.0, 8.0, 30.0):  # beside other tests it takes longer until there is too much for it
            stalled.clear()
            trial = WORKLOAD.run(
                msgspec.structs.replace(setting, seconds=seconds), "5 senders x 5, one stalls"
            )
            assert trial.is_sound, trial.findings
            ((member, room),) = stalled
            if member.is_told_to_sync:
                break
    assert room <= 2 * STALLED_BUFFER_BYTES  # the kernel doubles it, for its own needs
    assert member.count > 0  # it heard the group before
    assert member.is_told_to_sync
    assert trial.notes == []
