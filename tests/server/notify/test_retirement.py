"""Letting all addresses go that are called dead: what a person said holds until its time is over."""

from pathlib import Path

from actors.notify.mass_retirement import ALLOWED_MS, FEWEST
from protocol.notify_content import NotifyRequest
from protocol.notify_records import NotifyDeviceRow
from protocol.notify_types import TypeRule
from server.clock import wall_clock_ms
from server.sandbox.faults import Fault
from server.sandbox.sandbox import SandboxOptions, open_sandbox
from tests.server.http_world import code_of, open_api
from tests.server.notify.notify_world import APP, Clock, Notifier, open_notifier
from tests.server.notify.test_http_notify import backend_of

COUNT = 60
DEAD = Fault(channel="apns", status=410)


async def alive(notifier: Notifier) -> set[str]:
    await notifier.world.store.barrier()
    rows = await notifier.world.store.find(NotifyDeviceRow, {"retired_at_ms": 0})
    return {row.user_id for row in rows}


async def push(notifier: Notifier, users: set[str], text: str) -> None:
    """Notify users, and wait until it is stored what became of each push."""
    done = await notifier.notify(NotifyRequest(type="push", user_ids=sorted(users), text=text))
    for item in done.items:
        await notifier.settled(item.notification_id)


async def set_up(notifier: Notifier) -> set[str]:
    users = await notifier.world.crowd(COUNT)
    await notifier.have_apns(users)
    await notifier.core.desk.remove_provider(APP, "apns_development")
    await notifier.core.desk.put_type(
        APP, TypeRule(name="push", channels=["apns"], is_capped=False, dedup_s=0)
    )
    return set(users)


def sandbox_at(clock: Clock) -> SandboxOptions:
    return SandboxOptions(now_ms=clock)


async def test_it_holds_over_a_restart(tmp_path: Path) -> None:
    """A deploy within the hour must not need another look at the alert."""
    clock = Clock()
    async with open_sandbox(options=sandbox_at(clock)) as sandbox:
        sandbox.inject(DEAD)
        async with open_notifier(tmp_path, sandbox, clock=clock) as notifier:
            users = await set_up(notifier)
            await push(notifier, users, "first")
            left = await alive(notifier)
            assert len(left) == COUNT - FEWEST
            await notifier.core.desk.allow_retirement(APP, "apns", is_allowed=True)
        async with open_notifier(tmp_path, sandbox, is_new=False, clock=clock) as notifier:
            await push(notifier, left, "second")
            assert await alive(notifier) == set()


async def test_it_ends_with_its_hour_or_when_it_is_taken_back(tmp_path: Path) -> None:
    """An override that somebody forgot would leave the app without its guard."""
    clock = Clock()
    async with open_sandbox(options=sandbox_at(clock)) as sandbox:
        sandbox.inject(DEAD)
        async with open_notifier(tmp_path, sandbox, clock=clock) as notifier:
            users = await set_up(notifier)
            desk = notifier.core.desk
            await desk.allow_retirement(APP, "apns", is_allowed=True)
            await desk.allow_retirement(APP, "apns", is_allowed=False)
            await push(notifier, users, "taken back")
            assert len(await alive(notifier)) == COUNT - FEWEST
            await desk.allow_retirement(APP, "apns", is_allowed=True)
            clock.ahead_ms += ALLOWED_MS
            await push(notifier, await alive(notifier), "an hour later")
            assert len(await alive(notifier)) == COUNT - FEWEST


async def test_it_is_of_one_channel_and_one_app(tmp_path: Path) -> None:
    """Who knows that a list of phone numbers is old knows nothing of tokens."""
    async with open_sandbox() as sandbox, open_notifier(tmp_path, sandbox) as notifier:
        sandbox.inject(DEAD)
        users = await set_up(notifier)
        desk = notifier.core.desk
        await desk.allow_retirement(APP, "fcm", is_allowed=True)
        await desk.allow_retirement("another", "apns", is_allowed=True)
        await push(notifier, users, "of others")
        assert len(await alive(notifier)) == COUNT - FEWEST


async def test_developers_say_it_and_take_it_back_over_http(tmp_path: Path) -> None:
    """From the alert's mail to an answer, and a look at whether it still holds."""
    async with open_api(tmp_path) as api:
        backend = await backend_of(api)
        path = "/v1/app/notify/channels/apns/allow_retirement"
        assert (await backend.call("POST", path)).status_code == 204
        allowed = (await backend.json("GET", "/v1/app/notify"))["retirement_allowed"]
        assert list(allowed) == ["apns"]
        assert allowed["apns"] > wall_clock_ms() + ALLOWED_MS // 2
        assert (await backend.call("DELETE", path)).status_code == 204
        assert "retirement_allowed" not in await backend.json("GET", "/v1/app/notify")
        wrong = await backend.call("POST", path.replace("apns", "inapp"))
        assert code_of(wrong) == (400, "bad_field")
