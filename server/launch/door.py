"""The socket in the data directory through which commands ask the running launcher.

It is for the directory's owner alone (0600, in a folder of 0700). Who finds it closed knows that no launcher
runs; a file left by one that was killed is replaced by the next, which holds the launcher's lock by then.
"""

import contextlib
import os
import socket
import sys
from collections.abc import Awaitable, Callable, Generator, Iterator
from pathlib import Path
from typing import Final

import msgspec
import structlog
import trio

from server.launch.orders import Answer, Done, Order

SOCKET_NAME: Final = "launcher.sock"
_MAX_PATH_BYTES: Final = 100  # unix(7): 108 on Linux, 104 on macOS
_MAX_ORDER_BYTES: Final = 64 << 10
_ASK_WITHIN_S: Final = 10.0

log = structlog.get_logger(__name__)


class NobodyThere(Exception):
    """No launcher runs on that directory."""


class Asker:
    """The one who asked: told what comes about, and noticed when it leaves."""

    def __init__(self, stream: trio.SocketStream) -> None:
        self._stream = stream
        self.has_left = False

    async def tell(self, answer: Answer) -> None:
        """Send one line. One who has left is not an error: `has_left` is for who works for it."""
        try:
            with trio.fail_after(_ASK_WITHIN_S):
                await self._stream.send_all(msgspec.json.encode(answer) + b"\n")
        except (trio.BrokenResourceError, trio.ClosedResourceError, trio.TooSlowError):
            self.has_left = True

    async def watch(self) -> None:
        """Notice when it hangs up; whatever else it sends is not read."""
        try:
            while await self._stream.receive_some(4096):
                pass
        except (trio.BrokenResourceError, trio.ClosedResourceError):
            pass
        self.has_left = True


async def serve_door(
    directory: Path,
    carry_out: Callable[[Order, Asker], Awaitable[Done | None]],
    *,
    task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED,
) -> None:
    """Take orders until cancelled. `carry_out` answers through the asker; what it returns ends the answer."""

    async def meet(stream: trio.SocketStream) -> None:
        asker = Asker(stream)
        async with stream:
            order = await _receive(stream)
            if not isinstance(order, Done):
                async with trio.open_nursery() as nursery:
                    nursery.start_soon(asker.watch)
                    done = await carry_out(order, asker)
                    nursery.cancel_scope.cancel()
            else:
                done = order
            if done is not None:
                await asker.tell(done)

    with _short_path(directory) as path:
        listening = _listen(path)
    try:
        listener = trio.SocketListener(trio.socket.from_stdlib_socket(listening))
        task_status.started()
        await trio.serve_listeners(meet, [listener])
    finally:
        with contextlib.suppress(FileNotFoundError):
            (directory / SOCKET_NAME).unlink()


async def _receive(stream: trio.SocketStream) -> Order | Done:
    """Read the one line of an order; what is none is answered, not raised."""
    data = bytearray()
    with trio.move_on_after(_ASK_WITHIN_S):
        while b"\n" not in data and len(data) <= _MAX_ORDER_BYTES:
            try:
                chunk = await stream.receive_some(_MAX_ORDER_BYTES)
            except trio.BrokenResourceError:
                break
            if not chunk:
                break
            data += chunk
    try:
        order: Order = msgspec.json.decode(bytes(data.partition(b"\n")[0]), type=Order)
        return order
    except msgspec.DecodeError as exc:
        return Done(code=2, text=f"The launcher does not know this order: {exc}.")


def _listen(path: str) -> socket.socket:
    listening = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        with contextlib.suppress(FileNotFoundError):
            os.unlink(path)
        mask = os.umask(0o177)
        try:
            listening.bind(path)
        finally:
            os.umask(mask)
        listening.listen(16)
        listening.setblocking(False)
    except BaseException:
        listening.close()
        raise
    return listening


@contextlib.contextmanager
def _short_path(directory: Path) -> Iterator[str]:
    """Name the socket in the few bytes that a socket's address has. Raises: OSError where that cannot be."""
    path = str(directory / SOCKET_NAME)
    if len(os.fsencode(path)) <= _MAX_PATH_BYTES:
        yield path
        return
    if sys.platform != "linux":
        raise OSError(f"{directory} is too long a path for a socket in it; choose a shorter --data-dir.")
    folder = os.open(directory, os.O_PATH | os.O_CLOEXEC)
    try:
        yield f"/proc/self/fd/{folder}/{SOCKET_NAME}"
    finally:
        os.close(folder)


# -- the side of who asks ---------------------------------------------------------------------------


def ask(directory: Path, order: Order) -> Generator[Answer, None, None]:
    """Ask the launcher of `directory`; yields its answers as they come. Blocks. Closing it hangs up.

    Raises: NobodyThere, also where it ends before it has answered.
    """
    connection = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    with connection:
        try:
            with _short_path(directory) as path:
                connection.connect(path)
        except (FileNotFoundError, ConnectionRefusedError, NotADirectoryError):
            raise NobodyThere(
                f"No launcher runs on {directory}; start one with `hubbub cluster --data-dir {directory}`."
            ) from None
        try:
            connection.sendall(msgspec.json.encode(order) + b"\n")
            with connection.makefile("rb") as lines:
                for line in lines:
                    with contextlib.suppress(msgspec.DecodeError):  # a launcher of another version says more
                        yield msgspec.json.decode(line, type=Answer)
        except ConnectionError:
            return
