"""The sessions of a node: who hears what, what is coalesced, and what nobody may lose."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from itertools import pairwise

import pytest
import trio
import trio.testing
from trio.testing import MockClock

from actors.address import Address
from actors.hub import Hub
from actors.messages import Delivered, Place
from actors.presence_board import INBOX
from actors.reply import Reply
from actors.router import LocalRouter
from protocol import events
from protocol.codec import Encoded
from protocol.errors import CloseCode
from protocol.events import Event
from protocol.limits import HEADS_TICK_S, PRESENCE_TICK_S
from protocol.types import HeadHint


class Ear:
    """A listener that keeps what it hears: (event, stream)."""

    def __init__(self, conn_id: int, user_id: str) -> None:
        self.conn_id = conn_id
        self.user_id = user_id
        self.heard: list[tuple[Event, str | None]] = []
        self.closed: CloseCode | None = None

    def push(self, encoded: Encoded, stream: str, seq: int) -> None:
        self.heard.append((encoded.event, stream))  # type: ignore[arg-type]  # events only

    def push_live(self, key: object, encoded: Encoded, stream: str | None = None) -> None:
        self.heard.append((encoded.event, stream))  # type: ignore[arg-type]  # events only

    def close(self, code: CloseCode, reason: str = "") -> None:
        self.closed = code

    def take(self) -> list[Event]:
        taken, self.heard = [event for event, _ in self.heard], []
        return taken


class Conversations:
    """A host that keeps what it is told, or is asleep, and must not be woken."""

    kind = "conversation"

    def __init__(self) -> None:
        self.told: list[tuple[str, object]] = []
        self.is_asleep = False

    def deliver(
        self, address: Address, message: object, reply: Reply, *, may_be_at_once: bool = False
    ) -> None:
        raise AssertionError("the hub has woken an actor")

    def deliver_if_active(self, address: Address, message: object) -> bool:
        if not self.is_asleep:
            self.told.append((address.id, message))
        return not self.is_asleep


@asynccontextmanager
async def open_hub() -> AsyncIterator[tuple[Hub, Conversations]]:
    host = Conversations()
    hub = Hub(now_ms=lambda: 5)
    hub.watermarks.router = LocalRouter([host])
    async with trio.open_nursery() as nursery:
        nursery.start_soon(hub.run)
        yield hub, host
        nursery.cancel_scope.cancel()


def seat(hub: Hub, conn_id: int, user_id: str, *conversation_ids: str, focus: list[str] | None = None) -> Ear:
    ear = Ear(conn_id, user_id)
    hub.attach(ear, f"s{conn_id}", focus)
    hub.join(conn_id, conversation_ids)
    return ear


def message(seq: int, conversation_id: str = "c1", **more: object) -> Encoded:
    return Encoded(
        events.MessagePosted(
            conversation_id=conversation_id,
            seq=seq,
            message_count=seq,
            user_id="x",
            text="t",
            **more,  # type: ignore[arg-type]  # fields of MessagePosted
        )
    )


async def test_what_happens_while_a_session_opens_is_neither_missed_nor_wrongly_heard() -> None:
    """Between attach and join the memberships are read; they may move meanwhile."""
    async with open_hub() as (hub, _):
        ear = Ear(1, "ann")
        hub.attach(ear, "s1", None)
        hub.unsubscribe("left", ["ann"], to=())
        hub.subscribe("entered", ["ann"])
        hub.unsubscribe("back", ["ann"], to=())
        hub.subscribe("back", ["ann"])
        hub.join(1, ["left", "stayed"])
        assert hub.conversation_ids(1) == {"entered", "back", "stayed"}
        for conversation_id in ("left", "entered", "back", "stayed"):
            hub.publish(conversation_id, 1, message(1, conversation_id), to=())
        assert {getattr(e, "conversation_id", "") for e in ear.take()} == {"entered", "back", "stayed"}
        hub.detach(1)
        hub.detach(1)
        hub.publish("stayed", 2, message(2, "stayed"), to=())
        assert ear.take() == []
        assert (hub.connection_count, hub.head_of("stayed"), hub.conversation_ids(1)) == (0, 0, frozenset())


async def test_heads_come_at_most_once_a_second_with_the_latest_counts(autojump_clock: MockClock) -> None:
    """A phone that shows the list is not woken for each message."""
    async with open_hub() as (hub, _):
        ears = [seat(hub, n, f"u{n}", "c1", "c2", focus=[]) for n in range(3)]
        times: list[float] = []
        for seq in range(1, 101):
            hub.publish("c1", seq, message(seq), to=(), message_count=seq)
            hub.publish("c2", seq, message(seq, "c2"), to=(), message_count=seq)
            await trio.sleep(0.03)
            if ears[0].heard and len(ears[0].heard) > len(times):
                times.append(trio.current_time())
        await trio.sleep(2 * HEADS_TICK_S)
        for ear in ears:
            heads = ear.take()
            assert all(isinstance(e, events.Heads) for e in heads)
            assert len(heads) <= 5
            last = heads[-1]
            assert isinstance(last, events.Heads)
            assert [(h.conversation_id, h.head, h.message_count) for h in last.items] == [
                ("c1", 100, 100),
                ("c2", 100, 100),
            ]
        assert all(b - a >= HEADS_TICK_S - 0.05 for a, b in pairwise(times))


async def test_edits_off_the_screen_keep_the_message_count_of_the_hint(autojump_clock: MockClock) -> None:
    """A hint without a count would look like one that went back to nothing."""
    async with open_hub() as (hub, _):
        ear = seat(hub, 1, "ann", "c1", focus=["c2"])
        hub.publish("c1", 7, Encoded(events.Reacted(target=3, emoji="x")), to=(), message_count=4)
        await trio.sleep(2)
        assert ear.take() == [events.Heads(items=[HeadHint(conversation_id="c1", head=7, message_count=4)])]


async def test_many_heads_are_split_into_events_that_fit(autojump_clock: MockClock) -> None:
    async with open_hub() as (hub, _):
        names = [f"c{n}" for n in range(250)]
        ear = seat(hub, 1, "ann", *names, focus=[])
        for name in names:
            hub.publish(name, 1, message(1, name), to=(), message_count=1)
        await trio.sleep(2)
        heads = ear.take()
        sizes = [len(e.items) for e in heads if isinstance(e, events.Heads)]
        assert sizes == [100, 100, 50]


async def test_presence_is_batched_and_only_the_latest_state_is_told(autojump_clock: MockClock) -> None:
    """Watchers of the same people share one encoded event."""
    async with open_hub() as (hub, _):
        ears = [seat(hub, n, f"w{n}") for n in range(2)]
        for ear in ears:
            hub.presence.watch(ear.conn_id, ["a", "b", "c"])
        hub.presence.elsewhere("a", "online", 0)
        hub.presence.elsewhere("b", "online", 0)
        hub.presence.elsewhere("a", "away", 0)
        hub.presence.elsewhere("nobody watches", "online", 0)
        await trio.sleep(2 * PRESENCE_TICK_S)
        (first, stream), (second, _) = ears[0].heard[0], ears[1].heard[0]
        assert first is second
        assert stream == INBOX  # so that a full outbox announces the loss
        assert isinstance(first, events.Presence)
        assert [(i.user_id, i.state) for i in first.items] == [("a", "away"), ("b", "online")]
        hub.presence.watch(1, ["b"])
        for ear in ears:
            ear.take()
        hub.presence.elsewhere("a", "offline", 5)
        await trio.sleep(2 * PRESENCE_TICK_S)
        assert ears[1].take() == []
        assert hub.presence.of("a") is None
        assert hub.presence.of("b") is not None


async def test_parting_takes_two_users_out_of_each_others_sight(autojump_clock: MockClock) -> None:
    async with open_hub() as (hub, _):
        ann, bob = seat(hub, 1, "ann"), seat(hub, 2, "bob")
        hub.presence.watch(1, ["bob", "cid"])
        hub.presence.watch(2, ["ann"])
        hub.part("ann", "bob")
        for ear, other in ((ann, "bob"), (bob, "ann")):
            (event,) = ear.take()
            assert isinstance(event, events.Presence)
            assert [(i.user_id, i.state, i.last_seen_ms) for i in event.items] == [(other, "offline", 0)]
        hub.presence.elsewhere("bob", "away", 0)
        hub.presence.elsewhere("ann", "away", 0)
        await trio.sleep(1)
        assert (ann.take(), bob.take()) == ([], [])


async def test_who_loses_a_conversation_or_a_contact_is_doubted_once() -> None:
    """The service asks the store only for users whose sight of others may have ended."""
    async with open_hub() as (hub, _):
        seat(hub, 1, "ann", "c1", "c2")
        seat(hub, 2, "bob", "c1")
        seat(hub, 3, "cid", "c1")
        hub.presence.watch(1, ["bob", "dan"])
        hub.presence.watch(3, ["ann"])
        assert hub.presence.in_sight_of("ann") == {"bob", "dan", "cid"}
        assert hub.presence.in_sight_of("dan") == {"ann"}
        assert hub.presence.in_sight_of("nobody") == set()
        version = hub.presence.rights_version
        hub.unsubscribe("c1", ["dan", "bob", "bob", "eve"], to=())  # dan is not connected, but watched
        assert hub.presence.take_doubted() == ["dan", "bob"]
        assert hub.presence.take_doubted() == []
        assert hub.presence.rights_version > version
        hub.publish_user("ann", 1, Encoded(events.ContactChanged(user_id="dan")))
        assert hub.presence.take_doubted() == ["ann"]
        hub.resync("c1", 1, {"ann", "bob", "dan", "cid"})
        assert hub.presence.take_doubted() == []
        hub.resync("c1", 1, {"ann", "bob", "cid"})
        assert hub.presence.take_doubted() == ["ann"]


async def test_delivered_cursors_are_batched_and_not_repeated(autojump_clock: MockClock) -> None:
    """Heartbeats say the same again and again; the conversation hears what is new, once."""
    async with open_hub() as (hub, host):
        seat(hub, 1, "ann", "c1")
        seat(hub, 2, "bob", "c1")
        hub.delivered("ann", {"c1": 3, "foreign": 9}, 1)
        hub.delivered("ann", {"c1": 5}, 1)
        hub.delivered("bob", {"c1": 4}, 2)
        await trio.sleep(1)
        assert host.told == [("c1", Delivered({"ann": 5, "bob": 4}))]
        hub.delivered("ann", {"c1": 5}, 1)
        hub.delivered("ann", {"c1": 4}, 1)
        await trio.sleep(1)
        assert len(host.told) == 1
        hub.resync("c1", 6, {"ann", "bob"})  # what was told may not have been stored
        hub.delivered("ann", {"c1": 5}, 1)
        await trio.sleep(1)
        assert host.told[1:] == [("c1", Delivered({"ann": 5}))]
        assert hub.watermarks.take() == {}


async def test_what_no_actor_took_is_kept_to_be_stored(autojump_clock: MockClock) -> None:
    """A watermark is a maximum: it may be late, but not lost. And it wakes nobody."""
    async with open_hub() as (hub, host):
        seat(hub, 1, "ann", "c1")
        seat(hub, 2, "bob", "c1", focus=[])
        host.is_asleep = True
        hub.delivered("ann", {"c1": 3}, 1)
        await trio.sleep(1)
        hub.delivered("ann", {"c1": 5}, 1)
        hub.delivered("bob", {"c1": 4}, 2)
        await trio.sleep(1)
        taken = hub.watermarks.take()
        assert taken == {"c1": {"ann": 5, "bob": 4}}
        assert hub.watermarks.take() == {}
        hub.watermarks.put_back("c1", {"ann": 5})
        hub.watermarks.put_back("c1", {"ann": 4})
        assert hub.watermarks.take() == {"c1": {"ann": 5}}
        assert host.told == []
        host.is_asleep = False
        hub.watermarks.tell("c1", {"ann": 5})  # it woke meanwhile
        assert host.told == [("c1", Delivered({"ann": 5}))]
        assert hub.watermarks.take() == {}


async def test_a_cursor_beyond_the_head_does_not_hide_those_that_follow(autojump_clock: MockClock) -> None:
    async with open_hub() as (hub, host):
        seat(hub, 1, "ann", "c1")
        hub.publish("c1", 7, message(7), to=())
        hub.delivered("ann", {"c1": 2**50}, 1)
        await trio.sleep(1)
        hub.publish("c1", 8, message(8), to=())
        hub.delivered("ann", {"c1": 8}, 1)
        await trio.sleep(1)
        assert host.told[1:] == [("c1", Delivered({"ann": 8}))]


async def test_a_resync_sets_right_who_listens() -> None:
    """The actor crashed between a membership's commit and its fan-out."""
    async with open_hub() as (hub, _):
        ann, gone, new = seat(hub, 1, "ann", "c1"), seat(hub, 2, "gone", "c1"), seat(hub, 3, "new")
        hub.resync("c1", 9, {"ann", "new", "offline"})
        for ear in (ann, gone, new):
            assert ear.take() == [events.Resync(conversation_id="c1", head=9)]
        hub.publish("c1", 10, message(10), to=())
        assert [len(ear.take()) for ear in (ann, gone, new)] == [1, 0, 1]
        assert not hub.is_member(2, "c1")
        assert hub.is_member(3, "c1")
        assert hub.head_of("c1") == 10


