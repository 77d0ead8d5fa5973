"""Calls between nodes: answered once, handled at most once, in order, and never kept for long."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from itertools import count

import hypothesis
import msgspec
import pytest
import trio
from hypothesis import strategies as st
from trio.testing import MockClock

from actors.address import Address
from actors.messages import Delivered, Told
from cluster import router as router_module
from cluster import wire
from cluster.router import ANSWER_TIMEOUT_S, ASK_AGAIN_S, MAX_HELD, MAX_HELD_S, SWEEP_S
from protocol.errors import HubbubError, ProtocolError, Refused, Unavailable
from protocol.replies import Changed
from tests.cluster.router_world import Answer, Node, RouterWorld
from tests.strategies import examples

ANN = Address("user", "u_ann")


@asynccontextmanager
async def open_routers(*node_ids: str, owner: str = "n2") -> AsyncIterator[RouterWorld]:
    """Nodes that all know who owns ann's shard; each of them must be left with empty hands."""
    world = RouterWorld(*node_ids)
    if owner:
        world.move(ANN.shard, owner)
        world.tell_all(ANN.shard)
    async with trio.open_nursery() as nursery:
        for node in world.nodes.values():
            nursery.start_soon(node.router.run)
        yield world
        nursery.cancel_scope.cancel()
    for node in world.nodes.values():
        assert leaks(node) == (0, 0, 0)


def leaks(node: Node) -> tuple[int, int, int]:
    return node.router.held_count, node.router.under_way_count, len(node.router._ways)


def call(node: Node, name: str, address: Address = ANN) -> Answer:
    answer = Answer()
    node.router.ask_nowait(address, Told(name, ""), answer)
    return answer


async def test_an_answer_comes_back_from_another_node(autojump_clock: MockClock) -> None:
    """Sessions cannot tell whether an actor is near or far."""
    async with open_routers("n1", "n2") as world:
        answer = call(world.nodes["n1"], "a")
        world.settle()
        assert answer.outcomes == [Changed(conversation_id="a")]
        async with trio.open_nursery() as nursery:

            async def ask() -> None:
                reply = await world.nodes["n1"].router.ask(ANN, Told("b", ""), timeout_s=5)
                assert reply == Changed(conversation_id="b")

            nursery.start_soon(ask)
            await trio.testing.wait_all_tasks_blocked()
            world.settle()
        with pytest.raises(Unavailable, match="timeout"):
            await world.nodes["n1"].router.ask(ANN, Told("c", ""), timeout_s=1)
        await trio.sleep(ANSWER_TIMEOUT_S)
        assert world.names() == ["a", "b"]  # c has not even arrived


@pytest.mark.parametrize(
    "error",
    [
        Unavailable("busy", "Full.", retry_after_s=0.25),
        Refused("blocked"),
        Refused("group_full", "In other words."),
        ProtocolError("bad_field", "x"),
        HubbubError("a_code_of_tomorrow", "m"),
    ],
)
async def test_every_kind_of_error_comes_back_as_it_was(
    autojump_clock: MockClock, error: HubbubError
) -> None:
    """Whoever must act on it finds the same code, sentence and time to wait."""
    async with open_routers("n1", "n2") as world:
        world.nodes["n2"].actors.refuses_with = error
        answer = call(world.nodes["n1"], "a")
        world.settle()
        (found,) = answer.outcomes
        assert isinstance(found, HubbubError)
        assert (found.code, found.message, found.retry_after_s) == (
            error.code,
            error.message,
            error.retry_after_s,
        )
        kind = Refused if type(error) is HubbubError else type(error)
        assert type(found) is kind


async def test_tells_arrive_and_full_lanes_are_told_at_once(autojump_clock: MockClock) -> None:
    """A service keeps what was not taken, and tells it again."""
    async with open_routers("n1", "n2") as world:
        router = world.nodes["n1"].router
        router.tell(ANN, Told("a", ""))
        world.settle()
        assert (world.names(), router.under_way_count) == (["a"], 0)
        world.nodes["n1"].is_full = True
        with pytest.raises(Unavailable, match="busy"):
            router.tell(ANN, Told("b", ""))
        assert call(world.nodes["n1"], "c").code == "busy"
        assert leaks(world.nodes["n1"]) == (0, 0, 0)


