"""What a provider took and could not deliver goes on to the next account, and then to the fallback, once."""

from pathlib import Path

import pytest
import trio

from actors.notify.undelivered import LATE_MS
from protocol import notify_commands
from protocol.notify_records import DeliveryRow
from protocol.notify_types import Preferences
from server.sandbox.faults import Fault
from server.sandbox.sandbox import SandboxOptions, open_sandbox
from tests.server.http_world import open_api
from tests.server.notify.notify_world import APP, Clock, apns_token
from tests.server.notify.test_http_notify import backend_of, with_sandbox
from tests.server.notify.test_interleavings import GONE, Scene, open_scene, quiet_now
from tests.server.notify.test_pipeline import HOUR_MS
from tests.server.notify.test_receipts import undelivered
from tests.server.notify.test_suppressions import MAIL, put

OTHER_PHONE = "+4915187654321"
HELD = ("fallback", "hold", "undelivered")
GOES = ("choose", "change", "fallback")


async def deliveries(scene: Scene, notification_id: int) -> list[DeliveryRow]:
    await scene.notifier.world.store.barrier()
    return await scene.notifier.world.store.notify.deliveries(notification_id)


async def test_what_no_carrier_delivers_is_pushed(tmp_path: Path) -> None:
    """Both SMS accounts say yes, and a moment later no: the code comes by push, and explain tells why."""
    async with open_sandbox() as sandbox, open_api(tmp_path) as api:
        backend = await backend_of(api)
        assert api.notifications is not None
        api.notifications.links.base_url = str(api.client.base_url).rstrip("/")
        await with_sandbox(backend, sandbox, "twilio", "vonage", "apns")
        ann = await backend.user("ann")
        for channel, address in (("sms", OTHER_PHONE), ("apns", apns_token(1))):
            body = {"channel": channel, "address": address}
            await backend.json("POST", f"/v1/app/users/{ann}/addresses", json=body)
        rule = {"name": "code", "channels": ["sms"], "fallback": ["apns"]}
        await backend.json("PUT", "/v1/app/notify/types/code", json=rule)
        sandbox.inject(Fault(channel="twilio", receipt="undelivered", receipt_code="30008"))
        sandbox.inject(Fault(channel="vonage", receipt="undelivered", receipts_doubled=True))
        wanted = {"type": "code", "user_id": ann, "text": "4711"}
        accepted = await backend.json("POST", "/v1/notifications", 202, json=wanted)
        notification_id = accepted["items"][0]["notification_id"]
        await sandbox.wait_for("apns", 1)
        while True:
            told = await backend.json("GET", f"/v1/notifications/{notification_id}/explain")
            if told["notification"]["state"] == "done":
                break
            await trio.sleep(0.02)
        assert [sandbox.count(name) for name in ("twilio", "vonage", "apns")] == [1, 1, 1]
        assert [(one["channel"], one["state"]) for one in told["deliveries"]] == [
            ("sms", "refused"),
            ("apns", "accepted"),
        ]
        rules = [tuple(decision[:3]) for entry in told["ledger"] for decision in entry["decisions"]]
        # Whether or not a receipt overtakes its own answer: what comes between depends on that.
        wanted_order = [("told", "refused", "30008"), ("told", "refused", "1"), GOES]
        assert [rule for rule in rules if rule in wanted_order] == wanted_order


@pytest.mark.parametrize(
    ("channel", "state", "action"),
    [
        ("sms", "refused", "failover"),
        ("sms", "refused", "dead_letter"),
        ("sms", "refused", "retire"),
        ("email", "bounced", "retire"),
        ("email", "refused", ""),
    ],
)
async def test_it_goes_by_the_fallback_once(tmp_path: Path, channel: str, state: str, action: str) -> None:
    """Whatever the reason is, and however often it is told."""
    provider_id = {"sms": "twilio", "email": "smtp"}[channel]
    async with (
        open_sandbox() as sandbox,
        open_scene(tmp_path, sandbox, phone=True, channels=[channel], fallback=["apns"]) as scene,
    ):
        await put(scene, "email", MAIL)
        notification_id = await scene.send("4711")
        await scene.closed(notification_id)
        for _ in range(2):
            await undelivered(scene, notification_id, state=state, action=action, provider_id=provider_id)
        await sandbox.wait_for("apns", 1)
        row = await scene.notifier.settled(notification_id)
        assert (row.state, row.is_fallback) == ("done", False)
        await undelivered(scene, notification_id, state=state, action=action, provider_id=provider_id)
        await scene.calm()
        assert sandbox.count("apns") == 1
        rules = await scene.notifier.rules(notification_id)
        assert (rules.count(HELD), rules.count(GOES)) == (1, 1)
        assert [one.state for one in await deliveries(scene, notification_id)] == [state, "accepted"]


