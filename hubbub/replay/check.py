"""Read a played group back and compare it with the plan: every line, and every member's unread count."""

from collections.abc import AsyncIterator, Iterable, Mapping, Sequence
from typing import Final

import trio

from hubbub.accounts import AppBackend
from hubbub.client import Client
from hubbub.irc import Plan
from hubbub.replay.seats import is_operator
from protocol import commands as c
from protocol import events as e
from protocol import replies as r
from protocol.errors import HubbubError, Unavailable
from protocol.types import ConversationSummary

VERIFY_TASKS: Final = 4  # members whose unread count is read at a time


class Check:
    """A check of one group. `reader` is a member of it; `user_ids` are the nicks' by account."""

    def __init__(
        self,
        conversation_id: str,
        wanted: Plan,
        user_ids: Mapping[str, str],
        *,
        reader: Client,
        backend: AppBackend,
    ) -> None:
        self._conversation_id = conversation_id
        self._plan = wanted
        self._user_ids = user_ids
        self._reader = reader
        self._backend = backend

    async def run(self) -> list[str]:
        """Read everything back. Returns what is wrong, in words; empty where all is right."""
        events = [event async for event in self._all_events()]
        faults = self._verify_lines(events)
        faults += await self._verify_unread(events)
        return faults

    async def _all_events(self) -> AsyncIterator[e.Event]:
        after = 0
        while True:  # ends with the last page
            page = await self._reader.sync_page(self._conversation_id, after, limit=500)
            for event in page.items:
                yield event
                after = getattr(event, "seq", after)
            if not page.more:
                return

    def _verify_lines(self, events: Sequence[e.Event]) -> list[str]:
        expected = [
            (step.client_id, self._user_ids[step.account], step.text)
            for step in self._plan.steps
            if step.kind == "say"
        ]
        wanted = {client_id for client_id, _, _ in expected}
        stored = [
            (event.client_id, event.user_id, event.text)
            for event in events
            if isinstance(event, e.MessagePosted) and event.client_id in wanted
        ]
        if stored == expected:
            return []
        faults = [f"{len(expected)} lines were played, {len(stored)} are stored"]
        ids = [client_id for client_id, _, _ in stored]
        seen = set(ids)
        faults += [f"line {client_id} is missing" for client_id, _, _ in expected if client_id not in seen]
        if len(ids) != len(seen):
            faults.append(f"{len(ids) - len(seen)} lines are stored more than once")
        for at, (mine, theirs) in enumerate(zip(expected, stored, strict=False)):
            if mine != theirs:
                faults.append(
                    f"the first difference is at line {at + 1}: {mine} was sent, {theirs} is stored"
                )
                break
        return faults

    def _present_at_the_end(self) -> set[str]:
        present: set[str] = set()
        for step in self._plan.steps:
            if step.kind == "join":
                present.add(step.account)
            elif step.kind in ("leave", "remove"):
                present.discard(step.account)
        return present

    async def _verify_unread(self, events: Sequence[e.Event]) -> list[str]:
        """Compare every member's unread count with the rule, worked out anew from the events."""
        watermarks = read_watermarks(events)
        authors = message_authors(events)
        members = await self._reader.list_members(self._conversation_id)
        faults: list[str] = []
        if {member.user_id for member in members} != set(watermarks):
            faults.append("the list of members is not what the events lead to")
        nicks = {user_id: account for account, user_id in self._user_ids.items()}
        present = {nicks[member.user_id] for member in members if member.user_id in nicks}
        expected_present = self._present_at_the_end()
        faults += [f"{nick} should be in the group" for nick in sorted(expected_present - present)]
        faults += [
            f"{nick} should not be in the group any more"
            for nick in sorted(present - expected_present)
            if not is_operator(nick)
        ]
        queue = iter(members)

        async def check_members() -> None:
            for member in queue:
                if member.user_id not in nicks:
                    continue  # a watcher, who reads on another device meanwhile
                if member.read_seq != watermarks.get(member.user_id, 0):
                    faults.append(
                        f"{nicks[member.user_id]} has read up to {member.read_seq}, not "
                        f"{watermarks.get(member.user_id, 0)}"
                    )
                expected = sum(
                    1 for seq, author in authors if seq > member.read_seq and author != member.user_id
                )
                try:
                    summary = await self._summary_as(member.user_id)
                except HubbubError as exc:
                    faults.append(f"the unread count of {nicks[member.user_id]} cannot be read: {exc}")
                    continue
                if summary.unread != expected:
                    faults.append(
                        f"{nicks[member.user_id]} has {summary.unread} unread, the events say {expected}"
                    )

        async with trio.open_nursery() as nursery:
            for _ in range(VERIFY_TASKS):
                nursery.start_soon(check_members)
        return faults

    async def _summary_as(self, user_id: str) -> ConversationSummary:
        command = c.GetConversation(id=1, conversation_id=self._conversation_id)
        while True:  # until it is answered; the server limits requests per address
            try:
                reply = await self._backend.command_as(user_id, command, r.ConversationInfo)
            except Unavailable as exc:
                if exc.code != "rate_limited":
                    raise
                await trio.sleep(exc.retry_after_s or 1.0)
            else:
                return reply.conversation


def read_watermarks(events: Iterable[e.Event]) -> dict[str, int]:
    """Return how far each present member has read by acting alone: joining and sending read up to there."""
    watermarks: dict[str, int] = {}
    for event in events:
        if isinstance(event, (e.ConversationCreated, e.MembersAdded)):
            for user_id in event.member_ids:
                watermarks[user_id] = event.seq
        elif isinstance(event, e.MemberRemoved):
            watermarks.pop(event.member_id, None)
        elif isinstance(event, e.MessagePosted):
            watermarks[event.user_id] = event.seq
    return watermarks


def message_authors(events: Iterable[e.Event]) -> list[tuple[int, str]]:
    """Return seq and author of each message that is not deleted."""
    authors: dict[int, str] = {}
    for event in events:
        if isinstance(event, e.MessagePosted):
            authors[event.seq] = event.user_id
        elif isinstance(event, e.MessageDeleted):
            authors.pop(event.target, None)
    return list(authors.items())
