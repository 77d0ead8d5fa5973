"""What users say about their notifications: seen, read, reachable here, not any more there."""

from typing import Final

import msgspec

from actors.messages import Ask
from actors.notify.messages import DropAddress, Mark, PutAddress
from actors.notify.recheck import Recheck
from actors.notify.registrar import Registrar, devices_of
from actors.notify.sender import NOTIFICATIONS_STREAM
from actors.notify.user_state import UserState
from actors.reply import NO_REPLY, Reply
from actors.stream_actor import Staged
from protocol import notify_commands, notify_events, notify_replies, replies
from protocol.codec import Encoded
from protocol.errors import HubbubError, Refused
from protocol.notify_records import NotificationRow, NotifyDeviceRow
from protocol.notify_types import Decision
from protocol.records import Op, Remove, Update

_COLUMN: Final = {
    "seen": "seen_at_ms",
    "read": "read_at_ms",
    "opened": "opened_at_ms",
    "clicked": "clicked_at_ms",
    "dismissed": "dismissed_at_ms",
}


class MarkFound(msgspec.Struct, frozen=True):
    """The notifications that are to be marked, as they are stored."""

    user_id: str
    mark: str
    how: str
    rows: list[NotificationRow]
    reply: Reply
    is_own: bool = True


class UserDesk(Registrar):
    """Serve users. Each method is called with the user in memory."""

    def command(self, ask: Ask, reply: Reply) -> None:
        user = self.user_of(ask.user_id, ask.app_id)
        match ask.command:
            case notify_commands.MarkNotifications() as command:
                self._mark(user, command, reply)
            case notify_commands.GetPreferences():
                self._setup_of(user.app_id)
                self._answer_when_stored(reply, lambda _at: self._preferences_of(user))
            case notify_commands.SetPreferences(preferences=preferences):
                self._set_preferences(user, preferences, reply, "set")
            case notify_commands.RegisterPush() as command:
                self.put_address(_put_of(user, command), reply)
            case notify_commands.UnregisterPush(device_key=key):
                if key not in user.devices and key not in user.stopped:
                    raise Refused("device_not_found")
                self._drop_address(user, key, "unregistered", reply)
            case notify_commands.ListPush():
                self._answer_when_stored(reply, lambda _at: devices_of(user))
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
        # Who is being read just now may come with what was before.
        if user_id in self._wanted and not self._has_users((user_id,), message, message.reply):
            return
        try:
            self.check_room_again()
        except HubbubError as refused:
            message.reply.fail(refused)
            return
        user = self._users.get(user_id)
        now_ms = self._now_ms()
        ops: list[Op] = []
        for row in rows:
            changes = _changes_of(row, message.mark, now_ms)
            if not changes or row.notification_id in self._erased:
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

    def drop_address(self, message: DropAddress, reply: Reply) -> None:
        """An address is somebody else's now."""
        user = self._users.get(message.user_id)
        if user is None or not (message.device_key in user.devices or message.device_key in user.stopped):
            reply.resolve(replies.Ok())
            return
        self._drop_address(user, message.device_key, message.reason, reply, is_ok=True)

    def _drop_address(
        self, user: UserState, key: str, reason: str, reply: Reply, *, is_ok: bool = False
    ) -> None:
        user.devices.pop(key, None)
        user.stopped.pop(key, None)
        user.batch = self._batch
        self._stage_ops(
            [Remove(NotifyDeviceRow, {"user_id": user.user_id, "device_key": key})],
            Staged(reply, lambda _at: replies.Ok() if is_ok else devices_of(user)),
        )
        self.skip_gone(user.user_id, key, reason)


def _put_of(user: UserState, command: notify_commands.RegisterPush) -> PutAddress:
    return PutAddress(
        user.user_id,
        user.app_id,
        command.channel,
        command.address,
        command.keys,
        command.name,
        opt_in=command.opt_in,
        is_users_own=True,
    )


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
