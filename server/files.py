"""Uploaded files: what they are, whose they are, and who may read them.

The bytes go to the file store under their hash; a row gives them an unguessable id in one app. Any user of
that app who knows the id may read the file. What a file is, is told by its first bytes and never by who sent
it: pictures are opened once, sound and video are known by their magic, all else is only ever downloaded.
"""

import re
import struct
import warnings
from collections.abc import AsyncIterable, AsyncIterator, Callable
from functools import partial
from typing import Final

import msgspec
import structlog
import trio
from PIL import (
    GifImagePlugin,
    Image,
    JpegImagePlugin,
    PngImagePlugin,
    UnidentifiedImageError,
    WebPImagePlugin,
)

from protocol.errors import Refused, Unavailable
from protocol.records import FileRow, Insert
from server import auth
from server.clock import wall_clock_ms
from server.identity import Identity
from server.ratelimit import Rate, TokenBucket
from storage.files import FileStore
from storage.store import Store

MAX_PIXELS: Final = 50_000_000  # 200 MB once decoded; the best phones take 50 megapixels
MAX_SIDE_PIXELS: Final = 20_000
MAX_FRAMES: Final = 2_000  # of an animation
MAX_UPLOADS: Final = 64  # at once; each holds up to 2 MB of buffers
DAILY_BYTES: Final = 2 * (1 << 30)  # uploads of one user in a day: no client fills the disk over night
MAX_NAME_CHARS: Final = 200
PICTURE_TYPES: Final = {
    "PNG": "image/png",
    "JPEG": "image/jpeg",
    "MPO": "image/jpeg",  # what some phones make of a JPEG
    "GIF": "image/gif",
    "WEBP": "image/webp",
}
# Only these parsers ever see what strangers send; naming the modules loads them.
PICTURE_FORMATS: Final = (
    PngImagePlugin.PngImageFile.format,
    JpegImagePlugin.JpegImageFile.format,
    GifImagePlugin.GifImageFile.format,
    WebPImagePlugin.WebPImageFile.format,
)
ORIENTATION_TAG: Final = 0x0112  # EXIF 2.3 section 4.6.4
SIDEWAYS: Final = (5, 6, 7, 8)
# What Pillow raises of damaged files, by its documentation and by experience.
UNREADABLE: Final = (
    UnidentifiedImageError,
    Image.DecompressionBombError,
    OSError,
    SyntaxError,
    ValueError,
    KeyError,
    EOFError,
    struct.error,
)
# Shown in place: nothing in them can run.
INLINE_TYPES: Final = frozenset(
    {*PICTURE_TYPES.values(), "video/mp4", "video/webm", "audio/mpeg", "audio/ogg", "audio/wav", "audio/mp4"}
)
_MEDIA_TYPE: Final = re.compile(r"(application|audio|font|image|model|text|video)/[a-z0-9][a-z0-9.+_-]{0,60}")
# A browser would run what is in them; under this server's address that would be our page's right.
_ACTIVE: Final = re.compile(r"html|xml|svg|script|ecma|flash|pdf\+|wasm|mhtml|multipart|message")

log: structlog.stdlib.BoundLogger = structlog.get_logger("files")


class _Kind(msgspec.Struct, frozen=True):
    media_type: str
    width: int = 0
    height: int = 0


class Files:
    """Keep uploads and hand them out."""

    def __init__(
        self,
        store: Store,
        blobs: FileStore,
        *,
        max_file_bytes: int,
        daily_bytes: int = DAILY_BYTES,
        clock: Callable[[], int] = wall_clock_ms,
    ) -> None:
        self.max_file_bytes = max_file_bytes
        self._store = store
        self._blobs = blobs
        self._clock = clock
        self._quota = Rate(daily_bytes / 86_400, float(max(daily_bytes, max_file_bytes)))
        self._quotas: dict[str, TokenBucket] = {}
        self._upload_count = 0
        self._picture_limiter = trio.CapacityLimiter(2)  # at worst half of two cores

    async def save(
        self,
        identity: Identity,
        name: str,
        declared_type: str,
        chunks: AsyncIterable[bytes],
        *,
        size_hint_bytes: int | None = None,
    ) -> FileRow:
        """Store a stream as a file of the user's app.

        Raises: Refused(file_too_large, bad_image); Unavailable(overloaded, rate_limited); StorageUnavailable.
        """
        if size_hint_bytes is not None and size_hint_bytes > self.max_file_bytes:
            raise Refused("file_too_large", f"A file may have {self.max_file_bytes} bytes at most.")
        if self._upload_count >= MAX_UPLOADS:
            raise Unavailable("overloaded", "Too many uploads at once.", retry_after_s=5.0)
        bucket = self._bucket(identity.user_id)
        reserved = float(self.max_file_bytes if size_hint_bytes is None else size_hint_bytes)
        now = trio.current_time()
        if not bucket.take(now, reserved):
            wait_s = bucket.retry_after_s(now, reserved)
            raise Unavailable("rate_limited", "Too much was uploaded today.", retry_after_s=max(wait_s, 1.0))
        used = 0.0
        self._upload_count += 1
        try:
            stored = await self._blobs.put(chunks, max_bytes=self.max_file_bytes)
            used = float(stored.size_bytes)
            kind = await trio.to_thread.run_sync(
                partial(look_at, str(self._blobs.path_of(stored.sha256)), declared_type),
                limiter=self._picture_limiter,
            )
        finally:
            self._upload_count -= 1
            bucket.take(trio.current_time(), used - reserved)  # taking less than nothing gives back
        row = FileRow(
            file_id=auth.new_id("f"),
            app_id=identity.app_id,
            user_id=identity.user_id,
            sha256=stored.sha256,
            name=tidy_file_name(name),
            media_type=kind.media_type,
            size_bytes=stored.size_bytes,
            width=kind.width,
            height=kind.height,
            at_ms=self._clock(),
        )
        await self._store.commit([Insert(row)])
        log.info("file_stored", file_id=row.file_id, user_id=row.user_id, size_bytes=row.size_bytes)
        return row

    def _bucket(self, user_id: str) -> TokenBucket:
        bucket = self._quotas.pop(user_id, None)
        if bucket is None:
            bucket = TokenBucket(self._quota, trio.current_time())
            while len(self._quotas) >= 20_000:
                del self._quotas[next(iter(self._quotas))]
        self._quotas[user_id] = bucket
        return bucket

    async def find(self, app_id: str, file_id: str) -> FileRow:
        """Raises: Refused(file_not_found), for files of other apps as well."""
        row = await self._store.get(FileRow, file_id)
        if row is None or row.app_id != app_id:
            raise Refused("file_not_found")
        return row

    def read(self, row: FileRow, start: int, length: int) -> AsyncIterator[bytes]:
        """Yield a part of a file; close the iterator. Raises: Refused(file_not_found)."""
        return self._blobs.read(row.sha256, start=start, length=length)