async def test_each_channel_of_the_fallback_is_tried(tmp_path: Path) -> None:
    """The mail bounces, the text message is not delivered: the phone rings."""
    async with (
        open_sandbox() as sandbox,
        open_scene(tmp_path, sandbox, phone=True, channels=["email"], fallback=["sms", "apns"]) as scene,
    ):
        await put(scene, "email", MAIL)
        notification_id = await scene.send("4711")
        await scene.closed(notification_id)
        await undelivered(scene, notification_id, state="bounced", action="retire", provider_id="smtp")
        await sandbox.wait_for("twilio", 1)
        await scene.notifier.settled(notification_id)
        assert sandbox.count("apns") == 0
        await undelivered(scene, notification_id, 1)
        await sandbox.wait_for("apns", 1)
        await scene.notifier.settled(notification_id)
        assert [sandbox.count(name) for name in ("smtp", "twilio", "apns")] == [1, 1, 1]


async def test_what_has_reached_the_user_in_another_way_goes_no_other(tmp_path: Path) -> None:
    """It was pushed as well, or read in the app, or complained of, which only a reader does."""
    async with (
        open_sandbox() as sandbox,
        open_scene(tmp_path, sandbox, phone=True, channels=["sms", "inapp"], fallback=["email"]) as scene,
    ):
        await put(scene, "email", MAIL)
        seen = await scene.send("seen")
        await scene.closed(seen)
        await scene.do(notify_commands.MarkNotifications(mark="seen", notification_ids=[seen]))
        await undelivered(scene, seen)
        assert ("fallback", "skip", "seen_in_app") in await scene.notifier.rules(seen)
        pushed = await scene.send("pushed", channels=["sms", "apns"])
        await scene.notifier.settled(pushed)
        (number,) = [one.number for one in await deliveries(scene, pushed) if one.channel == "sms"]
        await undelivered(scene, pushed, number)
        assert ("fallback", "skip", "reached") in await scene.notifier.rules(pushed)
        complained = await scene.send("ad", channels=["sms"])
        await scene.closed(complained)
        await undelivered(scene, complained, state="complained", action="")
        early = await scene.under_way(Fault(channel="twilio", holds=True, times=1))
        await undelivered(scene, early, state="complained", action="")
        for notification_id in (seen, pushed, complained, early):
            assert (await scene.notifier.row(notification_id)).state == "done"
        sandbox.release()
        await scene.calm()
        assert sandbox.count("smtp") == 0


@pytest.mark.parametrize(("expires_s", "later_ms"), [(60, 61_000), (0, LATE_MS)])
async def test_old_news_goes_no_other_way(tmp_path: Path, expires_s: int, later_ms: int) -> None:
    """Mail servers give up after five days."""
    clock = Clock()
    async with (
        open_sandbox(options=SandboxOptions(now_ms=clock)) as sandbox,
        open_scene(tmp_path, sandbox, clock=clock, phone=True, channels=["sms"], fallback=["apns"]) as scene,
    ):
        await scene.notifier.core.desk.put_provider(APP, "vonage", sandbox.configs().vonage, position=5)
        expires_at_ms = clock() + expires_s * 1_000 if expires_s else 0
        notification_id = await scene.send("4711", expires_at_ms=expires_at_ms)
        await scene.closed(notification_id)
        clock.pass_by(scene.notifier, later_ms)
        await undelivered(scene, notification_id)
        assert (await scene.delivery(notification_id)).state == "refused"
        assert ("fallback", "skip", "expires_at_ms") in await scene.notifier.rules(notification_id)
        await scene.calm()
        assert (sandbox.count("vonage"), sandbox.count("apns")) == (0, 0)


async def test_what_was_cancelled_goes_no_other_way(tmp_path: Path) -> None:
    """A campaign with a mistake in it: what is out is out, and nothing more comes."""
    async with (
        open_sandbox() as sandbox,
        open_scene(tmp_path, sandbox, phone=True, channels=["sms"], fallback=["apns"]) as scene,
    ):
        await scene.notifier.core.desk.put_provider(APP, "vonage", sandbox.configs().vonage, position=5)
        sent = await scene.send("a mistake")
        await scene.closed(sent)
        under_way = await scene.under_way(Fault(channel="twilio", holds=True, times=1))
        for notification_id in (sent, under_way):
            request_id = (await scene.notifier.row(notification_id)).request_id
            await scene.notifier.core.entry.cancel(APP, request_id)
        sandbox.release()
        await scene.closed(under_way)
        for notification_id in (sent, under_way):
            await undelivered(scene, notification_id)
            assert (await scene.delivery(notification_id)).state == "refused"
        await scene.calm()
        assert (sandbox.count("vonage"), sandbox.count("apns")) == (0, 0)


