"""The reads behind notifications, off the Trio thread."""

from collections.abc import Sequence

from protocol.notify_found import (
    MAX_SEQ,
    ExportedEntry,
    FoundFacts,
    FoundTold,
    FoundUser,
    Line,
    ProviderCount,
    QueueDepth,
    Standing,
    UntoldDead,
    VariantCount,
)
from protocol.notify_ids import first_id_at
from protocol.notify_records import (
    DeadDelivery,
    DeliveryRow,
    ErasureRow,
    NotificationRow,
    RequestRow,
    TemplateRow,
)
from protocol.records import Entry
from storage import notify_overdue, notify_pages, notify_queries, open_delivery_queries
from storage.reader import Readers


class SqliteNotifyReads:
    """Fits protocol.notify_found.NotifyReads; see there for what each method promises."""

    def __init__(self, readers: Readers) -> None:
        self._readers = readers

    async def users(
        self, user_ids: Sequence[str], *, since_id: int, counted_since_ms: int
    ) -> list[FoundUser]:
        return await self._readers.run(notify_queries.users, user_ids, since_id, counted_since_ms)

    async def told(self, wanted: Sequence[tuple[str, str, int]], *, now_ms: int) -> list[FoundTold]:
        return await self._readers.run(notify_queries.told, wanted, now_ms)

    async def user_facts(self, user_ids: Sequence[str]) -> list[FoundFacts]:
        return await self._readers.run(notify_queries.user_facts, user_ids)

    async def largest_id(self) -> int:
        return await self._readers.run(notify_queries.largest_id)

    async def open_lines(self, partition: int) -> list[Line]:
        return await self._readers.run(open_delivery_queries.open_lines, partition)

    async def open_deliveries(self, partition: int, line: Line, *, limit: int) -> list[DeliveryRow]:
        return await self._readers.run(open_delivery_queries.open_deliveries, partition, line, limit)

    async def standings(self, ids: Sequence[int]) -> dict[int, Standing]:
        return await self._readers.run(open_delivery_queries.standings, ids)

    async def held(
        self, partition: int, *, due_to_ms: int, limit: int, without: Sequence[str] = ()
    ) -> list[NotificationRow]:
        return await self._readers.run(notify_queries.held, partition, due_to_ms, limit, without)

    async def next_due(self, partition: int, *, without: Sequence[str] = ()) -> int:
        return await self._readers.run(notify_queries.next_due, partition, without)

    async def held_of(self, user_id: str) -> list[NotificationRow]:
        return await self._readers.run(notify_queries.held_of, user_id)

    async def notifications(self, ids: Sequence[int]) -> list[NotificationRow]:
        known = [notification_id for notification_id in ids if notification_id <= MAX_SEQ]
        return await self._readers.run(notify_queries.notifications, known)

    async def members(self, into_id: int, *, limit: int) -> list[NotificationRow]:
        return await self._readers.run(notify_queries.members, into_id, limit)

    async def untold(self, into_id: int, *, after: int, limit: int) -> list[NotificationRow]:
        return await self._readers.run(notify_queries.untold, into_id, after, limit)

    async def of_request(
        self, app_id: str, request_id: str, partition: int, *, after: int, limit: int
    ) -> list[NotificationRow]:
        return await self._readers.run(notify_queries.of_request, app_id, request_id, partition, after, limit)

    async def open_of(self, ids: Sequence[int]) -> list[DeliveryRow]:
        return await self._readers.run(notify_queries.open_of, ids)

    async def awaiting_receipts(self, ids: Sequence[int]) -> list[int]:
        return await self._readers.run(open_delivery_queries.awaiting_receipts, ids)

    async def dead_of(self, ids: Sequence[int]) -> list[int]:
        return await self._readers.run(notify_queries.dead_of, ids)

    async def deliveries(self, notification_id: int) -> list[DeliveryRow]:
        return await self._readers.run(notify_queries.deliveries, notification_id)

    async def delivery_by_ref(self, provider_ref: str) -> DeliveryRow | None:
        return await self._readers.run(notify_queries.delivery_by_ref, provider_ref)

    async def ledger(self, partition: int, notification_id: int) -> list[Entry]:
        return await self._readers.run(notify_queries.ledgers, partition, [notification_id])

    async def ledgers(self, partition: int, ids: Sequence[int]) -> list[Entry]:
        return await self._readers.run(notify_queries.ledgers, partition, ids)

    async def centre(
        self, user_id: str, *, before: int, limit: int, unread_only: bool
    ) -> tuple[list[NotificationRow], int]:
        return await self._readers.run(notify_queries.centre, user_id, before, limit, unread_only)

    async def history(self, user_id: str, *, before: int, limit: int) -> list[NotificationRow]:
        return await self._readers.run(notify_queries.history, user_id, before, limit)

    async def ended_consents(
        self, partition: int, now_ms: int, *, limit: int, without: Sequence[str] = ()
    ) -> list[tuple[str, str]]:
        return await self._readers.run(notify_queries.ended_consents, partition, now_ms, limit, without)

    async def of_types(
        self, user_id: str, types: Sequence[str], *, purpose: str, limit: int
    ) -> list[NotificationRow]:
        return await self._readers.run(notify_queries.of_types, user_id, types, purpose, limit)

    async def users_at(self, app_id: str, device_key: str, *, after: str, limit: int) -> list[str]:
        return await self._readers.run(notify_queries.users_at, app_id, device_key, after, limit)

    async def app_versions(self) -> dict[str, int]:
        return await self._readers.run(notify_queries.app_versions)

    async def newest_templates(self, app_id: str) -> list[TemplateRow]:
        return await self._readers.run(notify_queries.newest_templates, app_id)

    async def template_versions(self, app_id: str, name: str) -> list[int]:
        return await self._readers.run(notify_queries.template_versions, app_id, name)

    async def apps_with_requests(self) -> list[str]:
        return await self._readers.run(notify_queries.apps_with_requests)

    async def apps_with_ended_requests(self, before_ms: int) -> list[str]:
        return await self._readers.run(notify_queries.apps_with_ended_requests, before_ms)

    async def ended_requests(self, app_id: str, before_ms: int, *, limit: int) -> list[str]:
        return await self._readers.run(notify_queries.ended_requests, app_id, before_ms, limit)

    async def device_counts(self) -> dict[tuple[str, str], int]:
        return await self._readers.run(notify_queries.device_counts)

    async def group_page(self, app_id: str, name: str, *, after: str, limit: int) -> list[str]:
        return await self._readers.run(notify_queries.group_page, app_id, name, after, limit)

    async def group_names(self, app_id: str, *, after: str, limit: int) -> list[str]:
        return await self._readers.run(notify_pages.group_names, app_id, after, limit)

    async def requests_page(
        self, app_id: str, state: str, *, before: tuple[int, str] | None, limit: int
    ) -> list[RequestRow]:
        return await self._readers.run(notify_pages.requests, app_id, state, before, limit)

    async def dead_page(self, app_id: str, *, after: tuple[int, int, int], limit: int) -> list[DeadDelivery]:
        return await self._readers.run(notify_pages.dead_letters, app_id, after, limit)

    async def erasures_page(
        self, app_id: str, user_id: str, *, after: tuple[int, str], limit: int
    ) -> list[ErasureRow]:
        return await self._readers.run(notify_pages.erasures, app_id, user_id, after, limit)

    async def users_by_external(self, app_id: str, external_ids: Sequence[str]) -> dict[str, str]:
        return await self._readers.run(notify_queries.users_by_external, app_id, external_ids)

    async def exported(
        self, app_id: str, partition: int, *, after: int, limit: int, upto: int = MAX_SEQ
    ) -> list[ExportedEntry]:
        return await self._readers.run(notify_queries.exported, app_id, partition, after, upto, limit)

    async def ledger_step(self, partition: int, *, after: int, rows: int) -> int:
        return await self._readers.run(notify_queries.ledger_step, partition, after, rows)

    async def queue_depths(self, now_ms: int) -> list[QueueDepth]:
        return await self._readers.run(notify_queries.queue_depths, now_ms)

    async def ended_before(self, partition: int, before_id: int, *, limit: int) -> list[int]:
        return await self._readers.run(notify_queries.ended_before, partition, before_id, limit)

    async def ledger_seq_at(self, partition: int, at_ms: int) -> int:
        return await self._readers.run(notify_queries.ledger_seq_at, partition, at_ms)

    async def stream_seq_at(self, stream: str, at_ms: int) -> int:
        return await self._readers.run(notify_queries.stream_seq_at, stream, at_ms)

    async def untold_dead(self, since_ms: int) -> list[UntoldDead]:
        return await self._readers.run(notify_queries.untold_dead, since_ms)

    async def untold_of(self, group: UntoldDead, *, limit: int) -> list[tuple[int, int]]:
        return await self._readers.run(notify_queries.untold_of, group, limit)

    async def overdue(self, now_ms: int) -> list[QueueDepth]:
        return await self._readers.run(notify_overdue.overdue, now_ms)

    async def provider_counts(self, app_id: str, *, since_ms: int) -> list[ProviderCount]:
        return await self._readers.run(notify_queries.provider_counts, app_id, first_id_at(since_ms))

    async def variant_counts(self, app_id: str, experiment: str) -> list[VariantCount]:
        return await self._readers.run(notify_queries.variant_counts, app_id, experiment)
