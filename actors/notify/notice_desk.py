"""What others tell a partition to let its users know of: looked at, decided, and the tell removed, as one."""

from typing import Final

import msgspec

from actors.messages import NoticeDue, Told, decode_tell
from actors.notify.messages import Notify
from actors.notify.user_desk import UserDesk
from actors.reply import Reply
from actors.stream_actor import Staged
from protocol import replies
from protocol.errors import HubbubError, Refused
from protocol.notify_content import Content
from protocol.records import Remove, Tell, User

MAX_ACTOR_CHARS: Final = 100


class NoticeRead(msgspec.Struct, frozen=True):
    """What the store knows of a tell was read. None: the user is not to be told."""

    tell_id: str
    user_id: str
    message: Notify | None


class Passing(msgspec.Struct, frozen=True):
    """What was read, and who waits; posted by the actor to itself."""

    read: NoticeRead
    reply: Reply


class NoticeDesk(UserDesk):
    """Take `Told`."""

    def take_told(self, told: Told, reply: Reply) -> None:
        """Look who tells what; then the tell comes again, as NoticeRead."""
        tell = decode_tell(told.body)
        if not isinstance(tell, NoticeDue):
            raise TypeError(f"a notification partition is not told {type(tell).__name__}")
        self._ctx.start_soon(self._read_notice, told.tell_id, tell, reply)

    async def _read_notice(self, tell_id: str, tell: NoticeDue, reply: Reply) -> None:
        """Read whose doing it is, and whether the user wants to know; runs beside the actor."""
        message: Notify | None = None
        try:
            views = await self._log.posts.views(tell.user_id, [tell.actor_id])
            actor = await self._log.get(User, tell.actor_id)
            view = views.get(tell.actor_id)
            if actor is not None and not (
                view is None or view.is_blocked or view.blocks_viewer or view.is_muted
            ):
                await self._setups.load(tell.app_id)
                message = _message_of(tell_id, tell, actor)
        except HubbubError as error:
            reply.fail(error)
            return
        self._ctx.post(Passing(NoticeRead(tell_id, tell.user_id, message), reply))

    def is_withdrawn(self, message: Notify) -> bool:
        """Tell what tells of something that was deleted meanwhile."""
        raise NotImplementedError

    def notice_read(self, read: NoticeRead, reply: Reply) -> None:
        """Notify, and remove the tell in the same append. Raises: Unavailable; then nothing has changed."""
        self._log.check_room()
        done = Remove(Tell, {"tell_id": read.tell_id})
        if read.message is None or self.is_withdrawn(read.message):
            self._stage_ops([done], Staged(reply, lambda _at: replies.Ok()))
            return
        if not self._has_users((read.user_id,), read, reply):
            return
        if not self.knows_recent(read.message, read, reply):
            return
        if not self.has_texts(read.message, read, reply):
            return
        if not self.rests_on_stored(read.message, read, reply):
            return
        try:
            self.notify(read.message, reply)
        except Refused as refused:  # the user is gone, or disabled
            if refused.code != "user_not_found":
                self._ctx.log.warning("notice_refused", code=refused.code, type=read.message.content.type)
            self._stage_ops([done], Staged(reply, lambda _at: replies.Ok()))
        else:
            self._stage_ops([done])

    def pass_on(self, passing: Passing) -> None:
        """Take a tell again, with the reply of the first time."""
        try:
            self.notice_read(passing.read, passing.reply)
        except HubbubError as error:
            passing.reply.fail(error)


def _message_of(tell_id: str, tell: NoticeDue, actor: User) -> Notify:
    content = Content(
        type=tell.type_name,
        template=tell.template,
        url=tell.url,
        # Whose doing it is, so that the same of another one is no duplicate; a like given twice is.
        data={"user_id": tell.actor_id, **tell.data},
        subject=tell.subject,
        batch_key=tell.batch_key,
        actor=(actor.name or actor.username)[:MAX_ACTOR_CHARS],
    )
    return Notify(
        app_id=tell.app_id,
        user_ids=(tell.user_id,),
        content=content,
        key=f"tell:{tell_id}",
        source="hubbub",
        request_id=tell.thing,
        actor_count=tell.actor_count,
    )
