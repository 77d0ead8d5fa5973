"""The usual Python choice for notifications: dramatiq on Redis, a worker that makes one POST for each.

dramatiq keeps a job until it is done and tries again what failed. It does no more: nobody's preferences, no
duplicates, no caps, no quiet hours, no record of what was decided and sent, no order by priority within a
queue, and what it does twice nobody notices. Redis syncs its append-only file each second, or as
`dramatiq-always` before each reply, which is as durable as hubbub.

The client plays the application: it enqueues with dramatiq's own `send` in 8 threads, on its own core. Redis
and the worker (one process with 8 threads, dramatiq's default for one core) share the servers' core.
"""

import importlib
import importlib.util
import os
import shutil
import socket
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, Final

from bench.load.loop import TimedOut, now
from bench.load.meter import Meter, calm
from bench.load.target import ROOT, CannotRun, Target, cpu_s, lasting_ports
from bench.load.trial import WARM_UP_S, Samples, Setting, Trial, measured
from bench.notify_target import SandboxProcess
from bench.report.results import Figure
from protocol.provider_configs import TwilioConfig

AHEAD: Final = 1_000  # jobs that the provider has not taken yet
CHECK_EVERY: Final = 200
START_TIMEOUT_S: Final = 30.0
DONE_TIMEOUT_S: Final = 120.0
PROCESSES: Final = 1
THREADS: Final = 8
SENDERS: Final = 8  # threads of the application that enqueue
_POLL_S: Final = 0.05


def is_installed() -> bool:
    """Tell whether there is a redis-server, and dramatiq."""
    return shutil.which("redis-server") is not None and importlib.util.find_spec("dramatiq") is not None


class DramatiqNotify(Target):
    """redis-server, synced each second, a worker of dramatiq, and the sandbox."""

    name = "dramatiq"
    wires = ("redis",)
    fsync = "everysec"

    def start(self) -> None:
        self._sandbox = SandboxProcess(self)
        self._start_redis()
        self._tasks = self._start_worker()
        self.send(f"+4917{0:010d}", "warm up")
        give_up_at = now() + START_TIMEOUT_S
        while not self._sandbox.arrival_count():
            if now() > give_up_at:
                raise CannotRun("dramatiq's worker did not start; see its log with --keep.")
            time.sleep(_POLL_S)  # another program's start has no event to wait for

    def _start_redis(self) -> None:
        program = shutil.which("redis-server")
        if program is None:
            raise CannotRun("There is no redis-server: apt install redis-server, or --no-peer.")
        data = self.directory / "redis"
        data.mkdir(exist_ok=True)
        self.port = lasting_ports()
        words = [program, "--bind", "127.0.0.1", "--port", str(self.port), "--dir", str(data), "--save", ""]
        words += ["--appendonly", "yes", "--appendfsync", self.fsync, "--auto-aof-rewrite-percentage", "0"]
        self._run(words, "redis", {})
        give_up_at = now() + START_TIMEOUT_S
        while True:
            try:
                socket.create_connection(("127.0.0.1", self.port), 1.0).close()
                return
            except OSError:
                if self.processes[0].poll() is not None or now() > give_up_at:
                    raise CannotRun("redis-server did not start; see its log with --keep.") from None
                time.sleep(_POLL_S / 10)

    def _start_worker(self) -> Any:
        config = self._sandbox.config("twilio", TwilioConfig)
        settings = {
            "PEER_REDIS": f"redis://127.0.0.1:{self.port}/0",
            "PEER_URL": f"{config.base_url}/2010-04-01/Accounts/{config.account_sid}/Messages.json",
            "PEER_USER": config.user or config.account_sid,
            "PEER_SECRET": config.secret,
            "PEER_SENDER": config.sender,
            "PEER_CA": str(self._sandbox.directory / "ca.pem"),
        }
        words = [sys.executable, "-m", "dramatiq", "bench.peers.dramatiq_tasks"]
        words += ["--processes", str(PROCESSES), "--threads", str(THREADS), "--path", str(ROOT)]
        self._run(words, "dramatiq", settings)
        os.environ.update(settings)
        tasks = importlib.import_module("bench.peers.dramatiq_tasks")
        return importlib.reload(tasks)  # an earlier run's has another port

    def _run(self, words: list[str], name: str, settings: dict[str, str]) -> None:
        with (self.directory / f"{name}.log").open("w") as log:
            process = subprocess.Popen(
                words,
                cwd=ROOT,
                stdout=log,
                stderr=subprocess.STDOUT,
                text=True,
                env={**os.environ, **settings, "PYTHONPATH": str(ROOT)},
            )
        self.cores.pin(process.pid)
        self.processes.append(process)

    def send(self, to: str, text: str) -> None:
        """Enqueue one, as an application does."""
        self._tasks.send_text.send(to, text)

    @property
    def sandbox(self) -> SandboxProcess:
        return self._sandbox

    def pids(self) -> list[int]:
        """The worker's children included."""
        found: list[int] = []
        left = super().pids()
        while left:
            pid = left.pop()
            found.append(pid)
            for children in Path(f"/proc/{pid}/task").glob("*/children"):
                left += map(int, children.read_text().split())
        return found

    def stop(self) -> None:
        brokers, self.processes = self.processes[:1], self.processes[1:]
        super().stop()  # the worker before its broker
        self.processes = brokers
        super().stop()
        self._sandbox.stop()


