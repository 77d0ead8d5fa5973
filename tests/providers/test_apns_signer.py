"""Provider tokens by a clock that the test sets: neither too old for Apple nor renewed too often."""

from itertools import pairwise

import jwt
import pytest
from cryptography.hazmat.primitives.asymmetric import ec, rsa

from server.providers.apns_signer import ApnsSigner
from tests.providers.peers import pem_of

KEY = ec.generate_private_key(ec.SECP256R1())
MINUTE_MS = 60_000
NOW_MS = 1_800_000_000_000


def signer() -> ApnsSigner:
    """Make one for a team."""
    return ApnsSigner("TEAM123456", "KEY1234567", pem_of(KEY))


def test_a_token_says_team_key_and_time() -> None:
    """And carries the key's signature."""
    token = signer().token(NOW_MS)
    claims = jwt.decode(token.value, KEY.public_key(), ["ES256"], options={"verify_iat": False})
    assert claims == {"iss": "TEAM123456", "iat": NOW_MS // 1_000}
    assert jwt.get_unverified_header(token.value)["kid"] == "KEY1234567"


def test_one_token_serves_for_fifty_minutes() -> None:
    """Older than 60 is rejected, and younger than 20 may not be replaced."""
    made = signer()
    first = made.token(NOW_MS)
    assert made.token(NOW_MS + 49 * MINUTE_MS) is first
    second = made.token(NOW_MS + 50 * MINUTE_MS)
    assert second is not first
    assert made.token(NOW_MS + 99 * MINUTE_MS) is second


def test_in_a_day_no_two_signatures_are_less_than_twenty_minutes_apart() -> None:
    """Though every single answer says that the token has expired."""
    made = signer()
    signed_at = set()
    for minute in range(24 * 60):
        now_ms = NOW_MS + minute * MINUTE_MS
        made.renew(made.token(now_ms), now_ms)
        signed_at.add(made.token(now_ms).signed_at_ms)
    times = sorted(signed_at)
    assert len(times) == 72
    assert min(later - earlier for earlier, later in pairwise(times)) == 20 * MINUTE_MS


def test_after_too_many_updates_nothing_is_signed_for_twenty_minutes() -> None:
    """Not even where the token reaches its fifty minutes meanwhile."""
    made = signer()
    first = made.token(NOW_MS)
    made.hold(NOW_MS + 45 * MINUTE_MS)
    assert not made.renew(first, NOW_MS + 46 * MINUTE_MS)
    assert made.token(NOW_MS + 64 * MINUTE_MS) is first
    assert made.token(NOW_MS + 65 * MINUTE_MS) is not first


def test_a_clock_that_was_ahead_and_is_set_back_gets_a_new_token() -> None:
    """One from the future is refused; a second or two is no reason."""
    made = signer()
    first = made.token(NOW_MS)
    assert made.token(NOW_MS - 2_000) is first
    assert made.token(NOW_MS - 3_600_000) is not first


@pytest.mark.parametrize(
    "key",
    [
        "",
        "secret",
        pem_of(ec.generate_private_key(ec.SECP384R1())),
        pem_of(rsa.generate_private_key(65_537, 2_048)),
    ],
    ids=["empty", "no PEM", "P-384", "RSA"],
)
def test_a_key_that_is_none_is_told(key: str) -> None:
    """When settings are entered."""
    with pytest.raises(ValueError, match="private key"):
        ApnsSigner("T", "K", key)
