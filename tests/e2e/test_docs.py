"""What the documents tell people to run, run as it stands there; what they name must exist."""

import json
import os
import re
import shutil
import ssl
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest
import trio

import hubbub
from protocol import events as e
from server import config
from server.cli import make_parser
from server.clustering import cluster_settings
from server.launch.child import KILL_AFTER_S
from server.launch.plan import NodePlans, find_free_ports, first_ports
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


def commands_in(document: str) -> list[list[str]]:
    """The words after `hubbub` in a document's shell blocks and units."""
    text = "\n".join(blocks(document, "sh") + blocks(document, "ini"))
    found = re.findall(r"(?:^ *|until |/bin/)hubbub ([a-z].*)$", text, re.MULTILINE)
    return [re.split(r" \|\| | >|#|;", line)[0].split() for line in found]


@pytest.mark.parametrize("document", ["docs/OPERATING.md", "docs/CLUSTER.md"])
def test_the_commands_of_the_documents_are_understood(document: str) -> None:
    """Operators who copy them, and systemd."""
    found = commands_in(document)
    assert len(found) >= 8
    for words in found:
        make_parser(words).parse_args(words)  # wrong usage would exit


def test_the_units_of_the_documents_allow_for_the_longest_drain() -> None:
    """systemd must not kill what is still draining."""
    needed_s = 2 * config.DEFAULTS.drain_s + KILL_AFTER_S
    units = blocks("docs/CLUSTER.md", "ini")
    assert len(units) == 2
    for unit in units:
        given = re.search(r"^TimeoutStopSec=(\d+)$", unit, re.MULTILINE)
        assert given is not None
        assert int(given[1]) > needed_s


def test_the_ports_of_the_clusters_page_are_those_that_nodes_get() -> None:
    """Firewalls, and people who look for n3."""
    rows = re.findall(r"^\| n(\d) \| (.+) \|$", (ROOT / "docs/CLUSTER.md").read_text(), re.MULTILINE)
    plans = NodePlans(config.DEFAULTS, first_ports(config.DEFAULTS, {}), find_free=find_free_ports)
    assert [number for number, _ in rows] == ["1", "2", "3"]
    for number, cells in rows:
        shown = [int(port) for port in re.findall(r"\d{4}", cells)]
        assert shown == [port for _, port in plans.plan(int(number)).ports.values()]


@pytest.mark.skipif(shutil.which("openssl") is None, reason="no openssl here")
def test_the_certificates_of_the_clusters_page_let_nodes_in_and_nobody_else(tmp_path: Path) -> None:
    """Operators who make their own authority."""
    (script,) = [block for block in blocks("docs/CLUSTER.md", "sh") if "openssl req" in block]
    made = subprocess.run(
        ["sh", "-ec", script], cwd=tmp_path, capture_output=True, text=True, timeout=60, check=False
    )
    assert made.returncode == 0, made.stderr
    assert (tmp_path / "n1.key").stat().st_mode & 0o777 == 0o600
    flags = {"cluster": True, "data_dir": str(tmp_path / "data")} | {
        f"cluster_{part}": str(tmp_path / name)
        for part, name in (("ca", "ca.pem"), ("cert", "n1.pem"), ("key", "n1.key"))
    }
    cluster_settings(config.load(flags, {}).settings, "n1")  # raises where the files do not go together
    other = tmp_path / "other"
    other.mkdir()
    subprocess.run(["sh", "-ec", script], cwd=other, capture_output=True, timeout=60, check=True)
    assert shakes_hands(tmp_path, tmp_path / "n2", authority=tmp_path / "ca.pem")
    assert not shakes_hands(tmp_path, other / "n2", authority=tmp_path / "ca.pem")


def shakes_hands(folder: Path, client: Path, *, authority: Path) -> bool:
    """Whether a node with the certificate `client` gets into n1, both proving who they are."""
    server = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH, cafile=str(folder / "ca.pem"))
    server.verify_mode = ssl.CERT_REQUIRED
    server.load_cert_chain(folder / "n1.pem", folder / "n1.key")
    dialling = ssl.create_default_context(cafile=str(authority))
    dialling.load_cert_chain(client.with_suffix(".pem"), client.with_suffix(".key"))
    to_client, to_server = ssl.MemoryBIO(), ssl.MemoryBIO()
    ends = [
        dialling.wrap_bio(to_client, to_server, server_hostname="127.0.0.1"),
        server.wrap_bio(to_server, to_client, server_side=True),
    ]
    for _ in range(10):
        for end in list(ends):
            try:
                end.do_handshake()
                ends.remove(end)
            except ssl.SSLWantReadError:
                pass
            except ssl.SSLError:
                return False
    return not ends


