"""Actors come and go, crash and are cut off, and no message is lost or handled twice.

The property tests make the interleavings; the single tests below them name what each fault has to lead to.
"""

import random
from collections import Counter
from typing import Any

import pytest
import trio
from hypothesis import given
from hypothesis import strategies as st
from trio.testing import MockClock, wait_all_tasks_blocked

from actors import NO_REPLY, Address, CrashPolicy, EntityHost, LocalRouter, Supervisor
from protocol.errors import Refused, Unavailable
from tests.actors.ledger import (
    KIND,
    NEVER,
    A,
    Append,
    Boom,
    Do,
    Hold,
    Ledger,
    Read,
    Runtime,
    World,
    crash,
    fenced,
    open_runtime,
    outcome,
    outcomes,
)

pytestmark = pytest.mark.usefixtures("both_ways")


def _play(scenario: Any) -> None:
    trio.run(scenario, clock=MockClock(autojump_threshold=0))


async def _hold(runtime: Runtime, until: trio.Event) -> None:
    """Keep the actor busy, so that what follows makes one batch."""
    runtime.ask(Hold(until))
    await wait_all_tasks_blocked()


# What is promised whatever happens.


@given(
    receive_crashes=st.lists(st.integers(0, 3), min_size=1, max_size=30),
    flush_crashes=st.lists(st.sampled_from([0, 0, 0, 1, 2, 3]), min_size=30, max_size=30),
    commit_s=st.sampled_from([0.0, 1.0]),
)
def test_effects_are_in_order_and_exactly_once_whatever_crashes(
    receive_crashes: list[int], flush_crashes: list[int], commit_s: float
) -> None:
    """A bug in one command neither loses, repeats nor reorders what others sent in the same batch."""

    async def scenario() -> None:
        world = World(commit_s=commit_s)
        bodies = [str(n) for n in range(len(receive_crashes))]
        world.receive_crashes = Counter(dict(zip(bodies, receive_crashes, strict=True)))
        world.flush_crashes = Counter(dict(zip(bodies, flush_crashes, strict=False)))
        until = trio.Event()
        async with open_runtime(world, crash_policy=NEVER) as runtime:
            await _hold(runtime, until)
            replies = runtime.send(*bodies)
            until.set()
            answers = await outcomes(replies)
            stored = list(world.rows["a"])
            dead = [message.body for _, message, _, _ in world.dead if isinstance(message, Append)]
            # Every sender got one answer, and it was the truth.
            assert [b for b, answer in zip(bodies, answers, strict=True) if answer == "crashed"] == dead
            told = [b for b, answer in zip(bodies, answers, strict=True) if isinstance(answer, int)]
            unsure = {b for b, answer in zip(bodies, answers, strict=True) if answer == "restarted"}
            assert len(told) + len(unsure) + len(dead) == len(bodies)
            await trio.sleep(2)
            stored = world.rows["a"]
            assert stored == [b for b in bodies if b not in dead]
            assert all(crashes == 2 for *_, crashes in world.dead)
            # The next incarnation holds exactly what is stored.
            assert await outcome(runtime.ask(Read())) == tuple(stored)

    _play(scenario)


@given(
    seed=st.integers(0, 2**32),
    idle_s=st.sampled_from([0.5, 1.0, 3.0]),
    activate_s=st.sampled_from([0.0, 0.3]),
    passivate_s=st.sampled_from([0.0, 0.3, 1.1]),
    commit_s=st.sampled_from([0.0, 0.2]),
    max_active=st.sampled_from([1, 2, 100]),
)
def test_no_message_is_lost_between_two_lives(
    seed: int, idle_s: float, activate_s: float, passivate_s: float, commit_s: float, max_active: int
) -> None:
    """Passivation saves memory and is otherwise invisible, also to a message that meets it half-way."""

    async def scenario() -> None:
        rng = random.Random(seed)
        world = World(activate_s=activate_s, passivate_s=passivate_s, commit_s=commit_s)
        addresses = [Address(KIND, str(n)) for n in range(2 * min(max_active, 2))]
        sent: dict[str, list[str]] = {address.id: [] for address in addresses}
        replies = []
        async with open_runtime(world, idle_s=idle_s, max_active=max_active) as runtime:
            for n in range(60):
                address = rng.choice(addresses)
                (reply,) = runtime.send(str(n), to=address)
                replies.append((address.id, str(n), reply))
                # Multiples of 0.05 s make messages meet sweeps and the ends of passivations to the instant.
                await trio.sleep(rng.choice([0.0, 0.05, 0.2, 0.25, idle_s, idle_s + passivate_s, 2 * idle_s]))
            for id_, body, reply in replies:
                answer = await outcome(reply)
                assert isinstance(answer, int) or answer == "busy"  # refused by the cap, and told so
                if isinstance(answer, int):
                    sent[id_].append(body)
            await trio.sleep(10 + 2 * idle_s)
            assert {id_: world.rows[id_] for id_ in sent} == sent
            assert runtime.host.stats().active == 0
            assert len(world.passivations) == len(world.activations)
            assert runtime.host.stats().crashes == 0

    _play(scenario)


