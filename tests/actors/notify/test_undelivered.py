"""What follows on "undelivered": each line of the table, and what holds whatever the deliveries are."""

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from actors.notify.undelivered import LATE_MS, MAY_HAVE_COME, UNDELIVERED, Follow, after_undelivered
from protocol.notify_records import DeliveryRow, NotificationRow
from protocol.notify_types import TypeRule

NOW_MS = 1_790_000_000_000
RULE = TypeRule(name="t", channels=["sms"], fallback=["email", "apns"])
SECURITY = TypeRule(name="t", channels=["sms"], fallback=["email"], is_security=True)
STATES = ["queued", "sending", "accepted", "refused", "unknown", "confirmed", "bounced", "complained"]
STATES += ["skipped", "dead", "cancelled"]


def note(**more: Any) -> NotificationRow:
    given: dict[str, Any] = {"state": "done", "content": "{}", "sent_at_ms": NOW_MS - 60_000, **more}
    return NotificationRow(
        notification_id=1,
        partition=0,
        app_id="a",
        user_id="u",
        type="t",
        priority="high",
        created_at_ms=given.pop("created_at_ms", NOW_MS - 60_000),
        **given,
    )


def delivery(channel: str, state: str, number: int = 1) -> DeliveryRow:
    return DeliveryRow(
        notification_id=1,
        number=number,
        partition=0,
        app_id="a",
        user_id="u",
        channel=channel,
        device_key=f"{channel}-1",
        priority="high",
        state=state,
        is_open=state in ("queued", "sending"),
        created_at_ms=1,
    )


TOLD = delivery("sms", "accepted", 0)


def follow(
    row: NotificationRow, *others: DeliveryRow, rule: TypeRule = RULE, is_seen: bool = False
) -> Follow:
    return after_undelivered(row, rule, TOLD, others, is_seen=is_seen, now_ms=NOW_MS)


@pytest.mark.parametrize(
    ("found", "kind", "why"),
    [
        (follow(note()), "fallback", "undelivered"),
        (follow(note(), rule=TypeRule(name="t", channels=["sms"])), "none", ""),
        (follow(note(), rule=TypeRule(name="t", channels=["sms"], fallback=["sms"])), "none", ""),
        (follow(note(), delivery("email", "refused"), delivery("apns", "dead")), "none", ""),
        (follow(note(content="")), "none", ""),
        (follow(note(state="held")), "none", "state"),
        (follow(note(state="cancelled")), "none", "state"),
        (follow(note(expires_at_ms=NOW_MS)), "none", "expires_at_ms"),
        (follow(note(expires_at_ms=NOW_MS + 1)), "fallback", "undelivered"),
        (follow(note(created_at_ms=1, sent_at_ms=NOW_MS - LATE_MS)), "none", "expires_at_ms"),
        (follow(note(created_at_ms=1, sent_at_ms=NOW_MS - LATE_MS + 1)), "fallback", "undelivered"),
        (follow(note(), is_seen=True), "none", "seen_in_app"),
        (follow(note(), rule=SECURITY, is_seen=True), "fallback", "undelivered"),
        (follow(note(), delivery("fcm", "accepted")), "none", "reached"),
        (follow(note(), delivery("fcm", "unknown")), "none", "reached"),
        (follow(note(state="open"), delivery("fcm", "queued")), "wait", "others_open"),
        (follow(note(), delivery("email", "bounced")), "fallback", "undelivered"),
        (follow(note(), delivery("fcm", "skipped"), delivery("fcm", "cancelled")), "fallback", "undelivered"),
    ],
)
def test_the_table(found: Follow, kind: str, why: str) -> None:
    """Each line decides by itself."""
    assert (found.kind, found.why.rule if found.why is not None else "") == (kind, why)


def test_the_ledger_names_the_next_channel() -> None:
    found = follow(note(), delivery("email", "bounced"))
    assert found.why is not None
    assert found.why.value == "apns"


@given(
    others=st.lists(st.tuples(st.sampled_from(["sms", "email", "fcm"]), st.sampled_from(STATES)), max_size=5),
    state=st.sampled_from(["held", "open", "done", "dropped", "merged", "erased", "cancelled"]),
    is_seen=st.booleans(),
    is_security=st.booleans(),
    ages_ms=st.tuples(st.integers(-LATE_MS, 3 * LATE_MS), st.integers(-LATE_MS, LATE_MS)),
)
def test_nobody_is_told_twice_and_nothing_is_told_late(
    others: list[tuple[str, str]], state: str, is_seen: bool, is_security: bool, ages_ms: tuple[int, int]
) -> None:
    """Whatever the deliveries are, and in whichever order they are read."""
    rows = [delivery(channel, at, number) for number, (channel, at) in enumerate(others, 1)]
    row = note(state=state, sent_at_ms=NOW_MS - ages_ms[0], expires_at_ms=max(0, NOW_MS + ages_ms[1]))
    rule = TypeRule(name="t", channels=["sms"], fallback=["apns"], is_security=is_security)
    found = follow(row, *rows, rule=rule, is_seen=is_seen)
    assert found == follow(row, *rows, rule=rule, is_seen=is_seen)
    assert found.kind == follow(row, *reversed(rows), rule=rule, is_seen=is_seen).kind
    states = {at for _, at in others}
    if found.kind == "none":
        return
    assert state in ("open", "done")
    assert ages_ms[1] > 0
    assert is_security or not is_seen
    assert not states & MAY_HAVE_COME
    assert (found.kind == "wait") == bool(states & {"queued", "sending"})


def test_who_complains_has_got_it() -> None:
    """A complaint of spam is no reason to tell it by SMS as well."""
    assert "complained" not in UNDELIVERED
    assert "complained" in MAY_HAVE_COME
