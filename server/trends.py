"""What trends in each app, counted on this node and joined with what the others have told by the store.

The counting is in actors/feed/trends.py. Here it is kept for each app, kind and window, written down every
few seconds, and read back: what the other nodes told, and after a restart what this one had told itself.
"""

from collections.abc import Callable, Iterable
from typing import Final

import msgspec
import structlog
import trio

from actors.feed.trends import (
    DAY,
    SPANS,
    Counters,
    Part,
    Summary,
    Trending,
    hashtag_weight,
    merge,
    read_summary,
    top_of,
)
from protocol.errors import HubbubError
from protocol.feed_types import TrendKind, TrendWindow
from protocol.records import Op, Put, Remove, TrendRow
from storage.store import Store
from storage.trend_queries import TrendKey

INTERVAL_S: Final = 5.0  # what a crash loses; other nodes hear of an act after two of these
LIKE_WEIGHT: Final = 1.0
COMMENT_WEIGHT: Final = 2.0
REPOST_WEIGHT: Final = 3.0
POST_WEIGHT: Final = 3.0  # for the hashtags of a post: writing about it says as much as repeating it
MAX_TOP: Final = 400  # the strongest that are kept ready: readers do not see all of them
_TOP_MS: Final = 2_000  # for so long one answer serves everybody: making it anew takes milliseconds
_IDLE_MS: Final = (
    3_600_000  # an app that nobody acts in or asks about is forgotten, and read anew when needed
)
_STALE_MS: Final = DAY.window_ms + 3_600_000  # rows that no window reaches, even where clocks differ
_FINAL_S: Final = 2.0
_KINDS: Final[tuple[TrendKind, ...]] = ("post", "hashtag")

_Key = tuple[str, str]  # kind, window

log = structlog.get_logger(__name__)