# Waking up.


async def test_messages_wait_for_the_state_to_load(autojump_clock: MockClock) -> None:
    """The first messages after a while are answered from the log, in the order they came."""
    world = World(activate_s=2.0)
    world.rows["a"] = ["old"]
    async with open_runtime(world) as runtime:
        assert await outcomes(runtime.send("x", "y")) == [1, 2]
        assert await outcome(runtime.ask(Read())) == ("old", "x", "y")
        assert world.activations == [("a", False)]


async def test_a_state_that_cannot_be_loaded_is_told_to_those_who_wait(
    autojump_clock: MockClock,
) -> None:
    """While the store is down senders get its error at once; the first message after that finds it well."""
    world = World(activate_s=1.0, activation_errors=[Unavailable("storage_unavailable")])
    async with open_runtime(world) as runtime:
        assert await outcomes(runtime.send("x", "y")) == ["storage_unavailable"] * 2
        assert not runtime.host.is_active(A)
        assert await outcomes(runtime.send("z")) == [0]
        assert world.activations == [("a", False)]
        assert runtime.host.stats().crashes == 0


async def test_what_does_not_exist_is_refused_by_its_activation(autojump_clock: MockClock) -> None:
    """A conversation that was never made answers "not found", and takes up no memory."""
    world = World(activation_errors=[Refused("conversation_not_found")])
    async with open_runtime(world) as runtime:
        assert await outcomes(runtime.send("x")) == ["conversation_not_found"]
        assert runtime.host.stats().active == 0


async def test_an_activation_that_crashes_once_is_tried_again(autojump_clock: MockClock) -> None:
    """The messages that wait notice nothing."""
    async with open_runtime(World(activation_errors=[Boom()])) as runtime:
        assert await outcomes(runtime.send("x", "y")) == [0, 1]
        assert runtime.world.activations == [("a", True)]


async def test_an_activation_that_crashes_twice_fails_those_who_wait(autojump_clock: MockClock) -> None:
    """Nobody waits for an actor that cannot start; the next message tries again."""
    async with open_runtime(World(activation_errors=[Boom(), Boom()])) as runtime:
        assert await outcomes(runtime.send("x", "y")) == ["crashed", "crashed"]
        assert runtime.world.dead == []
        assert await outcomes(runtime.send("z")) == [0]


# Crashes.


async def test_a_crash_in_the_middle_of_a_batch_spares_the_rest(autojump_clock: MockClock) -> None:
    """What came before and after the faulty message is stored, each once, and that one gets two tries."""
    world = World(receive_crashes=Counter({"c": 2}))
    until = trio.Event()
    async with open_runtime(world) as runtime:
        await _hold(runtime, until)
        replies = runtime.send("a", "b", "c", "d", "e")
        until.set()
        assert await outcomes(replies) == [0, 1, "crashed", 2, 3]
        assert world.rows["a"] == ["a", "b", "d", "e"]
        assert world.received == ["a", "b", "c", "a", "b", "c", "d", "e"]
        assert [(address, message, crashes) for address, message, _, crashes in world.dead] == [
            (A, Append("c"), 2)
        ]
        assert isinstance(world.dead[0][2], Boom)
        assert world.activations == [("a", False), ("a", True), ("a", True)]


async def test_a_message_that_crashed_once_gets_through(autojump_clock: MockClock) -> None:
    """A passing fault costs a reload, and the sender does not notice."""
    world = World(receive_crashes=Counter({"a": 1}), flush_crashes=Counter({"b": 1}))
    async with open_runtime(world) as runtime:
        assert await outcomes(runtime.send("a", "b")) == [0, 1]
        assert world.dead == []
        assert runtime.host.stats().crashes == 2


