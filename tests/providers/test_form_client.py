"""The form client tells apart what was not sent, what got no answer, and what was answered."""

from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any, Protocol

import pytest
import trio

from server.providers.form_client import (
    IDLE_LIMIT_S,
    FormClient,
    NotSent,
    Unanswered,
    judge_failure,
    retry_after_s,
)
from server.providers.reach import ANYWHERE
from tests.providers.certificates import Authority
from tests.providers.http_peer import Asked, answer, open_http_peer, raw, stall
from tests.providers.outgoing import NOW_MS


class MakeClient(Protocol):
    def __call__(self, base_url: str, **options: Any) -> FormClient: ...


@pytest.fixture
async def make_client() -> AsyncIterator[MakeClient]:
    """Make clients that are closed when the test ends."""
    made: list[FormClient] = []

    def make(base_url: str, **options: Any) -> FormClient:
        made.append(FormClient(base_url, reach=ANYWHERE, **options))
        return made[-1]

    yield make
    for client in made:
        await client.aclose()


async def test_one_connection_serves_many_requests_by_turns(make_client: MakeClient) -> None:
    """A provider's rate depends on not connecting for each message."""
    async with open_http_peer() as peer:
        client = make_client(f"http://127.0.0.1:{peer.port}/base/")
        with trio.fail_after(5):
            for number in range(5):
                got = await client.post(f"/x?n={number}", b"a=1", [("Authorization", "Basic eA==")])
                assert (got.status, got.body) == (201, b'{"sid": "SM1", "status": "queued"}')
        assert peer.connections == 1
        assert [asked.target for asked in peer.asked] == [f"/base/x?n={number}" for number in range(5)]
        headers = peer.asked[0].headers
        assert headers["host"] == f"127.0.0.1:{peer.port}"
        assert headers["content-type"] == "application/x-www-form-urlencoded"
        assert headers["authorization"] == "Basic eA=="


async def test_no_more_connections_than_allowed(make_client: MakeClient) -> None:
    """The operator bounds what a provider sees."""
    async with open_http_peer() as peer, trio.open_nursery() as nursery:
        client = make_client(f"http://127.0.0.1:{peer.port}", connections=3)
        for _ in range(20):
            nursery.start_soon(client.post, "/", b"")
        with trio.fail_after(5):
            while len(peer.asked) < 20:
                await trio.lowlevel.checkpoint()
        assert 1 <= peer.connections <= 3


async def test_nobody_there_is_not_sent(make_client: MakeClient) -> None:
    """A refused connection is safe to try again."""
    listener = (await trio.open_tcp_listeners(0, host="127.0.0.1"))[0]
    port = listener.socket.getsockname()[1]
    await listener.aclose()
    with pytest.raises(NotSent) as caught:
        await make_client(f"http://127.0.0.1:{port}").post("/", b"")
    assert caught.value.code == "connect"
    outcome = judge_failure(caught.value)
    assert (outcome.kind, outcome.action, outcome.scope) == ("refused", "retry", "provider")


async def test_silence_after_the_request_is_unknown(make_client: MakeClient) -> None:
    """The message may have been made: only the type's policy may send it again."""
    async with open_http_peer() as peer:
        peer.script.append(stall)
        client = make_client(f"http://127.0.0.1:{peer.port}", request_timeout_s=0.2)
        with trio.fail_after(5), pytest.raises(Unanswered) as caught:
            await client.post("/", b"a=1")
        assert caught.value.code == "timeout"
        assert judge_failure(caught.value).kind == "unknown"
        assert (await client.post("/", b"")).status == 201
        assert peer.connections == 2  # the stalled one is not used again


@pytest.mark.parametrize(
    ("data", "code"),
    [
        (b"", "lost"),
        (b"HTTP/1.1 201 Created\r\nContent-Le", "lost"),
        (b"HTTP/1.1 201 Created\r\nContent-Length: 50\r\n\r\nhalf", "lost"),
        (b"SSH-2.0-OpenSSH\r\n\r\n", "bad_answer"),
    ],
)
async def test_a_broken_answer_is_unknown(data: bytes, code: str, make_client: MakeClient) -> None:
    """What was cut off may have been a yes."""
    async with open_http_peer() as peer:
        peer.script.append(raw(data))
        client = make_client(f"http://127.0.0.1:{peer.port}")
        with trio.fail_after(5), pytest.raises(Unanswered) as caught:
            await client.post("/", b"a=1")
        assert caught.value.code == code


async def test_a_connection_closed_while_idle_is_not_used(make_client: MakeClient) -> None:
    """Otherwise each quiet spell would end with an unknown outcome."""
    async with open_http_peer() as peer:
        peer.script.append(answer(201))

        async def hang_up(stream: trio.abc.Stream, asked: Asked) -> bool:
            await answer(201)(stream, asked)
            return False

        peer.script[0] = hang_up
        client = make_client(f"http://127.0.0.1:{peer.port}")
        with trio.fail_after(5):
            await client.post("/", b"")
            await peer.closed[0].wait()
            assert (await client.post("/", b"")).status == 201
        assert peer.connections == 2


