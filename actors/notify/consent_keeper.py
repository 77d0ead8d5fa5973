"""Consent, and what is erased when it ends: queued copies first, then the rest, with a receipt."""

from collections.abc import Sequence
from secrets import token_hex
from typing import Final

import msgspec

from actors.notify.builtin_types import DIGEST
from actors.notify.keeper import GONE_S
from actors.notify.lately import Lately
from actors.notify.messages import EraseUser
from actors.notify.timekeeper import RETRY_S
from actors.notify.user_state import UserState
from actors.notify.wish_keeper import WishKeeper
from actors.reply import NO_REPLY, Reply
from actors.stream_actor import Staged
from protocol import notify_commands, notify_replies
from protocol.errors import HubbubError, Refused
from protocol.notify_records import (
    ConsentRow,
    DeadDelivery,
    DeliveryRow,
    ErasureRow,
    NotificationRow,
    NotifyDeviceRow,
    NotifyUserRow,
)
from protocol.notify_types import Consent, Decision
from protocol.records import Insert, Op, Put, Remove, Update

_ERASE_PAGE: Final = 500
_BLANK: Final[dict[str, str | int | None]] = {
    "state": "erased",
    "content": "",
    "title": "",
    "text": "",
    "url": "",
    "image": "",
    "in_centre": 0,
    "group_key": "",
    "dedup_key": "",
    "is_fallback": 0,
}

_encode = msgspec.json.Encoder().encode


class Erasing(msgspec.Struct, frozen=True):
    """A page of what is to be erased of a user. `given_at_ms`: of the consent that has ended; 0: of none."""

    message: EraseUser
    rows: list[NotificationRow]
    reply: Reply
    counts: dict[str, int]
    more: bool
    given_at_ms: int = 0
    is_own: bool = True


class NotErased(msgspec.Struct, frozen=True):
    """A consent's data was not erased: there was nothing to do, or `error` came between."""

    key: tuple[str, str]
    reply: Reply
    error: HubbubError | None = None


