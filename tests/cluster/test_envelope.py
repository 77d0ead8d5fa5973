"""Frames of the lanes: what is sealed is read again, and nothing else is."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cluster.envelope import (
    FORMAT,
    MAX_FRAME_BYTES,
    MAX_HOST_CHARS,
    MAX_ITEM_BYTES,
    MAX_NODE_ID_CHARS,
    Envelope,
    Hello,
    Refusal,
    Refused,
    Seal,
)

names = st.text(max_size=20)
numbers = st.integers(0, 2**63 - 1)
frames = st.builds(
    Envelope,
    *[numbers, names, numbers, numbers, names, numbers, numbers],
    *[numbers] * 4,
    st.lists(st.binary()),
) | st.builds(Hello, *[numbers, names, numbers, numbers, names, numbers, numbers], names, numbers, numbers)

ENVELOPE = Envelope(FORMAT, "ann", 1, 7, "bob", 2, 8, 1, 1, 1, 0, [b"item"])


@given(frame=frames, secret=st.binary())
def test_a_sealed_frame_is_read_as_it_was(frame: Hello | Envelope, secret: bytes) -> None:
    """Nodes of one cluster understand each other."""
    assert Seal(secret).open(Seal(secret).close(frame)) == frame


@given(data=st.data())
def test_a_changed_frame_is_refused(data: st.DataObject) -> None:
    """Whoever sits between two nodes cannot make them believe something else."""
    seal = Seal(b"secret")
    sealed = bytearray(seal.close(ENVELOPE))
    at = data.draw(st.integers(0, len(sealed) - 1))
    sealed[at] ^= data.draw(st.integers(1, 255))
    with pytest.raises(Refused):
        seal.open(bytes(sealed))


@given(garbage=st.binary() | st.binary().map(lambda more: Seal(b"secret").close(ENVELOPE)[:20] + more))
def test_garbage_is_refused_and_raises_nothing_else(garbage: bytes) -> None:
    """The port is open to whoever can reach it."""
    with pytest.raises(Refused):
        Seal(b"secret").open(garbage)


def test_each_refusal_says_why() -> None:
    """An operator who reads `tag` looks at the secret, and at `version` at what runs on the other node."""
    seal = Seal(b"secret")
    sealed = seal.close(ENVELOPE)

    def reason(sealed: bytes, seal: Seal = seal) -> Refusal:
        with pytest.raises(Refused) as refused:
            seal.open(sealed)
        return refused.value.reason

    assert reason(b"GET / HTTP/1.1\r\nHost: example\r\n\r\n") is Refusal.NOT_OURS
    assert reason(b"") is Refusal.NOT_OURS
    assert reason(sealed[:3] + b"\x02" + sealed[4:]) is Refusal.VERSION
    assert reason(sealed[:-1]) is Refusal.TAG
    for other in (b"", b"Secret"):
        assert reason(Seal(other).close(ENVELOPE)) is Refusal.TAG
        assert reason(sealed, Seal(other)) is Refusal.TAG


def test_the_longest_item_fits_into_a_frame() -> None:
    """nng closes the connection on which a longer message comes."""
    longest = "\N{GRINNING FACE}" * MAX_NODE_ID_CHARS
    n = 2**64 - 1
    frame = Envelope(n, longest, n, n, longest, n, n, n, n, n, n, [b"x" * MAX_ITEM_BYTES])
    assert len(Seal(b"").close(frame)) <= MAX_FRAME_BYTES
    hello = Hello(n, longest, n, n, longest, n, n, "x" * MAX_HOST_CHARS, 1, 1)
    assert len(Seal(b"").close(hello)) < 2_000
