"""Web Push on a real node: what endpoints that users register do to the pushes of others."""

from pathlib import Path

from protocol import notify_commands
from protocol.notify_content import NotifyRequest
from protocol.notify_types import TypeRule
from server.sandbox.sandbox import Sandbox, open_sandbox
from tests.server.notify.notify_world import APP, Notifier, open_notifier

OTHER_KEY = "BNcRdreALRFXTkOOUHK1EtK2wtaz5Ry4YfYCA_0QTpQtUbVlUls0VJXg7A8u-Ts1XbjhazAkj7I99e8QcYP7DkM"


async def subscriber(
    notifier: Notifier, sandbox: Sandbox, name: str, *, host: str = "", key: str = ""
) -> str:
    """A user with one push subscription, at that host and made with that key; who is not connected."""
    device = await notifier.world.person(name)
    made = sandbox.webpush.subscribe(key)
    await device.do(
        notify_commands.RegisterPush(
            channel="webpush",
            address=made.endpoint.replace("127.0.0.1", host) if host else made.endpoint,
            keys={"p256dh": made.p256dh, "auth": made.auth},
        )
    )
    device.disconnect()
    return device.user_id


async def push(notifier: Notifier, user_id: str, text: str = "x") -> int:
    rule = TypeRule(name="t", channels=["webpush"], is_capped=False)
    await notifier.core.desk.put_type(APP, rule)
    done = await notifier.notify(NotifyRequest(type="t", user_id=user_id, text=text))
    return done.items[0].notification_id


async def test_a_host_that_refuses_everybody_stops_nobody_else(tmp_path: Path) -> None:
    """Any user can register endpoints at a host of theirs; all users' pushes go by the same key pair."""
    async with open_sandbox() as sandbox, open_notifier(tmp_path, sandbox) as notifier:
        # By another name the sandbox is another host, for which the signature is not good: 403.
        evil = [await subscriber(notifier, sandbox, f"evil{n}", host="localhost") for n in range(3)]
        good = await subscriber(notifier, sandbox, "good")
        channel = notifier.core.channels.channels["webpush"]
        for user_id in evil:
            await push(notifier, user_id)
        await notifier.until_stat("refused", 3)
        await notifier.settled(await push(notifier, good))
        assert sandbox.count("webpush") == 1
        assert channel.breakers() == {}
        assert [host.partition("//")[2].split(":")[0] for host in channel.open_hosts()] == ["localhost"]
        assert notifier.core.gauges()['hosts_held{channel="webpush"}'] == 1


async def test_subscriptions_by_another_key_stop_no_host_that_takes_others(tmp_path: Path) -> None:
    """Strangers can subscribe by any key at the push services that all use, and those answer 403."""
    async with open_sandbox() as sandbox, open_notifier(tmp_path, sandbox) as notifier:
        good = await subscriber(notifier, sandbox, "good")
        channel = notifier.core.channels.channels["webpush"]
        for number in range(4):
            stale = await subscriber(notifier, sandbox, f"stale{number}", key=OTHER_KEY)
            refused = notifier.stats.refused
            stale_id = await push(notifier, stale)
            await notifier.until_stat("refused", refused + 1)
            # Else it is tried again beside the next ones, and several in a row are refused.
            await notifier.core.entry.cancel(APP, (await notifier.row(stale_id)).request_id)
            await notifier.settled(await push(notifier, good, f"x {number}"))
            assert sandbox.count("webpush") == number + 1
            assert channel.open_hosts() == []
