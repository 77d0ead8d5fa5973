"""A channel's accounts and jobs, as its tests need them."""

from collections.abc import Iterable, Sequence

import trio

from actors.notify.channel import ChannelActor
from actors.notify.delivery import ACCEPTED, Outcome, Outgoing, Provider, Target
from actors.notify.job import Job
from actors.notify.ports import Account
from protocol.notify_types import Channel, Priority, TypeRule

NOW_MS = 1_790_000_000_000
RULE = TypeRule(name="t")


class Accounts:
    """One account for all apps, unless told otherwise."""

    def __init__(self, provider: Provider | None = None, *, rate_per_s: float = 0.0) -> None:
        self.rate_per_s = rate_per_s
        self.provider: Provider = provider or Answering("webpush")
        self.of_app: dict[str, list[Account]] = {}
        self.alerts: list[tuple[str, str, dict[str, str]]] = []
        self.retirement_until = 0

    def account(self, credential: str = "key") -> Account:
        return Account("own", credential, self.rate_per_s, self.provider)

    def chain(self, app_id: str, channel: Channel) -> list[Account]:
        return self.of_app.get(app_id, [self.account()])

    def alive_count(self, app_id: str, channel: Channel) -> int:
        return 0

    def retirement_until_ms(self, app_id: str, channel: Channel) -> int:
        return self.retirement_until

    def alert(self, app_id: str, kind: str, detail: dict[str, str]) -> None:
        self.alerts.append((app_id, kind, detail))


class Answering:
    """A provider that says what a test has laid down for a host, or nothing; yes to all others."""

    def __init__(self, channel: Channel) -> None:
        self.channel: Channel = channel
        self.answers: dict[str, Outcome] = {}
        self.silent = ""  # hosts with this in their names never answer

    async def send(self, outgoing: Outgoing) -> Outcome:
        if self.silent and self.silent in outgoing.target.address:
            await trio.sleep_forever()
        for part, outcome in self.answers.items():
            if part in outgoing.target.address:
                return outcome
        return ACCEPTED

    async def aclose(self) -> None: ...


class Partition:
    """Begins what it is given as soon as a test says so, and notes what became of it."""

    def __init__(self) -> None:
        self.channel: ChannelActor | None = None  # begins at once where it is set
        self.given: list[Job] = []
        self.done: list[tuple[str, str]] = []

    def begin(self, jobs: list[Job]) -> None:
        self.given += jobs
        if self.channel is not None:
            for job in jobs:
                job.attempt += 1
            self.channel.begun(jobs)

    def conclude(self, job: Job, account: Account | None, outcome: Outcome) -> None:
        self.done.append((job.outgoing.target.address, outcome.action))


def made_job(
    number: int,
    *,
    owner: Partition | None = None,
    app_id: str = "app",
    host: str = "push.example",
    channel: Channel = "webpush",
    priority: Priority = "medium",
    user: int | None = None,
) -> Job:
    """A job that is due; each is another user's unless told otherwise."""
    target = Target(device_key=f"d{number}", channel=channel, address=f"https://{host}/{number}")
    outgoing = Outgoing(
        delivery_id=f"{number}-0",
        notification_id=number,
        app_id=app_id,
        user_id=f"u{number if user is None else user}",
        type="t",
        priority=priority,
        target=target,
    )
    return Job(
        owner or Partition(), outgoing, 0, RULE, created_at_ms=NOW_MS, due_at_ms=0, deadline_at_ms=NOW_MS
    )


def offer_all(channel: ChannelActor, jobs: Iterable[Job]) -> Sequence[Job]:
    """Queue jobs."""
    offered = list(jobs)
    for job in offered:
        channel.offer(job)
    return offered
