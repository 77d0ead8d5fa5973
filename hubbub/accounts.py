"""Accounts, log-ins and files over HTTP, and what an app's backend may do with its key.

async with hubbub.Accounts("http://127.0.0.1:8080") as accounts:
    login = await accounts.log_in("ann", password)
"""

import base64
import hashlib
import hmac
import json
import random
import ssl
import time
from collections.abc import AsyncIterator, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Final, TypeVar
from urllib.parse import quote

import httpx
import msgspec
import trio
from httpx import USE_CLIENT_DEFAULT

from hubbub.endpoint import split_urls
from hubbub.errors import RETRIED_CODES, error_from_reply
from hubbub.notifications import with_key
from hubbub.signing import SignedRequests
from protocol import replies as r
from protocol.codec import Wire, decode_server, encode_payload
from protocol.commands import Command, GetUsers
from protocol.errors import HubbubError, Refused, Unavailable
from protocol.http import (
    BotToken,
    ChangePassword,
    CreateBot,
    ErrorBody,
    FileInfo,
    IssueToken,
    LogIn,
    Me,
    ProvisionedUsers,
    ProvisionUser,
    ProvisionUsers,
    Sessions,
    SignedIn,
    SignUp,
    UpdateMe,
    Users,
)
from protocol.notify_content import NotifyRequest
from protocol.notify_replies import NotifyAccepted, RequestCancelled
from protocol.types import DeviceSession, Profile

TIMEOUT_S: Final = 30.0  # an upload's single write or a slow disk; the whole upload may take longer
MAX_TRIES: Final = 4  # at each address, of requests that came to no answer
LATER_FOR_S: Final = 20.0  # "later" is taken for an answer then; the death of a node is over sooner
MAX_RETRY_WAIT_S: Final = 15.0  # a longer wish is the caller's to grant
_TRY_ELSEWHERE: Final = frozenset(
    {"draining", "overloaded", "too_many_connections"}
)  # of one node, not of all

BodyT = TypeVar("BodyT")
ReplyT = TypeVar("ReplyT", bound=msgspec.Struct)


def http_base(url: str) -> str:
    """Turn any URL of a server's public port into the base of its HTTP API."""
    base = url if "://" in url else f"http://{url}"
    scheme, _, rest = base.partition("://")
    if scheme not in ("http", "https", "ws", "wss"):
        raise ValueError(f"{url!r}: accounts are managed over http:// or https://")
    host = rest.rstrip("/").removesuffix("/ws")
    return f"{'https' if scheme in ('https', 'wss') else 'http'}://{host}"


def http_bases(url: str | Sequence[str]) -> list[str]:
    """The same for several addresses of one cluster, in a list or with commas between them."""
    return list(dict.fromkeys(http_base(one) for one in split_urls(url)))


def sign_user_token(
    app_key: str, app_secret: str, external_id: str, *, ttl_s: int = 3600, **claims: str
) -> str:
    """Sign a user token as an app's backend does: JWT, HS256. `claims` may hold name, username, language.

    The user is known by `external_id`, the id in the app's own system, and is made at the first use.
    """
    now = int(time.time())
    header = {"alg": "HS256", "typ": "JWT", "kid": app_key}
    body = {"sub": external_id, "iat": now, "exp": now + ttl_s, **claims}
    signed = b".".join(_b64(json.dumps(part, separators=(",", ":")).encode()) for part in (header, body))
    mac = hmac.new(app_secret.encode(), signed, hashlib.sha256).digest()
    return (signed + b"." + _b64(mac)).decode()


def _root_of(exc: BaseException) -> BaseException:
    """Return where it began: httpx and httpcore wrap what the socket said, and drop its text."""
    while (cause := exc.__cause__ or exc.__context__) is not None:
        exc = cause
    return exc


def _b64(raw: bytes) -> bytes:
    return base64.urlsafe_b64encode(raw).rstrip(b"=")


