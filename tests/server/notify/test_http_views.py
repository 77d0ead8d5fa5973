"""What an app's backend reads about its notifications."""

import re
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from server.sandbox.faults import Fault
from server.sandbox.sandbox import open_sandbox
from tests.server.http_world import code_of, open_api
from tests.server.notify.notify_world import apns_token
from tests.server.notify.test_http_notify import backend_of, with_sandbox


async def test_a_history_tells_what_was_said_and_why_it_was_not_sent(tmp_path: Path) -> None:
    """Support answers “why did I get nothing?” from one page; texts stay away from operators."""
    async with open_api(tmp_path) as api:
        backend = await backend_of(api)
        ann = await backend.user("ann")
        for rule in (
            {"name": "ads", "purpose": "ads", "channels": ["inapp"]},
            {"name": "nightly", "channels": ["email"]},
        ):
            await backend.json("PUT", f"/v1/app/notify/types/{rule['name']}", json=rule)

        async def notify(**wanted: Any) -> Any:
            accepted = await backend.json("POST", "/v1/notifications", 202, json={"user_id": ann, **wanted})
            return accepted["items"][0]["notification_id"]

        shown = await notify(type="contact", title="Hello", text="from your app")
        again = await notify(type="contact", title="Hello", text="from your app")
        refused = await notify(type="ads", title="Sale", text="Now")
        nowhere = await notify(type="nightly", title="Report", text="All is well")
        held = await notify(type="contact", title="Later", text="Then", send_at="2099-01-01T09:00")
        page = await backend.json("GET", f"/v1/app/users/{ann}/notifications")
        told = {
            item["notification_id"]: tuple(
                item.get(name, "") for name in ("state", "title", "text", "reason")
            )
            for item in page["items"]
        }
        assert told == {
            shown: ("done", "Hello", "from your app", ""),
            again: ("dropped", "", "", f"deduplicate: dedup_s = {shown}"),
            refused: ("dropped", "", "", "consent: purpose = ads"),
            nowhere: ("dropped", "", "", "choose: unreachable"),
            held: ("held", "Later", "Then", "schedule: send_at_ms"),
        }
        one = await backend.json("GET", f"/v1/notifications/{held}")
        assert (one["text"], one["reason"]) == ("Then", "schedule: send_at_ms")
        explained = await backend.json("GET", f"/v1/notifications/{held}/explain")
        assert not {"title", "text", "reason"} & set(explained["notification"])
        exported = await backend.json("GET", f"/v1/app/users/{ann}/notification_data")
        assert {item.get("text") for item in exported["notifications"]} >= {"from your app", "Then"}


async def test_explain_names_the_channel_the_address_and_the_account(tmp_path: Path) -> None:
    """With two phones and two accounts nobody can else say which of them the provider refused."""
    async with open_sandbox() as sandbox, open_api(tmp_path) as api:
        backend = await backend_of(api)
        await with_sandbox(backend, sandbox, "apns")
        ann = await backend.user("ann")
        body = {"channel": "apns", "address": apns_token(1)}
        devices = await backend.json("POST", f"/v1/app/users/{ann}/addresses", json=body)
        key = devices["items"][0]["device_key"]
        sandbox.inject(Fault(channel="apns", status=500, times=1))
        sandbox.inject(Fault(channel="apns", status=400, code="BadTopic", times=1))
        rule = {"name": "news", "channels": ["apns"], "may_double": True}
        await backend.json("PUT", "/v1/app/notify/types/news", json=rule)
        wanted = {"type": "news", "user_id": ann, "text": "Hi", "collapse_key": "k"}
        accepted = await backend.json("POST", "/v1/notifications", 202, json=wanted)
        notification_id = accepted["items"][0]["notification_id"]
        await backend.until_done(notification_id)
        told = await backend.json("GET", f"/v1/notifications/{notification_id}/explain")
        values = [
            (stage, value)
            for entry in told["ledger"]
            for stage, outcome, _, value in entry["decisions"]
            if stage == "attempt"
            or (stage == "result" and outcome in ("refused", "unknown") and "by" in value)
        ]
        way = f"{key[:13]} by apns"
        assert re.fullmatch(r"apns-[0-9a-f]{8}", key[:13])
        assert values[0][1].removesuffix(", at once") == f"1 to {way}"
        assert values[1][1].startswith(way)
        assert values[2] == ("attempt", f"2 to {way}")
        assert values[3][1].startswith(way)


