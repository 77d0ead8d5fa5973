"""HTTP/1.1 against Node's server: connections are used again, and what is unsure is said to be so."""

import trio
import trio.testing

from server.providers.dialing import split_url
from server.providers.exchange import NotProcessed, OutcomeUnknown
from server.providers.limits import Limits
from tests.providers.peers import NODE_MARKS
from tests.providers.test_h2_connection import Results, open_pool

pytestmark = NODE_MARKS


async def test_requests_in_turn_share_a_connection() -> None:
    """A TLS handshake costs more than a request."""
    async with open_pool(alpn_http1=True, http1=True, log=True) as (pool, node):
        results = Results(pool)
        for number in range(20):
            await results.send(str(number), b"x" * number)
        heard = [await node.heard() for _ in range(20)]
        assert len({line["session"] for line in heard}) == 1
        assert [len(line["body"]) for line in heard] == list(range(20))
        assert results.statuses == {200: 20}


async def test_connections_are_as_many_as_allowed_and_the_rest_waits() -> None:
    """One request at a time on each."""
    limits = Limits(max_http1_connections=3)
    async with open_pool(
        limits, alpn_http1=True, http1=True, log=True, orders={"*": {"gate": True}, "0": {}}
    ) as (
        pool,
        node,
    ):
        results = Results(pool)
        await results.send("0")  # now it is known what the peer speaks
        await node.heard()
        async with trio.open_nursery() as nursery:
            for number in range(1, 10):
                nursery.start_soon(results.send, str(number))
            sessions = set()
            for _ in range(3):
                sessions |= {(await node.heard())["session"] for _ in range(3)}
                await trio.testing.wait_all_tasks_blocked(0.02)
                await node.tell(open=True)
        assert len(sessions) == 3
        assert results.statuses == {200: 10}


async def test_a_connection_that_the_peer_closed_is_not_used() -> None:
    """It is seen before anything is written, so nothing becomes unknown."""
    async with open_pool(alpn_http1=True, http1=True, orders={"bye": {"hang_up": True}}) as (pool, _):
        results = Results(pool)
        for number in range(10):
            await results.send("bye")
            await trio.testing.wait_all_tasks_blocked(0.02)
            await results.send(str(number))
        assert results.statuses == {200: 11}


async def test_no_answer_is_unknown_and_costs_the_connection() -> None:
    """HTTP/1.1 cannot say that a request was not processed."""
    orders = {"lost": {"destroy": True}, "slow": {"stall": True}}
    async with open_pool(Limits(request_timeout_s=0.3), alpn_http1=True, http1=True, orders=orders) as (
        pool,
        _,
    ):
        results = Results(pool)
        for name in ("lost", "slow", "good"):
            await results.send(name)
        assert results.failed("lost") == (OutcomeUnknown, "connection_lost")
        assert results.failed("slow") == (OutcomeUnknown, "timeout")
        assert results.statuses == {200: 1}


async def test_a_cancelled_request_leaves_the_others() -> None:
    """Its connection is closed, as the answer would be taken for another one's."""
    async with open_pool(alpn_http1=True, http1=True, orders={"*": {"gate": True}}, log=True) as (pool, node):
        results = Results(pool)
        scope = trio.CancelScope()

        async def give_up() -> None:
            with scope:
                await results.send("left")

        async with trio.open_nursery() as nursery:
            nursery.start_soon(give_up)
            await node.heard()
            nursery.start_soon(results.send, "stays")
            await node.heard()
            scope.cancel()
            await trio.testing.wait_all_tasks_blocked(0.01)
            await node.tell(open=True)
        assert results.statuses == {200: 1}
        assert "left" not in results.of


async def test_a_header_with_a_line_break_is_not_sent() -> None:
    """It would become a header of its own, or a request."""
    async with open_pool(alpn_http1=True, http1=True) as (pool, _):
        results = Results(pool)
        await results.send("a b\r\nx: y")
        assert results.failed("a b\r\nx: y") == (NotProcessed, "bad_request")


async def test_an_idle_connection_is_closed() -> None:
    """Before the peer does, so that no request meets a closing connection."""
    async with open_pool(Limits(http1_idle_close_s=0.1), alpn_http1=True, http1=True) as (pool, _):
        results = Results(pool)
        await results.send("1")
        assert pool.connection_count == 1
        with trio.fail_after(5):
            while pool.connection_count:
                await trio.testing.wait_all_tasks_blocked(0.05)
        await results.send("2")
        assert results.statuses == {200: 2}


def test_origins_are_told_apart_by_scheme_and_port() -> None:
    """Connections are never shared across them."""
    assert split_url("https://x/a")[0] == split_url("https://x:443/b")[0] != split_url("http://x/a")[0]
