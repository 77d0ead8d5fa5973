"""The outbox is where promise 4 (nothing dropped in silence) and promise 5 (everything bounded) meet."""

import msgspec
import pytest
import trio
import trio.testing
from hypothesis import given
from hypothesis import strategies as st

from protocol.codec import Encoded, FrameSplitter, Wire, decode_server, encode_frame
from protocol.events import Event, Heads, MessagePosted, Presence, Receipts, Resync, Typing
from protocol.limits import MAX_OUTBOX_BYTES, MAX_OUTBOX_FRAMES
from protocol.replies import Ok, Reply
from protocol.types import HeadHint, PresenceItem, ReceiptItem
from server.outbox import MAX_DROPPED_STREAMS, Outbox, OutboxStats
from tests.server.edge import posted


def make_outbox(overflows: list[int] | None = None) -> Outbox:
    calls = [] if overflows is None else overflows
    return Outbox(Wire.MSGPACK_TCP, OutboxStats(), lambda: calls.append(1))


def drain(outbox: Outbox) -> list[Reply | Event]:
    messages: list[Reply | Event] = []
    while frames := outbox.take():
        messages += decode(frames)
    return messages


def decode(frames: bytes) -> list[Reply | Event]:
    payloads = FrameSplitter(1 << 30).feed(frames)
    return [decode_server(payload, Wire.MSGPACK_TCP) for payload in payloads]


def typing(user_id: str, *, on: bool = True) -> Encoded:
    return Encoded(Typing(conversation_id="c1", user_id=user_id, on=on))


class Push(msgspec.Struct, frozen=True):
    stream: int
    size_bytes: int


class Live(msgspec.Struct, frozen=True):
    key: int
    size_bytes: int


class Take(msgspec.Struct, frozen=True):
    max_bytes: int


steps = st.lists(
    st.one_of(
        st.builds(Push, st.integers(0, 3), st.sampled_from([0, 100, 40_000, 130_000, 300_000])),
        st.builds(Live, st.integers(0, 3), st.sampled_from([0, 50_000])),
        st.builds(Take, st.sampled_from([1, 65_536, 300_000])),
    ),
    max_size=60,
)


@given(steps=steps, repeats=st.sampled_from([1, 1, 40]))
def test_each_event_is_delivered_in_order_or_covered_by_a_later_resync(
    steps: list[Push | Live | Take], repeats: int
) -> None:
    """A client's catch-up trusts this: what it saw, then what a Resync tells it to read, is everything."""
    outbox = make_outbox()
    heads = dict.fromkeys(range(4), 0)
    received: list[Reply | Event] = []
    for step in steps * repeats:
        if isinstance(step, Push):
            heads[step.stream] += 1
            event = posted(heads[step.stream], "x" * step.size_bytes, f"c{step.stream}")
            outbox.push(event, f"c{step.stream}", heads[step.stream])
        elif isinstance(step, Live):
            outbox.push_live(("typing", str(step.key)), posted(1, "y" * step.size_bytes, "live"))
        else:
            received += decode(outbox.take(step.max_bytes))
        assert outbox.frame_count <= MAX_OUTBOX_FRAMES
        assert outbox.size_bytes <= MAX_OUTBOX_BYTES
    received += drain(outbox)
    assert outbox.frame_count == outbox.size_bytes == outbox.dropped_stream_count == 0
    for stream, head in heads.items():
        covered = 0
        for message in received:
            if isinstance(message, MessagePosted) and message.conversation_id == f"c{stream}":
                assert message.seq == covered + 1
                covered = message.seq
            elif isinstance(message, Resync) and message.conversation_id == f"c{stream}":
                assert message.head > covered
                covered = message.head
        assert covered == head


def test_a_stalled_reader_costs_no_more_than_the_bound() -> None:
    """2,000 stalled phones must not fill the node's memory."""
    outbox = make_outbox()
    for seq in range(1, 100_001):
        outbox.push(posted(seq, "x" * 200), "c1", seq)
    assert outbox.size_bytes <= MAX_OUTBOX_BYTES
    assert outbox.frame_count <= MAX_OUTBOX_FRAMES
    messages = drain(outbox)
    assert messages[-1] == Resync(conversation_id="c1", head=100_000)
    assert sum(isinstance(message, Resync) for message in messages) == 1


def test_a_live_event_takes_the_place_of_the_pending_one() -> None:
    """Typing that has ended must not be shown as typing, nor cost two frames."""
    outbox = make_outbox()
    outbox.push_live(("typing", "a"), typing("a"))
    outbox.push(posted(1), "c1", 1)
    outbox.push_live(("typing", "a"), typing("a", on=False))
    messages = drain(outbox)
    assert [type(message) for message in messages] == [Typing, MessagePosted]
    assert messages[0] == Typing(conversation_id="c1", user_id="a", on=False)
    outbox.push_live(("typing", "a"), typing("a"))
    assert drain(outbox) == [Typing(conversation_id="c1", user_id="a")]


def test_pending_lists_are_merged_and_newer_items_win() -> None:
    """Receipts, presence and heads that nobody read yet still arrive complete, in one frame each."""
    outbox = make_outbox()
    for items in ([("a", 1), ("b", 1)], [("b", 2), ("c", 2)], [("c", 3)]):
        receipts = [ReceiptItem(user_id=user, read_seq=seq) for user, seq in items]
        outbox.push_live(("receipts", "c1"), Encoded(Receipts(conversation_id="c1", items=receipts)), "c1")
        presence = [PresenceItem(user_id=user, state="online", last_seen_ms=seq) for user, seq in items]
        outbox.push_live("presence", Encoded(Presence(items=presence)), "")
        heads = [HeadHint(conversation_id=user, head=seq) for user, seq in items]
        outbox.push_live("heads", Encoded(Heads(items=heads)), "")
    receipts_event, presence_event, heads_event = drain(outbox)
    assert isinstance(receipts_event, Receipts)
    assert {item.user_id: item.read_seq for item in receipts_event.items} == {"a": 1, "b": 2, "c": 3}
    assert isinstance(presence_event, Presence)
    assert {item.user_id: item.last_seen_ms for item in presence_event.items} == {"a": 1, "b": 2, "c": 3}
    assert isinstance(heads_event, Heads)
    assert {item.conversation_id: item.head for item in heads_event.items} == {"a": 1, "b": 2, "c": 3}


