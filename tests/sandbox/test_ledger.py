"""What arrived: bounded in memory, counted in full, and awaited by an event."""

import pytest
import trio
from trio.testing import wait_all_tasks_blocked

from server.sandbox.ledger import Ledger, identity_in, sms_identity


def fill(ledger: Ledger, *numbers: int) -> None:
    for number in numbers:
        ledger.record("apns", at_ms=number, address="a", id=str(number), identity=f"d_{number}")


def test_counts_outlive_what_is_kept() -> None:
    """A load test of hours must not eat the memory."""
    ledger = Ledger(max_deliveries=3, max_identities=4)
    fill(ledger, 1, 2, 3, 4, 5, 5)
    assert [one.id for one in ledger.deliveries("apns")] == ["4", "5", "5"]
    assert (ledger.count("apns"), ledger.double_count("apns")) == (6, 1)
    assert ledger.doubles("apns") == {"d_5": 2}
    assert list(ledger.identities("apns")) == ["d_2", "d_3", "d_4", "d_5"]


def test_ids_alone_are_kept_for_load() -> None:
    """Doubles are found all the same."""
    ledger = Ledger(keep="ids")
    fill(ledger, 1, 1, 2)
    assert (ledger.deliveries("apns"), ledger.count("apns"), ledger.doubles("apns")) == ([], 3, {"d_1": 2})


def test_groups_are_merged_in_order_of_arrival() -> None:
    """`sms` is whichever provider took it."""
    ledger = Ledger()
    for service in ("twilio", "vonage", "twilio"):
        ledger.record(service, at_ms=0, address="x", id="y")
    assert [one.service for one in ledger.deliveries("sms")] == ["twilio", "vonage", "twilio"]
    with pytest.raises(ValueError, match="no channel"):
        ledger.count("pigeon")


async def test_waiting_ends_with_the_delivery_that_was_awaited(autojump_clock: trio.abc.Clock) -> None:
    """Tests wait for an event, and clear starts anew."""
    ledger = Ledger()
    found: list[int] = []

    async def wait() -> None:
        found.append(len(await ledger.wait_for("apns", 2)))

    async with trio.open_nursery() as nursery:
        nursery.start_soon(wait)
        await wait_all_tasks_blocked()
        fill(ledger, 1)
        await wait_all_tasks_blocked()
        assert found == []
        fill(ledger, 2)
    assert found == [2]
    ledger.clear()
    with trio.move_on_after(1) as scope:
        await ledger.wait_for("apns", 1)
    assert scope.cancelled_caught


def test_the_senders_own_id_is_found() -> None:
    """Wherever a payload of ours, or of an app's, has it."""
    assert identity_in({"delivery_id": "a"}) == "a"
    assert identity_in({"aps": {}, "data": {"delivery_id": "b"}}) == "b"
    assert identity_in({"data": ["x"], "delivery_id": 5}) == ""
    assert identity_in("delivery_id") == ""
    assert sms_identity("https://x.example/s?delivery_id=c", "+49", "Hi") == "c"
    assert sms_identity("", "+49", "Hi") == sms_identity("", "+49", "Hi") != sms_identity("", "+49", "Ho")