class _Http:
    """Requests with typed bodies, errors with stable codes, and retries where the server asks for them.

    Of several addresses the one that answered last is asked, the next one where it does not.
    """

    def __init__(
        self,
        url: str | Sequence[str],
        *,
        ssl_context: ssl.SSLContext | None,
        auth: tuple[str, str] | None = None,
    ) -> None:
        self._bases = http_bases(url)
        is_tls = any(base.startswith("https:") for base in self._bases)
        if ssl_context is None and is_tls:
            ssl_context = ssl.create_default_context()  # what the system trusts, as connect() does
        self._client = httpx.AsyncClient(
            timeout=TIMEOUT_S,
            verify=ssl_context or False,  # False: there is no TLS, and reading certificates takes a while
            auth=httpx.BasicAuth(*auth) if auth is not None else None,
        )

    async def aclose(self) -> None:
        await self._client.aclose()

    @property
    def _base(self) -> str:
        return self._bases[0]

    def _turn_from(self, base: str) -> None:
        """Ask another address from now on, unless another task has seen to that."""
        if self._base == base:
            self._bases.append(self._bases.pop(0))

    async def _pause(self, attempt: int) -> None:
        """Wait a little once all addresses were asked, longer each time."""
        rounds, rest = divmod(attempt, len(self._bases))
        if rest == 0:
            await trio.sleep(0.2 * 2 ** (rounds - 1))

    async def request(
        self,
        method: str,
        path: str,
        *,
        body: msgspec.Struct | bytes | None = None,
        headers: dict[str, str] | None = None,
        is_safe: bool = True,
        auth: httpx.Auth | None = None,
    ) -> bytes:
        """Send a request and return the answer's body. `is_safe`: repeating it after silence does no harm.

        `auth`: instead of the client's own.

        Raises: HubbubError.
        """
        content = msgspec.json.encode(body) if isinstance(body, msgspec.Struct) else body
        sent_headers = {"Content-Type": "application/json"} if isinstance(body, msgspec.Struct) else {}
        sent_headers |= headers or {}
        tries = MAX_TRIES * len(self._bases)
        started = trio.current_time()
        attempt = 0
        while True:  # until it is answered, or nobody is there, or it is later than we wait
            base = self._base
            attempt += 1
            is_last = attempt == tries
            try:
                answer = await self._client.request(
                    method,
                    base + path,
                    content=content,
                    headers=sent_headers,
                    auth=auth or USE_CLIENT_DEFAULT,
                )
            except (httpx.ConnectError, httpx.ConnectTimeout) as exc:
                cause = _root_of(exc)
                if isinstance(cause, ssl.SSLCertVerificationError):
                    raise Refused(
                        "untrusted_certificate",
                        f"{base} is not trusted: {cause.verify_message}.",
                    ) from exc
                if is_last:
                    raise Unavailable("timeout", f"The server was not reached: {cause}") from exc
                self._turn_from(base)
                await self._pause(attempt)
                continue
            except httpx.HTTPError as exc:
                if is_last or not is_safe:
                    raise Unavailable("outcome_unknown", f"The connection broke: {exc!r}") from exc
                self._turn_from(base)
                await self._pause(attempt)
                continue
            if answer.status_code < 400:
                return answer.content
            attempt -= 1  # somebody is there
            error = _error_of(answer)
            if error.code in _TRY_ELSEWHERE:
                self._turn_from(base)
            wait_s = error.retry_after_s
            if error.code not in RETRIED_CODES or wait_s is None or wait_s > MAX_RETRY_WAIT_S:
                raise error
            wait_s += 0.5 * random.random()  # those who were refused together do not come back together
            if trio.current_time() - started + wait_s > LATER_FOR_S:
                raise error
            await trio.sleep(wait_s)

    async def ask(
        self,
        method: str,
        path: str,
        answer_type: type[BodyT],
        *,
        body: msgspec.Struct | bytes | None = None,
        headers: dict[str, str] | None = None,
        is_safe: bool = True,
        auth: httpx.Auth | None = None,
    ) -> BodyT:
        content = await self.request(method, path, body=body, headers=headers, is_safe=is_safe, auth=auth)
        try:
            return msgspec.json.decode(content, type=answer_type)
        except msgspec.DecodeError as exc:
            raise Refused("bad_request", f"{path} did not answer like a hubbub server: {exc}") from exc

    async def command(
        self, path: str, command: Command, reply_type: type[ReplyT], headers: dict[str, str]
    ) -> ReplyT:
        content = await self.request(
            "POST",
            path,
            body=encode_payload(command, Wire.JSON_WS),
            headers={"Content-Type": "application/json", **headers},
        )
        reply = decode_server(content, Wire.JSON_WS)
        if isinstance(reply, r.Error):
            raise error_from_reply(reply)
        if not isinstance(reply, reply_type):
            raise Refused("bad_request", f"The server answered with {type(reply).__name__}.")
        return reply

    def stream(self, path: str, headers: dict[str, str]) -> Any:
        return self._client.stream("GET", self._base + path, headers=headers)

    async def find_reachable(self) -> None:
        """Turn to an address that answers, for what cannot be tried again. Raises: Unavailable."""
        if len(self._bases) > 1:
            await self.request("GET", "/healthz")


