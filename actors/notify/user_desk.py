"""What users say about their notifications: read, wanted, not wanted any more; and what is erased for it."""

from secrets import token_hex
from typing import Final

import msgspec

from actors.messages import Ask
from actors.notify.addresses import checked, device_key, masked
from actors.notify.delivery import Target
from actors.notify.messages import DropAddress, EraseUser, Mark, PutAddress, Unsubscribe
from actors.notify.ports import Setup
from actors.notify.timekeeper import Timekeeper
from actors.notify.user_state import UserState
from actors.notify.wishes import is_wanted
from actors.reply import NO_REPLY, Reply
from actors.stream_actor import Staged
from protocol import notify_commands, notify_events, notify_replies, replies
from protocol.codec import Encoded
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
from protocol.notify_replies import PushDevice, TypeInfo
from protocol.notify_types import Channel, Consent, Decision, Preferences, TypePreference, TypeRule
from protocol.records import Insert, Op, Put, Remove, Update

NOTIFICATIONS_STREAM: Final = "notifications"
MAX_DEVICES: Final = 100  # of one user; the one registered longest ago gives way
_COLUMN: Final = {
    "seen": "seen_at_ms",
    "read": "read_at_ms",
    "opened": "opened_at_ms",
    "clicked": "clicked_at_ms",
    "dismissed": "dismissed_at_ms",
}
_ERASE_PAGE: Final = 500

_encode = msgspec.json.Encoder().encode


class MarkFound(msgspec.Struct, frozen=True):
    """The notifications that are to be marked, as they are stored."""

    user_id: str
    mark: str
    how: str
    rows: list[NotificationRow]
    reply: Reply


class Erasing(msgspec.Struct, frozen=True):
    """A page of what is to be erased of a user."""

    message: EraseUser
    rows: list[NotificationRow]
    reply: Reply
    counts: dict[str, int]
    more: bool


