"""Where a list goes on that is read page by page: behind the row whose key the cursor holds. Opaque."""

from base64 import urlsafe_b64decode, urlsafe_b64encode
from binascii import Error as BadBase64
from typing import Annotated, Any, Final, TypeVar

import msgspec
from msgspec import Meta

from protocol.errors import Refused
from protocol.notify_found import MAX_SEQ

MAX_CHARS: Final = 400  # of a cursor
Number = Annotated[int, Meta(ge=0, le=MAX_SEQ)]
Word = Annotated[str, Meta(max_length=128)]
K = TypeVar("K", bound=tuple[Any, ...])

_encode = msgspec.json.Encoder().encode


def write_cursor(*key: int | str) -> str:
    """The cursor behind the row with that key."""
    return urlsafe_b64encode(_encode(key)).decode().rstrip("=")


def read_cursor(cursor: str, kind: type[K]) -> K:
    """The key behind which to go on, as a tuple of that type. Raises: Refused(bad_cursor)."""
    try:
        raw = urlsafe_b64decode(cursor + "=" * (-len(cursor) % 4))
        found: K = msgspec.json.decode(raw, type=kind)
    except (BadBase64, ValueError):  # msgspec's errors are ValueErrors, and so is a character beyond ASCII
        raise Refused("bad_cursor") from None
    return found
