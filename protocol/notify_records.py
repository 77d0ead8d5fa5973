"""Rows of the notification service: what apps have set up, what users want, and what became of each one.

A user's rows (preferences, consents, devices, notifications, deliveries) are written by the user's partition
alone. The *ledger* is the partition's stream in the log: one row for each thing that happened to a
notification, with `thread` = its id, so that all of them are found by it, in order, with their times.
"""

from typing import Annotated, ClassVar, Final

from msgspec import Meta

from protocol.records import Row

# Fixed for the life of a data directory, as ids hold it.
PARTITION_COUNT: Final = 16


def notify_stream(partition: int) -> str:
    """Name the stream of one partition: the ledger of its users' notifications."""
    return f"n:{partition}"


# -- what apps set up -------------------------------------------------------------------------------


class NotifyAppRow(Row, frozen=True, kw_only=True):
    """How an app notifies. `version` rises with every change of anything that the app has set up."""

    table: ClassVar[str] = "notify_app"
    key: ClassVar[tuple[str, ...]] = ("app_id",)

    app_id: str
    version: int = 1
    rules: Annotated[str, Meta(description="JSON of AppRules; empty: the defaults.")] = ""


class NotifyTypeRow(Row, frozen=True, kw_only=True):
    """A type of notification of an app."""

    table: ClassVar[str] = "notify_type"
    key: ClassVar[tuple[str, ...]] = ("app_id", "name")

    app_id: str
    name: str
    body: Annotated[str, Meta(description="JSON of TypeRule.")]


class ProviderRow(Row, frozen=True, kw_only=True):
    """An app's account at a provider. Those of one channel are a chain, by rising position."""

    table: ClassVar[str] = "notify_provider"
    key: ClassVar[tuple[str, ...]] = ("app_id", "provider_id")

    app_id: str
    provider_id: str
    channel: str
    kind: str
    position: int = 0
    is_paused: bool = False
    sealed: Annotated[str, Meta(description="The settings, encrypted under secret.key, base64.")]
    changed_at_ms: int


class RetirementRow(Row, frozen=True, kw_only=True):
    """Somebody lets all addresses of an app's channel that are called dead be retired, until a time."""

    table: ClassVar[str] = "notify_retirement"
    key: ClassVar[tuple[str, ...]] = ("app_id", "channel")

    app_id: str
    channel: str
    until_ms: int


class TemplateRow(Row, frozen=True, kw_only=True):
    """One version of a template; the highest is used, and a few older ones are kept.

    Without a body: it was removed.
    """

    table: ClassVar[str] = "notify_template"
    key: ClassVar[tuple[str, ...]] = ("app_id", "name", "version")

    app_id: str
    name: str
    version: int
    body: Annotated[str, Meta(description="JSON of Template.")]
    created_at_ms: int


class ExperimentRow(Row, frozen=True, kw_only=True):
    """An experiment with the variants of a template."""

    table: ClassVar[str] = "notify_experiment"
    key: ClassVar[tuple[str, ...]] = ("app_id", "name")

    app_id: str
    name: str
    body: Annotated[str, Meta(description="JSON of Experiment.")]
    created_at_ms: int


class NotifyGroupRow(Row, frozen=True, kw_only=True):
    """user_id belongs to a group of the app that can be notified by its name."""

    table: ClassVar[str] = "notify_group"
    key: ClassVar[tuple[str, ...]] = ("app_id", "name", "user_id")
    indexes: ClassVar[tuple[tuple[str, ...], ...]] = (("user_id",),)

    app_id: str
    name: str
    user_id: str


# -- what users want --------------------------------------------------------------------------------


class NotifyUserRow(Row, frozen=True, kw_only=True):
    """What a user wants to hear. No row: the defaults."""

    table: ClassVar[str] = "notify_user"
    key: ClassVar[tuple[str, ...]] = ("user_id",)

    user_id: str
    app_id: str
    preferences: Annotated[str, Meta(description="JSON of Preferences.")] = ""


