"""The process behind `hubbub cluster`: it runs the nodes, and is no node itself.

It opens no store and serves no client, so little can go wrong in it; and when it ends by whatever means, its
nodes end too (leash). A `kill -9` of the launcher is a power cut to its nodes: nothing acked is lost.
"""

import fcntl
import os
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Final

import structlog
import trio

from server.launch.child import KILL_AFTER_S, Child, Spawn
from server.launch.door import Asker, serve_door
from server.launch.frozen import FROZEN_AFTER_S, LOOK_EVERY_S, Holder, LockWatch
from server.launch.log_stream import LogStream
from server.launch.orders import Add, Done, Drain, Look, Order, Progress, Restart, Start, State, Stop
from server.launch.plan import MAX_NODES, NodePlan, NodePlans
from server.launch.roll import ReadShare, RollFailed, drain, roll, start

LOCK_NAME: Final = "launcher.lock"
OK: Final = 0
FAILED: Final = 1
USAGE: Final = 2
_MEASURE_EVERY_S: Final = 5.0  # long enough to be steady, short enough to see
_ENDED_WELL: Final = (0, -signal.SIGTERM)  # the second: asked before it had begun to listen for it

log = structlog.get_logger(__name__)


class AlreadyRunning(OSError):
    """Another launcher runs on the directory."""


