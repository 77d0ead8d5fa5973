"""W4: how many people a second can scroll back, and how long do they wait?

A group's conversation with 10,000 messages of 100 bytes, written by five of its members at full speed before
anything is measured; then 20 members each ask for 50 messages, one request under way each (closed loop).
Variants: the last 50; the last 50 while a member posts 100 messages a second by a timetable, which all 20
hear as well; 50 before a place anywhere in the conversation.

"last 50" is one hot page that 20 clients ask for over and over, and that hubbub answers from memory: it tells
what a request costs, and not what reading from the store does. The random page tells that.

Every answer is checked: 50 messages, by rising seq without a hole, ending where they must (the head, or just
before the place asked for). While messages come in, the answer must reach at least to the last one that was
acked before the request was sent. Each 50th answer is decoded wholly, and its messages compared with what was
sent.
"""

import random
from collections import Counter
from collections.abc import Callable
from secrets import token_hex
from typing import Any, Final

import msgspec

from bench.load.client import Account, Connection, as_dict, ask_all, open_all
from bench.load.loop import Loop, now
from bench.load.meter import Meter, calm
from bench.load.trial import (
    SETTLE_TIMEOUT_S,
    WARM_UP_S,
    Samples,
    Setting,
    Trial,
    Workload,
    close_all,
    measured,
)
from bench.load.wires import Got, WireFormat, encoded
from bench.report.results import Figure
from protocol.commands import CreateGroup, History, Send

MESSAGE_COUNT: Final = 10_000
PAGE: Final = 50
READER_COUNT: Final = 20
WRITER_COUNT: Final = 5
WINDOW: Final = 20  # sends of one writer under way while the conversation is made
POSTS_PER_S: Final = 100
TEXT_BYTES: Final = 100
PREFIX_CHARS: Final = 8
WHOLE_EVERY: Final = 50  # answers; decoding all of each would make the client the slower one
WRITE_TIMEOUT_S: Final = 120.0
SEED: Final = 20_000  # of the places that are asked for: the same for every server and round

LAST: Final = "last 50"
LAST_LIVE: Final = "last 50 while 100 messages/s come in"
RANDOM: Final = "random page of 10,000"


class Item(msgspec.Struct, gc=False):
    """A message, as far as each answer is looked at."""

    seq: int = 0  # other answers and events have items as well


class Page(msgspec.Struct, gc=False):
    """An answer to `history`, as far as each one is looked at."""

    type: str
    id: int = 0
    conversation_id: str = ""
    items: list[Item] = []
    more: bool = False
    code: str = ""


def page_decoder(wire: WireFormat) -> Callable[[bytes], Page]:
    """What decodes an answer: the seqs of its messages, and nothing more of them."""
    if wire.name == "json":
        return msgspec.json.Decoder(Page).decode
    return msgspec.msgpack.Decoder(Page).decode


