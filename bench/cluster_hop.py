"""What does it cost to be on another node: of a send, of an event, and of finding out who must hear it?

Nodes in one process over one directory, lanes in memory: so the hop costs what encoding, decoding and routing
cost, without sockets, and all nodes share one core. FULL durability. One JSON line:
- sends: one sender keeps 10 sends unacked (closed loop) to a conversation that its own node owns, and to one
  that the other node owns. Acked per second, and the second as a share of the first.
- hop: the same question to an actor that answers at once, without a store: near, and over a hop, in us.
- events: a group of 500 members, its listeners on 0, 1 and 2 other nodes besides the owner's: microseconds of
  the owner's `publish` with the encoding for each lane, and of that the search for the nodes (`nodes_us`),
  where all members are connected and where none is.

usage: python -m bench.cluster_hop [--seconds S] [--events N]
"""

import argparse
import json
import os
import platform
import subprocess
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import structlog
import trio

from actors.address import Address
from actors.healer import StoreHealer
from actors.hub import Hub
from actors.messages import Told
from cluster import wire
from cluster.fanout import ClusterFanout
from cluster.presence import PresenceDirectory
from cluster.presence_messages import PresenceDelta
from protocol import events
from protocol.codec import Encoded
from protocol.errors import HubbubError
from tests.actors.healing import History
from tests.cluster.router_world import Answer, Node, RouterWorld
from tests.cluster.worlds import ClusterWorld, open_cluster
from tests.server.world import Device

WINDOW = 10  # unacked sends of the sender
MEMBERS = [f"u_{n}" for n in range(500)]


async def _sends_per_s(sender: Device, conversation_id: str, seconds: float) -> float:
    acked = 0
    until = trio.current_time() + seconds

    async def send() -> None:
        nonlocal acked
        while trio.current_time() < until:
            try:
                await sender.send(conversation_id, "x" * 100)
            except HubbubError:
                await trio.sleep(0.01)
            else:
                acked += 1

    async with trio.open_nursery() as nursery:
        for _ in range(WINDOW):
            nursery.start_soon(send)
    return acked / seconds


async def _owned_by(cluster: ClusterWorld, owner: str, one: Device, other: Device) -> str:
    while True:
        group = await cluster.members["n1"].group(one, other)
        if cluster.owner_of("conversation", group).name == owner:
            return group


async def _measure_sends(seconds: float) -> dict[str, float]:
    with tempfile.TemporaryDirectory() as directory:
        async with open_cluster(Path(directory), "n1", "n2", timeout_s=60 + 4 * seconds) as cluster:
            members = cluster.members
            ann = await members["n1"].connect(await members["n1"].user("ann"))
            bob = await members["n2"].connect(await members["n2"].user("bob"))
            near = await _owned_by(cluster, "n1", ann, bob)
            far = await _owned_by(cluster, "n2", ann, bob)
            await _sends_per_s(ann, near, 0.5)
            local = await _sends_per_s(ann, near, seconds)
            forwarded = await _sends_per_s(ann, far, seconds)
    return {
        "sends_local_per_s": round(local),
        "sends_forwarded_per_s": round(forwarded),
        "forwarded_share": round(forwarded / local, 2),
    }


def _per_call_us(count: int, call: Callable[[], object]) -> float:
    start = time.perf_counter()
    for _ in range(count):
        call()
    return round((time.perf_counter() - start) / count * 1e6, 2)


def _ask(world: RouterWorld, node: Node) -> None:
    answer = Answer()
    node.router.ask_nowait(Address("user", "u"), Told("t", "x" * 100), answer)
    world.settle()
    assert answer.is_done


async def _measure_hop(count: int) -> dict[str, float]:
    world = RouterWorld("n1", "n2")
    shard = Address("user", "u").shard
    world.move(shard, "n1")
    world.tell_all(shard)
    near = _per_call_us(count, lambda: _ask(world, world.nodes["n1"]))
    far = _per_call_us(count, lambda: _ask(world, world.nodes["n2"]))
    return {"ask_local_us": near, "ask_over_hop_us": far, "hop_us": round(far - near, 2)}


class _Peers:
    """Lanes that take everything."""

    def __init__(self, node_ids: list[str]) -> None:
        self.node_ids = node_ids

    def send_all(self, node_ids: object, item: wire.Item) -> None:
        wire.encode(item)


def _directory(node_count: int, *, is_connected: bool) -> PresenceDirectory:
    """What one node knows of others that hold the members' connections in turn."""
    directory = PresenceDirectory(
        "n0", 1, on_change=lambda *_: None, on_gone=lambda *_: None, now_ms=lambda: 0
    )
    for number in range(1, node_count + 1):
        directory.peer_up(f"n{number}", 1, 0.0)
        mine = MEMBERS[number - 1 :: node_count] if is_connected else []
        items = [(user_id, "online", 0) for user_id in mine]
        delta = PresenceDelta(1, 0, 1, 0, is_last=True, items=items)  # type: ignore[arg-type]  # literals
        directory.received(f"n{number}", 1, delta, 0.0)
    return directory


def _measure_events(count: int) -> dict[str, object]:
    found: dict[str, object] = {}
    world = RouterWorld("n0")
    for node_count in (0, 1, 2):
        hub = Hub(now_ms=lambda: 0)
        for is_connected in (True, False):
            fanout = ClusterFanout(
                hub,
                _Peers([f"n{n + 1}" for n in range(node_count)]),
                world.nodes["n0"],
                StoreHealer(History(), hub),
                node_id="n0",
                boot=lambda: 1,
                nodes_of=_directory(node_count, is_connected=is_connected).nodes_of,
            )
            members = dict.fromkeys(MEMBERS)

            def publish(fanout: ClusterFanout = fanout, members: dict[str, None] = members) -> None:
                event = events.MessagePosted(conversation_id="c", seq=1, user_id="u", text="x" * 100)
                fanout.publish("c", 1, Encoded(event), to=members.keys())

            def search(fanout: ClusterFanout = fanout, members: dict[str, None] = members) -> None:
                fanout._nodes(members.keys())

            name = f"to_{node_count}_nodes" + ("" if is_connected else "_all_away")
            found[name] = {
                "publish_us": _per_call_us(count, publish),
                "nodes_us": _per_call_us(count, search),
            }
    return found


def _commit() -> str:
    run = subprocess.run(["git", "rev-parse", "--short", "HEAD"], capture_output=True, text=True, check=False)
    return run.stdout.strip() or "unknown"


def main() -> None:
    """Measure, and print one JSON line."""
    parser = argparse.ArgumentParser(description="Measure what a hop between nodes costs.")
    parser.add_argument("--seconds", type=float, default=3.0, help="of each load of sends (default: 3)")
    parser.add_argument("--events", type=int, default=5_000, help="calls to take the mean of (default: 5000)")
    options = parser.parse_args()
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(40))
    machine = f"{platform.machine()}, {os.cpu_count()} cores, Python {platform.python_version()}"
    result: dict[str, object] = {"bench": "cluster_hop", "commit": _commit(), "machine": machine}
    result |= trio.run(_measure_sends, options.seconds)
    result |= trio.run(_measure_hop, options.events)
    result["events"] = _measure_events(options.events)
    print(json.dumps(result))


if __name__ == "__main__":
    main()
