"""Stages of the pipeline on a real node: what is held, batched, capped, dropped, and when it is let go."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from actors.notify.timekeeper import RETENTION_MS
from protocol import notify_commands, notify_replies
from protocol.notify_content import NotifyRequest
from protocol.notify_types import AppRules, Preferences, QuietHours, TypePreference, TypeRule
from server.clock import wall_clock_ms
from server.sandbox.faults import Fault
from server.sandbox.sandbox import Sandbox, SandboxOptions, open_sandbox
from storage.check import check
from tests.server.notify.notify_world import APP, Clock, Notifier, open_notifier
from tests.server.world import Device

HOUR_MS = 3_600_000


@asynccontextmanager
async def open_at(directory: Path, clock: Clock) -> AsyncIterator[tuple[Sandbox, Notifier]]:
    """A node and its providers, by the same clock."""
    async with (
        open_sandbox(options=SandboxOptions(now_ms=clock)) as sandbox,
        open_notifier(directory, sandbox, clock=clock) as notifier,
    ):
        yield sandbox, notifier


async def person(notifier: Notifier, name: str, number: int, **preferences: object) -> Device:
    """A user with a phone who is not connected."""
    device = await notifier.world.person(name)
    await notifier.has_apns(device, number)
    if preferences:
        wishes = Preferences(**preferences)  # type: ignore[arg-type]  # fields of Preferences
        await device.do(notify_commands.SetPreferences(preferences=wishes))
    device.disconnect()
    return device


def bodies(sandbox: Sandbox) -> list[str]:
    return [found.content["payload"]["aps"]["alert"]["body"] for found in sandbox.deliveries("apns")]


async def test_similar_ones_become_one_push_and_one_item(tmp_path: Path) -> None:
    """Forty likes must not ring forty times."""
    clock = Clock()
    async with (
        open_sandbox(options=SandboxOptions(now_ms=clock)) as sandbox,
        open_notifier(tmp_path, sandbox, clock=clock) as notifier,
    ):
        ann = await person(notifier, "ann", 1)
        for name in ("Ben", "Cid", "Dan", "Ben"):
            done = await notifier.notify(
                NotifyRequest(
                    type="like",
                    user_id=ann.user_id,
                    template="like",
                    subject="post-1",
                    actor=name,
                    data={"n": len(name), "who": name, "post": "p"},
                )
            )
            assert done.items[0].state in ("held", "merged", "dropped"), done
        assert sandbox.count("apns") == 0
        back = await notifier.world.person("ann")
        page = await back.do(notify_commands.ListNotifications())
        assert isinstance(page, notify_replies.NotificationPage)
        assert len(page.items) == 1
        assert page.unread == 1
        assert "Ben" in page.items[0].title + page.items[0].text
        back.disconnect()
        clock.pass_by(notifier, 61_000)
        await sandbox.wait_for("apns", 1)
        (text,) = bodies(sandbox)
        assert "Ben" in text
        assert "Cid" in text
        await notifier.until_stat("accepted", 1)


async def test_a_daily_digest_comes_at_its_time_and_tells_all(tmp_path: Path) -> None:
    """Who wants one mail a day gets one, with everything that is still news."""
    clock = Clock()
    async with (
        open_sandbox(options=SandboxOptions(now_ms=clock)) as sandbox,
        open_notifier(tmp_path, sandbox, clock=clock) as notifier,
    ):
        ann = await person(notifier, "ann", 1, types={"contact": TypePreference(frequency="daily")})
        for number in range(3):
            done = await notifier.notify(
                NotifyRequest(type="contact", user_id=ann.user_id, title=f"News {number}", text="x")
            )
            assert done.items[0].state == "merged"
        assert sandbox.count("apns") == 0
        clock.pass_by(notifier, 25 * HOUR_MS)
        await sandbox.wait_for("apns", 1)
        (text,) = bodies(sandbox)
        assert "News 0" in text or "3" in text
        assert sandbox.count("apns") == 1


async def test_quiet_hours_hold_back_what_is_no_security_matter(tmp_path: Path) -> None:
    """Nobody is woken by a campaign; a log-in from elsewhere may wake."""
    clock = Clock()
    async with (
        open_sandbox(options=SandboxOptions(now_ms=clock)) as sandbox,
        open_notifier(tmp_path, sandbox, clock=clock) as notifier,
    ):
        now = clock() // 60_000 % 1440
        start, end = (now - 60) % 1440, (now + 60) % 1440
        quiet = QuietHours(start=f"{start // 60:02}:{start % 60:02}", end=f"{end // 60:02}:{end % 60:02}")
        ann = await person(notifier, "ann", 1, quiet_hours=quiet)
        held = await notifier.notify(NotifyRequest(type="contact", user_id=ann.user_id, text="quiet"))
        assert (held.items[0].state, held.items[0].due_at_ms > clock()) == ("held", True)
        await notifier.notify(NotifyRequest(type="security", user_id=ann.user_id, text="code"))
        await sandbox.wait_for("apns", 1)
        assert bodies(sandbox) == ["code"]
        clock.pass_by(notifier, 2 * HOUR_MS)
        await sandbox.wait_for("apns", 2)
        assert bodies(sandbox) == ["code", "quiet"]


async def test_over_the_cap_the_rest_comes_later_and_nothing_is_lost(tmp_path: Path) -> None:
    """Ten an hour is the promise to users, all of them the promise to apps."""
    clock = Clock()
    async with (
        open_sandbox(options=SandboxOptions(now_ms=clock)) as sandbox,
        open_notifier(tmp_path, sandbox, clock=clock) as notifier,
    ):
        await notifier.core.desk.put_rules(APP, AppRules(cap_per_hour=2))
        ann = await person(notifier, "ann", 1)
        states = []
        for number in range(5):
            done = await notifier.notify(
                NotifyRequest(type="contact", user_id=ann.user_id, text=f"t{number}")
            )
            states.append(done.items[0].state)
        assert states == ["open", "open", "held", "held", "held"]
        await sandbox.wait_for("apns", 2)
        clock.pass_by(notifier, HOUR_MS + 1_000)
        await sandbox.wait_for("apns", 4)
        clock.pass_by(notifier, HOUR_MS + 1_000)
        await sandbox.wait_for("apns", 5)
        assert sorted(bodies(sandbox)) == [f"t{number}" for number in range(5)]


async def test_what_has_expired_is_not_sent(tmp_path: Path) -> None:
    """Yesterday's code is of no use."""
    clock = Clock()
    async with (
        open_sandbox(options=SandboxOptions(now_ms=clock)) as sandbox,
        open_notifier(tmp_path, sandbox, clock=clock) as notifier,
    ):
        ann = await person(notifier, "ann", 1)
        with sandbox.outage("apns"):
            done = await notifier.notify(
                NotifyRequest(type="contact", user_id=ann.user_id, text="x", expires_at_ms=clock() + 60_000)
            )
            await notifier.until_stat("retried", 1)
        clock.pass_by(notifier, 120_000)
        await notifier.settled(done.items[0].notification_id)
        assert sandbox.count("apns") == 0
        assert ("result", "refused", "expired") in await notifier.rules(done.items[0].notification_id)


