"""What a provider tells later about something it took: the Struct, and which of two reports counts."""

import re
from typing import Final, Literal

import msgspec

State = Literal[
    "accepted",
    "queued",
    "sending",
    "sent",
    "delayed",
    "failed",
    "undelivered",
    "bounced_soft",
    "delivered",
    "bounced_hard",
    "opened",
    "read",
    "clicked",
    "unsubscribed",
    "complained",
]
Consequence = Literal["", "failover", "retire", "suppress", "dead_letter", "expired", "break"]
"""What a report asks for; as `Action` of an Outcome, and empty where it only informs."""

# From little known to most known. Later facts beat earlier guesses: a mail that was delivered may bounce hard
# afterwards, a soft bounce after delivery is an absence note, and who clicked has got it.
ORDER: Final[tuple[State, ...]] = State.__args__  # type: ignore[attr-defined]  # of typing.Literal
_RANKS: Final = {state: rank for rank, state in enumerate(ORDER)}


class StatusUpdate(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """One report about one delivery, known by `delivery_id`, `provider_id` or both.

    `action` is due once for a delivery, however often it is reported; "failover" only if no other provider
    was tried for this cause before. `at_ms` is the provider's clock, 0 where it does not tell.
    """

    provider: str
    state: State
    at_ms: int = 0
    provider_id: str = ""
    delivery_id: str = ""
    address: str = ""
    code: str = ""
    detail: str = ""
    url: str = ""  # with `clicked`
    action: Consequence = ""


def later(first: State, second: State) -> State:
    """Return what holds once both are known; order and repetition of reports do not matter."""
    return first if _RANKS[first] >= _RANKS[second] else second


def is_news(known: State, reported: State) -> bool:
    """Say whether a report moves a delivery on. Late and doubled ones do not."""
    return _RANKS[reported] > _RANKS[known]


def delivery_id_of(message_id: str) -> str:
    """Read the delivery's id from the Message-ID that we gave a mail; "" from any other."""
    match = re.fullmatch(r"<?([A-Za-z0-9_-]{1,64})@[^@>\s]+>?", message_id.strip())
    return match[1] if match else ""
