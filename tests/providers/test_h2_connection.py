"""Our HTTP/2 driver against Node's server: who may be tried again, and that one bad stream harms no other."""

from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import trio
import trio.testing

from server.providers.connection_pool import ConnectionPool
from server.providers.dialing import split_url
from server.providers.exchange import NotProcessed, OutcomeUnknown, Request, RequestFailed, Response
from server.providers.limits import Limits
from server.providers.push_pools import H2_ONLY, H2_OR_HTTP1, open_push_pools
from server.providers.reach import ANYWHERE
from tests.providers.peers import NODE_MARKS, Node, certificates, open_node

pytestmark = NODE_MARKS
REFUSED_STREAM, INTERNAL_ERROR = 7, 2


@asynccontextmanager
async def open_pool(
    limits: Limits | None = None, *, alpn_http1: bool = False, **config: Any
) -> AsyncIterator[tuple[ConnectionPool, Node]]:
    """Run a peer, and a pool that leads to it."""
    alpn = H2_OR_HTTP1 if alpn_http1 else H2_ONLY
    with trio.fail_after(30):
        async with open_node(**config) as node, open_push_pools(limits or Limits(), ANYWHERE) as pools:
            origin, _ = split_url(node.url)
            yield pools.pool(origin, ca_pem=certificates().ca, alpn=alpn), node


class Results:
    """What became of requests that run side by side."""

    def __init__(self, pool: ConnectionPool) -> None:
        self.pool = pool
        self.of: dict[str, Response | RequestFailed] = {}

    async def send(self, name: str, body: bytes = b"{}", timeout_s: float | None = None) -> None:
        """Send one to /name, and keep its result under that name."""
        length = (b"content-length", b"%d" % len(body))
        request = Request(b"/" + name.encode(), ((b"x-shared", b"1"),), (length,), body)
        try:
            self.of[name] = await self.pool.request(request, timeout_s)
        except RequestFailed as failure:
            self.of[name] = failure

    def failed(self, name: str) -> tuple[type[RequestFailed], str]:
        """Tell how one failed."""
        failure = self.of[name]
        assert isinstance(failure, RequestFailed)
        return type(failure), failure.code

    @property
    def statuses(self) -> Counter[int]:
        """Count the answers."""
        return Counter(result.status for result in self.of.values() if isinstance(result, Response))


async def test_many_share_one_connection() -> None:
    """APNs wants few connections; a peer's limit of streams is kept, and the rest waits for its turn."""
    limits = Limits(max_connections=1)
    async with open_pool(limits, settings={"maxConcurrentStreams": 7}, log=True) as (pool, node):
        results = Results(pool)
        async with trio.open_nursery() as nursery:
            for number in range(300):
                nursery.start_soon(results.send, str(number))
        assert results.statuses == {200: 300}
        assert {(await node.heard())["session"] for _ in range(300)} == {0}


async def test_a_second_connection_is_opened_where_one_is_full() -> None:
    """And no third where two do."""
    limits = Limits(max_connections=2)
    gate = {"gate": True}
    async with open_pool(limits, settings={"maxConcurrentStreams": 2}, orders={"*": gate}, log=True) as (
        pool,
        node,
    ):
        results = Results(pool)
        async with trio.open_nursery() as nursery:
            for number in range(4):
                nursery.start_soon(results.send, str(number))
            sessions = [(await node.heard())["session"] for _ in range(4)]
            await node.tell(open=True)
        assert Counter(sessions) == {0: 2, 1: 2}
        assert results.statuses == {200: 4}


async def test_bodies_wait_for_the_peers_window() -> None:
    """The library raises where a window is full; 100 bodies of 3 KB through one of 1,000 bytes."""
    async with open_pool(settings={"initialWindowSize": 1_000}, log=True) as (pool, node):
        results = Results(pool)
        async with trio.open_nursery() as nursery:
            for number in range(100):
                nursery.start_soon(results.send, str(number), b"%03d" % number * 1_000)
        assert results.statuses == {200: 100}
        bodies = {line["headers"][":path"]: line["body"] for line in [await node.heard() for _ in range(100)]}
        assert bodies == {f"/{number}": b"%03d" % number * 1_000 for number in range(100)}


