"""Run workloads against servers, round by round, so that what is compared ran within the same minutes."""

import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Final

import msgspec

from bench.load.client import Closed
from bench.load.loop import TimedOut
from bench.load.target import CannotRun, Cores, Remote, Target, running
from bench.load.trial import Samples, Setting, Trial, Workload
from bench.report import Measurement, percentiles, series

POINT_COUNT: Final = 60  # of a run's picture


class Entrant(msgspec.Struct, frozen=True):
    """A server to measure, and how it is spoken to."""

    kind: type[Target]
    wire: str
    node_count: int = 1
    options: dict[str, object] = {}
    workload: str = ""  # the only one that it is prepared for; empty: all that have no servers of their own
    variants: tuple[str, ...] = ()  # the only ones that it takes part in; empty: all

    @property
    def title(self) -> str:
        nodes = f" × {self.node_count}" if self.node_count > 1 else ""
        return f"{self.kind.name}{nodes} {self.wire}"


class Job(msgspec.Struct, frozen=True):
    """One run to do."""

    workload: Workload
    variant: str
    entrant: Entrant
    round: int


class Plan(msgspec.Struct, frozen=True, kw_only=True):
    """What to run, and how long."""

    workloads: Sequence[Workload]
    variants: Sequence[str]  # those whose name contains one of these; all, if none is given
    entrants: Sequence[Entrant]
    rounds: int
    seconds: float
    scale: float = 1.0

    def jobs(self) -> list[Job]:
        """All runs, in order: the entrants of one variant follow each other within a round.

        Each round another one is the first, so that a machine that warms up or tires is not one's luck.
        """
        return [
            Job(workload, variant, entrant, number)
            for workload in self.workloads
            for variant in workload.variants
            if not self.variants or any(part in variant for part in self.variants)
            for number in range(1, self.rounds + 1)
            for entrant in _turned(
                [
                    entrant
                    for entrant in self.entrants
                    if _takes_part(workload, entrant) and variant in (entrant.variants or workload.variants)
                ],
                number - 1,
            )
        ]


def _turned(entrants: Sequence[Entrant], by: int) -> Sequence[Entrant]:
    start = by % len(entrants) if entrants else 0
    return [*entrants[start:], *entrants[:start]]


def _takes_part(workload: Workload, entrant: Entrant) -> bool:
    if entrant.node_count not in workload.node_counts or entrant.wire not in workload.wires:
        return False
    if (entrant.workload or workload.has_own_targets) and entrant.workload != workload.name:
        return False
    if workload.kills and entrant.kind is Remote:
        return False
    return workload.has_peer or entrant.kind.name == "hubbub"


def run_jobs(
    plan: Plan, cores: Cores, *, keep: Path | None, on_start: Callable[[Job, int, int], None]
) -> Iterator[Measurement]:
    """Do what is planned. A run that breaks off is a measurement as well, and not a sound one.

    Raises: CannotRun, where a server does not start.
    """
    jobs = plan.jobs()
    for number, job in enumerate(jobs, 1):
        on_start(job, number, len(jobs))
        yield run_job(job, plan, cores, keep=keep)


def run_job(job: Job, plan: Plan, cores: Cores, *, keep: Path | None = None) -> Measurement:
    """Do one run against a server of its own. Raises: CannotRun."""
    started_at_ms = time.time_ns() // 1_000_000
    entrant = job.entrant
    with running(entrant.kind, cores, keep=keep, **entrant.options) as target:
        setting = Setting(target=target, wire_name=entrant.wire, seconds=plan.seconds, scale=plan.scale)
        try:
            trial = job.workload.run(setting, job.variant)
        except (Closed, TimedOut) as exc:
            trial = Trial(
                variant=job.variant,
                started_at=0.0,
                seconds=0.0,
                figures=[],
                findings=[f"broken off: {exc}"],
                is_sound=False,
            )
    return measurement_of(job, trial, started_at_ms)


def measurement_of(job: Job, trial: Trial, started_at_ms: int) -> Measurement:
    """Sum up a run."""
    first = next(iter(trial.samples.values()), Samples())
    arrivals = [
        (first.values[i] - trial.started_at, first.values[i + 1]) for i in range(0, len(first.values), 2)
    ]
    return Measurement(
        workload=job.workload.name,
        variant=job.variant,
        target=job.entrant.kind.name,
        wire=job.entrant.wire,
        node_count=job.entrant.node_count,
        round=job.round,
        started_at_ms=started_at_ms,
        seconds=trial.seconds,
        figures=trial.figures,
        latencies=[percentiles(samples.values[1::2], name=name) for name, samples in trial.samples.items()],
        series=series(arrivals, trial.seconds / POINT_COUNT, until_s=trial.seconds) if arrivals else [],
        server_cpu_s=trial.server_cpu_s,
        client_cpu_s=trial.client_cpu_s,
        client_share=trial.client_cpu_s / trial.seconds if trial.seconds else 0.0,
        is_client_bound=trial.is_client_bound,
        error_count=len(trial.errors),
        findings=trial.findings,
        is_sound=trial.is_sound,
        notes=trial.notes,
    )


__all__ = ["CannotRun", "Entrant", "Job", "Plan", "measurement_of", "run_job", "run_jobs"]
