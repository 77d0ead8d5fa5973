"""Misspelt fields of what an app's backend sets up."""

import re
from pathlib import Path
from typing import Any

import pytest

from protocol.errors import ProtocolError
from protocol.http_notify import ProviderBody, RedriveBody
from protocol.notify_content import NotifyRequest
from protocol.notify_templates import Template
from protocol.notify_types import AppRules, Preferences
from server.http.known_fields import check_known, check_parameters
from server.http.notify import check_redrive
from tests.server.http_world import code_of, open_api
from tests.server.notify.test_http_notify import backend_of

TEXTS = {"default": {"en": {"default": {"title": "Hi", "body": "Hi"}}}}


@pytest.mark.parametrize(
    ("wanted", "value", "path"),
    [
        (AppRules, {"cap_per_hours": 3}, "cap_per_hours"),
        (Preferences, {"types": {"order": {"chanels": {}}}}, "types.order.chanels"),
        (Preferences, {"quiet_hours": {"start": "22:00", "end": "07:00", "zone": "UTC"}}, "quiet_hours.zone"),
        (
            Template,
            {"name": "a", "texts": {"default": {"en": {"sms": {"tittle": ""}}}}},
            "texts.default.en.sms.tittle",
        ),
        (Template, {"variables": {"n": {"kind": "number", "requierd": False}}}, "variables.n.requierd"),
        (ProviderBody, {"config": {"kind": "apns", "topics": "x"}}, "config.topics"),
        (ProviderBody, {"config": {"kind": "fcm"}, "paused": True}, "paused"),
        (NotifyRequest, {"type": "order", "user": "u"}, "user"),
    ],
)
def test_a_field_that_does_not_exist_is_named_by_its_path(
    wanted: type, value: dict[str, Any], path: str
) -> None:
    """Who wrote it finds it at once."""
    with pytest.raises(ProtocolError, match=rf"'{path}'"):
        check_known(wanted, value)


@pytest.mark.parametrize(
    ("wanted", "value"),
    [
        (NotifyRequest, {"type": "order", "data": {"anything": {"at": "all"}}, "channels": ["sms"]}),
        (ProviderBody, {"config": {"kind": "smtp", "host": "h", "rate_per_s": 3}, "position": 1}),
        (ProviderBody, {"config": {"kind": "pigeon", "wings": 2}}),  # the decoder says what kinds there are
        (ProviderBody, {"config": {"kind": ["apns"]}}),
        (ProviderBody, {"config": None}),
        (Template, {"name": "a", "texts": TEXTS, "variables": {"n": {"default": {"deep": {"er": 1}}}}}),
        (Template, {"texts": [1, {"x": 2}], "variables": 7}),
        (Preferences, {"quiet_hours": None}),
        (AppRules, [{"cap": 1}]),
        (AppRules, None),
    ],
)
def test_all_else_is_left_to_the_decoder(wanted: type, value: object) -> None:
    """Free keys stay free, and what does not fit its type is told by who knows the type."""
    check_known(wanted, value)


@pytest.mark.parametrize(
    "body",
    [
        RedriveBody(),
        RedriveBody(all=True, channel="apns"),
        RedriveBody(all=True, deliveries=[(1, 0)]),
        RedriveBody(deliveries=[(1, 0)], code="BadTopic"),
    ],
)
def test_a_redrive_says_in_one_way_what_it_is_of(body: RedriveBody) -> None:
    """An empty body is a mistake, and not a wish to send a thousand notifications again."""
    with pytest.raises(ProtocolError):
        check_redrive(body)


@pytest.mark.parametrize(
    ("method", "path", "body"),
    [
        ("POST", "/v1/app/notify/dead_letters/redrive", {"chanel": "apns"}),
        ("POST", "/v1/app/notify/dead_letters/redrive", {}),
        (
            "POST",
            "/v1/notifications",
            {"type": "contact", "group": "*", "text": "x", "sent_at": "2099-01-01"},
        ),
        ("PUT", "/v1/app/notify/rules", {"cap_per_hours": 3}),
        ("PUT", "/v1/app/notify/types/order", {"name": "order", "is_cappd": False}),
        ("PUT", "/v1/app/users/{user}/preferences", {"preferences": {"frequency": "off"}}),
        ("PUT", "/v1/app/users/{user}/consents/ads", {"given": True, "until_ms": 5}),
        ("POST", "/v1/app/users/{user}/addresses", {"channel": "sms", "address": "+49151", "key": {}}),
        ("POST", "/v1/app/groups/vip", {"added": ["u"]}),
    ],
)
async def test_a_body_with_an_unknown_field_does_nothing(
    tmp_path: Path, method: str, path: str, body: dict[str, Any]
) -> None:
    """A rule that is dropped in silence is a rule that does not hold."""
    async with open_api(tmp_path) as api:
        backend = await backend_of(api)
        user = await backend.user("ann")
        answer = await backend.call(method, path.format(user=user), json=body)
        assert code_of(answer) == (400, "bad_field")
        setup = await backend.json("GET", "/v1/app/notify")
        assert setup["rules"] == {}
        page = await backend.json("GET", f"/v1/app/users/{user}/notifications")
        assert page["items"] == []


