"""Supervisors restart what failed, as far as told, and stop everything in order when that does not help."""

import random
from collections.abc import AsyncIterator, Callable, MutableMapping
from contextlib import asynccontextmanager
from itertools import pairwise
from math import inf
from typing import Any

import pytest
import structlog.testing
import trio
from trio.testing import MockClock, wait_all_tasks_blocked

from actors import ChildSpec, ChildStatus, Restart, Strategy, Supervisor, SupervisorEscalated

Logs = list[MutableMapping[str, Any]]


class Boom(Exception):
    """A bug."""


class Stage:
    """Children whose comings and goings are recorded, and that end when the test says so."""

    def __init__(self) -> None:
        self.zero = trio.current_time()
        self.events: list[str] = []
        self.times: dict[str, list[float]] = {}
        self.ends: dict[str, trio.Event] = {}
        self.errors: dict[str, Exception | None] = {}
        self.start_s: dict[str, float] = {}
        self.stop_s: dict[str, float] = {}

    def child(self, name: str, restart: Restart = Restart.PERMANENT, **options: Any) -> ChildSpec:
        """A child that runs until `crash`, `finish` or its supervisor ends it."""

        async def start(*, task_status: ChildStatus) -> None:
            self.events.append(f"+{name}")
            self.times.setdefault(name, []).append(trio.current_time() - self.zero)
            self.ends[name] = trio.Event()
            await trio.sleep(self.start_s.get(name, 0))
            task_status.started()
            stopped = "cut off"
            try:
                async with trio.open_nursery() as nursery:
                    nursery.start_soon(_first_of, nursery, self.ends[name], task_status.stop_requested)
                stopped = "ended"
                if task_status.stop_requested.is_set():
                    await trio.sleep(self.stop_s.get(name, 0))
                    stopped = "stopped"
                elif self.errors.get(name) is not None:
                    error = self.errors[name]
                    assert error is not None
                    raise error
            finally:
                self.events.append(f"-{name}" if stopped != "stopped" else f"~{name}")

        return ChildSpec(name=name, start=start, restart=restart, **options)

    async def crash(self, *names: str) -> None:
        """Let children raise, in the same moment, and see what follows until all is quiet."""
        await self._end(names, Boom)

    async def finish(self, *names: str) -> None:
        """Let children return."""
        await self._end(names, lambda _name: None)

    async def _end(self, names: tuple[str, ...], error: Callable[[str], Exception | None]) -> None:
        for name in names:
            self.errors[name] = error(name)
            self.ends[name].set()
        await wait_all_tasks_blocked()

    def take(self) -> list[str]:
        """The events since the last call: +started, -ended, ~stopped when asked."""
        events, self.events = self.events, []
        return events


async def _first_of(nursery: trio.Nursery, *events: trio.Event) -> None:
    async def watch(event: trio.Event) -> None:
        await event.wait()
        nursery.cancel_scope.cancel()

    for event in events:
        nursery.start_soon(watch, event)


@asynccontextmanager
async def running(supervisor: Supervisor) -> AsyncIterator[Logs]:
    """Run a supervisor in the background; leaving cancels it. Yields the log lines."""
    with structlog.testing.capture_logs() as logs:
        async with trio.open_nursery() as nursery:
            await nursery.start(supervisor.run)
            yield logs
            nursery.cancel_scope.cancel()


def supervisor(*children: ChildSpec, **options: Any) -> Supervisor:
    """A supervisor without jitter that never escalates, unless told."""
    return Supervisor("top", children, **{"max_restarts": 1_000, "rng": _NoJitter(), **options})


class _NoJitter(random.Random):
    def uniform(self, a: float, b: float) -> float:
        return (a + b) / 2


# Who is restarted.