async def test_a_focus_that_opens_hands_over_the_pending_head(autojump_clock: MockClock) -> None:
    async with open_hub() as (hub, _):
        ear = seat(hub, 1, "ann", "c1", focus=[])
        hub.publish("c1", 4, message(4), to=(), message_count=4)
        hub.set_focus(1, ["c1"])
        (heads,) = ear.take()
        assert isinstance(heads, events.Heads)
        assert heads.items[0].head == 4
        hub.set_focus(1, None)
        await trio.sleep(2)
        assert ear.take() == []


async def test_a_change_of_focus_costs_only_what_it_moves(monkeypatch: pytest.MonkeyPatch) -> None:
    """Who is in 4,000 groups changes the screen with each tap."""
    async with open_hub() as (hub, _):
        names = [f"c{n}" for n in range(200)]
        ear = seat(hub, 1, "ann", *names, focus=["c1", "c2"])
        moved: list[str] = []
        sit = Hub._sit

        def counted(self: Hub, a_seat: object, conversation_id: str) -> None:
            moved.append(conversation_id)
            sit(self, a_seat, conversation_id)  # type: ignore[arg-type]  # the hub's own seat

        monkeypatch.setattr(Hub, "_sit", counted)

        def whole() -> set[str]:
            """The conversations whose messages come whole."""
            for name in names:
                hub.publish(name, 1, message(1, name), to=())
            return {e.conversation_id for e in ear.take() if isinstance(e, events.MessagePosted)}

        hub.set_focus(1, ["c2", "c3", "foreign"])
        assert sorted(moved) == ["c1", "c3"]
        assert whole() == {"c2", "c3"}
        moved.clear()
        hub.set_focus(1, ["c3", "foreign", "c2"])
        assert moved == []
        hub.set_focus(1, None)
        ear.take()
        assert whole() == set(names)
        hub.set_focus(1, ["c7"])
        assert whole() == {"c7"}
        hub.set_focus(1, [])
        assert whole() == set()


async def test_only_the_connections_of_the_ended_log_in_are_closed() -> None:
    async with open_hub() as (hub, _):
        one, two, other = seat(hub, 1, "ann"), seat(hub, 2, "ann"), seat(hub, 3, "bob")
        hub.close_session("ann", "s1")
        assert (one.closed, two.closed, other.closed) == (CloseCode.SESSION_REVOKED, None, None)
        assert hub.connection_count == 3  # each leaves by itself


async def test_a_device_that_connected_again_is_closed_where_it_was() -> None:
    """Its old connection may be half open for a minute; another one of the same user is left alone."""
    async with open_hub() as (hub, _):
        old, other = seat(hub, 1, "ann"), seat(hub, 2, "ann")
        hub.replace_connection("ann", Place("n1", 1, 1))
        hub.replace_connection("bob", Place("n1", 1, 2))
        assert (old.closed, other.closed) == (CloseCode.REPLACED, None)
