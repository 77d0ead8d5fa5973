"""Look names up, each kind in threads of its own: a look-up cannot be stopped, and holds its thread.

Whoever registers a push endpoint chooses a name, and a name server that never answers holds a thread for as
long as the resolver waits. So the names of users have other threads than those of apps and operators, and
names that have been found before have other ones than those that have not: a new name, however slow, holds up
new names alone.
"""

import socket
from collections import OrderedDict
from collections.abc import Iterable
from typing import Final, Literal

import trio
from trio.lowlevel import RunVar

NamedBy = Literal["user", "app"]
"""Who chose a host: a user by an address, or an app or the operator by settings."""

THREADS: Final = 8  # of each kind
MAX_FOUND: Final = 4_096  # names that are known to be found; the one that was not asked for longest gives way

getaddrinfo = socket.getaddrinfo  # tests have a name server of their own


class Lookups:
    """The look-ups of this process."""

    def __init__(self) -> None:
        self._limiters = {
            (named_by, is_found): trio.CapacityLimiter(THREADS)
            for named_by in ("user", "app")
            for is_found in (True, False)
        }
        self._found: OrderedDict[tuple[str, str], None] = OrderedDict()

    async def addresses_of(self, host: str, port: int, named_by: NamedBy) -> list[str]:
        """The addresses of a host, in the resolver's order. Raises: OSError, UnicodeError.

        One that is cancelled leaves its thread behind, or its place in the row.
        """
        try:
            numeric = socket.AI_NUMERICHOST | socket.AI_NUMERICSERV
            return _addresses(socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=numeric))
        except socket.gaierror:
            pass
        key = (named_by, host)
        limiter = self._limiters[named_by, key in self._found]

        def ask() -> list[str]:
            return _addresses(getaddrinfo(host, port, type=socket.SOCK_STREAM))

        try:
            found = await trio.to_thread.run_sync(ask, abandon_on_cancel=True, limiter=limiter)
        except BaseException:
            self._found.pop(key, None)  # slow or gone: it has to show again that it is there
            raise
        self._found[key] = None
        self._found.move_to_end(key)
        if len(self._found) > MAX_FOUND:
            self._found.popitem(last=False)
        return found


_lookups: Final[RunVar[Lookups]] = RunVar("lookups")


async def addresses_of(host: str, port: int, named_by: NamedBy) -> list[str]:
    """As Lookups.addresses_of, of this run of Trio."""
    try:
        lookups = _lookups.get()
    except LookupError:
        lookups = Lookups()
        _lookups.set(lookups)
    return await lookups.addresses_of(host, port, named_by)


def _addresses(found: Iterable[tuple[object, object, object, object, tuple[object, ...]]]) -> list[str]:
    return list(dict.fromkeys(str(sockaddr[0]) for *_, sockaddr in found))
