"""What is asked of the server in `hubbub bench notify`: requests with their times, laid down before a run.

"A day in small" is 16 million notifications a day, 185 a second, at 20 times that rate: of 160,000, 100,000
are one LOW campaign to all users, which is one request at the start. The others come by a timetable while it
runs, in random order: one-time codes and messages (HIGH), likes that become batches (LOW), orders (MEDIUM),
offers that need consent (LOW), some for a later time, and some that say the same as an earlier one under
another key. A fiftieth are also sent again under their key, as backends do that had no answer in time; these
are no notifications.
"""

import random
from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Final

import msgspec

from bench.notify_cast import Person
from protocol.notify_content import NotifyRequest
from protocol.notify_types import Channel, Priority

DAY_COUNT: Final = 160_000
DAY_RATE_PER_S: Final = 3_704.0  # 20 × 16,000,000 / 86,400
RETRY_SHARE: Final = 0.02
HTTP_SHARE: Final = 0.02  # of the requests; the others come in by the bot port
SEED: Final = 7
# Of what comes by the timetable.
SHARES: Final[dict[str, float]] = {
    "code": 0.04,
    "message": 0.30,
    "social": 0.40,
    "order": 0.16,
    "offer": 0.06,
    "later": 0.02,
    "duplicate": 0.02,
}
PRIORITIES: Final[dict[str, Priority]] = {
    "code": "high",
    "message": "high",
    "social": "low",
    "order": "medium",
    "offer": "low",
    "later": "medium",
    "duplicate": "medium",
}
_NAMES: Final = ("Ann", "Ben", "Cleo", "Dan", "Eve", "Finn", "Gia", "Hugo", "Ida", "Jon", "Kim", "Leo")


class Planned(msgspec.Struct, gc=False):
    """One request: when it is due, in seconds from the start, and what it is."""

    due_s: float
    kind: str
    request: NotifyRequest
    by_http: bool = False
    repeats: int = -1  # the index of the one that this one sends again; -1: none


def campaign() -> NotifyRequest:
    """The request that notifies everybody."""
    return NotifyRequest(
        type="news",
        group="*",
        title="What is new",
        text="See what has changed in the app since you were here last.",
        url="https://example.com/news",
        idempotency_key="campaign",
    )


def make_day(people: Sequence[Person], *, starts_at_ms: int, total: int = DAY_COUNT) -> list[Planned]:
    """Lay a day down, by rising time. `total` includes the campaign, one for each of the people."""
    chance = random.Random(SEED)
    count = max(1, total - len(people))
    span_s = total / DAY_RATE_PER_S
    with_phone = [person for person in people if "sms" in person.channels]
    kinds = [kind for kind, share in SHARES.items() for _ in range(round(share * count))]
    kinds += ["message"] * (count - len(kinds))
    del kinds[count:]
    chance.shuffle(kinds)
    posts = [
        (chance.choice(people), f"post-{n}") for n in range(max(1, round(SHARES["social"] * count) // 4))
    ]
    planned: list[Planned] = []
    for number, kind in enumerate(kinds):
        due_s = number * span_s / count
        if kind == "duplicate" and planned:
            earlier = planned[max(0, number - chance.randint(1, 5_000))].request
            if earlier.type != "code":
                request = msgspec.structs.replace(earlier, idempotency_key=f"k{number}")
                planned.append(Planned(due_s, kind, request))
                continue
            kind = "order"
        elif kind == "duplicate":
            kind = "order"
        person = chance.choice(with_phone if kind == "code" else people)
        request = _request(kind, number, person, chance, posts)
        if kind == "later":
            at_ms = starts_at_ms + round(1000 * chance.uniform(min(due_s + 1, span_s), span_s + 1))
            at = datetime.fromtimestamp(at_ms / 1000, UTC)
            request = msgspec.structs.replace(request, send_at=at.isoformat(timespec="milliseconds"))
        planned.append(Planned(due_s, kind, request))
    for index in range(count):
        if chance.random() < RETRY_SHARE:
            first = planned[index]
            due_s = first.due_s + chance.uniform(0.05, 3.0)
            planned.append(Planned(due_s, first.kind, first.request, repeats=index))
    order = sorted(range(len(planned)), key=lambda index: planned[index].due_s)
    places = {index: place for place, index in enumerate(order)}
    day = [planned[index] for index in order]
    for one in day:
        one.by_http = chance.random() < HTTP_SHARE
        if one.repeats >= 0:
            one.repeats = places[one.repeats]
    return day


def _request(
    kind: str, number: int, person: Person, chance: random.Random, posts: Sequence[tuple[Person, str]]
) -> NotifyRequest:
    key, user_id, name = f"k{number}", person.user_id, chance.choice(_NAMES)
    match kind:
        case "code":
            text = f"{number:06d} is your code. It is good for ten minutes."
            return NotifyRequest(type="code", user_id=user_id, text=text, idempotency_key=key)
        case "message":
            text = f"See you at the station at ten? I will bring number {number}."
            return NotifyRequest(
                type="message", user_id=user_id, title=name, text=text, actor=name, idempotency_key=key
            )
        case "social":
            author, post = chance.choice(posts)
            return NotifyRequest(
                type="social",
                user_id=author.user_id,
                title="Likes",
                text=f"{name} likes your post.",
                subject=post,
                actor=f"{name} {number}",
                data={"who": number},
                idempotency_key=key,
            )
        case "offer":
            text = f"Ten per cent off until Sunday, with the code A{number}."
            return NotifyRequest(
                type="offer", user_id=user_id, title="For you", text=text, idempotency_key=key
            )
        case _:
            text = f"Your order {number} has left our warehouse."
            return NotifyRequest(
                type="order",
                user_id=user_id,
                title="On its way",
                text=text,
                url=f"https://example.com/orders/{number}",
                idempotency_key=key,
            )


def single(channel: Channel | str, number: int, user_id: str) -> NotifyRequest:
    """One notification by one channel alone, with a text of its own; "inapp": the centre."""
    return NotifyRequest(
        type="centre" if channel == "inapp" else f"by_{channel}",
        user_id=user_id,
        title="" if channel == "sms" else "Hello",
        text=f"Message number {number}, which says what messages say.",
        idempotency_key=f"s{number}",
    )
