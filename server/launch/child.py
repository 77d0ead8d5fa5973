"""One node's process: started, heard, ended, and started again while it is wanted."""

import contextlib
import os
import random
import signal
import subprocess
import sys
from collections.abc import Callable, Mapping
from typing import Final, Literal

import msgspec
import structlog
import trio

from actors.supervisor import BACKOFF_S
from server.launch.log_stream import LineSplitter, LogStream
from server.launch.orders import NodeState
from server.launch.plan import NodePlan

HEALTHY_AFTER_S: Final = 60.0  # a node that lived this long starts over with the shortest delay
CRASH_LOOP_AFTER: Final = 3  # short lives in a row, from where on it needs a person
KILL_AFTER_S: Final = 20.0  # beyond waiting for work in flight: clients that go by themselves, the rest
JITTER: Final = 0.2
READY: Final = b"hubbub is at "  # what `hubbub serve` prints when it is up; the address follows
_LAST_WORDS_S: Final = 1.0  # for what is left in the pipes of a process that has ended
_PIPE_BYTES: Final = 1 << 20  # Linux's default of 64 KiB is filled while a busy launcher looks elsewhere

log = structlog.get_logger(__name__)

# starting: the process is there; up: it said so; stopping: it was asked to end; waiting: it ended by itself
# and will be started; stopped: it ended and stays so.
Phase = Literal["starting", "up", "stopping", "waiting", "stopped"]


class Spawn(msgspec.Struct, frozen=True):
    """How to start a process: its words, and its whole environment."""

    words: list[str]
    environ: Mapping[str, str]


def restart_delay_s(attempt: int, chance: Callable[[], float]) -> float:
    """Return how long to wait before start number `attempt` after a short life, from 0.

    The supervisors' delays, varied by up to a fifth. `chance` returns numbers in [0, 1).
    """
    return BACKOFF_S[min(attempt, len(BACKOFF_S) - 1)] * (1 - JITTER + 2 * JITTER * chance())


