"""What a change of an app's accounts does to what is under way."""

from pathlib import Path

from protocol import notify_commands
from server.sandbox.faults import Fault
from server.sandbox.sandbox import open_sandbox
from tests.providers.outgoing import make_outgoing
from tests.server.notify.notify_world import APP
from tests.server.notify.test_interleavings import SLOW_S, open_scene

SLOW = Fault(channel="twilio", delay_s=SLOW_S, times=1)


async def test_what_is_under_way_survives_new_settings_and_a_pause(tmp_path: Path) -> None:
    """Who renames a sender must not make codes unknown, which are then not sent again."""
    async with (
        open_sandbox() as sandbox,
        open_scene(tmp_path, sandbox, phone=True, channels=["sms"]) as scene,
    ):
        desk = scene.notifier.core.desk
        changed = await scene.under_way(SLOW)
        await desk.put_provider(APP, "twilio", sandbox.configs().twilio, position=1)
        assert (await scene.closed(changed)).state == "accepted"
        paused = await scene.under_way(SLOW)
        await desk.pause_provider(APP, "twilio", is_paused=True)
        assert (await scene.closed(paused)).state == "accepted"
        await desk.pause_provider(APP, "twilio", is_paused=False)
        removed = await scene.under_way(SLOW)
        await desk.remove_provider(APP, "twilio")
        assert (await scene.closed(removed)).state == "accepted"


async def test_an_account_is_closed_once_its_last_call_has_ended(tmp_path: Path) -> None:
    """Connections of settings that are long gone would else pile up."""
    async with (
        open_sandbox() as sandbox,
        open_scene(tmp_path, sandbox, channels=["email"]) as scene,
    ):
        await scene.do(notify_commands.RegisterPush(channel="email", address="ann@example.com"))
        (account,) = scene.notifier.core.setups.chain(APP, "email")
        mail = await scene.under_way(Fault(channel="smtp", delay_s=SLOW_S, times=1))
        await scene.notifier.core.desk.remove_provider(APP, "smtp")
        assert (await scene.closed(mail)).state == "accepted"
        late = await account.provider.send(make_outgoing("email", "ann@example.com"))
        assert (late.kind, late.code) == ("refused", "closed")
