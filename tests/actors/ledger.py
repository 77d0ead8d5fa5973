"""A small actor with a log of its own, for the tests of the runtime: what a conversation does, without chat.

`World` outlives incarnations as a store does; `Ledger` is an entity that appends to it in batches.
"""

from collections import Counter, defaultdict
from collections.abc import AsyncIterator, Callable, MutableMapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

import structlog.testing
import trio

from actors import (
    Address,
    CrashPolicy,
    Entity,
    EntityContext,
    EntityHost,
    LocalRouter,
    Reply,
    ReplySlot,
    StopEntity,
)
from protocol.errors import HubbubError, Refused, Unavailable

KIND = "ledger"
A = Address(KIND, "a")
NEVER = CrashPolicy(max_crashes=1_000_000)


class Boom(Exception):
    """A bug."""


@dataclass(frozen=True)
class Append:
    """Answered with the position in the log, once stored."""

    body: str


@dataclass(frozen=True)
class Read:
    """Answered at once with what the incarnation holds."""


@dataclass(frozen=True)
class Do:
    """Run `action` inside `receive`."""

    action: Callable[["Ledger"], object]


@dataclass(frozen=True)
class Hold:
    """Keep `receive` waiting until `until` is set."""

    until: trio.Event


@dataclass(frozen=True)
class _Committed:
    bodies: list[str]
    replies: list[Reply]


@dataclass
class World:
    """The log, the faults to inject, and what was seen."""

    rows: dict[str, list[str]] = field(default_factory=lambda: defaultdict(list))
    receive_crashes: Counter[str] = field(default_factory=Counter)  # body -> how often still
    flush_crashes: Counter[str] = field(default_factory=Counter)
    activation_errors: list[BaseException] = field(default_factory=list)  # raised one after the other
    flush_errors: list[HubbubError] = field(default_factory=list)
    activate_s: float = 0.0
    commit_s: float = 0.0  # 0: within flush
    passivate_s: float = 0.0
    can_leave: bool = True
    activations: list[tuple[str, bool]] = field(default_factory=list)  # (id, restarted)
    passivations: list[str] = field(default_factory=list)
    ends: list[str] = field(default_factory=list)  # otherwise than by passivation
    received: list[str] = field(default_factory=list)
    batches: list[int] = field(default_factory=list)
    dead: list[tuple[Address, object, BaseException, int]] = field(default_factory=list)
    live: dict[str, "Ledger"] = field(default_factory=dict)
    logs: list[MutableMapping[str, Any]] = field(default_factory=list)
    _pending: list[tuple[float, "Ledger", list[str], list[Reply]]] = field(default_factory=list)
    _has_pending: trio.Event = field(default_factory=trio.Event)

    def log_events(self) -> list[str]:
        """The names of the log lines so far."""
        return [line["event"] for line in self.logs]

    def submit(self, ledger: "Ledger", bodies: list[str], replies: list[Reply]) -> None:
        """Queue an append, to be committed `commit_s` seconds from now."""
        self._pending.append((trio.current_time() + self.commit_s, ledger, bodies, replies))
        self._has_pending.set()

    async def write(self) -> None:
        """Commit appends in the order they were submitted, as the store's writer does, until cancelled."""
        while True:
            await self._has_pending.wait()
            self._has_pending = trio.Event()
            while self._pending:
                due, ledger, bodies, replies = self._pending.pop(0)
                await trio.sleep_until(due)
                self.rows[ledger.ctx.address.id] += bodies
                ledger.in_flight -= 1
                if not ledger.in_flight:
                    ledger.is_settled.set()
                    ledger.is_settled = trio.Event()
                ledger.ctx.post(_Committed(bodies, replies))


