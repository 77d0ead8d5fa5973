"""Serve web/: the page and its modules, as they lie there.

Nothing is named by its content, so everything is asked for again (no-cache) and mostly answered by 304.
Small enough to be kept in memory; a changed file is noticed by its time and size.
"""

import gzip
import hashlib
import os
import stat
from pathlib import Path
from typing import Final

import msgspec
from litestar import Request, Response, route
from litestar.datastructures import State
from litestar.handlers import HTTPRouteHandler
from litestar.params import FromPath

from protocol.errors import Refused

WEB_FOLDER: Final = Path(__file__).resolve().parent.parent.parent / "web"
MAX_FILES: Final = 1000  # what is kept in memory; web/ has some dozens
TYPES: Final = {
    ".html": "text/html; charset=utf-8",
    ".js": "text/javascript; charset=utf-8",
    ".mjs": "text/javascript; charset=utf-8",
    ".css": "text/css; charset=utf-8",
    ".json": "application/json",
    ".webmanifest": "application/manifest+json",
    ".svg": "image/svg+xml",
    ".png": "image/png",
    ".jpg": "image/jpeg",
    ".webp": "image/webp",
    ".ico": "image/vnd.microsoft.icon",
    ".woff2": "font/woff2",
    ".txt": "text/plain; charset=utf-8",
}
_ZIPPED: Final = (".html", ".js", ".mjs", ".css", ".json", ".svg", ".webmanifest", ".txt")


class _Page(msgspec.Struct, frozen=True):
    stamp: tuple[int, int]  # mtime in ns, size
    body: bytes
    zipped: bytes  # empty where it does not pay
    etag: str
    media_type: str


class Pages:
    """The files below one folder that a browser may have."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._pages: dict[str, _Page] = {}

    def find(self, path: str) -> _Page:
        """Return the file at that path of an address. Raises: Refused(not_found).

        Reads files of a few KB from the page cache: less work than a thread hop, so it is done in place.
        """
        parts = [part for part in path.split("/") if part] or ["index.html"]
        suffix = os.path.splitext(parts[-1])[1].lower()
        # Hidden files, a way out of the folder, and kinds that no page needs do not exist.
        if any(part.startswith(".") or "\\" in part or "\0" in part for part in parts) or suffix not in TYPES:
            raise Refused("not_found", "There is nothing at this address.")
        name = "/".join(parts)
        file = self._folder / name
        try:
            info = file.stat()
            if not stat.S_ISREG(info.st_mode):
                raise Refused("not_found", "There is nothing at this address.")
            stamp = (info.st_mtime_ns, info.st_size)
            page = self._pages.get(name)
            if page is None or page.stamp != stamp:
                page = self._load(file, stamp, suffix)
                if len(self._pages) < MAX_FILES:
                    self._pages[name] = page
        except OSError:
            raise Refused("not_found", "There is nothing at this address.") from None
        return page

    def _load(self, file: Path, stamp: tuple[int, int], suffix: str) -> _Page:
        body = file.read_bytes()
        zipped = gzip.compress(body, 6, mtime=0) if suffix in _ZIPPED and len(body) > 1024 else b""
        digest = hashlib.sha256(body).hexdigest()[:20]
        return _Page(stamp, body, zipped, digest, TYPES[suffix])


def page_handler(folder: Path) -> HTTPRouteHandler:
    """Make the handler of all addresses that are not the API's."""
    pages = Pages(folder)

    @route(["/", "/{path:path}"], http_method=["GET", "HEAD"], include_in_schema=False, name="pages")
    async def page(request: Request[None, None, State], path: FromPath[str] = "") -> Response[bytes]:
        found = pages.find(path)
        accepts_gzip = bool(found.zipped) and "gzip" in request.headers.get("accept-encoding", "")
        etag = f'"{found.etag}{"-gz" if accepts_gzip else ""}"'
        headers = {"etag": etag, "cache-control": "no-cache", "vary": "accept-encoding"}
        if etag in request.headers.get("if-none-match", ""):
            return Response(b"", status_code=304, headers=headers)
        if accepts_gzip:
            headers["content-encoding"] = "gzip"
        headers["content-type"] = found.media_type
        return Response(found.zipped if accepts_gzip else found.body, status_code=200, headers=headers)

    return page
