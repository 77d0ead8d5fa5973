"""A client whose node dies, freezes or stops: it goes on at another one, and nothing is lost or doubled."""

from collections.abc import Callable, Sequence
from pathlib import Path

import pytest
import trio

import hubbub
from hubbub import connection
from protocol import commands as c
from protocol import events as e
from protocol import replies as r
from protocol.commands import Command
from protocol.errors import CloseCode
from protocol.replies import Reply
from tests.hubbub.peer import Hangup, HangupWithCode, Outgoing, Peer, PeerSession, open_cluster, open_peer
from tests.nodes import free_port, running_node

FAST = hubbub.Backoff(first_delay_s=0.001, max_delay_s=0.01, spread_s=0.01)
# A pause between rounds that no test waits for: whoever gets on did so without one.
NO_SECOND_ROUND = hubbub.Backoff(first_delay_s=1000, max_delay_s=1000, spread_s=0)


@pytest.fixture
def quick_probes(monkeypatch: pytest.MonkeyPatch) -> None:
    """The same rules, in fractions of a second."""
    monkeypatch.setattr(connection, "PROBE_AFTER_S", 0.1)
    monkeypatch.setattr(connection, "PROBE_ANSWER_S", 0.2)
    monkeypatch.setattr(connection, "READ_ON_S", 0.05)
    monkeypatch.setattr(connection, "FROZEN_AFTER_S", 0.3)


async def wait_until(condition: Callable[[], bool]) -> None:
    """Let other tasks run until the condition holds; the test's own deadline ends it otherwise."""
    while not condition():  # noqa: ASYNC110 - it happens on both ends of real sockets, not in one place
        await trio.sleep(0.001)


def urls(peers: Sequence[Peer], transport: str) -> list[str]:
    return [peer.tcp_url if transport == "tcp" else peer.ws_url for peer in peers]


def home_of(client: hubbub.Client, peers: Sequence[Peer]) -> Peer:
    return next(peer for peer in peers if peer.node_id == client.welcome.node_id)


@pytest.mark.parametrize("transport", ["tcp", "ws"])
async def test_a_dead_node_is_left_for_one_that_welcome_named(transport: str) -> None:
    """Its address was never configured; cursors and the unacked send go along, under the same client_id."""
    async with open_cluster(3) as peers:
        first = peers[0]

        def die(_s: PeerSession, command: Command, reply: Reply) -> Sequence[Outgoing]:
            if isinstance(command, c.Send) and command.text == "two":
                first.die()  # stored, but the ack never leaves
                raise Hangup
            return (reply,)

        with trio.fail_after(10):
            async with hubbub.connect(urls(peers, transport)[0], token="token-ann", backoff=FAST) as client:
                events = client.events()
                await client.send("room", "one")
                assert getattr(await anext(events), "text", "") == "one"
                first.on_reply = die
                sent = await client.send("room", "two")
                assert (sent.seq, sent.duplicate) == (2, True)
                assert getattr(await anext(events), "text", "") == "two"
                home = home_of(client, peers)
        assert home is not first
        assert home.hellos[-1].cursors == {"room": 0}  # the first event was still in hand
        texts = [getattr(event, "text", "") for event in home.conversations["room"]]
        assert texts == ["one", "two"]


@pytest.mark.parametrize("code", [CloseCode.MOVED, CloseCode.DRAINING, CloseCode.OVERLOADED])
@pytest.mark.parametrize("transport", ["tcp", "ws"])
async def test_a_node_that_closes_because_it_goes_is_left(transport: str, code: CloseCode) -> None:
    """A rolling upgrade, and a node that sheds load."""
    async with open_cluster(2) as peers:
        with trio.fail_after(10):
            async with hubbub.connect(urls(peers, transport)[0], token="token-ann", backoff=FAST) as client:

                def close(_s: PeerSession, command: Command) -> Reply | None:
                    if isinstance(command, c.Send):
                        raise HangupWithCode(code)
                    return None

                peers[0].on_command = close
                await client.send("room", "x")
                assert home_of(client, peers) is peers[1]
        assert len(peers[0].hellos) == 1