class Child:
    """A node that is kept running. `run` does it; the rest says whether it is wanted, and looks."""

    def __init__(
        self,
        plan: NodePlan,
        command: Callable[[NodePlan], Spawn],
        logs: LogStream,
        *,
        drain_s: float,
        kill_after_s: float = KILL_AFTER_S,
        on_end: Callable[["Child"], None] = lambda _: None,
        chance: Callable[[], float] = random.random,
    ) -> None:
        self.plan = plan
        self.phase: Phase = "stopped"
        self.page = ""  # its address, as it said itself
        self.restart_count = 0  # starts that nobody asked for
        self.short_lives = 0  # in a row
        self.start_count = 0
        self.up_count = 0
        self.last_exit: int | None = None  # as subprocess has it: a signal's number is negative
        self.is_wanted = False
        self._command = command
        self._logs = logs
        self._kill_after_s = 2 * drain_s + kill_after_s  # its sessions and its shards have `drain_s` each
        self._on_end = on_end
        self._chance = chance
        self._popen: subprocess.Popen[bytes] | None = None
        self._started_at = 0.0
        self._changed = trio.Event()
        self._is_hurried = False
        self._cpu = CpuMeter()

    @property
    def node_id(self) -> str:
        return self.plan.node_id

    @property
    def pid(self) -> int:
        """Its process; 0 while it has none."""
        return self._popen.pid if self._popen is not None else 0

    @property
    def is_crash_looping(self) -> bool:
        return self.short_lives >= CRASH_LOOP_AFTER

    def describe(self, now: float) -> NodeState:
        return NodeState(
            node_id=self.node_id,
            phase=self.phase,
            pid=self.pid,
            age_s=round(now - self._started_at, 1) if self.pid else 0.0,
            restart_count=self.restart_count,
            is_crash_looping=self.is_crash_looping,
            last_exit=describe_exit(self.last_exit),
            page=self.page,
            local_url=self.plan.local_url,
            cluster_address=f"{self.plan.cluster_host}:{self.plan.cluster_port}",
            cpu_share=self._cpu.share if self.pid else None,
        )

    # -- what is wanted -----------------------------------------------------------------------------

    def start(self) -> None:
        """Have it run from now on; at once, where it waits for its next start."""
        self.is_wanted = True
        self._is_hurried = True
        self._notify()

    def signal(self, number: int) -> None:
        """Send a signal, if there is a process."""
        if self._popen is not None:
            self._popen.send_signal(number)

    async def stop(self, *, at_once: bool = False) -> None:
        """Have it end and stay so: drained, or `at_once`; killed where it does not end in time.

        A cancellation leaves it unwanted and asked.
        """
        self.is_wanted = False
        self._notify()
        if self._popen is None:
            await self.until(lambda: self.phase == "stopped")
            return
        if self.phase != "stopping":
            self._enter("stopping")
            self.signal(signal.SIGTERM)
        if at_once:
            self.signal(signal.SIGTERM)  # the second one: a node that drains stops draining
        with trio.move_on_after(_LAST_WORDS_S if at_once else self._kill_after_s) as patience:
            await self.until(lambda: self.phase == "stopped")
        if patience.cancelled_caught:
            if not at_once:
                log.warning("node_killed", node_id=self.node_id, reason="it did not end in time")
            self.signal(signal.SIGKILL)
            await self.until(lambda: self.phase == "stopped")

    def is_in(self, *phases: Phase) -> bool:
        return self.phase in phases

    async def until(self, is_so: Callable[[], bool]) -> None:
        """Wait until something is so of this child."""
        while not is_so():
            await self._changed.wait()

    def _notify(self) -> None:
        self._changed.set()
        self._changed = trio.Event()

    def _enter(self, phase: Phase) -> None:
        self.phase = phase
        self._notify()

    # -- its life -----------------------------------------------------------------------------------

    async def run(self) -> None:
        """Keep the process running while it is wanted. Runs until cancelled; then the process is killed."""
        while True:
            await self.until(lambda: self.is_wanted)
            self._is_hurried = False
            await self._live()
            self._on_end(self)
            if self.is_wanted:
                await self._wait_for_restart()
            if not self.is_wanted:
                self.short_lives = 0
                self._enter("stopped")

    async def _wait_for_restart(self) -> None:
        delay_s = restart_delay_s(self.short_lives, self._chance)
        self.short_lives += 1
        self.restart_count += 1
        log.warning(
            "node_restarting" if not self.is_crash_looping else "node_crash_looping",
            node_id=self.node_id,
            attempt=self.short_lives,
            delay_s=round(delay_s, 2),
        )
        self._enter("waiting")
        with trio.move_on_after(delay_s):
            await self.until(lambda: self._is_hurried or not self.is_wanted)

    async def _live(self) -> None:
        """From the start of one process to its end."""
        spawn = self._command(self.plan)
        try:
            popen = _open(spawn)
        except OSError as exc:
            log.error("node_not_started", node_id=self.node_id, error=str(exc))  # noqa: TRY400 - no bug of ours
            self.last_exit = 127  # what a shell says
            return
        self._popen = popen
        self._started_at = trio.current_time()
        self.start_count += 1
        self._cpu = CpuMeter()
        self._enter("starting")
        log.info("node_process_started", node_id=self.node_id, pid=popen.pid)
        try:
            async with trio.open_nursery() as readers:
                assert popen.stdout is not None
                assert popen.stderr is not None
                readers.start_soon(self._read, popen.stdout.fileno(), self._hear)
                readers.start_soon(self._read, popen.stderr.fileno(), self._pass_on)
                await _ended(popen)
                readers.cancel_scope.deadline = trio.current_time() + _LAST_WORDS_S
        finally:
            if popen.poll() is None:
                popen.kill()
                with trio.move_on_after(
                    _LAST_WORDS_S * 5, shield=True
                ):  # one in a hanging disk's hands stays
                    await _ended(popen)
            for pipe in (popen.stdin, popen.stdout, popen.stderr):
                if pipe is not None:
                    with contextlib.suppress(OSError):
                        pipe.close()
            self._popen = None
            self.last_exit = popen.poll()
        lived_s = trio.current_time() - self._started_at
        if lived_s >= HEALTHY_AFTER_S:
            self.short_lives = 0
        log.info(
            "node_process_ended",
            node_id=self.node_id,
            pid=popen.pid,
            ended_by=describe_exit(self.last_exit),
            lived_s=round(lived_s, 1),
        )

    async def _read(self, descriptor: int, take: Callable[[bytes], None]) -> None:
        """Take lines until the pipe ends. Nothing here waits for whoever reads the log."""
        splitter = LineSplitter()
        async with trio.lowlevel.FdStream(os.dup(descriptor)) as stream:
            try:
                async for data in stream:
                    for line in splitter.feed(bytes(data)):
                        take(line)
            finally:
                for line in splitter.end():
                    take(line)

    def _hear(self, line: bytes) -> None:
        if not line.startswith(READY):
            self._pass_on(line)
            return
        self.page = line.removeprefix(READY).decode(errors="replace").strip()
        self.up_count += 1
        if self.phase == "starting":
            self._enter("up")

    def _pass_on(self, line: bytes) -> None:
        self._logs.put(self.node_id, line)

    def measure(self, now: float) -> None:
        """Take another reading of how much of a core it uses."""
        self._cpu.read(self.pid, now)


