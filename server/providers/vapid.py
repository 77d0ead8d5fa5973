"""Who sends: the VAPID header of Web Push (RFC 8292), one signature per push service for half a day."""

import base64
from typing import Final

import jwt
import msgspec
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from server.providers.apns_signer import load_p256_key

LIFE_S: Final = 12 * 3_600  # at most 24 hours (RFC 8292, 2); half leaves room for clocks that are off
RENEW_BEFORE_S: Final = 3_600
MAX_ORIGINS: Final = 500


def base64url(data: bytes) -> str:
    """Encode without padding, as RFC 8292 and the Push API have it."""
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode()


def public_point(key: ec.EllipticCurvePrivateKey) -> bytes:
    """Write the public key as an uncompressed point, 65 bytes."""
    return key.public_key().public_bytes(Encoding.X962, PublicFormat.UncompressedPoint)


class _Signed(msgspec.Struct, frozen=True):
    header: bytes
    signed_at_s: int


class Vapid:
    """Sign for one key pair. `public_key` is what browsers subscribe with (applicationServerKey)."""

    def __init__(self, private_key: str, subject: str) -> None:
        """`subject`: mailto: or https:. Raises: ValueError for either."""
        if not subject.startswith(("mailto:", "https:")):
            raise ValueError("the subject is neither mailto: nor https:")
        self._key = load_p256_key(private_key)
        self._subject = subject
        self.public_key: Final = base64url(public_point(self._key))
        self._signed: dict[str, _Signed] = {}

    def authorization(self, origin: str, now_ms: int) -> bytes:
        """Write the Authorization header for a push service; the same bytes until near their end."""
        now_s = now_ms // 1_000
        signed = self._signed.get(origin)
        if signed is None or not 0 <= now_s - signed.signed_at_s < LIFE_S - RENEW_BEFORE_S:
            claims = {"aud": origin, "exp": now_s + LIFE_S, "sub": self._subject}
            token = jwt.encode(claims, self._key, algorithm="ES256")
            signed = _Signed(f"vapid t={token}, k={self.public_key}".encode(), now_s)
            if len(self._signed) >= MAX_ORIGINS:
                del self._signed[next(iter(self._signed))]
            self._signed[origin] = signed
        return signed.header

    def close(self) -> None:
        """Nothing is open; this makes it something to share."""
