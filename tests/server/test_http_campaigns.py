"""Ads and feed options over HTTP: what the backend of an app may rely on."""

import base64
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import httpx
import pytest

from protocol.feed_types import FeedOptions
from protocol.records import AdShown, Put
from tests.server.http_world import Api, code_of, open_api

Call = Callable[..., Awaitable[httpx.Response]]


async def backend_of(api: Api, app_id: str) -> Call:
    """Call as the backend of an app."""
    key, secret = await api.accounts.create_app_key(app_id)
    credentials = base64.b64encode(f"{key.app_key}:{secret}".encode()).decode()
    headers = {"authorization": f"Basic {credentials}"}

    async def call(method: str, path: str, **more: Any) -> httpx.Response:
        return await api.call(method, f"/v1/app{path}", headers=headers, **more)

    return call


def json_of(response: httpx.Response, status: int = 200) -> Any:
    assert response.status_code == status, response.text
    return response.json()


async def test_a_campaign_is_made_changed_paused_and_counted(tmp_path: Path) -> None:
    """The whole life of an ad, as a sponsor's agent leads it."""
    async with open_api(tmp_path) as api:
        backend = await backend_of(api, "default")
        wanted = {"title": "Tea", "url": "https://tea.example", "budget": 2, "hashtags": ["#Tea"]}
        made = json_of(await backend("POST", "/campaigns", json=wanted), 201)
        path = f"/campaigns/{made['campaign_id']}"
        assert made.pop("created_at_ms") > 0
        assert made == {
            "campaign_id": made["campaign_id"],
            "title": "Tea",
            "url": "https://tea.example",
            "budget": 2,
            "daily_cap": 3,
            "hashtags": ["tea"],
        }
        changed = json_of(await backend("PATCH", path, json={"is_paused": True, "budget": 0}))
        assert (changed["is_paused"], changed["budget"], changed["title"]) == (True, 0, "Tea")
        assert json_of(await backend("GET", path)) == changed
        counts = {"showings": 0, "impressions": 0, "clicks": 0, "budget": 0, "left": None}
        assert (
            json_of(await backend("GET", f"{path}/report")) == {"campaign_id": made["campaign_id"]} | counts
        )
        row = AdShown(
            user_id="u",
            day=1,
            anchor=9,
            slot=5,
            campaign_id=made["campaign_id"],
            at_ms=7,
            seen_at_ms=8,
            clicked_at_ms=9,
        )
        await api.store.commit([Put(row)])
        json_of(await backend("PATCH", path, json={"budget": 5}))
        report = json_of(await backend("GET", f"{path}/report"))
        assert [report[name] for name in ("showings", "impressions", "clicks", "left")] == [1, 1, 1, 4]


async def test_an_ad_goes_from_the_backend_into_a_feed_and_is_counted(tmp_path: Path) -> None:
    """The whole way, over HTTP: what a sponsor books, a reader sees, and the report says."""
    async with open_api(tmp_path) as api:
        backend = await backend_of(api, "default")
        ann = await api.sign_up("ann")
        for number in range(12):
            post = {"type": "create_post", "client_id": f"p{number}", "text": f"number {number} #tea"}
            json_of(await ann.call("POST", "/v1/commands", json=post))

        async def feed() -> list[dict[str, Any]]:
            items = json_of(await ann.call("POST", "/v1/commands", json={"type": "read_feed"}))["items"]
            assert sum(item.get("kind", "post") == "post" for item in items) == 12
            return [item | {"at": index} for index, item in enumerate(items) if "ad" in item]

        wanted = {"title": "Tea", "hashtags": ["tea"], "daily_cap": 0}
        made = json_of(await backend("POST", "/campaigns", json=wanted), 201)
        assert await feed() == []  # not before the app has switched ads on
        await backend("PUT", "/feed_options", json={"ads": True})
        ads = await feed()
        assert [item["at"] for item in ads] == [5, 11]
        assert {item["ad"]["campaign_id"] for item in ads} == {made["campaign_id"]}
        assert await feed() == ads
        tells = [("ad_seen", ads[0]), ("ad_seen", ads[0]), ("ad_clicked", ads[1]), ("ad_clicked", ads[1])]
        for kind, item in tells:
            tell = {"type": kind, "slot_id": item["ad"]["slot_id"]}
            json_of(await ann.call("POST", "/v1/commands", json=tell))
        path = f"/campaigns/{made['campaign_id']}"
        report = json_of(await backend("GET", f"{path}/report"))
        assert [report[name] for name in ("showings", "impressions", "clicks")] == [2, 2, 1]
        none = {"type": "ad_seen", "slot_id": "1.1"}
        assert code_of(await ann.call("POST", "/v1/commands", json=none)) == (404, "slot_not_found")
        json_of(await backend("PATCH", path, json={"is_paused": True}))
        assert await feed() == []


