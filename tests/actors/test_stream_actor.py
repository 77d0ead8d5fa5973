"""What actors with a stream share: nothing is answered or shown before it is stored, or out of order."""

from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from typing import cast

import pytest
import trio
import trio.testing
from trio.testing import MockClock

from actors.address import Address
from actors.entity import EntityContext
from actors.entity_host import EntityHost
from actors.messages import AddedTo
from actors.ports import Log, Outcome
from actors.reply import NO_REPLY, Reply, ReplySlot
from actors.router import LocalRouter
from actors.stream_actor import MAX_APPENDS_IN_FLIGHT, Staged, StreamActor
from protocol import events
from protocol.errors import HubbubError, Overloaded, Refused, StorageUnavailable
from protocol.records import Advance, Append, Appended, Insert, LogRow, Tell

ADDRESS = Address("counter", "c1")


class ManualLog:
    """A log that commits when the test says so."""

    def __init__(self) -> None:
        self.pending: list[tuple[Append, Callable[[Outcome], None]]] = []
        self.stored: list[LogRow] = []
        self.ops: list[object] = []
        self.appends: list[Append] = []
        self.is_overloaded = False

    def check_room(self) -> None:
        """There is always room, as far as anybody can tell before the append."""

    def append_nowait(self, append: Append, on_done: Callable[[Outcome], None]) -> None:
        if self.is_overloaded:
            raise Overloaded
        self.appends.append(append)
        self.pending.append((append, on_done))

    async def commit(self, count: int = 1, error: HubbubError | None = None) -> None:
        for _ in range(count):
            append, on_done = self.pending.pop(0)
            if error is not None:
                on_done(error)
                continue
            places = []
            for row in append.rows:
                found = next((n for n, r in enumerate(self.stored, 1) if r.client_id == row.client_id), 0)
                if not found:
                    self.stored.append(row)
                seq = found or len(self.stored)
                places.append(Appended(seq, seq, row.at_ms, bool(found)))
            self.ops.extend(append.ops)
            on_done(tuple(places))
        await trio.testing.wait_all_tasks_blocked()


class OneShard:
    def epoch_of(self, shard: int) -> int:
        return 7

    def owns(self, shard: int) -> bool:
        return True

    def fenced(self, shard: int) -> None:
        raise AssertionError("nobody else writes here")


class Hints:
    def __init__(self) -> None:
        self.tells: list[Tell] = []

    def hint(self, tells: Sequence[Tell]) -> None:
        self.tells.extend(tells)


class Counter(StreamActor):
    """Append each text that it is sent; "tell" tells as well, "same" changes nothing, "no" is refused."""

    incarnations: list[bool]  # whether each was a restart
    shown: list[str]

    async def activate(self, ctx: EntityContext) -> None:
        self._ctx = ctx
        self.incarnations.append(ctx.restarted)

    async def handle(self, message: object, reply: Reply) -> None:
        text = str(message)
        if text == "no":
            raise Refused("forbidden")
        if text == "same":
            return self._answer_in_order(reply, "same")
        if text == "tell":
            self._stage_tell("ann", AddedTo("c1", "bob"))
        row = LogRow(
            stream=self._stream, kind="x", at_ms=self._at_ms(), user_id="ann", body="{}", client_id=text
        )
        event = events.Renamed(title=text)
        staged = Staged(reply, lambda at: at, user_id="ann", event=event)
        self._batch.senders.setdefault("ann", []).append(self._stage_row(row, staged))
        return None

    def placed(self, staged: Staged, at: Appended) -> None:
        assert isinstance(staged.event, events.Renamed)
        self.shown.append(staged.event.title)


class Rig:
    def __init__(self, log: ManualLog, host: EntityHost, hints: Hints) -> None:
        self.log = log
        self.host = host
        self.hints = hints
        self.incarnations: list[bool] = []
        self.shown: list[str] = []
        self.now_ms = 1000

    async def send(self, *texts: str) -> list[ReplySlot]:
        """Send one batch."""
        slots = [ReplySlot() for _ in texts]
        for text, slot in zip(texts, slots, strict=True):
            self.host.deliver(ADDRESS, text, slot)
        await trio.testing.wait_all_tasks_blocked()
        return slots


@asynccontextmanager
async def open_rig() -> AsyncIterator[Rig]:
    log, hints = ManualLog(), Hints()
    router = LocalRouter()
    rigs: list[Rig] = []

    def make(address: Address) -> Counter:
        counter = Counter(
            address,
            "c:c1",
            log=cast(Log, log),
            leases=OneShard(),
            relay=hints,
            now_ms=lambda: rigs[0].now_ms,
        )
        counter.incarnations, counter.shown = rigs[0].incarnations, rigs[0].shown
        return counter

    host = EntityHost("counter", make, router=router, on_dead_letter=lambda *_: None, wakes_after_crash=True)
    router.add(host)
    rigs.append(Rig(log, host, hints))
    async with trio.open_nursery() as nursery:
        await nursery.start(host.run)
        yield rigs[0]
        nursery.cancel_scope.cancel()