class LauncherLock:
    """Held by the one launcher of a directory; the kernel releases it however that ends."""

    def __init__(self, directory: Path) -> None:
        """Raises: AlreadyRunning."""
        directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        self._file = os.open(directory / LOCK_NAME, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            holder = os.pread(self._file, 32, 0).decode("ascii", "replace").strip()
            os.close(self._file)
            raise AlreadyRunning(
                f"A cluster runs on {directory} already (process {holder or 'unknown'}); "
                "`hubbub cluster status` shows it, `hubbub cluster add` adds a node."
            ) from None
        os.ftruncate(self._file, 0)
        os.pwrite(self._file, f"{os.getpid()}\n".encode(), 0)

    def close(self) -> None:
        os.close(self._file)


class Launcher:
    """Starts `count` nodes and keeps them running. `run` returns the exit code."""

    def __init__(
        self,
        directory: Path,
        plans: NodePlans,
        count: int,
        *,
        command: Callable[[NodePlan], Spawn],
        logs: LogStream,
        read_share: ReadShare,
        read_holder: Callable[[Path], Holder | None],
        drain_s: float,
        kill_after_s: float = KILL_AFTER_S,
        on_ready: Callable[[list[str]], None] = lambda _pages: None,
    ) -> None:
        """`command` makes the words that start a node, anew at each start.

        A node that is drained has `drain_s` for its sessions, as much for its shards, and `kill_after_s` for
        all else.
        `on_ready` gets the nodes' addresses once all are up.
        """
        self._directory = directory
        self._plans = plans
        self._count = count
        self._command = command
        self._logs = logs
        self._read_share = read_share
        self._read_holder = read_holder
        self._drain_s = drain_s
        self._kill_after_s = kill_after_s
        self._on_ready = on_ready
        self._children: dict[str, Child] = {}
        self._nursery: trio.Nursery
        self._is_ending = False
        self._exit_code = OK
        self._has_ended = trio.Event()
        self._busy_with = ""  # the order that is being carried out; one at a time
        self._order_scope = trio.CancelScope()

    async def run(self) -> int:
        """Run the nodes until a signal, or until one finds its settings wrong at its first start."""
        async with trio.open_nursery() as nursery:
            self._nursery = nursery
            await nursery.start(self._take_signals)
            await nursery.start(serve_door, self._directory, self._carry_out)
            nursery.start_soon(self._watch_lock)
            nursery.start_soon(self._measure)
            for number in range(1, self._count + 1):
                self._new_child(number).start()
            nursery.start_soon(self._announce)
            await self._has_ended.wait()
            nursery.cancel_scope.cancel()
        log.info("cluster_ended", exit_code=self._exit_code)
        return self._exit_code

    def _new_child(self, number: int) -> Child:
        plan = self._plans.plan(number)
        child = Child(
            plan,
            self._command,
            self._logs,
            drain_s=self._drain_s,
            kill_after_s=self._kill_after_s,
            on_end=self._on_child_end,
        )
        self._children[plan.node_id] = child
        self._nursery.start_soon(child.run)
        return child

    async def _announce(self) -> None:
        first = list(self._children.values())
        for child in first:
            await child.until(lambda child=child: child.up_count > 0)  # type: ignore[misc] # mypy#12557
        log.info("cluster_started", node_count=len(first))
        self._on_ready(
            list(dict.fromkeys(child.page for child in first))
        )  # one, where a proxy stands before all

    def _on_child_end(self, child: Child) -> None:
        if self._is_ending:
            if child.last_exit not in _ENDED_WELL:
                self._exit_code = self._exit_code or FAILED
        elif child.last_exit == USAGE and not child.up_count:
            # Starting it again does not help, and the others have the same settings.
            log.error("settings_refused", node_id=child.node_id, hint="the node's own line says which")
            self._exit_code = USAGE
            self._end()

    # -- signals ------------------------------------------------------------------------------------

    async def _take_signals(self, *, task_status: trio.TaskStatus[None]) -> None:
        """Drain all at the first SIGTERM or SIGINT, kill all at the second; SIGHUP is passed on."""
        with trio.open_signal_receiver(signal.SIGTERM, signal.SIGINT, signal.SIGHUP) as signals:
            task_status.started()
            async for number in signals:
                if number == signal.SIGHUP:
                    for child in self._children.values():
                        if child.phase == "up":  # one that starts reads its certificate anyway
                            child.signal(signal.SIGHUP)
                elif not self._is_ending:
                    log.info("cluster_draining", signal=signal.Signals(number).name)
                    self._end()
                else:
                    log.warning("cluster_killed", signal=signal.Signals(number).name)
                    self._exit_code = FAILED
                    for child in self._children.values():
                        child.signal(signal.SIGKILL)

    def _end(self) -> None:
        if not self._is_ending:
            self._is_ending = True
            self._order_scope.cancel()  # or it would start the next node
            self._nursery.start_soon(self._stop_all)

    async def _stop_all(self) -> None:
        async with trio.open_nursery() as nursery:
            for child in self._children.values():
                nursery.start_soon(child.stop)
        self._has_ended.set()

    # -- watching -----------------------------------------------------------------------------------

    async def _watch_lock(self) -> None:
        """Kill the child that keeps the write lock, so that the others can go on."""
        watch = LockWatch()
        warned_of = None
        while True:
            await trio.sleep(LOOK_EVERY_S)
            try:
                holder = self._read_holder(self._directory)  # two system calls on a file in memory
            except OSError as exc:
                log.warning("write_lock_unreadable", error=str(exc))
                continue
            now = trio.current_time()
            up = {child.pid for child in self._children.values() if child.pid and child.phase != "starting"}
            starting = {child.pid for child in self._children.values() if child.phase == "starting"}
            condemned = watch.look(holder, now, up=up, starting=starting)
            for child in self._children.values():
                if condemned and child.pid == condemned:
                    log.error(
                        "frozen_node_killed",
                        node_id=child.node_id,
                        pid=condemned,
                        reason="it kept the store's write lock",
                        held_s=round(watch.held_s(now), 1),
                    )
                    child.signal(signal.SIGKILL)
            if not condemned and watch.held_s(now) > FROZEN_AFTER_S and holder != warned_of:
                warned_of = holder  # a backup, another launcher's node, a migration: not ours to end
                log.warning(
                    "write_lock_kept",
                    pid=holder.pid if holder is not None else 0,
                    held_s=round(watch.held_s(now), 1),
                )

    async def _measure(self) -> None:
        while True:
            for child in self._children.values():
                child.measure(trio.current_time())
            await trio.sleep(_MEASURE_EVERY_S)

    # -- orders -------------------------------------------------------------------------------------

    async def _carry_out(self, order: Order, asker: Asker) -> Done | None:
        if isinstance(order, Look):
            await asker.tell(self._state())
            return None
        if self._is_ending:
            return Done(code=FAILED, text="The cluster is ending.")
        if self._busy_with:
            return Done(
                code=FAILED, text=f"A {self._busy_with} is under way; wait for its end, and ask again."
            )
        unknown = [node_id for node_id in _named(order) if node_id not in self._children]
        if unknown:
            return Done(
                code=USAGE, text=f"There is no node {unknown[0]}; there are {', '.join(self._children)}."
            )
        self._busy_with = str(order.__struct_config__.tag)
        try:
            with trio.CancelScope() as self._order_scope:
                return await self._do(order, asker)
            return Done(code=FAILED, text="The cluster is ending.")
        except RollFailed as exc:
            log.warning("order_failed", order=self._busy_with, reason=str(exc))
            return Done(code=FAILED, text=str(exc))
        finally:
            self._busy_with = ""

    async def _do(self, order: Order, asker: Asker) -> Done:
        async def tell(node_id: str, text: str) -> None:
            log.info("order_progressed", order=self._busy_with, node_id=node_id, text=text)
            await asker.tell(Progress(node_id=node_id, text=text))

        if isinstance(order, Restart):
            wanted = order.node_ids or [
                child.node_id for child in self._children.values() if child.phase != "stopped"
            ]
            await roll(
                [self._children[node_id] for node_id in dict.fromkeys(wanted)],
                tell,
                self._read_share,
                timeout_s=order.timeout_s,
                is_given_up=lambda: asker.has_left or self._is_ending,
            )
        elif isinstance(order, Start):
            await start(self._children[order.node_id], tell, self._read_share, timeout_s=order.timeout_s)
        elif isinstance(order, Add):
            if len(self._children) >= MAX_NODES:
                raise RollFailed(f"There are {MAX_NODES} nodes; one machine gains nothing from more.")
            child = self._new_child(len(self._children) + 1)
            await start(child, tell, self._read_share, timeout_s=order.timeout_s)
        elif isinstance(order, Drain | Stop):
            await drain(self._children[order.node_id], tell, at_once=isinstance(order, Stop))
        return Done()

    def _state(self) -> State:
        now = trio.current_time()
        nodes = [child.describe(now) for child in self._children.values()]
        return State(pid=os.getpid(), is_ending=self._is_ending, nodes=nodes)


def _named(order: Order) -> list[str]:
    if isinstance(order, Restart):
        return order.node_ids
    if isinstance(order, Drain | Stop | Start):
        return [order.node_id]
    return []
