"""The command line as an operator meets it: real processes, a real data directory, a real node."""

import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

PASSWORD = "a long pass phrase"
ENVIRONMENT = {key: value for key, value in os.environ.items() if not key.startswith("HUBBUB_")}
ROOT = Path(__file__).resolve().parents[2]


def hubbub(
    *words: str | Path,
    data: Path | None = None,
    stdin: str = "",
    env: dict[str, str] | None = None,
    cwd: Path | None = None,
) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "server.cli", *map(str, words)]
    if data is not None:
        command += ["--data-dir", str(data)]
    return subprocess.run(
        command,
        input=stdin,
        env={**ENVIRONMENT, "PYTHONPATH": str(ROOT), **(env or {})},
        cwd=cwd or ROOT,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


def told(*words: str | Path, data: Path, stdin: str = "") -> Any:
    done = hubbub(*words, "--json", data=data, stdin=stdin)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


class Node:
    """A node in a process of its own; its log goes to a file, as a pipe that nobody reads would stop it."""

    def __init__(self, data: Path) -> None:
        self.data = data
        words = ["serve", "--data-dir", str(data), "--port", "0", "--bot-port", "0"]
        with (data.parent / "node.log").open("w") as log:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "server.cli", *words],
                env={**ENVIRONMENT, "PYTHONPATH": str(ROOT)},
                cwd=ROOT,
                stdout=subprocess.PIPE,
                stderr=log,
                text=True,
            )
        assert self.process.stdout is not None
        self.announced = self.process.stdout.readline()
        self.url = self.announced.split()[-1] if self.announced else ""

    def stop(self) -> int:
        self.process.send_signal(signal.SIGTERM)
        self.process.communicate(timeout=30)
        return self.process.returncode


@pytest.fixture
def node(tmp_path: Path) -> Iterator[Node]:
    node = Node(tmp_path / "data")
    try:
        yield node
    finally:
        node.process.kill()
        node.process.communicate(timeout=30)


@pytest.mark.slow
def test_an_operator_works_beside_a_running_node(node: Node, tmp_path: Path) -> None:
    """Operators: accounts, keys and bots at once, a ban within seconds, a backup that restores."""
    assert node.announced.startswith("hubbub is at http://127.0.0.1:"), node.announced
    user = told("users", "create", "ann", "--display-name", "Ann B", data=node.data, stdin=PASSWORD + "\n")
    bot = told("bots", "create", "echo", "--owner", "ann", data=node.data)
    key = told("keys", "create", "--name", "shop", data=node.data)
    with httpx.Client(base_url=node.url, timeout=20) as client:
        right = {"username": "ann", "password": PASSWORD}
        signed_in = client.post("/v1/login", json=right).json()
        assert signed_in["user"]["user_id"] == user["user_id"]
        mine = {"authorization": f"Bearer {signed_in['token']}"}
        its = {"authorization": f"Bearer {bot['token']}"}
        assert client.get("/v1/me", headers=its).json()["user"]["is_bot"]
        basic = (key["app_key"], key["app_secret"])
        assert len(client.get("/v1/app/bots", auth=basic).json()["items"]) == 1
        assert client.post("/v1/files?name=a.txt", content=b"kept", headers=mine).status_code == 201

        saved = told("backup", tmp_path / "saved", data=node.data)
        assert saved["file_count"] == 1
        assert told("check", data=node.data) == []

        told("users", "disable", "ann", data=node.data)
        told("bots", "token", "echo", data=node.data)
        told("keys", "revoke", key["app_key"], data=node.data)
        assert client.get("/v1/app/bots", auth=basic).status_code == 401
        for headers in (mine, its):  # until the node's short memory of them has run out
            while client.get("/v1/me", headers=headers).status_code != 401:
                time.sleep(0.1)  # another process; it says nothing when it forgets
        assert client.post("/v1/login", json=right).status_code == 403
        told("users", "enable", "ann", data=node.data)
        told("users", "passwd", "ann", data=node.data, stdin="quite another one\n")
        assert client.post("/v1/login", json=right).status_code == 401
        assert client.post("/v1/login", json=right | {"password": "quite another one"}).status_code == 200
    inside = hubbub("backup", node.data / "saved", data=node.data)
    assert (inside.returncode, len(inside.stderr.splitlines())) == (1, 1)
    assert not (node.data / "saved").exists()
    second = hubbub("serve", "--port", "0", "--bot-port", "0", data=node.data)
    assert second.returncode == 1
    assert second.stderr.strip().splitlines()[-1].startswith("hubbub: ")
    assert "Traceback" not in second.stderr
    assert node.stop() == 0

    restored = tmp_path / "restored"
    told("restore", tmp_path / "saved", data=restored)
    assert (restored / "secret.key").read_bytes() == (node.data / "secret.key").read_bytes()
    assert (restored / "secret.key").stat().st_mode & 0o777 == 0o600
    assert told("check", data=restored) == []
    (line,) = told("users", "list", data=restored)
    assert (line["username"], line["name"], line["disabled"]) == ("ann", "Ann B", False)


