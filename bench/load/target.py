"""The servers under load: hubbub as an operator runs it, and its peers. Each in a process of its own.

Both speak the same commands to the same client (see bench/peers/), keep their data in a fresh directory, and
can be killed and started again on it.
"""

import contextlib
import json
import os
import resource
import secrets
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any, Final

import jwt

from bench.load.client import Account
from server.launch import leash
from server.launch.plan import find_free_ports

START_TIMEOUT_S: Final = 60.0
STOP_TIMEOUT_S: Final = 30.0
TOKEN_LIFE_S: Final = 24 * 3600
# A benchmark's few clients send what thousands of people would: nothing else about the server is changed.
LIMITS: Final = (
    *("--commands-per-s", "1000000", "--commands-burst", "1000000"),
    *("--creations-per-s", "1000000", "--creations-burst", "1000000"),
)
ROOT: Final = Path(__file__).resolve().parents[2]


class CannotRun(Exception):
    """A server could not be started; the message says why, and what to do."""


class Cores:
    """Which cores are the servers', and which the client's. With one core nothing is pinned."""

    def __init__(
        self, servers: Sequence[int] | None = None, *, usable: Collection[int] | None = None
    ) -> None:
        """`servers`: the servers' cores; None: the first one. `usable`: None: those the process may use."""
        self._usable = tuple(sorted(os.sched_getaffinity(0) if usable is None else usable))
        self.is_pinned = len(self._usable) > 1
        self.servers: tuple[int, ...] = tuple(servers or self._usable[:1])
        others = tuple(core for core in self._usable if core not in self.servers)
        self.client: tuple[int, ...] = others or self._usable

    def widened(self, count: int) -> "Cores":
        """These, with `count` cores for the servers, or as many as there are while the client keeps one."""
        others = [core for core in self._usable if core not in self.servers]
        more = others[: max(0, min(count - len(self.servers), len(others) - 1))]
        wide = Cores((*self.servers, *more), usable=self._usable)
        wide.is_pinned = self.is_pinned
        return wide

    def pin_client(self) -> None:
        """Keep this process off the servers' cores."""
        if self.is_pinned:
            os.sched_setaffinity(0, self.client)

    def pin(self, pid: int, cores: Collection[int] | None = None) -> None:
        """Bind a process that was just started; its threads inherit it."""
        if self.is_pinned:
            os.sched_setaffinity(pid, cores or self.servers)

    def __str__(self) -> str:
        if not self.is_pinned:
            return "not pinned"
        return f"servers on core {_listed(self.servers)}, client on core {_listed(self.client)}"


def _listed(cores: Sequence[int]) -> str:
    return ",".join(map(str, cores))


def _has_started(event: dict[str, Any]) -> bool:
    return event.get("event") in ("node_started", "started")


