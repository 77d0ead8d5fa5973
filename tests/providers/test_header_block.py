"""Our header encoder, read by the library's decoder: whatever is sent in whatever order, it arrives."""

from hpack import Decoder
from hypothesis import given
from hypothesis import strategies as st

from server.providers.exchange import Header
from server.providers.header_block import BlockEncoder

HEAD = ((b":method", b"POST"), (b":scheme", b"https"), (b":authority", b"push.example"))
STATIC = ((b"authorization", b"bearer " + b"t" * 250), (b"apns-topic", b"org.example"))

names = st.sampled_from([b"authorization", b"apns-topic", b"content-type", b"x-a", b"ttl", b"content-length"])
headers = st.tuples(names, st.binary(max_size=400))
runs = st.lists(headers, max_size=4).map(tuple)
sizes = st.one_of(st.none(), st.none(), st.sampled_from([0, 100, 4_096, 65_536]))


def sent(
    encoder: BlockEncoder, decoder: Decoder, static: tuple[Header, ...], own: tuple[Header, ...] = ()
) -> int:
    """Send one block through both, check what arrives, and tell its size."""
    encoder.load(HEAD, b"/3/device/ab", static, own)
    block = encoder.encode([(b":method", b"POST")])
    arrived = [(bytes(name), bytes(value)) for name, value in decoder.decode(block, raw=True)]
    assert arrived == [*HEAD, (b":path", b"/3/device/ab"), *static, *own]
    return len(block)


@given(st.lists(st.tuples(runs, runs, sizes), min_size=1, max_size=40))
def test_what_is_encoded_is_decoded(
    blocks: list[tuple[tuple[Header, ...], tuple[Header, ...], int | None]],
) -> None:
    """Also when the peer changes its table's size between two requests."""
    encoder, decoder = BlockEncoder(), Decoder()
    for static, own, size in blocks:
        if size is not None:
            decoder.max_allowed_table_size = size
            encoder.header_table_size = size
        sent(encoder, decoder, static, own)


def test_shared_headers_cost_a_byte_each_from_the_second_time_on() -> None:
    """That is what it is for: a token of 250 bytes is sent once per connection."""
    encoder, decoder = BlockEncoder(), Decoder()
    first = sent(encoder, decoder, STATIC)
    assert first > 280
    assert sent(encoder, decoder, STATIC) <= 5 + 1 + 1 + len(b"/3/device/ab")


def test_a_full_table_is_emptied_for_new_tokens() -> None:
    """A connection may outlive many tokens, an hour each; but it is not emptied for each request."""
    encoder, decoder = BlockEncoder(), Decoder()
    for hour in range(40):
        static = ((b"authorization", b"bearer " + b"%04d" % hour * 60),)
        sizes_bytes = [sent(encoder, decoder, static) for _ in range(1_200)]
    assert sizes_bytes[-1] > 0
    fresh = ((b"authorization", b"bearer " + b"last" * 60),)
    assert min(sent(encoder, decoder, fresh) for _ in range(3)) < 600
