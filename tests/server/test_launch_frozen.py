"""Who is killed for keeping the write lock: only our own, and only after long."""

import msgspec

from server.launch.frozen import FROZEN_AFTER_S, STARTING_FROZEN_AFTER_S, LockWatch


class Held(msgspec.Struct, frozen=True):
    pid: int
    count: int
    is_held: bool = True


def looks(watch: LockWatch, holder: Held | None, times: list[float], **ours: list[int]) -> list[int | None]:
    up, starting = ours.get("up", [7]), ours.get("starting", [])
    return [watch.look(holder, now, up=up, starting=starting) for now in times]


def seconds(count: float, start: float = 0.0) -> list[float]:
    return [start + step * 0.5 for step in range(int(count * 2) + 1)]


def test_a_child_that_keeps_the_lock_is_named_after_the_limit() -> None:
    """All other nodes wait for it."""
    named = looks(LockWatch(), Held(7, 1), seconds(6))
    assert named[: int(FROZEN_AFTER_S * 2) + 1] == [None] * (int(FROZEN_AFTER_S * 2) + 1)
    assert named[-1] == 7


def test_a_busy_child_is_never_named() -> None:
    """It has the lock at every look, each time another acquisition."""
    watch = LockWatch()
    assert [watch.look(Held(7, n), n * 0.5, up=[7], starting=[]) for n in range(100)] == [None] * 100


def test_a_lock_that_was_free_in_between_starts_anew() -> None:
    """The file still names the last holder then."""
    watch = LockWatch()
    assert looks(watch, Held(7, 1), seconds(4)) == [None] * 9
    assert looks(watch, Held(7, 1, is_held=False), [4.5]) == [None]
    assert looks(watch, Held(7, 1), seconds(4, 5.0)) == [None] * 9


def test_a_process_that_is_not_ours_is_never_named() -> None:
    """A backup, a node of another launcher, an operator's shell."""
    assert set(looks(LockWatch(), Held(8, 1), seconds(600))) == {None}


def test_a_node_that_starts_may_migrate_for_minutes() -> None:
    """Killing it would begin the migration again and again."""
    named = looks(LockWatch(), Held(7, 1), seconds(STARTING_FROZEN_AFTER_S + 1), up=[], starting=[7])
    assert set(named[: int(STARTING_FROZEN_AFTER_S * 2)]) == {None}
    assert named[-1] == 7


def test_time_in_which_the_launcher_slept_does_not_count() -> None:
    """After a suspend every node is as late as the launcher, and none of them is frozen."""
    watch = LockWatch()
    assert looks(watch, Held(7, 1), [0.0, 0.5, 3600.0, 3600.5]) == [None] * 4
