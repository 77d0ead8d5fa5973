"""Whether what was sent is what the user wanted: a part of bench/notify_check.py, with rules of its own."""

from collections import defaultdict
from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from typing import Any, Final
from zoneinfo import ZoneInfo

from bench.notify_books import Records, Violations

HOUR_MS: Final = 3_600_000
SLACK_MS: Final = 3_000  # between the last look and the attempt that is stored


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


def check_wishes(records: Records, bad: Violations) -> None:
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


def check_attempts(records: Records, bad: Violations) -> None:
    """3: what has waited between its decision and an attempt."""
    zone = records.rules.get("default_time_zone", "UTC")
    for number, note in records.notes.items():
        if records.rule(note["type"]).get("is_security", False):
            continue
        wish = records.wishes.get(note["user_id"], {})
        of_user = records.zones.get(note["user_id"]) or zone
        for said in records.ledger[number]:
            if not any(decision[0] == "attempt" for decision in said.decisions):
                continue
            asked_ms = said.at_ms - SLACK_MS
            if is_quiet(wish, of_user, said.at_ms) and is_quiet(wish, of_user, asked_ms):
                bad.add("an attempt in quiet hours", f"{number} at {said.at_ms}")
            if 0 < note["seen_at_ms"] < asked_ms:
                bad.add("an attempt of what was seen", f"{number} at {said.at_ms}")
