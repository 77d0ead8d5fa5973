"""Keep tasks running: OTP's supervisor on a Trio nursery, with the backoff that OTP leaves out.

Design note. One task, `Supervisor.run`, decides everything: children report their exit, and it judges one
exit after the other, so no two restarts overlap. Starting is synchronous as in OTP (the next child starts
when the last one called `task_status.started()`), waiting for a backoff is not. Children run in shielded
cancel scopes: a cancelled supervisor first stops them in reverse order, each with its own deadline, and then
lets the cancellation pass. So supervisors nest as plain children.
"""

import random
from collections import deque
from collections.abc import Awaitable, Callable, Iterable, Sequence
from enum import Enum, auto
from math import inf
from typing import Any, Final

import msgspec
import structlog
import trio

BACKOFF_S: Final = (0.0, 0.1, 0.5, 2.0, 10.0, 30.0)  # before the first, second, … restart in a row
_JITTER: Final = 0.2  # each delay is varied by up to a fifth, so that nodes do not restart in step
SHUTDOWN_S: Final = 5.0  # OTP's default for workers
START_TIMEOUT_S: Final = 30.0  # a migration or a recovery fits; a child that hangs is restarted

_log: structlog.typing.FilteringBoundLogger = structlog.get_logger()


class Strategy(Enum):
    """Who is restarted when a child has to be."""

    ONE_FOR_ONE = auto()  # that child
    ONE_FOR_ALL = auto()  # all children
    REST_FOR_ONE = auto()  # that child and those after it, which build on it


class Restart(Enum):
    """When a child that ended has to be restarted."""

    PERMANENT = auto()  # always
    TRANSIENT = auto()  # when it raised
    TEMPORARY = auto()  # never, also not because of a sibling


class ChildStatus:
    """What a child is handed as `task_status`: Trio's `TaskStatus`, and the wish that it stop."""

    __slots__ = ("is_started", "ready", "stop_requested")

    def __init__(self) -> None:
        self.stop_requested = trio.Event()  # only ever set for a child whose spec is `graceful`
        self.ready = trio.Event()  # started, or ended before that
        self.is_started = False

    def started(self, _value: object = None) -> None:
        """Let the next child start."""
        self.is_started = True
        self.ready.set()


class ChildSpec(msgspec.Struct, frozen=True, kw_only=True):
    """Describe a child: how it is started, and what its end means.

    `start(task_status=ChildStatus)` runs as long as the child lives and calls `task_status.started()` once it
    is of use to the children after it. To stop a child is to cancel it; a `graceful` one is first asked
    through `task_status.stop_requested` and has `shutdown_s` to return. What a child shields from
    cancellation has to be bounded by the child itself; a stop that overruns `shutdown_s` is logged, and
    awaited.
    """

    name: str
    start: Callable[..., Awaitable[Any]]
    restart: Restart = Restart.PERMANENT
    shutdown_s: float = SHUTDOWN_S
    graceful: bool = False
    start_timeout_s: float = START_TIMEOUT_S


class ChildInfo(msgspec.Struct, frozen=True):
    """Tell an operator how a child is doing."""

    name: str
    state: str  # "waiting", "running", "stopping", "exited", "done"
    restarts: int


class SupervisorEscalated(Exception):
    """Children had to be restarted more often than allowed; all are stopped, and the parent decides.

    Its cause is the last child's error, if it had one.
    """

    def __init__(self, supervisor: str, child: str, restart_count: int, period_s: float) -> None:
        super().__init__(f"{supervisor}: {restart_count} restarts in {period_s:g} s, the last for {child}")
        self.supervisor = supervisor
        self.child = child


class ChildStartTimeout(Exception):
    """A child did not call `task_status.started()` in time."""


class _State(Enum):
    WAITING = auto()  # to be started when due
    RUNNING = auto()
    STOPPING = auto()  # because the supervisor wants it
    EXITED = auto()  # of itself, not judged yet
    DONE = auto()


class _Child:
    __slots__ = (
        "attempt",
        "due",
        "error",
        "exited",
        "restarts",
        "scope",
        "spec",
        "started_at",
        "state",
        "status",
    )

    def __init__(self, spec: ChildSpec, now: float) -> None:
        self.spec = spec
        self.state = _State.WAITING
        self.due = now
        self.attempt = 0  # restarts in a row, without a healthy period between
        self.restarts = 0
        self.started_at = inf  # never, so far
        self.error: Exception | None = None
        self.status = ChildStatus()
        self.scope = trio.CancelScope()
        self.exited = trio.Event()
        self.exited.set()

    @property
    def is_alive(self) -> bool:
        return not self.exited.is_set()

    def wait_until(self, due: float) -> None:
        self.state = _State.WAITING
        self.due = due


