"""What the store finds for whoever looks at the notification service as a whole, and how it is asked.

Every answer is bounded, however many rows there are: `is_complete` is false where it looked at a part only,
and then counts are lower bounds of the whole.
"""

from typing import Protocol

import msgspec

from protocol.notify_records import RequestRow


class OpenLane(msgspec.Struct, frozen=True, array_like=True):
    """Open deliveries of one app, channel and priority. Times are Unix ms."""

    app_id: str
    channel: str
    priority: str
    count: int
    oldest_at_ms: int
    due_count: int
    overdue_count: int


class OpenDeliveries(msgspec.Struct, frozen=True):
    """What waits to be delivered, as far as was looked."""

    lanes: list[OpenLane]
    is_complete: bool


class HeldOfApp(msgspec.Struct, frozen=True, array_like=True):
    """Held notifications of one app, and when the next is due (Unix ms)."""

    app_id: str
    count: int
    next_due_at_ms: int


class HeldNotifications(msgspec.Struct, frozen=True):
    """What is held back, as far as was looked."""

    items: list[HeldOfApp]
    is_complete: bool


class Backlog(msgspec.Struct, frozen=True):
    """Exact counts of all apps: open deliveries by priority, and held notifications."""

    open_counts: dict[str, int]
    held_count: int


class Concluded(msgspec.Struct, frozen=True, array_like=True):
    """Deliveries of one app by one provider that ended alike, after about the same time.

    `latency_ms`: from the request to the provider's yes, rounded down to two digits; -1: there was none.
    """

    app_id: str
    channel: str
    provider_id: str
    state: str
    latency_ms: int
    count: int
    doubles: int


class ConcludedDeliveries(msgspec.Struct, frozen=True):
    """What became of deliveries, as far as was looked."""

    items: list[Concluded]
    is_complete: bool


class DeadCount(msgspec.Struct, frozen=True, array_like=True):
    """Dead letters of one app, channel, provider and code."""

    app_id: str
    channel: str
    provider_id: str
    code: str
    count: int
    oldest_at_ms: int
    newest_at_ms: int


class DeadLettersFound(msgspec.Struct, frozen=True):
    """Dead letters, the newest, as far as was looked."""

    items: list[DeadCount]
    is_complete: bool


class NotifyGlances(Protocol):
    """Reads that cost the same whether a thousand or a million deliveries are stored.

    `backlog`, `audience` and `reached` count index entries: some 40 ms for each million.
    """

    async def open_deliveries(self, now_ms: int) -> OpenDeliveries:
        """Of all apps; those that are due first."""
        ...

    async def held(self) -> HeldNotifications:
        """Of all apps; those that are due first."""
        ...

    async def backlog(self) -> Backlog:
        """Exact counts of all apps together."""
        ...

    async def concluded(self, *, since_ms: int, now_ms: int) -> ConcludedDeliveries:
        """Deliveries of notifications of that span, spread evenly over it where there are too many."""
        ...

    async def dead_letters(self, app_id: str) -> DeadLettersFound:
        """Of an app; "": of all."""
        ...

    async def open_requests(self, app_id: str, *, limit: int) -> list[RequestRow]:
        """Requests that run or wait, newest first; of an app, or "": of all."""
        ...

    async def audience(self, app_id: str, group: str) -> int:
        """About how many users a group ("*": an app) has: bots and who is disabled count too."""
        ...

    async def reached(self, app_id: str, group: str, cursor: str) -> int:
        """How many of a named group's users stand no later than the cursor of a request."""
        ...

    async def experiments(self, app_id: str, *, limit: int) -> list[tuple[str, str]]:
        """(app_id, name) of the newest experiments; of an app, or "": of all."""
        ...
