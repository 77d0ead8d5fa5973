"""What nodes tell each other about the users who are connected to them."""

from typing import Annotated, Final

import msgspec
from msgspec import Meta

from protocol.limits import MAX_SAFE_INTEGER
from protocol.types import AtMs, PresenceState, UserId

# An item takes 83 bytes at the most (a user_id of 64), so that a full delta fits into an envelope of 64 KiB.
MAX_DELTA_ITEMS: Final = 500

Boot = Annotated[int, Meta(ge=0, le=MAX_SAFE_INTEGER, description="Counts the starts of a node.")]
Version = Annotated[int, Meta(ge=0, le=MAX_SAFE_INTEGER, description="Counts the changes of one boot.")]
PresenceItem = tuple[UserId, PresenceState, AtMs]
"""(user_id, state on the writer's node, when it ended if offline, else 0)."""


class PresenceDelta(msgspec.Struct, frozen=True, array_like=True, tag="presence_delta"):
    """All that changed on a node after `from_version` up to `to_version`: each user's last state only.

    `reset_version` is not 0 while the writer starts over, as it no longer knows who left since the reader's
    version; it tells one such reset from another. A reset begins at version 0, and whoever was not repeated
    when `is_last` arrives is gone. Without items it is a heartbeat.
    """

    boot: Boot
    from_version: Version
    to_version: Version
    reset_version: Version
    is_last: bool
    items: Annotated[list[PresenceItem], Meta(max_length=MAX_DELTA_ITEMS)]


class PresenceAck(msgspec.Struct, frozen=True, array_like=True, tag="presence_ack"):
    """The reader holds everything of the writer's `boot` up to `version`; in a reset, of that reset.

    `is_asking` if something did not fit, or if both have just met: then the writer goes on from here, even
    if it knew of more.
    """

    boot: Boot
    version: Version
    reset_version: Version = 0
    is_asking: bool = False


PresenceMessage = PresenceDelta | PresenceAck
