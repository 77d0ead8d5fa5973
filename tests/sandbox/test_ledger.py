"""What the sandbox keeps of arrivals."""

from server.sandbox.ledger import Arrival, Ledger


def test_for_load_only_names_addresses_and_times_are_kept() -> None:
    """The benchmark's check compares them with the attempts in the records."""
    ledger = Ledger(keep="ids")
    for at_ms in (5, 9):
        ledger.record("apns", at_ms=at_ms, address="ab", id="1", identity="d-0", content={"aps": {}})
    ledger.record("vonage", at_ms=7, address="+49", id="2")
    assert ledger.deliveries("apns") == []
    assert ledger.arrivals("apns") == [Arrival("d-0", "ab", 5), Arrival("d-0", "ab", 9)]
    assert ledger.arrivals("sms") == [Arrival("", "+49", 7)]
    assert ledger.doubles("apns") == {"d-0": 2}
    ledger.clear()
    assert ledger.arrivals("apns") == []
    whole = Ledger()
    whole.record("apns", at_ms=5, address="ab", id="1", identity="d-0")
    assert whole.arrivals("apns") == []
