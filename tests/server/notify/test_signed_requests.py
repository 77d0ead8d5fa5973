"""Signed requests of an app's backend: each is taken once, whatever becomes of the node meanwhile."""

import time
from pathlib import Path

import msgspec
import pytest
import trio

from protocol.errors import Refused
from protocol.records import Insert, SpentSignature
from server.http.app_auth import SIGNED_BODY_BYTES
from server.http.signatures import spend
from server.janitor import forget_signatures
from storage import open_store
from tests.server.http_world import Api, code_of, open_api
from tests.server.notify.test_http_notify import Backend, backend_of

RULES = "/v1/app/notify/rules"
NOTIFY = "/v1/notifications"


async def test_a_signed_request_is_taken_once_within_its_window(tmp_path: Path) -> None:
    """A request that was overheard must not send a code a second time."""
    async with open_api(tmp_path) as api:
        backend = await backend_of(api)
        ann = await backend.user("ann")
        body = msgspec.json.encode({"type": "security", "user_id": ann, "text": "Your code is 1234"})
        path, now = "/v1/notifications", time.time()
        headers = backend.signed("POST", path, body, at_s=now)
        first = await api.call("POST", path, content=body, headers=headers)
        assert first.status_code == 202, first.text
        again = await api.call("POST", path, content=body, headers=headers)
        assert code_of(again) == (409, "request_replayed")
        old = backend.signed("POST", path, body, at_s=now - 400)
        assert code_of(await api.call("POST", path, content=body, headers=old)) == (401, "request_expired")
        forged = headers | {"x-hubbub-signature": "v1=" + "0" * 64}
        assert code_of(await api.call("POST", path, content=body, headers=forged)) == (401, "bad_signature")
        other = body.replace(b"1234", b"9999")
        changed = await api.call("POST", path, content=other, headers=headers)
        assert code_of(changed) == (401, "bad_signature")
        bearer = {"authorization": f"Bearer {backend.app_key}:{backend.secret}"}
        by_bearer = await api.call(
            "POST", path, json={"type": "security", "user_id": ann, "text": "Another"}, headers=bearer
        )
        assert by_bearer.status_code == 202
        page = await backend.json("GET", f"/v1/app/users/{ann}/notifications")
        assert len(page["items"]) == 2


async def test_all_of_an_apps_addresses_take_each_way_to_prove_oneself(tmp_path: Path) -> None:
    """A backend whose secret never travels makes its users by signed requests, too."""
    async with open_api(tmp_path) as api:
        backend = await backend_of(api)
        ann = await backend.user("ann")
        bearer = {"authorization": f"Bearer {backend.app_key}:{backend.secret}"}
        asked: list[tuple[str, str, object, int]] = [
            ("POST", "/v1/app/users", {"users": [{"external_id": "ben"}]}, 200),
            ("POST", "/v1/app/tokens", {"user_id": ann}, 201),
            ("GET", "/v1/app/bots", None, 200),
            ("POST", "/v1/app/bots", {"username": "robot"}, 201),
            ("POST", f"/v1/app/commands?user_id={ann}", {"type": "get_preferences", "id": 1}, 200),
            ("GET", "/v1/app/feed_options", None, 200),
            ("GET", "/v1/app/campaigns", None, 200),
            ("POST", f"/v1/app/users/{ann}/disable", None, 204),
            ("POST", f"/v1/app/users/{ann}/enable", None, 204),
        ]
        for method, path, wanted, status in asked:
            body = b"" if wanted is None else msgspec.json.encode(wanted)
            headers = backend.signed(method, path, body, at_s=time.time())
            done = await api.call(method, path, content=body, headers=headers)
            assert done.status_code == status, (path, done.text)
            again = await api.call(method, path, content=body, headers=headers)
            assert code_of(again) == (409, "request_replayed")
            if body:  # whoever changes it on its way is found out
                changed = await api.call(method, path, content=body + b" ", headers=headers)
                assert code_of(changed) == (401, "bad_signature")
        for method, path, wanted, status in asked:
            body = b"" if wanted is None else msgspec.json.encode(wanted).replace(b"robot", b"robert")
            headers = bearer | {"content-type": "application/json"}
            done = await api.call(method, path, content=body, headers=headers)
            assert done.status_code == status, (path, done.text)


