"""What nodes ask each other about themselves, where some are slow, gone or of another version."""

from collections.abc import Callable

import trio
import trio.testing

from cluster import wire
from cluster.inquiries import Inquiries
from protocol.http_notify_dashboard import NotifyRates
from protocol.notify_node import AccountStrain, AskGlance, Glance

RATES = NotifyRates(
    covered_s=5.0,
    notified_per_s=1.5,
    notified_series=[0.0, 1.5],
    accepted_per_s=0.0,
    accepted_series=[],
    channels=[],
    decided_per_s={},
    since_start={},
)


class Net:
    """Some nodes, between which items travel as bytes, or are held back."""

    def __init__(self, *names: str) -> None:
        self.dead: set[str] = set()
        self.held: list[Callable[[], object]] | None = None  # what was sent while it is a list
        self.nodes = {name: Inquiries(_Way(self, name)) for name in names}
        for name, node in self.nodes.items():
            node.answer = lambda question, name=name: _glance(question.app_id, name)  # type: ignore[misc]


class _Way:
    def __init__(self, net: Net, name: str) -> None:
        self._net = net
        self._name = name

    def send(self, node_id: str, item: wire.Item) -> bool:
        if node_id in self._net.dead:
            return False
        payload = wire.encode(item)

        def arrive() -> None:
            assert self._net.nodes[node_id].received(self._name, wire.decode(payload))

        if self._net.held is None:
            arrive()
        else:
            self._net.held.append(arrive)
        return True

    def next_hop(self, node_id: str) -> str:
        return node_id


def _glance(app_id: str, provider_id: str) -> Glance:
    return Glance(RATES, [AccountStrain(app_id, "apns", provider_id, "open", 0.5, 3.0)])


async def test_each_answers_for_itself() -> None:
    """A dashboard tells which node's breaker is open."""
    net = Net("a", "b", "c")
    found = await net.nodes["a"].ask(("b", "c"), AskGlance("shop"), timeout_s=1)
    assert found == {"b": _glance("shop", "b"), "c": _glance("shop", "c")}
    assert await net.nodes["a"].ask((), AskGlance("shop"), timeout_s=1) == {}


async def test_who_is_silent_costs_no_more_than_the_time_given(
    autojump_clock: trio.testing.MockClock,
) -> None:
    """One node of an older version must not hide the others, nor hold the page up."""
    net = Net("a", "b", "old")
    net.nodes["old"].answer = lambda _question: None
    found = await net.nodes["a"].ask(("b", "old"), AskGlance(""), timeout_s=1)
    assert list(found) == ["b"]
    assert trio.current_time() == 1


async def test_who_cannot_be_reached_is_not_waited_for(autojump_clock: trio.testing.MockClock) -> None:
    """Its lease may live for some seconds yet."""
    net = Net("a", "b", "dead")
    net.dead.add("dead")
    assert list(await net.nodes["a"].ask(("b", "dead"), AskGlance(""), timeout_s=1)) == ["b"]
    assert await net.nodes["a"].ask(("dead",), AskGlance(""), timeout_s=1) == {}
    assert trio.current_time() == 0


async def test_answers_that_nobody_waits_for_change_nothing(autojump_clock: trio.testing.MockClock) -> None:
    """Late ones, those of nodes that were not asked, and a second one."""
    net = Net("a", "b", "c")
    net.held = []
    assert await net.nodes["a"].ask(("b",), AskGlance("one"), timeout_s=1) == {}
    (late,) = net.held
    net.held = None
    late()  # b is asked only now, and its answer finds nobody

    found: dict[str, object] = {}

    async def ask() -> None:
        found.update(await net.nodes["a"].ask(("b",), AskGlance("two"), timeout_s=1))

    async with trio.open_nursery() as nursery:
        net.held = []
        nursery.start_soon(ask)
        await trio.testing.wait_all_tasks_blocked()
        corr = next(iter(net.nodes["a"]._asked))
        assert net.nodes["a"].received("c", wire.Told(corr, _glance("two", "c")))
        assert net.nodes["a"].received("b", wire.Told(corr, _glance("two", "b")))
        assert net.nodes["a"].received("b", wire.Told(corr, _glance("two", "again")))
    assert found == {"b": _glance("two", "b")}
    assert not net.nodes["a"].received("b", wire.Missed())
