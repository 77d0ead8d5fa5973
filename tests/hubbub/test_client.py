"""The client against a scripted peer on real sockets: what users of `import hubbub` rely on."""

import random
from collections.abc import Callable, Sequence
from contextlib import suppress
from functools import partial
from pathlib import Path

import pytest
import trio
import trio.testing
from hypothesis import given, settings
from hypothesis import strategies as st

import hubbub
from hubbub.client import Events
from protocol import commands as c
from protocol import events as e
from protocol import replies as r
from protocol.codec import Wire
from protocol.commands import Command
from protocol.errors import CloseCode
from protocol.events import Event
from protocol.replies import Reply
from protocol.types import NodeInfo, ReceiptItem
from tests.hubbub.peer import Hangup, HangupWithCode, Outgoing, PeerSession, open_peer

FAST = hubbub.Backoff(first_delay_s=0.001, max_delay_s=0.01)


async def take_messages(events: Events, count: int) -> list[e.MessagePosted]:
    """Take events until so many messages came."""
    messages: list[e.MessagePosted] = []
    while len(messages) < count:
        event = await anext(events)
        if isinstance(event, e.MessagePosted):
            messages.append(event)
    return messages


@pytest.mark.parametrize("transport", ["tcp", "ws-json", "ws-msgpack"])
async def test_a_message_goes_out_and_comes_back_on_every_transport(transport: str) -> None:
    """Bots use TCP, pages use WebSockets; the program is the same."""
    async with open_peer() as peer:
        url = peer.tcp_url if transport == "tcp" else peer.ws_url
        wire = Wire.JSON_WS if transport == "ws-json" else None
        with trio.fail_after(10):
            async with hubbub.connect(url, token="token-ann", wire=wire) as client:
                events = client.events()
                sent = await client.send("room", "hello", reply_to=3)
                [message] = await take_messages(events, 1)
        assert (message.text, message.seq, message.user_id) == ("hello", sent.seq, "ann")
        assert message.reply_to == 3
        assert client.user.name == "Ann"


async def test_a_send_whose_answer_was_lost_is_repeated_with_the_same_client_id() -> None:
    """Promise 2: a send happens once, for good, though the line breaks at the worst moment."""
    async with open_peer() as peer:
        lost = 0

        def lose_answers(_s: PeerSession, command: Command, reply: Reply) -> Sequence[Outgoing]:
            nonlocal lost
            if isinstance(command, c.Send) and lost < 3:
                lost += 1
                raise Hangup
            return (reply,)

        peer.on_reply = lose_answers
        with trio.fail_after(10):
            async with hubbub.connect(peer.tcp_url, token="token-ann", backoff=FAST) as client:
                sent = await client.send("room", "once")
        assert lost == 3
        assert sent.seq == 1
        assert sent.duplicate
        assert len(peer.conversations["room"]) == 1
        sends = [command for command in peer.commands if isinstance(command, c.Send)]
        assert len(sends) == 4
        assert len({send.client_id for send in sends}) == 1


async def test_retriable_refusals_are_tried_again_and_final_ones_are_raised() -> None:
    """A bot author writes no retry loop, and sees at once what will never work."""
    async with open_peer() as peer:
        refusals = ["busy", "rate_limited", "outcome_unknown", "moved"]

        def refuse(_s: PeerSession, command: Command) -> Reply | None:
            if isinstance(command, c.Send) and command.text == "stubborn" and refusals:
                return r.Error(id=command.id, code=refusals.pop(), retry_after_s=0.01)
            if isinstance(command, c.Send) and command.text == "never":
                return r.Error(id=command.id, code="silenced")
            return None

        peer.on_command = refuse
        rng = random.Random(1)
        with trio.fail_after(20):
            async with hubbub.connect(peer.tcp_url, token="token-ann", rng=rng) as client:
                assert (await client.send("room", "stubborn")).seq == 1
                with pytest.raises(hubbub.Refused) as refused:
                    await client.send("room", "never")
        assert refused.value.code == "silenced"
        assert not refusals


