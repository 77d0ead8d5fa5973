"""The HTTP API through a real socket: what every client, app backend and operator may rely on."""

import io
import json
import re
from pathlib import Path
from typing import Any

import httpx
import pytest
import trio
from PIL import Image

from protocol.commands import Command
from protocol.errors import Unavailable
from protocol.limits import MAX_FRAME_BYTES, MAX_TEXT_BYTES
from protocol.replies import Error, Reply
from protocol.types import NodeInfo
from server import auth
from server.accounts import AccountRates
from server.clock import wall_clock_ms
from server.config import Settings
from server.http.files import parse_range
from server.http.pages import WEB_FOLDER
from server.identity import Identity
from server.ratelimit import Rate
from tests.server.http_world import PASSWORD, SECRET, Person, code_of, open_api


def picture(width: int = 4, height: int = 3, kind: str = "PNG") -> bytes:
    out = io.BytesIO()
    Image.new("RGB", (width, height), "red").save(out, kind)
    return out.getvalue()


def json_of(response: httpx.Response, status: int = 200) -> Any:
    assert response.status_code == status, response.text
    return response.json()


# -- accounts ---------------------------------------------------------------------------------------


async def test_a_person_signs_up_logs_in_and_out(tmp_path: Path) -> None:
    """The page's first five minutes."""
    async with open_api(tmp_path) as api:
        ann = await api.sign_up("Ann", name="Ann Ó Hara", device_name="laptop")
        phone = await api.log_in("ANN")
        assert phone.user_id == ann.user_id
        me = json_of(await phone.call("GET", "/v1/me"))
        assert (me["user"]["username"], me["user"]["name"]) == ("Ann", "Ann Ó Hara")
        sessions = json_of(await phone.call("GET", "/v1/sessions"))["items"]
        assert [(item["session_id"], item.get("current", False)) for item in sessions] == [
            (phone.session_id, True),
            (ann.session_id, False),
        ]
        assert [item["device_name"] for item in sessions] == ["phone", "laptop"]
        assert (await phone.call("POST", "/v1/logout")).status_code == 204
        assert code_of(await phone.call("GET", "/v1/me")) == (401, "unauthenticated")
        assert json_of(await ann.call("GET", "/v1/me"))["session_id"] == ann.session_id
        assert api.revoked == [(phone.session_id, ann.user_id)]


async def test_a_session_that_is_revoked_ends_at_once_and_its_connections_are_told(tmp_path: Path) -> None:
    """Somebody whose phone was stolen."""
    async with open_api(tmp_path) as api:
        ann = await api.sign_up("ann")
        stolen = await api.log_in("ann")
        assert (await stolen.call("GET", "/v1/me")).status_code == 200  # now it is in the cache
        assert (await ann.call("DELETE", f"/v1/sessions/{stolen.session_id}")).status_code == 204
        assert code_of(await stolen.call("GET", "/v1/me")) == (401, "unauthenticated")
        assert api.revoked == [(stolen.session_id, ann.user_id)]
        assert code_of(await ann.call("DELETE", f"/v1/sessions/{stolen.session_id}")) == (404, "not_found")


async def test_a_changed_password_ends_every_other_log_in(tmp_path: Path) -> None:
    """Somebody whose password leaked."""
    async with open_api(tmp_path) as api:
        ann = await api.sign_up("ann")
        other = await api.log_in("ann")
        change = {"old_password": PASSWORD, "new_password": "another long one"}
        wrong = change | {"old_password": "not that one"}
        assert code_of(await ann.call("POST", "/v1/me/password", json=wrong)) == (401, "bad_credentials")
        weak = change | {"new_password": "short"}
        assert code_of(await ann.call("POST", "/v1/me/password", json=weak)) == (400, "weak_password")
        assert (await ann.call("POST", "/v1/me/password", json=change)).status_code == 204
        assert (await ann.call("GET", "/v1/me")).status_code == 200
        assert code_of(await other.call("GET", "/v1/me")) == (401, "unauthenticated")
        old = await api.call("POST", "/v1/login", json={"username": "ann", "password": PASSWORD})
        assert code_of(old) == (401, "bad_credentials")
        new = await api.call("POST", "/v1/login", json={"username": "ann", "password": "another long one"})
        assert new.status_code == 200


@pytest.mark.parametrize(
    ("change", "status", "code"),
    [
        ({"username": "ANN"}, 409, "name_taken"),
        ({"username": "admin"}, 409, "name_taken"),
        ({"username": "x"}, 400, "bad_field"),
        ({"username": "has space"}, 400, "bad_field"),
        ({"username": "аnn"}, 400, "bad_field"),  # the first letter is Cyrillic
        ({"password": "short"}, 400, "weak_password"),
        ({"password": "password123"}, 400, "weak_password"),
        ({"password": "x" * 300}, 400, "bad_field"),
        ({"username": 7}, 400, "bad_field"),
        ({"name": "\u202etxt"}, 400, "bad_field"),
        ({"app_id": "nowhere"}, 404, "not_found"),
    ],
)
async def test_a_sign_up_that_cannot_be_is_refused_with_its_code(
    tmp_path: Path, change: dict[str, Any], status: int, code: str
) -> None:
    """Form authors show the message beside the field."""
    async with open_api(tmp_path) as api:
        await api.sign_up("ann")
        body = {"username": "bob", "password": PASSWORD} | change
        assert code_of(await api.call("POST", "/v1/signup", json=body)) == (status, code)


async def test_sign_up_can_be_closed_for_the_server_and_for_an_app(tmp_path: Path) -> None:
    """Operators of a closed community."""
    async with open_api(tmp_path / "a", settings=Settings(sign_up_open=False)) as api:
        body = {"username": "bob", "password": PASSWORD}
        assert code_of(await api.call("POST", "/v1/signup", json=body)) == (403, "forbidden")
    async with open_api(tmp_path / "b") as api:
        app = await api.directory.create_app("closed", allow_sign_up=False)
        response = await api.call("POST", "/v1/signup", json=body | {"app_id": app.app_id})
        assert code_of(response) == (403, "forbidden")


