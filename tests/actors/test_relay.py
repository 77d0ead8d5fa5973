"""Durable tells: each arrives once, in order per target, and nobody is held up by somebody else's trouble."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import cast

import trio
import trio.testing
from hypothesis import given
from hypothesis import strategies as st
from trio.testing import MockClock

from actors.address import Address
from actors.messages import Told
from actors.ports import Log
from actors.relay import MAX_HINTS, MAX_IN_FLIGHT, RETRY_S, SCAN_INTERVAL_S, TellRelay
from actors.reply import Reply
from actors.router import LocalRouter
from protocol.errors import HubbubError, StorageUnavailable, Unavailable
from protocol.records import Tell


class Targets:
    """Users that store what they are told and remove the tell, unless they are in trouble; and the store."""

    kind = "user"

    def __init__(self) -> None:
        self.stored: dict[str, Tell] = {}
        self.taken: list[tuple[str, str]] = []  # (user_id, tell_id)
        self.trouble: dict[str, HubbubError] = {}
        self.attempt_count = 0
        self.scan_count = 0
        self.is_holding = False
        self.held: list[tuple[str, str, Reply]] = []

    # as a host

    def deliver(
        self, address: Address, message: object, reply: Reply, *, may_be_at_once: bool = False
    ) -> None:
        assert isinstance(message, Told)
        self.attempt_count += 1
        if (error := self.trouble.get(address.id)) is not None:
            raise error
        if self.is_holding:
            self.held.append((address.id, message.tell_id, reply))
        else:
            self.take(address.id, message.tell_id, reply)

    def deliver_if_active(self, address: Address, message: object) -> bool:
        return False

    def take(self, user_id: str, tell_id: str, reply: Reply) -> None:
        del self.stored[tell_id]
        self.taken.append((user_id, tell_id))
        reply.resolve(None)

    # as a log

    async def find(
        self, table: object, where: object, *, order_by: str, after: str | None, limit: int
    ) -> list[Tell]:
        assert order_by == "tell_id"
        self.scan_count += 1
        if (error := self.trouble.get("the store")) is not None:
            raise error
        found = [tell for tell_id, tell in sorted(self.stored.items()) if tell_id > (after or "")][:limit]
        await trio.sleep(0.001)
        return found


@asynccontextmanager
async def open_relay(*, owns: bool = True) -> AsyncIterator[tuple[TellRelay, Targets]]:
    targets = Targets()
    relay = TellRelay(cast(Log, targets), LocalRouter([targets]), owns=lambda _: owns)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(relay.run)
        await trio.sleep(0.1)  # virtual: the scan of the start is over
        yield relay, targets
        nursery.cancel_scope.cancel()


def commit(targets: Targets, number: int, user_id: str) -> Tell:
    tell = Tell(tell_id=f"{number:06}", shard=0, kind="user", target_id=user_id, body="{}", at_ms=number)
    targets.stored[tell.tell_id] = tell
    return tell


async def test_what_is_hinted_is_delivered_at_once(autojump_clock: MockClock) -> None:
    async with open_relay() as (relay, targets):
        relay.hint([commit(targets, n, "ann") for n in range(3)])
        await trio.testing.wait_all_tasks_blocked()
        assert targets.taken == [("ann", "000000"), ("ann", "000001"), ("ann", "000002")]
        assert relay.depth == 0


async def test_what_a_dead_node_left_is_found_page_by_page(autojump_clock: MockClock) -> None:
    """More tells than a page holds, the first of them undeliverable."""
    async with open_relay() as (_relay, targets):
        targets.trouble["stuck"] = Unavailable("quarantined", retry_after_s=900.0)
        for number in range(3 * MAX_IN_FLIGHT):
            commit(targets, number, "stuck" if number < 2 * MAX_IN_FLIGHT else f"u{number}")
        await trio.sleep(SCAN_INTERVAL_S + 1)
        assert len(targets.taken) == MAX_IN_FLIGHT
        assert targets.attempt_count == MAX_IN_FLIGHT + 1  # one look at the stuck one, not 256
        del targets.trouble["stuck"]
        await trio.sleep(900)
        assert targets.stored == {}
        assert [t for u, t in targets.taken if u == "stuck"] == [f"{n:06}" for n in range(2 * MAX_IN_FLIGHT)]


async def test_what_another_nodes_target_did_not_take_is_not_passed_by_what_comes_later(
    autojump_clock: MockClock,
) -> None:
    """Added and removed in this order, while the user's shard changes hands."""
    async with open_relay(owns=False) as (relay, targets):
        targets.trouble["ann"] = Unavailable("busy")
        relay.hint([commit(targets, 0, "ann")])
        commit(targets, 1, "bob")  # of another node's making, for a third one: none of our business
        await trio.sleep(0.5)
        del targets.trouble["ann"]
        await trio.sleep(RETRY_S)
        relay.hint([commit(targets, 2, "ann")])
        await trio.sleep(RETRY_S)
        assert targets.taken == [("ann", "000000"), ("ann", "000002")]


