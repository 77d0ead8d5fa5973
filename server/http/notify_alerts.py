"""For an app's developers: what they have yet to be told, and what they were told within the hour."""

from typing import Final

from litestar import Router, get

from protocol.http_notify import Alerts
from protocol.notify_records import AlertRow
from server.http.app_auth import APP_AUTH, app_of
from server.http.callers import STRICT
from server.http.context import AnyRequest, services_of
from server.notify.alert_lines import alert_info

TAGS: Final = ["Notifications"]
MAX_SHOWN: Final = 1_000  # a node keeps some 200 of one app


@get("/v1/app/notify/alerts", summary="List alerts", tags=TAGS, security=APP_AUTH)
async def list_alerts(request: AnyRequest) -> Alerts:
    """Those that wait to be told by webhook or mail, and why they still do; and the last hour's."""
    app, _ = await app_of(request)
    rows = await services_of(request).store.find(
        AlertRow, {"app_id": app.app_id}, order_by="at_ms", limit=MAX_SHOWN
    )
    return Alerts(items=[alert_info(row) for row in rows])


def notify_alert_router() -> Router:
    """Alerts."""
    return Router(path="/", opt={STRICT: True}, route_handlers=[list_alerts])