class Supervisor:
    """Start children in order, restart them by `strategy`, stop them in reverse order.

    More than `max_restarts` in `period_s` seconds, over all children, and it stops them all and raises
    `SupervisorEscalated`. A child that ran for `healthy_after_s` starts over with the shortest backoff.
    """

    def __init__(
        self,
        name: str,
        children: Iterable[ChildSpec] = (),
        *,
        strategy: Strategy = Strategy.ONE_FOR_ONE,
        max_restarts: int = 3,
        period_s: float = 60.0,
        healthy_after_s: float = 60.0,
        backoff_s: Sequence[float] = BACKOFF_S,
        rng: random.Random | None = None,
    ) -> None:
        self.name = name
        self._specs: dict[str, ChildSpec] = {}
        self._strategy = strategy
        self._max_restarts = max_restarts
        self._period_s = period_s
        self._healthy_after_s = healthy_after_s
        self._backoff_s = backoff_s
        self._rng = rng or random.Random()
        self._children: list[_Child] = []
        self._exits: deque[_Child] = deque()
        self._news = trio.Event()
        self._restart_times: list[float] = []
        self._is_running = False
        self._is_stopping = False
        for spec in children:
            self.add(spec)

    def as_child(self, *, restart: Restart = Restart.PERMANENT) -> ChildSpec:
        """Describe this supervisor as a child of another one, which gives it all the time it needs."""
        return ChildSpec(name=self.name, start=self.run, restart=restart, shutdown_s=inf, start_timeout_s=inf)

    def children(self) -> list[ChildInfo]:
        """List the children in starting order."""
        return [ChildInfo(c.spec.name, c.state.name.lower(), c.restarts) for c in self._children]

    def add(self, spec: ChildSpec) -> None:
        """Add a child after the others; while the supervisor runs, it is started at once."""
        if spec.name in self._specs:
            raise ValueError(f"{self.name} already has a child {spec.name!r}")
        self._specs[spec.name] = spec
        if self._is_running:
            self._children.append(_Child(spec, trio.current_time()))
            self._news.set()

    async def remove(self, name: str) -> None:
        """Stop a child and forget it."""
        del self._specs[name]
        for child in [c for c in self._children if c.spec.name == name]:
            self._children.remove(child)
            child.state = _State.STOPPING if child.is_alive else _State.DONE
            await self._stop_child(child)

    def stop(self) -> None:
        """Let `run` stop all children in reverse order and return."""
        self._is_stopping = True
        self._news.set()

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Supervise until `stop`, cancellation or escalation; no child outlives this call.

        `task_status.started()` is called when all children have been started once. It may be run again later.

        Raises: SupervisorEscalated.
        """
        now = trio.current_time()
        self._children = [_Child(spec, now) for spec in self._specs.values()]
        self._exits.clear()
        self._restart_times.clear()
        self._is_stopping = False
        self._is_running = True
        escalation: SupervisorEscalated | None = None
        try:
            async with trio.open_nursery() as nursery:
                try:
                    escalation = await self._supervise(nursery, task_status)
                finally:
                    with trio.CancelScope(shield=True):  # bounded by the children's own deadlines
                        await self._stop_all(self._children)
        finally:
            self._is_running = False
        if escalation is not None:
            raise escalation

    async def _supervise(
        self, nursery: trio.Nursery, task_status: trio.TaskStatus[None]
    ) -> SupervisorEscalated | None:
        """Start what is due and judge who exits, until told to stop (None) or the limit is passed."""
        is_up = False
        while not self._is_stopping:
            while self._exits:
                child = self._exits.popleft()
                if child.state is _State.EXITED:
                    escalation = await self._judge(child)
                    if escalation is not None:
                        return escalation
            # Siblings restart independently only once everything has been up, and only one for one.
            in_order = not is_up or self._strategy is not Strategy.ONE_FOR_ONE
            self._news = trio.Event()
            next_due = await self._start_due(nursery, in_order=in_order)
            if self._exits or self._is_stopping:
                continue
            if not is_up and next_due == inf:
                is_up = True
                task_status.started()
            with trio.move_on_at(next_due):
                await self._news.wait()
        return None

    async def _start_due(self, nursery: trio.Nursery, *, in_order: bool) -> float:
        """Start the waiting children that are due; return when the next one is.

        In order, no child passes one before it that waits or has just failed.
        """
        next_due = inf
        for child in tuple(self._children):
            if child.state is not _State.WAITING:
                continue
            is_due = child.due <= trio.current_time()
            if is_due:
                await self._start_child(nursery, child)
            else:
                next_due = min(next_due, child.due)
            if in_order and (self._exits or not is_due):
                break
        return next_due

    async def _start_child(self, nursery: trio.Nursery, child: _Child) -> None:
        """Start one child, and wait until it says so, ends, or runs out of time."""
        child.state = _State.RUNNING
        child.status = ChildStatus()
        child.scope = trio.CancelScope(shield=True)
        child.exited = trio.Event()
        child.error = None
        child.started_at = inf
        nursery.start_soon(self._run_child, child, name=f"{self.name}/{child.spec.name}")
        with trio.move_on_after(child.spec.start_timeout_s):
            await child.status.ready.wait()
        if child.status.is_started:
            child.started_at = trio.current_time()
        elif child.is_alive:
            child.error = ChildStartTimeout(f"not started in {child.spec.start_timeout_s:g} s")
            child.scope.cancel()
            await child.exited.wait()

    async def _run_child(self, child: _Child) -> None:
        """Run one life of a child; report its end unless the supervisor asked for it."""
        try:
            with child.scope:
                await child.spec.start(task_status=child.status)
        except Exception as error:
            child.error = error
        finally:
            child.exited.set()
            child.status.ready.set()
            if child.state is _State.RUNNING:
                child.state = _State.EXITED
                self._exits.append(child)
                self._news.set()

    async def _judge(self, child: _Child) -> SupervisorEscalated | None:
        """Decide what follows from an exit: nothing, restarts (stopping siblings first), or escalation."""
        self._log_exit(child)
        if not _must_restart(child):
            child.state = _State.DONE
            return None
        now = trio.current_time()
        self._restart_times = [at for at in self._restart_times if now - at < self._period_s]
        self._restart_times.append(now)
        if len(self._restart_times) > self._max_restarts:
            count = len(self._restart_times)
            escalation = SupervisorEscalated(self.name, child.spec.name, count, self._period_s)
            escalation.__cause__ = child.error
            _log.error("supervisor_escalated", supervisor=self.name, child=child.spec.name, restarts=count)
            return escalation
        if now - child.started_at >= self._healthy_after_s:
            child.attempt = 0
        delay_s = self._backoff(child.attempt)
        child.attempt += 1
        child.restarts += 1
        siblings = self._siblings_affected_by(child)
        await self._stop_all(siblings)
        due = trio.current_time() + delay_s
        child.wait_until(due)
        for sibling in siblings:
            if sibling.state is _State.EXITED:  # in the same moment: one restart covers both
                self._log_exit(sibling)
                if not _must_restart(sibling):
                    sibling.state = _State.DONE
                    continue
            if sibling.spec.restart is Restart.TEMPORARY:
                sibling.state = _State.DONE
            else:
                sibling.wait_until(due)
        return None

    def _siblings_affected_by(self, child: _Child) -> list[_Child]:
        """List those who are restarted with `child`, in starting order; who has finished for good is not."""
        if self._strategy is Strategy.ONE_FOR_ONE or child not in self._children:
            return []
        first = 0 if self._strategy is Strategy.ONE_FOR_ALL else self._children.index(child)
        return [c for c in self._children[first:] if c is not child and c.state is not _State.DONE]

    def _backoff(self, attempt: int) -> float:
        delay_s = self._backoff_s[min(attempt, len(self._backoff_s) - 1)]
        return delay_s * self._rng.uniform(1 - _JITTER, 1 + _JITTER)

    async def _stop_all(self, children: Sequence[_Child]) -> None:
        """Stop children one after the other, the last one first."""
        for child in reversed(children):
            await self._stop_child(child)

    async def _stop_child(self, child: _Child) -> None:
        """Ask a child to stop if it wants to be asked, cancel it at its deadline, and see it end."""
        if not child.is_alive:
            return
        spec = child.spec
        child.state = _State.STOPPING
        if spec.graceful:
            child.status.stop_requested.set()
            with trio.move_on_after(spec.shutdown_s):
                await child.exited.wait()
        if child.is_alive:
            if spec.graceful:
                _log.warning("child_stop_cut_short", supervisor=self.name, child=spec.name)
            child.scope.cancel()
            with trio.move_on_after(spec.shutdown_s):
                await child.exited.wait()
        if child.is_alive:
            _log.warning("child_stop_overran", supervisor=self.name, child=spec.name, after_s=spec.shutdown_s)
            await child.exited.wait()
        if child.error is not None:
            _log.warning("child_stop_failed", supervisor=self.name, child=spec.name, exc_info=child.error)

    def _log_exit(self, child: _Child) -> None:
        log = _log.bind(supervisor=self.name, child=child.spec.name, attempt=child.attempt)
        if child.error is None:
            log.info("child_finished")
        elif isinstance(child.error, SupervisorEscalated):  # its traceback was logged further down
            log.error("child_crashed", reason=str(child.error))
        else:
            log.error("child_crashed", exc_info=child.error)


def at_once(run: Callable[[], Awaitable[None]]) -> Callable[..., Awaitable[None]]:
    """Give a task that is ready at once the shape of a supervised child."""

    async def start(*, task_status: ChildStatus) -> None:
        task_status.started()
        await run()

    return start


def _must_restart(child: _Child) -> bool:
    restart = child.spec.restart
    return restart is Restart.PERMANENT or (restart is Restart.TRANSIENT and child.error is not None)