class Target:
    """One server, or one cluster, under load. Make it with `running`."""

    name = ""
    wires: tuple[str, ...] = ()
    has_dedup = True  # whether a message that is sent again under its client_id is stored once

    def __init__(self, directory: Path, cores: Cores) -> None:
        self.directory = directory
        self.cores = cores
        self.processes: list[subprocess.Popen[str]] = []
        self.on_measure: Callable[[], None] | None = None  # called when what is measured begins
        self._killed_cpu_s = 0.0
        self._app_key = ""
        self._app_secret = ""

    def start(self) -> None:
        """Start on the directory as it is, with the ports as before, and return when it serves."""
        raise NotImplementedError

    def addresses(self, wire: str) -> list[tuple[str, int]]:
        """Where clients connect; one address for each node."""
        raise NotImplementedError

    @property
    def node_count(self) -> int:
        return 1

    def account(self, name: str) -> Account:
        """A token as an app's backend signs it; the user is made at its first use."""
        claims = {"sub": name, "name": name, "exp": int(time.time()) + TOKEN_LIFE_S}
        headers = {"kid": self._app_key}
        return Account(name=name, token=jwt.encode(claims, self._app_secret, "HS256", headers=headers))

    def pids(self) -> list[int]:
        """The processes whose CPU and memory count."""
        return [process.pid for process in self.processes]

    def cpu_s(self) -> float:
        """CPU seconds that the servers' processes have used so far, the killed ones included."""
        return self._killed_cpu_s + sum(map(cpu_s, self.pids()))

    def rss_kib(self) -> int:
        """Resident memory of the servers' processes, in KiB."""
        return sum(map(rss_kib, self.pids()))

    def file_count(self) -> int:
        """How many files and sockets the servers' processes have open."""
        return sum(len(os.listdir(f"/proc/{pid}/fd")) for pid in self.pids())

    def allow_files(self, count: int) -> None:
        """Let each server and this process have so many files open.

        Raises: CannotRun, where the hard limit is lower.
        """
        for pid in (os.getpid(), *self.pids()):
            soft, hard = resource.prlimit(pid, resource.RLIMIT_NOFILE)
            if hard != resource.RLIM_INFINITY and hard < count:
                raise CannotRun(
                    f"{count:,} open files are needed, and the hard limit is {hard:,} (ulimit -Hn)."
                )
            if soft != resource.RLIM_INFINITY and soft < count:
                resource.prlimit(pid, resource.RLIMIT_NOFILE, (count, hard))

    def kill(self) -> None:
        """kill -9 all of it."""
        self._killed_cpu_s = self.cpu_s()
        for process in self.processes:
            process.kill()
            process.wait()
            _let_go(process)
        self.processes.clear()

    def stop(self) -> None:
        """SIGTERM, then wait. What does not go within 30 s is killed."""
        for process in self.processes:
            process.send_signal(signal.SIGTERM)
        for process in self.processes:
            try:
                process.wait(STOP_TIMEOUT_S)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
            _let_go(process)
        self.processes.clear()

    def _spawn(
        self,
        command: Sequence[str],
        *,
        cores: Collection[int] | None = None,
        is_up: Callable[[dict[str, Any]], bool] = _has_started,
    ) -> dict[str, Any]:
        """Start a process; return the JSON line by which it tells that it serves. Raises: CannotRun.

        `is_up` gets each JSON line, and says which one that is.
        """
        process = subprocess.Popen(
            [sys.executable, *command],
            cwd=ROOT,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            # A node that is tied to us ends with us, however we end.
            stdin=subprocess.PIPE,
            env={**os.environ, "PYTHONPATH": str(ROOT), leash.VARIABLE: str(os.getpid())},
        )
        self.cores.pin(process.pid, cores)
        self.processes.append(process)
        assert process.stdout is not None
        timer = threading.Timer(START_TIMEOUT_S, process.kill)
        timer.start()
        said: list[str] = []
        try:
            for line in process.stdout:
                event = _json_line(line)
                if is_up(event):
                    break
                said.append(line)
            else:
                process.stdout.close()
                raise CannotRun(f"{' '.join(command[:3])} did not start: {''.join(said[-5:]).strip()}")
        finally:
            timer.cancel()
        log = (self.directory / f"{self.name}-{process.pid}.log").open("w")
        threading.Thread(target=_keep, args=(process.stdout, log), daemon=True).start()
        return event


class Hubbub(Target):
    """`hubbub serve` with its defaults, durability included; only the limits per session are raised."""

    name = "hubbub"
    wires: tuple[str, ...] = ("json", "msgpack", "bot")

    def __init__(self, directory: Path, cores: Cores, *, flags: Sequence[str] = ()) -> None:
        super().__init__(directory, cores)
        self._flags = tuple(flags)
        self._port = self._bot_port = 0

    def start(self) -> None:
        if not self._port:
            self._port = lasting_ports()
            self._bot_port = self._port + 1
        data = str(self.directory / "data")
        command = ["-m", "server", "serve", "--data-dir", data, "--log-format", "json", "--log-level", "info"]
        command += ["--port", str(self._port), "--bot-port", str(self._bot_port), *LIMITS, *self._flags]
        event = self._spawn(command)
        self._port = int(event["page"].rpartition(":")[2])
        self._bot_port = int(event["bots"].rpartition(":")[2])
        if not self._app_key:
            self._app_key, self._app_secret = make_app_key(data)

    def addresses(self, wire: str) -> list[tuple[str, int]]:
        return [("127.0.0.1", self._bot_port if wire == "bot" else self._port)]