async def test_one_message_does_not_answer_for_the_crash_of_another(autojump_clock: MockClock) -> None:
    """Two messages that crash once each are two passing faults, however close together."""
    world = World(receive_crashes=Counter({"x": 1, "y": 1}))
    async with open_runtime(world) as runtime:
        for n, body in enumerate("xy"):
            assert await outcomes(runtime.send(body)) == [n]
        assert world.dead == []
        assert runtime.host.stats().crashes == 2


async def test_a_flush_that_crashes_finds_its_culprit(autojump_clock: MockClock) -> None:
    """A message that breaks the append of a whole batch is set aside alone."""
    world = World(flush_crashes=Counter({"b": 5}))
    until = trio.Event()
    async with open_runtime(world) as runtime:
        await _hold(runtime, until)
        replies = runtime.send("a", "b", "c")
        until.set()
        assert await outcomes(replies) == [0, "crashed", 1]
        assert world.rows["a"] == ["a", "c"]
        assert world.batches == [3, 1, 1, 1]


async def test_answers_that_were_still_owed_are_failed(autojump_clock: MockClock) -> None:
    """Who waits for a commit when the actor crashes is told to send again, and sees it was stored once."""
    async with open_runtime(World(commit_s=1.0)) as runtime:
        appended = runtime.send("x")
        await wait_all_tasks_blocked()
        runtime.router.tell(A, Do(crash))
        with pytest.raises(Unavailable) as raised:
            await appended[0].wait()
        assert raised.value.code == "restarted"
        assert raised.value.retry_after_s == 0.5
        # The next incarnation waits for the append in flight before it reads the log.
        assert await outcome(runtime.ask(Read())) == ("x",)


async def test_the_next_life_knows_that_there_was_a_crash(autojump_clock: MockClock) -> None:
    """It announces a resync once, since events may have been stored and not sent."""
    async with open_runtime(idle_s=10.0) as runtime:
        runtime.router.tell(A, Do(crash))
        await trio.sleep(60)
        await outcome(runtime.ask(Read()))
        await trio.sleep(60)
        await outcome(runtime.ask(Read()))
        assert [restarted for _, restarted in runtime.world.activations] == [False, True, True, False]
        # false, crash, true, crash again and set aside; then the next message's, and one after an idle time.


async def test_an_actor_that_others_watch_wakes_by_itself_after_a_crash(autojump_clock: MockClock) -> None:
    """Watchers hear of the resync now, and not with the next message."""
    async with open_runtime(wakes_after_crash=True) as runtime:
        runtime.router.tell(A, Do(crash))
        await wait_all_tasks_blocked()
        assert runtime.host.is_active(A)
        assert [restarted for _, restarted in runtime.world.activations] == [False, True, True]


async def test_neighbours_do_not_notice_a_crash(autojump_clock: MockClock) -> None:
    """One conversation's bug is that conversation's."""
    b = Address(KIND, "b")
    async with open_runtime() as runtime:
        await outcome(runtime.ask(Read(), to=b))
        runtime.router.tell(A, Do(crash))
        assert await outcomes(runtime.send("x", to=b)) == [0]
        assert [entry for entry in runtime.world.activations if entry[0] == "b"] == [("b", False)]


async def test_an_incarnation_is_told_of_every_end_but_leaving(autojump_clock: MockClock) -> None:
    """Whoever believes what an actor tells (memory of recent history) must hear when it tells no more."""
    world = World(activation_errors=[Unavailable("storage_unavailable")])
    async with open_runtime(world, idle_s=10.0) as runtime:
        assert await outcomes(runtime.send("x")) == ["storage_unavailable"]
        assert world.ends == ["a"]
        assert await outcomes(runtime.send("x")) == [0]
        world.receive_crashes["y"] = 1
        assert await outcomes(runtime.send("y")) == [1]
        assert world.ends == ["a"] * 2
        runtime.router.tell(A, Do(fenced))
        await wait_all_tasks_blocked()
        assert world.ends == ["a"] * 3
        assert await outcomes(runtime.send("z")) == [2]
        runtime.host.cut_off(lambda _: True, Unavailable("moved"))
        assert world.ends == ["a"] * 3
        await wait_all_tasks_blocked()
        assert world.ends == ["a"] * 4
        assert await outcomes(runtime.send("z")) == [3]
        await trio.sleep(60)
        assert world.passivations == ["a"]
        assert await outcomes(runtime.send("z")) == [4]
        assert world.ends == ["a"] * 4  # not for having left
    assert len(world.ends) + len(world.passivations) == 6  # as many as incarnations


