"""The token bucket: never faster than told, and as fast as told."""

from hypothesis import given
from hypothesis import strategies as st

from actors.notify.pacer import MAX_WAIT_MS, RECOVERY_MS, Pacer

NOW_MS = 1_790_000_000_000


@given(
    rate=st.floats(0.1, 5_000),
    steps=st.lists(st.integers(0, 300), min_size=1, max_size=300),
)
def test_no_span_sees_more_than_burst_and_rate(rate: float, steps: list[int]) -> None:
    """Any span, not only whole seconds, as providers count in their own ways."""
    pacer, now_ms, taken = Pacer(rate), NOW_MS, []
    for step_ms in steps:
        now_ms += step_ms
        while pacer.take(now_ms) == 0:
            taken.append(now_ms)
    burst = max(1.0, rate * 0.1)
    for first in range(0, len(taken), max(1, len(taken) // 50)):
        for last in range(first, len(taken), max(1, len(taken) // 50)):
            span_s = (taken[last] - taken[first]) / 1_000
            assert last - first + 1 <= burst + span_s * rate + 1e-6


@given(rate=st.floats(0.1, 900))
def test_who_waits_as_told_gets_the_whole_rate(rate: float) -> None:
    """The time that is told is the first one at which a token is there."""
    pacer, now_ms, count = Pacer(rate), NOW_MS, 0
    while now_ms < NOW_MS + 20_000:
        next_ms = pacer.take(now_ms)
        if next_ms == 0:
            count += 1
            continue
        assert next_ms > now_ms
        now_ms = next_ms
    assert count >= int(rate * 20 * 0.99)


@given(rate=st.floats(0.0, 1.0, exclude_min=True))
def test_however_slow_the_next_look_is_within_the_hour(rate: float) -> None:
    """A wait that is no number would end the channel and the partition, for all apps."""
    pacer = Pacer(rate)
    assert pacer.take(NOW_MS) == 0
    assert NOW_MS < pacer.take(NOW_MS) <= NOW_MS + MAX_WAIT_MS
    pacer.slow_down(NOW_MS)
    assert NOW_MS < pacer.take(NOW_MS + 1) <= NOW_MS + MAX_WAIT_MS
    assert pacer.take(NOW_MS + 60_000) <= NOW_MS + 60_000 + MAX_WAIT_MS


def test_without_a_rate_only_pauses_hold_it() -> None:
    """Most credentials have no pace of their own; a 429 holds them all the same."""
    pacer = Pacer()
    assert [pacer.take(NOW_MS) for _ in range(1_000)] == [0] * 1_000
    pacer.slow_down(NOW_MS, 30.0)
    assert pacer.take(NOW_MS + 29_999) == NOW_MS + 30_000
    assert pacer.take(NOW_MS + 30_000) == 0


def test_a_complaint_halves_the_pace_and_time_brings_it_back() -> None:
    """Those who were under way together complain together, and that counts once."""
    pacer = Pacer(10.0)
    for _ in range(20):
        pacer.slow_down(NOW_MS)
    assert pacer.pace == 0.5
    now_ms = NOW_MS + 1_000
    assert pacer.take(now_ms) == 0
    assert pacer.take(now_ms) == now_ms + 200  # 5 a second
    for _ in range(10):
        pacer.slow_down(now_ms)
        now_ms += 1_000
    assert pacer.pace == 1 / 16
    for _ in range(4):
        now_ms += RECOVERY_MS
        pacer.take(now_ms)
    assert pacer.pace == 1.0


def test_what_is_told_of_a_pace_is_what_the_next_one_gets() -> None:
    """The dashboard shows a pause and a slower pace, and neither longer than it lasts."""
    pacer, paces = Pacer(100.0), []
    assert (pacer.pace_at(NOW_MS), pacer.pause_ms(NOW_MS)) == (1.0, 0)
    pacer.slow_down(NOW_MS, retry_after_s=3.0)
    assert (pacer.pace_at(NOW_MS), pacer.pause_ms(NOW_MS + 1_000)) == (0.5, 2_000)
    pacer.slow_down(NOW_MS + 3_000, retry_after_s=1.0)
    for now_ms in range(NOW_MS + 4_000, NOW_MS + 4_000 + 3 * RECOVERY_MS, 7_000):
        told = pacer.pace_at(now_ms)
        assert pacer.pause_ms(now_ms) == 0
        pacer.take(now_ms)
        assert pacer.pace == told
        paces.append(told)
    assert (paces[0], paces[-1]) == (0.25, 1.0)
