"""Which account a job may use, and when: what a channel knows of credentials, and of hosts that users name.

A breaker and a pace belong to credentials, which many apps may share. What a push host answers says nothing
of the others, and whoever registers an endpoint chooses its host: so what concerns a host opens a breaker of
that host under those credentials, and no other. What concerns one device opens none. A push host that
answers slowly, or never, holds no more hands than it has earned; see host_room.py.
"""

from collections.abc import Callable
from typing import Final

import msgspec

from actors.notify.breaker import Breaker, finding
from actors.notify.delivery import Action, Outcome
from actors.notify.host_room import STRANGERS_SHARE, Room
from actors.notify.job import Job
from actors.notify.pacer import Pacer
from actors.notify.ports import Account, Accounts

NO_ACCOUNT_MS: Final = 60_000  # an app without a provider may get one
NEVER_MS: Final = 1 << 53
REFUSED_USERS: Final = (
    3  # refused by a push host within REFUSED_MS, none accepted between: our key, not theirs
)
REFUSED_MS: Final = 600_000
MAX_HOSTS: Final = 4_096  # the one that was not used for longest gives way
FULL_MS: Final = 20  # until a host's room is looked at again; at most as many are full as there are hands
STRANGERS_FULL_MS: Final = 1_000  # the same for hosts that nobody knows, of which there may be many
IDLE_MS: Final = 3_600_000  # the longest wait of a breaker: credentials that nobody used for it are forgotten
SWEEP_FROM: Final = 256  # credentials; beyond it they are looked through when they have doubled


class Lesson(msgspec.Struct, frozen=True):
    """What an outcome has changed.

    `opened`: a breaker that is open since now, of `host` or, where that is "", of the account. `frees`: whose
    jobs may have to wait no more, or until another time: of the "host", of "all", or of none: "".
    """

    opened: Breaker | None = None
    host: str = ""
    frees: str = ""


class Strain(msgspec.Struct, frozen=True):
    """Credentials that are used less than they could be: a breaker, a slower pace, a pause."""

    state: str
    pace: float
    pause_s: float


class _Credential:
    __slots__ = ("breaker", "pacer", "used_at_ms")

    def __init__(self) -> None:
        self.breaker = Breaker()
        self.pacer = Pacer()
        self.used_at_ms = 0


class _Host:
    """A host that users name, under some credentials."""

    __slots__ = ("breaker", "refused", "room")

    def __init__(self) -> None:
        self.breaker = Breaker()
        # By code: users whose devices it has refused since it accepted one, and when.
        self.refused: dict[str, dict[str, int]] = {}
        self.room = Room()