class Trends:
    """Count acts, and tell what trends. What is told here is heard at once, and told on by `run`."""

    def __init__(self, store: Store, node_id: str, now_ms: Callable[[], int]) -> None:
        self._store = store
        self._node_id = node_id
        self._now_ms = now_ms
        self._apps: dict[str, _App] = {}

    def noted_post(self, app_id: str, post_id: int, author_id: str, hashtags: Iterable[str]) -> None:
        """A post was published, to be called once it is stored: its author speaks of these hashtags.

        For public posts of public accounts only, as is noted_act: trends are shown to everybody. The post
        itself (`post_id`) begins with nothing, as authors do not count for their own.
        """
        self._note_hashtags(app_id, author_id, list(hashtags), POST_WEIGHT)

    def noted_act(
        self,
        app_id: str,
        post_id: int,
        author_id: str,
        user_id: str,
        hashtags: Iterable[str],
        weight: float,
    ) -> None:
        """Somebody has liked, commented or reposted a post; what authors do with their own does not count."""
        if user_id == author_id:
            return
        app, now_ms = self._app(app_id), self._now_ms()
        for window in SPANS:
            app.counters["post", window].note(str(post_id), user_id, weight, now_ms)
        self._note_hashtags(app_id, user_id, list(hashtags), weight)

    def top(self, app_id: str, kind: TrendKind, window: TrendWindow, limit: int) -> list[Trending]:
        """The strongest items, best first: up to two seconds old, of the other nodes some more.

        From memory: call `prepare` before, or an app that nobody has asked about is thought quiet.
        """
        app = self._apps.get(app_id)
        if app is None:
            return []
        key, now_ms = (kind, window), self._now_ms()
        app.used_at_ms = now_ms
        made_at_ms, found = app.tops.get(key, (0, []))
        if not 0 <= now_ms - made_at_ms < _TOP_MS:
            parts: list[Part] = [app.counters[key], *app.others[key].values()]
            found = top_of(SPANS[window], parts, MAX_TOP, now_ms)
            app.tops[key] = (now_ms, found)
        return found[:limit]

    async def prepare(self, app_id: str) -> None:
        """See to it that what is stored of an app is in memory; reads once. Raises: Unavailable."""
        app = self._app(app_id)
        if not app.is_loaded:
            async with app.lock:
                if not app.is_loaded:
                    await self._read(app_id, app)

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Tell the other nodes and hear them, every five seconds; when cancelled, once more."""
        task_status.started()
        try:
            while True:
                await trio.sleep(INTERVAL_S)
                await self.exchange()
        finally:
            with trio.move_on_after(_FINAL_S, shield=True):
                await self.exchange()

    async def exchange(self) -> None:
        """Read what has changed elsewhere, and write what has here. A failure waits for the next time."""
        for app_id, app in list(self._apps.items()):
            if self._now_ms() - app.used_at_ms > _IDLE_MS and app.is_told:
                del self._apps[app_id]
                continue
            try:
                async with app.lock:
                    await self._read(app_id, app)  # first: what this node had stored must not be overwritten
                    await self._write(app_id, app)
            except HubbubError as error:
                log.warning("trends_not_exchanged", app_id=app_id, code=error.code)
                return  # it is the store, and not the app

    async def _read(self, app_id: str, app: "_App") -> None:
        now_ms = self._now_ms()
        told = await self._store.trends.told(app_id, app.known, since_ms=now_ms - _STALE_MS)
        for row in told.news:
            app.known[row.node_id, row.kind, row.span] = row.at_ms
            key = (row.kind, row.span)
            if key not in app.counters:
                continue  # of a later release
            try:
                summary = read_summary(row.body)
            except ValueError as error:
                log.warning("trend_row_unreadable", node=row.node_id, app_id=app_id, error=str(error))
                continue
            if row.node_id == self._node_id:
                app.counters[key].absorb(summary, now_ms)
            else:
                app.others[key] = merge(app.others[key], {row.node_id: summary})
            app.tops.pop(key, None)
        for (node_id, kind, span), at_ms in told.stale:
            where: dict[str, str | int] = {
                "node_id": node_id,
                "app_id": app_id,
                "kind": kind,
                "span": span,
                "at_ms": at_ms,  # a node that writes again meanwhile keeps its row
            }
            await self._store.commit([Remove(TrendRow, where)])
        app.forget_before(now_ms - _STALE_MS)
        app.is_loaded = True

    async def _write(self, app_id: str, app: "_App") -> None:
        told: dict[_Key, int] = {}
        ops: list[Op] = []
        for key, counters in app.counters.items():
            if app.told[key] == counters.change_count:
                continue
            told[key] = counters.change_count
            kind, span = key
            known = (self._node_id, kind, span)
            # Never below what was told before, or the others would not listen after a clock went back.
            at_ms = max(self._now_ms(), app.known.get(known, 0) + 1)
            summary = msgspec.structs.replace(counters.summary(self._now_ms()), at_ms=at_ms)
            app.known[known] = at_ms
            row = TrendRow(
                node_id=self._node_id,
                app_id=app_id,
                kind=kind,
                span=span,
                at_ms=at_ms,
                body=summary.body(),
            )
            ops.append(Put(row))
            await trio.lowlevel.checkpoint()  # a full summary takes milliseconds
        if ops:
            await self._store.commit(ops)
            app.told.update(told)

    def _note_hashtags(self, app_id: str, user_id: str, hashtags: list[str], weight: float) -> None:
        if not hashtags:
            return
        app, now_ms = self._app(app_id), self._now_ms()
        share = hashtag_weight(weight, len(hashtags))
        for window in SPANS:
            counters = app.counters["hashtag", window]
            for hashtag in hashtags:
                counters.note(hashtag, user_id, share, now_ms)

    def _app(self, app_id: str) -> "_App":
        app = self._apps.get(app_id)
        if app is None:
            app = self._apps[app_id] = _App()
        app.used_at_ms = self._now_ms()
        return app


class _App:
    """The trends of one app."""

    def __init__(self) -> None:
        keys = [(kind, window) for kind in _KINDS for window in SPANS]
        self.used_at_ms = 0
        self.lock = trio.Lock()
        self.is_loaded = False
        self.counters: dict[_Key, Counters] = {key: Counters(SPANS[key[1]]) for key in keys}
        self.told: dict[_Key, int] = dict.fromkeys(keys, 0)  # change counts, as written
        self.others: dict[_Key, dict[str, Summary]] = {key: {} for key in keys}
        self.known: dict[TrendKey, int] = {}  # whose row was read or written -> its at_ms
        self.tops: dict[_Key, tuple[int, list[Trending]]] = {}

    def forget_before(self, since_ms: int) -> None:
        """Forget nodes that have told nothing since; another node may have removed their rows."""
        for key, summaries in self.others.items():
            self.others[key] = {n: summary for n, summary in summaries.items() if summary.at_ms >= since_ms}
        self.known = {key: at_ms for key, at_ms in self.known.items() if at_ms >= since_ms}

    @property
    def is_told(self) -> bool:
        return all(self.told[key] == counters.change_count for key, counters in self.counters.items())