def _open(spawn: Spawn) -> subprocess.Popen[bytes]:
    """Start a process in the calling thread: the leash is tied to that thread, not to the whole launcher."""
    popen = subprocess.Popen(
        spawn.words,
        env=spawn.environ,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        # Ctrl-C in a terminal goes to the whole process group: it is for the launcher alone, which drains us.
        start_new_session=True,
    )
    if sys.platform == "linux":
        import fcntl

        assert popen.stderr is not None
        with contextlib.suppress(OSError):  # the user's pipes may be limited
            fcntl.fcntl(popen.stderr.fileno(), fcntl.F_SETPIPE_SZ, _PIPE_BYTES)
    return popen


async def _ended(popen: subprocess.Popen[bytes]) -> None:
    """Wait for the end of a process, and take up its exit code."""
    if not hasattr(os, "pidfd_open"):
        await trio.to_thread.run_sync(popen.wait, abandon_on_cancel=True)
        return
    descriptor = os.pidfd_open(popen.pid)  # it is ours and not waited for, so the id is not used anew
    try:
        await trio.lowlevel.wait_readable(descriptor)
    finally:
        os.close(descriptor)
    popen.wait()


def describe_exit(code: int | None) -> str:
    if code is None:
        return ""
    if code >= 0:
        return f"exit code {code}"
    try:
        return signal.Signals(-code).name
    except ValueError:
        return f"signal {-code}"


class CpuMeter:
    """How much of one core a process used between two readings; None where the system does not tell."""

    def __init__(self) -> None:
        self.share: float | None = None
        self._last: tuple[float, float] | None = None

    def read(self, pid: int, now: float) -> None:
        used_s = _cpu_s(pid) if pid else None
        if used_s is None:
            self.share, self._last = None, None
            return
        if self._last is not None and now > self._last[1]:
            self.share = round(max(0.0, (used_s - self._last[0]) / (now - self._last[1])), 3)
        self._last = (used_s, now)


def _cpu_s(pid: int) -> float | None:
    """User and system time of a process (proc(5): fields 14 and 15 of /proc/PID/stat)."""
    try:
        with open(f"/proc/{pid}/stat", "rb") as file:
            fields = file.read().rpartition(b")")[2].split()
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")
    except (OSError, ValueError, IndexError):
        return None
