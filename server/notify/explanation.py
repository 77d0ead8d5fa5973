"""Why a notification was sent, held back, tried again or dropped: read from the ledger, for whoever asks."""

from actors.notify.keeper import ledger_body
from protocol.errors import Refused
from protocol.http_notify import DeliveryInfo, Explanation, NotificationInfo
from protocol.notify_ids import partition_of_id
from protocol.notify_records import DeliveryRow, NotificationRow
from protocol.notify_replies import LedgerEntry
from protocol.records import Entry
from storage.store import Store


async def explain_notification(store: Store, app_id: str, notification_id: int) -> Explanation:
    """All that is recorded of a notification. Raises: Refused(notification_not_found)."""
    row = await row_of(store, app_id, notification_id)
    entries = await store.notify.ledger(partition_of_id(notification_id), notification_id)
    deliveries = await store.notify.deliveries(notification_id)
    return Explanation(
        notification=info_of(row),
        deliveries=[delivery_of(found) for found in deliveries],
        ledger=[ledger_entry_of(entry) for entry in entries],
    )


async def row_of(store: Store, app_id: str, notification_id: int) -> NotificationRow:
    """Raises: Refused(notification_not_found), for those of other apps as well."""
    rows = await store.notify.notifications([notification_id])
    if not rows or rows[0].app_id != app_id:
        raise Refused("notification_not_found")
    return rows[0]


def info_of(row: NotificationRow) -> NotificationInfo:
    """A notification as an app's backend sees it."""
    return NotificationInfo(
        **{name: getattr(row, name) for name in NotificationInfo.__struct_fields__}  # the same names
    )


def delivery_of(row: DeliveryRow) -> DeliveryInfo:
    """A delivery as an app's backend sees it."""
    return DeliveryInfo(**{name: getattr(row, name) for name in DeliveryInfo.__struct_fields__})


def ledger_entry_of(entry: Entry) -> LedgerEntry:
    """A row of the ledger as it is shown."""
    return LedgerEntry(
        at_ms=entry.at_ms,
        kind=entry.kind,
        decisions=ledger_body(entry.body).d if entry.body != "{}" else [],
    )
