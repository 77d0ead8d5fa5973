"""The HTTP API as one ASGI app for Hypercorn: its routes, how errors look, and what surrounds them."""

from pathlib import Path
from typing import cast

from hypercorn.typing import ASGIFramework
from litestar import Litestar
from litestar.datastructures import State
from litestar.exceptions import HTTPException

from protocol.errors import HubbubError
from server.http.accounts import account_router
from server.http.backend import backend_router
from server.http.callers import before_request
from server.http.campaigns import campaign_router
from server.http.commands import command
from server.http.context import SMALL_BODY_BYTES, HttpServices
from server.http.cross_origin import cross_origin
from server.http.docs import openapi_config, style
from server.http.edge import Edge
from server.http.errors import on_exception, on_http_exception, on_hubbub_error
from server.http.feed import feed_router
from server.http.files import file_router
from server.http.notify import notify_router
from server.http.notify_alerts import notify_alert_router
from server.http.notify_dashboard import notify_dashboard_router
from server.http.notify_groups import notify_group_router
from server.http.notify_import import notify_import_router
from server.http.notify_links import notify_link_router
from server.http.notify_privacy import notify_privacy_router
from server.http.notify_setup import notify_setup_router
from server.http.operating import cluster, health, metrics, nodes, ready
from server.http.pages import WEB_FOLDER, page_handler
from server.version import VERSION


def make_http_app(services: HttpServices, *, web_folder: Path = WEB_FOLDER) -> ASGIFramework:
    """Make the app. It opens nothing and starts nothing; serve it with Hypercorn's Trio worker."""
    settings = services.settings
    has_others = bool(settings.origins) or settings.is_clustered
    cors = cross_origin(settings.origins, services.cluster_origins) if has_others else None
    app = Litestar(
        route_handlers=[
            account_router(),
            backend_router(),
            campaign_router(),
            file_router(),
            feed_router(),
            notify_router(),
            notify_alert_router(),
            notify_setup_router(),
            notify_group_router(),
            notify_privacy_router(),
            notify_link_router(),
            notify_import_router(),
            notify_dashboard_router(),
            command,
            nodes,
            health,
            ready,
            metrics,
            cluster,
            style,
            page_handler(web_folder),
        ],
        state=State({"services": services}),
        cors_config=cors,
        openapi_config=openapi_config(VERSION),
        exception_handlers={
            HubbubError: on_hubbub_error,
            HTTPException: on_http_exception,
            Exception: on_exception,
        },
        before_request=before_request,
        request_max_body_size=SMALL_BODY_BYTES,
        logging_config=None,  # server/http/edge.py writes one line per request
        debug=False,
    )
    edge = Edge(
        app,
        rate=settings.requests,
        trusted_proxies=tuple(settings.trusted_proxies),
        unlimited=tuple(settings.unlimited),
        is_tls=settings.is_tls,
        cluster_origins=services.cluster_origins,
    )
    return cast("ASGIFramework", edge)


__all__ = ["HttpServices", "make_http_app"]
