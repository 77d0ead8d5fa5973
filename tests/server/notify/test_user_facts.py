"""What is decided about a user goes by what holds now: name, language, time zone, and whether disabled."""

from pathlib import Path

import pytest
import trio
import trio.testing

from actors.notify import fact_keeper
from actors.notify.fact_keeper import MAX_AGE_S, is_stale
from protocol import commands, notify_commands, notify_replies
from protocol.notify_content import NotifyRequest
from protocol.notify_types import TypeRule
from protocol.records import Disabled, Op, Put, Remove, Update, User
from server.sandbox.sandbox import open_sandbox
from storage.sqlite import open_store
from tests.server.http_world import open_api
from tests.server.notify.notify_world import APP, Notifier, apns_token, open_notifier


async def disable(notifier: Notifier, user_id: str) -> None:
    """As the accounts do it."""
    await notifier.world.store.commit([Put(Disabled(user_id=user_id, at_ms=1))])
    notifier.core.user_changed(user_id)


async def write_elsewhere(directory: Path, *ops: Op) -> None:
    """As an operator's command does it, in a process of its own: nobody is told."""
    async with open_store(directory) as store:
        await store.commit(list(ops))


async def time_zone_of(notifier: Notifier, name: str) -> str:
    """What the user's partition knows."""
    device = await notifier.world.person(name)
    found = await device.do(notify_commands.GetPreferences())
    device.disconnect()
    assert isinstance(found, notify_replies.PreferencesInfo)
    return found.time_zone


async def test_a_new_time_zone_and_name_hold_for_the_next_notification(tmp_path: Path) -> None:
    """Travellers expect quiet hours where they are."""
    async with open_notifier(tmp_path) as notifier:
        ann = await notifier.world.person("ann")
        await notifier.notify(NotifyRequest(type="contact", user_id=ann.user_id, text="1"))
        assert await time_zone_of(notifier, "ann") == ""
        await ann.do(commands.UpdateProfile(time_zone="Asia/Tokyo"))
        assert await time_zone_of(notifier, "ann") == "Asia/Tokyo"


async def test_a_disabled_user_is_told_nothing_until_enabled_again(tmp_path: Path) -> None:
    """Who was kept out for abuse, or has left, must not be pushed to."""
    async with open_sandbox() as sandbox, open_notifier(tmp_path, sandbox) as notifier:
        await notifier.core.desk.put_type(APP, TypeRule(name="t", channels=["apns"], dedup_s=0))
        ann = await notifier.world.person("ann")
        await notifier.has_apns(ann, 1)
        ann.disconnect()
        request = NotifyRequest(type="t", user_id=ann.user_id, text="1")
        await notifier.notify(request)
        await sandbox.wait_for("apns", 1)
        await disable(notifier, ann.user_id)
        assert await notifier.refusal(request) == "user_not_found"
        assert sandbox.count("apns") == 1
        await notifier.world.store.commit([Remove(Disabled, {"user_id": ann.user_id})])
        notifier.core.user_changed(ann.user_id)
        await notifier.notify(request)
        await sandbox.wait_for("apns", 2)


async def test_what_waits_for_a_user_who_is_disabled_is_not_sent(tmp_path: Path) -> None:
    """A queue may be hours long."""
    async with open_sandbox() as sandbox, open_notifier(tmp_path, sandbox) as notifier:
        await notifier.core.desk.remove_provider(APP, "apns_development")
        await notifier.core.desk.pause_provider(APP, "apns", is_paused=True)
        await notifier.core.desk.put_type(APP, TypeRule(name="t", channels=["apns"]))
        ann = await notifier.world.person("ann")
        await notifier.has_apns(ann, 1)
        ann.disconnect()
        done = await notifier.notify(NotifyRequest(type="t", user_id=ann.user_id, text="1"))
        notification_id = done.items[0].notification_id
        await disable(notifier, ann.user_id)
        await notifier.settled(notification_id)
        assert ("validate", "drop", "user_disabled") in await notifier.rules(notification_id)
        (delivery,) = await notifier.world.store.notify.deliveries(notification_id)
        assert (delivery.state, delivery.is_open) == ("skipped", False)


