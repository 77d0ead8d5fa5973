"""One user's notifications over days: what an actor does with the scheduler's verdicts, and nothing more."""

from dataclasses import dataclass, field
from heapq import heappop, heappush

import msgspec

from actors.notify.facts import Facts, UserFacts, dedup_key
from actors.notify.group_release import release
from actors.notify.scheduler import schedule
from actors.notify.verdict import Verdict
from protocol.notify_types import AppRules, Channel, TypeRule

MAX_STEPS = 50_000


@dataclass(slots=True)
class Sent:
    """One interrupting send: when, of whom, and as which group."""

    at_ms: int
    ids: list[int]
    channels: list[Channel]
    group: str
    is_counted: bool


@dataclass(slots=True)
class World:
    """Feed it with `arrive` in order of time, then `finish`. What is due goes before what arrives."""

    user: UserFacts
    app: AppRules
    rules: dict[str, TypeRule]
    sent: list[Sent] = field(default_factory=list)
    inapp_at_ms: dict[int, int] = field(default_factory=dict)
    dropped: dict[int, Verdict] = field(default_factory=dict)
    holds: list[tuple[int, Verdict]] = field(default_factory=list)  # when, and the verdict
    refused: dict[int, str] = field(default_factory=dict)  # dropped on arrival: by which stage
    dropped_at_ms: dict[int, int] = field(default_factory=dict)
    told_at_ms: dict[int, list[int]] = field(default_factory=dict)  # when each was told, or was to be told
    steps: int = 0
    _due: list[tuple[int, int, Facts | str]] = field(default_factory=list)  # a group by its name
    _groups: dict[str, tuple[str, list[Facts]]] = field(default_factory=dict)

    def arrive(self, facts: Facts, now_ms: int) -> None:
        self.run_until(now_ms)
        self._decide(facts, now_ms)

    def finish(self) -> None:
        self.run_until(1 << 60)

    def run_until(self, now_ms: int) -> None:
        while self._due and self._due[0][0] <= now_ms:
            at_ms, _, what = heappop(self._due)
            self.steps += 1
            assert self.steps < MAX_STEPS, "it goes round in circles"
            if isinstance(what, str):
                self._release(what, at_ms)
            else:
                self._decide(what, at_ms)

    def _decide(self, facts: Facts, now_ms: int) -> None:
        verdict = schedule(facts, self.rules[facts.type], self.user, self.app, now_ms)
        self.user.note(facts, verdict, now_ms)
        number = facts.notification_id
        if verdict.kind != "drop":
            told = self.told_at_ms.setdefault(number, [])
            told.append(verdict.due_at_ms or now_ms)
            if verdict.inapp_now:
                told.append(now_ms)
        if verdict.inapp_now:
            assert "inapp" in verdict.channels
            assert number not in self.inapp_at_ms, "it came twice in-app"
            self.inapp_at_ms[number] = now_ms
        interrupting: list[Channel] = [channel for channel in verdict.channels if channel != "inapp"]
        if verdict.kind == "drop":
            assert number not in self.dropped
            assert not verdict.channels
            self.dropped[number] = verdict
            self.dropped_at_ms[number] = now_ms
            if facts.is_released:
                self._forget(facts)
            else:
                self.refused[number] = verdict.stage
        elif verdict.kind == "send":
            if interrupting:
                self.sent.append(Sent(now_ms, [number], interrupting, "", verdict.is_counted))
        else:
            assert not interrupting
            self.holds.append((now_ms, verdict))
            held = msgspec.structs.replace(facts, is_released=True, held_by=verdict.stage)
            group = verdict.group
            if not group:
                heappush(self._due, (verdict.due_at_ms, number, held))
            elif group in self._groups:
                self._groups[group][1].append(held)
            else:
                self._groups[group] = (group, [held])
                heappush(self._due, (verdict.due_at_ms, number, group))

    def _forget(self, facts: Facts) -> None:
        """It was planned, and is dropped: unless it was seen in the app, the same is no duplicate of it."""
        if facts.notification_id not in self.inapp_at_ms:
            self.user.forget(dedup_key(facts), facts.notification_id)

    def _release(self, name: str, now_ms: int) -> None:
        group, members = self._groups.pop(name)
        outcome = release(members, self.rules, self.user, self.app, now_ms)
        for facts, verdict in outcome.dropped:
            self.dropped[facts.notification_id] = verdict
            self.dropped_at_ms[facts.notification_id] = now_ms
            self._forget(facts)
        ids = [facts.notification_id for facts in outcome.kept]
        if outcome.kind == "send":
            if outcome.is_counted:
                self.user.count_send(now_ms)
            for facts, verdict in zip(outcome.kept, outcome.verdicts, strict=True):
                self.user.told(verdict.dedup_key, facts.notification_id, now_ms)
                self.told_at_ms[facts.notification_id].append(now_ms)
            self.sent.append(Sent(now_ms, ids, list(outcome.channels), group, outcome.is_counted))
        elif outcome.kind == "hold":
            assert outcome.due_at_ms > now_ms
            closed = f"{name}, held at {now_ms}"
            self._groups[closed] = (group, outcome.kept)
            heappush(self._due, (outcome.due_at_ms, ids[0], closed))
