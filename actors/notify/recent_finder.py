"""What a busy user was told longer ago than memory goes back: looked up before duplicates are judged.

Of each user the newest MAX_RECENT are in memory. Only where that is less than a type's `dedup_s` asks for,
the store is asked, by a scan of the user's notifications of that time. Not found that way, once the user has
left memory: what was asked for longer ago than that, and held since.
"""

from collections.abc import Iterable
from itertools import chain

import msgspec

from actors.notify.facts import Facts, dedup_key
from actors.notify.messages import Notify
from actors.notify.plan import Ready, content_hash
from actors.notify.text_keeper import TextKeeper
from actors.notify.user_state import UserState
from actors.reply import NO_REPLY, Reply
from protocol.errors import HubbubError
from protocol.notify_found import FoundTold
from protocol.notify_ids import first_id_at
from protocol.notify_types import TypeRule


class RecentFound(msgspec.Struct, frozen=True):
    """What the store knows of these keys; then the message comes again. `asked`: (user, key)."""

    message: object
    reply: Reply
    asked: frozenset[tuple[str, str]]
    found: list[FoundTold]
    error: HubbubError | None = None


class RecentFinder(TextKeeper):
    """Look up what memory does not hold."""

    _looked_up: frozenset[tuple[str, str]] = frozenset()  # as long as a message that waited is taken again

    def knows_recent(self, notify: Notify, message: object, reply: Reply) -> bool:
        """Tell whether all is in memory by which it may be a duplicate; else `message` comes again then.

        Its users are in memory, if they exist.
        """
        known = self._users
        busy = [
            user
            for user_id in notify.user_ids
            if (user := known.get(user_id)) is not None and user.facts.recent_since_ms
        ]
        if not busy:
            return True
        setup = self._setups.known(notify.app_id)
        rule = setup.type_rule(notify.content.type) if setup is not None else None
        if rule is None or not rule.dedup_s:
            return True
        digest = content_hash(notify.content, notify.occurrence)
        keys = (
            (
                user,
                rule,
                dedup_key(
                    Facts(
                        notification_id=0,
                        app_id=user.app_id,
                        user_id=user.user_id,
                        type=rule.name,
                        subject=notify.content.subject,
                        created_at_ms=0,
                        content_hash=digest,
                    )
                ),
            )
            for user in busy
        )
        return self._has_looked_up(keys, message, reply)

    def knows_released(self, ready: Ready) -> bool:
        """Tell the same of what is to be released."""
        keys: list[tuple[UserState, TypeRule, str]] = []
        for row in chain(ready.rows, *ready.members.values()):
            user = self._users.get(row.user_id)
            if user is None or not user.facts.recent_since_ms or not row.dedup_key:
                continue
            setup = self._setups.known(row.app_id)
            rule = setup.type_rule(row.type) if setup is not None else None
            if rule is not None:
                keys.append((user, rule, row.dedup_key))
        return self._has_looked_up(keys, ready, NO_REPLY)

    def _has_looked_up(
        self, keys: Iterable[tuple[UserState, TypeRule, str]], message: object, reply: Reply
    ) -> bool:
        now_ms = self._now_ms()
        wanted: dict[tuple[str, str], int] = {}
        for user, rule, key in keys:
            since_ms = now_ms - rule.dedup_s * 1_000
            asked = (user.user_id, key)
            if (
                user.facts.recent_since_ms > since_ms
                and key not in user.facts.recent
                and asked not in self._looked_up
            ):
                wanted[asked] = first_id_at(since_ms)
        if not wanted:
            return True
        self._ctx.start_soon(self._find_recent, wanted, message, reply)
        return False

    async def _find_recent(self, wanted: dict[tuple[str, str], int], message: object, reply: Reply) -> None:
        found: list[FoundTold] = []
        failure: HubbubError | None = None
        try:
            await self._log.barrier()
            keys = [(*asked, since_id) for asked, since_id in wanted.items()]
            found = await self._reads.told(keys, now_ms=self._now_ms())
        except HubbubError as error:
            failure = error
        self._ctx.post(RecentFound(message, reply, frozenset(wanted), found, failure))

    async def recent_found(self, found: RecentFound) -> None:
        """Take what was looked up into memory, and the message that waited for it."""
        if found.error is not None:
            found.reply.fail(found.error)
            self._not_loaded(found.message)
            return
        for told in found.found:
            user = self._users.get(told.user_id)
            if user is not None:
                user.facts.recent.setdefault(told.dedup_key, (told.notification_id, told.told_at_ms))
        self._looked_up = found.asked
        try:
            await self.handle_again([(found.message, found.reply)])
        finally:
            self._looked_up = frozenset()
