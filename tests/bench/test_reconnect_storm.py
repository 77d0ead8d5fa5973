"""Reconnect storm: every device gets exactly what it missed, and a server that cheats is found out."""

import msgspec
import pytest

from bench.load.client import Account
from bench.load.loop import Loop
from bench.load.trial import Samples
from bench.load.wires import BotProtocol
from bench.reconnect_storm import MISSED_COUNT, WORKLOAD, Device, judge
from protocol.commands import Command, Sync, SyncInbox
from protocol.events import ConversationAdded, Event, MessagePosted
from protocol.replies import EventPage
from tests.bench.small_run import ENTRANTS, figures_of, run_small

WANTED = [f"key-{number}" for number in range(MISSED_COUNT)]


@pytest.mark.slow
@pytest.mark.parametrize(("kind", "wire"), ENTRANTS)
def test_all_devices_catch_up(kind: str, wire: str) -> None:
    """The figure is the time until the last of them is current."""
    trial = run_small(WORKLOAD, WORKLOAD.variants[0], kind, wire, scale=0.05)
    assert (trial.is_sound, trial.errors) == (True, [])
    figures = figures_of(trial)
    assert figures["all current"] > 0
    assert figures["connects"] > 0
    devices = len(trial.samples["one device"])
    assert devices == 100
    assert max(trial.samples["one device"].values[1::2]) <= figures["all current"]


class Asking(Device):
    """A device without a socket: what it asks is kept, what it is answered is given by a test."""

    def __init__(self) -> None:
        super().__init__(Loop(), BotProtocol(), ("127.0.0.1", 1), Account("ann", "token"), Samples())
        self.asked: list[Command] = []

    def tell(self, command: Command) -> None:
        self.asked.append(command)

    def answer(self, items: list[Event], *, head: int, more: bool = False) -> None:
        page = EventPage(
            id=self.asked[-1].id,
            conversation_id=getattr(self.asked[-1], "conversation_id", ""),
            items=items,
            head=head,
            more=more,
        )
        self.received(self.wire.frame(msgspec.msgpack.encode(page)), 0.0)


def messages(*numbers: int, first_seq: int = 3) -> list[Event]:
    """Messages of these numbers at rising seqs."""
    return [
        MessagePosted(conversation_id="c", seq=first_seq + place, client_id=f"key-{number}")
        for place, number in enumerate(numbers)
    ]


@pytest.fixture
def device() -> Asking:
    """A device that had the first message, was dropped, and is back."""
    made = Asking()
    made.cursors["c"] = 2
    made.is_current = False
    made.welcome = {"heads": [{"conversation_id": "c", "head": 22}]}
    made.welcomed()
    return made


def test_a_device_reads_on_until_it_has_everything(device: Asking) -> None:
    """Page by page from its own cursor, as clients do."""
    assert [(sync.conversation_id, sync.after) for sync in device.asked if isinstance(sync, Sync)] == [
        ("c", 2)
    ]
    device.answer(messages(*range(8)), head=22, more=True)
    seen = [device.is_current]
    device.answer(messages(*range(8, 20), first_seq=11), head=22)
    assert [*seen, device.is_current] == [False, True]
    assert (judge(device.client_ids, WANTED), device.errors) == ("", [])


def test_a_device_reads_its_inbox_where_that_has_news(device: Asking) -> None:
    """It is current only with both."""
    device.answer(messages(*range(20)), head=22)
    device.is_current = False
    device.welcome = {"inbox_head": 1}
    device.welcomed()
    assert isinstance(device.asked[-1], SyncInbox)
    assert not device.is_current
    device.answer([ConversationAdded(conversation_id="c", seq=1, by="bob")], head=1)
    assert (device.is_current, device.inbox_cursor, device.errors) == (True, 1, [])


@pytest.mark.parametrize(
    ("numbers", "fault"),
    [
        (list(range(19)), "missing"),
        ([], "missing"),
        ([*range(20), 19], "doubled"),
        ([0, 2, 1, *range(3, 20)], "out of order"),
        ([0, 0, *range(2, 20)], "missing"),
    ],
)
def test_what_is_not_exactly_what_was_missed_is_found_out(
    device: Asking, numbers: list[int], fault: str
) -> None:
    """Even where the seqs look right."""
    device.answer(messages(*numbers), head=22)
    assert judge(device.client_ids, WANTED) == fault


def test_a_hole_in_the_seqs_is_found_out(device: Asking) -> None:
    """Seqs are gapless in one conversation."""
    device.answer(messages(*range(20), first_seq=4), head=22)
    assert device.errors == ["hole"]


def test_a_welcome_without_the_news_is_found_out() -> None:
    """Such a device would believe that it is current."""
    silent = Asking()
    silent.is_current = False
    silent.welcome = {}
    silent.welcomed()
    assert silent.errors == ["no heads"]
