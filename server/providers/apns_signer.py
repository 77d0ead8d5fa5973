"""Provider tokens of APNs: one signer for all who send with a team's key.

Apple wants a token to be used for 20 to 60 minutes, and answers TooManyProviderTokenUpdates to who signs more
often, for the whole team (developer.apple.com, Establishing a token-based connection to APNs).
"""

from typing import Final

import jwt
import msgspec
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import load_pem_private_key

REFRESH_MS: Final = 50 * 60_000  # rejected after 60 minutes; other libraries refresh at 50 as well
MIN_AGE_MS: Final = 20 * 60_000
_CLOCK_BACK_MS: Final = 60_000  # a clock set back by more has made the token one of the future


class ProviderToken(msgspec.Struct, frozen=True):
    """A signed token, and when that was."""

    value: str
    signed_at_ms: int


def load_p256_key(pem: str) -> ec.EllipticCurvePrivateKey:
    """Read a P-256 private key. Raises: ValueError, with words that can be shown to whoever sent it."""
    try:
        key = load_pem_private_key(pem.encode(), password=None)
    except (ValueError, TypeError) as exc:
        raise ValueError("the private key is not PEM, or is locked by a password") from exc
    if not isinstance(key, ec.EllipticCurvePrivateKey) or not isinstance(key.curve, ec.SECP256R1):
        raise ValueError("the private key is not one of P-256")  # noqa: TRY004 - the text was wrong
    return key


class ApnsSigner:
    """Sign, and keep what was signed. Times are Unix ms, handed in."""

    def __init__(self, team_id: str, key_id: str, private_key: str) -> None:
        """Raises: ValueError where the key is none."""
        self._team_id = team_id
        self._key_id = key_id
        self._key = load_p256_key(private_key)
        self._token: ProviderToken | None = None
        self._held_until_ms = 0

    def token(self, now_ms: int) -> ProviderToken:
        """Hand out the token to send with now: the same one for 50 minutes."""
        token = self._token
        if token is None:
            return self._sign(now_ms)
        age_ms = now_ms - token.signed_at_ms
        if -_CLOCK_BACK_MS <= age_ms < REFRESH_MS or now_ms < self._held_until_ms <= now_ms + MIN_AGE_MS:
            return token
        return self._sign(now_ms)

    def renew(self, used: ProviderToken, now_ms: int) -> bool:
        """Answer ExpiredProviderToken. True: there is another one now than the one that was used."""
        token = self._token
        if token is not used:
            return token is not None
        if now_ms - used.signed_at_ms < MIN_AGE_MS or now_ms < self._held_until_ms:
            return False
        self._sign(now_ms)
        return True

    def close(self) -> None:
        """Nothing is open; this makes it something to share."""

    def hold(self, now_ms: int) -> None:
        """Answer TooManyProviderTokenUpdates: sign nothing for 20 minutes."""
        self._held_until_ms = now_ms + MIN_AGE_MS

    def _sign(self, now_ms: int) -> ProviderToken:
        claims = {"iss": self._team_id, "iat": now_ms // 1_000}
        value = jwt.encode(claims, self._key, algorithm="ES256", headers={"kid": self._key_id})
        self._token = ProviderToken(value, now_ms)
        return self._token
