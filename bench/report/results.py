"""What one run of one workload found, and the JSON lines file that keeps it.

A file is the machine, then what was measured there, a line each; another machine's line begins another run.
The Structs only grow: a new field has a default, and a reader skips the fields that it does not know.
"""

import math
import os
import platform
import re
import sqlite3
import subprocess
from collections.abc import Iterable
from pathlib import Path
from typing import Final

import msgspec

CPU_PER_THOUSAND: Final = (
    "server CPU per 1,000"  # the figure's name that the tables have a column for; seconds
)


class Figure(msgspec.Struct, frozen=True, kw_only=True):
    """One number that a run found."""

    name: str
    """What was counted or measured: "delivered", "memory per connection"."""
    value: float
    """In `unit`. Finite, or else ValueError: JSON has no other numbers."""
    unit: str
    """"/s", "ms", "KiB", "s", "%", or "" for a count."""
    is_higher_better: bool = True
    is_headline: bool = False
    """Whether the tables show it, with its ratio to the peer's."""

    def __post_init__(self) -> None:
        if not math.isfinite(self.value):
            raise ValueError(f"{self.name} is {self.value}")


class Latency(msgspec.Struct, frozen=True, kw_only=True):
    """How long something took: percentiles in milliseconds, each of them a time that was observed."""

    name: str
    """From when to when: "delivery", "ack", "last member"."""
    count: int
    """How many were observed; with 0 all times are 0."""
    p50_ms: float
    p90_ms: float
    p99_ms: float
    p999_ms: float
    max_ms: float


class Point(msgspec.Struct, frozen=True, kw_only=True):
    """One interval of a run. In an interval in which nothing arrived, `per_s` and both times are 0."""

    at_s: float
    """When it began, in seconds since the measurement's start."""
    per_s: float
    p50_ms: float
    p99_ms: float


class Measurement(msgspec.Struct, frozen=True, kw_only=True, tag="measurement"):
    """One round of one workload against one target."""

    bench: str = "hubbub bench"
    workload: str
    """"W1" to "W9"."""
    variant: str
    """"window 10"; empty where the workload has only one."""
    target: str
    """What was measured: "hubbub", or a peer's name ("uvicorn")."""
    wire: str
    """What the client spoke: "json", "msgpack", "bot"."""
    node_count: int
    round: int
    """Whatever has the same round, workload and variant ran within the same minutes, so may be compared."""
    started_at_ms: int
    """Unix ms, UTC."""
    seconds: float
    """How long was measured, without start and warm-up."""
    figures: list[Figure]
    latencies: list[Latency]
    """The first is the one that the tables and charts show."""
    series: list[Point]
    server_cpu_s: float
    """CPU seconds of all the target's processes while it was measured."""
    client_cpu_s: float
    """CPU seconds of the load client in that time."""
    client_share: float
    """0 to 1: the part of one core that the load client used."""
    is_client_bound: bool
    """Whether the client may have been the bottleneck: the target may be faster than the figures say."""
    error_count: int
    """How many commands were refused or connections were lost against the plan."""
    findings: list[str]
    """What was verified, or what is wrong."""
    is_sound: bool
    """False if a check failed; such a run has no ratio."""
    notes: list[str]


class Machine(msgspec.Struct, frozen=True, kw_only=True, tag="machine"):
    """Where and with what a run was made. What the system does not tell is "unknown" or 0."""

    cpu_model: str
    core_count: int
    memory_gib: float
    python: str
    sqlite: str
    kernel: str
    commit: str
    """The commit of the code, with "-dirty" where files differ from it."""
    pinned: str
    """Who was pinned to which core: "server on core 0, client on core 1"."""
    load_before: float
    """The 1-minute load average just before."""


class Run(msgspec.Struct, frozen=True, kw_only=True):
    """What was measured on one machine in one go."""

    machine: Machine
    measurements: list[Measurement]


class ResultsUnreadable(Exception):
    """A results file has a line that is none of ours."""


Record = Machine | Measurement

_DECODER: Final = msgspec.json.Decoder(Record)
_UNKNOWN: Final = "unknown"
_GIT_PATIENCE_S: Final = 10.0  # `git describe --dirty` looks at every file; it takes 0.1 s on a warm disk


def append_line(path: Path, record: Record) -> None:
    """Write one record at the file's end, in one write, and make the file where there is none.

    Raises:
        OSError: the file cannot be written.
    """
    with path.open("ab") as file:
        file.write(msgspec.json.encode(record) + b"\n")


def read_lines(path: Path) -> list[Record]:
    """Read all records of a file, in order. Empty lines are skipped.

    Raises:
        OSError: the file cannot be read.
        ResultsUnreadable: a line is broken, or its kind is not known; the text says which.
    """
    records: list[Record] = []
    for number, line in enumerate(path.read_bytes().split(b"\n"), start=1):
        if not line.strip():
            continue
        try:
            records.append(_DECODER.decode(line))
        except msgspec.MsgspecError as exc:
            raise ResultsUnreadable(f"{path}, line {number}: {exc}") from exc
    return records


def runs(records: Iterable[Record]) -> list[Run]:
    """Group records by the machine's line before them.

    Raises:
        ResultsUnreadable: the first record is no machine.
    """
    found: list[Run] = []
    for record in records:
        if isinstance(record, Machine):
            found.append(Run(machine=record, measurements=[]))
        elif found:
            found[-1].measurements.append(record)
        else:
            raise ResultsUnreadable("the first line must be the machine's")
    return found


def machine(*, pinned: str = "nothing pinned") -> Machine:
    """Describe this machine. It asks git for the commit, which takes some 0.1 s: call it before a run."""
    return Machine(
        cpu_model=_cpu_model(),
        core_count=os.cpu_count() or 0,
        memory_gib=_memory_gib(),
        python=f"{platform.python_implementation()} {platform.python_version()}",
        sqlite=sqlite3.sqlite_version,
        kernel=f"{platform.system()} {platform.release()}",
        commit=_commit(),
        pinned=pinned,
        load_before=_load(),
    )


def _cpu_model() -> str:
    try:
        text = Path("/proc/cpuinfo").read_text(errors="replace")
    except OSError:  # not Linux
        return platform.processor() or platform.machine() or _UNKNOWN
    # ARM kernels name no model there.
    model = re.search(r"^model name\s*:\s*(.+)$", text, re.MULTILINE)
    return model.group(1).strip() if model else platform.machine() or _UNKNOWN


def _memory_gib() -> float:
    try:
        return round(os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") / 2**30, 1)
    except (AttributeError, ValueError, OSError):  # no sysconf, or it knows no such name
        return 0.0


def _commit() -> str:
    try:
        run = subprocess.run(
            ["git", "describe", "--always", "--dirty", "--exclude=*"],
            cwd=Path(__file__).parent,
            capture_output=True,
            text=True,
            check=False,
            timeout=_GIT_PATIENCE_S,
        )
    except (OSError, subprocess.TimeoutExpired):  # no git here
        return _UNKNOWN
    return run.stdout.strip() or _UNKNOWN


def _load() -> float:
    try:
        return round(os.getloadavg()[0], 2)
    except (AttributeError, OSError):
        return 0.0
