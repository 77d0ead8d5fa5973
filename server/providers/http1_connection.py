"""One HTTP/1.1 keep-alive connection as a client, by the sans-io library h11: a request at a time.

For peers that do no HTTP/2. The protocol has no word for "not processed": once writing began, a request
without an answer is `OutcomeUnknown`.
"""

import select
from collections.abc import Callable
from typing import Final

import h11
import trio

from server.providers.exchange import NotProcessed, OutcomeUnknown, Request, Response
from server.providers.limits import Limits

_READ_BYTES: Final = 65_536


class Http1Connection:
    """Send requests over one open byte stream, one after the other. Used like `Http2Connection`."""

    protocol: Final = "http/1.1"

    def __init__(
        self,
        stream: trio.abc.Stream,
        authority: str,
        fd: int,
        limits: Limits,
        on_change: Callable[[], None],
    ) -> None:
        """`fd`: the socket's, to see before a request whether the peer has closed."""
        self._stream = stream
        self._host = (b"host", authority.encode())
        self._fd = fd
        self._limits = limits
        self._on_change = on_change
        self._h11 = h11.Connection(h11.CLIENT)
        self._is_taken = False
        self._is_draining = False
        self._failure = ""
        self._last_used_at = trio.current_time()
        self._scope = trio.CancelScope()
        self.opened_at: Final = trio.current_time()

    @property
    def room(self) -> int:
        """1 where a request can begin now. An idle peer that sends, or closes, is of no use any more."""
        if self._is_draining or self._is_taken:
            return 0
        if self._h11.our_state is h11.IDLE and not _is_readable(self._fd):
            return 1
        self.abort("connection_lost")
        return 0

    @property
    def is_usable(self) -> bool:
        """Whether it takes, or will take, requests."""
        return not self._is_draining

    def take(self) -> None:
        """Reserve it."""
        self._is_taken = True

    def give_back(self) -> None:
        """Free what `take` reserved."""
        self._is_taken = False
        self._last_used_at = trio.current_time()
        if self._is_draining:
            self._scope.cancel()
        self._on_change()

    def drain(self) -> None:
        """Take no more requests, and close when the present one is done."""
        self._is_draining = True
        if not self._is_taken:
            self._scope.cancel()

    def abort(self, code: str, detail: str = "") -> None:
        """Close at once. What has left is unknown."""
        self._failure = self._failure or code
        self._is_draining = True
        self._scope.cancel()

    async def open(self) -> None:
        """Nothing is to be exchanged first."""

    async def run(self) -> None:
        """Close the connection when it has been idle for long, or is to be closed. Raises trio.Cancelled."""
        try:
            with self._scope:
                while self._is_taken or trio.current_time() < self._idle_until:  # noqa: ASYNC110 - time, no event
                    await trio.sleep_until(max(self._idle_until, trio.current_time() + 0.5))
        finally:
            self._failure = self._failure or "pool_closed"
            self._is_draining = True
            # A task that waits in `request` gets trio.ClosedResourceError now.
            await trio.aclose_forcefully(self._stream)
            self._on_change()

    async def request(self, request: Request, deadline: float) -> Response:
        """Send and wait for the answer, until `deadline`. `take` came before; it is given back.

        A cancelled call closes the connection. Raises: NotProcessed, OutcomeUnknown.
        """
        response: Response | None = None
        try:
            if self._is_draining:
                raise NotProcessed("connection_lost")
            with trio.CancelScope(deadline=deadline):
                response = await self._exchange(request)
            if response is None:
                raise OutcomeUnknown("timeout")
            return response
        except (trio.BrokenResourceError, trio.ClosedResourceError) as exc:
            raise OutcomeUnknown(self._failure or "connection_lost", str(exc)) from exc
        except h11.RemoteProtocolError as exc:
            raise OutcomeUnknown("protocol_error", str(exc)) from exc
        except h11.LocalProtocolError as exc:
            raise NotProcessed("bad_request", str(exc)) from exc
        finally:
            if (
                response is None
                or self._h11.our_state is not h11.DONE
                or self._h11.their_state is not h11.DONE
            ):
                self.abort("connection_lost")
            else:
                self._h11.start_next_cycle()
            self.give_back()

    @property
    def _idle_until(self) -> float:
        return self._last_used_at + self._limits.http1_idle_close_s

    async def _exchange(self, request: Request) -> Response:
        head = h11.Request(
            method=b"POST",
            target=request.path,
            headers=[
                self._host,
                *request.static,
                *(header for header in request.headers if header[0] != b"content-length"),
                (b"content-length", str(len(request.body)).encode()),
            ],
        )
        out = self._h11.send(head) or b""
        if request.body:
            out += self._h11.send(h11.Data(data=request.body)) or b""
        await self._stream.send_all(out + (self._h11.send(h11.EndOfMessage()) or b""))
        answer: h11.Response | None = None
        body = b""
        while True:
            event = self._h11.next_event()
            if event is h11.NEED_DATA:
                data = await self._stream.receive_some(_READ_BYTES)
                if not data and answer is None:
                    raise OutcomeUnknown("connection_lost", "closed by the peer")
                self._h11.receive_data(bytes(data))
            elif isinstance(event, h11.Response):
                answer = event
            elif isinstance(event, h11.Data):
                body += event.data
            if answer and (
                isinstance(event, h11.EndOfMessage) or len(body) > self._limits.max_response_bytes
            ):
                names = {name.decode("latin-1"): value.decode("latin-1") for name, value in answer.headers}
                body = body[: self._limits.max_response_bytes]
                return Response(answer.status_code, names, body, self.opened_at)
            if isinstance(event, h11.ConnectionClosed) or event is h11.PAUSED:
                raise OutcomeUnknown("protocol_error", "ended without an answer")


def _is_readable(fd: int) -> bool:
    poll = select.poll()
    poll.register(fd, select.POLLIN)
    return bool(poll.poll(0))
