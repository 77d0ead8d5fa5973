"""Words of notifications that the wire, the store and the rules share."""

from typing import Annotated, Literal

import msgspec
from msgspec import Meta

from protocol.types import AtMs

Channel = Literal["inapp", "apns", "fcm", "webpush", "sms", "email", "apprise"]
"""A delivery channel; `apprise` is the long tail: Slack, Telegram, Discord and the like."""
Priority = Literal["high", "medium", "low"]
Frequency = Literal["immediate", "daily", "weekly", "off"]
"""How often a user wants to hear: at once, in a digest, or not at all."""

CHANNELS: tuple[Channel, ...] = ("inapp", "apns", "fcm", "webpush", "sms", "email", "apprise")
DEFAULT_CHANNELS: tuple[Channel, ...] = ("inapp", "apns", "fcm", "webpush")
PUSH_CHANNELS: tuple[Channel, ...] = ("apns", "fcm", "webpush")
MAX_WISHES = 300  # of one user about single types: more than an app has types
MAX_TEXT_BYTES = 1_500  # of plain text, in UTF-8
MAX_DATA_BYTES = 2_048  # of the data for a template, as JSON; push payloads end at 4,096
_NAME = r"[a-z][a-z0-9_.-]{0,63}"
TypeName = Annotated[
    str, Meta(pattern=rf"^{_NAME}$(?!\n)", description="A type of the app: order, social, …")
]
Purpose = Annotated[
    str, Meta(pattern=rf"^{_NAME}$(?!\n)", description="What users consent to: marketing, surveys, …")
]
ClockTime = Annotated[
    str, Meta(pattern=r"^([01][0-9]|2[0-3]):[0-5][0-9]$(?!\n)", description="HH:MM, local.")
]


class QuietHours(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True, gc=False):
    """When the user is not to be disturbed, in the user's time zone. `end` before `start`: over midnight."""

    start: ClockTime
    end: ClockTime
    weekdays: Annotated[
        list[Annotated[int, Meta(ge=0, le=6)]],
        Meta(max_length=7, description="On which they begin, Monday 0; empty: every day."),
    ] = []


class TypePreference(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True, gc=False):
    """What a user wants of one type. Channels that are not named follow the user's general choice."""

    channels: dict[Channel, bool] = {}
    frequency: Frequency | None = None


class Preferences(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True, gc=False):
    """What a user wants to hear, where, and when. Empty: everything the app's types send, at once."""

    channels: dict[Channel, bool] = {}
    types: Annotated[dict[TypeName, TypePreference], Meta(max_length=MAX_WISHES)] = {}
    quiet_hours: QuietHours | None = None
    frequency: Frequency = "immediate"
    digest_at: ClockTime = "09:00"
    digest_weekday: Annotated[int, Meta(ge=0, le=6, description="Of weekly digests; Monday 0.")] = 0


class Consent(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True, gc=False):
    """The user's yes to one purpose: from whom it is known, and for how long it holds."""

    purpose: Purpose
    source: Annotated[str, Meta(max_length=200, description="How it was given: a form, a contract, …")] = ""
    given_at_ms: AtMs = 0
    ends_at_ms: Annotated[AtMs, Meta(description="0: until it is withdrawn.")] = 0


class Decision(msgspec.Struct, frozen=True, array_like=True):
    """One stage's decision about a notification, as the ledger keeps it and `explain` shows it.

    `stage`: validate, deduplicate, preferences, consent, expiry, schedule, quiet_hours, cap, digest, batch,
    experiment, render, choose, enqueue, attempt, result, cancel, …; `outcome`: pass, hold, drop, change,
    sent, retry, accepted, refused, unknown, cancelled; `rule` names what decided, `value` the figure it went
    by.
    """

    stage: str
    outcome: str
    rule: str = ""
    value: str = ""


class TypeRule(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """How an app treats one type of notification. What is absent gets these defaults."""

    name: TypeName
    title: Annotated[str, Meta(max_length=100, description="As users see it among their preferences.")] = ""
    channels: Annotated[list[Channel], Meta(description="Where it goes, unless the request says.")] = (
        msgspec.field(default_factory=lambda: list(DEFAULT_CHANNELS))
    )
    fallback: Annotated[
        list[Channel],
        Meta(description="Tried one after the other where none of `channels` has reached the user."),
    ] = []
    priority: Priority = "medium"
    is_security: Annotated[
        bool, Meta(description="One-time codes and warnings: preferences, quiet hours, caps do not hold it.")
    ] = False
    purpose: Annotated[
        str, Meta(pattern=rf"^({_NAME})?$(?!\n)", description="Needs this consent; empty: none.")
    ] = ""
    is_capped: Annotated[bool, Meta(description="Counts for the frequency cap, and is held by it.")] = True
    batch_window_s: Annotated[
        int, Meta(ge=0, le=86_400, description="Similar ones within it become one; 0: each by itself.")
    ] = 0
    dedup_s: Annotated[
        int, Meta(ge=0, le=30 * 86_400, description="For how long the same content is a duplicate.")
    ] = 86_400
    may_double: Annotated[
        bool,
        Meta(description="After an unknown outcome send again, although it may then arrive twice."),
    ] = False
    ttl_s: Annotated[
        int, Meta(ge=0, le=30 * 86_400, description="Not sent any more after it; 0: as long as it takes.")
    ] = 0
    deadline_s: Annotated[
        int, Meta(ge=1, le=7 * 86_400, description="Later than this it is marked as late, and alerted.")
    ] = 1_800


class AppRules(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """What holds for all notifications of an app."""

    cap_per_hour: Annotated[int, Meta(ge=0, le=10_000, description="Per user; 0: no cap.")] = 10
    over_cap: Annotated[
        Literal["later", "digest"], Meta(description="What becomes of what is over the cap.")
    ] = "later"
    default_locale: Annotated[str, Meta(max_length=35)] = "en"
    default_time_zone: Annotated[str, Meta(max_length=64)] = "UTC"
    alert_webhook: Annotated[str, Meta(max_length=2_000)] = ""
    alert_email: Annotated[str, Meta(max_length=254)] = ""
    event_webhook: Annotated[
        str, Meta(max_length=2_000, description="Gets every tracking event as NDJSON.")
    ] = ""
