"""`hubbub cluster` as an operator meets it: the command itself, with real nodes."""

import json
import os
import signal
import socket
import stat
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.launchers import LauncherProcess, environment
from tests.nodes import ROOT

pytestmark = [pytest.mark.slow, pytest.mark.timeout(180)]


@contextmanager
def cluster(data: Path, *words: str) -> Iterator[LauncherProcess]:
    flags = ["--port", "0", "--data", str(data), *words]
    launcher = LauncherProcess(["-m", "server", "cluster", *flags], data)
    try:
        yield launcher
    finally:
        launcher.close()


def hubbub(*words: str, timeout_s: float = 60) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "server.cli", *words],
        capture_output=True,
        text=True,
        timeout=timeout_s,
        check=False,
        cwd=ROOT,
        env=environment(),
    )


def status_of(data: Path) -> Any:
    return json.loads(hubbub("cluster", "status", "--json", "--data", str(data)).stdout)


def test_a_node_serves_is_killed_comes_back_and_is_drained(tmp_path: Path) -> None:
    """The page of the operator: started, looked at, one node lost, ended."""
    data = tmp_path / "data"
    with cluster(data, "--nodes", "1", "--zone", "north") as launcher:
        (page,) = launcher.announced()
        assert httpx.get(f"{page}/healthz", timeout=30).json()["status"] == "ok"
        before = status_of(data)["nodes"][0]
        assert (before["node_id"], before["state"], before["url"]) == ("n1", "up", page)
        os.kill(before["pid"], signal.SIGKILL)
        launcher.until("node_process_ended", node_id="n1")
        launcher.until("node_started", node="n1")
        assert httpx.get(f"{page}/healthz", timeout=30).status_code == 200
        after = status_of(data)["nodes"][0]
        assert after["pid"] != before["pid"]
        assert after["restarts"] == 1
        assert stat.S_IMODE((data / "cluster.key").stat().st_mode) == 0o600
        assert stat.S_IMODE((data / "launcher.sock").stat().st_mode) == 0o600
        second = hubbub("cluster", "--data", str(data))
        assert (second.returncode, len(second.stderr.splitlines())) == (1, 1)
        launcher.signal(signal.SIGTERM)
        assert launcher.end() == 0
    assert status_of(data)["launcher_pid"] is None
    alone = hubbub("cluster", "restart", "--data", str(data))
    assert alone.returncode == 1
    assert alone.stderr.startswith("hubbub: No launcher runs on ")


def test_the_secret_reaches_the_nodes_but_no_command_line(tmp_path: Path) -> None:
    """Every user of the machine reads the arguments of every process."""
    data = tmp_path / "data"
    with cluster(data, "--nodes", "1") as launcher:
        launcher.announced()
        secret = (data / "cluster.key").read_bytes().hex()
        pid = status_of(data)["nodes"][0]["pid"]
        assert secret not in Path(f"/proc/{pid}/cmdline").read_text()
        assert f"HUBBUB_CLUSTER_SECRET={secret}" in Path(f"/proc/{pid}/environ").read_text()
        launcher.signal(signal.SIGINT)
        assert launcher.end() == 0


@pytest.mark.parametrize(
    ("words", "code", "said"),
    [
        (["cluster", "--nodes", "0"], 2, "--nodes is 0; it is 1 to 32."),
        (["cluster", "--nodes", "three"], 2, "invalid int value"),
        (["cluster", "--nodes", "2", "--bot-port", "8090"], 2, "which n1 has"),
        (
            ["cluster", "--cluster-ca", "none.pem"],
            2,
            "cluster_ca, cluster_cert and cluster_key belong together",
        ),
        (["cluster", "--node-id", "n7"], 2, "There is no --node-id here"),
        (["cluster", "--prot", "9000"], 2, "did you mean --port?"),
        (["cluster", "stauts"], 2, "invalid choice: 'stauts'"),
        (["cluster", "status"], 1, "There is no data in"),
        (["cluster", "drain", "n1"], 1, "No launcher runs on"),
        (["cluster", "drain"], 2, "NODE"),
        (["cluster", "restart", "--timeout", "0"], 2, "--timeout is 0.0"),
    ],
)
def test_what_is_wrong_is_one_sentence(words: list[str], code: int, said: str, tmp_path: Path) -> None:
    """Operators, and scripts that look at the exit code."""
    done = hubbub(*words, "--data-dir", str(tmp_path / "data"))
    assert done.returncode == code, done.stderr
    assert said in done.stderr
    assert len(done.stderr.splitlines()) == 1


def test_a_port_that_is_taken_is_said_before_anything_starts(tmp_path: Path) -> None:
    """A node that cannot listen would only be restarted again and again."""

    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen(1)
        port = taken.getsockname()[1]
        done = hubbub(
            "cluster", "--nodes", "1", "--bot-port", str(port), "--port", "0", "--data", str(tmp_path / "d")
        )
    assert done.returncode == 1
    assert f"127.0.0.1 port {port}, for n1, is in use" in done.stderr


def test_two_nodes_share_the_shards_through_a_rolling_restart_and_a_third(tmp_path: Path) -> None:
    """An upgrade, and a machine that has become larger."""
    data = tmp_path / "data"
    with cluster(data, "--nodes", "2") as launcher:
        launcher.announced()
        # `start` of a node that is up waits until it has its share.
        for node_id in ("n1", "n2"):
            assert hubbub("cluster", "start", node_id, "--data", str(data)).returncode == 0
        before = status_of(data)
        assert before["problems"] == []
        assert [node["shard_count"] for node in before["nodes"]] == [128, 128]
        rolled = hubbub("cluster", "restart", "n1", "--data", str(data), timeout_s=120)
        assert rolled.returncode == 0, rolled.stderr
        assert "n1: ended (exit code 0)" in rolled.stdout
        after = status_of(data)
        assert after["unowned_count"] == 0
        assert after["nodes"][0]["pid"] != before["nodes"][0]["pid"]
        assert after["nodes"][1]["pid"] == before["nodes"][1]["pid"]
        assert after["nodes"][0]["boot"] == before["nodes"][0]["boot"] + 1
        added = hubbub("cluster", "add", "--data", str(data), timeout_s=120)
        assert added.returncode == 0, added.stderr
        assert [node["node_id"] for node in status_of(data)["nodes"]] == ["n1", "n2", "n3"]
        launcher.signal(signal.SIGTERM)
        assert launcher.end() == 0