class Ledger(Entity):
    """Append bodies to the log, one append per batch, and answer after the commit.

    With `is_prompt` it takes in its senders' turns whatever it need not await.
    """

    ctx: EntityContext
    is_prompt = False

    def __init__(self, world: World) -> None:
        self.world = world
        self.state: list[str] = []
        self.staged: list[tuple[str, Reply]] = []
        self.in_flight = 0
        self.is_settled = trio.Event()  # set when the last append in flight has concluded
        self.posted: list[object] = []

    async def activate(self, ctx: EntityContext) -> None:
        self.ctx = ctx
        world = self.world
        await trio.sleep(world.activate_s)
        if world.activation_errors:
            raise world.activation_errors.pop(0)
        self.state = list(world.rows[ctx.address.id])
        world.live[ctx.address.id] = self
        world.activations.append((ctx.address.id, ctx.restarted))

    async def receive(self, message: object, reply: Reply) -> None:
        if isinstance(message, Hold):
            await message.until.wait()
            reply.resolve(None)
        else:
            self._take(message, reply)

    def receive_nowait(self, message: object, reply: Reply) -> bool:
        if not self.is_prompt or isinstance(message, Hold):
            return False
        self._take(message, reply)
        return True

    def _take(self, message: object, reply: Reply) -> None:
        match message:
            case Append(body):
                self.world.received.append(body)
                if self.world.receive_crashes[body] > 0:
                    self.world.receive_crashes[body] -= 1
                    raise Boom(body)
                self.staged.append((body, reply))
            case Read():
                reply.resolve(tuple(self.state))
            case Do(action):
                reply.resolve(action(self))
            case _Committed(bodies, replies):
                self._conclude(bodies, replies)
            case _:
                self.posted.append(message)

    def _conclude(self, bodies: list[str], replies: list[Reply]) -> None:
        for position, answered in enumerate(replies, start=len(self.state)):
            answered.resolve(position)
        self.state += bodies

    async def flush(self) -> None:
        self._flush()

    def flush_nowait(self) -> bool:
        if self.is_prompt:
            self._flush()
        return self.is_prompt

    def _flush(self) -> None:
        world = self.world
        if self.staged:
            staged, self.staged = self.staged, []
            world.batches.append(len(staged))
            if world.flush_errors:
                raise world.flush_errors.pop(0)
            for body, _ in staged:
                if world.flush_crashes[body] > 0:
                    world.flush_crashes[body] -= 1
                    raise Boom(body)
            if not world.commit_s:
                self.world.rows[self.ctx.address.id] += [body for body, _ in staged]
                self._conclude([body for body, _ in staged], [reply for _, reply in staged])
                return
            self.in_flight += 1
            world.submit(self, [body for body, _ in staged], [reply for _, reply in staged])

    def may_passivate(self) -> bool:
        return self.in_flight == 0 and self.world.can_leave

    async def passivate(self) -> None:
        await trio.sleep(self.world.passivate_s)
        self.world.passivations.append(self.ctx.address.id)

    def ended(self) -> None:
        self.world.ends.append(self.ctx.address.id)

    async def settle(self) -> None:
        if self.in_flight:
            await self.is_settled.wait()


@dataclass
class Runtime:
    """A running host with its router and world."""

    world: World
    router: LocalRouter
    host: EntityHost

    def send(self, *bodies: str, to: Address = A) -> list[ReplySlot]:
        """Ask for appends without waiting."""
        return [self.ask(Append(body), to=to) for body in bodies]

    def ask(self, message: object, to: Address = A) -> ReplySlot:
        """Ask without waiting."""
        slot = ReplySlot()
        self.router.ask_nowait(to, message, slot)
        return slot


@asynccontextmanager
async def open_runtime(world: World | None = None, **options: Any) -> AsyncIterator[Runtime]:
    """Run a host of ledgers; leaving cancels it."""
    world = world or World()
    router = LocalRouter()
    defaults: dict[str, Any] = {
        "factory": lambda _address: Ledger(world),
        "on_dead_letter": lambda *row: world.dead.append(row),
    }
    host = EntityHost(KIND, router=router, **{**defaults, **options})
    router.add(host)
    with structlog.testing.capture_logs() as world.logs:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(world.write)
            await nursery.start(host.run)
            yield Runtime(world, router, host)
            nursery.cancel_scope.cancel()


async def outcome(slot: ReplySlot) -> object:
    """Wait for an answer; an error becomes its code."""
    try:
        return await slot.wait()
    except HubbubError as error:
        return error.code


async def outcomes(slots: list[ReplySlot]) -> list[object]:
    """Wait for answers in turn."""
    return [await outcome(slot) for slot in slots]


def fenced(_ledger: Ledger) -> object:
    """An action that ends the incarnation, as a lost shard does."""
    raise StopEntity(Unavailable("moved"))


def refuse(_ledger: Ledger) -> object:
    """An action that is declined."""
    raise Refused("forbidden")


def crash(_ledger: Ledger) -> object:
    """An action with a bug."""
    raise Boom("action")
