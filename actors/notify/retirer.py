"""Addresses to which nothing more is sent, because their provider or their owner has said so."""

from actors.messages import AddressStopped
from actors.notify.address import partition_address
from actors.notify.delivery import Outcome
from actors.notify.job import Job
from actors.notify.releaser import Releaser
from actors.notify.suppression import SUPPRESSED, kind_of
from actors.notify.user_state import Stopped
from protocol.notify_records import NotifyDeviceRow, SuppressionRow
from protocol.notify_types import Channel, Decision
from protocol.records import Op, Put, Update


class Retirer(Releaser):
    """Retire addresses, and keep those of people from being registered again by the way."""

    def _retire(
        self, job: Job, outcome: Outcome, now_ms: int, decisions: list[Decision], ops: list[Op]
    ) -> None:
        """Send nothing more to an address that its provider has called dead, as of `invalid_since_ms`."""
        user = self._users.get(job.user_id)
        target = user.devices.get(job.device_key) if user is not None else None
        if target is None:
            if outcome.action == "suppress":
                self.suppress(
                    job.app_id, job.channel, job.device_key, outcome.action, outcome.code, now_ms, ops
                )
            return
        if outcome.is_doubtful and not self._channels.is_believed(job):
            decisions.append(Decision("retire", "hold", "account_never_accepted", job.provider_id))
            return
        if outcome.invalid_since_ms and target.registered_at_ms > outcome.invalid_since_ms:
            decisions.append(Decision("retire", "pass", "registered_again", f"{target.registered_at_ms}"))
            return
        self.retire(
            job.app_id,
            job.user_id,
            job.channel,
            job.device_key,
            outcome.code[:100] or outcome.action,
            now_ms,
            decisions,
            ops,
            is_guarded=outcome.action == "retire",
        )

    def retire(
        self,
        app_id: str,
        user_id: str,
        channel: Channel,
        device_key: str,
        why: str,
        now_ms: int,
        decisions: list[Decision],
        ops: list[Op],
        *,
        is_guarded: bool,
    ) -> None:
        """Send nothing more to an address of a user in memory. `is_guarded`: unless too many would go."""
        if is_guarded and not self._channels.may_retire(app_id, channel):
            decisions.append(Decision("retire", "hold", "mass_retirement", channel))
            return
        decisions.append(Decision("retire", "drop", why, device_key))
        self.suppress(app_id, channel, device_key, "retire" if is_guarded else "suppress", why, now_ms, ops)
        self.let_go(user_id, device_key, why, now_ms, ops)

    def let_go(self, user_id: str, device_key: str, why: str, now_ms: int, ops: list[Op]) -> None:
        """Keep an address of a user as one to which nothing is sent."""
        user = self._users.get(user_id)
        if user is not None:
            target = user.devices.pop(device_key, None)
            if target is not None and target.channel in SUPPRESSED:
                user.stopped[device_key] = Stopped(target, why)
            user.batch = self._batch
        where: dict[str, str | int] = {"user_id": user_id, "device_key": device_key}
        ops.append(Update(NotifyDeviceRow, where, {"retired_at_ms": now_ms, "retired_for": why}))

    def suppress(
        self,
        app_id: str,
        channel: Channel,
        device_key: str,
        action: str,
        why: str,
        now_ms: int,
        ops: list[Op],
    ) -> None:
        """Let nobody register a mail address or phone number again by the way; see suppression.py.

        Who else of the app has it is found once this is stored: see stopper.py.
        """
        if channel not in SUPPRESSED:
            return
        self._stats.suppressed += 1
        row = SuppressionRow(
            app_id=app_id, device_key=device_key, kind=kind_of(action), code=why[:100] or action, at_ms=now_ms
        )
        ops.append(Put(row))
        self._stage_tell_to(partition_address(self._partition), AddressStopped(app_id, device_key))
