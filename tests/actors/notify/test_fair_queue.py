"""The queue: nothing lost, nothing early, nobody starved."""

from collections import Counter, deque

from hypothesis import given
from hypothesis import strategies as st

from actors.notify.fair_queue import ALL_LANES, HIGH, HIGH_LANE, LOW, MEDIUM, FairQueue

LANES = st.sampled_from([ALL_LANES, HIGH_LANE, (MEDIUM, LOW), (LOW,)])


@given(
    st.lists(
        st.tuples(st.just("push"), st.sampled_from("abc"), st.sampled_from(ALL_LANES), st.integers(0, 30))
        | st.tuples(st.just("pop"), LANES, st.just(0), st.integers(0, 5)),
        max_size=200,
    )
)
def test_against_a_plain_list(steps: list[tuple[str, str | tuple[int, ...], int, int]]) -> None:
    """Each item comes once, in a lane that was asked for, not before its time, and as soon as it may."""
    queue: FairQueue[tuple[int, str, int, int]] = FairQueue(capacity=40, app_capacity=25)
    inside: list[tuple[int, str, int, int]] = []
    now_ms = 1
    for number, (what, who, lane, value) in enumerate(steps):
        if isinstance(who, str):
            item = (value, who, lane, number)
            of_app = sum(1 for other in inside if other[1] == who)
            fits = len(inside) < 40 and of_app < 25
            assert queue.push(item, who, lane, value) == fits
            if fits:
                inside.append(item)
        else:
            assert what == "pop"
            now_ms += value
            allowed = [item for item in inside if item[0] <= now_ms and item[2] in who]
            popped = queue.pop(now_ms, who)
            assert (popped is None) == (not allowed)
            if popped is not None:
                assert popped in allowed
                inside.remove(popped)
        assert len(queue) == len(inside)
        of_lanes = [item[0] for item in inside if item[2] in (HIGH, LOW)]
        due_ms = queue.next_due_ms((HIGH, LOW))
        assert (due_ms is None) == (not of_lanes)
        if due_ms:
            assert due_ms == min(of_lanes)
    left = [queue.pop(1_000) for _ in range(len(queue))]
    assert sorted(item for item in left if item is not None) == sorted(inside)
    assert queue.pop(1_000) is None


@given(st.lists(st.integers(1, 1_000), min_size=1, max_size=100))
def test_within_an_app_due_times_and_then_arrivals_are_the_order(dues: list[int]) -> None:
    """Held ones of one user come in the order in which they were held."""
    queue: FairQueue[tuple[int, int]] = FairQueue()
    items = [(due_ms, number) for number, due_ms in enumerate(dues)]
    for item in items:
        queue.push(item, "app", LOW, item[0])
    popped, now_ms = [], 0
    while len(queue):
        now_ms = queue.next_due_ms() or now_ms
        found = queue.pop(now_ms)
        assert found is not None
        popped.append(found)
    assert popped == sorted(items)


def test_apps_take_turns_however_much_each_has() -> None:
    """One with a million does not delay one that has three."""
    queue: FairQueue[str] = FairQueue()
    for name, count in (("big", 10_000), ("mid", 100), ("tiny", 3)):
        for _ in range(count):
            queue.push(name, name)
    first = [queue.pop(1) for _ in range(9)]
    assert Counter(first) == {"big": 3, "mid": 3, "tiny": 3}
    # One that comes later waits for one turn of each.
    queue.push("late", "late")
    assert "late" in [queue.pop(1) for _ in range(3)]


def test_apps_take_turns_also_where_all_is_due_at_once() -> None:
    """At 07:00 everything that the night held is due; a small app's is not behind a big one's."""
    queue: FairQueue[str] = FairQueue()
    for number in range(10_000):
        queue.push("big", "big", MEDIUM, 1_000 + number % 2)
    queue.push("tiny", "tiny", MEDIUM, 1_000)
    popped = [queue.pop(2_000) for _ in range(200)]
    assert "tiny" in popped


def test_medium_and_low_share_eight_to_one_and_low_has_all_when_alone() -> None:
    """LOW is slow, not starved."""
    queue: FairQueue[int] = FairQueue()
    for _ in range(900):
        queue.push(MEDIUM, "a", MEDIUM)
        queue.push(LOW, "b", LOW)
    popped = [queue.pop(1, (MEDIUM, LOW)) for _ in range(900)]
    assert Counter(popped) == {MEDIUM: 800, LOW: 100}
    assert popped[:9] == [MEDIUM] * 8 + [LOW]
    rest = [queue.pop(1, (MEDIUM, LOW)) for _ in range(900)]
    assert Counter(rest) == {MEDIUM: 100, LOW: 800}
    assert rest[-500:] == [LOW] * 500


