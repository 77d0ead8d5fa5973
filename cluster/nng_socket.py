"""The two sockets a lane is made of, over pynng: non-blocking calls, and Trio waiting for file descriptors.

Never pynng's `asend` or `arecv`: a cancelled `asend` leaks its whole message (pynng 0.9.0), and each of
them costs several times as much as a call that does not block. nng's own threads write and read the
connections.

Nothing is queued inside a PushSocket beyond the one message that nng is writing. So "writable" means that
all of what was sent is with the kernel, and what waits for a peer waits where it is counted.
"""

import errno
import math
import threading
import time
from collections.abc import Callable, Iterable
from contextlib import suppress
from pathlib import Path
from typing import Any, Final

import msgspec
import pynng
import trio

from cluster.envelope import MAX_FRAME_BYTES

# A node that restarts is back within seconds, and one that is gone costs a SYN now and then.
RECONNECT_MIN_MS: Final = 100
RECONNECT_MAX_MS: Final = 3_000
STEADY_S: Final = 5.0  # a connection that lasted so long was a good one
_NEVER_MS: Final = 24 * 3600 * 1000  # nng waits a random part of it
# More connections than nodes that a full mesh is made for. Each may hold one message that is not read yet.
MAX_CONNECTIONS: Final = 256

# nng starts as many threads as there are cores, four times over. They only move bytes, without the GIL.
_THREADS: Final = {
    "NUM_TASK": 2,
    "MAX_TASK": 2,
    "NUM_EXPIRE": 1,
    "MAX_EXPIRE": 1,
    "NUM_POLLER": 1,
    "MAX_POLLER": 1,
    "NUM_RESOLVER": 1,
}
# nng's counters of connections that came to nothing -> the reason under which we count them. It has another
# one, "other", in which orderly ends are counted too.
_FAILURES: Final = {"auth": "tls", "proto": "handshake", "timeout": "handshake", "reject": "too_many"}


class LaneTls(msgspec.Struct, frozen=True):
    """Files in PEM: who may be a node (`ca`), and this node's own certificate.

    Both sides of each lane prove theirs.

    A peer's certificate must be made out to the host that it is dialled by (DNS name or address), or, if it
    is given, to `server_name`. Which node a certificate belongs to is not checked: the CA must be the
    cluster's own.
    """

    ca: str
    cert: str
    key: str
    server_name: str = ""


class PullSocket:
    """A port on which a lane of all other nodes ends."""

    def __init__(self, tls: LaneTls | None) -> None:
        _cap_threads()
        self._scheme = "tcp" if tls is None else "tls+tcp"
        config = None if tls is None else _tls_config(tls, pynng.TLSConfig.MODE_SERVER, "")
        self._socket = pynng.Pull0(recv_max_size=MAX_FRAME_BYTES, tls_config=config)
        self._socket.tcp_keepalive = True  # a host that vanished holds its connection no longer than that
        self._socket.add_pre_pipe_connect_cb(_turn_away_too_many)
        self._fd: int = self._socket.recv_fd
        self._pipe: Any = None  # the connection of the last message

    def listen(self, host: str, port: int) -> int:
        """Open the port (0: any that is free), and return its number. Raises: OSError."""
        try:
            listener = self._socket.listen(_url(self._scheme, host, port))
        except pynng.NNGException as exc:
            number = _ERRNO.get(type(exc), errno.EINVAL)
            raise OSError(number, f"cannot listen at {host}:{port}: {exc}") from None
        return int(str(listener.url).rpartition(":")[2])

    def receive_nowait(self) -> bytes | None:
        """One message, or None: there is none."""
        # Not pynng's `recv_msg`: to tell where a message came from it looks into a table of connections,
        # and one that has ended in this moment is put into it for ever.
        lib, ffi = pynng.lib, pynng.ffi
        place = ffi.new("nng_msg **")
        error = lib.nng_recvmsg(self._socket.socket, place, lib.NNG_FLAG_NONBLOCK)
        if error == lib.NNG_EAGAIN:
            return None
        pynng.check_err(error)
        message = place[0]
        try:
            size_bytes = lib.nng_msg_len(message)
            self._pipe = lib.nng_msg_get_pipe(message)
            return bytes(ffi.buffer(lib.nng_msg_body(message), size_bytes)) if size_bytes else b""
        finally:
            lib.nng_msg_free(message)

    def hang_up(self) -> None:
        """Close the connection that the last message came by."""
        if self._pipe is not None:
            pynng.lib.nng_pipe_close(self._pipe)  # an error says that it is gone already
            self._pipe = None

    async def wait_readable(self) -> None:
        """Return when there may be a message. One task at a time. Raises: trio.ClosedResourceError."""
        await trio.lowlevel.wait_readable(self._fd)

    def failures(self) -> dict[str, int]:
        """Connections to this port that came to nothing, by reason."""
        return _failures(
            [(pynng.lib.nng_stat_find_listener, listener.listener) for listener in self._socket.listeners]
        )

    def close(self) -> None:
        """Close the port and all connections. What was not received is lost."""
        trio.lowlevel.notify_closing(self._fd)
        self._socket.close()


