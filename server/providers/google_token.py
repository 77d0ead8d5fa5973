"""Access tokens of a Google service account: a signed grant, exchanged at the token endpoint.

RFC 7523 (JWT bearer grant) as developers.google.com/identity/protocols/oauth2/service-account has it.
"""

from collections.abc import Callable
from typing import Final, Literal
from urllib.parse import urlencode

import jwt
import msgspec
import trio
from cryptography.hazmat.primitives.asymmetric import rsa
from cryptography.hazmat.primitives.serialization import load_pem_private_key

from server.providers.connection_pool import ConnectionPool, backoff_s
from server.providers.exchange import Request, RequestFailed, Response
from server.providers.limits import Limits

SCOPE: Final = "https://www.googleapis.com/auth/firebase.messaging"
GRANT_TYPE: Final = "urn:ietf:params:oauth:grant-type:jwt-bearer"
GRANT_LIFE_S: Final = 3_600  # Google allows an hour at most
RENEW_BEFORE_MS: Final = 300_000
_FORM: Final = ((b"content-type", b"application/x-www-form-urlencoded"),)


class AccessToken(msgspec.Struct, frozen=True):
    """A bearer token, and the Unix ms from when on another one is wanted."""

    value: str
    fetched_at_ms: int
    renew_at_ms: int


class TokenRefused(Exception):
    """No token. `action`: `break` where Google refused the account, `retry` where nothing came."""

    def __init__(
        self,
        action: Literal["break", "retry"],
        code: str,
        detail: str = "",
        retry_after_s: float | None = None,
    ) -> None:
        super().__init__(f"{code}: {detail}")
        self.action: Final = action
        self.code = code
        self.detail = detail
        self.retry_after_s = retry_after_s


class _Granted(msgspec.Struct, frozen=True):
    access_token: str
    expires_in: int = 3_600


class _Denied(msgspec.Struct, frozen=True):
    error: str = ""
    error_description: str = ""


def judge_token(response: Response, now_ms: int) -> AccessToken | TokenRefused:
    """Read the endpoint's answer: a token, or why there is none."""
    if response.status == 200:
        try:
            granted = msgspec.json.decode(response.body, type=_Granted)
        except (msgspec.DecodeError, UnicodeDecodeError):
            return TokenRefused("retry", "token_unreadable")
        life_ms = max(0, granted.expires_in) * 1_000
        renew_at_ms = now_ms + max(life_ms - RENEW_BEFORE_MS, life_ms // 2)
        return AccessToken(granted.access_token, now_ms, renew_at_ms)
    try:
        denied = msgspec.json.decode(response.body, type=_Denied)
    except (msgspec.DecodeError, UnicodeDecodeError):
        denied = _Denied()
    is_final = 400 <= response.status < 500 and response.status not in (408, 429)
    code = denied.error[:100] or f"token_{response.status}"
    return TokenRefused("break" if is_final else "retry", code, denied.error_description[:300])


class GoogleToken:
    """Hold the token of one account. One fetch at a time, whoever waits for it."""

    def __init__(
        self,
        client_email: str,
        private_key: str,
        audience: str,
        path: str,
        *,
        pool: ConnectionPool,
        nursery: trio.Nursery,
        limits: Limits,
        now_ms: Callable[[], int],
    ) -> None:
        """`audience`: the token endpoint as the account names it; `path`: of its URL. Raises: ValueError."""
        try:
            key = load_pem_private_key(private_key.encode(), password=None)
        except (ValueError, TypeError) as exc:
            raise ValueError("the private key is not PEM, or is locked by a password") from exc
        if not isinstance(key, rsa.RSAPrivateKey):
            raise ValueError("the private key is not one of RSA")  # noqa: TRY004 - the text was wrong
        self._key = key
        self._client_email = client_email
        self._audience = audience
        self._path = path.encode()
        self._pool = pool
        self._nursery = nursery
        self._limits = limits
        self._now_ms = now_ms
        self._token: AccessToken | None = None
        self._fetched: trio.Event | None = None  # set when the fetch that runs has ended
        self._failure: TokenRefused | None = None
        self._failure_count = 0
        self._not_before = 0.0

    async def get(self) -> AccessToken:
        """Return a token that lives for minutes yet. A cancelled call leaves the fetch to the others.

        Raises: TokenRefused; after one, no fetch is tried for a while.
        """
        now_ms = self._now_ms()
        token = self._token
        if token is not None and token.fetched_at_ms <= now_ms < token.renew_at_ms:
            return token
        if self._fetched is None:
            wait_s = self._not_before - trio.current_time()
            if self._failure is not None and wait_s > 0:
                failed = self._failure
                raise TokenRefused(failed.action, failed.code, failed.detail, wait_s)
            self._fetched = trio.Event()
            self._nursery.start_soon(self._fetch, self._fetched)
        await self._fetched.wait()
        if self._token is None:
            raise self._failure or TokenRefused("retry", "token_timeout")
        return self._token

    def drop(self, used: AccessToken) -> None:
        """Do not use this one any more: it was refused."""
        if self._token is used:
            self._token = None

    def close(self) -> None:
        """Close the connections to the endpoint."""
        self._pool.close()

    def grant(self, now_ms: int) -> str:
        """Sign what is exchanged for a token."""
        now_s = now_ms // 1_000
        claims = {
            "iss": self._client_email,
            "scope": SCOPE,
            "aud": self._audience,
            "iat": now_s,
            "exp": now_s + GRANT_LIFE_S,
        }
        return jwt.encode(claims, self._key, algorithm="RS256")

    async def _fetch(self, fetched: trio.Event) -> None:
        result: AccessToken | TokenRefused = TokenRefused("retry", "token_cancelled")
        try:
            now_ms = self._now_ms()
            form = urlencode({"grant_type": GRANT_TYPE, "assertion": self.grant(now_ms)}).encode()
            length = (b"content-length", b"%d" % len(form))
            try:
                result = judge_token(
                    await self._pool.request(Request(self._path, _FORM, (length,), form)), now_ms
                )
            except RequestFailed as exc:  # unknown or not: asking again does no harm
                result = TokenRefused("retry", f"token_{exc.code}", exc.detail, exc.retry_after_s)
        finally:
            if isinstance(result, AccessToken):
                self._token, self._failure, self._failure_count = result, None, 0
            else:
                self._token, self._failure = None, result
                self._failure_count += 1
                self._not_before = trio.current_time() + backoff_s(self._failure_count, self._limits)
            self._fetched = None
            fetched.set()
