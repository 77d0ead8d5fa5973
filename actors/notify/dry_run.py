"""What the next days hold for one user: the scheduler itself, run ahead of time.

Nothing of the rules is written twice: what is held, and what recurs, is handed to `schedule` and `release` at
the moment when it would be, with a copy of the user's facts that remembers what was "sent". What nobody can
know is left out: new notifications, and changes of preferences.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from heapq import heappop, heappush
from typing import Literal, TypeAlias

import msgspec

from actors.notify.facts import Facts, UserFacts
from actors.notify.group_release import release
from actors.notify.local_time import known_zone, local_text
from actors.notify.quiet_hours import quiet_windows
from actors.notify.recurrence import next_cron_ms, occurrence
from actors.notify.scheduler import schedule
from actors.notify.verdict import Verdict
from protocol.notify_types import AppRules, Channel, Decision, TypeRule

DAY_MS = 86_400_000
MAX_DAYS = 31
MAX_FORECASTS = 1_000  # as many as a person may look at
MAX_STEPS = 20_000  # of the simulation: 0.2 s

_Event: TypeAlias = "Facts | Recurring | _Gathering"
_RELEASE, _FRESH = 0, 1  # what is due goes before what is new at the same moment


class Held(msgspec.Struct, frozen=True, kw_only=True):
    """One that is held: until when, in which group ("" for none), and by which stage of the scheduler."""

    facts: Facts
    due_at_ms: int
    group: str = ""
    held_by: str = ""


class Recurring(msgspec.Struct, frozen=True, kw_only=True):
    """A recurring notification: a template, its cron expression, and the zone it goes by ("": the user's).

    None comes at `ends_at_ms` or later; 0: it has no end.
    """

    facts: Facts
    cron: str
    zone: str = ""
    ends_at_ms: int = 0


class Forecast(msgspec.Struct, frozen=True, kw_only=True):
    """One thing that would happen at `at_ms`; `local`: the same by the user's clock.

    `send`, also of what is delivered in-app alone while the rest waits; `hold`: it is moved on to `until_ms`;
    `drop`; `quiet`: quiet hours, until `until_ms`. `notification_ids`: of those that exist already;
    occurrences to come have none. `channels` are wanted, whether the user has an address there or not, and
    `fallback` is where it goes if that reaches nobody.
    """

    at_ms: int
    local: str
    kind: Literal["send", "hold", "drop", "quiet"]
    notification_ids: list[int] = []
    types: list[str] = []
    channels: list[Channel] = []
    fallback: list[Channel] = []
    group: str = ""
    until_ms: int = 0
    reason: str = ""
    why: list[Decision] = []


def next_days(
    user: UserFacts,
    app: AppRules,
    rules: Mapping[str, TypeRule],
    held: Iterable[Held],
    recurring: Iterable[Recurring],
    now_ms: int,
    days: int = 7,
) -> list[Forecast]:
    """Foresee what this user gets within `days` (at most 31), in order of time. `user` is left as it is.

    Ends early after 1,000 forecasts. `rules`: by type; one that is missing is `TypeRule`'s defaults.
    `recurring` holds only expressions that `check_cron` has let through.
    """
    until_ms = now_ms + max(1, min(days, MAX_DAYS)) * DAY_MS
    run = _Run(user.copy(), app, rules, until_ms)
    for one in held:
        run.hold(one.facts, max(one.due_at_ms, now_ms), one.group, one.held_by)
    for template in recurring:
        run.recur(template, now_ms)
    run.to_the_end()
    forecasts = run.forecasts
    quiet = user.preferences.quiet_hours
    if quiet is not None:
        for begin_ms, end_ms in quiet_windows(quiet, run.zone, now_ms, until_ms):
            local = local_text(begin_ms, run.zone)
            forecasts.append(Forecast(at_ms=begin_ms, local=local, kind="quiet", until_ms=end_ms))
    forecasts.sort(key=lambda forecast: forecast.at_ms)  # stable: what happens at once keeps its order
    return forecasts[:MAX_FORECASTS]


@dataclass(slots=True)
class _Gathering:
    """A batch or digest with its members."""

    key: str
    members: list[Facts]


class _Run:
    """One simulation: a clock that leaps from event to event."""

    def __init__(self, user: UserFacts, app: AppRules, rules: Mapping[str, TypeRule], until_ms: int) -> None:
        self.user, self.app, self.rules = user, app, rules
        self.until_ms = until_ms
        self.zone = known_zone(user.time_zone, app.default_time_zone)
        self.forecasts: list[Forecast] = []
        self._events: list[tuple[int, int, int, _Event]] = []  # at, rank, seq
        self._open: dict[str, _Gathering] = {}
        self._seq = 0
        self._next_id = -1  # of occurrences: below zero, as no stored one is

    def hold(self, facts: Facts, due_ms: int, group: str, held_by: str) -> None:
        facts = msgspec.structs.replace(facts, is_released=True, held_by=held_by)
        if not group:
            self._push(due_ms, _RELEASE, facts)
        elif group in self._open:
            self._open[group].members.append(facts)
        else:
            self._open[group] = _Gathering(group, [facts])
            self._push(due_ms, _RELEASE, self._open[group])

    def recur(self, template: Recurring, after_ms: int) -> None:
        at_ms = next_cron_ms(template.cron, known_zone(template.zone, self.zone), after_ms)
        if at_ms and (not template.ends_at_ms or at_ms < template.ends_at_ms):
            self._push(at_ms, _FRESH, template)

    def to_the_end(self) -> None:
        for _ in range(MAX_STEPS):
            if not self._events or self._events[0][0] >= self.until_ms or len(self.forecasts) > MAX_FORECASTS:
                return
            at_ms, _, _, event = heappop(self._events)
            if isinstance(event, _Gathering):
                self._release_group(event, at_ms)
            elif isinstance(event, Recurring):
                self._decide(occurrence(event.facts, self._next_id, at_ms), at_ms)
                self._next_id -= 1
                self.recur(event, at_ms)
            else:
                self._decide(event, at_ms)

    def _decide(self, facts: Facts, at_ms: int) -> None:
        rule = self.rules.get(facts.type) or TypeRule(name=facts.type)
        verdict = schedule(facts, rule, self.user, self.app, at_ms)
        self.user.note(facts, verdict, at_ms)
        if verdict.kind == "hold":
            if verdict.channels:
                self._tell_one(facts, verdict, at_ms, "send")
            else:
                self._tell_one(facts, verdict, at_ms, "hold")
            self.hold(facts, verdict.due_at_ms, verdict.group, verdict.stage)
        else:
            self._tell_one(facts, verdict, at_ms, verdict.kind)

    def _release_group(self, gathering: _Gathering, at_ms: int) -> None:
        group = gathering.key
        if self._open.get(group) is gathering:
            del self._open[group]
        outcome = release(gathering.members, self.rules, self.user, self.app, at_ms)
        for facts, verdict in outcome.dropped:
            self._tell_one(facts, verdict, at_ms, "drop", group)
        if outcome.kind == "drop":
            return
        if outcome.kind == "send":
            if outcome.is_counted:
                self.user.count_send(at_ms)
            for facts, verdict in zip(outcome.kept, outcome.verdicts, strict=True):
                self.user.told(verdict.dedup_key, facts.notification_id, at_ms)
        if outcome.kind == "hold":
            # It is closed: new members gather in the next group of that key.
            self._push(outcome.due_at_ms, _RELEASE, _Gathering(group, outcome.kept))
        self.forecasts.append(
            Forecast(
                at_ms=at_ms,
                local=local_text(at_ms, self.zone),
                kind=outcome.kind,
                notification_ids=[
                    facts.notification_id for facts in outcome.kept if facts.notification_id > 0
                ],
                types=sorted({facts.type for facts in outcome.kept}),
                channels=list(outcome.channels),
                group=group,
                until_ms=outcome.due_at_ms,
                reason=outcome.reason,
                why=outcome.decisions,
            )
        )

    def _tell_one(
        self,
        facts: Facts,
        verdict: Verdict,
        at_ms: int,
        kind: Literal["send", "hold", "drop"],
        group: str = "",
    ) -> None:
        self.forecasts.append(
            Forecast(
                at_ms=at_ms,
                local=local_text(at_ms, self.zone),
                kind=kind,
                notification_ids=[facts.notification_id] if facts.notification_id > 0 else [],
                types=[facts.type],
                channels=verdict.channels,
                fallback=list(verdict.fallback),
                group=group or verdict.group,
                until_ms=verdict.due_at_ms,
                reason=verdict.reason,
                why=verdict.decisions,
            )
        )

    def _push(self, at_ms: int, rank: int, event: _Event) -> None:
        self._seq += 1
        heappush(self._events, (at_ms, rank, self._seq, event))
