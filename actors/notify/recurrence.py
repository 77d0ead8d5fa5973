"""Recurring notifications: cron expressions of five fields, by the clock of a time zone.

cronsim reads the expression and finds the next match on an evenly running clock; what happens where the clock
is changed is decided here, as Debian's cron does it (man 8 cron):

- minute and hour both name times (`30 2 * * *`): what the clock leaps over comes at the first moment after,
  and what it shows twice comes the first time only.
- minute or hour begins with a star (`*/15 * * * *`, `0 */2 * * *`): the clock decides, minute by minute.
"""

from collections.abc import Iterator
from datetime import UTC, datetime

import msgspec
from cronsim import CronSim, CronSimError

from actors.notify.facts import Facts
from actors.notify.local_time import instant_s, known_zone, stretch
from protocol.errors import ProtocolError

MAX_CRON_CHARS = 100
_LAST_S = 253_338_000_000  # 9997: cronsim looks 50 years ahead by itself, and datetime ends with 9999


def check_cron(expression: str) -> None:
    """Check an expression by itself.

    Raises:
        ProtocolError: bad_field, with a sentence that says what is wrong.
    """
    count = len(expression.split())
    if len(expression) > MAX_CRON_CHARS:
        raise ProtocolError("bad_field", f"a cron expression has at most {MAX_CRON_CHARS} characters")
    if expression.lstrip().startswith("@"):
        raise ProtocolError("bad_field", f"write five fields, 0 0 * * *, instead of {expression}")
    if count == 6:
        raise ProtocolError(
            "bad_field", f"a cron expression has no seconds; once a minute is the most: {expression}"
        )
    if count != 5:
        raise ProtocolError(
            "bad_field",
            f"a cron expression has five fields (minute hour day month weekday), not {count}: {expression}",
        )
    if next(_matches(expression, 0), None) is None:
        raise ProtocolError("bad_field", f"no day ever matches this cron expression: {expression}")


def next_cron_ms(expression: str, zone: str, after_ms: int) -> int:
    """The first instant (Unix ms, a full minute) after `after_ms` at which the expression is due; 0: never.

    An unknown zone is UTC.

    Raises:
        ProtocolError: bad_field, as by `check_cron`, which is to be asked first.
    """
    zone = known_zone(zone)
    fields = expression.split()
    if len(fields) != 5:
        check_cron(expression)
    at_s = after_ms // 1_000
    if at_s > _LAST_S:
        return 0
    if fields[0].startswith("*") or fields[1].startswith("*"):
        return _next_shown_s(expression, zone, at_s) * 1_000
    return _next_named_s(expression, zone, at_s) * 1_000


def occurrence(template: Facts, notification_id: int, at_ms: int) -> Facts:
    """One notification of a recurring one. Made twice it is a duplicate; the next one is none.

    A template's `expires_at_ms` counts from its `created_at_ms`.
    """
    lasts_ms = template.expires_at_ms - template.created_at_ms if template.expires_at_ms else 0
    return msgspec.structs.replace(
        template,
        notification_id=notification_id,
        created_at_ms=at_ms,
        send_at_ms=0,
        expires_at_ms=at_ms + lasts_ms if lasts_ms else 0,
        content_hash=f"{template.content_hash}@{at_ms}",
    )


def _next_shown_s(expression: str, zone: str, at_s: int) -> int:
    """The next minute that the clock shows; each even stretch of the clock is searched by itself."""
    at_s += 1
    while True:  # ends with a match, or where none comes within 50 years
        offset_s, end_s = stretch(zone, at_s)
        # cronsim looks for what comes after, in whole seconds; so it begins one before.
        match = next(_matches(expression, at_s + offset_s - 1), None)
        if match is None or match - offset_s < end_s:
            return match - offset_s if match is not None else 0
        at_s = end_s


def _next_named_s(expression: str, zone: str, at_s: int) -> int:
    """The next named time. What lies before the time shown now was shown, or leapt over, before now."""
    offset_s, _ = stretch(zone, at_s)
    for wall in _matches(expression, at_s + offset_s):
        due_s = instant_s(wall, zone)
        if due_s > at_s:
            return due_s
    return 0


def _matches(expression: str, after_wall_s: int) -> Iterator[int]:
    """Walk over the matches after a wall time, as wall seconds; ends where none comes within 50 years."""
    try:
        walk = CronSim(expression, datetime.fromtimestamp(after_wall_s, UTC).replace(tzinfo=None))
    except (CronSimError, ValueError, TypeError, AssertionError, IndexError) as exc:
        what = str(exc).lower() if isinstance(exc, CronSimError) else "it cannot be read"
        raise ProtocolError("bad_field", f"cron expression: {what}: {expression}") from exc
    for match in walk:
        yield int(match.replace(tzinfo=UTC).timestamp())
