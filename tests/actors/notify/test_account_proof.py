"""Whose word counts against addresses."""

import msgspec

from actors.notify.account_proof import AccountProof
from actors.notify.channel import ChannelActor
from tests.actors.notify.channel_world import NOW_MS, Accounts, Answering

HOUR_MS = 3_600_000


def test_an_account_is_believed_from_the_first_that_it_takes_until_it_is_set_anew() -> None:
    """The other environment's account is put in place of the right one sooner or later."""
    proof, account = AccountProof(), Accounts(Answering("apns")).account()
    assert proof.judge("app", account) == "hold"
    proof.accepted("app", account)
    assert {proof.judge("app", account) for _ in range(9)} == {"believe"}
    assert proof.judge("other", account) == "hold"
    anew = msgspec.structs.replace(account, provider=Answering("apns"))
    assert [proof.judge("app", anew) for _ in range(4)] == ["hold", "hold", "alert", "alert"]
    proof.accepted("app", anew)
    assert proof.judge("app", anew) == "believe"


def test_developers_are_told_of_an_account_that_takes_nothing() -> None:
    """Nothing of it is seen in the app: its users hear nothing, and do not know that."""
    accounts = Accounts(Answering("apns"))
    times = [NOW_MS]
    channel = ChannelActor("apns", accounts, now_ms=lambda: times[0], steady_ms=lambda: 0)
    account = accounts.account()
    assert not any(channel.is_believed("app", account) for _ in range(3))
    detail = {"channel": "apns", "provider_id": "own", "cause": "never accepted"}
    assert accounts.alerts == [("app", "mass_retirement", detail)]
    accounts.retirement_until = NOW_MS + HOUR_MS
    assert channel.is_believed("app", account)
    times[0] = NOW_MS + HOUR_MS
    assert not channel.is_believed("app", account)
