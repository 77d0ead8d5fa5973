"""How many messages a second does one node's actor runtime carry, and what does an actor cost?

Question: what is the ceiling that the runtime alone sets, before the protocol, the store and sockets?
Load: one process, no I/O. (1) tells through router, mailbox and entity, to one actor and spread over many, in
bursts as large as a mailbox, each burst drained before the next; (2) asks whose answers are given in `flush`;
(3) one `ask` at a time, which pays two task switches; (4) activations of fresh actors by their first message,
and their passivation; (5) the Python heap of an idle actor, without a state of its own.
Units: messages per second, microseconds, bytes. Prints one JSON line.

Run it with `python -m bench.actors_throughput`.
"""

import argparse
import gc
import json
import os
import platform
import subprocess
import tracemalloc
from time import perf_counter

import trio
from trio.testing import wait_all_tasks_blocked

from actors import MAILBOX_CAPACITY, Address, Entity, EntityHost, LocalRouter, Reply, ReplySlot

_KIND = "bench"
_SPREAD_ACTORS = 200


class _Counter(Entity):
    """Count messages, and answer the batch in `flush`, as a conversation does after its append."""

    __slots__ = ("_owed", "_seen")

    def __init__(self, _address: Address) -> None:
        self._seen = 0
        self._owed: list[Reply] = []

    async def receive(self, message: object, reply: Reply) -> None:
        self._seen += 1
        self._owed.append(reply)

    async def flush(self) -> None:
        for reply in self._owed:
            reply.resolve(self._seen)
        self._owed.clear()


async def _tells(router: LocalRouter, addresses: list[Address], count: int) -> float:
    """Return messages per second of tells, `MAILBOX_CAPACITY` to each address in turn."""
    for address in addresses:
        await router.ask(address, "wake", timeout_s=5)
    start = perf_counter()
    for _ in range(count // (MAILBOX_CAPACITY * len(addresses))):
        for address in addresses:
            for n in range(MAILBOX_CAPACITY):
                router.tell(address, n)
        await wait_all_tasks_blocked()
    sent = count // (MAILBOX_CAPACITY * len(addresses)) * MAILBOX_CAPACITY * len(addresses)
    return sent / (perf_counter() - start)


async def _asks(router: LocalRouter, address: Address, count: int) -> float:
    """Return messages per second of asks whose replies are not awaited by a task each, as sessions do it."""
    start = perf_counter()
    for _ in range(count // MAILBOX_CAPACITY):
        slots = [ReplySlot() for _ in range(MAILBOX_CAPACITY)]
        for slot in slots:
            router.ask_nowait(address, "x", slot)
        await slots[-1].wait()
    return count / (perf_counter() - start)


async def _round_trips(router: LocalRouter, address: Address, count: int) -> float:
    """Return the seconds that one `ask` takes when nothing else happens."""
    start = perf_counter()
    for _ in range(count):
        await router.ask(address, "x", timeout_s=5)
    return (perf_counter() - start) / count


async def _run(message_count: int, actor_count: int) -> dict[str, float]:
    router = LocalRouter()
    host = EntityHost(
        _KIND,
        _Counter,
        router=router,
        on_dead_letter=lambda *_: None,
        max_active=actor_count + _SPREAD_ACTORS + 1,
    )
    router.add(host)
    async with trio.open_nursery() as nursery:
        await nursery.start(host.run)
        one = Address(_KIND, "one")
        many = [Address(_KIND, f"spread-{n}") for n in range(_SPREAD_ACTORS)]
        fresh = [Address(_KIND, f"fresh-{n}") for n in range(actor_count)]
        tells_one = await _tells(router, [one], message_count)
        tells_many = await _tells(router, many, message_count)
        asks = await _asks(router, one, message_count)
        round_trip_s = await _round_trips(router, one, message_count // 20)

        def is_fresh(address: Address) -> bool:
            return address.id.startswith("fresh-")

        start = perf_counter()
        for address in fresh:
            router.tell(address, "wake")
        await wait_all_tasks_blocked()
        activation_s = (perf_counter() - start) / actor_count
        start = perf_counter()
        await host.passivate_matching(is_fresh, deadline_s=60)
        passivation_s = (perf_counter() - start) / actor_count

        gc.collect()
        tracemalloc.start()
        before_bytes, _ = tracemalloc.get_traced_memory()
        for address in fresh:
            router.tell(address, "wake")
        await wait_all_tasks_blocked()
        gc.collect()
        idle_bytes = (tracemalloc.get_traced_memory()[0] - before_bytes) / actor_count
        tracemalloc.stop()
        await host.drain(deadline_s=60)
    return {
        "tell_one_actor_per_s": round(tells_one),
        "tell_200_actors_per_s": round(tells_many),
        "ask_batched_per_s": round(asks),
        "ask_round_trip_us": round(round_trip_s * 1e6, 1),
        "activation_us": round(activation_s * 1e6, 1),
        "passivation_us": round(passivation_s * 1e6, 1),
        "idle_actor_bytes": round(idle_bytes),
    }


def _commit() -> str:
    run = subprocess.run(["git", "rev-parse", "--short", "HEAD"], capture_output=True, text=True, check=False)
    return run.stdout.strip() or "unknown"


def main() -> None:
    """Measure, and print one JSON line."""
    parser = argparse.ArgumentParser(description="Measure the actor runtime by itself.")
    parser.add_argument("--messages", type=int, default=400_000, help="messages per load (default: 400000)")
    parser.add_argument("--actors", type=int, default=5_000, help="actors to activate (default: 5000)")
    options = parser.parse_args()
    result = trio.run(_run, options.messages, options.actors)
    machine = f"{platform.machine()}, {os.cpu_count()} cores, Python {platform.python_version()}"
    print(json.dumps({"bench": "actors_throughput", "commit": _commit(), "machine": machine} | result))


if __name__ == "__main__":
    main()
