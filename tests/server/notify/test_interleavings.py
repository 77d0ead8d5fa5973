"""What happens while a delivery is under way, or waits: failures, kills, changed wishes, early receipts."""

import datetime
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path

import msgspec
import pytest
import trio
import trio.testing

from actors.messages import Ask
from actors.notify import open_room, timekeeper
from actors.notify.address import notify_address, owner_of
from actors.notify.messages import DeliveryTold, EraseUser
from actors.reply import ReplySlot
from protocol import notify_commands
from protocol.commands import Command
from protocol.errors import HubbubError, Refused, StorageUnavailable
from protocol.notify_content import NotifyRequest
from protocol.notify_records import DeadDelivery, DeliveryRow, ErasureRow, NotifyDeviceRow
from protocol.notify_replies import Badge, NotifyAccepted
from protocol.notify_types import AppRules, Preferences, QuietHours, TypePreference, TypeRule
from server.clock import wall_clock_ms
from server.sandbox.faults import Fault
from server.sandbox.sandbox import Sandbox, SandboxOptions, open_sandbox
from storage.notify_reads import SqliteNotifyReads
from tests.server.notify.notify_world import APP, Clock, Notifier, open_notifier
from tests.server.world import Device

PHONE = "+4915112345678"


class Scene:
    """A user with one iPhone, whose app has one account at each provider."""

    def __init__(self, notifier: Notifier, sandbox: Sandbox, ann: Device) -> None:
        self.notifier = notifier
        self.sandbox = sandbox
        self.ann = ann
        self.user_id = ann.user_id

    async def send(self, text: str = "x", **more: object) -> int:
        done = await self.notifier.notify(
            NotifyRequest(type="t", user_id=self.user_id, text=text, **more)  # type: ignore[arg-type]
        )
        return done.items[0].notification_id

    async def under_way(self, fault: Fault) -> int:
        """Send one whose answer a fault holds: the attempt is stored, and the provider has the request."""
        self.sandbox.inject(fault)
        notification_id = await self.send("secret")
        await self.until(notification_id, lambda row: row.state == "sending")
        await self.sandbox.wait_held(fault.channel)
        return notification_id

    async def until(self, notification_id: int, test: Callable[[DeliveryRow], bool]) -> DeliveryRow:
        """Wait until a delivery is as it should be, as the store sees it."""
        while True:
            row = await self.delivery(notification_id)
            if test(row):
                return row
            await trio.sleep(0.005)

    async def delivery(self, notification_id: int) -> DeliveryRow:
        await self.notifier.world.store.barrier()
        (row,) = await self.notifier.world.store.notify.deliveries(notification_id)
        return row

    async def closed(self, notification_id: int) -> DeliveryRow:
        """Wait until a delivery is concluded."""
        return await self.until(notification_id, lambda row: not row.is_open and row.concluded_at_ms > 0)

    async def do(self, command: Command) -> object:
        """As the user, who is not connected, from another device."""
        ask = Ask(self.user_id, APP, command)
        return await self.notifier.world.core.router.ask(notify_address(self.user_id), ask, timeout_s=5)

    async def erase(self) -> None:
        message = EraseUser(self.user_id, APP)
        await self.notifier.world.core.router.ask(notify_address(self.user_id), message, timeout_s=5)

    async def told(self, notification_id: int, state: str, *, action: str = "", app_id: str = APP) -> None:
        message = DeliveryTold(notification_id, 0, state, state, action, app_id)
        await self.notifier.world.core.router.ask(owner_of(notification_id), message, timeout_s=5)

    async def calm(self) -> None:
        """Wait until the channels have nothing in hand and nothing that waits."""
        channels = self.notifier.core.channels.channels.values()
        while any(channel.in_hand or channel.depth for channel in channels):  # noqa: ASYNC110 - they tell nobody
            await trio.sleep(0.01)
        await self.notifier.world.store.barrier()


