"""A hypothesis state machine, and a plain random walk, over the operations of tests/feed/driver.py.

Hypothesis calls its rules one by one from its own thread, and a node lives in a Trio loop; so each example
has a thread with a loop, whose only task does what the rules hand over, one thing at a time.
"""

import random
import threading
from collections.abc import Awaitable, Callable
from concurrent.futures import Future
from contextlib import AbstractAsyncContextManager
from functools import partial
from typing import Any, ClassVar, Final, Literal, get_args

import trio
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, rule

from tests.feed.driver import OPERATIONS, USERS, Driver, Node, Operation, draw

Cache = Literal["kept", "off", "flapping"]
"""Feeds are kept, as in life; are never kept, so each read is a pull; or are forgotten all the time."""
CACHES: Final[tuple[Cache, ...]] = get_args(Cache)

_Job = tuple[Callable[[Driver], Awaitable[None]], "Future[None]"]


class Portal:
    """A driver in a thread of its own. `call` waits; what a job raises, the caller gets."""

    def __init__(self, open_node: Callable[[], AbstractAsyncContextManager[Node]]) -> None:
        self._open_node = open_node
        self._jobs: trio.MemorySendChannel[_Job]
        self._token: trio.lowlevel.TrioToken
        self._ready: Future[None] = Future()
        self._failure: BaseException | None = None
        self._thread = threading.Thread(target=self._run, name="feed driver")
        self._thread.start()
        self._ready.result()

    def call(self, job: Callable[[Driver], Awaitable[None]]) -> None:
        done: Future[None] = Future()
        self._token.run_sync_soon(self._jobs.send_nowait, (job, done))
        done.result()

    def close(self) -> None:
        """End the node and the thread."""
        self._token.run_sync_soon(self._jobs.close)
        self._thread.join()
        if self._failure is not None:
            raise self._failure

    def _run(self) -> None:
        try:
            trio.run(self._main)
        except BaseException as error:
            self._failure = error
            if not self._ready.done():
                self._ready.set_exception(error)

    async def _main(self) -> None:
        self._jobs, jobs = trio.open_memory_channel[_Job](1)
        self._token = trio.lowlevel.current_trio_token()
        async with self._open_node() as node:
            driver = Driver(node)
            self._ready.set_result(None)
            async for job, done in jobs:
                try:
                    await job(driver)
                except Exception as error:
                    done.set_exception(error)
                except BaseException as error:  # the node has ended by itself, and cancels who uses it
                    done.set_exception(RuntimeError(f"the node has failed: {error!r}"))
                    raise
                else:
                    done.set_result(None)
            driver.close()


class FeedMachine(RuleBasedStateMachine):
    """Subclasses say which node; the rules are added below, one for each operation and unit of weight."""

    caches: ClassVar[tuple[Cache, ...]] = CACHES

    def __init__(self) -> None:
        super().__init__()
        self._portal: Portal | None = None
        self._rng = random.Random(0)
        self._has_failed = False
        self._cache: Cache = "kept"

    def open_node(self, cache: Cache) -> AbstractAsyncContextManager[Node]:
        raise NotImplementedError

    @initialize(data=st.data(), graph=st.integers(0, 3))
    def begin(self, data: st.DataObject, graph: int) -> None:
        """Start with nobody following anybody, a hot author or two, or everybody following everybody."""
        self._cache = data.draw(st.sampled_from(self.caches), label="cache")
        self._portal = Portal(partial(self.open_node, self._cache))
        for author in range((0, 1, 2, len(USERS))[graph]):
            self.play("everybody_follows", {"whom": author})

    def play(self, name: str, arguments: dict[str, int]) -> None:
        assert self._portal is not None
        try:
            if self._cache == "flapping":
                victim = self._rng.randrange(len(USERS))
                self._portal.call(lambda driver: driver.evict(victim))
            self._portal.call(lambda driver: getattr(driver, name)(**arguments))
        except BaseException:
            self._has_failed = True
            raise

    def teardown(self) -> None:
        if self._portal is None:
            return
        try:
            if not self._has_failed:  # else it would fail here once more
                self._portal.call(check_everything)
        finally:
            self._portal.close()


def _rule_of(operation: Operation) -> object:
    def play(self: FeedMachine, **arguments: int) -> None:
        self.play(operation.name, arguments)

    strategies: dict[str, Any] = {name: st.integers(0, size - 1) for name, size in operation.sizes.items()}
    play.__name__ = operation.name
    make_rule: Callable[[Callable[..., None]], object] = rule(**strategies)
    return make_rule(play)


for _operation in OPERATIONS:
    for _copy in range(_operation.weight):  # hypothesis draws each rule as often as any other
        setattr(FeedMachine, f"{_operation.name}_{_copy}" if _copy else _operation.name, _rule_of(_operation))


async def check_everything(driver: Driver) -> None:
    """At the end: all pages as they are, all pages when nothing is under way, and all counts."""
    await driver.check_all()
    await driver.check_counts()
    driver.is_settled = True
    await driver.check_all()


async def walk(driver: Driver, seed: int, steps: int, *, flaps: bool = False) -> None:
    """Play at random; `flaps`: forget a feed before each step. A failure names the seed and what was done."""
    rng = random.Random(seed)
    played: list[str] = []
    try:
        for _ in range(steps):
            if flaps:
                await driver.evict(rng.randrange(len(USERS)))
            name, arguments = draw(rng)
            played.append(f"{name}({', '.join(f'{key}={value}' for key, value in arguments.items())})")
            await getattr(driver, name)(**arguments)
        await check_everything(driver)
    except Exception as error:
        error.add_note(f"seed {seed}, step {len(played)} of {steps}; before it:\n" + "\n".join(played[-15:]))
        raise
