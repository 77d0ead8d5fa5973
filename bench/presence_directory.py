"""What does it cost a node to know where everybody is connected?

Question: how many presence changes a second does one node take in from its peers and make of its own users;
what does the look-up cost that every event needs before it is sent to other nodes; how long does one call
stall the node when a peer with many users is lost; and what does a remembered user weigh?
Load: one process, no I/O. Three nodes; each peer has `--users`. (1) local changes, one at a time, with
`due` after each, as for a session that is welcomed; (2) deltas of 500 changes, decoded from MessagePack and
applied, with the ack made; (3) `nodes_of` for users chosen at random, and while a node is lost; (4) the
longest call of `due` after the grace of a lost peer, and all of them together; (5) the Python heap per
remote user.
Units: changes per second, nanoseconds, milliseconds, bytes. Prints one JSON line.

Run it with `python -m bench.presence_directory`.
"""

import argparse
import gc
import json
import os
import platform
import random
import subprocess
import tracemalloc
from time import perf_counter

import msgspec

from cluster.presence import PresenceDirectory
from cluster.presence_messages import PresenceAck, PresenceDelta, PresenceMessage
from cluster.presence_replica import GRACE_S
from protocol.types import PresenceState

_PEERS = ("b", "c")
_decoder = msgspec.msgpack.Decoder(PresenceMessage)


def _directory(node_id: str) -> PresenceDirectory:
    def on_change(user_id: str, state: PresenceState, last_seen_ms: int) -> None:
        """Cost nothing here: what the hub does with it is its own."""

    return PresenceDirectory(
        node_id, 1, on_change=on_change, on_gone=lambda *_: None, now_ms=lambda: 1_700_000_000_000
    )


def _payloads(node_id: str, user_count: int) -> list[bytes]:
    """Make a peer's users known in deltas: all of them come, and half of them then move."""
    writer = _directory(node_id)
    writer.peer_up("a", 1, 0.0)
    payloads: list[bytes] = []
    for state, step in (("online", 1), ("away", 2)):
        for n in range(0, user_count, step):
            moved: PresenceState = "online" if state == "online" else "away"
            writer.local_changed(f"user-{node_id}-{n:08d}", moved, 0, 0.0, urgent=True)
        sent: list[PresenceMessage] = [message for _, message in writer.due(0.0)]
        while sent:
            message = sent.pop()
            if isinstance(message, PresenceDelta):
                payloads.append(msgspec.msgpack.encode(message))
                sent += writer.received("a", 1, PresenceAck(1, message.to_version), 0.0)
    return payloads


def _local(user_count: int) -> float:
    """Return changes per second of own users, with what is sent to two peers that ack at once."""
    directory = _directory("a")
    for peer in _PEERS:
        directory.peer_up(peer, 1, 0.0)
    start = perf_counter()
    for n in range(user_count):
        version = directory.local_changed(f"user-{n}", "online", 0, 0.0, urgent=True)
        for node_id, message in directory.due(0.0):
            if isinstance(message, PresenceDelta):
                directory.received(node_id, 1, PresenceAck(1, version), 0.0)
    return user_count / (perf_counter() - start)


def _look_ups(directory: PresenceDirectory, user_ids: list[str]) -> float:
    start = perf_counter()
    for user_id in user_ids:
        directory.nodes_of(user_id)
    return (perf_counter() - start) / len(user_ids) * 1e9


def _run(user_count: int) -> dict[str, float]:
    payloads = {peer: _payloads(peer, user_count) for peer in _PEERS}
    local_per_s = _local(user_count)
    directory = _directory("a")
    for peer in _PEERS:
        directory.peer_up(peer, 1, 0.0)
    directory.due(0.0)
    start = perf_counter()
    for peer in _PEERS:
        for payload in payloads[peer]:
            directory.received(peer, 1, _decoder.decode(payload), 0.0)
    applied_s = perf_counter() - start
    assert directory.counts().shown_elsewhere == len(_PEERS) * user_count
    choice = random.Random(1)
    user_ids = [
        f"user-{choice.choice(_PEERS)}-{choice.randrange(user_count):08d}"
        for _ in range(min(user_count, 200_000))
    ]
    nodes_of_ns = _look_ups(directory, user_ids)
    directory.node_lost("b", 1, 0.0)
    nodes_of_lost_ns = _look_ups(directory, user_ids)
    calls_s: list[float] = []
    while directory.next_deadline <= GRACE_S:
        start = perf_counter()
        directory.due(GRACE_S)
        calls_s.append(perf_counter() - start)

    del directory
    gc.collect()
    tracemalloc.start()
    before_bytes, _ = tracemalloc.get_traced_memory()
    kept = _directory("a")
    for peer in _PEERS:
        kept.peer_up(peer, 1, 0.0)
        for payload in payloads[peer]:
            kept.received(peer, 1, _decoder.decode(payload), 0.0)
    gc.collect()
    entry_bytes = (tracemalloc.get_traced_memory()[0] - before_bytes) / (len(_PEERS) * user_count)
    tracemalloc.stop()
    return {
        "local_changes_per_s": round(local_per_s),
        "applied_changes_per_s": round(len(_PEERS) * user_count * 1.5 / applied_s),
        "nodes_of_ns": round(nodes_of_ns),
        "nodes_of_while_one_is_lost_ns": round(nodes_of_lost_ns),
        "loss_longest_call_ms": round(max(calls_s) * 1e3, 2),
        "loss_all_calls_ms": round(sum(calls_s) * 1e3, 1),
        "remote_user_bytes": round(entry_bytes),
    }


def _commit() -> str:
    run = subprocess.run(["git", "rev-parse", "--short", "HEAD"], capture_output=True, text=True, check=False)
    return run.stdout.strip() or "unknown"


def main() -> None:
    """Measure, and print one JSON line."""
    parser = argparse.ArgumentParser(description="Measure the presence directory by itself.")
    parser.add_argument("--users", type=int, default=50_000, help="users of each peer (default: 50000)")
    options = parser.parse_args()
    result = _run(options.users)
    machine = f"{platform.machine()}, {os.cpu_count()} cores, Python {platform.python_version()}"
    print(json.dumps({"bench": "presence_directory", "commit": _commit(), "machine": machine} | result))


if __name__ == "__main__":
    main()
