"""Channels and requests on a real node: crashes, clocks, pace, guards, schedules, experiments, receipts."""

from pathlib import Path

import pytest
import trio

from protocol import notify_commands, notify_replies
from protocol.errors import HubbubError
from protocol.notify_content import NotifyRequest
from protocol.notify_templates import ChannelText, Experiment, LocaleTexts, Template, Variable
from protocol.notify_types import AppRules, TypeRule
from server.sandbox.faults import Fault
from server.sandbox.sandbox import open_sandbox
from tests.server.notify.notify_world import APP, Clock, open_notifier
from tests.server.notify.test_pipeline import open_at, person


async def test_a_channel_that_crashes_loses_nothing(tmp_path: Path) -> None:
    """A worker's crash is small: what it had in hand is unknown, what waited goes on."""
    async with open_sandbox() as sandbox, open_notifier(tmp_path, sandbox) as notifier:
        rule = TypeRule(name="t", channels=["apns"], may_double=True, is_capped=False)
        await notifier.core.desk.put_type(APP, rule)
        users = await notifier.world.crowd(40)
        await notifier.have_apns(users)
        sandbox.inject(Fault(channel="apns", holds=True, times=40))
        for user_id in users:
            await notifier.notify(NotifyRequest(type="t", user_id=user_id, text="x"))
        channel = notifier.core.channels.channels["apns"]
        await sandbox.wait_held("apns")

        def crash() -> float:
            del channel._pump  # the class's own is back
            raise RuntimeError("a bug of ours")

        channel._pump = crash  # type: ignore[method-assign]
        channel._pump_soon()
        await notifier.until_stat("unknown", 1)
        sandbox.release()
        await notifier.until_stat("accepted", 40)
        assert channel.in_hand == 0
        assert sandbox.count("apns") >= 40


async def test_a_clock_that_is_set_back_holds_nothing_up_for_long(tmp_path: Path) -> None:
    """Machines are set right; what was due stays due."""
    clock = Clock()
    async with open_at(tmp_path, clock) as (sandbox, notifier):
        ann = await person(notifier, "ann", 1)
        clock.ahead_ms -= 600_000
        first = await notifier.notify(NotifyRequest(type="contact", user_id=ann.user_id, text="a"))
        clock.ahead_ms += 1_200_000
        second = await notifier.notify(NotifyRequest(type="contact", user_id=ann.user_id, text="b"))
        await sandbox.wait_for("apns", 2)
        ids = [done.items[0].notification_id for done in (first, second)]
        assert ids[0] < ids[1]
        for notification_id in ids:
            await notifier.settled(notification_id)
            times = [entry.at_ms for entry in await notifier.ledger(notification_id)]
            assert times == sorted(times)


async def test_a_wrong_setting_does_not_retire_everybody(tmp_path: Path) -> None:
    """Sandbox tokens at the production server look dead, all of them."""
    async with open_sandbox() as sandbox, open_notifier(tmp_path, sandbox) as notifier:
        rule = TypeRule(name="t", channels=["apns"], is_capped=False)
        await notifier.core.desk.put_type(APP, rule)
        await notifier.core.desk.remove_provider(APP, "apns_development")
        users = await notifier.world.crowd(60)
        await notifier.have_apns(users)
        sandbox.inject(Fault(channel="apns", status=400, code="BadDeviceToken"))
        for user_id in users:
            await notifier.notify(NotifyRequest(type="t", user_id=user_id, text="x"))
        await notifier.until_stat("refused", 60)
        await notifier.world.store.barrier()
        counts = await notifier.world.store.notify.device_counts()
        assert counts[APP, "apns"] >= 40


async def test_the_pace_of_an_account_is_kept(tmp_path: Path) -> None:
    """An SES account with 14 mails a second is suspended for 15."""
    async with open_sandbox() as sandbox, open_notifier(tmp_path, sandbox) as notifier:
        rule = TypeRule(name="t", channels=["apns"], is_capped=False)
        await notifier.core.desk.put_type(APP, rule)
        await notifier.core.desk.remove_provider(APP, "apns_development")
        config = sandbox.configs().apns
        paced = type(config)(
            **{name: getattr(config, name) for name in config.__struct_fields__ if name != "rate_per_s"},
            rate_per_s=20.0,
        )
        await notifier.core.desk.put_provider(APP, "apns", paced)
        users = await notifier.world.crowd(30)
        await notifier.have_apns(users)
        started = trio.current_time()
        for user_id in users:
            await notifier.notify(NotifyRequest(type="t", user_id=user_id, text="x"))
        await sandbox.wait_for("apns", 30)
        assert trio.current_time() - started > (30 - 4) / 20.0  # 28 beyond the burst of two, less some jitter