async def test_a_change_that_nobody_told_is_noticed_by_age(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A tell between nodes may be lost, and an operator's command runs in a process of its own."""
    monkeypatch.setattr(fact_keeper, "MAX_AGE_S", 0.0)
    async with open_notifier(tmp_path) as notifier:
        ann = await notifier.world.person("ann")
        request = NotifyRequest(type="contact", user_id=ann.user_id, text="1")
        await notifier.notify(request)
        where: dict[str, str | int] = {"user_id": ann.user_id}
        await write_elsewhere(tmp_path, Update(User, where, {"time_zone": "Asia/Tokyo"}))
        assert await time_zone_of(notifier, "ann") == "Asia/Tokyo"
        await write_elsewhere(tmp_path, Put(Disabled(user_id=ann.user_id, at_ms=1)))
        assert await notifier.refusal(request) == "user_not_found"


async def test_what_nobody_else_has_written_about_is_not_read_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One look at the store's count is good for all users; a command in another process is noticed by it."""
    age_s = 0.3  # a look that takes longer is of no use, and on a busy machine it takes a while
    monkeypatch.setattr(fact_keeper, "MAX_AGE_S", age_s)
    async with open_notifier(tmp_path) as notifier:
        ann = await notifier.world.person("ann")
        reads = type(notifier.world.store.notify)
        read_facts, asked = reads.user_facts, list[object]()

        async def counted(self: object, *args: object) -> object:
            asked.append(args)
            return await read_facts(self, *args)  # type: ignore[arg-type]

        monkeypatch.setattr(reads, "user_facts", counted)
        for number in range(5):
            text = f"{number}"
            await notifier.notify(NotifyRequest(type="contact", user_id=ann.user_id, text=text))
            await trio.sleep(age_s)  # until what is known is old
        assert len(asked) == 1  # the first look has nothing to compare with
        where: dict[str, str | int] = {"user_id": ann.user_id}
        await write_elsewhere(tmp_path, Update(User, where, {"time_zone": "Asia/Tokyo"}))
        await trio.sleep(age_s)
        assert await time_zone_of(notifier, "ann") == "Asia/Tokyo"


async def test_nothing_is_sent_from_the_queue_by_old_facts(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Disabled at the command line, while a provider was down."""
    monkeypatch.setattr(fact_keeper, "MAX_AGE_S", 0.0)
    async with open_sandbox() as sandbox, open_notifier(tmp_path, sandbox) as notifier:
        await notifier.core.desk.remove_provider(APP, "apns_development")
        await notifier.core.desk.put_type(APP, TypeRule(name="t", channels=["apns"]))
        await notifier.core.desk.pause_provider(APP, "apns", is_paused=True)
        people = await notifier.world.people("ann", "ben")
        ids = []
        for number, person in enumerate(people, 1):
            await notifier.has_apns(person, number)
            person.disconnect()
            done = await notifier.notify(NotifyRequest(type="t", user_id=person.user_id, text="1"))
            ids.append(done.items[0].notification_id)
        await write_elsewhere(tmp_path, Put(Disabled(user_id=people[0].user_id, at_ms=1)))
        await notifier.core.desk.pause_provider(APP, "apns", is_paused=False)
        for notification_id in ids:
            await notifier.settled(notification_id)
        assert [found.address for found in sandbox.deliveries("apns")] == [apns_token(2)]
        assert notifier.core.channels.channels["apns"].in_hand == 0


async def test_a_change_while_the_user_is_being_read_is_not_missed(tmp_path: Path) -> None:
    """The read may have begun before the change was stored."""
    async with open_notifier(tmp_path) as notifier:
        ann = await notifier.world.person("ann")
        reads = type(notifier.world.store.notify)
        read_users = reads.users
        has_read, may_go_on = trio.Event(), trio.Event()

        async def slow(self: object, *args: object, **more: object) -> object:
            found = await read_users(self, *args, **more)  # type: ignore[arg-type]
            has_read.set()
            await may_go_on.wait()
            return found

        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(reads, "users", slow)
            async with trio.open_nursery() as nursery:
                nursery.start_soon(
                    notifier.refusal, NotifyRequest(type="contact", user_id=ann.user_id, text="1")
                )
                await has_read.wait()
                await disable(notifier, ann.user_id)
                await trio.testing.wait_all_tasks_blocked()  # the partition has been told
                may_go_on.set()


async def test_the_accounts_tell_when_a_user_is_disabled_and_enabled(tmp_path: Path) -> None:
    """The public door: POST /v1/app/users/ID/disable."""
    told: list[str] = []
    async with open_api(tmp_path) as api:
        ann = await api.accounts.create_user("default", "ann", "long enough 1")
        api.accounts.on_user_changed = told.append
        await api.accounts.disable_user(ann)
        await api.accounts.enable_user(ann)
    assert told == [ann.user_id] * 2


def test_facts_are_stale_after_a_while_or_when_they_have_changed() -> None:
    """The rule."""
    assert not is_stale(100.0, None, 100.0 + MAX_AGE_S - 1)
    assert is_stale(100.0, None, 100.0 + MAX_AGE_S)
    assert is_stale(100.0, 100.5, 101.0)
    assert not is_stale(100.0, 99.0, 101.0)
