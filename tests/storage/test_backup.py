"""`hubbub backup`, `restore` and `check` as an operator uses them."""

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import trio

from protocol.errors import Fenced, Refused
from protocol.records import AuthorRow, DeviceCursor, FileRow, FollowerRow, FollowRow, Mention, PostRow, Put
from storage import backup, check, open_store, restore, verify_backup
from storage.ownership import now_ms
from tests.storage.rooms import Room, change
from tests.storage.uploads import put_bytes


async def _fill(directory: Path) -> str:
    """Write a room with a file. Returns the file's hash."""
    async with open_store(directory) as store:
        room = await Room.open(store, "ann", "bob")
        for number in range(20):
            await room.say("ann", f"{number}", client_id=f"k{number}")
        stored = await put_bytes(store.files, b"a picture")
        row = FileRow(
            file_id="f",
            app_id="app",
            user_id="ann",
            sha256=stored.sha256,
            name="p.png",
            media_type="image/png",
            size_bytes=stored.size_bytes,
            at_ms=1,
        )
        await store.commit([Put(row), Put(Mention(user_id="bob", conversation_id="room", seq=4))])
        edge = FollowRow(
            user_id="bob", author_id="ann", state="following", since_ms=1, version=1, covered=True
        )
        await store.commit(
            [
                Put(PostRow(post_id=1, author_id="ann", app_id="app", at_ms=1, text="hello")),
                Put(AuthorRow(user_id="ann", app_id="app", follower_count=1, post_count=1, last_post_id=1)),
                Put(edge),
                Put(FollowerRow(author_id="ann", follower_id="bob", since_ms=1, version=1)),
            ]
        )
    return stored.sha256


async def test_a_backup_of_a_running_node_is_whole_and_consistent(tmp_path: Path) -> None:
    """The operator does not stop the node; what was acked before the backup began is in it."""
    await _fill(tmp_path / "data")
    async with open_store(tmp_path / "data") as store:
        room = await Room.open(store, "ann", name="busy")
        last = 0

        async def talk(task_status: trio.TaskStatus[None]) -> None:
            nonlocal last
            for number in range(1_000_000):
                last = (await room.say("ann", "x" * 500)).seq
                if number == 50:
                    task_status.started()

        async with trio.open_nursery() as nursery:
            await nursery.start(talk)
            acked_before = last
            script = "import sys; from storage import backup; backup(sys.argv[1], sys.argv[2])"
            arguments = ["-c", script, str(tmp_path / "data"), str(tmp_path / "copy")]
            await trio.run_process([sys.executable, *arguments], cwd=Path(__file__).parent.parent.parent)
            assert last > acked_before  # it wrote on meanwhile
            nursery.cancel_scope.cancel()
    restore(tmp_path / "copy", tmp_path / "new")
    assert check(tmp_path / "new") == []
    async with open_store(tmp_path / "new") as store:
        head = (await store.head("c:busy")).seq
        assert acked_before <= head <= last
        assert len(await store.read("c:room", after=0, limit=100)) == 21


async def test_restore_brings_everything_back_under_new_epochs(tmp_path: Path) -> None:
    """A node of the time before must not believe that a shard is still its own."""
    sha256 = await _fill(tmp_path / "data")
    manifest = backup(tmp_path / "data", tmp_path / "copy")
    assert manifest.row_count == 21
    assert [file.sha256 for file in manifest.files] == [sha256]
    assert verify_backup(tmp_path / "copy") == manifest
    async with open_store(tmp_path / "data") as store:
        room = await Room.open(store, "ann", name="later")  # after the backup, with a higher epoch
        old_epoch = room.epoch
    assert restore(tmp_path / "copy", tmp_path / "new") == manifest
    async with open_store(tmp_path / "new") as store:
        epochs = await store.claim_all("node")
        assert min(epochs.values()) > old_epoch
        stale = Room(store, old_epoch, "room", ())
        with pytest.raises(Fenced):
            await stale.say("ann")
        again = Room(store, epochs[5], "room", ())
        assert (await again.say("ann", client_id="k3")).is_duplicate
        assert (await again.say("ann", "new")).seq == 22
        assert b"".join([chunk async for chunk in store.files.read(sha256)]) == b"a picture"
    assert check(tmp_path / "new") == []
    assert verify_backup(tmp_path / "copy") == manifest  # restoring has not touched it