async def test_nothing_is_answered_or_shown_before_it_is_stored(autojump_clock: MockClock) -> None:
    """Promise 1, for every actor with a stream."""
    async with open_rig() as rig:
        (one, no, two, tell) = await rig.send("one", "no", "two", "tell")
        assert (one.is_done, two.is_done, rig.shown, rig.hints.tells) == (False, False, [], [])
        assert no.is_done  # a refusal waits for nobody
        assert len(rig.log.pending) == 1  # one append for the batch
        await rig.log.commit()
        assert [(await slot.wait()).seq for slot in (one, two, tell)] == [1, 2, 3]  # type: ignore[attr-defined]
        assert rig.shown == ["one", "two", "tell"]
        assert [t.target_id for t in rig.hints.tells] == ["ann"]
        assert [op.row for op in rig.log.ops if isinstance(op, Insert)] == rig.hints.tells


async def test_an_answer_that_nothing_changes_waits_for_what_it_rests_on(autojump_clock: MockClock) -> None:
    """A retry of a change in flight must not be acked ahead of the store."""
    async with open_rig() as rig:
        (first,) = await rig.send("same")
        assert await first.wait() == "same"
        (one,) = await rig.send("one")
        (again,) = await rig.send("same")
        assert not again.is_done
        await rig.log.commit()
        assert one.is_done
        assert not again.is_done
        await rig.log.commit()
        assert await again.wait() == "same"
        assert rig.shown == ["one"]


async def test_appends_are_pipelined_up_to_a_bound(autojump_clock: MockClock) -> None:
    async with open_rig() as rig:
        slots = [(await rig.send(f"t{n}"))[0] for n in range(MAX_APPENDS_IN_FLIGHT + 3)]
        assert len(rig.log.pending) == MAX_APPENDS_IN_FLIGHT
        while rig.log.pending:
            await rig.log.commit()
        assert all(slot.is_done for slot in slots)
        assert rig.shown == [f"t{n}" for n in range(MAX_APPENDS_IN_FLIGHT + 3)]


async def test_a_failed_append_fails_all_that_rests_on_it(autojump_clock: MockClock) -> None:
    """Memory was ahead of the log: what rests on it is told so, and a fresh incarnation wakes at once."""
    async with open_rig() as rig:
        (one,) = await rig.send("one")
        (two,) = await rig.send("two")
        await rig.log.commit(error=StorageUnavailable())
        (late,) = await rig.send("late")
        assert rig.incarnations == [False]  # the next one waits for what is in flight
        await rig.log.commit()
        for slot in (one, two):
            with pytest.raises(StorageUnavailable):
                await slot.wait()
        assert rig.shown == []  # "two" is stored, and the restart announces it
        assert rig.incarnations == [False, True]
        await rig.log.commit()
        assert (await late.wait()).seq == 2  # type: ignore[attr-defined]
        assert rig.shown == ["late"]


async def test_what_waits_behind_a_full_pipeline_is_not_submitted_after_a_failure(
    autojump_clock: MockClock,
) -> None:
    async with open_rig() as rig:
        slots = [(await rig.send(f"t{n}"))[0] for n in range(MAX_APPENDS_IN_FLIGHT + 1)]
        await rig.log.commit(error=StorageUnavailable())
        assert len(rig.log.appends) == MAX_APPENDS_IN_FLIGHT
        await rig.log.commit(MAX_APPENDS_IN_FLIGHT - 1)
        with pytest.raises(StorageUnavailable):
            await slots[-1].wait()
        assert rig.incarnations == [False, True]


async def test_an_overloaded_store_is_told_to_the_senders(autojump_clock: MockClock) -> None:
    async with open_rig() as rig:
        rig.log.is_overloaded = True
        for slot in await rig.send("one", "two"):
            with pytest.raises(Overloaded):
                await slot.wait()
        rig.log.is_overloaded = False
        assert rig.incarnations == [False, True]
        (three,) = await rig.send("three")
        await rig.log.commit()
        assert (await three.wait()).seq == 1  # type: ignore[attr-defined]


async def test_duplicates_are_answered_but_not_shown_again(autojump_clock: MockClock) -> None:
    """And a new message in front of a duplicate still moves its sender's watermark."""
    async with open_rig() as rig:
        await rig.send("one")
        await rig.log.commit()
        new, again = await rig.send("two", "one")
        await rig.log.commit()
        place = await again.wait()
        assert isinstance(place, Appended)
        assert (place.seq, place.is_duplicate) == (1, True)
        assert new.is_done
        assert rig.shown == ["one", "two"]
        await rig.log.commit()  # what the store could not do with the duplicate's row
        advances = [op for op in rig.log.ops if isinstance(op, Advance)]
        assert (advances[-1].read_seq, advances[-1].read_count, advances[-1].row_index) == (2, 2, -1)


async def test_time_never_runs_backwards_and_tells_rise(autojump_clock: MockClock) -> None:
    """The wall clock may; a scan delivers tells by their ids."""
    async with open_rig() as rig:
        for now_ms in (1000, 500, 1000, 2000):
            rig.now_ms = now_ms
            rig.host.deliver(ADDRESS, "tell", NO_REPLY)
            rig.host.deliver(ADDRESS, f"at {now_ms}", NO_REPLY)
            await trio.testing.wait_all_tasks_blocked()
            await rig.log.commit()
        times = [row.at_ms for row in rig.log.stored]
        assert times == sorted(times)
        ids = [tell.tell_id for tell in rig.hints.tells]
        assert ids == sorted(set(ids))
        assert len(ids) == 4
