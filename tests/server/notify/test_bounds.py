"""What no row can hold: refused where it comes in, and harmless to others where it gets further."""

from base64 import urlsafe_b64encode
from pathlib import Path

import msgspec
import pytest
import trio

from actors.notify import app
from actors.notify.address import notify_address, owner_of, partition_of
from actors.notify.messages import DeliveryTold, Redrive, Unsubscribe
from protocol import notify_commands
from protocol.errors import HubbubError, Unavailable
from protocol.limits import MAX_SAFE_INTEGER
from protocol.notify_content import NotifyRequest
from protocol.notify_found import MAX_SEQ
from protocol.notify_records import PARTITION_COUNT, NotifyUserRow, RequestRow
from protocol.notify_replies import NotificationPage, PreferencesInfo
from protocol.notify_templates import ChannelText, Template, Variable
from protocol.notify_types import MAX_WISHES, Preferences
from protocol.records import Put
from server.notify.callbacks import delivery_place
from server.sandbox.faults import Fault
from server.sandbox.sandbox import open_sandbox
from tests.server.http_world import code_of, open_api
from tests.server.notify.notify_world import APP, Notifier, open_notifier
from tests.server.notify.test_http_notify import backend_of
from tests.server.notify.test_interleavings import open_scene

BEYOND = 2**63  # SQLite's integers end before


def write_cursor_of(number: int) -> str:
    """A cursor as somebody would make it up."""
    return urlsafe_b64encode(msgspec.json.encode([number, number, number])).decode().rstrip("=")


async def test_numbers_beyond_what_is_stored_are_refused_by_name(tmp_path: Path) -> None:
    """One app's mistake, such as nanoseconds for milliseconds, must never reach the rows of all apps."""
    async with open_api(tmp_path) as api:
        backend = await backend_of(api)
        ann = await backend.user("ann")
        wanted = {"type": "contact", "user_id": ann, "text": "x"}
        for number in (MAX_SAFE_INTEGER + 1, BEYOND, 10**22):
            for body in (
                {"expires_at_ms": number},
                {"cron": "0 9 * * *", "ends_at_ms": number},
                {"data": {"n": number}},
                {"data": {"n": [-number]}},
            ):
                response = await backend.call("POST", "/v1/notifications", json=wanted | body)
                assert code_of(response) == (400, "bad_field"), body
            response = await backend.call(
                "PUT", f"/v1/app/users/{ann}/consents/ads", json={"given": True, "ends_at_ms": number}
            )
            assert code_of(response) == (400, "bad_field")
            for pair in ([number, 0], [1, number], [-1, 0]):
                response = await backend.call(
                    "POST", "/v1/app/notify/dead_letters/redrive", json={"deliveries": [pair]}
                )
                assert code_of(response) == (400, "bad_field")
            response = await backend.call("GET", f"/v1/app/users/{ann}/notifications?before={number}")
            assert code_of(response) == (400, "bad_field")
            if number > MAX_SEQ:
                after = write_cursor_of(number)
                for path in ("/v1/app/notify/dead_letters", f"/v1/app/users/{ann}/erasures"):
                    response = await backend.call("GET", f"{path}?after={after}")
                    assert code_of(response) == (400, "bad_cursor"), path
            cursor = ".".join([str(number)] * PARTITION_COUNT)
            response = await backend.call("GET", f"/v1/app/notify/events?after={cursor}")
            assert code_of(response) == (400, "bad_cursor")
            for path in (f"/v1/notifications/{number}", f"/v1/notifications/{number}/explain"):
                assert code_of(await backend.call("GET", path)) == (404, "notification_not_found")
        response = await backend.call(
            "POST", "/v1/notifications", json=wanted | {"expires_at_ms": MAX_SAFE_INTEGER}
        )
        assert response.status_code == 202
        assert api.notifications is not None
        assert api.notifications.partitions.stats().crashes == 0


async def test_a_purpose_is_called_the_same_by_types_and_by_consents(tmp_path: Path) -> None:
    """A type that asks for a consent which nobody can give would never be sent."""
    async with open_api(tmp_path) as api:
        backend = await backend_of(api)
        ann = await backend.user("ann")
        for purpose, name in (
            ("Bad Purpose!", "Bad%20Purpose!"),
            ("Marketing", "Marketing"),
            ("a" * 65,) * 2,
        ):
            rule = {"name": "ads", "purpose": purpose}
            response = await backend.call("PUT", "/v1/app/notify/types/ads", json=rule)
            assert code_of(response) == (400, "bad_field")
            response = await backend.call("PUT", f"/v1/app/users/{ann}/consents/{name}", json={"given": True})
            assert code_of(response) == (400, "bad_field")
        await backend.json("PUT", "/v1/app/notify/types/ads", json={"name": "ads", "purpose": "marketing"})
        await backend.json("PUT", f"/v1/app/users/{ann}/consents/marketing", json={"given": True})


