"""What of the live feed is new to the user: events and pages in, items out, each once.

Pure. The server numbers what it pushes (`position`), so a hole shows; what is hidden from this reader has a
number and nothing else. Posts of hot authors are not pushed and
have no number, and a post may be pushed late, below newer ones; so what was told is known by post_id, and a
catch-up takes whatever a page shows that is not.

A page cannot tell what was missed from what was there all along, and following an author puts all of that
author's past into the feed. So a catch-up takes only what is newer than the moment up to which everything is
known to have come, less `OVERLAP_MS` for what was stored a little later than its post_id says.
"""

from collections.abc import Iterable
from typing import Final

from protocol.feed_events import FeedPosted
from protocol.feed_types import FeedItem, Post

OVERLAP_MS: Final = 15_000  # a command may wait 10 s for the store, and other nodes hear of it within seconds
HELD_EVENTS: Final = 256  # live events that wait for a catch-up; beyond, they are read as well
MAX_TOLD: Final = 10_000  # post_ids remembered: twice what one catch-up brings


class FeedStream:
    """One feed, from `start` on. `clock_ms` is the server's time, as last heard."""

    def __init__(self, since: int | None = None) -> None:
        """`since`: what is newer than this post_id is owed; None: nothing that is there at the start."""
        self.position = 0  # how many entries were pushed into the feed, as far as is known
        self._since = since
        self._floor_id = since or 0  # nothing is owed from here down
        self._good_ms = 0  # server time up to which everything was told
        self._told: dict[int, None] = {}  # post_ids, the one noted last at the end
        self._held: list[FeedPosted] = []  # what came since the catch-up began, or before one
        self._covered: list[FeedPosted] = []  # what came before it began, and so can be read
        self._is_started = False
        self._is_missing = since is not None  # something was not told, as far as is known
        self._is_catching_up = False

    @property
    def is_behind(self) -> bool:
        """Whether a catch-up is needed."""
        return self._is_started and self._is_missing

    @property
    def newest_id(self) -> int:
        """The largest post_id that was told, or that nothing is owed below."""
        return max(self._told, default=self._floor_id)

    def start(self, items: Iterable[FeedItem], position: int, clock_ms: int) -> list[FeedPosted]:
        """Begin with the newest page, which the user gets. Returns what came while it was read."""
        self._is_started = True
        if self._since is not None:
            return []  # the catch-up brings those, too
        ids = [post.post_id for post in _posts(items)]
        for post_id in ids:
            self._note(post_id)
        self._floor_id = max(ids, default=0)
        self._good_ms = clock_ms
        self.position = position
        return self._release()

    def offer(self, event: FeedPosted, *, clock_ms: int = 0, has_room: bool = True) -> bool:
        """Take a live event. Returns whether to tell it now; else it was told, or a catch-up tells it."""
        if not has_room:
            self._is_missing = True
            return False
        if not self._is_started or self._is_missing or self._is_catching_up:
            self._hold(event)
            return False
        is_next = event.position == self.position + 1
        if is_next:
            self.position = event.position
        post = _post_of(event)
        if post is not None and post.post_id in self._told:
            return False
        if not is_next:
            self._is_missing = True
            self._hold(event)
            return False
        if post is None:
            return False
        self._note(post.post_id)
        # By the post's time, as it may have lain unread; but not by a clock that runs ahead of ours.
        self._good_ms = max(self._good_ms, min(post.at_ms, clock_ms))
        return True

    def miss(self) -> None:
        """Note that something may have been lost."""
        self._is_missing = True

    def note_time(self, clock_ms: int) -> None:
        """Note that the server has said so late that nothing else was to be told."""
        if not self._is_missing and not self._is_catching_up:
            self._good_ms = max(self._good_ms, clock_ms)

    def begin(self) -> None:
        """Begin a catch-up. What is lost from now on needs another one."""
        self._is_missing = False
        self._is_catching_up = True
        self._covered += self._held
        self._held = []

    def reaches_back(self, items: Iterable[FeedItem]) -> bool:
        """Tell whether a page goes back to what is not owed, so that no older one is needed."""
        return not all(self._is_owed(post) for post in _posts(items))

    def take(self, items: Iterable[FeedItem]) -> list[FeedItem]:
        """Take a page of the catch-up. Returns what was not told yet, by rising post_id."""
        missed = {
            item.post.post_id: item for item in items if item.post is not None and self._is_owed(item.post)
        }
        fresh = [missed[post_id] for post_id in sorted(missed) if post_id not in self._told]
        for post_id in sorted(missed):
            self._note(post_id)
        return fresh

    def end(self, position: int, clock_ms: int) -> list[FeedPosted]:
        """End a catch-up whose newest page had this position, and was asked for at that time.

        Returns the live events to tell now, of those that came meanwhile.
        """
        self._is_catching_up = False
        self.position = position
        self._good_ms = max(self._good_ms, clock_ms)
        # Their positions say nothing any more: a feed that lost its count would be caught up with for ever.
        covered, self._covered = self._covered, []
        return self._fresh(covered) + self._release()

    def give_up(self) -> None:
        """End a catch-up that failed; another one is needed."""
        self._is_catching_up = False
        self._held = (self._covered + self._held)[:HELD_EVENTS]
        self._covered = []
        self._is_missing = True

    def _is_owed(self, post: Post) -> bool:
        return post.post_id > self._floor_id and post.at_ms >= self._good_ms - OVERLAP_MS

    def _note(self, post_id: int) -> None:
        self._told[post_id] = None
        if len(self._told) > MAX_TOLD:
            del self._told[next(iter(self._told))]

    def _hold(self, event: FeedPosted) -> None:
        if len(self._held) < HELD_EVENTS:
            self._held.append(event)
        else:
            self._is_missing = True

    def _release(self) -> list[FeedPosted]:
        """Take what was held up to the next hole."""
        held, self._held = sorted(self._held, key=lambda event: event.position), []
        ready: list[FeedPosted] = []
        for event in held:
            if self._is_missing or event.position > self.position + 1:
                self._is_missing = True  # another hole
                self._hold(event)
            else:
                self.position = max(self.position, event.position)
                ready.append(event)
        return self._fresh(ready)

    def _fresh(self, events: Iterable[FeedPosted]) -> list[FeedPosted]:
        fresh: list[FeedPosted] = []
        for event in events:
            post = _post_of(event)
            if post is not None and post.post_id not in self._told:
                self._note(post.post_id)
                fresh.append(event)
        return fresh


def _post_of(event: FeedPosted) -> Post | None:
    return None if event.item is None else event.item.post


def _posts(items: Iterable[FeedItem]) -> list[Post]:
    return [item.post for item in items if item.post is not None]
