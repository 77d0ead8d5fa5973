"""What is shown of whom: this node's connections and the other nodes' word, merged, debounced and batched."""

from itertools import permutations
from typing import cast

import pytest
import trio
from trio.testing import MockClock

from actors.presence_board import INBOX, PresenceBoard
from protocol import events
from protocol.codec import Encoded
from protocol.types import PresenceItem, PresenceState

DEBOUNCE_S = 10.0


class Watcher:
    """A session that keeps what it is told of presence."""

    def __init__(self, conn_id: int, user_id: str) -> None:
        self.conn_id = conn_id
        self.user_id = user_id
        self.told: list[list[PresenceItem]] = []
        self.encoded: list[Encoded] = []

    def push_live(self, key: str | tuple[str, ...], encoded: Encoded, stream: str | None = None) -> None:
        assert (key, stream) == ("presence", INBOX)
        self.encoded.append(encoded)
        self.told.append(cast(events.Presence, encoded.event).items)

    def states(self, user_id: str) -> list[str]:
        return [item.state for items in self.told for item in items if item.user_id == user_id]


class Board:
    """A board with a clock of its own for last_seen, and a note of what this node told the others."""

    def __init__(self) -> None:
        self.now_ms = 1000
        self.woken = 0
        self.here: list[tuple[str, PresenceState, int]] = []
        self.board = PresenceBoard(self._wake, now_ms=lambda: self.now_ms, debounce_s=DEBOUNCE_S)
        self.board.on_here = lambda user_id, state, at_ms: self.here.append((user_id, state, at_ms))

    def _wake(self) -> None:
        self.woken += 1

    def watching(self, *user_ids: str, conn_id: int = 99, name: str = "eve") -> Watcher:
        watcher = Watcher(conn_id, name)
        self.board.opened(watcher)
        self.board.watch(conn_id, user_ids)
        return watcher


@pytest.mark.parametrize("order", list(permutations(["here", "there"])))
async def test_the_best_of_both_is_shown(order: tuple[str, str], autojump_clock: MockClock) -> None:
    """A person who is active on one device is online, wherever the others are."""
    world = Board()
    board = world.board
    eve = world.watching("ann")
    ann = Watcher(1, "ann")
    for place in order:
        if place == "here":
            board.opened(ann)
            board.moved(ann, is_active=False)
        else:
            board.elsewhere("ann", "away", 0)
    assert board.of("ann") == PresenceItem(user_id="ann", state="away")
    board.elsewhere("ann", "online", 0)
    board.tick()
    assert eve.states("ann") == ["online"]
    board.moved(ann, is_active=True)
    board.elsewhere("ann", "away", 0)
    board.elsewhere("ann", "offline", 500)
    board.tick()
    assert eve.states("ann") == ["online"]
    assert not board.is_elsewhere("ann")
    board.closed(ann)
    world.now_ms = 2000
    await trio.sleep(DEBOUNCE_S)
    board.tick()
    assert eve.told[-1] == [PresenceItem(user_id="ann", state="offline", last_seen_ms=1000)]
    assert board.of("ann") is None


async def test_elsewhere_keeps_a_person_online_who_left_here(autojump_clock: MockClock) -> None:
    """And when that ends too, it is that end which is told."""
    world = Board()
    board = world.board
    eve = world.watching("ann")
    ann = Watcher(1, "ann")
    board.opened(ann)
    board.elsewhere("ann", "online", 0)
    board.closed(ann, was_silent=True)
    assert board.of("ann") == PresenceItem(user_id="ann", state="online")
    board.elsewhere("ann", "offline", 7000)
    board.elsewhere("ann", "offline", 8000)  # nothing new
    board.tick()
    assert eve.told == [[PresenceItem(user_id="ann", state="offline", last_seen_ms=7000)]]


