"""Apps whose setup cannot be read: why, and when it is tried again. Pure.

`now` is trio.current_time() seconds. Who needs such a setup is refused at once meanwhile: what takes the
store two seconds to fail at would else be asked for with every notification, and hold up other apps.
"""

from typing import Final

import msgspec

from protocol.errors import HubbubError

FIRST_RETRY_S: Final = 1.0
MAX_RETRY_S: Final = 60.0  # so long what was mended by hand may go unnoticed
UNREADABLE: Final = "setup_unreadable"  # the code of what is the app's own; others are the store's


class Failure(msgspec.Struct, frozen=True):
    """What came of the last try, of `count` one after the other."""

    error: HubbubError
    count: int
    retry_at_s: float


class SetupFailures:
    """What is known of setups that could not be read."""

    def __init__(self) -> None:
        self._failures: dict[str, Failure] = {}

    def failed(self, app_id: str, error: HubbubError, now: float) -> Failure:
        """Another try has failed. Returns what is known now."""
        known = self._failures.get(app_id)
        count = known.count + 1 if known is not None and error.code == UNREADABLE else 1
        delay_s = min(MAX_RETRY_S, FIRST_RETRY_S * 2.0 ** min(count - 1, 10))
        failure = self._failures[app_id] = Failure(error, count, now + delay_s)
        return failure

    def mended(self, app_id: str) -> None:
        """It was read."""
        self._failures.pop(app_id, None)

    def error_of(self, app_id: str, now: float) -> HubbubError | None:
        """Why who needs it is refused; None: it may be tried.

        What is the app's own is tried again by the node alone (`due`), so that nobody waits for it.
        """
        failure = self._failures.get(app_id)
        if failure is None or (failure.error.code != UNREADABLE and now >= failure.retry_at_s):
            return None
        return failure.error

    def apps(self) -> list[str]:
        """The apps whose last try has failed."""
        return list(self._failures)

    def due(self, now: float) -> list[str]:
        """The apps whose setup is to be tried again, the one that has waited longest first."""
        found = [
            (known.retry_at_s, app_id) for app_id, known in self._failures.items() if now >= known.retry_at_s
        ]
        return [app_id for _, app_id in sorted(found)]

    def unreadable(self) -> list[str]:
        """The apps whose own rows are to blame, as of the last try."""
        return [app_id for app_id, failure in self._failures.items() if failure.error.code == UNREADABLE]
