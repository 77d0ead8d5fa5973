"""The outermost layer of the HTTP API: whose request it is, how often, how it looked from outside.

Plain ASGI around the framework: rate limit by address, security headers on every answer, one log line per
request, and a last answer for what nobody caught. Query strings and headers are never logged: tokens ride
in them.
"""

import logging
import re
from collections.abc import Callable, Collection
from typing import Any, Final, cast

import structlog
import trio
from litestar.types import ASGIApp, Message, Receive, Scope, Send

from protocol.errors import HubbubError, Unavailable
from server.http.errors import answer
from server.ratelimit import AddressRates, Rate, client_address, trusted_networks

log: structlog.stdlib.BoundLogger = structlog.get_logger("http")

BODY_TIMEOUT_S: Final = 30.0  # a phone in a tunnel
MAX_DISCARDED_BYTES: Final = 1024 * 1024  # cheaper than a new connection
MAX_LOGGED_PATH_CHARS: Final = 200
NEVER_LIMITED: Final = frozenset({"/healthz", "/readyz"})  # a probe that is refused restarts a healthy node
# No script, style or picture but our own; nothing inline, no plug-ins, no frames around us.
PAGE_POLICY: Final = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data: blob:; "
    "media-src 'self' blob:; font-src 'self'; connect-src 'self'; manifest-src 'self'; worker-src 'self'; "
    "base-uri 'none'; form-action 'self'; frame-ancestors 'none'"
)
MAX_POLICY_ORIGINS: Final = 24  # 120 bytes each; proxies take headers of 4 KB
SECURITY_HEADERS: Final[tuple[tuple[bytes, bytes], ...]] = (
    (b"x-content-type-options", b"nosniff"),
    (b"referrer-policy", b"no-referrer"),  # an address with a sig goes nowhere else
    (b"x-frame-options", b"DENY"),
    (b"cross-origin-opener-policy", b"same-origin"),
    (b"permissions-policy", b"geolocation=(), camera=(), microphone=(), payment=()"),
)
_CONTROL = re.compile(r"[^\x20-\x7e\u00a0-\U0010ffff]")


def page_policy(cluster_origins: Collection[str]) -> str:
    """Let a page reach the other nodes of its cluster, besides its own: where its own is gone, it must.

    Not for ever so many: every page's headers would grow beyond what proxies take. Not to bare IPv6
    addresses: the policy's grammar has none.
    """
    nodes = [origin for origin in cluster_origins if "[" not in origin][:MAX_POLICY_ORIGINS]
    if not nodes:
        return PAGE_POLICY
    sockets = [f"ws{origin.removeprefix('http')}" for origin in nodes]
    policy = PAGE_POLICY
    for source, extra in (("img-src 'self'", nodes), ("media-src 'self'", nodes)):
        policy = policy.replace(source, " ".join((source, *extra)))
    return policy.replace("connect-src 'self'", " ".join(("connect-src 'self'", *nodes, *sockets)))


