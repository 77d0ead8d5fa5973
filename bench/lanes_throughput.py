"""How much do the lanes between two nodes carry, and how long does an item take?

Question: what is the ceiling that the lanes alone set for what nodes say to each other, on this machine?
Load: two processes, TCP on 127.0.0.1, envelopes sealed with a secret. (1) round trips on the control lane,
one at a time, with nothing else and while the data lane is saturated; (2) items one way on the data lane,
as many as it takes, for a few sizes; what a full lane refuses is offered again. The other process sends
back what comes by control, and counts what comes by data. Units: milliseconds, items per second, MB per
second. Prints one JSON line.

Run it with `python -m bench.lanes_throughput`.
"""

import argparse
import json
import multiprocessing
import os
import platform
import subprocess
from functools import partial
from multiprocessing.connection import Connection
from time import perf_counter

import trio

from cluster.lanes import Lane, Lanes, PeerAddress

_SECRET = b"a secret of some length"
_SIZES_BYTES = (100, 500, 2_000, 20_000)


def _open(node_id: str, on_item: "_OnItem") -> Lanes:
    return Lanes(
        node_id=node_id,
        boot=1,
        host="127.0.0.1",
        port=0,
        secret=_SECRET,
        tls=None,
        on_items=on_item.take,
        on_gap=lambda *_: None,
        on_link=lambda *_: on_item.is_up.set(),
    )


class _OnItem:
    """Echo what comes by control, and count what comes by data; tell the count at the end."""

    def __init__(self) -> None:
        self.lanes: Lanes | None = None
        self.count = 0
        self.is_up = trio.Event()

    def take(self, lane: Lane, node_id: str, _boot: int, items: list[bytes]) -> None:
        assert self.lanes is not None
        if lane is Lane.CONTROL:
            for item in items:
                self.lanes.send_nowait(node_id, Lane.CONTROL, item)
        else:
            self.count += len(items)
            if items[-1] == b"end":
                self.lanes.send_nowait(node_id, Lane.CONTROL, b"got %d" % self.count)
                self.count = 0


class _Answers(_OnItem):
    """Hand what comes by control to whoever waits."""

    def __init__(self) -> None:
        super().__init__()
        self.send, self.receive = trio.open_memory_channel[bytes](1_000)

    def take(self, lane: Lane, node_id: str, _boot: int, items: list[bytes]) -> None:
        for item in items:
            self.send.send_nowait(item)


async def _echo(pipe: Connection) -> None:
    """The other process."""
    on_item = _OnItem()
    lanes = on_item.lanes = _open("bob", on_item)
    async with trio.open_nursery() as nursery:
        await nursery.start(lanes.run)
        pipe.send(lanes.address)
        lanes.connect(pipe.recv())


def _run_echo(pipe: Connection) -> None:
    trio.run(_echo, pipe)


async def _round_trips(lanes: Lanes, answers: _Answers, count: int) -> list[float]:
    """Return the milliseconds that each of some round trips took, in order of size."""
    taken_ms = []
    for n in range(count):
        start = perf_counter()
        lanes.send_nowait("bob", Lane.CONTROL, b"%d" % n)
        while await answers.receive.receive() != b"%d" % n:
            pass  # the answer to something else
        taken_ms.append((perf_counter() - start) * 1e3)
    return sorted(taken_ms)


async def _offer(lanes: Lanes, item: bytes) -> None:
    """Queue an item, as soon as the lane takes it."""
    while True:
        if lanes.send_nowait("bob", Lane.DATA, item):
            return
        await trio.sleep(0.001)  # a lane tells nobody when it has drained


async def _one_way(lanes: Lanes, answers: _Answers, size_bytes: int, duration_s: float) -> float:
    """Return the items per second that arrived."""
    item = b"x" * size_bytes
    start = perf_counter()
    sent = 0
    while perf_counter() < start + duration_s:
        for _ in range(max(1, 50_000 // size_bytes)):
            await _offer(lanes, item)
            sent += 1
        await trio.lowlevel.checkpoint()
    await _offer(lanes, b"end")
    while not (await answers.receive.receive()).startswith(b"got "):
        pass
    return sent / (perf_counter() - start)


async def _saturate(lanes: Lanes) -> None:
    while True:
        await _offer(lanes, b"x" * 2_000)


async def _run(pipe: Connection, trips: int, duration_s: float) -> dict[str, object]:
    answers = _Answers()
    lanes = answers.lanes = _open("ann", answers)
    result: dict[str, object] = {}
    async with trio.open_nursery() as nursery:
        await nursery.start(lanes.run)
        peer: PeerAddress = pipe.recv()
        pipe.send(lanes.address)
        lanes.connect(peer)
        with trio.fail_after(20):
            await answers.is_up.wait()
        await _round_trips(lanes, answers, trips // 10)
        result["round_trip_ms"] = _percentiles(await _round_trips(lanes, answers, trips))
        for size_bytes in _SIZES_BYTES:
            per_s = await _one_way(lanes, answers, size_bytes, duration_s)
            result[f"items_{size_bytes}_per_s"] = round(per_s)
            result[f"items_{size_bytes}_mb_per_s"] = round(per_s * size_bytes / 1e6, 1)
        stats = lanes.stats().peers["bob"].data
        result["items_per_envelope"] = round(stats.items_sent / stats.envelopes_sent, 1)
        nursery.start_soon(_saturate, lanes)
        await _round_trips(lanes, answers, trips // 100)
        result["round_trip_saturated_ms"] = _percentiles(await _round_trips(lanes, answers, trips // 10))
        nursery.cancel_scope.cancel()
    return result


def _percentiles(taken_ms: list[float]) -> dict[str, float]:
    return {
        name: round(taken_ms[min(len(taken_ms) - 1, int(len(taken_ms) * share))], 3)
        for name, share in (("p50", 0.5), ("p99", 0.99), ("p999", 0.999))
    }


def _commit() -> str:
    run = subprocess.run(["git", "rev-parse", "--short", "HEAD"], capture_output=True, text=True, check=False)
    return run.stdout.strip() or "unknown"


def main() -> None:
    """Measure, and print one JSON line."""
    parser = argparse.ArgumentParser(description="Measure the lanes between two nodes.")
    parser.add_argument("--trips", type=int, default=5_000, help="round trips (default: 5000)")
    parser.add_argument("--seconds", type=float, default=3.0, help="time for each size (default: 3)")
    options = parser.parse_args()
    ours, theirs = multiprocessing.Pipe()
    # Not forked: nng's threads would be missing in the child.
    child = multiprocessing.get_context("spawn").Process(target=_run_echo, args=(theirs,), daemon=True)
    child.start()
    try:
        result = trio.run(partial(_run, ours, options.trips, options.seconds))
    finally:
        child.kill()
        child.join()
    machine = f"{platform.machine()}, {os.cpu_count()} cores, Python {platform.python_version()}"
    print(json.dumps({"bench": "lanes_throughput", "commit": _commit(), "machine": machine} | result))


if __name__ == "__main__":
    main()
