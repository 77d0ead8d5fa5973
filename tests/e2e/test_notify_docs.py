"""What the pages about notifications tell people to run, as it stands there; what they name must exist."""

import json
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import trio

import hubbub
from protocol import events as e
from protocol.notify_events import NotificationShown
from server.http.backend import backend_router
from server.http.notify import notify_router
from server.http.notify_alerts import notify_alert_router
from server.http.notify_dashboard import notify_dashboard_router
from server.http.notify_groups import notify_group_router
from server.http.notify_import import notify_import_router
from server.http.notify_privacy import notify_privacy_router
from server.http.notify_setup import notify_setup_router
from tests.e2e.test_docs import blocks, environment, run_python, running, told
from tests.nodes import ROOT, NodeProcess, running_node

PAGE = "docs/NOTIFICATIONS.md"
needs_curl = pytest.mark.skipif(shutil.which("curl") is None, reason="no curl here")


def block(document: str, language: str, part: str) -> str:
    """The one block that has that part."""
    (found,) = [text for text in blocks(document, language) if part in text]
    return found


def run_shell(node: NodeProcess, code: str, folder: Path, **more: str) -> list[Any]:
    """Run a block of a page in a shell; the answers, which are JSON."""
    done = subprocess.run(
        ["sh", "-e", "-c", code],
        env=environment(node, **more),
        cwd=folder,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 0, done.stderr + done.stdout
    return [json.loads(line) for line in done.stdout.replace("}{", "}\n{").splitlines()]


def key_of(node: NodeProcess) -> dict[str, str]:
    key, secret, _app_id = told(node, "keys", "create")
    return {"HUBBUB_APP_KEY": key, "HUBBUB_APP_SECRET": secret}


def shape_of(answer: Any) -> Any:
    """The names of what an answer has, for comparing it with the one that is shown."""
    if isinstance(answer, dict):
        return {name: shape_of(value) for name, value in answer.items()}
    return [shape_of(value) for value in answer] if isinstance(answer, list) else None


@contextmanager
def running_sandbox(folder: Path) -> Iterator[str]:
    """`hubbub sandbox`, at ports that are free; the address of its control API."""
    words = [sys.executable, "-m", "server", "sandbox", "--dir", str(folder), "--port", "0", "--json"]
    process = subprocess.Popen(words, cwd=ROOT, stdout=subprocess.PIPE, text=True)
    try:
        assert process.stdout is not None
        yield json.loads(process.stdout.readline())["control_url"]
    finally:
        process.terminate()
        process.communicate()


@pytest.mark.slow
@needs_curl
def test_the_first_notification_is_made_as_the_pages_show_it(tmp_path: Path) -> None:
    """The first minute of a new developer, by either page."""
    first = block(PAGE, "sh", '"from your app"')
    short = block("README.md", "sh", "/v1/notifications")
    shown = [json.loads(line) for line in re.findall(r"^# (\{.*\})$", first, re.MULTILINE)]
    with running_node(tmp_path) as node:
        mine = key_of(node)
        answers = run_shell(node, first, tmp_path, **mine)
        assert [shape_of(answer) for answer in answers] == [shape_of(answer) for answer in shown]
        assert answers[1]["items"][0]["state"] == shown[1]["items"][0]["state"] == "done"
        _, again = run_shell(node, short.replace("http://127.0.0.1:8080", node.url), tmp_path, **mine)
        assert again["items"][0]["state"] == "dropped"
        (rule,) = run_shell(node, block(PAGE, "sh", "/v1/app/notify/types/order"), tmp_path, **mine)
        assert rule["fallback"] == ["email"]
        printed = run_python(node, block(PAGE, "python", "AppBackend"), **mine).splitlines()
        assert printed == ["['done']", "Hello from Python", "Hello from your app"]


@pytest.mark.slow
@needs_curl
def test_a_push_reaches_the_sandbox_as_the_page_shows_it(tmp_path: Path) -> None:
    """Nobody has credentials on the first day."""
    push = block(PAGE, "sh", "/v1/deliveries/apns")
    (started,) = re.findall(
        r"`hubbub serve (--notify-networks \S+)`", (ROOT / "docs/NOTIFICATIONS.md").read_text()
    )
    flags = started.split()
    with running_node(tmp_path, *flags) as node, running_sandbox(tmp_path / "sandbox") as control_url:
        mine = key_of(node)
        made, _ = run_shell(node, block(PAGE, "sh", '"from your app"'), tmp_path, **mine)
        mine["USER_ID"] = made["items"][0]["user"]["user_id"]
        answers = run_shell(node, push.replace("http://127.0.0.1:9700", control_url), tmp_path, **mine)
        assert answers[0]["kind"] == "apns"
        assert answers[2]["items"][0]["state"] == "open"
        assert answers[3]["is_complete"]
        payload = answers[3]["deliveries"][0]["content"]["payload"]
        assert payload["aps"]["alert"] == {"title": "Hello", "body": "on your phone"}
        explained = subprocess.run(
            [
                *(sys.executable, "-m", "server", "explain", str(payload["notification_id"])),
                *("--data-dir", str(node.data_dir)),
            ],
            cwd=ROOT,
            env=environment(node),
            capture_output=True,
            text=True,
            check=True,
        ).stdout
        assert re.search(
            r"^    attempt      pass      apns: 1 to apns-\w{8} by apns", explained, re.MULTILINE
        )


@pytest.mark.slow
async def test_the_bot_of_the_page_notifies_who_writes_to_it(tmp_path: Path) -> None:
    """A bot that an operator has made has no owner, and may."""
    code = block(PAGE, "python", "hubbub.Bot")
    with running_node(tmp_path) as node, trio.fail_after(60):
        bot_id, _username, token = told(node, "bots", "create", "reminder")
        _, ann = node.sign_up("ann")
        code = code.replace("hubbub://127.0.0.1:8081", node.bot_url)
        async with hubbub.connect(node.url, token=ann) as client:
            conversation = await client.open_direct(bot_id)
            with running(node, code, HUBBUB_TOKEN=token):
                states = [item.state for item in await client.watch_presence([bot_id])]
                watch = client.notifications.watch()
                if "online" not in states:
                    async for event in client.events():
                        if isinstance(event, e.Presence) and "online" in [item.state for item in event.items]:
                            break
                await client.send(conversation.conversation_id, "/remind of milk")
                async for shown in watch:
                    assert isinstance(shown, NotificationShown)
                    assert (shown.item.title, shown.item.text) == ("You asked", "of milk")
                    return
                raise AssertionError("the connection ended")


ADDRESSED = (
    PAGE,
    "docs/NOTIFICATIONS-OPERATING.md",
    "docs/NOTIFICATIONS-SCHEDULING.md",
    "docs/TEMPLATES.md",
)


def test_the_pages_name_addresses_that_exist() -> None:
    """Readers who type them."""
    routers = (
        notify_router(),
        notify_alert_router(),
        notify_setup_router(),
        notify_group_router(),
        notify_privacy_router(),
        notify_dashboard_router(),
        notify_import_router(),
        backend_router(),
    )
    known = {re.sub(r"{[^}]+}", "*", route.path) for router in routers for route in router.routes}
    known |= {"/v1/docs"}
    named: set[str] = set()
    for page in ADDRESSED:
        text = (ROOT / page).read_text().replace("127.0.0.1:9700/v1", "")
        named |= set(re.findall(r"(/v1/[\w/$-]+)", text))
    assert len(named) > 15
    for address in sorted(named):
        patterns = [
            pattern
            for pattern in known
            if len(pattern.split("/")) == len(address.rstrip("/").split("/"))
            and all(
                part in ("*", word)
                for part, word in zip(pattern.split("/"), address.rstrip("/").split("/"), strict=True)
            )
        ]
        assert patterns, address
