"""Apprise sends what users' addresses allow, reaches nothing inside, and tells no secrets."""

import pytest
import trio

from actors.notify.breaker import finding
from actors.notify.delivery import Outcome, Provider
from protocol.provider_configs import AppriseConfig
from server.providers.apprise_address import is_scheme_allowed, masked, tame_address
from server.providers.apprise_provider import AppriseProvider, AppriseReport, judge_apprise
from server.providers.reach import ANYWHERE, PUBLIC
from tests.providers.http_peer import HttpPeer, answer, open_http_peer, raw, stall
from tests.providers.outgoing import make_outgoing

# Apprise 2.3 imports `imghdr` for PGP, which Python 3.11 warns of; it has a substitute for 3.13.
pytestmark = pytest.mark.filterwarnings("ignore:'imghdr' is deprecated:DeprecationWarning")


async def _send(provider: AppriseProvider, address: str, **changes: str) -> Outcome:
    with trio.fail_after(20):
        return await provider.send(make_outgoing("apprise", address, **changes))


def _inside() -> AppriseProvider:
    return AppriseProvider(AppriseConfig(allow_private=True), reach=ANYWHERE)


def _address(peer: HttpPeer) -> str:
    return f"json://ann:t0psecret@127.0.0.1:{peer.port}/hook-4711"


async def test_a_notification_arrives_by_a_real_request() -> None:
    """The plain JSON service stands for the 150 that post to somewhere."""
    async with open_http_peer() as peer:
        provider: Provider = _inside()
        outgoing = make_outgoing("apprise", _address(peer), url="https://shop.example/o/42")
        with trio.fail_after(20):
            outcome = await provider.send(outgoing)
        assert (outcome.kind, outcome.action) == ("accepted", "done")
        (asked,) = peer.asked
        assert asked.target.startswith("/hook-4711")
        assert b'"On its way"' in asked.body
        assert b"Your order has left.\\nhttps://shop.example/o/42" in asked.body
        assert provider.channel == "apprise"
        await provider.aclose()


@pytest.mark.parametrize(
    ("status", "kind", "action"),
    [
        (400, "refused", "dead_letter"),
        (404, "refused", "retire"),
        (410, "refused", "retire"),
        (429, "refused", "retry"),
        (503, "unknown", "resolve_unknown"),
    ],
)
async def test_a_refusal_has_its_status_and_no_secret(status: int, kind: str, action: str) -> None:
    """Developers read the detail; the address's parts are the user's keys."""
    async with open_http_peer() as peer:
        peer.usual = answer(status)
        outcome = await _send(_inside(), _address(peer))
        assert (outcome.kind, outcome.action, outcome.code) == (kind, action, str(status))
        assert str(status) in outcome.detail
        assert "t0psecret" not in outcome.detail
        assert "4711" not in outcome.detail
        assert len(peer.asked) == 1


async def test_retries_and_redirections_of_the_address_do_not_count() -> None:
    """A redirection could lead inside, and Apprise's retries would be doubles that we know nothing of."""
    async with open_http_peer() as peer, open_http_peer() as inner:
        peer.usual = answer(302, b"", f"Location: http://127.0.0.1:{inner.port}/admin")
        outcome = await _send(_inside(), _address(peer) + "?redirect=yes&retry=3&wait=0")
        assert outcome.kind == "refused"
        assert inner.asked == []
        assert len(peer.asked) == 1


async def test_nobody_there_is_retried_and_a_cut_answer_is_unknown() -> None:
    """Apprise says "False" to both; its own log tells them apart."""
    async with open_http_peer() as peer:
        peer.usual = raw(b"")
        outcome = await _send(_inside(), _address(peer))
        assert (outcome.kind, outcome.action) == ("unknown", "resolve_unknown")
        dead = _address(peer)
    outcome = await _send(_inside(), dead)
    assert (outcome.kind, outcome.action, outcome.code) == ("refused", "retry", "connect")
    assert "t0psecret" not in outcome.detail


async def test_what_takes_too_long_is_unknown() -> None:
    """A thread cannot be stopped; the worker goes on without it."""
    async with open_http_peer() as peer:
        peer.usual = stall
        provider = AppriseProvider(AppriseConfig(allow_private=True), reach=ANYWHERE, timeout_s=0.3)
        outcome = await _send(provider, _address(peer))
        assert (outcome.kind, outcome.code) == ("unknown", "timeout")


async def test_what_waited_for_a_thread_in_vain_has_not_begun_and_is_retried() -> None:
    """Hosts that drip keep all threads; who waits behind them loses nothing by it."""
    async with open_http_peer() as peer:
        peer.usual = stall
        config = AppriseConfig(allow_private=True)
        provider = AppriseProvider(config, reach=ANYWHERE, timeout_s=0.5, threads=1)
        assert (await _send(provider, _address(peer))).code == "timeout"
        second = await _send(provider, _address(peer))
        assert (second.kind, second.action, second.code) == ("refused", "retry", "busy")
        assert finding(second) == "neutral"
        assert len(peer.asked) == 1