async def test_a_deadline_ends_the_retries() -> None:
    """A caller with a deadline gets control back."""
    async with open_peer() as peer:
        peer.on_command = lambda _s, command: (
            r.Error(id=command.id, code="overloaded", retry_after_s=0.01)
            if isinstance(command, c.Send)
            else None
        )
        with trio.fail_after(10):
            async with hubbub.connect(peer.tcp_url, token="token-ann") as client:
                with pytest.raises(hubbub.Unavailable) as timeout:
                    await client.send("room", "text", timeout_s=0.05)
                assert timeout.value.code == "timeout"
                peer.on_command = lambda _s, _c: None
                assert (await client.send("room", "later")).seq == 1


async def test_sends_keep_their_order_and_the_window_over_a_dropped_connection() -> None:
    """Callers get back-pressure at 32 unanswered sends; what they pipeline is stored in their order."""
    async with open_peer() as peer:
        peer.gates[c.Send] = trio.Event()
        with trio.fail_after(10):
            async with (
                hubbub.connect(peer.tcp_url, token="token-ann", backoff=FAST) as client,
                trio.open_nursery() as nursery,
            ):
                started: list[hubbub.Ticket] = []

                async def start_all() -> None:
                    for number in range(50):
                        started.append(await client.start_send("room", str(number)))

                nursery.start_soon(start_all)
                await wait_until(lambda: len(started) == 32)
                await trio.testing.wait_all_tasks_blocked()
                assert len(started) == 32
                peer.cut_all()
                peer.gates.pop(c.Send).set()
                await wait_until(lambda: len(started) == 50)
                acks = [await ticket.wait() for ticket in started]
        texts = [event.text for event in peer.conversations["room"] if isinstance(event, e.MessagePosted)]
        assert texts == [str(number) for number in range(50)]
        assert [ack.seq for ack in acks] == list(range(1, 51))


async def test_the_servers_smaller_window_is_respected() -> None:
    """A server that allows 2 unanswered sends never sees a third."""
    async with open_peer() as peer:
        peer.max_unacked_sends = 2
        seen: list[c.Send] = []
        peer.on_command = lambda _s, command: seen.append(command) if isinstance(command, c.Send) else None
        peer.gates[c.Heartbeat] = trio.Event()
        with trio.fail_after(10):
            async with hubbub.connect(peer.tcp_url, token="token-ann") as client:
                peer.on_reply = lambda _s, command, reply: () if isinstance(command, c.Send) else (reply,)
                tickets = [await client.start_send("room", str(number)) for number in range(5)]
                await wait_until(lambda: len(seen) == 2)
                await trio.testing.wait_all_tasks_blocked()
                assert len(seen) == 2
                peer.on_reply = lambda _s, _c, reply: (reply,)
                peer.gates.pop(c.Heartbeat).set()
                peer.cut_all()
                for ticket in tickets:
                    await ticket.wait()
        assert len(peer.conversations["room"]) == 5


async def test_closing_a_client_with_a_heartbeat_under_way_raises_nothing() -> None:
    """A node that freezes at the moment at which a program ends must not make it fail."""
    async with open_peer() as peer:
        peer.gates[c.Heartbeat] = trio.Event()
        with trio.fail_after(10):
            async with hubbub.connect(peer.tcp_url, token="token-ann"):
                await wait_until(lambda: any(isinstance(command, c.Heartbeat) for command in peer.commands))


async def wait_until(condition: Callable[[], bool]) -> None:
    """Let other tasks run until the condition holds; the test's own deadline ends it otherwise."""
    while not condition():  # noqa: ASYNC110 - it happens on both ends of real sockets, not in one place
        await trio.sleep(0.001)


class Fate:
    """What happens to one live event on its way."""

    ALL = ("pass", "lose", "twice", "hold", "release", "cut", "cut-after", "resync", "old")


