"""Turn error answers and close codes into exceptions that a user of the SDK can act on."""

from typing import Final

from protocol.errors import (
    CLOSE_MEANINGS,
    CODES,
    PROTOCOL_CODES,
    UNAVAILABLE_CODES,
    CloseCode,
    HubbubError,
    ProtocolError,
    Refused,
    Unavailable,
    may_reconnect,
)
from protocol.replies import Error

# The same command, sent again with the same client_id, may succeed: the SDK does that by itself.
RETRIED_CODES: Final = frozenset(
    {
        "busy",
        "overloaded",
        "rate_limited",
        "outcome_unknown",
        "restarted",
        "storage_unavailable",
        "draining",
        "timeout",
        "moved",
        "too_many_connections",
    }
)

# Answers to hello, or errors without an id, after which connecting again cannot help.
FATAL_CODES: Final = frozenset(
    {"unauthenticated", "forbidden", "origin_refused", "bad_frame", "frame_too_large", "hello_expected"}
)

_CODE_OF_CLOSE: Final[dict[int, str]] = {
    CloseCode.BAD_FRAME: "bad_frame",
    CloseCode.FRAME_TOO_LARGE: "frame_too_large",
    CloseCode.UNAUTHENTICATED: "unauthenticated",
    CloseCode.HELLO_EXPECTED: "hello_expected",
    CloseCode.SESSION_REVOKED: "unauthenticated",
    CloseCode.ORIGIN_REFUSED: "origin_refused",
    CloseCode.REPLACED: "forbidden",
}


class ConnectionLost(Exception):
    """The connection is gone. `close_code` is the peer's, or 0 where it gave none (a cut line)."""

    def __init__(self, reason: str, close_code: int = 0) -> None:
        super().__init__(reason)
        self.reason = reason
        self.close_code = close_code


class UntrustedServer(ConnectionLost):
    """The server's certificate cannot be verified, so nothing was said to it."""


class ConnectionEnded(Refused):
    """The server closed the connection for good; connecting again would not help. See `close_code`."""

    def __init__(self, close_code: int, reason: str = "") -> None:
        meaning = CLOSE_MEANINGS.get(CloseCode(close_code), "") if close_code in _CODE_OF_CLOSE else ""
        message = f"The server ended the connection ({close_code}): {meaning or reason or 'no reason given'}"
        super().__init__(_CODE_OF_CLOSE.get(close_code, "forbidden"), message)
        self.close_code = close_code


class ClientClosed(HubbubError):
    """The client was closed (its `async with` block ended) while something still waited on it."""

    def __init__(self) -> None:
        super().__init__("draining", "The client is closed.")


def error_from_reply(error: Error) -> HubbubError:
    """Sort an error answer by who must act: ProtocolError, Refused or Unavailable."""
    if error.code in PROTOCOL_CODES:
        return ProtocolError(error.code, error.message)
    if error.code in UNAVAILABLE_CODES or error.retry_after_s is not None:
        return Unavailable(error.code, error.message, retry_after_s=error.retry_after_s or 1.0)
    return Refused(error.code, error.message)


def is_retried(error: Error) -> bool:
    """Tell whether the SDK sends the same command again after this answer.

    A code of a newer server counts as "later" where it comes with a time.
    """
    return error.code in RETRIED_CODES or (error.code not in CODES and error.retry_after_s is not None)


def fatal_close(lost: ConnectionLost, last_error: Error | None) -> HubbubError | None:
    """Return what ends the client for good, or None where it should connect again.

    Where no close code came (a proxy cut the line) the last error without an id says why, if there was one.
    """
    if lost.close_code:
        return None if may_reconnect(lost.close_code) else ConnectionEnded(lost.close_code, lost.reason)
    if last_error is not None and last_error.code in FATAL_CODES:
        return error_from_reply(last_error)
    return None
