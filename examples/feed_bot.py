"""A bot that posts what a file says into its timeline, and answers comments that mention it.

    .venv/bin/hubbub bots create news
    HUBBUB_TOKEN=… .venv/bin/python examples/feed_bot.py --source news.json --state news.db

The source is a text file, one post a line, or a JSON Feed (jsonfeed.org: `items` with `id`, `title`,
`content_text`, `url`). It is read again every minute; what is new is posted, the oldest first.

Each entry is posted once, although the bot may be killed at any moment and its state be lost: the post is
sent under a key made of the entry, so the server stores a second attempt not again. The same goes for
answers. Comments are found by the counts of the bot's posts, which come live; what was missed while the bot
or its connection was down is found by a look at its timeline. It listens to threads in which it has spoken.
"""

import argparse
import hashlib
import json
import logging
import os
import sqlite3
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

import msgspec

import hubbub
from protocol.events import Event
from protocol.feed_events import PostCounts
from protocol.feed_types import Comment

logger = logging.getLogger("feed_bot")

WATCHED_POSTS: Final = 200  # whose comments are answered: as many as a client may watch
POSTS_PER_TURN: Final = 20  # a new source of a thousand lines does not flood its followers at once
MAX_TEXT_BYTES: Final = 10_000  # a little less than a post may have


class Entry(msgspec.Struct, frozen=True):
    """One thing to post. `key` names it for good."""

    key: str
    text: str
    url: str = ""


def read_source(path: Path) -> list[Entry]:
    """Read the source, the oldest entry first. Raises: OSError, ValueError."""
    raw = path.read_text(encoding="utf-8")
    return _json_entries(json.loads(raw)) if raw.lstrip().startswith("{") else _line_entries(raw)


def _line_entries(raw: str) -> list[Entry]:
    """One entry a line. The same line twice is two posts, so a line's number of its kind is in its key."""
    seen: dict[str, int] = {}
    entries = []
    for line in raw.splitlines():
        text = line.strip()
        if text:
            seen[text] = seen.get(text, 0) + 1
            entries.append(Entry(_key_of(f"{seen[text]}:{text}"), _shortened(text)))
    return entries


def _json_entries(feed: dict[str, Any]) -> list[Entry]:
    """A JSON Feed names its newest item first."""
    entries = []
    for item in reversed(feed.get("items", [])):
        title, body, url = (str(item.get(name) or "") for name in ("title", "content_text", "url"))
        text = _shortened("\n\n".join(part for part in (title, body) if part))
        if text or url:
            shown = f"{text}\n\n{url}" if text and url else text or url
            entries.append(Entry(_key_of(str(item.get("id") or url or text)), shown, url))
    return entries


def _key_of(name: str) -> str:
    return hashlib.sha256(name.encode()).hexdigest()[:40]


def _shortened(text: str) -> str:
    raw = text.encode()
    return text if len(raw) <= MAX_TEXT_BYTES else raw[:MAX_TEXT_BYTES].decode(errors="ignore") + " …"


class State:
    """What was posted, and which comments were seen, in a SQLite file."""

    def __init__(self, path: str) -> None:
        self._db = sqlite3.connect(path, isolation_level=None)
        self._db.execute("PRAGMA journal_mode=WAL")
        self._db.execute(
            "CREATE TABLE IF NOT EXISTS posted (key TEXT PRIMARY KEY, post_id INTEGER NOT NULL, url TEXT)"
        )
        self._db.execute(
            "CREATE TABLE IF NOT EXISTS thread ("
            "post_id INTEGER, parent_id INTEGER, last_id INTEGER NOT NULL, PRIMARY KEY (post_id, parent_id))"
        )

    def close(self) -> None:
        self._db.close()

    def unposted(self, entries: Sequence[Entry]) -> list[Entry]:
        """Those that were not posted yet."""
        known = {row[0] for row in self._db.execute("SELECT key FROM posted")}
        return [entry for entry in entries if entry.key not in known]

    def posted(self, entry: Entry, post_id: int) -> None:
        """Note that an entry is a post now."""
        self._db.execute(
            "INSERT INTO posted VALUES (?, ?, ?) ON CONFLICT DO NOTHING", (entry.key, post_id, entry.url)
        )

    def url_of(self, post_id: int) -> str:
        """Where more is to be read of what a post tells; "" where nothing is known."""
        row = self._db.execute("SELECT url FROM posted WHERE post_id = ?", (post_id,)).fetchone()
        return str(row[0] or "") if row else ""

    def threads(self, post_id: int) -> dict[int, int]:
        """Where the bot listens below a post: parent_id (0: the post itself) -> the comment seen last."""
        rows = self._db.execute("SELECT parent_id, last_id FROM thread WHERE post_id = ?", (post_id,))
        return {0: 0} | {int(parent_id): int(last_id) for parent_id, last_id in rows}

    def saw(self, post_id: int, parent_id: int, last_id: int) -> None:
        """Note the comment seen last in a thread, which the bot listens to from now on."""
        self._db.execute(
            "INSERT INTO thread VALUES (?, ?, ?) ON CONFLICT DO UPDATE SET last_id = max(last_id, ?)",
            (post_id, parent_id, last_id, last_id),
        )


