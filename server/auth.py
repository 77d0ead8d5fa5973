"""Tokens, names and signatures: the pure half of the accounts. No clock, no I/O; `now_ms` is handed in.

Three kinds of token come in: `hb_…` (a log-in or a bot; 256 random bits, only its SHA-256 is stored) and JSON
Web Tokens that an app's own backend signs with its app secret. App secrets are not stored: they are
HMAC-SHA256(the server's secret, "app-key:" + app key), so that a copy of the database alone signs nothing in.
The price: who changes secret.key, changes every app secret.
"""

import base64
import hashlib
import hmac
import re
import secrets
import unicodedata
import zoneinfo
from functools import lru_cache
from typing import Final

import jwt
import msgspec

from protocol.errors import ProtocolError, Refused
from protocol.limits import MAX_NAME_CHARS

TOKEN_PREFIX: Final = "hb_"  # lets secret scanners and people recognise a leaked token
TOKEN_BYTES: Final = 32  # 256 bits: SHA-256 without salt is enough to store it
SECRET_BYTES: Final = 32  # as long as the hash it keys
MAX_TOKEN_CHARS: Final = 4096  # as hello allows
MAX_JWT_LIFE_MS: Final = 24 * 3600 * 1000  # cannot be revoked one by one, so it must end by itself
JWT_LEEWAY_MS: Final = 30_000  # clocks of two well-kept machines
MIN_PASSWORD_CHARS: Final = 8  # NIST SP 800-63B section 3.1.1
MAX_PASSWORD_CHARS: Final = 256  # long enough for any pass phrase; bounds the work of hashing
MIN_USERNAME_CHARS: Final = 2
MAX_USERNAME_CHARS: Final = 32
FILE_GRANT_MS: Final = 3600 * 1000  # a picture's address that leaks is useless within two hours

_RESERVED: Final = (
    "admin administrator root system hubbub support help helpdesk moderator mod staff official operator "
    "security abuse postmaster webmaster everyone all here channel group me you self null none undefined "
    "anonymous deleted unknown api www bot bots server service"
)
RESERVED_NAMES: Final = frozenset(_RESERVED.split())
# The scripts that are written together; everything else stays by itself (UTS #39, "highly restrictive").
_SCRIPT_SETS: Final = (
    frozenset({"LATIN", "CJK", "HIRAGANA", "KATAKANA", "KATAKANA-HIRAGANA"}),
    frozenset({"LATIN", "CJK", "BOPOMOFO"}),
    frozenset({"LATIN", "CJK", "HANGUL"}),
)
_LANGUAGE = re.compile(
    r"(?:[a-z]{2,3}(?:-[a-z]{3}){0,3}|[a-z]{4,8})(?:-[a-z]{4})?(?:-(?:[a-z]{2}|[0-9]{3}))?"
    r"(?:-(?:[a-z0-9]{5,8}|[0-9][a-z0-9]{3}))*(?:-[0-9a-wy-z](?:-[a-z0-9]{2,8})+)*(?:-x(?:-[a-z0-9]{1,8})+)?",
    re.IGNORECASE | re.ASCII,
)
_TIME_ZONE = re.compile(r"[A-Za-z][A-Za-z0-9_+-]*(?:/[A-Za-z0-9_+-]+){0,2}")
# The worst of every published list, beyond what the length rule keeps out.
_COMMON: Final = (
    "password password1 password12 password123 passw0rd p@ssw0rd p@ssword 12345678 123456789 1234567890 "
    "11111111 00000000 87654321 qwertyui qwertyuiop qwerty123 1q2w3e4r 1qaz2wsx abcdefgh abcd1234 abc12345 "
    "iloveyou sunshine princess football baseball superman trustno1 letmein1 welcome1 admin123 changeme "
    "changeme1 whatever starwars computer michelle jennifer 123123123 12341234 asdfghjk asdfasdf zxcvbnm1 "
    "hubbub123 correcthorsebatterystaple"
)
_COMMON_PASSWORDS: Final = frozenset(_COMMON.split())


# -- tokens -----------------------------------------------------------------------------------------


def new_id(prefix: str) -> str:
    """Make an id: a letter that says of what, and 96 random bits; never guessed, never met twice."""
    return f"{prefix}_{secrets.token_hex(12)}"


def new_token() -> str:
    """Make an opaque token. It is shown once; keep only `token_hash` of it."""
    return TOKEN_PREFIX + secrets.token_urlsafe(TOKEN_BYTES)


def token_hash(token: str) -> str:
    """Hash a token for storing and looking up."""
    return hashlib.sha256(token.encode("utf-8", "surrogatepass")).hexdigest()


def is_jwt(token: str) -> bool:
    """Tell a signed token of an app's backend from an opaque one."""
    return not token.startswith(TOKEN_PREFIX) and token.count(".") == 2


def _b64(raw: bytes) -> str:
    return base64.urlsafe_b64encode(raw).rstrip(b"=").decode()


