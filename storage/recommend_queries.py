"""The reads behind recommendations: whom the people one follows follow, and how one stands to them."""

import json
import sqlite3
from collections.abc import Sequence
from typing import Final

import msgspec

from protocol.records import AuthorRow, BlockRow, Disabled, FollowRow, InterestRow, MuteRow

MAX_FRIENDS: Final = 50  # of those whom a user follows, the newest are asked
MAX_EDGES: Final = 200  # and of each of them, the newest whom they follow: 10,000 edges at the most
MAX_EXAMINED: Final = 1_000  # candidates whose standing is looked up, the most recommended first
MAX_BY: Final = 3
_CHUNK: Final = 100

# Each is one statement with one row: see storage/queries.py. User ids hold no U+0000, so they may be JSON.
_FOLLOWED: Final = f"SELECT json_group_array(author_id) FROM {FollowRow.table} WHERE user_id = ?"
_FRIENDS: Final = f"""
SELECT json_group_array(json_array(friend.author_id, json((
    SELECT json_group_array(edge.author_id) FROM (
        SELECT f.author_id FROM {FollowRow.table} f
        WHERE f.user_id = friend.author_id AND f.state = 'following'
        ORDER BY f.since_ms DESC LIMIT {MAX_EDGES}
    ) edge
)))) FROM (
    SELECT author_id FROM {FollowRow.table}
    WHERE user_id = ? AND state = 'following' ORDER BY since_ms DESC LIMIT {MAX_FRIENDS}
) friend
"""
_STANDINGS: Final = f"""
SELECT json_group_array(json_array(asked.value,
    coalesce((SELECT f.state FROM {FollowRow.table} f
        WHERE f.user_id = :user_id AND f.author_id = asked.value), 'none'),
    EXISTS (SELECT 1 FROM {BlockRow.table} b WHERE b.user_id = :user_id AND b.other_id = asked.value)
        OR EXISTS (SELECT 1 FROM {BlockRow.table} b WHERE b.user_id = asked.value AND b.other_id = :user_id),
    EXISTS (SELECT 1 FROM {MuteRow.table} m WHERE m.user_id = :user_id AND m.other_id = asked.value),
    EXISTS (SELECT 1 FROM {InterestRow.table} i WHERE i.user_id = :user_id AND i.kind = 'author'
        AND i.target = asked.value AND i.since_ms > :uninterested_since_ms),
    coalesce((SELECT a.is_private FROM {AuthorRow.table} a WHERE a.user_id = asked.value), 0),
    EXISTS (SELECT 1 FROM {Disabled.table} d WHERE d.user_id = asked.value)
)) FROM json_each(:asked) asked
"""


class Standing(msgspec.Struct, frozen=True, array_like=True):
    """How a reader stands to an author. Flags are 0 or 1; `is_blocked`: by either of the two."""

    author_id: str
    follow: str
    is_blocked: int = 0
    is_muted: int = 0
    is_uninteresting: int = 0
    is_private: int = 0
    is_disabled: int = 0

    @property
    def may_be_shown(self) -> bool:
        """Tell whether public posts of the author may be put before the reader unasked."""
        return not (
            self.is_blocked or self.is_muted or self.is_uninteresting or self.is_private or self.is_disabled
        )

    @property
    def may_be_recommended(self) -> bool:
        """Tell whether the author may be recommended; a private one may, as the reader can ask."""
        return self.follow == "none" and not (
            self.is_blocked or self.is_muted or self.is_uninteresting or self.is_disabled
        )


class FriendOfFriends(msgspec.Struct, frozen=True):
    """An author whom `by_count` of those asked follow; `by` are up to three of them."""

    author_id: str
    by: list[str]
    by_count: int


_texts: Final = msgspec.json.Decoder(list[str])
_friends: Final = msgspec.json.Decoder(list[tuple[str, list[str]]])
_standings: Final = msgspec.json.Decoder(list[Standing])


def friends_of_friends(
    connection: sqlite3.Connection, user_id: str, uninterested_since_ms: int, limit: int
) -> list[FriendOfFriends]:
    """Find whom a user might follow: by how many of those whom the user follows they are followed.

    Bounded: the 50 followed last, of each of them the 200 that they followed last. Left out are the user,
    whom the user follows or has asked to, has blocked or is blocked by, has muted, is not interested in (said
    after `uninterested_since_ms`), and who is disabled.
    """
    followed = set(_texts.decode(connection.execute(_FOLLOWED, (user_id,)).fetchone()[0]))
    by: dict[str, list[str]] = {}
    for friend_id, author_ids in _friends.decode(connection.execute(_FRIENDS, (user_id,)).fetchone()[0]):
        for author_id in author_ids:
            if author_id not in followed:
                by.setdefault(author_id, []).append(friend_id)
    by.pop(user_id, None)
    candidates = sorted(by, key=lambda author_id: (-len(by[author_id]), author_id))[:MAX_EXAMINED]
    found: list[FriendOfFriends] = []
    for start in range(0, len(candidates), _CHUNK):
        chunk = candidates[start : start + _CHUNK]
        standing_of = standings(connection, user_id, chunk, uninterested_since_ms)
        found += [
            FriendOfFriends(author_id, by[author_id][:MAX_BY], len(by[author_id]))
            for author_id in chunk
            if standing_of[author_id].may_be_recommended
        ]
        if len(found) >= limit:
            break
    return found[:limit]


def standings(
    connection: sqlite3.Connection, user_id: str, author_ids: Sequence[str], uninterested_since_ms: int
) -> dict[str, Standing]:
    """Tell how a user stands to each of these authors. "Not interested" counts if said later than that."""
    values = {
        "user_id": user_id,
        "asked": json.dumps(list(author_ids)),
        "uninterested_since_ms": uninterested_since_ms,
    }
    answer = connection.execute(_STANDINGS, values).fetchone()[0]
    return {standing.author_id: standing for standing in _standings.decode(answer)}
