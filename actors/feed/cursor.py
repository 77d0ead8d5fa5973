"""Places in a feed as clients carry them: opaque, and good for the reader who got them alone."""

import re
from typing import Final
from zlib import crc32

import msgspec

from protocol.errors import Refused
from protocol.limits import MAX_SAFE_INTEGER

_LETTERS: Final = {"older": "o", "newer": "n", "ranked": "r"}
_NAMES: Final = {letter: kind for kind, letter in _LETTERS.items()}

_PATTERN: Final = re.compile(r"([onr])([0-9a-f]{1,14})\.([0-9a-f]{1,14})\.([0-9a-f]{1,14})\.([0-9a-f]{1,14})")


class Cursor(msgspec.Struct, frozen=True):
    """Where a scroll stands.

    `bound`: the post_id that was examined last; of a ranked feed: the place in it. `counted`: organic items
    shown since the scroll began at `anchor`, by which ads are placed. `made_at_ms`: of a ranked feed, which
    order it is.
    """

    kind: str  # older, newer or ranked
    bound: int
    counted: int
    anchor: int
    made_at_ms: int = 0


def write_cursor(cursor: Cursor, user_id: str) -> str:
    """Give a place to a reader."""
    text = (
        f"{_LETTERS[cursor.kind]}{cursor.bound:x}.{cursor.counted:x}.{cursor.anchor:x}.{cursor.made_at_ms:x}"
    )
    return f"{text}.{_check(text, user_id)}"


def read_cursor(text: str, user_id: str, *kinds: str) -> Cursor:
    """Take a place back. Raises: Refused("bad_cursor"): it was not given to this reader for this use."""
    body, _, check = text.rpartition(".")
    found = _PATTERN.fullmatch(body)
    if found is None or check != _check(body, user_id):
        raise Refused("bad_cursor", "That cursor was not given to this user.")
    kind = _NAMES[found[1]]
    bound, counted, anchor, made_at = (int(part, 16) for part in found.groups()[1:])
    if kind not in kinds or max(bound, counted, anchor, made_at) > MAX_SAFE_INTEGER:
        raise Refused("bad_cursor", f"That cursor is for another use: {kind}.")
    return Cursor(kind, bound, counted, anchor, made_at)


def _check(text: str, user_id: str) -> str:
    """No secret: it tells a mistake from a place, and who makes one up sees only the own feed."""
    return f"{crc32((user_id + chr(0) + text).encode(errors='surrogatepass')):08x}"
