"""The log lines of all nodes as one stream, each with its node's name.

Whoever has a line puts it and goes on; one thread writes. So a terminal that is stopped (Ctrl-S), or a reader
that is slow, holds up neither a node nor the launcher: what a source writes beyond its megabyte is dropped,
counted and told. Sources are served in turn, so that one that floods does not drown the others.
"""

import contextlib
import io
import os
import select
import threading
from collections import deque
from collections.abc import Callable
from typing import Any, Final

import msgspec
import structlog

MAX_LINE_BYTES: Final = 1 << 20  # longer ones come in pieces; a traceback is some ten KiB
MAX_QUEUED_BYTES: Final = 4 << 20  # of one source; it holds the longest line
_TURN_BYTES: Final = 64 << 10  # of one source at a time
_CLOSE_TIMEOUT_S: Final = 2.0

Render = Callable[[str, bytes], bytes]


class LineSplitter:
    """Cut a stream of bytes into lines, without their ends."""

    def __init__(self, max_line_bytes: int = MAX_LINE_BYTES) -> None:
        self._max_line_bytes = max_line_bytes
        self._rest = bytearray()

    def feed(self, data: bytes) -> list[bytes]:
        """Return the lines that `data` completes; of one that is too long, what would not fit."""
        *lines, rest = data.split(b"\n")
        if lines:
            lines[0] = bytes(self._rest) + lines[0]
            self._rest.clear()
        self._rest += rest
        while len(self._rest) > self._max_line_bytes:
            lines.append(bytes(self._rest[: self._max_line_bytes]))
            del self._rest[: self._max_line_bytes]
        return [line.removesuffix(b"\r") for line in lines if line]

    def end(self) -> list[bytes]:
        """Return what was left without a line's end."""
        rest = bytes(self._rest)
        self._rest.clear()
        return [rest] if rest else []


class _Source:
    def __init__(self) -> None:
        self.lines: deque[bytes] = deque()
        self.queued_bytes = 0
        self.dropped_count = 0


class LogStream:
    """One writer thread over a file descriptor. Start it by making it, end it by `close`."""

    def __init__(self, descriptor: int, render: Render, *, max_queued_bytes: int = MAX_QUEUED_BYTES) -> None:
        self._descriptor = descriptor
        self._render = render
        self._max_queued_bytes = max_queued_bytes
        self._sources: dict[str, _Source] = {}
        self._wake = threading.Condition()
        self._is_closing = False
        self._is_broken = False
        self._thread = threading.Thread(target=self._run, name="log-stream", daemon=True)
        self._thread.start()

    def put(self, node: str, line: bytes) -> None:
        """Queue a line of `node`, or drop it where too many wait. Never waits; any thread may call it."""
        with self._wake:
            source = self._sources.setdefault(node, _Source())
            if source.queued_bytes + len(line) > self._max_queued_bytes:
                source.dropped_count += 1
                return
            source.lines.append(line)
            source.queued_bytes += len(line) + 1
            self._wake.notify()

    def close(self, timeout_s: float = _CLOSE_TIMEOUT_S) -> None:
        """Write what waits, as far as that goes in `timeout_s`: nobody may be reading any more."""
        with self._wake:
            self._is_closing = True
            self._wake.notify()
        self._thread.join(timeout_s)

    def _run(self) -> None:
        while batch := self._next_batch():
            data = b"".join(self._render(node, line) for node, line in batch)
            if not self._is_broken:
                try:
                    _write_all(self._descriptor, data)
                except OSError:  # nobody reads any more; the nodes run on, and must not be held up
                    self._is_broken = True

    def _next_batch(self) -> list[tuple[str, bytes]]:
        """Wait for lines and take some of every source; empty at the end."""
        with self._wake:
            while not self._is_closing and not any(source.lines for source in self._sources.values()):
                self._wake.wait()
            batch: list[tuple[str, bytes]] = []
            for node, source in self._sources.items():
                taken_bytes = 0
                while source.lines and taken_bytes < _TURN_BYTES:
                    line = source.lines.popleft()
                    taken_bytes += len(line) + 1
                    batch.append((node, line))
                source.queued_bytes -= taken_bytes
                if source.dropped_count and not source.lines:
                    told = {"event": "lines_dropped", "level": "warning", "count": source.dropped_count}
                    batch.append((node, msgspec.json.encode(told)))
                    source.dropped_count = 0
            return batch


