"""What is to be told, as a request brings it and as it is kept with a notification until it is told."""

from operator import attrgetter
from typing import Annotated

import msgspec
from msgspec import Meta

from protocol.limits import MAX_SAFE_INTEGER
from protocol.notify_types import Channel, Priority, TypeName
from protocol.types import AtMs

Value = str | int | float | bool | None | list[str | int | float] | dict[str, str | int | float]
_Name = Annotated[str, Meta(min_length=1, max_length=64)]
_Whole = Annotated[int, Meta(ge=-MAX_SAFE_INTEGER, le=MAX_SAFE_INTEGER)]
AskedValue = str | _Whole | float | bool | None | list[str | _Whole | float] | dict[str, str | _Whole | float]
Data = Annotated[dict[_Name, Value], Meta(max_length=50)]
AskedData = Annotated[
    dict[_Name, AskedValue],
    Meta(
        max_length=50,
        description="Values for the template; at most 2 KiB as JSON. Longer numbers than 2^53 - 1 are texts.",
    ),
]
Url = Annotated[str, Meta(max_length=2_000)]
MAX_KEY_CHARS = 64  # as many as a signature has, which is the key of who gives none
Key = Annotated[str, Meta(max_length=MAX_KEY_CHARS)]
MAX_TTL_S = 30 * 86_400


class Content(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """What to tell a user. Either a template with its data, or plain text.

    What was stored is read again whatever its numbers are; how large they may be is a request's affair.
    `send_at` is RFC 3339 with an offset, or without one: then in each user's own time zone.
    """

    type: TypeName
    title: Annotated[str, Meta(max_length=200)] = ""
    text: Annotated[str, Meta(description="At most 1,500 bytes in UTF-8; else text_too_long.")] = ""
    url: Url = ""
    image: Url = ""
    template: Annotated[str, Meta(max_length=64)] = ""
    data: Data = {}
    experiment: Annotated[str, Meta(max_length=64)] = ""
    priority: Priority | None = None
    channels: Annotated[list[Channel], Meta(max_length=7, description="Empty: those of the type.")] = []
    send_at: Annotated[str, Meta(max_length=35)] = ""
    expires_at_ms: Annotated[int, Meta(ge=0, description="0: by the type's ttl_s.")] = 0
    subject: Annotated[
        str, Meta(max_length=128, description="What it is about: the same subject and content is one.")
    ] = ""
    collapse_key: Annotated[Key, Meta(description="Replaces an earlier one on the device.")] = ""
    batch_key: Annotated[
        Key, Meta(description="Similar ones with it become one; empty: the subject is the key.")
    ] = ""
    actor: Annotated[
        str, Meta(max_length=100, description="Whose doing it is, as shown: for “Ann and 3 others”.")
    ] = ""


class NotifyRequest(Content, frozen=True, kw_only=True, omit_defaults=True, forbid_unknown_fields=True):
    """A request to notify: to a user, several users, or a group ("*": all users of the app).

    A field that does not exist is refused: what is misspelt would not hold.
    """

    user_id: Annotated[str, Meta(max_length=64)] = ""
    user_ids: Annotated[list[Annotated[str, Meta(max_length=64)]], Meta(max_length=1_000)] = []
    external_ids: Annotated[
        list[Annotated[str, Meta(max_length=128)]],
        Meta(max_length=1_000, description="Users as the app's backend knows them."),
    ] = []
    group: Annotated[str, Meta(max_length=64)] = ""
    data: AskedData = {}
    expires_at_ms: Annotated[AtMs, Meta(description="0: by the type's ttl_s.")] = 0
    cron: Annotated[
        str, Meta(max_length=100, description="Again and again: minute hour day month weekday.")
    ] = ""
    time_zone: Annotated[str, Meta(max_length=64, description="Of cron; empty: the app's.")] = ""
    ends_at_ms: Annotated[AtMs, Meta(description="Of cron: not after; 0: until it is cancelled.")] = 0
    idempotency_key: Annotated[
        str,
        Meta(
            max_length=MAX_KEY_CHARS,
            description="The same key gets the first answer, and nothing is sent again.",
        ),
    ] = ""


class KeptRequest(NotifyRequest, frozen=True, kw_only=True, omit_defaults=True, forbid_unknown_fields=False):
    """A request as it is stored, and handed from node to node: older ones skip what they do not know."""


_FIELDS = Content.__struct_fields__
_values_of = attrgetter(*_FIELDS)


def content_of(request: NotifyRequest) -> Content:
    """The part of a request that each of its notifications keeps."""
    return Content(**dict(zip(_FIELDS, _values_of(request), strict=True)))


def kept_of(request: NotifyRequest) -> KeptRequest:
    """The same as it is kept."""
    return KeptRequest(**{name: getattr(request, name) for name in NotifyRequest.__struct_fields__})