@pytest.mark.parametrize("has_next", [False, True])
async def test_while_another_is_under_way_the_last_of_them_decides(tmp_path: Path, has_next: bool) -> None:
    """The text message is not delivered while the push waits, whose token is dead: then it is mailed."""
    async with (
        open_sandbox() as sandbox,
        open_scene(tmp_path, sandbox, phone=True, channels=["sms", "apns"], fallback=["email"]) as scene,
    ):
        await put(scene, "email", MAIL)
        if has_next:
            vonage = sandbox.configs().vonage
            await scene.notifier.core.desk.put_provider(APP, "vonage", vonage, position=5)
            sandbox.inject(Fault(channel="vonage", status=400, code="33", times=1))
        await scene.notifier.core.desk.pause_provider(APP, "apns", is_paused=True)
        sandbox.inject(GONE)
        notification_id = await scene.send("4711")
        while True:
            found = {one.channel: one for one in await deliveries(scene, notification_id)}
            if found["sms"].state == "accepted":
                break
            await trio.sleep(0.005)
        await undelivered(scene, notification_id, found["sms"].number)
        told = ("result", "retry", "failover") if has_next else ("fallback", "pass", "others_open")
        assert told in await scene.notifier.rules(notification_id)
        if has_next:
            await scene.notifier.until_stat("refused", 1)
        await scene.notifier.core.desk.pause_provider(APP, "apns", is_paused=False)
        await sandbox.wait_for("smtp", 1)
        await scene.notifier.settled(notification_id)
        assert sandbox.count("smtp") == 1


async def test_two_that_are_told_at_once_are_one_fallback(tmp_path: Path) -> None:
    """Both numbers of a user are out of reach, and both receipts come in one moment."""
    async with (
        open_sandbox() as sandbox,
        open_scene(tmp_path, sandbox, phone=True, channels=["sms"], fallback=["apns"]) as scene,
    ):
        await put(scene, "sms", OTHER_PHONE)
        notification_id = await scene.send("4711")
        await scene.notifier.settled(notification_id)
        async with trio.open_nursery() as nursery:
            for number in range(2):
                nursery.start_soon(undelivered, scene, notification_id, number)
        await sandbox.wait_for("apns", 1)
        await scene.notifier.settled(notification_id)
        await scene.calm()
        assert sandbox.count("apns") == 1
        assert (await scene.notifier.rules(notification_id)).count(HELD) == 1


async def test_wishes_and_quiet_hours_are_asked_again(tmp_path: Path) -> None:
    """It waits for the morning; and what is delivered after all meanwhile is not told twice."""
    clock = Clock()
    async with (
        open_sandbox(options=SandboxOptions(now_ms=clock)) as sandbox,
        open_scene(
            tmp_path, sandbox, clock=clock, phone=True, channels=["sms"], fallback=["email", "apns"]
        ) as scene,
    ):
        await put(scene, "email", MAIL)
        late, came = await scene.send("late"), await scene.send("came")
        for notification_id in (late, came):
            await scene.closed(notification_id)
        wishes = Preferences(quiet_hours=quiet_now(), channels={"email": False})
        await scene.do(notify_commands.SetPreferences(preferences=wishes))
        for notification_id in (late, came):
            await undelivered(scene, notification_id)
            while (await scene.notifier.row(notification_id)).due_at_ms < clock() + HOUR_MS:  # noqa: ASYNC110
                await trio.sleep(0.005)
        assert sandbox.count("apns") == 0
        await undelivered(scene, came, state="confirmed", action="")
        clock.pass_by(scene.notifier, 3 * HOUR_MS)
        await sandbox.wait_for("apns", 1)
        for notification_id in (late, came):
            await scene.notifier.settled(notification_id)
        await scene.calm()
        assert (sandbox.count("apns"), sandbox.count("smtp")) == (1, 0)
        rules = await scene.notifier.rules(late)
        assert ("preferences", "drop", "channels") in rules
        assert ("quiet_hours", "hold", "quiet_hours") in rules
        assert ("validate", "drop", "delivered") in await scene.notifier.rules(came)


async def test_the_fallback_is_gone_on_with_after_a_kill(tmp_path: Path) -> None:
    """What was told and what follows from it are one append."""
    async with open_sandbox() as sandbox:
        async with open_scene(tmp_path, sandbox, phone=True, channels=["sms"], fallback=["apns"]) as scene:
            notification_id = await scene.send("4711")
            await scene.closed(notification_id)
            flaky = scene.notifier.world.flaky
            unplugged = flaky.unplug_after(1)  # what is told
            await undelivered(scene, notification_id)
            await unplugged.wait()
            assert sandbox.count("apns") == 0
            flaky.let_go()
        async with open_scene(tmp_path, sandbox, is_new=False) as scene:
            await sandbox.wait_for("apns", 1)
            await scene.notifier.settled(notification_id)
            await scene.calm()
            assert sandbox.count("apns") == 1


async def test_the_second_account_refuses_at_once_what_the_first_has_not_delivered(tmp_path: Path) -> None:
    """That one had taken it does not count any more."""
    async with (
        open_sandbox() as sandbox,
        open_scene(tmp_path, sandbox, phone=True, channels=["sms"], fallback=["apns"]) as scene,
    ):
        await scene.notifier.core.desk.put_provider(APP, "vonage", sandbox.configs().vonage, position=5)
        sandbox.inject(Fault(channel="vonage", status=400, code="33", times=1))
        notification_id = await scene.send("4711")
        await scene.closed(notification_id)
        await undelivered(scene, notification_id)
        await sandbox.wait_for("apns", 1)
        row = await scene.notifier.settled(notification_id)
        assert (sandbox.count("vonage"), row.state) == (0, "done")
