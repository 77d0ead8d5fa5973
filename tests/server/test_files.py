"""What an upload is taken for, and how much of it one user may store."""

import io
from collections.abc import AsyncIterator
from pathlib import Path

import msgspec
import pytest
import trio
from PIL import Image

from protocol.errors import HubbubError, Refused
from protocol.records import FileRow, User
from server import files as module
from server.files import Files, look_at, tidy_file_name
from server.identity import Identity
from storage.sqlite import open_store

ANN = Identity(
    user=User(
        user_id="u_ann",
        app_id="default",
        username="ann",
        username_key="ann",
        name="Ann",
        name_key="ann",
        created_at_ms=1,
    ),
    app_id="default",
    session_id="s_1",
)


async def chunks(*parts: bytes) -> AsyncIterator[bytes]:
    for part in parts:
        yield part


async def test_a_user_who_fills_the_disk_is_stopped_and_others_are_not(tmp_path: Path) -> None:
    """Operators: a limit for each file alone does not bound a disk."""
    async with open_store(tmp_path) as store:
        files = Files(store, store.files, max_file_bytes=1000, daily_bytes=2500)
        for number in range(2):
            await files.save(ANN, "a", "", chunks(bytes([number]) * 1000))
        await files.save(ANN, "a", "", chunks(b"small"), size_hint_bytes=5)  # only what it takes is counted
        with pytest.raises(HubbubError) as error:
            await files.save(ANN, "a", "", chunks(b"x" * 900), size_hint_bytes=900)
        assert error.value.code == "rate_limited"
        assert (error.value.retry_after_s or 0) > 1000
        await files.save(ANN, "a", "", chunks(b"y" * 400), size_hint_bytes=400)
        bob = msgspec.structs.replace(ANN, user=msgspec.structs.replace(ANN.user, user_id="u_bob"))
        await files.save(bob, "a", "", chunks(b"x" * 900), size_hint_bytes=900)


async def test_an_upload_that_fails_costs_its_user_nothing(tmp_path: Path) -> None:
    """Users with a bad line."""
    async with open_store(tmp_path) as store:
        files = Files(store, store.files, max_file_bytes=1000, daily_bytes=1000)

        async def broken() -> AsyncIterator[bytes]:
            yield b"x" * 500
            raise Refused("bad_request")

        for _ in range(3):
            with pytest.raises(Refused):
                await files.save(ANN, "a", "", broken())
        await files.save(ANN, "a", "", chunks(b"x" * 1000))
        assert len(await store.find(FileRow, {})) == 1


async def test_uploads_at_once_are_bounded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The node's memory."""
    monkeypatch.setattr(module, "MAX_UPLOADS", 1)
    async with open_store(tmp_path) as store:
        files = Files(store, store.files, max_file_bytes=1000)
        begun, go_on = trio.Event(), trio.Event()

        async def slow() -> AsyncIterator[bytes]:
            begun.set()
            await go_on.wait()
            yield b"slow"

        async with trio.open_nursery() as nursery:
            nursery.start_soon(files.save, ANN, "a", "", slow())
            await begun.wait()
            with pytest.raises(HubbubError) as error:
                await files.save(ANN, "b", "", chunks(b"fast"))
            assert error.value.code == "overloaded"
            go_on.set()
        await files.save(ANN, "b", "", chunks(b"fast"))


@pytest.mark.parametrize(
    ("content", "declared", "media_type"),
    [
        (b"\0\0\0\x18ftypmp42", "", "video/mp4"),
        (b"\0\0\0\x18ftypM4A ", "text/html", "audio/mp4"),
        (b"\x1a\x45\xdf\xa3....webm", "", "video/webm"),
        (b"OggS", "", "audio/ogg"),
        (b"ID3\x03", "", "audio/mpeg"),
        (b"RIFF....WAVE", "", "audio/wav"),
        (b"%PDF-1.7", "", "application/pdf"),
        (b"PK\x03\x04", "", "application/zip"),
        (b"text", "text/plain; charset=utf-8", "text/plain"),
        (b"text", "TEXT/CSV", "text/csv"),
        (b"not a video", "video/mp4", "application/octet-stream"),
        (b"<svg/>", "image/svg+xml", "application/octet-stream"),
        (b"<x/>", "application/xml", "application/octet-stream"),
        (b"x", "no type at all", "application/octet-stream"),
        (b"", "", "application/octet-stream"),
    ],
)
def test_a_file_is_what_its_first_bytes_say(
    tmp_path: Path, content: bytes, declared: str, media_type: str
) -> None:
    """Everybody who opens it."""
    path = tmp_path / "file"
    path.write_bytes(content)
    assert look_at(str(path), declared).media_type == media_type


def test_a_photo_is_measured_as_it_is_shown(tmp_path: Path) -> None:
    """The page, which reserves its room: phones store portraits lying down."""
    out = io.BytesIO()
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.new("RGB", (40, 30)).save(out, "JPEG", exif=exif)
    path = tmp_path / "file"
    path.write_bytes(out.getvalue())
    kind = look_at(str(path), "")
    assert (kind.width, kind.height) == (30, 40)


@pytest.mark.parametrize(
    ("raw", "tidy"),
    [
        ("a.txt", "a.txt"),
        ("../../etc/passwd", "passwd"),
        ("C:\\Users\\ann\\photo.jpg", "photo.jpg"),
        ("a\r\nb.txt", "a__b.txt"),
        ("", "file"),
        ("...", "file"),
        ("résumé 2.pdf", "résumé 2.pdf"),
        ("x" * 300 + ".jpeg", "x" * 195 + ".jpeg"),
        ("x" * 300, "x" * 200),
    ],
)
def test_a_file_name_loses_what_would_make_trouble(raw: str, tidy: str) -> None:
    """Those who save it."""
    assert tidy_file_name(raw) == tidy
