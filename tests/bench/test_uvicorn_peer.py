"""The uvicorn peers keep what they ack and deliver what they keep; else their figures are worth nothing.

Real processes are spoken to over real sockets. Their answers are decoded with the protocol's own Structs, so
a dialect that drifts away from hubbub's is noticed.
"""

import json
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import TypeVar

import jwt
import pytest
from websockets.exceptions import ConnectionClosed
from websockets.sync.client import ClientConnection, connect

from protocol import commands, events, replies
from protocol.codec import Wire, decode_server, encode_payload
from protocol.errors import CloseCode

pytestmark = pytest.mark.slow

SECRET = "5e" * 32
TIMEOUT_S = 20.0
R = TypeVar("R", bound=replies.Reply)


class Peer:
    """The server's process, on one directory and one port, however often it is started."""

    def __init__(self, program: str, data_dir: Path) -> None:
        self._program = program
        self._data_dir = data_dir
        self.port = 0
        self.process: subprocess.Popen[str]

    def start(self) -> None:
        command = [sys.executable, "-m", self._program, "--data-dir", str(self._data_dir)]
        command += ["--port", str(self.port), "--secret", SECRET]
        self.process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
        assert self.process.stdout is not None
        started = json.loads(self.process.stdout.readline())
        assert started["event"] == "started"
        self.port = started["port"]

    def end(self, number: signal.Signals) -> tuple[int, str]:
        """Send a signal; return the exit code, and what was printed after the first line."""
        self.process.send_signal(number)
        said, _ = self.process.communicate(timeout=TIMEOUT_S)
        return self.process.returncode, said


class Device:
    """A blocking client: asks and waits for the answer, and keeps the messages that come meanwhile."""

    def __init__(self, socket: ClientConnection, name: str, cursors: dict[str, int] | None) -> None:
        self.socket = socket
        self._messages: list[events.MessagePosted] = []
        self._last_id = 0
        self.welcome = self.ask(
            commands.Hello(id=1, token=token(name), device_id="d", cursors=cursors), replies.Welcome
        )
        self.user_id = self.welcome.user.user_id

    def tell(self, command: commands.Command) -> None:
        self.socket.send(encode_payload(command, Wire.JSON_WS), text=True)

    def ask(self, command: commands.Command, kind: type[R]) -> R:
        """Ask and return the answer, which must be of this kind."""
        self.tell(command)
        while True:
            got = self._receive()
            if isinstance(got, events.MessagePosted):
                self._messages.append(got)
            else:
                assert isinstance(got, kind), got
                assert got.id == command.id
                return got

    def send(self, conversation_id: str, text: str) -> replies.Sent:
        self._last_id += 1
        command = commands.Send(
            id=self._last_id, conversation_id=conversation_id, client_id=f"k{self._last_id}", text=text
        )
        return self.ask(command, replies.Sent)

    def message(self) -> events.MessagePosted:
        """Return the next message."""
        if self._messages:
            return self._messages.pop(0)
        got = self._receive()
        assert isinstance(got, events.MessagePosted)
        return got

    def open_direct(self, other: "Device") -> replies.ConversationInfo:
        return self.ask(commands.OpenDirect(id=2, user_id=other.user_id), replies.ConversationInfo)

    def create_group(self, *others: "Device") -> str:
        member_ids = [other.user_id for other in others]
        command = commands.CreateGroup(id=3, client_id="g", title="Team", member_ids=member_ids)
        return self.ask(command, replies.ConversationInfo).conversation.conversation_id

    def _receive(self) -> object:
        return decode_server(self.socket.recv(timeout=TIMEOUT_S), Wire.JSON_WS)


@contextmanager
def device(
    peer: Peer, name: str, *, cursors: dict[str, int] | None = None, max_queue: int | None = None
) -> Iterator[Device]:
    """Connect one device of a user and say hello. Beyond max_queue frames it takes only what is asked for."""
    url = f"ws://127.0.0.1:{peer.port}/ws"
    with connect(url, proxy=None, max_size=None, max_queue=max_queue, open_timeout=TIMEOUT_S) as socket:
        yield Device(socket, name, cursors)


