"""What the feed's page tells people to run, run as it stands there; what it names must exist."""

import json
import re
import shutil
import subprocess
from pathlib import Path
from typing import get_args

import pytest

import hubbub
from hubbub.feed import Feed, Follows, LiveFeed, Posts
from protocol.commands import Command
from protocol.errors import CODES, REFUSED_CODES, Refused
from protocol.events import Event
from server.http.errors import status_of
from server.http.feed import feed_router
from tests.e2e.test_docs import blocks, environment, run_python
from tests.nodes import ROOT, running_node

PAGE = "docs/FEED.md"


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("curl") is None, reason="no curl here")
def test_the_first_five_minutes_run_as_they_stand_there(tmp_path: Path) -> None:
    """A developer who copies them."""
    (shell,) = blocks(PAGE, "sh")
    live, bot = blocks(PAGE, "python")
    with running_node(tmp_path) as node:
        _, ann = node.sign_up("ann")
        bob_id, bob = node.sign_up("bob")
        mine = {"ANN": ann, "BOB": bob, "BOB_ID": bob_id}
        done = subprocess.run(
            ["sh", "-e", "-c", shell],
            env=environment(node, **mine),
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )
        assert done.returncode == 0, done.stderr + done.stdout
        posted, followed, page = [json.loads(line) for line in done.stdout.replace("}{", "}\n{").splitlines()]
        assert posted["post"]["hashtags"] == ["first"]
        assert followed["follow"] == "following"
        assert [item["post"]["text"] for item in page["items"]] == ["Hello, world #first"]
        shown = run_python(node, live, **mine).splitlines()
        assert shown == ["so far: ['Hello, world #first']", "new: And live, too"]
    names: dict[str, object] = {"hubbub": hubbub, "bot": hubbub.Bot("hubbub://127.0.0.1:1", token="x")}
    exec(bot, names)
    assert callable(names["welcome"])


def test_the_page_names_addresses_commands_and_methods_that_exist() -> None:
    """Readers of its tables."""
    text = (ROOT / PAGE).read_text()
    patterns = {re.sub(r"{[^}]+}", "{}", route.path) for route in feed_router().routes} | {
        "/v1/login",
        "/v1/files",
        "/v1/docs",
    }
    addresses = re.findall(r"(/v1/[^\s`?]+)", text)
    assert len(addresses) > 20
    for address in addresses:
        plain = re.sub(r"{[^}]*}|\$\w+", "{}", address).rstrip('",.')
        assert plain in patterns, address
    commands = {str(kind.__struct_config__.tag) for kind in get_args(Command)}
    events = {str(kind.__struct_config__.tag) for kind in get_args(Event)}
    rows = re.findall(r"^\| [^|]+ \| [^|]*/v1/[^|]+ \| ([^|]+) \| ([^|]+) \|$", text, re.MULTILINE)
    assert len(rows) >= 15
    for named, methods in rows:
        assert set(re.findall(r"`(\w+)`", named)) <= commands, named
        for method in re.findall(r"\.(\w+)[(`]", methods):
            assert any(hasattr(noun, method) for noun in (Posts, Follows)), method
    for method in re.findall(r"client\.feed\.(\w+)", text):
        assert hasattr(LiveFeed, method) or hasattr(Feed, method), method
    table = text.partition("| event | says | then |")[2].partition("\n\n")[0]
    named_events = re.findall(r"`(\w+)`", "\n".join(row.split("|")[1] for row in table.splitlines() if row))
    assert len(named_events) >= 6
    assert {name for name in named_events if name} <= events


def test_the_pages_codes_have_the_statuses_that_it_tells() -> None:
    """Who writes what a product does about them."""
    text = (ROOT / PAGE).read_text().partition("| code | HTTP | |")[2]
    rows = re.findall(r"^\| (`[^|]+) \| ([^|]+) \|", text, re.MULTILINE)
    assert len(rows) >= 12
    for named, statuses in rows:
        codes = re.findall(r"`(\w+)`", named)
        told = [int(status) for status in statuses.split(",")]
        for index, code in enumerate(codes):
            assert code in CODES, code
            if code in REFUSED_CODES:
                assert status_of(Refused(code)) == told[min(index, len(told) - 1)], code
