"""When a request wants its notification to be sent: an instant, or a time on each user's own clock."""

from datetime import datetime

from actors.notify.local_time import instant_of
from protocol.errors import ProtocolError


def send_at_ms(text: str, zone: str) -> int:
    """Unix ms of an RFC 3339 time; without an offset, it is what the clock in `zone` shows.

    Raises: ProtocolError(bad_field).
    """
    try:
        at = datetime.fromisoformat(text)
    except ValueError:
        raise ProtocolError(
            "bad_field",
            f"send_at must be such as 2026-11-27T09:00 or 2026-11-27T09:00:00+01:00, not {text!r}.",
        ) from None
    if at.tzinfo is None:
        return instant_of(text, zone)
    return max(0, round(at.timestamp() * 1000))
