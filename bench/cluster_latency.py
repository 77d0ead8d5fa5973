"""How long until somebody on another node sees it: a message, a reader's mark, somebody's presence?

Real node processes over one directory, FULL durability, clients over WebSocket on all nodes. At a fixed
timetable (coordinated omission: a stall shows), one user at a time sends, reads, or becomes idle or active.
From the moment of the command to the event at each listener on another node than that user's, p50/p99 in ms.

usage: python -m bench.cluster_latency [--nodes N] [--seconds S] [--rate PER_S]
"""

import argparse
import json
import os
import platform
import subprocess
import tempfile
from collections import defaultdict
from contextlib import AsyncExitStack
from functools import partial
from pathlib import Path

import trio

import hubbub
from protocol import events
from tests.cluster_nodes import LOAD_FLAGS, ClusterProcesses

USERS_PER_NODE = 4


def _percentile(waits_s: list[float], share: float) -> float:
    ordered = sorted(waits_s)
    return round(1000 * ordered[min(len(ordered) - 1, int(share * len(ordered)))], 1)


class Stage:
    """Clients on all nodes, and when each thing was done that somebody waits to see."""

    def __init__(self) -> None:
        self.began: dict[tuple[str, object], float] = {}
        self.waits_s: dict[str, list[float]] = defaultdict(list)
        self.node_of: dict[str, int] = {}

    def seen(self, what: str, key: object, node: int, actor_id: str) -> None:
        began = self.began.get((what, key))
        if began is not None and self.node_of.get(actor_id) != node:
            self.waits_s[what].append(trio.current_time() - began)


async def _listen(stage: Stage, client: hubbub.Client, node: int) -> None:
    async for event in client.events():
        if isinstance(event, events.MessagePosted):
            stage.seen("message", event.text, node, event.user_id)
        elif isinstance(event, events.Receipts):
            for receipt in event.items:
                if receipt.read_seq:
                    stage.seen("read", (receipt.user_id, receipt.read_seq), node, receipt.user_id)
        elif isinstance(event, events.Presence):
            for item in event.items:
                stage.seen("presence", (item.user_id, item.state), node, item.user_id)


async def _act(stage: Stage, clients: list[hubbub.Client], group: str, seconds: float, rate: float) -> None:
    start = trio.current_time()
    number = 0
    last_seq = 0
    is_active = dict.fromkeys(range(len(clients)), True)
    while (due := start + number / rate) < start + seconds:
        await trio.sleep_until(due)
        who = number % len(clients)
        client = clients[who]
        kind = number // len(clients) % 3
        if kind == 0:
            stage.began["message", f"m{number}"] = due
            last_seq = (await client.send(group, f"m{number}")).seq
        elif kind == 1:
            stage.began["read", (client.user_id, last_seq)] = due
            await client.mark_read(group, last_seq)
        else:
            is_active[who] = not is_active[who]
            state = "online" if is_active[who] else "away"
            stage.began["presence", (client.user_id, state)] = due
            await client.set_active(is_active[who])
        number += 1
    await trio.sleep(1.0)


async def _run(cluster: ClusterProcesses, seconds: float, rate: float) -> dict[str, object]:
    stage = Stage()
    users: list[tuple[str, str, int]] = []
    for index, node in enumerate(cluster.nodes):
        for number in range(USERS_PER_NODE):
            user_id, token = await trio.to_thread.run_sync(node.sign_up, f"user{index}x{number}")
            users.append((user_id, token, index))
            stage.node_of[user_id] = index
    async with AsyncExitStack() as stack:
        clients = []
        for _, token, index in users:
            url = cluster.nodes[index].url
            clients.append(await stack.enter_async_context(hubbub.connect(url, token=token)))
        others = [user_id for user_id, _, _ in users[1:]]
        group = (await clients[0].create_group("everybody", others)).conversation_id
        async with trio.open_nursery() as nursery:
            for client, (_, _, index) in zip(clients, users, strict=True):
                nursery.start_soon(_listen, stage, client, index)
                await client.watch_presence([user_id for user_id, _, _ in users])
            await trio.sleep(1.0)  # what led here is not measured
            await _act(stage, clients, group, seconds, rate)
            nursery.cancel_scope.cancel()
    return {
        what: {"count": len(waits), "p50_ms": _percentile(waits, 0.5), "p99_ms": _percentile(waits, 0.99)}
        for what, waits in sorted(stage.waits_s.items())
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    parser.add_argument("--nodes", type=int, default=3)
    parser.add_argument("--seconds", type=float, default=20.0)
    parser.add_argument("--rate", type=float, default=20.0)
    arguments = parser.parse_args()
    commit = subprocess.run(
        ["git", "rev-parse", "--short", "HEAD"], capture_output=True, text=True, check=False
    )
    with tempfile.TemporaryDirectory() as directory:
        cluster = ClusterProcesses(Path(directory), arguments.nodes, *LOAD_FLAGS)
        try:
            cluster.start_all()
            found = trio.run(partial(_run, cluster, arguments.seconds, arguments.rate))
        finally:
            cluster.end_all()
    line = {
        "bench": "cluster_latency",
        "commit": commit.stdout.strip(),
        "machine": f"{platform.machine()} {os.cpu_count()} cores, Python {platform.python_version()}",
        "nodes": arguments.nodes,
        "per_s": arguments.rate,
        "to_another_node": found,
    }
    print(json.dumps(line))


if __name__ == "__main__":
    main()
