"""What an account took and did not deliver goes by another one, and by that one never again."""

from pathlib import Path
from urllib.parse import urlencode

import pytest
import trio

from actors.notify.address import owner_of
from actors.notify.messages import DeliveryTold
from actors.notify.open_room import OpenRoom
from protocol import notify_commands
from protocol.notify_types import Preferences
from protocol.provider_configs import TwilioConfig
from server.notify.callbacks import Told, told_by_twilio
from server.sandbox.faults import Fault
from server.sandbox.receipts import twilio_signature
from server.sandbox.sandbox import Sandbox, SandboxOptions, open_sandbox
from tests.server.notify.notify_world import APP, Clock
from tests.server.notify.test_interleavings import Scene, open_scene, quiet_now
from tests.server.notify.test_pipeline import HOUR_MS
from tests.server.notify.test_receipts import undelivered

WRONG_SECRET = Fault(channel="vonage", status=401, code="4", times=1)
LEFT = ("result", "refused", "no_provider_left")


async def has_vonage(scene: Scene) -> None:
    await scene.notifier.core.desk.put_provider(APP, "vonage", scene.sandbox.configs().vonage, position=5)


async def be_quiet(scene: Scene) -> None:
    await scene.do(notify_commands.SetPreferences(preferences=Preferences(quiet_hours=quiet_now())))


def counts(sandbox: Sandbox) -> tuple[int, int]:
    return sandbox.count("twilio"), sandbox.count("vonage")


async def sent(scene: Scene, **more: object) -> int:
    """Send one that Twilio takes."""
    notification_id = await scene.send("4711", **more)
    await scene.closed(notification_id)
    return notification_id


async def breaks_vonage(scene: Scene) -> int:
    """Send one that Twilio does not deliver, and Vonage refuses as our secret is wrong."""
    scene.sandbox.inject(WRONG_SECRET)
    notification_id = await sent(scene)
    await undelivered(scene, notification_id)
    await scene.until(notification_id, lambda row: row.state == "queued" and row.attempt == 2)
    return notification_id


async def test_after_a_kill_it_goes_on_by_the_next_account(tmp_path: Path) -> None:
    """Nobody counts the second message that the first account would send."""
    async with open_sandbox() as sandbox:
        async with open_scene(tmp_path, sandbox, phone=True, channels=["sms"]) as scene:
            await has_vonage(scene)
            notification_id = await sent(scene)
            flaky = scene.notifier.world.flaky
            unplugged = flaky.unplug_after(1)  # what is told
            await undelivered(scene, notification_id)
            await unplugged.wait()
            flaky.let_go()
        async with open_scene(tmp_path, sandbox, is_new=False) as scene:
            row = await scene.closed(notification_id)
            assert (row.state, row.provider_id, row.undelivered_by) == ("accepted", "vonage", "twilio")
            await undelivered(scene, notification_id)  # Twilio repeats itself
            assert (await scene.delivery(notification_id)).state == "accepted"
            await undelivered(scene, notification_id, provider_id="vonage")
            await scene.calm()
            assert (await scene.delivery(notification_id)).state == "refused"
            assert counts(sandbox) == (1, 1)


@pytest.mark.parametrize("is_told", [True, False])
async def test_what_waits_for_the_morning_goes_by_the_next_account_after_a_restart(
    tmp_path: Path, is_told: bool
) -> None:
    """Told that it was not delivered, or refused: there is an update in the night."""
    clock = Clock()
    async with open_sandbox(options=SandboxOptions(now_ms=clock)) as sandbox:
        async with open_scene(tmp_path, sandbox, clock=clock, phone=True, channels=["sms"]) as scene:
            await has_vonage(scene)
            if is_told:
                notification_id = await sent(scene)
                await be_quiet(scene)
                await undelivered(scene, notification_id)
            else:
                fault = Fault(channel="twilio", status=401, code="20003", holds=True, times=1)
                notification_id = await scene.under_way(fault)
                await be_quiet(scene)
                sandbox.release()
            row = await scene.until(notification_id, lambda row: row.state == "queued")
            assert row.next_at_ms > clock() + HOUR_MS
        async with open_scene(tmp_path, sandbox, clock=clock, is_new=False) as scene:
            clock.pass_by(scene.notifier, 3 * HOUR_MS)
            row = await scene.closed(notification_id)
            assert (row.state, row.provider_id) == ("accepted", "vonage")
            assert counts(sandbox) == (1 if is_told else 0, 1)


