"""Several real nodes over one data directory, as an operator runs them: killed, frozen, drained, restarted.

With one node it is `hubbub serve` as everybody runs it; with more, each is started with --cluster. Nothing
here talks to the nodes' inside: owners and members are read from the database, read-only.
"""

import json
import resource
import sqlite3
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, contextmanager
from pathlib import Path

import msgspec

from tests.nodes import ROOT, NodeProcess, free_port

# Load from one process is thousands of commands of few users, and names are made by the hundred.
LOAD_FLAGS = (
    *("--commands-per-s", "100000", "--commands-burst", "100000"),
    *("--creations-per-s", "100000", "--creations-burst", "100000"),
)


class ShardRow(msgspec.Struct, frozen=True):
    """Who owns a shard, as the store has it. `owner` is empty while nobody does."""

    shard: int
    owner: str
    epoch: int
    head: int


class MemberRow(msgspec.Struct, frozen=True):
    """A node's lease, as the store has it."""

    node_id: str
    boot: int
    address: str
    lease_until_ms: int
    is_draining: int


class ClusterNode(NodeProcess):
    """One node of several. Its ports stay its own through restarts."""

    def __init__(
        self,
        directory: Path,
        node_id: str,
        *flags: str,
        is_clustered: bool,
        host: str = "127.0.0.1",
        cluster_host: str = "",
        within: Sequence[str] = (),
        environ: Mapping[str, str] | None = None,
    ) -> None:
        self.cluster_port = free_port(2)
        self.cluster_host = cluster_host or host
        if is_clustered:
            flags = (
                *("--cluster", "--node-id", node_id, "--cluster-host", self.cluster_host),
                *("--cluster-port", str(self.cluster_port), *flags),
            )
        super().__init__(directory, *flags, name=node_id, host=host, within=within, environ=environ)
        self.kills = 0

    def kill(self) -> None:
        self.kills += 1
        super().kill()

    def log_lines(self, *words: str, levels: Sequence[str] = (), limit: int = 20) -> list[str]:
        """The newest log lines of these levels (all, if none is given) that hold one of the words."""
        if not self.log_path.exists():
            return []
        found: list[str] = []
        for line in self.log_path.read_text(errors="replace").splitlines():
            if words and not any(word in line for word in words):
                continue
            if levels:
                try:
                    if json.loads(line).get("level") not in levels:
                        continue
                except ValueError:
                    pass  # a traceback of something that could not log
            found.append(f"{self.name}: {line[:600]}")
        return found[-limit:]


class ClusterProcesses:
    """The nodes n1, n2, … over one directory."""

    def __init__(self, directory: Path, count: int, *flags: str, secret: str = "") -> None:
        """One node is `hubbub serve` alone. With a count of 0, `add` makes each node of a cluster."""
        self.directory = directory
        self.data_dir = directory / "data"
        self.is_clustered = count != 1
        self.secret = secret
        self.flags = (*LOAD_FLAGS, *flags)
        self.nodes: list[ClusterNode] = []
        for _ in range(count):
            self.add()

    def add(
        self, *flags: str, host: str = "127.0.0.1", cluster_host: str = "", within: Sequence[str] = ()
    ) -> ClusterNode:
        """One node more, which is not started yet."""
        node = ClusterNode(
            self.directory,
            f"n{len(self.nodes) + 1}",
            *self.flags,
            *flags,
            is_clustered=self.is_clustered,
            host=host,
            cluster_host=cluster_host,
            within=within,
            environ={"HUBBUB_CLUSTER_SECRET": self.secret} if self.secret else None,
        )
        self.nodes.append(node)
        return node

    def __getitem__(self, name: str) -> ClusterNode:
        return next(node for node in self.nodes if node.name == name)

    def start_all(self) -> None:
        """Start those that do not run, all at once, so that they share the shards from the first moment."""
        waiting = [node for node in self.nodes if not node.is_running]
        with ThreadPoolExecutor(max(len(waiting), 1)) as pool:
            for done in [pool.submit(node.start) for node in waiting]:
                done.result()

    def end_all(self) -> None:
        """Kill what still runs, frozen or not."""
        for node in self.nodes:
            if node.is_running:
                node.kill()

    def stop_all(self) -> dict[str, int]:
        """Ask all that run to end, one after the other. Returns their exit codes."""
        return {node.name: node.stop() for node in self.nodes if node.is_running}

    def app_key(self) -> tuple[str, str]:
        """Make an app key as an operator does: (key, secret)."""
        made = subprocess.run(
            [sys.executable, "-m", "server", "keys", "create", "--json", "--data-dir", str(self.data_dir)],
            capture_output=True,
            check=True,
            timeout=60,
            cwd=ROOT,
        )
        body = json.loads(made.stdout)
        return body["app_key"], body["app_secret"]

    # -- the database, read-only --------------------------------------------------------------------

    @contextmanager
    def database(self) -> Iterator[sqlite3.Connection]:
        """A connection that cannot write."""
        uri = f"{(self.data_dir / 'hubbub.db').absolute().as_uri()}?mode=ro"
        with closing(sqlite3.connect(uri, uri=True, timeout=5.0)) as connection:
            yield connection

    def shards(self) -> list[ShardRow]:
        with self.database() as connection:
            rows = connection.execute("SELECT shard, owner, epoch, head FROM shard ORDER BY shard")
            return [ShardRow(*row) for row in rows]

    def owned(self) -> dict[str, list[int]]:
        """node_id -> its shards; under "" those of nobody."""
        owned: dict[str, list[int]] = {node.name: [] for node in self.nodes}
        for row in self.shards():
            owned.setdefault(row.owner, []).append(row.shard)
        return owned

    def members(self) -> list[MemberRow]:
        with self.database() as connection:
            rows = connection.execute(
                "SELECT node_id, boot, address, lease_until_ms, is_draining FROM node ORDER BY node_id"
            )
            return [MemberRow(*row) for row in rows]

    def evidence(self, *words: str) -> list[str]:
        """Warnings and errors of all nodes, and the lines that hold one of the words."""
        lines: list[str] = []
        for node in self.nodes:
            lines += node.log_lines(levels=("warning", "error", "critical"))
            if words:
                lines += node.log_lines(*words)
        return lines


def raise_file_limit(wanted: int = 8192) -> None:
    """Let this process, and the nodes that it starts, hold a thousand connections each."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft < wanted:
        resource.setrlimit(resource.RLIMIT_NOFILE, (min(hard, wanted), hard))


@contextmanager
def running_cluster(directory: Path, count: int, *flags: str, secret: str = "") -> Iterator[ClusterProcesses]:
    """Nodes that are up, and are no more when the context ends."""
    cluster = ClusterProcesses(directory, count, *flags, secret=secret)
    try:
        cluster.start_all()
        yield cluster
    finally:
        cluster.end_all()