def _error_of(answer: httpx.Response) -> HubbubError:
    try:
        body = msgspec.json.decode(answer.content, type=ErrorBody)
    except msgspec.DecodeError:
        code = "internal" if answer.status_code >= 500 else "bad_request"
        message = f"HTTP {answer.status_code} from {answer.request.url.host}; is this a hubbub server?"
        return error_from_reply(r.Error(code=code, message=message))
    return error_from_reply(r.Error(code=body.code, message=body.message, retry_after_s=body.retry_after_s))


class Accounts:
    """A person's account over HTTP. Signing up or logging in keeps the token for the calls after it.

    Raises, everywhere: Refused and Unavailable with the server's stable codes.
    """

    def __init__(
        self,
        url: str | Sequence[str],
        *,
        token: str = "",
        app_id: str = "",
        ssl_context: ssl.SSLContext | None = None,
    ) -> None:
        """`url`: any address of the public port; several of one cluster in a list or with commas."""
        self._http = _Http(url, ssl_context=ssl_context)
        self._app_id = app_id
        self.token = token

    async def __aenter__(self) -> "Accounts":
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, exc: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.aclose()

    async def aclose(self) -> None:
        """Close the connections to the server."""
        await self._http.aclose()

    @property
    def _bearer(self) -> dict[str, str]:
        if not self.token:
            raise Refused("unauthenticated", "Log in first.")
        return {"Authorization": f"Bearer {self.token}"}

    async def sign_up(
        self, username: str, password: str, *, name: str = "", device_name: str = ""
    ) -> SignedIn:
        """Make an account and sign in to it."""
        body = SignUp(
            username=username, password=password, name=name, app_id=self._app_id, device_name=device_name
        )
        done = await self._http.ask("POST", "/v1/signup", SignedIn, body=body, is_safe=False)
        self.token = done.token
        return done

    async def log_in(self, username: str, password: str, *, device_name: str = "") -> SignedIn:
        """Sign in with a password."""
        body = LogIn(username=username, password=password, app_id=self._app_id, device_name=device_name)
        done = await self._http.ask("POST", "/v1/login", SignedIn, body=body, is_safe=False)
        self.token = done.token
        return done

    async def log_out(self) -> None:
        """End this log-in."""
        await self._http.request("POST", "/v1/logout", headers=self._bearer)
        self.token = ""

    async def me(self) -> Me:
        """Read who the token stands for."""
        return await self._http.ask("GET", "/v1/me", Me, headers=self._bearer)

    async def update_me(
        self,
        *,
        name: str | None = None,
        avatar: str | None = None,
        language: str | None = None,
        time_zone: str | None = None,
    ) -> Profile:
        """Change the own profile; what is None stays."""
        body = UpdateMe(name=name, avatar=avatar, language=language, time_zone=time_zone)
        done = await self._http.ask("PATCH", "/v1/me", Users, body=body, headers=self._bearer)
        return done.items[0]

    async def change_password(self, old_password: str, new_password: str) -> None:
        """Change the own password; every other log-in ends."""
        body = ChangePassword(old_password=old_password, new_password=new_password)
        await self._http.request("POST", "/v1/me/password", body=body, headers=self._bearer, is_safe=False)

    async def sessions(self) -> list[DeviceSession]:
        """List the own log-ins."""
        return (await self._http.ask("GET", "/v1/sessions", Sessions, headers=self._bearer)).items

    async def revoke_session(self, session_id: str) -> None:
        """End one log-in."""
        await self._http.request("DELETE", f"/v1/sessions/{quote(session_id)}", headers=self._bearer)

    async def users(self, user_ids: Sequence[str]) -> list[Profile]:
        """Read profiles by id."""
        return (await self.command(GetUsers(id=1, user_ids=list(user_ids)), r.ProfileList)).items

    async def command(self, command: Command, reply_type: type[ReplyT]) -> ReplyT:
        """Carry out one command of the protocol without a connection."""
        return await self._http.command("/v1/commands", command, reply_type, self._bearer)

    async def create_bot(self, username: str, *, name: str = "") -> BotToken:
        """Make a bot of one's own; its token is shown this once."""
        body = CreateBot(username=username, name=name)
        return await self._http.ask(
            "POST", "/v1/bots", BotToken, body=body, headers=self._bearer, is_safe=False
        )

    async def bots(self) -> list[Profile]:
        """List the own bots."""
        return (await self._http.ask("GET", "/v1/bots", Users, headers=self._bearer)).items

    async def upload(self, data: bytes, *, name: str, media_type: str = "") -> FileInfo:
        """Store a file; hang it on a message by `file_ids`."""
        headers = {**self._bearer, "Content-Type": media_type or "application/octet-stream"}
        return await self._http.ask(
            "POST", f"/v1/files?name={quote(name)}", FileInfo, body=data, headers=headers
        )

    async def upload_file(self, path: Path, *, media_type: str = "") -> FileInfo:
        """Store a file of this machine."""
        data = await trio.Path(path).read_bytes()
        return await self.upload(data, name=path.name, media_type=media_type)

    async def file_info(self, file_id: str) -> FileInfo:
        """Read a file's name, type and size."""
        return await self._http.ask("GET", f"/v1/files/{quote(file_id)}/info", FileInfo, headers=self._bearer)

    async def download(self, file_id: str) -> bytes:
        """Read a file whole."""
        return b"".join([chunk async for chunk in self.download_chunks(file_id)])

    async def download_chunks(self, file_id: str) -> AsyncIterator[bytes]:
        """Read a file piece by piece: it may be larger than the memory at hand."""
        await self._http.find_reachable()
        async with self._http.stream(f"/v1/files/{quote(file_id)}", self._bearer) as answer:
            if answer.status_code >= 400:
                await answer.aread()
                raise _error_of(answer)
            async for chunk in answer.aiter_bytes():
                yield chunk


