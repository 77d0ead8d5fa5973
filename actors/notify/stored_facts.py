"""From a notification that is stored to the facts that rules go by."""

from typing import cast

from actors.notify.facts import Facts
from actors.notify.user_state import decode_kept
from protocol.notify_records import NotificationRow
from protocol.notify_types import Priority


def facts_of(row: NotificationRow) -> Facts:
    """The facts of a notification that is held."""
    kept = decode_kept(row.content) if row.content else None
    content = kept.content if kept is not None else None
    return Facts(
        notification_id=row.notification_id,
        app_id=row.app_id,
        user_id=row.user_id,
        type=row.type,
        subject=content.subject if content is not None else "",
        priority=cast(Priority, row.priority),
        created_at_ms=row.created_at_ms,
        expires_at_ms=row.expires_at_ms,
        collapse_key=content.collapse_key if content is not None else "",
        batch_key=(content.batch_key or content.subject) if content is not None else "",
        content_hash=kept.digest if kept is not None else "",
        channels=kept.channels if kept is not None else [],
        held_by=kept.held_by if kept is not None else "",
    )
