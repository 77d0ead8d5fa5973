"""The members' language on the wire."""

import contextlib

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from cluster.gossip_messages import Ack, Claim, Gossip, Ping, decode_message, encode_message
from cluster.member import FINAL_INCARNATION, Member, NodeMeta, Status
from tests.cluster.strategies import messages

MEMBER = Member("n1", 3, 7, Status.SUSPECT, NodeMeta(host="10.0.0.1", port=8082, zone="a"))


@given(messages)
def test_messages_round_trip(message: object) -> None:
    """What one node says, the other one hears."""
    assert decode_message(encode_message(message)) == message  # type: ignore[arg-type]  # any of the union


def test_a_ping_without_news_is_small() -> None:
    """It is sent once a second by everybody, for ever."""
    assert len(encode_message(Ping(1 << 40, "node-1", 3))) < 32
    assert len(encode_message(Gossip((Claim(MEMBER, "n2"),)))) < 64


def test_a_newer_node_may_say_more() -> None:
    """N and N-1 talk in a rolling upgrade: what is added is skipped, what is missing is default."""
    meta = ["h", 1, "", "", "", "", 1, 1, False, "added later"]
    member = ["n1", 3, 7, 0, meta, "added later"]
    ack = [3, 5, "n1", 3, [[member, "n1", "added later"]], "added later"]
    decoded = decode_message(msgspec.msgpack.encode(ack))
    assert decoded == Ack(
        5, "n1", 3, (Claim(Member("n1", 3, 7, Status.ALIVE, NodeMeta(host="h", port=1)), "n1"),)
    )
    assert decode_message(msgspec.msgpack.encode([3, 5, "n1", 3])) == Ack(5, "n1", 3)


@pytest.mark.parametrize(
    "said",
    [
        [99, 1],
        [1, 1],
        [1, -1, "n", 1],
        [1, 1, "", 1],
        [1, 1, "n" * 65, 1],
        [5, [[["n", 1, FINAL_INCARNATION + 1, 0, ["h", 1]], "n"]]],
        [5, [[["n", 1, 1, 9, ["h", 1]], "n"]]],
        "hello",
        {},
    ],
)
def test_what_is_no_message_is_refused(said: object) -> None:
    """The lane counts it and goes on."""
    with pytest.raises(msgspec.MsgspecError):
        decode_message(msgspec.msgpack.encode(said))


@given(st.binary(max_size=64))
def test_garbage_never_raises_anything_else(payload: bytes) -> None:
    """Garbage on the cluster port harms nothing."""
    with contextlib.suppress(msgspec.MsgspecError):
        decode_message(payload)
