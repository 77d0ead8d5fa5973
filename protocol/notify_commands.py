"""Commands of notifications: for users, about their own; and `notify`, for an app's backend or bot."""

from typing import Annotated, ClassVar, Literal

from msgspec import Meta

from protocol import notify_replies, replies
from protocol.bases import BaseCommand
from protocol.limits import MAX_SAFE_INTEGER
from protocol.notify_content import NotifyRequest
from protocol.notify_replies import NotificationId
from protocol.notify_types import Channel, Preferences, Purpose
from protocol.types import Limit

MarkKind = Literal["seen", "read", "unread", "dismissed", "opened", "clicked"]


class _Command(BaseCommand, frozen=True, kw_only=True, omit_defaults=True):
    reply: ClassVar[type] = replies.Ok


class ListNotifications(_Command, tag="list_notifications", frozen=True, kw_only=True, omit_defaults=True):
    """Read the own notification centre, newest first."""

    reply: ClassVar[type] = notify_replies.NotificationPage

    before: Annotated[int, Meta(ge=0, le=MAX_SAFE_INTEGER, description="0: from the newest.")] = 0
    limit: Limit = 50
    unread_only: bool = False


class MarkNotifications(_Command, tag="mark_notifications", frozen=True, kw_only=True, omit_defaults=True):
    """Mark own notifications: those named, or all up to one. Dismissed ones leave the centre.

    What was seen on a device that is connected is not pushed to the others any more.
    """

    reply: ClassVar[type] = notify_replies.Badge

    mark: MarkKind
    notification_ids: Annotated[list[NotificationId], Meta(max_length=200)] = []
    up_to: Annotated[int, Meta(ge=0, le=MAX_SAFE_INTEGER)] = 0


class GetPreferences(_Command, tag="get_preferences", frozen=True, kw_only=True, omit_defaults=True):
    """Read what one wants to hear, and what there is to choose from."""

    reply: ClassVar[type] = notify_replies.PreferencesInfo


class SetPreferences(_Command, tag="set_preferences", frozen=True, kw_only=True, omit_defaults=True):
    """Set all of one's preferences at once. They hold for everything that is not with a provider yet."""

    reply: ClassVar[type] = notify_replies.PreferencesInfo

    preferences: Preferences


class RegisterPush(_Command, tag="register_push", frozen=True, kw_only=True, omit_defaults=True):
    """Tell an address at which this user can be reached; again whenever the app starts, as tokens change.

    `keys`: of web push p256dh and auth; of apns topic and environment where they are not the provider's.
    """

    reply: ClassVar[type] = notify_replies.PushDevices

    channel: Channel
    address: Annotated[str, Meta(min_length=1, max_length=2_000)]
    keys: Annotated[dict[str, Annotated[str, Meta(max_length=500)]], Meta(max_length=10)] = {}
    name: Annotated[str, Meta(max_length=100)] = ""
    opt_in: Annotated[
        bool,
        Meta(description="The user has just asked for messages there: an earlier STOP or complaint ends."),
    ] = False


class UnregisterPush(_Command, tag="unregister_push", frozen=True, kw_only=True, omit_defaults=True):
    """Send nothing more to that address."""

    reply: ClassVar[type] = notify_replies.PushDevices

    device_key: Annotated[str, Meta(min_length=1, max_length=64)]


class ListPush(_Command, tag="list_push", frozen=True, kw_only=True, omit_defaults=True):
    """Read at which addresses one can be reached."""

    reply: ClassVar[type] = notify_replies.PushDevices


class SetConsent(_Command, tag="set_consent", frozen=True, kw_only=True, omit_defaults=True):
    """Give or withdraw the consent to one purpose. What rested on it is erased when it ends."""

    reply: ClassVar[type] = notify_replies.PreferencesInfo

    purpose: Purpose
    given: bool
    source: Annotated[str, Meta(max_length=200)] = ""
    ends_at_ms: Annotated[int, Meta(ge=0, le=MAX_SAFE_INTEGER)] = 0


class PlanNotifications(_Command, tag="plan_notifications", frozen=True, kw_only=True, omit_defaults=True):
    """A dry run: what this user is to hear in the coming days, when, and why."""

    reply: ClassVar[type] = notify_replies.Forecasts

    days: Annotated[int, Meta(ge=1, le=30)] = 7


class Notify(_Command, tag="notify", frozen=True, kw_only=True, omit_defaults=True):
    """Notify users of the app, as POST /v1/notifications does.

    For bots that the app itself has made; everybody else names the app's key and secret.
    """

    reply: ClassVar[type] = notify_replies.NotifyAccepted

    app_key: Annotated[str, Meta(max_length=100)] = ""
    secret: Annotated[str, Meta(max_length=200)] = ""
    request: NotifyRequest


class CancelRequest(_Command, tag="cancel_request", frozen=True, kw_only=True, omit_defaults=True):
    """Cancel a request to notify, as DELETE /v1/notifications/requests/ID does; for those who may notify.

    What is held or waits is not sent any more. It is safe to repeat.
    """

    reply: ClassVar[type] = notify_replies.RequestCancelled

    app_key: Annotated[str, Meta(max_length=100)] = ""
    secret: Annotated[str, Meta(max_length=200)] = ""
    request_id: Annotated[str, Meta(min_length=1, max_length=100)]


NotifyCommand = (
    ListNotifications
    | MarkNotifications
    | GetPreferences
    | SetPreferences
    | RegisterPush
    | UnregisterPush
    | ListPush
    | SetConsent
    | PlanNotifications
    | Notify
    | CancelRequest
)