async def test_guessing_passwords_is_slowed_down_by_name_and_by_address(tmp_path: Path) -> None:
    """Everybody with an average password."""
    rates = AccountRates(failures_per_name=Rate(0.001, 2), failures_per_address=Rate(0.001, 4))
    async with open_api(tmp_path, rates=rates) as api:
        await api.sign_up("ann")
        await api.sign_up("bob")
        codes = []
        for name in ("ann", "ann", "ann", "nobody", "bob", "bob"):
            wrong = {"username": name, "password": "wrong wrong"}
            codes.append(code_of(await api.call("POST", "/v1/login", json=wrong)))
        limited = (429, "rate_limited")
        failed = (401, "bad_credentials")
        assert codes == [failed, failed, limited, failed, failed, limited]


async def test_sign_ups_from_one_address_are_limited(tmp_path: Path) -> None:
    """Operators, who would otherwise count robots."""
    rates = AccountRates(sign_ups_per_address=Rate(0.001, 1))
    async with open_api(tmp_path, rates=rates) as api:
        await api.sign_up("ann")
        response = await api.call("POST", "/v1/signup", json={"username": "bob", "password": PASSWORD})
        assert code_of(response) == (429, "rate_limited")


async def test_a_disabled_user_is_out_at_once(tmp_path: Path) -> None:
    """Moderators."""
    async with open_api(tmp_path) as api:
        ann = await api.sign_up("ann")
        await api.accounts.disable_user(await api.directory.find_user("default", "ann"))
        assert code_of(await ann.call("GET", "/v1/me")) == (401, "unauthenticated")
        right = {"username": "ann", "password": PASSWORD}
        assert code_of(await api.call("POST", "/v1/login", json=right)) == (403, "forbidden")


# -- profile and users ------------------------------------------------------------------------------


async def test_a_profile_change_goes_through_the_users_actor_and_is_seen_by_others(tmp_path: Path) -> None:
    """Other devices hear of it only because it takes the way of the command."""
    async with open_api(tmp_path) as api:
        ann, bob = await api.sign_up("ann"), await api.sign_up("bob")
        avatar = json_of(await ann.call("POST", "/v1/files?name=a.png", content=picture()), 201)["file_id"]
        change = {"name": "Ann  B.", "language": "pt-br", "time_zone": "Europe/Berlin", "avatar": avatar}
        json_of(await ann.call("PATCH", "/v1/me", json=change))
        (seen,) = json_of(await bob.call("GET", f"/v1/users?ids={ann.user_id}"))["items"]
        assert seen == {
            "user_id": ann.user_id,
            "username": "ann",
            "name": "Ann B.",
            "avatar": avatar,
            "language": "pt-BR",
            "time_zone": "Europe/Berlin",
        }
        assert json_of(await ann.call("GET", "/v1/me"))["user"] == seen
        inbox = json_of(await ann.call("POST", "/v1/commands", json={"type": "sync_inbox"}))
        assert [event["type"] for event in inbox["items"]] == ["profile_changed"]


@pytest.mark.parametrize(
    ("change", "status", "code"),
    [
        ({"language": "not a language"}, 400, "bad_field"),
        ({"time_zone": "Mars/Olympus"}, 400, "bad_field"),
        ({"time_zone": "../../etc/passwd"}, 400, "bad_field"),
        ({"name": ""}, 400, "bad_field"),
        ({"avatar": "f_unknown"}, 404, "file_not_found"),
    ],
)
async def test_a_profile_that_cannot_be_is_refused(
    tmp_path: Path, change: dict[str, Any], status: int, code: str
) -> None:
    """Readers of profiles format dates with them."""
    async with open_api(tmp_path) as api:
        ann = await api.sign_up("ann")
        assert code_of(await ann.call("PATCH", "/v1/me", json=change)) == (status, code)


async def test_an_avatar_must_be_a_picture(tmp_path: Path) -> None:
    """Everybody who would have to draw it."""
    async with open_api(tmp_path) as api:
        ann = await api.sign_up("ann")
        text = json_of(await ann.call("POST", "/v1/files?name=a.txt", content=b"hello"), 201)["file_id"]
        assert code_of(await ann.call("PATCH", "/v1/me", json={"avatar": text})) == (415, "bad_image")


async def test_users_are_found_by_the_beginning_of_either_name(tmp_path: Path) -> None:
    """Who looks for somebody to write to."""
    async with open_api(tmp_path) as api:
        ann = await api.sign_up("ann", name="Zoë")
        await api.sign_up("zora")
        await api.sign_up("zack")
        await api.accounts.disable_user(await api.directory.find_user("default", "zack"))
        found = json_of(await ann.call("GET", "/v1/users?prefix=ZO"))["items"]
        assert [item["username"] for item in found] == ["zora", "ann"]
        assert json_of(await ann.call("GET", "/v1/users?prefix=zac"))["items"] == []
        assert code_of(await ann.call("GET", "/v1/users")) == (400, "bad_field")
        too_many = ",".join(["u_1"] * 501)
        assert code_of(await ann.call("GET", f"/v1/users?ids={too_many}")) == (400, "bad_field")
        assert code_of(await ann.call("GET", "/v1/users?prefix=a&limit=1000")) == (400, "bad_field")


# -- bots -------------------------------------------------------------------------------------------


