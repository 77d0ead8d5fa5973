"""Events of notifications, for all of a user's sessions."""

from typing import Annotated

from msgspec import Meta

from protocol.bases import BaseEvent
from protocol.notify_replies import NotificationId, NotificationItem
from protocol.types import Count


class NotificationShown(BaseEvent, tag="notification", frozen=True, kw_only=True, omit_defaults=True):
    """A notification is new in the centre, or tells of more now: then it was there under this id before.

    After a `resync` of "notifications", or where `unread` is not what it should be, read the newest page.
    """

    item: NotificationItem
    unread: Count


class NotificationsMarked(
    BaseEvent, tag="notifications_marked", frozen=True, kw_only=True, omit_defaults=True
):
    """Notifications were seen, read, or dismissed on some device. `up_to`: those and all older ones."""

    mark: str
    notification_ids: list[NotificationId] = []
    up_to: Annotated[int, Meta(description="0: only those named.")] = 0
    unread: Count


NotifyEvent = NotificationShown | NotificationsMarked
