"""What the author of an actor may rely on inside `receive`, `flush` and its context."""

from collections import Counter

import pytest
import trio
from trio.testing import MockClock, wait_all_tasks_blocked

from actors import NO_REPLY, Address, Entity
from protocol.errors import Refused
from tests.actors.ledger import (
    KIND,
    A,
    Append,
    Boom,
    Do,
    Hold,
    Ledger,
    Read,
    World,
    open_runtime,
    outcome,
    outcomes,
)

pytestmark = pytest.mark.usefixtures("both_ways")


async def test_a_batch_is_flushed_once(autojump_clock: MockClock) -> None:
    """A conversation makes one append for everything that came in together."""
    until = trio.Event()
    async with open_runtime() as runtime:
        runtime.ask(Hold(until))
        await wait_all_tasks_blocked()
        replies = runtime.send(*map(str, range(100)))
        until.set()
        await outcomes(replies)
        assert runtime.world.batches == [64, 36]


async def test_a_commit_in_flight_does_not_stop_the_mailbox(autojump_clock: MockClock) -> None:
    """Appends are pipelined: a slow disk makes answers late, and does not make one wait for another."""
    async with open_runtime(World(commit_s=1.0)) as runtime:
        start = trio.current_time()
        for n in range(5):
            runtime.send(str(n))
            await wait_all_tasks_blocked()
        assert await outcome(runtime.ask(Read())) == ()
        assert trio.current_time() == start
        await trio.sleep(1.5)
        assert await outcome(runtime.ask(Read())) == tuple("01234")


async def test_posted_messages_overtake_the_mailbox_in_their_own_order(autojump_clock: MockClock) -> None:
    """A commit is told to senders before the actor takes on more."""
    until = trio.Event()
    async with open_runtime(mailbox_capacity=1) as runtime:
        runtime.ask(Hold(until))
        await wait_all_tasks_blocked()
        read = runtime.ask(Do(lambda ledger: list(ledger.posted)))
        for n in range(3):
            runtime.world.live["a"].ctx.post(n)
        until.set()
        assert await outcome(read) == [0, 1, 2]


async def test_posted_messages_come_first_also_while_others_are_retried(autojump_clock: MockClock) -> None:
    """After a crash the order of a commit and the next command is what it always is."""
    world = World(receive_crashes=Counter({"x": 1}))
    until = trio.Event()
    async with open_runtime(world) as runtime:
        runtime.ask(Hold(until))
        await wait_all_tasks_blocked()
        runtime.send("x")
        runtime.router.tell(A, Do(lambda ledger: ledger.ctx.post("posted")))
        read = runtime.ask(Do(lambda ledger: list(ledger.posted)))
        until.set()
        assert await outcome(read) == ["posted"]


async def test_posted_messages_are_not_retried(autojump_clock: MockClock) -> None:
    """They report on work of the incarnation that crashed; the next one knows nothing of it."""
    until = trio.Event()
    async with open_runtime(World(receive_crashes=Counter({"x": 1}))) as runtime:
        runtime.ask(Hold(until))
        await wait_all_tasks_blocked()
        runtime.world.live["a"].ctx.post("posted")
        runtime.send("x")
        until.set()
        assert await outcome(runtime.ask(Do(lambda ledger: list(ledger.posted)))) == []
        assert runtime.world.rows["a"] == ["x"]


async def test_what_is_posted_to_an_ended_incarnation_is_ignored(autojump_clock: MockClock) -> None:
    """A commit is reported to an actor that has left since; its successor has read it from the log."""
    async with open_runtime() as runtime:
        await outcome(runtime.ask(Read()))
        old = runtime.world.live["a"].ctx
        await runtime.host.passivate_matching(lambda _: True, deadline_s=1)
        old.post("late")
        assert await outcome(runtime.ask(Do(lambda ledger: list(ledger.posted)))) == []
        old.post("later")
        assert await outcome(runtime.ask(Do(lambda ledger: list(ledger.posted)))) == []