async def test_a_user_makes_rotates_and_deletes_a_bot(tmp_path: Path) -> None:
    """Bot writers."""
    async with open_api(tmp_path) as api:
        ann, bob = await api.sign_up("ann"), await api.sign_up("bob")
        made = json_of(await ann.call("POST", "/v1/bots", json={"username": "echo", "name": "Echo"}), 201)
        assert made["user"]["is_bot"]
        bot = Person(api, made | {"session_id": ""}, "default")
        assert json_of(await bot.call("GET", "/v1/me"))["user"]["user_id"] == bot.user_id
        assert code_of(await bot.call("POST", "/v1/bots", json={"username": "echo2"})) == (
            403,
            "bot_not_allowed",
        )
        taken = await bob.call("POST", "/v1/bots", json={"username": "Echo"})
        assert code_of(taken) == (409, "name_taken")
        for method, path in (
            ("POST", f"/v1/bots/{bot.user_id}/token"),
            ("DELETE", f"/v1/bots/{bot.user_id}"),
        ):
            assert code_of(await bob.call(method, path)) == (404, "user_not_found")
        fresh = json_of(await ann.call("POST", f"/v1/bots/{bot.user_id}/token"))["token"]
        assert code_of(await bot.call("GET", "/v1/me")) == (401, "unauthenticated")
        bot.headers = {"authorization": f"Bearer {fresh}"}
        assert (await bot.call("GET", "/v1/me")).status_code == 200
        assert [item["user_id"] for item in json_of(await ann.call("GET", "/v1/bots"))["items"]] == [
            bot.user_id
        ]
        assert (await ann.call("DELETE", f"/v1/bots/{bot.user_id}")).status_code == 204
        assert code_of(await bot.call("GET", "/v1/me")) == (401, "unauthenticated")
        assert json_of(await ann.call("GET", "/v1/bots"))["items"] == []


# -- the backend of an app --------------------------------------------------------------------------


async def test_a_backend_makes_users_signs_them_in_and_acts_for_them(tmp_path: Path) -> None:
    """An existing product, whose users must not get a second log-in."""
    async with open_api(tmp_path) as api:
        app_id = await api.other_app()
        key, secret = await api.accounts.create_app_key(app_id)
        basic = (key.app_key, secret)
        wanted = [{"external_id": f"cust-{index}", "username": f"User {index}"} for index in range(40)]
        made = json_of(await api.call("POST", "/v1/app/users", json={"users": wanted}, auth=basic))["items"]
        assert [item["external_id"] for item in made] == [item["external_id"] for item in wanted]
        assert all(item["created"] for item in made)
        assert made[0]["user"]["username"] == "User_0"
        again = json_of(await api.call("POST", "/v1/app/users", json={"users": wanted[:1]}, auth=basic))
        assert again["items"][0]["user"] == made[0]["user"]
        assert not again["items"][0].get("created", False)
        for odd in ("cust-0\0x", "cust-0\n", "\x7f", ""):  # no token could have it as its sub
            refused = await api.call(
                "POST", "/v1/app/users", json={"users": [{"external_id": odd}]}, auth=basic
            )
            assert refused.status_code == 400
        one, two = made[0]["user"]["user_id"], made[1]["user"]["user_id"]

        body = {"user_id": one, "ttl_s": 60}
        signed = json_of(await api.call("POST", "/v1/app/tokens", json=body, auth=basic), 201)
        person = Person(api, signed, app_id)
        assert json_of(await person.call("GET", "/v1/me"))["expires_at_ms"] > wall_clock_ms()

        headers = {"x-hubbub-user": two}
        command = {"type": "open_direct", "id": 9, "user_id": one}
        opened = json_of(
            await api.call("POST", "/v1/app/commands", json=command, auth=basic, headers=headers)
        )
        assert (opened["type"], opened["id"], opened["created"]) == ("conversation", 9, True)
        send = {
            "type": "send",
            "conversation_id": opened["conversation"]["conversation_id"],
            "client_id": "1",
            "text": "Your parcel has arrived.",
        }
        json_of(await api.call("POST", "/v1/app/commands", json=send, auth=basic, headers=headers))
        listed = json_of(await person.call("POST", "/v1/commands", json={"type": "list_conversations"}))
        assert listed["items"][0]["unread"] == 1
        no_name = await api.call("POST", "/v1/app/commands", json=command, auth=basic)
        assert code_of(no_name) == (400, "bad_request")

        assert (await api.call("POST", f"/v1/app/users/{one}/disable", auth=basic)).status_code == 204
        assert code_of(await person.call("GET", "/v1/me")) == (401, "unauthenticated")
        refused = await api.call("POST", "/v1/app/tokens", json=body, auth=basic)
        assert code_of(refused) == (403, "forbidden")
        assert (await api.call("POST", f"/v1/app/users/{one}/enable", auth=basic)).status_code == 204
        assert (await api.call("POST", "/v1/app/tokens", json=body, auth=basic)).status_code == 201

        bot = json_of(await api.call("POST", "/v1/app/bots", json={"username": "news"}, auth=basic), 201)
        bot_id = bot["user"]["user_id"]
        assert code_of(await api.call("POST", "/v1/app/tokens", json={"user_id": bot_id}, auth=basic)) == (
            403,
            "bot_not_allowed",
        )
        json_of(await api.call("POST", f"/v1/app/bots/{bot_id}/token", auth=basic))
        assert len(json_of(await api.call("GET", "/v1/app/bots", auth=basic))["items"]) == 1
        assert (await api.call("DELETE", f"/v1/app/bots/{bot_id}", auth=basic)).status_code == 204
        assert json_of(await api.call("GET", "/v1/app/bots", auth=basic))["items"] == []


async def test_a_token_signed_by_the_backend_signs_its_user_in_until_the_key_is_revoked(
    tmp_path: Path,
) -> None:
    """The shortest integration: no request to us at all."""
    async with open_api(tmp_path) as api:
        key, secret = await api.accounts.create_app_key("default")
        now_s = wall_clock_ms() // 1000
        claims: dict[str, str | int] = {"sub": "customer 7", "exp": now_s + 600, "name": "Carol"}
        headers = {"authorization": "Bearer " + auth.sign_jwt(key.app_key, secret, claims)}
        me = json_of(await api.call("GET", "/v1/me", headers=headers))
        assert (me["user"]["name"], me["expires_at_ms"]) == ("Carol", (now_s + 600) * 1000)
        fresh = {
            "authorization": "Bearer " + auth.sign_jwt(key.app_key, secret, claims | {"exp": now_s + 60})
        }
        again = json_of(await api.call("GET", "/v1/me", headers=fresh))
        assert again["user"] == me["user"]
        logout = await api.call("POST", "/v1/logout", headers=headers)
        assert code_of(logout) == (403, "forbidden")
        await api.accounts.revoke_app_key("default", key.app_key)
        assert code_of(await api.call("GET", "/v1/me", headers=headers)) == (401, "unauthenticated")
        basic = await api.call("GET", "/v1/app/bots", auth=(key.app_key, secret))
        assert code_of(basic) == (401, "unauthenticated")


