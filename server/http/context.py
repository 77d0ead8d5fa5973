"""What the handlers work with, and who is asking."""

import base64
import binascii
from collections.abc import Awaitable, Callable, Collection, Sequence
from typing import Any, Final, TypeVar

import msgspec
from litestar import Request

from protocol import replies
from protocol.commands import Command
from protocol.errors import Refused
from protocol.http import ClusterView
from protocol.notify_replies import Forecasts
from protocol.records import AppKey
from protocol.replies import Reply
from protocol.types import NodeInfo
from server.accounts import Accounts
from server.campaigns import Campaigns
from server.clock import wall_clock_ms
from server.config import Settings
from server.directory import Directory
from server.files import Files
from server.http.errors import error_of
from server.http.signatures import SeenSignatures
from server.identity import Identity
from server.log_ins import LogIns
from server.notify.core import NotifyCore
from storage.store import Store

AnyRequest = Request[Any, Any, Any]
BEARER: Final[list[dict[str, list[str]]]] = [{"bearer": []}]
SMALL_BODY_BYTES: Final = 64 * 1024  # log-ins and the like
# In the scope: who was found to ask, before the body was decoded (server/http/callers.py).
_IDENTITY: Final = "hubbub_identity"
_APP_KEY: Final = "hubbub_app_key"
BATCH_BODY_BYTES: Final = 1024 * 1024  # 500 users with all their fields

R = TypeVar("R")


def _free(_user_id: str, _command: Command) -> None:
    """Charge nothing."""


async def _nothing(*_of: object) -> None:
    """Take nothing away."""


async def _no_plan(*_of: object) -> Forecasts:
    raise Refused("not_enabled", "This server has no notifications.")


class HttpServices(msgspec.Struct, frozen=True, kw_only=True):
    """The rest of the node, as the HTTP API needs it.

    `execute` carries out any command but those of a connection, like the gateways do, checks of profile
    values included; it raises HubbubError or returns an Error reply. `nodes` lists where to connect, in any
    order. `not_ready` says why this node should get no traffic ("" if it should): draining, or a store that
    refuses writes. `metrics` is Prometheus' text. `charge_creation` counts what a command creates against
    its user; it raises Unavailable(rate_limited). `cluster_origins` tells whose pages may call us besides
    our own and those of the settings: those of the cluster's other nodes. `cluster_view` is how this node
    sees them; None where it is alone.
    """

    accounts: Accounts
    directory: Directory
    log_ins: LogIns
    files: Files
    settings: Settings
    execute: Callable[[Identity, Command], Awaitable[Reply]]
    nodes: Callable[[], Sequence[NodeInfo]]
    not_ready: Callable[[], str]
    metrics: Callable[[], bytes]
    cluster_origins: Callable[[], Collection[str]] = frozenset
    cluster_view: Callable[[], ClusterView | None] = lambda: None
    charge_creation: Callable[[str, Command], None] = _free
    campaigns: Campaigns | None = None
    store: Store
    notifications: NotifyCore | None = None
    take_away: Callable[[str, str, str, str, dict[str, str]], Awaitable[None]] = _nothing
    plan: Callable[[str, str, int], Awaitable[Forecasts]] = _no_plan
    now_ms: Callable[[], int] = wall_clock_ms
    signatures: SeenSignatures = msgspec.field(default_factory=SeenSignatures)


def notify_of(request: AnyRequest) -> NotifyCore:
    """The notification part of the node. Raises: Refused(not_enabled)."""
    core = services_of(request).notifications
    if core is None:
        raise Refused("not_enabled", "This server has no notifications.")
    return core


def services_of(request: AnyRequest) -> HttpServices:
    """The services that make_http_app was given."""
    services: HttpServices = request.app.state.services
    return services


def address_of(request: AnyRequest) -> str:
    """Whose request it is, proxies that we trust looked through (server/http/edge.py)."""
    client = request.scope.get("client")
    return client[0] if client else ""


def bearer_token(request: AnyRequest) -> str:
    """The token of the Authorization header, or ""."""
    kind, _, token = request.headers.get("authorization", "").partition(" ")
    return token.strip() if kind.lower() == "bearer" else ""


async def signed_in(request: AnyRequest) -> Identity:
    """Find who the bearer of the token is, once for a request. Raises: Refused(unauthenticated)."""
    identity: Identity | None = request.scope.get(_IDENTITY)  # type: ignore[assignment]
    if identity is not None:
        return identity
    token = bearer_token(request)
    if not token:
        raise Refused("unauthenticated", "Send the token as `Authorization: Bearer …`.")
    identity = await services_of(request).log_ins.authenticate(token)
    request.scope[_IDENTITY] = identity  # type: ignore[typeddict-unknown-key]
    note_user(request, identity.app_id, identity.user_id)
    return identity


async def app_key_of(request: AnyRequest) -> AppKey:
    """Find the app whose key and secret came as Basic credentials, once for a request.

    Raises: Refused(unauthenticated).
    """
    known: AppKey | None = request.scope.get(_APP_KEY)  # type: ignore[assignment]
    if known is not None:
        return known
    kind, _, encoded = request.headers.get("authorization", "").partition(" ")
    if kind.lower() != "basic":
        raise Refused("unauthenticated", "Send the app key and its secret as `Authorization: Basic …`.")
    try:
        app_key, _, secret = base64.b64decode(encoded, validate=True).decode().partition(":")
    except (binascii.Error, UnicodeDecodeError):
        raise Refused("unauthenticated", "The Basic credentials are not valid base64.") from None
    key = await services_of(request).log_ins.authenticate_app(app_key, secret)
    request.scope[_APP_KEY] = key  # type: ignore[typeddict-unknown-key]
    note_user(request, key.app_id, "")
    return key


def note_user(request: AnyRequest, app_id: str, user_id: str) -> None:
    """Let the request's log line say who it was."""
    who: dict[str, str] | None = request.scope.get("hubbub_who")  # type: ignore[assignment]
    if who is not None:
        who.update(app_id=app_id, user_id=user_id)


async def execute(request: AnyRequest, identity: Identity, command: Command, reply_type: type[R]) -> R:
    """Carry out a command and return its reply. Raises: HubbubError, also where the reply tells of one."""
    reply = await services_of(request).execute(identity, command)
    if isinstance(reply, replies.Error):
        raise error_of(reply)
    if not isinstance(reply, reply_type):
        raise TypeError(f"{type(command).__name__} was answered by {type(reply).__name__}")
    return reply
