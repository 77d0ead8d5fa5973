"""How one peer is kept up to date."""

from itertools import pairwise

from cluster.presence_feed import ANNOUNCE_TIMEOUT_S, HEARTBEAT_S, RESEND_MAX_S, RESEND_S, PresenceFeed
from cluster.presence_log import TOMBSTONE_KEPT_S, PresenceLog
from cluster.presence_messages import MAX_DELTA_ITEMS, PresenceAck


def _met() -> tuple[PresenceLog, PresenceFeed]:
    """A feed whose peer has acked its first, empty delta at 0 s."""
    log = PresenceLog("n", 1)
    feed = PresenceFeed(log, 1)
    assert feed.due(0, 0.0) is not None
    feed.take(PresenceAck(1, 0))
    return log, feed


def test_what_changes_while_a_delta_is_in_flight_goes_out_together() -> None:
    """A slow peer gets fewer and larger deltas, not a queue."""
    log, feed = _met()
    log.put("ann", "online", 0, 1.0)
    first = feed.due(log.version, 1.0)
    assert first is not None
    for n in range(10):
        log.put(f"user-{n}", "online", 0, 1.1)
        assert feed.due(log.version, 1.1) is None
    feed.take(PresenceAck(1, first.to_version))
    second = feed.due(log.version, 1.2)
    assert second is not None
    assert (second.from_version, second.to_version, len(second.items)) == (1, 11, 10)


def test_a_delta_that_is_not_acked_is_sent_again_less_and_less_often() -> None:
    """A peer that hangs is not flooded, and is up to date within 5 s of its answering again."""
    log, feed = _met()
    log.put("ann", "online", 0, 10.0)
    assert feed.due(1, 10.0) is not None
    sent_at: list[float] = []
    now = 10.0
    while now < 40.0:
        now = feed.deadline(1)
        if feed.due(1, now) is not None:
            sent_at.append(now)
    assert sent_at[:4] == [10 + RESEND_S, 13.0, 17.0, 21.0]
    assert max(b - a for a, b in pairwise(sent_at)) == RESEND_MAX_S
    feed.heard()
    assert feed.deadline(1) == sent_at[-1] + RESEND_S


def test_a_heartbeat_that_is_overdue_is_no_deadline_in_the_past() -> None:
    """A deadline that stays in the past would spin the node's presence task."""
    _, feed = _met()
    assert feed.deadline(0) == HEARTBEAT_S
    assert feed.due(0, HEARTBEAT_S) is not None
    assert feed.due(0, HEARTBEAT_S + ANNOUNCE_TIMEOUT_S) is None
    assert feed.deadline(0) == HEARTBEAT_S + RESEND_S


def test_a_peer_below_the_horizon_starts_over_and_others_go_on() -> None:
    """The horizon may rise with every second: a reset is not begun again unless it must be."""
    log = PresenceLog("n", 1)
    for n in range(MAX_DELTA_ITEMS + 1):
        log.put(f"user-{n}", "online", 0, 0.0)
    log.put("ann", "online", 0, 0.0)
    log.put("ann", "offline", 7, 0.0)
    log.put("bob", "online", 0, 0.0)
    log.prune(TOMBSTONE_KEPT_S)
    began_at = log.version
    feed = PresenceFeed(log, 1)
    delta = feed.due(log.version, 60.0)
    assert delta is not None
    assert (delta.from_version, delta.reset_version, delta.is_last) == (0, began_at, False)
    log.put("eve", "online", 0, 61.0)
    feed.take(PresenceAck(1, delta.to_version, began_at))
    assert feed.acked_version == 0
    delta = feed.due(log.version, 61.0)
    assert delta is not None
    assert (delta.from_version, delta.reset_version, delta.is_last) == (MAX_DELTA_ITEMS, began_at, True)
    log.put("bob", "offline", 7, 62.0)  # who was repeated leaves, and is forgotten before the reset is done
    log.prune(62.0 + TOMBSTONE_KEPT_S)
    delta = feed.due(log.version, 62.0 + TOMBSTONE_KEPT_S)
    assert delta is not None
    assert (delta.from_version, delta.reset_version) == (0, log.version)
    feed.take(PresenceAck(1, log.version))
    assert feed.acked_version == log.version
    assert feed.due(log.version, 130.0) is None


def test_late_acks_move_nothing_back_and_an_asking_one_does() -> None:
    """Acks are repeated and reordered too; but a peer that forgot everything says so."""
    log, feed = _met()
    for n in range(3):
        log.put(f"user-{n}", "online", 0, 1.0)
        assert feed.due(log.version, 1.0) is not None
        feed.take(PresenceAck(1, log.version))
    feed.take(PresenceAck(1, 1))
    feed.take(PresenceAck(1, 99, is_asking=True))  # of what we never wrote
    assert feed.due(log.version, 1.0) is None
    feed.take(PresenceAck(1, 1, is_asking=True))
    delta = feed.due(log.version, 1.0)
    assert delta is not None
    assert [user_id for user_id, *_ in delta.items] == ["user-1", "user-2"]
    assert feed.acked_version == 3


def test_a_peer_that_let_an_announcement_time_out_is_lagging_until_it_has_caught_up() -> None:
    """One hanging node must not add half a second to each connect on all others."""
    log, feed = _met()
    log.put("ann", "online", 0, 20.0)
    feed.due(1, 20.0)
    log.put("bob", "online", 0, 20.1)
    assert feed.deadline(2) == 20.0 + ANNOUNCE_TIMEOUT_S
    feed.due(2, 20.0 + ANNOUNCE_TIMEOUT_S)
    assert feed.is_lagging
    feed.take(PresenceAck(1, 1))
    assert feed.is_lagging
    assert feed.due(2, 21.0) is not None
    feed.take(PresenceAck(1, 2))
    assert not feed.is_lagging
