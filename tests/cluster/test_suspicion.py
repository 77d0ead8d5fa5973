"""The suspicion formula, as memberlist's own table has it, and who may confirm."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cluster.membership_settings import MembershipSettings
from cluster.suspicion import min_suspicion_s, start_suspicion, suspicion_timeout_s

SETTINGS = MembershipSettings()


@pytest.mark.parametrize(
    ("confirmation_count", "expected_s"),
    [(0, 30.0), (1, 16.0), (2, 7.81), (3, 2.0), (4, 2.0)],
)
def test_confirmations_shrink_the_timeout_as_in_memberlist(
    confirmation_count: int, expected_s: float
) -> None:
    """The numbers are those of memberlist's TestSuspicion_remainingSuspicionTime (k 3, 2 s to 30 s)."""
    timeout_s = suspicion_timeout_s(confirmation_count, 3, min_s=2.0, max_s=30.0)
    assert timeout_s == pytest.approx(expected_s, abs=0.01)


def test_where_nobody_can_confirm_the_shortest_time_holds() -> None:
    """In a cluster of three the survivors wait four seconds, not twenty-four."""
    for node_count, expected_count in [(2, 0), (3, 0), (4, 2), (9, 2)]:
        suspicion = start_suspicion("a", 100.0, node_count, SETTINGS)
        assert suspicion.expected_count == expected_count
        assert suspicion.ends_at == 100.0 + (4.0 if expected_count == 0 else 24.0)


def test_large_clusters_give_more_time() -> None:
    """News need longer to get around there."""
    assert min_suspicion_s(1, SETTINGS) == min_suspicion_s(10, SETTINGS) == 4.0
    assert min_suspicion_s(100, SETTINGS) == pytest.approx(8.0)


def test_each_accuser_counts_once_and_no_more_than_needed() -> None:
    """One node that repeats itself must not speed up a death."""
    suspicion = start_suspicion("a", 0.0, 10, SETTINGS)
    assert suspicion.confirmed("a") is None
    once = suspicion.confirmed("b")
    assert once is not None
    assert once.confirmed("b") is None
    twice = once.confirmed("c")
    assert twice is not None
    assert (suspicion.ends_at, twice.ends_at) == (24.0, 4.0)
    assert 4.0 < once.ends_at < 24.0
    assert twice.confirmed("d") is None


@given(st.integers(0, 9), st.integers(0, 9), st.floats(0.1, 10), st.floats(1, 10))
def test_the_timeout_stays_between_its_ends_and_never_grows(
    count: int, expected_count: int, min_s: float, mult: float
) -> None:
    """Deadlines are set from it."""
    max_s = min_s * mult
    now = suspicion_timeout_s(count, expected_count, min_s=min_s, max_s=max_s)
    then = suspicion_timeout_s(count + 1, expected_count, min_s=min_s, max_s=max_s)
    assert min_s <= then <= now <= max_s