async def test_a_draining_node_that_names_nobody_is_left_for_those_that_welcome_named() -> None:
    """What was known before still holds."""
    async with open_cluster(2) as peers:
        with trio.fail_after(10):
            async with hubbub.connect(peers[0].ws_url, token="token-ann", backoff=FAST) as client:
                await peers[0].tell(e.Reconnect(within_s=0.01, reason="draining"))
                await wait_until(lambda: bool(peers[1].hellos))
                assert (await client.send("room", "x")).seq == 1


async def test_every_address_is_tried_at_once_before_the_first_pause() -> None:
    """A client that starts while some nodes are down is connected within a moment."""
    async with open_peer() as peer:
        dead = [f"hubbub://127.0.0.1:{free_port()}" for _ in range(3)]
        with trio.fail_after(10):
            async with hubbub.connect(
                [*dead, peer.tcp_url], token="token-ann", backoff=NO_SECOND_ROUND
            ) as client:
                assert client.user_id == "ann"
            async with hubbub.connect(
                ",".join([peer.tcp_url, *dead]), token="token-ann", backoff=NO_SECOND_ROUND
            ) as client:
                assert client.user_id == "ann"


async def test_a_node_that_is_full_or_drains_sends_a_newcomer_to_the_next_one() -> None:
    """Its wish to be left alone does not hold up those who have another choice."""
    async with open_cluster(2) as peers:
        peers[0].on_command = lambda _s, command: (
            r.Error(id=command.id, code="overloaded", retry_after_s=1000.0)
            if isinstance(command, c.Hello)
            else None
        )
        with trio.fail_after(10):
            async with hubbub.connect(
                urls(peers, "ws"), token="token-ann", backoff=NO_SECOND_ROUND
            ) as client:
                assert home_of(client, peers) is peers[1]


@pytest.mark.parametrize("transport", ["tcp", "ws"])
async def test_a_node_that_accepts_and_says_nothing_counts_as_down(
    transport: str, quick_probes: None
) -> None:
    """A frozen process still has a kernel that accepts for it."""

    async def say_nothing(stream: trio.SocketStream) -> None:
        await trio.sleep_forever()

    async with open_peer() as peer, trio.open_nursery() as nursery:
        listeners: list[trio.SocketListener] = await nursery.start(trio.serve_tcp, say_nothing, 0)
        scheme = "hubbub" if transport == "tcp" else "ws"
        frozen = f"{scheme}://127.0.0.1:{listeners[0].socket.getsockname()[1]}"
        with trio.fail_after(10):
            for _ in range(4):  # whichever of the two is taken first
                async with hubbub.connect(
                    [frozen, *urls([peer], transport)], token="token-ann", backoff=NO_SECOND_ROUND
                ) as client:
                    assert client.user_id == "ann"
        nursery.cancel_scope.cancel()


async def test_a_node_that_freezes_with_a_send_under_way_is_left_long_before_the_next_heartbeat(
    quick_probes: None,
) -> None:
    """The message is stored by another node, once, and the person does not wait for a minute."""
    async with open_cluster(2) as peers:
        for peer in peers:
            peer.heartbeat_interval_s = 1000.0
        frozen: list[object] = []

        def freeze(_s: PeerSession, command: Command, reply: Reply) -> Sequence[Outgoing]:
            if isinstance(command, c.Send):
                frozen.append(command)
            return () if frozen else (reply,)

        peers[0].on_reply = freeze
        peers[0].on_live = lambda _s, event: () if frozen else (event,)
        with trio.fail_after(10):
            async with hubbub.connect(peers[0].tcp_url, token="token-ann", backoff=FAST) as client:
                sent = await client.send("room", "x")
                assert (sent.seq, sent.duplicate) == (1, True)
                assert home_of(client, peers) is peers[1]


async def test_a_slow_command_on_a_node_that_answers_is_waited_for(quick_probes: None) -> None:
    """A long query, or a conversation that moves: the node is well, and is not left."""
    async with open_cluster(2) as peers:
        for peer in peers:
            peer.heartbeat_interval_s = 1000.0
        held: list[c.Send] = []

        def hold(_s: PeerSession, command: Command, reply: Reply) -> Sequence[Outgoing]:
            if isinstance(command, c.Send):
                held.append(command)
                return ()
            return (reply,)

        peers[0].on_reply = hold
        with trio.fail_after(10):
            async with hubbub.connect(peers[0].tcp_url, token="token-ann", backoff=FAST) as client:
                ticket = await client.start_send("room", "x")
                await wait_until(
                    lambda: sum(isinstance(command, c.Heartbeat) for command in peers[0].commands) >= 4
                )
                [session] = peers[0].sessions
                await session.write(r.Sent(id=held[0].id, conversation_id="room", seq=1, at_ms=1))
                assert (await ticket.wait()).seq == 1
        assert len(peers[0].hellos) == 1
        assert not peers[1].hellos