async def test_a_fallback_channel_is_tried_where_the_first_reaches_nobody(tmp_path: Path) -> None:
    """A code that the phone does not take goes by SMS."""
    async with open_sandbox() as sandbox, open_notifier(tmp_path, sandbox) as notifier:
        rule = TypeRule(name="code", channels=["apns"], fallback=["sms"], is_security=True)
        await notifier.core.desk.put_type(APP, rule)
        ann = await notifier.world.person("ann")
        await notifier.has_apns(ann, 1)
        await ann.do(notify_commands.RegisterPush(channel="sms", address="+4915112345678"))
        ann.disconnect()
        sandbox.inject(Fault(channel="apns", status=410, times=1))
        done = await notifier.notify(NotifyRequest(type="code", user_id=ann.user_id, text="4711"))
        (text,) = await sandbox.wait_for("sms", 1)
        assert "4711" in str(text.content)
        await notifier.settled(done.items[0].notification_id)
        rules = await notifier.rules(done.items[0].notification_id)
        assert ("choose", "change", "fallback") in rules
        devices = await (await notifier.world.person("ann")).do(notify_commands.ListPush())
        assert isinstance(devices, notify_replies.PushDevices)
        assert [device.channel for device in devices.items] == ["sms"]


async def test_a_token_that_was_registered_again_survives_an_old_410(tmp_path: Path) -> None:
    """Apple tells since when a token was dead; the app may have been installed again since."""
    async with open_sandbox() as sandbox, open_notifier(tmp_path, sandbox) as notifier:
        ann = await person(notifier, "ann", 1)
        sandbox.inject(Fault(channel="apns", status=410, times=1, timestamp_ms=wall_clock_ms() - 60_000))
        done = await notifier.notify(NotifyRequest(type="contact", user_id=ann.user_id, text="a"))
        await notifier.settled(done.items[0].notification_id)
        assert ("retire", "pass", "registered_again") in await notifier.rules(done.items[0].notification_id)
        await notifier.notify(NotifyRequest(type="contact", user_id=ann.user_id, text="b"))
        await sandbox.wait_for("apns", 1)


