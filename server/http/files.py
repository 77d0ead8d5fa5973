"""Upload files and read them, also in parts and from an <img> that cannot send a header."""

import re
from collections.abc import AsyncGenerator
from contextlib import aclosing
from typing import Annotated, Any, Final, cast
from urllib.parse import quote

import multipart
from litestar import Response, Router, get, post, route
from litestar.openapi.datastructures import ResponseSpec
from litestar.params import FromPath, QueryParameter
from litestar.types import Receive, Scope, Send

from protocol.errors import ProtocolError, Refused
from protocol.http import FileInfo, FileSig
from protocol.records import FileRow
from server import auth
from server.clock import wall_clock_ms
from server.files import INLINE_TYPES, Files
from server.http.context import BEARER, AnyRequest, services_of, signed_in

# Whatever a file holds, nothing of it runs with the rights of our page.
FILE_POLICY: Final = "sandbox; default-src 'none'; media-src 'self'; style-src 'unsafe-inline'"
CACHE: Final = "private, max-age=31536000, immutable"  # an id's content never changes
_RANGE: Final = re.compile(r"bytes=(\d{0,18})-(\d{0,18})")


def info_of(row: FileRow) -> FileInfo:
    """What is told of a file."""
    return FileInfo(
        file_id=row.file_id,
        name=row.name,
        media_type=row.media_type,
        size_bytes=row.size_bytes,
        width=row.width,
        height=row.height,
        at_ms=row.at_ms,
    )


@post(
    "/", status_code=201, summary="Upload a file", tags=["Files"], security=BEARER, request_max_body_size=None
)
async def upload(
    request: AnyRequest,
    name: Annotated[str, QueryParameter(max_length=400, description="Its name, where the body is raw.")] = "",
) -> FileInfo:
    """The body is the file itself with its Content-Type, or multipart/form-data with one part `file`."""
    identity = await signed_in(request)
    files = services_of(request).files
    content_type, options = multipart.parse_options_header(request.headers.get("content-type", ""))
    if content_type == "multipart/form-data":
        part = _MultipartFile(request, options.get("boundary", ""), files.max_file_bytes)
        async with aclosing(part.chunks()) as chunks:
            first = await anext(chunks, b"")  # reading it finds the part's headers

            async def with_first() -> AsyncGenerator[bytes, None]:
                yield first
                async for chunk in chunks:
                    yield chunk

            async with aclosing(with_first()) as body:
                row = await files.save(identity, part.name or name, part.media_type, body)
    else:
        hint = request.content_length
        async with aclosing(request.stream()) as raw:
            row = await files.save(identity, name, content_type, raw, size_hint_bytes=hint)
    return info_of(row)


class _MultipartFile:
    """The first file of a multipart body, while it comes in. Other parts are skipped."""

    def __init__(self, request: AnyRequest, boundary: str, max_file_bytes: int) -> None:
        self.name = ""
        self.media_type = ""
        self._request = request
        self._max_bytes = max_file_bytes + 64 * 1024  # and the other parts
        self._boundary = boundary

    async def chunks(self) -> AsyncGenerator[bytes, None]:
        """Raises: Refused(bad_request, file_too_large)."""
        size_bytes, is_inside, was_found = 0, False, False
        try:
            parser = multipart.PushMultipartParser(self._boundary, max_segment_count=20)
            async with aclosing(self._request.stream()) as body:
                async for data in body:
                    size_bytes += len(data)
                    if size_bytes > self._max_bytes:
                        raise Refused("file_too_large")
                    for event in parser.parse(data):
                        if isinstance(event, multipart.MultipartSegment):
                            is_inside = event.filename is not None and not was_found
                            if is_inside:
                                was_found = True
                                self.name = event.filename or ""
                                self.media_type = event.content_type or ""
                        elif event is None:
                            is_inside = False
                        elif is_inside:
                            yield bytes(event)
        except multipart.MultipartError as exc:
            raise Refused("bad_request", f"The multipart body cannot be read: {exc}.") from None
        if not was_found:
            raise Refused("bad_request", "The multipart body has no file in it.")


@get("/sig", summary="Open files to <img>", tags=["Files"], security=BEARER)
async def sign(request: AnyRequest) -> FileSig:
    """The same for everybody in the app for an hour, so that browsers can cache what they have seen."""
    identity = await signed_in(request)
    services = services_of(request)
    sig, expires_at_ms = auth.sign_file_grant(
        services.log_ins.server_secret, identity.app_id, wall_clock_ms()
    )
    return FileSig(sig=sig, expires_at_ms=expires_at_ms)


@get("/{file_id:str}/info", summary="Read about a file", tags=["Files"], security=BEARER)
async def describe(request: AnyRequest, file_id: FromPath[str]) -> FileInfo:
    """Its name, type and size."""
    identity = await signed_in(request)
    return info_of(await services_of(request).files.find(identity.app_id, file_id))


