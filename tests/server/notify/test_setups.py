"""What apps have set up stays readable, however often it was changed and whatever it once held."""

from pathlib import Path

import msgspec
import pytest
import trio

from protocol.errors import Refused
from protocol.notify_content import NotifyRequest
from protocol.notify_records import NotificationRow, NotifyAppRow, NotifyTypeRow, RequestRow, TemplateRow
from protocol.notify_types import AppRules, TypeRule
from protocol.records import Insert, Put, Update
from server.notify import app_desk
from server.notify.app_desk import KEPT_VERSIONS
from server.sandbox.sandbox import open_sandbox
from tests.server.notify.notify_world import APP, Clock, Notifier, open_notifier
from tests.server.notify.texts import one_text


async def versions(notifier: Notifier, name: str) -> list[int]:
    return await notifier.world.store.notify.template_versions(APP, name)


async def test_of_a_template_that_is_changed_often_a_few_versions_are_kept(tmp_path: Path) -> None:
    """A deployment that saves its templates each time must not fill the store, and each node's memory."""
    async with open_notifier(tmp_path) as notifier:
        desk = notifier.core.desk
        await desk.put_template(APP, msgspec.structs.replace(one_text("other"), name="other"))
        for number in range(KEPT_VERSIONS + 3):
            stored = await desk.put_template(APP, one_text(f"text {number}"))
            assert stored.version == number + 1
        assert await versions(notifier, "greeting") == list(range(4, KEPT_VERSIONS + 4))
        assert await versions(notifier, "other") == [1]
    async with open_notifier(tmp_path, is_new=False) as notifier:
        setup = await notifier.core.setups.reload(APP)
        assert setup.templates["greeting"].version == KEPT_VERSIONS + 3
        assert setup.templates["greeting"].texts["default"]["en"]["default"].body == "text 12"
        assert (await notifier.core.desk.put_template(APP, one_text("x"))).version == KEPT_VERSIONS + 4


async def test_the_newest_version_is_used_however_many_there_are(tmp_path: Path) -> None:
    """A directory of a release that kept them all."""
    async with open_notifier(tmp_path) as notifier:
        body = msgspec.json.encode(one_text("x")).decode()
        rows = [
            Insert(TemplateRow(app_id=APP, name="greeting", version=version, body=body, created_at_ms=1))
            for version in range(1, 10_050)
        ]
        for start in range(0, len(rows), 5_000):
            await notifier.world.store.commit(rows[start : start + 5_000])
        stored = await notifier.core.desk.put_template(APP, one_text("new"))
        assert stored.version == 10_050
        assert (await notifier.core.setups.reload(APP)).templates["greeting"] == stored
        assert len(await versions(notifier, "greeting")) < 10_000


async def test_all_templates_of_an_app_have_a_size_together(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each node has them in memory, and reads them with every change."""
    monkeypatch.setattr(app_desk, "MAX_TEMPLATE_BYTES", 1_000)
    async with open_notifier(tmp_path) as notifier:
        desk = notifier.core.desk
        await desk.put_template(APP, one_text("x" * 700))
        with pytest.raises(Refused) as caught:
            await desk.put_template(APP, msgspec.structs.replace(one_text("x" * 300), name="second"))
        assert caught.value.code == "bad_request"
        await desk.put_template(APP, one_text("x" * 800))  # in the place of the first


async def test_rows_that_cannot_be_read_any_more_cost_themselves_alone(tmp_path: Path) -> None:
    """What is let in may be narrower with a new release; an app's other types go on, and other apps."""
    async with open_notifier(tmp_path) as notifier:
        await notifier.core.desk.put_type(APP, TypeRule(name="good", channels=["inapp"]))
        bad = '{"name":"ads","purpose":"Bad Purpose!"}'
        await notifier.world.store.commit(
            [
                Put(NotifyTypeRow(app_id=APP, name="ads", body=bad)),
                Put(TemplateRow(app_id=APP, name="t", version=1, body="{}", created_at_ms=1)),
                Put(NotifyTypeRow(app_id=APP, name="deep", body=f'{{"name":"deep","x":{"[" * 100_000}')),
                Put(NotifyAppRow(app_id=APP, version=7, rules='{"cap_per_hour":-1}')),
            ]
        )
    async with open_notifier(tmp_path, is_new=False) as notifier:
        setup = await notifier.core.setups.load(APP)
        assert (setup.version, setup.rules, list(setup.own_types)) == (7, AppRules(), ["good"])
        ann = await notifier.world.person("ann")
        with trio.fail_after(5):
            done = await notifier.notify(NotifyRequest(type="good", user_id=ann.user_id, text="x"))
        assert done.items[0].state == "done"
        assert await notifier.refusal(NotifyRequest(type="ads", user_id=ann.user_id, text="x")) == (
            "type_not_found"
        )


async def test_a_stored_channel_that_is_named_twice_is_one(tmp_path: Path) -> None:
    """Of a release that took it: each device had it twice, from the type and from what recurs."""
    clock = Clock()
    async with open_sandbox() as sandbox, open_notifier(tmp_path, sandbox, clock=clock) as notifier:
        person = await notifier.world.person("ann")
        await notifier.has_apns(person, 1)
        person.disconnect()
        body = '{"name":"order","channels":["apns","apns"],"is_capped":false}'
        await notifier.world.store.commit([Put(NotifyTypeRow(app_id=APP, name="order", body=body))])
        await notifier.core.setups.reload(APP)
        one = NotifyRequest(type="order", user_id=person.user_id, text="one")
        done = await notifier.notify(one)
        await notifier.settled(done.items[0].notification_id)
        assert sandbox.count("apns") == 1
        recurring = NotifyRequest(type="order", group="*", text="x", cron="* * * * *", channels=["apns"])
        kept = await notifier.notify(recurring)
        row = await notifier.world.store.get(RequestRow, kept.request_id)
        assert row is not None
        doubled = row.body.replace('["apns"]', '["apns","apns"]')
        assert doubled != row.body
        await notifier.world.store.commit(
            [Update(RequestRow, {"request_id": row.request_id}, {"body": doubled})]
        )
    async with open_sandbox() as sandbox, open_notifier(tmp_path, is_new=False, clock=clock) as notifier:
        await notifier.core.desk.put_provider(APP, "apns", sandbox.configs().apns)
        clock.ahead_ms += 61_000
        await notifier.wake_app()
        await sandbox.wait_for("apns", 1)
        (told,) = await notifier.world.store.find(NotificationRow, {"request_id": row.request_id})
        await notifier.settled(told.notification_id)
        assert sandbox.count("apns") == 1
        assert len(await notifier.world.store.notify.deliveries(told.notification_id)) == 1
