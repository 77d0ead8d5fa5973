"""POST to the webhooks that apps name, for alerts and events alike: how it is signed, sent, and tried again.

By the connections and the address check of the push providers.
"""

import hmac
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Final

import msgspec

from server.clock import wall_clock_ms
from server.notify.vault import derived_key
from server.providers.dialing import Alpn, split_url
from server.providers.exchange import Request, RequestFailed, retry_after_s
from server.providers.limits import Limits
from server.providers.push_pools import PushPools, open_push_pools
from server.providers.reach import Reach

# What comes back is not read; several apps may share a host, such as a service that takes webhooks.
LIMITS: Final = Limits(max_response_bytes=1_024, max_http1_connections=64)
# A batch of events is larger than what HTTP/2 lets a client send at once, and there is one at a time.
HTTP1: Final[tuple[Alpn, ...]] = ("http/1.1",)
FIRST_PAUSE_S: Final = 1.0
MAX_PAUSE_S: Final = 300.0
MAX_ASKED_S: Final = 3_600.0  # what a webhook may ask for by Retry-After


class Posted(msgspec.Struct, frozen=True):
    """How a call ended. `reason`: why it was not taken; empty: it was. `asked_s`: by its Retry-After."""

    reason: str = ""
    asked_s: float | None = None


def pause_s(failures: int, asked_s: float | None, jitter: float) -> float:
    """How long to wait before the next try, after so many failures in a row (the first: 0).

    Twice as long each time, less up to a half by `jitter` (0 to 1, at random); and as long as asked for.
    """
    backoff_s = min(MAX_PAUSE_S, FIRST_PAUSE_S * 2.0 ** min(failures, 20)) * (0.5 + jitter / 2)
    return max(backoff_s, min(MAX_ASKED_S, asked_s or 0.0))


class WebhookKeys:
    """With which apps check that a webhook is ours."""

    def __init__(self, server_secret: bytes) -> None:
        self._key = derived_key(server_secret, "notification alerts")

    def key_of(self, app_id: str) -> str:
        """An app's own."""
        return hmac.new(self._key, app_id.encode(), "sha256").hexdigest()

    def signature(self, app_id: str, body: bytes) -> str:
        """The X-Hubbub-Signature of a webhook: hex HMAC-SHA256 under the app's key."""
        return hmac.new(self.key_of(app_id).encode(), body, "sha256").hexdigest()


class Webhooks:
    """Call webhooks. Made by `open_webhooks`; safe from several tasks."""

    def __init__(self, pools: PushPools, keys: WebhookKeys, now_ms: Callable[[], int]) -> None:
        self._pools = pools
        self._keys = keys
        self._now_ms = now_ms

    async def post(self, app_id: str, url: str, body: bytes, *, content_type: str) -> Posted:
        """Post once, signed, within 15 s. Taken is 2xx: redirects are no yes.

        A failure may have arrived all the same.
        """
        try:
            origin, path = split_url(url)
        except ValueError as exc:
            return Posted(f"bad address: {exc}")
        headers = (
            (b"content-type", content_type.encode()),
            (b"user-agent", b"hubbub"),
            (b"x-hubbub-signature", self._keys.signature(app_id, body).encode()),
        )
        try:
            pool = self._pools.host(origin, alpn=HTTP1)
            response = await pool.request(Request(path.encode(), (), headers, body))
        except RequestFailed as failure:
            return Posted(failure.code)
        if 200 <= response.status < 300:
            return Posted()
        asked_s = retry_after_s(response.headers.get("retry-after"), self._now_ms())
        return Posted(f"status {response.status}", asked_s)


@asynccontextmanager
async def open_webhooks(
    reach: Reach, keys: WebhookKeys, *, now_ms: Callable[[], int] = wall_clock_ms
) -> AsyncIterator[Webhooks]:
    """Call webhooks within, which lie within `reach`; leaving it closes all connections."""
    async with open_push_pools(LIMITS, reach) as pools:
        yield Webhooks(pools, keys, now_ms)