@settings(max_examples=60)
@given(
    fates=st.lists(st.tuples(st.sampled_from(["a", "b"]), st.sampled_from(Fate.ALL)), max_size=25),
    before=st.integers(0, 5),
    transport=st.sampled_from(["tcp", "tcp", "ws"]),
    slow=st.booleans(),
)
async def test_whatever_happens_to_live_events_each_is_seen_once_and_in_order(
    fates: list[tuple[str, str]], before: int, transport: str, slow: bool
) -> None:
    """Promise 3 and 4, as the user of events() sees them."""
    async with open_peer() as peer:
        for number in range(before):
            await peer.post("a", f"before {number}")
        held: list[Event] = []
        fate = "pass"

        def bend(_s: PeerSession, event: Event) -> Sequence[Outgoing]:
            if not isinstance(event, e.MessagePosted):
                return (event,)
            if fate == "lose":
                return ()
            if fate == "twice":
                return (event, event)
            if fate == "hold":
                held.append(event)
                return ()
            if fate == "release":
                released, held[:] = list(reversed(held)), []
                return (event, *released)
            if fate == "cut":
                raise Hangup
            if fate == "resync":
                return (e.Resync(conversation_id=event.conversation_id, head=event.seq),)
            if fate == "old":
                return (peer.conversations[event.conversation_id][0], event)
            return (event,)

        peer.on_live = bend
        url = peer.tcp_url if transport == "tcp" else peer.ws_url
        with trio.fail_after(5):
            async with hubbub.connect(
                url,
                token="token-ann",
                history="all",
                backoff=FAST,
                max_queued_events=2 if slow else 1000,
            ) as client:
                events = client.events()
                for conversation_id, fate in fates:
                    await peer.post(conversation_id, "text")
                    if fate == "cut-after":
                        peer.cut_all()
                    await trio.lowlevel.checkpoint()
                expected = {name: len(log) for name, log in peer.conversations.items()}
                seen: dict[str, list[int]] = {name: [] for name in expected}
                while {name: len(seqs) for name, seqs in seen.items()} != expected:
                    event = await anext(events)
                    assert isinstance(event, e.MessagePosted)
                    seen[event.conversation_id].append(event.seq)
                assert seen == {name: list(range(1, count + 1)) for name, count in expected.items()}
                peer.on_live = lambda _s, event: (event,)
                # Nothing comes after that: what is told next is the next thing seen.
                marker = await peer.post("marker", "the end")
                last = await anext(events)
                assert isinstance(last, e.MessagePosted)
                assert (last.conversation_id, last.seq) == ("marker", marker)


@settings(max_examples=25)
@given(stops=st.lists(st.integers(0, 7), max_size=6), transport=st.sampled_from(["tcp", "ws"]))
async def test_a_process_that_restarts_goes_on_after_what_it_had_finished(
    stops: list[int], transport: str
) -> None:
    """A bot author restarts at any time: at least once over crashes, exactly once after clean ends."""
    store = hubbub.MemoryCursors()
    handled: list[int] = []
    async with open_peer() as peer:
        url = peer.tcp_url if transport == "tcp" else peer.ws_url
        await peer.post("room", "first")
        for stop in [*stops, 0]:
            for _ in range(3):
                await peer.post("room", "more")
            with trio.fail_after(10):
                async with hubbub.connect(
                    url, token="token-ann", device_id="bot", cursors=store, history="all"
                ) as client:
                    target = len(peer.conversations["room"])
                    wanted = min(stop, target - len(handled))
                    events = client.events(auto_confirm=False)
                    while wanted:
                        event = await anext(events)
                        assert isinstance(event, e.MessagePosted)
                        handled.append(event.seq)
                        client.confirm(event)
                        wanted -= 1
        assert handled == list(range(1, len(handled) + 1))


async def test_the_event_in_hand_comes_again_after_a_restart(tmp_path: Path) -> None:
    """The cursor moves when the next event is asked for: work cut short by a crash is not lost."""
    path = tmp_path / "cursors.db"
    async with open_peer() as peer:
        for number in range(3):
            await peer.post("room", str(number))
        with trio.fail_after(10):
            for expected in ([1, 2], [2, 3], [3]):
                seen: list[int] = []
                async with hubbub.connect(
                    peer.tcp_url,
                    token="token-ann",
                    device_id="bot",
                    cursors=hubbub.FileCursors(path),
                    history="all",
                ) as client:
                    events = client.events()
                    for _ in expected:
                        event = await anext(events)
                        assert isinstance(event, e.MessagePosted)
                        seen.append(event.seq)
                assert seen == expected


async def test_without_a_store_the_servers_memory_of_the_device_is_used() -> None:
    """A device that keeps nothing itself still goes on where it was."""
    async with open_peer() as peer:
        for number in range(4):
            await peer.post("room", str(number))
        with trio.fail_after(10):
            async with hubbub.connect(
                peer.tcp_url, token="token-ann", device_id="d", history="all"
            ) as client:
                messages = await take_messages(client.events(), 3)
                for message in messages:
                    client.confirm(message)
            async with hubbub.connect(peer.tcp_url, token="token-ann", device_id="d") as client:
                [message] = await take_messages(client.events(), 1)
        assert message.seq == 4
        assert peer.hellos[1].cursors is None


