"""The pure cores of the SDK: cursors and holes, calls and retries, delays."""

import random

from hypothesis import given
from hypothesis import strategies as st

from hubbub.backoff import full_jitter_s, jittered_s
from hubbub.calls import Call, CallTable
from hubbub.errors import RETRIED_CODES
from hubbub.streams import BUFFERED_EVENTS, DurableEvent, Stream
from protocol import commands as c
from protocol import events as e
from protocol import replies as r


def posted(seq: int) -> e.MessagePosted:
    return e.MessagePosted(conversation_id="room", seq=seq, at_ms=1, user_id="bob")


@given(
    live=st.lists(st.tuples(st.integers(1, 30), st.booleans()), max_size=80),
    start=st.integers(0, 10),
    page_at=st.sets(st.integers(0, 80)),
)
def test_any_mixture_of_live_events_and_pages_is_delivered_once_and_in_order(
    live: list[tuple[int, bool]], start: int, page_at: set[int]
) -> None:
    """`events()` is this, with sockets around it."""
    log = [posted(seq) for seq in range(1, 31)]
    stream = Stream("room", start)
    delivered: list[DurableEvent] = []
    for step, (seq, has_room) in enumerate(live):
        delivered += stream.offer(log[seq - 1], has_room=has_room)
        if step in page_at:
            delivered += stream.merge_page(log[stream.received : stream.received + 7], 30)
    stream.learn_head(30)
    while stream.is_behind:
        delivered += stream.merge_page(log[stream.received : stream.received + 7], 30)
    assert [event.seq for event in delivered] == list(range(start + 1, 31))


def test_a_hole_holds_back_a_bounded_number_of_events() -> None:
    """A lost event in a busy conversation does not make the client grow."""
    stream = Stream("room", 0)
    for seq in range(2, 2_000):
        assert not stream.offer(posted(seq))
    assert len(stream.buffer) == BUFFERED_EVENTS
    assert stream.is_behind


class Server:
    """A server's side of a call table: it stores sends in the order in which it accepts them."""

    def __init__(self) -> None:
        self.stored: list[str] = []

    def accept(self, command: c.Send) -> r.Sent:
        if command.client_id not in self.stored:
            self.stored.append(command.client_id)
        return r.Sent(
            id=command.id,
            conversation_id=command.conversation_id,
            seq=self.stored.index(command.client_id) + 1,
            at_ms=1,
        )


@given(
    script=st.lists(st.sampled_from(["add", "write", "ack", "refuse", "lose", "wait"]), max_size=120),
    window=st.integers(1, 5),
    seed=st.integers(0, 1_000),
)
def test_every_send_is_stored_once_whatever_is_refused_or_lost(
    script: list[str], window: int, seed: int
) -> None:
    """Promise 2 from the client's side; the order holds where the server refuses nothing."""
    rng = random.Random(seed)
    settled = 0

    def on_send_settled() -> None:
        nonlocal settled
        settled += 1

    table = CallTable(chance=rng.random, window=window, on_send_settled=on_send_settled)
    server = Server()
    calls: list[Call] = []
    wire: list[c.Send] = []
    now = 0.0
    was_refused = False

    def write() -> None:
        for command in table.take(now):
            assert isinstance(command, c.Send)
            wire.append(command)

    for step in script:
        if step == "add":
            number = table.next_id()
            calls.append(table.add(c.Send(id=number, conversation_id="room", client_id=str(number))))
        elif step == "write":
            write()
        elif step == "ack" and wire:
            table.answer(server.accept(wire.pop(0)), now)
        elif step == "refuse" and wire:
            was_refused = True
            table.answer(r.Error(id=wire.pop(0).id, code="busy", retry_after_s=0.5), now)
        elif step == "lose":
            # Some of what was written had arrived.
            for command in wire[: rng.randrange(len(wire) + 1)]:
                server.accept(command)
            wire.clear()
            table.on_connection_lost()
        elif step == "wait":
            now += 10.0
        assert len(wire) <= window
    while table.pending_count:
        now += 100.0
        write()
        while wire:
            table.answer(server.accept(wire.pop(0)), now)
    assert all(call.is_settled and call.error is None for call in calls)
    assert settled == len(calls)
    assert sorted(server.stored, key=int) == [str(call.ordinal) for call in calls]
    if not was_refused:
        assert server.stored == sorted(server.stored, key=int)


def test_a_refused_send_holds_back_those_behind_it_in_its_conversation_only() -> None:
    """A busy conversation does not hold up the others, and its order stays."""
    table = CallTable(chance=lambda: 0.0, window=1)
    for number, room in ((1, "a"), (2, "a"), (3, "b")):
        assert table.next_id() == number
        table.add(c.Send(id=number, conversation_id=room, client_id=str(number)))
    assert [command.id for command in table.take(0.0)] == [1]
    table.answer(r.Error(id=1, code="busy", retry_after_s=5.0), 0.0)
    assert [command.id for command in table.take(1.0)] == [3]
    table.answer(r.Sent(id=3, conversation_id="b", seq=1, at_ms=1), 1.0)
    assert table.take(4.9) == []
    assert table.next_due() == 5.0
    assert [command.id for command in table.take(5.0)] == [1]


@given(attempt=st.integers(0, 1_000), chance=st.floats(0, 1, exclude_max=True), least=st.floats(0, 60))
def test_delays_are_jittered_and_bounded(attempt: int, chance: float, least: float) -> None:
    """Thousands of clients dropped together do not come back together, and none waits for ever."""
    delay_s = full_jitter_s(attempt, lambda: chance, at_least_s=least)
    assert least <= delay_s <= least + 30.0
    assert 27.0 <= jittered_s(30.0, lambda: chance) <= 30.0


def test_codes_that_mean_later_are_retried() -> None:
    """The list is part of the SDK's documentation."""
    assert {
        "busy",
        "overloaded",
        "rate_limited",
        "outcome_unknown",
        "restarted",
        "storage_unavailable",
        "draining",
        "timeout",
        "moved",
    } <= RETRIED_CODES
    assert not {"crashed", "internal", "silenced", "not_member"} & RETRIED_CODES
