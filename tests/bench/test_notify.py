"""The notifications' workload: what is asked, a day run small against a real server, and the peer."""

from contextlib import nullcontext
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Thread
from typing import Any, ClassVar

import pytest

from bench.load.target import CannotRun, Cores, Target, running
from bench.load.trial import Setting, Trial
from bench.notify import BY_HTTP, CAMPAIGN, DAY, PEER_VARIANT, WORKLOAD
from bench.notify_cast import make_people
from bench.notify_plan import RETRY_SHARE, SHARES, make_day
from bench.notify_target import NotifyHubbub, NotifyWorld, _fetch
from bench.peers.dramatiq_notify import DRAMATIQ, is_installed
from tests.bench.small_run import figures_of

USERS = 300


@pytest.fixture(scope="module")
def world() -> NotifyWorld:
    """A store is filled with these people once."""
    return NotifyWorld(USERS)


def run(kind: type[Target], variant: str, *, scale: float = 0.003, **options: Any) -> Trial:
    """Run one variant small. Nothing is pinned: other tests run too."""
    cores = Cores()
    cores.is_pinned = False
    with running(kind, cores, **options) as target:
        return WORKLOAD.run(Setting(target=target, wire_name="bot", seconds=0.3, scale=scale), variant)


def test_a_day_has_what_its_shares_say() -> None:
    """The figures mean something only if the mix is what the docs say."""
    people = make_people(1_000)
    day = make_day(people, starts_at_ms=0, total=5_000)
    new = [planned for planned in day if planned.repeats < 0]
    again = [planned for planned in day if planned.repeats >= 0]
    assert len(new) == 4_000
    assert len(again) == pytest.approx(4_000 * RETRY_SHARE, rel=0.4)
    assert sum(SHARES.values()) == pytest.approx(1.0)
    for kind in ("code", "message", "social"):
        assert sum(one.kind == kind for one in new) == pytest.approx(4_000 * SHARES[kind], rel=0.05)
    assert [one.due_s for one in day] == sorted(one.due_s for one in day)
    for one in again:
        assert day[one.repeats].request == one.request
        assert day[one.repeats].due_s < one.due_s
    keys = [one.request.idempotency_key for one in new]
    assert len(set(keys)) == len(keys)


def test_the_people_are_the_same_each_time() -> None:
    """Runs are compared, so their people must be."""
    assert make_people(50) == make_people(50)
    everybody = make_people(2_000)
    assert sum("apns" in person.channels for person in everybody) == pytest.approx(900, rel=0.1)
    assert sum(person.has_consent for person in everybody) == pytest.approx(1_200, rel=0.1)


class _Busy(BaseHTTPRequestHandler):
    """A server that asks to come again, as often as it says in `answers`."""

    answers: ClassVar[list[int]] = []

    def do_PUT(self) -> None:
        status = self.answers.pop(0)
        self.send_response(status)
        if status == 503:
            self.send_header("Retry-After", "0")
        self.send_header("Content-Length", "2")
        self.end_headers()
        self.wfile.write(b"{}")

    def log_message(self, *_: object) -> None:
        """Say nothing."""


@pytest.mark.parametrize(("answers", "is_taken"), [([503, 503, 200], True), ([400], False)])
def test_setting_up_comes_again_where_the_server_asks_for_it(answers: list[int], is_taken: bool) -> None:
    """A busy machine is no reason to have no figures."""
    _Busy.answers = answers
    with ThreadingHTTPServer(("127.0.0.1", 0), _Busy) as server:
        thread = Thread(target=server.serve_forever)
        thread.start()
        try:
            with nullcontext() if is_taken else pytest.raises(CannotRun):
                assert _fetch(f"http://127.0.0.1:{server.server_port}/x", "PUT", b"{}") == b"{}"
        finally:
            server.shutdown()
            thread.join()
    assert answers == []


@pytest.mark.slow
@pytest.mark.parametrize("variant", [DAY, CAMPAIGN, BY_HTTP, "apns", "email"])
def test_a_small_run_is_sound(world: NotifyWorld, variant: str) -> None:
    """By the independent pass over the records."""
    trial = run(NotifyHubbub, variant, world=world)
    assert trial.is_sound, trial.findings
    figures = figures_of(trial)
    if variant == DAY:
        assert figures["held"] > 0
        assert figures["merged"] > 0
        assert len(trial.samples["HIGH to provider"]) > 0
    if variant in ("apns", "email"):
        assert figures["deliveries"] > 0


@pytest.mark.slow
@pytest.mark.skipif(not is_installed(), reason="there is no redis-server or no dramatiq here")
def test_the_peer_does_each_job() -> None:
    """A peer that loses jobs would look fast."""
    trial = run(DRAMATIQ[0], PEER_VARIANT)
    assert trial.is_sound, trial.findings
    assert figures_of(trial)["deliveries"] > 0
