"""Uploads that are in memory already."""

from collections.abc import AsyncIterator

from storage.files import FileStore, StoredFile


async def put_bytes(store: FileStore, content: bytes) -> StoredFile:
    """Store these bytes as an upload that is just as long as it may be."""

    async def whole() -> AsyncIterator[bytes]:
        yield content

    return await store.put(whole(), max_bytes=len(content))
