"""Room in memory: whoever fills it leaves some to those who come after."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from actors.notify import open_room
from actors.notify.job import Job
from actors.notify.open_room import MIN_OF_LINE, OpenRoom, line_of
from protocol.notify_types import Priority
from tests.actors.notify.channel_world import made_job

LINES = st.tuples(st.sampled_from(["high", "medium", "low"]), st.sampled_from("abcdefgh"))


def job(app_id: str, priority: Priority = "medium") -> Job:
    return made_job(1, app_id=app_id, priority=priority)


def filled(app_id: str, room: OpenRoom) -> int:
    """Let an app enter until it may not any more; gives how many that were."""
    count = 0
    while room.has_place(line_of(job(app_id))):
        room.enter(job(app_id))
        count += 1
    return count


def test_each_line_that_fills_up_leaves_as_much_as_it_takes(monkeypatch: pytest.MonkeyPatch) -> None:
    """The next app that needs memory finds half of what was left, and the hundredth still a little."""
    monkeypatch.setattr(open_room, "MAX_OPEN", 1_600)
    room = OpenRoom()
    assert [filled(name, room) for name in "abcd"] == [800, 400, 200, 100]
    assert min(filled(f"app{number}", room) for number in range(100)) == MIN_OF_LINE


def test_a_line_has_its_app_and_its_priority(monkeypatch: pytest.MonkeyPatch) -> None:
    """A stuck campaign leaves room for the same app's codes."""
    monkeypatch.setattr(open_room, "MAX_OPEN", 100)
    room = OpenRoom()
    filled("a", room)
    assert not room.has_place(line_of(job("a")))
    assert room.has_place(line_of(job("a", "high")))
    assert room.has_place(line_of(job("b")))
    assert not room.wants_more(line_of(job("a")))


@given(st.lists(LINES, max_size=60))
def test_who_has_left_takes_no_room(entered: list[tuple[Priority, str]]) -> None:
    """Nothing is left over of a day's work."""
    room = OpenRoom()
    jobs = [job(app_id, priority) for priority, app_id in entered]
    for one in jobs:
        room.enter(one)
    assert room.count == len(jobs)
    assert room.count_of_app("a") == sum(one.app_id == "a" for one in jobs)
    for one in jobs:
        room.leave(one)
    assert (room.count, room.count_of_app("a")) == (0, 0)
    assert not room._of_line