class Uvicorn(Target):
    """The usual Python choice as a competent team writes it: see bench/peers/uvicorn_plain.py."""

    name = "uvicorn"
    wires = ("json",)
    has_dedup = False
    program = "bench.peers.uvicorn_plain"

    def __init__(self, directory: Path, cores: Cores) -> None:
        super().__init__(directory, cores)
        self._app_key, self._app_secret = "peer", secrets.token_hex(32)
        self._port = 0

    def start(self) -> None:
        self._port = self._port or lasting_ports()
        data = self.directory / "data"
        data.mkdir(exist_ok=True)
        command = ["-m", self.program, "--data-dir", str(data), "--port", str(self._port)]
        try:
            event = self._spawn([*command, "--secret", self._app_secret])
        except CannotRun as exc:
            if "ModuleNotFoundError" in str(exc):
                raise CannotRun(
                    "The peers' packages are not installed: ./check does it, or pip install -e '.[bench]'. "
                    "--no-peer runs hubbub alone."
                ) from None
            raise
        self._port = int(event["port"])

    def addresses(self, wire: str) -> list[tuple[str, int]]:
        return [("127.0.0.1", self._port)]


class UvicornTuned(Uvicorn):
    """The same libraries in an expert's hands: see bench/peers/uvicorn_tuned.py."""

    name = "uvicorn-tuned"
    program = "bench.peers.uvicorn_tuned"


PEERS: Final[dict[str, type[Target]]] = {kind.name: kind for kind in (Uvicorn, UvicornTuned)}


class Remote(Target):
    """A hubbub that somebody else has started, here or elsewhere: what it costs is not known."""

    name = "hubbub"
    wires = Hubbub.wires

    def __init__(
        self, directory: Path, cores: Cores, *, address: str, bot_address: str, app_key: str, app_secret: str
    ) -> None:
        super().__init__(directory, cores)
        self._address, self._bot_address = address, bot_address
        self._run = secrets.token_hex(4)
        self._app_key, self._app_secret = app_key, app_secret

    def start(self) -> None:
        """It runs."""

    def account(self, name: str) -> Account:
        """As elsewhere, but somebody new in each run: those of earlier ones are in its conversations."""
        return super().account(f"{name}.{self._run}")

    def addresses(self, wire: str) -> list[tuple[str, int]]:
        host, _, port = (self._bot_address if wire == "bot" else self._address).rpartition(":")
        return [(host.strip("[]") or "127.0.0.1", int(port))]

    def kill(self) -> None:
        raise CannotRun("A server that the benchmark has not started is not killed by it.")


@contextmanager
def running(
    kind: type[Target], cores: Cores, *, keep: Path | None = None, **options: Any
) -> Iterator[Target]:
    """A server in a fresh directory, which is removed at the end, or kept below `keep`."""
    directory = Path(tempfile.mkdtemp(prefix="hubbub-bench-", dir=keep))
    target = kind(directory, cores, **options)
    try:
        target.start()
        yield target
    finally:
        target.stop()
        if keep is None:
            shutil.rmtree(directory, ignore_errors=True)


def lasting_ports() -> int:
    """The first of four ports that nobody has, and that no connection gets while a killed server is down."""
    return find_free_ports("127.0.0.1", ())


def make_app_key(data_dir: str) -> tuple[str, str]:
    """Make an app key in a node's directory: (key, secret)."""
    made = subprocess.run(
        [sys.executable, "-m", "server", "keys", "create", "--data-dir", data_dir, "--json"],
        cwd=ROOT,
        capture_output=True,
        check=True,
        text=True,
    )
    answer = json.loads(made.stdout)
    return answer["app_key"], answer["app_secret"]


def rss_kib(pid: int) -> int:
    """Resident memory of a process, in KiB."""
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith("VmRSS:"):
            return int(line.split()[1])
    return 0


def cpu_s(pid: int) -> float:
    """CPU seconds that a process has used so far, its threads included."""
    # clock_getcpuclockid(3) on Linux: nanoseconds, where /proc counts in hundredths of a second.
    return time.clock_gettime(~pid << 3 | 2)


def _let_go(process: subprocess.Popen[str]) -> None:
    if process.stdin is not None:
        process.stdin.close()


def _json_line(line: str) -> dict[str, Any]:
    with contextlib.suppress(ValueError):
        # What `print` has said may stand before it: its line's end is a write of its own.
        decoded = json.loads(line[max(0, line.find("{")) :])
        if isinstance(decoded, dict):
            return decoded
    return {}


def _keep(stream: IO[str], log: IO[str]) -> None:
    """Read what a server logs, since a full pipe would stop it; the file tells of failed runs."""
    with stream, log, contextlib.suppress(ValueError, OSError):
        for line in stream:
            log.write(line)
            log.flush()
