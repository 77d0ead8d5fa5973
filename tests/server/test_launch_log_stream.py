"""One stream of all nodes' lines: whole, named, and never waited for."""

import itertools
import json
import os
from collections.abc import Iterator

import pytest
from hypothesis import given
from hypothesis import strategies as st

from server.launch.log_stream import ConsoleRender, LineSplitter, LogStream, render_json


@given(data=st.binary(max_size=400), cuts=st.lists(st.integers(0, 400), max_size=10))
def test_lines_are_the_same_however_the_bytes_arrive(data: bytes, cuts: list[int]) -> None:
    """A pipe cuts where it likes."""
    splitter = LineSplitter(max_line_bytes=1000)
    places = sorted({min(cut, len(data)) for cut in cuts} | {0, len(data)})
    lines = [line for a, b in itertools.pairwise(places) for line in splitter.feed(data[a:b])]
    *whole, rest = data.split(b"\n")
    assert lines == [line.removesuffix(b"\r") for line in whole if line]
    assert splitter.end() == ([rest] if rest else [])


def test_a_line_without_an_end_comes_in_pieces() -> None:
    """The launcher's memory: a node that writes a core dump to its log must not fill it."""
    splitter = LineSplitter(max_line_bytes=10)
    assert splitter.feed(b"x" * 35) == [b"x" * 10] * 3
    assert splitter.feed(b"y\nz\n") == [b"xxxxxy", b"z"]


@given(line=st.binary(max_size=300).filter(lambda line: b"\n" not in line))
def test_any_bytes_become_one_json_line_with_the_nodes_name(line: bytes) -> None:
    """Whatever collects logs reads line by line, and a broken one loses its neighbours."""
    shown = render_json("n2", line)
    assert shown.count(b"\n") == 1
    facts = json.loads(shown)
    assert facts["node"] == "n2"
    assert set(facts) == {"node", "event", "level", "text"} or json.loads(line) is not None


@pytest.mark.parametrize(
    "line", ['{"event":"a","n":1}', '{"node":"n9","event":"a","n":1}', ' {"event": "a" ,"n":1} ']
)
def test_a_nodes_own_line_keeps_its_facts(line: str) -> None:
    """The node that wrote it is told by the launcher, whatever the line claims."""
    facts = json.loads(render_json("n1", line.encode()))
    assert facts == {"node": "n1", "event": "a", "n": 1}
    assert json.loads(render_json("n1", b"{ }")) == {"node": "n1"}


@given(
    line=st.one_of(st.binary(max_size=200), st.text().map(lambda text: json.dumps({"event": text}).encode()))
)
def test_no_line_moves_the_cursor_of_a_terminal(line: bytes) -> None:
    """Names and texts of strangers are in some of them."""
    shown = ConsoleRender(has_colours=False)("n1", line).decode()
    assert all(char.isprintable() or char in "\n\t" for char in shown)
    assert all(part.startswith("n1 ") for part in shown.splitlines() if part.strip())


def test_a_traceback_is_shown_with_the_nodes_name_on_each_line() -> None:
    """Whoever reads three nodes at once must know whose traceback it is."""
    trace = [
        {
            "exc_type": "ValueError",
            "exc_value": "no",
            "frames": [{"filename": "a.py", "lineno": 3, "name": "f"}],
        }
    ]
    line = json.dumps({"event": "crashed", "level": "error", "node_id": "n1", "exception": trace}).encode()
    shown = ConsoleRender(has_colours=False)("n1", line).decode().splitlines()
    assert "crashed" in shown[0]
    assert "node_id" not in shown[0]
    assert shown[1].split() == ["n1", "a.py:3", "in", "f"]
    assert shown[2].split() == ["n1", "ValueError:", "no"]
    assert "\x1b[3" in ConsoleRender(has_colours=True)("n1", line).decode()


@pytest.fixture
def pipe() -> Iterator[tuple[int, int]]:
    reading, writing = os.pipe()
    yield reading, writing
    os.close(reading)
    os.close(writing)


def read_lines(descriptor: int, until: str) -> list[str]:
    data = b""
    while until.encode() not in data:
        data += os.read(descriptor, 1 << 16)
    while not data.endswith(b"\n"):
        data += os.read(descriptor, 1)
    return data.decode().splitlines()


def plain(node: str, line: bytes) -> bytes:
    return node.encode() + b" " + line + b"\n"


def test_a_reader_that_is_stopped_holds_nobody_up_and_hears_what_was_dropped(pipe: tuple[int, int]) -> None:
    """Ctrl-S in a terminal must not freeze a cluster, and a gap in a log must be told."""
    reading, writing = pipe
    stream = LogStream(writing, plain, max_queued_bytes=200_000)
    line = b"x" * 99
    for _ in range(20_000):  # 2 MB: the pipe takes 64 KiB, a batch is in the writer's hands, the rest waits
        stream.put("n1", line)
    stream.put("n2", b"the other one")
    lines = read_lines(reading, "lines_dropped")
    assert "n2 the other one" in lines
    assert all(line in (f"n1 {'x' * 99}", "n2 the other one") for line in lines[:-1] if "dropped" not in line)
    dropped = sum(json.loads(line[3:])["count"] for line in lines if "lines_dropped" in line)
    assert dropped + sum("xxx" in line for line in lines) == 20_000
    stream.close()


def test_one_that_floods_does_not_drown_the_others(pipe: tuple[int, int]) -> None:
    """Somebody reads the log because one node went mad, and looks at what the others say."""
    reading, writing = pipe
    stream = LogStream(writing, plain)
    for _ in range(30_000):  # 3 MB
        stream.put("n1", b"y" * 99)
    stream.put("n2", b"here")
    lines = read_lines(reading, "n2 here")
    assert len(lines) < 10_000
    os.set_blocking(reading, False)
    stream.close(0.01)


def test_a_reader_that_went_away_is_no_end(pipe: tuple[int, int]) -> None:
    """`hubbub cluster 2>&1 | head`: the nodes run on."""
    reading, writing = os.pipe()
    os.close(reading)
    stream = LogStream(writing, plain)
    for _ in range(3):
        stream.put("n1", b"z")
    stream.close()
    os.close(writing)
