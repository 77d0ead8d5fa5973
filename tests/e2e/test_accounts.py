"""The SDK's HTTP side against a real node: accounts, sessions, files, bots and an app's backend."""

import json
import subprocess
import sys
from pathlib import Path

import httpx
import pytest
import trio

import hubbub
from protocol import commands as c
from protocol import replies as r
from protocol.http import ProvisionUser
from tests.nodes import running_node

pytestmark = [pytest.mark.slow, pytest.mark.timeout(120)]


async def test_an_account_lives_from_sign_up_to_log_out(tmp_path: Path) -> None:
    """What a page does with fetch(), a program does with these."""
    with running_node(tmp_path) as node, trio.fail_after(60):
        async with hubbub.Accounts(node.url) as accounts:
            with pytest.raises(hubbub.Refused) as weak:
                await accounts.sign_up("ann", "x")
            assert weak.value.code == "weak_password"
            await accounts.sign_up("ann", "a good long password", name="Ann")
            assert (await accounts.me()).user.name == "Ann"
            assert (await accounts.update_me(name="Ann B")).name == "Ann B"
            stored = await accounts.upload(b"some bytes \x00\xff", name="ä file.bin")
            assert await accounts.download(stored.file_id) == b"some bytes \x00\xff"
            assert (await accounts.file_info(stored.file_id)).name == "ä file.bin"
            with pytest.raises(hubbub.Refused) as missing:
                await accounts.download("nothing")
            assert missing.value.code == "file_not_found"
            bot = await accounts.create_bot("helper")
            assert [profile.username for profile in await accounts.bots()] == ["helper"]
            async with hubbub.connect(node.bot_url, token=bot.token) as client:
                assert client.user.is_bot
            async with hubbub.Accounts(node.url) as second:
                await second.log_in("ann", "a good long password", device_name="second")
                sessions = await accounts.sessions()
                assert len(sessions) == 2
                other = next(session for session in sessions if not session.current)
                await accounts.revoke_session(other.session_id)
                with pytest.raises(hubbub.Refused) as ended:
                    await second.me()
                assert ended.value.code == "unauthenticated"
            await accounts.log_out()
            with pytest.raises(hubbub.Refused):
                await accounts.log_in("ann", "a wrong password")


async def test_a_backend_makes_users_signs_their_tokens_and_acts_for_them(tmp_path: Path) -> None:
    """An existing product needs no second log-in."""
    with running_node(tmp_path) as node, trio.fail_after(60):
        made = await trio.to_thread.run_sync(
            lambda: subprocess.run(
                [
                    sys.executable,
                    "-m",
                    "server",
                    "keys",
                    "create",
                    "--json",
                    "--data-dir",
                    str(node.data_dir),
                ],
                capture_output=True,
                check=True,
                timeout=60,
            )
        )
        key = json.loads(made.stdout)
        async with hubbub.AppBackend(node.url, key["app_key"], key["app_secret"]) as backend:
            wanted = [ProvisionUser(external_id=f"u{number}", name=f"User {number}") for number in range(3)]
            first = await backend.provision(wanted)
            assert [item.created for item in first.items] == [True] * 3
            again = await backend.provision(wanted)
            assert [item.user.user_id for item in again.items] == [item.user.user_id for item in first.items]
            one, two = first.items[0].user.user_id, first.items[1].user.user_id
            opened = await backend.command_as(one, c.OpenDirect(id=1, user_id=two), r.ConversationInfo)
            issued = await backend.issue_token(one)
            for token in (backend.user_token("u0"), issued.token):
                async with hubbub.connect(node.url, token=token) as client:
                    assert client.user_id == one
                    await client.send(opened.conversation.conversation_id, "hello")
            with pytest.raises(hubbub.Refused) as unknown:
                await backend.command_as("nobody", c.ListContacts(id=1), r.ContactList)
            assert unknown.value.code == "user_not_found"


async def test_creations_are_counted_by_user_over_http_and_connections_together(tmp_path: Path) -> None:
    """People whom a stranger would put into groups without end."""
    flags = ("--creations-per-s", "0.01", "--creations-burst", "2")
    with running_node(tmp_path, *flags) as node, trio.fail_after(60):
        (_, token), (ben, _) = [await trio.to_thread.run_sync(node.sign_up, name) for name in ("ann", "ben")]
        async with hubbub.connect(node.bot_url, token=token) as client:
            await client.create_group("One", [])
        headers = {"authorization": f"Bearer {token}"}
        async with httpx.AsyncClient(base_url=node.url, headers=headers) as http:
            wanted = {"type": "open_direct", "user_id": ben}
            answers = [await http.post("/v1/commands", json=wanted) for _ in range(2)]
        assert [answer.status_code for answer in answers] == [200, 429]
        assert answers[1].json()["code"] == "rate_limited"
        assert answers[1].json()["retry_after_s"] > 90
