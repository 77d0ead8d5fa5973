"""The router hands messages to the right host, or says at once that it did not."""

import pytest
import trio
from trio.testing import MockClock, wait_all_tasks_blocked

from actors import Address, UnknownKind
from protocol.errors import Refused, Unavailable
from tests.actors.ledger import A, Append, Do, Hold, Read, World, open_runtime, outcomes, refuse


async def test_ask_returns_the_answer_and_raises_the_refusal(autojump_clock: MockClock) -> None:
    """HTTP handlers wait for an actor this way."""
    async with open_runtime() as runtime:
        assert await runtime.router.ask(A, Append("x"), timeout_s=1) == 0
        assert await runtime.router.ask(A, Read(), timeout_s=1) == ("x",)
        with pytest.raises(Refused) as raised:
            await runtime.router.ask(A, Do(refuse), timeout_s=1)
        assert raised.value.code == "forbidden"


async def test_an_ask_without_answer_times_out_on_time(autojump_clock: MockClock) -> None:
    """Whoever waits for an actor gets an answer or an error, never neither; the actor goes on."""
    until = trio.Event()
    async with open_runtime() as runtime:
        start = trio.current_time()
        with pytest.raises(Unavailable) as raised:
            await runtime.router.ask(A, Hold(until), timeout_s=3)
        assert raised.value.code == "timeout"
        assert trio.current_time() - start == pytest.approx(3)
        until.set()
        assert await runtime.router.ask(A, Read(), timeout_s=1) == ()


async def test_a_full_mailbox_says_busy_whatever_way_it_was_addressed(autojump_clock: MockClock) -> None:
    """A flood is refused with a hint when to come back; hints are dropped; nothing raises into a session."""
    until = trio.Event()
    async with open_runtime(mailbox_capacity=2) as runtime:
        held = runtime.ask(Hold(until))
        await wait_all_tasks_blocked()
        waiting = runtime.send("a", "b")
        refused = runtime.ask(Append("c"))
        with pytest.raises(Unavailable) as raised:
            await refused.wait()
        assert raised.value.code == "busy"
        assert raised.value.retry_after_s == 0.5
        with pytest.raises(Unavailable, match="busy"):
            runtime.router.tell(A, Append("d"))
        with pytest.raises(Unavailable, match="busy"):
            await runtime.router.ask(A, Append("e"), timeout_s=1)
        assert not runtime.router.tell_if_active(A, Append("f"))
        until.set()
        assert await outcomes([held, *waiting]) == [None, 0, 1]
        assert await runtime.router.ask(A, Append("g"), timeout_s=1) == 2
        assert runtime.world.rows["a"] == ["a", "b", "g"]
        assert runtime.host.stats().refused == 3


async def test_a_hint_wakes_nobody(autojump_clock: MockClock) -> None:
    """Typing must not load a conversation that nobody has open."""
    async with open_runtime() as runtime:
        assert not runtime.router.tell_if_active(A, Append("x"))
        await runtime.router.ask(A, Read(), timeout_s=1)
        assert runtime.router.tell_if_active(A, Append("y"))
        await wait_all_tasks_blocked()
        assert runtime.world.received == ["y"]


async def test_an_unknown_kind_is_a_bug_and_says_so(autojump_clock: MockClock) -> None:
    """A typing error in the wiring fails loudly instead of answering "try later" for ever."""
    async with open_runtime(World()) as runtime:
        with pytest.raises(UnknownKind, match="nothing/1"):
            runtime.router.tell(Address("nothing", "1"), Read())


async def test_order_is_kept_between_a_sender_and_an_address(autojump_clock: MockClock) -> None:
    """A session's commands take effect in the order they came over its socket, asked or told."""
    async with open_runtime() as runtime:
        for n in range(0, 100, 2):
            runtime.router.tell(A, Append(str(n)))
            runtime.ask(Append(str(n + 1)))
        await runtime.router.ask(A, Append("end"), timeout_s=1)
        assert runtime.world.rows["a"] == [*map(str, range(100)), "end"]
