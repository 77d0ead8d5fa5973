"""Presence: every watcher is told the truth, and a server that tells something else is found out."""

import msgspec
import pytest

from bench.load.client import Account
from bench.load.loop import Loop
from bench.load.wires import BotProtocol
from bench.presence_load import WORKLOAD, Person, World
from protocol.commands import Command
from protocol.events import Presence
from protocol.types import PresenceItem, PresenceState
from tests.bench.small_run import figures_of, run_small


@pytest.mark.slow
@pytest.mark.parametrize("wire", ["json", "msgpack", "bot"])
def test_all_watchers_are_told_the_truth(wire: str) -> None:
    """Activity reaches the 20 others of a group."""
    trial = run_small(WORKLOAD, WORKLOAD.variants[0], "hubbub", wire)
    assert (trial.is_sound, trial.errors) == (True, [])
    figures = figures_of(trial)
    assert figures["changes"] > 0
    assert figures["updates"] > figures["changes"]
    assert len(trial.samples["told"]) > 0


@pytest.mark.slow
def test_drops_are_hidden_and_leavers_are_shown() -> None:
    """The views agree with the truth only after the debounce of who has left."""
    trial = run_small(WORKLOAD, WORKLOAD.variants[1], "hubbub", "json")
    assert (trial.is_sound, trial.errors) == (True, [])


class Listening(Person):
    """A watcher without a socket."""

    is_open = True

    def __init__(self, world: World) -> None:
        super().__init__(Loop(), BotProtocol(), ("127.0.0.1", 1), Account("ann", "token"), world)
        self.user_id = "ann"
        self.told: list[Command] = []

    def tell(self, command: Command) -> None:
        self.told.append(command)

    def hear(self, at: float, **states: PresenceState) -> None:
        items = [PresenceItem(user_id=user_id, state=state) for user_id, state in states.items()]
        self.received(self.wire.frame(msgspec.msgpack.encode(Presence(items=items))), at)


@pytest.fixture
def world() -> World:
    """Bob is online, Cid away; both have just become so by activity."""
    made = World()
    made.truth = {"bob": "online", "cid": "away"}
    made.changed_at = {"bob": 1.0, "cid": 2.0}
    made.is_counting = True
    return made


@pytest.fixture
def watcher(world: World) -> Listening:
    """Somebody who watches both, and was told both as online."""
    made = Listening(world)
    made.contact_ids = ["bob", "cid"]
    made.take_list({"items": [{"user_id": user_id, "state": "online"} for user_id in made.contact_ids]})
    return made


def test_an_update_is_counted_and_timed_from_its_change(world: World, watcher: Listening) -> None:
    """The watcher's view is right from then on."""
    seen = [watcher.is_right]
    watcher.hear(2.5, cid="away")
    assert [*seen, watcher.is_right] == [False, True]
    assert (world.update_count, list(world.samples.values)) == (1, [2.5, 0.5])


def test_a_lie_is_found_out(world: World, watcher: Listening) -> None:
    """It is no latency either."""
    watcher.hear(2.5, cid="away", bob="offline")
    assert not watcher.is_right
    assert list(world.samples.values) == [2.5, 0.5]


def test_a_contact_who_is_left_out_is_found_out(world: World, watcher: Listening) -> None:
    """A view of one of two is not the truth, though nothing in it is wrong."""
    watcher.take_list({"items": [{"user_id": "bob", "state": "online"}]})
    assert not watcher.is_right
    assert world.errors == ["contacts that cannot be watched"]


def test_activity_changes_the_truth_when_it_was_due(world: World, watcher: Listening) -> None:
    """A late load generator must not flatter the server."""
    watcher.switch(7.0)
    assert (world.truth["ann"], world.changed_at["ann"]) == ("away", 7.0)
    watcher.switch(8.0)
    assert (world.truth["ann"], world.changed_at["ann"]) == ("online", 8.0)
