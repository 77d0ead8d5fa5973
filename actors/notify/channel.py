"""The actor of one delivery channel on this node: its queue, its hands, and the state of its providers.

A job waits in the queue until it is due, a hand is free, and an account of its app may be used (see
admission.py): its breaker is closed and its pace allows one more. Then its partition stores that an attempt
begins, and only after that the request is made. Some hands serve HIGH alone, so that a one-time code never
waits for a campaign.
"""

from collections import deque
from collections.abc import Callable, Iterable
from typing import Final

import msgspec
import structlog
import trio

from actors.notify.account_proof import AccountProof
from actors.notify.addresses import without_address
from actors.notify.admission import Admission, Lesson, Strain
from actors.notify.breaker import Breaker
from actors.notify.channel_stats import ChannelStats
from actors.notify.delivery import Outcome
from actors.notify.fair_queue import ALL_LANES, HIGH_LANE, LANE_OF, FairQueue
from actors.notify.job import Job
from actors.notify.mass_retirement import MassRetirement, is_allowed
from actors.notify.ports import Account, Accounts
from actors.notify.undelivered import ends_at_ms
from protocol.notify_types import Channel

HANDS: Final[dict[Channel, int]] = {
    "apns": 400,  # four connections of 100 streams
    "fcm": 128,
    "webpush": 128,
    "sms": 64,
    "email": 32,  # each is a connection or waits for one
    "apprise": 8,  # each is a thread
}
HIGH_SHARE: Final = 0.25  # of the hands, for HIGH alone
CAPACITY: Final = 500_000  # jobs; the partitions bound them before
DATED_LOOK_MS: Final = 900_000  # what waits for a time of day is looked at so often: clocks are set
AT_ONCE: Final = 1_000  # looked at before others have a turn: cancelled ones may stand in long rows
NOT_MADE: Final = Outcome(kind="refused", action="expired")  # says nothing of anybody

log = structlog.get_logger(__name__)


def steady_ms() -> int:
    """Milliseconds by a clock that nobody sets; only differences mean anything."""
    return int(trio.current_time() * 1000)


