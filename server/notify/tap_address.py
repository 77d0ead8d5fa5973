"""Which addresses a notification may lead to, whoever named them: a template's text or a plain request. Pure.

They go to apps, mails and pages of which we know nothing, so what runs or reads something is refused here.
"""

import re
from typing import Final

# A browser skips white space before a scheme, and line breaks and tabs within it; those are not printable.
_SCHEME: Final = re.compile(r"\s*([a-z][a-z0-9+.-]*)\s*:", re.IGNORECASE)
# They run what somebody's data say, or read what lies on the device.
_BAD_SCHEMES: Final = frozenset(
    ("javascript", "vbscript", "data", "blob", "file", "filesystem", "content", "about", "view-source")
)


def leads_safely(address: str) -> bool:
    """Tell whether a tap may open it. Apps' own schemes (myapp://…) and our own page are welcome."""
    scheme = _SCHEME.match(address)
    return address.isprintable() and (scheme is None or scheme[1].lower() not in _BAD_SCHEMES)


def is_picture(address: str) -> bool:
    """Tell whether a picture may come from it: by http or https, or from our own page."""
    scheme = _SCHEME.match(address)
    return address.isprintable() and (scheme is None or scheme[1].lower() in ("http", "https"))
