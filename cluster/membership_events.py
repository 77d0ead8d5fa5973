"""What can happen to a node's membership, and what it wants done: the events and outputs of `step`."""

import msgspec

from cluster.gossip_messages import GossipMessage
from cluster.member import Member, NodeMeta


class Endpoint(msgspec.Struct, frozen=True):
    """Where a seed listens for control lanes; who runs there is not known yet."""

    host: str
    port: int


class KnownNode(msgspec.Struct, frozen=True):
    """A process that holds a live lease, as the store's node table says."""

    node_id: str
    boot: int
    meta: NodeMeta


# --- events


class Start(msgspec.Struct, frozen=True):
    """Begin to take part. `seeds` are called until somebody answers, and again whenever nobody is left."""

    seeds: tuple[Endpoint, ...] = ()
    known: tuple[KnownNode, ...] = ()


class Received(msgspec.Struct, frozen=True):
    """A message came in on an authenticated lane; `sender_boot` as that lane's hello said."""

    sender: str
    sender_boot: int
    message: GossipMessage


class Heard(msgspec.Struct, frozen=True):
    """Anything else came in from a process, on any lane: it lives. May be told as often as one likes."""

    node_id: str
    boot: int


class PipeLost(msgspec.Struct, frozen=True):
    """The connection to a node broke. It is probed at once; the verdict is the probe's."""

    node_id: str


class Tick(msgspec.Struct, frozen=True):
    """Time has passed: due at `state.next_deadline`, harmless at any other time."""


class Lagged(msgspec.Struct, frozen=True):
    """Our own event loop was late by so much: others may have good reason to suspect us, and we none."""

    lag_s: float


class Leave(msgspec.Struct, frozen=True):
    """Say good-bye. Final for this boot; `LeaveSpread` tells when it was said often enough."""


class MetaChanged(msgspec.Struct, frozen=True):
    """Tell the others something new about ourselves."""

    meta: NodeMeta


class Learned(msgspec.Struct, frozen=True):
    """The store's node table was read: these hold live leases. Ourselves and known ones may be among them."""

    nodes: tuple[KnownNode, ...]


class Buried(msgspec.Struct, frozen=True):
    """The store proves that this process is dead (its lock is free, its lease was fenced). Final."""

    node_id: str
    boot: int


Event = Start | Received | Heard | PipeLost | Tick | Lagged | Leave | MetaChanged | Learned | Buried


# --- outputs, to be carried out in their order


class Send(msgspec.Struct, frozen=True):
    """Send to a node, best effort. It may be a dead one, in case it lives after all.

    A node that is not a member yet is answered over its own lane, if there is one; else drop it.
    """

    node_id: str
    message: GossipMessage


class SendTo(msgspec.Struct, frozen=True):
    """Dial a seed and send it this, best effort."""

    endpoint: Endpoint
    message: GossipMessage


class MemberChanged(msgspec.Struct, frozen=True):
    """Status, boot or meta of a member changed. `previous` is None for one that was not known."""

    member: Member
    previous: Member | None


class Refused(msgspec.Struct, frozen=True):
    """A member is not let in; told once per boot. `reason`: "protocol"."""

    node_id: str
    boot: int
    reason: str


class HealthChanged(msgspec.Struct, frozen=True):
    """Our own health moved: 0 is well, `settings.max_health_score` is as ill as it gets."""

    score: int


class Refuted(msgspec.Struct, frozen=True):
    """Somebody accused us, and we took a new incarnation to prove it wrong."""

    by: str
    incarnation: int


class Superseded(msgspec.Struct, frozen=True):
    """We are not to live: a newer boot of our node_id does, or the store has buried us. The last output ever.

    The process should end at once; `boot` is what the others know.
    """

    boot: int


class LeaveSpread(msgspec.Struct, frozen=True):
    """Our good-bye was said as often as any news is. The process may end."""


Output = Send | SendTo | MemberChanged | Refused | HealthChanged | Refuted | Superseded | LeaveSpread