@pytest.mark.parametrize(
    ("strategy", "events"),
    [
        (Strategy.ONE_FOR_ONE, ["-b", "+b"]),
        (Strategy.REST_FOR_ONE, ["-b", "-d", "-c", "+b", "+c", "+d"]),
        (Strategy.ONE_FOR_ALL, ["-b", "-d", "-c", "-a", "+a", "+b", "+c", "+d"]),
    ],
)
async def test_a_crash_restarts_whom_the_strategy_says_in_order(
    autojump_clock: MockClock, strategy: Strategy, events: list[str]
) -> None:
    """What builds on a crashed child is stopped before and started after it; the others never notice."""
    stage = Stage()
    async with running(supervisor(*map(stage.child, "abcd"), strategy=strategy)):
        assert stage.take() == ["+a", "+b", "+c", "+d"]
        await stage.crash("b")
        assert stage.take() == events


@pytest.mark.parametrize(
    ("restart", "after_crash", "after_return"),
    [
        (Restart.PERMANENT, ["-x", "+x"], ["-x", "+x"]),
        (Restart.TRANSIENT, ["-x", "+x"], ["-x"]),
        (Restart.TEMPORARY, ["-x"], ["-x"]),
    ],
)
async def test_a_child_is_restarted_when_its_kind_says(
    autojump_clock: MockClock, restart: Restart, after_crash: list[str], after_return: list[str]
) -> None:
    """A listener must always run, a migration until it is through, a session once."""
    stage = Stage()
    for end, expected in ((stage.crash, after_crash), (stage.finish, after_return)):
        async with running(supervisor(stage.child("x", restart))):
            stage.take()
            await end("x")
            assert stage.take() == expected
        stage.take()


async def test_siblings_that_are_done_or_temporary_are_not_brought_back(autojump_clock: MockClock) -> None:
    """A group restart neither repeats a migration nor revives a session."""
    stage = Stage()
    children = [
        stage.child("once", Restart.TRANSIENT),
        stage.child("session", Restart.TEMPORARY),
        stage.child("x"),
    ]
    top = supervisor(*children, strategy=Strategy.ONE_FOR_ALL)
    async with running(top):
        await stage.finish("once")
        stage.take()
        await stage.crash("x")
        assert stage.take() == ["-x", "-session", "+x"]
        assert [(c.name, c.state, c.restarts) for c in top.children()] == [
            ("once", "done", 0),
            ("session", "done", 0),
            ("x", "running", 1),
        ]


@pytest.mark.parametrize("strategy", list(Strategy))
async def test_two_crashes_in_one_moment_restart_each_child_once(
    autojump_clock: MockClock, strategy: Strategy
) -> None:
    """A fault that hits several children at once is not multiplied by the number of its victims."""
    stage = Stage()
    async with running(supervisor(*map(stage.child, "abc"), strategy=strategy)) as logs:
        stage.take()
        await stage.crash("a", "b")
        events = stage.take()
        for name in "ab":
            assert (events.count(f"-{name}"), events.count(f"+{name}")) == (1, 1)
        crashed = [line["child"] for line in logs if line["event"] == "child_crashed"]
        assert sorted(crashed) == ["a", "b"]


async def test_a_sibling_that_finishes_in_the_moment_of_a_crash_is_not_repeated(
    autojump_clock: MockClock,
) -> None:
    """A migration that is through stays through, however close the crash of another child."""
    stage = Stage()
    children = [stage.child("once", Restart.TRANSIENT), stage.child("x")]
    async with running(supervisor(*children, strategy=Strategy.ONE_FOR_ALL)):
        stage.take()
        stage.errors["x"], stage.errors["once"] = Boom(), None
        stage.ends["x"].set()
        await stage.finish("once")
        assert sorted(stage.take()) == ["+x", "-once", "-x"]


# When.


async def test_restarts_back_off_and_start_over_after_health(autojump_clock: MockClock) -> None:
    """A dependency that is down for a minute is tried a few times, not thousands."""
    stage = Stage()
    async with running(supervisor(stage.child("x"))):
        for _ in range(7):
            await stage.crash("x")
            await trio.sleep(40)
        starts = stage.times["x"]
        gaps = [round(later - earlier, 1) for earlier, later in pairwise(starts)]
        assert gaps == [0.0, 40.1, 40.4, 41.5, 48.0, 60.0, 40.0]
        await trio.sleep(61)
        before = trio.current_time() - stage.zero
        await stage.crash("x")
        assert stage.times["x"][-1] == pytest.approx(before, abs=0.05)


