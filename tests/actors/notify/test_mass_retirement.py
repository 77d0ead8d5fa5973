"""The guard against retiring many good addresses at once."""

from hypothesis import given
from hypothesis import strategies as st

from actors.notify.mass_retirement import MassRetirement

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
    guard = MassRetirement()
    for _ in range(30):
        guard.judge(NOW_MS, 30)
    guard.override(NOW_MS)
    assert guard.judge(NOW_MS + HOUR_MS - 1, 30) == "retire"
    assert guard.judge(NOW_MS + HOUR_MS, 30) == "alert"


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
