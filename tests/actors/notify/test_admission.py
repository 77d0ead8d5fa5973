"""Who may send by which account: whose fault stops whom, and how paces are shared."""

import pytest

from actors.notify.admission import (
    IDLE_MS,
    MAX_HOSTS,
    NEVER_MS,
    REFUSED_MS,
    SWEEP_FROM,
    Admission,
    Lesson,
    Strain,
)
from actors.notify.breaker import FAILURES, FIRST_MS
from actors.notify.delivery import ACCEPTED, Outcome
from actors.notify.host_room import FIRST_ROOM
from actors.notify.job import Job
from actors.notify.ports import Account
from tests.actors.notify.channel_world import NOW_MS, Accounts, made_job

REFUSED = Outcome(kind="refused", action="break", code="403", scope="host")
FAILED = Outcome(kind="refused", action="retry", code="503", scope="host")
STALLED = Outcome(kind="unknown", action="resolve_unknown", code="timeout", scope="host")
HANDS = 40
DEAF = Outcome(kind="unknown", action="resolve_unknown", code="internal")


class Trial:
    """Jobs that are admitted and answered one after the other."""

    def __init__(self, *, rate_per_s: float = 0.0, nodes: int = 1) -> None:
        self.accounts = Accounts(rate_per_s=rate_per_s)
        self.nodes = nodes
        self.admission = Admission(self.accounts, nodes=lambda: self.nodes, hands=HANDS)
        self.now_ms = NOW_MS
        self.number = 0

    def waits_ms(self, host: str = "push.example") -> int:
        """How long the next to a host has to wait; 0: it goes, and nobody hears what became of it."""
        self.number += 1
        return max(0, self.admission.admit(made_job(self.number, host=host), self.now_ms) - self.now_ms)

    def begin(self, host: str, *, count: int = 1) -> list[Job]:
        """As many as may be under way to a host at once, up to a number."""
        begun = []
        for _ in range(count):
            self.number += 1
            job = made_job(self.number, host=host)
            if not self.admission.admit(job, self.now_ms):
                job.slot = "sending"
                begun.append(job)
        return begun

    def end(self, jobs: list[Job], outcome: Outcome) -> None:
        for job in jobs:
            job.slot = "none"
            assert job.account is not None
            self.admission.learn(job, job.account, outcome, self.now_ms)

    def send(
        self, outcome: Outcome, host: str = "push.example", *, user: int | None = None
    ) -> tuple[Outcome, Lesson]:
        self.number += 1
        job = made_job(self.number, host=host, user=user)
        job.attempt = 1
        assert not self.admission.admit(job, self.now_ms)
        assert job.account is not None
        judged = self.admission.judged(job, job.account, outcome, self.now_ms)
        return judged, self.admission.learn(job, job.account, judged, self.now_ms)


@pytest.mark.parametrize("outcome", [REFUSED, FAILED, STALLED])
def test_a_host_that_fails_stops_nobody_elsewhere(outcome: Outcome) -> None:
    """Endpoints are anybody's to register, and all apps may use one key pair."""
    trial = Trial()
    for _ in range(FAILURES):
        if trial.waits_ms("evil.example"):
            break
        trial.send(outcome, "evil.example")
    assert trial.waits_ms("evil.example") >= FIRST_MS
    assert trial.waits_ms("push.example") == 0
    assert trial.admission.breakers() == {}
    assert trial.admission.open_hosts() == ["https://evil.example"]


def test_what_one_device_meets_opens_nothing() -> None:
    """A bug that one notification finds must not hold up all others."""
    trial = Trial()
    for _ in range(3 * FAILURES):
        assert trial.send(DEAF)[1] == Lesson()
    assert trial.waits_ms() == 0


def test_a_key_is_wrong_where_several_users_in_a_row_are_refused() -> None:
    """One person's devices may all hold subscriptions that were made with another key."""
    trial = Trial()
    for _ in range(5):
        judged, lesson = trial.send(REFUSED, user=1)
        assert (judged.action, judged.scope, lesson) == ("retry", "device", Lesson())
    trial.send(REFUSED, user=2)
    judged, lesson = trial.send(REFUSED, user=3)
    assert (judged, lesson.host, lesson.frees) == (REFUSED, "https://push.example", "host")
    assert trial.waits_ms() == 300_000
    trial.admission.reset("key")
    assert trial.waits_ms() == 0


def test_a_host_that_accepts_others_does_not_refuse_our_key() -> None:
    """Three strangers with stale subscriptions at a push service that all use must not stop it."""
    trial = Trial()
    for user in range(30):
        assert trial.send(REFUSED, user=user)[0].scope == "device"
        if user % 2:
            trial.send(ACCEPTED)
    trial.send(REFUSED)
    trial.now_ms += REFUSED_MS + 1
    trial.send(REFUSED)
    assert trial.send(REFUSED)[0].scope == "device"  # the first was too long ago


def test_a_host_answers_again_and_those_who_wait_are_told() -> None:
    """Nobody waits for the next probe once one has come through."""
    trial = Trial()
    lessons = [trial.send(FAILED)[1] for _ in range(FAILURES)]
    assert [lesson.opened is not None for lesson in lessons] == [False] * (FAILURES - 1) + [True]
    trial.now_ms += FIRST_MS
    assert trial.send(FAILED)[1] == Lesson(None, "", "host")  # again, for twice as long: no news
    assert trial.waits_ms() == 2 * FIRST_MS
    trial.now_ms += 2 * FIRST_MS
    assert trial.send(DEAF)[1].frees == "host"  # says nothing of the host: the next may try
    assert trial.send(ACCEPTED)[1] == Lesson(None, "", "host")
    assert (trial.waits_ms(), trial.admission.open_hosts()) == (0, [])


