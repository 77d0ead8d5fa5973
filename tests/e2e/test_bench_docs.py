"""What the documents tell to measure can be run as it stands there: commands, flags, workloads and files."""

import argparse
import re
import shlex
import subprocess
import sys
from functools import cache
from pathlib import Path

import pytest

from bench.load.target import PEERS, Hubbub
from bench.workloads import WORKLOADS
from server.cli import make_parser
from tests.nodes import ROOT

PAGE = ROOT / "docs/BENCHMARKS.md"
DOCUMENTS = [*ROOT.glob("*.md"), *ROOT.glob("docs/*.md"), *ROOT.glob("bench/**/*.md")]
WITH_COMMANDS = ("README.md", "CONTRIBUTING.md", "docs/BENCHMARKS.md")


def commands_of(document: Path, start: str) -> list[list[str]]:
    """The words of each command in the document's shell blocks that begins so, what begins it left out."""
    blocks = re.findall(r"^```sh\n(.*?)^```$", document.read_text(), re.MULTILINE | re.DOTALL)
    lines = [line for block in blocks for line in block.splitlines()]
    found = [re.fullmatch(rf"(?:\.venv/bin/)?{start}(.*)", line) for line in lines]
    return [shlex.split(match[1], comments=True) for match in found if match]


def parsed(words: list[str]) -> argparse.Namespace:
    """What `hubbub` understands by these words; exits where it does not."""
    return make_parser(words).parse_args(words)


@cache
def help_of(module: str) -> str:
    """What `python -m module --help` prints."""
    done = subprocess.run(
        [sys.executable, "-m", module, "--help"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
    )
    return done.stdout


def flags_in(text: str) -> set[str]:
    return set(re.findall(r"--[a-z][a-z-]*", text))


@pytest.mark.parametrize("name", WITH_COMMANDS)
def test_the_benchmarks_of_the_documents_are_understood(name: str) -> None:
    """Whoever copies one: a wrong word would be told, at best, when the first servers have run."""
    found = commands_of(ROOT / name, "hubbub (?=bench )")
    assert found
    for words in found:
        options = parsed(words)
        names = [name.upper() for name in options.workloads]  # as the command reads them
        assert set(names) <= set(WORKLOADS), words
        assert set(options.wire.split(",")) <= set(Hubbub.wires), words
        assert set(options.peers.split(",")) <= set(PEERS), words
        asked = [WORKLOADS[name] for name in names or WORKLOADS]
        variants = [variant for workload in asked for variant in workload.variants]
        for part in options.variant:
            assert any(part in variant for variant in variants), words
        for count in options.nodes.split(","):
            assert any(int(count) in workload.node_counts for workload in asked), words


def test_the_server_of_the_benchmarks_page_is_started_by_flags_that_it_has() -> None:
    """Whoever measures a server of their own; the limits are those that the benchmark raises itself."""
    found = commands_of(PAGE, "hubbub (?!bench )")
    assert [words[0] for words in found] == ["serve", "keys"]
    for words in found:
        parsed(words)


@pytest.mark.parametrize("name", WITH_COMMANDS)
def test_the_modules_of_the_documents_take_what_they_are_given(name: str) -> None:
    """Whoever profiles, or measures a part by itself."""
    for words in commands_of(ROOT / name, r"python -m (?=bench\.)"):
        assert flags_in(" ".join(words[1:])) <= flags_in(help_of(words[0])), words


def test_the_benchmarks_page_names_flags_that_exist_also_between_commands() -> None:
    """Readers of the page, who do not know which flag is whose."""
    prose = re.sub(r"^```.*?^```$", "", PAGE.read_text(), flags=re.MULTILINE | re.DOTALL)
    prose = re.sub(r"<!-- (\w+) -->.*?<!-- /\1 -->", "", prose, flags=re.DOTALL)
    # A command within a sentence is judged with the module it is of, the rest with `hubbub bench`.
    for module, rest in re.findall(r"`[^`]*python -m (bench[.\w]+)([^`]*)`", prose):
        assert flags_in(rest) <= flags_in(help_of(module))
    prose = re.sub(r"`[^`]*python -m [^`]*`", "", prose)
    named = {flag for span in re.findall(r"`([^`\n]+)`", prose) for flag in flags_in(span)}
    assert {"--no-peer", "--server-cores"} <= named
    assert named <= flags_in(help_of("bench.command"))


def test_the_benchmarks_page_tells_of_every_workload() -> None:
    """Readers who wonder what a figure is an answer to."""
    assert re.findall(r"^\| (W\d+|FEED|NOTIFY) \|", PAGE.read_text(), re.MULTILINE) == list(WORKLOADS)


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: str(path.relative_to(ROOT)))
def test_the_files_and_modules_that_documents_name_are_there(document: Path) -> None:
    """Readers who look them up."""
    text = document.read_text()
    for path in re.findall(r"`((?:actors|bench|cluster|server|storage|protocol|tests)/[\w/]+\.py)`", text):
        assert (ROOT / path).is_file(), path
    for module in re.findall(r"`(bench\.[a-z_]+)`", text):
        assert (ROOT / f"{module.replace('.', '/')}.py").is_file() or (
            ROOT / module.replace(".", "/")
        ).is_dir(), module
