"""Posts, readers and a clock for tests of trends."""

from collections.abc import Iterable, Sequence

import msgspec

from protocol.records import Op, PostRow, Put, User
from server.caller import Caller
from server.identity import Identity
from server.trends import LIKE_WEIGHT, Trends
from storage import Store

APP = "app"
START_MS = 1_700_000_000_000


class Clock:
    """Wall time that stands still until it is moved."""

    def __init__(self) -> None:
        self.now_ms = START_MS

    def __call__(self) -> int:
        return self.now_ms


def caller(user_id: str = "me", app_id: str = APP) -> Caller:
    """Somebody who is logged in."""
    user = User(
        user_id=user_id,
        app_id=app_id,
        username=user_id,
        username_key=user_id,
        name=user_id,
        name_key=user_id,
        created_at_ms=1,
    )
    return Caller(Identity(user=user, app_id=app_id, session_id="s"))


def post(post_id: int, author_id: str, text: str = "", *, hashtags: Sequence[str] = ()) -> PostRow:
    """A public post."""
    return PostRow(
        post_id=post_id,
        author_id=author_id,
        app_id=APP,
        at_ms=START_MS,
        text=text or f"post {post_id}",
        hashtags=msgspec.json.encode(list(hashtags)).decode() if hashtags else "",
    )


async def publish(store: Store, *rows: PostRow, ops: Iterable[Op] = ()) -> None:
    await store.commit([*map(Put, rows), *ops])


def like(trends: Trends, row: PostRow, people: int, *, app_id: str = APP, who: str = "fan") -> None:
    """Let so many people like a post."""
    hashtags = msgspec.json.decode(row.hashtags, type=list[str]) if row.hashtags else []
    for number in range(people):
        user_id = f"{who}{number}"
        trends.noted_act(app_id, row.post_id, row.author_id, user_id, hashtags, LIKE_WEIGHT)