@pytest.mark.parametrize(
    ("delivery_id", "place"),
    [
        ("1f-2", (31, 2)),
        (f"{MAX_SAFE_INTEGER:x}-0", (MAX_SAFE_INTEGER, 0)),
        (f"{MAX_SAFE_INTEGER + 1:x}-0", None),
        ("1f-99999999999999999999", None),
        ("-1f-2", None),
        ("1f--2", None),
        ("x-2", None),
    ],
)
def test_only_ids_that_can_be_ours_are_read_from_a_report(
    delivery_id: str, place: tuple[int, int] | None
) -> None:
    """A mail's Message-ID may be made up by whoever answers it."""
    assert delivery_place(delivery_id) == place


async def test_an_id_that_no_row_has_ends_nobody_elses_attempt(tmp_path: Path) -> None:
    """Whatever gets as far as the partition: it says so, and goes on."""
    async with open_sandbox() as sandbox, open_scene(tmp_path, sandbox) as scene:
        notification_id = await scene.under_way(Fault(channel="apns", holds=True, times=1))
        impossible = BEYOND | (partition_of(scene.user_id) << 8)
        codes = []
        for message in (
            Redrive("other", ((impossible, 0),)),
            DeliveryTold(impossible, 0, "bounced", "x", "", "other", "p"),
        ):
            with pytest.raises(HubbubError) as caught:
                await scene.notifier.world.core.router.ask(owner_of(impossible), message, timeout_s=5)
            codes.append(caught.value.code)
        assert codes == ["bad_field", "bad_field"]
        sandbox.release()
        row = await scene.closed(notification_id)
        assert (row.state, sandbox.count("apns")) == ("accepted", 1)
        stats = scene.notifier.core.partitions.stats()
        assert (stats.crashes, stats.stops) == (0, 0)


async def test_a_campaign_that_was_stored_with_such_a_number_comes_to_an_end(tmp_path: Path) -> None:
    """It would be handed on again and again, after each restart, and fail each time."""
    body = msgspec.json.encode(NotifyRequest(type="contact", group="*", text="x", expires_at_ms=BEYOND))
    stored = RequestRow(
        request_id="rq_old", app_id=APP, digest="d", body=body.decode(), state="running", created_at_ms=1
    )
    async with open_notifier(tmp_path) as notifier:
        ann = await notifier.world.person("ann")
        await notifier.world.store.commit([Put(stored)])
    async with open_notifier(tmp_path, is_new=False) as notifier:
        await notifier.wake_app()
        await _ended(notifier, "rq_old")
        assert notifier.core.partitions.stats().crashes == 0
        done = await notifier.notify(NotifyRequest(type="contact", user_id=ann.user_id, text="y"))
        assert done.items