async def test_a_new_device_gets_what_is_new_and_nothing_of_the_past() -> None:
    """history="new": a bot that is added to an old group does not answer old messages."""
    async with open_peer() as peer:
        for number in range(10):
            await peer.post("room", str(number))
        with trio.fail_after(10):
            async with hubbub.connect(peer.tcp_url, token="token-ann") as client:
                events = client.events()
                await peer.post("room", "new")
                [message] = await take_messages(events, 1)
        assert message.text == "new"


async def test_a_conversation_joined_later_begins_at_the_join() -> None:
    """Whichever comes first, the inbox event or the first live one, the start is the same."""
    async with open_peer() as peer:
        with trio.fail_after(10):
            async with hubbub.connect(peer.tcp_url, token="token-ann") as client:
                events = client.events()
                peer.on_live = lambda _s, _e: ()
                for number in range(5):
                    await peer.post("old", str(number))
                peer.read_seqs["old"] = 6
                await peer.add(
                    e.MembersAdded(
                        conversation_id="old", seq=6, at_ms=1, user_id="bob", member_ids=["ann", "carl"]
                    )
                )
                await peer.post("old", "after the join")
                peer.on_live = lambda _s, event: (event,)
                await peer.add_to_inbox(e.ConversationAdded(seq=1, at_ms=1, conversation_id="old", by="bob"))
                added = await anext(events)
                [message] = await take_messages(events, 1)
        assert isinstance(added, e.ConversationAdded)
        assert (message.seq, message.text) == (7, "after the join")


async def test_a_user_who_does_not_read_stops_the_socket_but_not_the_heartbeats() -> None:
    """Bounded everything: the client's memory does not grow with what its user leaves unread."""
    async with open_peer() as peer:
        await peer.post("room", "first")
        with trio.fail_after(20):
            async with hubbub.connect(
                peer.tcp_url, token="token-ann", history="all", max_queued_events=5
            ) as client:
                events = client.events()
                await take_messages(events, 1)
                for number in range(2_000):
                    await peer.post("room", str(number))
                beats = sum(isinstance(command, c.Heartbeat) for command in peer.commands)
                await wait_until(
                    lambda: sum(isinstance(cmd, c.Heartbeat) for cmd in peer.commands) >= beats + 3
                )
                assert len(client._intake.queue) <= 5 + 256
                assert len(client._intake.streams["room"].buffer) <= 256
                # A command from within a handler is answered although events wait unread.
                assert (await client.send("other", "still works")).seq == 1
                messages: list[e.MessagePosted] = []
                while len(messages) < 2_000:
                    messages += [
                        message
                        for message in await take_messages(events, 1)
                        if message.conversation_id == "room"
                    ]
        assert [message.seq for message in messages] == list(range(2, 2_002))


async def test_live_events_without_room_are_merged_to_their_latest_state() -> None:
    """A receipt or a presence that is out of date is of no use; the latest one is never lost."""
    async with open_peer() as peer:
        with trio.fail_after(10):
            async with hubbub.connect(peer.tcp_url, token="token-ann", max_queued_events=2) as client:
                events = client.events()
                for seq in range(1, 40):
                    await peer.tell(
                        e.Receipts(conversation_id="room", items=[ReceiptItem(user_id="bob", read_seq=seq)])
                    )
                await client.send("room", "read on")  # its answer comes behind all of them
                last = 0
                while last < 39:
                    event = await anext(events)
                    if isinstance(event, e.Receipts):
                        assert event.items[0].read_seq > last
                        last = event.items[0].read_seq


