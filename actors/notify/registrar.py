"""Register addresses, unless people or their providers have said that nothing is to come there any more.

Who answers STOP, complains of spam, or has no mailbox any more is not written to again because a list is
imported again. Such addresses are kept as `SuppressionRow`s, for the whole app (suppression.py tells which,
and what lifts them). Tokens and subscriptions are registered without a look.
"""

from typing import Final

import msgspec

from actors.notify.addresses import checked, device_key, masked
from actors.notify.consent_keeper import ConsentKeeper
from actors.notify.delivery import Target
from actors.notify.messages import PutAddress
from actors.notify.suppression import SUPPRESSED, lifts
from actors.notify.user_state import Stopped, UserState
from actors.reply import Reply
from actors.stream_actor import Staged
from protocol import notify_replies
from protocol.errors import HubbubError
from protocol.notify_records import NotifyDeviceRow, SuppressionRow
from protocol.notify_replies import PushDevice
from protocol.records import Op, Put, Remove

MAX_DEVICES: Final = 100  # of one user; the one registered longest ago gives way

_encode = msgspec.json.Encoder().encode


class Registering(msgspec.Struct, frozen=True):
    """An address that is to be registered, and what the store has against it.

    `number`: the suppressions of this node by then.
    """

    message: PutAddress
    reply: Reply
    number: int
    row: SuppressionRow | None = None


class Registrar(ConsentKeeper):
    """Take `PutAddress`. Each method is called with the user in memory, but for `looked_up`."""

    def put_address(self, message: PutAddress, reply: Reply) -> None:
        """Register an address. Raises: Refused(bad_device_token, user_not_found)."""
        user = self.user_of(message.user_id, message.app_id)
        address = checked(message.channel, message.address, message.keys)
        message = msgspec.structs.replace(message, address=address)
        if message.channel in SUPPRESSED:
            self._ctx.start_soon(self._look_up_address, message, reply, self._stats.suppressed)
        else:
            self._register(user, message, reply, None)

    async def _look_up_address(self, message: PutAddress, reply: Reply, number: int) -> None:
        """Read what there is against an address; runs beside the actor."""
        try:
            await self._log.barrier()
            key = device_key(message.channel, message.address)
            row = await self._log.get(SuppressionRow, message.app_id, key)
        except HubbubError as error:
            reply.fail(error)
            return
        self._ctx.post(Registering(message, reply, number, row))

    def looked_up(self, found: Registering) -> None:
        """Register it, now that it is known what there is against it."""
        message, reply = found.message, found.reply
        if not self._has_users((message.user_id,), found, reply):
            return
        if found.number != self._stats.suppressed:  # it may be this one that was stopped meanwhile
            self._ctx.start_soon(self._look_up_address, message, reply, self._stats.suppressed)
            return
        try:
            self.check_room_again()
            user = self.user_of(message.user_id, message.app_id)
        except HubbubError as error:
            reply.fail(error)
            return
        self._register(user, message, reply, found.row)

    def _register(
        self, user: UserState, message: PutAddress, reply: Reply, suppression: SuppressionRow | None
    ) -> None:
        now_ms = self._now_ms()
        key = device_key(message.channel, message.address)
        known = user.devices.pop(key, None)
        user.stopped.pop(key, None)
        # Seen in an old list is not seen alive.
        registered_at_ms = known.registered_at_ms if known is not None and message.is_import else now_ms
        target = Target(
            device_key=key,
            channel=message.channel,
            address=message.address,
            keys=message.keys,
            registered_at_ms=registered_at_ms,
        )
        ops: list[Op] = []
        is_lifted = suppression is None or lifts(
            suppression.kind, opt_in=message.opt_in, is_users_own=message.is_users_own
        )
        if is_lifted:
            user.devices[key] = target
        elif suppression is not None:
            user.stopped[key] = Stopped(target, suppression.code)
        if suppression is not None and is_lifted:
            ops.append(Remove(SuppressionRow, {"app_id": user.app_id, "device_key": key}))
            suppression = None
        user.device_names[key] = message.name
        row = NotifyDeviceRow(
            user_id=user.user_id,
            device_key=key,
            app_id=user.app_id,
            channel=message.channel,
            address=message.address,
            keys=_encode(message.keys).decode() if message.keys else "",
            name=message.name,
            registered_at_ms=registered_at_ms,
            seen_at_ms=now_ms,
            retired_at_ms=suppression.at_ms if suppression is not None else 0,
            retired_for=suppression.code if suppression is not None else "",
        )
        user.batch = self._batch
        ops.append(Put(row))
        if known is None and len(user.devices) > MAX_DEVICES:
            oldest = min(user.devices.values(), key=lambda target: target.registered_at_ms)
            del user.devices[oldest.device_key]
            ops.append(Remove(NotifyDeviceRow, {"user_id": user.user_id, "device_key": oldest.device_key}))
        self._stage_ops(ops, Staged(reply, lambda _at: devices_of(user)))


def devices_of(user: UserState) -> notify_replies.PushDevices:
    """A user's addresses, as they may be shown; those that are stopped with the reason."""
    alive = [(target, "") for target in user.devices.values()]
    stopped = [(known.target, known.why) for known in user.stopped.values()]
    return notify_replies.PushDevices(
        items=[
            PushDevice(
                device_key=target.device_key,
                channel=target.channel,
                address=masked(target.channel, target.address),
                name=user.device_names.get(target.device_key, ""),
                registered_at_ms=target.registered_at_ms,
                retired_for=why,
            )
            for target, why in (*alive, *stopped)
        ]
    )
