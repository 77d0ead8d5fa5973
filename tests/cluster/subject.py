"""One node's membership on a test's table, driven event by event, with what it did at hand."""

from collections.abc import Iterable
from typing import Generic, NamedTuple, TypeVar

from cluster.gossip_messages import Claim, Gossip, GossipMessage, Sync
from cluster.member import Member, NodeMeta, Status
from cluster.membership import open_membership, step
from cluster.membership_events import Event, Output, Received, Send, Start, Tick
from cluster.membership_settings import MembershipSettings


def meta_of(node_id: str) -> NodeMeta:
    return NodeMeta(host=node_id, port=8082)


def member(node_id: str, boot: int = 1, incarnation: int = 1, status: Status = Status.ALIVE) -> Member:
    return Member(node_id, boot, incarnation, status, meta_of(node_id))


def claim(
    node_id: str, boot: int = 1, incarnation: int = 1, status: Status = Status.ALIVE, by: str | None = None
) -> Claim:
    return Claim(member(node_id, boot, incarnation, status), node_id if by is None else by)


M = TypeVar("M", bound=GossipMessage)


class Sent(NamedTuple, Generic[M]):
    """A message that was sent, and to whom."""

    node_id: str
    message: M


class Subject:
    """The node "me", boot 1, among `peers` of boot 1 and incarnation 1."""

    def __init__(self, *peers: str, settings: MembershipSettings | None = None) -> None:
        self.now = 100.0
        self.state = open_membership(
            "me", 1, meta_of("me"), settings=MembershipSettings() if settings is None else settings
        )
        self.feed(Start())
        self.feed_claims("somebody", *[claim(peer) for peer in peers])
        self.outputs: tuple[Output, ...] = ()

    def feed(self, event: Event) -> tuple[Output, ...]:
        self.state, self.outputs = step(self.state, event, self.now)
        return self.outputs

    def hear(self, sender: str, message: GossipMessage, *, boot: int = 1) -> tuple[Output, ...]:
        return self.feed(Received(sender, boot, message))

    def feed_claims(self, sender: str, *claims: Claim) -> tuple[Output, ...]:
        return self.hear(sender, Gossip(claims))

    def sync(self, sender: str, *claims: Claim) -> tuple[Output, ...]:
        return self.hear(sender, Sync(claims, is_reply=True))

    def run(self, for_s: float) -> list[Output]:
        """Let time pass, tick by tick as it is due. Returns everything that was put out."""
        end = self.now + for_s
        outputs: list[Output] = []
        while self.state.next_deadline <= end:
            self.now = max(self.now, self.state.next_deadline)
            outputs.extend(self.feed(Tick()))
        self.now = end
        return outputs

    def status(self, node_id: str) -> Status | None:
        found = self.state.member(node_id)
        return None if found is None else found.status

    def sent(self, kind: type[M], outputs: Iterable[Output] | None = None) -> list[Sent[M]]:
        """Return the messages of a kind that were sent by the last step, or are in `outputs`."""
        return [
            Sent(output.node_id, output.message)
            for output in (self.outputs if outputs is None else outputs)
            if isinstance(output, Send) and isinstance(output.message, kind)
        ]
