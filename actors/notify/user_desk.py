"""What users say about their notifications: seen, read, reachable here, not any more there."""

from typing import Final

import msgspec

from actors.messages import Ask
from actors.notify.addresses import checked, device_key, masked
from actors.notify.consent_keeper import ConsentKeeper
from actors.notify.delivery import Target
from actors.notify.messages import DropAddress, Mark, PutAddress
from actors.notify.recheck import Recheck
from actors.notify.sender import NOTIFICATIONS_STREAM
from actors.notify.user_state import UserState
from actors.reply import NO_REPLY, Reply
from actors.stream_actor import Staged
from protocol import notify_commands, notify_events, notify_replies, replies
from protocol.codec import Encoded
from protocol.errors import HubbubError, Refused
from protocol.notify_records import NotificationRow, NotifyDeviceRow
from protocol.notify_replies import PushDevice
from protocol.notify_types import Channel, Decision
from protocol.records import Op, Put, Remove, Update

MAX_DEVICES: Final = 100  # of one user; the one registered longest ago gives way
_COLUMN: Final = {
    "seen": "seen_at_ms",
    "read": "read_at_ms",
    "opened": "opened_at_ms",
    "clicked": "clicked_at_ms",
    "dismissed": "dismissed_at_ms",
}

_encode = msgspec.json.Encoder().encode


class MarkFound(msgspec.Struct, frozen=True):
    """The notifications that are to be marked, as they are stored."""

    user_id: str
    mark: str
    how: str
    rows: list[NotificationRow]
    reply: Reply


class UserDesk(ConsentKeeper):
    """Serve users. Each method is called with the user in memory."""

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
            self._find_marked, "", [message.notification_id], message.mark, message.how, reply, message.app_id
        )

    async def _find_marked(
        self, user_id: str, ids: list[int], mark: str, how: str, reply: Reply, app_id: str = ""
    ) -> None:
        rows: list[NotificationRow] = []
        try:
            await self._log.barrier()
            for start in range(0, len(ids), 500):
                rows += await self._reads.notifications(ids[start : start + 500])
        except HubbubError as error:
            reply.fail(error)
            return
        if app_id:
            rows = [row for row in rows if row.app_id == app_id]
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
                self._seen.add(row.notification_id, self._ctx.now())
                self._skip_pushes(row.notification_id, message.mark)
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

    def _skip_pushes(self, notification_id: int, mark: str) -> None:
        """What the user has seen in the app need not be pushed any more."""
        note = self._notes.get(notification_id)
        if note is None:
            return
        note.is_seen = True  # and is not tried again
        for number in sorted(note.numbers):
            job = self._jobs[notification_id, number]
            if not job.is_begun and not job.rule.is_security:
                note.is_sent = True
                why = Decision("result", "skipped", f"{mark}_in_app", job.device_key)
                self._skip(job, Recheck("drop", why, code=f"{mark}_in_app"))

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
                if job.device_key == key and not job.is_begun:
                    why = Decision("choose", "drop", reason, key)
                    self._skip(job, Recheck("drop", why, code="address_gone"))


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
