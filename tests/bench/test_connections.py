"""Connections: everybody gets in, stays in, comes back as the same user; who is refused tries again."""

import resource
from pathlib import Path

import pytest

from bench.connections import WORKLOAD, Guest, Hall
from bench.load import client
from bench.load.client import Account, Connection
from bench.load.loop import now
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
    assert (trial.figures, trial.is_sound) == ([], False)  # what was asked is not answered
    (finding,) = trial.findings
    assert "20,000 open files are needed" in finding


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


class Knocking(Connection):
    """Is turned away at the first try, as the server is overloaded, and welcomed at the second; by nobody."""

    tries = 0
    is_open = is_closed = is_shed = False  # what the run looks at, without a socket

    def open(self) -> None:
        self.started_at = self.opened_at = now()
        self.tries += 1
        self.is_open = self.tries == 2
        self.is_closed = self.is_shed = not self.is_open


class Late(Guest, Knocking):
    """A guest who knocks twice."""


def test_who_is_turned_away_comes_again_and_counts_from_the_first_try(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """An overloaded server's refusals make its figures worse, and do not end the run."""
    monkeypatch.setattr(client, "SHED_RETRY_S", 0.001)
    hall = Hall(Setting(target=Nothing(), wire_name="json", seconds=0.5), 0)
    account = Account(name="a", token="t")
    guests = [Late(hall.loop, JsonWebSocket(), ("127.0.0.1", 1), account) for _ in range(100)]
    samples = hall.come(guests)
    hall.loop.close()
    assert (len(samples), hall.shed_count) == (100, 100)
    assert min(samples.values[1::2]) >= 0.001


@pytest.fixture
def lowered_limit(monkeypatch: pytest.MonkeyPatch) -> None:
    """A system that lets nobody have more than 1,024 files; a real hard limit could not be raised again."""
    monkeypatch.setattr(resource, "prlimit", lambda pid, what: (1024, 1024))
