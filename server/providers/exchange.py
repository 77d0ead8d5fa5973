"""One HTTP exchange with a provider: what is asked, what came back, and the two ways in which it fails.

Both kinds of connection (`h2_connection`, `http1_connection`) and the pool speak in these words. What matters
most is kept apart everywhere: `NotProcessed` (surely not done, so it may be sent again) and `OutcomeUnknown`
(it left, and nobody knows).
"""

import email.utils
from typing import Literal

import msgspec

from actors.notify.delivery import Outcome

Header = tuple[bytes, bytes]
"""Name in lower case, and value; without line breaks."""


class Request(msgspec.Struct, frozen=True):
    """A POST. `static`: headers that many requests share; the same tuple again costs next to nothing."""

    path: bytes
    static: tuple[Header, ...] = ()
    headers: tuple[Header, ...] = ()
    body: bytes = b""


class Response(msgspec.Struct, frozen=True):
    """An answer. Header names are in lower case; of a repeated one the last counts. The body may be cut.

    `opened_at`: the trio time since when its connection is open, so that the pool can leave that one.
    """

    status: int
    headers: dict[str, str] = {}
    body: bytes = b""
    opened_at: float = 0.0


class RequestFailed(Exception):
    """No answer. `code` is a constant for the ledger, `detail` is for people."""

    def __init__(self, code: str, detail: str = "", retry_after_s: float | None = None) -> None:
        super().__init__(f"{code}: {detail}" if detail else code)
        self.code = code
        self.detail = detail
        self.retry_after_s = retry_after_s


class NotProcessed(RequestFailed):
    """The peer surely has not acted on it: not sent in full, or refused by the protocol (RFC 9113, 8.7).

    Codes: address_refused, connect_failed, backing_off, connection_lost, goaway, refused_stream, no_room,
    queue_full, pool_closed, bad_request.
    """


class OutcomeUnknown(RequestFailed):
    """It has left, and no answer came.

    Codes: timeout, connection_lost, stalled, stream_reset, protocol_error, pool_closed.
    """


# The cause is gone with the connection: at once another one may be tried.
_MENDED = frozenset({"goaway", "connection_lost"})
# Nothing will change by trying again.
_HOPELESS = frozenset({"address_refused", "bad_request"})


def outcome_of_failure(failure: RequestFailed, scope: Literal["provider", "host"] = "provider") -> Outcome:
    """Judge a request that got no answer. `scope`: whom that concerns, a provider or one push host."""
    if isinstance(failure, OutcomeUnknown):
        return Outcome(
            kind="unknown", action="resolve_unknown", code=failure.code, detail=failure.detail, scope=scope
        )
    if failure.code == "address_refused" and scope == "provider":  # kept until the settings are mended
        return Outcome(
            kind="refused", action="break", code=failure.code, detail=failure.detail, scope="credential"
        )
    if failure.code in _HOPELESS:
        return Outcome(kind="refused", action="dead_letter", code=failure.code, detail=failure.detail)
    return Outcome(
        kind="refused",
        action="retry_now" if failure.code in _MENDED else "retry",
        code=failure.code,
        detail=failure.detail,
        retry_after_s=failure.retry_after_s,
        scope=scope,
    )


# What a provider may ask for at most; more is a mistake or malice, as endpoints of Web Push are anybody's.
MAX_RETRY_AFTER_S = 86_400.0


def retry_after_s(value: str | None, now_ms: int) -> float | None:
    """Read a Retry-After header (RFC 9110, 10.2.3): seconds or a date. None where there is no use in it."""
    if not value:
        return None
    text = value.strip()
    if text.isascii() and text.isdigit():
        return min(float(text[:12]), MAX_RETRY_AFTER_S)
    try:
        at = email.utils.parsedate_to_datetime(text)
    except (ValueError, OverflowError):
        return None
    return min(max(0.0, at.timestamp() - now_ms / 1_000), MAX_RETRY_AFTER_S)