@pytest.mark.slow
def test_the_metrics_of_the_clusters_page_are_those_of_its_nodes(tmp_path: Path) -> None:
    """Operators who write an alarm after it."""
    text = (ROOT / "docs/CLUSTER.md").read_text()
    table = text.partition("| metric | alarm |")[2].partition("\n\n")[0]
    names = {
        name
        for row in re.findall(r"^\| (`[^|]+) \|", table, re.MULTILINE)
        for name in re.findall(r"`(\w+)`", row)  # those with labels are there once they are not 0
    }
    assert len(names) >= 8
    with running_node(tmp_path, "--cluster", "--node-id", "n1", "--cluster-port", "0") as node:
        found = httpx.get(f"{node.url}/metrics", timeout=30).text
    exported = set(re.findall(r"^# TYPE hubbub_cluster_(\w+) ", found, re.MULTILINE))
    assert names <= exported


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
@pytest.mark.skipif(
    shutil.which("curl") is None, reason="the page shows calls of curl, which is not installed"
)
def test_the_calls_of_the_ads_page_put_an_ad_into_a_feed(tmp_path: Path) -> None:
    """Whoever sells ads begins with them."""
    start, report = blocks("docs/ADS.md", "sh")
    with running_node(tmp_path) as node:
        key, secret, app_id = told(node, "keys", "create", "--name", "backend")

        def run_shell(code: str) -> list[dict[str, Any]]:
            done = subprocess.run(
                ["bash", "-ec", code],
                capture_output=True,
                text=True,
                timeout=60,
                env=environment(node, HUBBUB_APP_KEY=key, HUBBUB_APP_SECRET=secret),
                check=True,
            )
            return [json.loads(answer) for answer in done.stdout.replace("}{", "}\n{").splitlines()]

        options, campaign = run_shell(start)
        assert options == {"ads": True}
        assert campaign["hashtags"] == ["breakfast", "tea"]
        with httpx.Client(base_url=node.url, auth=(key, secret), timeout=30) as backend:
            users = {"users": [{"external_id": "1", "language": "en-GB"}]}
            made = backend.post("/v1/app/users", json=users).json()["items"]
            backend.headers["X-Hubbub-User"] = made[0]["user"]["user_id"]

            def call(command: dict[str, Any]) -> dict[str, Any]:
                answer = backend.post("/v1/app/commands", json=command)
                assert answer.status_code == 200, answer.text
                found: dict[str, Any] = answer.json()
                return found

            for number in range(5):
                call({"type": "create_post", "client_id": f"p{number}", "text": f"{number} cups of #Tea"})
            ad = call({"type": "read_feed"})["items"][5]["ad"]
            assert ad["title"] == "Fresh tea"
            call({"type": "ad_seen", "slot_id": ad["slot_id"]})
        [counted] = run_shell(f"{start.splitlines()[0]}\n{report.replace('ad_…', campaign['campaign_id'])}")
        [shown] = re.findall(r"^# (\{.*\})$", report, re.MULTILINE)
        assert set(counted) == set(json.loads(shown))
        assert [counted[name] for name in ("showings", "impressions", "left")] == [1, 1, 49_999]
        assert told(node, "campaigns", "list", "--app", app_id) == ["Fresh tea"]


@pytest.mark.slow
@pytest.mark.skipif(
    shutil.which("curl") is None, reason="the page shows calls of curl, which is not installed"
)
def test_an_app_is_set_up_with_the_sandbox_as_its_page_tells(tmp_path: Path) -> None:
    """Whoever tries notifications without an account at a provider."""
    start, set_up = blocks("docs/SANDBOX.md", "sh")[:2]
    assert start.split()[:2] == ["hubbub", "sandbox"]
    (flags,) = re.findall(r"`hubbub serve (--notify-networks \S+)`", (ROOT / "docs/SANDBOX.md").read_text())
    command = [sys.executable, "-m", "server.cli", "sandbox", "--json", "--port", "0", "--dir", "sandbox"]
    environ = os.environ | {"PYTHONPATH": str(ROOT)}
    with subprocess.Popen(command, cwd=tmp_path, env=environ, stdout=subprocess.PIPE) as sandbox:
        try:
            assert sandbox.stdout is not None
            sandbox.stdout.readline()
            with running_node(tmp_path, *flags.split()) as node:
                key, secret, _app_id = told(node, "keys", "create", "--name", "backend")
                done = subprocess.run(
                    ["bash", "-ec", set_up],
                    cwd=tmp_path,
                    capture_output=True,
                    text=True,
                    timeout=60,
                    env=environment(node, HUBBUB_APP_KEY=key, HUBBUB_APP_SECRET=secret),
                    check=True,
                )
                answers = [json.loads(answer) for answer in done.stdout.replace("}{", "}\n{").splitlines()]
                assert {answer["provider_id"] for answer in answers} == {
                    "apns",
                    "fcm",
                    "webpush",
                    "twilio",
                    "smtp",
                }
        finally:
            sandbox.terminate()


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