def token(name: str, secret: str = SECRET) -> str:
    claims = {"sub": name, "name": name, "exp": int(time.time()) + 3600}
    return jwt.encode(claims, secret, "HS256", headers={"kid": "peer"})


def count_until_closed(device: Device) -> int:
    """Read messages until the server closes; return how many there were."""
    count = 0
    try:
        while True:
            count += 1
            assert device.message().seq == count
    except ConnectionClosed:
        return count - 1


def read_until_closed(device: Device) -> None:
    """Read whatever comes until the server closes, which it must."""
    with suppress(ConnectionClosed):
        while True:
            device.socket.recv(timeout=TIMEOUT_S)


@pytest.fixture(params=["bench.peers.uvicorn_plain", "bench.peers.uvicorn_tuned"])
def peer(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Peer]:
    peer = Peer(request.param, tmp_path)
    peer.start()
    try:
        yield peer
    finally:
        if peer.process.poll() is None:
            peer.end(signal.SIGKILL)


def test_a_token_signed_with_another_secret_is_refused(peer: Peer) -> None:
    """The benchmark's connections are authenticated ones, as hubbub's are."""
    with connect(f"ws://127.0.0.1:{peer.port}/ws", proxy=None) as socket:
        hello = commands.Hello(id=1, token=token("ann", "0f" * 32), device_id="d")
        socket.send(encode_payload(hello, Wire.JSON_WS), text=True)
        answer = decode_server(socket.recv(timeout=TIMEOUT_S), Wire.JSON_WS)
        assert isinstance(answer, replies.Error)
        assert answer.code == "unauthenticated"
        with pytest.raises(ConnectionClosed) as closed:
            socket.recv(timeout=TIMEOUT_S)
    assert closed.value.rcvd is not None
    assert closed.value.rcvd.code == CloseCode.UNAUTHENTICATED


def test_a_direct_message_is_acked_and_reaches_every_device_of_both(peer: Peer) -> None:
    """The one-to-one workload counts what the other side hears; the sender's own devices hear it too."""
    with device(peer, "ann") as ann, device(peer, "ann") as ann2, device(peer, "bob") as bob:
        assert ann.user_id == ann2.user_id
        opened = ann.open_direct(bob)
        assert opened.created
        again = bob.open_direct(ann)
        assert not again.created
        conversation_id = opened.conversation.conversation_id
        assert again.conversation.conversation_id == conversation_id
        sent = ann.send(conversation_id, "hi \N{WAVING HAND SIGN}")
        assert sent.seq == 1
        for each in (ann, ann2, bob):
            assert each.message() == events.MessagePosted(
                conversation_id=conversation_id,
                seq=1,
                at_ms=sent.at_ms,
                user_id=ann.user_id,
                text="hi \N{WAVING HAND SIGN}",
                client_id="k1",
            )


def test_a_group_message_reaches_every_member_in_order(peer: Peer) -> None:
    """The fan-out workload counts the n-th message of each member as the group's n-th."""
    with ExitStack() as stack:
        members = [stack.enter_context(device(peer, f"member{number}")) for number in range(12)]
        conversation_id = members[0].create_group(*members[1:])
        for number in range(30):
            members[number % 3].send(conversation_id, f"message {number}")
        for member in members:
            heard = [member.message() for _ in range(30)]
            assert [each.seq for each in heard] == list(range(1, 31))
            assert [each.text for each in heard] == [f"message {number}" for number in range(30)]


def test_sends_beyond_the_window_are_all_acked_in_order(peer: Peer) -> None:
    """A client may write faster than the disk: the server stops reading, and forgets nothing."""
    with device(peer, "ann") as ann, device(peer, "bob") as bob:
        conversation_id = ann.open_direct(bob).conversation.conversation_id
        for number in range(1, 301):
            ann.tell(
                commands.Send(id=number, conversation_id=conversation_id, client_id=f"k{number}", text="x")
            )
        assert [bob.message().client_id for _ in range(300)] == [f"k{number}" for number in range(1, 301)]


