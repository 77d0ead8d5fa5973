"""A provider that is gone for a while: what was sent meanwhile arrives when it is back, and once."""

from pathlib import Path

import pytest
import trio
import trio.testing

from actors.notify import breaker
from protocol import notify_commands
from protocol.notify_content import NotifyRequest
from protocol.notify_types import Channel, TypeRule
from server.sandbox.sandbox import Sandbox, open_sandbox
from tests.server.notify.notify_world import APP, Notifier, apns_token, open_notifier
from tests.server.notify.test_faults import ALL, SERVICE

USERS = 12  # more than open a breaker


async def with_addresses(notifier: Notifier, sandbox: Sandbox, channel: Channel) -> list[str]:
    """Users with one address each, who are not connected."""
    users = []
    for number in range(USERS):
        device = await notifier.world.person(f"user{number}")
        keys: dict[str, str] = {}
        address = {
            "apns": apns_token(number + 1),
            "fcm": f"fcm-token-of-{number:020}",
            "sms": f"+4915112345{number:03}",
            "email": f"user{number}@example.org",
        }.get(channel, "")
        if channel == "webpush":
            subscription = sandbox.webpush.subscribe()
            address = subscription.endpoint
            keys = {"p256dh": subscription.p256dh, "auth": subscription.auth}
        await device.do(notify_commands.RegisterPush(channel=channel, address=address, keys=keys))
        device.disconnect()
        users.append(device.user_id)
    return users


@pytest.mark.parametrize("is_warm", [pytest.param(False, marks=pytest.mark.slow), True])
@pytest.mark.parametrize("channel", ALL)
async def test_what_is_sent_in_an_outage_arrives_once_when_it_is_over(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, channel: Channel, is_warm: bool
) -> None:
    """Also by a type that must not come twice; with connections that stood before, and without."""
    monkeypatch.setattr(breaker, "FIRST_MS", 200)
    monkeypatch.setattr(breaker, "LONGEST_MS", 400)
    service = SERVICE[channel]
    async with open_sandbox() as sandbox, open_notifier(tmp_path, sandbox) as notifier:
        for name in ("vonage", "apns_development"):  # one account each, so that nobody steps in
            await notifier.core.desk.remove_provider(APP, name)
        await notifier.core.desk.put_type(APP, TypeRule(name="t", channels=[channel], is_capped=False))
        users = await with_addresses(notifier, sandbox, channel)

        async def send(text: str) -> list[int]:
            done = [
                await notifier.notify(NotifyRequest(type="t", user_id=user_id, text=text))
                for user_id in users
            ]
            return [each.items[0].notification_id for each in done]

        ids = await send("before") if is_warm else []
        await sandbox.wait_for(service, len(ids))
        for notification_id in ids:
            await notifier.settled(notification_id)
        with sandbox.outage(channel):
            await trio.testing.wait_all_tasks_blocked(0.02)  # those who were connected have noticed
            ids += await send("meanwhile")
            await notifier.until_stat("refused", USERS + 2)  # the breaker has opened, and tried again
        await sandbox.wait_for(service, len(ids))
        for notification_id in ids:
            await notifier.settled(notification_id)
            (delivery,) = await notifier.world.store.notify.deliveries(notification_id)
            assert (delivery.state, delivery.doubles) == ("accepted", 0)
        assert sandbox.count(service) == len(ids)
        assert not sandbox.doubles(service)
