"""POST to the webhooks that apps name: by the connections and the address check of the push providers."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Final

from server.providers.dialing import Alpn, split_url
from server.providers.exchange import Request, RequestFailed
from server.providers.limits import Limits
from server.providers.push_pools import PushPools, open_push_pools
from server.providers.reach import Reach

# What comes back is not read; several apps may share a host, such as a service that takes webhooks.
LIMITS: Final = Limits(max_response_bytes=1_024, max_http1_connections=64)
# A batch of events is larger than what HTTP/2 lets a client send at once, and there is one at a time.
HTTP1: Final[tuple[Alpn, ...]] = ("http/1.1",)


class Webhooks:
    """Call webhooks. Made by `open_webhooks`; safe from several tasks."""

    def __init__(self, pools: PushPools) -> None:
        self._pools = pools

    async def post(self, url: str, body: bytes, *, content_type: str, signature: str) -> str:
        """Post once, within 15 s. Returns "" where it was taken (2xx), or else why not. Redirects are no yes.

        A failure may have arrived all the same.
        """
        try:
            origin, path = split_url(url)
        except ValueError as exc:
            return f"bad address: {exc}"
        headers = (
            (b"content-type", content_type.encode()),
            (b"user-agent", b"hubbub"),
            (b"x-hubbub-signature", signature.encode()),
        )
        try:
            pool = self._pools.host(origin, alpn=HTTP1)
            response = await pool.request(Request(path.encode(), (), headers, body))
        except RequestFailed as failure:
            return failure.code
        return "" if 200 <= response.status < 300 else f"status {response.status}"


@asynccontextmanager
async def open_webhooks(reach: Reach) -> AsyncIterator[Webhooks]:
    """Call webhooks within, which lie within `reach`; leaving it closes all connections."""
    async with open_push_pools(LIMITS, reach) as pools:
        yield Webhooks(pools)
