"""W8: what does presence cost, when 5 % of 2,000 users change their state each second?

95 groups of 21 users, one device each: 20 contacts a head, all of whom everybody watches (watch_presence). On
a timetable, 5 % of the users change per second, one after the other, so that each changes every 20 s:

"activity": all changes are activity, active or idle by turns; the 20 watchers are told online or away.
"activity, reconnects": every fifth change is a drop instead, with the device back 1 s later. The debounce
(PRESENCE_DEBOUNCE_S, 10 s) hides it: watchers are told something only if the person was idle, for who comes
is active. The device watches anew, and is told all by the answer. One user in fifty leaves for good at the
start of the measured part; after the debounce the watchers are told offline.

Updates: items of presence events, one for each change and watcher. Latency: from when an activity was due to
be sent until a watcher is told; it is batched by design, the first change after a rest for 20 ms, others up
to PRESENCE_TICK_S (0.25 s). Server CPU: share of one core; idle: before the first change, all connected.
Verified at the end: what each connected watcher was told of its 20 is what is true.
"""

import random
from collections import Counter
from secrets import token_hex
from typing import Any, Final

from bench.load.client import SHED_RETRY_S, Account, Connection, as_dict, ask_all, open_all
from bench.load.loop import Loop, TimedOut, now
from bench.load.meter import Meter, calm
from bench.load.trial import (
    SETTLE_TIMEOUT_S,
    WARM_UP_S,
    Samples,
    Setting,
    Trial,
    Workload,
    close_all,
    measured,
)
from bench.load.wires import Got, WireFormat
from bench.report.results import Figure
from protocol.commands import Activity, CreateGroup, WatchPresence
from protocol.limits import PRESENCE_DEBOUNCE_S

GROUP_COUNT: Final = 95
GROUP_SIZE: Final = 21
CHANGING_PER_S: Final = 0.05  # of all users
DROPPED_S: Final = 1.0
CHANGES_PER_DROP: Final = 5
USERS_PER_LEAVER: Final = 50
IDLE_S: Final = 1.0


class World:
    """What is true, and what all watchers together have measured."""

    def __init__(self) -> None:
        self.truth: dict[str, str] = {}  # user_id -> online, away, offline
        self.changed_at: dict[str, float] = {}  # of activity that was sent, when it was due
        self.is_counting = False
        self.update_count = 0
        self.samples = Samples()
        self.errors: list[str] = []


class Person(Connection):
    """One user, who changes and who watches the others of the group."""

    def __init__(
        self, loop: Loop, wire: WireFormat, address: tuple[str, int], account: Account, world: World
    ) -> None:
        super().__init__(loop, wire, address, account)
        self.loop = loop
        self.world = world
        self.contact_ids: list[str] = []
        self.view: dict[str, str] = {}
        self.is_active = True

    # -- changes ------------------------------------------------------------------------------------

    def switch(self, due: float) -> None:
        """Become idle, or active again."""
        self.is_active = not self.is_active
        self.world.changed_at[self.user_id] = due
        self.world.truth[self.user_id] = "online" if self.is_active else "away"
        self.tell(Activity(active=self.is_active))

    def drop(self) -> None:
        """Lose the connection, and come back."""
        self.close()
        self.loop.at(now() + DROPPED_S, self._come_back)

    def leave(self) -> None:
        """Go for good."""
        self.close()
        self.world.changed_at.pop(self.user_id, None)
        self.world.truth[self.user_id] = "offline"

    def _come_back(self) -> None:
        self.is_active = True
        self.world.changed_at.pop(self.user_id, None)
        self.world.truth[self.user_id] = "online"
        self.open()

    # -- watching -----------------------------------------------------------------------------------

    def watch(self) -> WatchPresence:
        """The command by which all contacts are watched."""
        return WatchPresence(user_ids=self.contact_ids)

    def take_list(self, answer: dict[str, Any]) -> None:
        """Take the answer to it."""
        self.view = {item["user_id"]: item["state"] for item in answer.get("items", ())}
        if len(self.view) != len(self.contact_ids):
            self.world.errors.append("contacts that cannot be watched")

    @property
    def is_right(self) -> bool:
        """Tell whether what was told is what is true. Who is not connected is told nothing."""
        truth = self.world.truth
        return self.is_closed or (
            self.is_open
            and len(self.view) == len(self.contact_ids)
            and all(truth[user_id] == state for user_id, state in self.view.items())
        )

    def welcomed(self) -> None:
        if self.contact_ids:  # back again
            self.view = {}
            self.ask(self.watch(), lambda payload: self.take_list(as_dict(payload, self.wire)))

    def got(self, got: Got, payload: bytes, at: float) -> None:
        world = self.world
        if got.type == "presence":
            for item in as_dict(payload, self.wire)["items"]:
                user_id, state = item["user_id"], item["state"]
                self.view[user_id] = state
                if world.is_counting:
                    world.update_count += 1
                    changed_at = world.changed_at.get(user_id)
                    if changed_at is not None and world.truth[user_id] == state:
                        world.samples.add(at, at - changed_at)
        elif got.type in ("error", "resync"):
            world.errors.append(f"{got.type} {got.code}")

    def ended(self) -> None:
        if self.is_shed:
            self.loop.at(now() + SHED_RETRY_S, self.open)
        else:
            self.world.errors.append(f"closed: {self.error}")


