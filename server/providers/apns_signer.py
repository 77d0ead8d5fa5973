"""Provider tokens of APNs: one signer for all who send with a team's key.

Apple wants a token to be used for 20 to 60 minutes, and answers TooManyProviderTokenUpdates to who signs more
often, for the whole team (developer.apple.com, Establishing a token-based connection to APNs).

So the token is the same on every node and in every life of a node: its `iat` is the beginning of the present
50 minutes, and the signature is deterministic (RFC 6979). A cluster that is restarted node by node, or a node
that is killed again and again, shows Apple one token, where each would else have come with one of its own.
"""

from typing import Final

import msgspec
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.utils import decode_dss_signature
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.serialization import load_pem_private_key
from jwt.utils import base64url_encode

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
        """Hand out the token to send with now: the same one for 50 minutes, whoever asks."""
        token = self._token
        if token is None:
            return self._sign(now_ms - now_ms % REFRESH_MS)
        age_ms = now_ms - token.signed_at_ms
        if -_CLOCK_BACK_MS <= age_ms < REFRESH_MS or now_ms < self._held_until_ms <= now_ms + MIN_AGE_MS:
            return token
        return self._sign(now_ms - now_ms % REFRESH_MS)

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

    def _sign(self, at_ms: int) -> ProviderToken:
        header = {"alg": "ES256", "kid": self._key_id, "typ": "JWT"}
        claims = {"iss": self._team_id, "iat": at_ms // 1_000}
        signed = b".".join(base64url_encode(msgspec.json.encode(part)) for part in (header, claims))
        r, s = decode_dss_signature(self._key.sign(signed, _ALGORITHM))
        signature = r.to_bytes(32, "big") + s.to_bytes(32, "big")  # RFC 7518 section 3.4
        value = (signed + b"." + base64url_encode(signature)).decode()
        self._token = ProviderToken(value, at_ms)
        return self._token


def _deterministic() -> ec.ECDSA:
    """RFC 6979 where OpenSSL knows it (3.2 and later); else each node's signature differs."""
    try:
        return ec.ECDSA(SHA256(), deterministic_signing=True)
    except UnsupportedAlgorithm:
        return ec.ECDSA(SHA256())


_ALGORITHM: Final = _deterministic()