@asynccontextmanager
async def open_scene(
    directory: Path,
    sandbox: Sandbox,
    *,
    is_new: bool = True,
    phone: bool = False,
    clock: Callable[[], int] = wall_clock_ms,
    **rule: object,
) -> AsyncIterator[Scene]:
    async with open_notifier(directory, sandbox, is_new=is_new, clock=clock) as notifier:
        ann = await notifier.world.person("ann")
        if is_new:
            for name in ("vonage", "apns_development"):  # one account each, so that nobody steps in
                await notifier.core.desk.remove_provider(APP, name)
            made = TypeRule(name="t", **{"channels": ["apns"], "dedup_s": 0, **rule})  # type: ignore[arg-type]
            await notifier.core.desk.put_type(APP, made)
            await notifier.has_apns(ann, 1)
            if phone:
                await ann.do(notify_commands.RegisterPush(channel="sms", address=PHONE))
        ann.disconnect()
        yield Scene(notifier, sandbox, ann)


@contextmanager
def failing_once(monkeypatch: pytest.MonkeyPatch, method: str) -> Iterator[list[int]]:
    """Let one read of the store fail; yields how often it was called."""
    real = getattr(SqliteNotifyReads, method)
    calls: list[int] = []

    async def once(self: SqliteNotifyReads, *args: object, **kwargs: object) -> object:
        calls.append(1)
        if len(calls) == 1:
            raise StorageUnavailable("busy")
        return await real(self, *args, **kwargs)

    with monkeypatch.context() as patch:
        patch.setattr(SqliteNotifyReads, method, once)
        yield calls


SMALL = 40


@pytest.fixture
def small_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    """Few open deliveries fit into memory, and what spilled is looked for often."""
    monkeypatch.setattr(open_room, "MAX_OPEN", SMALL)
    monkeypatch.setattr(open_room, "MIN_OF_LINE", 2)
    monkeypatch.setattr(timekeeper, "TICK_S", 0.1)


# -- the store fails --------------------------------------------------------------------------------


async def test_a_decision_that_is_not_stored_gives_its_hands_back(tmp_path: Path) -> None:
    """A channel has few hands: one bad second of the store must not take them for ever."""
    async with open_sandbox() as sandbox, open_scene(tmp_path, sandbox, is_capped=False) as scene:
        flaky = scene.notifier.world.flaky
        flaky.failing = "n:"
        flaky.failures.append(StorageUnavailable("disk"))
        codes: list[str] = []

        async def one(number: int) -> None:
            try:
                await scene.send(f"y{number}")
            except HubbubError as error:
                codes.append(error.code)

        with trio.move_on_after(5):
            async with trio.open_nursery() as nursery:
                for number in range(50):
                    nursery.start_soon(one, number)
        assert "storage_unavailable" in codes, codes
        await scene.calm()
        assert scene.notifier.core.channels.channels["apns"].in_hand == 0
        await scene.closed(await scene.send("after"))


async def test_a_repeated_key_opens_no_group_that_others_join(tmp_path: Path) -> None:
    """Nothing of a repetition is stored, so what joined it would be lost."""
    clock = Clock()
    async with (
        open_sandbox(options=SandboxOptions(now_ms=clock)) as sandbox,
        open_scene(tmp_path, sandbox, clock=clock, batch_window_s=60) as scene,
    ):
        opener = await scene.send("first", subject="s", idempotency_key="K")
        clock.pass_by(scene.notifier, 61_000)
        await scene.notifier.settled(opener)
        slots = []
        for text, key in (("first", "K"), ("second", "K2")):
            request = NotifyRequest(
                type="t", user_id=scene.user_id, text=text, subject="s", idempotency_key=key
            )
            slots.append(slot := ReplySlot())
            assert scene.notifier.core.entry.notify_nowait(APP, request, slot)
        answers = [await slot.wait() for slot in slots]
        first, second = (answer for answer in answers if isinstance(answer, NotifyAccepted))
        assert (first.repeated, second.repeated) == (True, False)
        assert second.items[0].state == "held"
        clock.pass_by(scene.notifier, 61_000)
        await scene.notifier.settled(second.items[0].notification_id)
        assert sandbox.count("apns") == 2