async def test_a_recurring_request_comes_again_until_it_is_cancelled(tmp_path: Path) -> None:
    """A weekly summary is set up once."""
    clock = Clock()
    async with open_at(tmp_path, clock) as (sandbox, notifier):
        ann = await person(notifier, "ann", 1)
        done = await notifier.notify(
            NotifyRequest(type="contact", user_ids=[ann.user_id], text="weekly", cron="0 * * * *")
        )
        assert done.state == "waiting"
        for count in (1, 2):
            clock.ahead_ms += 3_600_000
            await notifier.wake_app()
            await sandbox.wait_for("apns", count)
        await notifier.core.entry.cancel(APP, done.request_id)
        clock.ahead_ms += 7 * 86_400_000
        await notifier.wake_app()
        other = await notifier.notify(NotifyRequest(type="contact", user_id=ann.user_id, text="other"))
        await sandbox.wait_for("apns", 3)
        await notifier.settled(other.items[0].notification_id)
        assert sandbox.count("apns") == 3


async def test_an_experiment_divides_users_and_counts_what_they_do(tmp_path: Path) -> None:
    """Which words bring people back is measured, not guessed."""
    async with open_sandbox() as sandbox, open_notifier(tmp_path, sandbox) as notifier:
        desk = notifier.core.desk
        await desk.put_type(APP, TypeRule(name="t", is_capped=False))
        texts: dict[str, LocaleTexts] = {
            name: {"en": {"default": ChannelText(title=f"{name} title", body="{{ word }}")}}
            for name in ("default", "short")
        }
        template = Template(name="hello", texts=texts, variables={"word": Variable()})
        await desk.put_template(APP, template)
        experiment = Experiment(
            name="words", template="hello", variants={"default": 1, "short": 1}, holdout_percent=20
        )
        await desk.put_experiment(APP, experiment)
        users = await notifier.world.crowd(100)
        request = NotifyRequest(
            type="t", user_ids=users, template="hello", data={"word": "Hi"}, experiment="words"
        )
        done = await notifier.notify(request)
        shown = [item for item in done.items if item.state == "done"]
        assert {item.state for item in done.items} == {"done", "dropped"}
        assert 60 <= len(shown) <= 95
        for item in shown[:5]:
            await notifier.mark(item.notification_id, "clicked")
        results = await desk.experiment_results(APP, "words")
        assert sum(result.exposures for result in results.variants) == len(shown)
        assert sum(result.conversions for result in results.variants) == 5
        missing = NotifyRequest(type="t", user_ids=users, template="hello", data={})
        assert await notifier.refusal(missing) == "template_variable_unknown"


async def test_a_bot_of_the_app_and_who_has_its_secret_may_notify(tmp_path: Path) -> None:
    """The same as POST /v1/notifications, over the connection that is there already."""
    async with open_notifier(tmp_path) as notifier:
        ann, ben = await notifier.world.people("ann", "ben")
        request = NotifyRequest(type="contact", user_id=ann.user_id, text="Hi")
        assert await ben.refusal(notify_commands.Notify(request=request)) == "forbidden"
        wrong = notify_commands.Notify(app_key="k", secret="no", request=request)
        assert await ben.refusal(wrong) == "unauthenticated"
        key, secret = await notifier.app_key()
        reply = await ben.do(notify_commands.Notify(app_key=key, secret=secret, request=request))
        assert isinstance(reply, notify_replies.NotifyAccepted)
        assert reply.items[0].state == "done"


async def test_an_app_that_has_set_up_nothing_can_notify(tmp_path: Path) -> None:
    """An app without any setup has the built-in types, and no provider but web push."""
    async with open_notifier(tmp_path) as notifier:
        app = await notifier.world.core.notifications.desk.setup("default")
        assert {rule.name for rule in app.all_types()} >= {"chat", "mention", "like", "digest", "security"}
        assert app.has_provider("webpush")
        assert not app.has_provider("apns")
        with pytest.raises(HubbubError):
            await notifier.core.desk.remove_provider(APP, "none")


async def test_rules_that_cannot_be_are_refused(tmp_path: Path) -> None:
    """A time zone that does not exist would hold everything at the wrong time."""
    async with open_notifier(tmp_path) as notifier:
        with pytest.raises(HubbubError) as caught:
            await notifier.core.desk.put_rules(APP, AppRules(default_time_zone="Mars/Olympus"))
        assert caught.value.code == "bad_field"
