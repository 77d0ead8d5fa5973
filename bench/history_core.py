"""How many reads of recent history does a node answer in a second, from memory and from the store?

One process, no sockets: commands are decoded, handled by the service, and their answers encoded and framed
as JSON, all in one thread (the store has its own). Each setting runs twice, with tails and without, in turn.
- history: 20 members of a group of 10,000 messages of 100 bytes ask for the last 50, each one request after
  the other. Requests per second, and how long one takes, p50/p99 in ms.
- older: the same for the 50 messages in the middle, which no tail holds.
- return: devices that have missed 20 messages each, in conversations of two, sync all at once. Milliseconds
  until all are current, how many devices that makes in a second, and how often the store was read for them.

usage: python -m bench.history_core [--seconds S] [--messages N] [--pairs N] [--profile FILE]
"""

import argparse
import cProfile
import json
import os
import platform
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import cast

import msgspec
import structlog
import trio

from actors.reply import ReplySlot
from bench.chat_core import TEXT, Listener, Node, open_node
from protocol import commands, replies
from protocol.codec import Wire, decode_command, encode_frame, encode_payload
from protocol.commands import Command
from server.session import Session

CLIENTS = 20
PAGE = 50
MISSED = 20
_WINDOW = 100  # sends in flight while a conversation is filled


class Client:
    """Ask by bytes, and take bytes for an answer, as a session would."""

    def __init__(self, node: Node, listener: Listener) -> None:
        self._service = node.core.service
        self._session = cast(Session, listener)
        self.waits_s: list[float] = []
        self.answer_bytes = 0

    async def ask(self, payload: bytes) -> None:
        started_at = time.perf_counter()
        command = decode_command(payload, Wire.JSON_WS)
        slot = ReplySlot()
        self._service.handle(self._session, command, slot)
        answer = msgspec.structs.replace(cast(replies.MessagePage, await slot.wait()), id=command.id)
        self.answer_bytes += len(encode_frame(answer, Wire.JSON_WS))
        self.waits_s.append(time.perf_counter() - started_at)

    async def ask_until(self, payload: bytes, deadline: float) -> None:
        while time.perf_counter() < deadline:
            await self.ask(payload)
            await trio.lowlevel.checkpoint()  # so that the clients take turns, as sockets would have it


async def fill(node: Node, listener: Listener, conversation_id: str, count: int) -> None:
    """Send that many messages."""
    for start in range(0, count, _WINDOW):
        slots = []
        for number in range(start, min(start + _WINDOW, count)):
            slot = ReplySlot()
            send = commands.Send(conversation_id=conversation_id, client_id=f"k{number}", text=TEXT)
            node.core.service.handle(cast(Session, listener), send, slot)
            slots.append(slot)
        for slot in slots:
            await slot.wait()


def payload_of(command: Command) -> bytes:
    return encode_payload(command, Wire.JSON_WS)


async def run_reads(
    node: Node, clients: Sequence[Client], command: Command, seconds: float
) -> dict[str, float]:
    for client in clients:
        client.waits_s, client.answer_bytes = [], 0
    payload = payload_of(command)
    started_at = time.perf_counter()
    async with trio.open_nursery() as nursery:
        for client in clients:
            nursery.start_soon(client.ask_until, payload, started_at + seconds)
    took_s = time.perf_counter() - started_at
    waits_s = [wait for client in clients for wait in client.waits_s]
    cuts = statistics.quantiles(waits_s, n=100)
    return {
        "requests_per_s": round(len(waits_s) / took_s),
        "p50_ms": round(cuts[49] * 1000, 3),
        "p99_ms": round(cuts[98] * 1000, 3),
        "answer_bytes": round(sum(client.answer_bytes for client in clients) / len(waits_s)),
    }


