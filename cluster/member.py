"""One member of the cluster as somebody believes it to be, and which of two beliefs wins."""

from enum import IntEnum
from typing import Annotated, Final

import msgspec
from msgspec import Meta

# The largest integer that is safe in JSON and JavaScript (metrics, the operator's page).
MAX_BOOT: Final = (1 << 53) - 1

# A death that the store has proved is written with this incarnation: no refutation can exceed it, so it holds
# for that boot for ever, and spreads like any other claim.
FINAL_INCARNATION: Final = (1 << 53) - 1

NodeId = Annotated[str, Meta(min_length=1, max_length=64)]
Boot = Annotated[int, Meta(ge=0, le=MAX_BOOT)]
Incarnation = Annotated[int, Meta(ge=0, le=FINAL_INCARNATION)]
Port = Annotated[int, Meta(ge=0, le=65_535)]
ProtocolVersion = Annotated[int, Meta(ge=0, le=65_535)]


class Status(IntEnum):
    """What is believed of a member. The order is the order in which claims of one incarnation win."""

    ALIVE = 0
    SUSPECT = 1
    DEAD = 2
    LEFT = 3  # it said itself that it goes


class NodeMeta(msgspec.Struct, frozen=True, array_like=True, kw_only=True):
    """What a node tells of itself: only that node writes it, with a new incarnation for each change.

    `port` is the control lane's; the data lane listens at port + 1. Later fields go to the end, with
    defaults.
    """

    host: Annotated[str, Meta(max_length=255)]
    port: Port
    url: Annotated[str, Meta(max_length=1024)] = ""  # where clients reach it
    bot_address: Annotated[str, Meta(max_length=300)] = ""
    zone: Annotated[str, Meta(max_length=64)] = ""
    version: Annotated[str, Meta(max_length=64)] = ""
    min_protocol: ProtocolVersion = 1
    max_protocol: ProtocolVersion = 1
    is_draining: bool = False

    def can_talk_to(self, other: "NodeMeta") -> bool:
        """Tell whether there is a version of the protocol that both speak. The same from both sides."""
        return max(self.min_protocol, other.min_protocol) <= min(self.max_protocol, other.max_protocol)


class Member(msgspec.Struct, frozen=True, array_like=True):
    """A belief about one process: `boot` counts the starts of `node_id` and comes from the store.

    Always whole: with a boot and an incarnation goes the meta that the node had then. So it does not matter
    in which order beliefs arrive, or how often.
    """

    node_id: NodeId
    boot: Boot
    incarnation: Incarnation  # counted up by the node itself only: to refute, and when its meta changes
    status: Status
    meta: NodeMeta

    @property
    def precedence(self) -> tuple[int, int, int]:
        """The belief with the greater one wins: a newer boot over anything, then incarnation, then status."""
        return (self.boot, self.incarnation, self.status)

    @property
    def is_live(self) -> bool:
        """Suspects count as live until their time is up."""
        return self.status <= Status.SUSPECT

    @property
    def is_final(self) -> bool:
        """Tell whether nothing but a newer boot can change this belief."""
        return self.status is Status.LEFT or self.incarnation == FINAL_INCARNATION

    def as_status(self, status: Status) -> "Member":
        """Return the same boot and incarnation with another status."""
        return Member(self.node_id, self.boot, self.incarnation, status, self.meta)
