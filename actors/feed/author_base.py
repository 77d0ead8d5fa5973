"""What the parts of an author's actor share: their row, posts lately used, and how changes are staged."""

from dataclasses import dataclass
from typing import Final

import msgspec

from actors.address import Address
from actors.feed.ids import PostIds
from actors.feed.lately import Lately
from actors.messages import Ask
from actors.ports import Fanout, FeedIndex, Leases, Log, Outcome, Relay, WallClock
from actors.stream_actor import Batch, Staged, StreamActor
from protocol.errors import Refused
from protocol.records import Appended, AuthorRow, LogRow, PostCountsRow, PostRow, Put, User, author_stream
from protocol.stored_events import encode_json

CACHED: Final = 1024  # posts, comments and reposts each; far above what can be in flight


@dataclass(slots=True)
class KnownPost:
    """A post that is stored, and its counts; changes of both may be on their way into the store."""

    row: PostRow
    counts: PostCountsRow


@dataclass(frozen=True, slots=True)
class Needs:
    """What an author's actor needs of the world."""

    log: Log
    leases: Leases
    relay: Relay
    now_ms: WallClock
    fanout: Fanout
    index: FeedIndex
    ids: PostIds
    hot_followers: int
    cool_followers: int


class AuthorBase(StreamActor):
    """Own one author. The parts that decide are in the classes derived from it."""

    def __init__(self, address: Address, needs: Needs) -> None:
        super().__init__(
            address,
            author_stream(address.id),
            log=needs.log,
            leases=needs.leases,
            relay=needs.relay,
            now_ms=needs.now_ms,
        )
        self._id = address.id
        self._fanout = needs.fanout
        self._index = needs.index
        self._ids = needs.ids
        self._hot_followers = needs.hot_followers
        self._cool_followers = needs.cool_followers
        self._author = AuthorRow(user_id=self._id, app_id="")  # as decided last, stored or in flight
        self._known_posts: Lately[int, KnownPost] = Lately(CACHED)
        self._has_ended = False  # otherwise than by leaving with nothing in flight

    def placed(self, staged: Staged, at: Appended) -> None:
        """Nobody listens to this stream; who has to know is told by the change's own `after`."""

    def ended(self) -> None:
        """From here on nobody tells what is stored: not now, and not when an append in flight concludes."""
        self._has_ended = True
        self._index.forget(self._id)

    def _decided(self, batch: Batch, outcome: Outcome) -> None:
        if self._has_ended:  # somebody may have read the store before this was in it
            self._index.forget(self._id)
        super()._decided(batch, outcome)

    # -- posts --------------------------------------------------------------------------------------

    async def _post(self, post_id: int) -> KnownPost | None:
        """One of the author's posts that are stored, deleted or not; None: there is no such."""
        known = self._known_posts.get(post_id)
        if known is None:
            found = await self._log.posts.post(post_id)
            if found is None or found[0].author_id != self._id:
                return None
            row, counts = found
            known = KnownPost(row, counts or PostCountsRow(post_id=post_id))
            self._known_posts.put(post_id, known)
        return known

    async def _live_post(self, ask: Ask, post_id: int) -> KnownPost:
        """A post of the author's, no repost, that is not deleted. Raises: Refused("post_not_found")."""
        known = await self._post(post_id)
        if known is None or known.row.app_id != ask.app_id:
            raise Refused("post_not_found")
        if known.row.deleted_at_ms or known.row.repost_of:
            raise Refused("post_not_found")
        return known

    async def _check_mentions(self, app_id: str, user_ids: list[str]) -> None:
        """Only users of the app can be mentioned. Raises: Refused("user_not_found")."""
        if not user_ids:
            return
        found = await self._log.find_many(User, "user_id", list(dict.fromkeys(user_ids)))
        known = {user.user_id for user in found if user.app_id == app_id}
        for user_id in user_ids:
            if user_id not in known:
                raise Refused("user_not_found", f"There is no user {user_id}.")

    # -- staging ------------------------------------------------------------------------------------

    def _change_author(self, **changes: object) -> Put:
        """Change the author's row; returns how it is stored."""
        self._author = msgspec.structs.replace(self._author, **changes)
        return Put(self._author)

    def _event(
        self, kind: str, body: dict[str, object], *, at_ms: int, client_id: str | None = None
    ) -> LogRow:
        """A row of the author's stream. What it is about is in the tables; the body says what to look at."""
        return LogRow(
            stream=self._stream,
            kind=kind,
            at_ms=at_ms,
            user_id=self._id,
            body=encode_json(body),
            client_id=client_id,
        )
