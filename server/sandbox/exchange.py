"""One HTTP exchange as the fakes see it: a Request comes in whole, an Answer says what becomes of it."""

from collections.abc import Awaitable, Callable, Iterable
from typing import Literal
from urllib.parse import parse_qsl

import msgspec

from server.sandbox.holds import Hold

Fate = Literal["", "stall", "reset", "rst_stream", "goaway"]
"""What happens to the connection instead of, or after, an answer. See `Answer`."""
Headers = list[tuple[str, str]]


class Line(msgspec.Struct, kw_only=True, eq=False):
    """One connection: what a service remembers of it for as long as it lasts."""

    spoiled_by: str = ""  # APNs: the reason that every later request on this connection gets too


class Request(msgspec.Struct, kw_only=True):
    """A whole request. Header names are lower case; of one that came twice, the last value counts."""

    method: str
    target: str  # path and query, as sent
    headers: dict[str, str]
    body: bytes
    line: Line
    repeated: tuple[str, ...] = ()  # names of headers that came more than once

    @property
    def path(self) -> str:
        return self.target.partition("?")[0]

    @property
    def query(self) -> dict[str, str]:
        return dict(parse_qsl(self.target.partition("?")[2], keep_blank_values=True))


class Answer(msgspec.Struct, kw_only=True):
    """What the driver does: wait `delay_s`, then for `hold`, then answer, unless `fate` says otherwise.

    `stall`: no answer, ever. `reset`: the TCP connection is reset, with every exchange on it. `rst_stream`:
    only this exchange ends (HTTP/1.1: the connection closes). `goaway`: with status 0 this request was not
    processed, and GOAWAY says so (HTTP/1.1: the connection closes); with a status it is answered first, and
    the connection then ends.
    """

    status: int = 0
    headers: Headers = []
    body: bytes = b""
    delay_s: float = 0.0
    hold: Hold | None = None
    fate: Fate = ""


Answerer = Callable[[Request], Answer]
"""Decides at once: nothing is awaited, so a batch of requests costs one write."""
LateAnswerer = Callable[[Request], Answer | Awaitable[Answer]]
"""As `Answerer`, or may wait. For HTTP/1.1 only."""


def make_request(
    line: Line, method: str, target: str, pairs: Iterable[tuple[bytes, bytes]], body: bytes
) -> Request:
    """Make a Request of raw headers; pseudo-headers must be gone. Names are taken as lower case."""
    headers: dict[str, str] = {}
    repeated: tuple[str, ...] = ()
    for raw_name, raw_value in pairs:
        name = raw_name.decode("latin-1")
        if name in headers:
            repeated += (name,)
        headers[name] = raw_value.decode("utf-8", "replace")
    return Request(method=method, target=target, headers=headers, body=body, line=line, repeated=repeated)


def json_answer(status: int, value: object, headers: Headers | None = None) -> Answer:
    """Answer with JSON."""
    return Answer(
        status=status,
        headers=[("content-type", "application/json; charset=UTF-8"), *(headers or [])],
        body=msgspec.json.encode(value),
    )


def form_of(request: Request) -> dict[str, str]:
    """Read an `application/x-www-form-urlencoded` body; empty where it is something else."""
    content_type = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if content_type != "application/x-www-form-urlencoded":
        return {}
    return dict(parse_qsl(request.body.decode("utf-8", "replace"), keep_blank_values=True))
