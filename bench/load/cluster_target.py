"""`hubbub cluster` under load: several nodes over one data directory, started as an operator starts them."""

import os
import select
import time
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, Final

from actors.address import SHARD_COUNT, Address
from bench.load.target import LIMITS, START_TIMEOUT_S, CannotRun, Cores, Target, make_app_key
from server.launch.plan import PORT_STEP, find_free_ports, is_free
from storage.glance import glance

HOST: Final = "127.0.0.1"
PORTS_OF_A_NODE: Final = 4
_SEARCHES: Final = 100
_LOOK_EVERY_S: Final = 0.1  # at who owns which shard
_GONE_TIMEOUT_S: Final = 30.0


class HubbubCluster(Target):
    """`hubbub cluster` with its defaults; only the limits per session are raised.

    It counts what the nodes cost. The launcher, which forwards their logs and nothing else, is left out.
    """

    name = "hubbub"
    wires = ("json", "msgpack", "bot")

    def __init__(
        self, directory: Path, cores: Cores, *, node_count: int = 3, flags: Sequence[str] = ()
    ) -> None:
        """Each node gets a core of its own, where the machine has one more than nodes."""
        super().__init__(directory, cores.widened(node_count))
        self._node_count = node_count
        self._flags = tuple(flags)
        self._port = 0
        self._pids: dict[str, int] = {}  # node_id -> its process

    @property
    def node_count(self) -> int:
        return self._node_count

    @property
    def node_ids(self) -> list[str]:
        """The nodes, in the order of their addresses."""
        return [f"n{number}" for number in range(1, self._node_count + 1)]

    @property
    def data_path(self) -> Path:
        """The directory that all nodes share."""
        return self.directory / "data"

    def start(self) -> None:
        """Start all nodes; return when each is linked to each, and all have an even share of the shards."""
        self._port = self._port or _free_ports(self._node_count)
        self.cores.pin_client()
        command = ["-m", "server", "cluster", "--nodes", str(self._node_count), "--port", str(self._port)]
        command += ["--data-dir", str(self.data_path), "--log-format", "json", "--log-level", "info"]
        launch = _Launch(self._node_count)
        self._spawn([*command, *LIMITS, *self._flags], is_up=launch.is_up)
        self._pids = launch.pids
        self._pin_nodes()
        self._wait_for_even_shares()
        if not self._app_key:
            self._app_key, self._app_secret = make_app_key(str(self.data_path))

    def addresses(self, wire: str) -> list[tuple[str, int]]:
        first = self._port + (wire == "bot")
        return [(HOST, first + PORT_STEP * number) for number in range(self._node_count)]

    def pids(self) -> list[int]:
        return list(self._pids.values())

    def owners_of(self, conversation_ids: Iterable[str]) -> list[int]:
        """Which nodes run the actors of these conversations now: their places in `addresses`."""
        owners, node_ids = self.owners(), self.node_ids
        shards = [Address("conversation", conversation_id).shard for conversation_id in conversation_ids]
        return [node_ids.index(owners[shard]) for shard in shards]

    def owners(self) -> list[str]:
        """The node_id of each shard's owner, by the store; "" where there is none."""
        seen = glance(self.data_path)
        live = {(member.node_id, member.boot) for member in seen.members if member.lease_left_ms > 0}
        return [row.owner if (row.owner, row.boot) in live else "" for row in seen.shards]

    def sharing(self) -> str:
        """Tell in one sentence which processes share a core; "" where each has its own."""
        cores = self.cores
        if not cores.is_pinned:
            return f"{self._node_count} nodes and the client are not pinned to cores"
        if len(cores.servers) >= self._node_count:
            return ""
        shared = f"core {cores.servers[0]}" if len(cores.servers) == 1 else f"{len(cores.servers)} cores"
        return (
            f"{self._node_count} nodes share {shared}: this shows what a cluster costs, "
            "and not how it grows with cores"
        )

    def kill(self) -> None:
        """kill -9 the launcher, with which its nodes end."""
        ends = [os.pidfd_open(pid) for pid in self._pids.values() if _is_running(pid)]
        super().kill()
        deadline = time.monotonic() + _GONE_TIMEOUT_S
        try:
            for end in ends:
                ready, _, _ = select.select([end], [], [], max(0.0, deadline - time.monotonic()))
                if not ready:
                    raise CannotRun("A node outlived its launcher.")
        finally:
            for end in ends:
                os.close(end)
        self._pids = {}

    def stop(self) -> None:
        super().stop()
        self._pids = {}

    def _pin_nodes(self) -> None:
        """Give each node its core. Its threads are there already, so each of them is told."""
        cores = self.cores.servers
        for number, pid in enumerate(self.pids()):
            for thread in Path(f"/proc/{pid}/task").iterdir():
                self.cores.pin(int(thread.name), [cores[number % len(cores)]])

    def _wait_for_even_shares(self) -> None:
        fair_count = SHARD_COUNT // self._node_count
        deadline = time.monotonic() + START_TIMEOUT_S
        while True:
            owners = self.owners()
            counts = {node_id: owners.count(node_id) for node_id in self.node_ids}
            if min(counts.values()) >= fair_count and sum(counts.values()) == SHARD_COUNT:
                return
            if time.monotonic() > deadline:
                raise CannotRun(f"The nodes do not share the shards evenly: {counts}.")
            time.sleep(_LOOK_EVERY_S)


class _Launch:
    """Reads what the launcher and its nodes log until all are up, and each has its ways to the others."""

    def __init__(self, node_count: int) -> None:
        self._node_count = node_count
        self._links: set[tuple[str, str]] = set()
        self._is_started = False
        self.pids: dict[str, int] = {}

    def is_up(self, event: dict[str, Any]) -> bool:
        """Take one line; True: that was the last thing to wait for."""
        match event.get("event"):
            case "node_process_started":
                self.pids[event["node_id"]] = event["pid"]
            case "link_changed":
                link = event["node"], event["peer_id"]
                (self._links.add if event["is_up"] else self._links.discard)(link)
            case "cluster_started":
                self._is_started = True
        is_linked = len(self._links) == self._node_count * (self._node_count - 1)
        if is_linked and self._is_started:
            self.pids = dict(sorted(self.pids.items(), key=lambda item: int(item[0][1:])))
            return True
        return False


def _free_ports(node_count: int) -> int:
    """The first port of node 1, such that all nodes find theirs free. Raises: CannotRun."""
    for _ in range(_SEARCHES):
        first = find_free_ports(HOST, ())
        ports = [
            first + PORT_STEP * number + place
            for number in range(node_count)
            for place in range(PORTS_OF_A_NODE)
        ]
        if all(is_free(HOST, port) for port in ports):
            return first
    raise CannotRun(f"No free ports for {node_count} nodes were found at {HOST}.")


def _is_running(pid: int) -> bool:
    return Path(f"/proc/{pid}").exists()
