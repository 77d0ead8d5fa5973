"""The tasks that make a channel's requests, each one after the other.

To wake one that rests costs a third of what a new one does; some are kept for that.
"""

from collections.abc import Awaitable, Callable
from typing import Final

import trio

from actors.notify.job import Job

MAX_RESTING: Final = 64


class _Hand:
    __slots__ = ("job", "task")

    def __init__(self) -> None:
        self.task = trio.lowlevel.current_task()
        self.job: Job | None = None  # the next one, given while it rests


class Hands:
    """Call `send` for each job, in tasks of `run`. How many at a time is the caller's business."""

    def __init__(self, send: Callable[[Job], Awaitable[None]]) -> None:
        self._send = send
        self._nursery: trio.Nursery | None = None
        self._resting: list[_Hand] = []
        self._unsent: list[Job] = []  # given while no nursery was there: between two lives of the channel

    def give(self, job: Job) -> None:
        """Let a job's request be made. Returns at once."""
        if self._nursery is None:
            self._unsent.append(job)
        elif self._resting:
            hand = self._resting.pop()
            hand.job = job
            trio.lowlevel.reschedule(hand.task)
        else:
            self._nursery.start_soon(self._serve, job)

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Have tasks until cancelled; an exception of `send` ends all of them."""
        try:
            async with trio.open_nursery() as nursery:
                self._nursery = nursery
                unsent, self._unsent = self._unsent, []
                for job in unsent:
                    self.give(job)
                task_status.started()
                await trio.sleep_forever()
        finally:
            self._nursery = None

    async def _serve(self, job: Job) -> None:
        hand = _Hand()
        given: Job | None = job
        while given is not None:
            await self._send(given)
            given = await self._rest(hand)

    async def _rest(self, hand: _Hand) -> Job | None:
        """Wait for the next job; None: enough others rest."""
        if len(self._resting) >= MAX_RESTING:
            return None
        self._resting.append(hand)

        def abort(_: object) -> trio.lowlevel.Abort:
            self._resting.remove(hand)
            return trio.lowlevel.Abort.SUCCEEDED

        await trio.lowlevel.wait_task_rescheduled(abort)
        job, hand.job = hand.job, None
        return job