async def test_users_apps_and_bots_of_another_age_are_understood(tmp_path: Path) -> None:
    """Pages and bots outlive updates of the server: over their connections unknown fields are skipped."""
    async with open_api(tmp_path) as api:
        ann = await api.sign_up("ann")
        command = {"type": "set_preferences", "preferences": {"frequency": "daily", "mood": "calm"}, "new": 1}
        answer = await ann.call("POST", "/v1/commands", json=command)
        assert answer.json()["preferences"] == {"frequency": "daily"}


# -- parameters -------------------------------------------------------------------------------------


def test_a_parameter_that_does_not_exist_is_named_with_those_that_do() -> None:
    """Who wrote it finds it at once."""
    check_parameters({"after", "limit"}, ["limit"])
    with pytest.raises(ProtocolError, match="'chanel'; those here are after, limit"):
        check_parameters({"after", "limit"}, ["limit", "chanel"])
    with pytest.raises(ProtocolError, match="there are none here"):
        check_parameters((), ["limit"])


def is_strict(path: str) -> bool:
    return path.startswith(("/v1/notifications", "/v1/app/notify", "/v1/notify/", "/v1/app/groups"))


async def test_no_address_of_notifications_takes_an_unknown_parameter(tmp_path: Path) -> None:
    """A misspelt filter would show, export or erase everything. All that the description lists is asked."""
    async with open_api(tmp_path) as api:
        backend = await backend_of(api)
        described = (await api.call("GET", "/v1/openapi.json")).json()["paths"]
        asked = 0
        for path, operations in described.items():
            if not is_strict(path):
                continue
            at = re.sub(r"{[^}]*_id}", "7", path)
            at = re.sub(r"{[^}]*}", "x", at)
            for method in operations:
                answer = await backend.call(method.upper(), f"{at}?chanel=sms")
                assert code_of(answer) == (400, "bad_field"), (method, path)
                assert "'chanel'" in answer.json()["message"], (method, path)
                asked += 1
        assert asked >= 25


async def test_an_erasure_with_a_misspelt_purpose_erases_nothing(tmp_path: Path) -> None:
    """Without a purpose it is of everything."""
    async with open_api(tmp_path) as api:
        backend = await backend_of(api)
        user = await backend.user("ann")
        data = f"/v1/app/users/{user}/notification_data"
        assert code_of(await backend.call("DELETE", f"{data}?purpos=ads")) == (400, "bad_field")
        assert (await backend.json("GET", f"/v1/app/users/{user}/erasures"))["items"] == []
        assert (await backend.call("DELETE", f"{data}?purpose=ads")).status_code == 200


async def test_parameters_that_exist_are_taken_by_all_lists(tmp_path: Path) -> None:
    """By the names under which they are described."""
    async with open_api(tmp_path) as api:
        backend = await backend_of(api)
        user = await backend.user("ann")
        described = (await api.call("GET", "/v1/openapi.json")).json()["paths"]
        for path, operations in described.items():
            names = [item["name"] for item in operations.get("get", {}).get("parameters", [])]
            if "limit" in names and is_strict(path) and "{" not in path:
                assert (await backend.call("GET", f"{path}?limit=2")).status_code == 200, path
        await backend.json("GET", "/v1/notifications/requests?state=waiting&limit=1")
        await backend.json("GET", f"/v1/app/users/{user}/plan?days=2")
        await backend.json("GET", f"/v1/app/users/{user}/erasures?limit=2")


async def test_a_link_from_a_mail_works_whatever_is_added_to_it(tmp_path: Path) -> None:
    """Mail programs and their filters add parameters of their own."""
    async with open_api(tmp_path) as api:
        assert api.notifications is not None
        links = api.notifications.links
        links.base_url = str(api.client.base_url).rstrip("/")
        link = links.clicked(7, "https://shop.example/a?b=1")
        answer = await api.call("GET", f"{link}?utm_source=mail&fbclid=x")
        assert answer.status_code in (302, 307)
        assert answer.headers["location"] == "https://shop.example/a?b=1"
