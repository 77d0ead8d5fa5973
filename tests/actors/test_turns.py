"""An entity that waits for work takes a message in its sender's turn, and stays one at a time."""

from collections.abc import Iterator

import pytest
import trio
from trio.testing import MockClock, wait_all_tasks_blocked

from actors.rounds import Rounds, Turn
from tests.actors.ledger import A, Append, Do, Hold, Ledger, World, open_runtime, outcome, outcomes


@pytest.fixture(autouse=True)
def _prompt() -> Iterator[None]:
    Ledger.is_prompt = True
    yield
    Ledger.is_prompt = False


async def test_messages_of_one_turn_are_decided_at_once_and_appended_together(
    autojump_clock: MockClock,
) -> None:
    """A message costs no task switch, and those that come together cost one append."""
    world = World(commit_s=1.0)
    async with open_runtime(world) as runtime:
        await outcome(runtime.send("first")[0])  # awake from here on
        world.batches.clear()
        replies = runtime.send("x", "y", "z")
        assert world.received == ["first", "x", "y", "z"]  # nobody else has run since
        assert await outcomes(replies) == [1, 2, 3]
        assert world.batches == [3]


async def test_a_message_that_comes_while_one_is_handled_waits_behind_it(autojump_clock: MockClock) -> None:
    """An entity that is asked again by what it does itself must not be entered twice."""
    world = World()
    async with open_runtime(world) as runtime:
        await outcome(runtime.send("first")[0])

        def ask_again(ledger: Ledger) -> None:
            runtime.send("inner")
            assert world.received == ["first"]
            ledger.world.received.append("outer")

        await outcome(runtime.ask(Do(ask_again)))
        await wait_all_tasks_blocked()
        assert world.received == ["first", "outer", "inner"]


async def test_order_is_kept_between_turns_and_mail(autojump_clock: MockClock) -> None:
    """Of one sender, what finds the entity at work must not be overtaken by what finds it waiting."""
    world = World()
    until = trio.Event()
    async with open_runtime(world) as runtime:
        await outcome(runtime.send("a")[0])
        runtime.ask(Hold(until))
        runtime.send("b")
        await wait_all_tasks_blocked()
        runtime.send("c")
        until.set()
        replies = runtime.send("d")
        await outcomes(replies)
        assert world.rows["a"] == ["a", "b", "c", "d"]


async def test_what_one_entity_tells_another_goes_by_mail(autojump_clock: MockClock) -> None:
    """A chain of actors that take each other's messages at once would be one long turn."""
    world = World()
    async with open_runtime(world) as runtime:
        await outcome(runtime.send("first")[0])
        runtime.router.tell(A, Append("told"))
        assert world.received == ["first"]
        await wait_all_tasks_blocked()
        assert world.received == ["first", "told"]


async def test_a_round_hands_over_what_gathers_meanwhile_as_well(autojump_clock: MockClock) -> None:
    """What an item adds is handled in the next round, and nothing is left lying."""
    handled: list[int] = []

    def handle(number: int) -> None:
        handled.append(number)
        if number < 200:
            rounds.add(number + 100)

    rounds = Rounds(handle)
    for number in range(100):
        rounds.add(number)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(rounds.run)
        await wait_all_tasks_blocked()
        rounds.add(1000)
        await wait_all_tasks_blocked()
        nursery.cancel_scope.cancel()
    assert handled == [*range(300), 1000]


async def test_what_a_turn_asks_for_is_done_at_its_end(autojump_clock: MockClock) -> None:
    """No task has to run first; what one round leads to is done in the next one of the same end."""
    done: list[str] = []
    turn = Turn()

    def handle(item: str) -> None:
        done.append(item)
        second.add(f"{item}, then")

    first: Rounds[str] = Rounds(handle, turn)
    second: Rounds[str] = Rounds(done.append, turn)
    with turn:
        with turn:
            first.add("a")
        assert done == []  # only the outermost end counts
        first.add("b")
    assert done == ["a", "b", "a, then", "b, then"]


async def test_what_is_too_much_for_one_turn_is_left_to_the_task(autojump_clock: MockClock) -> None:
    """A message to 500 must not keep the loop from its timers."""
    done: list[int] = []
    turn = Turn()
    rounds: Rounds[int] = Rounds(done.append, turn)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(rounds.run)
        await wait_all_tasks_blocked()
        with turn:
            for number in range(500):
                rounds.add(number)
        assert 0 < len(done) < 500
        await wait_all_tasks_blocked()
        assert done == list(range(500))
        rounds.add(500)  # outside of a turn
        await wait_all_tasks_blocked()
        assert done[-1] == 500
        nursery.cancel_scope.cancel()


async def test_mail_behind_a_failed_flush_has_no_crash_on_its_account(autojump_clock: MockClock) -> None:
    """One crash of its own may be bad luck; the one before it was somebody else's."""
    world, turn = World(), Turn()
    async with open_runtime(world, turn=turn) as runtime:
        await outcome(runtime.send("first")[0])
        world.flush_crashes["bad"] = 1
        world.receive_crashes["good"] = 1
        with turn:
            bad = runtime.send("bad")
        good = runtime.send("good")  # the entity's task is on its way to crash; this one waits in the mailbox
        assert world.received == ["first", "bad"]
        assert await outcomes([*bad, *good]) == [1, 2]
        assert world.dead == []


def test_what_raises_costs_the_others_nothing() -> None:
    """A bug in one connection's frame must not leave the rest of the round unserved for ever."""
    handled: list[int] = []

    def handle(number: int) -> None:
        if number == 1:
            raise ZeroDivisionError
        handled.append(number)

    rounds: Rounds[int] = Rounds(handle)
    for number in range(4):
        rounds.add(number)
    with pytest.raises(ZeroDivisionError):
        rounds.end_turn()
    rounds.end_turn()
    assert handled == [0, 2, 3]
