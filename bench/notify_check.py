"""Was anything lost, doubled, or sent against anybody's wish? An independent pass over the records.

Nothing of the service's own rules is imported: the records are read as tables by plain SQL, JSON by the
standard library, and quiet hours are worked out anew with datetime and zoneinfo. It goes by what was asked
for (the client's own list), what is in the database, and what the providers have taken.

What must hold, or else is a violation:

1. Each request that was accepted has its notification, of that user and type; the same key has the same one.
2. The same content to the same user is not sent twice within the type's `dedup_s`.
3. Nothing was sent on a channel that the user does not want, of a type that is off, without consent that the
   type needs, in quiet hours, or over the cap. Security passes all but consent.
4. Each notification has a ledger that begins with a decision, and in which each attempt stands before its
   result; there are as many attempts as the delivery counts; what is dropped, held or merged says why.
5. What a provider has taken belongs to an attempt, no delivery is accepted that no provider has, and what
   came twice is counted as a double.
6. A request to all users has notified each of them once.
7. Nothing is left under way.
"""

import json
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from datetime import UTC, datetime, timedelta
from itertools import pairwise
from pathlib import Path
from typing import Any, Final, NamedTuple
from zoneinfo import ZoneInfo

from bench.notify_books import Records
from protocol.notify_content import NotifyRequest

SHOWN: Final = 5  # violations of one kind that are told in full
HOUR_MS: Final = 3_600_000
_WHY: Final = {"dropped": "drop", "held": "hold"}
_DIGEST: Final = "digest"


class Asked(NamedTuple):
    """One request, and what was answered."""

    request: NotifyRequest
    notification_id: int
    state: str
    is_repeated: bool = False


class Taken(NamedTuple):
    """What a provider has taken: the sender's name for it (empty: none), to whom, when."""

    identity: str
    address: str
    at_ms: int


class Report(NamedTuple):
    """What was found."""

    violations: list[str]
    notification_count: int
    delivery_count: int
    states: dict[str, int]
    arrived: dict[str, int]
    doubles: int
    arrived_at_ms: dict[int, int]
    """notification_id -> when a provider first took it."""
    last_at_ms: int
    """When the last thing was decided or concluded of what was not held."""
    campaign_done_at_ms: int
    repeated_count: int
    release_lates_ms: list[int]
    """How late what had been held was released."""

    def __str__(self) -> str:
        states = ", ".join(f"{count:,} {state}" for state, count in sorted(self.states.items()))
        return (
            f"{self.notification_count:,} notifications ({states}), {self.delivery_count:,} deliveries, "
            f"{sum(self.arrived.values()):,} taken by providers, {self.doubles} twice; "
            f"{self.repeated_count:,} requests repeated under their key: none lost, doubled, unexplained, or "
            "against a wish"
        )


class _Violations:
    """Violations by kind; of each kind the first few in full."""

    def __init__(self) -> None:
        self._found: dict[str, list[str]] = defaultdict(list)

    def add(self, kind: str, detail: str) -> None:
        self._found[kind].append(detail)

    def told(self) -> list[str]:
        return [
            f"{kind}: {len(details)} ({'; '.join(details[:SHOWN])})" for kind, details in self._found.items()
        ]


def check(database: Path, asked: Sequence[Asked], arrived: Mapping[str, Iterable[Any]]) -> Report:
    """Go through the records. `arrived`: channel -> what its provider took, each with Taken's fields."""
    records, bad = Records(database), _Violations()
    taken = {
        channel: [Taken(one.identity, one.address, one.at_ms) for one in all_of_it]
        for channel, all_of_it in arrived.items()
    }
    _check_requests(records, asked, bad)
    _check_campaigns(records, bad)
    _check_contents(records, asked, bad)
    _check_wishes(records, bad)
    _check_ledgers(records, bad)
    arrived_at_ms, doubles = _check_arrivals(records, taken, bad)
    done = [row["done_at_ms"] for row in records.requests.values()]
    last = [
        said[-1].at_ms
        for said in records.ledger.values()
        if said and not any(one.kind in ("released", "opened_digest", "digested") for one in said)
    ]
    return Report(
        violations=bad.told(),
        notification_count=sum(row["type"] != _DIGEST for row in records.notes.values()),
        delivery_count=len(records.deliveries),
        states=dict(Counter(row["state"] for row in records.notes.values())),
        arrived={channel: len(all_of_it) for channel, all_of_it in taken.items()},
        doubles=doubles,
        arrived_at_ms=arrived_at_ms,
        last_at_ms=max([*last, *done], default=0),
        campaign_done_at_ms=max(done, default=0),
        repeated_count=sum(one.is_repeated for one in asked),
        release_lates_ms=[
            said.at_ms - records.notes[number]["due_at_ms"]
            for number, ledger in records.ledger.items()
            if sum(said.kind == "released" for said in ledger) == 1 and number in records.notes
            for said in ledger
            if said.kind == "released" and records.notes[number]["state"] != "held"
        ],
    )