async def test_one_target_in_trouble_delays_nobody_else(autojump_clock: MockClock) -> None:
    """An inbox of a quarantined user must not cost all the others a second for each event."""
    async with open_relay() as (relay, targets):
        targets.trouble["bad"] = Unavailable("busy")
        relay.hint([commit(targets, 0, "bad")])
        for number in range(1, 50):
            relay.hint([commit(targets, number, "good")])
            await trio.testing.wait_all_tasks_blocked()
            assert targets.taken[-1] == ("good", f"{number:06}")
            await trio.sleep(0.1)
        del targets.trouble["bad"]
        await trio.sleep(2 * RETRY_S)
        assert ("bad", "000000") in targets.taken


async def test_one_app_in_trouble_delays_nobody_else_of_its_target(autojump_clock: MockClock) -> None:
    """A partition of notifications is told of all apps; what one cannot have decided comes again later."""
    async with open_relay() as (relay, targets):
        targets.is_holding = True
        relay.hint([commit(targets, 1, "partition")])
        await trio.sleep(0.01)
        targets.held[0][2].fail(Unavailable("setup_unreadable", retry_after_s=5.0))
        targets.is_holding = False
        relay.hint([commit(targets, 2, "partition")])
        await trio.sleep(0.01)
        assert targets.taken == [("partition", "000002")]
        await trio.sleep(SCAN_INTERVAL_S + RETRY_S)
        assert targets.taken == [("partition", "000002"), ("partition", "000001")]


async def test_a_crashing_tell_is_tried_no_more_but_stays_for_the_operator(autojump_clock: MockClock) -> None:
    async with open_relay() as (relay, targets):
        targets.trouble["ann"] = Unavailable("crashed")
        relay.hint([commit(targets, 0, "ann")])
        await trio.testing.wait_all_tasks_blocked()
        del targets.trouble["ann"]
        relay.hint([commit(targets, 1, "ann")])
        await trio.sleep(3 * SCAN_INTERVAL_S)
        assert targets.taken == [("ann", "000001")]
        assert list(targets.stored) == ["000000"]


async def test_a_store_that_cannot_be_read_is_asked_again(autojump_clock: MockClock) -> None:
    async with open_relay() as (_relay, targets):
        commit(targets, 0, "ann")
        targets.trouble["the store"] = StorageUnavailable()
        await trio.sleep(SCAN_INTERVAL_S + 5)
        assert targets.scan_count > 3
        del targets.trouble["the store"]
        await trio.sleep(2 * RETRY_S)
        assert targets.taken == [("ann", "000000")]


async def test_no_more_is_in_flight_than_a_mailbox_holds_and_no_tell_twice(autojump_clock: MockClock) -> None:
    """While targets work, a scan sees what is in flight; it must not be delivered again."""
    async with open_relay() as (relay, targets):
        targets.is_holding = True
        tells = [commit(targets, n, f"u{n}") for n in range(300)]
        relay.hint(tells)
        await trio.sleep(2 * SCAN_INTERVAL_S)
        assert len(targets.held) == MAX_IN_FLIGHT
        held, targets.held = targets.held, []
        for user_id, tell_id, reply in held[:100]:
            targets.take(user_id, tell_id, reply)
        await trio.sleep(2 * SCAN_INTERVAL_S)
        assert len(targets.held) == 100
        targets.is_holding = False
        for user_id, tell_id, reply in [*held[100:], *targets.held]:
            targets.take(user_id, tell_id, reply)
        await trio.sleep(SCAN_INTERVAL_S)
        assert sorted(t for _, t in targets.taken) == [tell.tell_id for tell in tells]


async def test_an_overflow_of_hints_is_found_by_a_scan_in_order(autojump_clock: MockClock) -> None:
    async with open_relay() as (relay, targets):
        tells = [commit(targets, n, "ann") for n in range(MAX_HINTS + 10)]
        relay.hint(tells[:MAX_HINTS])
        relay.hint(tells[MAX_HINTS : MAX_HINTS + 5])
        relay.hint(tells[MAX_HINTS + 5 :])
        await trio.sleep(SCAN_INTERVAL_S + 2)
        assert [t for _, t in targets.taken] == [tell.tell_id for tell in tells]


@given(
    st.lists(
        st.tuples(
            st.sampled_from(["hint", "lost hint", "trouble", "relief", "wait"]), st.sampled_from("abc")
        ),
        max_size=40,
    )
)
def test_whatever_goes_wrong_each_tell_arrives_once_and_in_order(steps: list[tuple[str, str]]) -> None:
    """Nodes die, mailboxes fill up; a user's inbox has everything once, in the order of the causes."""

    async def main() -> None:
        async with open_relay() as (relay, targets):
            for number, (step, user_id) in enumerate(steps):
                match step:
                    case "hint":
                        relay.hint([commit(targets, number, user_id)])
                    case "lost hint":  # as after a crash: only a scan finds it, maybe behind later ones
                        commit(targets, number, f"lost-{user_id}")
                    case "trouble":
                        targets.trouble[user_id] = Unavailable("busy", retry_after_s=2.0)
                    case "relief":
                        targets.trouble.pop(user_id, None)
                    case _:
                        await trio.sleep(0.7)
            targets.trouble.clear()
            await trio.sleep(SCAN_INTERVAL_S + 5)
            assert targets.stored == {}
            assert len({t for _, t in targets.taken}) == len(targets.taken)
            for user_id in "abc":
                for name in (user_id, f"lost-{user_id}"):
                    order = [t for u, t in targets.taken if u == name]
                    assert order == sorted(order)

    trio.run(main, clock=MockClock(autojump_threshold=0))