async def test_a_host_that_is_cancelled_tells_its_entities(autojump_clock: MockClock) -> None:
    """As when the supervisor runs it again after a bug elsewhere: nobody settles them."""
    world = World(commit_s=1.0)
    host = EntityHost(KIND, lambda _: Ledger(world), router=LocalRouter(), on_dead_letter=lambda *_: None)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(world.write)
        await nursery.start(host.run)
        host.deliver(A, Append("x"), NO_REPLY)
        await wait_all_tasks_blocked()
        assert world.ends == []
        nursery.cancel_scope.cancel()
    assert world.ends == ["a"]


async def test_a_next_incarnation_waits_until_appends_are_decided(autojump_clock: MockClock) -> None:
    """One that loads while they are undecided stays behind its own log; who waits is refused meanwhile."""
    is_decided = trio.Event()

    class Unsettled(Ledger):
        async def settle(self) -> None:
            await is_decided.wait()

    world = World(receive_crashes=Counter({"x": 1}))
    async with open_runtime(world, factory=lambda _: Unsettled(world)) as runtime:
        start = trio.current_time()
        assert await outcomes(runtime.send("x")) == ["overloaded"]
        assert trio.current_time() - start == pytest.approx(5.0)
        assert len(world.activations) == 1
        is_decided.set()
        assert await outcomes(runtime.send("y")) == [0]
        assert len(world.activations) == 2


async def test_an_entity_that_cannot_settle_is_reported_and_replaced(autojump_clock: MockClock) -> None:
    """A bug in settling must not end the actor for good."""

    class Unsettled(Ledger):
        async def settle(self) -> None:
            raise Boom("settle")

    world = World(receive_crashes=Counter({"x": 1}))
    async with open_runtime(world, factory=lambda _: Unsettled(world)) as runtime:
        assert await outcomes(runtime.send("x")) == [0]
        assert "entity_settle_failed" in world.log_events()


async def test_a_crash_is_logged_once_with_its_traceback(autojump_clock: MockClock) -> None:
    """An operator sees one line per crash, with the actor and what became of the messages."""
    world = World(receive_crashes=Counter({"x": 1}))
    async with open_runtime(world) as runtime:
        await outcomes(runtime.send("x"))
        (line,) = [line for line in world.logs if line["event"] == "entity_crashed"]
        assert line["actor"] == "ledger/a"
        assert isinstance(line["exc_info"], Boom)
        assert (line["retried_count"], line["dead_letter_count"]) == (1, 0)


@pytest.mark.parametrize("hangs", [True, False])
async def test_a_broken_dead_letter_sink_holds_nobody_up(autojump_clock: MockClock, hangs: bool) -> None:
    """The table of dead letters is in the store, which may be the very thing that is down."""

    async def sink(*_row: object) -> None:
        if hangs:
            await trio.sleep_forever()
        raise Boom("sink")

    world = World(receive_crashes=Counter({"x": 2}))
    async with open_runtime(world, on_dead_letter=sink) as runtime:
        assert await outcomes(runtime.send("x", "y")) == ["crashed", 0]
        assert "dead_letter_lost" in world.log_events()
        assert runtime.host.stats().dead_letters == 1


# Quarantine.


async def test_a_crash_loop_is_quarantined_longer_each_time(autojump_clock: MockClock) -> None:
    """Senders are told how long; the actor is left alone; then it is tried again."""
    world = World(receive_crashes=Counter({"bad": 1_000}))
    async with open_runtime(world) as runtime:
        for expected_s in (60.0, 120.0, 240.0, 480.0, 900.0, 900.0):
            assert await outcomes(runtime.send("bad", "bad", "bad", "good")) == [
                "crashed",
                "crashed",
                "quarantined",
                "quarantined",
            ]
            (refused,) = runtime.send("good")
            with pytest.raises(Unavailable) as raised:
                await refused.wait()
            assert raised.value.code == "quarantined"
            assert raised.value.retry_after_s == pytest.approx(expected_s)
            assert runtime.host.stats().quarantined == 1
            assert not runtime.host.is_active(A)
            await trio.sleep(expected_s - 1)
            assert await outcomes(runtime.send("good")) == ["quarantined"]
            await trio.sleep(1)
        assert await outcomes(runtime.send("good")) == [0]


