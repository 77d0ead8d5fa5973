"""For who operates nodes and who connects to them: health, readiness, metrics, and where to connect."""

import hmac
import ipaddress
import random
from typing import Annotated, Final

import msgspec
from litestar import Response, get
from litestar.params import QueryParameter

from protocol.errors import Refused
from protocol.http import ClusterView, Health, Nodes
from server.discovery import recommend
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
    _needs_operator(request, "Metrics are shown")
    return Response(services_of(request).metrics(), headers={"content-type": TEXT_CONTENT_TYPE})


@get("/v1/cluster", summary="The cluster as this node sees it", tags=["Operating"], security=[{"admin": []}])
async def cluster(request: AnyRequest) -> ClusterView:
    """From this machine itself, or with the admin token as bearer. A node alone has no cluster: not_found."""
    _needs_operator(request, "The cluster is shown")
    view = services_of(request).cluster_view()
    if view is None:
        raise Refused("not_found", "This node runs alone.")
    return view


def _needs_operator(request: AnyRequest, what: str) -> None:
    """Raises: Refused("forbidden")."""
    if not is_admin(request) and not is_local(request):
        raise Refused("forbidden", f"{what} to this machine, or with the admin token.")


def is_admin(request: AnyRequest) -> bool:
    """Tell whether the request brings the admin token."""
    token, wanted = bearer_token(request), services_of(request).settings.admin_token
    return bool(wanted) and hmac.compare_digest(token.encode(), wanted.encode())


def is_local(request: AnyRequest) -> bool:
    """Tell whether the peer is this machine, and not a proxy on it that speaks for somebody else."""
    if request.scope.get("hubbub_was_forwarded"):
        return False
    try:
        return ipaddress.ip_address(address_of(request)).is_loopback
    except ValueError:
        return False


@get("/v1/nodes", summary="Where to connect", tags=["Operating"])
async def nodes(
    request: AnyRequest,
    zone: Annotated[
        str, QueryParameter(max_length=64, description="Where the client stands; its nodes come first.")
    ] = "",
) -> Nodes:
    """All nodes that serve, best first: those of the zone, and by load, shuffled a little for each request.

    Connect to the first; where it does not answer, to the next.
    """
    return Nodes(items=recommend(services_of(request).nodes(), zone=zone, chance=random.random))
