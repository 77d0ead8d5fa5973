"""One delivery as it waits, is under way, or waits again: shared by its partition and its channel."""

from typing import Final, Literal, Protocol

from actors.notify.delivery import Outcome, Outgoing
from actors.notify.hosts import host_of
from actors.notify.ports import Account
from protocol.notify_types import PUSH_CHANNELS, Channel, Priority, TypeRule

SHORT_KEY_CHARS: Final = 8  # of a device key: one of a user's hundred addresses is known by them

Slot = Literal["none", "reserved", "sending"]
"""What a job has of its channel: nothing, a place that waits for the attempt to be stored, or a request."""


class Owner(Protocol):
    """The partition of a job, as a channel sees it. Both calls return at once."""

    def begin(self, jobs: "list[Job]") -> None:
        """Store that an attempt begins; then the partition calls `Channels.begun` with those that stand."""
        ...

    def conclude(self, job: "Job", account: Account | None, outcome: Outcome) -> None:
        """Store what became of the attempt, and decide what comes next."""
        ...


class Job:
    """A delivery that is open. Only its partition changes it; a channel looks whether it `is_cancelled`."""

    __slots__ = (
        "account",
        "account_index",
        "app_id",
        "attempt",
        "attempt_at_ms",
        "channel",
        "created_at_ms",
        "deadline_at_ms",
        "device_key",
        "doubles",
        "due_at_ms",
        "expires_at_ms",
        "failed_over",
        "host",
        "host_ticket",
        "is_begun",
        "is_cancelled",
        "is_dated",
        "is_final",
        "notification_id",
        "number",
        "outgoing",
        "owner",
        "priority",
        "provider_id",
        "rule",
        "slot",
        "ticket",
        "told_code",
        "undelivered_by",
        "user_id",
        "waits",
    )

    def __init__(
        self,
        owner: Owner,
        outgoing: Outgoing,
        number: int,
        rule: TypeRule,
        *,
        created_at_ms: int,
        due_at_ms: int,
        deadline_at_ms: int,
        attempt: int = 0,
        doubles: int = 0,
    ) -> None:
        self.owner = owner
        self.outgoing = outgoing
        self.number = number
        self.rule = rule
        self.notification_id = outgoing.notification_id
        self.app_id = outgoing.app_id
        self.user_id = outgoing.user_id
        self.priority: Priority = outgoing.priority
        self.channel: Channel = outgoing.target.channel
        self.device_key = outgoing.target.device_key
        self.expires_at_ms = outgoing.expires_at_ms
        self.created_at_ms = created_at_ms
        self.due_at_ms = due_at_ms
        self.is_dated = False  # it waits for a time of day, as quiet hours end; else for so and so long
        self.deadline_at_ms = deadline_at_ms
        self.attempt = attempt  # of which the last one is under way while `is_begun`
        self.attempt_at_ms = 0
        self.doubles = doubles
        self.account_index = 0  # which of the app's accounts is tried
        self.failed_over = 0
        self.undelivered_by: tuple[str, ...] = ()  # accounts that took it and could not deliver it
        self.provider_id = ""  # by which account the last attempt goes, or went
        self.is_begun = False
        self.is_final = False  # erased or cancelled under way: nothing follows, and its notification stays so
        self.is_cancelled = False
        self.told_code = ""  # why the account under way could not deliver it, as told before its own answer
        # The channel's own.
        self.slot: Slot = "none"
        self.account: Account | None = None
        self.host = host_of(self.channel, outgoing.target.address)  # with a breaker of its own; "": none has
        self.ticket = 0  # of the account's breaker
        self.host_ticket = 0  # of the host's
        self.waits = False  # for an account that may be used, not for its time

    @property
    def may_repeat(self) -> bool:
        """Whether it is sent again where nobody knows if it has arrived; see retry_policy.py."""
        return self.rule.may_double or (bool(self.outgoing.collapse_key) and self.channel in PUSH_CHANNELS)

    @property
    def where(self) -> dict[str, str | int]:
        """The key of its row."""
        return {"notification_id": self.notification_id, "number": self.number}

    def begin(self, now_ms: int) -> None:
        """Count an attempt that is about to be stored and made, by the account that was chosen."""
        self.attempt += 1
        self.is_begun = True
        self.attempt_at_ms = now_ms
        if self.account is not None:
            self.provider_id = self.account.provider_id

    @property
    def way(self) -> str:
        """By which address and account, as the ledger tells it: "apns-1f0c7a22 by primary"."""
        device = self.device_key[: self.device_key.rfind("-") + 1 + SHORT_KEY_CHARS]
        return f"{device} by {self.provider_id}" if self.provider_id else device