def test_nobody_starves_under_a_flood_of_high() -> None:
    """A worker of all lanes gives the lower ones a turn after 16; one that serves HIGH alone gives none."""
    queue: FairQueue[int] = FairQueue()
    for _ in range(2_000):
        for lane in ALL_LANES:
            queue.push(lane, "a", lane)
    popped = Counter(queue.pop(1) for _ in range(1_530))
    assert popped[HIGH] == 1_440
    assert popped[MEDIUM] == 80
    assert popped[LOW] == 10
    assert {queue.pop(1, HIGH_LANE) for _ in range(100)} == {HIGH}


def test_high_waits_for_nothing_that_was_there_before() -> None:
    """A one-time code goes before ten thousand that were queued earlier."""
    queue: FairQueue[str] = FairQueue()
    for _ in range(10_000):
        queue.push("low", "a", LOW)
    queue.push("code", "a", HIGH)
    assert queue.pop(1) == "code"


def test_it_is_bounded_as_a_whole_and_for_each_app() -> None:
    """One app cannot fill it; who is refused leaves nothing behind."""
    queue: FairQueue[int] = FairQueue(capacity=10, app_capacity=6)
    assert [queue.push(number, "a") for number in range(8)] == [True] * 6 + [False] * 2
    assert [queue.push(number, "b", LOW, 99) for number in range(6)] == [True] * 4 + [False] * 2
    assert not queue.push(0, "c")
    assert [queue.pop(100) for _ in range(10)] == [0, 1, 2, 3, 4, 5, 0, 1, 2, 3]
    assert (queue.pop(100), queue.next_due_ms(), len(queue)) == (None, None, 0)
    assert queue.push(0, "c")


def test_a_pop_does_not_get_slower_with_what_waits() -> None:
    """The work of one pop is bounded: counted in items moved, not in seconds."""
    queue: FairQueue[int] = FairQueue()
    for number in range(50_000):
        queue.push(number, f"app {number % 7}", MEDIUM, 1_000)
    queue.pop(1_000)
    moved = sum(len(line.ready) for app in queue._apps.values() for line in app.lines.values())
    assert moved < 64
    popped = deque(iter(lambda: queue.pop(1_000), None))
    assert len(popped) == 49_999


class Gate:
    """What a queue asks of the first in a line: it holds some keys until a time, and counts the questions."""

    def __init__(self, **until_ms: int) -> None:
        self.until_ms = until_ms
        self.now_ms = 0
        self.asked = 0

    def __call__(self, item: tuple[str, int]) -> int:
        self.asked += 1
        until_ms = self.until_ms.get(item[0], 0)
        return until_ms if until_ms > self.now_ms else 0


@given(
    st.lists(
        st.tuples(
            st.sampled_from("ab"),
            st.sampled_from(ALL_LANES),
            st.sampled_from("xyz"),
            st.integers(0, 20),
            st.integers(0, 3),
        ),
        max_size=150,
    ),
    st.integers(0, 30),
    st.integers(0, 30),
)
def test_a_line_waits_as_a_whole_and_nothing_else_waits_with_it(
    steps: list[tuple[str, int, str, int, int]], x_until_ms: int, y_until_ms: int
) -> None:
    """One host that is down holds its own; each item comes once, in order, and as soon as it may."""
    gate = Gate(x=x_until_ms, y=y_until_ms)
    queue: FairQueue[tuple[str, int]] = FairQueue()
    inside: dict[tuple[str, int], tuple[str, int, int]] = {}
    popped: list[tuple[str, int]] = []

    def take_all() -> None:
        gate.now_ms = now_ms
        while (item := queue.pop(now_ms, ALL_LANES, gate)) is not None:
            assert max(inside[item][2], gate.until_ms.get(item[0], 0)) <= now_ms
            popped.append(item)
        for item, (_, _, due_ms) in inside.items():
            may_go = max(due_ms, gate.until_ms.get(item[0], 0)) <= now_ms
            assert (item in popped) == may_go, (item, now_ms)

    now_ms = 1
    for number, (app_id, lane, key, due_ms, pause_ms) in enumerate(steps):
        item = (key, number)
        inside[item] = (app_id, lane, due_ms)
        assert queue.push(item, app_id, lane, due_ms, key)
        now_ms += pause_ms
        if pause_ms:
            take_all()
    for _ in range(100):
        due_at_ms = queue.next_due_ms()
        if due_at_ms is None:
            break
        now_ms = max(now_ms, due_at_ms)
        take_all()
    assert sorted(popped) == sorted(inside)
    assert len(queue) == 0


def test_a_held_line_costs_one_question_however_long_it_is() -> None:
    """Ten a second out of 100,000 are ten looks a second."""
    gate = Gate(x=1_000)
    queue: FairQueue[tuple[str, int]] = FairQueue()
    for number in range(10_000):
        queue.push(("x", number), "app", LOW, 0, "x")
    for now_ms in range(0, 1_000, 10):
        assert queue.pop(now_ms + 1, ALL_LANES, gate) is None
    assert (gate.asked, queue.next_due_ms()) == (1, 1_000)
    gate.now_ms = 1_000
    assert [queue.pop(1_000, ALL_LANES, gate) for _ in range(3)] == [("x", 0), ("x", 1), ("x", 2)]
    assert gate.asked == 4


