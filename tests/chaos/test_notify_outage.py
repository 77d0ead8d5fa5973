"""All providers are gone for a minute while a real node goes on taking notifications: none is lost.

What was with a provider when it went away may have arrived: it is unknown for a type that must not come
twice, and comes again, counted, for one that may. All that came later arrives once. The minute is six seconds
unless HUBBUB_LONG=1.
"""

from pathlib import Path
from typing import Any, Final

import pytest
import trio

from protocol.http_notify import ProviderBody
from protocol.notify_types import TypeRule
from server.sandbox.faults import Fault
from server.sandbox.sandbox import Sandbox, open_sandbox
from tests.chaos.scenarios import until_owned
from tests.chaos.test_notify import ANSWER_S, IS_LONG, App, _deliveries, _until_done
from tests.cluster_nodes import running_cluster

OUTAGE_S: Final = 60.0 if IS_LONG else 6.0
AROUND_S: Final = 2.0  # before and after
PAUSE_S: Final = 0.02
USERS: Final = 40
SERVICES: Final = {"apns": "apns", "fcm": "fcm", "webpush": "webpush", "sms": "twilio", "email": "smtp"}
CHANNELS: Final = tuple(SERVICES)
KINDS: Final = {"code": True, "transfer": False}  # whether it may come twice
pytestmark = [pytest.mark.chaos, pytest.mark.slow, pytest.mark.timeout(600 if IS_LONG else 240)]


async def set_up(app: App, sandbox: Sandbox) -> None:
    """Users with an address on each channel, and types that go by one channel each."""
    configs = sandbox.configs()
    for name in ("apns", "fcm", "webpush", "twilio", "smtp"):
        config = ProviderBody(config=getattr(configs, name))
        assert (await app.ask("PUT", f"/v1/app/notify/providers/{name}", config)).status_code == 200
    for channel in CHANNELS:
        for kind, may_double in KINDS.items():
            name = f"{kind}-{channel}"
            rule = TypeRule(name=name, channels=[channel], is_security=True, may_double=may_double)  # type: ignore[list-item]
            assert (await app.ask("PUT", f"/v1/app/notify/types/{name}", rule)).status_code == 200
    wanted = {"users": [{"external_id": f"u{number}"} for number in range(USERS)]}
    made = (await app.ask("POST", "/v1/app/users", wanted)).json()
    app.users = [item["user"]["user_id"] for item in made["items"]]
    for number, user_id in enumerate(app.users):
        subscription = sandbox.webpush.subscribe()
        addresses: dict[str, dict[str, Any]] = {
            "apns": {"address": f"{number + 1:064x}"},
            "fcm": {"address": f"fcm-token-of-{number:020}"},
            "webpush": {
                "address": subscription.endpoint,
                "keys": {"p256dh": subscription.p256dh, "auth": subscription.auth},
            },
            "sms": {"address": f"+4915112345{number:03}"},
            "email": {"address": f"u{number}@example.org"},
        }
        for channel, address in addresses.items():
            body = {"channel": channel, **address}
            response = await app.ask("POST", f"/v1/app/users/{user_id}/addresses", body)
            assert response.status_code == 200, response.text


async def send(app: App, number: int) -> int:
    """Send the next one, by each channel and kind in turn; returns its id."""
    kind = ("code", "transfer")[number % 2]
    channel = CHANNELS[number // 2 % len(CHANNELS)]
    wanted = {
        "type": f"{kind}-{channel}",
        "user_id": app.users[number % USERS],
        "text": f"number {number}",
        "idempotency_key": str(number),
    }
    response = await app.ask("POST", "/v1/notifications", wanted)
    assert response.status_code == 202, response.text
    (item,) = response.json()["items"]
    app.accepted[item["notification_id"]] = f"{kind}-{channel}"
    return int(item["notification_id"])


async def test_a_minute_without_any_provider_loses_nothing(tmp_path: Path) -> None:
    """Providers have such minutes; whoever waits for a code gets it when it is over."""
    async with open_sandbox() as sandbox:
        for service in SERVICES.values():
            sandbox.inject(Fault(channel=service, delay_s=ANSWER_S))  # something is always under way
        with running_cluster(tmp_path, 1, "--notify-networks", "127.0.0.0/8") as cluster:
            await until_owned(cluster)
            app = App(cluster, await trio.to_thread.run_sync(cluster.app_key))
            await set_up(app, sandbox)
            number, meanwhile = 0, set[int]()

            async def send_for(seconds: float) -> set[int]:
                nonlocal number
                ids = set[int]()
                with trio.move_on_after(seconds) as scope:
                    while True:
                        with trio.CancelScope(shield=True):
                            ids.add(await send(app, number))
                        number += 1
                        await trio.sleep(PAUSE_S)
                assert scope.cancelled_caught
                return ids

            await send_for(AROUND_S)
            for channel in CHANNELS:
                sandbox.begin_outage(channel)
            # What was under way is known to have ended by then.
            await send_for(0.5)
            meanwhile = await send_for(OUTAGE_S)
            for channel in CHANNELS:
                sandbox.end_outage(channel)
            meanwhile |= await send_for(AROUND_S)
            await _until_done(cluster)
            deliveries = await trio.to_thread.run_sync(_deliveries, cluster)
            await app.client.aclose()
        wrong: list[str] = []
        for notification_id, kind in app.accepted.items():
            state, attempts, doubles = deliveries[f"{notification_id:x}-0"]
            is_fine = state == "accepted" or (state == "unknown" and kind.startswith("transfer"))
            if notification_id in meanwhile:
                is_fine = state == "accepted" and doubles == 0
            if not is_fine:
                wrong.append(f"{kind} {notification_id:x} is {state} after {attempts}, {doubles} unknown")
        assert not wrong
        accepted = sum(state == "accepted" for state, _, _ in deliveries.values())
        assert sum(sandbox.count(service) for service in SERVICES.values()) >= accepted
        second = [times - 1 for service in SERVICES.values() for times in sandbox.doubles(service).values()]
        assert sum(second) <= sum(doubles for _, _, doubles in deliveries.values())
