"""Crash: nothing that was acked is lost, and a server that loses, doubles or reorders is found out."""

import shutil
from pathlib import Path

import pytest

from bench.crash import WORKLOAD, Verdict, judge
from bench.load.target import PEERS, Cores, Hubbub, running
from bench.load.trial import Setting
from tests.bench.small_run import figures_of, run_small

(VARIANT,) = WORKLOAD.variants
ACKED = {1: 2, 2: 3, 3: 4}  # number -> seq; a conversation's first event is no message
STORED = [(2, 1), (3, 2), (4, 3)]


@pytest.mark.slow
@pytest.mark.parametrize("wire", ["json", "msgpack", "bot"])
def test_hubbub_keeps_what_it_acked_through_kills(wire: str) -> None:
    """The promise of the product."""
    trial = run_small(WORKLOAD, VARIANT, "hubbub", wire)
    assert (trial.is_sound, trial.errors, trial.notes) == (True, [], [])
    figures = figures_of(trial)
    assert (figures["lost"], figures["doubled"]) == (0, 0)
    assert figures["acked"] > 0
    assert 0 < figures["first ack after a kill"] <= figures["all back"]
    assert len(trial.samples["first ack after a kill"]) == 3
    assert len(trial.samples["ack"]) == figures["acked"]
    assert trial.server_cpu_s > 0  # of killed processes too


@pytest.mark.slow
@pytest.mark.parametrize("kind", PEERS)
def test_a_peer_loses_nothing_and_may_double(kind: str) -> None:
    """It has no dedup, which is said and held against nobody; losing would be."""
    trial = run_small(WORKLOAD, VARIANT, kind, "json")
    assert (trial.is_sound, trial.errors) == (True, [])
    assert figures_of(trial)["lost"] == 0
    assert trial.notes


class Forgetful(Hubbub):
    """Comes back from its second crash with the data of the first one, as from a disk that lied."""

    def kill(self) -> None:
        super().kill()
        data, kept = self.directory / "data", self.directory / "kept"
        if kept.exists():
            shutil.rmtree(data)
            kept.rename(data)
        else:
            shutil.copytree(data, kept)


@pytest.mark.slow
def test_a_server_that_forgets_is_found_out(tmp_path: Path) -> None:
    """Figures of a server that loses what it acked must not stand in a table."""
    cores = Cores()
    cores.is_pinned = False
    with running(Forgetful, cores) as target:
        trial = WORKLOAD.run(
            Setting(target=target, wire_name="bot", seconds=0.5, scale=0.03), "2 kills, window 10"
        )
    assert not trial.is_sound
    assert figures_of(trial)["lost"] > 0


def test_what_is_stored_as_acked_is_right() -> None:
    """The checks below mean something only if the right log passes."""
    assert judge(ACKED, STORED) == Verdict(lost=0, doubled=0, reordered=0)


@pytest.mark.parametrize(
    ("acked", "stored", "verdict"),
    [
        (ACKED, STORED[:-1], Verdict(lost=1, doubled=0, reordered=0)),
        (ACKED, [], Verdict(lost=3, doubled=0, reordered=0)),
        (ACKED, [*STORED, (5, 3)], Verdict(lost=0, doubled=1, reordered=0)),
        (ACKED, [(2, 1), (3, 3), (4, 2)], Verdict(lost=2, doubled=0, reordered=0)),
        ({1: 3, 2: 2}, [(2, 2), (3, 1)], Verdict(lost=0, doubled=0, reordered=1)),
        ({1: 2, 2: 2}, [(2, 1)], Verdict(lost=1, doubled=0, reordered=1)),
    ],
)
def test_loss_repetition_and_disorder_are_counted(
    acked: dict[int, int], stored: list[tuple[int, int]], verdict: Verdict
) -> None:
    """Each in its own figure."""
    assert judge(acked, stored) == verdict