@pytest.mark.slow
def test_what_is_in_the_way_of_a_start_is_told_in_one_sentence(tmp_path: Path) -> None:
    """Whoever starts a node for the first time, and a service manager that tells 1 from 2."""
    broken = tmp_path / "broken.pem"
    broken.write_text("no certificate")
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        for words, status, expected in (
            (["--port", str(port), "--bot-port", "0"], 1, f"{port} is in use"),
            (["--port", "0", "--bot-port", str(port)], 1, "bot_port"),
            (["--port", "0", "--bot-port", "0", "--host", "192.0.2.1"], 1, "no address of this machine"),
            (["--port", "0", "--bot-port", "0", "--host", "300.1.1.1"], 2, "no address of a machine"),
            (["--tls-cert", str(broken), "--tls-key", str(broken)], 2, "PEM"),
            (["--log-level", "loud"], 2, "debug, info, warning, error"),
        ):
            done = hubbub("serve", *words, data=tmp_path / "data")
            last = done.stderr.splitlines()[-1]
            assert done.returncode == status, done.stderr
            assert last.startswith("hubbub: "), done.stderr
            assert expected in last
            assert "exception" not in done.stderr
            assert "Traceback" not in done.stderr


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A data directory that a node has made and left."""
    node = Node(tmp_path_factory.mktemp("cli") / "data")
    assert node.stop() == 0
    return node.data


@pytest.mark.slow
def test_lists_are_lines_for_pipes_and_json_where_asked(data: Path) -> None:
    """Shell scripts."""
    told("apps", "create", "shop", "--no-sign-up", data=data)
    app = told("apps", "sign-up", "shop", "open", data=data)
    assert app["sign_up"] is True
    told("users", "create", "zoe", "--app", "shop", data=data, stdin=PASSWORD)
    told("bots", "create", "helper", "--app", "shop", data=data)
    piped = hubbub("users", "list", "--app", "shop", data=data)
    assert piped.stdout.splitlines() == ["\t".join(piped.stdout.rstrip("\n").split("\t"))]
    assert piped.stdout.split("\t")[1:4] == ["zoe", "zoe", "no"]
    assert [line["username"] for line in told("bots", "list", "--app", "shop", data=data)] == ["helper"]
    told("bots", "delete", "helper", "--app", "shop", data=data)
    assert told("bots", "list", "--app", "shop", data=data) == []
    assert [line["name"] for line in told("apps", "list", data=data)] == ["default", "shop"]
    feed = {"order": "chronological", "ads": False, "trending": True, "recommendations": True}
    assert told("apps", "feed", "shop", data=data) == {"app_id": app["app_id"], **feed}
    changed = feed | {"ads": True, "trending": False, "order": "ranked"}
    switched = told(
        "apps", "feed", "shop", "--ads", "on", "--trending", "off", "--order", "ranked", data=data
    )
    assert switched == {"app_id": app["app_id"], **changed} == told("apps", "feed", "shop", data=data)
    assert told("campaigns", "list", "--app", "shop", data=data) == []
    assert told("users", "list", data=data) == []
    assert told("dead-letters", "list", data=data) == []
    assert told("keys", "list", "--app", "shop", data=data) == []
    assert set(told("version", data=data)) == {"hubbub", "python", "sqlite", "trio"}


@pytest.mark.slow
@pytest.mark.parametrize(
    ("words", "stdin", "status", "expected"),
    [
        (["users", "create", "bob"], "short\n", 1, "at least 8"),
        (["users", "create", "bob"], "", 1, "standard input"),
        (["users", "create", "a b"], PASSWORD, 1, "user name"),
        (["users", "disable", "nobody"], "", 1, "nobody"),
        (["users", "list", "--app", "nowhere"], "", 1, "hubbub apps list"),
        (["users", "disable", "nobody"], "", 1, "hubbub users list"),
        (["bots", "token", "nobody"], "", 1, "nobody"),
        (["keys", "revoke", "k_x"], "", 1, "hubbub keys list"),
        (["dead-letters", "show", "x"], "", 1, "dead-letters list"),
        (["restore", "/nowhere"], "", 1, "empty"),
        (["users", "frob"], "", 2, "frob"),
        (["users", "create"], "", 2, "NAME"),
    ],
)
def test_a_refusal_is_one_sentence_that_says_what_to_do(
    data: Path, words: list[str], stdin: str, status: int, expected: str
) -> None:
    """Operators at three in the morning."""
    done = hubbub(*words, data=data, stdin=stdin)
    assert done.returncode == status, done.stderr
    assert done.stdout == ""
    assert done.stderr.startswith("hubbub: ")
    assert len(done.stderr.splitlines()) == 1, done.stderr
    assert expected in done.stderr


def test_a_wrong_folder_is_not_made_but_named(tmp_path: Path) -> None:
    """Operators who mistyped --data-dir."""
    for words in (["users", "list"], ["check"], ["backup", str(tmp_path / "saved")]):
        done = hubbub(*words, data=tmp_path / "typo")
        assert done.returncode == 1
        assert "--data-dir" in done.stderr
    assert list(tmp_path.iterdir()) == []


def test_damage_is_found_and_has_an_exit_code_of_its_own(tmp_path: Path) -> None:
    """A nightly job that runs `hubbub check`."""
    (tmp_path / "hubbub.db").write_bytes(b"not a database at all" * 100)
    done = hubbub("check", data=tmp_path)
    assert done.returncode == 3
    assert "database_unreadable" in done.stdout


def test_wrong_settings_have_an_exit_code_of_their_own(tmp_path: Path) -> None:
    """Whoever starts nodes by a script."""
    done = hubbub("config", env={"HUBBUB_PROT": "1"})
    assert (done.returncode, len(done.stderr.splitlines())) == (2, 1)
    assert "HUBBUB_PORT" in done.stderr
    near = hubbub("serve", "--prot", "1")
    assert near.returncode == 2
    assert "--port" in near.stderr


def test_the_settings_are_shown_with_their_sources_and_without_secrets(tmp_path: Path) -> None:
    """Operators who wonder why."""
    (tmp_path / "hubbub.toml").write_text('admin_token = "a-secret-token-of-ours"\nport = 9001\n')
    done = hubbub("config", "--json", env={"HUBBUB_ZONE": "eu"}, cwd=tmp_path)
    lines = {line["setting"]: line for line in json.loads(done.stdout)}
    assert (lines["port"]["value"], lines["port"]["from"]) == (9001, "hubbub.toml")
    assert lines["zone"]["from"] == "HUBBUB_ZONE"
    assert lines["admin_token"]["value"] == "(set)"
    assert "a-secret-token" not in done.stdout


@pytest.mark.parametrize("words", [[], ["serve"], ["users"], ["users", "create"], ["backup"], ["config"]])
def test_help_tells_what_there_is(words: list[str]) -> None:
    """Newcomers."""
    done = hubbub(*words, "--help")
    assert done.returncode == 0
    assert done.stdout.startswith("usage: hubbub")
    if words == ["serve"]:
        assert "--admin-token" not in done.stdout  # every user of a machine can read its processes' flags
        assert "HUBBUB_PORT" in done.stdout


def test_without_a_command_the_usage_is_told() -> None:
    """Newcomers."""
    done = hubbub()
    assert done.returncode == 2
    assert "COMMAND" in done.stderr
