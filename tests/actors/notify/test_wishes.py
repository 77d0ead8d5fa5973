"""What a user wants to hear: the table, and that all who ask are told the same."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from actors.notify.facts import Facts, UserFacts
from actors.notify.scheduler import schedule
from actors.notify.wishes import is_wanted
from protocol.notify_types import CHANNELS, AppRules, Channel, Preferences, TypePreference, TypeRule

CHOICES = st.dictionaries(st.sampled_from(CHANNELS), st.booleans())
FREQUENCIES = st.sampled_from(["immediate", "daily", "off"])
WISHES = st.builds(
    Preferences,
    channels=CHOICES,
    frequency=FREQUENCIES,
    types=st.dictionaries(
        st.sampled_from(["t", "other"]),
        st.builds(TypePreference, channels=CHOICES, frequency=st.none() | FREQUENCIES),
    ),
)
NO: dict[Channel, bool] = {"apns": False}
YES: dict[Channel, bool] = {"apns": True, "inapp": True}


@pytest.mark.parametrize(
    ("wishes", "channel", "wanted"),
    [
        (Preferences(), "apns", True),
        (Preferences(channels=NO), "apns", False),
        (Preferences(channels=NO), "sms", True),
        (Preferences(channels=NO, types={"t": TypePreference(channels=YES)}), "apns", True),
        (Preferences(channels=YES, types={"t": TypePreference(channels=NO)}), "apns", False),
        (Preferences(frequency="off"), "apns", False),
        (Preferences(frequency="off"), "inapp", False),
        (Preferences(frequency="off", channels=YES), "inapp", True),
        (Preferences(frequency="off", channels=YES), "apns", False),
        (Preferences(types={"t": TypePreference(channels=YES, frequency="off")}), "apns", False),
        (Preferences(types={"t": TypePreference(channels=YES, frequency="off")}), "inapp", True),
        (Preferences(frequency="off", types={"t": TypePreference(channels=YES)}), "apns", False),
        (Preferences(frequency="off", types={"t": TypePreference(frequency="daily")}), "apns", True),
    ],
)
def test_the_precedence(wishes: Preferences, channel: Channel, wanted: bool) -> None:
    """As docs/NOTIFICATIONS-SCHEDULING.md has it."""
    assert is_wanted(wishes, "t", channel) == wanted


@given(WISHES, st.sampled_from(CHANNELS))
def test_what_is_tried_again_is_what_would_be_sent_anew(wishes: Preferences, channel: Channel) -> None:
    """Who has switched a type off is told neither by a new one nor by a retry."""
    facts = Facts(notification_id=1, app_id="a", user_id="u", type="t", created_at_ms=1, channels=[channel])
    verdict = schedule(facts, TypeRule(name="t"), UserFacts(preferences=wishes), AppRules(), 1)
    assert (verdict.stage != "preferences") == is_wanted(wishes, "t", channel)