async def test_one_cancelled_of_a_hundred_leaves_the_others() -> None:
    """A caller that gives up resets its stream, and only that."""
    async with open_pool(orders={"*": {"gate": True}, "again": {}}, log=True) as (pool, node):
        results = Results(pool)
        scope = trio.CancelScope()

        async def give_up() -> None:
            with scope:
                await results.send("50")

        async with trio.open_nursery() as nursery:
            for number in range(100):
                if number == 50:
                    nursery.start_soon(give_up)
                else:
                    nursery.start_soon(results.send, str(number))
            for _ in range(100):
                await node.heard()
            scope.cancel()
            closed = await node.heard("closed")
            assert (closed["closed"], closed["code"]) == ("/50", 8)  # CANCEL
            await node.tell(open=True)
        assert results.statuses == {200: 99}
        assert "50" not in results.of
        await results.send("again")
        assert pool.connection_count == 1


async def test_a_reset_stream_is_unknown_and_a_refused_one_was_not_processed() -> None:
    """RFC 9113, 8.7: REFUSED_STREAM alone says that nothing was done."""
    orders = {"bad": {"rst": INTERNAL_ERROR}, "full": {"rst": REFUSED_STREAM}}
    async with open_pool(orders=orders) as (pool, _):
        results = Results(pool)
        async with trio.open_nursery() as nursery:
            for name in ("good", "bad", "full", "well"):
                nursery.start_soon(results.send, name)
        assert results.failed("bad") == (OutcomeUnknown, "stream_reset")
        assert results.failed("full") == (NotProcessed, "refused_stream")
        assert results.statuses == {200: 2}
        assert pool.connection_count == 1


async def test_goaway_lets_older_streams_finish_and_frees_newer_ones() -> None:
    """6.8: above the last stream id nothing was processed; below it the answers still come."""
    async with open_pool(orders={"*": {"gate": True}, "fresh": {}}, log=True) as (pool, node):
        results = Results(pool)
        async with trio.open_nursery() as nursery:
            for name in ("1", "3", "5", "7"):  # their stream ids, as each begins after the other was heard
                nursery.start_soon(results.send, name)
                await node.heard()
            await node.tell(goaway={"last": 3, "words": '{"reason":"Shutdown"}'})
            with trio.fail_after(5):
                while len(results.of) < 2:
                    await trio.testing.wait_all_tasks_blocked(0.01)
            assert results.failed("5") == results.failed("7") == (NotProcessed, "goaway")
            assert isinstance(results.of["5"], NotProcessed)
            assert "Shutdown" in results.of["5"].detail
            await results.send("fresh")  # by a connection of its own
            assert (await node.heard())["session"] == 1
            await node.tell(open=True)
        assert results.statuses == {200: 3}


async def test_a_lost_connection_is_unknown_and_replaced() -> None:
    """What had left may have arrived. The next request gets a new connection without a pause."""
    async with open_pool(orders={"last": {"destroy": True}, "*": {"stall": True}, "fresh": {}}, log=True) as (
        pool,
        node,
    ):
        results = Results(pool)
        async with trio.open_nursery() as nursery:
            for number in range(10):
                nursery.start_soon(results.send, str(number))
                await node.heard()
            nursery.start_soon(results.send, "last")
        assert {results.failed(name) for name in results.of} == {(OutcomeUnknown, "connection_lost")}
        assert len(results.of) == 11
        await results.send("fresh")
        assert results.statuses == {200: 1}


async def test_a_slow_answer_times_out_alone() -> None:
    """The peer lives, so its connection stays in use."""
    orders = {"slow": {"stall": True}, "*": {"delay_ms": 20}}
    async with open_pool(Limits(request_timeout_s=0.4), orders=orders) as (pool, _):
        results = Results(pool)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(results.send, "slow")
            await trio.testing.wait_all_tasks_blocked(0.01)
            for number in range(20):
                nursery.start_soon(results.send, str(number))
        assert results.failed("slow") == (OutcomeUnknown, "timeout")
        assert results.statuses == {200: 20}
        assert pool.connection_count == 1


async def test_a_silent_peer_is_given_up_on() -> None:
    """It acknowledges no ping: all in flight is unknown, long before each request's own timeout."""
    limits = Limits(ping_after_s=0.2, ping_timeout_s=0.2)
    async with open_pool(limits, orders={"*": {"stall": True}}, log=True) as (pool, node):
        results = Results(pool)
        async with trio.open_nursery() as nursery:
            for number in range(5):
                nursery.start_soon(results.send, str(number))
                await node.heard()
            node.freeze()
        assert {results.failed(name) for name in results.of} == {(OutcomeUnknown, "stalled")}
        assert pool.connection_count == 0