@pytest.mark.parametrize(
    "authorization", ["", "Basic !!!", "Basic " + "a2V5OnNlY3JldA==", "Bearer hb_x", "Basic /w=="]
)
async def test_a_backend_without_the_right_key_is_refused(tmp_path: Path, authorization: str) -> None:
    """Tenants."""
    async with open_api(tmp_path) as api:
        response = await api.call("GET", "/v1/app/bots", headers={"authorization": authorization})
        assert code_of(response) == (401, "unauthenticated")


async def test_one_app_never_sees_anything_of_another(tmp_path: Path) -> None:
    """Tenants: every address that takes an id, tried with the id of another app's thing."""
    async with open_api(tmp_path) as api:
        app_id = await api.other_app()
        ann, eve = await api.sign_up("ann"), await api.sign_up("eve", app_id)
        assert (await api.sign_up("ann", app_id)).user_id != ann.user_id
        file_id = json_of(await ann.call("POST", "/v1/files", content=picture()), 201)["file_id"]
        bot = json_of(await ann.call("POST", "/v1/bots", json={"username": "bot1"}), 201)["user"]["user_id"]
        sig = json_of(await eve.call("GET", "/v1/files/sig"))["sig"]

        assert json_of(await eve.call("GET", f"/v1/users?ids={ann.user_id},{bot}"))["items"] == []
        found = json_of(await eve.call("GET", "/v1/users?prefix=ann"))["items"]
        assert ann.user_id not in [item["user_id"] for item in found]
        assert json_of(await eve.call("GET", "/v1/bots"))["items"] == []
        for method, path, body, code in [
            ("GET", f"/v1/files/{file_id}", None, "file_not_found"),
            ("GET", f"/v1/files/{file_id}?sig={sig}", None, "file_not_found"),
            ("GET", f"/v1/files/{file_id}/info", None, "file_not_found"),
            ("PATCH", "/v1/me", {"avatar": file_id}, "file_not_found"),
            ("DELETE", f"/v1/sessions/{ann.session_id}", None, "not_found"),
            ("POST", f"/v1/bots/{bot}/token", None, "user_not_found"),
            ("DELETE", f"/v1/bots/{bot}", None, "user_not_found"),
            ("POST", "/v1/commands", {"type": "open_direct", "user_id": ann.user_id}, "user_not_found"),
            ("POST", "/v1/commands", {"type": "request_contact", "user_id": ann.user_id}, "user_not_found"),
        ]:
            response = await eve.call(method, path, **({"json": body} if body else {}))
            assert code_of(response) == (404, code), path

        key, secret = await api.accounts.create_app_key(app_id)
        basic = (key.app_key, secret)
        for method, path, body in [
            ("POST", "/v1/app/tokens", {"user_id": ann.user_id}),
            ("POST", f"/v1/app/users/{ann.user_id}/disable", None),
            ("POST", f"/v1/app/users/{ann.user_id}/enable", None),
            ("POST", f"/v1/app/bots/{bot}/token", None),
            ("DELETE", f"/v1/app/bots/{bot}", None),
            ("POST", "/v1/app/commands", {"type": "list_conversations"}),
        ]:
            more: dict[str, Any] = {"json": body} if body else {}
            response = await api.call(
                method, path, auth=basic, headers={"x-hubbub-user": ann.user_id}, **more
            )
            assert code_of(response) == (404, "user_not_found"), path
        assert json_of(await api.call("GET", "/v1/app/bots", auth=basic))["items"] == []
        right = {"username": "eve", "password": PASSWORD}
        assert code_of(await api.call("POST", "/v1/login", json=right)) == (401, "bad_credentials")
        assert (await ann.call("GET", "/v1/me")).status_code == 200


# -- commands ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("body", "status", "code"),
    [
        (b"{", 400, "bad_frame"),
        (b'{"type": "explode"}', 400, "unknown_type"),
        (b'{"type": "send"}', 400, "bad_field"),
        (b'{"type": "hello", "token": "t", "device_id": "d"}', 400, "bad_request"),
        (b'{"type": "heartbeat"}', 400, "bad_request"),
        (b'{"type": "ack"}', 400, "bad_request"),
        (b'{"type": "focus", "conversation_ids": []}', 400, "bad_request"),
        (b'{"type": "watch_presence", "user_ids": []}', 400, "bad_request"),
        (b'{"type": "open_direct", "user_id": "u_nobody"}', 404, "user_not_found"),
        (b'{"type": "history", "conversation_id": "c_nowhere"}', 404, "conversation_not_found"),
        (b" " * (MAX_FRAME_BYTES + 1), 413, "frame_too_large"),
    ],
)
async def test_a_command_that_cannot_be_is_refused_with_its_code(
    tmp_path: Path, body: bytes, status: int, code: str
) -> None:
    """Scripts that send single commands."""
    async with open_api(tmp_path) as api:
        ann = await api.sign_up("ann")
        assert code_of(await ann.call("POST", "/v1/commands", content=body)) == (status, code)


