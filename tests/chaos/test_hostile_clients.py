"""Clients that stop reading, flood, send monsters or dawdle: the node neither grows nor stalls."""

from functools import partial
from pathlib import Path

import pytest
import trio

import hubbub
from protocol import commands, replies
from protocol.codec import FrameSplitter, Wire, decode_server, encode_tcp_command
from protocol.events import MessagePosted
from tests.nodes import NodeProcess, running_node

pytestmark = [pytest.mark.chaos, pytest.mark.timeout(240)]

HALF_OPEN = 300
MESSAGES = 6_000
TEXT = "x" * 2_000  # 12 MB in all: far more than any outbox or socket buffer may hold
# What a few hundred connections and a warm allocator may take; each attack alone would need more.
MAX_GROWTH_KIB = 64 * 1024


async def _raw_session(node: NodeProcess, token: str, device_id: str) -> trio.SocketStream:
    """A bot connection without any client library: what it does not read, nobody reads."""
    stream = await trio.open_tcp_stream("127.0.0.1", node.bot_port)
    await stream.send_all(encode_tcp_command(commands.Hello(id=1, token=token, device_id=device_id)))
    splitter = FrameSplitter()
    while True:
        for payload in splitter.feed(await stream.receive_some(65536)):
            if isinstance(decode_server(payload, Wire.MSGPACK_TCP), replies.Welcome):
                return stream


async def _flood(node: NodeProcess, token: str, group: str) -> None:
    """Send as fast as the socket takes it, and never read an answer."""
    stream = await _raw_session(node, token, "flooder")
    frame = encode_tcp_command(commands.SetTyping(id=7, conversation_id=group)) * 100
    with trio.move_on_after(10):
        try:
            for _ in range(10_000):
                await stream.send_all(frame)
        except trio.BrokenResourceError:
            pass  # thrown out, as it should be
    await trio.aclose_forcefully(stream)


async def _monster(node: NodeProcess) -> None:
    """Announce a frame of a megabyte, and send it all."""
    stream = await trio.open_tcp_stream("127.0.0.1", node.bot_port)
    with trio.move_on_after(5):
        try:
            await stream.send_all((1 << 20).to_bytes(4, "big") + b"\0" * (1 << 20))
            while await stream.receive_some(65536):
                pass  # ends when the node closes
        except trio.BrokenResourceError:
            pass
        else:
            await trio.aclose_forcefully(stream)
            return
    await trio.aclose_forcefully(stream)


async def _ping_pong(client: hubbub.Client, group: str, done: trio.Event) -> list[float]:
    """A normal person's sends meanwhile: how long each ack took, in seconds."""
    took: list[float] = []
    while not done.is_set():
        started = trio.current_time()
        await client.send(group, "I am still here")
        took.append(trio.current_time() - started)
        await trio.sleep(0.05)  # the pace of a person, not a wait for anything
    return took


async def test_hostile_clients_neither_grow_nor_stall_a_node(tmp_path: Path) -> None:
    """Promise 5: one client's behaviour is that client's problem."""
    with running_node(tmp_path, "--commands-per-s", "100000", "--commands-burst", "100000") as node:
        people = [
            await trio.to_thread.run_sync(partial(node.sign_up, name))
            for name in ("writer", "sleeper", "flooder", "person")
        ]
        (_, writer_token), (_, sleeper_token), (_, flooder_token), (_, person_token) = people
        with trio.fail_after(200):
            async with (
                hubbub.connect(node.bot_url, token=writer_token, focus=[]) as writer,
                hubbub.connect(node.url, token=person_token) as person,
            ):
                ids = [user_id for user_id, _ in people]
                crowd = (await writer.create_group("Crowd", ids[1:])).conversation_id
                quiet = (await person.create_group("Quiet", [])).conversation_id
                await writer.send(crowd, "warm up")
                before_kib = node.rss_kib()
                done = trio.Event()
                latencies: list[float] = []

                async def keep_talking() -> None:
                    latencies.extend(await _ping_pong(person, quiet, done))

                sleeper = await _raw_session(node, sleeper_token, "sleeper")
                half_open = [await trio.open_tcp_stream("127.0.0.1", node.port) for _ in range(HALF_OPEN)]
                for number, stream in enumerate(half_open):
                    if number % 2:
                        await stream.send_all(b"GET / HTTP/1.1\r\nHost: slow")
                async with trio.open_nursery() as nursery:
                    nursery.start_soon(keep_talking)
                    async with trio.open_nursery() as attackers:
                        attackers.start_soon(_flood, node, flooder_token, crowd)
                        for _ in range(10):
                            attackers.start_soon(_monster, node)
                        tickets = [await writer.start_send(crowd, TEXT) for _ in range(MESSAGES)]
                        for ticket in tickets:
                            await ticket.wait()
                    done.set()
                growth_kib = node.rss_kib() - before_kib
                latencies.sort()
                median_ms, worst_ms = latencies[len(latencies) // 2] * 1000, latencies[-1] * 1000
                print(f"growth {growth_kib} KiB, {len(latencies)} sends of a person meanwhile:")
                print(f"median {median_ms:.1f} ms, worst {worst_ms:.0f} ms")
                assert growth_kib < MAX_GROWTH_KIB
                for stream in half_open:
                    await trio.aclose_forcefully(stream)
                await trio.aclose_forcefully(sleeper)

                # What the sleeper missed is all there when it wakes.
                count = 0
                async with hubbub.connect(
                    node.url, token=sleeper_token, device_id="awake", history="all"
                ) as awake:
                    async for event in awake.events():
                        if isinstance(event, MessagePosted) and event.conversation_id == crowd:
                            count += 1
                            assert event.message_count == count
                            if event.message_count > MESSAGES:
                                break
        assert node.stop() == 0
