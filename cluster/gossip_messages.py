"""What members say to each other: SWIM's messages as tagged arrays of MessagePack.

Every message may carry claims (SWIM's piggyback). The lane says who sent it; the message does not repeat it.
"""

from typing import Annotated, Final

import msgspec
from msgspec import Meta

from cluster.member import Boot, Member, NodeId

# More members and tombstones than a full mesh will ever have; keeps a hostile message from growing our state.
MAX_CLAIMS: Final = 2048

Seq = Annotated[int, Meta(ge=0, le=(1 << 63) - 1)]


class Claim(msgspec.Struct, frozen=True, array_like=True):
    """A belief, and who stands behind it: accusers are counted, each once, to confirm a suspicion."""

    member: Member
    by: NodeId


Claims = Annotated[tuple[Claim, ...], Meta(max_length=MAX_CLAIMS)]


class Ping(msgspec.Struct, frozen=True, array_like=True, tag=1):
    """Ask for a sign of life. Answered by Ack with the same seq, whatever boot was asked for."""

    seq: Seq
    node_id: NodeId
    boot: Boot
    claims: Claims = ()


class PingReq(msgspec.Struct, frozen=True, array_like=True, tag=2):
    """Ask somebody else to ping `node_id`. Answered by Ack, or by Nack when it did not answer in time."""

    seq: Seq
    node_id: NodeId
    boot: Boot
    claims: Claims = ()


class Ack(msgspec.Struct, frozen=True, array_like=True, tag=3):
    """`node_id` gave a sign of life in that boot; it comes from itself or from whom we asked to ping it."""

    seq: Seq
    node_id: NodeId
    boot: Boot
    claims: Claims = ()


class Nack(msgspec.Struct, frozen=True, array_like=True, tag=4):
    """I was asked to ping somebody and heard nothing; but you see that I hear you (Lifeguard)."""

    seq: Seq
    claims: Claims = ()


class Gossip(msgspec.Struct, frozen=True, array_like=True, tag=5):
    """News only."""

    claims: Claims


class Sync(msgspec.Struct, frozen=True, array_like=True, tag=6):
    """Everything that the sender believes (memberlist's push-pull). One that is no reply is answered by one.

    The deaths in it are hearsay: the reader suspects, so that who lives can refute.
    """

    claims: Claims
    is_reply: bool = False


GossipMessage = Ping | PingReq | Ack | Nack | Gossip | Sync

_encoder = msgspec.msgpack.Encoder()
_decoder: msgspec.msgpack.Decoder[GossipMessage] = msgspec.msgpack.Decoder(GossipMessage)


def encode_message(message: GossipMessage) -> bytes:
    """Encode for a lane."""
    return _encoder.encode(message)


def decode_message(payload: bytes) -> GossipMessage:
    """Decode what a lane brought.

    Raises: msgspec.MsgspecError for anything that is no message; the caller counts it and drops it.
    """
    try:
        return _decoder.decode(payload)
    except (UnicodeError, RecursionError, ValueError) as exc:
        if isinstance(exc, msgspec.MsgspecError):
            raise
        raise msgspec.DecodeError(str(exc)) from None