async def test_nothing_is_ever_overwritten(tmp_path: Path) -> None:
    await _fill(tmp_path / "data")
    backup(tmp_path / "data", tmp_path / "copy")
    with pytest.raises(Refused) as caught:
        backup(tmp_path / "data", tmp_path / "copy")
    assert caught.value.code == "already_exists"
    with pytest.raises(Refused) as caught:
        restore(tmp_path / "copy", tmp_path / "data")
    assert caught.value.code == "already_exists"
    with pytest.raises(Refused) as caught:
        backup(tmp_path / "nothing", tmp_path / "other")
    assert caught.value.code == "not_found"
    (tmp_path / "empty").mkdir()
    restore(tmp_path / "copy", tmp_path / "empty")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["copy", "data", "empty"]


@pytest.mark.parametrize(
    "spoil",
    [
        lambda copy, sha256: (copy / "manifest.json").unlink(),
        lambda copy, sha256: (copy / "manifest.json").write_text("{}"),
        lambda copy, sha256: (copy / "hubbub.db").write_bytes((copy / "hubbub.db").read_bytes()[:-1]),
        lambda copy, sha256: (copy / "hubbub.db").unlink(),
        lambda copy, sha256: _replace(copy / "files" / sha256[:2] / sha256, b"A picture"),
    ],
    ids=["no manifest", "bad manifest", "cut short", "no database", "changed file"],
)
async def test_a_damaged_backup_is_refused_and_leaves_no_directory(
    tmp_path: Path, spoil: Callable[[Path, str], object]
) -> None:
    sha256 = await _fill(tmp_path / "data")
    backup(tmp_path / "data", tmp_path / "copy")
    spoil(tmp_path / "copy", sha256)
    with pytest.raises(Refused) as caught:
        restore(tmp_path / "copy", tmp_path / "new")
    assert caught.value.code == "bad_backup"
    assert not (tmp_path / "new").exists()


def _replace(path: Path, content: bytes) -> None:
    path.unlink()  # a hard link: the original must stay
    path.write_bytes(content)


async def test_a_lost_upload_does_not_stop_a_backup(tmp_path: Path) -> None:
    sha256 = await _fill(tmp_path / "data")
    (tmp_path / "data" / "files" / sha256[:2] / sha256).unlink()
    assert backup(tmp_path / "data", tmp_path / "copy").missing_files == (sha256,)
    assert [problem.code for problem in check(tmp_path / "data")] == ["file_missing"]


ROOM = "(SELECT stream_id FROM stream WHERE name = 'c:room')"


