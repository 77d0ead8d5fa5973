"""The two sockets a lane is made of, over pynng: non-blocking calls, and Trio waiting for file descriptors.

Never pynng's `asend` or `arecv`: a cancelled `asend` leaks its whole message (pynng 0.9.0), and each of
them costs several times as much as a call that does not block. nng's own threads write and read the
connections.

Nothing is queued inside a PushSocket beyond the one message that nng is writing. So "writable" means that
all of what was sent is with the kernel, and what waits for a peer waits where it is counted.
"""

import errno
import random
import threading
from collections.abc import Callable, Iterable
from contextlib import suppress
from pathlib import Path
from typing import Any, Final

import msgspec
import pynng
import trio

from cluster.envelope import MAX_FRAME_BYTES

# Each attempt may take twice as long as the one before: a node that restarts is found at once, and one that
# is far away after a second. An attempt costs a SYN.
RECONNECT_MIN_S: Final = 0.2
RECONNECT_MAX_S: Final = 3.0
# How long an attempt may be under way: a far host, or a busy one that shakes hands over TLS.
CONNECT_TIMEOUT_S: Final = 3.0
LASTING_S: Final = 5.0  # who hangs up sooner than that may do so again: the next attempt waits its time
_NEVER_MS: Final = 2**31 - 1
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
# nng's counters of connections that came to nothing -> the reason under which we count them. It has others,
# of those that nobody answered, and "other", in which orderly ends are counted too.
_FAILURES: Final = {"auth": "tls", "proto": "handshake", "timeout": "handshake", "reject": "too_many"}
# All that say that an attempt has come to nothing.
_ENDS: Final = {"refused", "disconnect", "canceled", "other", "oom", *_FAILURES}

_Endpoint = tuple[Callable[[Any, Any], Any], Any]  # how nng finds its counters, and a dialer or listener


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
    """One lane's way to one peer, made again whenever it is lost and somebody waits for it."""

    def __init__(
        self, tls: LaneTls | None, host: str, port: int, *, on_lost: Callable[[], None] | None = None
    ) -> None:
        """`on_lost`: the peer's system has ended the connection; called in the Trio thread."""
        _cap_threads()
        self._on_lost = on_lost
        self._url = _url("tcp" if tls is None else "tls+tcp", host, port)
        self._tls = tls
        self._server_name = host if tls is None else tls.server_name or host
        self._token = trio.lowlevel.current_trio_token()
        self._connection: _Connection | None = None
        self._is_closed = False
        self._delay_s = RECONNECT_MIN_S
        self._dialled_at = float("-inf")
        self._dial_at = float("-inf")  # not before that again
        self._former_failures: dict[str, int] = {}
        self._former_connects = 0
        self._dial()

    @property
    def is_connected(self) -> bool:
        """Whether there is a connection, which may be a dead one."""
        return self._connection is not None and self._connection.is_connected

    @property
    def connects(self) -> int:
        """How often a connection was made."""
        return self._former_connects + self.is_connected

    def send_nowait(self, frame: bytes) -> bool:
        """Give a frame to nng; False: there is no connection, or it is still busy with the last one."""
        return self._connection is not None and self._connection.send_nowait(frame)

    async def wait_writable(self) -> None:
        """Return when a frame would be taken, or when it is worth to try. One task at a time.

        Raises: trio.ClosedResourceError.
        """
        while not self._is_closed:
            connection = self._connection
            if connection is None:
                await trio.sleep_until(self._dial_at)
                self.tend()
                continue
            deadline = float("inf") if connection.is_connected else self._dial_at
            with trio.move_on_at(deadline), suppress(trio.ClosedResourceError):
                await trio.lowlevel.wait_readable(connection.fd)  # nng makes it readable, for sending too
                return
            self.tend()
        raise trio.ClosedResourceError

    def tend(self) -> None:
        """Dial again, if there is no connection and it is time to; also where nobody waits for one.

        What is still under way is waited for: the peer would count it as one that came to nothing.
        """
        now = trio.current_time()
        if self._is_closed or self.is_connected or now < self._dial_at:
            return
        connection = self._connection
        if (
            connection is not None
            and now < self._dialled_at + CONNECT_TIMEOUT_S
            and connection.is_under_way()
        ):
            self._dial_at = now + RECONNECT_MIN_S
            return
        self.drop()
        self._dial()

    def drop(self) -> None:
        """Give the connection up; what nng still had to write is lost.

        Another one is made when it is needed.
        """
        connection, self._connection = self._connection, None
        if connection is not None:
            if connection.is_connected:
                self._former_connects += 1
                if trio.current_time() - self._dialled_at > LASTING_S:
                    self._delay_s = RECONNECT_MIN_S
                    self._dial_at = trio.current_time()
            _add(self._former_failures, connection.failures())
            trio.lowlevel.notify_closing(connection.fd)
            connection.close()

    def failures(self) -> dict[str, int]:
        """Attempts to connect that came to nothing, by reason; that nobody answered is none."""
        counts = dict(self._former_failures)
        if self._connection is not None:
            _add(counts, self._connection.failures())
        return counts

    def close(self) -> None:
        """Close for good. What nng still had to write is lost."""
        self._is_closed = True
        self.drop()

    def _dial(self) -> None:
        self._dialled_at = trio.current_time()
        self._dial_at = self._dialled_at + self._delay_s * random.uniform(0.8, 1.2)
        self._delay_s = min(2 * self._delay_s, RECONNECT_MAX_S)
        config = None
        if self._tls is not None:
            config = _tls_config(self._tls, pynng.TLSConfig.MODE_CLIENT, self._server_name)
        self._connection = _Connection(self._url, config, self._lost_in_thread)

    def _lost_in_thread(self, connection: "_Connection") -> None:
        """Runs in one of nng's threads."""
        with suppress(trio.RunFinishedError):
            self._token.run_sync_soon(self._lost, connection)

    def _lost(self, connection: "_Connection") -> None:
        if connection is self._connection:
            self.drop()
            self.tend()
            if self._on_lost is not None:
                self._on_lost()


