"""What the store finds for the notification service, and the interface by which it is asked."""

from collections.abc import Sequence
from typing import Final, Protocol

import msgspec

from protocol.notify_records import (
    DeadDelivery,
    DeliveryRow,
    ErasureRow,
    NotificationRow,
    RequestRow,
    TemplateRow,
)
from protocol.records import Entry


class FoundConsent(msgspec.Struct, frozen=True, array_like=True):
    purpose: str
    source: str
    given_at_ms: int
    ends_at_ms: int


class FoundDevice(msgspec.Struct, frozen=True, array_like=True):
    device_key: str
    channel: str
    address: str
    keys: str  # JSON object, or empty
    registered_at_ms: int
    name: str


class FoundStopped(msgspec.Struct, frozen=True, array_like=True):
    device_key: str
    channel: str
    address: str
    registered_at_ms: int
    name: str
    why: str


class FoundRecent(msgspec.Struct, frozen=True, array_like=True):
    """When its user was told, in-app or elsewhere, and when it is due, where it was held; 0: not."""

    dedup_key: str
    notification_id: int
    told_at_ms: int
    due_at_ms: int


class FoundTold(msgspec.Struct, frozen=True):
    """When a user was last told of what has this key."""

    user_id: str
    dedup_key: str
    notification_id: int
    told_at_ms: int


# Of one user, for finding duplicates, some 250 bytes each in memory; older ones are asked for by their keys.
MAX_RECENT: Final = 300


class FoundGroup(msgspec.Struct, frozen=True, array_like=True):
    group_key: str
    notification_id: int
    due_at_ms: int
    item_count: int
    content: str


class FoundUser(msgspec.Struct, frozen=True, array_like=True):
    """All that decides what a user is told. `recent` and `counted` as far back as was asked for.

    `recent`: the newest first, at most MAX_RECENT, none older than `recent_from_id`, where that is not 0.
    """

    user_id: str
    app_id: str
    name: str
    language: str
    time_zone: str
    is_disabled: int
    preferences: str
    consents: list[FoundConsent]
    devices: list[FoundDevice]
    recent: list[FoundRecent]
    counted: list[int]
    groups: list[FoundGroup]
    unread: list[int]
    stopped: list[FoundStopped] = []
    recent_from_id: int = 0


class FoundFacts(msgspec.Struct, frozen=True, array_like=True):
    """What others than the partition write of a user; see actors/notify/fact_keeper.py."""

    user_id: str
    name: str
    language: str
    time_zone: str
    is_disabled: int


class QueueDepth(msgspec.Struct, frozen=True, array_like=True):
    """How many deliveries of one app, channel and priority are open, and since when the oldest waits."""

    app_id: str
    channel: str
    priority: str
    count: int
    oldest_at_ms: int
    due_count: int


class ProviderCount(msgspec.Struct, frozen=True, array_like=True):
    """Deliveries of a span of time, by provider and what became of them."""

    channel: str
    provider_id: str
    state: str
    count: int
    latency_ms: float  # from the request to the provider's answer, the mean


class VariantCount(msgspec.Struct, frozen=True, array_like=True):
    """What became of the users of one variant of an experiment, each counted once.

    `exposed` were sent or shown the variant's own text at least once; `opened`, `clicked` and `confirmed` of
    these, of what they were so sent. `drawn` and `drawn_…`: the same of all who were drawn for it, whatever
    they were sent. In the holdout nobody is sent anything: there who was drawn is exposed to that.
    """

    variant: str
    exposed: int
    opened: int
    clicked: int
    confirmed: int
    drawn: int
    drawn_opened: int
    drawn_clicked: int
    drawn_confirmed: int


class ExportedEntry(msgspec.Struct, frozen=True):
    """A ledger entry with whose it is."""

    seq: int
    notification_id: int
    user_id: str
    kind: str
    at_ms: int
    body: str


class UntoldDead(msgspec.Struct, frozen=True):
    """Dead deliveries of one cause of which nobody was told yet. `detail`: of the last one, at `upto_ms`."""

    app_id: str
    channel: str
    provider_id: str
    code: str
    count: int
    upto_ms: int
    detail: str


MAX_SEQ: Final = 2**63 - 1  # SQLite's largest integer


Line = tuple[str, str, str]
"""What one app sends by one channel with one priority: (priority, app_id, channel)."""


