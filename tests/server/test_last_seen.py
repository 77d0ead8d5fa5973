"""When users were last here: told at once, stored together, kept while the store fails."""

from pathlib import Path

import pytest

from protocol.errors import StorageUnavailable
from protocol.records import LastSeen, Op
from server import last_seen as module
from server.last_seen import LastSeenNotes
from storage import SqliteStore, open_store


async def test_what_is_noted_is_told_at_once_and_stored_by_the_next_flush(tmp_path: Path) -> None:
    """Friends look right after somebody has gone; and a node that starts anew still knows."""
    async with open_store(tmp_path) as store:
        notes = LastSeenNotes(store)
        notes.gone("ann", 5)
        notes.gone("bob", 6)
        notes.gone("ann", 7)
        assert await notes.of(["ann", "bob", "cid"]) == {"ann": 7, "bob": 6}
        assert await store.get(LastSeen, "ann") is None
        await notes.flush()
        assert await LastSeenNotes(store).of(["ann", "bob", "cid"]) == {"ann": 7, "bob": 6}
        notes.gone("ann", 9)
        assert await notes.of(["ann"]) == {"ann": 9}  # newer than what is stored


async def test_a_crowd_that_leaves_at_once_is_stored_in_a_few_commits(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """All clients of a cut-off office: no commit for each."""
    monkeypatch.setattr(module, "_FLUSH_CHUNK", 10)
    async with open_store(tmp_path) as store:
        notes = LastSeenNotes(store)
        for number in range(95):
            notes.gone(f"user{number}", number)
        before = store.stats.append_count
        await notes.flush()
        assert store.stats.append_count - before == 10
        assert len(await notes.of([f"user{number}" for number in range(95)])) == 95


async def test_a_failing_store_is_tried_again_with_what_came_meanwhile(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A full disk for a minute must not turn "today" into "last week"."""
    async with open_store(tmp_path) as store:
        notes = LastSeenNotes(store)
        notes.gone("ann", 5)

        async def fail(_ops: list[Op]) -> None:
            notes.gone("ann", 6)
            raise StorageUnavailable("no space")

        with monkeypatch.context() as broken:
            broken.setattr(store, "commit", fail)
            await notes.flush()
        assert await notes.of(["ann"]) == {"ann": 6}
        await notes.flush()
        assert await _stored(store, "ann") == 6


async def test_who_comes_and_goes_while_it_is_written_is_written_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The newest time counts."""
    async with open_store(tmp_path) as store:
        notes = LastSeenNotes(store)
        commit = store.commit

        async def commit_late(ops: list[Op]) -> None:
            await commit(ops)
            if await _stored(store, "ann") == 5:
                notes.gone("ann", 6)

        monkeypatch.setattr(store, "commit", commit_late)
        notes.gone("ann", 5)
        await notes.flush()
        assert await _stored(store, "ann") == 6


async def test_notes_are_bounded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Promise 5: with a store that never comes back, the oldest are let go."""
    monkeypatch.setattr(module, "MAX_WAITING", 3)
    async with open_store(tmp_path) as store:
        notes = LastSeenNotes(store)
        for number in range(5):
            notes.gone(f"user{number}", number)
        assert await notes.of([f"user{number}" for number in range(5)]) == {
            "user2": 2,
            "user3": 3,
            "user4": 4,
        }


async def _stored(store: SqliteStore, user_id: str) -> int:
    row = await store.get(LastSeen, user_id)
    return 0 if row is None else row.at_ms