class ConsentRow(Row, frozen=True, kw_only=True):
    """A user's consent to one purpose. When it ends, or is withdrawn, what rested on it is erased.

    The row goes with the receipt, so an erasure that was begun is gone on with after a crash.
    """

    table: ClassVar[str] = "notify_consent"
    key: ClassVar[tuple[str, ...]] = ("user_id", "purpose")

    user_id: str
    purpose: str
    app_id: str
    partition: int
    source: str = ""
    given_at_ms: int = 0
    ends_at_ms: int = 0
    withdrawn_at_ms: Annotated[int, Meta(description="Then it also ended.")] = 0


class ErasureRow(Row, frozen=True, kw_only=True):
    """The receipt of an erasure: what was erased, when, and why; nothing of what it was."""

    table: ClassVar[str] = "notify_erasure"
    key: ClassVar[tuple[str, ...]] = ("erasure_id",)
    indexes: ClassVar[tuple[tuple[str, ...], ...]] = (("app_id", "user_id"),)

    erasure_id: str
    app_id: str
    user_id: str
    purpose: Annotated[str, Meta(description="Empty: all that is known for notifying this user.")]
    reason: str
    at_ms: int
    counts: Annotated[str, Meta(description="JSON: kind of thing -> how many were erased.")]


class NotifyDeviceRow(Row, frozen=True, kw_only=True):
    """An address of a user on one channel: a push token, a subscription, a phone number, a mail address."""

    table: ClassVar[str] = "notify_device"
    key: ClassVar[tuple[str, ...]] = ("user_id", "device_key")
    indexes: ClassVar[tuple[tuple[str, ...], ...]] = (("app_id", "channel", "address"),)

    user_id: str
    device_key: Annotated[str, Meta(description="Of channel and address: the same address, the same key.")]
    app_id: str
    channel: str
    address: str
    keys: Annotated[str, Meta(description="JSON object of strings: p256dh, auth, …")] = ""
    name: str = ""
    registered_at_ms: int
    seen_at_ms: int = 0
    retired_at_ms: int = 0
    retired_for: Annotated[str, Meta(description="Why no more is sent there.")] = ""


class SuppressionRow(Row, frozen=True, kw_only=True):
    """A mail address or phone number to which an app sends nothing more, whoever of its users has it.

    Holds no address, so it outlives an erasure: who said STOP has not said so until the data is gone.
    """

    table: ClassVar[str] = "notify_suppression"
    key: ClassVar[tuple[str, ...]] = ("app_id", "device_key")

    app_id: str
    device_key: Annotated[str, Meta(description="As of NotifyDeviceRow: a digest of channel and address.")]
    kind: Annotated[str, Meta(description="stopped: the person said so; dead: there is nobody.")]
    code: Annotated[str, Meta(description="The provider's word for it.")]
    at_ms: int


# -- what is sent -----------------------------------------------------------------------------------


class RequestRow(Row, frozen=True, kw_only=True):
    """A request to notify more users than one partition has, or later, or again and again.

    Written by the app's notification actor. `cursor` is how far its users have been handed on.
    """

    table: ClassVar[str] = "notify_request"
    key: ClassVar[tuple[str, ...]] = ("request_id",)
    indexes: ClassVar[tuple[tuple[str, ...], ...]] = (("app_id", "created_at_ms"),)

    request_id: str
    app_id: str
    digest: Annotated[str, Meta(description="Of what was asked for: the same key with another is refused.")]
    body: Annotated[str, Meta(description="JSON of the request.")]
    state: Annotated[str, Meta(description="waiting, running, done, failed, cancelling, cancelled.")]
    created_at_ms: int
    next_at_ms: Annotated[int, Meta(description="When it is to run; of recurring ones the next time.")] = 0
    cursor: str = ""
    run: Annotated[int, Meta(description="Of recurring ones: which time this is.")] = 0
    ran_for_ms: Annotated[int, Meta(description="Of recurring ones: for which time it ran last.")] = 0
    user_count: int = 0
    done_at_ms: int = 0
    code: Annotated[str, Meta(description="Of a failed one: the code of what it was refused for.")] = ""
    detail: Annotated[str, Meta(description="And that in words.")] = ""
    # Of a cancelled one: what became of its notifications, as in notify_replies.RequestCancelled.
    cancelled_count: int = 0
    partly_count: int = 0
    under_way_count: int = 0
    kept_count: int = 0