class Timetable:
    """Let one person after the other change, at a steady rate, until stopped."""

    def __init__(self, loop: Loop, people: list[Person], *, has_drops: bool) -> None:
        self.loop = loop
        self.people = people
        self.has_drops = has_drops
        self.interval_s = 1.0 / (len(people) * CHANGING_PER_S)
        self.count = 0
        self.drop_count = 0
        self.is_running = True
        self._start = now()
        self._wait()

    def _wait(self) -> None:
        self.loop.at(self._start + (self.count + 1) * self.interval_s, self._change)

    def _change(self) -> None:
        if not self.is_running:
            return
        person = self.people[self.count % len(self.people)]
        self.count += 1
        if self.has_drops and self.count % CHANGES_PER_DROP == 0:
            self.drop_count += 1
            person.drop()
        elif person.is_open:
            person.switch(self._start + self.count * self.interval_s)
        self._wait()


def run(setting: Setting, variant: str) -> Trial:
    """Run one variant."""
    has_drops = variant.endswith("reconnects")
    loop, world = Loop(), World()
    people = _people(setting, loop, world)
    changing = list(people)
    random.Random(1).shuffle(changing)
    leavers = [changing.pop() for _ in range(max(1, len(people) // USERS_PER_LEAVER))] if has_drops else []
    idle, meter = Meter(setting.target), Meter(setting.target)
    with calm():
        idle.start()
        loop.run_for(IDLE_S)
        idle.stop()
        timetable = Timetable(loop, changing, has_drops=has_drops)
        loop.run_for(WARM_UP_S)
        changes = timetable.count
        world.is_counting = True
        meter.start()
        for person in leavers:
            person.leave()
        loop.run_for(setting.seconds)
        meter.stop()
        world.is_counting = False
        changes = timetable.count - changes
        timetable.is_running = False
        is_agreed = _settle(loop, people, world)
    errors = list(world.errors)
    close_all(loop, people)
    return measured(
        meter,
        variant=variant,
        figures=[
            *_cpu("server CPU", meter, is_headline=True),
            Figure(name="updates", value=world.update_count / meter.seconds, unit="/s", is_headline=True),
            Figure(name="changes", value=changes / meter.seconds, unit="/s"),
            *_cpu("server CPU, idle", idle),
        ],
        samples={"told": world.samples},
        errors=errors,
        findings=[
            f"{timetable.count:,} changes, {timetable.drop_count:,} of them drops, {len(leavers)} leavers: "
            + ("each watcher's view is the truth" if is_agreed else "views and truth differ"),
            *([f"errors: {dict(Counter(errors))}"] if errors else []),
        ],
        is_sound=is_agreed and not errors,
    )


def _cpu(name: str, meter: Meter, *, is_headline: bool = False) -> list[Figure]:
    """How much of a core the servers have used; nothing, where that is not known."""
    if not meter.knows_costs:
        return []
    percent = meter.server_share * 100
    return [Figure(name=name, value=percent, unit="%", is_higher_better=False, is_headline=is_headline)]


def _people(setting: Setting, loop: Loop, world: World) -> list[Person]:
    """Connect everybody, make the groups, and let everybody watch."""
    people = [
        Person(loop, setting.wire, setting.address(number), setting.target.account(f"user{number}"), world)
        for number in range(setting.scaled(GROUP_COUNT, least=1) * GROUP_SIZE)
    ]
    open_all(loop, people)
    groups = [people[start : start + GROUP_SIZE] for start in range(0, len(people), GROUP_SIZE)]
    creations = [
        CreateGroup(client_id=token_hex(8), title="Watched", member_ids=[other.user_id for other in others])
        for _, *others in groups
    ]
    ask_all(loop, [(group[0], creation) for group, creation in zip(groups, creations, strict=True)])
    for group in groups:
        for person in group:
            person.contact_ids = [other.user_id for other in group if other is not person]
            world.truth[person.user_id] = "online"
    for person, answer in zip(people, ask_all(loop, [(p, p.watch()) for p in people]), strict=True):
        person.take_list(answer)
    return people


def _settle(loop: Loop, people: list[Person], world: World) -> bool:
    """Wait until all watchers have been told the truth; tell whether they were."""
    try:
        loop.run_until(
            lambda: all(person.is_right for person in people),
            timeout_s=PRESENCE_DEBOUNCE_S + SETTLE_TIMEOUT_S,
            what="all views are true",
        )
    except TimedOut:
        wrong = sum(not person.is_right for person in people)
        world.errors.append(f"{wrong} wrong views")
        return False
    return True


WORKLOAD: Final = Workload(
    name="W8",
    title=f"presence: {GROUP_COUNT * GROUP_SIZE:,} users with {GROUP_SIZE - 1} contacts, 5 % change a second",
    variants=("activity", "activity, reconnects"),
    run=run,
    has_peer=False,
)
