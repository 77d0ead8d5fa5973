"""The order in which a node's own users changed."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cluster import presence_log
from cluster.presence_log import MAX_TOMBSTONES, TOMBSTONE_KEPT_S, PresenceLog
from cluster.presence_messages import PresenceItem
from protocol.types import PresenceState

_changes = st.lists(
    st.tuples(st.sampled_from("abcdef"), st.sampled_from(["online", "away", "offline"])), max_size=60
)


@given(changes=_changes, since=st.integers(0, 60), limit=st.integers(1, 5), compact_above=st.integers(0, 9))
def test_what_changed_after_a_version_is_told_in_parts_as_each_users_last_state(
    changes: list[tuple[str, PresenceState]], since: int, limit: int, compact_above: int
) -> None:
    """Peers are told nothing else: it must be complete, and name nobody twice."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(presence_log, "_COMPACT_ABOVE", compact_above)
        log = PresenceLog("n", 1)
        then: dict[str, PresenceState] = {}
        now: dict[str, PresenceState] = {}
        changed: set[str] = set()
        for user_id, state in changes:
            if now.get(user_id, "offline") != state:
                now[user_id] = state
                if log.version >= since:
                    changed.add(user_id)
            log.put(user_id, state, 7, 0.0)
            if log.version <= since:
                then = dict(now)
    told: list[PresenceItem] = []
    position, is_last = min(since, log.version), False
    while not is_last:
        items, position, is_last = log.after(position, limit)
        assert len(items) <= limit
        told += items
    assert position == log.version
    assert [user_id for user_id, *_ in told] == list(dict.fromkeys(user_id for user_id, *_ in told))
    assert {user_id for user_id, *_ in told} == changed
    assert then | {user_id: state for user_id, state, _ in told} == now
    assert all(seen_ms == (7 if state == "offline" else 0) for _, state, seen_ms in told)


def test_tombstones_are_kept_for_their_time_and_then_raise_the_horizon() -> None:
    """A peer that was away for less is told who left; one that was away for longer is given everything."""
    log = PresenceLog("n", 1)
    log.put("ann", "online", 0, 0.0)
    log.put("ann", "offline", 7, 10.0)
    log.prune(10.0 + TOMBSTONE_KEPT_S - 0.001)
    assert log.horizon == 0
    assert log.after(1, 10) == ([("ann", "offline", 7)], 2, True)
    log.prune(10.0 + TOMBSTONE_KEPT_S)
    assert log.horizon == 2
    assert log.after(2, 10) == ([], 2, True)


def test_the_memory_for_those_who_come_and_go_is_bounded() -> None:
    """A node that serves a million short visits in a minute must not remember each."""
    log = PresenceLog("n", 1)
    for n in range(3 * MAX_TOMBSTONES):
        log.put(f"user-{n}", "online", 0, 0.0)
        log.put(f"user-{n}", "offline", 7, 0.0)
    assert log.tombstone_count == MAX_TOMBSTONES
    assert log.connected_count == 0
    assert log.horizon == 4 * MAX_TOMBSTONES
    assert len(log._places) <= 2 * MAX_TOMBSTONES + 1_026
    log.prune(TOMBSTONE_KEPT_S)
    assert log.tombstone_count == 0
    assert log.digest.value == 0


def test_a_repetition_is_no_change() -> None:
    """A hub may tell the same thing twice; its version is the one that told it first."""
    log = PresenceLog("n", 1)
    assert log.put("ann", "offline", 7, 0.0) == 0
    assert log.put("ann", "online", 0, 0.0) == 1
    assert log.put("bob", "online", 0, 0.0) == 2
    assert log.put("ann", "online", 0, 0.0) == 1
    assert log.version == 2