async def test_backoff_is_jittered_by_a_fifth(autojump_clock: MockClock) -> None:
    """Nodes that lost the same database do not come back to it in step."""
    gaps = []
    for seed in range(20):
        stage = Stage()
        async with running(supervisor(stage.child("x"), backoff_s=(10.0,), rng=random.Random(seed))):
            await stage.crash("x")
            await trio.sleep(20)
            gaps.append(stage.times["x"][1])
    assert 8 <= min(gaps) < 9
    assert 11 < max(gaps) <= 12.1


async def test_one_child_in_backoff_does_not_delay_another(autojump_clock: MockClock) -> None:
    """Under one_for_one children are independent, also in their troubles."""
    stage = Stage()
    async with running(supervisor(stage.child("a"), stage.child("b"), backoff_s=(0.0, 30.0))):
        await stage.crash("a")
        await stage.crash("a")
        stage.take()
        await stage.crash("b")
        assert stage.take() == ["-b", "+b"]
        await trio.sleep(31)
        assert stage.take() == ["+a"]


async def test_a_crash_before_a_waiting_group_takes_it_along(autojump_clock: MockClock) -> None:
    """While b and c wait to come back, a crashes: all three come back together and in order."""
    stage = Stage()
    top = supervisor(*map(stage.child, "abc"), strategy=Strategy.REST_FOR_ONE, backoff_s=(1.0,))
    async with running(top):
        await stage.crash("b")
        await trio.sleep(0.5)
        await stage.crash("a")
        stage.take()
        await trio.sleep(0.9)
        assert stage.take() == []
        await trio.sleep(0.2)
        assert stage.take() == ["+a", "+b", "+c"]


async def test_children_start_one_after_the_other(autojump_clock: MockClock) -> None:
    """The listener opens when the store has recovered, not before."""
    stage = Stage()
    stage.start_s = {"store": 2.0, "router": 1.0}
    async with running(supervisor(*map(stage.child, ("store", "router", "listener")))):
        assert {name: times[0] for name, times in stage.times.items()} == {
            "store": 0.0,
            "router": 2.0,
            "listener": 3.0,
        }
        assert trio.current_time() - stage.zero == 3.0


async def test_a_first_start_that_fails_holds_back_the_next_child(autojump_clock: MockClock) -> None:
    """Nothing starts on top of what is not there yet."""
    stage = Stage()
    tries = 0

    async def flaky(*, task_status: ChildStatus) -> None:
        nonlocal tries
        tries += 1
        stage.events.append("?flaky")
        if tries < 3:
            raise Boom
        task_status.started()
        await trio.sleep_forever()

    async with running(supervisor(ChildSpec(name="flaky", start=flaky), stage.child("next"))):
        assert stage.take() == ["?flaky", "?flaky", "?flaky", "+next"]


async def test_a_child_that_does_not_get_started_in_time_is_restarted(autojump_clock: MockClock) -> None:
    """A recovery that hangs is tried again, and does not keep the node from ever starting."""
    stage = Stage()
    stage.start_s = {"x": 100.0}
    top = supervisor(stage.child("x", start_timeout_s=10.0), max_restarts=2)
    with structlog.testing.capture_logs() as logs, pytest.raises(SupervisorEscalated):
        await top.run()
    assert stage.times["x"] == pytest.approx([0.0, 10.0, 20.1])
    assert sum(line["event"] == "child_crashed" for line in logs) == 3


# Escalation.