class DramatiqNotifyAlways(DramatiqNotify):
    """The same, synced before each reply: as durable as hubbub."""

    name = "dramatiq-always"
    fsync = "always"


DRAMATIQ: Final[tuple[type[DramatiqNotify], ...]] = (DramatiqNotify, DramatiqNotifyAlways)


class _Run:
    """Enqueue for some seconds; what is not taken is bounded."""

    def __init__(self, target: DramatiqNotify) -> None:
        self._target = target
        self._before = target.sandbox.arrival_count()
        self.sent_at_ms: dict[str, int] = {}
        self._senders = ThreadPoolExecutor(SENDERS)

    def send_for(self, seconds: float) -> None:
        """Enqueue, then wait until all are taken. Raises: TimedOut."""
        until = now() + seconds
        while now() < until:
            if len(self.sent_at_ms) - self._taken_count() >= AHEAD:
                time.sleep(_POLL_S / 10)
                continue
            first = len(self.sent_at_ms) + 1
            list(self._senders.map(self._send, range(first, first + CHECK_EVERY)))
        give_up_at = now() + DONE_TIMEOUT_S
        while self._taken_count() < len(self.sent_at_ms):
            if now() > give_up_at:
                raise TimedOut("all jobs are done")
            time.sleep(_POLL_S / 10)

    def _send(self, number: int) -> None:
        to = f"+4917{number:010d}"
        self.sent_at_ms[to] = time.time_ns() // 1_000_000
        self._target.send(to, f"Message number {number}, which says what messages say.")

    def _taken_count(self) -> int:
        return self._target.sandbox.arrival_count() - self._before


def run_dramatiq(setting: Setting, variant: str) -> Trial:
    """Enqueue as many as are worked off, and count them at the provider."""
    target = setting.target
    assert isinstance(target, DramatiqNotify)
    job = _Run(target)
    meter = Meter(target)
    with calm():
        job.send_for(WARM_UP_S)
        warmed = len(job.sent_at_ms)
        meter.start()
        began_ms = time.time_ns() // 1_000_000
        sandbox_before = cpu_s(target.sandbox.pid)
        job.send_for(setting.seconds)
        meter.stop()
        sandbox_s = cpu_s(target.sandbox.pid) - sandbox_before
    count = len(job.sent_at_ms) - warmed
    offset_s = time.time() - now()
    samples = Samples()
    came: set[str] = set()
    twice_count = 0
    for one in target.sandbox.arrivals("sms"):
        twice_count += one.address in came
        came.add(one.address)
        sent_at_ms = job.sent_at_ms.get(one.address, 0)
        if sent_at_ms >= began_ms:
            samples.add(one.at_ms / 1000 - offset_s, (one.at_ms - sent_at_ms) / 1000)
    errors = [] if job.sent_at_ms.keys() <= came else ["a job was lost"]
    notes = ["no duplicates found, no preferences, caps, quiet hours, priorities, records: one POST for each"]
    if (sandbox_s + meter.client_cpu_s) / meter.seconds > 0.9:
        notes.append("the provider's and the client's core was at its limit")
    return measured(
        meter,
        variant=variant,
        figures=[
            Figure(name="deliveries", value=count / meter.seconds, unit="/s", is_headline=True),
            Figure(
                name="server CPU each",
                value=meter.server_cpu_s / count * 1e6,
                unit="µs",
                is_higher_better=False,
            ),
            Figure(
                name="sandbox of its core",
                value=100 * sandbox_s / meter.seconds,
                unit="%",
                is_higher_better=False,
            ),
            *meter.cpu_per_thousand(count),
        ],
        samples={"MEDIUM to provider": samples},
        errors=errors,
        findings=errors or [f"{count:,} jobs done, {twice_count} twice"],
        is_sound=not errors,
        notes=notes,
    )