async def test_a_signed_command_names_its_user_where_it_is_signed(tmp_path: Path) -> None:
    """Else whoever sits between could let another user say it."""
    async with open_api(tmp_path) as api:
        backend = await backend_of(api)
        user = {"x-hubbub-user": await backend.user("ann")}
        path, body = "/v1/app/commands", msgspec.json.encode({"type": "get_preferences", "id": 1})
        assert (await api.call("POST", path, content=body, headers=backend.basic | user)).status_code == 200
        headers = backend.signed("POST", path, body, at_s=time.time()) | user
        refused = await api.call("POST", path, content=body, headers=headers)
        assert code_of(refused) == (400, "bad_request")


async def test_a_restart_and_another_node_do_not_take_a_signed_request_again(tmp_path: Path) -> None:
    """Who overheard how the rules were set must not set them back while the node is updated."""
    body = msgspec.json.encode({"cap_per_hour": 3})
    async with open_api(tmp_path) as api:
        backend = await backend_of(api)
        headers = backend.signed("PUT", RULES, body, at_s=time.time())
        assert (await api.call("PUT", RULES, content=body, headers=headers)).status_code == 200
        reading = backend.signed("GET", "/v1/app/notify", b"", at_s=time.time())
        assert (await api.call("GET", "/v1/app/notify", headers=reading)).status_code == 200
        await backend.json("PUT", RULES, json={"cap_per_hour": 7})
    async with open_api(tmp_path) as api:
        again = await api.call("PUT", RULES, content=body, headers=headers)
        assert code_of(again) == (409, "request_replayed")
        read_again = await api.call("GET", "/v1/app/notify", headers=reading)
        assert code_of(read_again) == (409, "request_replayed")
        backend = Backend(api, backend.app_key, backend.secret)
        assert (await backend.json("GET", "/v1/app/notify"))["rules"]["cap_per_hour"] == 7
        other = backend.signed("PUT", RULES, body, at_s=time.time(), nonce="another")
        assert (await api.call("PUT", RULES, content=body, headers=other)).status_code == 200


async def test_of_two_nodes_that_get_a_signed_request_at_once_one_takes_it(tmp_path: Path) -> None:
    """Nodes share nothing but the store: it decides."""
    async with open_store(tmp_path) as store:
        taken: list[str] = []

        async def take(node: str) -> None:
            try:
                await spend(store, "ak_1", "v1=00", 1_000)
            except Refused as refused:
                assert refused.code == "request_replayed"
            else:
                taken.append(node)

        async with trio.open_nursery() as nursery:
            for node in ("n1", "n2", "n3"):
                nursery.start_soon(take, node)
        assert len(taken) == 1


async def test_a_replayed_notification_is_not_sent_again_after_a_restart(tmp_path: Path) -> None:
    """Codes: the second one confuses, and a repeated answer tells the backend all that it needs."""
    async with open_api(tmp_path) as api:
        backend = await backend_of(api)
        ann = await backend.user("ann")
        await backend.json("PUT", "/v1/app/notify/types/code", json={"name": "code", "dedup_s": 0})
        body = msgspec.json.encode({"type": "code", "user_id": ann, "text": "Your code is 1234"})
        headers = backend.signed("POST", NOTIFY, body, at_s=time.time())
        first = await api.call("POST", NOTIFY, content=body, headers=headers)
        assert first.status_code == 202, first.text
        keyed = backend.signed("POST", NOTIFY, body, at_s=time.time(), nonce="keyed")
        second = await api.call("POST", NOTIFY, content=body, headers=keyed | {"idempotency-key": "k1"})
        assert second.json()["items"][0]["state"] != "dropped"
    async with open_api(tmp_path) as api:
        backend = Backend(api, backend.app_key, backend.secret)
        again = await api.call("POST", NOTIFY, content=body, headers=headers)
        assert (again.status_code, again.json()["repeated"]) == (202, True)
        # A key in a header is not signed; with another one this would be another request.
        changed = await api.call("POST", NOTIFY, content=body, headers=keyed | {"idempotency-key": "k2"})
        assert code_of(changed) == (409, "request_replayed")
        page = await backend.json("GET", f"/v1/app/users/{ann}/notifications")
        assert len(page["items"]) == 2