class NotificationRow(Row, frozen=True, kw_only=True):
    """One notification of one user, as it now is.

    `state`: held, open, done, dropped, merged, erased, or cancelled, with `sent_at_ms` where a part of it was
    sent or shown before. `into_id`: the batch or digest that it became a part of. The centre shows rows
    with `in_centre`.
    """

    table: ClassVar[str] = "notification"
    key: ClassVar[tuple[str, ...]] = ("notification_id",)
    # One index by user, and not one more of the centre: each writes a page per notification, as users differ.
    indexes: ClassVar[tuple[tuple[str, ...], ...]] = (("user_id", "notification_id", "in_centre"),)

    notification_id: int
    partition: int
    app_id: str
    user_id: str
    type: str
    priority: str
    state: str
    created_at_ms: int
    request_id: str = ""
    purpose: Annotated[
        str, Meta(description="Of its type when it was decided: whose consent's end erases it.")
    ] = ""
    template: str = ""
    variant: Annotated[
        str, Meta(description="experiment:variant, where one was drawn as it was to be sent or shown.")
    ] = ""
    is_exposed: Annotated[
        bool, Meta(description="The text of that variant was shown in the centre, or sent.")
    ] = False
    dedup_key: str = ""
    group_key: Annotated[str, Meta(description="Of the batch or digest that it is, or waits for.")] = ""
    into_id: int = 0
    is_fallback: Annotated[
        bool, Meta(description="Held, as no channel has reached the user, for the type's next fallback.")
    ] = False
    item_count: Annotated[int, Meta(description="Of a batch or digest: how many became one.")] = 0
    due_at_ms: int = 0
    expires_at_ms: int = 0
    deadline_at_ms: int = 0
    content: Annotated[str, Meta(description="JSON of the request's part that is needed to go on.")] = ""
    title: str = ""
    text: str = ""
    url: str = ""
    image: str = ""
    in_centre: bool = False
    counted_at_ms: Annotated[int, Meta(description="When it counted for the frequency cap.")] = 0
    sent_at_ms: Annotated[
        int,
        Meta(
            description="When a provider first took it, or the user was told; anew after it was undelivered."
        ),
    ] = 0
    is_late: Annotated[bool, Meta(description="It was sent after its deadline.")] = False
    confirmed_at_ms: int = 0
    seen_at_ms: int = 0
    read_at_ms: int = 0
    opened_at_ms: int = 0
    clicked_at_ms: int = 0
    dismissed_at_ms: int = 0


class DeliveryRow(Row, frozen=True, kw_only=True):
    """One notification on its way to one address. `is_open`: an attempt is due or under way.

    `state`: queued, sending, accepted, refused, unknown, confirmed, bounced, skipped, dead, cancelled.
    """

    table: ClassVar[str] = "delivery"
    key: ClassVar[tuple[str, ...]] = ("notification_id", "number")

    notification_id: int
    number: int
    partition: int
    app_id: str
    user_id: str
    channel: str
    device_key: str
    priority: str
    state: str
    is_open: bool = True
    outgoing: Annotated[str, Meta(description="JSON of Outgoing; empty once it is erased.")] = ""
    attempt: int = 0
    next_at_ms: int = 0
    created_at_ms: int
    provider_id: Annotated[str, Meta(description="The account by which the last attempt went.")] = ""
    provider_ref: Annotated[str, Meta(description="The provider's own id of it.")] = ""
    code: str = ""
    accepted_at_ms: int = 0
    concluded_at_ms: int = 0
    doubles: Annotated[
        int, Meta(description="Attempts after an unknown outcome: it may have come twice.")
    ] = 0
    told_attempt: Annotated[
        int,
        Meta(description="The attempt that its provider called undelivered, with `code`, before its answer."),
    ] = 0
    failed_over: Annotated[int, Meta(description="How often it has gone on to the next account.")] = 0
    undelivered_by: Annotated[
        str,
        Meta(
            description="Accounts that took it and did not deliver it, a/b/c: none of these is asked again."
        ),
    ] = ""


