"""What daily digests tell on a real node, on which channels; and what each of their members says of it."""

import datetime
from pathlib import Path

import pytest

from actors.notify import gatherer, timekeeper
from actors.notify.builtin_types import DIGEST
from actors.notify.digester import MAX_LINES
from protocol import notify_commands
from protocol.notify_content import NotifyRequest
from protocol.notify_types import AppRules, Preferences, TypePreference, TypeRule
from protocol.records import Disabled, Remove
from server.sandbox.sandbox import Sandbox
from tests.server.notify.notify_world import APP, Clock, Notifier
from tests.server.notify.test_pipeline import HOUR_MS, bodies, open_at, person
from tests.server.notify.test_user_facts import disable
from tests.server.world import Device

PHONE = "+4915112345678"
DAILY = {"contact": TypePreference(frequency="daily")}


async def put_off(notifier: Notifier, device: Device, title: str, **more: object) -> int:
    """Ask for one that waits for the digest."""
    request = NotifyRequest(type="contact", user_id=device.user_id, title=title, text="x", **more)  # type: ignore[arg-type]
    (item,) = (await notifier.notify(request)).items
    assert item.state == "merged", item
    return item.notification_id


async def read(notifier: Notifier, name: str, ids: list[int]) -> None:
    device = await notifier.world.person(name)
    await device.do(notify_commands.MarkNotifications(mark="read", notification_ids=ids))
    device.disconnect()


async def one_account(notifier: Notifier) -> None:
    await notifier.core.desk.remove_provider(APP, "apns_development")


def titles(sandbox: Sandbox) -> list[str]:
    return [found.content["payload"]["aps"]["alert"]["title"] for found in sandbox.deliveries("apns")]


async def last_rule(notifier: Notifier, notification_id: int) -> tuple[str, str, str]:
    return (await notifier.rules(notification_id))[-1]


async def test_what_is_scheduled_for_the_digests_moment_is_in_the_next_one(tmp_path: Path) -> None:
    """Its members were read when it came: what joined then was told by nobody."""
    clock = Clock()
    async with open_at(tmp_path, clock) as (sandbox, notifier):
        await one_account(notifier)
        ann = await person(notifier, "ann", 1, types=DAILY)
        await notifier.core.desk.put_type(APP, TypeRule(name="contact", channels=["apns"]))
        now = datetime.datetime.fromtimestamp(clock() / 1000, datetime.UTC)
        nine = now.replace(hour=9, minute=0, second=0, microsecond=0)
        nine += datetime.timedelta(days=nine <= now)
        scheduled = await notifier.notify(
            NotifyRequest(
                type="contact", user_id=ann.user_id, title="Later", text="s", send_at=nine.isoformat()
            )
        )
        await put_off(notifier, ann, "Plain")
        clock.pass_by(notifier, int((nine - now).total_seconds() * 1000) + 1_500)
        await sandbox.wait_for("apns", 1)
        row = await notifier.until_state(scheduled.items[0].notification_id, "merged")
        assert (await notifier.row(row.into_id)).state == "held"
        clock.pass_by(notifier, 25 * HOUR_MS)
        await sandbox.wait_for("apns", 2)
        assert [body.partition("• ")[2] for body in bodies(sandbox)] == ["Plain", "Later"]