async def test_a_configuration_error_opens_the_breaker_and_keeps_the_queue(tmp_path: Path) -> None:
    """A wrong key must not turn ten thousand messages into ten thousand dead letters."""
    async with open_sandbox() as sandbox, open_notifier(tmp_path, sandbox) as notifier:
        users = await notifier.world.crowd(30)
        await notifier.have_apns(users)
        good = sandbox.configs().apns
        wrong = sandbox.configs().apns_development
        broken = type(good)(
            team_id=good.team_id,
            key_id="WRONGKEY01",
            private_key=wrong.private_key,
            topic=good.topic,
            base_url=good.base_url,
            ca_pem=good.ca_pem,
        )
        await notifier.core.desk.remove_provider(APP, "apns_development")
        await notifier.core.desk.put_provider(APP, "apns", broken)
        for user_id in users:
            await notifier.notify(NotifyRequest(type="contact", user_id=user_id, text="x"))
        await notifier.until_stat("refused", 1)
        assert notifier.stats.dead == 0
        await notifier.core.desk.put_provider(APP, "apns", good)
        await sandbox.wait_for("apns", 30)
        await notifier.until_stat("accepted", 30)
        assert sandbox.doubles("apns") == {}
        assert notifier.stats.dead == 0


@pytest.mark.parametrize("may_double", [False, True])
async def test_an_unknown_outcome_is_sent_again_only_where_the_type_allows(
    tmp_path: Path, may_double: bool
) -> None:
    """A money transfer's text twice is worse than never; a code twice is not."""
    async with open_sandbox() as sandbox, open_notifier(tmp_path, sandbox) as notifier:
        await notifier.core.desk.put_type(APP, TypeRule(name="t", channels=["sms"], may_double=may_double))
        ann = await notifier.world.person("ann")
        await ann.do(notify_commands.RegisterPush(channel="sms", address="+4915112345678"))
        ann.disconnect()
        sandbox.inject(Fault(channel="twilio", drop_after_accept=True, times=1))
        done = await notifier.notify(NotifyRequest(type="t", user_id=ann.user_id, text="x"))
        row = await notifier.settled(done.items[0].notification_id)
        assert row.state == "done"
        (delivery,) = await notifier.world.store.notify.deliveries(row.notification_id)
        expected = ("accepted", 1, 2) if may_double else ("unknown", 0, 1)
        assert (delivery.state, delivery.doubles, sandbox.count("sms")) == expected


async def test_a_dead_letter_can_be_driven_again(tmp_path: Path) -> None:
    """What failed by a mistake of the app is not lost once the mistake is mended."""
    async with open_sandbox() as sandbox, open_notifier(tmp_path, sandbox) as notifier:
        ann = await person(notifier, "ann", 1)
        sandbox.inject(Fault(channel="apns", status=400, code="BadTopic", times=1))
        done = await notifier.notify(NotifyRequest(type="contact", user_id=ann.user_id, text="x"))
        await notifier.until_stat("dead", 1)
        notification_id = done.items[0].notification_id
        await notifier.settled(notification_id)
        await notifier.redrive(notification_id, 0)
        await sandbox.wait_for("apns", 1)
        row = await notifier.settled(notification_id)
        assert row.sent_at_ms > 0