@pytest.mark.parametrize(("char", "size"), [("x", 1), ("й", 2), ("\0", 1)])
async def test_a_text_has_100_kb_however_it_is_escaped_and_one_byte_more_is_too_long(
    tmp_path: Path, char: str, size: int
) -> None:
    """Scripts in every language: the limit is one of the text, and has one code."""
    async with open_api(tmp_path) as api:
        ann, bob = await api.sign_up("ann"), await api.sign_up("bob")

        async def command(**fields: Any) -> httpx.Response:
            return await ann.call("POST", "/v1/commands", content=json.dumps(fields))  # escapes all but ASCII

        direct = json_of(await command(type="open_direct", user_id=bob.user_id))
        where = {"conversation_id": direct["conversation"]["conversation_id"]}
        text = char * (MAX_TEXT_BYTES // size)
        seq = json_of(await command(type="send", client_id="k1", text=text, **where))["seq"]
        too_long = (413, "text_too_long")
        assert code_of(await command(type="send", client_id="k2", text=text + "x", **where)) == too_long
        assert code_of(await command(type="edit", target=seq, text=text + "x", **where)) == too_long
        (item,) = json_of(await command(type="history", **where))["items"]
        assert item["text"] == text


async def test_what_the_node_answers_late_or_not_at_all_becomes_a_status(tmp_path: Path) -> None:
    """Clients that retry by status and header."""
    outcomes: list[Reply | Exception] = [
        Error(code="banned", message="Out."),
        Error(code="busy", message="Later.", retry_after_s=2.5),
        Unavailable("storage_unavailable", retry_after_s=5.0),
        Error(code="group_full"),
        ZeroDivisionError("a bug of ours, with a secret in it"),
    ]

    async def execute(_identity: Identity, _command: Command) -> Reply:
        outcome = outcomes.pop(0)
        if isinstance(outcome, Exception):
            raise outcome
        return outcome

    async with open_api(tmp_path, execute=execute) as api:
        ann = await api.sign_up("ann")
        expected = [
            (403, "banned", None),
            (503, "busy", "3"),
            (503, "storage_unavailable", "5"),
            (409, "group_full", None),
            (500, "internal", "1"),
        ]
        for status, code, retry_after in expected:
            response = await ann.call("POST", "/v1/commands", json={"type": "list_contacts"})
            assert (*code_of(response), response.headers.get("retry-after")) == (status, code, retry_after)
            assert "secret" not in response.text
            assert "Traceback" not in response.text


# -- files ------------------------------------------------------------------------------------------


async def test_a_file_comes_back_whole_in_parts_and_not_at_all_if_it_is_known(tmp_path: Path) -> None:
    """Browsers and their video players."""
    content = bytes(range(256)) * 8192  # 2 MiB: several chunks from the disk
    async with open_api(tmp_path) as api:
        ann, bob = await api.sign_up("ann"), await api.sign_up("bob")
        headers = {"content-type": "application/x-tar"}
        info = json_of(
            await ann.call("POST", "/v1/files?name=../a/b%09c.tar", content=content, headers=headers), 201
        )
        assert (info["name"], info["media_type"], info["size_bytes"]) == (
            "b_c.tar",
            "application/x-tar",
            len(content),
        )
        path = f"/v1/files/{info['file_id']}"
        assert json_of(await bob.call("GET", path + "/info")) == info
        whole = await bob.call("GET", path)
        assert whole.content == content
        assert whole.headers["content-disposition"] == "attachment; filename*=UTF-8''b_c.tar"
        assert whole.headers["x-content-type-options"] == "nosniff"
        assert "sandbox" in whole.headers["content-security-policy"]
        etag = whole.headers["etag"]
        for wanted, start, end in [
            ("bytes=0-9", 0, 10),
            ("bytes=2097142-", 2097142, 2097152),
            ("bytes=-5", 2097147, 2097152),
            ("bytes=1048570-1048580", 1048570, 1048581),
        ]:
            part = await bob.call("GET", path, headers={"range": wanted, "if-range": etag})
            assert part.status_code == 206
            assert part.content == content[start:end]
            assert part.headers["content-range"] == f"bytes {start}-{end - 1}/{len(content)}"
        stale = await bob.call("GET", path, headers={"range": "bytes=0-9", "if-range": '"other"'})
        assert (stale.status_code, len(stale.content)) == (200, len(content))
        beyond = await bob.call("GET", path, headers={"range": "bytes=9999999-"})
        assert (beyond.status_code, beyond.headers["content-range"]) == (416, f"bytes */{len(content)}")
        known = await bob.call("GET", path, headers={"if-none-match": etag})
        assert (known.status_code, known.content) == (304, b"")
        head = await bob.call("HEAD", path)
        assert (head.status_code, head.headers["content-length"], head.content) == (
            200,
            str(len(content)),
            b"",
        )


async def test_a_picture_is_measured_and_shown_in_place(tmp_path: Path) -> None:
    """The page, which reserves its room before it loads."""
    async with open_api(tmp_path) as api:
        ann = await api.sign_up("ann")
        for kind, media_type in [
            ("PNG", "image/png"),
            ("JPEG", "image/jpeg"),
            ("GIF", "image/gif"),
            ("WEBP", "image/webp"),
        ]:
            body = picture(40, 30, kind)
            info = json_of(await ann.call("POST", "/v1/files?name=p", content=body), 201)
            assert (info["media_type"], info["width"], info["height"]) == (media_type, 40, 30)
        sig = json_of(await ann.call("GET", "/v1/files/sig"))["sig"]
        shown = await api.call("GET", f"/v1/files/{info['file_id']}?sig={sig}")  # as <img>: no header
        assert shown.content == body
        assert shown.headers["content-disposition"].startswith("inline")
        assert "immutable" in shown.headers["cache-control"]
        for bad in (sig[:-1] + ("A" if sig[-1] != "A" else "B"), "default.99999999999999.x", "", "x"):
            response = await api.call("GET", f"/v1/files/{info['file_id']}?sig={bad}")
            assert code_of(response) == (401, "unauthenticated")
        old, _ = auth.sign_file_grant(SECRET, "default", wall_clock_ms() - 3 * 3600 * 1000)
        expired = await api.call("GET", f"/v1/files/{info['file_id']}?sig={old}")
        assert code_of(expired) == (401, "unauthenticated")


async def test_what_a_browser_might_run_is_only_ever_downloaded(tmp_path: Path) -> None:
    """Everybody who opens a link that somebody posted."""
    page = b"<html><script>alert(1)</script></html>"
    async with open_api(tmp_path) as api:
        ann = await api.sign_up("ann")
        for declared in (
            "text/html",
            "image/svg+xml",
            "application/xhtml+xml",
            "text/javascript",
            "TEXT/HTML; x",
        ):
            headers = {"content-type": declared}
            info = json_of(
                await ann.call("POST", "/v1/files?name=x.html", content=page, headers=headers), 201
            )
            got = await ann.call("GET", f"/v1/files/{info['file_id']}")
            assert got.headers["content-type"] == "application/octet-stream"
            assert got.headers["content-disposition"].startswith("attachment")
            assert got.headers["x-content-type-options"] == "nosniff"
            assert got.headers["content-security-policy"].startswith("sandbox")


@pytest.mark.parametrize(
    ("content", "declared"),
    [
        (picture()[:40], "image/png"),
        (b"\x89PNG\r\n\x1a\n" + b"garbage" * 20, ""),
        (b"just text", "image/jpeg"),
    ],
)
async def test_a_picture_that_is_none_is_refused(tmp_path: Path, content: bytes, declared: str) -> None:
    """Clients that would have to draw it."""
    async with open_api(tmp_path) as api:
        ann = await api.sign_up("ann")
        response = await ann.call("POST", "/v1/files", content=content, headers={"content-type": declared})
        assert code_of(response) == (415, "bad_image")


async def test_a_decompression_bomb_is_refused(tmp_path: Path) -> None:
    """Every client's memory."""
    out = io.BytesIO()
    Image.new("1", (19_000, 19_000)).save(out, "PNG")  # a few KB that decode to 361 megapixels
    assert len(out.getvalue()) < 200_000
    async with open_api(tmp_path) as api:
        ann = await api.sign_up("ann")
        assert code_of(await ann.call("POST", "/v1/files", content=out.getvalue())) == (415, "bad_image")


async def test_an_upload_beyond_the_limit_is_refused_whether_it_says_its_size_or_not(tmp_path: Path) -> None:
    """The operator's disk."""
    settings = Settings(max_file_bytes=10_000, requests_burst=1000)
    async with open_api(tmp_path, settings=settings) as api:
        ann = await api.sign_up("ann")

        async def chunks() -> Any:
            for _ in range(40):
                yield b"x" * 1000

        for body in (b"x" * 20_000, chunks()):
            assert code_of(await ann.call("POST", "/v1/files", content=body)) == (413, "file_too_large")
        assert (await ann.call("POST", "/v1/files", content=b"x" * 10_000)).status_code == 201
        form = {"file": ("big.bin", b"x" * 100_000)}
        assert code_of(await ann.call("POST", "/v1/files", files=form)) == (413, "file_too_large")
        incoming = tmp_path / "files" / "incoming"
        assert list(incoming.iterdir()) == []


async def test_a_form_upload_keeps_the_files_name_and_type(tmp_path: Path) -> None:
    """Plain HTML forms, and every HTTP library's way to send a file."""
    async with open_api(tmp_path) as api:
        ann = await api.sign_up("ann")
        form = {"note": (None, "skipped"), "file": ("r\u00e9sum\u00e9.txt", b"words" * 30_000, "text/plain")}
        info = json_of(await ann.call("POST", "/v1/files", files=form), 201)
        assert (info["name"], info["media_type"], info["size_bytes"]) == (
            "r\u00e9sum\u00e9.txt",
            "text/plain",
            150_000,
        )
        got = await ann.call("GET", f"/v1/files/{info['file_id']}")
        assert got.content == b"words" * 30_000
        for body, kind in [
            (b"--x\r\nnonsense", "multipart/form-data; boundary=x"),
            (b"", "multipart/form-data"),
            (
                b'--x\r\nContent-Disposition: form-data; name="a"\r\n\r\nb\r\n--x--\r\n',
                "multipart/form-data; boundary=x",
            ),
        ]:
            response = await ann.call("POST", "/v1/files", content=body, headers={"content-type": kind})
            assert code_of(response) == (400, "bad_request"), body


async def test_an_upload_that_breaks_off_leaves_nothing(tmp_path: Path) -> None:
    """The operator's disk, and the next upload."""
    async with open_api(tmp_path) as api:
        ann = await api.sign_up("ann")
        url = api.client.base_url
        stream = await trio.open_tcp_stream(str(url.host), url.port or 0)
        head = f"POST /v1/files HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {ann.token}\r\n"
        await stream.send_all(head.encode() + b"Content-Length: 3000000\r\n\r\n" + b"x" * 2_000_000)
        incoming = tmp_path / "files" / "incoming"
        while not (incoming.exists() and list(incoming.iterdir())):
            await trio.lowlevel.checkpoint()  # only the file system can tell
        await stream.aclose()
        while list(incoming.iterdir()):
            await trio.lowlevel.checkpoint()
        assert (await ann.call("POST", "/v1/files", content=b"fine")).status_code == 201


@pytest.mark.parametrize(
    ("header", "size", "expected"),
    [
        ("bytes=0-0", 10, (0, 1)),
        ("bytes=5-", 10, (5, 5)),
        ("bytes=-3", 10, (7, 3)),
        ("bytes=-30", 10, (0, 10)),
        ("bytes=-0", 10, (10, 0)),
        ("bytes=0-99", 10, (0, 10)),
        ("bytes=10-", 10, (10, 0)),
        ("bytes=5-2", 10, None),
        ("bytes=0-1,3-4", 10, None),
        ("bytes=-", 10, None),
        ("items=0-1", 10, None),
        ("bytes=0-", 0, (0, 0)),
    ],
)
def test_ranges_are_read_as_the_rfc_says(header: str, size: int, expected: tuple[int, int] | None) -> None:
    """Resumed downloads."""
    assert parse_range(header, size) == expected


# -- operating, docs, the page ----------------------------------------------------------------------


async def test_health_readiness_and_nodes_are_told(tmp_path: Path) -> None:
    """Load balancers and orchestrators."""
    async with open_api(tmp_path) as api:
        assert json_of(await api.call("GET", "/healthz"))["status"] == "ok"
        assert json_of(await api.call("GET", "/readyz"))["status"] == "ok"
        api.reason = "draining"
        response = await api.call("GET", "/readyz")
        assert (response.status_code, response.json()["status"]) == (503, "draining")
        assert (await api.call("GET", "/healthz")).status_code == 200
        assert json_of(await api.call("GET", "/v1/nodes"))["items"][0]["node_id"] == "n1"


async def test_metrics_are_for_this_machine_or_the_admin_token(tmp_path: Path) -> None:
    """Operators, whose numbers are nobody else's business."""
    token = "an-admin-token-of-some-length"
    async with open_api(tmp_path, settings=Settings(admin_token=token)) as api:
        assert (await api.call("GET", "/metrics")).text == "hubbub_up 1\n"
        proxied = {"x-forwarded-for": "203.0.113.9"}
        assert code_of(await api.call("GET", "/metrics", headers=proxied)) == (403, "forbidden")
        wrong = proxied | {"authorization": "Bearer wrong"}
        assert code_of(await api.call("GET", "/metrics", headers=wrong)) == (403, "forbidden")
        right = proxied | {"authorization": f"Bearer {token}"}
        assert (await api.call("GET", "/metrics", headers=right)).status_code == 200


async def test_the_service_worker_is_served_at_the_root_and_never_stale(tmp_path: Path) -> None:
    """Browsers let a worker speak for its own folder and below, and run an old one while it is cached."""
    async with open_api(tmp_path, web_folder=WEB_FOLDER) as api:
        worker = await api.call("GET", "/sw.js")
        assert worker.status_code == 200
        assert worker.headers["content-type"] == "text/javascript; charset=utf-8"
        assert worker.headers["cache-control"] == "no-cache"
        assert "connect-src 'self'" in worker.headers["content-security-policy"]
        known = await api.call("GET", "/sw.js", headers={"if-none-match": worker.headers["etag"]})
        assert known.status_code == 304
        for name in re.findall(r'"(/[a-z0-9-]+\.png)"', worker.text):
            assert (await api.call("GET", name)).headers["content-type"] == "image/png"
        policy = (await api.call("GET", "/")).headers["content-security-policy"]
        assert "worker-src 'self'" in policy


async def test_the_page_is_served_with_types_caching_and_a_strict_policy(tmp_path: Path) -> None:
    """Browsers."""
    web = tmp_path / "web"
    (web / "js").mkdir(parents=True)
    (web / "index.html").write_text("<!doctype html><title>hubbub</title>" + " " * 2000)
    (web / "js" / "main.js").write_text("export {}")
    (web / ".secret.js").write_text("no")
    (web / "notes.py").write_text("no")
    (tmp_path / "outside.js").write_text("no")
    async with open_api(tmp_path / "data", web_folder=web) as api:
        page = await api.call("GET", "/")
        assert page.headers["content-type"] == "text/html; charset=utf-8"
        policy = page.headers["content-security-policy"]
        assert "script-src 'self'" in policy
        assert "unsafe" not in policy
        assert page.headers["content-encoding"] == "gzip"
        assert (
            await api.call("GET", "/", headers={"if-none-match": page.headers["etag"]})
        ).status_code == 304
        module = await api.call("GET", "/js/main.js")
        assert module.headers["content-type"] == "text/javascript; charset=utf-8"
        assert module.headers["cache-control"] == "no-cache"
        (web / "js" / "main.js").write_text("export const a = 1")
        assert (await api.call("GET", "/js/main.js")).text == "export const a = 1"
        for path in (
            "/nope.js",
            "/.secret.js",
            "/notes.py",
            "/js",
            "/js/%2e%2e/%2e%2e/outside.js",
            "/js/..%2f..%2foutside.js",
            "/%00.js",
        ):
            assert code_of(await api.call("GET", path)) == (404, "not_found"), path
        assert code_of(await api.call("POST", "/")) == (405, "method_not_allowed")
        assert code_of(await api.call("GET", "/v1/nothing")) == (404, "not_found")


async def test_the_description_names_every_address_and_needs_nothing_from_the_net(tmp_path: Path) -> None:
    """Who writes a client, and who runs a server without a way out."""
    async with open_api(tmp_path) as api:
        schema = json_of(await api.call("GET", "/v1/openapi.json"))
        assert {
            "/v1/signup",
            "/v1/login",
            "/v1/files/{file_id}",
            "/v1/commands",
            "/v1/app/users",
            "/healthz",
        } <= set(schema["paths"])
        send = schema["components"]["schemas"]["Send"]
        assert send["properties"]["type"] == {"enum": ["send"]}
        text = json.dumps(schema)
        for ref in {part.split('"')[0] for part in text.split('"$ref": "#/components/schemas/')[1:]}:
            assert ref in schema["components"]["schemas"], ref
        for path, operations in schema["paths"].items():
            for operation in operations.values():
                assert operation["summary"], path
                assert "default" in operation["responses"], path
        for path in ("/v1/docs", "/v1"):
            page = await api.call("GET", path)
            assert page.status_code == 200
            assert "/v1/signup" in page.text
            assert "<script" not in page.text
            assert "http://" not in page.text.replace("http://json-schema", "")
            assert "https://" not in page.text.replace("https://example.com", "")
        assert (await api.call("GET", "/v1/docs.css")).headers["content-type"].startswith("text/css")


async def test_a_flood_from_one_address_is_refused_but_probes_are_not(tmp_path: Path) -> None:
    """Everybody else on the node."""
    settings = Settings(requests_per_s=0.01, requests_burst=3, trusted_proxies=["127.0.0.1"])
    async with open_api(tmp_path, settings=settings) as api:
        flood = {"x-forwarded-for": "198.51.100.7"}
        statuses = [(await api.call("GET", "/v1/nodes", headers=flood)).status_code for _ in range(5)]
        assert statuses == [200, 200, 200, 429, 429]
        assert code_of(await api.call("GET", "/v1/nodes", headers=flood)) == (429, "rate_limited")
        other = {"x-forwarded-for": "198.51.100.8"}
        assert (await api.call("GET", "/v1/nodes", headers=other)).status_code == 200
        assert (await api.call("GET", "/healthz", headers=flood)).status_code == 200


async def test_other_origins_may_call_only_where_they_are_named(tmp_path: Path) -> None:
    """App developers whose page lies elsewhere, and everybody whose token is in a browser."""
    asked = {"origin": "https://app.example.com", "access-control-request-method": "POST"}
    async with open_api(tmp_path / "a") as api:
        response = await api.call("OPTIONS", "/v1/login", headers=asked)
        assert "access-control-allow-origin" not in response.headers
    async with open_api(tmp_path / "b", settings=Settings(origins=["https://app.example.com"])) as api:
        response = await api.call("OPTIONS", "/v1/login", headers=asked)
        assert response.headers["access-control-allow-origin"] == "https://app.example.com"
        evil = await api.call("OPTIONS", "/v1/login", headers=asked | {"origin": "https://evil.example"})
        assert "access-control-allow-origin" not in evil.headers


async def test_pages_of_the_clusters_other_nodes_may_call(tmp_path: Path) -> None:
    """A page whose own node is gone: it uploads, signs in and shows pictures through another one."""
    origins = ["http://10.0.0.1:8080"]
    settings = Settings(cluster=True)
    async with open_api(tmp_path, settings=settings, cluster_origins=lambda: origins) as api:
        asked = {
            "origin": "http://10.0.0.1:8080",
            "access-control-request-method": "POST",
            "access-control-request-headers": "authorization,content-type",
        }
        response = await api.call("OPTIONS", "/v1/files", headers=asked)
        assert response.status_code == 204
        assert response.headers["access-control-allow-origin"] == "http://10.0.0.1:8080"
        answer = await api.call("GET", "/v1/nodes", headers={"origin": "http://10.0.0.1:8080"})
        assert answer.headers["access-control-allow-origin"] == "http://10.0.0.1:8080"
        late = asked | {"origin": "http://10.0.0.2:8080"}
        response = await api.call("OPTIONS", "/v1/files", headers=late)
        assert "access-control-allow-origin" not in response.headers
        origins.append("http://10.0.0.2:8080")
        response = await api.call("OPTIONS", "/v1/files", headers=late)
        assert response.headers["access-control-allow-origin"] == "http://10.0.0.2:8080"
        policy = (await api.call("GET", "/")).headers["content-security-policy"]
        assert "http://10.0.0.2:8080 ws://10.0.0.1:8080 ws://10.0.0.2:8080;" in policy


async def test_nodes_of_the_zone_that_was_asked_for_come_first(tmp_path: Path) -> None:
    """Clients before their first connection, and load balancers that ask for them."""
    nodes = [
        NodeInfo(node_id="going", url="ws://c/ws", zone="east", draining=True),
        NodeInfo(node_id="west", url="ws://b/ws", zone="west"),
        NodeInfo(node_id="east", url="ws://a/ws", zone="east", load=0.5),
    ]
    async with open_api(tmp_path, nodes=nodes) as api:
        items = json_of(await api.call("GET", "/v1/nodes?zone=east"))["items"]
        assert [item["node_id"] for item in items] == ["east", "west", "going"]
        items = json_of(await api.call("GET", "/v1/nodes", params={"zone": "west"}))["items"]
        assert [item["node_id"] for item in items] == ["west", "east", "going"]
        assert code_of(await api.call("GET", f"/v1/nodes?zone={'z' * 65}"))[0] == 400


async def test_a_large_or_broken_body_is_refused_without_being_read_to_its_end(tmp_path: Path) -> None:
    """The node's memory."""
    async with open_api(tmp_path) as api:
        large = {"username": "ann", "password": "x" * 100_000}
        assert code_of(await api.call("POST", "/v1/signup", json=large)) == (413, "frame_too_large")
        assert code_of(await api.call("POST", "/v1/signup", content=b"{nope")) == (400, "bad_request")
        assert code_of(await api.call("POST", "/v1/signup", json={"username": "ann"})) == (400, "bad_field")
        empty = await api.call("POST", "/v1/login")
        assert empty.json() == {"code": "bad_field", "message": "The body is missing."}
        assert empty.status_code == 400


@pytest.mark.parametrize("content", [b'{"username": "\xff"}', b'{"username": "ann", "\xc3\x28": 1}'])
async def test_a_body_that_is_not_utf8_is_the_clients_mistake(
    tmp_path: Path, content: bytes, capsys: pytest.CaptureFixture[str]
) -> None:
    """Clients in another encoding, and operators, whom no traceback alarms for it."""
    async with open_api(tmp_path) as api:
        assert code_of(await api.call("POST", "/v1/signup", content=content)) == (400, "not_utf8")
    assert "crashed" not in capsys.readouterr().out


async def test_each_request_is_logged_once_without_its_secrets(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Operators, and everybody whose token would otherwise lie in a log."""
    async with open_api(tmp_path) as api:
        ann = await api.sign_up("ann")
        sig = json_of(await ann.call("GET", "/v1/files/sig"))["sig"]
        capsys.readouterr()
        await ann.call("GET", f"/v1/files/f_x?sig={sig}")
        await ann.call("GET", "/v1/me")
        text = ""
        while "/v1/me" not in text:  # a line follows its answer
            await trio.lowlevel.checkpoint()
            text += capsys.readouterr().out
        lines = [line for line in text.splitlines() if "http_request_served" in line]
        (first,) = [line for line in lines if "/v1/files/f_x" in line]
        assert "404" in first
        assert "[info " in first
        (second,) = [line for line in lines if "/v1/me" in line]
        assert ann.user_id in second
        assert "[debug " in second  # a healthy node is quiet
        assert ann.token not in text
        assert sig not in text


def test_every_code_has_the_status_of_its_kind() -> None:
    """Generic HTTP clients, which know nothing of our codes."""
    from protocol.errors import CODES, PROTOCOL_CODES, REFUSED_CODES
    from server.http.errors import error_of, status_of

    for code in CODES:
        status = status_of(error_of(Error(code=code)))
        if code in PROTOCOL_CODES:
            assert status in (400, 413), code
        elif code in REFUSED_CODES:
            assert 400 <= status < 500, code
        else:
            assert status in (429, 500, 503), code
        if code.endswith("not_found"):
            assert status == 404, code