async def test_hints_reach_who_is_awake_and_the_rest_is_kept(autojump_clock: MockClock) -> None:
    """A watermark for a conversation that sleeps is stored by the node that got it last."""
    async with open_routers("n1", "n2") as world:
        near, far = world.nodes["n1"], world.nodes["n2"]
        kept: list[object] = []
        far.router.on_asleep = lambda _, message: kept.append(message)
        hint = Delivered({"u": 1})
        assert near.router.tell_if_active(ANN, hint)
        world.settle()
        assert far.actors.hints == [hint]
        far.actors.is_awake = False
        assert near.router.tell_if_active(ANN, hint)
        world.settle()
        assert kept == [hint]
        assert not far.router.tell_if_active(ANN, hint)
        near.dead.add("n2")
        assert not near.router.tell_if_active(ANN, hint)
        world.move(ANN.shard, "")
        near.learn(ANN.shard)
        near.dead.clear()
        assert not near.router.tell_if_active(ANN, hint)
        world.move(ANN.shard, "n1")
        assert near.router.tell_if_active(ANN, hint)
        assert near.actors.hints == [hint]


async def test_a_call_that_comes_back_goes_to_the_next_owner_before_those_behind_it(
    autojump_clock: MockClock,
) -> None:
    """Two messages of one sender never change places, whoever knows of the move first."""
    async with open_routers("n1", "n2", "n3") as world:
        near = world.nodes["n1"]
        first = call(near, "1")
        world.move(ANN.shard, "n3")
        near.learn(ANN.shard)  # before n2 has said that it did nothing
        second = call(near, "2")
        world.settle()
        third = call(near, "3")
        world.settle()
        assert world.handled == [("n3", ANN.shard, name) for name in "123"]
        assert [answer.code for answer in (first, second, third)] == ["", "", ""]


async def test_what_is_held_goes_to_this_node_when_it_is_the_next_owner(autojump_clock: MockClock) -> None:
    """The taker of a shard has messages of its own for it."""
    async with open_routers("n1", "n2") as world:
        near = world.nodes["n1"]
        answers = [call(near, name) for name in "12"]
        world.move(ANN.shard, "")
        world.settle()
        answers.append(call(near, "3"))
        near.router.tell(ANN, Told("4", ""))
        assert world.handled == []
        world.move(ANN.shard, "n1")
        answers.append(call(near, "5"))
        assert world.names() == ["1", "2", "3", "4", "5"]
        assert [answer.code for answer in answers] == [""] * 4


async def test_calls_made_under_a_former_lease_are_sent_back(autojump_clock: MockClock) -> None:
    """A node that lost its shard and took it again may have refused what was made before these."""
    async with open_routers("n1", "n2") as world:
        near = world.nodes["n1"]
        first = call(near, "1")
        second = call(near, "2")
        world.move(ANN.shard, "")
        world.deliver(("n1", "n2", "n2"), 1)
        world.move(ANN.shard, "n2")
        world.settle()
        near.learn(ANN.shard)
        world.settle()
        assert world.names() == ["1", "2"]
        assert (first.code, second.code) == ("", "")


async def test_an_owner_that_does_not_answer_is_not_waited_for(autojump_clock: MockClock) -> None:
    """It may have done what it was asked; what waits behind it is refused long before."""
    async with open_routers("n1", "n2", "n3") as world:
        near = world.nodes["n1"]
        start = trio.current_time()
        silent = call(near, "1")
        world.move(ANN.shard, "n3")
        near.learn(ANN.shard)
        behind = call(near, "2")
        await trio.sleep(MAX_HELD_S + SWEEP_S)
        assert behind.code == "busy"
        assert call(near, "3").code == "busy"
        assert not silent.outcomes
        await trio.sleep_until(start + ANSWER_TIMEOUT_S + SWEEP_S)
        assert silent.code == "timeout"
        late = call(near, "4")
        world.settle()
        assert (late.code, silent.code) == ("", "timeout")
        assert world.names() == ["4"]