class _Connection:
    """A Push0 socket that connects once. Nothing is sent by it after its connection has ended.

    nng's push (1.11, push0_send_cb) may put a connection that has just been closed among those that are
    ready, where it stays when its memory is freed: the next send, or the next connection of that socket,
    writes to it. It is freed after our callback has returned. So the callback and each send exclude each
    other, and nng never reconnects: that is left to another socket.
    """

    def __init__(self, url: str, config: Any, on_lost: Callable[["_Connection"], None]) -> None:
        self.is_connected = False  # or was
        self._is_over = False
        self._on_lost = on_lost
        self._lock = threading.Lock()
        self._socket = pynng.Push0(
            send_buffer_size=0,
            recv_max_size=MAX_FRAME_BYTES,
            reconnect_time_min=_NEVER_MS,
            reconnect_time_max=_NEVER_MS,
            tls_config=config,
        )
        self._socket.tcp_keepalive = True
        self._socket.add_post_pipe_connect_cb(self._connected)
        self._socket.add_post_pipe_remove_cb(self._removed)
        self.fd: int = self._socket.send_fd
        # An address that cannot be one is never reached, as one where nobody answers.
        with suppress(pynng.NNGException):
            self._socket.dial(url, block=False)

    def send_nowait(self, frame: bytes) -> bool:
        with self._lock:
            if self._is_over:
                return False
            try:
                self._socket.send(frame, block=False)
            except pynng.TryAgain:
                return False
            return True

    def failures(self) -> dict[str, int]:
        return _failures(self._endpoints())

    def is_under_way(self) -> bool:
        """Whether the attempt has not come to nothing so far; nng makes only one."""
        return bool(self._socket.dialers) and not any(
            value for name, value in _counters(self._endpoints()) if name in _ENDS
        )

    def _endpoints(self) -> list[_Endpoint]:
        return [(pynng.lib.nng_stat_find_dialer, dialer.dialer) for dialer in self._socket.dialers]

    def close(self) -> None:
        self._is_over = True
        self._socket.close()

    def _connected(self, _pipe: Any) -> None:
        """Runs in one of nng's threads."""
        self.is_connected = True

    def _removed(self, _pipe: Any) -> None:
        """Runs in one of nng's threads, before the connection's memory is freed."""
        with self._lock:
            is_news = not self._is_over
            self._is_over = True
        if is_news:
            self._on_lost(self)


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


def _failures(endpoints: Iterable[_Endpoint]) -> dict[str, int]:
    """Count connections that came to nothing, by our reasons."""
    counts: dict[str, int] = {}
    for name, value in _counters(endpoints):
        reason = _FAILURES.get(name)
        if reason is not None and value:
            counts[reason] = counts.get(reason, 0) + value
    return counts


def _counters(endpoints: Iterable[_Endpoint]) -> list[tuple[str, int]]:
    """Read nng's counters of some dialers or listeners."""
    lib, ffi = pynng.lib, pynng.ffi
    counters: list[tuple[str, int]] = []
    root = ffi.new("nng_stat **")
    if lib.nng_stats_get(root) != 0:  # out of memory, or nng was built without them
        return counters
    try:
        for find, endpoint in endpoints:
            found = find(root[0], endpoint)
            counter = lib.nng_stat_child(found) if found else None
            while counter:
                name = ffi.string(lib.nng_stat_name(counter)).decode()
                counters.append((name, int(lib.nng_stat_value(counter))))
                counter = lib.nng_stat_next(counter)
    finally:
        lib.nng_stats_free(root[0])
    return counters


def _add(counts: dict[str, int], more: dict[str, int]) -> None:
    for reason, count in more.items():
        counts[reason] = counts.get(reason, 0) + count
