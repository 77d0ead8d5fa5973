"""Move the bytes of one plain socket between the poller and a session, without a task.

Reading: what the transport makes of the bytes goes to the session, which says whether it wants more. Writing:
as soon as the outbox has something, the pump is due in the poller's next round; what the kernel does not take
stays with the transport, so that no frame is overtaken or cut, and goes on when the socket is writable.
"""

import os
from collections.abc import Sequence
from typing import Protocol

import trio

from server.outbox import COALESCED_WRITE_BYTES, Outbox
from server.poller import Poller
from server.transport import RECEIVE_BYTES, Transport, TransportClosed


class Pumped(Protocol):
    """What the pump needs of a session."""

    def take(self, payloads: Sequence[bytes | str]) -> bool:
        """Handle what was kept and these payloads, in order; tell whether more may be read now."""
        ...

    def wrote(self) -> None:
        """Take note that the outbox has become smaller."""
        ...


class SocketPump:
    """Serve one connection from `run` until something ends it."""

    __slots__ = (
        "_ended_by",
        "_fd",
        "_is_due",
        "_is_resuming",
        "_outbox",
        "_poller",
        "_session",
        "_task",
        "_transport",
        "is_reading",
    )

    def __init__(self, poller: Poller, transport: Transport, outbox: Outbox, session: Pumped) -> None:
        self._poller = poller
        self._transport = transport
        self._outbox = outbox
        self._session = session
        self._fd = -1
        self._is_due = False  # in the poller's next round
        self._is_resuming = False
        self._ended_by: Exception | None = None
        self._task: trio.lowlevel.Task | None = None
        self.is_reading = False

    async def run(self) -> None:
        """Serve until cancelled, or until an exception ends it, which is raised: the transport's, or a bug's.

        What is not written yet of a frame is the transport's to finish.
        """
        try:
            fd = self._transport.fileno()
            self._poller.watch(fd, self, reads=False)
            self._fd = fd
            self.resume()  # what came together with hello goes first
            self._task = trio.lowlevel.current_task()
            await trio.lowlevel.wait_task_rescheduled(self._abort_wait)
            assert self._ended_by is not None
            raise self._ended_by
        finally:
            self.stop()

    def stop(self) -> None:
        """Touch the socket no more."""
        if self._fd >= 0:
            self._poller.forget(self._fd)
            self._fd = -1
            self._outbox.sleeper = None

    def resume(self) -> None:
        """Read again after the session had no room, in the poller's next round."""
        self._is_resuming = True
        self.wake()

    def wake(self) -> None:
        """Write what the outbox holds, in the poller's next round."""
        if not self._is_due and self._fd >= 0:
            self._is_due = True
            self._poller.soon(self)

    # -- what the poller calls ------------------------------------------------------------------------------

    def readable(self) -> None:
        """Read once, and handle what came."""
        if not self.is_reading:  # nobody asked: the connection broke while its reader waits
            self._end(TransportClosed())
            return
        try:
            data = os.read(self._fd, RECEIVE_BYTES)
        except BlockingIOError:
            return
        except OSError:
            data = b""
        if data:
            self._hand_over(data)
        else:
            self._end(TransportClosed())

    def writable(self) -> None:
        """Go on with what the kernel did not take, and then with what has gathered."""
        if self._fd >= 0:
            self._write()

    def due(self) -> None:
        """Do what was asked for since the last round."""
        self._is_due = False
        if self._is_resuming and self._fd >= 0:
            self._is_resuming = False
            self._hand_over(b"")
        if self._fd >= 0 and not self._transport.is_blocked:
            self._write()

    # -- the rest -------------------------------------------------------------------------------------------

    def _hand_over(self, data: bytes) -> None:
        """Let the session have what these bytes complete, or what it has kept."""
        transport = self._transport
        try:
            may_read = self._session.take(transport.feed(data) if data else ())
        except Exception as exc:  # a bug in a command ends its own connection
            self._end(exc)
            return
        if self._fd < 0:
            return
        if transport.owes_pongs:
            self.wake()
        if may_read and transport.ended is not None:
            self._end(transport.ended)
        elif may_read is not self.is_reading:
            self.is_reading = may_read
            self._watch()

    def _write(self) -> None:
        """Write until nothing is left or the kernel takes no more."""
        fd, outbox, transport = self._fd, self._outbox, self._transport
        was_blocked = transport.is_blocked
        try:
            while frames := transport.unsent(outbox, COALESCED_WRITE_BYTES):
                try:
                    sent_bytes = os.write(fd, frames)
                except BlockingIOError:
                    sent_bytes = 0
                if not transport.note_sent(frames, sent_bytes):
                    break
        except OSError:
            self._end(TransportClosed())
            return
        except Exception as exc:  # a frame that cannot be made is this connection's misfortune only
            self._end(exc)
            return
        if transport.is_blocked:
            outbox.sleeper = None
        else:
            outbox.sleeper = self
        if transport.is_blocked is not was_blocked:
            self._watch()
        self._session.wrote()

    def _watch(self) -> None:
        self._poller.change(self._fd, reads=self.is_reading, writes=self._transport.is_blocked)

    def _end(self, exc: Exception) -> None:
        self._ended_by = exc
        self.stop()
        if self._task is not None:
            trio.lowlevel.reschedule(self._task)
            self._task = None

    def _abort_wait(self, _raise_cancel: trio.lowlevel.RaiseCancelT) -> trio.lowlevel.Abort:
        self._task = None
        return trio.lowlevel.Abort.SUCCEEDED