def tidy_file_name(raw: str) -> str:
    """The last part of a path, without what a terminal or a file system would stumble over."""
    name = re.split(r"[/\\]", raw)[-1]
    name = "".join(char if char.isprintable() else "_" for char in name).strip(" .")
    if len(name) > MAX_NAME_CHARS:  # the ending says what opens it
        stem, dot, ending = name.rpartition(".")
        ending = dot + ending if stem and len(ending) <= 12 else ""
        name = name[: MAX_NAME_CHARS - len(ending)] + ending
    return name or "file"


def look_at(path: str, declared_type: str) -> _Kind:
    """Tell what a file is. Blocks; for a thread. Raises: Refused(bad_image)."""
    with open(path, "rb") as file:
        head = file.read(64)
    declared = declared_type.partition(";")[0].strip().lower()
    if _is_picture(head):
        return _look_at_picture(path)
    if declared in PICTURE_TYPES.values():
        raise Refused(
            "bad_image", f"This is sent as {declared}, but it is no PNG, JPEG, GIF or WebP picture."
        )
    sniffed = _sniff(head)
    if sniffed:
        return _Kind(sniffed)
    if _MEDIA_TYPE.fullmatch(declared) and declared not in INLINE_TYPES and not _ACTIVE.search(declared):
        return _Kind(declared)
    return _Kind("application/octet-stream")


def _is_picture(head: bytes) -> bool:
    return (
        head.startswith((b"\x89PNG\r\n\x1a\n", b"\xff\xd8\xff", b"GIF87a", b"GIF89a"))
        or (head[:4] == b"RIFF" and head[8:12] == b"WEBP")
    )  # fmt: skip


def _sniff(head: bytes) -> str:
    if head[4:8] == b"ftyp":
        return "audio/mp4" if head[8:11] == b"M4A" else "video/mp4"
    if head.startswith(b"\x1a\x45\xdf\xa3") and b"webm" in head:
        return "video/webm"
    if head.startswith(b"OggS"):
        return "audio/ogg"
    if head.startswith((b"ID3", b"\xff\xfb", b"\xff\xf3", b"\xff\xf2")):
        return "audio/mpeg"
    if head[:4] == b"RIFF" and head[8:12] == b"WAVE":
        return "audio/wav"
    if head.startswith(b"%PDF-"):
        return "application/pdf"
    return "application/zip" if head.startswith(b"PK\x03\x04") else ""


def _look_at_picture(path: str) -> _Kind:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # its own limit on pixels; ours is stricter
            with _opened(path) as image:
                _check_size(*image.size)
                media_type = PICTURE_TYPES[image.format or ""]
                image.verify()
            with _opened(path) as image:  # verify leaves nothing to be read
                width, height = image.size
                if media_type == "image/gif" and getattr(image, "n_frames", 1) > MAX_FRAMES:
                    raise Refused("bad_image", f"An animation may have {MAX_FRAMES} pictures at most.")
                # As it is shown: phones store the picture as the sensor lay and say how to turn it.
                # (Of a PNG this would decode all pixels.)
                if media_type == "image/jpeg" and image.getexif().get(ORIENTATION_TAG, 1) in SIDEWAYS:
                    width, height = height, width
    except UNREADABLE as exc:
        raise Refused("bad_image", "The picture is damaged, or of a kind that is not accepted.") from exc
    return _Kind(media_type, width, height)


def _opened(path: str) -> Image.Image:
    return Image.open(path, formats=PICTURE_FORMATS)


def _check_size(width: int, height: int) -> None:
    if width * height > MAX_PIXELS or max(width, height) > MAX_SIDE_PIXELS:
        megapixels = MAX_PIXELS // 1_000_000
        raise Refused("bad_image", f"A picture may have {megapixels} megapixels at most.")
