"""What was measured is read back as it was written, also by a later or an earlier version."""

import json
from pathlib import Path

import msgspec
import pytest

from bench.report import (
    Figure,
    Machine,
    Measurement,
    ResultsUnreadable,
    append_line,
    machine,
    read_lines,
    runs,
)
from tests.bench.measured import MACHINE, measured


def test_what_is_appended_is_read_back(tmp_path: Path) -> None:
    """A picture is drawn from the file, maybe on another machine."""
    path = tmp_path / "results.jsonl"
    written: list[Machine | Measurement] = [
        MACHINE,
        measured(notes=["line\nbreak", "ünïcode"]),
        measured(2.0, target="uvicorn"),
    ]
    for record in written:
        append_line(path, record)
    assert read_lines(path) == written
    assert len(path.read_bytes().splitlines()) == 3


def test_a_field_of_a_later_version_is_skipped(tmp_path: Path) -> None:
    """The Structs only grow, so old code reads new files."""
    path = tmp_path / "results.jsonl"
    append_line(path, MACHINE)
    fields = msgspec.to_builtins(measured()) | {"jitter_ms": 3}
    fields["figures"][0]["colour"] = "blue"
    with path.open("a") as file:
        file.write(json.dumps(fields) + "\n")
    assert read_lines(path) == [MACHINE, measured()]


def test_a_broken_line_is_named(tmp_path: Path) -> None:
    """A run that was killed may leave half a line; whoever reads the file learns which."""
    path = tmp_path / "results.jsonl"
    append_line(path, MACHINE)
    append_line(path, measured())
    path.write_bytes(path.read_bytes()[:-20])
    with pytest.raises(ResultsUnreadable, match="line 2"):
        read_lines(path)


def test_another_machine_begins_another_run() -> None:
    """Two runs in one file are not mixed: round 1 of one is not round 1 of the other."""
    other = msgspec.structs.replace(MACHINE, commit="fedcba9")
    first, second, third = measured(1.0), measured(2.0), measured(3.0)
    found = runs([MACHINE, first, second, other, third])
    assert [run.machine for run in found] == [MACHINE, other]
    assert [run.measurements for run in found] == [[first, second], [third]]


def test_a_file_without_its_machine_is_refused() -> None:
    """A figure says nothing without the machine it was measured on."""
    with pytest.raises(ResultsUnreadable, match="machine"):
        runs([measured()])


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_a_figure_is_a_number_that_json_has(value: float) -> None:
    """A division by zero is found where it was made, not by the reader of the file."""
    with pytest.raises(ValueError, match="delivered"):
        Figure(name="delivered", value=value, unit="/s")


def test_this_machine_is_described() -> None:
    """Figures are compared only between alike machines, so these have to be known."""
    described = machine(pinned="server on core 0")
    assert described.core_count >= 1
    assert described.pinned == "server on core 0"
    assert described.python.count(".") == 2
    assert described.cpu_model
    assert described.commit
    assert described.load_before >= 0