async def test_a_drop_shorter_than_the_debounce_is_not_shown(autojump_clock: MockClock) -> None:
    """Neither to watchers nor to other nodes; at the debounce to the moment, it is."""
    world = Board()
    board = world.board
    eve = world.watching("ann")
    ann = Watcher(1, "ann")
    board.opened(ann)
    board.closed(ann)
    assert board.next_due == trio.current_time() + DEBOUNCE_S
    await trio.sleep(DEBOUNCE_S - 0.001)
    board.tick()
    board.opened(ann)
    assert board.next_due == float("inf")
    await trio.sleep(DEBOUNCE_S)
    board.tick()
    assert eve.states("ann") == ["online"]
    board.closed(ann)
    await trio.sleep_until(board.next_due)
    board.tick()
    assert eve.states("ann") == ["online", "offline"]
    assert [h[:2] for h in world.here if h[0] == "ann"] == [("ann", "online"), ("ann", "offline")]


async def test_debounces_end_in_the_order_in_which_they_began(autojump_clock: MockClock) -> None:
    """The hub sleeps until the first of them, and takes all that are due."""
    world = Board()
    board = world.board
    ears = [Watcher(n, f"u{n}") for n in range(3)]
    for ear in ears:
        board.opened(ear)
    for ear in ears:
        board.closed(ear)
        await trio.sleep(1)
    board.opened(ears[0])
    await trio.sleep_until(board.next_due)
    board.tick()
    assert [name for name in ("u0", "u1", "u2") if board.of(name)] == ["u0", "u2"]
    assert board.here() == {"u0": "online", "u2": "online"}
    await trio.sleep_until(board.next_due)
    board.tick()
    assert board.here() == {"u0": "online"}


async def test_changes_are_told_in_one_event_for_all_who_watch_the_same(autojump_clock: MockClock) -> None:
    """A crowd that comes at once is one event, encoded once; who changes twice is told once."""
    world = Board()
    board = world.board
    names = [f"u{n}" for n in range(50)]
    eves = [world.watching(*names, conn_id=100 + n, name=f"eve{n}") for n in range(3)]
    other = world.watching("u7", conn_id=200, name="zoe")
    for name in names:
        board.elsewhere(name, "online", 0)
        board.elsewhere(name, "away", 0)
    board.tick()
    board.tick()
    assert [len(items) for items in eves[0].told] == [50]
    assert eves[0].encoded[0] is eves[1].encoded[0] is eves[2].encoded[0]
    assert other.told == [[PresenceItem(user_id="u7", state="away")]]


async def test_a_board_forgets_the_others_when_nothing_is_known_of_them(autojump_clock: MockClock) -> None:
    """A node that begins anew cannot know who is elsewhere."""
    world = Board()
    board = world.board
    eve = world.watching("ann", "bob")
    bob = Watcher(2, "bob")
    board.opened(bob)
    board.elsewhere("ann", "online", 0)
    board.elsewhere("bob", "online", 0)
    board.tick()
    board.forget_elsewhere()
    board.tick()
    assert eve.states("ann") == ["online", "offline"]
    assert eve.states("bob") == ["online"]


async def test_watchers_are_told_of_those_they_watch_only(autojump_clock: MockClock) -> None:
    """And of nobody any more once they have gone, which leaves nothing behind."""
    world = Board()
    board = world.board
    eve = world.watching("ann")
    board.watch(eve.conn_id, ["bob"])
    assert board.watches_beyond(eve.conn_id, {"ann"})
    board.elsewhere("ann", "online", 0)
    board.elsewhere("bob", "online", 0)
    board.tick()
    assert (eve.states("ann"), eve.states("bob")) == ([], ["online"])
    assert board.in_sight_of("bob") == {"eve"}
    assert board.in_sight_of("eve") == {"bob"}
    board.part("bob", "eve")
    assert eve.states("bob") == ["online", "offline"]
    board.elsewhere("bob", "away", 0)
    board.tick()
    assert eve.states("bob") == ["online", "offline"]
    board.watch(eve.conn_id, ["ann", "bob"])
    board.closed(eve)
    board.closed(eve)
    board.watch(eve.conn_id, ["ann"])
    board.elsewhere("ann", "away", 0)
    board.tick()
    assert eve.states("ann") == []
    assert board.in_sight_of("ann") == set()
    assert not board.watches_beyond(eve.conn_id, ())
