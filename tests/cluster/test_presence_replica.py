"""What one node makes of another one's deltas."""

from random import Random

from hypothesis import given
from hypothesis import strategies as st

from cluster.presence_log import PresenceLog
from cluster.presence_messages import PresenceAck, PresenceDelta
from cluster.presence_replica import PresenceReplica
from protocol.types import PresenceState


def _delta(
    from_version: int,
    to_version: int,
    *items: tuple[str, PresenceState, int],
    reset: int = 0,
    is_last: bool = True,
) -> PresenceDelta:
    return PresenceDelta(1, from_version, to_version, reset, is_last=is_last, items=list(items))


@given(
    changes=st.lists(
        st.tuples(st.sampled_from("abcd"), st.sampled_from(["online", "away", "offline"])),
        min_size=1,
        max_size=30,
    ),
    spans=st.lists(st.tuples(st.integers(0, 30), st.integers(1, 4)), max_size=30),
    order=st.integers(0, 2**32),
)
def test_deltas_may_come_in_any_order_and_any_number_of_times(
    changes: list[tuple[str, PresenceState]], spans: list[tuple[int, int]], order: int
) -> None:
    """Lanes between nodes repeat and reorder: what is old never overwrites what is new."""
    log = PresenceLog("n", 1)
    deltas: list[PresenceDelta] = []
    for user_id, state in changes:
        log.put(user_id, state, 7, 0.0)
        for from_version, limit in spans:
            if from_version <= log.version:
                items, to_version, is_last = log.after(from_version, limit)
                deltas.append(PresenceDelta(1, from_version, to_version, 0, is_last=is_last, items=items))
    Random(order).shuffle(deltas)
    replica = PresenceReplica("n", 1)
    for delta in deltas:
        before = replica.version
        ack, _ = replica.apply(delta)
        assert ack.version == replica.version >= before
    items, to_version, _ = log.after(replica.version, 100)
    replica.apply(PresenceDelta(1, replica.version, to_version, 0, is_last=True, items=items))
    assert replica.states == {u: s for u in "abcd" if (s := log.state_of(u)) != "offline"}
    assert replica.digest.value == log.digest.value


def test_a_hole_is_asked_for() -> None:
    """Else a user might stay unknown until the next heartbeat."""
    replica = PresenceReplica("n", 1)
    assert replica.apply(_delta(0, 2, ("ann", "online", 0)))[0] == PresenceAck(1, 2)
    assert replica.apply(_delta(3, 4, ("bob", "online", 0))) == (PresenceAck(1, 2, 0, is_asking=True), [])
    assert replica.states == {"ann": "online"}


def test_a_reset_touches_only_those_who_changed() -> None:
    """Whoever stayed is not shown as gone in between, however many parts the reset has."""
    replica = PresenceReplica("n", 1)
    replica.apply(_delta(0, 4, ("ann", "online", 0), ("bob", "online", 0), ("cid", "away", 0)))
    ack, touched = replica.apply(_delta(0, 5, ("ann", "online", 0), reset=9, is_last=False))
    assert (ack, touched) == (PresenceAck(1, 5, 9), [])
    assert set(replica.states) == {"ann", "bob", "cid"}
    ack, touched = replica.apply(_delta(5, 10, ("cid", "online", 0), ("dan", "offline", 7), reset=9))
    assert ack == PresenceAck(1, 10)
    assert sorted(touched) == [("bob", 0), ("cid", 0)]
    assert replica.states == {"ann": "online", "cid": "online"}


def test_parts_of_a_reset_that_is_over_or_was_given_up_are_ignored() -> None:
    """Else a late copy of its first part would bring back who has left since."""
    replica = PresenceReplica("n", 1)
    first = _delta(0, 5, ("ann", "online", 0), reset=9, is_last=False)
    replica.apply(first)
    assert replica.apply(first)[0] == PresenceAck(1, 5, 9)
    newer = _delta(0, 6, ("bob", "online", 0), reset=12, is_last=False)
    assert replica.apply(newer)[0] == PresenceAck(1, 6, 12)
    assert replica.apply(first)[0] == PresenceAck(1, 6, 12, is_asking=True)  # the writer may think it is on
    assert replica.apply(newer)[0] == PresenceAck(1, 6, 12)
    assert replica.apply(_delta(6, 12, reset=12)) == (PresenceAck(1, 12), [("ann", 0)])
    for late in (first, newer):
        assert replica.apply(late) == (PresenceAck(1, 12), [])
    assert replica.states == {"bob": "online"}


def test_a_part_of_a_reset_that_does_not_fit_is_asked_for() -> None:
    """A reader that has forgotten, or missed a part, says from where."""
    replica = PresenceReplica("n", 1)
    assert replica.apply(_delta(5, 9, reset=9))[0] == PresenceAck(1, 0, 0, is_asking=True)
    replica.apply(_delta(0, 3, reset=9, is_last=False))
    assert replica.apply(_delta(5, 9, reset=9))[0] == PresenceAck(1, 3, 9, is_asking=True)
    assert replica.apply(_delta(0, 20))[0] == PresenceAck(1, 3, 9, is_asking=True)  # of before the reset
