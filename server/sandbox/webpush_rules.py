"""What a Web Push service checks of one message, as pure functions.

Sources: RFC 8030 (TTL, Urgency, Topic), RFC 8188 and 8291 (aes128gcm), RFC 8292 (VAPID).
"""

import base64
import binascii
import re
from typing import Final, TypeGuard

import jwt
import msgspec
from cryptography.hazmat.primitives.asymmetric import ec

from server.providers import aes128gcm
from server.sandbox.exchange import Request

MAX_BODY_BYTES: Final = 4_096  # RFC 8030 section 7.2: a service must take these; most take no more
MAX_TTL_S: Final = 2_592_000  # what Mozilla's service grants at most; it answers with the TTL it took
MAX_VAPID_AGE_S: Final = 86_400
_EXPIRY_SKEW_S: Final = 5
_URGENCIES: Final = frozenset({"very-low", "low", "normal", "high"})
_TOPIC: Final = re.compile(r"[A-Za-z0-9_-]{1,32}\Z")
_SUBJECT: Final = re.compile(r"(?:mailto:[^@\s]+@[^@\s]+|https://\S+)\Z")
_HEADER_BYTES: Final = 16 + 4 + 1 + 65  # salt, record size, key id length, the sender's P-256 point


class PushRefusal(Exception):
    """The push service says no. `errno` is Mozilla's finer word for it."""

    def __init__(self, status: int, errno: int, message: str) -> None:
        super().__init__(message)
        self.status = status
        self.errno = errno
        self.message = message


class PushHead(msgspec.Struct, frozen=True, kw_only=True):
    """Headers that are well-formed."""

    ttl_s: int
    urgency: str
    topic: str


def read_head(request: Request) -> PushHead:
    """Check method, body size and headers. Raises: PushRefusal."""
    headers = request.headers
    if request.method != "POST":
        raise PushRefusal(405, 104, "Messages are sent by POST.")
    if len(request.body) > MAX_BODY_BYTES:
        raise PushRefusal(413, 104, f"The body is larger than {MAX_BODY_BYTES} bytes.")
    ttl = headers.get("ttl", "")
    if not ttl:
        raise PushRefusal(400, 111, "TTL is missing (RFC 8030 section 5.2).")
    if not (ttl.isascii() and ttl.isdigit() and len(ttl) <= 10):
        raise PushRefusal(400, 112, "TTL is not a number of seconds.")
    urgency = headers.get("urgency", "normal")
    if urgency not in _URGENCIES:
        raise PushRefusal(400, 104, "Urgency is very-low, low, normal or high.")
    topic = headers.get("topic", "")
    if "topic" in headers and not _TOPIC.match(topic):
        raise PushRefusal(400, 113, "Topic is 1 to 32 characters of base64url.")
    encoding = headers.get("content-encoding", "")
    if request.body and encoding != "aes128gcm":
        raise PushRefusal(400, 110, "Content-Encoding is aes128gcm (RFC 8291).")
    return PushHead(ttl_s=min(int(ttl), MAX_TTL_S), urgency=urgency, topic=topic)


def check_vapid(authorization: str, *, origin: str, now_s: float) -> bytes:
    """Check a VAPID header; returns the sender's public key, as 65 bytes. Raises: PushRefusal."""
    scheme, _, rest = authorization.partition(" ")
    if not authorization:
        raise PushRefusal(401, 109, "Authorization is missing (RFC 8292).")
    parts = dict(part.strip().partition("=")[::2] for part in rest.split(","))
    if scheme.lower() != "vapid" or not parts.get("t") or not parts.get("k"):
        raise PushRefusal(401, 109, "Authorization is `vapid t=…, k=…`.")
    try:
        point = unbase64(parts["k"])
        key = ec.EllipticCurvePublicKey.from_encoded_point(ec.SECP256R1(), point)
    except ValueError:
        raise PushRefusal(403, 109, "k is no P-256 point.") from None
    try:
        claims = jwt.decode(
            parts["t"],
            key,
            algorithms=["ES256"],
            options={"verify_aud": False, "verify_exp": False, "verify_iat": False, "verify_sub": False},
        )
    except jwt.PyJWTError as exc:
        raise PushRefusal(403, 109, f"The token cannot be verified: {exc}.") from None
    if claims.get("aud") != origin:
        raise PushRefusal(403, 109, f"aud is not this service's origin, {origin}.")
    ends_s = claims.get("exp")
    if not is_number(ends_s):
        raise PushRefusal(403, 109, "exp is missing.")
    if ends_s <= now_s:
        raise PushRefusal(403, 109, "The token has expired.")
    if ends_s > now_s + MAX_VAPID_AGE_S + _EXPIRY_SKEW_S:
        raise PushRefusal(403, 109, "exp is more than 24 hours ahead.")
    subject = claims.get("sub", "")
    if not isinstance(subject, str) or not _SUBJECT.match(subject):
        raise PushRefusal(403, 109, "sub is a mailto: or https: URI.")
    return point


def decrypt(body: bytes, key: ec.EllipticCurvePrivateKey, auth: bytes) -> bytes:
    """Decrypt as the browser would (RFC 8291); an empty body stays one. Raises: PushRefusal."""
    if not body:
        return b""
    if len(body) < _HEADER_BYTES or body[20] != 65:
        raise PushRefusal(400, 110, "The body has no aes128gcm header with a P-256 point (RFC 8291).")
    record_bytes = int.from_bytes(body[16:20], "big")
    if len(body) - _HEADER_BYTES > record_bytes:
        raise PushRefusal(400, 110, "The message has more than one record (RFC 8291 section 4).")
    try:
        return aes128gcm.decrypt(body, private_key=key, auth=auth)
    except ValueError as exc:
        raise PushRefusal(400, 110, f"The receiver cannot decrypt it: {exc}.") from None


def is_number(value: object) -> TypeGuard[float]:
    """Tell whether a claim is a number; true and false are none."""
    return type(value) in {int, float}


def base64url(data: bytes) -> str:
    """Encode without padding."""
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode()


def unbase64(text: str) -> bytes:
    """Decode base64url, padded or not. Raises: ValueError."""
    try:
        return base64.b64decode(text + "=" * (-len(text) % 4), altchars=b"-_", validate=True)
    except binascii.Error as exc:
        raise ValueError(str(exc)) from exc
