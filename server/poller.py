"""One epoll for the sockets of all open sessions: a message costs no task switch on its way in or out.

With Trio each waiting read is a task of its own, and each switch costs about 10 µs: a third of what a node
at work would spend. Here one task waits for the epoll descriptor, which is itself a file that Trio can wait
for, and calls the `SocketPump` of each socket that is ready. What has gathered in outboxes is written at the
end of the turn that brought it (see `actors.rounds`), and by a second task where that was too much for one.

Only for plain sockets, and where the system has epoll; elsewhere, and for TLS, a session has a reader and a
writer task (see `session`).
"""

import select
from typing import Final, Protocol

import trio

from actors.rounds import Rounds, Turn

IS_AVAILABLE: Final = hasattr(select, "epoll")
_READ: Final = 1  # select.EPOLLIN; named where it does not exist as well
_WRITE: Final = 4  # select.EPOLLOUT
# Sockets of one round. Most bring one command, some 50 µs with what an actor does at once; a burst of 32 from
# each would keep timers and leases waiting for some 50 ms.
_AT_ONCE: Final = 32


class Ready(Protocol):
    """What the poller calls; it must not raise."""

    def readable(self) -> None:
        """Read once; more will be told again."""
        ...

    def writable(self) -> None:
        """Go on with what could not be written."""
        ...

    def due(self) -> None:
        """Do what was asked for by `soon`."""
        ...


class Poller:
    """Watch sockets. Everything but `run` is synchronous and runs in the Trio thread.

    Level-triggered: who does not read all is called again. After `forget` a socket is not called any more,
    not even for what this round has found already.
    """

    def __init__(self, turn: Turn) -> None:
        """`turn`: the node's; at its end what has gathered is written."""
        self._turn = turn
        self._epoll = select.epoll()
        self._watched: dict[int, Ready] = {}
        self._due: Rounds[Ready] = Rounds(_do, turn)

    def watch(self, fd: int, ready: Ready, *, reads: bool) -> None:
        """Begin to watch a socket, for reading or, at first, for nothing."""
        self._epoll.register(fd, _READ if reads else 0)
        self._watched[fd] = ready

    def change(self, fd: int, *, reads: bool, writes: bool) -> None:
        """Watch for these from now on."""
        if fd in self._watched:
            self._epoll.modify(fd, (_READ if reads else 0) | (_WRITE if writes else 0))

    def forget(self, fd: int) -> None:
        """Watch no more. Call before the socket is closed, whose number may be another's soon."""
        if self._watched.pop(fd, None) is not None:
            self._epoll.unregister(fd)

    def soon(self, ready: Ready) -> None:
        """Call `due` at the end of the turn that is open, or else in the second task's next round."""
        self._due.add(ready)

    async def run(self) -> None:
        """Serve until cancelled."""
        try:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(self._poll)
                await self._due.run()
        finally:
            self._turn.rounds.remove(self._due)
            self._watched.clear()  # sessions may end after us
            self._epoll.close()

    async def _poll(self) -> None:
        epoll, watched, turn = self._epoll, self._watched, self._turn
        while True:  # until cancelled
            await trio.lowlevel.wait_readable(epoll)
            with turn:
                for fd, events in epoll.poll(0, _AT_ONCE):
                    ready = watched.get(fd)
                    if ready is not None:
                        if events & _WRITE:
                            ready.writable()
                        if events & ~_WRITE and watched.get(fd) is ready:  # broken ones are read, too
                            ready.readable()


def _do(ready: Ready) -> None:
    ready.due()