async def run_group(
    messages: int, seconds: float, tails_bytes: int, profiler: cProfile.Profile | None
) -> dict[str, dict[str, float]]:
    with tempfile.TemporaryDirectory() as directory:
        async with open_node(Path(directory), CLIENTS, **_tails(tails_bytes)) as node:
            owner, *others = await node.connect(CLIENTS)
            create = commands.CreateGroup(
                client_id="g", title="Room", member_ids=[other.user_id for other in others]
            )
            reply = await node.core.service.execute(owner.identity, create)
            assert isinstance(reply, replies.ConversationInfo)
            conversation_id = reply.conversation.conversation_id
            await fill(node, owner, conversation_id, messages)
            clients = [Client(node, listener) for listener in node.listeners]
            newest = commands.History(id=7, conversation_id=conversation_id, limit=PAGE)
            older = commands.History(
                id=7, conversation_id=conversation_id, limit=PAGE, before=max(messages // 2, 1)
            )
            if profiler is not None:
                profiler.enable()
            history = await run_reads(node, clients, newest, seconds)
            if profiler is not None:
                profiler.disable()
            return {"history": history, "older": await run_reads(node, clients, older, seconds)}


async def run_return(pairs: int, tails_bytes: int) -> dict[str, float]:
    with tempfile.TemporaryDirectory() as directory:
        async with open_node(Path(directory), 2 * pairs, **_tails(tails_bytes)) as node:
            listeners = await node.connect(2 * pairs)
            asks: list[tuple[Client, bytes]] = []
            for one, other in zip(listeners[::2], listeners[1::2], strict=True):
                open_direct = commands.OpenDirect(user_id=other.user_id)
                reply = await node.core.service.execute(one.identity, open_direct)
                assert isinstance(reply, replies.ConversationInfo)
                conversation_id = reply.conversation.conversation_id
                await fill(node, one, conversation_id, MISSED)
                payload = payload_of(commands.Sync(id=7, conversation_id=conversation_id, after=1))
                asks += [(Client(node, one), payload), (Client(node, other), payload)]
            reads_before = node.store.read_count
            started_at = time.perf_counter()
            async with trio.open_nursery() as nursery:
                for client, payload in asks:
                    nursery.start_soon(client.ask, payload)
            took_s = time.perf_counter() - started_at
            return {
                "devices": len(asks),
                "all_current_ms": round(took_s * 1000, 1),
                "devices_per_s": round(len(asks) / took_s),
                "store_reads": node.store.read_count - reads_before,
            }


def _tails(tails_bytes: int) -> dict[str, int]:
    return {} if tails_bytes < 0 else {"tails_bytes": tails_bytes}


async def main(arguments: argparse.Namespace) -> None:
    profiler = cProfile.Profile() if arguments.profile else None
    results: dict[str, dict[str, object]] = {}
    for name, tails_bytes in (("store", 0), ("tails", -1)):
        group = await run_group(
            arguments.messages, arguments.seconds, tails_bytes, profiler if name == "tails" else None
        )
        results[name] = {**group, "return": await run_return(arguments.pairs, tails_bytes)}
    if profiler is not None:
        profiler.dump_stats(arguments.profile)
    found = subprocess.run(["git", "rev-parse", "--short", "HEAD"], capture_output=True, text=True)
    print(
        json.dumps(
            {
                "bench": "history_core",
                "commit": found.stdout.strip(),
                "machine": f"{platform.machine()} {os.cpu_count()} cores, Python {platform.python_version()}",
                "messages": arguments.messages,
                "clients": CLIENTS,
                "page": PAGE,
                **results,
            }
        )
    )


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n\n")[0])
    parser.add_argument("--seconds", type=float, default=3.0)
    parser.add_argument("--messages", type=int, default=10_000)
    parser.add_argument("--pairs", type=int, default=500)
    parser.add_argument(
        "--profile", default="", help="write cProfile statistics of the reads from memory here"
    )
    structlog.configure(logger_factory=structlog.PrintLoggerFactory(sys.stderr))
    trio.run(main, parser.parse_args())
