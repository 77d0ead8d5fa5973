"""An address that is stopped for one user is stopped for all users of the app who have it, on whichever node.

A family shares a telephone, a club its mailbox; who answers STOP means the number, and is not told whose name
a message was for. With the suppression a durable tell is stored (retirer.py), so it is known of after a crash
too. It finds who has the address, and their partitions let go of it before they send anything more there.
"""

from collections.abc import Sequence
from typing import Final

import msgspec
import trio

from actors.entity import EntityContext
from actors.messages import AddressStopped, Told, decode_tell
from actors.notify.address import partition_address, partition_of
from actors.notify.messages import StopAddress
from actors.notify.withdrawer import Withdrawer
from actors.reply import NO_REPLY, Reply
from actors.stream_actor import Staged
from protocol import replies
from protocol.errors import HubbubError, Unavailable
from protocol.notify_records import SuppressionRow
from protocol.records import Op, Remove, Tell

PAGE: Final = 500  # users who are asked about at a time
ASK_TIMEOUT_S: Final = 10.0
FIRST_RETRY_S: Final = 0.1
TRIES: Final = 8  # 25 s in all, in which a shard is taken over; then the relay tries again


class Spread(msgspec.Struct, frozen=True):
    """All partitions know of a stopped address; or why not."""

    tell_id: str
    reply: Reply
    error: HubbubError | None = None
    is_own: bool = True


class Stopping(msgspec.Struct, frozen=True):
    """An address that was registered since it was stopped: whether it is stopped still."""

    message: StopAddress
    user_ids: tuple[str, ...]
    reply: Reply
    row: SuppressionRow | None
    is_own: bool = True


class Stopper(Withdrawer):
    """Take `AddressStopped` and `StopAddress`."""

    async def activate(self, ctx: EntityContext) -> None:
        self._spreading_count = 0
        await super().activate(ctx)

    def may_passivate(self) -> bool:
        return super().may_passivate() and not self._spreading_count

    def take_told(self, told: Told, reply: Reply) -> None:
        tell = decode_tell(told.body)
        if not isinstance(tell, AddressStopped):
            super().take_told(told, reply)
            return
        self._spreading_count += 1
        self._ctx.start_soon(self._spread, told.tell_id, tell, reply)

    async def _spread(self, tell_id: str, tell: AddressStopped, reply: Reply) -> None:
        """Tell the partitions of all who have the address; runs beside the actor."""
        delay_s = FIRST_RETRY_S
        for number in range(TRIES):
            try:
                await self._stop_all(tell)
            except HubbubError as error:
                if number == TRIES - 1:
                    self._ctx.post(Spread(tell_id, reply, error))
                    return
                await trio.sleep(delay_s)
                delay_s *= 2
            else:
                break
        self._ctx.post(Spread(tell_id, reply))

    async def _stop_all(self, tell: AddressStopped) -> None:
        """Raises: HubbubError; who was told is not told again."""
        await self._log.barrier()
        row = await self._log.get(SuppressionRow, tell.app_id, tell.device_key)
        if row is None:  # an opt-in has lifted it
            return
        after = ""
        while True:
            user_ids = await self._reads.users_at(tell.app_id, tell.device_key, after=after, limit=PAGE)
            parts: dict[int, list[str]] = {}
            for user_id in user_ids:
                parts.setdefault(partition_of(user_id), []).append(user_id)
            for partition, some in parts.items():
                message = StopAddress(tell.app_id, tuple(some), tell.device_key, row.code, row.at_ms)
                await self._ctx.router.ask(partition_address(partition), message, timeout_s=ASK_TIMEOUT_S)
            if len(user_ids) < PAGE:
                return
            after = user_ids[-1]

    def spread(self, message: Spread) -> None:
        """The tell is done, or comes again."""
        self._spreading_count -= 1
        if message.error is not None or not self.has_room():
            message.reply.fail(message.error or Unavailable("busy"))
            return
        done = Remove(Tell, {"tell_id": message.tell_id})
        self._stage_ops([done], Staged(message.reply, lambda _at: replies.Ok()))

    def stop_address(self, message: StopAddress, reply: Reply) -> None:
        """Send nothing more there for these users, who are in memory, if they exist."""
        newer = [user_id for user_id in message.user_ids if self._is_newer(user_id, message)]
        if newer:  # by an opt-in, or by who did not know of it yet
            self._ctx.start_soon(self._look_whether_stopped, message, tuple(newer), reply)
        self._stop_for([user_id for user_id in message.user_ids if user_id not in newer], message)
        if not newer:
            self._answer_in_order(reply, replies.Ok())

    async def _look_whether_stopped(
        self, message: StopAddress, user_ids: tuple[str, ...], reply: Reply
    ) -> None:
        try:
            await self._log.barrier()
            row = await self._log.get(SuppressionRow, message.app_id, message.device_key)
        except HubbubError as error:
            reply.fail(error)
            return
        self._ctx.post(Stopping(message, user_ids, reply, row))

    def stopping(self, found: Stopping) -> None:
        """Let go of an address that was registered meanwhile, if it is still stopped."""
        if not self.has_room():
            found.reply.fail(Unavailable("busy"))
            return
        if not self._has_users(found.user_ids, found, NO_REPLY):
            return
        if found.row is not None:
            self._stop_for(found.user_ids, found.message)
        self._answer_in_order(found.reply, replies.Ok())

    def _is_newer(self, user_id: str, message: StopAddress) -> bool:
        user = self._users.get(user_id)
        target = user.devices.get(message.device_key) if user is not None else None
        return target is not None and target.registered_at_ms > message.at_ms

    def _stop_for(self, user_ids: Sequence[str], message: StopAddress) -> None:
        now_ms = self._now_ms()
        ops: list[Op] = []
        stopped: list[str] = []
        for user_id in user_ids:
            user = self._users.get(user_id)
            if user is not None and user.app_id == message.app_id and message.device_key in user.devices:
                self.let_go(user_id, message.device_key, message.code, now_ms, ops)
                stopped.append(user_id)
        self._stage_ops(ops)
        for user_id in stopped:
            self.skip_gone(user_id, message.device_key, "retired")
