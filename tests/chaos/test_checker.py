"""The checker of chaos runs finds what it is there to find: a check that cannot fail proves nothing."""

from protocol.events import ConversationCreated, MessagePosted
from tests.chaos.checker import Fault, judge, outages, summed_up
from tests.chaos.ledger import Content, Ledger, Send, content_of

STORED = [
    Content("created", "ann"),
    *(Content("message", "ann", f"id{number}", f"text {number}") for number in range(1, 5)),
]


def _event(seq: int) -> ConversationCreated | MessagePosted:
    content = STORED[seq - 1]
    if content.kind == "created":
        return ConversationCreated(
            conversation_id="c", seq=seq, user_id="ann", kind="group", member_ids=["ann"]
        )
    return MessagePosted(
        conversation_id="c", seq=seq, user_id="ann", client_id=content.client_id, text=content.text
    )


def _ledger() -> Ledger:
    """A run in which all went well: each message was acked before the next one was sent."""
    ledger = Ledger()
    view = ledger.view("bob", "c")
    assert ledger.heard(view, _event(1))
    for seq in range(2, 6):
        content = STORED[seq - 1]
        send = ledger.begin("c", "ann", content.client_id, content.text, now=seq * 10.0)
        ledger.acked(send, seq, seq * 10.0 + 1)
        assert ledger.heard(view, _event(seq))
    return ledger


def _kinds(ledger: Ledger, stored: list[Content] = STORED) -> set[str]:
    return set(judge(ledger, {"c": stored}).by_kind)


def test_nothing_is_found_where_all_went_well() -> None:
    """A false alarm costs as much trust as a missed one."""
    ledger = _ledger()
    assert _kinds(ledger) == set()
    assert [content_of(_event(seq)) for seq in range(1, 6)] == STORED


def test_an_acked_message_that_is_not_stored_is_found() -> None:
    assert _kinds(_ledger(), STORED[:-1]) == {"lost", "view length"}
    assert "lost" in _kinds(_ledger(), [*STORED[:2], STORED[3], STORED[2], STORED[4]])


def test_a_message_that_is_stored_twice_is_found() -> None:
    assert _kinds(_ledger(), [*STORED, STORED[-1]]) == {"doubled", "view length"}


def test_a_message_that_nobody_sent_or_another_text_is_found() -> None:
    stranger = Content("message", "eve", "x", "boo")
    assert "unknown" in _kinds(_ledger(), [*STORED, stranger])
    other = Content("message", "ann", "id4", "text 5")
    assert {"changed", "view differs"} <= _kinds(_ledger(), [*STORED[:-1], other])


def test_two_acks_that_differ_are_found() -> None:
    ledger = _ledger()
    ledger.acked(next(iter(ledger.sends.values())), 9, 100.0)
    assert _kinds(ledger) == {"failure"}


def test_a_message_before_one_that_was_acked_before_it_was_sent_is_found() -> None:
    """Order in the store must not contradict what people saw happen."""
    ledger = _ledger()
    first: Send = ledger.sends["c", "ann", "id1"]
    first.sent_at, first.acked_at = 100.0, 101.0  # the last one to be sent, and yet the first in the store
    assert _kinds(ledger) == {"reordered"}


def test_a_view_takes_only_what_follows_it() -> None:
    ledger = Ledger()
    view = ledger.view("bob", "c", start=1)
    assert not ledger.heard(view, _event(3))
    assert ledger.heard(view, _event(2))
    assert not ledger.heard(view, _event(2))
    assert (view.cursor, ledger.overlaps, view.faults) == (2, 1, [])
    assert not ledger.heard(view, MessagePosted(conversation_id="c", seq=2, user_id="eve", text="boo"))
    assert len(view.faults) == 1


def test_gaps_are_counted_for_the_fault_that_they_overlap() -> None:
    """They are what the failure table quotes."""
    first = Fault("kill", "n1", 10.0, frozenset({1}), until=30.0)
    second = Fault("kill", "n2", 30.0, frozenset({2}))
    acks = {1: [9.0, 9.5, 16.5, 17.0, 31.0, 31.5, 39.5], 2: [float(second) for second in range(9, 40)]}
    found = {
        (outage.fault.node, outage.shard): outage.gap_s for outage in outages(acks, [first, second], 40.0)
    }
    assert found == {("n1", 1): 14.0, ("n1", 2): 1.0, ("n2", 1): 14.0, ("n2", 2): 1.0}
    assert summed_up(outages(acks, [first], 40.0)) == {
        "hit_count": 1,
        "median_s": 14.0,
        "worst_s": 14.0,
        "worst_of_others_s": 1.0,
    }


def test_a_shard_that_never_comes_back_is_a_gap_to_the_end() -> None:
    fault = Fault("kill", "n1", 10.0, frozenset({1}))
    (outage,) = outages({1: [9.0]}, [fault], 60.0)
    assert outage.gap_s == 51.0
