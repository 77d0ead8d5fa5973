"""Rules of contacts, blocks and profiles: pure functions over one user's own side."""

import re
from dataclasses import dataclass, field
from functools import cache
from typing import Final
from unicodedata import normalize
from zoneinfo import available_timezones

from protocol.commands import UpdateProfile
from protocol.errors import ProtocolError, Refused
from protocol.records import ContactRow, User
from protocol.types import Contact, ContactState, Profile

# BCP 47 (RFC 5646) in its common shape: language, then script, region or variants.
_LANGUAGE: Final = re.compile(r"[A-Za-z]{2,8}(-[A-Za-z0-9]{1,8})*")


@dataclass(slots=True)
class Circle:
    """Whom a user knows and whom a user has blocked."""

    contacts: dict[str, ContactRow] = field(default_factory=dict)
    blocked: set[str] = field(default_factory=set)


def contact_of(row: ContactRow) -> Contact:
    """The wire's view of a contact row."""
    state: ContactState = (
        "accepted" if row.state == "accepted" else "incoming" if row.state == "incoming" else "requested"
    )
    return Contact(user_id=row.other_id, state=state, since_ms=row.since_ms)


def profile_of(user: User) -> Profile:
    """What others may see of a user."""
    return Profile(
        user_id=user.user_id,
        username=user.username,
        name=user.name,
        avatar=user.avatar,
        language=user.language,
        time_zone=user.time_zone,
        is_bot=user.is_bot,
    )


def after_request(circle: Circle, other_id: str) -> ContactState | None:
    """The own side after asking somebody; None where nothing changes. A request meets a request: accepted."""
    row = circle.contacts.get(other_id)
    if row is None:
        return "requested"
    return "accepted" if row.state == "incoming" else None


def after_asked(circle: Circle, other_id: str) -> ContactState | None:
    """The own side after being asked; None where nothing changes."""
    if other_id in circle.blocked:
        return None
    row = circle.contacts.get(other_id)
    if row is None:
        return "incoming"
    return "accepted" if row.state == "requested" else None


def fold(name: str) -> str:
    """The form under which names are looked up: letters that look or sound the same compare equal."""
    return normalize("NFKC", name).casefold()


def check_profile(command: UpdateProfile) -> None:
    """Refuse what no user could mean: a blank name, an unknown time zone, a malformed language tag."""
    if command.name is not None and not command.name.strip():
        raise ProtocolError("bad_field", "A name needs letters.")
    if command.language and not _LANGUAGE.fullmatch(command.language):
        raise ProtocolError("bad_field", f"{command.language!r} is not a BCP 47 language tag.")
    if command.time_zone and command.time_zone not in _time_zones():
        raise ProtocolError("bad_field", f"{command.time_zone!r} is not an IANA time zone.")


@cache
def _time_zones() -> frozenset[str]:
    return frozenset(available_timezones())


def needs_other(user_id: str, other_id: str) -> None:
    if user_id == other_id:
        raise Refused("self_not_allowed")