class Admission:
    """The state of one channel's accounts on this node. Times are ms of a clock that is not set.

    `nodes`: how many nodes send, this one included: each takes its share of a credential's rate. `hands`: how
    many requests the channel makes at once.
    """

    def __init__(self, accounts: Accounts, *, nodes: Callable[[], int], hands: int) -> None:
        self._accounts = accounts
        self._nodes = nodes
        self._credentials: dict[str, _Credential] = {}
        self._hosts: dict[tuple[str, str], _Host] = {}  # by credential and host
        self._sweep_at = SWEEP_FROM
        self._hands = hands
        self._strangers = Room(max(1, int(hands * STRANGERS_SHARE)))

    def admit(self, job: Job, now_ms: int, repeatable: Callable[[Job], Job | None] | None = None) -> int:
        """Choose an account for a job and return 0; or when to ask again, for all of its app and host.

        An account that took it and could not deliver it is passed over; NEVER_MS: it is all that there is.
        What finds out whether a provider is back may end as unknown, and then be lost: `repeatable` is asked
        for one to go in the job's stead that would be sent again.
        """
        chain = self._accounts.chain(job.app_id, job.channel)
        if not chain:
            return now_ms + NO_ACCOUNT_MS
        wait_ms = 0
        count = len(chain)
        # After a failover the next one is tried first; one whose breaker is open is passed over.
        for offset in range(count):
            account = chain[(job.account_index + offset) % count]
            if account.provider_id in job.undelivered_by:
                continue
            if repeatable is not None and not job.may_repeat and self._would_probe(account, job, now_ms):
                job, repeatable = repeatable(job) or job, None
            until_ms = self._take(job, account, now_ms)
            if not until_ms:
                job.account = account
                job.account_index = (job.account_index + offset) % count
                return 0
            wait_ms = min(wait_ms, until_ms) if wait_ms else until_ms
        return max(wait_ms, now_ms + 1) if wait_ms else NEVER_MS

    def _would_probe(self, account: Account, job: Job, now_ms: int) -> bool:
        """Tell whether an account, or the job's host under it, would be tried out by the next job."""
        known = self._credentials.get(account.credential)
        host = self._hosts.get((account.credential, job.host)) if job.host else None
        breakers = [one.breaker for one in (known, host) if one is not None and one.breaker.state != "closed"]
        return bool(breakers) and not any(breaker.wait_until_ms(now_ms) for breaker in breakers)

    def judged(self, job: Job, account: Account, outcome: Outcome, now_ms: int) -> Outcome:
        """Tell a push host that refuses our key from a device whose subscription was made with another one.

        Endpoints are anybody's to register, also at hosts that all use: so it takes several users in a row.
        """
        if not job.host or outcome.action != "break" or outcome.scope != "host":
            return outcome
        refused = self._host(account.credential, job.host).refused.setdefault(outcome.code, {})
        refused[job.user_id] = now_ms
        for user_id in [user_id for user_id, at_ms in refused.items() if now_ms - at_ms > REFUSED_MS]:
            del refused[user_id]
        if len(refused) >= REFUSED_USERS:
            return outcome
        action: Action = "retry" if job.attempt < REFUSED_USERS else "retire"
        return msgspec.structs.replace(outcome, action=action, scope="device")

    def learn(self, job: Job, account: Account, outcome: Outcome, now_ms: int) -> Lesson:
        """Note what an outcome says of the account that was used, and of the host."""
        known = self._credentials.get(account.credential)
        if known is None:  # reset while it was under way
            return Lesson()
        found = finding(outcome)
        of_host = bool(job.host) and outcome.scope == "host"
        if outcome.action == "retry" and found == "neutral" and outcome.scope == "credential":
            known.pacer.slow_down(now_ms, outcome.retry_after_s)
        breaker, before = known.breaker, known.breaker.moment
        is_open = breaker.record(job.ticket, "nothing" if of_host and found != "ok" else found, now_ms)
        opened, host_name = (breaker, "") if is_open else (None, "")
        frees = "all" if breaker.moment != before else ""
        if job.host:
            host = self._host(account.credential, job.host)
            if outcome.kind == "accepted":
                host.refused.clear()
            if of_host and found == "failure":
                host.room.fail()
            elif found == "ok" and host.room.size < self._hands:
                host.room.earn()
            before = host.breaker.moment
            if host.breaker.record(job.host_ticket, found if of_host or found == "ok" else "nothing", now_ms):
                opened, host_name = host.breaker, job.host
            frees = frees or ("host" if host.breaker.moment != before else "")
        return Lesson(opened, host_name, frees)

    def reset(self, credential: str) -> None:
        """Forget what is known of credentials, and of hosts under them: they were set anew."""
        self._credentials.pop(credential, None)
        for key in [key for key in self._hosts if key[0] == credential]:
            del self._hosts[key]

    def is_closed(self, credential: str) -> bool:
        """Tell whether the breaker of credentials lets everybody through."""
        known = self._credentials.get(credential)
        return known is None or known.breaker.state == "closed"

    def breakers(self) -> dict[str, str]:
        """credential -> state of its breaker, where one is not closed."""
        known = self._credentials.items()
        return {name: one.breaker.state for name, one in known if one.breaker.state != "closed"}

    def strains(self, now_ms: int) -> dict[str, Strain]:
        """credential -> what holds it back, where anything does."""
        found = {
            name: Strain(
                known.breaker.state, known.pacer.pace_at(now_ms), known.pacer.pause_ms(now_ms) / 1000
            )
            for name, known in self._credentials.items()
        }
        return {name: one for name, one in found.items() if one.state != "closed" or one.pace < 1}

    def open_hosts(self) -> list[str]:
        """Hosts that are not sent to now, once for each credential."""
        return [name for (_, name), host in self._hosts.items() if host.breaker.state != "closed"]

    def _take(self, job: Job, account: Account, now_ms: int) -> int:
        """Let a job go by one account and return 0, or when to ask again."""
        known = self._credentials.get(account.credential)
        if known is None:
            known = self._add(account.credential, now_ms)
        known.used_at_ms = now_ms
        host = self._host(account.credential, job.host) if job.host else None
        until_ms = known.breaker.wait_until_ms(now_ms)
        if host is not None:
            until_ms = max(until_ms, host.breaker.wait_until_ms(now_ms), self._room_at_ms(job, host, now_ms))
        if until_ms:
            return until_ms
        if account.rate_per_s:
            known.pacer.rate_per_s = account.rate_per_s / max(1, self._nodes())
        until_ms = known.pacer.take(now_ms)
        if not until_ms:
            job.ticket = known.breaker.admit(now_ms)
            if host is not None:
                job.host_ticket = host.breaker.admit(now_ms)
                host.room.enter(job)
                if host.room.is_strange:
                    self._strangers.enter(job)
        return until_ms

    def _room_at_ms(self, job: Job, host: _Host, now_ms: int) -> int:
        """When to look whether a host has room; 0: it has. A host of Apprise is mostly one user's address."""
        if job.channel != "webpush":
            return 0
        if host.room.is_full:
            return now_ms + FULL_MS
        return now_ms + STRANGERS_FULL_MS if host.room.is_strange and self._strangers.is_full else 0

    def _add(self, credential: str, now_ms: int) -> _Credential:
        if len(self._credentials) >= self._sweep_at:
            self._credentials = {
                name: known
                for name, known in self._credentials.items()
                if now_ms - known.used_at_ms <= IDLE_MS
            }
            self._sweep_at = max(SWEEP_FROM, 2 * len(self._credentials))
        added = self._credentials[credential] = _Credential()
        return added

    def _host(self, credential: str, name: str) -> _Host:
        """What is known of a host, as the one that was used last."""
        host = self._hosts.pop((credential, name), None) or _Host()
        if len(self._hosts) >= MAX_HOSTS:
            del self._hosts[next(iter(self._hosts))]
        self._hosts[credential, name] = host
        return host