@pytest.mark.parametrize("transport", ["tcp", "ws"])
@pytest.mark.parametrize(
    ("code", "stable_code"),
    [(CloseCode.SESSION_REVOKED, "unauthenticated"), (CloseCode.REPLACED, "forbidden")],
)
async def test_a_fatal_close_reaches_everybody_who_waits(
    code: CloseCode, stable_code: str, transport: str
) -> None:
    """Codes from 4500 mean stop: no reconnect, and a clear error instead of silence."""
    async with open_peer() as peer:
        with trio.fail_after(10):
            async with hubbub.connect(
                peer.tcp_url if transport == "tcp" else peer.ws_url, token="token-ann", backoff=FAST
            ) as client:
                events = client.events()

                def close(_s: PeerSession, command: Command) -> Reply | None:
                    raise HangupWithCode(code)

                peer.on_command = close
                with pytest.raises(hubbub.ConnectionEnded) as ended:
                    await client.send("room", "x")
                with pytest.raises(hubbub.ConnectionEnded):
                    await anext(events)
        assert ended.value.close_code == code
        assert ended.value.code == stable_code
        assert len(peer.hellos) == 1


async def test_a_close_that_allows_it_is_followed_by_a_new_connection() -> None:
    """Codes below 4500 mean: come back."""
    async with open_peer() as peer:
        with trio.fail_after(10):
            async with hubbub.connect(peer.ws_url, token="token-ann", backoff=FAST) as client:
                closed = False

                def close(_s: PeerSession, command: Command) -> Reply | None:
                    nonlocal closed
                    if isinstance(command, c.Send) and not closed:
                        closed = True
                        raise HangupWithCode(CloseCode.SLOW_CONSUMER)
                    return None

                peer.on_command = close
                assert (await client.send("room", "x")).seq == 1
        assert len(peer.hellos) == 2


async def test_a_wrong_token_is_told_at_once() -> None:
    """The person at the keyboard sees why, instead of a client that tries for ever."""
    async with open_peer() as peer:
        with trio.fail_after(5), pytest.raises(hubbub.Refused) as refused:
            async with hubbub.connect(peer.tcp_url, token="wrong"):
                pass
        assert refused.value.code == "unauthenticated"


async def test_a_server_that_is_not_there_is_named_in_the_error() -> None:
    """An operator reads which address was tried."""
    with trio.fail_after(5), pytest.raises(hubbub.Unavailable, match=r"127\.0\.0\.1:1 "):
        async with hubbub.connect("hubbub://127.0.0.1:1", token="x", connect_timeout_s=0.3, backoff=FAST):
            pass


async def test_errors_of_the_block_come_out_as_they_are() -> None:
    """Users write `except ValueError`, not `except*`."""
    async with open_peer() as peer:
        with trio.fail_after(5), pytest.raises(ValueError, match="mine"):
            async with hubbub.connect(peer.tcp_url, token="token-ann"):
                raise ValueError("mine")


async def test_a_draining_node_hands_the_client_to_another() -> None:
    """A rolling upgrade: clients move when told, nothing under way is lost."""
    async with open_peer() as old, open_peer() as new:
        with trio.fail_after(10):
            async with hubbub.connect(old.tcp_url, token="token-ann", backoff=FAST) as client:
                events = client.events()
                address = new.tcp_url.removeprefix("hubbub://")
                node = NodeInfo(node_id="node-2", url="", bot_address=address)
                await old.tell(e.Reconnect(within_s=0.01, nodes=[node], reason="draining"))
                await wait_until(lambda: bool(new.hellos))
                await client.send("room", "on the new node")
                [message] = await take_messages(events, 1)
        assert message.text == "on the new node"
        assert "room" not in old.conversations


async def test_presence_is_watched_again_after_a_reconnect() -> None:
    """A page that watches presence goes on seeing it."""
    async with open_peer() as peer:
        peer.on_command = lambda _s, command: (
            r.PresenceList(id=command.id, items=[]) if isinstance(command, c.WatchPresence) else None
        )
        with trio.fail_after(10):
            async with hubbub.connect(peer.tcp_url, token="token-ann", backoff=FAST) as client:
                await client.watch_presence(["bob"], contacts=True)
                peer.cut_all()
                await wait_until(lambda: sum(isinstance(cmd, c.WatchPresence) for cmd in peer.commands) == 2)


async def test_a_refused_hello_that_says_later_is_tried_again() -> None:
    """An overloaded node sheds connections; they come back by themselves."""
    async with open_peer() as peer:
        refusals = 2

        def shed(_s: PeerSession, command: Command) -> Reply | None:
            nonlocal refusals
            if isinstance(command, c.Hello) and refusals:
                refusals -= 1
                return r.Error(id=command.id, code="overloaded", retry_after_s=0.01)
            return None

        peer.on_command = shed
        with trio.fail_after(5):
            async with hubbub.connect(peer.tcp_url, token="token-ann", backoff=FAST) as client:
                assert client.user_id == "ann"
        assert refusals == 0


