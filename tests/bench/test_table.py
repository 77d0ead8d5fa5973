"""The table says the same in a file as on a terminal, within 100 columns."""

import io
from collections.abc import Sequence
from pathlib import Path

import pytest
from rich.console import Console

from bench.report import CPU_PER_THOUSAND, Figure, Measurement, append_line, to_markdown, to_table
from bench.report.__main__ import main
from bench.report.wording import number, short_number, times, with_unit
from tests.bench.measured import MACHINE, measured


def printed(measurements: Sequence[Measurement]) -> list[str]:
    """The lines that a file would get."""
    file = io.StringIO()
    Console(file=file, width=100).print(to_table(MACHINE, measurements))
    return [line.rstrip() for line in file.getvalue().splitlines()]


def row_of(lines: Sequence[str], name: str) -> str:
    (row,) = [line for line in lines if line.startswith(name)]
    return row


def three_rounds() -> list[Measurement]:
    return [
        measured(value, round=n, target=target)
        for n in (1, 2, 3)
        for target, value in (("hubbub", 120_000.0 + n * 2_000), ("uvicorn", 40_000.0))
    ]


def test_a_row_has_median_range_latency_client_and_ratio() -> None:
    """What somebody who chooses wants to see is on one line."""
    row = row_of(printed(three_rounds()), "hubbub json")
    assert row.split() == [
        *("hubbub", "json", "delivered/s", "124,000", "122k–126k", "2", "50", "40", "%"),
        *("3.10×", "3.05–3.15"),
    ]


def test_another_peer_has_its_ratio_and_the_peer_has_none() -> None:
    """Where an expert's peer stands is read beside hubbub, in the table and in the docs."""
    runs = [*three_rounds(), measured(60_000, target="uvicorn-tuned", findings=["all there"])]
    lines = printed(runs)
    assert "3.10×" in row_of(lines, "hubbub json")
    assert "1.50×" in row_of(lines, "uvicorn-tuned")
    assert "×" not in row_of(lines, "uvicorn json")
    told = {
        line.split(" | ")[0]: line.split(" | ")[3] for line in to_markdown(MACHINE, runs).splitlines()[6:9]
    }
    assert told == {
        "| hubbub json": "**3.10×** (3.05–3.15)",
        "| uvicorn json": "",
        "| uvicorn-tuned json": "**1.50×**",
    }


def test_a_rate_of_millions_stays_on_one_line() -> None:
    """Group fan-out reaches it."""
    assert "1.54M" in row_of(printed([measured(1_541_621)]), "hubbub json")


def test_the_table_fits_into_100_columns_as_plain_text() -> None:
    """It is pasted into issues."""
    wide = measured(
        1_234_567,
        wire="msgpack",
        target="uvicorn-tuned",
        is_client_bound=True,
        is_sound=False,
        findings=["a long story " * 20],
        workload="W2",
    )
    lines = printed([*three_rounds(), wide])
    assert max(len(line) for line in lines) <= 100
    assert not any("\x1b" in line for line in lines)


def test_a_client_bound_run_is_marked() -> None:
    """Its figure is the client's limit, not the server's."""
    lines = printed([measured(is_client_bound=True, client_share=0.97)])
    at = lines.index(row_of(lines, "hubbub json"))
    assert "97 %" in lines[at]
    assert lines[at + 1].strip() == "client-bound"
    assert not any("client-bound" in line for line in printed([measured()]))


def test_a_run_that_is_not_sound_is_marked_and_says_why() -> None:
    """Nobody quotes a figure of a server that lost messages by mistake."""
    lines = printed([measured(is_sound=False, findings=["2 acked messages are missing"], error_count=3)])
    assert row_of(lines, "! hubbub json")
    assert "  ! hubbub json: 2 acked messages are missing" in lines
    assert "  hubbub json: 3 errors in all rounds together" in lines


def test_a_ratio_below_one_fits_too() -> None:
    """The rows stand in line also where the peer is better."""
    rounds = [
        measured(value, round=n, target=target)
        for n, ours in ((1, 832.4), (2, 846.1))
        for target, value in (("hubbub", ours), ("uvicorn", 1_000.0))
    ]
    assert row_of(printed(rounds), "hubbub json").split()[-2:] == ["0.84×", "0.83–0.85"]


