"""The noun of notifications: each method is one command that a server would take, and the watch is whole."""

from collections import OrderedDict
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable
from contextlib import asynccontextmanager
from typing import Any, TypeVar, get_args

import msgspec
import pytest
import trio
from hypothesis import given
from hypothesis import strategies as st

import hubbub
from hubbub.api import Pages
from hubbub.notification_watch import CATCH_UP_PAGE, MAX_WAITING, NotificationWatch, Watchers, missed
from hubbub.notifications import Notifications
from protocol import events as e
from protocol import notify_commands as c
from protocol import notify_replies as nr
from protocol.codec import Wire, decode_command, encode_payload
from protocol.commands import Command
from protocol.notify_content import NotifyRequest
from protocol.notify_events import NotificationShown, NotificationsMarked
from protocol.notify_replies import NotificationItem, NotificationPage
from protocol.notify_types import Preferences, QuietHours
from protocol.replies import Reply
from tests.hubbub.peer import Peer, PeerSession, open_peer

ReplyT = TypeVar("ReplyT", bound=msgspec.Struct)
FAST = hubbub.Backoff(first_delay_s=0.001, max_delay_s=0.01)

ITEM = NotificationItem(notification_id=7, type="order", at_ms=1)
DEVICE = nr.PushDevice(device_key="k", channel="webpush", address="…1")
FORECAST = nr.Forecast(at_ms=1, local="", kind="send")
REPLIES: dict[type, Any] = {
    nr.NotificationPage: NotificationPage(items=[ITEM], unread=3),
    nr.Badge: nr.Badge(unread=2),
    nr.PreferencesInfo: nr.PreferencesInfo(preferences=Preferences()),
    nr.PushDevices: nr.PushDevices(items=[DEVICE]),
    nr.Forecasts: nr.Forecasts(items=[FORECAST]),
    nr.NotifyAccepted: nr.NotifyAccepted(request_id="rq"),
    nr.RequestCancelled: nr.RequestCancelled(request_id="rq", state="cancelled", cancelled=2),
}


class Wireless:
    """Takes commands as a server's decoder would, and answers each with a reply of its type."""

    def __init__(self) -> None:
        self.commands: list[Command] = []

    async def ask(self, command: Command, reply_type: type[ReplyT], /) -> ReplyT:
        assert reply_type is type(command).reply
        assert decode_command(encode_payload(command, Wire.JSON_WS), Wire.JSON_WS) == command
        self.commands.append(command)
        reply = REPLIES[reply_type]
        assert isinstance(reply, reply_type)
        return reply

    def noun(self) -> Notifications:
        return Notifications(lambda: 1, self.ask, Watchers(lambda: None))


WISHES = Preferences(quiet_hours=QuietHours(start="22:00", end="07:00"))
REQUEST = NotifyRequest(type="order", user_id="u", text="x", idempotency_key="k")
Call = Callable[[Notifications], Awaitable[Any] | Pages[Any]]
CALLS: list[tuple[Call, Command, Any]] = [
    (
        lambda n: n.page(before=9, limit=5),
        c.ListNotifications(before=9, limit=5),
        REPLIES[nr.NotificationPage],
    ),
    (lambda n: n.list(before=9, unread_only=True), c.ListNotifications(before=9, unread_only=True), [ITEM]),
    (lambda n: n.unread(), c.ListNotifications(limit=1), 3),
    (lambda n: n.mark("read", 7), c.MarkNotifications(mark="read", notification_ids=[7]), 2),
    (
        lambda n: n.mark("dismissed", [7, 8]),
        c.MarkNotifications(mark="dismissed", notification_ids=[7, 8]),
        2,
    ),
    (lambda n: n.mark("seen", up_to=9), c.MarkNotifications(mark="seen", up_to=9), 2),
    (lambda n: n.preferences(), c.GetPreferences(), REPLIES[nr.PreferencesInfo]),
    (lambda n: n.set_preferences(WISHES), c.SetPreferences(preferences=WISHES), REPLIES[nr.PreferencesInfo]),
    (
        lambda n: n.give_consent("ads", source="form", ends_at_ms=5),
        c.SetConsent(purpose="ads", given=True, source="form", ends_at_ms=5),
        REPLIES[nr.PreferencesInfo],
    ),
    (
        lambda n: n.withdraw_consent("ads"),
        c.SetConsent(purpose="ads", given=False),
        REPLIES[nr.PreferencesInfo],
    ),
    (lambda n: n.plan(days=3), c.PlanNotifications(days=3), [FORECAST]),
    (
        lambda n: n.register_push("webpush", "https://x", keys={"auth": "a"}, name="Mine"),
        c.RegisterPush(channel="webpush", address="https://x", keys={"auth": "a"}, name="Mine"),
        [DEVICE],
    ),
    (lambda n: n.unregister_push("k"), c.UnregisterPush(device_key="k"), [DEVICE]),
    (lambda n: n.devices(), c.ListPush(), [DEVICE]),
    (
        lambda n: n.cancel("rq", app_key="a", secret="s"),
        c.CancelRequest(app_key="a", secret="s", request_id="rq"),
        REPLIES[nr.RequestCancelled],
    ),
    (
        lambda n: n.notify(REQUEST, app_key="a", secret="s"),
        c.Notify(app_key="a", secret="s", request=REQUEST),
        REPLIES[nr.NotifyAccepted],
    ),
]


