"""Run a workload small, against a real server in a process of its own."""

from collections.abc import Iterator
from contextlib import contextmanager

from bench.load.target import PEERS, Cores, Hubbub, Target, running
from bench.load.trial import NOTHING_COUNTED, Setting, Trial, Workload

KINDS: dict[str, type[Target]] = {"hubbub": Hubbub, **PEERS}
# Every server and wire that a workload without a choice of its own is for.
ENTRANTS = [(Hubbub.name, wire) for wire in Hubbub.wires] + [(name, "json") for name in PEERS]


@contextmanager
def small_setting(kind: str, wire: str, *, scale: float = 0.03) -> Iterator[Setting]:
    """A server that runs, and a half second to load it. Nothing is pinned: other tests run too."""
    cores = Cores()
    cores.is_pinned = False
    with running(KINDS[kind], cores) as target:
        yield Setting(target=target, wire_name=wire, seconds=0.5, scale=scale)


def run_small(workload: Workload, variant: str, kind: str, wire: str, *, scale: float = 0.03) -> Trial:
    """Run one variant, and again where a busy machine gave the server no time in the half second."""
    with small_setting(kind, wire, scale=scale) as setting:
        for _ in range(3):
            trial = workload.run(setting, variant)
            if NOTHING_COUNTED not in trial.findings:
                break
        return trial


def figures_of(trial: Trial) -> dict[str, float]:
    """Values by name."""
    return {figure.name: figure.value for figure in trial.figures}