async def test_a_live_peer_answers_pings() -> None:
    """A slow answer behind a live connection is waited for."""
    limits = Limits(ping_after_s=0.1, ping_timeout_s=0.2)
    async with open_pool(limits, orders={"*": {"gate": True}}, log=True) as (pool, node):
        results = Results(pool)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(results.send, "slow")
            for _ in range(4):
                await node.heard("ping")
            await node.tell(open=True)
        assert results.statuses == {200: 1}


async def test_a_body_that_never_left_in_full_was_not_processed_and_holds_up_nobody() -> None:
    """One stream's window stays shut. Later ones go past it, and that one may be sent again."""
    orders = {"stuck": {"unread": True}}
    async with open_pool(
        Limits(request_timeout_s=1.0), orders=orders, settings={"initialWindowSize": 10}
    ) as (
        pool,
        _,
    ):
        results = Results(pool)
        await results.send("first", b"12345")  # by now the peer's window is known
        async with trio.open_nursery() as nursery:
            nursery.start_soon(results.send, "stuck", b"x" * 5_000)
            await trio.testing.wait_all_tasks_blocked(0.05)
            await results.send("past", b"y" * 5_000)
            assert "stuck" not in results.of
        assert results.failed("stuck") == (NotProcessed, "no_room")
        assert results.statuses == {200: 2}
        assert pool.connection_count == 1


async def test_an_answer_before_the_body_is_an_answer() -> None:
    """A 413 comes so: the rest of the body is of no interest any more."""
    async with open_pool(orders={"big": {"early": 413}}, settings={"initialWindowSize": 10}) as (pool, _):
        results = Results(pool)
        await results.send("big", b"x" * 50_000)
        await results.send("small", b"x")
        assert results.statuses == {413: 1, 200: 1}
        assert pool.connection_count == 1


async def test_a_huge_answer_is_cut() -> None:
    """Push hosts are anybody's; none fills our memory, and the connection stays in use."""
    async with open_pool(Limits(max_response_bytes=100), orders={"big": {"fill": 300_000}}) as (
        pool,
        _,
    ):
        results = Results(pool)
        await results.send("big")
        await results.send("small")
        big = results.of["big"]
        assert isinstance(big, Response)
        assert (big.status, big.body) == (200, b"x" * 100)
        assert results.statuses == {200: 2}
        assert pool.connection_count == 1


async def test_an_idle_connection_is_closed_politely() -> None:
    """With a GOAWAY; the next request opens another one."""
    async with open_pool(Limits(idle_close_s=0.2), log=True) as (pool, node):
        results = Results(pool)
        await results.send("1")
        assert (await node.heard("goaway"))["goaway"] == 0
        await results.send("2")
        assert results.statuses == {200: 2}


async def test_a_peer_that_never_answers_the_handshake_costs_a_timeout() -> None:
    """Then there is a pause, and nobody waits in vain."""
    async with open_pool(Limits(connect_timeout_s=0.2), hold=True) as (pool, _):
        results = Results(pool)
        async with trio.open_nursery() as nursery:
            for number in range(5):
                nursery.start_soon(results.send, str(number))
        await results.send("late")
        assert {results.failed(str(number)) for number in range(5)} == {(NotProcessed, "connect_failed")}
        assert results.failed("late") == (NotProcessed, "backing_off")


async def test_an_unknown_ca_is_not_trusted() -> None:
    """Tokens and texts go to nobody else."""
    async with open_node() as node, open_push_pools(reach=ANYWHERE) as pools:
        results = Results(pools.pool(split_url(node.url)[0], alpn=H2_ONLY))
        await results.send("1")
        assert results.failed("1") == (NotProcessed, "connect_failed")
        assert "CERTIFICATE_VERIFY_FAILED" in str(results.of["1"])


async def test_closing_tells_everyone() -> None:
    """What is in flight becomes unknown; what waits for room was not processed."""
    limits = Limits(max_connections=1, max_streams=1)
    async with open_pool(limits, orders={"*": {"stall": True}}, log=True) as (pool, node):
        results = Results(pool)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(results.send, "0")
            await node.heard()
            nursery.start_soon(results.send, "1")
            await trio.testing.wait_all_tasks_blocked(0.01)
            pool.close()
        await results.send("2")
        assert results.failed("0") == (OutcomeUnknown, "pool_closed")
        assert results.failed("1") == results.failed("2") == (NotProcessed, "pool_closed")