@pytest.mark.parametrize(("call", "command", "answer"), CALLS)
async def test_each_method_is_a_command_that_servers_take(call: Call, command: Command, answer: Any) -> None:
    """Typed methods instead of dictionaries: what they send is what the protocol says."""
    wireless = Wireless()
    made = call(wireless.noun())
    found = [item async for item in made] if isinstance(made, Pages) else await made
    assert found == answer
    assert wireless.commands == [msgspec.structs.replace(command, id=1)]


def test_all_commands_of_notifications_have_a_method() -> None:
    """A new command comes with its method."""
    covered = {type(command) for _, command, _ in CALLS}
    assert covered == set(get_args(c.NotifyCommand))


async def test_many_ids_are_marked_in_commands_that_servers_take() -> None:
    """A client that was away for long reads hundreds at once."""
    wireless = Wireless()
    assert await wireless.noun().mark("read", range(450)) == 2
    sizes = [len(one.notification_ids) for one in wireless.commands if isinstance(one, c.MarkNotifications)]
    assert sizes == [200, 200, 50]
    with pytest.raises(ValueError, match="name"):
        await wireless.noun().mark("read")


# -- the watch ----------------------------------------------------------------------------------------


class Centre:
    """The notification centre of a peer's one user."""

    def __init__(self, peer: Peer) -> None:
        self.peer = peer
        self.items: dict[int, NotificationItem] = {}
        self.reads = 0
        peer.on_command = self.answer

    @property
    def unread(self) -> int:
        return sum(not item.read for item in self.items.values())

    def answer(self, _session: PeerSession, command: Command) -> Reply | None:
        if isinstance(command, c.Notify):
            self.put(1, command.request.title)
            return nr.NotifyAccepted(id=command.id, request_id=command.request.idempotency_key)
        if not isinstance(command, c.ListNotifications):
            return None
        self.reads += 1
        ids = [one for one in sorted(self.items, reverse=True) if not command.before or one < command.before]
        shown = [self.items[one] for one in ids[: command.limit]]
        return NotificationPage(id=command.id, items=shown, unread=self.unread, more=len(ids) > command.limit)

    def put(self, notification_id: int, title: str = "", **fields: Any) -> NotificationShown:
        item = NotificationItem(notification_id=notification_id, type="order", at_ms=1, title=title, **fields)
        self.items[notification_id] = item
        return NotificationShown(item=item, unread=self.unread)

    def read(self, *ids: int) -> NotificationsMarked:
        for one in ids:
            self.items[one] = msgspec.structs.replace(self.items[one], read=True, seen=True)
        return NotificationsMarked(mark="read", notification_ids=list(ids), unread=self.unread)


@asynccontextmanager
async def watching(**more: Any) -> AsyncIterator[tuple[Centre, hubbub.Client, NotificationWatch]]:
    """A centre with two notifications, and a client that watches it."""
    async with open_peer() as peer:
        centre = Centre(peer)
        centre.put(1)
        centre.put(2)
        with trio.fail_after(20):
            async with hubbub.connect(peer.tcp_url, token="token-ann", backoff=FAST, **more) as client:
                yield centre, client, await client.notifications.watch().start()


async def test_what_happens_after_the_start_is_told_and_the_badge_follows() -> None:
    """Who draws a bell: the badge first, then each change, also those that other devices make."""
    async with watching() as (centre, client, watch):
        assert watch.unread == 2
        await centre.peer.tell(centre.put(3, "hello"))
        event = await anext(watch)
        assert isinstance(event, NotificationShown)
        assert (event.item.title, watch.unread) == ("hello", 3)
        await centre.peer.tell(centre.read(1, 3))
        assert await anext(watch) == NotificationsMarked(mark="read", notification_ids=[1, 3], unread=1)
        assert watch.unread == 1
        events = client.events()
        await centre.peer.tell(centre.put(4))
        assert isinstance(await anext(events), NotificationShown)  # beside the watch
        assert isinstance(await anext(watch), NotificationShown)