class LogFile(io.TextIOBase):
    """A file for structlog and logging, whose lines go into the stream under one name."""

    def __init__(self, stream: LogStream, node: str) -> None:
        self._stream = stream
        self._node = node
        self._splitter = LineSplitter()
        self._lock = threading.Lock()

    def write(self, text: str) -> int:
        with self._lock:
            for line in self._splitter.feed(text.encode(errors="backslashreplace")):
                self._stream.put(self._node, line)
        return len(text)

    def isatty(self) -> bool:
        return False


def _write_all(descriptor: int, data: bytes) -> None:
    view = memoryview(data)
    while view:
        try:
            view = view[os.write(descriptor, view) :]
        except BlockingIOError:  # somebody who shares the terminal made it non-blocking
            select.select([], [descriptor], [])


# -- how a line looks -------------------------------------------------------------------------------


def render_json(node: str, line: bytes) -> bytes:
    """Return the line as one JSON object that begins with its node."""
    name = msgspec.json.encode(node)
    facts = _facts(line)
    if facts is None:
        text = msgspec.json.encode(line.decode(errors="backslashreplace"))
        return b'{"node":' + name + b',"event":"text_written","level":"info","text":' + text + b"}\n"
    if not facts or "node" in facts:  # its own word for it must not pass for ours
        return msgspec.json.encode({"node": node} | {k: v for k, v in facts.items() if k != "node"}) + b"\n"
    return b'{"node":' + name + b"," + line.strip()[1:] + b"\n"


_COLOURS: Final = ("36", "35", "34", "33", "32", "96", "95", "94", "93", "92")  # cyan, magenta, blue, …


class ConsoleRender:
    """Lines for a terminal: the node's name, in its colour, before each line."""

    def __init__(self, *, has_colours: bool) -> None:
        self._has_colours = has_colours
        self._renderer = structlog.dev.ConsoleRenderer(colors=has_colours, pad_event_to=24)

    def __call__(self, node: str, line: bytes) -> bytes:
        facts = _facts(line)
        if facts is None:
            shown = _printable(line.decode(errors="backslashreplace"))
        else:
            if facts.get("node_id") == node:  # the name stands before it already
                del facts["node_id"]
            trace = facts.pop("exception", None)
            facts = {
                key: _printable(value) if isinstance(value, str) else value for key, value in facts.items()
            }
            facts.setdefault("event", "")
            shown = str(self._renderer(None, "", facts)).rstrip() + _trace_text(trace)
        name = f"{node:<8}"
        if self._has_colours:
            name = f"\x1b[{_COLOURS[sum(node.encode()) % len(_COLOURS)]}m{name}\x1b[0m"
        lines = shown.split("\n")
        return "".join(f"{name} {part}\n" for part in lines).encode(errors="backslashreplace")


def _facts(line: bytes) -> dict[str, Any] | None:
    """Read a log line; None where it is none of ours."""
    with contextlib.suppress(msgspec.DecodeError, RecursionError):
        facts = msgspec.json.decode(line)
        if isinstance(facts, dict):
            return facts
    return None


def _printable(text: str) -> str:
    """A line must not move the cursor or change the terminal."""
    if text.isprintable():
        return text
    return "".join(
        char if char.isprintable() or char in "\n\t" else char.encode("unicode_escape").decode()
        for char in text
    )


def _trace_text(trace: Any) -> str:
    """Return structlog's list of exceptions as a person knows it, each on lines of its own."""
    if not trace:
        return ""
    if not isinstance(trace, list):
        return "\n" + _printable(str(trace))
    lines: list[str] = []
    for exception in trace:
        if not isinstance(exception, dict):
            continue
        lines += [
            f"  {frame.get('filename')}:{frame.get('lineno')} in {frame.get('name')}"
            for frame in exception.get("frames") or []
            if isinstance(frame, dict)
        ]
        lines.append(f"{exception.get('exc_type')}: {exception.get('exc_value')}")
    return "\n" + _printable("\n".join(lines))
