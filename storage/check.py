"""Verify a data directory without changing it: `hubbub check`.

Everything that must hold between the rows is worked out again from scratch. It may run beside a node: it
reads one state of the database (WAL), and keeps the WAL from being reused meanwhile.
"""

import sqlite3
from bisect import bisect_right
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any, Final

import msgspec

from storage.files import sha256_of
from storage.migrations import pending_steps
from storage.queries import conversation_line
from storage.reader import open_read_only

DATABASE_NAME: Final = "hubbub.db"
FILES_NAME: Final = "files"
_MAX_SHOWN: Final = 5  # of each kind; the count tells the rest


class Problem(msgspec.Struct, frozen=True):
    """One thing that is wrong. `code` is stable; `count` says how often; `examples` are some of the
    places.
    """

    code: str
    message: str
    count: int = 1
    examples: tuple[str, ...] = ()

    def __str__(self) -> str:
        places = f" ({', '.join(self.examples)}{', …' if self.count > len(self.examples) else ''})"
        return f"{self.code}: {self.message}: {self.count}{places if self.examples else ''}"


# code -> what it means, and a query for the places where it is so.
_RULES: Final[dict[str, tuple[str, str]]] = {
    "log_without_stream": (
        "Log rows of a stream that does not exist",
        "SELECT lsn FROM log WHERE stream_id NOT IN (SELECT stream_id FROM stream)",
    ),
    "stream_gap": (
        "Streams whose seq does not run from 1 (or from where feeds and ledgers were trimmed) without a gap",
        "SELECT s.name FROM log l JOIN stream s USING (stream_id) GROUP BY l.stream_id"
        " HAVING (min(l.seq) <> 1 AND substr(s.name, 1, 2) NOT IN ('f:', 'n:'))"
        " OR max(l.seq) - min(l.seq) + 1 <> count(*)",
    ),
    "message_count_wrong": (
        "Log rows whose message_count is not the number of messages so far",
        "SELECT s.name || ' ' || n.seq FROM (SELECT stream_id, seq, message_count,"
        " sum(is_message) OVER (PARTITION BY stream_id ORDER BY seq) AS counted FROM log) n"
        " JOIN stream s USING (stream_id) WHERE n.counted <> n.message_count",
    ),
    "client_id_repeated": (
        "Sends that are stored more than once",
        "SELECT s.name || ' ' || l.user_id || ' ' || l.client_id FROM log l JOIN stream s USING (stream_id)"
        " WHERE l.client_id IS NOT NULL GROUP BY l.stream_id, l.user_id, l.client_id HAVING count(*) > 1",
    ),
    "body_not_json": (
        "Log rows whose body is not JSON",
        "SELECT s.name || ' ' || l.seq FROM log l JOIN stream s USING (stream_id)"
        " WHERE NOT json_valid(l.body)",
    ),
    "thread_without_root": (
        "Replies in the thread of a message that does not exist before them",
        "SELECT s.name || ' ' || l.seq FROM log l JOIN stream s USING (stream_id) WHERE l.thread IS NOT NULL"
        " AND s.name NOT LIKE 'n:%' AND NOT EXISTS (SELECT 1 FROM log r WHERE r.stream_id = l.stream_id"
        " AND r.seq = l.thread"
        " AND r.is_message = 1 AND r.seq < l.seq)",
    ),
    "shard_missing": (
        "Shards without a row",
        "WITH RECURSIVE n(i) AS (SELECT 0 UNION ALL SELECT i + 1 FROM n WHERE i < 255)"
        " SELECT i FROM n WHERE i NOT IN (SELECT shard FROM shard)",
    ),
    "shard_head_behind": (
        "Shards whose head is less than the rows they have",
        "SELECT h.shard FROM shard h JOIN (SELECT s.shard, count(*) AS row_count FROM log l"
        " JOIN stream s USING (stream_id) GROUP BY s.shard) n USING (shard) WHERE h.head < n.row_count",
    ),
    "watermark_beyond_head": (
        "Members who have received or read what does not exist",
        "SELECT m.conversation_id || ' ' || m.user_id FROM member m"
        " WHERE max(m.read_seq, m.delivered_seq) > ("
        "SELECT coalesce(max(l.seq), 0) FROM stream s JOIN log l USING (stream_id)"
        " WHERE s.name = 'c:' || m.conversation_id)",
    ),
    "read_count_wrong": (
        "Members whose read_count is not the message_count at their read_seq",
        "SELECT m.conversation_id || ' ' || m.user_id FROM member m WHERE m.read_count <> coalesce(("
        "SELECT l.message_count FROM stream s JOIN log l USING (stream_id)"
        " WHERE s.name = 'c:' || m.conversation_id AND l.seq <= m.read_seq ORDER BY l.seq DESC LIMIT 1), 0)",
    ),
    "member_without_conversation": (
        "Memberships of a conversation that does not exist",
        "SELECT conversation_id || ' ' || user_id FROM member"
        " WHERE conversation_id NOT IN (SELECT conversation_id FROM conversation)",
    ),
    "member_without_user": (
        "Memberships of a user who does not exist",
        "SELECT conversation_id || ' ' || user_id FROM member"
        " WHERE user_id NOT IN (SELECT user_id FROM user_account)",
    ),
    "member_count_wrong": (
        "Conversations whose member_count is not the number of members",
        "SELECT c.conversation_id FROM conversation c WHERE c.member_count <>"
        " (SELECT count(*) FROM member m WHERE m.conversation_id = c.conversation_id)",
    ),
    "state_without_message": (
        "Edits, reactions or deletions of a message that does not exist",
        "SELECT m.conversation_id || ' ' || m.seq FROM message_state m"
        " WHERE NOT EXISTS (SELECT 1 FROM stream s JOIN log l USING (stream_id)"
        " WHERE s.name = 'c:' || m.conversation_id AND l.seq = m.seq AND l.is_message = 1)",
    ),
    "mention_without_message": (
        "Mentions in a message that does not exist or was deleted",
        "SELECT n.conversation_id || ' ' || n.seq FROM mention n WHERE NOT EXISTS (SELECT 1 FROM stream s"
        " JOIN log l USING (stream_id) WHERE s.name = 'c:' || n.conversation_id AND l.seq = n.seq"
        " AND l.is_message = 1) OR EXISTS (SELECT 1 FROM message_state d WHERE d.deleted_at_ms > 0"
        " AND d.conversation_id = n.conversation_id AND d.seq = n.seq)",
    ),
    "cursor_beyond_head": (
        "Devices that hold what does not exist",
        "SELECT d.user_id || ' ' || d.device_id || ' ' || d.stream FROM device_cursor d WHERE d.seq > ("
        "SELECT coalesce(max(l.seq), 0) FROM stream s JOIN log l USING (stream_id) WHERE s.name = d.stream)",
    ),
    "post_counts_wrong": (
        "Posts whose counts are not the number of their likes, comments and reposts",
        "SELECT p.post_id FROM post p LEFT JOIN post_counts c USING (post_id) WHERE coalesce(c.likes, 0) <>"
        " (SELECT count(*) FROM post_like l WHERE l.post_id = p.post_id) OR coalesce(c.comments, 0) <>"
        " (SELECT count(*) FROM comment m WHERE m.post_id = p.post_id AND m.deleted_at_ms = 0)"
        " OR coalesce(c.reposts, 0) <> (SELECT count(*) FROM repost r WHERE r.post_id = p.post_id)",
    ),
    "author_counts_wrong": (
        "Authors whose counts are not the number of their followers and posts",
        "SELECT a.user_id FROM author a WHERE a.follower_count <>"
        " (SELECT count(*) FROM follower f WHERE f.author_id = a.user_id) OR a.post_count <>"
        " (SELECT count(*) FROM post p WHERE p.author_id = a.user_id AND p.deleted_at_ms = 0)",
    ),
    "follow_not_counted": (
        "Follows that are covered and that their author does not know of",
        "SELECT f.user_id || ' ' || f.author_id FROM follow f WHERE f.covered = 1 AND f.state = 'following'"
        " AND NOT EXISTS (SELECT 1 FROM follower r WHERE r.author_id = f.author_id"
        " AND r.follower_id = f.user_id)",
    ),
    "feed_too_long": (
        "Feeds with more than 800 entries, or with entries that cannot be read",
        "SELECT user_id FROM feed WHERE CASE WHEN json_valid(entries) THEN json_array_length(entries) > 800"
        " ELSE 1 END",
    ),
    "session_without_user": (
        "Sessions of a user who does not exist",
        "SELECT session_id FROM session WHERE user_id NOT IN (SELECT user_id FROM user_account)",
    ),
    "user_without_app": (
        "Users of an app that does not exist",
        "SELECT user_id FROM user_account WHERE app_id NOT IN (SELECT app_id FROM app)",
    ),
}