async def test_it_waits_for_the_other_account_and_nobody_behind_it_does(tmp_path: Path) -> None:
    """Others may go by the account that it may not use; and new settings let it go on at once."""
    async with (
        open_sandbox() as sandbox,
        open_scene(tmp_path, sandbox, phone=True, channels=["sms"], fallback=["apns"]) as scene,
    ):
        await has_vonage(scene)
        first = await breaks_vonage(scene)
        second = await sent(scene)
        await undelivered(scene, second)  # while the breaker is open
        await sent(scene)
        row = await scene.delivery(second)
        assert (row.state, row.attempt, counts(sandbox)) == ("queued", 1, (3, 0))
        await has_vonage(scene)
        for notification_id in (first, second):
            row = await scene.closed(notification_id)
            assert (row.state, row.provider_id) == ("accepted", "vonage")
        assert (counts(sandbox), sandbox.count("apns")) == ((3, 2), 0)


@pytest.mark.parametrize("is_broken", [True, False])
async def test_what_ends_before_the_other_account_may_be_tried_goes_by_the_fallback(
    tmp_path: Path, is_broken: bool
) -> None:
    """A code is good for a minute, and the account is out of use for five: known before, or found out now."""
    clock = Clock()
    async with (
        open_sandbox(options=SandboxOptions(now_ms=clock)) as sandbox,
        open_scene(tmp_path, sandbox, clock=clock, phone=True, channels=["sms"], fallback=["apns"]) as scene,
    ):
        await has_vonage(scene)
        if is_broken:
            await breaks_vonage(scene)
        else:
            sandbox.inject(WRONG_SECRET)
        code = await sent(scene, expires_at_ms=clock() + 60_000)
        await undelivered(scene, code)
        await sandbox.wait_for("apns", 1)
        await scene.notifier.settled(code)
        assert LEFT in await scene.notifier.rules(code)
        assert (sandbox.count("apns"), counts(sandbox)) == (1, (2 if is_broken else 1, 0))


async def test_without_another_account_it_goes_by_the_fallback(tmp_path: Path) -> None:
    """The one that it waits for is removed; what is saved of the other one makes it look at once."""
    async with (
        open_sandbox() as sandbox,
        open_scene(tmp_path, sandbox, phone=True, channels=["sms"], fallback=["apns"]) as scene,
    ):
        await has_vonage(scene)
        notification_id = await breaks_vonage(scene)
        await scene.notifier.core.desk.remove_provider(APP, "vonage")
        await scene.notifier.core.desk.put_provider(APP, "twilio", sandbox.configs().twilio)
        await sandbox.wait_for("apns", 1)
        await scene.notifier.settled(notification_id)
        assert LEFT in await scene.notifier.rules(notification_id)
        assert (sandbox.count("apns"), counts(sandbox)) == (1, (1, 0))


async def test_a_receipt_of_the_attempt_before_is_not_of_this_one(tmp_path: Path) -> None:
    """The first answer was lost, and both messages are the same account's: their ids tell them apart."""
    async with (
        open_sandbox() as sandbox,
        open_scene(tmp_path, sandbox, phone=True, channels=["sms"], may_double=True) as scene,
    ):
        sandbox.inject(Fault(channel="twilio", drop_after_accept=True, times=1))
        row = await scene.closed(notification_id := await scene.send("4711"))
        assert (row.attempt, row.doubles, row.provider_id) == (2, 1, "twilio")
        for ref, state in (("SMofTheFirst", "accepted"), (row.provider_ref, "refused")):
            told = DeliveryTold(notification_id, 0, "refused", "30008", "", APP, "twilio", ref)
            with trio.fail_after(5):
                await scene.notifier.world.core.router.ask(owner_of(notification_id), told, timeout_s=5)
            assert (await scene.delivery(notification_id)).state == state


async def test_a_late_report_does_not_end_what_waits_in_the_store_for_another_account(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As in memory: it is of the attempt before."""
    async with open_sandbox() as sandbox:
        async with open_scene(tmp_path, sandbox, phone=True, channels=["sms"]) as scene:
            await has_vonage(scene)
            fault = Fault(channel="twilio", status=401, code="20003", holds=True, times=1)
            notification_id = await scene.under_way(fault)
            await be_quiet(scene)
            sandbox.release()
            await scene.until(notification_id, lambda row: row.state == "queued")
        monkeypatch.setattr(OpenRoom, "has_place", lambda *_: False)
        async with open_scene(tmp_path, sandbox, is_new=False) as scene:
            await undelivered(scene, notification_id)
            row = await scene.delivery(notification_id)
            assert (row.state, row.provider_id, row.failed_over) == ("queued", "twilio", 1)


def test_twilio_names_the_message_that_it_tells_of() -> None:
    """By the id that was in its answer; Vonage has one for each part of a text."""
    url = "https://example.test/n/r/x"
    form = {"MessageSid": "SM1", "MessageStatus": "undelivered", "ErrorCode": "30008"}
    signature = twilio_signature("token", url, form)
    config = TwilioConfig(account_sid="AC1", secret="token")
    told = told_by_twilio(config, url, "", urlencode(form).encode(), signature)
    assert told == Told(state="refused", code="30008", action="failover", provider_ref="SM1")
