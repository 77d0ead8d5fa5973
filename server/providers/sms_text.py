"""How long a text message is, and where it may be cut. Pure.

GSM 03.38 has 128 characters in 7 bits and ten more that take two; one other character makes the whole
message UCS-2, at 70 characters a segment instead of 160. Longer messages lose 7 or 3 places of each segment
to a header that joins them (3GPP TS 23.040 section 9.2.3.24), and no pair may lie across a border.
"""

import unicodedata
from typing import Final, Literal

import msgspec

MAX_CHARS: Final = (
    1_600  # Twilio refuses longer bodies (21617); in UTF-16 units, as it counts an emoji as two
)
_BASIC: Final = frozenset(
    "@£$¥èéùìòÇ\nØø\rÅåΔ_ΦΓΛΩΠΨΣΘΞÆæßÉ !\"#¤%&'()*+,-./0123456789:;<=>?"
    "¡ABCDEFGHIJKLMNOPQRSTUVWXYZÄÖÑÜ§¿abcdefghijklmnopqrstuvwxyzäöñüà"
)
_EXTENDED: Final = frozenset("\f^{}\\[~]|€")
_ZERO_WIDTH_JOINER: Final = "\u200d"
_ELLIPSIS: Final = "…"


class SmsSize(msgspec.Struct, frozen=True):
    """`units`: septets or UTF-16 units in all; `segments`: what is paid for, 0 of an empty text."""

    encoding: Literal["GSM-7", "UCS-2"]
    units: int
    segments: int


def is_gsm7(text: str) -> bool:
    """Say whether all of it can be sent in 7 bits."""
    return _BASIC.issuperset(text) or all(char in _BASIC or char in _EXTENDED for char in text)


def sms_size(text: str) -> SmsSize:
    """Measure a text as a phone network does."""
    if is_gsm7(text):
        sizes, single, joined = [2 if char in _EXTENDED else 1 for char in text], 160, 153
        encoding: Literal["GSM-7", "UCS-2"] = "GSM-7"
    else:
        sizes, single, joined = [2 if char > "\uffff" else 1 for char in text], 70, 67
        encoding = "UCS-2"
    units = sum(sizes)
    if units <= single:
        return SmsSize(encoding, units, 1 if units else 0)
    segments, room = 0, 0
    for size in sizes:
        if room < size:  # a pair that does not fit starts the next segment, and leaves a place unused
            segments, room = segments + 1, joined
        room -= size
    return SmsSize(encoding, units, segments)


def cut(text: str, max_units: int = MAX_CHARS) -> str:
    """Shorten to `max_units` UTF-16 units, with an ellipsis at the end, and never within a visible character.

    The ellipsis is "…", but three dots in a text of 7 bits: "…" would make it UCS-2, and twice as dear.
    """
    if _utf16_units(text) <= max_units:
        return text
    mark = "..." if is_gsm7(text) else _ELLIPSIS
    if max_units <= len(mark):
        return mark[:max_units]
    room, end = max_units - len(mark), 0
    for char in text:
        room -= 2 if char > "\uffff" else 1
        if room < 0:
            break
        end += 1
    while end > 0 and not _is_border(text, end):
        end -= 1
    return text[:end].rstrip() + mark


def sms_text(title: str, body: str, url: str, max_units: int = MAX_CHARS) -> str:
    """Write a notification as one text: title and body on lines of their own, then the address, uncut."""
    lines = [line for line in (title.strip(), body.strip()) if line]
    text = "\n".join(lines[:1] if lines[1:] == lines[:1] else lines)
    if not url or url in text or _utf16_units(url) + 4 > max_units:
        return cut(text, max_units)
    if not text:
        return url
    return f"{cut(text, max_units - _utf16_units(url) - 1)} {url}"


def _utf16_units(text: str) -> int:
    return len(text) + sum(char > "\uffff" for char in text)


def _is_border(text: str, index: int) -> bool:
    """Say whether a cut before `text[index]` leaves whole characters (the common part of UAX 29)."""
    before, after = text[index - 1], text[index]
    if before == _ZERO_WIDTH_JOINER or after == _ZERO_WIDTH_JOINER:
        return False
    if unicodedata.category(after) in ("Mn", "Me", "Mc") or "\U0001f3fb" <= after <= "\U0001f3ff":
        return False  # accents, variation selectors, skin tones
    if before == "\r" and after == "\n":
        return False
    if _is_regional(before) and _is_regional(after):  # flags are pairs, counted from where the row begins
        start = index
        while start > 0 and _is_regional(text[start - 1]):
            start -= 1
        return (index - start) % 2 == 0
    return True


def _is_regional(char: str) -> bool:
    return "\U0001f1e6" <= char <= "\U0001f1ff"
