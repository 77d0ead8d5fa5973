"""The content coding aes128gcm (RFC 8188) with the keys of Web Push (RFC 8291). Pure.

Our own, as the one library for it comes as a source archive only, and what we install comes as wheels; tests
hold it against the RFC's vector, and against Node's cryptography.
"""

import hmac
from typing import Final

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

TAG_BYTES: Final = 16
_SALT_BYTES: Final = 16
_POINT_BYTES: Final = 65
_HEADER_BYTES: Final = _SALT_BYTES + 4 + 1 + _POINT_BYTES


def encrypt(
    plaintext: bytes,
    *,
    private_key: ec.EllipticCurvePrivateKey,
    receiver: bytes,
    auth: bytes,
    salt: bytes,
    record_bytes: int,
) -> bytes:
    """Encrypt for the receiver's P-256 point. Raises: ValueError for a bad point or size."""
    if record_bytes <= TAG_BYTES + 1:
        raise ValueError("records are too small to hold anything")
    own = _point(private_key.public_key())
    cipher, nonce = _cipher(private_key, receiver, auth, salt, receiver_point=receiver, sender_point=own)
    room = record_bytes - TAG_BYTES - 1
    chunks = [plaintext[start : start + room] for start in range(0, len(plaintext), room)] or [b""]
    records = b"".join(
        cipher.encrypt(_nonce(nonce, seq), chunk + (b"\x02" if seq == len(chunks) - 1 else b"\x01"), None)
        for seq, chunk in enumerate(chunks)
    )
    return salt + record_bytes.to_bytes(4, "big") + bytes((_POINT_BYTES,)) + own + records


def decrypt(body: bytes, *, private_key: ec.EllipticCurvePrivateKey, auth: bytes) -> bytes:
    """Decrypt as the receiver. Raises: ValueError for whatever is not well formed, or not for this key."""
    if len(body) <= _HEADER_BYTES or body[_SALT_BYTES + 4] != _POINT_BYTES:
        raise ValueError("no header with a P-256 point")
    salt, sender = body[:_SALT_BYTES], body[_SALT_BYTES + 5 : _HEADER_BYTES]
    record_bytes = int.from_bytes(body[_SALT_BYTES : _SALT_BYTES + 4], "big")
    if record_bytes <= TAG_BYTES + 1:
        raise ValueError("records are too small to hold anything")
    own = _point(private_key.public_key())
    cipher, nonce = _cipher(private_key, sender, auth, salt, receiver_point=own, sender_point=sender)
    records = body[_HEADER_BYTES:]
    starts = range(0, len(records), record_bytes)
    plain: list[bytes] = []
    for seq, start in enumerate(starts):
        try:
            padded = cipher.decrypt(_nonce(nonce, seq), records[start : start + record_bytes], None)
        except InvalidTag:
            raise ValueError("the message is not for this key, or was changed") from None
        content = padded.rstrip(b"\x00")
        if content[-1:] != (b"\x02" if seq == len(starts) - 1 else b"\x01"):
            raise ValueError("a record has no delimiter, or the last one is missing")
        plain.append(content[:-1])
    return b"".join(plain)


def _point(key: ec.EllipticCurvePublicKey) -> bytes:
    return key.public_bytes(Encoding.X962, PublicFormat.UncompressedPoint)


def _cipher(
    own: ec.EllipticCurvePrivateKey,
    other: bytes,
    auth: bytes,
    salt: bytes,
    *,
    receiver_point: bytes,
    sender_point: bytes,
) -> tuple[AESGCM, bytes]:
    """Derive key and nonce (RFC 8291 section 3.4, RFC 8188 section 2.2). Raises: ValueError off the curve."""
    secret = own.exchange(ec.ECDH(), ec.EllipticCurvePublicKey.from_encoded_point(ec.SECP256R1(), other))
    ikm = _expanded(_mac(auth, secret), b"WebPush: info\x00" + receiver_point + sender_point, 32)
    prk = _mac(salt, ikm)
    key = _expanded(prk, b"Content-Encoding: aes128gcm\x00", 16)
    return AESGCM(key), _expanded(prk, b"Content-Encoding: nonce\x00", 12)


def _mac(key: bytes, message: bytes) -> bytes:
    return hmac.digest(key, message, "sha256")


def _expanded(prk: bytes, info: bytes, size: int) -> bytes:
    """HKDF-Expand of one block (RFC 5869)."""
    return _mac(prk, info + b"\x01")[:size]


def _nonce(base: bytes, seq: int) -> bytes:
    return (int.from_bytes(base, "big") ^ seq).to_bytes(12, "big")
