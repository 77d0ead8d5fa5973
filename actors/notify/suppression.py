"""Addresses of people, to which nothing more is sent, and what makes them reachable again. Pure.

| kind | why | lifted by |
|---|---|---|
| stopped | STOP, a complaint, an unsubscription at the provider | an explicit opt-in |
| dead | a hard bounce, a number that is none | an explicit opt-in, or the user's own registration |

An import, or the app's backend that repeats what it knows, lifts neither. Tokens and push subscriptions are
no such addresses: they are retired with the installation that they belong to, and are registered anew by it.
"""

from typing import Final, Literal

from protocol.notify_types import Channel

SUPPRESSED: Final[frozenset[Channel]] = frozenset(("email", "sms"))

Kind = Literal["stopped", "dead"]


def kind_of(action: str) -> Kind:
    """The kind that an outcome's action makes: `suppress` is a person's word, `retire` a machine's."""
    return "stopped" if action == "suppress" else "dead"


def lifts(kind: str, *, opt_in: bool, is_users_own: bool) -> bool:
    """Tell whether a registration makes the address reachable again."""
    return opt_in or (kind == "dead" and is_users_own)
