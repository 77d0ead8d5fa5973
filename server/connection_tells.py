"""What the actors of users are told of connections and log-outs, again until they have heard it.

A user's actor may be on another node, or on its way from one to another. What it could not be told waits
here, the newest of each connection, and is repeated by the service once a second.
"""

from collections.abc import Callable, Collection
from typing import Final

import msgspec

from actors.address import Address
from actors.messages import Closed, LoggedOut, Opened, Place, Told, encode_tell
from actors.reply import OnFailure
from actors.router import Router
from protocol.errors import HubbubError, Unavailable

_MAX_UNTOLD: Final = 50_000  # more connections than one node holds


class ConnectionTells:
    """Tell users' actors who is connected here, and what has ended."""

    def __init__(
        self,
        *,
        router: Router,
        is_attached: Callable[[int], bool],
        node_id: str,
        boot: Callable[[], int],
        now_ms: Callable[[], int],
    ) -> None:
        """`is_attached(conn_id)`: whether it is still open. `boot`: which life of this node it is."""
        self._router = router
        self._is_attached = is_attached
        self._node_id = node_id
        self._boot = boot
        self._now_ms = now_ms
        self._opened: dict[int, tuple[str, Opened]] = {}  # conn_id -> whose, and what was told of it
        # For user actors that could not be reached; the newest of each connection or log-in.
        self._untold: dict[tuple[str, Place | str | None], Opened | Closed | Told] = {}

    def opened(self, conn_id: int, user_id: str, device_id: str) -> None:
        """Tell of a connection that has just been attached."""
        opened = Opened(Place(self._node_id, self._boot(), conn_id), device_id, self._now_ms())
        self._opened[conn_id] = (user_id, opened)
        self._tell_user(user_id, opened)

    def closed(self, conn_id: int) -> None:
        """Tell that a connection has ended, if it was told of."""
        user_id, opened = self._opened.pop(conn_id, ("", None))
        if opened is not None:
            self._tell_user(user_id, Closed(opened.place, self._now_ms()))

    def lost(self, user_id: str, at_ms: int) -> None:
        """Tell that the last connection of a user was on a node that was lost then."""
        self._tell_user(user_id, Closed(None, at_ms))

    def logged_out(self, user_id: str, session_id: str) -> None:
        """Tell that a log-in has ended, so that the user's other devices hear of it."""
        told = Told(f"logout:{session_id}", encode_tell(LoggedOut(session_id)))
        self._tell_surely(user_id, session_id, told)

    def shards_moved(self, shards: Collection[int]) -> None:
        """Other actors serve these users from now on: tell them who is connected here."""
        for user_id, opened in list(self._opened.values()):
            if Address("user", user_id).shard in shards:
                self._tell_user(user_id, msgspec.structs.replace(opened, is_repeated=True))

    def retry(self) -> None:
        """Tell again what did not arrive, but for connections that have ended since."""
        waiting, self._untold = self._untold, {}
        for (user_id, about), message in waiting.items():
            if not isinstance(message, Opened) or self._is_attached(message.place.conn_id):
                self._tell_surely(user_id, about, message)

    def not_told(self, user_id: str, about: Place | str | None, message: Opened | Closed | Told) -> None:
        """A message did not reach the user's actor, or may not have: it is told again."""
        if isinstance(message, Opened):
            message = msgspec.structs.replace(message, is_repeated=True)
        if len(self._untold) < _MAX_UNTOLD:
            self._untold.setdefault((user_id, about), message)  # unless there is newer news

    def _tell_user(self, user_id: str, message: Opened | Closed) -> None:
        """Tell the user's actor of a connection."""
        self._tell_surely(user_id, message.place, message)

    def _tell_surely(self, user_id: str, about: Place | str | None, message: Opened | Closed | Told) -> None:
        """Tell the user's actor, on whatever node, again if it cannot be reached now or does not answer."""
        self._untold.pop((user_id, about), None)

        def failed(error: HubbubError) -> None:
            if isinstance(error, Unavailable) and error.code != "crashed":
                self.not_told(user_id, about, message)

        self._router.ask_nowait(Address("user", user_id), message, OnFailure(failed))