@pytest.mark.parametrize(
    ("codes", "statement"),
    [
        (
            {"stream_gap", "message_count_wrong", "unread_wrong"},
            f"DELETE FROM log WHERE stream_id = {ROOM} AND seq = 7",
        ),
        ({"message_count_wrong"}, f"UPDATE log SET message_count = 9 WHERE stream_id = {ROOM} AND seq = 5"),
        ({"log_without_stream"}, "UPDATE stream SET stream_id = 77 WHERE name = 'c:none'"),
        ({"body_not_json"}, f"UPDATE log SET body = 'oops' WHERE stream_id = {ROOM} AND seq = 5"),
        ({"thread_without_root"}, f"UPDATE log SET thread = 1 WHERE stream_id = {ROOM} AND seq = 5"),
        ({"shard_missing"}, "DELETE FROM shard WHERE shard = 9"),
        ({"shard_head_behind"}, "UPDATE shard SET head = 20 WHERE head > 0"),
        ({"watermark_beyond_head"}, "UPDATE member SET delivered_seq = 22 WHERE user_id = 'bob'"),
        ({"read_count_wrong", "unread_wrong"}, "UPDATE member SET read_count = 3 WHERE user_id = 'bob'"),
        ({"member_without_conversation"}, "UPDATE member SET conversation_id = 'x' WHERE user_id = 'bob'"),
        ({"member_without_user"}, "DELETE FROM user_account WHERE user_id = 'bob'"),
        ({"member_count_wrong"}, "UPDATE conversation SET member_count = 3"),
        ({"state_without_message"}, "INSERT INTO message_state (conversation_id, seq) VALUES ('room', 1)"),
        ({"mention_without_message"}, "UPDATE mention SET seq = 99"),
        ({"user_without_app"}, "DELETE FROM app"),
        (
            {"session_without_user"},
            "INSERT INTO session (session_id, user_id, app_id, token_hash, created_at_ms)"
            " VALUES ('s', 'x', 'app', 'h', 1)",
        ),
        ({"post_counts_wrong"}, "INSERT INTO post_like (post_id, user_id, at_ms) VALUES (1, 'bob', 1)"),
        ({"author_counts_wrong"}, "UPDATE author SET follower_count = 2"),
        ({"follow_not_counted"}, "DELETE FROM follower"),
        (
            {"feed_too_long"},
            "INSERT INTO feed (user_id, partition, covered_from, position, upto_seq, read_at_ms, entries)"
            f" VALUES ('bob', 1, 0, 0, 0, 0, '{[1] * 801}')",
        ),
        ({"file_damaged"}, "UPDATE file SET size_bytes = 1"),
        ({"file_missing"}, f"UPDATE file SET sha256 = '{'0' * 64}'"),
    ],
)
async def test_check_finds_what_is_wrong(tmp_path: Path, codes: set[str], statement: str) -> None:
    """An operator trusts "no problems": each rule is broken here once."""
    await _fill(tmp_path)
    assert check(tmp_path) == []
    if "log_without_stream" in codes:
        statement = "INSERT INTO log (stream_id, seq, kind, at_ms, user_id, message_count, is_message, body)"
        statement += " VALUES (77, 1, 'x', 1, 'ann', 0, 0, '{}')"
    change(tmp_path, statement)
    found = check(tmp_path)
    assert codes <= {problem.code for problem in found}
    assert all(str(problem) for problem in found)


async def test_check_finds_cursors_beyond_the_head(tmp_path: Path) -> None:
    await _fill(tmp_path)
    async with open_store(tmp_path) as store:
        cursor = DeviceCursor(user_id="ann", device_id="d", stream="c:room", seq=22)
        await store.commit([Put(cursor)])
    assert {problem.code for problem in check(tmp_path)} == {"cursor_beyond_head"}


async def test_check_reports_a_damaged_or_missing_database(tmp_path: Path) -> None:
    assert [problem.code for problem in check(tmp_path)] == ["database_missing"]
    await _fill(tmp_path)
    database = tmp_path / "hubbub.db"
    content = bytearray(database.read_bytes())
    for page in range(3, len(content) // 4096, 2):
        content[page * 4096 : page * 4096 + 200] = b"\xff" * 200
    database.write_bytes(content)
    assert {problem.code for problem in check(tmp_path)} <= {"integrity", "database_unreadable"}
    assert check(tmp_path) != []
    database.write_bytes(b"no database" * 500)
    assert [problem.code for problem in check(tmp_path)] == ["database_unreadable"]


def test_leases_are_measured_by_a_clock_all_processes_share() -> None:
    """A lease written by one process is judged by another."""
    script = "from storage.ownership import now_ms; print(now_ms())"
    before = now_ms()
    told = subprocess.run(
        [sys.executable, "-c", script],
        capture_output=True,
        text=True,
        check=True,
        cwd=Path(__file__).parent.parent.parent,
    )
    assert before <= int(told.stdout) <= now_ms()
