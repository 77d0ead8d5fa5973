"""The guard against retiring many good addresses at once."""

from hypothesis import given
from hypothesis import strategies as st

from actors.notify.channel import ChannelActor
from actors.notify.mass_retirement import ALLOWED_MS, CLOCKS_MS, MassRetirement, is_allowed
from protocol.notify_types import Channel
from tests.actors.notify.channel_world import Accounts

NOW_MS = 1_790_000_000_000
HOUR_MS = 3_600_000


def test_twenty_of_a_small_app_may_go_and_then_somebody_is_told_once() -> None:
    """A sandbox build with production tokens would take them all within a minute."""
    guard = MassRetirement()
    found = [guard.judge(NOW_MS + number, 100 - min(number, 20)) for number in range(100)]
    assert found == ["retire"] * 20 + ["alert"] + ["hold"] * 79
    assert guard.judge(NOW_MS + HOUR_MS + 120_000, 80) == "retire"


def test_of_a_large_app_it_is_one_in_twenty() -> None:
    """Of those that were alive before: what has gone meanwhile does not lower the share."""
    guard, alive, retired = MassRetirement(), 10_000, 0
    while guard.judge(NOW_MS, alive) == "retire":
        alive -= 1
        retired += 1
    assert retired == 500


def test_a_person_may_let_all_go_for_an_hour() -> None:
    """After a look, for the case that they are dead indeed."""
    until_ms = NOW_MS + ALLOWED_MS
    assert is_allowed(until_ms, NOW_MS)
    assert is_allowed(until_ms, until_ms - 1)
    assert not is_allowed(until_ms, until_ms)
    assert not is_allowed(0, NOW_MS)
    assert is_allowed(until_ms, NOW_MS - CLOCKS_MS)  # a node whose clock is behind
    assert not is_allowed(until_ms, NOW_MS - CLOCKS_MS - 1)  # set back: else it would hold for all that time


class Many(Accounts):
    """An app with ten thousand phones."""

    def alive_count(self, app_id: str, channel: Channel) -> int:
        return 10_000


def test_nodes_share_what_may_go() -> None:
    """Each has a part of the users, and knows what it retired itself: four times 5 % would be a fifth."""
    node = ChannelActor("apns", Many(), now_ms=lambda: 0, steady_ms=lambda: 0, nodes=lambda: 4)
    retired_count = sum(node.may_retire("app") for _ in range(1_000))
    assert 0.05 * 2_500 <= retired_count < 0.055 * 2_500


@given(
    alive=st.integers(1, 3_000),
    steps=st.lists(st.tuples(st.integers(0, 1_200_000), st.integers(1, 60)), max_size=60),
)
def test_no_hour_sees_more_than_the_share(alive: int, steps: list[tuple[int, int]]) -> None:
    """Any hour, not only whole ones. Against a list of every retirement."""
    guard, now_ms = MassRetirement(), NOW_MS
    retired: list[int] = []
    for pause_ms, count in steps:
        now_ms += pause_ms
        for _ in range(min(count, alive)):
            if guard.judge(now_ms, alive) == "retire":
                retired.append(now_ms)
                alive -= 1
                lately = sum(1 for at_ms in retired if at_ms > now_ms - HOUR_MS)
                before = alive + sum(1 for at_ms in retired if at_ms > now_ms - HOUR_MS - 120_000)
                assert lately <= max(20, 0.05 * before)
