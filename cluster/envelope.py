"""What two nodes' lanes say to each other: envelopes of items, and hellos, sealed with a keyed digest.

A frame on the wire is `MAGIC, version (1 byte), tag (16 bytes), MessagePack of a Hello or an Envelope`. The
tag is BLAKE2b over everything else under a key made of the cluster's secret, so it proves with each frame
what a greeting alone would prove once. Without a secret it is a plain digest, which finds damage and proves
nothing.

Sessions tie a frame to two runs: the sender's, and the run of the receiver that it was made for. What was
recorded for another run of the receiver is worth nothing to whoever replays it.
"""

import hashlib
import hmac
from enum import IntEnum, StrEnum
from typing import Final

import msgspec

MAGIC: Final = b"HBL"  # hubbub's lanes: what else may come to an open port is told apart by it at once
VERSION: Final = 1  # of the frame, up to the tag; what is sealed grows by appended fields
FORMAT: Final = 1  # of the items: nodes with another one cannot be in one cluster

# nng closes a connection that brings more. Twice the largest item would not help anybody: a lane batches.
MAX_FRAME_BYTES: Final = 1024 * 1024
MAX_NODE_ID_CHARS: Final = 128
MAX_HOST_CHARS: Final = 253  # of a domain name (RFC 1035, section 2.3.4)
# The rest of an envelope is below 1.2 KiB, even with the longest ids.
MAX_ITEM_BYTES: Final = MAX_FRAME_BYTES - 2048

TAG_BYTES: Final = 16  # 128 bits: nobody guesses one
_HEAD: Final = MAGIC + bytes([VERSION])
_BODY_AT: Final = len(_HEAD) + TAG_BYTES
# Each purpose of the secret has a key of its own ("personalisation", at most 16 bytes, as in RFC
# 7693, section 2.8).
_KEY_PURPOSE: Final = b"hubbub lanes key"
_TAG_PURPOSE: Final = b"hubbub lanes tag"


class Lane(IntEnum):
    """Two ways to each peer, so that probes and gossip never wait behind events."""

    CONTROL = 0
    DATA = 1


class Refusal(StrEnum):
    """Why a frame was not taken. Its text is what operators see counted."""

    NOT_OURS = "not_ours"  # no frame of a lane: garbage, or another program
    VERSION = "version"
    TAG = "tag"  # another secret or store, or damaged
    MALFORMED = "malformed"  # sealed by someone who has the secret, and yet not to be understood
    FORMAT = "format"
    OWN = "own"  # says that it comes from this node
    LANE = "lane"  # on the other lane's port
    OTHER_RECEIVER = "other_receiver"
    STALE_RECEIVER = "stale_receiver"  # for another life or run of this node
    OLD_BOOT = "old_boot"  # of the sender: a newer one was heard
    OLD_SESSION = "old_session"  # of the sender: a newer run was heard
    REPLAYED = "replayed"


class Frame(msgspec.Struct, frozen=True, array_like=True):
    """What each frame begins with: from whom, and for whom."""

    format: int
    sender: str
    boot: int
    session: int  # a random number of the sender's run, never 0
    receiver: str  # "": whoever gets it
    receiver_boot: int  # 0: unknown to the sender
    receiver_session: int  # 0: unknown to the sender


class Hello(Frame, frozen=True, array_like=True, tag=0):
    """Here I am, and this is where my lanes end.

    Carries no items and no lane_seq; said until it is answered.
    """

    host: str
    port: int
    data_port: int


class Envelope(Frame, frozen=True, array_like=True, tag=1):
    """Some items of one lane, or none: a beat."""

    lane: int
    lane_seq: int  # gapless from 1 for each sender's session, receiver's session and lane
    data_seq: int  # the latest lane_seq of the data lane, so that the loss of its end is noticed
    heard_seq: int  # the highest lane_seq heard from the receiver on its control lane
    items: list[bytes]


class Refused(Exception):
    """A frame is not taken, for `reason`."""

    def __init__(self, reason: Refusal) -> None:
        super().__init__(reason)
        self.reason = reason


class Seal:
    """Make frames, and open them."""

    def __init__(self, secret: bytes) -> None:
        self._key = hashlib.blake2b(secret, digest_size=32, person=_KEY_PURPOSE).digest() if secret else b""
        self._encoder = msgspec.msgpack.Encoder()
        self._decoder: msgspec.msgpack.Decoder[Hello | Envelope] = msgspec.msgpack.Decoder(Hello | Envelope)

    def close(self, frame: Hello | Envelope) -> bytes:
        """Encode a frame and seal it."""
        sealed = bytearray(_BODY_AT)
        sealed[: len(_HEAD)] = _HEAD
        self._encoder.encode_into(frame, sealed, _BODY_AT)
        sealed[len(_HEAD) : _BODY_AT] = self._tag(memoryview(sealed)[_BODY_AT:])
        return bytes(sealed)

    def open(self, sealed: bytes) -> Hello | Envelope:
        """Check and decode a frame. Raises: Refused."""
        if len(sealed) <= _BODY_AT or not sealed.startswith(MAGIC):
            raise Refused(Refusal.NOT_OURS)
        if sealed[len(MAGIC)] != VERSION:
            raise Refused(Refusal.VERSION)
        body = memoryview(sealed)[_BODY_AT:]
        if not hmac.compare_digest(sealed[len(_HEAD) : _BODY_AT], self._tag(body)):
            raise Refused(Refusal.TAG)
        try:
            return self._decoder.decode(body)
        except (msgspec.MsgspecError, ValueError, RecursionError):
            raise Refused(Refusal.MALFORMED) from None

    def _tag(self, body: memoryview) -> bytes:
        digest = hashlib.blake2b(_HEAD, digest_size=TAG_BYTES, key=self._key, person=_TAG_PURPOSE)
        digest.update(body)
        return digest.digest()
