"""The lines of a file to be imported, read one by one as they are asked for.

A file may have a million lines: read at once they would hold the event loop for seconds, and take some
hundred bytes of memory each. So a reader is an iterator over the file's bytes, and whoever takes its lines
waits in between. A line that cannot be read is one of them, with its error, and the others go on.
"""

import csv
from collections.abc import Iterator
from typing import Final, Literal

import msgspec

from protocol.errors import ProtocolError

Format = Literal["csv", "ndjson"]
MAX_LINES: Final = 1_000_000
MAX_LINE_BYTES: Final = 16 * 1024  # a web push subscription has a tenth of it
_BOM: Final = b"\xef\xbb\xbf"  # as Excel begins its files

_object = msgspec.json.Decoder(dict[str, object]).decode


class Line(msgspec.Struct, frozen=True):
    """A line by its number in the file, from 1 on: its fields, or why it cannot be read.

    Blank ones have neither; they are lines as well, so that each step of an iterator is a small one.
    """

    number: int
    values: dict[str, str] | None = None
    error: ProtocolError | None = None


class ImportFile(msgspec.Struct, frozen=True):
    """A file whose lines are read when they are taken.

    `total`: about how many there are, as blank lines, and lines within a quoted field, count too.
    """

    lines: Iterator[Line]
    total: int


def open_file(raw: bytes, form: Format) -> ImportFile:
    """Read the first line of a CSV that is not blank, which has the columns' names, and nothing else.

    NDJSON has an object in each line. Raises: ProtocolError(bad_field, not_utf8), where there are more than
    MAX_LINES, or the columns' names cannot be read.
    """
    rows = _Rows(raw)
    if rows.count > MAX_LINES + 1:
        raise ProtocolError("bad_field", f"A file has at most {MAX_LINES} lines.")
    if form == "ndjson":
        return ImportFile(_ndjson(rows), rows.count)
    reader = csv.reader(rows, strict=True)
    try:
        names = [name.strip() for name in next((row for row in reader if row), [])]
    except csv.Error as exc:
        raise ProtocolError("bad_field", f"The CSV cannot be read: {exc}") from None
    return ImportFile(_csv(rows, reader, names), max(0, rows.count - 1))


class _Rows:
    """What stands between two ends of lines, decoded. Iterating goes on behind a line that raised.

    `number`: of the line that was taken last.
    """

    def __init__(self, raw: bytes) -> None:
        self.number = 0
        self._raw = raw
        self._place = len(_BOM) if raw.startswith(_BOM) else 0
        self._end = b"\n" if b"\n" in raw else b"\r"  # an old Macintosh's has no other
        self.count = raw.count(self._end) + (len(raw) > self._place and not raw.endswith(self._end))

    def __iter__(self) -> Iterator[str]:
        return self

    def __next__(self) -> str:
        """Raises: ProtocolError(bad_field, not_utf8), StopIteration."""
        start = self._place
        if start >= len(self._raw):
            raise StopIteration
        found = self._raw.find(self._end, start)
        self._place = len(self._raw) if found < 0 else found + 1
        self.number += 1
        if self._place - start > MAX_LINE_BYTES:
            raise ProtocolError("bad_field", f"A line has at most {MAX_LINE_BYTES} bytes.")
        try:
            return self._raw[start : self._place].decode()
        except UnicodeDecodeError:
            raise ProtocolError("not_utf8", "The line is not UTF-8.") from None


def _csv(rows: _Rows, reader: Iterator[list[str]], names: list[str]) -> Iterator[Line]:
    while True:
        number = rows.number + 1
        try:
            fields = next(reader)
        except StopIteration:
            return
        except ProtocolError as exc:
            yield Line(number, error=exc)
        except csv.Error as exc:  # the reader begins anew with the next line
            upto = f" up to line {rows.number}" if rows.number > number else ""
            yield Line(number, error=ProtocolError("bad_field", f"The CSV cannot be read{upto}: {exc}"))
        else:
            if len(fields) > len(names):
                message = "The line has more fields than the first one has names."
                yield Line(number, error=ProtocolError("bad_field", message))
            elif fields:
                fields += [""] * (len(names) - len(fields))
                yield Line(number, {name: field.strip() for name, field in zip(names, fields, strict=True)})
            else:
                yield Line(number)


def _ndjson(rows: _Rows) -> Iterator[Line]:
    while True:
        try:
            row = next(rows)
        except StopIteration:
            return
        except ProtocolError as exc:
            yield Line(rows.number, error=exc)
            continue
        if not row.strip():
            yield Line(rows.number)
            continue
        try:
            values = _object(row)
        except (msgspec.MsgspecError, RecursionError) as exc:
            error = ProtocolError("bad_field", f"The line is no JSON object: {exc}")
            yield Line(rows.number, error=error)
        else:
            texts = {name: "" if value is None else str(value) for name, value in values.items()}
            yield Line(rows.number, texts)