def app_secret(server_secret: bytes, app_key: str) -> str:
    """Derive the secret of an app key; the same for ever, as long as the server's secret is."""
    return _b64(hmac.digest(server_secret, b"app-key:" + app_key.encode(), "sha256"))


def is_app_secret(server_secret: bytes, app_key: str, given: str) -> bool:
    """Compare in constant time."""
    return hmac.compare_digest(app_secret(server_secret, app_key).encode(), given.encode("utf-8", "replace"))


class UserClaims(msgspec.Struct, frozen=True):
    """What an app's backend says of its user; all but `sub` and `exp` matter only at the first use."""

    sub: str
    exp: float
    nbf: float = 0
    iat: float = 0
    name: str = ""
    username: str = ""
    avatar: str = ""
    language: str = ""
    time_zone: str = ""


def jwt_key_id(token: str) -> str:
    """Read, unverified, which app key a token claims to be signed with. Raises: Refused(unauthenticated)."""
    try:
        header = jwt.get_unverified_header(token)
    except jwt.PyJWTError:
        raise Refused("unauthenticated", "The token is not a JSON Web Token.") from None
    key_id = header.get("kid")
    if header.get("alg") != "HS256" or not isinstance(key_id, str) or not key_id:
        raise Refused("unauthenticated", "The token's header must have alg HS256 and the app key as kid.")
    return key_id


def verify_jwt(token: str, secret: str, now_ms: int) -> UserClaims:
    """Verify signature, times and shape. Raises: Refused(unauthenticated), saying what is wrong.

    The algorithm is pinned, and the times are compared here so that the clock can be handed in.
    """
    try:
        raw = jwt.decode(
            token,
            secret,
            algorithms=["HS256"],
            options={
                "require": ["exp", "sub"],
                "verify_exp": False,
                "verify_nbf": False,
                "verify_iat": False,
                "verify_aud": False,
            },
        )
        claims = msgspec.convert(raw, UserClaims)
    except jwt.InvalidSignatureError:
        raise Refused("unauthenticated", "The token's signature is wrong.") from None
    except (jwt.PyJWTError, msgspec.ValidationError) as exc:
        raise Refused("unauthenticated", f"The token cannot be used: {exc}.") from None
    if not 1 <= len(claims.sub) <= 255 or not claims.sub.isprintable():
        raise Refused("unauthenticated", "The token's sub must be 1 to 255 printable characters.")
    exp_ms = claims.exp * 1000  # compared as floats: nan and infinity fall through to a refusal
    if not exp_ms > now_ms - JWT_LEEWAY_MS:
        raise Refused("unauthenticated", "The token has expired.")
    if not exp_ms <= now_ms + MAX_JWT_LIFE_MS + JWT_LEEWAY_MS:
        raise Refused("unauthenticated", "The token's exp lies more than 24 hours ahead.")
    if not max(claims.nbf, claims.iat) * 1000 <= now_ms + JWT_LEEWAY_MS:
        raise Refused("unauthenticated", "The token is not valid yet; compare the clocks.")
    return claims


def sign_jwt(app_key: str, secret: str, claims: dict[str, str | int]) -> str:
    """Sign as an app's backend would; for tests, examples and the command line."""
    return jwt.encode(dict(claims), secret, algorithm="HS256", headers={"kid": app_key})


# -- addresses of files -----------------------------------------------------------------------------


