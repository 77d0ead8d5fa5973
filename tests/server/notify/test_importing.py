"""Files of users, addresses and groups, as they are read."""

import pytest

from protocol.errors import ProtocolError
from server.notify.importing import Line, read_lines


def test_a_line_of_csv_is_told_by_its_place_in_the_file() -> None:
    """Whoever mends a file looks for the line in an editor: names, empty lines and line breaks count."""
    text = 'external_id,name\nu1,Ann\n\nu2,"Ben\nof the hill"\nu3,Cat,too much\nu4\n'
    assert read_lines(text.encode(), "csv") == [
        Line(2, {"external_id": "u1", "name": "Ann"}),
        Line(4, {"external_id": "u2", "name": "Ben\nof the hill"}),
        Line(6, {}, "The line has more fields than the first one has names."),
        Line(7, {"external_id": "u4", "name": ""}),
    ]


def test_a_line_of_csv_that_cannot_be_read_costs_no_other() -> None:
    """A million users, and one stray quotation mark."""
    lines = read_lines(b'external_id,name\nu1,"Ann"x\nu2,Ben\n', "csv")
    assert [(line.number, bool(line.error), line.values.get("external_id")) for line in lines] == [
        (2, True, None),
        (3, False, "u2"),
    ]


def test_a_line_of_json_that_cannot_be_read_costs_no_other() -> None:
    """The same for the other form."""
    deep = "[" * 100_000
    good = ('{"external_id": "u1"}', '{"external_id": "u2", "name": null}')
    text = "\n".join([good[0], "", '{"external_id": ', "[1]", f'{{"a": {deep}', good[1]])
    lines = read_lines(text.encode(), "ndjson")
    assert [(line.number, bool(line.error), line.values) for line in lines] == [
        (1, False, {"external_id": "u1"}),
        (3, True, {}),
        (4, True, {}),
        (5, True, {}),
        (6, False, {"external_id": "u2", "name": ""}),
    ]
    assert all(line.error.startswith("The line is no JSON object") for line in lines if line.error)


@pytest.mark.parametrize("raw", [b"\xff", b'a"b,"x"y\n1,2\n'])
def test_a_file_that_is_none_is_refused_whole(raw: bytes) -> None:
    """Nothing of it can be meant as it stands."""
    with pytest.raises(ProtocolError):
        read_lines(raw, "csv")