class AppBackend:
    """What an app's own backend does with its key and secret: its users, their tokens, its bots."""

    def __init__(
        self,
        url: str | Sequence[str],
        app_key: str,
        app_secret: str,
        *,
        ssl_context: ssl.SSLContext | None = None,
    ) -> None:
        self._http = _Http(url, ssl_context=ssl_context, auth=(app_key, app_secret))
        self._app_key = app_key
        self._app_secret = app_secret
        self._signed = SignedRequests(app_key, app_secret)

    async def __aenter__(self) -> "AppBackend":
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, exc: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self._http.aclose()

    def user_token(self, external_id: str, *, ttl_s: int = 3600, **claims: str) -> str:
        """Sign a token for one of the app's users; no request is made."""
        return sign_user_token(self._app_key, self._app_secret, external_id, ttl_s=ttl_s, **claims)

    async def provision(self, users: Sequence[ProvisionUser]) -> ProvisionedUsers:
        """Make or find up to 500 users by the ids of the app's own system. Safe to repeat."""
        return await self._http.ask(
            "POST", "/v1/app/users", ProvisionedUsers, body=ProvisionUsers(users=list(users))
        )

    async def issue_token(self, user_id: str, *, ttl_s: int = 3600) -> SignedIn:
        """Sign a user in by user id."""
        body = IssueToken(user_id=user_id, ttl_s=ttl_s)
        return await self._http.ask("POST", "/v1/app/tokens", SignedIn, body=body)

    async def create_bot(self, username: str, *, name: str = "") -> BotToken:
        """Make a bot that belongs to the app; its token is shown this once."""
        body = CreateBot(username=username, name=name)
        return await self._http.ask("POST", "/v1/app/bots", BotToken, body=body, is_safe=False)

    async def notify(self, request: NotifyRequest) -> NotifyAccepted:
        """Notify users of the app, once however often it has to be tried. The request is signed.

        Without an `idempotency_key` it gets one of its own; a backend that may be interrupted chooses one.
        """
        return await self._http.ask(
            "POST", "/v1/notifications", NotifyAccepted, body=with_key(request), auth=self._signed
        )

    async def cancel_notifications(self, request_id: str) -> RequestCancelled:
        """Cancel a request to notify, by the id that `notify` told; signed, and safe to repeat.

        The counts tell for how many users that was in time. Raises: Refused(request_not_found).
        """
        path = f"/v1/notifications/requests/{quote(request_id, safe='')}"
        return await self._http.ask("DELETE", path, RequestCancelled, auth=self._signed)

    async def command_as(self, user_id: str, command: Command, reply_type: type[ReplyT]) -> ReplyT:
        """Carry out one command as one of the app's users."""
        return await self._http.command("/v1/app/commands", command, reply_type, {"X-Hubbub-User": user_id})
