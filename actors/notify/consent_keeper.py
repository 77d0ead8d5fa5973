"""Consent, and what is erased when it ends: queued copies first, then the rest, with a receipt."""

from secrets import token_hex
from typing import Final

import msgspec

from actors.notify.messages import EraseUser
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

_encode = msgspec.json.Encoder().encode


class Erasing(msgspec.Struct, frozen=True):
    """A page of what is to be erased of a user."""

    message: EraseUser
    rows: list[NotificationRow]
    reply: Reply
    counts: dict[str, int]
    more: bool


class ConsentKeeper(WishKeeper):
    """Keep consents, and erase."""

    def _set_consent(self, user: UserState, command: notify_commands.SetConsent, reply: Reply) -> None:
        now_ms = self._at_ms()
        if not command.given:
            if command.purpose not in user.facts.consents:
                self._answer_when_stored(reply, lambda _at: self._preferences_of(user))
                return
            # What it allowed ends at once; what rested on it is erased, and then this is answered.
            user.facts.consents.pop(command.purpose, None)
            message = EraseUser(user.user_id, user.app_id, command.purpose, "withdrawn")
            self._stage_ops([Remove(ConsentRow, {"user_id": user.user_id, "purpose": command.purpose})])
            self.erase(message, _Answering(reply, lambda: self._preferences_of(user)))
            return
        consent = Consent(
            purpose=command.purpose,
            source=command.source,
            given_at_ms=now_ms,
            ends_at_ms=command.ends_at_ms,
        )
        if 0 < consent.ends_at_ms <= now_ms:
            raise Refused("bad_request", "ends_at_ms has passed already.")
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
        user = self._users.get(user_id)
        app_id = user.app_id if user is not None else ""
        if user is not None:
            user.facts.consents.pop(purpose, None)
        if not app_id:
            row = await self._log.get(ConsentRow, user_id, purpose)
            if row is None:
                return
            app_id = row.app_id
        await self._setups.load(app_id)
        self._stage_ops([Remove(ConsentRow, {"user_id": user_id, "purpose": purpose})])
        self.erase(EraseUser(user_id, app_id, purpose, "ended"), NO_REPLY)

    def erase(self, message: EraseUser, reply: Reply) -> None:
        """Erase what is known for notifying a user, beginning with what waits to be sent."""
        self._ctx.start_soon(self._find_erased, message, reply, {})

    def _types_of(self, message: EraseUser) -> list[str] | None:
        """The types that rest on a purpose; None: no type does."""
        if not message.purpose:
            return []
        setup = self._setup_of(message.app_id)
        names = [rule.name for rule in setup.all_types() if rule.purpose == message.purpose]
        return names or None

    async def _find_erased(self, message: EraseUser, reply: Reply, counts: dict[str, int]) -> None:
        try:
            await self._setups.load(message.app_id)
            types = self._types_of(message)
            rows: list[NotificationRow] = []
            if types is not None:
                await self._log.barrier()
                rows = await self._reads.of_types(message.user_id, types, limit=_ERASE_PAGE)
        except HubbubError as error:
            reply.fail(error)
            return
        self._ctx.post(Erasing(message, rows, reply, counts, len(rows) >= _ERASE_PAGE))

    def erase_found(self, erasing: Erasing) -> None:
        """Blank what was found; with the last page, store the receipt and answer."""
        message, counts = erasing.message, erasing.counts
        now_ms = self._at_ms()
        ops: list[Op] = []
        for row in erasing.rows:
            self._gone.add(row.notification_id)
            where: dict[str, str | int] = {"notification_id": row.notification_id}
            ops.append(
                Update(
                    NotificationRow,
                    where,
                    {
                        "state": "erased",
                        "content": "",
                        "title": "",
                        "text": "",
                        "url": "",
                        "image": "",
                        "in_centre": 0,
                        "group_key": "",
                        "dedup_key": "",
                    },
                )
            )
            ops.append(Update(DeliveryRow, where, {"outgoing": "", "is_open": 0}))
            ops.append(Update(DeadDelivery, where, {"outgoing": ""}))
            note = self._notes.get(row.notification_id)
            for number in sorted(note.numbers) if note is not None else ():
                job = self._jobs[row.notification_id, number]
                counts["queued"] = counts.get("queued", 0) + 1
                if not job.is_begun:
                    self._close(job)
            self._record(
                "erased",
                row.user_id,
                row.notification_id,
                [Decision("consent", "drop", message.reason, message.purpose)],
                Staged(NO_REPLY, None),
            )
        counts["notifications"] = counts.get("notifications", 0) + len(erasing.rows)
        self._stats.erased += len(erasing.rows)
        user = self._users.get(message.user_id)
        if user is not None:
            gone = {row.notification_id for row in erasing.rows}
            user.unread -= gone
            user.groups = {k: g for k, g in user.groups.items() if g.notification_id not in gone}
            user.facts.open_groups = {
                k: g for k, g in user.facts.open_groups.items() if g.notification_id not in gone
            }
        if erasing.more:
            self._stage_ops(
                ops,
                Staged(
                    NO_REPLY,
                    None,
                    after=lambda _at: self._ctx.start_soon(self._find_erased, message, erasing.reply, counts),
                ),
            )
            return
        if not message.purpose:
            ops += self._forget_user(message, counts)
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
        self._stage_ops(ops, Staged(erasing.reply, lambda _at: receipt))

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
