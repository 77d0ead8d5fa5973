"""W3: how fast do people come in, and what does somebody cost who is only there?

2,000 users, and 10,000, with one device each; 64 are on their way in at any time, each from connect to
welcome with a token of an app's backend. First come new users (the first use of a token makes the user), then
they are silent, then all go, and the same come again. Who is turned away by an overloaded server tries again
after 2 s, as it is told to; that is noted. Memory: growth of the servers' resident memory after the first 50
connections, by connection, when what is written behind them has settled. CPU: while all are silent.

10,000 users take 20,000 open files in client and server. The limits are raised as far as the system allows;
where that is not enough the variant says so instead of a figure.
"""

from collections.abc import Sequence
from secrets import token_hex
from typing import Final

from bench.load.client import Account, Connection, open_all
from bench.load.loop import Loop, now
from bench.load.meter import Meter, calm
from bench.load.target import CannotRun
from bench.load.trial import Samples, Setting, Trial, Workload, close_all, measured
from bench.load.wires import WireFormat
from bench.report.results import Figure
from protocol.commands import Heartbeat
from protocol.limits import HEARTBEAT_INTERVAL_S

WARM_UP_COUNT: Final = 50  # connections before the first reading: imports, caches, the first arenas
SETTLE_S: Final = 5.0  # caches of the store and of the accounts are written behind the connections
COME_TIMEOUT_S: Final = 300.0
GONE_TIMEOUT_S: Final = 30.0  # for a server to notice that thousands have gone
FILES_PER_USER: Final = 2  # a server may hold a second one for a moment, as the first is still closing
LOOK_S: Final = 5.0  # between two looks at who has been silent for too long


class Guest(Connection):
    """Comes in, and says nothing but the heartbeat that keeps a connection."""

    def __init__(self, loop: Loop, wire: WireFormat, address: tuple[str, int], account: Account) -> None:
        super().__init__(loop, wire, address, account)
        self.came_at = 0.0  # when it tried first
        self.spoke_at = 0.0

    def open(self) -> None:
        self.came_at = self.came_at or now()
        super().open()

    def beat(self, at: float) -> None:
        """Send a heartbeat, if one is due."""
        if self.is_open and at - max(self.opened_at, self.spoke_at) >= HEARTBEAT_INTERVAL_S:
            self.spoke_at = at
            self.tell(Heartbeat(id=1))


class Hall:
    """All guests of a run, and how they come, stay and go."""

    def __init__(self, setting: Setting, user_count: int) -> None:
        self.loop = Loop()
        self._target = setting.target
        prefix = token_hex(4)  # a server that ran before may know the names of an earlier run

        def guest(number: int) -> Guest:
            account = setting.target.account(f"{prefix}-{number}")
            return Guest(self.loop, setting.wire, setting.address(number), account)

        warm_up_count = setting.scaled(WARM_UP_COUNT)
        # Tokens are signed here, before anything is measured.
        self.first = [guest(number) for number in range(warm_up_count)]
        self.guests = [guest(warm_up_count + number) for number in range(user_count)]
        self.all = [*self.first, *self.guests]
        self.shed_count = 0
        self._look()

    def come(self, guests: Sequence[Guest]) -> Samples:
        """Let them all in, 64 at a time; return how long each took from its first try to its welcome.

        Raises: Closed, where one is turned away for another reason than load; TimedOut.
        """
        for guest in guests:
            guest.came_at = 0.0
        self.shed_count += open_all(self.loop, guests, timeout_s=COME_TIMEOUT_S)
        samples = Samples()
        for guest in sorted(guests, key=lambda guest: guest.opened_at):
            samples.add(guest.opened_at, guest.opened_at - guest.came_at)
        return samples

    def go(self, guests: Sequence[Guest]) -> None:
        """Let them all go, and wait until the server has noticed."""
        before = self._target.file_count()
        for guest in guests:
            guest.close()
        if self._target.pids():
            self.loop.run_until(
                lambda: self._target.file_count() <= before - len(guests),
                timeout_s=GONE_TIMEOUT_S,
                what="the server has closed what its clients had closed",
            )
        else:
            self.loop.run_for(SETTLE_S)

    def _look(self) -> None:
        at = now()
        for guest in self.all:
            guest.beat(at)
        self.loop.at(at + LOOK_S, self._look)


def run(setting: Setting, variant: str) -> Trial:
    """Run one variant: "N users"."""
    user_count = setting.scaled(int(variant.split()[0].replace(",", "")))
    target = setting.target
    try:
        target.allow_files(FILES_PER_USER * user_count)
    except CannotRun as exc:
        return Trial(
            variant=variant,
            started_at=0.0,
            seconds=0.0,
            figures=[],
            findings=[f"not measured: {exc}"],
            is_sound=False,
        )
    hall = Hall(setting, user_count)
    loop, guests = hall.loop, hall.guests
    settle_s = min(SETTLE_S, setting.seconds)
    hall.come(hall.first)
    loop.run_for(settle_s)
    before_kib = target.rss_kib()
    meter, idle, again = Meter(target), Meter(target), Meter(target)
    with calm():
        meter.start()
        new = hall.come(guests)
        meter.stop()
        loop.run_for(settle_s)
        grown_kib = target.rss_kib() - before_kib
        idle.start()
        loop.run_for(setting.seconds)
        idle.stop()
        errors = _lost(hall.all)
        user_ids = [guest.user_id for guest in guests]
        hall.go(guests)
        again.start()
        known = hall.come(guests)
        again.stop()
    errors += _lost(hall.all)
    if len(set(user_ids)) < user_count:
        errors.append("two tokens, one user")
    if user_ids != [guest.user_id for guest in guests]:
        errors.append("somebody came back as somebody else")
    close_all(loop, hall.all)
    figures = [
        Figure(name="connects", value=user_count / meter.seconds, unit="/s", is_headline=True),
        Figure(name="connects again", value=user_count / again.seconds, unit="/s"),
    ]
    if target.pids():
        figures += _costs(user_count, grown_kib, meter, idle)
    return measured(
        meter,
        variant=variant,
        figures=figures,
        samples={"connect": new, "connect again": known},
        errors=errors,
        findings=[
            f"{user_count:,} new users let in, all connected throughout; the same users came again"
            if not errors
            else f"errors: {errors[:5]}"
        ],
        is_sound=not errors,
        notes=[f"{hall.shed_count:,} connects were refused as the server was overloaded, and tried again."]
        if hall.shed_count
        else [],
    )


def _costs(user_count: int, grown_kib: int, meter: Meter, idle: Meter) -> list[Figure]:
    """What only those servers tell that were started here."""
    return [
        Figure(
            name="memory per connection",
            value=grown_kib / user_count,
            unit="KiB",
            is_higher_better=False,
            is_headline=True,
        ),
        Figure(
            name="CPU while idle",
            value=100 * idle.server_share,
            unit="%",
            is_higher_better=False,
        ),
        *meter.cpu_per_thousand(user_count),
    ]


def _lost(guests: Sequence[Guest]) -> list[str]:
    return [f"closed: {guest.error}" for guest in guests if guest.is_closed]


WORKLOAD: Final = Workload(
    name="W3", title="connections: one device each", variants=("2,000 users", "10,000 users"), run=run
)