def test_an_account_that_fails_stops_all_hosts() -> None:
    """What a provider says of its account is for all who use it."""
    trial = Trial()
    for _ in range(FAILURES):
        lesson = trial.send(Outcome(kind="refused", action="retry", scope="provider"))[1]
    assert (lesson.host, lesson.frees, trial.admission.breakers()) == ("", "all", {"key": "open"})
    assert trial.waits_ms("other.example") == FIRST_MS


def test_a_host_has_as_many_under_way_as_it_has_earned() -> None:
    """One that never answers holds two hands for as long as a request takes, and not all of them."""
    trial = Trial()
    begun = trial.begin("push.example", count=10)
    assert len(begun) == FIRST_ROOM
    for wanted in (4, 8, 16, 32, HANDS, HANDS):  # twice as many with each round
        trial.end(begun, ACCEPTED)
        begun = trial.begin("push.example", count=HANDS)
        assert len(begun) == wanted
    trial.end(begun[:2], STALLED)
    assert trial.begin("push.example", count=HANDS) == []
    trial.end(begun[2:], DEAF)
    assert len(trial.begin("push.example", count=HANDS)) == HANDS // 4


def test_hosts_that_nobody_knows_share_a_quarter_of_the_hands() -> None:
    """Whoever has a domain has as many hosts as he likes; those that answer are not held up by them."""
    trial = Trial()
    trial.end(trial.begin("push.example"), ACCEPTED)
    strange = [job for number in range(100) for job in trial.begin(f"{number}.evil.example")]
    assert len(strange) == HANDS // 4
    assert len(trial.begin("push.example", count=5)) == FIRST_ROOM + 1
    strange.pop().slot = "none"  # whatever became of it
    assert len(trial.begin("new.example", count=5)) == 1


@pytest.mark.parametrize("nodes", [1, 2, 3, 5])
def test_nodes_share_the_pace_of_an_account(nodes: int) -> None:
    """An SES account with 14 mails a second is suspended for 42."""
    trial, sent = Trial(rate_per_s=30.0, nodes=nodes), 0
    while trial.now_ms < NOW_MS + 20_000:
        pause_ms = trial.waits_ms()
        sent += not pause_ms
        trial.now_ms += pause_ms
    assert abs(sent - 20 * 30 / nodes) <= 20 * 30 / nodes * 0.04 + 3


def test_a_node_that_comes_or_goes_changes_the_shares() -> None:
    """The whole rate is used again once the others are gone."""
    trial = Trial(rate_per_s=80.0, nodes=2)
    assert [trial.waits_ms() for _ in range(5)] == [0, 0, 0, 0, 25]
    trial.nodes = 1
    assert trial.waits_ms() == 13


def test_what_is_kept_of_credentials_and_hosts_is_bounded() -> None:
    """Keys are rotated for years, and hosts are anybody's to name."""
    trial = Trial()
    for number in range(3 * SWEEP_FROM):
        trial.accounts.of_app["app"] = [trial.accounts.account(f"key {number}")]
        trial.waits_ms()
        trial.now_ms += IDLE_MS // 100
    assert len(trial.admission._credentials) <= SWEEP_FROM
    del trial.accounts.of_app["app"]
    trial.waits_ms()
    for number in range(MAX_HOSTS + 100):
        trial.send(FAILED, f"h{number}.example")
    assert len(trial.admission._hosts) == MAX_HOSTS


def test_strains_are_what_holds_an_account_back() -> None:
    """What the dashboard shows of an account: nothing, while it is used as it could be."""
    trial = Trial(rate_per_s=100.0)
    trial.send(ACCEPTED)
    assert trial.admission.strains(trial.now_ms) == {}
    trial.now_ms += 1_000
    trial.send(Outcome(kind="refused", action="retry", code="429", scope="credential", retry_after_s=5.0))
    assert trial.admission.strains(trial.now_ms) == {"key": Strain("closed", 0.5, 5.0)}
    trial.now_ms += 6_000
    trial.send(Outcome(kind="refused", action="break", code="403", scope="credential"))
    assert trial.admission.strains(trial.now_ms) == {"key": Strain("open", 0.5, 0.0)}
    trial.admission.reset("key")
    assert trial.admission.strains(trial.now_ms) == {}


def test_an_account_that_did_not_deliver_it_is_not_asked_again() -> None:
    """However its index stands, and whatever keeps the others."""
    trial = Trial()
    accounts = [Account(name, name, 0.0, trial.accounts.provider) for name in ("first", "second")]
    trial.accounts.of_app["app"] = accounts
    job = made_job(1)
    job.undelivered_by, job.account_index = ("first",), 0
    assert not trial.admission.admit(job, NOW_MS)
    assert job.account is accounts[1]
    opened = Outcome(kind="refused", action="break", code="401", scope="credential")
    trial.admission.learn(job, accounts[1], opened, NOW_MS)
    assert NOW_MS < trial.admission.admit(job, NOW_MS) < NEVER_MS
    assert not trial.admission.admit(made_job(2), NOW_MS)  # the first is as good as ever for others
    job.undelivered_by = ("first", "second")
    assert trial.admission.admit(job, NOW_MS) == NEVER_MS