def test_a_live_event_without_room_is_announced_where_its_loss_matters() -> None:
    """A badge may not stay wrong because a phone was slow; a typing mark ends by itself."""
    outbox = make_outbox()
    for seq in range(1, MAX_OUTBOX_FRAMES + 1):
        outbox.push(posted(seq), "c1", seq)
    assert not outbox.push_live("typing", typing("a"))
    assert not outbox.push_live(("receipts", "c7"), Encoded(Receipts(conversation_id="c7", items=[])), "c7")
    heads = [HeadHint(conversation_id="c8", head=3), HeadHint(conversation_id="c9", head=4)]
    assert not outbox.push_live("heads", Encoded(Heads(items=heads)), "c8")
    assert not outbox.push_live("resync", Encoded(Resync(conversation_id="c9", head=6)), "c9")
    messages = drain(outbox)
    assert messages[MAX_OUTBOX_FRAMES:] == [
        Resync(conversation_id="c7", head=0),
        Resync(conversation_id="c8", head=3),
        Resync(conversation_id="c9", head=6),
    ]


def test_a_pending_live_event_that_grows_too_large_is_announced_instead() -> None:
    """Merging must not be a way round the bound."""
    outbox = make_outbox()

    def receipts(first: int) -> Encoded:
        items = [
            ReceiptItem(user_id=f"user{number:060}", read_seq=1) for number in range(first, first + 2000)
        ]
        return Encoded(Receipts(conversation_id="c1", items=items))

    assert outbox.push_live("receipts", receipts(0), "c1")
    assert not outbox.push_live("receipts", receipts(2000), "c1")
    assert outbox.size_bytes == 0
    assert outbox.push_live("receipts", receipts(0), "c1")
    assert [type(message) for message in drain(outbox)] == [Receipts, Resync]


def test_answers_always_find_room_and_welcome_goes_first() -> None:
    """A command that was read is answered, however many events wait."""
    outbox = make_outbox()
    for seq in range(1, MAX_OUTBOX_FRAMES + 100):
        outbox.push(posted(seq), "c1", seq)
    outbox.reply(encode_frame(Ok(id=7), Wire.MSGPACK_TCP))
    outbox.reply_first(encode_frame(Ok(id=1), Wire.MSGPACK_TCP))
    messages = drain(outbox)
    assert messages[0] == Ok(id=1)
    assert messages[MAX_OUTBOX_FRAMES + 1] == Ok(id=7)


def test_drops_in_too_many_streams_end_the_connection() -> None:
    """What has to be remembered for one slow client is bounded too."""
    overflows: list[int] = []
    outbox = make_outbox(overflows)
    for seq in range(1, MAX_OUTBOX_FRAMES + 1):
        outbox.push(posted(seq), "full", seq)
    for number in range(MAX_DROPPED_STREAMS):
        outbox.push(posted(1), f"c{number}", 1)
    assert not overflows
    outbox.push(posted(1), "one-too-many", 1)
    assert overflows
    messages = drain(outbox)
    assert sum(isinstance(message, Resync) for message in messages) == MAX_DROPPED_STREAMS


def test_frames_are_written_together_up_to_64_kib() -> None:
    """One write of 50 frames costs a quarter of 50 writes."""
    outbox = make_outbox()
    for seq in range(1, 301):
        outbox.push(posted(seq, "x" * 500), "c1", seq)
    first = outbox.take()
    assert 60 * 1024 < len(first) <= 64 * 1024
    outbox.reply(b"y" * 200_000)
    takes = []
    while frames := outbox.take():
        takes.append(frames)
    assert takes[-1] == b"y" * 200_000


async def test_the_writer_is_woken_by_a_push_and_by_the_end() -> None:
    """The writer task sleeps for as long as there is nothing to write."""
    outbox = make_outbox()
    woken: list[bytes] = []

    async def write() -> None:
        while not outbox.is_finished:
            await outbox.wait()
            woken.append(outbox.take())

    async with trio.open_nursery() as nursery:
        nursery.start_soon(write)
        await trio.testing.wait_all_tasks_blocked()
        outbox.push(posted(1), "c1", 1)
        outbox.push(posted(2), "c1", 2)
        await trio.testing.wait_all_tasks_blocked()
        assert [len(decode(frames)) for frames in woken] == [2]
        outbox.finish()


async def test_a_cancelled_wait_leaves_the_outbox_usable() -> None:
    """A closing session cancels its writer; a push may come in the same tick."""
    outbox = make_outbox()
    with trio.move_on_after(0):
        await outbox.wait()
    assert outbox.push(posted(1), "c1", 1)
    with trio.fail_after(1):
        await outbox.wait()
    assert drain(outbox)


@pytest.mark.parametrize("wire", list(Wire))
def test_frames_are_made_for_the_connections_own_wire(wire: Wire) -> None:
    """A browser and a bot hear the same event, each in its own encoding."""
    outbox = Outbox(wire, OutboxStats(), lambda: None)
    event = posted(1, "hi")
    outbox.push(event, "c1", 1)
    assert outbox.take() == event.frame(wire)
