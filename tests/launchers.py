"""A launcher in a process of its own, followed by the lines of its log."""

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from server.launch.door import ask
from server.launch.orders import Answer, Look, NodeState, Order, State
from tests.nodes import ROOT

STAND_IN = "tests.stand_in_launcher"
Line = dict[str, Any]


def environment() -> dict[str, str]:
    clean = {key: value for key, value in os.environ.items() if not key.startswith("HUBBUB_")}
    return {**clean, "PYTHONPATH": str(ROOT)}


class LauncherProcess:
    """A running launcher. Reading its log is what tests wait on; pytest's timeout ends a wait for nothing."""

    def __init__(self, words: list[str], directory: Path, *, cwd: Path = ROOT) -> None:
        self.directory = directory
        self.lines: list[Line] = []  # all that were read
        self.process = subprocess.Popen(
            [sys.executable, *words],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            env=environment(),
            cwd=cwd,
            start_new_session=True,  # a Ctrl-C of the test's own terminal is none of its business
        )

    def until(self, event: str, **facts: Any) -> Line:
        """Read the log up to the next line of that event with these facts."""
        assert self.process.stderr is not None
        for raw in self.process.stderr:
            try:
                line = json.loads(raw)  # each line is one, whatever a node wrote
            except ValueError:
                raise AssertionError((raw + self.process.stderr.read()).decode()) from None
            self.lines.append(line)
            if line["event"] == event and all(line.get(key) == value for key, value in facts.items()):
                return dict(line)
        said = "\n".join(json.dumps(line) for line in self.lines[-40:])
        raise AssertionError(f"the launcher ended without {event} {facts}:\n{said}")

    def announced(self) -> list[str]:
        """The nodes' addresses, once all are up."""
        assert self.process.stdout is not None
        return self.process.stdout.readline().decode().removeprefix("hubbub is at ").strip().split(", ")

    def ask(self, order: Order) -> list[Answer]:
        return list(ask(self.directory, order))

    def nodes(self) -> dict[str, NodeState]:
        (state,) = self.ask(Look())
        assert isinstance(state, State)
        return {node.node_id: node for node in state.nodes}

    def signal(self, number: int) -> None:
        os.kill(self.process.pid, number)

    def end(self) -> int:
        """Wait for its end, reading the log so that it is not held up; returns the exit code."""
        assert self.process.stderr is not None
        self.lines += [json.loads(raw) for raw in self.process.stderr]
        return self.process.wait()

    def close(self) -> None:
        self.process.kill()  # its nodes go with it
        self.process.communicate()


@contextmanager
def stand_ins(tmp_path: Path, count: int, **scripts: list[dict[str, Any]]) -> Iterator[LauncherProcess]:
    """A launcher over stand-in nodes; `scripts` says what a node does at each start (see stand_in_node)."""
    folder, directory = tmp_path / "scripts", tmp_path / "data"
    folder.mkdir(exist_ok=True)
    for node_id, steps in scripts.items():
        write_script(tmp_path, node_id, *steps)
    launcher = LauncherProcess(["-m", STAND_IN, str(directory), str(folder), str(count)], directory)
    try:
        yield launcher
    finally:
        launcher.close()


def write_script(tmp_path: Path, node_id: str, *steps: dict[str, Any]) -> None:
    (tmp_path / "scripts" / f"{node_id}.script").write_text(
        "".join(json.dumps(step) + "\n" for step in steps)
    )


def wait_until_gone(pid: int) -> None:
    """Wait until a process that is not our child has ended."""
    try:
        descriptor = os.pidfd_open(pid)
    except ProcessLookupError:
        return
    import select

    with open(descriptor, "rb", buffering=0) as watched:
        select.select([watched], [], [])


def freeze(pid: int) -> None:
    os.kill(pid, signal.SIGSTOP)