class ChannelActor:
    """Run one channel: `run` under a supervisor. All other methods return at once, in the Trio thread."""

    def __init__(
        self,
        channel: Channel,
        accounts: Accounts,
        *,
        now_ms: Callable[[], int],
        steady_ms: Callable[[], int] = steady_ms,
        nodes: Callable[[], int] = lambda: 1,
    ) -> None:
        """`nodes`: how many nodes send, which share the pace of an account, and an app's addresses.

        `now_ms` may jump, and says what has expired; `steady_ms` never does, and all that waits goes by it.
        """
        self.channel = channel
        self.stats = ChannelStats()
        self._accounts = accounts
        self._now_ms = now_ms
        self._steady_ms = steady_ms
        self._queue: FairQueue[Job] = FairQueue(CAPACITY)
        self._unqueued: deque[Job] = deque()  # for which there was no room: as many as the partitions let
        self._hands = HANDS[channel]
        self._free_for_all = self._hands - max(1, int(self._hands * HIGH_SHARE))
        self._in_hand = 0
        self._nodes = nodes
        self._admission = Admission(accounts, nodes=nodes, hands=HANDS[channel])
        self._guards: dict[str, MassRetirement] = {}
        self._proof = AccountProof()
        self._nursery: trio.Nursery | None = None
        self._wake = trio.Event()
        self._unsent: list[Job] = []  # begun while no nursery was there: between two lives of this actor

    # -- for partitions -----------------------------------------------------------------------------

    @property
    def depth(self) -> int:
        """How many jobs wait."""
        return len(self._queue) + len(self._unqueued)

    def moving_count(self, app_id: str) -> int:
        """How many jobs of an app are due and wait for a hand or a pace alone."""
        return self._queue.moving_count(app_id)

    @property
    def in_hand(self) -> int:
        """How many attempts are being stored or made."""
        return self._in_hand

    def reserve(self, job: Job) -> bool:
        """Take a hand for a job that was decided just now, unless others wait before it."""
        lanes = HIGH_LANE if job.priority == "high" else ALL_LANES
        if self._in_hand >= (self._hands if job.priority == "high" else self._free_for_all):
            return False
        now_ms = self._steady_ms()
        due_ms = self._queue.next_due_ms(lanes)
        if due_ms is not None and due_ms <= now_ms:
            return False
        if self._admission.admit(job, now_ms):
            return False
        self._take(job)
        return True

    def offer(self, job: Job) -> None:
        """Queue a job until it is due; the partition looks that there are not too many."""
        if job.is_cancelled:
            return
        if job.waits and not self._is_in_use(job):
            job.due_at_ms = 0  # refused by settings that were put right while it was under way
        if not self._push(job):
            # Cancelled ones leave when it is their turn, which behind a paused account never comes.
            self._queue.discard(lambda waiting: waiting.is_cancelled)
            if not self._push(job):
                self._unqueued.append(job)
        self._pump_soon()

    def _is_in_use(self, job: Job) -> bool:
        """Tell whether the app still has the settings by which a job was sent."""
        credential = job.account.credential if job.account is not None else ""
        chain = self._accounts.chain(job.app_id, self.channel)
        return any(account.credential == credential for account in chain)

    def _push(self, job: Job) -> bool:
        wait_ms = job.due_at_ms - self._now_ms() if job.due_at_ms else 0
        due_at_ms = 0
        if wait_ms > 0:
            due_at_ms = self._steady_ms() + (min(wait_ms, DATED_LOOK_MS) if job.is_dated else wait_ms)
        return self._queue.push(job, job.app_id, LANE_OF[job.priority], due_at_ms, job.host)

    def begun(self, jobs: Iterable[Job]) -> None:
        """Their attempts are stored: make them."""
        for job in jobs:
            if job.slot != "reserved":
                continue
            job.slot = "sending"
            if self._nursery is None:
                self._unsent.append(job)
            else:
                self._nursery.start_soon(self._send, job)

    def left(self, jobs: Iterable[Job]) -> None:
        """These will not be begun: their hands are free, and what they were to find out is not known."""
        now_ms = self._steady_ms()
        for job in jobs:
            if job.slot == "reserved":
                job.slot = "none"
                self._in_hand -= 1
                if job.account is not None:
                    self._free(self._admission.learn(job, job.account, NOT_MADE, now_ms), job, job.account)
        self._pump_soon()

    def has_next(self, job: Job) -> bool:
        """Tell whether the app has another account to try after the one that was used."""
        chain = self._accounts.chain(job.app_id, self.channel)
        return len(chain) > 1 and job.failed_over < len(chain) - 1

    def is_believed(self, app_id: str, account: Account) -> bool:
        """Tell whether an account's word counts against an address that may be none of its own."""
        if self._may_all_go(app_id):
            return True
        judgement = self._proof.judge(app_id, account)
        if judgement == "alert":
            detail = {"channel": self.channel, "provider_id": account.provider_id, "cause": "never accepted"}
            self._accounts.alert(app_id, "mass_retirement", detail)
        return judgement == "believe"

    def may_retire(self, app_id: str) -> bool:
        """Tell whether an address that a provider calls dead may be retired now; see mass_retirement.py."""
        if self._may_all_go(app_id):
            return True
        guard = self._guard(app_id)
        alive_count = self._accounts.alive_count(app_id, self.channel) // max(1, self._nodes())
        judgement = guard.judge(self._steady_ms(), alive_count)
        if judgement == "alert":
            self._accounts.alert(app_id, "mass_retirement", {"channel": self.channel})
        return judgement == "retire"

    def _may_all_go(self, app_id: str) -> bool:
        return is_allowed(self._accounts.retirement_until_ms(app_id, self.channel), self._now_ms())

    def _guard(self, app_id: str) -> MassRetirement:
        guard = self._guards.get(app_id)
        if guard is None:
            guard = self._guards[app_id] = MassRetirement()
        return guard

    def reset(self, credential: str) -> None:
        """An app's settings were changed: what waits for an account is tried again at once."""
        self._admission.reset(credential)
        self._queue.hasten(lambda job: job.waits)
        self._queue.release()
        self._pump_soon()

    def breakers(self) -> dict[str, str]:
        """credential -> state of its breaker, where one is not closed."""
        return self._admission.breakers()

    def strains(self) -> dict[str, Strain]:
        """credential -> what holds it back now, where anything does."""
        return self._admission.strains(self._steady_ms())

    def open_hosts(self) -> list[str]:
        """Hosts of users' addresses that are not sent to now."""
        return self._admission.open_hosts()

    # -- the queue ----------------------------------------------------------------------------------

    def _take(self, job: Job) -> None:
        self._in_hand += 1
        job.waits = False
        job.slot = "reserved"

    def _repeatable(self, job: Job) -> Job | None:
        """Bring one to the front of a job's line that is sent again where its outcome is unknown."""

        def may_probe(other: Job) -> bool:
            is_free = not other.undelivered_by  # to go by any account
            return other.may_repeat and is_free and not other.is_cancelled and not self._is_early(other)

        return self._queue.bring_forward(job.app_id, LANE_OF[job.priority], job.host, may_probe)

    def _is_early(self, job: Job) -> bool:
        """Tell one that waits for a time of day, and the clock does not show it yet."""
        return job.is_dated and job.due_at_ms > self._now_ms()

    def _pump_soon(self) -> None:
        self._wake.set()

    def _pump(self) -> float:
        """Begin what can be begun. Returns in how many seconds to look again."""
        now_ms = self._steady_ms()
        while self._unqueued and (self._unqueued[0].is_cancelled or self._push(self._unqueued[0])):
            self._unqueued.popleft()
        begins: dict[int, list[Job]] = {}
        owners = {}
        alone: dict[Job, int] = {}

        def wait_ms(job: Job) -> int:
            if job.is_cancelled or self._is_early(job):
                return 0
            if job.undelivered_by:  # for the others of its line more accounts are left
                if until_ms := self._admission.admit(job, now_ms):
                    alone[job] = until_ms
                return 0
            return self._admission.admit(job, now_ms, self._repeatable)

        for _ in range(AT_ONCE):
            if self._in_hand >= self._hands:
                break
            lanes = ALL_LANES if self._in_hand < self._free_for_all else HIGH_LANE
            job = self._queue.pop(now_ms, lanes, wait_ms)
            if job is None:
                break
            if job.is_cancelled:
                continue
            if self._is_early(job):
                self.offer(job)
                continue
            until_ms = alone.pop(job, 0)
            if until_ms and self._waits_alone(job, until_ms, now_ms):
                continue
            self._take(job)
            owners[id(job.owner)] = job.owner
            begins.setdefault(id(job.owner), []).append(job)
        for key, jobs in begins.items():
            owners[key].begin(jobs)
        if self._in_hand >= self._hands:
            return float("inf")  # whoever comes back wakes us
        lanes = ALL_LANES if self._in_hand < self._free_for_all else HIGH_LANE
        due_ms = self._queue.next_due_ms(lanes)
        return float("inf") if due_ms is None else max(0.0, (due_ms - now_ms) / 1000)

    def _waits_alone(self, job: Job, until_ms: int, now_ms: int) -> bool:
        """Put a job behind that waits for an account while its line goes on; False: its time is over first.

        Then it has no account, and its partition ends it.
        """
        job.account = None
        at_ms = self._now_ms() + until_ms - now_ms
        if ends_at_ms(job.expires_at_ms, job.created_at_ms) <= at_ms:
            return False
        job.waits = True
        return self._queue.push(job, job.app_id, LANE_OF[job.priority], until_ms, job.host)

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Serve until cancelled. What is being sent then has an unknown outcome, as after a crash."""
        try:
            async with trio.open_nursery() as nursery:
                self._nursery = nursery
                unsent, self._unsent = self._unsent, []
                for job in unsent:
                    nursery.start_soon(self._send, job)
                task_status.started()
                while True:
                    self._wake = trio.Event()
                    delay_s = self._pump()
                    with trio.move_on_after(delay_s):
                        await self._wake.wait()
        finally:
            self._nursery = None

    # -- sending ------------------------------------------------------------------------------------

    async def _send(self, job: Job) -> None:
        account = job.account
        assert account is not None
        began_ms = self._steady_ms()
        try:
            if 0 < job.expires_at_ms <= self._now_ms():
                outcome = Outcome(kind="refused", action="expired", code="expired")
            else:
                self.stats.sent += 1
                outcome = await account.provider.send(job.outgoing)
        except trio.Cancelled:
            # This actor ends, by a crash or with the node. A partition that lives on has to know.
            self._give_back(job)
            gone = Outcome(kind="unknown", action="resolve_unknown", code="channel_ended")
            job.owner.conclude(job, account, gone)
            raise
        except Exception as exc:  # a provider's bug makes one delivery unknown, and does not end the channel
            log.exception("provider_failed", channel=self.channel, provider_id=account.provider_id)
            outcome = Outcome(
                kind="unknown", action="resolve_unknown", code="internal", detail=type(exc).__name__
            )
        self._give_back(job)
        outcome = self._admission.judged(job, account, outcome, self._steady_ms())
        if outcome.detail:
            detail = without_address(outcome.detail, self.channel, job.outgoing.target.address)
            outcome = msgspec.structs.replace(outcome, detail=detail)
        self._learn(job, account, outcome, began_ms)
        job.owner.conclude(job, account, outcome)

    def _give_back(self, job: Job) -> None:
        job.slot = "none"
        self._in_hand -= 1
        if self.depth:
            self._pump_soon()

    def _learn(self, job: Job, account: Account, outcome: Outcome, began_ms: int) -> None:
        """Note what the outcome says of the account."""
        now_ms = self._steady_ms()
        self.stats.count(job.app_id, outcome.kind, max(0, now_ms - began_ms) / 1000)
        if outcome.kind == "accepted":
            self._proof.accepted(job.app_id, account)
            self.stats.time(job.priority, max(0, self._now_ms() - job.created_at_ms) / 1000)
        lesson = self._admission.learn(job, account, outcome, now_ms)
        self._free(lesson, job, account)
        if lesson.opened is not None:
            self._tell_of(lesson.opened, lesson.host, job, account, outcome)

    def _free(self, lesson: Lesson, job: Job, account: Account) -> None:
        """Let those ask again who may have to wait no more."""
        if lesson.frees:
            self._queue.release(job.host if lesson.frees == "host" else None)
            if lesson.frees == "all" and self._admission.is_closed(account.credential):
                self._queue.hasten(lambda waiting: _waits_for(waiting, account.credential))
            self._pump_soon()

    def _tell_of(self, breaker: Breaker, host: str, job: Job, account: Account, outcome: Outcome) -> None:
        """Tell that a breaker has opened: of the account or, where named, of one host."""
        shown = host if self.channel == "webpush" else ""  # of Apprise it may be a secret
        log.warning(
            "provider_breaker_opened",
            channel=self.channel,
            provider_id=account.provider_id,
            host=shown,
            code=outcome.code,
            is_config=breaker.is_config,
        )
        # The host stands in `detail`, which makes no alert another one: hosts are anybody's to name.
        self._accounts.alert(
            job.app_id,
            "breaker_opened",
            {
                "channel": self.channel,
                "provider_id": account.provider_id,
                "code": outcome.code,
                "detail": f"{shown}: {outcome.detail}" if shown else outcome.detail,
                "cause": "configuration" if breaker.is_config else "failures",
            },
        )


def _waits_for(job: Job, credential: str) -> bool:
    """Tell whether a job that was refused for wrong settings waits for these to be right."""
    return job.waits and (job.account is None or job.account.credential == credential)