class Edge:
    """Wrap an ASGI app; call it as one."""

    def __init__(
        self,
        app: ASGIApp,
        *,
        rate: Rate,
        trusted_proxies: tuple[str, ...],
        is_tls: bool,
        unlimited: tuple[str, ...] = (),
        cluster_origins: Callable[[], Collection[str]] = frozenset,
    ) -> None:
        self._app = app
        self._cluster_origins = cluster_origins
        self._rates = AddressRates(rate)
        self._is_trusted = trusted_networks(trusted_proxies)
        self._is_unlimited = trusted_networks(unlimited)
        self._headers = SECURITY_HEADERS
        if is_tls:
            # Half a year; not for subdomains, which may be somebody else's.
            self._headers += ((b"strict-transport-security", b"max-age=15768000"),)

    async def __call__(self, scope: dict[str, Any], receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(cast("Scope", scope), receive, send)
            return
        started = trio.current_time()
        peer = scope["client"][0] if scope.get("client") else ""
        headers = dict(scope["headers"])
        address = client_address(
            peer, headers.get(b"x-forwarded-for", b"").decode("latin-1"), self._is_trusted
        )
        scope["client"] = (address, 0)
        who: dict[str, str] = {}
        scope["hubbub_who"] = who
        scope["hubbub_was_forwarded"] = b"x-forwarded-for" in headers or b"forwarded" in headers
        status = 0
        body = _Body(headers, receive)

        async def send_on(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                present = {name.lower() for name, _ in message["headers"]}
                more = [pair for pair in self._headers if pair[0] not in present]
                if b"content-security-policy" not in present:
                    is_page = dict(message["headers"]).get(b"content-type", b"").startswith(b"text/html")
                    policy = page_policy(self._cluster_origins()) if is_page else PAGE_POLICY
                    more.append((b"content-security-policy", policy.encode()))
                if b"cache-control" not in present:
                    more.append((b"cache-control", b"no-store"))
                if not body.is_whole:  # refused before it was read
                    await body.discard(MAX_DISCARDED_BYTES)
                    if not body.is_whole:
                        more.append((b"connection", b"close"))
                message["headers"] = [*message["headers"], *more]
            await send(message)

        try:
            is_limited = scope["path"] not in NEVER_LIMITED and not self._is_unlimited(address)
            if is_limited and not self._rates.take(address, started):
                wait_s = self._rates.retry_after_s(address, started)
                await refuse(send_on, Unavailable("rate_limited", retry_after_s=max(wait_s, 0.1)))
            else:
                await self._app(cast("Scope", scope), body.receive, send_on)
        except Exception:
            # The framework answers all it knows of; this is a bug in it or in our own handlers for errors.
            log.exception("http_request_crashed")
            if status == 0:
                await refuse(send_on, Unavailable("internal"))
        else:
            await body.discard(4 * MAX_DISCARDED_BYTES)  # so that the client reads the answer first
        finally:
            path = _CONTROL.sub("?", scope["path"])[:MAX_LOGGED_PATH_CHARS]
            # A busy node serves more than anybody reads; what was refused is few, and what broke is ours.
            is_ok = 200 <= status < 400
            log.log(
                logging.DEBUG if is_ok else logging.WARNING if status >= 500 else logging.INFO,
                "http_request_served",
                method=scope["method"],
                path=path,
                status=status,  # 0: the client left before there was one
                duration_ms=round((trio.current_time() - started) * 1000, 1),
                address=address,
                **who,
            )


class _Body:
    """A request's body on its way to the app, and what is left of it when the app has answered.

    Who sends a byte a minute would hold a task: after BODY_TIMEOUT_S of nothing the client counts as gone.
    A body that nobody reads would block its connection, as the next request stands behind it.
    """

    def __init__(self, headers: dict[bytes, bytes], receive: Receive) -> None:
        self._receive = receive
        self.is_whole = headers.get(b"content-length", b"0") == b"0" and b"transfer-encoding" not in headers

    async def receive(self) -> Any:
        if self.is_whole:  # now it waits for the client to leave, for as long as the answer takes
            return await self._receive()
        message: Any = {"type": "http.disconnect"}
        with trio.move_on_after(BODY_TIMEOUT_S):
            message = await self._receive()
        self.is_whole = not message.get("more_body", False)
        return message

    async def discard(self, max_bytes: int) -> None:
        """Read on and throw away, for a second at most."""
        with trio.move_on_after(1.0):
            while not self.is_whole and max_bytes > 0:
                max_bytes -= len((await self.receive()).get("body", b""))


async def refuse(send: Send, exc: HubbubError) -> None:
    """Send the answer to an error without the framework."""
    status, body, headers = answer(exc)
    raw = [(name.encode(), value.encode()) for name, value in headers.items()]
    raw += [(b"content-type", b"application/json"), (b"content-length", str(len(body)).encode())]
    start: Any = {"type": "http.response.start", "status": status, "headers": raw}
    await send(start)
    await send({"type": "http.response.body", "body": body, "more_body": False})