class PushSocket:
    """One lane's way to one peer: a connection, and when that is lost another one, by a new nng socket.

    nng 1.11 may put a connection that has just ended back among those that it sends by, when it ends while
    what was sent last is being reported, and uses its memory after it is freed (`push0_pipe_ready`; compare
    nanomsg/nng#1653). So nothing is sent by a socket that has lost a connection, and it makes no other one.
    """

    def __init__(
        self, tls: LaneTls | None, host: str, port: int, *, on_lost: Callable[[], None] | None = None
    ) -> None:
        """`on_lost`: the connection broke; called in the Trio thread."""
        _cap_threads()
        self._on_lost = on_lost
        self._token = trio.lowlevel.current_trio_token()
        self._url = _url("tcp" if tls is None else "tls+tcp", host, port)
        # Made once: a file that is being replaced must not be in the way of a new connection.
        self._config = None
        if tls is not None:
            self._config = _tls_config(tls, pynng.TLSConfig.MODE_CLIENT, tls.server_name or host)
        self.connect_count = 0
        self._former_failures: dict[str, int] = {}  # of sockets that were closed
        self._is_closed = False
        # Held while nng sends, and to say that a connection is lost, before which nng does not free it.
        self._sending = threading.Lock()
        self._is_lost = False
        self._connected_at = math.inf
        self._redial_s = RECONNECT_MIN_MS / 1000
        self._redial_at = math.inf
        self._socket: Any = None
        self._fd = -1
        self._open()

    def _open(self) -> None:
        self._is_lost = False
        self._connected_at = math.inf
        self._socket = pynng.Push0(
            send_buffer_size=0,
            recv_max_size=MAX_FRAME_BYTES,
            reconnect_time_min=RECONNECT_MIN_MS,
            reconnect_time_max=RECONNECT_MAX_MS,
            tls_config=self._config,
        )
        self._socket.tcp_keepalive = True
        self._socket.add_post_pipe_connect_cb(self._connected)
        self._socket.add_post_pipe_remove_cb(self._lost)
        self._fd = self._socket.send_fd
        # An address that cannot be one is never reached, as one where nobody answers.
        with suppress(pynng.NNGException):
            self._socket.dial(self._url, block=False)

    @property
    def is_connected(self) -> bool:
        """Whether there is a connection, which may be a dead one."""
        return self._socket is not None and not self._is_lost and bool(self._socket.pipes)

    def send_nowait(self, frame: bytes) -> bool:
        """Give a frame to nng; False: there is no connection, or it is still busy with the last one."""
        self._reopen_if_due()
        if self._socket is None:
            return False
        with self._sending:
            if self._is_lost:
                return False
            try:
                self._socket.send(frame, block=False)
            except pynng.TryAgain:
                return False
        return True

    async def wait_writable(self) -> None:
        """Return when a frame may be taken. One task at a time.

        Raises: trio.ClosedResourceError, also when the connection is lost meanwhile.
        """
        if self._socket is None and not self._is_closed:
            await trio.sleep_until(self._redial_at)
            self._reopen_if_due()
        if self._is_closed or self._socket is None:
            raise trio.ClosedResourceError
        await trio.lowlevel.wait_readable(self._fd)  # nng makes it readable, for sending too

    def failures(self) -> dict[str, int]:
        """Attempts to connect that came to nothing, by reason; that nobody answered is none."""
        counts = dict(self._former_failures)
        if self._socket is not None:
            dialers = [(pynng.lib.nng_stat_find_dialer, dialer.dialer) for dialer in self._socket.dialers]
            for reason, count in _failures(dialers).items():
                counts[reason] = counts.get(reason, 0) + count
        return counts

    def close(self) -> None:
        """Close the connection. What nng still had to write is lost."""
        self._is_closed = True
        self._give_up_socket()

    def _give_up_socket(self) -> None:
        if self._socket is not None:
            self._former_failures = self.failures()
            socket, self._socket = self._socket, None
            trio.lowlevel.notify_closing(self._fd)
            socket.close()

    def _reopen_if_due(self) -> None:
        if self._socket is None and not self._is_closed and trio.current_time() >= self._redial_at:
            self._open()

    def _connected(self, pipe: Any) -> None:
        """Runs in one of nng's threads, which hold a lock around this."""
        self.connect_count += 1
        self._connected_at = time.monotonic()
        for dialer in pipe.socket.dialers:
            for name in (b"reconnect-time-max", b"reconnect-time-min"):
                pynng.lib.nng_dialer_set_ms(dialer.dialer, name, _NEVER_MS)

    def _lost(self, pipe: Any) -> None:
        """Runs in one of nng's threads, also while the socket is closed."""
        with self._sending:
            if pipe.socket is self._socket:
                self._is_lost = True
        with suppress(trio.RunFinishedError):
            self._token.run_sync_soon(self._tell_lost)

    def _tell_lost(self) -> None:
        if self._is_closed or not self._is_lost or self._socket is None:
            return
        lived_s = time.monotonic() - self._connected_at
        # Who hangs up at once is asked ever more rarely, as one where nobody answers.
        longer_s = min(2 * self._redial_s, RECONNECT_MAX_MS / 1000)
        self._redial_s = longer_s if lived_s < STEADY_S else RECONNECT_MIN_MS / 1000
        self._redial_at = trio.current_time() + self._redial_s
        self._give_up_socket()
        if self._on_lost is not None:
            self._on_lost()


