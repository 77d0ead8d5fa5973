"""A real node in a process of its own, as an operator runs it: to be stopped, killed and started again."""

import json
import os
import random
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path

import httpx

ROOT = Path(__file__).resolve().parent.parent
START_TIMEOUT_S = 60.0  # on a machine that is busy with other things


# Below the range that Linux and macOS take for outgoing connections: else one of those may hold a node's port
# while the node is down.
PORTS = range(10_000, 32_000)


def free_port(count: int = 1) -> int:
    """The first of `count` neighbouring ports that nobody uses now.

    They are kept through restarts of a node, so that clients find it again.
    """
    while True:  # until some are free; there are thousands
        first = random.choice(PORTS)
        try:
            for port in range(first, first + count):
                with socket.socket() as probe:
                    probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
                    probe.bind(("127.0.0.1", port))
        except OSError:
            continue
        return first


class NodeProcess:
    """One data directory, and at most one process that serves it.

    `within` is a command that runs it elsewhere, such as in a network namespace; `environ` is added to its
    variables.
    """

    def __init__(
        self,
        directory: Path,
        *flags: str,
        name: str = "node",
        host: str = "127.0.0.1",
        within: Sequence[str] = (),
        environ: Mapping[str, str] | None = None,
    ) -> None:
        self.data_dir = directory / "data"
        self.name = name
        self.log_path = directory / f"{name}.log"
        self.host = host
        self.port = free_port()
        self.bot_port = free_port()
        self.url = f"http://{host}:{self.port}"
        self.bot_url = f"hubbub://{host}:{self.bot_port}"
        self.flags = flags
        self._within = tuple(within)
        self._environ = dict(environ or {})
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def pid(self) -> int:
        assert self._process is not None
        return self._process.pid

    def start(self) -> None:
        """Start it and wait until it says that it is up."""
        offset = self.log_path.stat().st_size if self.log_path.exists() else 0
        with self.log_path.open("ab") as log:
            self._process = subprocess.Popen(
                [
                    *(*self._within, sys.executable, "-m", "server", "serve", "--log-format", "json"),
                    *("--data-dir", str(self.data_dir), "--host", self.host, "--port", str(self.port)),
                    *("--bot-port", str(self.bot_port), *self.flags),
                ],
                stdout=subprocess.DEVNULL,
                stderr=log,
                cwd=ROOT,
                # An operator's own settings must not reach the test.
                env={k: v for k, v in os.environ.items() if not k.startswith("HUBBUB_")} | self._environ,
            )
        process = self._process
        deadline = threading.Timer(START_TIMEOUT_S, process.kill)
        deadline.start()
        try:
            self._await_line("node_started", offset)
        finally:
            deadline.cancel()

    def _await_line(self, event: str, offset: int) -> None:
        tail = subprocess.Popen(
            ["tail", "-c", f"+{offset + 1}", "-f", f"--pid={self.pid}", "-s", "0.05", str(self.log_path)],
            stdout=subprocess.PIPE,
        )
        assert tail.stdout is not None
        try:
            for line in tail.stdout:
                if json.loads(line).get("event") == event:
                    return
        finally:
            tail.kill()
            tail.wait()
            tail.stdout.close()
        raise AssertionError(f"{self.name} did not start: {self.log_path.read_text()[-2000:]}")

    def kill(self) -> None:
        """End it as a power switch would: SIGKILL."""
        assert self._process is not None
        self._process.kill()
        self._process.wait()
        self._process = None

    def start_and_kill(self, after_s: float) -> None:
        """Start it, and kill it so long after: while it starts, or soon after it has."""

        def end() -> None:
            assert self._process is not None
            self._process.kill()
            self._process.wait()  # who waits for its log does so until it is reaped

        killer = threading.Timer(after_s, end)
        killer.start()
        with suppress(AssertionError):  # it was not up yet
            self.start()
        killer.join()
        self._process = None

    def stop(self, timeout_s: float = 30.0) -> int:
        """Ask it to end, as systemd would: SIGTERM. Returns the exit code."""
        assert self._process is not None
        process, self._process = self._process, None
        process.send_signal(signal.SIGTERM)
        return process.wait(timeout_s)

    def reload_certificate(self) -> None:
        """Ask it to read its certificate again, as a renewal hook does: SIGHUP; wait until it has."""
        offset = self.log_path.stat().st_size
        os.kill(self.pid, signal.SIGHUP)
        self._await_line("certificate_reloaded", offset)

    def freeze(self) -> None:
        os.kill(self.pid, signal.SIGSTOP)

    def thaw(self) -> None:
        os.kill(self.pid, signal.SIGCONT)

    @property
    def is_running(self) -> bool:
        return self._process is not None and self._process.poll() is None

    def rss_kib(self) -> int:
        """Memory of the process that is in RAM."""
        for line in Path(f"/proc/{self.pid}/status").read_text().splitlines():
            if line.startswith("VmRSS"):
                return int(line.split()[1])
        raise AssertionError("no VmRSS")

    def sign_up(self, username: str, password: str = "a good long password") -> tuple[str, str]:
        """Make an account over HTTP; returns (user_id, token)."""
        answer = httpx.post(
            f"{self.url}/v1/signup", json={"username": username, "password": password}, timeout=30
        )
        assert answer.status_code == 201, answer.text
        body = answer.json()
        return body["user"]["user_id"], body["token"]


@contextmanager
def running_node(directory: Path, *flags: str) -> Iterator[NodeProcess]:
    """A node that is up, and is no more when the context ends."""
    node = NodeProcess(directory, *flags)
    node.start()
    try:
        yield node
    finally:
        if node.is_running:
            node.kill()