async def test_signatures_are_forgotten_when_they_are_valid_no_more(tmp_path: Path) -> None:
    """A backend that signs all its requests must not fill the disk, nor is one taken twice for it."""
    async with open_store(tmp_path) as store:
        for number, minute in enumerate((100, 100, 101, 102)):
            await store.commit([Insert(SpentSignature(digest=str(number), minute=minute))])
        await forget_signatures(store, 101 * 60_000)
        assert [row.minute for row in await store.find(SpentSignature, {})] == [102]
        now_ms = 1_000 * 60_000
        await spend(store, "ak_1", "v1=00", now_ms)
        await forget_signatures(store, now_ms + 600_000)  # until then a timestamp from the future holds
        with pytest.raises(Refused):
            await spend(store, "ak_1", "v1=00", now_ms + 600_000)
        await forget_signatures(store, now_ms + 780_000)
        assert await store.find(SpentSignature, {}) == []


async def head_only(api: Api, path: str, headers: dict[str, str], size_bytes: int) -> bytes:
    """Announce a body, send nothing of it, and return the first line of the answer."""
    url = api.client.base_url
    lines = [f"POST {path} HTTP/1.1", f"host: {url.host}", f"content-length: {size_bytes}"]
    lines += [f"{name}: {value}" for name, value in headers.items()]
    with trio.fail_after(10):  # a body that does not come is waited for much longer
        async with await trio.open_tcp_stream(url.host, url.port or 80) as stream:
            await stream.send_all("\r\n".join([*lines, "", ""]).encode())
            answer = b""
            while b"\r\n" not in answer:
                answer += await stream.receive_some()
    return answer.partition(b"\r\n")[0]


@pytest.mark.parametrize(
    ("change", "age_s", "size_bytes", "status"),
    [
        ({"x-hubbub-key": "ak_none"}, 0, 1_000, b"401"),
        ({}, 400, 1_000, b"401"),
        ({"x-hubbub-timestamp": "now"}, 0, 1_000, b"401"),
        ({}, 0, SIGNED_BODY_BYTES + 1, b"413"),
    ],
)
async def test_a_body_is_read_only_of_who_may_have_signed_it(
    tmp_path: Path, change: dict[str, str], age_s: int, size_bytes: int, status: bytes
) -> None:
    """Else strangers fill the node's memory with imports, a hundred megabytes each."""
    async with open_api(tmp_path) as api:
        backend = await backend_of(api)
        path = "/v1/app/import/users"
        headers = backend.signed("POST", path, b"", at_s=time.time() - age_s) | change
        assert status in await head_only(api, path, headers, size_bytes)


@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("PUT", RULES),
        ("POST", NOTIFY),
        ("POST", "/v1/app/users"),
        ("POST", "/v1/app/campaigns"),
        ("POST", "/v1/posts"),
        ("PATCH", "/v1/me"),
    ],
)
async def test_a_stranger_does_not_learn_what_is_wrong_with_a_body(
    tmp_path: Path, method: str, path: str
) -> None:
    """Who asks comes first; what was asked is nobody's business before."""
    async with open_api(tmp_path) as api:
        for body in (b"{", b'{"nothing": 1}', b"[]", b""):
            answer = await api.call(method, path, content=body, headers={"content-type": "application/json"})
            assert code_of(answer) == (401, "unauthenticated")


@pytest.mark.parametrize("path", [NOTIFY, "/v1/app/notify/templates/preview"])
async def test_a_body_that_is_nested_too_deep_is_the_clients_mistake(tmp_path: Path, path: str) -> None:
    """It is told so; an error of ours would wake an operator."""
    async with open_api(tmp_path) as api:
        backend = await backend_of(api)
        deep = b'{"data": ' + b"[" * 100_000 + b"]" * 100_000 + b"}"
        answer = await api.call("POST", path, content=deep, headers=backend.basic)
        assert code_of(answer) == (400, "bad_request")
