"""Membership over thousands of faulty lives. A failure prints how to repeat exactly that life."""

import os
import random
import statistics
from collections.abc import Callable

import pytest

from tests.cluster import scenarios
from tests.cluster.simulation import Network, World
from tests.conftest import IS_LONG_RUN

Scenario = Callable[[int], float]

# A minute of CI; the long form (./check --long) is what the promises rest on.
SHORT = {"storm": 120, "crash": 100, "accusation": 100, "quiet": 15, "standstill": 60, "halves": 60}
LONG = {
    "storm": 10_000,
    "crash": 3_000,
    "accusation": 3_000,
    "quiet": 500,
    "standstill": 3_000,
    "halves": 3_000,
}


@pytest.mark.timeout(7200)
@pytest.mark.parametrize(
    "scenario",
    [
        scenarios.storm,
        scenarios.crash,
        scenarios.accusation,
        scenarios.quiet,
        scenarios.standstill,
        scenarios.halves,
    ],
    ids=lambda scenario: scenario.__name__,
)
def test_no_seed_breaks_what_membership_promises(scenario: Scenario) -> None:
    """Routing, presence and placement believe membership; what each scenario promises, its docstring says."""
    name = scenario.__name__
    replayed = os.environ.get("HUBBUB_SEED")
    first = random.randrange(1 << 32)
    count = (LONG if IS_LONG_RUN else SHORT)[name]
    seeds = [int(replayed)] if replayed else range(first, first + count)
    took_s = []
    for seed in seeds:
        try:
            took_s.append(scenario(seed))
        except Exception:
            test = f"tests/cluster/test_membership_simulation.py -k '{name}'"
            print(f"seed {seed} fails; repeat it: HUBBUB_SEED={seed} python -m pytest {test}")
            raise
    print(
        f"{name}: {len(took_s)} seeds from {first}, took median {statistics.median(took_s):.2f} s,"
        f" worst {max(took_s):.2f} s"
    )


@pytest.mark.parametrize("seed", [1, 2, 3])
def test_a_seed_replays_exactly(seed: int) -> None:
    """Whoever hunts a failure down relies on the printed seed."""

    def live() -> str:
        world = World(seed, 4, network=Network(loss=0.1, max_delay_s=0.3, duplication=0.1))
        scenarios.grow(world)
        world.pause("n1", 8.0, loses_backlog=False)
        world.run(20.0)
        world.crash("n2")
        world.run(20.0)
        return world.trace.hexdigest()

    assert live() == live()
