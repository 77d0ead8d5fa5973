"""A TCP proxy before one port of a node, which can lose what comes from some of the others.

For machines without network namespaces: nodes then reach each other through these. Who dials is told by the
process that holds the other end of the connection (Linux's /proc), as all dial from one address.

A cut connection stays open, and nothing passes: as on a broken network, where nobody is told.
"""

import os
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import trio

PidOf = Callable[[str], int | None]  # a node's name -> its process, if it runs


class Proxy:
    """Forward one port. All methods are for the Trio thread."""

    def __init__(self, port: int, target_port: int, names: list[str], pid_of: PidOf) -> None:
        self.port = port
        self.forwarded_bytes = 0
        self._target_port = target_port
        self._names = names
        self._pid_of = pid_of
        self._cut_from: set[str] = set()
        self._healed = trio.Event()

    def cut(self, source: str) -> None:
        """Lose what this node sends here, and let it wait for answers."""
        self._cut_from.add(source)

    def heal(self) -> None:
        """Let everything pass again; connections that were cut end, as after a long silence."""
        self._cut_from.clear()
        healed, self._healed = self._healed, trio.Event()
        healed.set()

    async def run(
        self, *, task_status: trio.TaskStatus[list[trio.SocketListener]] = trio.TASK_STATUS_IGNORED
    ) -> None:
        """Serve until cancelled."""
        await trio.serve_tcp(self._serve, self.port, host="127.0.0.1", task_status=task_status)

    async def _serve(self, client: trio.SocketStream) -> None:
        source = self._source(client)
        if source in self._cut_from:
            await self._healed.wait()  # it holds a connection that leads nowhere
            return
        try:
            server = await trio.open_tcp_stream("127.0.0.1", self._target_port)
        except OSError:
            return  # the node is down: its port refuses, as without us
        async with server, trio.open_nursery() as nursery:
            nursery.start_soon(self._pump, client, server, source, nursery.cancel_scope)
            nursery.start_soon(self._pump, server, client, source, nursery.cancel_scope)

    async def _pump(
        self, source: trio.SocketStream, target: trio.SocketStream, name: str, scope: trio.CancelScope
    ) -> None:
        with suppress(trio.BrokenResourceError, trio.ClosedResourceError):
            while data := await source.receive_some(65536):
                if name in self._cut_from:
                    await self._healed.wait()
                    break
                self.forwarded_bytes += len(data)
                await target.send_all(data)
        scope.cancel()

    def _source(self, client: trio.SocketStream) -> str:
        """The node that dialled; empty where it is none of them."""
        inode = _inode_of(client.socket.getpeername()[1], self.port)
        for name in self._names:
            pid = self._pid_of(name)
            if inode and pid is not None and inode in _sockets_of(pid):
                return name
        return ""


def _inode_of(local_port: int, remote_port: int) -> str:
    """The socket with these ports, as /proc/net/tcp numbers it."""
    wanted = (f":{local_port:04X}", f":{remote_port:04X}")
    for line in Path("/proc/net/tcp").read_text().splitlines()[1:]:
        fields = line.split()
        if fields[1].endswith(wanted[0]) and fields[2].endswith(wanted[1]):
            return fields[9]
    return ""


def _sockets_of(pid: int) -> set[str]:
    """The numbers of a process's sockets; none where it is gone."""
    found: set[str] = set()
    with suppress(OSError):
        for name in os.listdir(f"/proc/{pid}/fd"):
            with suppress(OSError):  # closed meanwhile
                target = os.readlink(f"/proc/{pid}/fd/{name}")
                if target.startswith("socket:["):
                    found.add(target[8:-1])
    return found
