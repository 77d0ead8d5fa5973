"""What others write of a partition's users: name, language, time zone, and whether they are disabled.

A partition has its users in memory, for hours. The user's actor and the accounts tell it when one has changed
(`UserChanged`, after the commit). That is a hint: it may be lost between nodes, and an operator's command in
another process tells nobody. So nothing is decided, and no attempt begun, by facts that were read more than
MAX_AGE_S ago; they are read anew first, for a thousand users in one query of a millisecond, and only these
facts: what the partition writes itself is newer in memory than in the store. Where no other process has
written since they were read, they are good for QUIET_S: one look at the store's count tells so for all users.
"""

from collections.abc import Sequence
from typing import Final

import msgspec

from actors.entity import EntityContext
from actors.notify.deliverer import Begin
from actors.notify.notice_desk import NoticeDesk
from actors.notify.recheck import Recheck, must_ask_again
from actors.reply import NO_REPLY, Reply
from protocol.errors import HubbubError
from protocol.notify_found import FoundFacts
from protocol.notify_types import Decision

MAX_AGE_S: Final = 5.0  # how long a change that nobody told may go unnoticed; as WATCH_S of the log-ins
QUIET_S: Final = 60.0  # the same where no other process writes: a tell within one is hardly ever lost
MAX_READ: Final = 1_000  # users in one read
RETRY_S: Final = 0.2


class FactsRead(msgspec.Struct, frozen=True):
    """Facts of users as they were stored at `at_s` or later, trio.current_time(); or why not.

    `fresh`: users whose facts turned out to be good, and were not read.
    """

    user_ids: list[str]
    found: list[FoundFacts]
    at_s: float
    error: HubbubError | None = None
    fresh: list[str] = []