def test_history_and_sync_give_the_pages_that_were_asked_for(peer: Peer) -> None:
    """The history workload reads the last 50 of many; the reconnect storm reads what it missed."""
    with device(peer, "ann") as ann, device(peer, "bob") as bob:
        conversation_id = ann.open_direct(bob).conversation.conversation_id
        for number in range(1, 8):
            ann.send(conversation_id, f"message {number}")

        def history(**page: int) -> tuple[list[int], bool]:
            command = commands.History(id=5, conversation_id=conversation_id, **page)
            got = bob.ask(command, replies.MessagePage)
            assert [each.text for each in got.items] == [f"message {each.seq}" for each in got.items]
            return [each.seq for each in got.items], got.more

        def sync(**page: int) -> tuple[list[int], int, bool]:
            command = commands.Sync(id=6, conversation_id=conversation_id, **page)
            got = bob.ask(command, replies.EventPage)
            messages = [each for each in got.items if isinstance(each, events.MessagePosted)]
            assert [each.text for each in messages] == [f"message {each.seq}" for each in messages]
            return [each.seq for each in messages], got.head, got.more

        assert history(limit=3) == ([5, 6, 7], True)
        assert history(limit=3, before=4) == ([1, 2, 3], False)
        assert history(limit=3, after=0) == ([1, 2, 3], True)
        assert history(limit=50) == ([1, 2, 3, 4, 5, 6, 7], False)
        assert sync(after=0, limit=3) == ([1, 2, 3], 7, True)
        assert sync(after=5, limit=2) == ([6, 7], 7, False)
        assert sync(after=7) == ([], 7, False)


def test_who_is_not_a_member_can_neither_send_nor_read(peer: Peer) -> None:
    """Membership is checked for each command, as hubbub does."""
    with device(peer, "ann") as ann, device(peer, "bob") as bob, device(peer, "eve") as eve:
        conversation_id = ann.open_direct(bob).conversation.conversation_id
        for command in (
            commands.Send(id=9, conversation_id=conversation_id, client_id="k", text="x"),
            commands.History(id=9, conversation_id=conversation_id),
            commands.Sync(id=9, conversation_id=conversation_id),
        ):
            assert eve.ask(command, replies.Error).code == "conversation_not_found"


def test_what_cannot_be_decoded_is_answered_with_an_error(peer: Peer) -> None:
    """A workload that sends something wrong must hear of it, not wait."""
    with device(peer, "ann") as ann:
        for frame, command_id, code in (
            ('{"type":"send","id":4}', 4, "bad_field"),
            ('{"type":"send","id":"x"}', 0, "bad_field"),
            ("{", 0, "bad_frame"),
        ):
            ann.socket.send(frame)
            answer = decode_server(ann.socket.recv(timeout=TIMEOUT_S), Wire.JSON_WS)
            assert isinstance(answer, replies.Error)
            assert (answer.id, answer.code) == (command_id, code)
            assert answer.message
        ann.ask(commands.Heartbeat(id=5), replies.HeartbeatAck)


def test_a_member_who_does_not_read_stops_nobody(peer: Peer) -> None:
    """A competent team would not let one stalled phone hold up a group; so neither does the peer."""
    text = "x" * 60_000
    with ExitStack() as stack:
        ann, bob = (stack.enter_context(device(peer, name)) for name in ("ann", "bob"))
        stalled = stack.enter_context(device(peer, "stalled", max_queue=1))
        conversation_id = ann.create_group(bob, stalled)
        # 66 MB are more than the buffers of a connection take, and it is not waited for beyond 1,000 frames.
        for seq in range(1, 1101):
            assert ann.send(conversation_id, text).seq == seq
            assert ann.message().seq == seq
            assert bob.message().seq == seq
        assert count_until_closed(stalled) < 1100


def test_who_is_dropped_amid_a_send_leaves_no_gap(peer: Peer) -> None:
    """What is stored is delivered, though its sender is too slow and ended while it waits for the disk."""
    with ExitStack() as stack:
        ann, bob = (stack.enter_context(device(peer, name)) for name in ("ann", "bob"))
        stalled = [stack.enter_context(device(peer, f"stalled{n}", max_queue=1)) for n in range(4)]
        conversation_id = ann.create_group(bob, *stalled)
        for _ in range(120):  # 7 MB are more than the buffers of a connection take
            ann.send(conversation_id, "x" * 60_000)
        send = commands.Send(id=1, conversation_id=conversation_id, client_id="s", text="y")
        for _ in range(600):  # each waits for the disk almost always, also when its queue of 1,000 is full
            for each in stalled:
                each.tell(send)
        for _ in range(1000):
            ann.send(conversation_id, "z")
        ann.send(conversation_id, "end")
        heard = [bob.message()]
        while heard[-1].text != "end":
            heard.append(bob.message())
        assert [each.seq for each in heard] == list(range(1, len(heard) + 1))
        for each in stalled:
            read_until_closed(each)