async def test_connection_close_and_old_answers_are_obeyed(make_client: MakeClient) -> None:
    """Some servers close after each answer, and say so or do not frame it otherwise."""
    async with open_http_peer() as peer:
        peer.script.extend(
            [answer(200, b"{}", "Connection: close"), raw(b"HTTP/1.0 200 OK\r\n\r\nto the end"), answer(204)]
        )
        client = make_client(f"http://127.0.0.1:{peer.port}")
        with trio.fail_after(5):
            assert (await client.post("/", b"")).status == 200
            assert (await client.post("/", b"")).body == b"to the end"
            assert (await client.post("/", b"")).status == 204
        assert peer.connections == 3


async def test_an_old_connection_is_left(make_client: MakeClient) -> None:
    """Load balancers drop idle connections without a word; ours are younger than that."""
    async with open_http_peer() as peer:
        client = make_client(f"http://127.0.0.1:{peer.port}")
        await client.post("/", b"")
        client._idle[0].idle_since -= IDLE_LIMIT_S + 1
        with trio.fail_after(5):
            await client.post("/", b"")
            await peer.closed[0].wait()
        assert peer.connections == 2


async def test_a_cancelled_call_costs_one_connection_and_no_other_call(make_client: MakeClient) -> None:
    """Channels cancel at drain; a neighbour's message must not become unknown by it."""
    async with open_http_peer() as peer:
        peer.script.append(stall)
        client = make_client(f"http://127.0.0.1:{peer.port}")
        async with trio.open_nursery() as nursery:
            with trio.fail_after(5):
                nursery.start_soon(client.post, "/stalled", b"")
                await peer.got_one.wait()
                assert (await client.post("/", b"")).status == 201
                nursery.cancel_scope.cancel()
        with trio.fail_after(5):
            await peer.closed[0].wait()
            assert (await client.post("/", b"")).status == 201
        assert peer.connections == 2


async def test_closing_ends_calls_under_way_as_unknown(make_client: MakeClient) -> None:
    """At shutdown each attempt still gets its outcome written down."""
    async with open_http_peer() as peer:
        peer.script.append(stall)
        client = make_client(f"http://127.0.0.1:{peer.port}")
        codes: list[str] = []

        async def call() -> None:
            try:
                await client.post("/", b"")
            except Unanswered as exc:
                codes.append(exc.code)

        with trio.fail_after(5):
            async with trio.open_nursery() as nursery:
                nursery.start_soon(call)
                await peer.got_one.wait()
                await client.aclose()
        assert codes == ["lost"]
        with pytest.raises(NotSent) as caught:
            await client.post("/", b"")
        assert caught.value.code == "closed"


async def test_waiting_too_long_for_a_connection_is_not_sent(make_client: MakeClient) -> None:
    """A stuck provider must not keep a worker for ever."""
    async with open_http_peer() as peer, trio.open_nursery() as nursery:
        peer.script.append(stall)
        client = make_client(f"http://127.0.0.1:{peer.port}", connections=1, connect_timeout_s=0.2)
        nursery.start_soon(client.post, "/", b"")
        with trio.fail_after(5):
            await peer.got_one.wait()
            with pytest.raises(NotSent) as caught:
                await client.post("/", b"")
        assert caught.value.code == "busy"
        nursery.cancel_scope.cancel()


async def test_an_endless_answer_is_cut(make_client: MakeClient) -> None:
    """A provider cannot fill our memory."""
    async with open_http_peer() as peer:
        peer.script.append(answer(200, b"x" * (2 << 20)))
        with trio.fail_after(5), pytest.raises(Unanswered) as caught:
            await make_client(f"http://127.0.0.1:{peer.port}").post("/", b"")
        assert caught.value.code == "bad_answer"


async def test_tls_is_verified_by_the_given_authority_alone(tmp_path: Path, make_client: MakeClient) -> None:
    """Credentials go to nobody who cannot prove the host's name; a wrong certificate opens the breaker."""
    authority, stranger = Authority(), Authority()
    async with open_http_peer(authority.server_context(tmp_path)) as peer:
        url = f"https://127.0.0.1:{peer.port}"
        client = make_client(url, ca_pem=authority.pem)
        with trio.fail_after(5):
            assert (await client.post("/", b"")).status == 201
            assert (await client.post("/", b"")).status == 201
            assert peer.connections == 1
            with pytest.raises(NotSent) as caught:
                await make_client(url, ca_pem=stranger.pem).post("/", b"")
        assert caught.value.code == "tls"
        outcome = judge_failure(caught.value)
        assert (outcome.action, outcome.scope) == ("break", "credential")
        await client.aclose()


@pytest.mark.parametrize("url", ["ftp://a", "http://", "//a", "https://a/?q=1", "https://user@a"])
def test_other_addresses_are_refused(url: str) -> None:
    """An operator hears of a typo at once."""
    with pytest.raises(ValueError):
        FormClient(url)


@pytest.mark.parametrize(
    ("value", "wait_s"),
    [
        ("120", 120.0),
        ("0", 0.0),
        ("999999999", 86_400.0),
        ("", None),
        ("soon", None),
        ("-5", None),
        ("Mon, 21 Sep 2026 14:13:50 GMT", 30.0),
        ("Mon, 21 Sep 2026 14:13:00 GMT", 0.0),
    ],
)
def test_retry_after_is_seconds_or_a_date(value: str, wait_s: float | None) -> None:
    """RFC 9110 section 10.2.3 allows both, and a date may have passed."""
    assert retry_after_s({"retry-after": value}, NOW_MS) == wait_s
    assert retry_after_s({}, NOW_MS) is None
