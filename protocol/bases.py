"""What all commands, all replies and all events have in common."""

from typing import ClassVar

import msgspec

from protocol.types import CommandId


class BaseReply(msgspec.Struct, frozen=True, kw_only=True, tag_field="type", omit_defaults=True):
    """An answer, which repeats the command's id."""

    id: CommandId = 0


class BaseCommand(msgspec.Struct, frozen=True, kw_only=True, tag_field="type", omit_defaults=True):
    """A command. `reply` of each class names its answer."""

    reply: ClassVar[type] = BaseReply

    id: CommandId = 0


class BaseEvent(msgspec.Struct, frozen=True, kw_only=True, tag_field="type", omit_defaults=True):
    """Something that the server tells unasked."""


class BaseInboxEvent(BaseEvent, frozen=True, kw_only=True, omit_defaults=True):
    """An event of the user's own inbox."""
