"""What arrived at the fakes: the last deliveries of each, counts of all, and who waits for them."""

import hashlib
from collections import Counter, deque
from collections.abc import Mapping
from typing import Any, Final, Literal
from urllib.parse import parse_qsl, urlsplit

import msgspec
import trio

from server.sandbox.faults import SERVICES, Service, services_of

MAX_DELIVERIES: Final = 100_000  # of each service, in full; about 200 MB if all are large
MAX_IDENTITIES: Final = 1_000_000  # of each service: some 200 MB; doubles of older ones go unnoticed
Keep = Literal["all", "ids"]
"""`ids`: deliveries are counted and their identities kept, for load, with address and time."""
_NAMES: Final = ("delivery_id", "hubbub_delivery_id", "deliveryId")
_PLACES: Final = ("data", "hubbub", "custom", "message", "notification")


class Delivery(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """One accepted message.

    `identity` is what the sender named it by, so that a second one is a double: the `delivery_id` of the
    payload or its `data`, else apns-id, client-ref or Message-ID; empty if there is none. See `sms_identity`.
    `content` depends on the service: see docs/SANDBOX.md.
    """

    seq: int  # over all services, from 1
    service: Service
    at_ms: int
    address: str
    id: str  # as answered to the sender
    identity: str = ""
    content: dict[str, Any] = {}


class Arrival(msgspec.Struct, frozen=True, array_like=True, gc=False):
    """One accepted message, as far as `ids` keeps it."""

    identity: str
    address: str
    at_ms: int


class _Wait(msgspec.Struct, eq=False):
    services: tuple[Service, ...]
    count: int
    reached: trio.Event


class Ledger:
    """Written by the fakes, read by tests and the control API."""

    def __init__(
        self,
        *,
        keep: Keep = "all",
        max_deliveries: int = MAX_DELIVERIES,
        max_identities: int = MAX_IDENTITIES,
    ) -> None:
        self.keep: Keep = keep
        self._max_identities = max_identities
        self._kept: dict[Service, deque[Delivery]] = {
            service: deque(maxlen=max_deliveries) for service in SERVICES
        }
        self._identities: dict[Service, dict[str, int]] = {service: {} for service in SERVICES}
        self._arrived: dict[Service, deque[Arrival]] = {
            service: deque(maxlen=max_identities) for service in SERVICES
        }
        self._counts: Counter[Service] = Counter()
        self._double_counts: Counter[Service] = Counter()
        self._seq = 0
        self._waits: list[_Wait] = []

    def record(
        self,
        service: Service,
        *,
        at_ms: int,
        address: str,
        id: str,
        identity: str = "",
        content: dict[str, Any] | None = None,
    ) -> None:
        """Count a delivery, keep it, and wake who waits for it."""
        self._seq += 1
        self._counts[service] += 1
        if identity:
            self._count_identity(service, identity)
        if self.keep == "all":
            self._kept[service].append(
                Delivery(
                    seq=self._seq,
                    service=service,
                    at_ms=at_ms,
                    address=address,
                    id=id,
                    identity=identity,
                    content=content or {},
                )
            )
        else:
            self._arrived[service].append(Arrival(identity, address, at_ms))
        if self._waits:
            self._wake()

    def _count_identity(self, service: Service, identity: str) -> None:
        known = self._identities[service]
        times = known.get(identity, 0) + 1
        known[identity] = times
        if times > 1:
            self._double_counts[service] += 1
        elif len(known) > self._max_identities:
            del known[next(iter(known))]

    def deliveries(self, channel: str) -> list[Delivery]:
        """Return what is kept, in order of arrival. Raises: ValueError, for no such channel."""
        services = services_of(channel)
        found = [delivery for service in services for delivery in self._kept[service]]
        return found if len(services) == 1 else sorted(found, key=lambda delivery: delivery.seq)

    def arrivals(self, channel: str) -> list[Arrival]:
        """Return what arrived while only `ids` were kept, by service, in order. Raises: ValueError."""
        return [arrival for service in services_of(channel) for arrival in self._arrived[service]]

    def count(self, channel: str) -> int:
        """Count all that arrived, kept or not. Raises: ValueError."""
        return sum(self._counts[service] for service in services_of(channel))

    def double_count(self, channel: str) -> int:
        """Count arrivals whose identity had arrived before. Raises: ValueError."""
        return sum(self._double_counts[service] for service in services_of(channel))

    def identities(self, channel: str) -> dict[str, int]:
        """Return how often each identity arrived. Raises: ValueError."""
        total: Counter[str] = Counter()
        for service in services_of(channel):
            total.update(self._identities[service])
        return dict(total)

    def doubles(self, channel: str) -> dict[str, int]:
        """Return the identities that arrived more than once, and how often. Raises: ValueError."""
        return {name: times for name, times in self.identities(channel).items() if times > 1}

    def clear(self) -> None:
        """Forget all; `seq` goes on."""
        for service in SERVICES:
            self._kept[service].clear()
            self._identities[service].clear()
            self._arrived[service].clear()
        self._counts.clear()
        self._double_counts.clear()

    async def wait_for(self, channel: str, count: int) -> list[Delivery]:
        """Wait until `count` have arrived since the start or `clear`; returns what is kept.

        Raises: ValueError. Put it under `trio.fail_after`: it waits for as long as it takes.
        """
        wait = _Wait(services_of(channel), count, trio.Event())
        self._waits.append(wait)
        try:
            self._wake()
            await wait.reached.wait()
        finally:
            self._waits.remove(wait)
        return self.deliveries(channel)

    def _wake(self) -> None:
        for wait in self._waits:
            if sum(self._counts[service] for service in wait.services) >= wait.count:
                wait.reached.set()


def identity_in(payload: object) -> str:
    """Find the sender's `delivery_id` in a payload: at its top, or one level down in `data` and the like."""
    if not isinstance(payload, Mapping):
        return ""
    for holder in (payload, *(payload.get(place) for place in _PLACES)):
        if isinstance(holder, Mapping):
            for name in _NAMES:
                value = holder.get(name)
                if isinstance(value, str) and value:
                    return value
    return ""


def sms_identity(callback: str, to: str, text: str) -> str:
    """Name a text message, which has no id of its sender's: the `delivery_id` in the callback's query, else
    callback, number and text together, so that the same words to the same phone are a double."""
    found = identity_in(dict(parse_qsl(urlsplit(callback).query)))
    return found or f"{callback} {to} {hashlib.sha256(text.encode()).hexdigest()[:16]}".strip()
