"""Delivery receipts: signed form posts to the sender's callback addresses, on this machine only."""

import base64
import hashlib
import hmac
import ssl
from collections import deque
from collections.abc import Mapping, Sequence
from typing import Final
from urllib.parse import urlsplit

import httpx
import msgspec
import trio

from server.sandbox.faults import Fault

_LOCAL: Final = frozenset({"127.0.0.1", "localhost", "::1"})
_TIMEOUT_S: Final = 15.0  # as Twilio waits
_MAX_QUEUED: Final = 10_000  # sets of receipts; later ones are lost and counted
_AT_ONCE: Final = 16
_MAX_LOG: Final = 10_000


class Receipt(msgspec.Struct, frozen=True, kw_only=True):
    """One post to come."""

    url: str
    form: Mapping[str, str]
    headers: Mapping[str, str] = {}


class Posted(msgspec.Struct, frozen=True, kw_only=True):
    """One post that was tried. `status` 0: no answer; `error` says why."""

    url: str
    form: Mapping[str, str]
    status: int = 0
    error: str = ""


class Postman:
    """Posts sets of receipts, each set in its order, several sets at a time. Nothing is tried twice."""

    def __init__(self, ca_context: ssl.SSLContext) -> None:
        self._context = ca_context
        self._send, self._receive = trio.open_memory_channel[Sequence[Receipt]](_MAX_QUEUED)
        self.posted: deque[Posted] = deque(maxlen=_MAX_LOG)
        self.lost_count = 0

    def post_nowait(self, receipts: Sequence[Receipt]) -> None:
        """Queue one message's receipts."""
        try:
            self._send.send_nowait(receipts)
        except trio.WouldBlock:
            self.lost_count += 1

    async def run(self) -> None:
        """Post until cancelled."""
        async with (
            httpx.AsyncClient(verify=self._context, timeout=_TIMEOUT_S, trust_env=False) as client,
            trio.open_nursery() as nursery,
        ):
            for _ in range(_AT_ONCE):
                nursery.start_soon(self._work, client)

    async def _work(self, client: httpx.AsyncClient) -> None:
        async for receipts in self._receive.clone():
            for receipt in receipts:
                self.posted.append(await _post(client, receipt))

    def close(self) -> None:
        """Free the queue."""
        self._send.close()
        self._receive.close()


async def _post(client: httpx.AsyncClient, receipt: Receipt) -> Posted:
    try:
        response = await client.post(receipt.url, data=dict(receipt.form), headers=dict(receipt.headers))
    except httpx.HTTPError as exc:
        return Posted(url=receipt.url, form=receipt.form, error=f"{type(exc).__name__}: {exc}")
    return Posted(url=receipt.url, form=receipt.form, status=response.status_code)


def is_local_url(url: str) -> bool:
    """Tell whether a callback address is of this machine; receipts go nowhere else."""
    try:
        parts = urlsplit(url)
        host = parts.hostname or ""
    except ValueError:
        return False
    return parts.scheme in {"http", "https"} and host in _LOCAL


def arrange(receipts: Sequence[Receipt], fault: Fault | None) -> list[Receipt]:
    """Order a message's receipts as a fault says: reversed, doubled, or none at all."""
    if fault is None:
        return list(receipts)
    if fault.receipt == "none":
        return []
    arranged = list(reversed(receipts)) if fault.receipts_reversed else list(receipts)
    return [one for one in arranged for _ in range(2)] if fault.receipts_doubled else arranged


def twilio_signature(auth_token: str, url: str, form: Mapping[str, str]) -> str:
    """Sign as Twilio does: the address, then each name and value in order of names; HMAC-SHA1, base64.

    Source: Twilio, "Validating requests are coming from Twilio".
    """
    text = url + "".join(name + form[name] for name in sorted(form))
    return base64.b64encode(hmac.new(auth_token.encode(), text.encode(), hashlib.sha1).digest()).decode()


def vonage_signature(secret: str, form: Mapping[str, str]) -> str:
    """Sign as Vonage does with SHA-256 HMAC: `&name=value` in order of names, `&` and `=` of values as `_`.

    Source: Vonage, "Signing messages". Hex in capitals, as theirs.
    """
    text = "".join(
        f"&{name}={form[name].replace('&', '_').replace('=', '_')}" for name in sorted(form) if name != "sig"
    )
    return hmac.new(secret.encode(), text.encode(), hashlib.sha256).hexdigest().upper()