def check(directory: str | Path) -> list[Problem]:
    """Verify database and files. Returns what is wrong; nothing is changed.

    Blocks for as long as it takes to read everything once: call it in a thread or a process of its own.
    """
    directory = Path(directory)
    database = directory / DATABASE_NAME
    if not database.exists():
        return [Problem("database_missing", f"There is no {DATABASE_NAME} in {directory}")]
    try:
        with closing(open_read_only(database)) as connection:
            connection.execute("BEGIN")
            return [*_check_database(connection), *_check_files(connection, directory / FILES_NAME)]
    except sqlite3.Error as exc:
        return [Problem("database_unreadable", f"{database} cannot be read: {exc}")]


def _check_database(connection: sqlite3.Connection) -> Iterator[Problem]:
    broken = [str(row[0]) for row in connection.execute("PRAGMA integrity_check(100)") if row[0] != "ok"]
    if broken:
        yield Problem(
            "integrity", "SQLite finds the database damaged", len(broken), tuple(broken[:_MAX_SHOWN])
        )
        return
    pending = pending_steps(connection)
    if pending:
        yield Problem(
            "schema_outdated",
            "The tables are older than this release; start a node once to bring them up to date",
            len(pending),
            tuple(pending),
        )
        return
    for code, (message, sql) in _RULES.items():
        yield from _problem(code, message, (str(row[0]) for row in connection.execute(sql)))
    yield from _problem(
        "unread_wrong",
        "Members whose unread count differs from the messages counted one by one",
        _wrong_unread(connection),
    )