class UserDesk(Timekeeper):
    """Serve users. Each method is called with the user in memory."""

    def user_of(self, user_id: str, app_id: str) -> UserState:
        """Raises: Refused(user_not_found)."""
        user = self._users.get(user_id)
        if user is None or user.app_id != app_id:
            raise Refused("user_not_found")
        return user

    # -- commands -----------------------------------------------------------------------------------

    def command(self, ask: Ask, reply: Reply) -> None:
        user = self.user_of(ask.user_id, ask.app_id)
        match ask.command:
            case notify_commands.MarkNotifications() as command:
                self._mark(user, command, reply)
            case notify_commands.GetPreferences():
                self._answer_when_stored(reply, lambda _at: self._preferences_of(user))
            case notify_commands.SetPreferences(preferences=preferences):
                self._set_preferences(user, preferences, reply, "set")
            case notify_commands.RegisterPush() as command:
                self._register(user, command.channel, command.address, command.keys, command.name, reply)
            case notify_commands.UnregisterPush(device_key=key):
                if key not in user.devices:
                    raise Refused("device_not_found")
                self._drop_address(user, key, "unregistered", reply)
            case notify_commands.ListPush():
                self._answer_when_stored(reply, lambda _at: _devices_of(user))
            case notify_commands.SetConsent() as command:
                self._set_consent(user, command, reply)
            case command:
                raise TypeError(f"notifications do not take {type(command).__name__}")

    # -- marks --------------------------------------------------------------------------------------

    def _mark(self, user: UserState, command: notify_commands.MarkNotifications, reply: Reply) -> None:
        ids = list(command.notification_ids)
        if command.up_to:
            ids += sorted(known for known in user.unread if known <= command.up_to)
        if not ids:
            self._answer_when_stored(reply, lambda _at: notify_replies.Badge(unread=len(user.unread)))
            return
        self._ctx.start_soon(self._find_marked, user.user_id, ids, command.mark, "", reply)

    def mark_one(self, message: Mark, reply: Reply) -> None:
        """A link was followed or a picture loaded; whose it is is read with it."""
        self._ctx.start_soon(
            self._find_marked, "", [message.notification_id], message.mark, message.how, reply
        )

    async def _find_marked(self, user_id: str, ids: list[int], mark: str, how: str, reply: Reply) -> None:
        rows: list[NotificationRow] = []
        try:
            await self._log.barrier()
            for start in range(0, len(ids), 500):
                rows += await self._reads.notifications(ids[start : start + 500])
        except HubbubError as error:
            reply.fail(error)
            return
        self._ctx.post(MarkFound(user_id, mark, how, rows, reply))

    def mark_found(self, message: MarkFound) -> None:
        """Store marks, tell the user's devices, and take back pushes of what was seen."""
        rows = [row for row in message.rows if message.user_id in ("", row.user_id)]
        if not rows:
            message.reply.fail(Refused("notification_not_found"))
            return
        user_id = rows[0].user_id
        user = self._users.get(user_id)
        now_ms = self._at_ms()
        ops: list[Op] = []
        for row in rows:
            changes = _changes_of(row, message.mark, now_ms)
            if not changes:
                continue
            ops.append(Update(NotificationRow, {"notification_id": row.notification_id}, changes))
            self._record(
                "marked",
                user_id,
                row.notification_id,
                [Decision("track", message.mark, message.how or "user")],
                Staged(NO_REPLY, None),
            )
            if user is not None:
                if message.mark == "unread":
                    user.unread.add(row.notification_id)
                elif message.mark != "seen":
                    user.unread.discard(row.notification_id)
            if message.mark != "unread":
                self._skip_pushes(row.notification_id, message.mark, ops)
        ids = [row.notification_id for row in rows]
        unread = len(user.unread) if user is not None else -1

        def tell(_at: object) -> None:
            if unread >= 0 and ops:
                event = notify_events.NotificationsMarked(
                    mark=message.mark, notification_ids=ids, unread=unread
                )
                self._fanout.publish_user_live(
                    user_id,
                    ("notifications_marked", str(ids[0])),
                    Encoded(event),
                    stream=NOTIFICATIONS_STREAM,
                )

        answer = notify_replies.Badge(unread=max(0, unread)) if message.user_id else replies.Ok()
        self._stage_ops(ops, Staged(message.reply, lambda _at: answer, after=tell))

    def _skip_pushes(self, notification_id: int, mark: str, ops: list[Op]) -> None:
        """What the user has seen in the app need not be pushed any more."""
        note = self._notes.get(notification_id)
        if note is None:
            return
        for number in sorted(note.numbers):
            job = self._jobs[notification_id, number]
            if job.is_begun or job.rule.is_security:
                continue
            self._stats.skipped += 1
            ops.append(
                Update(
                    DeliveryRow,
                    {"notification_id": notification_id, "number": number},
                    {"state": "skipped", "is_open": 0, "outgoing": "", "code": f"{mark}_in_app"},
                )
            )
            self._record(
                "concluded",
                job.user_id,
                notification_id,
                [Decision("result", "skipped", f"{mark}_in_app", job.device_key)],
                Staged(NO_REPLY, None),
            )
            note.is_sent = True
            if self._close(job):
                ops.append(Update(NotificationRow, {"notification_id": notification_id}, {"state": "done"}))

    # -- preferences --------------------------------------------------------------------------------

    def _preferences_of(self, user: UserState) -> notify_replies.PreferencesInfo:
        setup = self._setup_of(user.app_id)
        wishes = user.facts.preferences
        return notify_replies.PreferencesInfo(
            preferences=wishes,
            types=[_type_info(rule, wishes, setup) for rule in setup.all_types()],
            consents=list(user.facts.consents.values()),
            time_zone=user.facts.time_zone,
            vapid_public_key=setup.vapid_public_key,
        )

    def _set_preferences(self, user: UserState, preferences: Preferences, reply: Reply, how: str) -> None:
        user.facts.preferences = preferences
        row = NotifyUserRow(
            user_id=user.user_id,
            app_id=user.app_id,
            preferences=_encode(preferences).decode(),
        )
        user.batch = self._batch
        self._stage_ops([Put(row)], Staged(reply, lambda _at: self._preferences_of(user)))
        self._drop_unwanted(user, how)

    def _drop_unwanted(self, user: UserState, how: str) -> None:
        """What waits and is not wanted any more is not sent."""
        wishes = user.facts.preferences
        ops: list[Op] = []
        for note_id, note in [(i, n) for i, n in self._notes.items() if n.user_id == user.user_id]:
            if note.rule.is_security:
                continue
            for number in sorted(note.numbers):
                job = self._jobs[note_id, number]
                if job.is_begun or is_wanted(wishes, note.rule.name, job.channel):
                    continue
                ops.append(
                    Update(
                        DeliveryRow,
                        {"notification_id": note_id, "number": number},
                        {"state": "skipped", "is_open": 0, "outgoing": "", "code": "not_wanted"},
                    )
                )
                self._record(
                    "concluded",
                    user.user_id,
                    note_id,
                    [Decision("preferences", "drop", how, job.channel)],
                    Staged(NO_REPLY, None),
                )
                if self._close(job):
                    ops.append(Update(NotificationRow, {"notification_id": note_id}, {"state": "done"}))
        if ops:
            self._stage_ops(ops)

    def unsubscribe(self, message: Unsubscribe, reply: Reply) -> None:
        """Set the one preference that a link in a mail stands for. Doing it again changes nothing."""
        user = self.user_of(message.user_id, message.app_id)
        wishes = user.facts.preferences
        if message.type_name:
            wish = wishes.types.get(message.type_name, TypePreference())
            wish = msgspec.structs.replace(wish, channels={**wish.channels, message.channel: False})
            wishes = msgspec.structs.replace(wishes, types={**wishes.types, message.type_name: wish})
        else:
            wishes = msgspec.structs.replace(wishes, channels={**wishes.channels, message.channel: False})
        self._set_preferences(user, wishes, NO_REPLY, message.how)
        self._answer_when_stored(reply, lambda _at: replies.Ok())

    # -- addresses ----------------------------------------------------------------------------------

    def put_address(self, message: PutAddress, reply: Reply) -> None:
        user = self.user_of(message.user_id, message.app_id)
        self._register(user, message.channel, message.address, message.keys, message.name, reply)

    def _register(
        self,
        user: UserState,
        channel: Channel,
        address: str,
        keys: dict[str, str],
        name: str,
        reply: Reply,
    ) -> None:
        address = checked(channel, address, keys)
        key = device_key(channel, address)
        now_ms = self._at_ms()
        known = user.devices.get(key)
        user.devices[key] = Target(
            device_key=key, channel=channel, address=address, keys=keys, registered_at_ms=now_ms
        )
        user.device_names[key] = name
        row = NotifyDeviceRow(
            user_id=user.user_id,
            device_key=key,
            app_id=user.app_id,
            channel=channel,
            address=address,
            keys=_encode(keys).decode() if keys else "",
            name=name,
            registered_at_ms=now_ms,
            seen_at_ms=now_ms,
        )
        user.batch = self._batch
        ops: list[Op] = [Put(row)]
        if known is None and len(user.devices) > MAX_DEVICES:
            oldest = min(user.devices.values(), key=lambda target: target.registered_at_ms)
            del user.devices[oldest.device_key]
            ops.append(Remove(NotifyDeviceRow, {"user_id": user.user_id, "device_key": oldest.device_key}))
        self._stage_ops(ops, Staged(reply, lambda _at: _devices_of(user)))

    def drop_address(self, message: DropAddress, reply: Reply) -> None:
        """An address is somebody else's now."""
        user = self._users.get(message.user_id)
        if user is None or message.device_key not in user.devices:
            reply.resolve(replies.Ok())
            return
        self._drop_address(user, message.device_key, message.reason, reply, is_ok=True)

    def _drop_address(
        self, user: UserState, key: str, reason: str, reply: Reply, *, is_ok: bool = False
    ) -> None:
        del user.devices[key]
        user.batch = self._batch
        self._stage_ops(
            [Remove(NotifyDeviceRow, {"user_id": user.user_id, "device_key": key})],
            Staged(reply, lambda _at: replies.Ok() if is_ok else _devices_of(user)),
        )
        for note_id, note in [(i, n) for i, n in self._notes.items() if n.user_id == user.user_id]:
            for number in sorted(note.numbers):
                job = self._jobs[note_id, number]
                if job.device_key != key or job.is_begun:
                    continue
                self._record(
                    "concluded",
                    user.user_id,
                    note_id,
                    [Decision("choose", "drop", reason, key)],
                    Staged(NO_REPLY, None),
                )
                ops: list[Op] = [
                    Update(
                        DeliveryRow,
                        {"notification_id": note_id, "number": number},
                        {"state": "skipped", "is_open": 0, "outgoing": "", "code": reason},
                    )
                ]
                if self._close(job):
                    ops.append(Update(NotificationRow, {"notification_id": note_id}, {"state": "done"}))
                self._stage_ops(ops)

    # -- consent, and what is erased ----------------------------------------------------------------

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


