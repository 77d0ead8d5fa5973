"""What the notification dashboard shows: to operators of all apps, to an app's developers of theirs alone.

Numbers that are read from the store are those of the whole cluster. What each node knows of itself alone
(rates, breakers, paces) is asked of all nodes and put together; `nodes` tells which have answered. Where
`is_complete` is false only a part was looked at, so that the answer stays cheap: counts are then lower
bounds, and shares those of a sample.
"""

from typing import Annotated

import msgspec
from msgspec import Meta

from protocol.notify_templates import ExperimentResults
from protocol.types import AtMs, Count

_PerS = Annotated[float, Meta(description="Per second.")]
_AppId = Annotated[str, Meta(description="Whose it is.")]


class _Body(msgspec.Struct, frozen=True, kw_only=True):
    pass


class QueueLine(_Body, frozen=True, kw_only=True):
    """Deliveries of one app, channel and priority that are not concluded. From the store."""

    app_id: _AppId
    channel: str
    priority: str
    open_count: Count
    due_count: Annotated[int, Meta(description="Of these, that wait for nothing but their turn.")]
    overdue_count: Annotated[int, Meta(description="Of these, that are later than their type's deadline.")]
    oldest_age_s: Annotated[float, Meta(description="How long ago the oldest was asked for.")]


class Queues(_Body, frozen=True, kw_only=True):
    """What waits to be delivered. From the store; what is due longest is looked at first."""

    lines: list[QueueLine]
    is_complete: bool
    open_totals: Annotated[
        dict[str, int],
        Meta(description="By priority. Operators: of all apps, exact. An app: what its lines add up to."),
    ]


class HeldLine(_Body, frozen=True, kw_only=True):
    """Notifications of an app that wait for quiet hours to end, a cap, a digest or a set time."""

    app_id: _AppId
    count: Count
    next_due_at_ms: AtMs


class Held(_Body, frozen=True, kw_only=True):
    """What is held back. From the store."""

    lines: list[HeldLine]
    is_complete: bool
    total: Annotated[
        int, Meta(description="Operators: of all apps, exact. An app: what its lines add up to.")
    ]


class ChannelRate(_Body, frozen=True, kw_only=True):
    """What one channel did in the last minute."""

    channel: str
    accepted_per_s: Annotated[float, Meta(description="Deliveries that a provider took, per second.")]
    refused_per_s: _PerS
    unknown_per_s: _PerS
    series: Annotated[
        list[float], Meta(description="accepted_per_s of each 5 s of the last 5 minutes, oldest first.")
    ]
    queued_count: Annotated[int, Meta(description="In nodes' memory, of all apps; operators only.")] = 0
    in_hand_count: Annotated[int, Meta(description="Requests under way; operators only.")] = 0


class NotifyRates(_Body, frozen=True, kw_only=True):
    """What the nodes that answered did, together. Each samples itself every 5 s."""

    covered_s: Annotated[
        float, Meta(description="The span of the rates: 60, or less where no node runs for so long.")
    ]
    notified_per_s: Annotated[float, Meta(description="Notifications taken in and decided, one per user.")]
    notified_series: Annotated[
        list[float], Meta(description="notified_per_s of each 5 s of the last 5 minutes, oldest first.")
    ]
    accepted_per_s: Annotated[float, Meta(description="Deliveries that providers took, of all channels.")]
    accepted_series: list[float]
    channels: list[ChannelRate]
    decided_per_s: Annotated[
        dict[str, float],
        Meta(description="sent, held, merged, dropped, late, retried, dead: operators only, else empty."),
    ]
    since_start: Annotated[
        dict[str, int],
        Meta(description="Counts since each node's start: notified, accepted, unknown, doubled, dead, late."),
    ]


class NodeLine(_Body, frozen=True, kw_only=True):
    """One node of the cluster, and its share. Of one that is missing nothing is known but its name."""

    node_id: str
    is_missing: Annotated[
        bool, Meta(description="It did not answer within a second: what it did is in no sum.")
    ] = False
    covered_s: Annotated[float, Meta(description="The span of its rates.")] = 0.0
    notified_per_s: _PerS = 0.0
    accepted_per_s: _PerS = 0.0
    queued_count: Annotated[int, Meta(description="In its memory, of all apps; operators only.")] = 0
    in_hand_count: Annotated[int, Meta(description="Requests under way; operators only.")] = 0
    open_count: Annotated[int, Meta(description="Accounts whose breaker is open there.")] = 0


