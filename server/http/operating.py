"""For who operates nodes and who connects to them: health, readiness, metrics, and where to connect."""

import hmac
import ipaddress
from typing import Final

import msgspec
from litestar import Response, get

from protocol.errors import Refused
from protocol.http import Health, Nodes
from server.http.context import AnyRequest, address_of, bearer_token, services_of
from server.metrics import TEXT_CONTENT_TYPE
from server.version import VERSION

RETRY_AFTER_S: Final = "5"


@get("/healthz", summary="Is this process alive", tags=["Operating"])
async def health() -> Health:
    """Answers as long as the event loop turns; restart the process when it does not."""
    return Health(status="ok", version=VERSION)


@get("/readyz", summary="Should this node get traffic", tags=["Operating"])
async def ready(request: AnyRequest) -> Response[bytes]:
    """503 with the reason while the node drains or the store takes no writes."""
    reason = services_of(request).not_ready()
    return Response(
        msgspec.json.encode(Health(status=reason or "ok", version=VERSION)),
        status_code=503 if reason else 200,
        headers={"retry-after": RETRY_AFTER_S} if reason else {},
        media_type="application/json",
    )


@get("/metrics", summary="Numbers for Prometheus", tags=["Operating"], security=[{"admin": []}])
async def metrics(request: AnyRequest) -> Response[bytes]:
    """From this machine itself, or with the admin token as bearer; never open to the world."""
    services = services_of(request)
    token, wanted = bearer_token(request), services.settings.admin_token
    is_admin = bool(wanted) and hmac.compare_digest(token.encode(), wanted.encode())
    if not is_admin and not _is_local(request):
        raise Refused("forbidden", "Metrics are shown to this machine, or with the admin token.")
    return Response(services.metrics(), headers={"content-type": TEXT_CONTENT_TYPE})


def _is_local(request: AnyRequest) -> bool:
    """Tell whether the peer is this machine, and not a proxy on it that speaks for somebody else."""
    if request.scope.get("hubbub_was_forwarded"):
        return False
    try:
        return ipaddress.ip_address(address_of(request)).is_loopback
    except ValueError:
        return False


@get("/v1/nodes", summary="Where to connect", tags=["Operating"])
async def nodes(request: AnyRequest) -> Nodes:
    """Best first."""
    return Nodes(items=list(services_of(request).nodes()))
