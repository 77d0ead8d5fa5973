"""What the documents tell people to run, run as it stands there; what they name must exist."""

import os
import re
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx
import pytest
import trio

import hubbub
from protocol import events as e
from server import config
from tests.nodes import ROOT, NodeProcess, running_node

DOCUMENTS = sorted([*ROOT.glob("*.md"), *ROOT.glob("docs/*.md"), *ROOT.glob("protocol/*.md")])


def blocks(document: str, language: str) -> list[str]:
    text = (ROOT / document).read_text()
    return re.findall(rf"^```{language}\n(.*?)^```$", text, re.MULTILINE | re.DOTALL)


def environment(node: NodeProcess, **more: str) -> dict[str, str]:
    clean = {key: value for key, value in os.environ.items() if not key.startswith("HUBBUB_")}
    return {**clean, "PYTHONPATH": str(ROOT), "HUBBUB_URL": node.url, **more}


def told(node: NodeProcess, *words: str) -> list[str]:
    """An operator's command beside the node; the values it prints."""
    done = subprocess.run(
        [sys.executable, "-m", "server.cli", *words, "--data-dir", str(node.data_dir)],
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
        cwd=ROOT,
        env=environment(node),
    )
    return [line.split("\t")[1] for line in done.stdout.splitlines()]


def run_python(node: NodeProcess, code: str, **more: str) -> str:
    done = subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        text=True,
        timeout=60,
        env=environment(node, **more),
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


@contextmanager
def running(node: NodeProcess, code: str, **more: str) -> Iterator[None]:
    process = subprocess.Popen([sys.executable, "-c", code], env=environment(node, **more))
    try:
        yield
    finally:
        process.kill()
        process.wait()


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: str(path.relative_to(ROOT)))
def test_every_link_into_the_project_leads_somewhere(document: Path) -> None:
    """Readers who follow a link."""
    for target in re.findall(r"\]\(([^)\s]+)\)", document.read_text()):
        if not re.match(r"https?:|mailto:|#", target):
            assert (document.parent / target.partition("#")[0]).exists(), target


@pytest.mark.parametrize("document", ["README.md", "docs/OPERATING.md"])
def test_the_settings_files_of_the_documents_are_accepted(document: str, tmp_path: Path) -> None:
    """Operators who copy them."""
    (found,) = blocks(document, "toml")
    file = tmp_path / "hubbub.toml"
    file.write_text(found)
    assert config.load({}, {}, config_file=str(file)).settings.public_url == "https://chat.example.com"


def test_the_operators_page_names_settings_that_exist_with_their_defaults() -> None:
    """Operators who look up what a limit is."""
    text = (ROOT / "docs/OPERATING.md").read_text()
    table = text.partition("## Limits")[2].partition("## Is it well")[0]
    rows = re.findall(r"^\| (`[^|]+) \| ([^|]+) \|", table, re.MULTILINE)
    assert len(rows) >= 8
    for names, defaults in rows:
        shown = re.findall(r"[\d,]*\d", defaults)
        for index, name in enumerate(re.findall(r"`(\w+)`", names)):
            value = getattr(config.DEFAULTS, name)
            if isinstance(value, int | float):
                factor = 1 << 20 if "MiB" in defaults else 1
                assert int(shown[index].replace(",", "")) * factor == value, name


@pytest.mark.slow
def test_the_metrics_of_the_operators_page_are_those_of_a_node(tmp_path: Path) -> None:
    """Operators who write an alarm after it."""
    text = (ROOT / "docs/OPERATING.md").read_text()
    table = text.partition("| metric | tells |")[2].partition("\n\n")[0]
    names = {
        name
        for row in re.findall(r"^\| (`[^|]+) \|", table, re.MULTILINE)
        for name in re.findall(r"`(\w+)", row)
    }
    assert len(names) > 20
    with running_node(tmp_path) as node:
        found = httpx.get(f"{node.url}/metrics", timeout=30).text
    exported = set(re.findall(r"^# TYPE hubbub_(\w+) ", found, re.MULTILINE))
    assert names <= exported


@pytest.mark.slow
def test_the_backend_of_the_apps_page_runs_and_may_run_again(tmp_path: Path) -> None:
    """Whoever connects a product: the page is what they start from."""
    (code,) = blocks("docs/APPS.md", "python")
    (signing,) = [block for block in blocks("README.md", "python") if "jwt" in block]
    with running_node(tmp_path) as node:
        told(node, "apps", "create", "shop", "--no-sign-up")
        key, secret, _app_id = told(node, "keys", "create", "--app", "shop", "--name", "backend")
        mine = {"HUBBUB_APP_KEY": key, "HUBBUB_APP_SECRET": secret}
        first = run_python(node, code, **mine)
        assert first.splitlines()[1] == r"Here is your invoice. invoice.txt b'Invoice 4711\n'"
        second = run_python(node, code, **mine)
        assert "a repetition" in second
        assert second.splitlines()[1:] == first.splitlines()[1:]
        token = run_python(node, signing, **mine).strip()
        me = httpx.get(f"{node.url}/v1/me", headers={"authorization": f"Bearer {token}"}, timeout=30)
        assert me.json()["user"]["name"] == "Carla"


@pytest.mark.slow
async def test_the_bot_of_the_readme_throws_a_die(tmp_path: Path) -> None:
    """A newcomer's first bot."""
    (code,) = [block for block in blocks("README.md", "python") if "hubbub.Bot" in block]
    with running_node(tmp_path) as node, trio.fail_after(60):
        bot_id, _username, token = told(node, "bots", "create", "dice")
        _, ann = node.sign_up("ann")
        code = code.replace("hubbub://127.0.0.1:8081", node.bot_url)
        async with hubbub.connect(node.url, token=ann) as client:
            conversation = await client.open_direct(bot_id)
            with running(node, code, HUBBUB_TOKEN=token):
                states = [item.state for item in await client.watch_presence([bot_id])]
                if "online" in states:
                    await client.send(conversation.conversation_id, "/dice")
                async for event in client.events():
                    if isinstance(event, e.Presence) and "online" in [item.state for item in event.items]:
                        await client.send(conversation.conversation_id, "/dice")
                    if isinstance(event, e.MessagePosted) and event.user_id == bot_id:
                        assert re.fullmatch(r"You threw a [1-6]\.", event.text)
                        return
                raise AssertionError("the connection ended")