def _check_requests(records: Records, asked: Sequence[Asked], bad: _Violations) -> None:
    """1: accepted is stored, and the same key is the same notification."""
    by_key: dict[str, int] = {}
    by_id: dict[int, str] = {}
    for one in asked:
        request = one.request
        if request.group:
            if one.state not in records.requests:
                bad.add("a request is lost", one.state)
            continue
        note = records.notes.get(one.notification_id)
        if note is None:
            bad.add("a notification is lost", f"{request.idempotency_key} {one.notification_id}")
            continue
        if (note["user_id"], note["type"]) != (request.user_id, request.type):
            bad.add("a notification is another's", f"{one.notification_id}")
        known = by_key.setdefault(request.idempotency_key, one.notification_id)
        if known != one.notification_id:
            bad.add("one key has two notifications", f"{known} and {one.notification_id}")
        other = by_id.setdefault(one.notification_id, request.idempotency_key)
        if other != request.idempotency_key:
            bad.add("two keys have one notification", f"{one.notification_id}")


def _check_campaigns(records: Records, bad: _Violations) -> None:
    """6: everybody once."""
    told: dict[str, Counter[str]] = defaultdict(Counter)
    for note in records.notes.values():
        if note["request_id"] in records.requests:
            told[note["request_id"]][note["user_id"]] += 1
    for request_id, row in records.requests.items():
        if row["state"] != "done":
            bad.add("a request is not done", f"{request_id} is {row['state']}")
        if json.loads(row["body"]).get("group") != "*":
            continue
        counts = told[request_id]
        missing = records.people - counts.keys()
        twice = [user_id for user_id, count in counts.items() if count > 1]
        if missing:
            bad.add("a campaign misses users", f"{len(missing)}, such as {next(iter(missing))}")
        if twice:
            bad.add("a campaign tells users twice", f"{len(twice)}, such as {twice[0]}")


def _check_contents(records: Records, asked: Sequence[Asked], bad: _Violations) -> None:
    """2: by what the client itself has sent, not by the service's own keys."""
    same: dict[tuple[object, ...], set[int]] = defaultdict(set)
    for one in asked:
        request = one.request
        if request.user_id and one.notification_id in records.notes:
            said = (request.title, request.text, request.url, request.template, repr(request.data))
            same[request.user_id, request.type, request.subject, *said].add(one.notification_id)
    for (_, type_name, *_rest), ids in same.items():
        window_ms = 1000 * int(records.rule(str(type_name)).get("dedup_s", 86_400))
        kept = sorted(
            (max(records.notes[number]["created_at_ms"], records.notes[number]["due_at_ms"]), number)
            for number in ids
            if records.notes[number]["state"] != "dropped"
        )
        for (before_ms, first), (at_ms, second) in pairwise(kept):
            if at_ms - before_ms < window_ms:
                bad.add("the same content twice", f"{first} and {second}")


def is_quiet(wish: Mapping[str, Any], zone: str, at_ms: int) -> bool:
    """Tell whether the user's clock shows a time within the quiet hours."""
    quiet = wish.get("quiet_hours")
    if not quiet or quiet["start"] == quiet["end"]:
        return False
    at = datetime.fromtimestamp(at_ms / 1000, UTC).astimezone(ZoneInfo(zone or "UTC"))
    clock = at.strftime("%H:%M")
    days = quiet.get("weekdays") or range(7)
    start, end = quiet["start"], quiet["end"]
    if start < end:
        return bool(start <= clock < end and at.weekday() in days)
    yesterday = (at - timedelta(days=1)).weekday()
    return bool((clock >= start and at.weekday() in days) or (clock < end and yesterday in days))


def _wants(wish: Mapping[str, Any], type_name: str, channel: str) -> bool:
    own = wish.get("types", {}).get(type_name, {})
    choice = {**wish.get("channels", {}), **own.get("channels", {})}
    if (own.get("frequency") or wish.get("frequency", "immediate")) == "off":
        return channel == "inapp" and bool(choice.get("inapp"))
    return bool(choice.get(channel, True))