async def test_campaigns_come_in_pages(tmp_path: Path) -> None:
    async with open_api(tmp_path) as api:
        backend = await backend_of(api, "default")
        made = {
            json_of(await backend("POST", "/campaigns", json={"title": f"t{number}"}), 201)["campaign_id"]
            for number in range(3)
        }
        first = json_of(await backend("GET", "/campaigns?limit=2"))
        rest = json_of(await backend("GET", f"/campaigns?limit=2&after={first['next']}"))
        assert [item["campaign_id"] for item in first["items"] + rest["items"]] == sorted(made)
        assert "next" not in rest
        assert code_of(await backend("GET", "/campaigns?limit=0")) == (400, "bad_field")


async def test_feed_options_are_put_and_read(tmp_path: Path) -> None:
    async with open_api(tmp_path) as api:
        backend = await backend_of(api, "default")
        assert json_of(await backend("GET", "/feed_options")) == {}
        wanted = {"order": "ranked", "ads": True, "recommendations": False}
        assert json_of(await backend("PUT", "/feed_options", json=wanted)) == wanted
        assert json_of(await backend("GET", "/feed_options")) == wanted
        assert api.campaigns is not None
        assert api.campaigns.options_of("default") == FeedOptions(
            order="ranked", ads=True, recommendations=False
        )
        assert json_of(await backend("PUT", "/feed_options", json={})) == {}
        assert api.campaigns.options_of("default") == FeedOptions()
        assert code_of(await backend("PUT", "/feed_options", json={"order": "best"})) == (400, "bad_field")


async def test_only_the_apps_own_backend_sees_and_changes_them(tmp_path: Path) -> None:
    async with open_api(tmp_path) as api:
        backend = await backend_of(api, "default")
        stranger = await backend_of(api, await api.other_app())
        made = json_of(await backend("POST", "/campaigns", json={"title": "t"}), 201)
        path = f"/campaigns/{made['campaign_id']}"
        for method, address, body in (
            ("GET", path, None),
            ("PATCH", path, {"title": "x"}),
            ("GET", f"{path}/report", None),
        ):
            assert code_of(await stranger(method, address, json=body)) == (404, "campaign_not_found")
            person = await api.sign_up(f"ann{len(address)}{method}")
            refused = await person.call(method, f"/v1/app{address}", json=body)
            assert code_of(refused) == (401, "unauthenticated")
        assert json_of(await stranger("GET", "/campaigns")) == {"items": []}
        await backend("PUT", "/feed_options", json={"ads": True})
        assert json_of(await stranger("GET", "/feed_options")) == {}


@pytest.mark.parametrize(
    "body",
    [
        {},
        {"title": ""},
        {"title": "x" * 101},
        {"title": "t", "url": "ftp://x.example"},
        {"title": "t", "budget": -1},
        {"title": "t", "budget": 1.5},
        {"title": "t", "budget": 2**53},
        {"title": "t", "daily_cap": 101},
        {"title": "t", "hashtags": ["a"] * 31},
        {"title": "t", "languages": "en"},
        {"title": "t", "starts_at_ms": -1},
    ],
)
async def test_a_body_outside_its_limits_is_refused(tmp_path: Path, body: dict[str, Any]) -> None:
    async with open_api(tmp_path) as api:
        backend = await backend_of(api, "default")
        assert code_of(await backend("POST", "/campaigns", json=body)) == (400, "bad_field")
        assert json_of(await backend("GET", "/campaigns")) == {"items": []}


async def test_a_server_without_feeds_says_so(tmp_path: Path) -> None:
    async with open_api(tmp_path, has_campaigns=False) as api:
        backend = await backend_of(api, "default")
        assert code_of(await backend("GET", "/campaigns")) == (409, "not_enabled")


async def test_the_api_describes_them(tmp_path: Path) -> None:
    """/v1/docs, where backend authors look first."""
    async with open_api(tmp_path) as api:
        schema = json_of(await api.call("GET", "/v1/openapi.json"))
        assert {"post", "get"} <= set(schema["paths"]["/v1/app/campaigns"])
        assert {"get", "put"} <= set(schema["paths"]["/v1/app/feed_options"])
        fields = schema["components"]["schemas"]["CreateCampaign"]["properties"]
        assert "Impressions in all" in fields["budget"]["description"]
