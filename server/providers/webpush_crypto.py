"""What a push service may not read: message encryption for Web Push (RFC 8291, over RFC 8188)."""

import base64
import binascii
import secrets
from typing import Final

import msgspec
from cryptography.hazmat.primitives.asymmetric import ec

from server.providers.aes128gcm import encrypt

RECORD_BYTES: Final = 4_096
# A push service has to take 4,096 bytes (RFC 8030, 7.2): less header 86, tag 16, delimiter 1. More would
# be a second record, and browsers read one only.
MAX_PLAINTEXT_BYTES: Final = 3_993
_POINT_BYTES: Final = 65
_AUTH_BYTES: Final = 16


class SubscriptionKeys(msgspec.Struct, frozen=True):
    """What a browser gave with its subscription: its public key, and a shared secret."""

    p256dh: bytes
    auth: bytes


def subscription_keys(keys: dict[str, str]) -> SubscriptionKeys:
    """Read p256dh and auth, base64url with or without padding. Raises: ValueError."""
    p256dh, auth = _decoded(keys.get("p256dh", "")), _decoded(keys.get("auth", ""))
    if len(p256dh) != _POINT_BYTES or p256dh[0] != 4:
        raise ValueError("p256dh is not an uncompressed point of P-256")
    if len(auth) != _AUTH_BYTES:
        raise ValueError("auth has not 16 bytes")
    return SubscriptionKeys(p256dh, auth)


def encrypted(
    plaintext: bytes,
    keys: SubscriptionKeys,
    *,
    private_key: ec.EllipticCurvePrivateKey | None = None,
    salt: bytes | None = None,
) -> bytes:
    """Encrypt for one subscription: a whole aes128gcm body, of one record.

    Key and salt are fresh for each message; only a test vector hands them in. Raises: ValueError for too much
    plaintext or none, or a key that is not on the curve.
    """
    if not 0 < len(plaintext) <= MAX_PLAINTEXT_BYTES:
        raise ValueError(f"not 1 to {MAX_PLAINTEXT_BYTES} bytes")
    return encrypt(
        plaintext,
        private_key=private_key or ec.generate_private_key(ec.SECP256R1()),
        receiver=keys.p256dh,
        auth=keys.auth,
        salt=salt or secrets.token_bytes(16),
        record_bytes=RECORD_BYTES,
    )


def _decoded(text: str) -> bytes:
    try:
        plain = text.rstrip("=").encode("ascii")
        return base64.b64decode(plain + b"=" * (-len(plain) % 4), altchars=b"-_", validate=True)
    except (binascii.Error, UnicodeEncodeError) as exc:
        raise ValueError("not base64url") from exc
