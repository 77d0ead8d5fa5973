"""A node with its notification providers set to the sandbox's."""

from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from pathlib import Path

import msgspec
import pytest
import trio
import trio.testing

from actors.messages import Wake
from actors.notify.address import app_address, owner_of, partition_address
from actors.notify.keeper import LedgerBody, NotifyStats, ledger_body
from actors.notify.messages import Mark, Redrive
from actors.notify.timekeeper import Tidy
from protocol import notify_commands
from protocol.errors import HubbubError
from protocol.notify_content import NotifyRequest
from protocol.notify_ids import partition_of_id
from protocol.notify_records import PARTITION_COUNT, NotificationRow, NotifyDeviceRow
from protocol.notify_replies import NotifyAccepted
from protocol.records import AppKey, Entry, Put
from server.auth import app_secret
from server.clock import wall_clock_ms
from server.sandbox.sandbox import Sandbox
from tests.server.world import Device, World, open_world

APP = "default"


def apns_token(number: int) -> str:
    """A device token that the sandbox takes."""
    return f"{number:064x}"


def apns_devices(user_ids: Sequence[str]) -> list[Put]:
    """A device for each of these users, with the tokens 1, 2, 3, …, as an import would store them."""
    return [
        Put(
            NotifyDeviceRow(
                user_id=user_id,
                device_key=f"apns-{number}",
                app_id=APP,
                channel="apns",
                address=apns_token(number + 1),
                registered_at_ms=1,
            )
        )
        for number, user_id in enumerate(user_ids)
    ]


class Clock:
    """Real time, and what a test has put it ahead by."""

    def __init__(self) -> None:
        self.ahead_ms = 0

    def __call__(self) -> int:
        return wall_clock_ms() + self.ahead_ms

    def pass_by(self, notifier: "Notifier", ms: int) -> None:
        """Let time pass; the partitions notice."""
        self.ahead_ms += ms
        for partition in range(PARTITION_COUNT):
            notifier.world.core.router.tell(partition_address(partition), Wake())


class Notifier:
    """What tests do with notifications."""

    def __init__(self, world: World, sandbox: Sandbox | None) -> None:
        self.world = world
        self.sandbox = sandbox
        self.core = world.core.notifications

    @property
    def stats(self) -> NotifyStats:
        return self.core.stats

    async def notify(self, request: NotifyRequest, app_id: str = APP) -> NotifyAccepted:
        return await self.core.entry.notify(app_id, request)

    async def refusal(self, request: NotifyRequest) -> str:
        with pytest.raises(HubbubError) as caught:
            await self.notify(request)
        return caught.value.code

    async def has_apns(self, device: Device, number: int) -> None:
        await device.do(notify_commands.RegisterPush(channel="apns", address=apns_token(number)))

    async def have_apns(self, user_ids: Sequence[str]) -> None:
        """Give each of many users a device, as an import would."""
        await self.world.store.commit(apns_devices(user_ids))

    async def ledger(self, notification_id: int) -> list[Entry]:
        await self.world.store.barrier()
        return await self.world.store.notify.ledger(partition_of_id(notification_id), notification_id)

    async def kinds(self, notification_id: int) -> list[str]:
        """What was written down, in order.

        Without the attempts: the first one is part of the decision where a hand is free at that moment.
        """
        return [entry.kind for entry in await self.ledger(notification_id) if entry.kind != "attempted"]

    async def rules(self, notification_id: int) -> list[tuple[str, str, str]]:
        """(stage, outcome, rule) of all that was decided."""
        return [
            (decision.stage, decision.outcome, decision.rule)
            for entry in await self.ledger(notification_id)
            for decision in body_of(entry).d
        ]

    async def row(self, notification_id: int) -> NotificationRow:
        await self.world.store.barrier()
        (row,) = await self.world.store.notify.notifications([notification_id])
        return row

    async def settled(self, notification_id: int) -> NotificationRow:
        """Wait until nothing is under way for a notification any more."""
        while True:
            row = await self.row(notification_id)
            if row.state not in ("open", "held"):
                return row
            await trio.sleep(0.005)

    async def redrive(self, notification_id: int, number: int) -> None:
        await self.world.core.router.ask(
            owner_of(notification_id), Redrive(APP, ((notification_id, number),)), timeout_s=5
        )

    async def wake_app(self) -> None:
        """Let the app's actor look at its clock."""
        self.world.core.router.tell(app_address(APP), Wake())

    async def mark(self, notification_id: int, mark: str) -> None:
        await self.world.core.router.ask(
            owner_of(notification_id), Mark(notification_id, mark, "test"), timeout_s=5
        )

    async def app_key(self) -> tuple[str, str]:
        """A key of the default app, with its secret."""
        row = AppKey(app_key="k_test", app_id=APP, created_at_ms=1)
        await self.world.store.commit([Put(row)])
        return row.app_key, app_secret(self.world.secret, row.app_key)

    async def tidy(self, notification_id: int) -> None:
        """Let a partition forget what is old enough, in one append, and wait until this one is forgotten."""
        self.world.core.router.tell(owner_of(notification_id), Tidy())
        while await self.ledger(notification_id):  # noqa: ASYNC110 - it tells nobody
            await trio.sleep(0.005)

    async def until_state(self, notification_id: int, state: str) -> NotificationRow:
        """Wait until a notification has come into a state."""
        while True:
            row = await self.row(notification_id)
            if row.state == state:
                return row
            await trio.sleep(0.005)

    async def until_stat(self, name: str, value: int) -> None:
        """Wait until a counter has come so far."""
        while getattr(self.stats, name) < value:  # noqa: ASYNC110 - counters tell nobody
            await trio.sleep(0.005)


def body_of(entry: Entry) -> LedgerBody:
    """What a ledger row says."""
    return ledger_body(entry.body) if entry.body != "{}" else LedgerBody([])


@asynccontextmanager
async def open_notifier(
    directory: Path,
    sandbox: Sandbox | None = None,
    *,
    is_new: bool = True,
    public_url: str = "",
    clock: Callable[[], int] = wall_clock_ms,
) -> AsyncIterator[Notifier]:
    """Open a world; where it is new, set the default app up with the sandbox's accounts."""
    async with open_world(directory, public_url=public_url, clock=clock) as world:
        notifier = Notifier(world, sandbox)
        if is_new and sandbox is not None:
            configs = sandbox.configs()
            for name in configs.__struct_fields__:
                config = getattr(configs, name)
                if isinstance(config, msgspec.Struct):
                    await notifier.core.desk.put_provider(APP, name, config)  # type: ignore[arg-type]
        yield notifier