async def test_a_digest_of_many_counts_them_all(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """50 notifications for 53 is wrong, and a digest whose oldest 200 were read in the app is not empty."""
    monkeypatch.setattr(timekeeper, "MEMBERS_PAGE", 4)
    clock = Clock()
    async with open_at(tmp_path, clock) as (sandbox, notifier):
        await one_account(notifier)
        ann = await person(notifier, "ann", 1, types=DAILY)
        ids = [await put_off(notifier, ann, f"News {number}") for number in range(MAX_LINES + 13)]
        await read(notifier, "ann", ids[:10])
        clock.pass_by(notifier, 25 * HOUR_MS)
        await sandbox.wait_for("apns", 1)
        assert titles(sandbox) == [f"{MAX_LINES + 3} notifications"]
        lines = bodies(sandbox)[0].split("\n")
        assert (lines[0], lines[9], lines[10]) == ("• News 10", "• News 19", f"+{MAX_LINES - 7}")
        head = (await notifier.row(ids[0])).into_id
        await notifier.settled(head)
        assert ("digest", "pass", "items") in await notifier.rules(head)
        assert await last_rule(notifier, ids[-1]) == ("digest", "sent", "apns")


async def test_a_full_digest_is_followed_by_another(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A flood is told whole, and the second does not take the place of the first on the device."""
    monkeypatch.setattr(gatherer, "MAX_MEMBERS", 3)
    monkeypatch.setattr(timekeeper, "RELEASE_MEMBERS", 3)
    clock = Clock()
    async with open_at(tmp_path, clock) as (sandbox, notifier):
        await one_account(notifier)
        ann = await person(notifier, "ann", 1, types=DAILY)
        for number in range(5):
            await put_off(notifier, ann, f"News {number}")
        clock.pass_by(notifier, 25 * HOUR_MS)
        await sandbox.wait_for("apns", 2)
        assert sorted(titles(sandbox)) == ["2 notifications", "3 notifications"]
        assert len({found.content["collapse_id"] for found in sandbox.deliveries("apns")}) == 2


async def test_what_goes_by_sms_alone_is_in_a_digest_by_sms(tmp_path: Path) -> None:
    """Who wants one a day loses nothing that the app sends by SMS; where a push does, no SMS is paid."""
    clock = Clock()
    async with open_at(tmp_path, clock) as (sandbox, notifier):
        await one_account(notifier)
        await notifier.core.desk.remove_provider(APP, "vonage")
        await notifier.core.desk.put_type(APP, TypeRule(name="bill", channels=["sms"]))
        await notifier.core.desk.put_type(APP, TypeRule(name="both", channels=["apns", "sms"]))
        ann = await notifier.world.person("ann")
        await ann.do(notify_commands.RegisterPush(channel="sms", address=PHONE))
        await notifier.has_apns(ann, 1)
        await ann.do(notify_commands.SetPreferences(preferences=Preferences(frequency="daily")))
        ann.disconnect()
        ids = {}
        for name in ("bill", "both"):
            done = await notifier.notify(NotifyRequest(type=name, user_id=ann.user_id, text=f"A {name}"))
            ids[name] = done.items[0].notification_id
        clock.pass_by(notifier, 25 * HOUR_MS)
        (sms,) = await sandbox.wait_for("sms", 1)
        assert "A bill" in str(sms.content)
        assert "A both" not in str(sms.content)
        await sandbox.wait_for("apns", 1)
        assert bodies(sandbox) == ["• A both"]
        assert await last_rule(notifier, ids["bill"]) == ("digest", "sent", "sms")
        assert await last_rule(notifier, ids["both"]) == ("digest", "sent", "apns")


async def test_over_the_cap_a_digest_takes_an_sms_too(tmp_path: Path) -> None:
    """`over_cap: digest` is a promise of later, whatever the channel."""
    clock = Clock()
    async with open_at(tmp_path, clock) as (sandbox, notifier):
        await notifier.core.desk.put_rules(APP, AppRules(cap_per_hour=1, over_cap="digest"))
        await notifier.core.desk.put_type(APP, TypeRule(name="bill", channels=["sms"]))
        ann = await notifier.world.person("ann")
        await ann.do(notify_commands.RegisterPush(channel="sms", address=PHONE))
        ann.disconnect()
        for number in range(3):
            await notifier.notify(NotifyRequest(type="bill", user_id=ann.user_id, text=f"Bill {number}"))
        await sandbox.wait_for("sms", 1)
        clock.pass_by(notifier, 3 * HOUR_MS)
        texts = [str(found.content) for found in await sandbox.wait_for("sms", 2)]
        assert "Bill 1" in texts[1]
        assert "Bill 2" in texts[1]


async def test_who_is_not_reached_by_a_digest_is_told_why(tmp_path: Path) -> None:
    """The member's own explain says what came of it; and the same may be told once there is an address."""
    clock = Clock()
    async with open_at(tmp_path, clock) as (sandbox, notifier):
        await one_account(notifier)
        await notifier.core.desk.put_type(APP, TypeRule(name="contact", channels=["apns"]))
        ann = await notifier.world.person("ann")
        await ann.do(notify_commands.SetPreferences(preferences=Preferences(types=DAILY)))
        ann.disconnect()
        member = await put_off(notifier, ann, "News")
        head = (await notifier.row(member)).into_id
        clock.pass_by(notifier, 25 * HOUR_MS)
        assert (await notifier.settled(head)).state == "dropped"
        row = await notifier.row(member)
        assert (row.state, row.dedup_key) == ("dropped", "")
        assert await last_rule(notifier, member) == ("digest", "drop", "unreachable")
        ann = await notifier.world.person("ann")
        await notifier.has_apns(ann, 1)
        await ann.do(notify_commands.SetPreferences(preferences=Preferences()))
        ann.disconnect()
        again = NotifyRequest(type="contact", user_id=ann.user_id, title="News", text="x")
        assert (await notifier.notify(again)).items[0].state == "open"
        await sandbox.wait_for("apns", 1)


async def test_a_digest_says_nothing_twice(tmp_path: Path) -> None:
    """What was asked for twice, further apart than its `dedup_s`, is told at one moment nevertheless."""
    clock = Clock()
    async with open_at(tmp_path, clock) as (sandbox, notifier):
        await one_account(notifier)
        rule = TypeRule(name="contact", channels=["apns"], dedup_s=60)
        await notifier.core.desk.put_type(APP, rule)
        ann = await person(notifier, "ann", 1, types=DAILY)
        first = await put_off(notifier, ann, "Price fell")
        clock.ahead_ms += 61_000
        second = await put_off(notifier, ann, "Price fell")
        third = await put_off(notifier, ann, "Price fell", subject="another thing")
        clock.pass_by(notifier, 25 * HOUR_MS)
        await sandbox.wait_for("apns", 1)
        assert titles(sandbox) == ["2 notifications"]
        assert bodies(sandbox) == ["• Price fell"]
        await notifier.settled((await notifier.row(first)).into_id)
        row = await notifier.row(second)
        assert row.state == "dropped"
        (entry,) = [entry for entry in await notifier.ledger(second) if entry.kind == "digested"]
        assert ("deduplicate", "drop", "dedup_s") in await notifier.rules(second)
        assert str(first) in entry.body
        assert await last_rule(notifier, third) == ("digest", "sent", "apns")


async def test_a_digest_that_ends_with_its_user_swallows_nothing(tmp_path: Path) -> None:
    """Who is disabled when it is due hears what comes after the return."""
    clock = Clock()
    async with open_at(tmp_path, clock) as (sandbox, notifier):
        await one_account(notifier)
        ann = await person(notifier, "ann", 1, types=DAILY)
        member = await put_off(notifier, ann, "Before")
        head = (await notifier.row(member)).into_id
        await disable(notifier, ann.user_id)
        clock.pass_by(notifier, 25 * HOUR_MS)
        assert (await notifier.settled(head)).type == DIGEST
        assert await last_rule(notifier, member) == ("validate", "drop", "user_gone")
        await notifier.world.store.commit([Remove(Disabled, {"user_id": ann.user_id})])
        notifier.core.user_changed(ann.user_id)
        after = await put_off(notifier, ann, "After")
        assert (await notifier.row(after)).into_id != head
        clock.pass_by(notifier, 25 * HOUR_MS)
        await sandbox.wait_for("apns", 1)
        assert bodies(sandbox) == ["• After"]
