"""The notification dashboard: for operators, and for an app's developers; and what they do from it."""

import ipaddress
from typing import Final
from urllib.parse import urlsplit

from litestar import Router, get, post
from litestar.params import FromPath

from protocol.errors import Refused
from protocol.http_notify import Explanation, ProviderInfo
from protocol.http_notify_dashboard import NotifyDashboard
from server.http.app_auth import APP_AUTH, app_of
from server.http.callers import STRICT
from server.http.context import AnyRequest, notify_of, services_of
from server.http.operating import is_admin, is_local
from server.notify.explanation import explain_notification

TAGS: Final = ["Notification dashboard"]
ADMIN: Final[list[dict[str, list[str]]]] = [{"admin": []}]


@get("/v1/app/notify/dashboard", summary="How the app's notifications do", tags=TAGS, security=APP_AUTH)
async def app_dashboard(request: AnyRequest) -> NotifyDashboard:
    """Queues, providers, dead letters, requests and experiments of this app alone."""
    app, _ = await app_of(request)
    return await notify_of(request).dashboard.of(app.app_id)


@get("/v1/notify/dashboard", summary="How all notifications do", tags=TAGS, security=ADMIN)
async def dashboard(request: AnyRequest) -> NotifyDashboard:
    """From this machine itself by 127.0.0.1 or localhost, or with the admin token as bearer: of all apps."""
    needs_operator(request)
    return await notify_of(request).dashboard.of("")


@get(
    "/v1/notify/notifications/{notification_id:int}/explain",
    summary="Explain a notification of any app",
    tags=TAGS,
    security=ADMIN,
)
async def explain_any(request: AnyRequest, notification_id: FromPath[int]) -> Explanation:
    """For operators, as the dashboard: every stage with its time, rule and value; no content."""
    needs_operator(request)
    store = services_of(request).store
    rows = await store.notify.notifications([notification_id])
    if not rows:
        raise Refused("notification_not_found")
    return await explain_notification(store, rows[0].app_id, notification_id)


@post(
    "/v1/app/notify/providers/{provider_id:str}/pause",
    status_code=200,
    summary="Pause a provider",
    tags=TAGS,
    security=APP_AUTH,
)
async def pause(request: AnyRequest, provider_id: FromPath[str]) -> ProviderInfo:
    """What waits goes by the channel's other accounts, or waits on. Its settings are kept."""
    return await _set_paused(request, provider_id, is_paused=True)


@post(
    "/v1/app/notify/providers/{provider_id:str}/resume",
    status_code=200,
    summary="Use a provider again",
    tags=TAGS,
    security=APP_AUTH,
)
async def resume(request: AnyRequest, provider_id: FromPath[str]) -> ProviderInfo:
    """With a closed breaker; what waits for the channel is tried at once."""
    return await _set_paused(request, provider_id, is_paused=False)


async def _set_paused(request: AnyRequest, provider_id: str, *, is_paused: bool) -> ProviderInfo:
    app, _ = await app_of(request)
    core = notify_of(request)
    row = await core.desk.pause_provider(app.app_id, provider_id, is_paused=is_paused)
    core.dashboard.changed(app.app_id)
    names = [name for name in ProviderInfo.__struct_fields__ if name != "breaker"]
    return ProviderInfo(
        **{name: getattr(row, name) for name in names},  # the same names
        breaker=(await core.views.breakers(app.app_id)).get((row.channel, row.provider_id), "closed"),
    )


def needs_operator(request: AnyRequest) -> None:
    """Raises: Refused("forbidden").

    Without the token the Host must be this machine's own, too: else any web page that an operator has open
    could let its own name point to 127.0.0.1 and read along (DNS rebinding).
    """
    if is_admin(request) or (is_local(request) and is_own_name(request.headers.get("host", ""))):
        return
    raise Refused(
        "forbidden",
        "The dashboard of all apps is shown to this machine as 127.0.0.1, or with the admin token.",
    )


def is_own_name(host: str) -> bool:
    """Tell whether a Host header names this machine in a way that nobody else can take."""
    try:
        name = urlsplit(f"//{host}").hostname or ""
        return name == "localhost" or ipaddress.ip_address(name).is_loopback
    except ValueError:
        return False


def notify_dashboard_router() -> Router:
    """The dashboard."""
    return Router(
        path="/",
        opt={STRICT: True},
        route_handlers=[app_dashboard, dashboard, explain_any, pause, resume],
    )