@pytest.mark.parametrize(
    ("address", "code"),
    [
        ("json://127.0.0.1:9/x", "private_host"),
        ("json://localhost:9/x", "private_host"),
        ("json://[::1]:9/x", "private_host"),
        ("json://[::ffff:127.0.0.1]:9/x", "bad_address"),
        ("json://169.254.169.254/latest", "private_host"),
        ("json://0x7f000001:9/", "private_host"),
        ("gotify://10.0.0.5/AbCdEfGhIjKlMnO", "private_host"),
        ("mailto://u:p@192.168.0.1", "private_host"),
        ("mailto://u:p@example.org?smtp=127.0.0.1", "private_host"),
        ("syslog://", "scheme_not_allowed"),
        ("rsyslog://127.0.0.1", "scheme_not_allowed"),
        ("dbus://", "scheme_not_allowed"),
        ("GNOME://", "scheme_not_allowed"),
        ("file:///etc/passwd", "scheme_not_allowed"),
        ("vapid://a@b/x?subfile=/etc/passwd", "scheme_not_allowed"),
        ("fcm://project/token?keyfile=/etc/passwd", "scheme_not_allowed"),
        ("slack://a/b/c?template=/etc/passwd", "reads_files"),
        ("tgram://1:a/b?Template=/etc/passwd", "reads_files"),
        ("mailto://u:p@example.org?%70gpkey=/etc/passwd", "reads_files"),
        ("nosuch://x", "bad_address"),
        ("json://", "bad_address"),
        ("just words", "bad_address"),
        ("json://a\nb", "bad_address"),
        ("json://" + "a" * 3_000, "bad_address"),
    ],
)
async def test_what_is_inside_or_local_is_refused(address: str, code: str) -> None:
    """Users name the addresses: without this they could read files and call hosts of the operator's."""
    outcome = await _send(AppriseProvider(AppriseConfig()), address)
    assert outcome.kind == "refused"
    assert outcome.code == code
    assert outcome.action in ("retire", "dead_letter")


def test_only_listed_services_and_never_local_ones() -> None:
    """An operator narrows the choice, and cannot widen it to the machine itself."""
    assert is_scheme_allowed("slack")
    assert is_scheme_allowed("slack", ["slack"])
    assert not is_scheme_allowed("json", ["slack"])
    assert not is_scheme_allowed("syslog", ["syslog"])
    outcome = tame_address("json://example.org", ["slack"])
    assert isinstance(outcome, Outcome)
    assert (outcome.action, outcome.code) == ("dead_letter", "scheme_not_allowed")


def test_an_address_keeps_what_is_the_user_s() -> None:
    """Only what is ours to say is taken out."""
    assert tame_address(" json://h/p?a=1&retry=5&b=%26&+redirect=yes&tags=x ") == "json://h/p?a=1&b=%26"
    assert tame_address("json://h/p?rto=99") == "json://h/p"
    assert tame_address("slack://a/b/c") == "slack://a/b/c"


@pytest.mark.parametrize(
    ("text", "is_public"),
    [
        ("93.184.215.14", True),
        ("2606:2800:21f:cb07:6820:80da:af6b:8b2c", True),
        ("127.0.0.1", False),
        ("10.1.2.3", False),
        ("172.16.0.1", False),
        ("192.168.1.1", False),
        ("100.64.0.1", False),
        ("169.254.169.254", False),
        ("0.0.0.0", False),
        ("224.0.0.1", False),
        ("255.255.255.255", False),
        ("::1", False),
        ("::", False),
        ("fe80::1%eth0", False),
        ("fd00::1", False),
        ("ff02::1", False),
        ("::ffff:10.0.0.1", False),
        ("64:ff9b::7f00:1", False),
        ("64:ff9b::5db8:d70e", True),
        ("2002:7f00:1::", False),
        ("example.org", False),
    ],
)
def test_public_addresses(text: str, is_public: bool) -> None:
    """Wrapped addresses reach where the wrapped ones do."""
    assert PUBLIC.allows(text) is is_public


def test_secrets_are_masked_decoded_too() -> None:
    """Apprise masks some; the rest is ours."""
    url = "slack://T1234ABCD/B5678/x%2Fy+zKey/?to=general"
    text = masked("posting to T1234ABCD with x/y+zKey (x%2Fy+zKey) on general failed", url)
    for secret in ("T1234", "zKey", "general"):
        assert secret not in text
    assert "failed" in text


def test_an_unexplained_failure_is_final() -> None:
    """Of several targets some may have been reached: a second try would double those."""
    outcome = judge_apprise(AppriseReport(False, ("It did not work.",)))
    assert (outcome.kind, outcome.action, outcome.detail) == ("refused", "dead_letter", "It did not work.")
    assert judge_apprise(AppriseReport(True)).kind == "accepted"
    timed_out = judge_apprise(AppriseReport(False, ("x",), ("Socket Exception: Read timed out.",)))
    assert timed_out.kind == "unknown"