async def test_the_calls_of_a_lost_peer_end_at_once(autojump_clock: MockClock) -> None:
    """Whether they were handled is not known; others are not concerned, and nothing more is sent there."""
    async with open_routers("n1", "n2", "n3") as world:
        near = world.nodes["n1"]
        bob = next(a for n in count() if (a := Address("user", f"b{n}")).shard != ANN.shard)
        world.move(bob.shard, "n3")
        near.learn(bob.shard)
        lost, other = call(near, "1"), call(near, "2", bob)
        near.dead.add("n2")
        near.router.peer_lost("n2")
        assert lost.code == "outcome_unknown"
        assert not other.outcomes
        held = call(near, "3")
        assert near.router.held_count == 1
        world.move(ANN.shard, "n3", is_orderly=False)
        near.learn(ANN.shard)
        world.settle()
        assert (held.code, other.code) == ("", "")
        assert ("n2", ANN.shard, "3") not in world.handled


async def test_a_broken_way_ends_what_went_over_it(autojump_clock: MockClock) -> None:
    """Also where a third node passed it on."""
    async with open_routers("n1", "n2", "n3") as world:
        near = world.nodes["n1"]
        near.hops["n2"] = "n3"
        relayed = call(near, "1")
        near.router.peer_lost("n3")
        assert relayed.code == "outcome_unknown"
        near.hops.clear()
        direct = call(near, "2")
        near.router.peer_lost("n3")
        assert not direct.outcomes
        world.queues.pop(("n1", "n3", "n2"))
        world.settle()
        assert (direct.code, world.names()) == ("", ["2"])


async def test_what_goes_another_way_waits_for_what_is_under_way(autojump_clock: MockClock) -> None:
    """The direct way is mended while a message goes round: the next one must not be faster."""
    async with open_routers("n1", "n2", "n3") as world:
        near = world.nodes["n1"]
        near.hops["n2"] = "n3"
        first = call(near, "1")
        near.hops.clear()
        second = call(near, "2")
        world.deliver(("n1", "n2", "n2"))
        assert world.names() == []
        world.settle()
        assert world.names() == ["1", "2"]
        assert (first.code, second.code) == ("", "")


async def test_holding_is_bounded_in_time(autojump_clock: MockClock) -> None:
    """After two seconds without an owner senders are told at once; with one all is well."""
    async with open_routers("n1", "n2", owner="") as world:
        near = world.nodes["n1"]
        start = trio.current_time()
        held = call(near, "1")
        await trio.sleep(MAX_HELD_S / 2)
        later = call(near, "2")
        assert not held.outcomes
        await trio.sleep_until(start + MAX_HELD_S + SWEEP_S)
        assert held.code == "busy"
        assert not later.outcomes
        for _ in range(3):
            assert call(near, "x").code == "busy"
            await trio.sleep(5)
        assert later.code == "busy"
        world.move(ANN.shard, "n2")
        near.learn(ANN.shard)
        fine = call(near, "3")
        world.settle()
        assert fine.code == ""
        # And the next move has its two seconds again, although calls never ceased.
        world.nodes["n2"].actors.answers_at_once = False
        slow = call(near, "4")
        world.settle()
        world.move(ANN.shard, "", is_orderly=False)
        near.learn(ANN.shard)
        patient = call(near, "5")
        assert not patient.outcomes
        world.settle()
        world.move(ANN.shard, "n2")
        near.learn(ANN.shard)
        world.settle()
        world.nodes["n2"].actors.answer()
        world.settle()
        assert (slow.code, patient.code) == ("moved", "")


async def test_a_call_that_comes_back_again_and_again_ends_in_time(autojump_clock: MockClock) -> None:
    """An owner by the table that does not act must not keep anybody waiting for ever."""
    async with open_routers("n1", "n2") as world:
        near = world.nodes["n1"]
        world.owners[ANN.shard] = ("", 1)  # nobody notices
        start = trio.current_time()
        answer = call(near, "1")
        asked = 0
        while not answer.outcomes:
            asked += world.deliver(("n1", "n2", "n2"))
            world.settle()
            await trio.sleep(0.05)
        assert MAX_HELD_S <= trio.current_time() - start <= MAX_HELD_S + SWEEP_S + 0.1
        assert answer.code == "busy"
        assert 2 <= asked <= MAX_HELD_S / ASK_AGAIN_S + 1
        probe = call(near, "2")
        world.settle()
        assert probe.code == "busy"
        world.owners[ANN.shard] = ("n2", 1)
        await trio.sleep(ASK_AGAIN_S + SWEEP_S)
        fine = call(near, "3")
        world.settle()
        assert fine.code == ""
        await trio.sleep(SWEEP_S)