class FactKeeper(NoticeDesk):
    """Take `UserChanged`, and keep facts fresh."""

    async def activate(self, ctx: EntityContext) -> None:
        self._moved: dict[str, float] = {}  # users who were told to have changed, and when
        self._facts_wanted: dict[str, None] = {}
        self._facts_waiting: list[tuple[Sequence[str], object, Reply, frozenset[str]]] = []
        self._is_reading_facts = False
        self._others_version = -1  # the store's count of what others wrote, as of the last look; -1: unknown
        self._noticed_at_s = float("inf")  # when it was seen to have changed: what was read before may be old
        self._looked_at_s = float("-inf")  # the last look
        self._asks_age = True  # but not for what comes again just after a read
        await super().activate(ctx)

    def may_passivate(self) -> bool:
        return super().may_passivate() and not self._facts_waiting and not self._is_reading_facts

    def user_changed(self, user_id: str) -> None:
        """Read a user's facts at once: what waits may have to be dropped."""
        self._moved[user_id] = self._ctx.now()
        self._want_facts((user_id,))

    def _has_users(self, user_ids: Sequence[str], message: object, reply: Reply) -> bool:
        """As that of NotifyKeeper; false too where their facts are too old, and are read first."""
        now = self._ctx.now() if self._asks_age else float("-inf")
        users, moved = self._users, self._moved
        stale: list[str] = []
        for user_id in user_ids:
            user = users.get(user_id)
            if user is not None and self._is_stale(user.facts_at_s, moved.get(user_id), now):
                stale.append(user_id)
        if not stale:
            return super()._has_users(user_ids, message, reply)
        self._facts_waiting.append((user_ids, message, reply, frozenset(stale)))
        self._want_facts(stale)
        return False

    def began(self, message: Begin) -> None:
        """As that of Deliverer; what has waited for long is first asked about."""
        if self._asks_age:
            now = self._ctx.now()
            unsure = {job.user_id for job in message.jobs if not job.is_cancelled}
            unsure = {user_id for user_id in unsure if not self._is_sure(user_id, now)}
            if unsure:
                self._facts_waiting.append(((), message, NO_REPLY, frozenset(unsure)))
                self._want_facts(sorted(unsure))
                return
        now_ms = self._now_ms()
        waited = [
            job for job in message.jobs if must_ask_again(job.due_at_ms, now_ms) and not job.is_cancelled
        ]
        if not waited or self._has_users([job.user_id for job in waited], message, NO_REPLY):
            super().began(message)

    def _is_sure(self, user_id: str, now: float) -> bool:
        user = self._users.get(user_id)
        return user is not None and not self._is_stale(user.facts_at_s, self._moved.get(user_id), now)

    def _is_stale(self, read_at_s: float, moved_at_s: float | None, now: float) -> bool:
        if not is_stale(read_at_s, moved_at_s, now, max_age_s=MAX_AGE_S):
            return False
        is_quiet = read_at_s >= self._noticed_at_s and now - self._looked_at_s < MAX_AGE_S
        return not is_quiet or is_stale(read_at_s, moved_at_s, now, max_age_s=QUIET_S)

    def _not_loaded(self, message: object) -> None:
        super()._not_loaded(message)
        if isinstance(message, Begin):  # hands wait for it
            self._ctx.post_after(RETRY_S, message)

    def _want_facts(self, user_ids: Sequence[str]) -> None:
        self._facts_wanted.update(dict.fromkeys(user_ids))
        if not self._is_reading_facts:
            self._is_reading_facts = True
            self._ctx.start_soon(self._read_facts)

    async def _read_facts(self) -> None:
        """Read the facts that are wanted, and post them."""
        wanted = list(self._facts_wanted)[:MAX_READ]
        if self._ctx.now() - self._looked_at_s >= MAX_AGE_S:
            await self._look_for_others()
        at_s = self._ctx.now()
        fresh: list[str] = []
        user_ids: list[str] = []
        for user_id in wanted:
            (fresh if self._is_sure(user_id, at_s) else user_ids).append(user_id)
        try:
            found = await self._reads.user_facts(user_ids) if user_ids else []
        except HubbubError as error:
            self._ctx.post(FactsRead(user_ids, [], at_s, error, fresh))
            return
        self._ctx.post(FactsRead(user_ids, found, at_s, fresh=fresh))

    async def _look_for_others(self) -> None:
        """See whether another process has written since the last look."""
        at_s = self._ctx.now()
        try:
            version = await self._log.others_version()
        except HubbubError:
            version = -1
        if version < 0 or version != self._others_version:
            self._noticed_at_s = self._ctx.now()
        self._others_version, self._looked_at_s = version, at_s

    async def take_facts(self, read: FactsRead) -> None:
        """Take in facts that were read, and go on with what waited for them."""
        self._is_reading_facts = False
        for user_id in (*read.user_ids, *read.fresh):
            self._facts_wanted.pop(user_id, None)
        error = read.error
        if error is None:
            self._note_facts(read)
            try:
                self.check_room_again()
            except HubbubError as refused:
                error = refused
        waiting, self._facts_waiting = self._facts_waiting, []
        asked = {*read.user_ids, *read.fresh}
        for user_ids, message, reply, missing in waiting:
            if not missing <= asked:
                self._facts_waiting.append((user_ids, message, reply, missing - asked))
                self._facts_wanted.update(dict.fromkeys(missing - asked))
            elif error is not None:
                reply.fail(error)
                self._not_loaded(message)
            elif not reply.is_done or getattr(message, "is_own", False):
                await self._take_again(user_ids, message, reply)
        if self._facts_wanted and not self._is_reading_facts:
            self._want_facts(())

    async def _take_again(self, user_ids: Sequence[str], message: object, reply: Reply) -> None:
        self._asks_age = False
        try:
            if self._has_users(user_ids, message, reply):
                await self.handle(message, reply)
        except HubbubError as refused:
            reply.fail(refused)
        finally:
            self._asks_age = True

    def _note_facts(self, read: FactsRead) -> None:
        found = {facts.user_id: facts for facts in read.found}
        for user_id in read.user_ids:
            # A load that began before the change may still bring what was before.
            if user_id not in self._wanted and self._moved.get(user_id, read.at_s) < read.at_s:
                del self._moved[user_id]
            facts, user = found.get(user_id), self._users.get(user_id)
            if user is not None:
                user.facts_at_s = read.at_s
                user.is_disabled = facts is None or bool(facts.is_disabled)
                if facts is not None:
                    user.name, user.language = facts.name, facts.language
                    user.facts.time_zone = facts.time_zone
            if facts is not None and facts.is_disabled and self.has_room():
                self._drop_disabled(user_id)

    def _drop_disabled(self, user_id: str) -> None:
        """What waits for a user who was disabled is not sent; what is held is dropped when it is due."""
        why = Recheck("drop", Decision("validate", "drop", "user_disabled"), code="user_gone")
        for note_id, note in [(i, n) for i, n in self._notes.items() if n.user_id == user_id]:
            for number in sorted(note.numbers):
                job = self._jobs[note_id, number]
                if not job.is_begun:
                    self._skip(job, why)


def is_stale(read_at_s: float, moved_at_s: float | None, now: float, *, max_age_s: float = MAX_AGE_S) -> bool:
    """Tell whether facts must be read anew. All in monotonic seconds; None: nobody told of a change."""
    return now - read_at_s >= max_age_s or (moved_at_s is not None and moved_at_s >= read_at_s)
