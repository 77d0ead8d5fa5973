"""A reply is given once, and whoever waits for it gets exactly that."""

import pytest
import trio
from trio.testing import wait_all_tasks_blocked

from actors import NO_REPLY, ReplySlot
from protocol.errors import Refused


async def test_the_first_answer_counts() -> None:
    """The host may fail a reply that the actor has just resolved; the sender sees one outcome."""
    slot = ReplySlot()
    slot.resolve(1)
    slot.resolve(2)
    slot.fail(Refused("forbidden"))
    assert await slot.wait() == 1


async def test_a_failure_is_raised_where_somebody_waits() -> None:
    """`ask` raises what the actor refused with."""
    slot = ReplySlot()
    async with trio.open_nursery() as nursery:

        @nursery.start_soon
        async def _waits() -> None:
            with pytest.raises(Refused) as raised:
                await slot.wait()
            assert raised.value.code == "forbidden"

        await wait_all_tasks_blocked()
        slot.fail(Refused("forbidden"))
        slot.resolve("late")


async def test_a_wait_that_is_given_up_ignores_the_answer() -> None:
    """An actor answers into a slot whose asker has timed out, and the host sees that nobody waits."""
    slot = ReplySlot()
    with trio.move_on_after(0):
        await slot.wait()
    assert slot.is_done
    slot.resolve("late")


async def test_two_tasks_cannot_wait_for_one_answer() -> None:
    """A second waiter would hang for ever; it is told so instead."""
    slot = ReplySlot()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(slot.wait)
        await wait_all_tasks_blocked()
        with pytest.raises(trio.BusyResourceError):
            await slot.wait()
        slot.resolve(None)


def test_nobody_waits_for_a_tell() -> None:
    """Actors answer every message the same way, whether anybody listens or not."""
    NO_REPLY.resolve(1)
    NO_REPLY.fail(Refused("forbidden"))
    assert NO_REPLY.is_done
