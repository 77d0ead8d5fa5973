"""Why a notification was sent, held back, tried again or dropped: read from the ledger, for whoever asks."""

from collections.abc import Sequence
from typing import Final

import msgspec

from actors.notify.keeper import ledger_body
from actors.notify.user_state import decode_kept
from protocol.errors import Refused
from protocol.http_notify import DeliveryInfo, Explanation, NotificationInfo
from protocol.notify_ids import partition_of_id
from protocol.notify_records import DeliveryRow, NotificationRow
from protocol.notify_replies import LedgerEntry
from protocol.records import Entry
from storage.store import Store

LEDGERS: Final = 500  # notifications whose ledgers are read at a time
_TOLD: Final = frozenset({"title", "text", "reason"})  # by told_of alone
# Which decision has brought a notification into that state.
_WITH_REASON: Final = {"dropped": "drop", "erased": "drop", "held": "hold", "merged": "hold"}


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
    """A notification as it is: no texts, as operators see it too."""
    return NotificationInfo(
        **{name: getattr(row, name) for name in NotificationInfo.__struct_fields__ if name not in _TOLD}
    )


async def told_of(store: Store, rows: Sequence[NotificationRow]) -> list[NotificationInfo]:
    """One user's notifications as the app's backend sees them: with texts, and why they were not sent."""
    asked = [row.notification_id for row in rows if row.state in _WITH_REASON]
    entries: dict[int, list[Entry]] = {}
    for start in range(0, len(asked), LEDGERS):
        for entry in await store.notify.ledgers(rows[0].partition, asked[start : start + LEDGERS]):
            entries.setdefault(entry.thread or 0, []).append(entry)
    told = []
    for row in rows:
        content = decode_kept(row.content).content if row.content else None
        title, text = row.title, row.text
        if content is not None and not (title or text):
            title, text = content.title, content.text
        reason = reason_of(row.state, entries.get(row.notification_id, []))
        told.append(msgspec.structs.replace(info_of(row), title=title, text=text, reason=reason))
    return told


def reason_of(state: str, entries: Sequence[Entry]) -> str:
    """What has dropped a notification or holds it, by its ledger: "stage: rule = value"; "": nothing has."""
    outcome = _WITH_REASON.get(state)
    for entry in reversed(entries) if outcome else ():
        for decision in reversed(ledger_body(entry.body).d if entry.body != "{}" else []):
            if decision.outcome == outcome and decision.stage != "retire":
                # When what is held is due is told by itself.
                value = f" = {decision.value}" if decision.value and outcome == "drop" else ""
                return f"{decision.stage}: {decision.rule}{value}"
    return ""


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
