"""A mailbox is bounded, keeps order, and wakes its reader once per batch."""

from typing import cast

import pytest
import trio
from hypothesis import given
from hypothesis import strategies as st
from trio.testing import wait_all_tasks_blocked

from actors import BATCH_LIMIT, NO_REPLY, Mailbox, MailboxFull
from actors.mailbox import Envelope


def _messages(batch: list[Envelope]) -> list[object]:
    return [message for message, _ in batch]


async def test_a_batch_is_all_that_waits() -> None:
    """One append carries what came in while the last one was prepared."""
    mailbox = Mailbox()
    for n in range(BATCH_LIMIT + 3):
        mailbox.put_nowait(n, NO_REPLY)
    assert _messages(await mailbox.drain()) == list(range(BATCH_LIMIT))
    assert _messages(await mailbox.drain()) == [BATCH_LIMIT, BATCH_LIMIT + 1, BATCH_LIMIT + 2]
    assert mailbox.peak_depth == BATCH_LIMIT + 3


async def test_a_full_mailbox_refuses_and_takes_again_once_drained() -> None:
    """A flood is refused, not buffered."""
    mailbox = Mailbox(capacity=2)
    mailbox.put_nowait("a", NO_REPLY)
    mailbox.put_nowait("b", NO_REPLY)
    with pytest.raises(MailboxFull):
        mailbox.put_nowait("c", NO_REPLY)
    assert _messages(await mailbox.drain()) == ["a", "b"]
    mailbox.put_nowait("c", NO_REPLY)
    assert _messages(await mailbox.drain()) == ["c"]


async def test_the_internal_lane_is_never_refused_and_comes_first() -> None:
    """A commit's result gets through to an actor whose senders have filled its mailbox."""
    mailbox = Mailbox(capacity=1)
    mailbox.put_nowait("ordinary", NO_REPLY)
    mailbox.post("first")
    mailbox.post("second")
    assert _messages(await mailbox.drain()) == ["first", "second", "ordinary"]


async def test_the_reader_wakes_once_for_many_messages() -> None:
    """The cost of switching tasks is shared by the batch."""
    mailbox = Mailbox()
    batches = []
    async with trio.open_nursery() as nursery:

        @nursery.start_soon
        async def _reads() -> None:
            batches.append(_messages(await mailbox.drain()))

        await wait_all_tasks_blocked()
        for n in range(10):
            mailbox.put_nowait(n, NO_REPLY)
    assert batches == [list(range(10))]


async def test_a_cancelled_drain_has_taken_nothing() -> None:
    """An actor that is cut off leaves its mail to be refused, not lost."""
    mailbox = Mailbox()
    mailbox.put_nowait("kept", NO_REPLY)
    with trio.CancelScope() as scope:
        scope.cancel()
        await mailbox.drain()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(Mailbox.drain, Mailbox())
        await wait_all_tasks_blocked()
        nursery.cancel_scope.cancel()
    assert _messages(await mailbox.drain()) == ["kept"]


async def test_a_wake_is_an_empty_batch_and_is_not_forgotten() -> None:
    """The host asks an idle actor to leave, also when it asks just before the actor waits."""
    mailbox = Mailbox()
    mailbox.wake()
    assert await mailbox.drain() == []
    async with trio.open_nursery() as nursery:

        @nursery.start_soon
        async def _reads() -> None:
            assert await mailbox.drain() == []

        await wait_all_tasks_blocked()
        mailbox.wake()


async def test_a_second_reader_is_refused() -> None:
    """Two tasks reading one mailbox would break the actor's only promise, one message at a time."""
    mailbox = Mailbox()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(mailbox.drain)
        await wait_all_tasks_blocked()
        with pytest.raises(trio.BusyResourceError):
            await mailbox.drain()
        nursery.cancel_scope.cancel()


async def test_a_busy_reader_lets_others_run() -> None:
    """One actor under load does not stop the event loop."""
    mailbox = Mailbox(capacity=10_000)
    others = 0
    async with trio.open_nursery() as nursery:

        @nursery.start_soon
        async def _counts() -> None:
            nonlocal others
            while True:
                others += 1
                await trio.lowlevel.checkpoint()

        for n in range(100 * BATCH_LIMIT):
            mailbox.put_nowait(n, NO_REPLY)
        for _ in range(100):
            await mailbox.drain()
        nursery.cancel_scope.cancel()
    assert others >= 90


@given(st.lists(st.sampled_from(["put", "post", "drain"]), max_size=60), st.integers(1, 5))
def test_each_lane_keeps_its_order_and_loses_nothing(steps: list[str], limit: int) -> None:
    """Whatever the interleaving: in each lane, out is in, and a batch keeps to its limit."""

    async def play() -> None:
        mailbox = Mailbox()
        sent: list[tuple[str, int]] = []
        got: list[tuple[str, int]] = []
        for n, step in enumerate([*steps, *["drain"] * len(steps)]):
            if step == "put":
                mailbox.put_nowait(("put", n), NO_REPLY)
                sent.append(("put", n))
            elif step == "post":
                mailbox.post(("post", n))
                sent.append(("post", n))
            elif not mailbox.is_empty:
                batch = await mailbox.drain(limit)
                assert 1 <= len(batch) <= limit
                got += cast(list[tuple[str, int]], _messages(batch))
        for lane in ("put", "post"):
            assert [m for m in got if m[0] == lane] == [m for m in sent if m[0] == lane]

    trio.run(play)