def make_bot(url: str, token: str, source: Path, state: State, *, tick_s: float = 60.0) -> hubbub.Bot:
    """State what the bot does."""
    bot = hubbub.Bot(url, token=token)
    counts: dict[int, int] = {}  # post_id -> its comments when they were looked at last

    async def post_news(client: hubbub.Client) -> None:
        try:
            entries = read_source(source)
        except (OSError, ValueError) as exc:  # it is being written just now, or wrong: a person may look
            logger.warning("source_unreadable path=%s error=%s", source, exc)
            return
        for entry in state.unposted(entries)[:POSTS_PER_TURN]:
            try:
                post_id = (await client.posts.create(entry.text, client_id=entry.key)).post_id
            except hubbub.Refused as exc:
                if client.is_closed:
                    raise  # the session ended; the entry may be fine
                logger.warning("entry_refused key=%s code=%s", entry.key, exc.code)
                post_id = 0  # not again: the entries behind it would wait for ever
            state.posted(entry, post_id)

    async def look_for_comments(client: hubbub.Client) -> None:
        watched: list[int] = []
        async for item in client.posts.of(client.user_id, page_size=100):
            if item.post is None or len(watched) == WATCHED_POSTS:
                break
            watched.append(item.post.post_id)
            if item.post.comments != counts.get(item.post.post_id, 0):
                await answer_comments(client, item.post.post_id, item.post.comments)
        await client.feed.watch(watched)

    async def answer_comments(client: hubbub.Client, post_id: int, count: int) -> None:
        counts[post_id] = count
        done: set[int] = set()
        while todo := state.threads(post_id).keys() - done:  # ends as only answers open threads
            for parent_id in sorted(todo):
                await read_thread(client, post_id, parent_id)
            done |= todo

    async def read_thread(client: hubbub.Client, post_id: int, parent_id: int) -> None:
        last_id = state.threads(post_id)[parent_id]
        async for comment in client.posts.comments(post_id, parent_id=parent_id, after=last_id):
            if client.user_id in comment.mentions and comment.user_id != client.user_id:
                await answer(client, comment)
            state.saw(post_id, parent_id, comment.comment_id)

    async def answer(client: hubbub.Client, comment: Comment) -> None:
        link = state.url_of(comment.post_id)
        thread_id = comment.parent_id or comment.comment_id
        await client.posts.comment(
            comment.post_id,
            f"There is more to read at {link}" if link else "That is all I know: I post what my source says.",
            parent_id=thread_id,
            mentions=[comment.user_id],
            client_id=f"answer:{comment.comment_id}",
        )
        state.saw(comment.post_id, thread_id, comment.comment_id)  # listen from there on

    @bot.on_start
    async def begin(running: hubbub.Bot) -> None:
        await turn(running)

    @bot.every(tick_s)
    async def turn(running: hubbub.Bot) -> None:
        await post_news(running.client)
        await look_for_comments(running.client)

    @bot.on_event
    async def notice(event: Event) -> None:
        if isinstance(event, PostCounts) and event.comments != counts.get(event.post_id, 0):
            await answer_comments(bot.client, event.post_id, event.comments)

    return bot


def main() -> int:
    """Read the arguments and work until stopped."""
    parser = argparse.ArgumentParser(description="A bot that posts what a file says.")
    parser.add_argument("--url", default=os.environ.get("HUBBUB_URL", "hubbub://127.0.0.1:8081"))
    parser.add_argument("--token", default=os.environ.get("HUBBUB_TOKEN", ""), help="or HUBBUB_TOKEN")
    parser.add_argument("--source", required=True, metavar="FILE", help="lines of text, or a JSON Feed")
    parser.add_argument("--state", default="feed_bot.db", metavar="FILE", help="default %(default)s")
    parser.add_argument("--every", type=float, default=60.0, metavar="S", help="default %(default)g seconds")
    args = parser.parse_args()
    if not args.token:
        parser.error("give the bot's token by --token or HUBBUB_TOKEN; `hubbub bots create NAME` prints one")
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(name)s %(message)s")
    state = State(args.state)
    try:
        make_bot(args.url, args.token, Path(args.source), state, tick_s=args.every).run()
    except hubbub.HubbubError as exc:
        print(f"The bot stopped: {exc.message}", file=sys.stderr)
        return 1
    finally:
        state.close()
    return 0


if __name__ == "__main__":
    sys.exit(main())
