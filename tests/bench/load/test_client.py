"""Connections come again: when the server was away, and when it was overloaded."""

import socket
from collections.abc import Iterator

import msgspec
import pytest

from bench.load import client
from bench.load.client import Account, Closed, Connection, open_all
from bench.load.loop import Loop
from bench.load.wires import BotProtocol
from protocol.errors import CloseCode
from protocol.events import Closing

ANN = Account("ann", "token")


class Door:
    """A bot port in the test's own loop, which answers the n-th connection with the n-th of `answers`."""

    def __init__(self, loop: Loop, answers: list[object]) -> None:
        self.loop = loop
        self.answers = answers
        self.heard: list[dict[str, object]] = []
        self.listener = socket.create_server(("127.0.0.1", 0))
        self.listener.setblocking(False)
        self.sockets = [self.listener]
        self.address: tuple[str, int] = self.listener.getsockname()
        loop.watch(self.listener.fileno(), self._accept)

    def _accept(self, _events: int) -> None:
        accepted, _ = self.listener.accept()
        self.sockets.append(accepted)
        answer = self.answers.pop(0)

        def reply(_events: int) -> None:
            hello = accepted.recv(4096)
            self.heard.append(msgspec.msgpack.decode(hello[4:]))
            accepted.send(BotProtocol().frame(msgspec.msgpack.encode(answer)))
            self.loop.forget(accepted.fileno())

        self.loop.watch(accepted.fileno(), reply)

    def close(self) -> None:
        for each in self.sockets:
            each.close()


@pytest.fixture
def loop() -> Iterator[Loop]:
    made = Loop()
    yield made
    made.close()


WELCOME = {"type": "welcome", "id": 1, "user": {"user_id": "u1"}}
OVERLOADED = Closing(code=CloseCode.OVERLOADED, reason="overloaded")


def test_a_connection_that_is_shed_comes_again(loop: Loop, monkeypatch: pytest.MonkeyPatch) -> None:
    """A storm on a slow machine is not over because the server asked for patience."""
    monkeypatch.setattr(client, "SHED_RETRY_S", 0.01)
    door = Door(loop, [OVERLOADED, WELCOME])
    ann = Connection(loop, BotProtocol(), door.address, ANN)
    assert open_all(loop, [ann]) == 1
    assert (ann.is_open, ann.user_id, ann.is_shed) == (True, "u1", False)
    ann.close()
    door.close()


def test_a_connection_that_is_refused_for_good_stays_away(loop: Loop) -> None:
    """A wrong token does not become right by trying."""
    door = Door(loop, [{"type": "error", "id": 1, "code": "unauthenticated"}])
    ann = Connection(loop, BotProtocol(), door.address, ANN)
    with pytest.raises(Closed, match="unauthenticated"):
        open_all(loop, [ann])
    door.close()


def test_hello_tells_what_the_device_has(loop: Loop) -> None:
    """So that the welcome can say what it lacks."""
    door = Door(loop, [WELCOME, WELCOME])
    ann = Connection(loop, BotProtocol(), door.address, ANN)
    open_all(loop, [ann])
    ann.close()
    ann.cursors, ann.inbox_cursor = {"c": 7}, 2
    open_all(loop, [ann])
    assert [hello.get("cursors") for hello in door.heard] == [None, {"c": 7}]
    assert [hello.get("inbox_cursor") for hello in door.heard] == [None, 2]
    ann.close()
    door.close()


def test_a_server_that_is_away_is_told(loop: Loop) -> None:
    """Whether the kernel refuses at once or a moment later."""
    with socket.create_server(("127.0.0.1", 0)) as free:
        address = free.getsockname()
    ended: list[str] = []

    class Lone(Connection):
        def ended(self) -> None:
            ended.append(self.error)

    ann = Lone(loop, BotProtocol(), address, ANN)
    ann.open()
    loop.run_until(lambda: ann.is_closed, timeout_s=5.0, what="the refusal is known")
    assert len(ended) == 1
    assert ended[0].startswith("connect: error")