async def test_holding_is_bounded_in_number(autojump_clock: MockClock) -> None:
    """A crowd that sends to a shard without an owner costs no more than the bound."""
    async with open_routers("n1", "n2", owner="") as world:
        near = world.nodes["n1"]
        answers = [call(near, str(n)) for n in range(MAX_HELD + 5)]
        assert near.router.held_count == MAX_HELD
        assert [answer.code for answer in answers[MAX_HELD:]] == ["busy"] * 5
        world.move(ANN.shard, "n2")
        near.learn(ANN.shard)
        world.settle()
        assert world.names() == [str(n) for n in range(MAX_HELD)]
        assert {answer.code for answer in answers[:MAX_HELD]} == {""}


async def test_calls_under_way_are_bounded_in_number(
    autojump_clock: MockClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A node that answers slowly cannot make the others grow."""
    monkeypatch.setattr(router_module, "MAX_UNDER_WAY", 3)
    async with open_routers("n1", "n2") as world:
        answers = [call(world.nodes["n1"], str(n)) for n in range(5)]
        assert [answer.code for answer in answers[3:]] == ["busy", "busy"]
        world.settle()
        assert {answer.code for answer in answers[:3]} == {""}


async def test_answers_that_are_not_ours_are_ignored(autojump_clock: MockClock) -> None:
    """An ack of something else would be an ack of something that was never stored."""
    async with open_routers("n1", "n2", "n3") as world:
        near = world.nodes["n1"]
        answer = call(near, "1")
        corr = near.router._next_corr - 1
        for item in (wire.Answer(corr, None), wire.Failed(corr, "busy", "", 1.0), wire.NotHere(corr)):
            assert near.router.received("n3", item)
            assert near.router.received("n2", msgspec.structs.replace(item, corr=corr + 7))
        assert not answer.outcomes
        world.settle()
        assert answer.code == ""
        assert near.router.received("n2", wire.Answer(corr, None))
        assert len(answer.outcomes) == 1
        one = router_module.ClusterRouter(near.router._local, near, near, node_id="n1")
        other = router_module.ClusterRouter(near.router._local, near, near, node_id="n1")
        assert one._next_corr != other._next_corr  # each process counts from elsewhere


async def test_actors_of_an_unknown_kind_are_refused_and_harm_nothing(autojump_clock: MockClock) -> None:
    """A newer node's messages come here while the cluster is upgraded."""
    async with open_routers("n1", "n2") as world:
        near = world.nodes["n1"]
        address = Address("feed", "f")
        world.move(address.shard, "n2")
        near.learn(address.shard)
        answer = call(near, "1", address)
        near.router.tell(address, Told("2", ""))
        near.router.tell_if_active(address, Delivered({}))
        world.settle()
        assert answer.code == "internal"


# -- whatever happens -----------------------------------------------------------------------------------

NODES = ("n1", "n2", "n3")
ADDRESSES = (ANN, next(a for n in count() if (a := Address("user", f"z{n}")).shard != ANN.shard))
nodes = st.sampled_from(NODES)
shards = st.sampled_from([address.shard for address in ADDRESSES])
# Most steps concern one shard: what can go wrong there needs several of them together.
addresses = st.sampled_from([ANN, ANN, ANN, ADDRESSES[1]])
step = st.one_of(
    st.tuples(st.just("send"), nodes, addresses, st.integers(1, 3)),
    st.tuples(st.just("send"), nodes, addresses, st.integers(1, 3)),
    st.tuples(st.just("deliver"), st.integers(0, 8), st.integers(1, 3)),
    st.tuples(st.just("deliver"), st.integers(0, 8), st.integers(1, 3)),
    st.tuples(st.just("deliver"), st.integers(0, 8), st.integers(1, 3)),
    st.tuples(st.just("answer"), nodes),
    st.tuples(st.just("move"), addresses, st.sampled_from([*NODES, ""]), st.booleans()),
    st.tuples(st.just("learn"), nodes, addresses),
    st.tuples(st.just("learn"), nodes, addresses),
    st.tuples(st.just("break_way"), st.sampled_from(["lose", "cut", "reroute"]), nodes, nodes),
    st.tuples(st.just("sleep"), st.sampled_from([0.01, 0.3, 0.6, 2.5, 11.0])),
)
steps = st.lists(step, min_size=10, max_size=60)


class Story:
    """Carry out steps, and check what callers may rely on."""

    def __init__(self) -> None:
        self.world = RouterWorld(*NODES)
        self.calls: dict[str, tuple[str, int, Answer]] = {}
        for address in ADDRESSES:
            self.world.move(address.shard, "n2")
            self.world.tell_all(address.shard)
        for node in self.world.nodes.values():
            node.actors.answers_at_once = False

    def send(self, node_id: str, address: Address, number: int) -> None:
        for _ in range(number):
            name = f"{len(self.calls):04}"
            answer = call(self.world.nodes[node_id], name, address)
            self.calls[name] = (node_id, address.shard, answer)

    def deliver(self, which: int, number: int) -> None:
        busy = [key for key, queue in self.world.queues.items() if queue]
        if busy:
            self.world.deliver(busy[which % len(busy)], number)

    def break_way(self, how: str, one: str, other: str) -> None:
        if one != other:
            getattr(self, how)(one, other)

    def lose(self, source: str, target: str) -> None:
        queue = self.world.queues.get((source, target, target))
        if queue:
            queue.popleft()

    def answer(self, node_id: str) -> None:
        self.world.nodes[node_id].actors.answer()

    def move(self, address: Address, to: str, is_orderly: bool) -> None:
        self.world.move(address.shard, to, is_orderly=is_orderly)

    def learn(self, node_id: str, address: Address) -> None:
        self.world.nodes[node_id].learn(address.shard)

    def cut(self, one: str, other: str) -> None:
        """The way between two breaks for a moment: what was on it comes much later."""
        self.world.nodes[one].router.peer_lost(other)
        self.world.nodes[other].router.peer_lost(one)

    def reroute(self, one: str, other: str) -> None:
        """The direct way breaks, or is mended."""
        node = self.world.nodes[one]
        if other in node.hops:
            del node.hops[other]
        else:
            (node.hops[other],) = set(NODES) - {one, other}
            node.router.peer_lost(other)

    async def end(self) -> None:
        """All is well again, and time passes."""
        for node in self.world.nodes.values():
            node.actors.answers_at_once = True
            node.actors.answer()
        for address in ADDRESSES:
            if not self.world.owners.get(address.shard, ("", 0))[0]:
                self.world.move(address.shard, "n1")
            self.world.tell_all(address.shard)
        for _ in range(60):
            self.world.settle()
            await trio.sleep(SWEEP_S)

    def check(self) -> None:
        names = self.world.names()
        assert len(set(names)) == len(names), "handled twice"
        order: dict[tuple[str, int], list[str]] = {}
        for name in names:
            node_id, shard, answer = self.calls[name]
            if not answer.code:
                order.setdefault((node_id, shard), []).append(name)
        for name, (node_id, shard, answer) in self.calls.items():
            if not answer.code:
                assert name in order[node_id, shard], "an answer to nothing"
            elif answer.code == "busy":
                assert name not in names, "refused, and yet handled"
            else:
                assert answer.code in ("timeout", "outcome_unknown", "moved")
        assert all(handled == sorted(handled) for handled in order.values()), "reordered"
        assert {node.node_id: leaks(node) for node in self.world.nodes.values()} == dict.fromkeys(
            NODES, (0, 0, 0)
        )


@examples(150, long=5_000)
@hypothesis.given(steps)
def test_calls_are_handled_at_most_once_in_order_and_always_decided(
    plan: list[tuple[str, ...]],
) -> None:
    """Whatever moves, breaks, is lost or late: a sender learns its call's fate, and may trust in it."""

    async def run() -> None:
        story = Story()
        async with trio.open_nursery() as nursery:
            for node in story.world.nodes.values():
                nursery.start_soon(node.router.run)
            for name, *arguments in plan:
                if name == "sleep":
                    await trio.sleep(float(arguments[0]))
                else:
                    getattr(story, name)(*arguments)
            await story.end()
            nursery.cancel_scope.cancel()
        story.check()

    trio.run(run, clock=MockClock(autojump_threshold=0))
