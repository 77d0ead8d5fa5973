"""The order of sends under refusals and lost connections, decided without a socket or a clock."""

from collections.abc import Sequence

from hypothesis import given
from hypothesis import strategies as st

from hubbub.calls import Call, CallTable
from protocol import commands as c
from protocol import replies as r
from protocol.commands import Command
from protocol.errors import Unavailable

FAR_S = 1_000.0  # later than any retry is held back


def table(window: int = 8) -> CallTable:
    return CallTable(chance=lambda: 0.5, window=window)


def add_sends(calls: CallTable, count: int, conversation_id: str = "room") -> list[Call]:
    return [
        calls.add(
            c.Send(
                id=(number := calls.next_id()),
                conversation_id=conversation_id,
                client_id=str(number),
                text=str(number),
            )
        )
        for _ in range(count)
    ]


def ids(commands: Sequence[Command]) -> list[int]:
    return [command.id for command in commands]


def ack(command_id: int) -> r.Sent:
    return r.Sent(id=command_id, conversation_id="room", seq=command_id, at_ms=1)


def refuse(command_id: int) -> r.Error:
    return r.Error(id=command_id, code="busy", retry_after_s=0.1)


def test_a_refused_send_holds_back_what_is_not_written_yet_and_goes_again_alone() -> None:
    """Whoever pipelines gets an order as close to his own as one side alone can make it."""
    calls = table(window=3)
    add_sends(calls, 10)
    assert ids(calls.take(0.0)) == [1, 2, 3]
    calls.answer(refuse(1), 0.0)
    assert ids(calls.take(0.0)) == []  # 4 would have had room
    calls.answer(ack(2), 0.0)
    calls.answer(ack(3), 0.0)
    assert ids(calls.take(0.05)) == []
    assert ids(calls.take(FAR_S)) == [1]
    calls.answer(refuse(1), FAR_S)
    assert ids(calls.take(2 * FAR_S)) == [1]
    calls.answer(ack(1), 2 * FAR_S)
    assert ids(calls.take(2 * FAR_S)) == [4, 5]
    calls.answer(ack(4), 2 * FAR_S)
    assert ids(calls.take(2 * FAR_S)) == [6, 7]  # as many as the window allows again


def test_other_conversations_go_on_meanwhile() -> None:
    """One busy group must not silence a bot everywhere else."""
    calls = table(window=4)
    add_sends(calls, 2, "busy")
    assert ids(calls.take(0.0)) == [1, 2]
    calls.answer(refuse(1), 0.0)
    calls.answer(refuse(2), 0.0)
    add_sends(calls, 6, "calm")
    assert ids(calls.take(0.0)) == [3, 4, 5, 6]


def test_after_a_lost_connection_the_first_goes_alone() -> None:
    """A node that has just taken over is the likeliest to refuse."""
    calls = table()
    add_sends(calls, 4)
    assert ids(calls.take(0.0)) == [1, 2, 3, 4]
    calls.on_connection_lost()
    assert ids(calls.take(0.0)) == [1]
    calls.answer(ack(1), 0.0)
    assert ids(calls.take(0.0)) == [2, 3]
    calls.answer(ack(2), 0.0)
    calls.answer(ack(3), 0.0)
    assert ids(calls.take(0.0)) == [4]


@given(chance=st.floats(0, 1, exclude_max=True), code=st.sampled_from(["moved", "timeout", "a_newer_code"]))
def test_sends_outlast_the_death_of_a_nodes_shards_and_then_go_soon(chance: float, code: str) -> None:
    """15 s until another node owns the conversation: nobody's message fails, and nobody asks without end."""
    calls = CallTable(chance=lambda: chance)
    first, second = add_sends(calls, 2)
    now, tries, acked = 0.0, 0, []
    while not second.is_settled:
        due = calls.next_due()
        now = max(now, due) if due is not None else now
        for command in calls.take(now):
            tries += 1
            if now < 15.0:
                calls.answer(r.Error(id=command.id, code=code, retry_after_s=0.5), now)
            else:
                calls.answer(ack(command.id), now)
                acked.append(command.id)
    assert acked == [first.ordinal, second.ordinal]
    assert now <= 15.0 + 2.5
    assert tries <= 34


def test_one_that_is_given_up_or_refused_for_good_lets_the_others_go_on() -> None:
    """A caller's deadline must not stop everybody behind him."""
    calls = table(window=2)
    first, second, *_ = add_sends(calls, 5)
    assert ids(calls.take(0.0)) == [1, 2]
    calls.answer(refuse(1), 0.0)
    calls.give_up(first, Unavailable("timeout"))
    calls.answer(refuse(2), 0.0)
    assert ids(calls.take(FAR_S)) == [2]
    calls.answer(r.Error(id=2, code="silenced"), FAR_S)
    assert second.is_settled
    assert ids(calls.take(FAR_S)) == [3]


@given(
    verdicts=st.lists(st.sampled_from(["ack", "ack", "busy", "final", "lost"]), max_size=80),
    window=st.integers(1, 8),
    count=st.integers(1, 20),
)
def test_only_what_was_written_already_overtakes_a_refused_send(
    verdicts: list[str], window: int, count: int
) -> None:
    """The promise of `start_send`, whatever a server that answers in order says."""
    calls = table(window)
    sends = add_sends(calls, count)
    wire: list[int] = []
    stored: list[int] = []
    written_with: dict[int, set[int]] = {}  # refused send -> those on the wire at any of its refusals
    now = 0.0
    answers = iter([*verdicts, *["ack"] * (count * 2)])
    while not all(call.is_settled for call in sends):
        now += FAR_S
        wire += ids(calls.take(now))
        assert len(wire) <= window
        verdict = next(answers)
        if verdict == "lost":
            wire.clear()
            calls.on_connection_lost()
            continue
        current = wire.pop(0)
        if verdict == "ack":
            stored.append(current)
            calls.answer(ack(current), now)
        elif verdict == "busy":
            written_with.setdefault(current, set()).update(wire)
            calls.answer(refuse(current), now)
        else:
            calls.answer(r.Error(id=current, code="silenced"), now)
    assert len(set(stored)) == len(stored)
    for place, later in enumerate(stored):
        for earlier in stored[place + 1 :]:
            assert earlier > later or later in written_with[earlier]
