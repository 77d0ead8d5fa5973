"""History: answers are the 50 messages that were asked for, and a server that cheats is found out."""

from typing import Any

import msgspec
import pytest

from bench.history import LAST, LAST_LIVE, PAGE, RANDOM, WORKLOAD, Conversation, Page, page_decoder, text_of
from bench.load.wires import WIRES
from protocol.codec import encode_payload
from protocol.replies import MessagePage
from protocol.types import Message
from tests.bench.small_run import ENTRANTS, figures_of, run_small

FIRST = 3  # a group's own events are before its first message
COUNT = 200
HEAD = FIRST + COUNT - 1


@pytest.mark.slow
@pytest.mark.parametrize(
    ("kind", "wire", "variant"),
    [
        ("hubbub", "json", LAST),
        ("hubbub", "json", RANDOM),
        ("uvicorn", "json", RANDOM),
        ("uvicorn-tuned", "json", RANDOM),
        *((kind, wire, LAST_LIVE) for kind, wire in ENTRANTS),
    ],
)
def test_every_answer_is_what_was_asked_for(kind: str, wire: str, variant: str) -> None:
    """A fast answer with other messages in it is worth nothing."""
    trial = run_small(WORKLOAD, variant, kind, wire, scale=0.1)
    assert (trial.is_sound, trial.errors) == (True, [])
    figures = figures_of(trial)
    assert figures["requests"] > 0
    assert figures["bytes per answer"] > PAGE * 100
    assert len(trial.samples["history"]) > 0
    assert ("ack" in trial.samples) == (variant == LAST_LIVE)


@pytest.fixture
def conversation() -> Conversation:
    """200 acked messages, of which five authors have written."""
    made = Conversation()
    made.conversation_id = "c"
    made.sent_count = COUNT
    for number in range(COUNT):
        made.acked(FIRST + number, number, f"user{number % 5}")
    return made


def page(first: int, last: int, **changes: Any) -> Page:
    """An answer as an honest server gives it, and what is changed."""
    fields = {
        "type": "messages",
        "id": 1,
        "conversation_id": "c",
        "items": [{"seq": seq} for seq in range(first, last + 1)],
        "more": first > FIRST,
    }
    return msgspec.convert(fields | changes, Page)


def test_honest_answers_are_right(conversation: Conversation) -> None:
    """The checks below mean something only if the right answer passes."""
    assert conversation.judge(page(HEAD - PAGE + 1, HEAD), before=0, floor=HEAD) == ""
    assert conversation.judge(page(50, 99), before=100, floor=HEAD) == ""
    assert conversation.judge(page(FIRST, FIRST + PAGE - 1), before=FIRST + PAGE, floor=HEAD) == ""


@pytest.mark.parametrize(
    ("answer", "before", "wrong"),
    [
        (page(HEAD - PAGE, HEAD - 1), 0, "an acked message is missing"),
        (page(HEAD - PAGE + 2, HEAD + 1), 0, "more messages than were sent"),
        (page(HEAD - PAGE + 2, HEAD), 0, "49 messages"),
        (page(HEAD - PAGE + 1, HEAD, conversation_id="d"), 0, "another conversation"),
        (page(HEAD - PAGE + 1, HEAD, more=False), 0, "wrong about whether there are more"),
        (page(FIRST, FIRST + PAGE - 1, more=True), FIRST + PAGE, "wrong about whether there are more"),
        (page(49, 98), 100, "another page"),
        (page(50, 99, items=[{"seq": 49}, *({"seq": n} for n in range(51, 100))]), 100, "not in order or"),
        (page(50, 99, items=[{"seq": n} for n in range(99, 49, -1)]), 100, "not in order or with a hole"),
        (page(50, 99, items=[{"seq": 50}, *({"seq": n} for n in range(50, 99))]), 100, "not in order or"),
        (Page(type="error", code="busy"), 0, "busy"),
    ],
)
def test_a_wrong_answer_is_found_out(
    conversation: Conversation, answer: Page, before: int, wrong: str
) -> None:
    """Lost, doubled, reordered, stale or refused: none of it may count as a fast answer."""
    assert conversation.judge(answer, before=before, floor=HEAD).startswith(wrong)


def test_a_message_that_was_acked_before_the_request_must_be_in_the_answer(
    conversation: Conversation,
) -> None:
    """While messages come in, an answer may be older than its arrival, but not older than its request."""
    conversation.sent_count += 1  # its ack is still under way
    answer = page(HEAD - PAGE + 1, HEAD)
    assert conversation.judge(answer, before=0, floor=HEAD) == ""
    assert conversation.judge(page(HEAD - PAGE + 2, HEAD + 1), before=0, floor=HEAD) == ""
    conversation.acked(HEAD + 1, COUNT, "user0")
    assert conversation.judge(answer, before=0, floor=HEAD + 1) == "an acked message is missing"


def test_a_message_that_differs_from_what_was_sent_is_found_out(conversation: Conversation) -> None:
    """The order of numbers says nothing about the texts behind them."""
    honest = {
        "seq": FIRST + 7,
        "text": text_of(7),
        "client_id": f"{conversation.prefix}7",
        "user_id": "user2",
    }
    assert conversation.compare([honest]) == ""
    assert conversation.compare([honest | {"text": text_of(8)}]) == "another text"
    assert conversation.compare([honest | {"client_id": "other"}]) == "another text"
    assert conversation.compare([honest | {"user_id": "user3"}]) == "another author"


def test_two_acks_for_one_place_are_found_out(conversation: Conversation) -> None:
    """One of the two messages would be lost."""
    conversation.acked(HEAD, COUNT, "user0")
    assert conversation.errors == ["two messages at one place"]


@pytest.mark.parametrize("name", WIRES)
def test_answers_are_read_on_every_wire(name: str) -> None:
    """The light decoder has to see what the protocol's own encoder writes."""
    wire = WIRES[name]()
    reply = MessagePage(
        id=9,
        conversation_id="c",
        items=[Message(conversation_id="c", seq=seq, at_ms=1, user_id="u", text="x") for seq in (4, 5)],
        more=True,
    )
    got = page_decoder(wire)(encode_payload(reply, wire.wire))
    assert (got.type, got.id, got.conversation_id, got.more) == ("messages", 9, "c", True)
    assert [item.seq for item in got.items] == [4, 5]
