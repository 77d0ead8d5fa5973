"""Lines of files that are imported, as spreadsheets and programs write them."""

from collections.abc import Iterator
from contextlib import aclosing
from pathlib import Path

import pytest

from protocol.errors import ProtocolError
from server.notify.import_lines import MAX_LINE_BYTES, MAX_LINES, Format, ImportFile, Line, open_file
from server.notify.importing import CHUNK, Importer
from tests.server.http_world import open_api


def told(raw: bytes, form: Format) -> list[tuple[int, dict[str, str] | str | None]]:
    """Each line's number with its values, or its error's code."""
    return [
        (line.number, line.error.code if line.error else line.values) for line in open_file(raw, form).lines
    ]


@pytest.mark.parametrize("end", [b"\n", b"\r\n", b"\r"])
@pytest.mark.parametrize("bom", [b"", b"\xef\xbb\xbf"])
def test_lines_have_the_numbers_that_an_editor_shows(end: bytes, bom: bytes) -> None:
    """Who mends a file looks for line 3 at line 3: the names of the columns are line 1."""
    rows = [b" external_id ,name", b"u1, Ann ", b"", b'u2,"Ben, B."', b"u3"]
    values: list[tuple[int, dict[str, str] | None]] = [
        (2, {"external_id": "u1", "name": "Ann"}),
        (3, None),
        (4, {"external_id": "u2", "name": "Ben, B."}),
        (5, {"external_id": "u3", "name": ""}),
    ]
    for last in (b"", end):
        raw = bom + end.join(rows) + last
        assert told(raw, "csv") == values
        assert open_file(raw, "csv").total == 4
        objects = bom + end.join([b'{"a": 1}', b"", b'{"a": null}']) + last
        assert told(objects, "ndjson") == [(1, {"a": "1"}), (2, None), (3, {"a": ""})]
        assert open_file(objects, "ndjson").total == 3


def test_a_line_that_cannot_be_read_costs_that_line() -> None:
    """A million users do not wait for one that a program has cut off."""
    rows = [
        b"external_id,name",
        b'u1,"Ann" A.',  # a quote within a field
        b"u2,\xff",
        b"u3,Ben,more",
        b"u4," + b"x" * MAX_LINE_BYTES,
        b'u5,"two',
        b'lines"',
        b"u6,Eve",
    ]
    assert told(b"\n".join(rows), "csv") == [
        (2, "bad_field"),
        (3, "not_utf8"),
        (4, "bad_field"),
        (5, "bad_field"),
        (6, {"external_id": "u5", "name": "two\nlines"}),
        (8, {"external_id": "u6", "name": "Eve"}),
    ]
    objects = [
        b'{"a": ',
        b"\xff",
        b"[1]",
        b'{"a": ' + b"[" * 5_000,
        b'{"a": "' + b"x" * MAX_LINE_BYTES,
        b'{"a": 1}',
    ]
    assert told(b"\n".join(objects), "ndjson") == [
        (1, "bad_field"),
        (2, "not_utf8"),
        (3, "bad_field"),
        (4, "bad_field"),
        (5, "bad_field"),
        (6, {"a": "1"}),
    ]


def test_a_quote_that_is_never_closed_is_told_with_what_it_swallowed() -> None:
    """The lines behind it are not taken for imported."""
    (line,) = open_file(b'external_id,name\nu1,"Ann\nu2,Ben\nu3,Eve\n', "csv").lines
    assert line.error is not None
    assert (line.number, "up to line 4" in line.error.message) == (2, True)


@pytest.mark.parametrize(
    ("raw", "form", "code"),
    [
        (b"\xff\xfee\x00\n\x00", "csv", "not_utf8"),
        (b'"external_id" x,name\nu1,Ann\n', "csv", "bad_field"),
        (b"\n" * (MAX_LINES + 2), "ndjson", "bad_field"),
    ],
)
def test_a_file_that_is_none_is_refused_at_once(raw: bytes, form: Format, code: str) -> None:
    """Before anything of it is taken: a thousand errors would say the same."""
    with pytest.raises(ProtocolError) as caught:
        open_file(raw, form)
    assert caught.value.code == code


@pytest.mark.parametrize("form", ["csv", "ndjson"])
def test_an_empty_file_has_no_lines(form: Format) -> None:
    """Exports of nothing happen."""
    assert (told(b"", form), open_file(b"", form).total) == ([], 0)


async def nothing(*_of: object) -> None:
    """These lines have no addresses, and make users who are new."""


async def test_a_file_is_read_no_faster_than_it_is_imported(tmp_path: Path) -> None:
    """While one app imports a million users, everybody else is served: a step of it is a small one."""
    raw = b"external_id\n" + b"".join(b"u%d\n" % number for number in range(2 * CHUNK)) + b"\n" * 100_000
    read = 0

    def counted(lines: Iterator[Line]) -> Iterator[Line]:
        nonlocal read
        for line in lines:
            read += 1
            yield line

    async with open_api(tmp_path) as api:
        core = api.notifications
        assert core is not None
        importer = Importer(
            api.store, api.directory, core.desk, core.router, take_away=nothing, update=nothing
        )
        file = open_file(raw, "csv")
        steps = []
        async with aclosing(importer.run("default", "users", ImportFile(counted(file.lines), 0))) as reports:
            async for report in reports:
                steps.append((read, report.done))
                if len(steps) == 3:
                    break
        assert steps == [(CHUNK, CHUNK), (2 * CHUNK, 2 * CHUNK), (3 * CHUNK, 2 * CHUNK)]