class ProviderLine(_Body, frozen=True, kw_only=True):
    """An account at a provider, and what became of the last hour's deliveries by it. From the store.

    Counts are of the deliveries that were looked at. `success`: accepted of all that ended, 0 to 1; null
    where none has ended. Latencies run from the request to the provider's yes, rounded down to two digits.
    """

    app_id: _AppId
    channel: str
    provider_id: str
    kind: Annotated[str, Meta(description='Empty: "own" push, or an account that was removed.')]
    position: int
    is_paused: bool
    breaker: Annotated[
        str, Meta(description="closed, open or half_open: the worst of the nodes that answered.")
    ]
    breakers: Annotated[dict[str, str], Meta(description="By node, where it is not closed.")]
    pace: Annotated[
        float,
        Meta(description="Share of its rate that is used, below 1 after complaints: the lowest of any node."),
    ]
    pause_s: Annotated[
        float, Meta(description="For how long yet it wants nothing at all; the longest of any node.")
    ]
    accepted_count: Count
    refused_count: Count
    unknown_count: Annotated[int, Meta(description="Nobody knows whether it came.")]
    dead_count: Count
    bounced_count: Annotated[int, Meta(description="Accepted, and sent back later.")]
    doubled_count: Annotated[int, Meta(description="Attempts after an unknown outcome: it may come twice.")]
    success: float | None
    p50_ms: int | None
    p99_ms: int | None


class Providers(_Body, frozen=True, kw_only=True):
    """Accounts at providers, and how they did since `since_ms`."""

    lines: list[ProviderLine]
    since_ms: AtMs
    is_complete: bool


class DeadLine(_Body, frozen=True, kw_only=True):
    """Deliveries that were given up for one reason. From the store."""

    app_id: _AppId
    channel: str
    provider_id: str
    code: str
    count: Count
    oldest_at_ms: AtMs
    newest_at_ms: AtMs


class Dead(_Body, frozen=True, kw_only=True):
    """Dead letters by channel, provider and code; the newest are looked at."""

    lines: list[DeadLine]
    is_complete: bool


class AlertLine(_Body, frozen=True, kw_only=True):
    """Something that the app's developers have yet to be told. From the store."""

    app_id: _AppId
    kind: str
    about: Annotated[str, Meta(description="Its details in one line.")]
    count: Count
    at_ms: Annotated[int, Meta(description="When the first came that was not told.")]
    reason: Annotated[str, Meta(description="Why the last try failed; empty: there was none yet.")]


class RequestLine(_Body, frozen=True, kw_only=True):
    """A larger request that runs, or waits for its time. From the store."""

    app_id: _AppId
    request_id: str
    state: str
    type: str
    group: str
    cron: str
    created_at_ms: AtMs
    next_at_ms: AtMs
    run: Annotated[int, Meta(description="Of recurring ones: which time this is.")]
    user_count: Annotated[int, Meta(description="Users who were handed on, in all runs together.")]
    reached_count: Annotated[int, Meta(description="Users who were handed on in this run; -1: not known.")]
    audience_count: Annotated[int, Meta(description="About how many it is for.")]


class ExperimentLine(_Body, frozen=True, kw_only=True):
    """An experiment and what it has shown so far. From the store; as of the last half minute or so."""

    app_id: _AppId
    name: str
    results: ExperimentResults | None
    code: Annotated[str, Meta(description="Why there are no results.")] = ""


class NotifyDashboard(_Body, frozen=True, kw_only=True):
    """How notifications are doing. Kept for 2 s, or longer where reading it takes long."""

    app_id: Annotated[str, Meta(description="Whose; empty: of all apps.")]
    at_ms: Annotated[int, Meta(description="When it was read.")]
    queues: Queues
    held: Held
    rates: NotifyRates
    nodes: Annotated[list[NodeLine], Meta(description="By name, the missing ones with them.")]
    node_id: Annotated[str, Meta(description="The node that answers.")]
    providers: Providers
    dead: Dead
    alerts: list[AlertLine]
    requests: list[RequestLine]
    experiments: list[ExperimentLine]
    unreadable: Annotated[
        list[str],
        Meta(description="Apps whose setup the node that answers cannot read: nothing of theirs is decided."),
    ] = []
