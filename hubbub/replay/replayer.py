"""A replay under way: the steps of a plan, carried out in order."""

from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from functools import partial
from typing import Final

import msgspec
import trio

from hubbub.accounts import AppBackend
from hubbub.asker import Ticket
from hubbub.client import Client
from hubbub.irc import Plan, Step
from hubbub.replay.check import Check
from hubbub.replay.seats import Seats, external_id, operator_name
from hubbub.replay.settings import OPERATORS, UNLIMITED, Settings
from protocol.errors import HubbubError, Refused
from protocol.http import ProvisionUser

JOIN_AHEAD_STEPS: Final = 200  # at full speed, joins of the next steps are made together,
JOIN_BATCH: Final = 20  # so many at once: each change of membership is told to everybody at once
MAX_UNDER_WAY: Final = 8  # leaves, removals and renames under way while the lines go on
REPEATED_STEPS: Final = 400  # before the last stored line; what went on beside them may not have been done
LOOK_AHEAD: Final = 400  # steps for whose senders connections are opened beforehand
PROVISION_BATCH: Final = 200  # accounts made by one request


class Summary(msgspec.Struct, frozen=True, kw_only=True):
    """What a replay did. `skipped` lines were stored by an earlier run."""

    conversation_id: str
    lines: int
    skipped: int
    users: int
    seconds: float
    lines_per_s: float


async def replay(
    settings: Settings,
    wanted: Plan,
    *,
    on_line: Callable[[int], None] = lambda _: None,
    is_verified: bool = False,
) -> tuple[Summary, list[str]]:
    """Play a plan to its end, and, if asked to, read it back. Returns what was done and what is wrong."""
    async with open_replay(settings, wanted) as replayer:
        await replayer.prepare()
        started = trio.current_time()
        lines, skipped = await replayer.play(on_line)
        seconds = max(trio.current_time() - started, 1e-9)
        faults = await replayer.verify() if is_verified else []
        summary = Summary(
            conversation_id=replayer.conversation_id,
            lines=lines,
            skipped=skipped,
            users=len(wanted.accounts),
            seconds=seconds,
            lines_per_s=lines / seconds,
        )
        return summary, faults


@asynccontextmanager
async def open_replay(settings: Settings, wanted: Plan) -> AsyncIterator["Replayer"]:
    """Hold a replay's connections; all of them end with the block."""
    failure: Exception | None = None
    async with (
        AppBackend(settings.url, settings.app_key, settings.app_secret) as backend,
        trio.open_nursery() as nursery,
    ):
        try:
            yield Replayer(settings, wanted, backend, nursery)
        except Exception as exc:
            failure = exc  # raised below as it is, not in a group
        nursery.cancel_scope.cancel()
    if failure is not None:
        raise failure


