"""Events pass to listeners each once and in order, or a resync covers them, whatever the lanes do."""

import hypothesis
import trio
from hypothesis import strategies as st
from trio.testing import MockClock, wait_all_tasks_blocked

from actors.hub import Hub
from actors.stream_gate import MAX_WAITING, UNKNOWN, Passage, StreamGate
from protocol import events
from protocol.records import conversation_stream
from tests.actors.healing import Device, History, open_healing, posted
from tests.strategies import examples


def test_a_gate_judges_by_what_passed() -> None:
    """The hub trusts its one decision."""
    gate = StreamGate()
    assert (gate.head, gate.is_known) == (UNKNOWN, False)
    assert gate.judge(7) is Passage.PASS  # nothing is known before it
    gate.passed(7)
    assert (gate.first, gate.head) == (7, 7)
    assert [gate.judge(seq) for seq in (6, 7, 8, 9)] == [
        Passage.LEAVE_OUT,
        Passage.LEAVE_OUT,
        Passage.PASS,
        Passage.FILL,
    ]
    gate.hold(9, lambda: None)
    assert [gate.judge(seq) for seq in (7, 8, 9)] == [Passage.LEAVE_OUT, Passage.WAIT, Passage.WAIT]
    gate.close(12)
    assert gate.last == 12
    assert [seq for seq, _ in gate.reopen()] == [9]
    assert (gate.is_open, gate.last) == (True, 0)


def test_a_gate_holds_no_more_than_its_bound() -> None:
    """A store that does not answer must not make a busy conversation grow here."""
    gate = StreamGate()
    gate.passed(1)
    for seq in range(3, MAX_WAITING + 10):
        gate.hold(seq, lambda: None)
    assert (gate.is_too_far, gate.last) == (True, MAX_WAITING + 9)
    assert len(gate.reopen()) == MAX_WAITING
    assert not gate.is_too_far


step = st.one_of(
    st.tuples(st.just("commit"), st.integers(1, 4)),
    st.tuples(st.just("commit"), st.integers(1, 4)),
    st.tuples(st.just("arrive"), st.integers(1, 3), st.sampled_from([0, 1])),
    st.tuples(st.just("arrive"), st.integers(1, 3), st.sampled_from([0, 1])),
    st.tuples(st.just("arrive"), st.integers(1, 3), st.sampled_from([0, 1])),
    st.tuples(st.just("lose"), st.integers(1, 3), st.sampled_from([0, 1])),
    st.tuples(st.just("repeat"), st.integers(0, 3), st.sampled_from([0, 1])),
    st.tuples(st.just("long"), st.sampled_from([0, 250])),
    st.tuples(st.just("resync")),
    st.tuples(st.just("heal")),
    st.tuples(st.just("fail"), st.booleans()),
    st.tuples(st.just("check")),
    st.tuples(st.just("connect")),
    st.tuples(st.just("cancel")),
)


class Story:
    """One conversation, committed by two owners whose lanes lose, repeat and overtake."""

    def __init__(self, hub: Hub, history: History) -> None:
        self.hub = hub
        self.history = history
        self.ways: tuple[list[int], list[int]] = ([], [])
        self.devices: list[Device] = []

    def connect(self) -> None:
        self.devices.append(Device(self.hub, len(self.devices) + 1, f"u{len(self.devices)}", self.history))

    def commit(self, count: int, way: int = 0) -> None:
        for _ in range(count):
            seq = self.history.commit("c1", f"{self.history.head('c1') + 1}")
            self.ways[seq // 3 % 2].append(seq)

    def arrive(self, count: int, way: int) -> None:
        for _ in range(count):
            if self.ways[way]:
                self._publish(self.ways[way].pop(0))

    def lose(self, count: int, way: int) -> None:
        del self.ways[way][:count]

    def repeat(self, back: int, way: int) -> None:
        seq = self.history.head("c1") - back
        if seq > 0:
            self.ways[way].insert(0, seq)

    def long(self, count: int) -> None:
        """Much is lost."""
        for _ in range(count):
            self.history.commit("c1", "lost")

    def resync(self) -> None:
        """An owner that crashed announces what it may not have told."""
        self.hub.resync("c1", self.history.head("c1"), [device.user_id for device in self.devices])

    def _publish(self, seq: int) -> None:
        self.hub.publish("c1", seq, posted("c1", seq), to=())


@examples(150, long=5_000)
@hypothesis.given(st.lists(step, max_size=50))
def test_each_event_is_heard_once_and_in_order_or_covered_by_a_resync(
    plan: list[tuple[str, *tuple[int, ...]]],
) -> None:
    """Lost, repeated, overtaken, by two owners, with a store that fails: no listener misses anything."""

    async def run() -> None:
        async with open_healing() as (hub, history, healer, runner):
            story = Story(hub, history)
            story.connect()
            for name, *arguments in plan:
                if name == "heal":
                    await wait_all_tasks_blocked()
                elif name == "fail":
                    history.is_failing = bool(arguments[0])
                elif name == "check":
                    healer.check_all()
                elif name == "cancel":
                    await runner.again()
                else:
                    getattr(story, name)(*arguments)
            history.is_failing = False
            for way in (0, 1):
                story.arrive(1000, way)
            healer.check_all()
            await trio.sleep(5)
            for device in story.devices:
                device.check("c1")
            assert hub.streams()[conversation_stream("c1")] == history.head("c1")

    trio.run(run, clock=MockClock(autojump_threshold=0))


async def test_the_first_event_after_a_welcome_may_be_lost(autojump_clock: MockClock) -> None:
    """It was committed after the heads were read, and the next one came before the session was seeded."""
    async with open_healing() as (hub, history, _, _):
        for n in range(5):
            history.commit("c1", str(n))
        device = Device(hub, 1, "ann", history, is_seeded=False)
        history.commit("c1", "lost")
        seq = history.commit("c1", "heard")
        hub.publish("c1", seq, posted("c1", seq), to=())
        hub.seed(1, {"c1": 5}, 0)
        assert [e.head for e in device.heard if isinstance(e, events.Resync)] == [7]
        other = Device(hub, 2, "bob", history)  # whose heads were read later
        assert other.heard == []
