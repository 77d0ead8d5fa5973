"""One run of one workload against one server: what it is given, and what it brings back."""

from array import array
from collections.abc import Callable, Iterable
from typing import Final, cast

import msgspec

from bench.load.client import Connection
from bench.load.loop import Loop
from bench.load.meter import Meter
from bench.load.target import Target
from bench.load.wires import WIRES, WireFormat
from bench.report.results import Figure

WARM_UP_S: Final = 1.0  # caches fill, the first commits make their pages
NOTHING_COUNTED: Final = "nothing was counted in the measured part"
NOT_OURS: Final = "the server was started by others: its age and its data are not fresh, its costs not known"
LATE_S: Final = 0.3  # of listening on when all has come: the last message may come again
SETTLE_TIMEOUT_S: Final = 30.0  # for what is under way when the sending ends


class Samples:
    """Latencies in the order in which they were taken: at, latency, at, latency, … in seconds."""

    __slots__ = ("values",)

    def __init__(self) -> None:
        self.values = array("d")

    def add(self, at: float, latency_s: float) -> None:
        values = self.values
        values.append(at)
        values.append(latency_s)

    def clear(self) -> None:
        del self.values[:]

    def __len__(self) -> int:
        return len(self.values) // 2

    @classmethod
    def joined(cls, several: "Iterable[Samples]") -> "Samples":
        """All of several together, in order."""
        joined = cls()
        for at, latency_s in sorted(
            (each.values[place], each.values[place + 1])
            for each in several
            for place in range(0, len(each.values), 2)
        ):
            joined.add(at, latency_s)
        return joined


class Setting(msgspec.Struct, frozen=True, kw_only=True):
    """What a workload runs against."""

    target: Target
    wire_name: str
    seconds: float  # of the measured part
    scale: float = 1.0  # of the number of users: 1 is what the workload says, tests take less

    @property
    def wire(self) -> WireFormat:
        return WIRES[self.wire_name]()

    def scaled(self, count: int, *, least: int = 2) -> int:
        """How many users instead of `count`."""
        return max(least, round(count * self.scale))

    def address(self, number: int) -> tuple[str, int]:
        """Where the connection of this number goes: spread over the nodes."""
        addresses = self.target.addresses(self.wire_name)
        return addresses[number % len(addresses)]


class Trial(msgspec.Struct, kw_only=True):
    """What a run brought: raw samples, which report/ makes percentiles and series of."""

    variant: str
    started_at: float  # of the measured part, by the loop's clock
    seconds: float
    figures: list[Figure]
    samples: dict[str, Samples] = {}  # name of the latency -> samples; the first is the main one
    server_cpu_s: float = 0.0
    client_cpu_s: float = 0.0
    is_client_bound: bool = False
    errors: list[str] = []  # codes that the server answered with, in the measured part
    findings: list[str] = []  # what was verified, or what is wrong
    is_sound: bool  # whether all was verified, and there was something to verify
    notes: list[str] = []


class Workload(msgspec.Struct, frozen=True, kw_only=True):
    """One question to a server."""

    name: str  # W1
    title: str
    variants: tuple[str, ...]
    run: Callable[[Setting, str], Trial]
    wires: tuple[str, ...] = ("json", "msgpack", "bot")
    has_peer: bool = True  # whether peers can be asked the same
    kills: bool = False  # whether the server is killed, which has to be one of ours then
    has_own_targets: bool = False  # whether only servers that were prepared for it take part
    node_counts: tuple[int, ...] = (1,)


def measured(meter: Meter, **rest: object) -> Trial:
    """A trial with what the meter has measured. One that counted nothing is not sound."""
    notes = cast("list[str]", rest.pop("notes", []))
    samples = cast("dict[str, Samples]", rest.get("samples", {}))
    if not any(map(len, samples.values())):
        rest["is_sound"] = False
        rest["findings"] = [*cast("list[str]", rest.get("findings", [])), NOTHING_COUNTED]
    fields = {
        "started_at": meter.started_at,
        "seconds": meter.seconds,
        "server_cpu_s": meter.server_cpu_s,
        "client_cpu_s": meter.client_cpu_s,
        "is_client_bound": meter.is_client_bound,
        "notes": notes if meter.knows_costs else [*notes, NOT_OURS],
    }
    return Trial(**(fields | rest))  # type: ignore[arg-type]  # the callers' fields are checked by the tests


def close_all(loop: Loop, connections: Iterable[Connection]) -> None:
    """Drop all connections and the loop."""
    for connection in connections:
        connection.close()
    loop.close()