async def test_a_message_can_be_posted_later(autojump_clock: MockClock) -> None:
    """Receipts are coalesced by a timer that is one line long, and dies with its incarnation."""
    async with open_runtime() as runtime:
        start = trio.current_time()
        runtime.router.tell(A, Do(lambda ledger: ledger.ctx.post_after(2.0, "tick")))
        await trio.sleep(1.9)
        assert await outcome(runtime.ask(Do(lambda ledger: list(ledger.posted)))) == []
        await trio.sleep(0.2)
        assert await outcome(runtime.ask(Do(lambda ledger: (list(ledger.posted), ledger.ctx.now())))) == (
            ["tick"],
            start + 2.1,
        )


async def test_helper_tasks_end_with_their_incarnation(autojump_clock: MockClock) -> None:
    """Nothing of an actor is left behind when it is passivated."""
    ended = trio.Event()

    async def helper() -> None:
        try:
            await trio.sleep_forever()
        finally:
            ended.set()

    async with open_runtime() as runtime:
        await outcome(runtime.ask(Do(lambda ledger: ledger.ctx.start_soon(helper))))
        await wait_all_tasks_blocked()
        assert not ended.is_set()
        await runtime.host.passivate_matching(lambda _: True, deadline_s=1)
        assert ended.is_set()


async def test_a_crashing_helper_restarts_the_actor_and_blames_no_message(
    autojump_clock: MockClock,
) -> None:
    """A bug beside the actor interrupts it; the message in its hands is handled by the next incarnation."""
    until, go = trio.Event(), trio.Event()

    async def helper() -> None:
        await go.wait()
        raise Boom("helper")

    async with open_runtime() as runtime:
        await outcome(runtime.ask(Do(lambda ledger: ledger.ctx.start_soon(helper))))
        held, *appended = [runtime.ask(Hold(until)), *runtime.send("x", "y")]
        await wait_all_tasks_blocked()
        go.set()
        await wait_all_tasks_blocked()
        until.set()
        assert await outcome(held) is None
        assert await outcomes(appended) == [0, 1]
        assert runtime.world.rows["a"] == ["x", "y"]
        assert runtime.world.activations == [("a", False), ("a", True)]
        assert runtime.world.dead == []


async def test_a_refusal_from_a_nursery_inside_receive_is_still_a_refusal(autojump_clock: MockClock) -> None:
    """An actor may open a nursery for two reads at once; Trio wraps what they raise in a group."""

    def refuse_in_group(_ledger: Ledger) -> object:
        raise ExceptionGroup("", [ExceptionGroup("", [Refused("banned")])])

    async with open_runtime() as runtime:
        assert await outcome(runtime.ask(Do(refuse_in_group))) == "banned"
        assert runtime.host.stats().crashes == 0


async def test_a_tell_from_an_actor_says_whether_it_was_taken(autojump_clock: MockClock) -> None:
    """A full mailbox elsewhere does not interrupt the fan-out that meets it."""
    b = Address(KIND, "b")
    until = trio.Event()
    async with open_runtime(mailbox_capacity=1) as runtime:
        runtime.ask(Hold(until), to=b)
        await wait_all_tasks_blocked()
        told = [await outcome(runtime.ask(Do(lambda ledger: ledger.ctx.tell(b, Read())))) for _ in range(2)]
        assert told == [True, False]


async def test_the_log_names_the_actor(autojump_clock: MockClock) -> None:
    """An operator finds all lines of one conversation by its address."""
    async with open_runtime() as runtime:
        await outcome(runtime.ask(Do(lambda ledger: ledger.ctx.log.info("something_happened", n=1))))
        assert {
            "event": "something_happened",
            "actor": "ledger/a",
            "n": 1,
            "log_level": "info",
        } in runtime.world.logs


async def test_an_entity_must_say_what_it_does_with_a_message() -> None:
    """The base class has defaults for everything but `receive`."""
    entity = Entity()
    with pytest.raises(NotImplementedError):
        await entity.receive(Append("x"), NO_REPLY)
    assert entity.may_passivate()