async def test_a_repeated_key_makes_no_duplicate_of_what_is_new(tmp_path: Path) -> None:
    """The same words under another key, when the first are old enough: they are sent."""
    clock = Clock()
    async with (
        open_sandbox(options=SandboxOptions(now_ms=clock)) as sandbox,
        open_scene(tmp_path, sandbox, clock=clock, dedup_s=60) as scene,
    ):
        await scene.notifier.settled(await scene.send("same", idempotency_key="K"))
        clock.pass_by(scene.notifier, 61_000)
        slots = []
        for key in ("K", "K2"):
            request = NotifyRequest(type="t", user_id=scene.user_id, text="same", idempotency_key=key)
            slots.append(slot := ReplySlot())
            assert scene.notifier.core.entry.notify_nowait(APP, request, slot)
        answers = [await slot.wait() for slot in slots]
        assert [answer.repeated for answer in answers if isinstance(answer, NotifyAccepted)] == [True, False]
        await sandbox.wait_for("apns", 2)


# -- erased, and consent that ends --------------------------------------------------------------------


@pytest.mark.parametrize(("status", "code"), [(503, ""), (400, "PayloadEmpty")])
async def test_what_is_erased_under_way_is_neither_tried_again_nor_kept(
    tmp_path: Path, status: int, code: str
) -> None:
    """After the receipt of an erasure nothing of it is sent, and nothing is found anywhere."""
    async with open_sandbox() as sandbox, open_scene(tmp_path, sandbox) as scene:
        notification_id = await scene.under_way(
            Fault(channel="apns", status=status, code=code, holds=True, times=1)
        )
        await scene.erase()
        sandbox.release()
        await scene.closed(notification_id)
        await scene.calm()
        assert sandbox.count("apns") == 0
        assert (await scene.notifier.row(notification_id)).state == "erased"
        assert await scene.notifier.world.store.find(DeadDelivery, {"app_id": APP}) == []
        assert (await scene.delivery(notification_id)).outgoing == ""