@route(
    "/{file_id:str}",
    http_method=["GET", "HEAD"],
    summary="Read a file",
    tags=["Files"],
    security=[{"bearer": []}, {"sig": []}],
    responses={
        200: ResponseSpec(
            bytes, description="The file.", media_type="application/octet-stream", generate_examples=False
        )
    },
)
async def download(
    request: AnyRequest,
    file_id: FromPath[str],
    sig: Annotated[
        str, QueryParameter(max_length=300, description="From /v1/files/sig, instead of the header.")
    ] = "",
) -> Response[bytes]:
    """Takes Range, If-Range and If-None-Match. Only pictures, sound and video are shown in place."""
    services = services_of(request)
    if sig:
        app_id = auth.verify_file_grant(services.log_ins.server_secret, sig, wall_clock_ms())
    else:
        app_id = (await signed_in(request)).app_id
    row = await services.files.find(app_id, file_id)
    etag = f'"{row.sha256[:32]}"'
    disposition = "inline" if row.media_type in INLINE_TYPES else "attachment"
    headers = {
        "etag": etag,
        "cache-control": CACHE,
        "accept-ranges": "bytes",
        "content-disposition": f"{disposition}; filename*=UTF-8''{quote(row.name, safe='')}",
        "content-security-policy": FILE_POLICY,
        "cross-origin-resource-policy": "same-origin",
    }
    if etag in request.headers.get("if-none-match", ""):
        return Response(b"", status_code=304, headers=headers)
    wanted = request.headers.get("range", "")
    if wanted and request.headers.get("if-range", etag) == etag:
        part = parse_range(wanted, row.size_bytes)
    else:
        part = None
    headers["content-type"] = row.media_type
    if part is None:
        return StoredFile(services.files, row, 0, row.size_bytes, 200, headers)
    start, length = part
    if length == 0:
        headers["content-range"] = f"bytes */{row.size_bytes}"
        headers["cache-control"] = "no-store"
        headers["content-type"] = "application/json"
        body = b'{"code":"bad_request","message":"The range lies beyond the end of the file."}'
        return Response(body, status_code=416, headers=headers)
    headers["content-range"] = f"bytes {start}-{start + length - 1}/{row.size_bytes}"
    return StoredFile(services.files, row, start, length, 206, headers)


def parse_range(header: str, size_bytes: int) -> tuple[int, int] | None:
    """Return (start, length) of a single range, length 0 if it lies beyond the end (RFC 9110 section 14).

    None means the whole file: for several ranges, and for what cannot be understood, as the RFC allows.
    """
    match = _RANGE.fullmatch(header.strip())
    if match is None or not (match[1] or match[2]):
        return None
    if not match[1]:  # the last so many bytes
        length = min(int(match[2]), size_bytes)
        return size_bytes - length, length
    start = int(match[1])
    end = int(match[2]) if match[2] else size_bytes - 1
    if match[2] and end < start:
        return None
    if start >= size_bytes:
        return start, 0
    return start, min(end, size_bytes - 1) - start + 1


class StoredFile(Response[bytes]):
    """A file's bytes, read from the disk as they are sent, never more than 1 MiB ahead."""

    def __init__(
        self, files: Files, row: FileRow, start: int, length: int, status: int, headers: dict[str, str]
    ) -> None:
        super().__init__(b"", status_code=status, headers=headers)
        self._files = files
        self._row = row
        self._part = (start, length)
        self._raw = [(name.encode(), value.encode("latin-1")) for name, value in headers.items()]
        self._raw.append((b"content-length", str(length).encode()))

    def to_asgi_response(self, *_: Any, **__: Any) -> Any:
        """The framework calls what this returns as the ASGI app."""
        return self._send

    async def _send(self, scope: Scope, receive: Receive, send: Send) -> None:
        start, length = self._part
        start_message: Any = {
            "type": "http.response.start",
            "status": self.status_code,
            "headers": self._raw,
        }
        if cast("dict[str, Any]", scope)["method"] == "HEAD":
            await send(start_message)
            await send({"type": "http.response.body", "body": b"", "more_body": False})
            return
        async with aclosing(self._files.read(self._row, start, length)) as chunks:  # type: ignore[type-var]
            first = await anext(chunks, b"")  # before the status is out: a missing file is an error answer
            await send(start_message)
            await send({"type": "http.response.body", "body": first, "more_body": True})
            sent_bytes = len(first)
            async for chunk in chunks:
                await send({"type": "http.response.body", "body": chunk, "more_body": True})
                sent_bytes += len(chunk)
        if sent_bytes != length:
            raise ProtocolError("bad_frame", "The file ended before its length.")
        await send({"type": "http.response.body", "body": b"", "more_body": False})


def file_router() -> Router:
    """Everything under /v1/files."""
    return Router(path="/v1/files", route_handlers=[upload, sign, describe, download])
