"""W1: the very last message may come twice as well."""

import pytest

from bench import one_to_one
from bench.load.loop import now
from bench.load.wires import Got
from tests.bench.small_run import run_small


def test_a_late_double_of_the_last_message_is_found_out(monkeypatch: pytest.MonkeyPatch) -> None:
    """No message follows it by whose number the others' doubles are noticed."""
    honest = one_to_one.Receiver.got

    def late_double(receiver: one_to_one.Receiver, got: Got, payload: bytes, at: float) -> None:
        honest(receiver, got, payload, at)
        if got.type == "message" and not receiver.sender.tally.is_sending:
            receiver._loop.at(now() + 0.15, lambda: honest(receiver, got, payload, now()))

    monkeypatch.setattr(one_to_one.Receiver, "got", late_double)
    trial = run_small(one_to_one.WORKLOAD, "window 1", "hubbub", "json")
    assert not trial.is_sound
    assert "out_of_order" in trial.errors
