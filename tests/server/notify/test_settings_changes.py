"""What a change of an app's accounts does to what is under way."""

from pathlib import Path

from protocol import notify_commands
from protocol.notify_content import NotifyRequest
from server.sandbox.faults import Fault
from server.sandbox.sandbox import open_sandbox
from tests.providers.outgoing import make_outgoing
from tests.server.notify.notify_world import APP, apns_token
from tests.server.notify.test_interleavings import open_scene

HELD = Fault(channel="twilio", holds=True, times=1)


async def test_what_is_under_way_survives_new_settings_and_a_pause(tmp_path: Path) -> None:
    """Who renames a sender must not make codes unknown, which are then not sent again."""
    async with (
        open_sandbox() as sandbox,
        open_scene(tmp_path, sandbox, phone=True, channels=["sms"]) as scene,
    ):
        desk = scene.notifier.core.desk
        changed = await scene.under_way(HELD)
        await desk.put_provider(APP, "twilio", sandbox.configs().twilio, position=1)
        sandbox.release()
        assert (await scene.closed(changed)).state == "accepted"
        paused = await scene.under_way(HELD)
        await desk.pause_provider(APP, "twilio", is_paused=True)
        sandbox.release()
        assert (await scene.closed(paused)).state == "accepted"
        await desk.pause_provider(APP, "twilio", is_paused=False)
        removed = await scene.under_way(HELD)
        await desk.remove_provider(APP, "twilio")
        sandbox.release()
        assert (await scene.closed(removed)).state == "accepted"


async def test_what_is_refused_after_its_settings_were_put_right_goes_at_once(tmp_path: Path) -> None:
    """A wrong key is replaced while hundreds are under way with it: they need not wait for minutes."""
    async with open_sandbox() as sandbox, open_scene(tmp_path, sandbox) as scene:
        wrong_key = Fault(channel="apns", status=403, code="InvalidProviderToken", holds=True, times=1)
        notification_id = await scene.under_way(wrong_key)
        await scene.notifier.core.desk.put_provider(APP, "apns", sandbox.configs().apns_development)
        sandbox.release()
        row = await scene.closed(notification_id)
        assert (row.state, row.attempt) == ("accepted", 2)


async def test_an_account_is_closed_once_its_last_call_has_ended(tmp_path: Path) -> None:
    """Connections of settings that are long gone would else pile up."""
    async with (
        open_sandbox() as sandbox,
        open_scene(tmp_path, sandbox, channels=["email"]) as scene,
    ):
        await scene.do(notify_commands.RegisterPush(channel="email", address="ann@example.com"))
        (account,) = scene.notifier.core.setups.chain(APP, "email")
        mail = await scene.under_way(Fault(channel="smtp", holds=True, times=1))
        await scene.notifier.core.desk.remove_provider(APP, "smtp")
        sandbox.release()
        assert (await scene.closed(mail)).state == "accepted"
        late = await account.provider.send(make_outgoing("email", "ann@example.com"))
        assert (late.kind, late.code) == ("refused", "closed")


async def test_a_mix_up_of_sandbox_and_production_costs_a_small_app_nothing(tmp_path: Path) -> None:
    """With five users there is no share of them that would be suspicious."""
    async with open_sandbox() as sandbox, open_scene(tmp_path, sandbox) as scene:
        desk, sent = scene.notifier.core.desk, []
        sandbox.apns.register(apns_token(1), environment="production")
        await desk.put_provider(APP, "apns", sandbox.configs().apns_development)
        for _ in range(5):
            row = await scene.closed(await scene.send("hello there"))
            assert (row.state, row.code) == ("refused", "BadDeviceToken")
        await desk.put_provider(APP, "apns", sandbox.configs().apns)
        for _ in range(2):
            sent.append(await scene.closed(await scene.send("hello again")))
        assert [row.state for row in sent] == ["accepted", "accepted"]
        assert ("retire", "hold", "account_never_accepted") in await scene.notifier.rules(row.notification_id)
        sandbox.apns.register(apns_token(1), environment="development")
        assert (
            await scene.closed(await scene.send("sold"))
        ).code == "BadDeviceToken"  # and now it is believed
        gone = await scene.notifier.notify(NotifyRequest(type="t", user_id=scene.user_id, text="after"))
        assert gone.items[0].reason == "unreachable"