class Conversation:
    """What the client knows of the conversation: the truth that answers are compared with."""

    def __init__(self) -> None:
        self.conversation_id = ""
        self.prefix = token_hex(PREFIX_CHARS // 2)  # of the client_ids
        self.numbers: dict[int, tuple[int, str]] = {}  # seq -> number and user_id of an acked message
        self.first = 0  # the first message's seq; the group's own events may be before it
        self.head = 0  # the greatest acked one
        self.sent_count = 0
        self.errors: list[str] = []

    def acked(self, seq: int, number: int, user_id: str) -> None:
        """Note that a message is stored for good."""
        if seq in self.numbers:
            self.errors.append("two messages at one place")
        self.numbers[seq] = (number, user_id)
        if seq > self.head:
            self.head = seq
        if not self.first or seq < self.first:
            self.first = seq

    def judge(self, page: Page, *, before: int, floor: int) -> str:
        """Say what is wrong with an answer's places; empty: nothing.

        `before`: what was asked for, 0 for the newest. `floor`: the head when the request was sent.
        """
        if page.type != "messages":
            return page.code or page.type
        if page.conversation_id != self.conversation_id:
            return "another conversation"
        items = page.items
        if len(items) != PAGE:
            return f"{len(items)} messages"
        first, last = items[0].seq, items[-1].seq
        if [item.seq for item in items] != list(range(first, first + PAGE)):
            return "not in order or with a hole"
        if before:
            if last != before - 1:
                return "another page"
        elif last < floor:
            return "an acked message is missing"
        elif last >= self.first + self.sent_count:
            return "more messages than were sent"
        if page.more != (first > self.first):
            return "wrong about whether there are more"
        return ""

    def compare(self, items: list[dict[str, Any]]) -> str:
        """Say what is wrong with the content of an answer's messages; empty: nothing."""
        for item in items:
            known = self.numbers.get(item["seq"])
            if known is None:
                continue  # stored, and its ack still under way
            number, user_id = known
            if item["text"] != text_of(number) or item["client_id"] != f"{self.prefix}{number}":
                return "another text"
            if item["user_id"] != user_id:
                return "another author"
        return ""


def text_of(number: int) -> str:
    """Return the text of a message: each is another one, and all have the same length."""
    return f"{number:07d}".ljust(TEXT_BYTES, "x")


class Writer(Connection):
    """Posts to the conversation: as fast as its window allows, or when told to."""

    def __init__(
        self,
        loop: Loop,
        wire: WireFormat,
        address: tuple[str, int],
        account: Account,
        conversation: Conversation,
    ) -> None:
        super().__init__(loop, wire, address, account)
        self.conversation = conversation
        self.is_full_speed = True
        self.sent_at: dict[int, float] = {}
        self.acks = Samples()

    def post(self, due_at: float) -> None:
        """Send one more message; its ack's latency counts from `due_at`."""
        conversation = self.conversation
        number = conversation.sent_count
        conversation.sent_count = number + 1
        self.sent_at[number] = due_at
        command = Send(
            id=number + 1,
            conversation_id=conversation.conversation_id,
            client_id=f"{conversation.prefix}{number}",
            text=text_of(number),
        )
        self.send(encoded(command, self.wire))

    def got(self, got: Got, payload: bytes, at: float) -> None:
        conversation = self.conversation
        if got.type == "sent":
            number = got.id - 1
            conversation.acked(got.seq, number, self.user_id)
            self.acks.add(at, at - self.sent_at.pop(number))
        elif got.type == "error":
            conversation.errors.append(str(got.code))
            self.sent_at.pop(got.id - 1, None)


class Reader(Connection):
    """Asks, checks the answer, asks again."""

    def __init__(
        self,
        loop: Loop,
        wire: WireFormat,
        address: tuple[str, int],
        account: Account,
        conversation: Conversation,
    ) -> None:
        super().__init__(loop, wire, address, account)
        self.conversation = conversation
        self.places: random.Random | None = None  # where to look; None: at the newest
        self.is_asking = False
        self.answers = Samples()
        self.answer_bytes = 0
        self.whole_count = 0
        self.heard_count = 0
        self.number = 0
        self._is_waiting = False
        self._asked_at = 0.0
        self._before = self._floor = 0
        self._decode = page_decoder(wire)

    @property
    def is_idle(self) -> bool:
        """Tell whether nothing that was asked is unanswered."""
        return not self._is_waiting

    def ask_next(self) -> None:
        """Send one more request."""
        conversation = self.conversation
        places = self.places
        self.number += 1
        self._is_waiting = True
        self._before = (
            0 if places is None else places.randint(conversation.first + PAGE, conversation.head + 1)
        )
        command = History(
            id=self.number, conversation_id=conversation.conversation_id, before=self._before, limit=PAGE
        )
        frame = encoded(command, self.wire)
        self._floor = conversation.head
        self._asked_at = now()
        self.send(frame)

    def forget(self) -> None:
        """Begin to measure: what was answered before is not part of it."""
        self.answers.clear()
        self.answer_bytes = 0

    def received(self, data: bytes, at: float) -> bytes:
        payloads, taken = self.wire.split(data)
        for payload in payloads:
            page = self._decode(payload)
            if page.type == "message":
                self.heard_count += 1
            elif self._is_waiting and page.id == self.number:
                self._answered(page, payload, at)
            elif page.type in ("messages", "error"):
                self.conversation.errors.append(page.code or "an answer that nobody asked for")
        return data[taken:] if taken else data

    def _answered(self, page: Page, payload: bytes, at: float) -> None:
        self._is_waiting = False
        self.answers.add(at, at - self._asked_at)
        self.answer_bytes += len(payload)
        conversation = self.conversation
        wrong = conversation.judge(page, before=self._before, floor=self._floor)
        if not wrong and self.number % WHOLE_EVERY == 1:
            self.whole_count += 1
            wrong = conversation.compare(as_dict(payload, self.wire)["items"])
        if wrong:
            conversation.errors.append(wrong)
        if self.is_asking:
            self.ask_next()


class Timetable:
    """Posts so many messages a second, each when it is due, whatever has happened to those before."""

    def __init__(self, loop: Loop, writer: Writer, per_s: float) -> None:
        self._loop = loop
        self._writer = writer
        self._interval_s = 1 / per_s
        self._due_at = 0.0
        self.is_running = False

    def start(self) -> None:
        self.is_running = True
        self._due_at = now()
        self._loop.at(self._due_at, self._post)

    def _post(self) -> None:
        if self.is_running:
            self._writer.post(self._due_at)
            self._due_at += self._interval_s
            self._loop.at(self._due_at, self._post)


def run(setting: Setting, variant: str) -> Trial:
    """Run one variant."""
    loop, wire, conversation = Loop(), setting.wire, Conversation()

    def account(number: int) -> Account:
        return setting.target.account(f"member{number}")

    readers = [
        Reader(loop, wire, setting.address(n), account(n), conversation)
        for n in range(setting.scaled(READER_COUNT))
    ]
    writers = [
        Writer(loop, wire, setting.address(n), account(len(readers) + n), conversation)
        for n in range(WRITER_COUNT)
    ]
    connections: list[Connection] = [*readers, *writers]
    open_all(loop, connections)
    create = CreateGroup(
        client_id=token_hex(8), title="History", member_ids=[c.user_id for c in (*readers, *writers[1:])]
    )
    (answer,) = ask_all(loop, [(writers[0], create)])
    conversation.conversation_id = answer["conversation"]["conversation_id"]
    for reader in readers:
        reader.close()  # those who are not there cost the writers nothing
    message_count = setting.scaled(MESSAGE_COUNT, least=4 * PAGE)
    _write(loop, writers, conversation, message_count)
    shed_count = open_all(loop, readers)
    if variant == RANDOM:
        for number, reader in enumerate(readers):
            reader.places = random.Random(SEED + number)
    timetable = Timetable(loop, writers[0], POSTS_PER_S)
    meter = Meter(setting.target)
    with calm():
        if variant == LAST_LIVE:
            timetable.start()
        for reader in readers:
            reader.is_asking = True
            reader.ask_next()
        loop.run_for(WARM_UP_S)
        for reader in readers:
            reader.forget()
        writers[0].acks.clear()
        meter.start()
        loop.run_for(setting.seconds)
        meter.stop()
        answers, answer_bytes = _sum_up(readers)
        timetable.is_running = False
        for reader in readers:
            reader.is_asking = False
        loop.run_until(
            lambda: all(reader.is_idle for reader in readers) and not writers[0].sent_at,
            timeout_s=SETTLE_TIMEOUT_S,
            what="every request is answered and every message acked",
        )
    errors = list(conversation.errors)
    errors += [f"closed: {c.error}" for c in connections if c.is_closed]
    findings = [_story(conversation, readers, message_count, variant)]
    close_all(loop, connections)
    answer_count = len(answers)
    samples = {"history": answers}
    if variant == LAST_LIVE:
        samples["ack"] = writers[0].acks
    return measured(
        meter,
        variant=variant,
        figures=[
            Figure(name="requests", value=answer_count / meter.seconds, unit="/s", is_headline=True),
            Figure(
                name="bytes per answer",
                value=answer_bytes / max(1, answer_count),
                unit="bytes",
                is_higher_better=False,
            ),
            *meter.cpu_per_thousand(answer_count),
        ],
        samples=samples,
        errors=errors,
        findings=findings if not errors else [f"errors: {dict(Counter(errors))}"],
        is_sound=not errors,
        notes=[f"{shed_count} readers were refused at first: the server was still busy with the writing."]
        if shed_count
        else [],
    )


def _write(loop: Loop, writers: list[Writer], conversation: Conversation, message_count: int) -> None:
    """Fill the conversation, with every writer's window full."""

    def is_done() -> bool:
        for writer in writers:
            while len(writer.sent_at) < WINDOW and conversation.sent_count < message_count:
                writer.post(now())
        return len(conversation.numbers) + len(conversation.errors) >= message_count

    loop.run_until(is_done, timeout_s=WRITE_TIMEOUT_S, what=f"{message_count:,} messages are written")


def _sum_up(readers: list[Reader]) -> tuple[Samples, int]:
    """All answers of all readers, in order, and their bytes."""
    pairs = sorted(
        (reader.answers.values[i], reader.answers.values[i + 1])
        for reader in readers
        for i in range(0, len(reader.answers.values), 2)
    )
    samples = Samples()
    for at, took_s in pairs:
        samples.add(at, took_s)
    return samples, sum(reader.answer_bytes for reader in readers)


def _story(conversation: Conversation, readers: list[Reader], message_count: int, variant: str) -> str:
    checked = sum(reader.number for reader in readers)
    whole = sum(reader.whole_count for reader in readers)
    rest = ""
    if variant == LAST_LIVE:
        posted = len(conversation.numbers) - message_count
        rest = f"; {posted:,} messages came in, none acked before a request was missing in its answer"
    return (
        f"{checked:,} answers, each with the {PAGE} messages that were asked for, in order; "
        f"{whole:,} compared with what was sent{rest}"
    )


WORKLOAD: Final = Workload(
    name="W4",
    title="history: 20 clients ask for 50 of 10,000 messages",
    variants=(LAST, LAST_LIVE, RANDOM),
    run=run,
)
