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
    moved = sum(len(ready) for app in queue._apps.values() for ready in app.ready)
    assert moved < 64
    popped = deque(iter(lambda: queue.pop(1_000), None))
    assert len(popped) == 49_999