class Standing(msgspec.Struct, frozen=True):
    """How a notification's deliveries stand: the numbers of those that are open, or may have come.

    `reached`: a provider has taken these, and not called them undelivered since, or the outcome is unknown.
    """

    open_numbers: list[int]
    reached: list[int]


class NotifyReads(Protocol):
    """The reads behind notifications. Each answers from one state of the store, as of after the call."""

    async def users(
        self, user_ids: Sequence[str], *, since_id: int, counted_since_ms: int
    ) -> list[FoundUser]:
        """Those of up to 1,000 users who exist, with what is known of them; in no order."""
        ...

    async def told(self, wanted: Sequence[tuple[str, str, int]], *, now_ms: int) -> list[FoundTold]:
        """By (user, dedup key, the smallest id that is looked at): the last one told by now, if any."""
        ...

    async def user_facts(self, user_ids: Sequence[str]) -> list[FoundFacts]:
        """What others write of up to 1,000 users, of those who exist; in no order."""
        ...

    async def largest_id(self) -> int:
        """The largest notification id of any partition; 0 for none."""
        ...

    async def open_lines(self, partition: int) -> list[Line]:
        """The lines that have open deliveries, in no order."""
        ...

    async def open_deliveries(self, partition: int, line: Line, *, limit: int) -> list[DeliveryRow]:
        """Open deliveries of a line, by rising (next_at_ms, notification_id, number)."""
        ...

    async def standings(self, ids: Sequence[int]) -> dict[int, Standing]:
        """How the deliveries of up to 1,000 notifications stand, of those that have any."""
        ...

    async def held(
        self, partition: int, *, due_to_ms: int, limit: int, without: Sequence[str] = ()
    ) -> list[NotificationRow]:
        """Held notifications that are due by then, the longest due first; none of the apps `without`."""
        ...

    async def next_due(self, partition: int, *, without: Sequence[str] = ()) -> int:
        """When the next held notification is due; 0: none is held. None of the apps `without` counts."""
        ...

    async def held_of(self, user_id: str) -> list[NotificationRow]:
        """What is held for one user, up to 1,000."""
        ...

    async def notifications(self, ids: Sequence[int]) -> list[NotificationRow]:
        """Those of up to 1,000 notifications that exist, in no order."""
        ...

    async def members(self, into_id: int, *, limit: int) -> list[NotificationRow]:
        """What became part of a batch or digest, oldest first."""
        ...

    async def untold(self, into_id: int, *, after: int, limit: int) -> list[NotificationRow]:
        """What a digest has still to tell, as nobody has read it, beyond an id: by rising id."""
        ...

    async def of_request(
        self, app_id: str, request_id: str, partition: int, *, after: int, limit: int
    ) -> list[NotificationRow]:
        """A partition's notifications of one request, beyond an id, by rising id."""
        ...

    async def open_of(self, ids: Sequence[int]) -> list[DeliveryRow]:
        """Open deliveries of these notifications, up to 1,000 of them."""
        ...

    async def awaiting_receipts(self, ids: Sequence[int]) -> list[int]:
        """Those of up to 1,000 notifications of which a provider may yet tell that it was not delivered."""
        ...

    async def dead_of(self, ids: Sequence[int]) -> list[int]:
        """Those of up to 1,000 notifications that have dead deliveries."""
        ...

    async def deliveries(self, notification_id: int) -> list[DeliveryRow]:
        """All deliveries of one notification, by number."""
        ...

    async def delivery_by_ref(self, provider_ref: str) -> DeliveryRow | None:
        """The delivery that a provider knows by this id."""
        ...

    async def ledger(self, partition: int, notification_id: int) -> list[Entry]:
        """All that happened to one notification, in order."""
        ...

    async def ledgers(self, partition: int, ids: Sequence[int]) -> list[Entry]:
        """All that happened to these notifications of a partition, in order; `thread` tells of which."""
        ...

    async def centre(
        self, user_id: str, *, before: int, limit: int, unread_only: bool
    ) -> tuple[list[NotificationRow], int]:
        """A page of the user's centre, newest first, and how many in all are unread."""
        ...

    async def history(self, user_id: str, *, before: int, limit: int) -> list[NotificationRow]:
        """All notifications of a user, newest first, of every state."""
        ...

    async def ended_consents(
        self, partition: int, now_ms: int, *, limit: int, without: Sequence[str] = ()
    ) -> list[tuple[str, str]]:
        """(user_id, purpose) of consents that have ended or were withdrawn, and are not erased yet.

        None of the apps `without`.
        """
        ...

    async def of_types(
        self, user_id: str, types: Sequence[str], *, purpose: str, limit: int
    ) -> list[NotificationRow]:
        """Notifications of a user that are not erased yet: of a purpose, or with one of these types.

        Without a purpose: all of them.
        """
        ...

    async def users_at(self, app_id: str, device_key: str, *, after: str, limit: int) -> list[str]:
        """The app's users who have this mail address or number, and to whom it is not stopped."""
        ...

    async def app_versions(self) -> dict[str, int]:
        """app_id -> version of what it has set up, for apps that have set up anything."""
        ...

    async def newest_templates(self, app_id: str) -> list[TemplateRow]:
        """An app's templates, each in its newest version; in no order."""
        ...

    async def template_versions(self, app_id: str, name: str) -> list[int]:
        """The versions of a template that are kept, rising."""
        ...

    async def apps_with_requests(self) -> list[str]:
        """Apps with requests that are not done, or are being cancelled."""
        ...

    async def apps_with_ended_requests(self, before_ms: int) -> list[str]:
        """Apps with requests that ended before that time."""
        ...

    async def ended_requests(self, app_id: str, before_ms: int, *, limit: int) -> list[str]:
        """Ids of an app's requests that ended before that time, the oldest first."""
        ...

    async def device_counts(self) -> dict[tuple[str, str], int]:
        """(app_id, channel) -> how many addresses are not retired."""
        ...

    async def group_page(self, app_id: str, name: str, *, after: str, limit: int) -> list[str]:
        """User ids of a group ("*": of the app) by rising id, beyond `after`; disabled ones are left out."""
        ...

    async def group_names(self, app_id: str, *, after: str, limit: int) -> list[str]:
        """Names of an app's groups beyond `after`, rising."""
        ...

    async def requests_page(
        self, app_id: str, state: str, *, before: tuple[int, str] | None, limit: int
    ) -> list[RequestRow]:
        """An app's larger requests (of a state; "": of any), newest first, below (created_at_ms, id)."""
        ...

    async def dead_page(self, app_id: str, *, after: tuple[int, int, int], limit: int) -> list[DeadDelivery]:
        """An app's dead deliveries by rising (at_ms, notification_id, number), beyond `after`."""
        ...

    async def erasures_page(
        self, app_id: str, user_id: str, *, after: tuple[int, str], limit: int
    ) -> list[ErasureRow]:
        """Receipts of a user's erasures by rising (at_ms, erasure_id), beyond `after`."""
        ...

    async def users_by_external(self, app_id: str, external_ids: Sequence[str]) -> dict[str, str]:
        """external_id -> user_id, of those that exist."""
        ...

    async def exported(
        self, app_id: str, partition: int, *, after: int, limit: int, upto: int = MAX_SEQ
    ) -> list[ExportedEntry]:
        """Ledger entries of an app's users beyond a seq, up to another one: rows of others cost time, too."""
        ...

    async def ledger_step(self, partition: int, *, after: int, rows: int) -> int:
        """The seq of the last one of the next so many entries of a partition's ledger; 0: there is none."""
        ...

    async def queue_depths(self, now_ms: int) -> list[QueueDepth]:
        """Open deliveries, of all apps."""
        ...

    async def ended_before(self, partition: int, before_id: int, *, limit: int) -> list[int]:
        """Ids of a partition's notifications below before_id with which nothing is under way, rising."""
        ...

    async def ledger_seq_at(self, partition: int, at_ms: int) -> int:
        """About the first seq of a partition's ledger from that time on; never beyond its last. 0: empty."""
        ...

    async def stream_seq_at(self, stream: str, at_ms: int) -> int:
        """The same of any stream of the log."""
        ...

    async def untold_dead(self, since_ms: int) -> list[UntoldDead]:
        """Dead deliveries since then of which nobody was told yet, of all apps, as one for each cause."""
        ...

    async def untold_of(self, group: UntoldDead, *, limit: int) -> list[tuple[int, int]]:
        """(notification_id, number) of those that a group counts, oldest first."""
        ...

    async def overdue(self, now_ms: int) -> list[QueueDepth]:
        """Open deliveries that are later than their deadline; of at most 10,000 that are looked at."""
        ...

    async def provider_counts(self, app_id: str, *, since_ms: int) -> list[ProviderCount]:
        """Deliveries of an app since then."""
        ...

    async def variant_counts(self, app_id: str, experiment: str) -> list[VariantCount]:
        """Users of each variant; `holdout` is one of them."""
        ...
