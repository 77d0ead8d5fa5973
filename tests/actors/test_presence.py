"""How presence is concluded, with the time handed in."""

from hypothesis import given
from hypothesis import strategies as st

from actors.presence import Connections, judge
from protocol.types import PresenceState


def test_one_active_device_is_enough_to_be_online() -> None:
    connections = Connections()
    connections.opened(1, is_active=True)
    connections.opened(2, is_active=False)
    assert judge(connections, "offline", 0.0) == "online"
    connections.moved(1, is_active=False)
    assert judge(connections, "online", 0.0) == "away"
    connections.moved(3, is_active=True)  # a connection that is gone changes nothing
    assert judge(connections, "away", 0.0) == "away"


def test_a_drop_is_shown_only_after_the_debounce() -> None:
    connections = Connections()
    connections.opened(1, is_active=True)
    connections.closed(1, 100.0)
    assert judge(connections, "online", 109.9, debounce_s=10.0) == "online"
    assert judge(connections, "away", 109.9, debounce_s=10.0) == "away"
    assert judge(connections, "online", 110.0, debounce_s=10.0) == "offline"
    connections.opened(2, is_active=True)
    assert judge(connections, "online", 111.0, debounce_s=10.0) == "online"


def test_a_silent_connection_needs_no_debounce() -> None:
    """It has been gone for a minute already."""
    connections = Connections()
    connections.opened(1, is_active=True)
    connections.closed(1, 100.0, was_silent=True)
    assert judge(connections, "online", 100.0) == "offline"


@given(st.floats(0, 1e9), st.floats(0.001, 100))
def test_the_timer_that_was_set_at_the_close_finds_the_debounce_over(
    closed_at: float, debounce_s: float
) -> None:
    """There is only one timer: if it came a rounding error early, somebody would stay online for ever."""
    connections = Connections()
    connections.opened(1, is_active=True)
    connections.closed(1, closed_at)
    assert judge(connections, "online", closed_at + debounce_s, debounce_s=debounce_s) == "offline"


@given(
    st.lists(st.tuples(st.sampled_from(["open", "move", "close"]), st.integers(1, 3), st.booleans())),
    st.sampled_from(["online", "away", "offline"]),
)
def test_offline_is_never_shown_of_somebody_connected(
    steps: list[tuple[str, int, bool]], shown: PresenceState
) -> None:
    connections = Connections()
    for now, (step, conn_id, is_active) in enumerate(steps):
        match step:
            case "open":
                connections.opened(conn_id, is_active=is_active)
            case "move":
                connections.moved(conn_id, is_active=is_active)
            case _:
                connections.closed(conn_id, float(now))
        shown = judge(connections, shown, float(now), debounce_s=3.0)
        if connections.active:
            assert shown == ("online" if any(connections.active.values()) else "away")