def _wrong_unread(connection: sqlite3.Connection) -> Iterator[str]:
    """Count each member's unread messages from the log alone, and compare with what lists show."""
    conversations = connection.execute("SELECT DISTINCT conversation_id FROM member").fetchall()
    for (conversation_id,) in conversations:
        present = [
            seq
            for (seq,) in connection.execute(
                "SELECT l.seq FROM stream s JOIN log l USING (stream_id) WHERE s.name = ?"
                " AND l.is_message = 1 AND l.seq NOT IN (SELECT seq FROM message_state"
                " WHERE conversation_id = ? AND deleted_at_ms > 0) ORDER BY l.seq",
                (f"c:{conversation_id}", conversation_id),
            )
        ]
        members = connection.execute(
            "SELECT user_id, read_seq FROM member WHERE conversation_id = ?", (conversation_id,)
        )
        for user_id, read_seq in members.fetchall():
            counted = len(present) - bisect_right(present, read_seq)
            line = conversation_line(connection, user_id, conversation_id)
            if line is not None and line.unread != counted:
                yield f"{conversation_id} {user_id}: {line.unread}, not {counted}"


def _check_files(connection: sqlite3.Connection, folder: Path) -> Iterator[Problem]:
    missing, damaged = [], []
    if not _has_table(connection, "file"):
        return
    for sha256, size_bytes in connection.execute("SELECT DISTINCT sha256, size_bytes FROM file").fetchall():
        path = folder / sha256[:2] / sha256
        if not path.exists():
            missing.append(sha256)
        elif path.stat().st_size != size_bytes or sha256_of(path) != sha256:
            damaged.append(sha256)
    yield from _problem("file_missing", "Files that were uploaded but are not in the folder", iter(missing))
    yield from _problem("file_damaged", "Files whose content is not what was uploaded", iter(damaged))


def _problem(code: str, message: str, places: Iterator[str]) -> Iterator[Problem]:
    count, examples = 0, []
    for place in places:
        count += 1
        if count <= _MAX_SHOWN:
            examples.append(place)
    if count:
        yield Problem(code, message, count, tuple(examples))


def _has_table(connection: sqlite3.Connection, name: str) -> bool:
    found: Any = connection.execute(
        "SELECT 1 FROM sqlite_master WHERE type = 'table' AND name = ?", (name,)
    ).fetchone()
    return found is not None