async def test_receipts_of_erasures_can_be_read(tmp_path: Path) -> None:
    """Who was asked to erase has to prove later that it was done; also of nobody else's users."""
    async with open_api(tmp_path) as api:
        backend = await backend_of(api)
        ann = await backend.user("ann")
        path = f"/v1/app/users/{ann}/erasures"
        assert await backend.json("GET", path) == {"items": []}
        rule = {"name": "ads", "purpose": "ads", "channels": ["inapp"]}
        await backend.json("PUT", "/v1/app/notify/types/ads", json=rule)
        await backend.json("PUT", f"/v1/app/users/{ann}/consents/ads", json={"given": True})
        wanted = {"type": "ads", "user_id": ann, "text": "Sale"}
        await backend.json("POST", "/v1/notifications", 202, json=wanted)
        await backend.json("PUT", f"/v1/app/users/{ann}/consents/ads", json={"given": False})
        receipt = await backend.json("DELETE", f"/v1/app/users/{ann}/notification_data")
        first, second = (await backend.json("GET", path))["items"]
        assert (first["purpose"], first["reason"], first["counts"]) == (
            "ads",
            "withdrawn",
            {"notifications": 1},
        )
        assert second.get("purpose", "") == ""
        assert (second["erasure_id"], second["reason"]) == (receipt["erasure_id"], "requested")
        assert second["counts"] == receipt["counts"]
        page = await backend.json("GET", f"{path}?limit=1")
        assert page["items"] == [first]
        assert await backend.json("GET", f"{path}?after={page['next']}") == {"items": [second]}
        assert code_of(await backend.call("GET", f"{path}?after=xx")) == (400, "bad_cursor")
        other = await backend_of(api, await api.other_app())
        assert code_of(await other.call("GET", path)) == (404, "user_not_found")


async def test_requests_are_told_by_what_they_ask_for(tmp_path: Path) -> None:
    """Who wants to cancel one has to know which it is."""
    async with open_api(tmp_path) as api:
        backend = await backend_of(api)
        await backend.user("ann")
        wanted = {
            "type": "contact",
            "group": "*",
            "text": "Hi",
            "cron": "0 9 * * 1",
            "time_zone": "Europe/Rome",
        }
        accepted = await backend.json("POST", "/v1/notifications", 202, json=wanted)
        (info,) = (await backend.json("GET", "/v1/notifications/requests"))["items"]
        assert info == await backend.json("GET", f"/v1/notifications/requests/{accepted['request_id']}")
        assert {name: info[name] for name in ("type", "group", "cron", "time_zone", "state")} == {
            "type": "contact",
            "group": "*",
            "cron": "0 9 * * 1",
            "time_zone": "Europe/Rome",
            "state": "waiting",
        }


async def test_the_dry_run_shows_what_recurs_and_what_is_set_for_a_time(tmp_path: Path) -> None:
    """“What will this user hear next week?” is asked most about campaigns; and of those who are in them."""
    async with open_api(tmp_path) as api:
        backend = await backend_of(api)
        ann, ben = await backend.user("ann"), await backend.user("ben")
        await backend.json("POST", "/v1/app/groups/vip", json={"add": [ann]})
        rule = {"name": "news", "channels": ["inapp"]}
        await backend.json("PUT", "/v1/app/notify/types/news", json=rule)
        everybody = {"type": "news", "group": "*", "text": "All", "cron": "0 9 * * *"}
        await backend.json("POST", "/v1/notifications", 202, json=everybody)
        some = {"type": "contact", "group": "vip", "text": "Some", "cron": "0 10 * * *"}
        await backend.json("POST", "/v1/notifications", 202, json=some)
        one = {"type": "follow", "user_ids": [ben], "text": "One", "cron": "0 11 * * *"}
        cancelled = await backend.json("POST", "/v1/notifications", 202, json=one)
        at = datetime.now(UTC).replace(second=0, microsecond=0, tzinfo=None) + timedelta(hours=26)
        once = {"type": "like", "group": "vip", "text": "Once", "send_at": at.isoformat()}
        await backend.json("POST", "/v1/notifications", 202, json=once)

        async def plan(user_id: str) -> list[tuple[str, str]]:
            found = await backend.json("GET", f"/v1/app/users/{user_id}/plan?days=2")
            return sorted({(item["types"][0], item["local"][11:16]) for item in found["items"]})

        assert await plan(ann) == [
            ("contact", "10:00"),
            ("like", at.strftime("%H:%M")),
            ("news", "09:00"),
        ]
        assert await plan(ben) == [("follow", "11:00"), ("news", "09:00")]
        await backend.json("DELETE", f"/v1/notifications/requests/{cancelled['request_id']}", 200)
        assert await plan(ben) == [("news", "09:00")]


