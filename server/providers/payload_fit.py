"""Make a push payload small enough: providers take 4,096 bytes, and a cut text is better than none."""

import unicodedata
from collections.abc import Callable, Sequence
from typing import Final

ELLIPSIS: Final = "…"
_JOINER: Final = "\u200d"


def shortened(text: str, char_count: int) -> str:
    """Keep at most so many characters, the ellipsis included. No mark is torn from what it belongs to."""
    if len(text) <= char_count:
        return text
    end = max(0, char_count - 1)
    while end and (_continues(text[end]) or text[end - 1] == _JOINER):
        end -= 1
    return text[:end].rstrip() + ELLIPSIS if end else ""


def _continues(char: str) -> bool:
    return (
        char == _JOINER
        or unicodedata.combining(char) != 0
        or unicodedata.category(char) in ("Mn", "Me")  # variation selectors among them
        or "\U0001f3fb" <= char <= "\U0001f3ff"  # skin tones
    )


Build = Callable[[str, str, frozenset[str]], bytes]
"""From title, body and the names of parts to leave out, the payload in bytes."""


def fitted(
    build: Build, title: str, body: str, max_bytes: int, droppable: Sequence[str] = ()
) -> bytes | None:
    """Build a payload of at most `max_bytes`: whole, or with a shorter body, or without some parts.

    Parts go in the order of `droppable`, each only where an empty body would not do; the title is cut last.
    None: it does not fit at all. Sizes are those of the bytes built, so escapes in JSON count as they are.
    """
    whole = build(title, body, frozenset())
    if len(whole) <= max_bytes:
        return whole
    dropped: frozenset[str] = frozenset()
    for name in ("", *droppable):
        dropped = dropped | {name}
        if len(build(title, "", dropped)) <= max_bytes:
            return _longest(lambda text, left=dropped: build(title, text, left), body, max_bytes)  # type: ignore[misc]
    return _longest(lambda text: build(text, "", dropped), title, max_bytes)


def _longest(build: Callable[[str], bytes], text: str, max_bytes: int) -> bytes | None:
    """Find the longest beginning of `text` that fits, by halving."""
    low, high = 0, len(text)
    best = build("")
    if len(best) > max_bytes:
        return None
    while low < high:
        middle = (low + high + 1) // 2
        candidate = build(shortened(text, middle))
        if len(candidate) <= max_bytes:
            low, best = middle, candidate
        else:
            high = middle - 1
    return best
