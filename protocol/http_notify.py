"""Bodies of the HTTP API by which an app's backend sets up and follows its notifications."""

from typing import Annotated, Any, Literal

import msgspec
from msgspec import Meta

from protocol.notify_replies import LedgerEntry, NotificationId, NotificationItem
from protocol.notify_templates import Experiment, Template
from protocol.notify_types import AppRules, Channel, Consent, Preferences, TypeRule
from protocol.provider_configs import ProviderConfig
from protocol.types import AtMs, Count


class _Body(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    pass


class ProviderBody(_Body, frozen=True, kw_only=True, omit_defaults=True):
    """An account at a provider. Accounts of one channel are tried by rising position."""

    config: ProviderConfig
    position: Annotated[int, Meta(ge=0, le=1_000)] = 0
    is_paused: bool = False


class ProviderInfo(_Body, frozen=True, kw_only=True, omit_defaults=True):
    """An account at a provider, without its settings: these are never shown again."""

    provider_id: str
    channel: Channel
    kind: str
    position: int = 0
    is_paused: bool = False
    changed_at_ms: AtMs = 0
    breaker: Annotated[
        str, Meta(description="closed, open or half_open: the worst of the nodes that answered.")
    ] = "closed"


class NotifySetup(_Body, frozen=True, kw_only=True, omit_defaults=True):
    """All that an app has set up."""

    rules: AppRules
    types: list[TypeRule]
    providers: list[ProviderInfo]
    templates: Annotated[dict[str, int], Meta(description="Name -> newest version.")]
    experiments: list[Experiment]
    retirement_allowed: Annotated[
        dict[Channel, int],
        Meta(description="Channels whose dead addresses may all be retired now -> until when, Unix ms."),
    ] = {}
    vapid_public_key: str = ""
    webhook_key: Annotated[
        str, Meta(description="X-Hubbub-Signature of webhooks is hex HMAC-SHA256 of the body under it.")
    ] = ""


class Templates(_Body, frozen=True, kw_only=True, omit_defaults=True):
    """An app's templates, in their newest versions."""

    items: list[Template]


class PreviewBody(_Body, frozen=True, kw_only=True, omit_defaults=True):
    """A template to be looked at, with data; it is not stored."""

    template: Template
    variant: Annotated[str, Meta(max_length=32)] = "default"
    locale: Annotated[str, Meta(max_length=35)] = ""
    time_zone: Annotated[str, Meta(max_length=64)] = "UTC"
    channel: Channel = "inapp"
    data: dict[str, Any] = {}


class AddressBody(_Body, frozen=True, kw_only=True, omit_defaults=True):
    """An address of a user."""

    channel: Channel
    address: Annotated[str, Meta(min_length=1, max_length=2_000)]
    keys: Annotated[dict[str, Annotated[str, Meta(max_length=500)]], Meta(max_length=10)] = {}
    name: Annotated[str, Meta(max_length=100)] = ""
    opt_in: Annotated[
        bool,
        Meta(description="The user has just asked for messages there: an earlier STOP or complaint ends."),
    ] = False


class ConsentBody(_Body, frozen=True, kw_only=True, omit_defaults=True):
    """A consent that was given to the app elsewhere, or was withdrawn."""

    given: bool
    source: Annotated[str, Meta(max_length=200)] = ""
    ends_at_ms: AtMs = 0


class GroupBody(_Body, frozen=True, kw_only=True, omit_defaults=True):
    """Who joins and who leaves a group."""

    add: Annotated[list[str], Meta(max_length=10_000)] = []
    remove: Annotated[list[str], Meta(max_length=10_000)] = []


class Groups(_Body, frozen=True, kw_only=True, omit_defaults=True):
    """Names of an app's groups, rising."""

    items: list[str]
    next: Annotated[str, Meta(description="`after` of the next page; empty: there is none.")] = ""


class GroupMembers(_Body, frozen=True, kw_only=True, omit_defaults=True):
    """Users of a group by rising id, without those who are disabled."""

    user_ids: list[str]
    next: Annotated[str, Meta(description="`after` of the next page; empty: there is none.")] = ""


RequestState = Literal["waiting", "running", "done", "failed", "cancelling", "cancelled"]


class GroupChanged(_Body, frozen=True, kw_only=True, omit_defaults=True):
    """How many of `add` exist, and are in the group now."""

    added: Count


class RequestInfo(_Body, frozen=True, kw_only=True, omit_defaults=True):
    """A larger request, and how far it has come. `group` is empty where its users were named."""

    request_id: str
    state: Annotated[str, Meta(description="waiting, running, done, failed, cancelling or cancelled.")]
    created_at_ms: AtMs
    type: str = ""
    group: str = ""
    cron: str = ""
    time_zone: Annotated[str, Meta(description="Of cron; empty: the app's.")] = ""
    send_at: str = ""
    next_at_ms: AtMs = 0
    run: int = 0
    user_count: Count = 0
    done_at_ms: AtMs = 0
    code: Annotated[str, Meta(description="Of a failed one: why, such as type_not_found.")] = ""
    detail: str = ""
    cancelled_count: Annotated[
        Count, Meta(description="Of a cancelled one: notifications that were cancelled; see its DELETE.")
    ] = 0
    partly_count: Count = 0
    under_way_count: Count = 0
    kept_count: Count = 0


class Requests(_Body, frozen=True, kw_only=True, omit_defaults=True):
    """An app's larger requests, newest first."""

    items: list[RequestInfo]
    next: Annotated[str, Meta(description="`before` of the next page; empty: there is none.")] = ""


class DeliveryInfo(_Body, frozen=True, kw_only=True, omit_defaults=True):
    """A notification on its way to one address."""

    number: int
    channel: Channel
    device_key: str
    state: str
    attempt: int = 0
    provider_id: str = ""
    provider_ref: str = ""
    code: str = ""
    next_at_ms: AtMs = 0
    accepted_at_ms: AtMs = 0
    doubles: Annotated[
        int, Meta(description="Attempts whose outcome is unknown: it may have come twice.")
    ] = 0


class NotificationInfo(_Body, frozen=True, kw_only=True, omit_defaults=True):
    """A notification as it now is. Times are 0 where nothing has happened.

    `title`, `text` and `reason` are told by a user's history and export, and of a single notification; not
    by `explain`.
    """

    notification_id: int
    user_id: str
    type: str
    priority: str
    state: str
    created_at_ms: AtMs
    request_id: str = ""
    template: str = ""
    variant: str = ""
    into_id: int = 0
    item_count: int = 0
    due_at_ms: AtMs = 0
    expires_at_ms: AtMs = 0
    sent_at_ms: AtMs = 0
    is_late: bool = False
    confirmed_at_ms: AtMs = 0
    seen_at_ms: AtMs = 0
    read_at_ms: AtMs = 0
    opened_at_ms: AtMs = 0
    clicked_at_ms: AtMs = 0
    dismissed_at_ms: AtMs = 0
    title: Annotated[
        str, Meta(description="As the centre shows it, else as it was asked for and is still kept.")
    ] = ""
    text: str = ""
    reason: Annotated[
        str, Meta(description="Which stage dropped or holds it, and by what: `consent: purpose = ads`.")
    ] = ""


class History(_Body, frozen=True, kw_only=True, omit_defaults=True):
    """A user's notifications, newest first, of every state."""

    items: list[NotificationInfo]
    next: Annotated[int, Meta(description="`before` of the next page; 0: there is none.")] = 0


class ErasureInfo(_Body, frozen=True, kw_only=True, omit_defaults=True):
    """The receipt of an erasure: what was erased, when and why; nothing of what it was."""

    erasure_id: str
    at_ms: AtMs
    purpose: Annotated[str, Meta(description="Empty: all that was known for notifying the user.")] = ""
    reason: Annotated[str, Meta(description="requested, withdrawn, or ended by itself: ended.")] = ""
    counts: Annotated[dict[str, int], Meta(description="Kind of thing -> how many were erased.")]


class Erasures(_Body, frozen=True, kw_only=True, omit_defaults=True):
    """Receipts of a user's erasures, oldest first."""

    items: list[ErasureInfo]
    next: Annotated[str, Meta(description="`after` of the next page; empty: there is none.")] = ""


class Explanation(_Body, frozen=True, kw_only=True, omit_defaults=True):
    """Why a notification was sent, held, tried again or dropped: every stage with time, rule and value."""

    notification: NotificationInfo
    deliveries: list[DeliveryInfo]
    ledger: list[LedgerEntry]


class DeadInfo(_Body, frozen=True, kw_only=True, omit_defaults=True):
    """A delivery that was given up."""

    notification_id: int
    number: int
    channel: Channel
    provider_id: str = ""
    code: str
    detail: str = ""
    at_ms: AtMs


class DeadLetters(_Body, frozen=True, kw_only=True, omit_defaults=True):
    """Deliveries that were given up, oldest first."""

    items: list[DeadInfo]
    next: Annotated[str, Meta(description="`after` of the next page; empty: there is none.")] = ""


class AlertInfo(_Body, frozen=True, kw_only=True, omit_defaults=True):
    """Something that the app's developers have yet to be told, or were told within the last hour."""

    alert_id: Annotated[str, Meta(description="As it is being told; empty: that has not begun.")] = ""
    kind: str
    at_ms: Annotated[int, Meta(description="When the first came that was not told.")]
    count: Annotated[int, Meta(description="How many were not told yet; 0: all were.")] = 0
    detail: dict[str, str]
    is_mailed: Annotated[bool, Meta(description="The mail was taken; the webhook has yet to.")] = False
    told_at_ms: AtMs = 0
    reason: Annotated[str, Meta(description="Why the last try failed.")] = ""


class Alerts(_Body, frozen=True, kw_only=True, omit_defaults=True):
    """Alerts of an app, oldest first."""

    items: list[AlertInfo]


class RedriveBody(_Body, frozen=True, kw_only=True, omit_defaults=True):
    """Which dead deliveries to try again: those named; or those of a channel, a code, or both; or all."""

    deliveries: Annotated[
        list[tuple[NotificationId, Count]],
        Meta(max_length=1_000, description="Pairs of notification_id and number, as dead letters have them."),
    ] = []
    channel: Channel | None = None
    code: str = ""
    all: Annotated[bool, Meta(description="Alone; whatever they died of.")] = False


class UserNotifyData(_Body, frozen=True, kw_only=True, omit_defaults=True):
    """All that is known for notifying a user: the export that data protection laws ask for."""

    user_id: str
    preferences: Preferences
    consents: list[Consent]
    devices: list[AddressBody]
    notifications: list[NotificationInfo]
    centre: list[NotificationItem]
