"""A client without a free moment is marked, however busy the servers are; unknown costs are no figures."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from bench import cluster_scaling
from bench.cluster_scaling import _Case, _summed
from bench.load.meter import Meter
from bench.load.target import Cores, Hubbub, Remote, running
from bench.load.trial import NOT_OURS, NOTHING_COUNTED, Samples, Setting, Trial, measured
from bench.workloads import WORKLOADS


class Servers(Hubbub):
    """Servers that do not run."""

    def __init__(self) -> None:
        super().__init__(Path(), Cores([0], usable=range(2)))


@pytest.mark.parametrize(
    ("client_cpu_s", "server_cpu_s", "is_bound"),
    [
        (9.95, 3 * 3.3, True),  # three nodes, each two thirds idle
        (9.9, 9.2, True),  # one, that is busy and not at its limit
        (9.0, 2.0, True),
        (8.9, 2.0, False),
        (4.0, 10.0, False),
    ],
)
def test_a_client_that_has_nine_tenths_of_its_core_may_set_the_pace(
    client_cpu_s: float, server_cpu_s: float, is_bound: bool
) -> None:
    """The servers' CPU is a sum over nodes, and one at its limit may owe that to the client."""
    meter = Meter(Servers())
    meter.seconds, meter.client_cpu_s, meter.server_cpu_s = 10.0, client_cpu_s, server_cpu_s
    assert meter.is_client_bound == is_bound


def test_a_meter_that_never_ran_has_no_bound_client() -> None:
    """A run that measured nothing says nothing."""
    assert not Meter(Servers()).is_client_bound


@pytest.mark.parametrize(("shares", "is_bound"), [([0.95, 0.3], True), ([0.3, 0.5], False)])
def test_the_mark_of_a_hop_is_made_of_all_its_turns(shares: list[float], is_bound: bool) -> None:
    """The last turn is one of dozens; what it was like says nothing about the others."""
    cases = [_Case(name) for name in cluster_scaling.CASES[: len(shares)]]
    for case, share in zip(cases, shares, strict=True):
        case.seconds, case.client_cpu_s, case.server_cpu_s = 4.0, 4.0 * share, 1.0
    last_turn = Trial(
        variant="hop", started_at=1.0, seconds=0.5, figures=[], is_client_bound=not is_bound, is_sound=True
    )
    trial = _summed(last_turn, cases)
    assert (trial.is_client_bound, trial.seconds, trial.server_cpu_s) == (is_bound, 8.0, 2.0)


@pytest.fixture(scope="module")
def remote() -> Iterator[Remote]:
    """A server that runs already, as far as the benchmark knows."""
    cores = Cores()
    cores.is_pinned = False
    with running(Hubbub, cores) as target:
        pages, bots = (f"127.0.0.1:{target.addresses(wire)[0][1]}" for wire in ("json", "bot"))
        yield Remote(
            target.directory,
            cores,
            address=pages,
            bot_address=bots,
            app_key=target._app_key,
            app_secret=target._app_secret,
        )


@pytest.mark.parametrize(
    ("workload", "variant"),
    [
        ("W1", "window 1"),
        ("W2", "window 1"),
        ("W7", "64 connects at once"),
        ("W8", "activity"),
        ("W9", cluster_scaling.BUSY_HOP),
    ],
)
def test_what_a_server_of_others_costs_is_left_out(remote: Remote, workload: str, variant: str) -> None:
    """A cost that is not known would be told as 0, which no server can beat."""
    setting = Setting(target=remote, wire_name="json", seconds=0.5, scale=0.02)
    trial = WORKLOADS[workload].run(setting, variant)
    assert trial.is_sound, trial.findings
    names = [figure.name for figure in trial.figures]
    assert names
    assert not [name for name in names if "CPU" in name]
    assert NOT_OURS in trial.notes


def test_what_a_server_of_ours_costs_is_told() -> None:
    """The tables have a column for it."""
    cores = Cores()
    cores.is_pinned = False
    with running(Hubbub, cores) as target:
        setting = Setting(target=target, wire_name="json", seconds=0.5, scale=0.02)
        trial = WORKLOADS["W1"].run(setting, "window 1")
    assert trial.figures[-1].name == "server CPU per 1,000"
    assert trial.figures[-1].value > 0
    assert trial.notes == []


def test_a_run_that_counted_nothing_is_not_sound() -> None:
    """No errors among no messages verify nothing."""
    meter, samples = Meter(Servers()), Samples()
    told = {"variant": "v", "figures": [], "findings": ["0 sends acked"], "is_sound": True}
    trial = measured(meter, samples={"delivery": samples}, **told)
    assert (trial.is_sound, trial.findings) == (False, ["0 sends acked", NOTHING_COUNTED])
    samples.add(1.0, 0.001)
    assert measured(meter, samples={"delivery": samples}, **told).is_sound


def test_a_trial_must_say_whether_it_is_sound() -> None:
    """One that forgot to would count as verified."""
    with pytest.raises(TypeError, match="is_sound"):
        Trial(variant="v", started_at=0.0, seconds=0.0, figures=[])  # type: ignore[call-arg]