async def test_a_page_that_cannot_be_stored_ends_its_campaign(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A store that is full or slow is waited for; one that says of this page that it cannot be is not."""
    monkeypatch.setattr(app, "MAX_FAILURES", 2)
    async with open_notifier(tmp_path) as notifier:
        ann = await notifier.world.person("ann")
        flaky = notifier.world.flaky
        flaky.failing = "n:"
        flaky.failures += [
            Unavailable("internal", "The store could not take this: it", retry_after_s=0.01)
        ] * 2
        done = await notifier.notify(NotifyRequest(type="contact", group="*", text="x"))
        await _ended(notifier, done.request_id)
        assert flaky.failures == []
        page = await ann.do(notify_commands.ListNotifications())
        assert isinstance(page, NotificationPage)
        assert page.items == []


async def test_half_a_character_in_a_request_is_refused(tmp_path: Path) -> None:
    """JSON can write it, UTF-8 cannot."""
    async with open_api(tmp_path) as api:
        backend = await backend_of(api)
        ann = await backend.user("ann")
        headers = backend.basic | {"content-type": "application/json"}
        for text in (rb"\ud83d", rb"\ude00\ud83d", b"\xed\xa0\xbd"):
            body = b'{"type":"contact","user_id":"%s","text":"%s"}' % (ann.encode(), text)
            response = await api.client.post("/v1/notifications", content=body, headers=headers)
            assert response.status_code == 400, response.text
        body = rb'{"type":"contact","user_id":"%s","text":"\ud83d\ude00"}' % ann.encode()
        response = await api.client.post("/v1/notifications", content=body, headers=headers)
        assert response.status_code == 202


async def test_half_a_character_in_a_template_is_told_whole(tmp_path: Path) -> None:
    """An app that writes its emoji as JavaScript does must not stop the partition that all apps share."""
    async with open_sandbox() as sandbox, open_scene(tmp_path, sandbox) as scene:
        text = ChannelText(title=r"{{ '\ud83d\ude00' }}", body=r"{{ '\ud83d' }} {{ actor['\ud83d'] }}")
        smile = Template(
            name="smile",
            texts={"default": {"en": {"default": text}}},
            variables={"actor": Variable(kind="object")},
        )
        await scene.notifier.core.desk.put_template(APP, smile)
        request = NotifyRequest(type="t", user_id=scene.user_id, template="smile")
        notification = msgspec.structs.replace(request, data={"actor": {"\ufffd": "x"}})
        assert await scene.notifier.refusal(notification) == "template_variable_unknown"
        text = msgspec.structs.replace(text, body=r"{{ '\ud83d' }}")
        await scene.notifier.core.desk.put_template(
            APP, msgspec.structs.replace(smile, texts={"default": {"en": {"default": text}}})
        )
        done = await scene.notifier.notify(msgspec.structs.replace(request, data={"actor": {}}))
        await scene.closed(done.items[0].notification_id)
        (arrived,) = sandbox.deliveries("apns")
        assert arrived.content["payload"]["aps"]["alert"] == {"title": "😀", "body": "\ufffd"}
        assert scene.notifier.core.partitions.stats().crashes == 0


async def test_who_opts_out_of_one_type_after_the_other_is_still_known_after_a_restart(
    tmp_path: Path,
) -> None:
    """Each mail has its link; a row that grows too large to be read would stop the partition for all."""
    async with open_notifier(tmp_path) as notifier:
        ann = await notifier.world.person("ann")
        for number in range(MAX_WISHES + 2):
            message = Unsubscribe(ann.user_id, APP, f"type{number}", "email")
            await notifier.world.core.router.ask(notify_address(ann.user_id), message, timeout_s=5)
    async with open_notifier(tmp_path, is_new=False) as notifier:
        ann = await notifier.world.person("ann")
        found = await ann.do(notify_commands.GetPreferences())
        assert isinstance(found, PreferencesInfo)
        assert len(found.preferences.types) == MAX_WISHES
        assert found.preferences.types[f"type{MAX_WISHES + 1}"].channels == {"email": False}
        assert notifier.core.partitions.stats().crashes == 0


async def test_wishes_that_cannot_be_read_cost_their_user_alone(tmp_path: Path) -> None:
    """Nothing but security is sent to who may have opted out; who shares the partition notices nothing."""
    async with open_notifier(tmp_path) as notifier:
        people = [await notifier.world.person(name) for name in ("ann", "ben")]
        row = NotifyUserRow(user_id=people[0].user_id, app_id=APP, preferences='{"digest_at": 9}')
        await notifier.world.store.commit([Put(row)])
        states = []
        for person in people:
            for kind in ("contact", "security"):
                done = await notifier.notify(NotifyRequest(type=kind, user_id=person.user_id, text="x"))
                states.append((done.items[0].state, done.items[0].reason))
        assert states[0][0] == "dropped"
        assert "off" in states[0][1]
        assert [state for state, _ in states[1:]] == ["done"] * 3
        assert notifier.core.partitions.stats().crashes == 0
        await people[0].do(notify_commands.SetPreferences(preferences=Preferences()))
        done = await notifier.notify(NotifyRequest(type="contact", user_id=people[0].user_id, text="y"))
        assert done.items[0].state == "done"


async def _ended(notifier: Notifier, request_id: str) -> None:
    """Wait until a request has ended without being done."""
    while True:
        row = await notifier.world.store.get(RequestRow, request_id)
        assert row is not None
        if row.state not in ("running", "waiting"):
            assert row.state != "done"
            return
        await trio.sleep(0.005)
