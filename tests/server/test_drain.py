"""SIGTERM: everybody is told, work in flight is finished, nobody can hold the node up."""

import httpx
import pytest
import trio
import trio.testing

from protocol.codec import Wire
from protocol.commands import Hello, Send
from protocol.errors import CloseCode
from protocol.events import Closing, Reconnect
from protocol.replies import Error, Ok
from protocol.types import NodeInfo
from tests.server.edge import HELLO, TYPING, Bot, browse, dial, open_bot, open_edge

HELD = Send(id=7, conversation_id="held", client_id="m", text="hi")


async def test_clients_are_told_answered_and_closed_with_a_code_that_says_come_again() -> None:
    """A rolling upgrade must look like a blink."""
    nodes = [NodeInfo(node_id="n2", url="http://n2")]
    with trio.fail_after(30):
        async with open_edge() as edge, browse(edge, hello=HELLO) as browser, trio.open_nursery() as nursery:
            bot = await open_bot(edge, "ben")
            await bot.send(HELD)
            await edge.service.until(lambda: bool(edge.service.held))
            drained = trio.Event()

            async def drain() -> None:
                await edge.gateway.drain(within_s=3.0, nodes=nodes)
                drained.set()

            nursery.start_soon(drain)
            hint = Reconnect(within_s=3.0, nodes=nodes, reason="draining")
            assert await browser.receive() == hint
            assert await bot.receive() == hint
            await bot.send(TYPING)  # not read any more: the next node carries it out
            await trio.testing.wait_all_tasks_blocked(0.02)
            assert not drained.is_set()
            edge.service.held[0].resolve(Ok())
            assert await bot.receive() == Ok(id=7)
            assert await bot.close_code() == CloseCode.DRAINING
            assert await browser.close_code() == CloseCode.DRAINING
            await drained.wait()
            assert edge.service.commands == [HELD]
            assert edge.gateway.stats()["connections"] == 0


async def test_no_connection_is_taken_while_draining() -> None:
    """The kernel refuses newcomers, so that their clients try the next node at once."""
    with trio.fail_after(30):
        async with open_edge() as edge:
            waiting = Bot(await dial(edge))  # connected, and has not said hello
            await waiting.send()
            await trio.testing.wait_all_tasks_blocked(0.02)
            await edge.gateway.drain()
            assert await waiting.close_code() == CloseCode.DRAINING
            with pytest.raises(OSError, match=r"refused|connect"):
                await trio.open_tcp_stream("127.0.0.1", edge.port)


async def test_a_hello_that_comes_during_the_drain_is_refused_with_a_retry() -> None:
    """Between the signal and the end there are seconds."""
    with trio.fail_after(30):
        async with open_edge() as edge, trio.open_nursery() as nursery:
            busy = await open_bot(edge, "ben")
            await busy.send(HELD)
            await edge.service.until(lambda: bool(edge.service.held))
            late = Bot(await dial(edge))
            await late.stream.send_all(b"\0\0\0\0")
            await trio.testing.wait_all_tasks_blocked(0.02)
            nursery.start_soon(edge.gateway.drain)
            await busy.receive()
            await late.send(Hello(id=1, token="ann", device_id="d"))
            error, closing = await late.rest()
            assert isinstance(error, Error)
            assert (error.code, error.retry_after_s) == ("draining", 1.0)
            assert isinstance(closing, Closing)
            assert closing.code == CloseCode.DRAINING
            edge.service.held[0].resolve(Ok())


async def test_clients_that_leave_by_themselves_end_the_grace_early() -> None:
    """An orderly fleet drains in a moment, whatever grace was set."""
    with trio.fail_after(30):
        async with open_edge() as edge, trio.open_nursery() as nursery:
            bot = await open_bot(edge)

            async def drain() -> None:
                await edge.gateway.drain(grace_s=60.0, deadline_s=120.0)

            nursery.start_soon(drain)
            assert isinstance(await bot.receive(), Reconnect)
            await bot.stream.aclose()


async def test_an_answer_that_never_comes_does_not_hold_the_drain() -> None:
    """The deadline bounds it; the client sends again elsewhere, by its client_id."""
    with trio.fail_after(30):
        async with open_edge() as edge:
            bot = await open_bot(edge)
            await bot.send(HELD)
            await edge.service.until(lambda: bool(edge.service.held))
            started_at = trio.current_time()
            await edge.gateway.drain(deadline_s=0.3)
            assert 0.3 <= trio.current_time() - started_at < 10.0
            assert await bot.close_code() == CloseCode.DRAINING


async def test_an_http_request_in_flight_is_finished_and_idle_connections_are_closed() -> None:
    """A person's upload must not fail because of an upgrade."""
    with trio.fail_after(30):
        async with open_edge() as edge, httpx.AsyncClient(base_url=f"http://127.0.0.1:{edge.port}") as client:
            assert (await client.get("/")).text == "hello"
            answers: list[str] = []

            async def ask() -> None:
                answers.append((await client.get("/slow")).text)

            async with trio.open_nursery() as nursery:
                nursery.start_soon(ask)
                await edge.app.entered.wait()
                nursery.start_soon(edge.gateway.drain)
                await trio.testing.wait_all_tasks_blocked(0.02)
                edge.app.release.set()
            assert answers == ["hello"]
            assert edge.gateway.stats()["connections"] == 0


async def test_a_stalled_client_of_either_kind_does_not_hold_the_drain() -> None:
    """Hypercorn shields its writes from cancellation; only the end of their socket ends them."""
    with trio.fail_after(30):
        async with open_edge() as edge:
            download = await dial(edge, is_bot=False, receive_buffer_bytes=4096)
            await download.send_all(b"GET /big HTTP/1.1\r\nHost: x\r\n\r\n")
            async with browse(edge, subprotocols=("hubbub.msgpack",), wire=Wire.MSGPACK_WS, hello=HELLO):
                await trio.testing.wait_all_tasks_blocked(0.02)
                await edge.gateway.drain(deadline_s=0.2)
                assert edge.gateway.stats()["connections"] == 0


async def test_cancelling_a_gateway_ends_it_at_once() -> None:
    """A crash elsewhere in the node must not wait for its clients."""
    with trio.fail_after(30):
        async with open_edge() as edge:
            download = await dial(edge, is_bot=False, receive_buffer_bytes=4096)
            await download.send_all(b"GET /big HTTP/1.1\r\nHost: x\r\n\r\n")
            bot = await open_bot(edge)
            await bot.send(HELD)
            await edge.service.until(lambda: bool(edge.service.held))
            started_at = trio.current_time()
        assert trio.current_time() - started_at < 6.0
        assert edge.service.closed_sessions == edge.service.opened


async def test_a_gateway_that_was_ended_can_be_run_again_on_the_same_ports() -> None:
    """The supervisor restarts it after a crash, and clients come back to the address that they know."""
    with trio.fail_after(30):
        async with open_edge() as edge:
            ports = (edge.port, edge.bot_port)
        for _ in range(2):
            async with trio.open_nursery() as nursery:
                await nursery.start(edge.gateway.run)
                assert (edge.port, edge.bot_port) == ports
                bot = await open_bot(edge)
                await bot.send(TYPING)
                assert await bot.receive() == Ok(id=9)
                async with httpx.AsyncClient() as client:
                    assert (await client.get(f"http://127.0.0.1:{edge.port}/")).text == "hello"
                nursery.cancel_scope.cancel()
            await bot.stream.aclose()
            assert edge.gateway.stats()["connections"] == 0
        assert edge.app.lifespan == ["lifespan.startup", "lifespan.shutdown"] * 3