def test_cpu_per_thousand_has_its_column() -> None:
    """Speed on an idle core and speed at its limit are told apart by it."""
    figures = [*measured(1_000).figures, Figure(name=CPU_PER_THOUSAND, value=0.118, unit="s")]
    row = row_of(printed([measured(figures=figures)]), "hubbub json")
    assert "0.118" in row.split()


def test_each_headline_figure_has_its_line_and_ratio() -> None:
    """W3 asks for connects and for memory."""
    memory = Figure(name="memory", value=13, unit="KiB", is_higher_better=False, is_headline=True)
    peer_memory = Figure(name="memory", value=26, unit="KiB", is_higher_better=False, is_headline=True)
    lines = printed(
        [
            measured(figures=[*measured(300).figures, memory]),
            measured(figures=[*measured(200).figures, peer_memory], target="uvicorn"),
        ]
    )
    at = lines.index(row_of(lines, "hubbub json"))
    assert "1.50×" in lines[at]
    assert "memory, KiB" in lines[at + 1]
    assert "2.00×" in lines[at + 1]


def test_markup_in_a_name_is_text() -> None:
    """Rich would take [bold] for a style."""
    assert any("[bold]x" in line for line in printed([measured(notes=["[bold]x"])]))


def test_markdown_has_a_table_per_case_and_what_was_verified() -> None:
    """The docs page is made from it."""
    told = to_markdown(
        MACHINE,
        [
            measured(findings=["all | there"], workload="W1"),
            measured(500, target="uvicorn", findings=["all | there"], workload="W1"),
            measured(workload="W9", node_count=3, is_sound=False, is_client_bound=True),
        ],
    )
    lines = told.splitlines()
    assert "Example 9000, 2 cores" in lines[0]
    assert [line for line in lines if line.startswith("#")] == [
        "### W1, window 10",
        "### W9, window 10, 3 nodes",
    ]
    assert "| hubbub json | delivered/s | 1,000 (1,000–1,000) | **2.00×** | 2 / 50 / 50 |  | 40 % |" in lines
    assert "- hubbub json, uvicorn json: verified: all \\| there" in lines
    assert "- ! hubbub json: a check failed" in lines
    assert any(line.startswith("| **! hubbub json** |") and "client-bound" in line for line in lines)


def test_the_command_tells_a_stored_file_again(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Figures that took half an hour are drawn again without measuring them again."""
    path = tmp_path / "results.jsonl"
    append_line(path, MACHINE)
    for measurement in three_rounds():
        append_line(path, measurement)
    page, docs = tmp_path / "page.html", tmp_path / "docs.md"
    assert main([str(path), "--html", str(page), "--markdown", str(docs)]) == 0
    assert "W1, window 10" in capsys.readouterr().out
    assert page.read_text(encoding="utf-8").startswith("<!DOCTYPE html>")
    assert "### W1, window 10" in docs.read_text(encoding="utf-8")


@pytest.mark.parametrize("content", [None, b"", b"{}\n"])
def test_the_command_says_why_it_cannot(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], content: bytes | None
) -> None:
    """A wrong path is no traceback."""
    path = tmp_path / "results.jsonl"
    if content is not None:
        path.write_bytes(content)
    assert main([str(path)]) == 1
    assert str(path) in capsys.readouterr().err


@pytest.mark.parametrize(
    ("value", "written"),
    [
        (0, "0"),
        (7.0, "7"),
        (0.02134, "0.0213"),
        (0.118, "0.118"),
        (1.204, "1.20"),
        (9.999, "10.0"),
        (35.13, "35.1"),
        (99.99, "100"),
        (12_345.6, "12,346"),
        (-2.5, "-2.50"),
    ],
)
def test_a_number_has_three_digits_that_count(value: float, written: str) -> None:
    """More would be noise: the machine is noisy by tens of percent."""
    assert number(value) == written


def test_numbers_with_units_and_narrow_ones() -> None:
    """As people write them."""
    assert with_unit(5_700, "/s") == "5,700/s"
    assert with_unit(26.1, "KiB") == "26.1 KiB"
    assert with_unit(0, "") == "0"
    assert [short_number(value) for value in (950, 7_900, 999_600, 1_200_000)] == [
        *("950", "7.90k", "1.00M", "1.20M")
    ]
    assert [times(value) for value in (0.5, 1.518, 12.34)] == ["0.50×", "1.52×", "12.3×"]