def sign_file_grant(server_secret: bytes, app_id: str, now_ms: int) -> tuple[str, int]:
    """Make the `sig` that opens the files of one app for 1 to 2 hours, and its end in Unix ms.

    It ends on a full hour, so that everybody's addresses stay the same for an hour and browsers can cache.
    Whoever has it still must know a file's unguessable id.
    """
    expires_at_ms = (now_ms // FILE_GRANT_MS + 2) * FILE_GRANT_MS
    return f"{app_id}.{expires_at_ms}.{_grant_mac(server_secret, app_id, expires_at_ms)}", expires_at_ms


def verify_file_grant(server_secret: bytes, grant: str, now_ms: int) -> str:
    """Return the app that a `sig` opens. Raises: Refused(unauthenticated)."""
    app_id, _, rest = grant.partition(".")
    expires, _, mac = rest.partition(".")
    if not (expires.isascii() and expires.isdigit() and len(expires) <= 16):
        raise Refused("unauthenticated", "The sig is not one of this server's.")
    wanted = _grant_mac(server_secret, app_id, int(expires))
    if not hmac.compare_digest(wanted.encode(), mac.encode("utf-8", "replace")):
        raise Refused("unauthenticated", "The sig is not one of this server's.")
    if int(expires) <= now_ms:
        raise Refused("unauthenticated", "The sig has expired; get a new one from /v1/files/sig.")
    return app_id


def _grant_mac(server_secret: bytes, app_id: str, expires_at_ms: int) -> str:
    text = f"files:{app_id}:{expires_at_ms}".encode("utf-8", "replace")
    return _b64(hmac.digest(server_secret, text, "sha256"))


# -- names, passwords, profile ----------------------------------------------------------------------


def fold(text: str) -> str:
    """Fold a name for look-ups: what differs only in case or in presentation forms is the same."""
    return unicodedata.normalize("NFKC", unicodedata.normalize("NFKC", text).casefold())


def checked_username(raw: str, *, allow_reserved: bool = False) -> tuple[str, str]:
    """Return the user name as shown and its folded key.

    2 to 32 letters, digits, dots, hyphens and underscores of one script (or scripts that are written
    together), beginning with a letter or digit: so that nobody can pass for another by a look-alike from
    another alphabet. Raises: ProtocolError(bad_field), Refused(name_taken) for a reserved name.
    """
    shown = unicodedata.normalize("NFKC", raw.strip())
    if not MIN_USERNAME_CHARS <= len(shown) <= MAX_USERNAME_CHARS:
        raise ProtocolError("bad_field", "A user name has 2 to 32 characters.")
    if not shown[0].isalnum():
        raise ProtocolError("bad_field", "A user name begins with a letter or a digit.")
    scripts: set[str] = set()
    for char in shown:
        category = unicodedata.category(char)
        if char in "._-":
            continue
        if category == "Nd" and char.isascii():
            continue
        if category not in ("Ll", "Lu", "Lt", "Lo", "Lm", "Mn", "Mc"):
            raise ProtocolError(
                "bad_field", "A user name has only letters, digits, dots, hyphens and underscores."
            )
        if category[0] == "L":
            scripts.add(unicodedata.name(char, "UNKNOWN").split(" ")[0])
    if len(scripts) > 1 and not any(scripts <= together for together in _SCRIPT_SETS):
        raise ProtocolError("bad_field", "A user name must not mix letters of different alphabets.")
    key = fold(shown)
    if key in RESERVED_NAMES and not allow_reserved:
        raise Refused("name_taken", "This user name is reserved.")
    return shown, key


def checked_name(raw: str) -> str:
    """Return a display name: NFC, spaces tidied, no control or direction characters. Raises: bad_field."""
    shown = " ".join(unicodedata.normalize("NFC", raw).split())
    if not 1 <= len(shown) <= MAX_NAME_CHARS:
        raise ProtocolError("bad_field", f"A name has 1 to {MAX_NAME_CHARS} characters.")
    for char in shown:
        # Joiners (Cf) belong to emoji and to several scripts; marks that turn the text's direction do not.
        if (
            unicodedata.category(char) in ("Cc", "Cs", "Co", "Cn")
            or char in "\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069\u200e\u200f\ufeff"
        ):
            raise ProtocolError("bad_field", "A name must not have control characters.")
    return shown


def check_password(password: str, username: str) -> None:
    """Raise: Refused(weak_password), ProtocolError(bad_field) where it is too long to be hashed."""
    if len(password) > MAX_PASSWORD_CHARS:
        raise ProtocolError("bad_field", f"A password has at most {MAX_PASSWORD_CHARS} characters.")
    if len(password) < MIN_PASSWORD_CHARS:
        raise Refused("weak_password", f"A password has at least {MIN_PASSWORD_CHARS} characters.")
    folded = fold(password)
    if username and (folded == fold(username) or folded.replace(fold(username), "", 1).isdigit()):
        raise Refused("weak_password", "The password must not be the user name.")
    if folded in _COMMON_PASSWORDS or len(set(folded)) < 3:
        raise Refused("weak_password", "This password is among the first that anybody would try.")


def checked_language(raw: str) -> str:
    """Return a BCP 47 tag in its usual letter case (RFC 5646 section 2.1.1); empty stays empty.

    Raises: ProtocolError(bad_field).
    """
    if not raw:
        return ""
    if len(raw) > 35 or not _LANGUAGE.fullmatch(raw):
        raise ProtocolError("bad_field", f"{raw[:35]!r} is not a BCP 47 language tag such as en or pt-BR.")
    parts = raw.lower().split("-")
    seen_singleton = False
    for index, part in enumerate(parts[1:], start=1):
        seen_singleton = seen_singleton or len(parts[index - 1]) == 1
        if seen_singleton:
            continue
        if len(part) == 2:
            parts[index] = part.upper()
        elif len(part) == 4 and part.isalpha():
            parts[index] = part.title()
    return "-".join(parts)


@lru_cache(maxsize=1)
def _time_zones() -> frozenset[str]:
    return frozenset(zoneinfo.available_timezones())


def checked_time_zone(raw: str) -> str:
    """Return an IANA zone name that this machine knows; empty stays empty. Raises: ProtocolError(bad_field).

    On a machine without any time zone data only the shape can be checked.
    """
    zones = _time_zones()
    if not raw or raw in zones:
        return raw
    if zones or len(raw) > 64 or not _TIME_ZONE.fullmatch(raw):
        raise ProtocolError("bad_field", f"{raw[:64]!r} is not an IANA time zone such as Europe/Berlin.")
    return raw