_ERRNO: Final = {
    pynng.AddressInUse: errno.EADDRINUSE,
    pynng.AddressInvalid: errno.EADDRNOTAVAIL,
    pynng.PermissionDenied: errno.EACCES,
    pynng.OutOfFiles: errno.EMFILE,
}
_are_threads_capped = False


def _cap_threads() -> None:
    """Tell nng how many threads to start; it listens before its first socket only."""
    global _are_threads_capped  # nng's own state is one per process
    if not _are_threads_capped:
        _are_threads_capped = True
        for name, count in _THREADS.items():
            pynng.lib.nng_init_set_parameter(getattr(pynng.lib, f"NNG_INIT_{name}_THREADS"), count)


def _url(scheme: str, host: str, port: int) -> str:
    return f"{scheme}://[{host}]:{port}" if ":" in host else f"{scheme}://{host}:{port}"


def _tls_config(tls: LaneTls, mode: int, server_name: str) -> Any:
    return pynng.TLSConfig(
        mode,
        server_name=server_name or None,
        ca_string=Path(tls.ca).read_text(),
        own_cert_string=Path(tls.cert).read_text(),
        own_key_string=Path(tls.key).read_text(),
        auth_mode=pynng.TLSConfig.AUTH_MODE_REQUIRED,
    )


def _turn_away_too_many(pipe: Any) -> None:
    """Runs in one of nng's threads, under the lock that guards `pipes`."""
    if len(pipe.socket.pipes) > MAX_CONNECTIONS:
        with suppress(pynng.NNGException):  # it is gone already
            pipe.close()


def _failures(endpoints: Iterable[tuple[Callable[[Any, Any], Any], Any]]) -> dict[str, int]:
    """Read nng's counters of some dialers or listeners."""
    lib, ffi = pynng.lib, pynng.ffi
    counts: dict[str, int] = {}
    root = ffi.new("nng_stat **")
    if lib.nng_stats_get(root) != 0:  # out of memory, or nng was built without them
        return counts
    try:
        for find, endpoint in endpoints:
            found = find(root[0], endpoint)
            counter = lib.nng_stat_child(found) if found else None
            while counter:
                reason = _FAILURES.get(ffi.string(lib.nng_stat_name(counter)).decode())
                value = int(lib.nng_stat_value(counter))
                if reason is not None and value:
                    counts[reason] = counts.get(reason, 0) + value
                counter = lib.nng_stat_next(counter)
    finally:
        lib.nng_stats_free(root[0])
    return counts