def test_what_was_acked_is_there_after_kill_9(peer: Peer) -> None:
    """The crash workload: acked messages, users and conversations survive; the next seq follows the last."""
    with ExitStack() as stack:
        pairs = []
        for number in range(4):
            ann = stack.enter_context(device(peer, f"ann{number}"))
            bob = stack.enter_context(device(peer, f"bob{number}"))
            pairs.append((ann, bob, ann.open_direct(bob).conversation.conversation_id))
        acked: list[dict[int, str]] = [{} for _ in pairs]
        is_enough = threading.Semaphore(0)

        def send_until_killed(ann: Device, conversation_id: str, seqs: dict[int, str]) -> None:
            try:
                while True:
                    text = f"{ann.user_id} {len(seqs)}"
                    seqs[ann.send(conversation_id, text).seq] = text
                    is_enough.release()
            except ConnectionClosed:
                pass  # killed

        threads = [
            threading.Thread(target=send_until_killed, args=(ann, conversation_id, seqs))
            for (ann, _, conversation_id), seqs in zip(pairs, acked, strict=True)
        ]
        for thread in threads:
            thread.start()
        for _ in range(200):
            assert is_enough.acquire(timeout=TIMEOUT_S)
        assert peer.end(signal.SIGKILL)[0] == -signal.SIGKILL
        for thread in threads:
            thread.join(TIMEOUT_S)
            assert not thread.is_alive()
    peer.start()
    for number, (seqs, (ann, bob, conversation_id)) in enumerate(zip(acked, pairs, strict=True)):
        with device(peer, f"bob{number}") as back, device(peer, f"ann{number}") as sender:
            assert (back.user_id, sender.user_id) == (bob.user_id, ann.user_id)
            [head] = back.welcome.heads
            assert head.conversation_id == conversation_id
            stored: dict[int, str] = {}
            while len(stored) < head.head:
                command = commands.Sync(id=7, conversation_id=conversation_id, after=len(stored))
                page = back.ask(command, replies.EventPage)
                assert page.items
                for event in page.items:
                    assert isinstance(event, events.MessagePosted)
                    assert event.seq == len(stored) + 1
                    stored[event.seq] = event.text
            assert len(set(stored.values())) == len(stored)
            assert seqs.items() <= stored.items()
            assert len(stored) <= len(seqs) + 1  # what was stored, but not acked in time
            assert sender.open_direct(back).conversation.conversation_id == conversation_id
            assert sender.send(conversation_id, "on").seq == len(stored) + 1
            assert back.message().text == "on"


def test_only_conversations_with_news_are_named_at_the_start(peer: Peer) -> None:
    """The reconnect storm says how far each device is, and syncs what welcome names."""
    with device(peer, "ann") as ann, device(peer, "bob") as bob:
        direct = ann.open_direct(bob).conversation.conversation_id
        group = ann.create_group(bob)
        ann.send(direct, "one")
        ann.send(group, "two")
    with device(peer, "bob", cursors={direct: 1}) as back:
        assert [(each.conversation_id, each.head) for each in back.welcome.heads] == [(group, 1)]


def test_sigterm_ends_it_with_exit_code_0(peer: Peer) -> None:
    """The load generator stops servers by SIGTERM; stdout holds the one line about the start, and no more."""
    with device(peer, "ann") as ann, device(peer, "bob") as bob:
        conversation_id = ann.open_direct(bob).conversation.conversation_id
        ann.send(conversation_id, "one")
        assert peer.end(signal.SIGTERM) == (0, "")
    peer.start()
    with device(peer, "bob") as back:
        assert [each.head for each in back.welcome.heads] == [1]
