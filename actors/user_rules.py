"""Rules of contacts, blocks and profiles: pure functions over one user's own side."""

from dataclasses import dataclass, field
from unicodedata import normalize

from protocol.errors import Refused
from protocol.records import ContactRow, User
from protocol.types import Contact, ContactState, Profile


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
    """Fold a name for look-ups: what differs only in case or in presentation forms is the same."""
    return normalize("NFKC", normalize("NFKC", name).casefold())


def needs_other(user_id: str, other_id: str) -> None:
    if user_id == other_id:
        raise Refused("self_not_allowed")
