"""Answers about notifications."""

from typing import Annotated

import msgspec
from msgspec import Meta

from protocol.bases import BaseReply
from protocol.limits import MAX_SAFE_INTEGER
from protocol.notify_types import Channel, Consent, Decision, Frequency, Preferences, Priority
from protocol.types import AtMs, Count, UserId


class _Reply(BaseReply, frozen=True, kw_only=True, omit_defaults=True):
    pass


NotificationId = Annotated[
    int, Meta(ge=0, le=MAX_SAFE_INTEGER, description="A notification; rises with time.")
]


class NotificationItem(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """A notification as the centre shows it."""

    notification_id: NotificationId
    type: str
    priority: Priority = "medium"
    at_ms: AtMs
    title: str = ""
    text: str = ""
    url: str = ""
    image: str = ""
    count: Annotated[int, Meta(description="How many similar ones it tells of; 0: one.")] = 0
    seen: bool = False
    read: bool = False


class NotificationPage(_Reply, tag="notifications", frozen=True, kw_only=True, omit_defaults=True):
    """Notifications, the newest first. `unread` is the badge: how many of all of them are not read."""

    items: list[NotificationItem]
    unread: Count
    more: bool = False


class Badge(_Reply, tag="badge", frozen=True, kw_only=True, omit_defaults=True):
    """How many notifications are not read."""

    unread: Count


class Notified(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """What became of a request for one user so far. `state`: open, held, done, dropped, merged, cancelled."""

    user_id: UserId
    notification_id: NotificationId
    state: str
    reason: Annotated[str, Meta(description="What decided, where it is held, dropped or merged.")] = ""
    due_at_ms: AtMs = 0
    repeated: Annotated[bool, Meta(description="The key was used before: this is what it did then.")] = False


class NotifyAccepted(_Reply, tag="notify_accepted", frozen=True, kw_only=True, omit_defaults=True):
    """The request is stored for good. `items` where it was decided at once; larger ones run on."""

    request_id: str
    items: list[Notified] = []
    state: Annotated[str, Meta(description="done, running or waiting; see GET …/requests/ID.")] = "done"
    repeated: bool = False


class RequestCancelled(_Reply, tag="request_cancelled", frozen=True, kw_only=True, omit_defaults=True):
    """What cancelling a request has done. Each of its notifications is counted once.

    Asked again, it tells the same, but for what has come to its end meanwhile.
    """

    request_id: str
    state: Annotated[str, Meta(description="cancelled; or cancelling: it goes on, see GET …/requests/ID.")]
    cancelled: Annotated[Count, Meta(description="Of which nobody has seen or will see anything.")] = 0
    partly: Annotated[
        Count, Meta(description="Sent, or shown in the app, in part; the rest was cancelled.")
    ] = 0
    under_way: Annotated[
        Count, Meta(description="With a provider at that moment, and perhaps sent; not tried again.")
    ] = 0
    kept: Annotated[
        Count, Meta(description="Too late, or no need: sent, shown, refused or dropped before.")
    ] = 0


class PushDevice(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """An address of the user on one channel."""

    device_key: str
    channel: Channel
    address: Annotated[str, Meta(description="Masked, but for its last characters.")]
    name: str = ""
    registered_at_ms: AtMs = 0
    retired_for: Annotated[
        str, Meta(description="Why nothing is sent there any more: the provider's word for STOP or a bounce.")
    ] = ""


class PushDevices(_Reply, tag="push_devices", frozen=True, kw_only=True, omit_defaults=True):
    """The user's addresses."""

    items: list[PushDevice]


class TypeInfo(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """A type that the user can have a preference about, and what holds now."""

    name: str
    title: str = ""
    channels: list[Channel]
    is_security: bool = False
    frequency: Frequency = "immediate"
    offers: Annotated[
        list[Channel], Meta(description="Where it may go, if the user wants: what there is to choose from.")
    ] = []
    purpose: Annotated[str, Meta(description="The consent that it rests on; empty: none.")] = ""


class PreferencesInfo(_Reply, tag="preferences", frozen=True, kw_only=True, omit_defaults=True):
    """What the user wants to hear, and of what there is to choose."""

    preferences: Preferences
    types: list[TypeInfo] = []
    consents: list[Consent] = []
    time_zone: str = ""
    vapid_public_key: Annotated[str, Meta(description="For PushManager.subscribe; empty: no web push.")] = ""


class LedgerEntry(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """One thing that happened to a notification."""

    at_ms: AtMs
    kind: str
    decisions: list[Decision]


class Erased(_Reply, tag="erased", frozen=True, kw_only=True, omit_defaults=True):
    """The receipt of an erasure."""

    erasure_id: str
    at_ms: AtMs
    counts: dict[str, int]


class Redriven(_Reply, tag="redriven", frozen=True, kw_only=True, omit_defaults=True):
    """How many dead deliveries are tried again: without those that are erased, or are under way already."""

    count: Count


class Forecast(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """One thing that a user is to hear. `kind`: send, hold, drop; quiet: quiet hours until `until_ms`."""

    at_ms: AtMs
    local: Annotated[str, Meta(description="The user's wall clock.")]
    kind: str
    types: list[str] = []
    channels: list[Channel] = []
    notification_ids: list[int] = []
    until_ms: AtMs = 0
    reason: str = ""
    why: list[Decision] = []


class Forecasts(_Reply, tag="forecasts", frozen=True, kw_only=True, omit_defaults=True):
    """The coming days of one user."""

    items: list[Forecast]


NotifyReply = (
    NotificationPage
    | Badge
    | NotifyAccepted
    | RequestCancelled
    | PushDevices
    | PreferencesInfo
    | Erased
    | Redriven
    | Forecasts
)