@pytest.mark.parametrize("how", ["resync", "cut"])
async def test_what_was_missed_is_read_and_told_once(how: str) -> None:
    """A tunnel, a full buffer at the server: nothing is lost, and nothing told twice."""
    async with watching() as (centre, client, watch):
        await centre.peer.tell(centre.put(3, "heard"))
        await anext(watch)
        centre.read(2)
        del centre.items[1]
        centre.put(3, "heard, and more", count=2)
        for number in range(4, 4 + CATCH_UP_PAGE + 5):
            centre.put(number)
        if how == "resync":
            await centre.peer.tell(e.Resync(conversation_id="notifications"))
        else:
            centre.peer.cut_all()
        assert await anext(watch) == NotificationsMarked(
            mark="dismissed", notification_ids=[1], unread=centre.unread
        )
        assert await anext(watch) == NotificationsMarked(
            mark="read", notification_ids=[2], unread=centre.unread
        )
        again = await anext(watch)
        assert isinstance(again, NotificationShown)
        assert (again.item.notification_id, again.item.count) == (3, 2)
        told = []
        for _ in range(CATCH_UP_PAGE + 5):
            event = await anext(watch)
            assert isinstance(event, NotificationShown)
            told.append(event.item.notification_id)
        assert told == list(range(4, 4 + CATCH_UP_PAGE + 5))
        await centre.peer.tell(centre.put(500, "last"))
        last = await anext(watch)
        assert isinstance(last, NotificationShown)
        assert last.item.title == "last"
        assert client.is_connected


async def test_a_watch_that_nobody_takes_from_stays_small_and_catches_up() -> None:
    """A program that is busy elsewhere must not fill its memory."""
    async with watching() as (centre, _client, watch):
        for number in range(3, 3 + MAX_WAITING + 2):
            watch.take(centre.put(number))
        told = []
        for _ in range(3, 3 + CATCH_UP_PAGE):
            event = await anext(watch)
            assert isinstance(event, NotificationShown)
            told.append(event.item.notification_id)
        assert told == sorted(told)
        assert centre.reads > 1


async def test_a_watch_ends_with_its_client_and_one_that_is_dropped_leaves_nothing() -> None:
    """No task and no list goes on behind a loop that was left."""
    async with watching() as (_centre, client, watch):
        client.notifications.watch()
        assert len(client._intake.notifications._watches) == 1
    with pytest.raises(hubbub.ClientClosed):
        await anext(watch)


async def test_a_bot_notifies_once_however_often_the_connection_breaks() -> None:
    """The answer was lost, the command came again: the key is the same."""
    async with open_peer() as peer:
        centre = Centre(peer)
        keys: list[str] = []

        def lose_the_first(session: PeerSession, command: Command, reply: Reply) -> tuple[Reply, ...]:
            if isinstance(command, c.Notify):
                keys.append(command.request.idempotency_key)
                if len(keys) == 1:
                    session.scope.cancel()
                    return ()
            return (reply,)

        peer.on_reply = lose_the_first
        bot = hubbub.Bot(peer.tcp_url, token="token-ann", backoff=FAST)
        done: list[nr.NotifyAccepted] = []

        @bot.on_start
        async def start(bot: hubbub.Bot) -> None:
            done.append(await bot.notify("order", ["u1", "u2"], title="Sent", url="#feed"))
            bot.stop()

        with trio.fail_after(20):
            await bot.serve()
        assert len(keys) == 2
        assert len(set(keys)) == 1
        assert done[0].request_id == keys[0]
        assert centre.items[1].title == "Sent"
        asked = [one.request for one in peer.commands if isinstance(one, c.Notify)]
        assert (asked[0].user_ids, asked[0].url) == (["u1", "u2"], "#feed")


NOTES = st.lists(
    st.builds(
        NotificationItem,
        notification_id=st.integers(1, 12),
        type=st.just("t"),
        at_ms=st.just(1),
        title=st.sampled_from(["a", "b"]),
        read=st.booleans(),
        seen=st.booleans(),
    ),
    unique_by=lambda item: item.notification_id,
)


@given(before=NOTES, after=NOTES)
def test_events_of_what_was_missed_lead_to_what_is_there(
    before: list[NotificationItem], after: list[NotificationItem]
) -> None:
    """Whoever applies them to what it had has what the server has."""
    known = OrderedDict((item.notification_id, item) for item in before)
    after = sorted(after, key=lambda item: -item.notification_id)
    held = dict(known)
    for event in missed(known, after, 0, 0):
        if isinstance(event, NotificationShown):
            held[event.item.notification_id] = event.item
            continue
        for one in event.notification_ids:
            if event.mark == "dismissed":
                del held[one]
            elif event.mark != "seen":
                held[one] = msgspec.structs.replace(held[one], read=event.mark == "read")

    def shown(items: Iterable[NotificationItem]) -> dict[int, tuple[str, bool]]:
        return {item.notification_id: (item.title, item.read) for item in items}

    assert shown(held.values()) == shown(after)
