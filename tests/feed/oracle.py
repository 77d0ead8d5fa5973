"""What every feed must show, straight by SQL over tables of who follows whom and who posted what.

No caches, no fan-out, no cursors: one query per page, short enough to be judged by reading it. Whoever drives
a node tells the oracle the same operations and compares what both say. Ids and times, which the node alone
can know, it takes from the node's answers.
"""

import sqlite3
from collections.abc import Iterable, Sequence
from typing import Final

import msgspec

HOUR_MS: Final = 3_600_000
DAY_MS: Final = 24 * HOUR_MS
SEEN_MS: Final = 48 * HOUR_MS  # a repost of what its reader got from the author so lately is left out
HIDDEN_MS: Final = 14 * DAY_MS  # "not interested" in an author or a hashtag hides for so long
POST_HIDDEN_MS: Final = 154 * DAY_MS  # and in a single post

_SCHEMA: Final = """
CREATE TABLE user (user_id TEXT PRIMARY KEY, is_private INTEGER NOT NULL DEFAULT 0);
CREATE TABLE follow (user_id TEXT, author_id TEXT, state TEXT NOT NULL, PRIMARY KEY (user_id, author_id));
CREATE TABLE block (user_id TEXT, other_id TEXT, PRIMARY KEY (user_id, other_id));
CREATE TABLE mute (user_id TEXT, other_id TEXT, PRIMARY KEY (user_id, other_id));
CREATE TABLE interest (
    user_id TEXT, kind TEXT, target TEXT, since_ms INTEGER NOT NULL, PRIMARY KEY (user_id, kind, target)
);
CREATE TABLE post (
    post_id INTEGER PRIMARY KEY, author_id TEXT NOT NULL, at_ms INTEGER NOT NULL, text TEXT NOT NULL,
    visibility TEXT NOT NULL, repost_of INTEGER NOT NULL DEFAULT 0, is_deleted INTEGER NOT NULL DEFAULT 0
);
CREATE TABLE tag (post_id INTEGER, hashtag TEXT, PRIMARY KEY (post_id, hashtag));
CREATE TABLE post_like (post_id INTEGER, user_id TEXT, PRIMARY KEY (post_id, user_id));
CREATE TABLE comment (
    comment_id INTEGER PRIMARY KEY, post_id INTEGER NOT NULL, user_id TEXT NOT NULL, text TEXT NOT NULL,
    parent_id INTEGER NOT NULL, is_deleted INTEGER NOT NULL DEFAULT 0
);
"""

_FOLLOWS_ROOT: Final = (
    "EXISTS (SELECT 1 FROM follow f WHERE f.user_id = :v AND f.author_id = r.author_id"
    " AND f.state = 'following')"
)
# Why an entry `e` (and what it repeats: `r`, by `ru`) is not in the feed of :v. All but NULL and 0 counts.
_REASONS: Final[dict[str, str]] = {
    "deleted": "e.is_deleted OR r.is_deleted",
    "not_followed": (
        "e.author_id <> :v AND NOT EXISTS (SELECT 1 FROM follow f WHERE f.user_id = :v"
        " AND f.author_id = e.author_id AND f.state = 'following')"
    ),
    "blocked": (
        "EXISTS (SELECT 1 FROM block b WHERE (b.user_id = :v AND b.other_id IN (e.author_id, r.author_id))"
        " OR (b.other_id = :v AND b.user_id IN (e.author_id, r.author_id)))"
    ),
    "muted": (
        "EXISTS (SELECT 1 FROM mute m WHERE m.user_id = :v AND m.other_id IN (e.author_id, r.author_id))"
    ),
    "not_visible": (
        f"r.author_id <> :v AND (r.visibility <> 'public' OR ru.is_private) AND NOT {_FOLLOWS_ROOT}"
    ),
    "seen_from_author": (
        f"e.author_id <> :v AND e.at_ms - r.at_ms < {SEEN_MS} AND (r.author_id = :v OR {_FOLLOWS_ROOT})"
    ),
    "not_interested": (
        "EXISTS (SELECT 1 FROM interest i WHERE i.user_id = :v AND ("
        f" (i.kind = 'post' AND :now - i.since_ms < {POST_HIDDEN_MS}"
        "   AND CAST(i.target AS INTEGER) IN (e.post_id, r.post_id))"
        f" OR (i.kind = 'author' AND :now - i.since_ms < {HIDDEN_MS}"
        "   AND i.target IN (e.author_id, r.author_id))"
        f" OR (i.kind = 'hashtag' AND :now - i.since_ms < {HIDDEN_MS}"
        "   AND EXISTS (SELECT 1 FROM tag t WHERE t.hashtag = i.target"
        "     AND t.post_id IN (e.post_id, r.post_id)))"
        "))"
    ),
}
_FROM: Final = (
    "FROM post e LEFT JOIN post r ON r.post_id = e.repost_of LEFT JOIN user ru ON ru.user_id = r.author_id"
)
_IN_FEED: Final = " AND ".join(f"NOT COALESCE(({test}), 0)" for test in _REASONS.values())
_ENTRY: Final = "e.post_id, e.author_id, e.text, e.repost_of, r.author_id, r.text"
_PAGE: Final = (
    f"SELECT {_ENTRY} {_FROM} WHERE e.post_id < :before AND {_IN_FEED} ORDER BY e.post_id DESC LIMIT :limit"
)
_PAGE_UP: Final = (
    f"SELECT {_ENTRY} {_FROM} WHERE e.post_id > :after AND {_IN_FEED} ORDER BY e.post_id LIMIT :limit"
)
_VERDICTS: Final = ", ".join(f"COALESCE(({test}), 0)" for test in _REASONS.values())
_WHY_NOT: Final = f"SELECT {_VERDICTS} {_FROM} WHERE e.post_id = :post"
_FROM_THE_TOP: Final = 2**53


