"""What is refused, as it would mean nothing or not what it seems to."""

from pathlib import Path
from typing import Any

import httpx
import msgspec
import pytest

from protocol.errors import ProtocolError
from protocol.notify_content import KeptRequest, NotifyRequest, kept_of
from protocol.notify_templates import Experiment, Template
from protocol.notify_types import TypeRule
from server.notify.request_check import check_meaning, check_type
from tests.server.http_world import code_of, open_api
from tests.server.notify.notify_world import APP, open_notifier
from tests.server.notify.test_http_notify import backend_of
from tests.server.notify.texts import one_text

OF_ORDERS = msgspec.structs.replace(one_text("x"), type="order")
ABOUT_OTHERS = Experiment(name="e", template="other", variants={"default": 1, "short": 1})


@pytest.mark.parametrize(
    ("fields", "word"),
    [
        ({"text": "x", "channels": ["apns", "email", "apns"]}, "'apns' is named twice"),
        ({"text": "x", "time_zone": "Asia/Tokyo"}, "time_zone"),
        ({"text": "x", "time_zone": "Asia/Tokyo", "send_at": "2026-12-24T18:00"}, "time_zone"),
        ({"text": "x", "ends_at_ms": 5}, "ends_at_ms"),
        ({"text": "x", "experiment": "e"}, "xperiment"),
        ({"template": "greeting", "data": {"number": 1, "count": 42}}, "'count' is set by hubbub"),
        ({"template": "greeting", "data": {"reader": "Max"}}, "'reader' is set by hubbub"),
        ({"template": "greeting", "type": "news"}, "type 'order' alone"),
        ({"template": "greeting", "type": "order", "experiment": "e"}, "template 'other'"),
    ],
)
def test_what_would_be_ignored_is_refused(fields: dict[str, Any], word: str) -> None:
    """Who wrote it relies on it: 18:00 in Tokyo is not 18:00 in Greenwich."""
    request = msgspec.convert({"type": "t", "user_id": "u"} | fields, NotifyRequest)
    template = OF_ORDERS if request.template else None
    with pytest.raises(ProtocolError) as caught:
        check_meaning(request, template, ABOUT_OTHERS if request.experiment else None)
    assert caught.value.code == "bad_field"
    assert word in caught.value.message


@pytest.mark.parametrize(
    "fields",
    [
        {"text": "x", "cron": "0 9 * * 1", "time_zone": "Asia/Tokyo", "ends_at_ms": 5},
        {"text": "x", "data": {"count": 42}},  # it goes to the device as it is
        {"template": "greeting", "type": "order", "data": {"number": 1}, "channels": ["apns", "email"]},
    ],
)
def test_what_has_an_effect_is_taken(fields: dict[str, Any]) -> None:
    """The other side of it."""
    request = msgspec.convert({"type": "t", "user_id": "u"} | fields, NotifyRequest)
    check_meaning(request, OF_ORDERS if request.template else None, None)


@pytest.mark.parametrize(
    "rule",
    [
        TypeRule(name="t", channels=[]),
        TypeRule(name="t", channels=["apns", "apns"]),
        TypeRule(name="t", channels=["inapp"], fallback=["sms", "email", "sms"]),
    ],
)
def test_a_type_goes_somewhere_and_nowhere_twice(rule: TypeRule) -> None:
    """Twice the same push on one phone is what users uninstall apps for."""
    with pytest.raises(ProtocolError):
        check_type(rule)


async def test_the_door_asks(tmp_path: Path) -> None:
    """Where types are set and requests come in."""
    async with open_notifier(tmp_path) as notifier:
        desk = notifier.core.desk
        with pytest.raises(ProtocolError):
            await desk.put_type(APP, TypeRule(name="t", channels=["apns", "apns"]))
        await desk.put_type(APP, TypeRule(name="news", channels=["inapp"]))
        await desk.put_template(APP, OF_ORDERS)
        (ann,) = await notifier.world.people("ann")
        twice = NotifyRequest(type="news", user_id=ann.user_id, text="x", channels=["apns", "apns"])
        others = NotifyRequest(type="news", user_id=ann.user_id, template="greeting")
        assert [await notifier.refusal(twice), await notifier.refusal(others)] == ["bad_field"] * 2


async def test_a_misspelt_field_is_refused_by_every_door(tmp_path: Path) -> None:
    """A bot's code expires too: what was meant for a minute is not to arrive tomorrow."""
    async with open_api(tmp_path) as api:
        backend = await backend_of(api)
        ann = await backend.user("ann")
        bot = await backend.json("POST", "/v1/app/bots", 201, json={"username": "robot"})
        headers = {"authorization": f"Bearer {bot['token']}"}

        async def notify(**fields: object) -> httpx.Response:
            request = {"type": "contact", "user_id": ann, "text": "4711", **fields}
            body = {"type": "notify", "id": 1, "request": request}
            return await api.call("POST", "/v1/commands", json=body, headers=headers)

        refused = await notify(expires_at=5)
        assert code_of(refused) == (400, "bad_field")
        assert "expires_at" in refused.json()["message"]
        assert (await notify(subject="code")).status_code == 200


def test_a_request_that_is_kept_may_come_from_a_newer_node() -> None:
    """A rolling upgrade: the older half of the cluster carries on with what it understands."""
    kept = kept_of(NotifyRequest(type="t", group="*", text="x", cron="* * * * *"))
    newer = msgspec.to_builtins(kept) | {"mood": "cheerful"}
    assert msgspec.convert(newer, KeptRequest) == kept
    with pytest.raises(msgspec.ValidationError):
        msgspec.convert(newer, NotifyRequest)


def test_templates_without_a_type_are_for_all() -> None:
    """As most are."""
    template = Template(name="t", texts=OF_ORDERS.texts)
    check_meaning(NotifyRequest(type="any", user_id="u", template="t"), template, None)
