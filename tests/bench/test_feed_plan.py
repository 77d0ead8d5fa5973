"""The ladder: what is called sustained was sustained, and nothing much higher would have been."""

import pytest

from bench.feed_plan import Ladder, Rung, Timetable
from bench.load.loop import Loop


def rung(part: float, **changes: float) -> Rung:
    """What a server that keeps up comes to."""
    values = {
        "part": part,
        "entries_per_s": 1.0,
        "reads_per_s": 1.0,
        "posts_per_s": 1.0,
        "settle_s": 0.0,
        "live_p99_s": 0.1,
        "read_p99_s": 0.1,
    }
    return Rung(**(values | changes))


@pytest.mark.parametrize("limit", [0.12, 0.4, 1.0, 1.7, 3.0])
def test_the_ladder_finds_what_a_server_sustains(limit: float) -> None:
    """A server whose queue grows above a part of the goal is found to sustain nearly that, and no more."""
    ladder = Ladder(lambda part, seconds: rung(part, settle_s=0.0 if part <= limit else 5.0))
    found = ladder.find(4.0, steps=7)
    assert found.is_sustained
    assert 0.8 * limit <= found.part <= limit


def test_a_queue_that_only_a_longer_run_shows_is_taken_into_account() -> None:
    """The search is short; the part that is told was measured in full."""
    ladder = Ladder(lambda part, seconds: rung(part, settle_s=2.0 if part * seconds > 2.0 else 0.0))
    found = ladder.find(2.0)
    assert found.is_sustained
    assert found.part * 2.0 <= 2.0


def test_a_server_that_sustains_nothing_is_not_said_to() -> None:
    """The last rung is told with its mark."""
    found = Ladder(lambda part, seconds: rung(part, live_p99_s=9.0)).find(1.0)
    assert not found.is_sustained
    assert "not (0.0 s late, p99 live 9.00 s" in str(found)


@pytest.mark.parametrize("change", [{"settle_s": 1.1}, {"live_p99_s": 0.55}, {"read_p99_s": 0.6}])
def test_late_is_not_sustained(change: dict[str, float]) -> None:
    """Each of the three limits holds on its own."""
    assert rung(1.0).is_sustained
    assert not rung(1.0, **change).is_sustained


def test_a_timetable_sends_all_that_is_due_when_it_is_due() -> None:
    """Latency counts from the due time, so each one must lie where the rate says."""
    loop = Loop()
    posts: list[float] = []
    reads: list[float] = []
    timetable = Timetable(
        loop,
        1.0,
        entries_each=231.48,
        scale=0.5,
        post=posts.append,
        read=lambda place, due_at: reads.append(due_at),
        lag=lambda due_at, at: None,
    )
    assert timetable.posts_per_s == pytest.approx(50.0)
    assert timetable.reads_per_s == pytest.approx(5787.0)
    timetable.start(0.2)
    loop.run_for(0.25)
    loop.close()
    assert len(posts) == timetable.post_count == 11  # 0, 20, …, 200 ms
    assert len(reads) in (1157, 1158)
    assert posts[5] - posts[4] == pytest.approx(0.02)
