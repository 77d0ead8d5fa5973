"""What has to be said in words beside the figures of a case."""

from collections.abc import Sequence
from enum import Enum

import msgspec

from bench.report.statistics import Summary


class Kind(Enum):
    """How much a remark should stand out."""

    UNSOUND = "unsound"
    ERRORS = "errors"
    VERIFIED = "verified"
    NOTE = "note"


class Remark(msgspec.Struct, frozen=True, kw_only=True):
    """One thing to say, and whom it is about: names such as "hubbub json"."""

    kind: Kind
    names: list[str]
    text: str

    def __str__(self) -> str:
        mark = "! " if self.kind is Kind.UNSOUND else ""
        about = ", ".join(self.names)
        return f"{mark}{about}: {'verified: ' if self.kind is Kind.VERIFIED else ''}{self.text}"


def remarks(rows: Sequence[Summary]) -> list[Remark]:
    """Collect what was found, the errors and the notes of one case; the worst first, each text once."""
    found: dict[tuple[Kind, str], list[str]] = {}

    def add(kind: Kind, text: str, row: Summary) -> None:
        found.setdefault((kind, text), []).append(row.name)

    for row in rows:
        if not row.is_sound:
            add(Kind.UNSOUND, "; ".join(row.findings) or "a check failed", row)
        elif row.findings:
            add(Kind.VERIFIED, "; ".join(row.findings), row)
        if row.error_count:
            add(Kind.ERRORS, f"{row.error_count:,} errors in all rounds together", row)
        for note in row.notes:
            add(Kind.NOTE, note, row)
    order = list(Kind)
    return [
        Remark(kind=kind, names=names, text=text)
        for (kind, text), names in sorted(found.items(), key=lambda item: order.index(item[0][0]))
    ]