def _changes_of(row: NotificationRow, mark: str, now_ms: int) -> dict[str, str | int | None]:
    """What a mark changes in a notification; empty: it is so already."""
    if mark == "unread":
        return {"read_at_ms": 0} if row.read_at_ms and row.in_centre else {}
    column = _COLUMN[mark]
    changes: dict[str, str | int | None] = {}
    if not getattr(row, column):
        changes[column] = now_ms
    if mark != "seen" and not row.read_at_ms:
        changes["read_at_ms"] = now_ms
    if not row.seen_at_ms:
        changes["seen_at_ms"] = now_ms
    if mark == "clicked" and not row.opened_at_ms:
        changes["opened_at_ms"] = now_ms
    if mark == "dismissed" and row.in_centre:
        changes["in_centre"] = 0
    return changes


def _type_info(rule: TypeRule, wishes: Preferences, setup: Setup) -> TypeInfo:
    offers = dict.fromkeys([*rule.channels, *rule.fallback])
    wish = wishes.types.get(rule.name)
    frequency = wish.frequency if wish is not None and wish.frequency is not None else wishes.frequency
    return TypeInfo(
        name=rule.name,
        title=rule.title or rule.name,
        channels=[channel for channel in rule.channels if is_wanted(wishes, rule.name, channel)],
        is_security=rule.is_security,
        frequency=frequency,
        offers=[channel for channel in offers if channel == "inapp" or setup.has_provider(channel)],
        purpose=rule.purpose,
    )


def _devices_of(user: UserState) -> notify_replies.PushDevices:
    return notify_replies.PushDevices(
        items=[
            PushDevice(
                device_key=target.device_key,
                channel=target.channel,
                address=masked(target.channel, target.address),
                name=user.device_names.get(target.device_key, ""),
                registered_at_ms=target.registered_at_ms,
            )
            for target in user.devices.values()
        ]
    )