class ConsentKeeper(WishKeeper):
    """Keep consents, and erase."""

    _erasing: set[tuple[str, str]]  # (user_id, purpose) whose data is being erased
    _erased: Lately  # notifications that were: nothing that was read of them before is written back

    def begin_time(self) -> None:
        self._erasing = set()
        self._erased = Lately(GONE_S)
        super().begin_time()

    def _set_consent(self, user: UserState, command: notify_commands.SetConsent, reply: Reply) -> None:
        now_ms = self._now_ms()
        if not command.given:
            # What it allowed ends at once; what rested on it is erased, and then this is answered.
            user.facts.consents.pop(command.purpose, None)
            user.batch = self._batch
            where: dict[str, str | int] = {"user_id": user.user_id, "purpose": command.purpose}
            changes: dict[str, str | int | None] = {"ends_at_ms": now_ms, "withdrawn_at_ms": now_ms}
            self._stage_ops([Update(ConsentRow, where, changes)])
            self._end(user.user_id, command.purpose, _Answering(reply, lambda: self._preferences_of(user)))
            return
        consent = Consent(
            purpose=command.purpose,
            source=command.source,
            given_at_ms=now_ms,
            ends_at_ms=command.ends_at_ms,
        )
        if 0 < consent.ends_at_ms <= now_ms:
            raise Refused("bad_request", "ends_at_ms has passed already.")
        self._setup_of(user.app_id)  # by which it is answered once it is stored
        user.facts.consents[command.purpose] = consent
        user.batch = self._batch
        row = ConsentRow(
            user_id=user.user_id,
            purpose=command.purpose,
            app_id=user.app_id,
            partition=self._partition,
            source=command.source,
            given_at_ms=now_ms,
            ends_at_ms=command.ends_at_ms,
        )
        self._stage_ops([Put(row)], Staged(reply, lambda _at: self._preferences_of(user)))
        if consent.ends_at_ms:
            self.held_until(consent.ends_at_ms)

    async def end_consent(self, user_id: str, purpose: str) -> None:
        """A consent has ended: what rested on it is erased, if that is not under way."""
        if (user_id, purpose) in self._erasing:
            return
        user = self._users.get(user_id)
        known = user.facts.consents.get(purpose) if user is not None else None
        if user is not None and known is not None:
            if not 0 < known.ends_at_ms <= self._now_ms():  # given again since that was read
                return
            del user.facts.consents[purpose]
        self._end(user_id, purpose, NO_REPLY)

    def _end(self, user_id: str, purpose: str, reply: Reply) -> None:
        """Erase what rested on a consent, once all that was decided before is stored."""
        self._erasing.add((user_id, purpose))
        self._stage_ops(
            (),
            Staged(
                NO_REPLY,
                None,
                after=lambda _at: self._ctx.start_soon(self._look_what_ended, user_id, purpose, reply),
            ),
        )

    async def _look_what_ended(self, user_id: str, purpose: str, reply: Reply) -> None:
        """See what has ended; runs beside the actor. The row goes with the receipt: nothing is forgotten."""
        key = (user_id, purpose)
        try:
            await self._log.barrier()
            row = await self._log.get(ConsentRow, user_id, purpose)
        except HubbubError as error:
            self._ctx.post(NotErased(key, reply, error))
            return
        if row is None or not 0 < row.ends_at_ms <= self._now_ms():  # erased already, or given again
            self._ctx.post(NotErased(key, reply))
            return
        reason = "withdrawn" if row.withdrawn_at_ms else "ended"
        await self._find_erased(EraseUser(user_id, row.app_id, purpose, reason), reply, {}, row.given_at_ms)

    def not_erased(self, message: NotErased) -> None:
        """After an error it is tried again with the next look: the consent is still stored as ended."""
        self._erasing.discard(message.key)
        if message.error is None:
            message.reply.resolve(None)
        else:
            message.reply.fail(message.error)
            self.look_in(RETRY_S)

    def _not_loaded(self, message: object) -> None:
        super()._not_loaded(message)
        if isinstance(message, Erasing):
            self._ctx.post_after(RETRY_S, message)

    def erase(self, message: EraseUser, reply: Reply) -> None:
        """Erase what is known for notifying a user, beginning with what waits to be sent."""
        self._stage_ops(
            (),
            Staged(
                NO_REPLY,
                None,
                after=lambda _at: self._ctx.start_soon(self._find_erased, message, reply, {}, 0),
            ),
        )

    def _types_of(self, message: EraseUser) -> list[str]:
        """The types that rest on a purpose today; what rested on it before has it in its row."""
        setup = self._setup_of(message.app_id)
        return [rule.name for rule in setup.all_types() if rule.purpose == message.purpose]

    async def _find_erased(
        self, message: EraseUser, reply: Reply, counts: dict[str, int], given_at_ms: int
    ) -> None:
        try:
            await self._setups.load(message.app_id)
            await self._log.barrier()
            rows = await self._reads.of_types(
                message.user_id, self._types_of(message), purpose=message.purpose, limit=_ERASE_PAGE
            )
            is_more = len(rows) >= _ERASE_PAGE
            # A digest that was written tells of them too; one that is still open is written without them.
            known = {row.notification_id for row in rows}
            into = sorted({row.into_id for row in rows if row.into_id and row.into_id not in known})
            for digest in await self._reads.notifications(into) if into else []:
                if digest.type == DIGEST and digest.state not in ("held", "erased"):
                    rows.append(digest)
        except HubbubError as error:
            if message.purpose:
                self._ctx.post(NotErased((message.user_id, message.purpose), reply, error))
            else:
                reply.fail(error)
            return
        self._ctx.post(Erasing(message, rows, reply, counts, is_more, given_at_ms))

    def erase_found(self, erasing: Erasing) -> None:
        """Blank what was found; with the last page, store the receipt and answer."""
        message, counts = erasing.message, erasing.counts
        # Who is being read just now may come with what was before.
        if message.user_id in self._wanted and not self._has_users((message.user_id,), erasing, NO_REPLY):
            return
        now_ms = self._now_ms()
        why = Decision("consent", "drop", message.reason, message.purpose)
        ops, queued_count = self._blank(erasing.rows, why)
        if queued_count:
            counts["queued"] = counts.get("queued", 0) + queued_count
        counts["notifications"] = counts.get("notifications", 0) + len(erasing.rows)
        if erasing.more:
            self._stage_ops(
                ops,
                Staged(
                    NO_REPLY,
                    None,
                    after=lambda _at: self._ctx.start_soon(
                        self._find_erased, message, erasing.reply, counts, erasing.given_at_ms
                    ),
                ),
            )
            return
        if not message.purpose:
            ops += self._forget_user(message, counts)
        elif erasing.given_at_ms:  # unless it was given again since
            of_consent: dict[str, str | int] = {
                "user_id": message.user_id,
                "purpose": message.purpose,
                "given_at_ms": erasing.given_at_ms,
            }
            ops.append(Remove(ConsentRow, of_consent))
        erasure = ErasureRow(
            erasure_id=f"er_{token_hex(12)}",
            app_id=message.app_id,
            user_id=message.user_id,
            purpose=message.purpose,
            reason=message.reason,
            at_ms=now_ms,
            counts=_encode(counts).decode(),
        )
        ops.append(Insert(erasure))
        receipt = notify_replies.Erased(erasure_id=erasure.erasure_id, at_ms=now_ms, counts=dict(counts))
        key = (message.user_id, message.purpose)
        self._stage_ops(
            ops,
            Staged(erasing.reply, lambda _at: receipt, after=lambda _at: self._erasing.discard(key)),
        )

    def _blank(self, rows: Sequence[NotificationRow], why: Decision) -> tuple[list[Op], int]:
        """Take the words of notifications away, and call off what waits of them.

        Returns what is to be stored, and how many deliveries waited. What is under way is not followed by
        anything.
        """
        ops: list[Op] = []
        queued_count = 0
        gone: dict[str, set[int]] = {}
        for row in rows:
            notification_id = row.notification_id
            gone.setdefault(row.user_id, set()).add(notification_id)
            self._gone.add(notification_id, self._ctx.now())
            self._erased.add(notification_id, self._ctx.now())
            where: dict[str, str | int] = {"notification_id": notification_id}
            ops.append(Update(NotificationRow, where, _BLANK))
            ops.append(Update(DeliveryRow, where, {"outgoing": "", "is_open": 0}))
            ops.append(Update(DeadDelivery, where, {"outgoing": "", "detail": ""}))
            known = self._users.get(row.user_id)
            if known is not None:
                known.facts.forget(row.dedup_key, notification_id)
            note = self._notes.get(notification_id)
            for number in sorted(note.numbers) if note is not None else ():
                job = self._jobs[notification_id, number]
                queued_count += 1
                if job.is_begun:
                    job.is_final = True
                else:
                    self._close(job)
            self._record("erased", row.user_id, notification_id, [why], Staged(NO_REPLY, None))
        self._stats.erased += len(rows)
        for user_id, ids in gone.items():
            user = self._users.get(user_id)
            if user is None:
                continue
            user.unread -= ids
            user.groups = {k: g for k, g in user.groups.items() if g.notification_id not in ids}
            open_groups = user.facts.open_groups
            user.facts.open_groups = {k: g for k, g in open_groups.items() if g.notification_id not in ids}
        return ops, queued_count

    def _forget_user(self, message: EraseUser, counts: dict[str, int]) -> list[Op]:
        user = self._users.pop(message.user_id, None)
        if user is not None:
            counts["devices"] = len(user.devices)
            counts["consents"] = len(user.facts.consents)
        where: dict[str, str | int] = {"user_id": message.user_id}
        return [Remove(NotifyUserRow, where), Remove(NotifyDeviceRow, where), Remove(ConsentRow, where)]


class _Answering:
    """A reply that is answered with something else than what comes."""

    def __init__(self, reply: Reply, answer: "object") -> None:
        self._reply = reply
        self._answer = answer

    @property
    def is_done(self) -> bool:
        return self._reply.is_done

    def resolve(self, value: object) -> None:
        self._reply.resolve(self._answer())  # type: ignore[operator]

    def fail(self, error: HubbubError) -> None:
        self._reply.fail(error)