class DeadDelivery(Row, frozen=True, kw_only=True):
    """A delivery that was given up, for the app's developers; redrive takes it out again."""

    table: ClassVar[str] = "dead_delivery"
    key: ClassVar[tuple[str, ...]] = ("notification_id", "number")
    indexes: ClassVar[tuple[tuple[str, ...], ...]] = (("app_id", "at_ms"),)

    notification_id: int
    number: int
    partition: int
    app_id: str
    channel: str
    provider_id: str
    code: str
    detail: str = ""
    outgoing: Annotated[str, Meta(description="JSON of Outgoing, to try it again; empty once erased.")] = ""
    at_ms: int
    alerted_at_ms: int = 0


class ExportRow(Row, frozen=True, kw_only=True):
    """How far the events of one partition were told to an app's webhook."""

    table: ClassVar[str] = "notify_export"
    key: ClassVar[tuple[str, ...]] = ("app_id", "partition")

    app_id: str
    partition: int
    seq: int
    at_ms: int


class AlertRow(Row, frozen=True, kw_only=True):
    """Something that an app's developers have yet to be told, or were told within the last hour.

    Each node keeps those that it tells; who owns shard 0 takes over those of nodes that are gone.
    """

    table: ClassVar[str] = "notify_alert"
    key: ClassVar[tuple[str, ...]] = ("node_id", "app_id", "kind", "about")
    indexes: ClassVar[tuple[tuple[str, ...], ...]] = (("app_id", "at_ms"),)

    node_id: str
    app_id: str
    kind: str
    about: Annotated[str, Meta(description="Which thing of its kind; empty: all that are not told apart.")]
    detail: Annotated[str, Meta(description="JSON object of strings.")]
    at_ms: Annotated[int, Meta(description="When the first came that was not told.")]
    count: Annotated[int, Meta(description="How many were not told.")]
    telling: Annotated[
        str, Meta(description="JSON of what is being told, the same at each try; empty: not begun.")
    ] = ""
    is_mailed: Annotated[bool, Meta(description="Of `telling`: the mail was taken, the webhook not.")] = False
    is_found: Annotated[bool, Meta(description="Other rows tell how many they are: dead letters.")] = False
    told_at_ms: int = 0
    reason: Annotated[str, Meta(description="Why the last try failed.")] = ""


# -- what hubbub itself has to tell of --------------------------------------------------------------


class ChatNotice(Row, frozen=True, kw_only=True):
    """Members who are away have yet to be told of the messages of a conversation beyond `after_seq`.

    Stored with the first such message, removed when all of them have been told. Written by the conversation.
    """

    table: ClassVar[str] = "chat_notice"
    key: ClassVar[tuple[str, ...]] = ("conversation_id",)

    conversation_id: str
    shard: Annotated[int, Meta(description="Shard of the conversation.")]
    app_id: str
    after_seq: int
    upto_seq: Annotated[
        int, Meta(description="Up to here they are being told just now; 0: that has not begun.")
    ] = 0


class NoticeBacklog(Row, frozen=True, kw_only=True):
    """Likes, comments, answers or follows that came too fast to be told one by one: told later as a number.

    `count`: how many there were before the first of them. Written by the author.
    """

    table: ClassVar[str] = "notice_backlog"
    key: ClassVar[tuple[str, ...]] = ("author_id", "kind", "thing_id")

    author_id: str
    kind: Annotated[str, Meta(description="like, comment, answer, follow.")]
    thing_id: Annotated[int, Meta(description="The post or comment; 0: the author.")]
    shard: Annotated[int, Meta(description="Shard of the author.")]
    app_id: str
    user_id: Annotated[str, Meta(description="Who is to be told.")]
    post_id: int = 0
    actor_id: Annotated[str, Meta(description="Whose doing the first of them is.")]
    count: int
    at_ms: int


NOTIFY_TABLES: Final[tuple[type[Row], ...]] = (
    NotifyAppRow,
    NotifyTypeRow,
    ProviderRow,
    RetirementRow,
    TemplateRow,
    ExperimentRow,
    NotifyGroupRow,
    NotifyUserRow,
    ConsentRow,
    ErasureRow,
    NotifyDeviceRow,
    SuppressionRow,
    RequestRow,
    NotificationRow,
    DeliveryRow,
    DeadDelivery,
    ExportRow,
    AlertRow,
    ChatNotice,
    NoticeBacklog,
)