async def test_a_quarantine_is_forgotten_after_health(autojump_clock: MockClock) -> None:
    """The record of an actor that has healed takes no memory."""
    world = World(receive_crashes=Counter({"bad": 5}))
    async with open_runtime(world, idle_s=1.0) as runtime:
        await outcomes(runtime.send("bad", "bad", "bad"))
        await trio.sleep(1_000)
        assert runtime.host.stats().quarantined == 0
        assert not runtime.host._histories
        assert await outcomes(runtime.send("good")) == [0]


async def test_other_actors_work_on_beside_a_quarantine(autojump_clock: MockClock) -> None:
    """A bad conversation takes nobody with it."""
    world = World(receive_crashes=Counter({"bad": 9}))
    async with open_runtime(world, crash_policy=CrashPolicy(max_crashes=1)) as runtime:
        assert await outcomes(runtime.send("bad")) == ["quarantined"]
        assert await outcomes(runtime.send("good", to=Address(KIND, "b"))) == [0]


async def test_the_record_of_crashed_actors_is_bounded(
    autojump_clock: MockClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A bug that every conversation meets does not fill the memory with their names."""
    monkeypatch.setattr("actors.entity_host._MAX_HISTORIES", 10)
    async with open_runtime() as runtime:
        for n in range(30):
            runtime.router.tell(Address(KIND, str(n)), Do(crash))
        await wait_all_tasks_blocked()
        assert runtime.host.stats().crashes == 60
        assert len(runtime.host._histories) == 10


# Stopping on request.


async def test_a_fenced_actor_stops_and_is_no_crash(autojump_clock: MockClock) -> None:
    """When the shard moves, all who wait are sent to its new owner: in flight, in hand or in the mailbox."""
    until = trio.Event()
    async with open_runtime(World(commit_s=1.0)) as runtime:
        in_flight = runtime.send("x")
        await wait_all_tasks_blocked()
        await _hold(runtime, until)
        in_hand_and_queued = [*runtime.send("y"), runtime.ask(Do(fenced)), *runtime.send("z")]
        until.set()
        assert await outcomes([*in_flight, *in_hand_and_queued]) == ["moved"] * 4
        stats = runtime.host.stats()
        assert (stats.stops, stats.crashes) == (1, 0)
        assert await outcome(runtime.ask(Read())) == ("x",)
        assert runtime.world.activations[-1] == ("a", True)


async def test_an_append_that_is_declined_reloads_the_actor(autojump_clock: MockClock) -> None:
    """An overloaded store refuses a batch; what the actor had in memory for it is gone with it."""
    world = World(flush_errors=[Unavailable("overloaded")])
    async with open_runtime(world) as runtime:
        assert await outcomes(runtime.send("x", "y")) == ["overloaded", "overloaded"]
        assert await outcomes(runtime.send("z")) == [0]
        assert world.rows["a"] == ["z"]
        assert runtime.host.stats().crashes == 0


# Leaving.


async def test_an_idle_actor_leaves_and_a_busy_one_stays(autojump_clock: MockClock) -> None:
    """Memory follows use."""
    async with open_runtime(idle_s=100.0) as runtime:
        await outcomes(runtime.send("x"))
        for n in range(5):
            await trio.sleep(90)
            await outcomes(runtime.send(str(n)))
        assert runtime.world.passivations == []
        await trio.sleep(106)
        assert runtime.world.passivations == ["a"]
        assert runtime.host.stats().active == 0


async def test_an_actor_that_has_work_in_flight_stays(autojump_clock: MockClock) -> None:
    """A snapshot is only taken of a state that is stored."""
    async with open_runtime(World(can_leave=False), idle_s=1.0) as runtime:
        await outcomes(runtime.send("x"))
        await trio.sleep(60)
        assert runtime.host.is_active(A)
        runtime.world.can_leave = True
        await trio.sleep(60)
        assert not runtime.host.is_active(A)


async def test_an_answer_that_is_owed_too_long_is_failed(autojump_clock: MockClock) -> None:
    """An actor that forgets a reply does not keep its sender waiting for ever."""
    async with open_runtime(idle_s=10.0) as runtime:
        forgotten = runtime.ask("a message it keeps and never answers")
        start = trio.current_time()
        assert await outcome(forgotten) == "timeout"
        assert 10 <= trio.current_time() - start <= 20


async def test_replies_given_out_of_order_are_not_kept(autojump_clock: MockClock) -> None:
    """One answer that stays open does not hold the memory of all that come after it."""
    async with open_runtime(World(commit_s=0.1)) as runtime:
        open_for_long = runtime.ask("a message it keeps and never answers")
        for n in range(100):
            await outcomes(runtime.send(*(f"{n}.{i}" for i in range(10))))
        assert len(runtime.host._cells[A].outstanding) < 300
        runtime.router.tell(A, Do(crash))
        assert await outcome(open_for_long) == "restarted"


async def test_a_snapshot_that_fails_is_no_crash(autojump_clock: MockClock) -> None:
    """The log has everything; the next activation reads a longer tail."""

    class Unlucky(Ledger):
        async def passivate(self) -> None:
            raise Unavailable("overloaded")

    world = World()
    async with open_runtime(world, idle_s=1.0, factory=lambda _: Unlucky(world)) as runtime:
        await outcomes(runtime.send("x"))
        await trio.sleep(10)
        assert not runtime.host.is_active(A)
        assert runtime.host.stats().crashes == 0
        assert "entity_snapshot_failed" in world.log_events()


async def test_the_least_recently_used_leaves_first(autojump_clock: MockClock) -> None:
    """A node with more actors than it should hold keeps those that are in use."""
    async with open_runtime(max_active=3) as runtime:
        for id_ in ("a", "b", "c", "a", "d", "e"):
            await outcomes(runtime.send("x", to=Address(KIND, id_)))
            await wait_all_tasks_blocked()
        assert runtime.world.passivations == ["b", "c"]
        assert runtime.host.stats().active == 3


async def test_no_more_are_asked_to_leave_than_have_to(autojump_clock: MockClock) -> None:
    """A burst of arrivals does not empty the node while the first ones asked still write their snapshots."""
    async with open_runtime(World(passivate_s=1.0), max_active=20) as runtime:
        for n in range(20):
            await outcomes(runtime.send("x", to=Address(KIND, str(n))))
        for n in range(20, 30):
            runtime.send("x", to=Address(KIND, str(n)))
        await trio.sleep(5)
        assert sorted(runtime.world.passivations) == sorted(str(n) for n in range(10))
        assert runtime.host.stats().active == 20


async def test_one_that_cannot_leave_does_not_shield_the_others(autojump_clock: MockClock) -> None:
    """The cap holds although the oldest actor is busy for long."""
    until = trio.Event()
    async with open_runtime(max_active=3) as runtime:
        await _hold(runtime, until)
        for n in range(20):
            await outcomes(runtime.send("x", to=Address(KIND, str(n))))
            await wait_all_tasks_blocked()
        assert runtime.host.stats().active <= 4
        assert runtime.host.is_active(A)


async def test_a_host_full_of_busy_actors_refuses_new_ones(autojump_clock: MockClock) -> None:
    """The number of actors is bounded whatever they do."""
    async with open_runtime(World(can_leave=False), max_active=3) as runtime:
        answers = [await outcomes(runtime.send("x", to=Address(KIND, str(n)))) for n in range(8)]
        assert answers == [[0]] * 6 + [["busy"]] * 2
        assert runtime.host.stats().active == 6


# Draining and being cut off.


async def test_a_drain_finishes_what_waits_and_refuses_the_rest(autojump_clock: MockClock) -> None:
    """SIGTERM: commits are finished, snapshots written, new messages sent elsewhere; then `run` returns."""
    world = World(commit_s=0.5)
    until = trio.Event()
    async with open_runtime(world) as runtime:
        await _hold(runtime, until)
        waiting = runtime.send("x", "y")
        async with trio.open_nursery() as nursery:

            @nursery.start_soon
            async def _drains() -> None:
                assert await runtime.host.drain(deadline_s=5) == 0

            await wait_all_tasks_blocked()
            assert await outcomes(runtime.send("z", to=Address(KIND, "b"))) == ["draining"]
            assert await outcomes(runtime.send("z")) == ["draining"]
            assert not runtime.router.tell_if_active(A, Append("z"))
            until.set()
            assert await outcomes(waiting) == [0, 1]
        assert world.rows["a"] == ["x", "y"]
        assert world.passivations == ["a"]
        assert runtime.host.stats().active == 0


async def test_a_drain_cuts_off_who_does_not_finish(autojump_clock: MockClock) -> None:
    """The node stops on time; the senders of what was cut off are told to go elsewhere."""
    async with open_runtime(World(commit_s=100.0)) as runtime:
        cut_off = [*runtime.send("in flight")]
        await wait_all_tasks_blocked()
        cut_off += [runtime.ask(Hold(trio.Event())), *runtime.send("queued")]
        await wait_all_tasks_blocked()
        await outcome(runtime.ask(Read(), to=Address(KIND, "b")))
        start = trio.current_time()
        assert await runtime.host.drain(deadline_s=5) == 1
        assert trio.current_time() - start == pytest.approx(5)
        assert await outcomes(cut_off) == ["draining"] * 3
        assert runtime.world.passivations == ["b"]
        assert "entity_cut_off" in runtime.world.log_events()


async def test_only_the_actors_of_a_shard_are_handed_over(autojump_clock: MockClock) -> None:
    """A node that gives a shard away keeps its other actors, and may get the shard back."""
    async with open_runtime() as runtime:
        for id_ in ("a", "b"):
            await outcomes(runtime.send("x", to=Address(KIND, id_)))
        assert await runtime.host.passivate_matching(lambda address: address == A, deadline_s=1) == 0
        assert not runtime.host.is_active(A)
        assert runtime.host.is_active(Address(KIND, "b"))
        assert await outcomes(runtime.send("y")) == [1]


async def test_a_cancelled_host_answers_everybody_and_stops(
    autojump_clock: MockClock,
) -> None:
    """When a supervisor stops a host hard, no sender is left without an answer."""
    until = trio.Event()
    async with open_runtime(World(commit_s=9.0)) as runtime:
        replies = runtime.send("in flight")
        await wait_all_tasks_blocked()
        await _hold(runtime, until)
        replies += runtime.send("queued")
    assert await outcomes(replies) == ["draining", "draining"]
    assert runtime.host.stats().active == 0
    with pytest.raises(Unavailable, match="draining"):
        runtime.router.tell(A, Read())


async def test_a_bug_met_while_being_cut_off_does_not_take_the_host_down(autojump_clock: MockClock) -> None:
    """The group of a cancellation and an error is split: one passes, the other is logged."""

    async def worker() -> None:
        try:
            await trio.sleep_forever()
        finally:
            raise Boom("cleanup")

    async with open_runtime() as runtime:
        await outcome(runtime.ask(Do(lambda ledger: ledger.ctx.start_soon(worker))))
        cut_off = runtime.ask(Hold(trio.Event()))
        await wait_all_tasks_blocked()
        assert await runtime.host.passivate_matching(lambda _: True, deadline_s=1) == 1
        assert await outcome(cut_off) == "draining"
        assert "entity_crashed_when_cut_off" in runtime.world.log_events()
        assert runtime.host.stats().active == 0
        assert await outcome(runtime.ask(Read())) == ()


async def test_a_host_drains_when_its_supervisor_stops_it(autojump_clock: MockClock) -> None:
    """The node's supervision tree is all there is to call at shutdown."""
    world = World(commit_s=0.5)
    async with open_runtime(world) as outer:
        host = outer.host
        await host.drain(deadline_s=1)
        supervisor = Supervisor("actors", [host.child_spec()])
        async with trio.open_nursery() as nursery:
            await nursery.start(supervisor.run)
            replies = outer.send("x", "y")
            await wait_all_tasks_blocked()
            supervisor.stop()
        assert await outcomes(replies) == [0, 1]
        assert world.passivations == ["a"]


async def test_the_counts_for_the_operator_add_up(autojump_clock: MockClock) -> None:
    """Metrics are read from here."""
    world = World(receive_crashes=Counter({"bad": 2}))
    until = trio.Event()
    async with open_runtime(world, idle_s=10.0) as runtime:
        await outcomes(runtime.send("bad"))
        await _hold(runtime, until)
        runtime.send("x", "y", "z")
        stats = runtime.host.stats()
        assert (stats.kind, stats.active, stats.mailbox_depth) == (KIND, 1, 3)
        until.set()
        await trio.sleep(60)
        stats = runtime.host.stats()
        assert (stats.active, stats.mailbox_depth, stats.mailbox_peak) == (0, 0, 3)
        assert (stats.crashes, stats.restarts, stats.dead_letters) == (2, 2, 1)
        assert (stats.activations, stats.passivations) == (3, 1)
