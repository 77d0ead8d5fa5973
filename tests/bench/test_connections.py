"""Connections: everybody gets in, stays in, comes back as the same user; who is refused tries again."""

import resource
from pathlib import Path

import pytest

from bench import connections
from bench.connections import WORKLOAD, Guest, Hall
from bench.load.client import Account, Closed
from bench.load.loop import Loop, now
from bench.load.target import CannotRun, Cores, Target
from bench.load.trial import Setting
from bench.load.wires import JsonWebSocket
from tests.bench.small_run import ENTRANTS, figures_of, run_small

TOO_MANY = 1 << 40


@pytest.mark.slow
@pytest.mark.parametrize(("kind", "wire"), ENTRANTS)
def test_everybody_is_let_in_twice_and_what_it_costs_is_told(kind: str, wire: str) -> None:
    """The table compares these figures over servers and wires."""
    trial = run_small(WORKLOAD, "2,000 users", kind, wire)
    assert (trial.is_sound, trial.errors) == (True, [])
    figures = figures_of(trial)
    assert figures["connects"] > 0
    assert figures["connects again"] > 0
    assert {"memory per connection", "CPU while idle", "server CPU per 1,000"} <= set(figures)
    assert [len(samples) for samples in trial.samples.values()] == [60, 60]
    assert [figure.name for figure in trial.figures if figure.is_headline] == [
        "connects",
        "memory per connection",
    ]


class Nothing(Target):
    """No server at all."""

    def __init__(self) -> None:
        super().__init__(Path(), Cores())
        self._app_secret = "s" * 32

    def addresses(self, wire: str) -> list[tuple[str, int]]:
        return [("127.0.0.1", 1)]


def test_too_few_files_are_told_instead_of_a_figure(lowered_limit: None) -> None:
    """A laptop's limits are no reason to break the whole benchmark off, nor to measure half the users."""
    trial = WORKLOAD.run(Setting(target=Nothing(), wire_name="json", seconds=0.5), "10,000 users")
    assert (trial.figures, trial.is_sound) == ([], True)
    (note,) = trial.notes
    assert "20,000 open files are needed" in note


def test_the_soft_limit_of_files_is_raised_where_it_may_be() -> None:
    """10,000 sockets are more than most systems allow without being asked."""
    before = soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    try:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft - 1, hard))
        Nothing().allow_files(soft)
        assert resource.getrlimit(resource.RLIMIT_NOFILE)[0] == soft
        if hard != resource.RLIM_INFINITY:
            with pytest.raises(CannotRun, match="open files are needed"):
                Nothing().allow_files(TOO_MANY)
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, before)


@pytest.mark.parametrize(
    ("error", "is_told"),
    [
        ("HTTP/1.1 503 Service Unavailable\r\nretry-after: 2", True),
        ("error overloaded", True),
        ("HTTP/1.1 429 Too Many Requests", False),
        ("error unauthenticated", False),
        ("closed by the server", False),
    ],
)
def test_only_an_overloaded_server_is_tried_again(error: str, is_told: bool) -> None:
    """A refusal for any other reason is a fault of the run, and ends it."""
    loop = Loop()
    guest = Guest(loop, JsonWebSocket(), ("127.0.0.1", 1), Account(name="a", token="t"))
    guest.error = error
    loop.close()
    assert guest.is_told_to_retry is is_told


class TurnedAway(Guest):
    """Is refused at the first try, and welcomed at the second one, by nobody."""

    tries = 0
    is_open = is_closed = False  # what the run looks at, without a socket

    def open(self) -> None:
        self.tries += 1
        self.started_at = self.opened_at = now()
        self.is_open = self.tries == 2
        self.is_closed = not self.is_open
        self.error = "" if self.is_open else self.refusal

    refusal = "HTTP/1.1 503 Service Unavailable"


class Banned(TurnedAway):
    """Is refused for another reason."""

    refusal = "error unauthenticated"


def hall_of(kind: type[TurnedAway]) -> Hall:
    """A hall whose guests, more than come at once, are of this kind."""
    hall = Hall(Setting(target=Nothing(), wire_name="json", seconds=0.5), 0)
    account = Account(name="a", token="t")
    hall.guests = [kind(hall.loop, JsonWebSocket(), ("127.0.0.1", 1), account) for _ in range(100)]
    return hall


def test_who_is_turned_away_comes_again_and_counts_from_the_first_try(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """An overloaded server's refusals make its figures worse, and do not end the run."""
    monkeypatch.setattr(connections, "RETRY_S", 0.001)
    hall = hall_of(TurnedAway)
    samples = hall.come(hall.guests)
    hall.loop.close()
    assert (len(samples), hall.retry_count) == (100, 100)
    assert min(samples.values[1::2]) >= 0.001


def test_a_refusal_for_another_reason_ends_the_run() -> None:
    """A rate without those who could not come in would be too good."""
    hall = hall_of(Banned)
    with pytest.raises(Closed, match="a could not connect: error unauthenticated"):
        hall.come(hall.guests)
    hall.loop.close()


@pytest.fixture
def lowered_limit(monkeypatch: pytest.MonkeyPatch) -> None:
    """A system that lets nobody have more than 1,024 files; a real hard limit could not be raised again."""
    monkeypatch.setattr(resource, "prlimit", lambda pid, what: (1024, 1024))