async def test_a_consent_that_ends_by_itself_takes_what_is_held_with_it(tmp_path: Path) -> None:
    """Consent for a month is not consent for five weeks."""
    clock = Clock()
    async with (
        open_sandbox(options=SandboxOptions(now_ms=clock)) as sandbox,
        open_notifier(tmp_path, sandbox, clock=clock) as notifier,
    ):
        await notifier.core.desk.put_type(APP, TypeRule(name="ads", purpose="ads", channels=["apns"]))
        ann = await notifier.world.person("ann")
        await notifier.has_apns(ann, 1)
        await ann.do(notify_commands.SetConsent(purpose="ads", given=True, ends_at_ms=clock() + HOUR_MS))
        ann.disconnect()
        held = await notifier.notify(
            NotifyRequest(type="ads", user_id=ann.user_id, text="x", send_at="2099-01-01T00:00")
        )
        notification_id = held.items[0].notification_id
        assert held.items[0].state == "held"
        clock.pass_by(notifier, HOUR_MS + 1_000)
        await notifier.until_state(notification_id, "erased")
        assert (await notifier.row(notification_id)).content == ""


async def test_what_ended_long_ago_is_forgotten_and_what_waits_is_not(tmp_path: Path) -> None:
    """A disk is finite, and so is the time for which data may be kept."""
    clock = Clock()
    async with open_at(tmp_path, clock) as (sandbox, notifier):
        ann = await person(notifier, "ann", 1)
        old = await notifier.notify(NotifyRequest(type="contact", user_id=ann.user_id, text="old"))
        held = await notifier.notify(
            NotifyRequest(type="contact", user_id=ann.user_id, text="held", send_at="2099-01-01T00:00")
        )
        ids = [done.items[0].notification_id for done in (old, held)]
        await notifier.settled(ids[0])
        clock.ahead_ms += RETENTION_MS + 1_000
        new = await notifier.notify(NotifyRequest(type="contact", user_id=ann.user_id, text="new"))
        await sandbox.wait_for("apns", 2)
        ids.append(new.items[0].notification_id)
        await notifier.settled(ids[2])
        await notifier.tidy(ids[0])
        found = await notifier.world.store.notify.notifications(ids)
        assert {row.notification_id for row in found} == {ids[1], ids[2]}
        assert await notifier.kinds(ids[2]) == ["decided", "concluded"]
        assert await notifier.ledger(ids[0]) == []
    assert {problem.code for problem in check(tmp_path)} <= {"user_without_app"}  # tests make none


async def test_a_digest_leaves_out_what_is_read_or_not_wanted_any_more(tmp_path: Path) -> None:
    """Wishes hold for everything that is not with a provider yet."""
    clock = Clock()
    async with open_at(tmp_path, clock) as (sandbox, notifier):
        for name in ("news", "offers", "alerts"):
            await notifier.core.desk.put_type(APP, TypeRule(name=name, is_capped=False))
        ann = await person(notifier, "ann", 1, frequency="daily")
        ids = {}
        for name in ("news", "offers", "alerts"):
            done = await notifier.notify(NotifyRequest(type=name, user_id=ann.user_id, title=f"The {name}"))
            assert done.items[0].state == "merged"
            ids[name] = done.items[0].notification_id
        ann = await notifier.world.person("ann")
        await ann.do(notify_commands.MarkNotifications(mark="read", notification_ids=[ids["alerts"]]))
        wishes = Preferences(frequency="daily", types={"offers": TypePreference(channels={"apns": False})})
        await ann.do(notify_commands.SetPreferences(preferences=wishes))
        ann.disconnect()
        clock.pass_by(notifier, 25 * HOUR_MS)
        await sandbox.wait_for("apns", 1)
        (text,) = bodies(sandbox)
        assert "The news" in text
        assert "offers" not in text
        assert "alerts" not in text
