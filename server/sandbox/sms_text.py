"""What a short message costs, and what a phone number is."""

import re
from typing import Final

# 3GPP TS 23.038 section 6.2.1: the default alphabet, and its extension, where a character takes two places.
_GSM_BASIC: Final = frozenset(
    "@£$¥èéùìòÇ\nØø\rÅåΔ_ΦΓΛΩΠΨΣΘΞÆæßÉ !\"#¤%&'()*+,-./0123456789:;<=>?"
    "¡ABCDEFGHIJKLMNOPQRSTUVWXYZÄÖÑÜ§¿abcdefghijklmnopqrstuvwxyzäöñüà"
)
_GSM_EXTENDED: Final = frozenset("\f^{}\\[~]|€")
_E164: Final = re.compile(r"\+[1-9][0-9]{6,14}\Z")


def is_phone_number(text: str) -> bool:
    """Tell whether it is a number in E.164 form with its plus sign."""
    return _E164.match(text) is not None


def is_gsm(text: str) -> bool:
    """Tell whether the default alphabet has all of it."""
    return all(char in _GSM_BASIC or char in _GSM_EXTENDED for char in text)


def segment_count(text: str) -> int:
    """Count the parts that a text is sent in: 160 or 153 septets each, or 70 or 67 UTF-16 units."""
    if is_gsm(text):
        units = len(text) + sum(1 for char in text if char in _GSM_EXTENDED)
        whole, part = 160, 153
    else:
        units = len(text.encode("utf-16-le")) // 2
        whole, part = 70, 67
    return 1 if units <= whole else -(-units // part)