async def test_an_invite_is_not_made_twice_by_itself() -> None:
    """What is not idempotent is not repeated behind the caller's back."""
    async with open_peer() as peer:

        def hang_up(_s: PeerSession, command: Command) -> Reply | None:
            if isinstance(command, c.CreateInvite):
                raise Hangup
            return None

        peer.on_command = hang_up
        with trio.fail_after(5):
            async with hubbub.connect(peer.tcp_url, token="token-ann", backoff=FAST) as client:
                with pytest.raises(hubbub.Unavailable) as unknown:
                    await client.create_invite("room")
        assert unknown.value.code == "outcome_unknown"
        assert sum(isinstance(command, c.CreateInvite) for command in peer.commands) == 1


async def test_leaving_counts_as_done_when_the_first_answer_was_lost() -> None:
    """A repetition that finds its work done is a success, not an error."""
    async with open_peer() as peer:
        times = 0

        def leave(_s: PeerSession, command: Command) -> Reply | None:
            nonlocal times
            if not isinstance(command, c.Leave):
                return None
            times += 1
            if times == 1:
                raise Hangup
            return r.Error(id=command.id, code="not_member")

        peer.on_command = leave
        with trio.fail_after(5):
            async with hubbub.connect(peer.tcp_url, token="token-ann", backoff=FAST) as client:
                assert (await client.leave("room")).seq == 0
                with pytest.raises(hubbub.Refused):
                    await client.leave("room")


async def test_a_client_comes_through_a_proxy_that_refuses_and_hangs_up_at_first() -> None:
    """While a node restarts, whatever stands before it answers the upgrade with 502, 503, or not at all."""
    answers = [
        b"HTTP/1.1 502 Bad Gateway\r\nContent-Length: 3\r\n\r\nno\n",
        b"HTTP/1.1 503 Service Unavailable\r\nContent-Length: 0\r\n\r\n",
        b"SSH-2.0-OpenSSH_9.2\r\n",
        b"",
    ]
    async with open_peer() as peer, trio.open_nursery() as nursery:
        peer_port = int(peer.ws_url.rpartition(":")[2].partition("/")[0])

        async def copy(source: trio.SocketStream, sink: trio.SocketStream) -> None:
            with suppress(trio.BrokenResourceError, trio.ClosedResourceError):
                async for data in source:
                    await sink.send_all(data)
            await sink.aclose()

        async def proxy(stream: trio.SocketStream) -> None:
            if answers:
                await stream.receive_some(4096)
                await stream.send_all(answers.pop(0))
                return
            behind = await trio.open_tcp_stream("127.0.0.1", peer_port)
            async with trio.open_nursery() as pair:
                pair.start_soon(copy, stream, behind)
                pair.start_soon(copy, behind, stream)

        listeners: list[trio.SocketListener] = await nursery.start(
            partial(trio.serve_tcp, proxy, 0, host="127.0.0.1")
        )
        url = f"ws://127.0.0.1:{listeners[0].socket.getsockname()[1]}"
        with trio.fail_after(5):  # less than the deadline of one attempt: none of them may wait for it
            async with hubbub.connect(url, token="token-ann", backoff=FAST) as client:
                assert answers == []
                assert (await client.send("room", "through")).seq == 1
        nursery.cancel_scope.cancel()


async def test_the_reason_of_the_last_attempt_is_told_when_time_is_up() -> None:
    """ "Not reached" alone leaves an operator in the dark."""

    async def refuse(stream: trio.SocketStream) -> None:
        await stream.receive_some(4096)
        await stream.send_all(b"HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\n\r\n")

    async with trio.open_nursery() as nursery:
        listeners: list[trio.SocketListener] = await nursery.start(
            partial(trio.serve_tcp, refuse, 0, host="127.0.0.1")
        )
        url = f"ws://127.0.0.1:{listeners[0].socket.getsockname()[1]}"
        with trio.fail_after(5), pytest.raises(hubbub.Unavailable, match="HTTP 404"):
            async with hubbub.connect(url, token="x", connect_timeout_s=0.5):
                pass
        nursery.cancel_scope.cancel()