class Shown(msgspec.Struct, frozen=True):
    """One entry as its reader must see it. Of a repost, `root_*` is what it repeats."""

    post_id: int
    author_id: str
    text: str
    root_id: int = 0
    root_author_id: str = ""
    root_text: str = ""


class Counts(msgspec.Struct, frozen=True):
    """What is counted of a post."""

    likes: int
    comments: int
    reposts: int


class Oracle:
    """The truth about one app's feeds. Not thread-safe; nothing here checks what a node should refuse."""

    def __init__(self, user_ids: Iterable[str] = ()) -> None:
        # The thread that makes it need not be the one that uses it; there is one at a time.
        self._db = sqlite3.connect(":memory:", isolation_level=None, check_same_thread=False)
        self._db.executescript(_SCHEMA)
        self._db.executemany("INSERT INTO user (user_id) VALUES (?)", [(user_id,) for user_id in user_ids])

    def close(self) -> None:
        self._db.close()

    # -- operations ---------------------------------------------------------------------------------

    def set_private(self, user_id: str, is_private: bool) -> None:
        """Whoever asked to follow is let in when the account becomes public."""
        self._do("UPDATE user SET is_private = ? WHERE user_id = ?", is_private, user_id)
        if not is_private:
            self._do("UPDATE follow SET state = 'following' WHERE author_id = ?", user_id)

    def follow(self, user_id: str, author_id: str) -> None:
        """A private author is asked first; an edge that is there stays as it is."""
        state = "requested" if self.is_private(author_id) else "following"
        self._do("INSERT OR IGNORE INTO follow VALUES (?, ?, ?)", user_id, author_id, state)

    def unfollow(self, user_id: str, author_id: str) -> None:
        self._do("DELETE FROM follow WHERE user_id = ? AND author_id = ?", user_id, author_id)

    def answer(self, author_id: str, user_id: str, accept: bool) -> None:
        """Answer a request; a declined one is as if it had not been made."""
        if accept:
            self._do(
                "UPDATE follow SET state = 'following' WHERE user_id = ? AND author_id = ?",
                *(user_id, author_id),
            )
        else:
            self.unfollow(user_id, author_id)

    def block(self, user_id: str, other_id: str) -> None:
        """Neither follows the other any more, also after the block was lifted."""
        self._do("INSERT OR IGNORE INTO block VALUES (?, ?)", user_id, other_id)
        self.unfollow(user_id, other_id)
        self.unfollow(other_id, user_id)

    def unblock(self, user_id: str, other_id: str) -> None:
        self._do("DELETE FROM block WHERE user_id = ? AND other_id = ?", user_id, other_id)

    def mute(self, user_id: str, other_id: str, muted: bool) -> None:
        if muted:
            self._do("INSERT OR IGNORE INTO mute VALUES (?, ?)", user_id, other_id)
        else:
            self._do("DELETE FROM mute WHERE user_id = ? AND other_id = ?", user_id, other_id)

    def set_interest(self, user_id: str, kind: str, target: str, since_ms: int) -> None:
        """The user is not interested in that since then; `target` is a post_id, a user_id or a hashtag."""
        self._do("INSERT OR REPLACE INTO interest VALUES (?, ?, ?, ?)", user_id, kind, target, since_ms)

    def take_interest_back(self, user_id: str, kind: str, target: str) -> None:
        self._do("DELETE FROM interest WHERE user_id = ? AND kind = ? AND target = ?", user_id, kind, target)

    def post(
        self,
        post_id: int,
        author_id: str,
        at_ms: int,
        text: str = "",
        *,
        visibility: str = "public",
        hashtags: Sequence[str] = (),
        repost_of: int = 0,
    ) -> None:
        """A post, or with `repost_of` (never a repost itself) a repost."""
        self._do(
            "INSERT INTO post (post_id, author_id, at_ms, text, visibility, repost_of) VALUES (?,?,?,?,?,?)",
            *(post_id, author_id, at_ms, text, visibility, repost_of),
        )
        self._tag(post_id, hashtags)

    def edit(self, post_id: int, text: str, hashtags: Sequence[str], visibility: str | None = None) -> None:
        self._do("UPDATE post SET text = ? WHERE post_id = ?", text, post_id)
        if visibility is not None:
            self._do("UPDATE post SET visibility = ? WHERE post_id = ?", visibility, post_id)
        self._do("DELETE FROM tag WHERE post_id = ?", post_id)
        self._tag(post_id, hashtags)

    def delete(self, post_id: int) -> None:
        self._do("UPDATE post SET is_deleted = 1, text = '' WHERE post_id = ?", post_id)
        self._do("DELETE FROM tag WHERE post_id = ?", post_id)

    def like(self, user_id: str, post_id: int, liked: bool) -> None:
        if liked:
            self._do("INSERT OR IGNORE INTO post_like VALUES (?, ?)", post_id, user_id)
        else:
            self._do("DELETE FROM post_like WHERE post_id = ? AND user_id = ?", post_id, user_id)

    def comment(self, comment_id: int, post_id: int, user_id: str, text: str, parent_id: int = 0) -> None:
        self._do(
            "INSERT INTO comment (comment_id, post_id, user_id, text, parent_id) VALUES (?,?,?,?,?)",
            *(comment_id, post_id, user_id, text, parent_id),
        )

    def delete_comment(self, comment_id: int) -> None:
        self._do("UPDATE comment SET is_deleted = 1 WHERE comment_id = ?", comment_id)

    # -- what must be seen --------------------------------------------------------------------------

    def page(self, viewer: str, before: int = 0, limit: int = _FROM_THE_TOP, *, now_ms: int) -> list[Shown]:
        """The newest entries, or those older than `before` (a post_id), newest first."""
        return self._page(_PAGE, v=viewer, before=before or _FROM_THE_TOP, limit=limit, now=now_ms)

    def page_up(self, viewer: str, after: int, limit: int, *, now_ms: int) -> list[Shown]:
        """Those newer than `after`, oldest first."""
        return self._page(_PAGE_UP, v=viewer, after=after, limit=limit, now=now_ms)

    def ids(self, viewer: str, *, now_ms: int) -> list[int]:
        """The post_ids of the whole feed, newest first."""
        return [shown.post_id for shown in self.page(viewer, now_ms=now_ms)]

    def reasons(self, viewer: str, post_id: int, *, now_ms: int) -> set[str]:
        """Everything that keeps a post out of the feed; nothing: it is in it."""
        row = self._db.execute(_WHY_NOT, {"v": viewer, "post": post_id, "now": now_ms}).fetchone()
        assert row is not None, f"nobody has posted {post_id}"
        return {name for name, holds in zip(_REASONS, row, strict=True) if holds}

    # -- what else is known -------------------------------------------------------------------------

    def is_private(self, user_id: str) -> bool:
        return bool(self._one("SELECT is_private FROM user WHERE user_id = ?", user_id))

    def is_blocked(self, user_id: str, other_id: str) -> bool:
        """Tell whether either has blocked the other."""
        return bool(
            self._one(
                "SELECT COUNT(*) FROM block WHERE (user_id = ?1 AND other_id = ?2)"
                " OR (user_id = ?2 AND other_id = ?1)",
                *(user_id, other_id),
            )
        )

    def follow_state(self, user_id: str, author_id: str) -> str:
        found = self._one("SELECT state FROM follow WHERE user_id = ? AND author_id = ?", user_id, author_id)
        return "none" if found is None else str(found)

    def requests(self, author_id: str) -> list[str]:
        rows = self._db.execute(
            "SELECT user_id FROM follow WHERE author_id = ? AND state = 'requested' ORDER BY user_id",
            (author_id,),
        )
        return [row[0] for row in rows]

    def followers(self, author_id: str) -> list[str]:
        rows = self._db.execute(
            "SELECT user_id FROM follow WHERE author_id = ? AND state = 'following' ORDER BY user_id",
            (author_id,),
        )
        return [row[0] for row in rows]

    def following(self, user_id: str) -> list[str]:
        rows = self._db.execute(
            "SELECT author_id FROM follow WHERE user_id = ? AND state = 'following' ORDER BY author_id",
            (user_id,),
        )
        return [row[0] for row in rows]

    def may_see(self, viewer: str, post_id: int) -> bool:
        """Tell whether a user may look at a post by itself: what a like or a comment needs, too."""
        return bool(
            self._one(
                "SELECT COUNT(*) FROM post p JOIN user u ON u.user_id = p.author_id WHERE p.post_id = ?1"
                " AND NOT p.is_deleted AND (p.author_id = ?2 OR ("
                "  (p.visibility = 'public' AND NOT u.is_private OR EXISTS (SELECT 1 FROM follow f"
                "    WHERE f.user_id = ?2 AND f.author_id = p.author_id AND f.state = 'following'))"
                "  AND NOT EXISTS (SELECT 1 FROM block b WHERE (b.user_id = ?2 AND b.other_id = p.author_id)"
                "    OR (b.other_id = ?2 AND b.user_id = p.author_id))))",
                *(post_id, viewer),
            )
        )

    def is_repostable(self, post_id: int) -> bool:
        """Tell whether it is public, of a public account, and no repost."""
        return bool(
            self._one(
                "SELECT COUNT(*) FROM post p JOIN user u ON u.user_id = p.author_id WHERE p.post_id = ?"
                " AND NOT p.is_deleted AND p.repost_of = 0 AND p.visibility = 'public' AND NOT u.is_private",
                post_id,
            )
        )

    def live_posts(self, author_id: str) -> list[int]:
        """The posts and reposts of an author that are not deleted, newest first."""
        rows = self._db.execute(
            "SELECT post_id FROM post WHERE author_id = ? AND NOT is_deleted ORDER BY post_id DESC",
            (author_id,),
        )
        return [row[0] for row in rows]

    def repost_by(self, user_id: str, root_id: int) -> int:
        """The post_id of a user's repost that is not deleted; 0: there is none."""
        found = self._one(
            "SELECT post_id FROM post WHERE author_id = ? AND repost_of = ? AND NOT is_deleted",
            *(user_id, root_id),
        )
        return 0 if found is None else int(str(found))

    def has_liked(self, user_id: str, post_id: int) -> bool:
        return bool(
            self._one("SELECT COUNT(*) FROM post_like WHERE post_id = ? AND user_id = ?", post_id, user_id)
        )

    def counts(self, post_id: int) -> Counts:
        """Likes, comments (also answers) and reposts that are there now."""
        row = self._db.execute(
            "SELECT (SELECT COUNT(*) FROM post_like WHERE post_id = ?1),"
            " (SELECT COUNT(*) FROM comment WHERE post_id = ?1 AND NOT is_deleted),"
            " (SELECT COUNT(*) FROM post WHERE repost_of = ?1 AND NOT is_deleted)",
            (post_id,),
        ).fetchone()
        return Counts(*row)

    # -- plumbing -----------------------------------------------------------------------------------

    def _tag(self, post_id: int, hashtags: Sequence[str]) -> None:
        self._db.executemany("INSERT OR IGNORE INTO tag VALUES (?, ?)", [(post_id, tag) for tag in hashtags])

    def _page(self, sql: str, **values: str | int) -> list[Shown]:
        return [
            Shown(post_id, author_id, text, root_id, root_author_id or "", root_text or "")
            for post_id, author_id, text, root_id, root_author_id, root_text in self._db.execute(sql, values)
        ]

    def _do(self, sql: str, *values: str | int | bool) -> None:
        self._db.execute(sql, values)

    def _one(self, sql: str, *values: str | int) -> object:
        row = self._db.execute(sql, values).fetchone()
        return None if row is None else row[0]
