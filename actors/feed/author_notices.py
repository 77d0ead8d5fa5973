"""Let an author, and whom a post mentions, know what has happened: by tells that are stored with their cause.

A post that everybody likes makes no tell for each like. Of a kind of thing the first few within a minute are
told one by one, with their names. With the next one a NoticeBacklog is stored, which says how many there were
before it, and when the minute is over the others are told as a number. What counts is stored as ever, so a
crash loses none.
"""

from collections.abc import Iterable, Sequence
from typing import Final

import msgspec

from actors.address import Address
from actors.feed import author_rules as rules
from actors.feed import notices
from actors.feed.author_base import AuthorBase, Needs
from actors.messages import Deleted, NoticeDue
from actors.notify.address import notify_address, partition_address, partition_of
from protocol.errors import HubbubError
from protocol.notify_records import NoticeBacklog
from protocol.records import PostRow, Put, Remove

MAX_TOLD: Final = 5  # one by one, of one kind and thing in one window; a text names three at the most
WINDOW_S: Final = 60.0
_MAX_WINDOWS: Final = 1024
_RETRY_S: Final = 1.0

_Key = tuple[str, int]


class _BacklogDue(msgspec.Struct, frozen=True):
    """Tell how many there were."""

    key: _Key


class _Window:
    """A minute of one kind of thing. `until`: trio.current_time() seconds."""

    __slots__ = ("told", "until")

    def __init__(self, until: float) -> None:
        self.told = 0
        self.until = until


class AuthorNotices(AuthorBase):
    """Stage what is to be notified."""

    def __init__(self, address: Address, needs: Needs) -> None:
        super().__init__(address, needs)
        self._windows: dict[_Key, _Window] = {}
        self._backlogs: dict[_Key, NoticeBacklog] = {}  # stored, or about to be

    async def _take_up_backlogs(self) -> None:
        """Go on with what an earlier incarnation has not told; part of `activate`."""
        for row in await self._log.find(NoticeBacklog, {"author_id": self._id}):
            key = row.kind, row.thing_id
            self._backlogs[key] = row
            self._ctx.post(_BacklogDue(key))

    def _notify(self, due: NoticeDue) -> None:
        """Stage a tell, unless it is of the user's own doing."""
        if due.user_id != due.actor_id:
            self._stage_tell_to(notify_address(due.user_id), due)

    def _withdraw_notices(self, thing: str, app_id: str, user_ids: Iterable[str]) -> None:
        """Stage that what these users were told of a thing be taken back."""
        for partition in sorted(set(map(partition_of, user_ids))):
            self._stage_tell_to(partition_address(partition), Deleted(app_id, thing))

    def _notify_bounded(
        self, due: NoticeDue, kind: str, thing_id: int, count: int, *, post_id: int = 0
    ) -> None:
        """Do so, or let it count for later. `count`: how many there are now, with this one."""
        key = kind, thing_id
        if due.user_id == due.actor_id or key in self._backlogs:
            return
        now = self._ctx.now()
        window = self._windows.get(key)
        if window is None or now >= window.until:
            if len(self._windows) >= _MAX_WINDOWS:
                self._windows = {k: w for k, w in self._windows.items() if now < w.until}
            window = self._windows[key] = _Window(now + WINDOW_S)
        if window.told < MAX_TOLD:
            window.told += 1
            self._notify(due)
            return
        row = NoticeBacklog(
            author_id=self._id,
            kind=kind,
            thing_id=thing_id,
            shard=self._shard,
            app_id=due.app_id,
            user_id=due.user_id,
            post_id=post_id,
            actor_id=due.actor_id,
            count=count - 1,
            at_ms=self._at_ms(),
        )
        self._backlogs[key] = row
        self._stage_ops([Put(row)])
        self._ctx.post_after(window.until - now, _BacklogDue(key))

    async def _notices_message(self, message: object) -> bool:
        """Take what this part has posted to itself; returns whether it was that."""
        if not isinstance(message, _BacklogDue):
            return False
        row = self._backlogs[message.key]
        try:
            self._log.check_room()  # a refused append would end the incarnation
            count = await self._count_of(row)
        except HubbubError as error:
            self._ctx.post_after(max(_RETRY_S, error.retry_after_s or 0.0), message)
            return True
        del self._backlogs[message.key]
        where: dict[str, str | int] = {"author_id": self._id, "kind": row.kind, "thing_id": row.thing_id}
        self._stage_ops([Remove(NoticeBacklog, where)])
        if count > row.count:
            self._notify(notices.several(row, count - row.count))
        return True

    async def _count_of(self, row: NoticeBacklog) -> int:
        """How many there are by now of what a backlog counts; 0 where the thing is gone."""
        raise NotImplementedError

    async def _who_may_see(self, row: PostRow, user_ids: Sequence[str]) -> list[str]:
        """Those of the users who may see a post of the author's, each once."""
        found = []
        for user_id in dict.fromkeys(user_ids):
            views = await self._log.posts.views(user_id, [self._id])
            if rules.may_see(row, views[self._id], user_id):
                found.append(user_id)
        return found
