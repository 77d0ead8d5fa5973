"""A one-time code does not wait behind the campaign that waits for the same few connections."""

import trio
import trio.testing

from server.providers.slots import Slots


class Callers:
    """Tasks that hold a place until they are told to go on."""

    def __init__(self, slots: Slots, nursery: trio.Nursery) -> None:
        self._slots = slots
        self._nursery = nursery
        self.begun: list[str] = []
        self._goes_on: dict[str, trio.Event] = {}

    async def come(self, name: str, *, is_urgent: bool = False) -> None:
        self._goes_on[name] = trio.Event()
        self._nursery.start_soon(self._call, name, is_urgent)
        await trio.testing.wait_all_tasks_blocked()

    async def end(self, name: str) -> None:
        self._goes_on[name].set()
        await trio.testing.wait_all_tasks_blocked()

    async def _call(self, name: str, is_urgent: bool) -> None:
        await self._slots.acquire(is_urgent=is_urgent)
        self.begun.append(name)
        await self._goes_on[name].wait()
        self._slots.release()


async def test_the_urgent_go_first_and_have_places_of_their_own() -> None:
    """With the four connections that a mail account has unless told otherwise."""
    slots = Slots(4)
    async with trio.open_nursery() as nursery:
        callers = Callers(slots, nursery)
        for number in range(6):
            await callers.come(f"news {number}")
        assert callers.begun == ["news 0", "news 1", "news 2"]
        await callers.come("code 0", is_urgent=True)
        assert callers.begun[3:] == ["code 0"]
        await callers.come("code 1", is_urgent=True)
        assert slots.waiting_count == 4
        await callers.end("news 0")
        assert callers.begun[4:] == ["code 1"]
        await callers.end("news 1")  # both codes are under way: the kept place is one of theirs
        assert callers.begun[5:] == []
        await callers.end("code 0")
        assert callers.begun[5:] == ["news 3"]
        for name in ("code 1", "news 2", "news 3"):
            await callers.end(name)
        assert callers.begun[6:] == ["news 4", "news 5"]
        for name in ("news 4", "news 5"):
            await callers.end(name)
    assert slots.waiting_count == 0


async def test_who_leaves_while_it_waits_takes_no_place_along() -> None:
    """A place that got lost would be one connection less until the next restart."""
    slots = Slots(1)
    async with trio.open_nursery() as nursery:
        callers = Callers(slots, nursery)
        await callers.come("first")
        with trio.move_on_after(0) as scope:
            await slots.acquire(is_urgent=False)
        assert scope.cancelled_caught
        with trio.CancelScope() as scope:
            nursery.start_soon(callers.end, "first")
            scope.cancel()
            await slots.acquire(is_urgent=True)
        assert scope.cancelled_caught
        await trio.testing.wait_all_tasks_blocked()
        await callers.come("second")
        assert callers.begun == ["first", "second"]
        await callers.end("second")


async def test_all_places_are_used_where_there_are_few() -> None:
    slots = Slots(3)
    async with trio.open_nursery() as nursery:
        callers = Callers(slots, nursery)
        for number in range(3):
            await callers.come(str(number))
        assert len(callers.begun) == 3
        for number in range(3):
            await callers.end(str(number))