async def test_an_erasure_that_failed_is_gone_on_with(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Withdrawn is withdrawn: one bad read must not leave the data where it is."""
    async with open_sandbox() as sandbox, open_scene(tmp_path, sandbox, purpose="ads") as scene:
        await scene.do(notify_commands.SetConsent(purpose="ads", given=True, source="form"))
        notification_id = await scene.send("Secret sale")
        await scene.closed(notification_id)
        with failing_once(monkeypatch, "of_types"), pytest.raises(StorageUnavailable):
            await scene.do(notify_commands.SetConsent(purpose="ads", given=False))
        refused = await scene.notifier.notify(NotifyRequest(type="t", user_id=scene.user_id, text="More"))
        assert refused.items[0].state == "dropped"
        await scene.notifier.until_state(notification_id, "erased")
        await scene.do(notify_commands.SetConsent(purpose="ads", given=False))
        (receipt,) = await scene.notifier.world.store.find(ErasureRow, {"app_id": APP})
        assert (receipt.purpose, receipt.reason) == ("ads", "withdrawn")


async def test_an_erasure_goes_on_after_a_kill(tmp_path: Path) -> None:
    """From the moment at which a consent was stored as withdrawn, its data goes, whatever happens."""
    async with open_sandbox() as sandbox:
        async with open_scene(tmp_path, sandbox, purpose="ads") as scene:
            await scene.do(notify_commands.SetConsent(purpose="ads", given=True, source="form"))
            notification_id = await scene.send("Secret sale")
            await scene.closed(notification_id)
            await scene.calm()
            flaky = scene.notifier.world.flaky
            unplugged = flaky.unplug_after(1)
            async with trio.open_nursery() as nursery:

                async def withdraw() -> None:
                    with pytest.raises(HubbubError):
                        await scene.do(notify_commands.SetConsent(purpose="ads", given=False))

                nursery.start_soon(withdraw)
                await unplugged.wait()
                flaky.let_go()
        async with open_scene(tmp_path, sandbox, is_new=False) as scene:
            row = await scene.notifier.until_state(notification_id, "erased")
            assert row.text == ""


async def test_a_consent_given_again_while_its_end_is_noticed_holds(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Who renews in the last second has renewed."""
    real = SqliteNotifyReads.ended_consents
    is_read, go_on = trio.Event(), trio.Event()

    async def slow(self: SqliteNotifyReads, *args: object, **kwargs: object) -> object:
        found = await real(self, *args, **kwargs)  # type: ignore[arg-type]
        if found and not is_read.is_set():
            is_read.set()
            await go_on.wait()
        return found

    monkeypatch.setattr(SqliteNotifyReads, "ended_consents", slow)
    clock = Clock()
    async with open_sandbox() as sandbox, open_scene(tmp_path, sandbox, purpose="ads", clock=clock) as scene:
        consent = notify_commands.SetConsent(purpose="ads", given=True, source="form")
        await scene.do(msgspec.structs.replace(consent, ends_at_ms=clock() + 60_000))
        kept = await scene.send("sale")
        clock.pass_by(scene.notifier, 61_000)
        await is_read.wait()
        await scene.do(consent)
        go_on.set()
        await trio.testing.wait_all_tasks_blocked(0.05)  # the store's thread answers meanwhile
        done = await scene.notifier.notify(NotifyRequest(type="t", user_id=scene.user_id, text="ad"))
        assert done.items[0].state == "open"
        assert (await scene.notifier.row(kept)).state != "erased"


async def test_a_digest_that_tells_of_erased_ones_is_erased_with_them(tmp_path: Path) -> None:
    """A digest holds a line of each: the line is data of the purpose too."""
    clock = Clock()
    async with (
        open_sandbox(options=SandboxOptions(now_ms=clock)) as sandbox,
        open_scene(tmp_path, sandbox, purpose="ads", clock=clock) as scene,
    ):
        await scene.notifier.core.desk.put_rules(APP, AppRules(cap_per_hour=1, over_cap="digest"))
        await scene.do(notify_commands.SetConsent(purpose="ads", given=True, source="form"))
        await scene.closed(await scene.send("One"))
        digest_id = (await scene.notifier.row(await scene.send("Secret sale"))).into_id
        assert digest_id
        clock.pass_by(scene.notifier, 2 * 3_600_000)
        digest = await scene.notifier.settled(digest_id)
        assert "Secret sale" in str(sandbox.deliveries("apns")[-1])
        await scene.do(notify_commands.SetConsent(purpose="ads", given=False))
        digest = await scene.notifier.row(digest_id)
        assert digest.state == "erased"


# -- wishes that change meanwhile -------------------------------------------------------------------

NO_PUSH = notify_commands.SetPreferences(preferences=Preferences(channels={"apns": False}))


async def test_who_opts_out_during_an_attempt_gets_no_other(tmp_path: Path) -> None:
    """A provider's bad second is no reason to tell somebody who has said no."""
    async with open_sandbox() as sandbox, open_scene(tmp_path, sandbox) as scene:
        notification_id = await scene.under_way(Fault(channel="apns", status=503, holds=True, times=1))
        await scene.do(NO_PUSH)
        sandbox.release()
        await scene.closed(notification_id)
        assert sandbox.count("apns") == 0
        rules = await scene.notifier.rules(notification_id)
        assert ("preferences", "drop", "channels") in rules


async def test_who_switches_a_type_off_during_an_attempt_gets_no_other(tmp_path: Path) -> None:
    """Off is off, also for who had once said yes to the channel."""
    async with open_sandbox() as sandbox, open_scene(tmp_path, sandbox) as scene:
        notification_id = await scene.under_way(Fault(channel="apns", status=503, holds=True, times=1))
        off = Preferences(types={"t": TypePreference(channels={"apns": True}, frequency="off")})
        await scene.do(notify_commands.SetPreferences(preferences=off))
        sandbox.release()
        await scene.closed(notification_id)
        assert sandbox.count("apns") == 0


async def test_a_phone_that_is_sold_during_an_attempt_gets_no_other(tmp_path: Path) -> None:
    """The next one who has it must not read the first one's messages."""
    async with open_sandbox() as sandbox, open_scene(tmp_path, sandbox) as scene:
        notification_id = await scene.under_way(Fault(channel="apns", status=503, holds=True, times=1))
        bob = await scene.notifier.world.person("bob")
        await scene.notifier.has_apns(bob, 1)
        sandbox.release()
        await scene.closed(notification_id)
        assert sandbox.count("apns") == 0


async def test_a_retry_waits_for_the_end_of_quiet_hours(tmp_path: Path) -> None:
    """What is refused in the evening does not ring at night."""
    async with open_sandbox() as sandbox, open_scene(tmp_path, sandbox) as scene:
        notification_id = await scene.under_way(Fault(channel="apns", status=503, holds=True, times=1))
        await scene.do(notify_commands.SetPreferences(preferences=Preferences(quiet_hours=quiet_now())))
        sandbox.release()
        row = await scene.until(notification_id, lambda row: row.state == "queued")
        assert row.next_at_ms > wall_clock_ms() + 3_600_000


def quiet_now() -> QuietHours:
    """From an hour ago until in two hours, by the clock of UTC."""
    now = datetime.datetime.now(datetime.UTC)
    hour = datetime.timedelta(hours=1)
    return QuietHours(start=f"{now - hour:%H:%M}", end=f"{now + 2 * hour:%H:%M}")


async def test_a_redrive_goes_by_what_the_user_wants_now(tmp_path: Path) -> None:
    """Between a dead letter and its redrive there may be weeks."""
    async with open_sandbox() as sandbox, open_scene(tmp_path, sandbox) as scene:
        sandbox.inject(Fault(channel="apns", status=400, code="PayloadEmpty", times=1))
        notification_id = await scene.send("for Ann alone")
        await scene.closed(notification_id)
        await scene.do(NO_PUSH)
        await scene.notifier.redrive(notification_id, 0)
        await scene.do(notify_commands.SetPreferences(preferences=Preferences()))
        bob = await scene.notifier.world.person("bob")
        await scene.notifier.has_apns(bob, 1)
        await scene.notifier.redrive(notification_id, 0)
        await scene.calm()
        assert sandbox.count("apns") == 0
        rules = await scene.notifier.rules(notification_id)
        assert ("preferences", "drop", "channels") in rules
        assert ("choose", "drop", "address_gone") in rules
        await scene.notifier.has_apns(scene.ann, 1)
        await scene.notifier.redrive(notification_id, 0)
        await sandbox.wait_for("apns", 1)


async def test_a_link_followed_while_its_user_is_read_leaves_the_badge_exact(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Else the app's icon would count for hours what was opened long ago."""
    async with open_sandbox() as sandbox:
        async with open_scene(tmp_path, sandbox, channels=["inapp"]) as scene:
            first = await scene.send("one")
        real = SqliteNotifyReads.users
        is_read, go_on = trio.Event(), trio.Event()

        async def slow(self: SqliteNotifyReads, *args: object, **kwargs: object) -> object:
            found = await real(self, *args, **kwargs)  # type: ignore[arg-type]
            is_read.set()
            await go_on.wait()
            return found

        async with open_scene(tmp_path, sandbox, is_new=False) as scene:
            async with trio.open_nursery() as nursery:
                with monkeypatch.context() as patch:
                    patch.setattr(SqliteNotifyReads, "users", slow)
                    nursery.start_soon(scene.send, "two")
                    await is_read.wait()
                    nursery.start_soon(scene.notifier.mark, first, "clicked")
                    await trio.testing.wait_all_tasks_blocked(0.05)  # the store's thread answers meanwhile
                    go_on.set()
            badge = await scene.do(notify_commands.MarkNotifications(mark="read"))
            assert badge == Badge(unread=1)


# -- fallbacks --------------------------------------------------------------------------------------

GONE = Fault(channel="apns", status=410, times=1, timestamp_ms=4_000_000_000_000)


async def test_a_fallback_is_gone_on_with_after_a_failed_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A one-time code that the phone did not take comes by SMS, and not only if all goes well."""
    async with (
        open_sandbox() as sandbox,
        open_scene(tmp_path, sandbox, phone=True, fallback=["sms"], is_security=True) as scene,
    ):
        sandbox.inject(GONE)
        with failing_once(monkeypatch, "deliveries") as calls:
            await scene.send("code 4711")
            await sandbox.wait_for("twilio", 1)
        assert len(calls) >= 2


async def test_a_fallback_is_gone_on_with_after_a_kill(tmp_path: Path) -> None:
    """The refusal and what follows on it are one append."""
    async with open_sandbox() as sandbox:
        async with open_scene(tmp_path, sandbox, phone=True, fallback=["sms"], is_security=True) as scene:
            notification_id = await scene.under_way(
                Fault(channel="apns", status=410, times=1, timestamp_ms=4_000_000_000_000, holds=True)
            )
            flaky = scene.notifier.world.flaky
            unplugged = flaky.unplug_after(1)  # the refusal
            sandbox.release()
            await unplugged.wait()
            assert sandbox.count("twilio") == 0
            flaky.let_go()
        async with open_scene(tmp_path, sandbox, is_new=False) as scene:
            await sandbox.wait_for("twilio", 1)
            await scene.notifier.settled(notification_id)
            assert sandbox.count("twilio") == 1


async def test_a_fallback_waits_for_the_end_of_quiet_hours(tmp_path: Path) -> None:
    """It is another message at another moment, and asked for by the same rules."""
    async with (
        open_sandbox() as sandbox,
        open_scene(tmp_path, sandbox, phone=True, fallback=["sms"]) as scene,
    ):
        notification_id = await scene.under_way(
            Fault(channel="apns", status=410, times=1, timestamp_ms=4_000_000_000_000, holds=True)
        )
        await scene.do(notify_commands.SetPreferences(preferences=Preferences(quiet_hours=quiet_now())))
        sandbox.release()
        later_ms = wall_clock_ms() + 3_600_000
        while True:
            row = await scene.notifier.row(notification_id)
            if row.due_at_ms >= later_ms:
                break
            await trio.sleep(0.01)
        assert (row.state, row.is_fallback) == ("held", True)
        assert sandbox.count("twilio") == 0


# -- receipts ---------------------------------------------------------------------------------------


async def test_a_receipt_before_the_answer_ends_the_delivery(tmp_path: Path) -> None:
    """Twilio's callback may overtake its own answer."""
    async with (
        open_sandbox() as sandbox,
        open_scene(tmp_path, sandbox, phone=True, channels=["sms"]) as scene,
    ):
        notification_id = await scene.under_way(Fault(channel="twilio", holds=True, times=1))
        await scene.told(notification_id, "confirmed")
        sandbox.release()
        await scene.calm()
        delivery = await scene.delivery(notification_id)
        assert (delivery.state, delivery.is_open, delivery.outgoing) == ("confirmed", False, "")
        row = await scene.notifier.row(notification_id)
        assert row.state == "done"
        assert row.sent_at_ms > 0
        assert row.confirmed_at_ms > 0


async def test_undelivered_before_the_answer_goes_by_the_next_account(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Which of the two the network brings first must not decide whether a code arrives."""
    async with (
        open_sandbox() as sandbox,
        open_scene(tmp_path, sandbox, phone=True, channels=["sms"]) as scene,
    ):
        await scene.notifier.core.desk.put_provider(APP, "vonage", sandbox.configs().vonage, position=5)
        notification_id = await scene.under_way(Fault(channel="twilio", holds=True, times=1))
        told = DeliveryTold(notification_id, 0, "refused", "30008", "failover", APP, "twilio")
        channel = scene.notifier.core.channels.channels["sms"]
        with monkeypatch.context() as patch:
            patch.setattr(channel, "_free_for_all", 0)  # so that the next attempt waits
            for _ in range(2):  # providers repeat themselves
                await scene.notifier.world.core.router.ask(owner_of(notification_id), told, timeout_s=5)
            assert (await scene.delivery(notification_id)).state == "sending"
            sandbox.release()
            await scene.until(notification_id, lambda row: row.state == "queued")
            await scene.notifier.world.core.router.ask(owner_of(notification_id), told, timeout_s=5)
        channel.left(())
        await sandbox.wait_for("vonage", 1)
        row = await scene.closed(notification_id)
        assert (row.state, row.provider_id, row.attempt) == ("accepted", "vonage", 2)
        assert sandbox.count("vonage") == 1
        rules = await scene.notifier.rules(notification_id)
        assert ("told", "refused", "30008") in rules
        assert ("result", "refused", "30008") in rules
        told = DeliveryTold(notification_id, 0, "refused", "5", "failover", APP, "vonage")
        await scene.notifier.world.core.router.ask(owner_of(notification_id), told, timeout_s=5)
        assert (await scene.delivery(notification_id)).state == "refused"


async def test_a_receipt_before_a_kill_is_no_second_message(tmp_path: Path) -> None:
    """What the provider has confirmed is not sent again, although its answer was never heard."""
    async with open_sandbox() as sandbox:
        async with open_scene(tmp_path, sandbox, phone=True, channels=["sms"], may_double=True) as scene:
            notification_id = await scene.under_way(Fault(channel="twilio", holds=True, times=1))
            await scene.told(notification_id, "confirmed")
            flaky = scene.notifier.world.flaky
            flaky.unplug_after(0)
            flaky.let_go()
            sandbox.release()
        async with open_scene(tmp_path, sandbox, is_new=False) as scene:
            await scene.notifier.settled(notification_id)
            await scene.calm()
            assert (await scene.delivery(notification_id)).state == "confirmed"
            assert sandbox.count("twilio") == 1


async def test_a_receipt_stops_the_retry_of_what_was_unknown(tmp_path: Path) -> None:
    """The answer was lost, another attempt waits, and then the provider tells that it was delivered."""
    async with (
        open_sandbox() as sandbox,
        open_scene(tmp_path, sandbox, phone=True, channels=["sms"], may_double=True) as scene,
    ):
        sandbox.inject(Fault(channel="twilio", drop_after_accept=True, times=1))
        sandbox.inject(Fault(channel="twilio", holds=True))
        notification_id = await scene.send("4711")
        await scene.notifier.until_stat("retried", 1)
        await scene.told(notification_id, "confirmed")
        sandbox.release()
        await scene.calm()
        assert (await scene.delivery(notification_id)).state == "confirmed"
        assert (await scene.notifier.row(notification_id)).state == "done"


async def test_an_app_tells_of_its_own_deliveries_alone(tmp_path: Path) -> None:
    """Webhooks are signed with a key that an app sets itself."""
    async with (
        open_sandbox() as sandbox,
        open_scene(tmp_path, sandbox, phone=True, channels=["sms"]) as scene,
    ):
        notification_id = await scene.send("x")
        await scene.closed(notification_id)
        with pytest.raises(Refused, match="notification_not_found"):
            await scene.told(notification_id, "complained", action="suppress", app_id="evil")
        assert (await scene.delivery(notification_id)).state == "accepted"
        (device,) = await scene.notifier.world.store.find(
            NotifyDeviceRow, {"user_id": scene.user_id, "channel": "sms"}
        )
        assert device.retired_at_ms == 0


async def test_a_number_that_was_registered_again_is_not_retired_by_an_old_receipt(tmp_path: Path) -> None:
    """Receipts may be hours late."""
    async with (
        open_sandbox() as sandbox,
        open_scene(tmp_path, sandbox, phone=True, channels=["sms"]) as scene,
    ):
        notification_id = await scene.send("x")
        await scene.closed(notification_id)
        await scene.do(notify_commands.RegisterPush(channel="sms", address=PHONE))
        await scene.told(notification_id, "refused", action="retire")
        assert ("retire", "pass", "registered_again") in await scene.notifier.rules(notification_id)
        await scene.closed(await scene.send("y"))
        assert sandbox.count("twilio") == 2


async def test_what_was_under_way_at_a_kill_keeps_its_provider(tmp_path: Path) -> None:
    """Else the dashboard could not say whose deliveries are unknown."""
    async with open_sandbox() as sandbox:
        async with open_scene(tmp_path, sandbox) as scene:
            notification_id = await scene.under_way(Fault(channel="apns", holds=True, times=1))
            flaky = scene.notifier.world.flaky
            flaky.unplug_after(0)
            flaky.let_go()
            sandbox.release()
        async with open_scene(tmp_path, sandbox, is_new=False) as scene:
            row = await scene.closed(notification_id)
            assert (row.state, row.code, row.provider_id) == ("unknown", "node_ended", "apns")


# -- more than fits into memory -----------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.usefixtures("small_memory")
@pytest.mark.parametrize("may_double", [False, True])
async def test_what_spills_is_sent_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, may_double: bool
) -> None:
    """While it is read, it goes on being decided, sent and concluded."""
    real = SqliteNotifyReads.open_deliveries
    read_counts: list[int] = []

    async def slow(self: SqliteNotifyReads, *args: object, **kwargs: object) -> object:
        rows = await real(self, *args, **kwargs)  # type: ignore[arg-type]
        read_counts.append(len(rows))
        await trio.sleep(0.15)  # what 20,000 rows take
        return rows

    monkeypatch.setattr(SqliteNotifyReads, "open_deliveries", slow)
    async with (
        open_sandbox() as sandbox,
        open_scene(tmp_path, sandbox, is_capped=False, may_double=may_double) as scene,
    ):
        sandbox.inject(Fault(channel="apns", delay_s=0.05))
        channel = scene.notifier.core.channels.channels["apns"]
        monkeypatch.setattr(channel, "_hands", 20)
        monkeypatch.setattr(channel, "_free_for_all", 16)
        ids: list[int] = []

        async def one(number: int) -> None:
            ids.append(await scene.send(f"y{number}"))

        for wave in range(4):
            async with trio.open_nursery() as nursery:
                for number in range(80):
                    nursery.start_soon(one, wave * 100 + number)
        for notification_id in ids:
            await scene.notifier.settled(notification_id)
        await scene.calm()
        assert sum(read_counts) > SMALL  # what had spilled
        assert sandbox.count("apns") == len(ids) == 320
        assert not sandbox.doubles("apns")
        assert scene.notifier.stats.unknown == 0


@pytest.mark.usefixtures("small_memory")
async def test_what_has_spilled_is_asked_again_before_it_goes(tmp_path: Path) -> None:
    """Opting out holds for what waits in the store too."""
    async with open_sandbox() as sandbox, open_scene(tmp_path, sandbox, is_capped=False) as scene:
        await scene.notifier.core.desk.pause_provider(APP, "apns", is_paused=True)
        ids = [await scene.send(f"y{number}") for number in range(SMALL + 20)]
        await scene.do(NO_PUSH)
        await scene.notifier.core.desk.pause_provider(APP, "apns", is_paused=False)
        for notification_id in ids:
            assert (await scene.closed(notification_id)).code == "not_wanted"
        assert sandbox.count("apns") == 0