def test_apps_whose_lines_waited_go_on_in_turn() -> None:
    """A pace that two apps share is shared fairly, and who was refused has not had a turn."""
    queue: FairQueue[str] = FairQueue()
    for name, count in (("big", 300), ("mid", 20), ("tiny", 3)):
        for _ in range(count):
            queue.push(name, name)
    taken: list[str] = []
    for now_ms in range(1, 10):
        tokens = [0, now_ms + 1, now_ms + 1, now_ms + 1]  # one goes, and the others are refused
        item = queue.pop(now_ms, ALL_LANES, lambda _, left=tokens: left.pop(0))  # type: ignore[misc]
        assert item is not None
        taken.append(item)
        assert queue.pop(now_ms, ALL_LANES, lambda _, left=tokens: left.pop(0)) is None  # type: ignore[misc]
    assert Counter(taken) == {"big": 3, "mid": 3, "tiny": 3}


def test_an_app_keeps_its_turn_where_only_one_of_its_hosts_waits() -> None:
    """Whoever has an address at a host that is down loses nothing elsewhere."""
    gate = Gate(x=1_000)
    queue: FairQueue[tuple[str, int]] = FairQueue()
    for number in range(4):
        queue.push(("x", number), "a", MEDIUM, 0, "x")
        queue.push(("y", number), "a", MEDIUM, 0, "y")
        queue.push(("z", number), "b", MEDIUM, 0, "z")
    popped = [queue.pop(1, ALL_LANES, gate) for _ in range(4)]
    assert popped == [("y", 0), ("z", 0), ("y", 1), ("z", 1)]


def test_what_is_refused_takes_no_turn_from_the_lane_below() -> None:
    """HIGH that has to wait leaves MEDIUM and LOW their shares, 8 to 1."""
    gate = Gate(x=1_000)
    queue: FairQueue[tuple[str, int]] = FairQueue()
    for number in range(100):
        queue.push(("x", number), "paced", HIGH, 0, "x")
        queue.push(("y", number), "free", MEDIUM, 0, "y")
        queue.push(("z", number), "free", LOW, 0, "z")
    popped = [queue.pop(1, ALL_LANES, gate) for _ in range(18)]
    assert Counter(item[0] for item in popped if item is not None) == {"y": 16, "z": 2}


def test_release_ends_the_wait_of_one_key_or_of_all() -> None:
    """A host that answers again, and settings that were mended, are not waited for."""
    gate = Gate(x=1_000, y=1_000)
    queue: FairQueue[tuple[str, int]] = FairQueue()
    for key in "xy":
        queue.push((key, 1), "app", MEDIUM, 0, key)
    assert queue.pop(1, ALL_LANES, gate) is None
    gate.until_ms = {}
    queue.release("y")
    assert [queue.pop(1, ALL_LANES, gate) for _ in range(2)] == [("y", 1), None]
    queue.release()
    assert queue.pop(1, ALL_LANES, gate) == ("x", 1)


def test_what_is_stuck_does_not_move() -> None:
    """A campaign waits for what its app has to send and can, not for an account that is out of use."""
    gate = Gate(stuck=60_000, paced=500)
    queue: FairQueue[tuple[str, int]] = FairQueue()
    for number in range(3):
        for key in ("stuck", "paced", "free"):
            queue.push((key, number), "app", LOW, 0, key)
        queue.push(("later", number), "app", LOW, 5_000, "free")
        queue.push(("other", number), "other", LOW, 0, "free")
    assert queue.pop(1, ALL_LANES, gate) == ("free", 0)
    assert (queue.moving_count("app"), queue.moving_count("other"), queue.moving_count("none")) == (5, 3, 0)
    queue.release()
    assert queue.moving_count("app") == 8


@given(
    pushed=st.lists(
        st.tuples(
            st.sampled_from("ab"), st.sampled_from("xy"), st.sampled_from(ALL_LANES), st.integers(0, 3)
        ),
        max_size=40,
    ),
    gone=st.sets(st.integers(0, 39)),
    is_waiting=st.booleans(),
)
def test_what_is_discarded_leaves_the_others_as_they_were(
    pushed: list[tuple[str, str, int, int]], gone: set[int], is_waiting: bool
) -> None:
    """Wherever they stand: due, later, behind one that has to wait. Against a queue that never had them."""
    queue: FairQueue[int] = FairQueue()
    for number, (app, key, lane, due_at_ms) in enumerate(pushed):
        queue.push(number, app, lane, due_at_ms, key)
    if is_waiting:
        assert queue.pop(0, ALL_LANES, lambda _: 2) is None
    queue.discard(lambda number: number in gone)
    left = [number for number in range(len(pushed)) if number not in gone]
    assert len(queue) == len(left)
    popped = [queue.pop(10) for _ in left]
    assert sorted(number for number in popped if number is not None) == left
    assert queue.pop(10) is None
    assert (len(queue), queue.next_due_ms()) == (0, None)
    assert queue.push(99, "a")
    assert queue.pop(10) == 99
