"""What may be kept of an address, and of words in which it stands."""

import pytest

from actors.notify.addresses import without_address
from protocol.notify_types import Channel


@pytest.mark.parametrize(
    ("channel", "address", "said", "kept"),
    [
        ("email", "ann.p@example.com", "5.7.1 <Ann.P@Example.com>: no", "5.7.1 <…>: no"),
        ("email", "ann.p@example.com", "to=<her@home.example> for ann.p", "to=<…> for …"),
        ("email", "ann.p@example.com", "see ann.p%40example.com, annapolis", "see …, annapolis"),
        ("email", "al@example.com", "mail for al: al is full", "mail for al: al is full"),
        ("sms", "+4915112345678", "To: +49 151 123-45678 (4915112345678)", "To: … (…)"),
        ("sms", "+4915112345678", "21211", "21211"),
        ("apns", "ab12", "BadDeviceToken ab12", "BadDeviceToken …"),
    ],
)
def test_a_providers_words_are_kept_without_whom_they_speak_of(
    channel: Channel, address: str, said: str, kept: str
) -> None:
    """The ledger is kept for 90 days; an erased user must not be found in it."""
    assert without_address(said, channel, address) == kept
