"""The end of a poller: its sessions end with it, and its crash is what the supervisor sees."""

import pytest
import structlog.testing
import trio

from protocol.codec import Encoded
from protocol.events import Typing
from server.poller import IS_AVAILABLE
from server.socket_pump import SocketPump
from tests.server.edge import open_bot, open_edge

pytestmark = pytest.mark.skipif(not IS_AVAILABLE, reason="no epoll")


@pytest.mark.parametrize("turn", range(6))
async def test_sessions_end_quietly_with_their_gateway(turn: int) -> None:
    """The poller's epoll may be closed before the sessions stop: that must not look like a crash of each."""
    with trio.fail_after(30), structlog.testing.capture_logs() as logs:
        async with open_edge() as edge:
            for number in range(20):
                await open_bot(edge, f"u{number}")
        assert [entry for entry in logs if entry["event"] == "session_crashed"] == []


async def test_a_crash_of_the_poller_ends_all_sessions(monkeypatch: pytest.MonkeyPatch) -> None:
    """The supervisor runs the gateway again: the cause must be what it sees, and each session must end."""
    due = SocketPump.due
    broken: list[SocketPump] = []

    def crash(self: SocketPump) -> None:
        if self in broken:
            raise ZeroDivisionError("injected")
        due(self)

    monkeypatch.setattr(SocketPump, "due", crash)
    raised: list[BaseException] = []
    with trio.fail_after(30), structlog.testing.capture_logs() as logs:
        try:
            async with open_edge() as edge:
                for number in range(20):
                    await open_bot(edge, f"u{number}")
                session = edge.service.opened[0]
                assert session._pump is not None
                broken.append(session._pump)
                session.push_live("x", Encoded(Typing(conversation_id="c_1", user_id="u_1")))
                await trio.sleep_forever()
        except BaseException as exc:
            raised.append(exc)
    text = repr(raised)
    assert "ZeroDivisionError" in text
    assert "closed epoll" not in text
    assert [entry["event"] for entry in logs if entry["event"] == "session_crashed"] == []
    assert len(edge.service.closed_sessions) == 20
