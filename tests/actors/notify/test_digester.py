"""On which channels a digest tells one of its members."""

import pytest

from actors.notify.digester import channels_of
from actors.notify.verdict import Verdict
from protocol.notify_types import Channel

USUAL: list[Channel] = ["apns", "email"]


@pytest.mark.parametrize(
    ("own", "fallback", "reachable", "told_on"),
    [
        (["apns", "sms"], [], {"apns", "sms"}, ["apns"]),  # no SMS is paid where a push goes
        (["apns", "sms"], [], {"sms", "email"}, ["sms"]),  # mail was not asked for
        (["sms", "apprise"], [], {"sms", "apprise"}, ["sms", "apprise"]),
        (["apns"], ["sms", "email"], {"sms", "email"}, ["sms"]),
        (["apns"], ["sms"], {"apns", "sms"}, ["apns"]),
        (["apns"], [], {"email"}, []),
    ],
)
def test_a_member_is_told_where_it_may_go_and_the_user_is_reached(
    own: list[Channel], fallback: list[Channel], reachable: set[Channel], told_on: list[Channel]
) -> None:
    """What a digest holds is sent, and nowhere where the app or the user did not want it."""
    verdict = Verdict(kind="send", channels=own, fallback=fallback)
    assert channels_of(verdict, USUAL, reachable) == told_on