async def test_a_restart_storm_stops_everything_and_is_told_to_the_parent(autojump_clock: MockClock) -> None:
    """What restarting does not heal is not restarted for ever; the last error is kept as the cause."""
    stage = Stage()
    top = supervisor(stage.child("a"), stage.child("b"), max_restarts=3, period_s=60, backoff_s=(0.0,))
    with structlog.testing.capture_logs() as logs:
        async with trio.open_nursery() as nursery:

            @nursery.start_soon
            async def _runs() -> None:
                with pytest.raises(SupervisorEscalated) as raised:
                    await top.run()
                assert raised.value.child == "a"
                assert isinstance(raised.value.__cause__, Boom)

            await wait_all_tasks_blocked()
            for _ in range(3):
                await stage.crash("a")
            assert stage.take() == ["+a", "+b"] + ["-a", "+a"] * 3
            await stage.crash("a")
            assert stage.take() == ["-a", "-b"]
    assert [line["event"] for line in logs] == ["child_crashed"] * 4 + ["supervisor_escalated"]


async def test_restarts_that_are_spread_out_do_not_escalate(autojump_clock: MockClock) -> None:
    """The limit is a rate: three a minute may go on for a month."""
    stage = Stage()
    async with running(supervisor(stage.child("x"), max_restarts=3, period_s=60, backoff_s=(0.0,))):
        for _ in range(50):
            await stage.crash("x")
            await trio.sleep(20.1)
        assert len(stage.times["x"]) == 51


async def test_the_intensity_counts_all_children_together(autojump_clock: MockClock) -> None:
    """Ten children that crash once each are as bad as one that crashes ten times."""
    stage = Stage()
    top = supervisor(*map(stage.child, "abc"), max_restarts=2, backoff_s=(0.0,))
    with pytest.RaisesGroup(SupervisorEscalated):
        async with running(top):
            await stage.crash("a")
            await stage.crash("b")
            await stage.crash("c")
            await trio.sleep_forever()


async def test_an_escalation_is_a_crash_of_the_supervisor_to_its_parent(autojump_clock: MockClock) -> None:
    """A subtree that does not get well is restarted as a whole; its parent's other children work on."""
    stage = Stage()
    inner = supervisor(stage.child("x"), stage.child("y"), max_restarts=1, backoff_s=(0.0,))
    inner.name = "inner"
    top = supervisor(inner.as_child(), stage.child("other"), max_restarts=1, backoff_s=(0.0,))
    with structlog.testing.capture_logs() as logs, pytest.RaisesGroup(SupervisorEscalated):
        async with trio.open_nursery() as nursery:
            await nursery.start(top.run)
            assert stage.take() == ["+x", "+y", "+other"]
            await stage.crash("x")
            assert stage.take() == ["-x", "+x"]
            await stage.crash("x")
            assert stage.take() == ["-x", "-y", "+x", "+y"]
            for _ in range(2):
                await stage.crash("x")
            assert stage.take() == ["-x", "+x", "-x", "-y", "-other"]
    escalations = [line["supervisor"] for line in logs if line["event"] == "supervisor_escalated"]
    assert escalations == ["inner", "inner", "top"]
    # The traceback is logged where the error was met, and not again further up.
    assert all("exc_info" not in line for line in logs if line.get("child") == "inner")


# Stopping.


async def test_children_stop_in_reverse_order_each_before_the_next(autojump_clock: MockClock) -> None:
    """The gateway lets go of its sessions before the store closes under them."""
    stage = Stage()
    stage.stop_s = {"a": 1.0, "b": 2.0, "c": 3.0}
    top = supervisor(*(stage.child(name, graceful=True) for name in "abc"))
    async with trio.open_nursery() as nursery:
        await nursery.start(top.run)
        stage.take()
        top.stop()
        await trio.sleep(2.9)
        assert stage.take() == []
        await trio.sleep(0.2)
        assert stage.take() == ["~c"]
    assert stage.take() == ["~b", "~a"]
    assert trio.current_time() - stage.zero == pytest.approx(6.0)


