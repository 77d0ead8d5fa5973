"""Which Apprise addresses users may name, and what must not be seen of them. Pure.

An address comes from outside and makes this machine act: show a desktop message, read a file, call a host. So
what is local is refused, whatever reads files is refused, and hosts in private networks are refused.
"""

import re
from collections.abc import Collection
from typing import Final
from urllib.parse import unquote

from actors.notify.delivery import Outcome

MAX_URL_CHARS: Final = 2_000
# They speak to this machine: its log, its desktop, its USB lights.
LOCAL_SCHEMES: Final = frozenset(
    ("file", "syslog", "rsyslog", "dbus", "qt", "kde", "glib", "gio", "gnome", "macosx", "windows", "blink1")
)
# They read a key from a file that the address names. FCM and Web Push have providers of their own.
FILE_SCHEMES: Final = frozenset(("fcm", "vapid"))
# Here `template` is a file, and not an id at the service.
_TEMPLATE_SCHEMES: Final = frozenset(("workflow", "workflows", "slack", "discord", "tgram", "guilded"))
_FILE_KEYS: Final = frozenset(("keyfile", "subfile", "pgpkey", "attach", "config", "include"))
# How often, how long, and through which redirections is ours to say: a redirection can lead inside.
_OUR_KEYS: Final = frozenset(("redirect", "retry", "wait", "rto", "cto", "optional", "tag", "tags"))
_SCHEME: Final = re.compile(r"([a-z][a-z0-9+.-]{1,31})://")
_SECRET: Final = re.compile(r"[^/:@?&=#,;\s]{4,}")


def tame_address(url: str, schemes: Collection[str] = ()) -> str | Outcome:
    """Return the address as it may be used, or why not. `schemes`: the only ones, where there are any."""
    url = url.strip()
    match = _SCHEME.match(url.lower())
    if match is None or len(url) > MAX_URL_CHARS or not url.isprintable():
        return Outcome(kind="refused", action="retire", code="bad_address")
    scheme = match[1]
    if not is_scheme_allowed(scheme, schemes):
        return Outcome(kind="refused", action="dead_letter", code="scheme_not_allowed", detail=scheme)
    address, mark, query = url.partition("?")
    kept: list[str] = []
    for part in query.split("&"):
        key = unquote(part.partition("=")[0]).strip().lower().lstrip("+-:")
        if key in _FILE_KEYS or (key == "template" and scheme in (*_TEMPLATE_SCHEMES, "https")):
            return Outcome(kind="refused", action="dead_letter", code="reads_files", detail=key)
        if key not in _OUR_KEYS:
            kept.append(part)
    return f"{address}?{'&'.join(kept)}" if mark and any(kept) else address


def is_scheme_allowed(scheme: str, schemes: Collection[str] = ()) -> bool:
    """Say whether a service may be named. What is local stays forbidden even where it is listed."""
    if scheme in LOCAL_SCHEMES or scheme in FILE_SCHEMES:
        return False
    return not schemes or scheme in schemes


def masked(text: str, url: str) -> str:
    """Blank out of a log text whatever could be a secret of the address: all its parts but the scheme."""
    rest = url.partition("://")[2]
    secrets = set(_SECRET.findall(rest)) | set(_SECRET.findall(unquote(rest)))
    for secret in sorted(secrets, key=len, reverse=True):
        text = text.replace(secret, "***")
    return text
