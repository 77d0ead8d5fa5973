"""An HTTP/1.1 server connection over Trio: h11 (sans-io) does the protocol, this file moves the bytes."""

import contextlib
from typing import Final

import h11
import trio

from server.sandbox.exchange import Answer, LateAnswerer, Line, Request, make_request
from server.sandbox.h2_connection import MAX_BODY_BYTES, ConnectionReset

_READ_BYTES: Final = 64 * 1024
_REASONS: Final = {
    200: b"OK",
    201: b"Created",
    204: b"No Content",
    400: b"Bad Request",
    401: b"Unauthorized",
    403: b"Forbidden",
    404: b"Not Found",
    405: b"Method Not Allowed",
    410: b"Gone",
    413: b"Payload Too Large",
    429: b"Too Many Requests",
    500: b"Internal Server Error",
    503: b"Service Unavailable",
}


class H1Connection:
    """Serve one connection, one request after the other, until either side closes."""

    def __init__(self, stream: trio.abc.Stream, line: Line, answerer: LateAnswerer) -> None:
        self._stream = stream
        self._line = line
        self._answerer = answerer
        self._protocol = h11.Connection(h11.SERVER)

    async def run(self) -> None:
        """Serve. Raises: ConnectionReset, where a fault wants that."""
        with contextlib.suppress(trio.BrokenResourceError, trio.ClosedResourceError):
            try:
                while await self._serve_one():
                    self._protocol.start_next_cycle()
            except h11.RemoteProtocolError as exc:
                if self._protocol.our_state in {h11.IDLE, h11.SEND_RESPONSE}:
                    await self._send(Answer(status=exc.error_status_hint), is_last=True)

    async def _serve_one(self) -> bool:
        """Take one request and answer it; False if the connection ends with it."""
        request = await self._receive()
        if request is None:
            return False
        answer = self._answerer(request)
        if not isinstance(answer, Answer):
            answer = await answer
        if answer.delay_s > 0:
            await trio.sleep(answer.delay_s)
        if answer.hold and not await answer.hold.wait_with(self._stream, self._protocol.receive_data):
            return False
        if answer.fate == "stall":
            await self._wait_for_end()
            return False
        if answer.fate == "reset":
            raise ConnectionReset
        if answer.fate == "rst_stream" or not answer.status:
            return False
        await self._send(answer, is_last=answer.fate == "goaway")
        return self._protocol.our_state is h11.DONE and self._protocol.their_state is h11.DONE

    async def _receive(self) -> Request | None:
        head: h11.Request | None = None
        body = bytearray()
        while True:
            event = self._protocol.next_event()
            if event is h11.NEED_DATA:
                if self._protocol.they_are_waiting_for_100_continue:
                    go_on = h11.InformationalResponse(status_code=100, headers=[], reason=b"Continue")
                    await self._stream.send_all(self._protocol.send(go_on) or b"")
                self._protocol.receive_data(bytes(await self._stream.receive_some(_READ_BYTES)))
            elif isinstance(event, h11.Request):
                head = event
            elif isinstance(event, h11.Data):
                body += event.data
                if len(body) > MAX_BODY_BYTES:
                    raise h11.RemoteProtocolError("The body is too large.", error_status_hint=413)
            elif isinstance(event, h11.EndOfMessage) and head is not None:
                return make_request(
                    self._line,
                    head.method.decode("latin-1"),
                    head.target.decode("latin-1"),
                    head.headers,
                    bytes(body),
                )
            else:  # ConnectionClosed, or PAUSED by an upgrade that nobody wants here
                return None

    async def _send(self, answer: Answer, *, is_last: bool) -> None:
        headers = [*answer.headers]
        if answer.status != 204:  # RFC 9110 section 8.6
            headers.append(("content-length", str(len(answer.body))))
        if is_last:
            headers.append(("connection", "close"))
        head = h11.Response(
            status_code=answer.status, headers=headers, reason=_REASONS.get(answer.status, b"Status")
        )
        data = self._protocol.send(head) or b""
        if answer.body:
            data += self._protocol.send(h11.Data(data=answer.body)) or b""
        data += self._protocol.send(h11.EndOfMessage()) or b""
        await self._stream.send_all(data)

    async def _wait_for_end(self) -> None:
        while await self._stream.receive_some(_READ_BYTES):
            pass