async def test_an_idle_client_leaves_a_frozen_node_at_its_next_heartbeat(quick_probes: None) -> None:
    """A bot that only listens would be deaf for ever."""
    async with open_cluster(2) as peers:
        peers[0].on_command = lambda _s, command: None
        with trio.fail_after(10):
            async with hubbub.connect(peers[0].tcp_url, token="token-ann", backoff=FAST) as client:
                events = client.events()
                peers[0].gates[c.Heartbeat] = trio.Event()
                await wait_until(lambda: bool(peers[1].hellos))
                await peers[1].post("room", "heard again")
                async for event in events:
                    if isinstance(event, e.MessagePosted):
                        break
                assert home_of(client, peers) is peers[1]


async def test_with_all_nodes_gone_the_configured_address_is_the_way_back() -> None:
    """After an outage of everything, or a move to new addresses behind the same name."""
    async with open_cluster(2) as peers:
        port = int(peers[0].tcp_url.rpartition(":")[2])
        with trio.fail_after(20):
            async with hubbub.connect(peers[0].tcp_url, token="token-ann", backoff=FAST) as client:
                for peer in peers:
                    peer.die()
                await wait_until(lambda: not client.is_connected)
                async with trio.open_nursery() as nursery:
                    back = Peer()
                    back.conversations = peers[0].conversations
                    nursery.start_soon(trio.serve_tcp, back.handle_tcp, port)
                    assert (await client.send("room", "x")).seq == 1
                    nursery.cancel_scope.cancel()


@pytest.mark.parametrize("is_send", [True, False])
async def test_a_caller_gets_the_last_refusal_once_its_patience_is_over(is_send: bool) -> None:
    """Programs that would rather tell a person than wait."""
    async with open_peer() as peer:
        peer.on_command = lambda _s, command: (
            r.Error(id=command.id, code="moved", retry_after_s=0.01)
            if isinstance(command, (c.Send, c.GetConversation))
            else None
        )

        async def ask(client: hubbub.Client) -> str:
            asked = client.send("room", "x") if is_send else client.get_conversation("room")
            with pytest.raises(hubbub.Unavailable) as given_up:
                await asked
            return given_up.value.code

        with trio.fail_after(10):
            async with hubbub.connect(peer.tcp_url, token="token-ann", give_up_after_s=0.3) as client:
                started = trio.current_time()
                assert await ask(client) == "moved"
                assert trio.current_time() - started >= 0.3
                peer.die()
                await wait_until(lambda: not client.is_connected)
                assert await ask(client) == "timeout"


async def test_a_real_node_that_stops_answering_is_left_and_accounts_find_the_one_that_lives(
    tmp_path: Path, quick_probes: None
) -> None:
    """SIGSTOP: what a stalled machine looks like from outside."""
    with running_node(tmp_path) as node:
        dead = f"http://127.0.0.1:{free_port()}"
        async with open_peer() as other:
            with trio.fail_after(60):
                async with hubbub.Accounts(f"{dead},{node.url}") as accounts:
                    login = await accounts.sign_up("ann", "a good long password")
                    assert (await accounts.me()).user.username == "ann"
                    file = await accounts.upload(b"hello", name="a.txt")
                    assert await accounts.download(file.file_id) == b"hello"
                other.users[login.token] = login.user
                async with hubbub.connect(
                    [node.url, dead], token=login.token, focus=[], backoff=FAST
                ) as client:
                    await node_is_told(client, other)
                    node.freeze()
                    try:
                        assert (await client.send("room", "x")).seq == 1
                    finally:
                        node.thaw()
                    assert client.welcome.server == "peer"


async def node_is_told(client: hubbub.Client, other: Peer) -> None:
    """As if this single node had named the other one in its welcome."""
    client._connection._nodes.learn([other.as_node()])
    await trio.lowlevel.checkpoint()