async def test_a_child_that_overstays_its_deadline_is_cut_off(autojump_clock: MockClock) -> None:
    """A shutdown ends on time; each child has its own time."""
    stage = Stage()
    stage.stop_s = {"a": inf, "b": 1.0, "c": inf}
    children = [stage.child(n, graceful=True, shutdown_s=s) for n, s in (("a", 4.0), ("b", 4.0), ("c", 2.0))]
    with structlog.testing.capture_logs() as logs:
        top = supervisor(*children)
        async with trio.open_nursery() as nursery:
            await nursery.start(top.run)
            stage.take()
            top.stop()
        assert stage.take() == ["-c", "~b", "-a"]
        assert trio.current_time() - stage.zero == pytest.approx(2.0 + 1.0 + 4.0)
    assert [(line["event"], line["child"]) for line in logs] == [
        ("child_stop_cut_short", "c"),
        ("child_stop_cut_short", "a"),
    ]


async def test_a_child_that_wants_no_warning_is_cancelled_at_once(autojump_clock: MockClock) -> None:
    """Most children have nothing to put down."""
    stage = Stage()
    async with running(supervisor(stage.child("a", shutdown_s=60.0))):
        stage.take()
    assert stage.take() == ["-a"]
    assert trio.current_time() == stage.zero


async def test_a_cancelled_supervisor_still_stops_in_order_and_lets_the_cancellation_pass(
    autojump_clock: MockClock,
) -> None:
    """Ctrl-C and a parent's stop end a whole tree from its leaves, each with its deadline."""
    stage = Stage()
    stage.stop_s = {"x": 1.0, "y": 1.0, "z": 1.0}
    inner = Supervisor("inner", [stage.child("x", graceful=True), stage.child("y", graceful=True)])
    top = supervisor(inner.as_child(), stage.child("z", graceful=True))
    with trio.CancelScope() as scope:
        async with trio.open_nursery() as nursery:
            await nursery.start(top.run)
            stage.take()
            scope.cancel()
    assert scope.cancelled_caught
    assert stage.take() == ["~z", "~y", "~x"]
    assert trio.current_time() - stage.zero == pytest.approx(3.0)


async def test_a_stop_that_overruns_is_logged_and_an_error_in_it_too(autojump_clock: MockClock) -> None:
    """What a child shields cannot be cut off, but it does not go unnoticed."""

    async def slow(*, task_status: ChildStatus) -> None:
        task_status.started()
        try:
            await trio.sleep_forever()
        finally:
            with trio.CancelScope(shield=True):
                await trio.sleep(10)
            raise Boom("cleanup")

    async with running(supervisor(ChildSpec(name="slow", start=slow, shutdown_s=1.0))) as logs:
        pass
    assert [line["event"] for line in logs] == ["child_stop_overran", "child_stop_failed"]


async def test_a_stop_during_a_backoff_does_not_wait_for_it(autojump_clock: MockClock) -> None:
    """A node in trouble stops as quickly as a healthy one."""
    stage = Stage()
    async with running(supervisor(stage.child("x"), backoff_s=(30.0,))):
        await stage.crash("x")
    assert trio.current_time() - stage.zero < 1
    assert stage.take() == ["+x", "-x"]


# Changing the tree.


async def test_children_can_be_added_and_removed_while_it_runs(autojump_clock: MockClock) -> None:
    """A node takes over shards and gives them away, each with a child of its own."""
    stage = Stage()
    top = supervisor(stage.child("a"))
    async with running(top):
        top.add(stage.child("b"))
        await wait_all_tasks_blocked()
        await stage.crash("b")
        assert stage.take() == ["+a", "+b", "-b", "+b"]
        with pytest.raises(ValueError, match="already has a child 'b'"):
            top.add(stage.child("b"))
        await top.remove("b")
        await wait_all_tasks_blocked()
        assert stage.take() == ["-b"]
        assert [child.name for child in top.children()] == ["a"]
        top.add(stage.child("b"))
        await wait_all_tasks_blocked()
        assert stage.take() == ["+b"]


async def test_a_supervisor_can_be_run_again(autojump_clock: MockClock) -> None:
    """Its own parent restarts it like any other child."""
    stage = Stage()
    top = supervisor(stage.child("a"), stage.child("b"))
    for _ in range(2):
        async with running(top):
            assert stage.take() == ["+a", "+b"]
        assert stage.take() == ["-b", "-a"]