class Replayer:
    """A replay under way. Made by `open_replay`."""

    def __init__(self, settings: Settings, wanted: Plan, backend: AppBackend, nursery: trio.Nursery) -> None:
        self._settings = settings
        self._plan = wanted
        self._backend = backend
        self._nursery = nursery
        self._seats = Seats(settings, backend, nursery)
        self._user_ids: dict[str, str] = {}
        self._operators: list[Client] = []
        self._turn = 0
        self._under_way: set[str] = set()  # accounts
        self._done = trio.Event()
        self._joined_ahead: set[int] = set()  # indexes of steps
        self._failure: HubbubError | None = None
        self.conversation_id = ""

    async def prepare(self) -> None:
        """Make the accounts, and the group with those who run it."""
        names = [operator_name(index) for index in range(OPERATORS)]
        await self._provision([*names, *self._plan.accounts])
        self._operators = [await self._seats.open(name) for name in names]
        owner = self._operators[0]
        key = f"replay:{self._settings.group}"[:64]
        group = await owner.create_group(self._settings.group, client_id=key)
        self.conversation_id = group.conversation_id
        others = [client.user_id for client in self._operators[1:]]
        watchers = [await self._find_user(owner, name) for name in self._settings.watchers]
        await owner.add_members(self.conversation_id, [*others, *watchers])
        for user_id in others:
            await owner.set_role(self.conversation_id, user_id, "admin")

    async def _provision(self, accounts: Sequence[str]) -> None:
        for start in range(0, len(accounts), PROVISION_BATCH):
            batch = [
                ProvisionUser(external_id=external_id(account), username=account[:32], name=account[:64])
                for account in accounts[start : start + PROVISION_BATCH]
            ]
            made = await self._backend.provision(batch)
            for account, item in zip(accounts[start : start + PROVISION_BATCH], made.items, strict=True):
                self._user_ids[account] = item.user.user_id

    async def _find_user(self, client: Client, username: str) -> str:
        for profile in await client.find_users(username, limit=50):
            if profile.username.casefold() == username.casefold():
                return profile.user_id
        raise Refused("user_not_found", f"There is no user {username!r} in this app to watch the replay.")

    async def play(self, on_line: Callable[[int], None]) -> tuple[int, int]:
        """Do every step that is not done yet. `on_line` is told how many lines are stored so far.

        Returns: lines sent, lines that were there already.
        """
        steps = self._plan.steps
        first = await self._first_step()
        skipped = sum(1 for step in steps[:first] if step.kind == "say")
        stored = skipped
        on_line(stored)
        started = trio.current_time()
        start_s = steps[first].at_s if first < len(steps) else 0.0
        under_way: list[Ticket] = []  # all of one sender
        ahead = first
        for index in self._steps_to_repeat(first):
            await self._begin_step(steps[index])
        for index in range(first, len(steps)):
            while ahead < min(len(steps), index + LOOK_AHEAD):
                if steps[ahead].kind in ("say", "leave", "name"):
                    self._seats.expect(steps[ahead].account)
                ahead += 1
            step = steps[index]
            if self._settings.speed > UNLIMITED:
                await trio.sleep_until(started + (step.at_s - start_s) / self._settings.speed)
            if under_way and (step.kind != "say" or step.account != self._seats.speaker):
                for ticket in under_way:
                    await ticket.wait()
                stored += len(under_way)
                on_line(stored)
                under_way = []
            if step.kind == "say":
                self._seats.speaker = step.account
                client = await self._seats.open(step.account)
                under_way.append(
                    await client.start_send(self.conversation_id, step.text, client_id=step.client_id)
                )
            elif step.kind == "join":
                await self._join(index)
            else:
                await self._begin_step(step)
        for ticket in under_way:
            await ticket.wait()
        stored += len(under_way)
        on_line(stored)
        await self._wait_done(set(self._under_way))
        return stored - skipped, skipped

    async def _first_step(self) -> int:
        """Find the step after the last line that is stored. All lines before it are stored as well."""
        place = {step.client_id: index for index, step in enumerate(self._plan.steps) if step.kind == "say"}
        async for message in self._operators[0].history(self.conversation_id):
            if message.client_id in place:
                return place[message.client_id] + 1
        return 0

    def _steps_to_repeat(self, first: int) -> list[int]:
        """Return the steps that a killed run may still have been at, while it sent later lines.

        Of each account only the last one, and none that was undone by a later join. All may be done twice.
        """
        last: dict[tuple[str, bool], int] = {}
        for index in range(max(0, first - REPEATED_STEPS), first):
            step = self._plan.steps[index]
            if step.kind == "join":
                last.pop((step.account, False), None)
            elif step.kind != "say":
                last[step.account, step.kind == "name"] = index
        return sorted(last.values())

    async def _begin_step(self, step: Step) -> None:
        if step.kind == "name":
            await self._begin(step.account, partial(self._rename, step.account, step.text))
        else:
            task = self._leave if step.kind == "leave" else self._remove
            await self._begin(step.account, partial(task, step.account))

    async def _join(self, index: int) -> None:
        """Add an account to the group; at full speed, those that join soon as well."""
        if index in self._joined_ahead:
            self._joined_ahead.remove(index)
            return
        steps = self._plan.steps
        accounts = [steps[index].account]
        going: set[str] = set()
        if self._settings.speed == UNLIMITED:
            for later in range(index + 1, min(len(steps), index + JOIN_AHEAD_STEPS)):
                # Counted with those of earlier batches: the group has room for so many more than planned.
                if len(self._joined_ahead) >= JOIN_BATCH:
                    break
                step = steps[later]
                if step.kind in ("leave", "remove"):
                    going.add(step.account)
                elif step.kind == "join" and step.account not in going and later not in self._joined_ahead:
                    accounts.append(step.account)
                    self._joined_ahead.add(later)
        await self._wait_done(set(accounts))
        user_ids = [self._user_ids[account] for account in accounts]
        await self._operator().add_members(self.conversation_id, user_ids)

    async def _begin(self, account: str, task: Callable[[], Awaitable[object]]) -> None:
        """Begin what the lines do not depend on: a few at a time, and one at a time for an account."""
        await self._wait_done({account})
        while len(self._under_way) >= MAX_UNDER_WAY:
            await self._done.wait()
        self._check()
        self._under_way.add(account)
        self._nursery.start_soon(self._finish, account, task)

    async def _finish(self, account: str, task: Callable[[], Awaitable[object]]) -> None:
        try:
            await task()
        except HubbubError as exc:
            if not _is_gone_already(exc):
                self._failure = exc
        self._under_way.discard(account)
        self._done.set()
        self._done = trio.Event()

    async def _remove(self, account: str) -> None:
        await self._operator().remove_member(self.conversation_id, self._user_ids[account])

    async def _rename(self, account: str, name: str) -> None:
        async with self._seats.in_use(account) as client:
            await client.update_profile(name=name[:64])

    async def _wait_done(self, accounts: set[str]) -> None:
        while accounts & self._under_way:
            await self._done.wait()
        self._check()

    def _check(self) -> None:
        if self._failure is not None:
            raise self._failure

    async def _leave(self, account: str) -> None:
        async with self._seats.in_use(account) as client:
            await client.leave(self.conversation_id)

    def _operator(self) -> Client:
        self._turn = (self._turn + 1) % len(self._operators)
        return self._operators[self._turn]

    async def verify(self) -> list[str]:
        """Read everything back. Returns what is wrong, in words; empty where all is right."""
        check = Check(
            self.conversation_id,
            self._plan,
            self._user_ids,
            reader=self._operators[0],
            backend=self._backend,
        )
        return await check.run()


def _is_gone_already(exc: HubbubError) -> bool:
    """Whether a resumed replay met its own work: it repeats the steps after its last stored line."""
    return exc.code in ("not_member", "conversation_not_found", "user_not_found")