async def test_the_dry_run_tells_of_channels_by_which_the_user_is_reached(tmp_path: Path) -> None:
    """Support reads "apns" and looks for a phone that was never there."""
    async with open_sandbox() as sandbox, open_api(tmp_path) as api:
        backend = await backend_of(api)
        await with_sandbox(backend, sandbox, "apns", "smtp")
        ann, ben, eve = [await backend.user(name) for name in ("ann", "ben", "eve")]
        mail = {"channel": "email", "address": "ann@example.org"}
        await backend.json("POST", f"/v1/app/users/{ann}/addresses", json=mail)
        phone = {"channel": "apns", "address": apns_token(1)}
        await backend.json("POST", f"/v1/app/users/{ben}/addresses", json=phone)
        rules = [
            {"name": "news", "channels": ["apns", "fcm", "email"]},
            {"name": "order", "channels": ["apns"], "fallback": ["sms", "email"]},
        ]
        for rule in rules:
            await backend.json("PUT", f"/v1/app/notify/types/{rule['name']}", json=rule)
            daily = {"type": rule["name"], "group": "*", "text": "x", "cron": "0 9 * * *"}
            await backend.json("POST", "/v1/notifications", 202, json=daily)

        async def plan(user_id: str) -> dict[str, tuple[str, list[str]]]:
            found = await backend.json("GET", f"/v1/app/users/{user_id}/plan?days=1")
            return {item["types"][0]: (item["kind"], item.get("channels", [])) for item in found["items"]}

        assert await plan(ann) == {"news": ("send", ["email"]), "order": ("send", ["email"])}
        assert await plan(ben) == {"news": ("send", ["apns"]), "order": ("send", ["apns"])}
        assert await plan(eve) == {"news": ("drop", []), "order": ("drop", [])}


# Apprise 2.3 imports `imghdr` for PGP, which Python 3.11 warns of; it has a substitute for 3.13.
@pytest.mark.filterwarnings("ignore:'imghdr' is deprecated:DeprecationWarning")
@pytest.mark.parametrize(
    "address",
    ["nosuch://x", "file:///etc/passwd", "syslog://", "slack://x?keyfile=/etc/passwd", "words", "slack://"],
)
async def test_an_apprise_address_that_leads_nowhere_is_refused_when_it_is_registered(
    tmp_path: Path, address: str
) -> None:
    """Else the user who mistyped it waits for a message that never comes."""
    async with open_api(tmp_path) as api:
        backend = await backend_of(api)
        ann = await backend.user("ann")
        path = f"/v1/app/users/{ann}/addresses"
        refused = await backend.call("POST", path, json={"channel": "apprise", "address": address})
        assert code_of(refused) == (400, "bad_device_token")
        good = {"channel": "apprise", "address": "json://hook.example/x"}
        assert len((await backend.json("POST", path, json=good))["items"]) == 1
        lines = f'{{"user_id": "{ann}", "channel": "apprise", "address": "{address}"}}'.encode()
        headers = backend.basic | {"content-type": "application/x-ndjson"}
        told = await api.call("POST", "/v1/app/import/addresses", content=lines, headers=headers)
        assert '"code":"bad_device_token"' in told.text


async def test_an_experiment_is_checked_before_it_is_kept(tmp_path: Path) -> None:
    """One whose control is not among its variants would never come to a result."""
    async with open_api(tmp_path) as api:
        backend = await backend_of(api)
        texts = {name: {"en": {"default": {"body": name}}} for name in ("default", "short", "long")}
        await backend.json("PUT", "/v1/app/notify/templates/hello", json={"name": "hello", "texts": texts})
        experiment = {"name": "e", "template": "hello", "variants": {"short": 1, "long": 1}}
        path = "/v1/app/notify/experiments/e"
        assert code_of(await backend.call("PUT", path, json=experiment)) == (400, "bad_field")
        await backend.json("PUT", path, json=experiment | {"control": "long"})


async def test_what_is_wrong_with_a_request_is_no_matter_of_rights(tmp_path: Path) -> None:
    """403 sends a developer looking for a key that works."""
    async with open_api(tmp_path) as api:
        backend = await backend_of(api)
        ann = await backend.user("ann")
        texts = {"default": {"en": {"default": {"body": "{{ who }}"}}}}
        template = {"name": "hello", "variables": {"who": {"kind": "text"}}, "texts": texts}
        await backend.json("PUT", "/v1/app/notify/templates/hello", json=template)
        wanted = {"type": "contact", "user_id": ann, "template": "hello"}
        refused = await backend.call("POST", "/v1/notifications", json=wanted)
        assert code_of(refused) == (400, "template_variable_unknown")
        body = {"channel": "sms", "address": "0151"}
        refused = await backend.call("POST", f"/v1/app/users/{ann}/addresses", json=body)
        assert code_of(refused) == (400, "bad_device_token")
