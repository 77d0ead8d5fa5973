"""Who holds the connections of the push providers, and hands out those that are shared.

Apps come and go with their settings; connections and signers belong to credentials and hosts. What two apps
may share is told by the key: always with a digest of the secret in it, so that nobody who only knows another
one's team and key id sends with that one's signature.
"""

import hashlib
from collections import OrderedDict
from collections.abc import AsyncIterator, Callable, Hashable
from contextlib import asynccontextmanager
from functools import lru_cache, partial
from ssl import SSLContext
from typing import Final, Protocol, TypeVar, cast

import trio

from server.providers.connection_pool import ConnectionPool
from server.providers.dialing import Alpn, Origin, dial, tls_context
from server.providers.exchange import NotProcessed
from server.providers.limits import DEFAULT_LIMITS, Limits
from server.providers.lookup import NamedBy
from server.providers.reach import PUBLIC, Reach

# Push hosts at the same time. There are a handful in the world; the rest is other people's registrations.
MAX_HOSTS: Final = 500
H2_ONLY: Final[tuple[Alpn, ...]] = ("h2",)
H2_OR_HTTP1: Final[tuple[Alpn, ...]] = ("h2", "http/1.1")


class Closable(Protocol):
    """What can be shared: it ends when the last one who uses it releases it."""

    def close(self) -> None: ...


Shared = TypeVar("Shared", bound=Closable)


def digest(secret: str) -> str:
    """Name a secret without telling it. White space at line ends does not matter, as in PEM."""
    return hashlib.sha256("\n".join(secret.split()).encode()).hexdigest()


class PushPools:
    """All connections of this process's push providers. Made by `open_push_pools`.

    `reach`: where apps may send us; whom clients name is reached in public alone, unless the app says else.
    """

    def __init__(self, nursery: trio.Nursery, limits: Limits, reach: Reach) -> None:
        self.nursery = nursery
        self.limits = limits
        self.reach = reach
        self._shared: dict[Hashable, tuple[Closable, int]] = {}
        self._hosts: OrderedDict[Hashable, ConnectionPool] = OrderedDict()  # the last used one last
        self._contexts: Callable[[str, tuple[Alpn, ...]], SSLContext] = lru_cache(64)(tls_context)

    def acquire(self, key: Hashable, make: Callable[[], Shared]) -> Shared:
        """Hand out the one thing of this key; made if nobody has it. Each is followed by a `release`."""
        value, count = self._shared.get(key) or (make(), 0)
        self._shared[key] = (value, count + 1)
        return cast("Shared", value)

    def release(self, key: Hashable) -> None:
        """Say that one user less needs it; the last one closes it."""
        value, count = self._shared[key]
        if count > 1:
            self._shared[key] = (value, count - 1)
        else:
            del self._shared[key]
            value.close()

    def pool(
        self,
        origin: Origin,
        *,
        ca_pem: str = "",
        alpn: tuple[Alpn, ...] = H2_OR_HTTP1,
        public_only: bool = False,
        named_by: NamedBy = "app",
    ) -> ConnectionPool:
        """Make a pool of its own; whoever asks closes it. Raises: ssl.SSLError for a CA that is none."""
        context = self._contexts(ca_pem, alpn)
        reach = PUBLIC if public_only else self.reach
        connect = partial(dial, origin, context, reach=reach, named_by=named_by)
        return ConnectionPool(origin, connect, self.nursery, self.limits)

    def host(
        self,
        origin: Origin,
        *,
        ca_pem: str = "",
        alpn: tuple[Alpn, ...] = H2_OR_HTTP1,
        public_only: bool = False,
        named_by: NamedBy = "app",
    ) -> ConnectionPool:
        """Hand out the pool of a push host, shared by all apps that trust it alike.

        Where there are many, the one that was used last longest ago and has nothing to do is closed; its
        request has to be made at once, before anybody else asks.

        Raises: NotProcessed where all are busy: a channel has fewer hands than there may be hosts.
        """
        key = (origin, ca_pem, alpn, public_only)
        found = self._hosts.get(key)
        if found is not None:
            self._hosts.move_to_end(key)
            return found
        if len(self._hosts) >= MAX_HOSTS:
            unused = next((old for old, pool in self._hosts.items() if not pool.is_used), None)
            if unused is None:
                raise NotProcessed("too_many_hosts", retry_after_s=self.limits.max_backoff_s)
            self._hosts.pop(unused).close()
        made = self.pool(origin, ca_pem=ca_pem, alpn=alpn, public_only=public_only, named_by=named_by)
        self._hosts[key] = made
        return made

    def close(self) -> None:
        """Close all connections at once. What is in flight becomes unknown."""
        for pool in self._hosts.values():
            pool.close()
        for value, _ in self._shared.values():
            value.close()


@asynccontextmanager
async def open_push_pools(limits: Limits = DEFAULT_LIMITS, reach: Reach = PUBLIC) -> AsyncIterator[PushPools]:
    """Hold connections for as long as the block runs; leaving it closes them all."""
    async with trio.open_nursery() as nursery:
        pools = PushPools(nursery, limits, reach)
        try:
            yield pools
        finally:
            pools.close()
            nursery.cancel_scope.cancel()