def _check_wishes(records: Records, bad: _Violations) -> None:
    """3: what was sent, and what the user says to it."""
    cap = int(records.rules.get("cap_per_hour", 10))
    zone = records.rules.get("default_time_zone", "UTC")
    counted: dict[str, list[int]] = defaultdict(list)
    for number, note in records.notes.items():
        user_id, type_name = note["user_id"], note["type"]
        rule, wish = records.rule(type_name), records.wishes.get(user_id, {})
        is_security = rule.get("is_security", False)
        for said in records.ledger[number]:
            channels = [
                decision[2]
                for decision in said.decisions
                if decision[0] == "enqueue" and decision[1] in ("pass", "sent")
            ]
            if not channels:
                continue
            purpose = rule.get("purpose")
            if purpose:
                ends_at_ms = records.consents.get((user_id, purpose))
                if ends_at_ms is None or 0 < ends_at_ms <= said.at_ms:
                    bad.add("sent without consent", f"{number} to {user_id}")
            if is_security:
                continue
            for channel in channels:
                if not _wants(wish, type_name, channel):
                    bad.add("sent against a preference", f"{number} by {channel}")
            if set(channels) <= {"inapp"}:
                continue
            if is_quiet(wish, records.zones.get(user_id) or zone, said.at_ms):
                bad.add("sent in quiet hours", f"{number} at {said.at_ms}")
            if rule.get("is_capped", True):
                counted[user_id].append(said.at_ms)
    if cap:
        for user_id, times in counted.items():
            times.sort()
            for first, last in zip(times, times[cap:], strict=False):
                if last - first < HOUR_MS:
                    bad.add("sent over the cap", f"{user_id} at {last}")


def _check_ledgers(records: Records, bad: _Violations) -> None:
    """4 and 7."""
    attempts: Counter[int] = Counter()
    for (number, _), row in records.deliveries.items():
        attempts[number] += row["attempt"]
        if row["is_open"] or row["state"] in ("queued", "sending"):
            bad.add("a delivery is left under way", f"{number}: {row['state']}")
    for number, note in records.notes.items():
        ledger = records.ledger[number]
        first = "opened_digest" if note["type"] == _DIGEST else "decided"
        if not ledger or ledger[0].kind != first or not ledger[0].decisions:
            bad.add("a notification has no decision", f"{number}")
            continue
        under_way = begun = 0
        for said in ledger:
            begun_here = sum(decision[0] == "attempt" for decision in said.decisions)
            begun += begun_here
            under_way += begun_here
            if any(decision[0] == "result" and decision[1] != "skipped" for decision in said.decisions):
                under_way -= 1  # a row has one, and beside it what comes next
                if under_way < 0:
                    bad.add("a result without an attempt", f"{number}")
        if under_way > 0:
            bad.add("an attempt without a result", f"{number}")
        if begun != attempts[number]:
            bad.add("attempts are not all explained", f"{number}: {begun} of {attempts[number]}")
        state = note["state"]
        wanted = _WHY.get(state)
        outcomes = [decision[1] for said in ledger for decision in said.decisions]
        if wanted is not None and wanted not in outcomes:
            bad.add("a decision is not explained", f"{number} is {state}")
        if state == "merged" and note["into_id"] not in records.notes:
            bad.add("a merged one leads nowhere", f"{number}")
        if state == "open":
            bad.add("a notification is left under way", f"{number}")


def _check_arrivals(
    records: Records, taken: Mapping[str, Sequence[Taken]], bad: _Violations
) -> tuple[dict[int, int], int]:
    """5. Returns when each notification was first taken, and how many came twice."""
    sent: dict[tuple[str, str], list[tuple[int, int]]] = defaultdict(list)  # channel, address -> deliveries
    for key, row in sorted(records.deliveries.items()):
        address = records.devices.get((row["user_id"], row["device_key"]), "")
        if row["attempt"]:
            sent[row["channel"], address].append(key)
    came: Counter[tuple[int, int]] = Counter()
    first_ms: dict[int, int] = {}
    for channel, all_of_it in taken.items():
        at_address: Counter[str] = Counter()
        for one in all_of_it:
            named = _key_of(one.identity)
            if named is not None:
                key = named
            else:  # this provider's messages have no name: the n-th to an address is the n-th sent
                to_it = sent[channel, one.address]
                place = at_address[one.address]
                at_address[one.address] += 1
                if place >= len(to_it):
                    bad.add("a provider has what was not sent", f"{channel} {one.address}")
                    continue
                key = to_it[place]
            row = records.deliveries.get(key)
            if row is None or not row["attempt"] or row["channel"] != channel:
                bad.add("a provider has what was not sent", f"{channel} {one.identity}")
                continue
            came[key] += 1
            first_ms[key[0]] = min(first_ms.get(key[0], one.at_ms), one.at_ms)
    doubles = 0
    for key, row in records.deliveries.items():
        if row["state"] == "accepted" and not came[key] and row["channel"] in taken:
            bad.add("accepted, but no provider has it", f"{key[0]}-{key[1]}")
        if came[key] > row["attempt"]:
            bad.add("taken more often than attempted", f"{key[0]}-{key[1]}")
        more = max(0, came[key] - 1)
        doubles += more
        if more > row["doubles"]:
            bad.add("a double is not counted", f"{key[0]}-{key[1]}: {more}, not {row['doubles']}")
    return first_ms, doubles


def _key_of(identity: str) -> tuple[int, int] | None:
    """Read a delivery's name, which is its notification's id in hex and its number."""
    head, dash, tail = identity.rpartition("-")
    try:
        return (int(head, 16), int(tail)) if dash else None
    except ValueError:
        return None
