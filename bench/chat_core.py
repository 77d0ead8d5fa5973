"""How many messages a second go through service, actor, store and hub, and how many deliveries leave the hub?

One process, no sockets, FULL durability. Two settings, one JSON line in all:
- pairs: 100 direct conversations; in each, one side keeps 10 sends unacked (closed loop), both sides listen.
  Messages acked per second, and the wait for an ack, p50/p99 in ms.
- crowd: one group of 500 members, each with one listener, but for those who are away and are notified; one
  member keeps 10 sends unacked. Deliveries (events pushed to a listener) per second. Listeners count and
  drop; encoding for the wire is done once per event, as an outbox would have it.

usage: python -m bench.chat_core [--seconds S] [--pairs N] [--members N] [--away N] [--profile FILE]
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
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path
from secrets import token_bytes
from typing import cast

import structlog
import trio

from protocol import commands, replies
from protocol.codec import Encoded, Wire
from protocol.commands import Hello
from protocol.errors import CloseCode, HubbubError
from protocol.records import Insert, User
from server.chat_core import Alone, ChatCore
from server.directory import Directory
from server.identity import Identity
from server.log_ins import LogIns
from server.session import Session
from server.tails import MAX_BYTES
from storage import open_store
from storage.sqlite import SqliteStore

WINDOW = 10  # unacked sends of one sender
TEXT = "x" * 100
_SLACK_S = 5.0  # to let the last acks come in


class Listener:
    """A session that counts what it is pushed."""

    def __init__(self, identity: Identity, conn_id: int) -> None:
        self.identity = identity
        self.conn_id = conn_id
        self.user_id = identity.user.user_id
        self.context: object = None
        self.close_code: CloseCode | None = None
        self.pushed_count = 0

    def push(self, encoded: Encoded, stream: str, seq: int) -> bool:
        encoded.frame(Wire.JSON_WS)
        self.pushed_count += 1
        return True

    def push_live(self, key: object, encoded: Encoded, stream: str | None = None) -> bool:
        encoded.frame(Wire.JSON_WS)
        return True

    def close(self, code: CloseCode, reason: str = "") -> None:
        self.close_code = code


class Sender:
    """Keep a window of sends unacked in one conversation; each ack sends the next."""

    def __init__(self, core: ChatCore, listener: Listener, conversation_id: str, until: float) -> None:
        self._core = core
        self._session = cast(Session, listener)
        self._conversation_id = conversation_id
        self._until = until
        self._number = 0
        self._open_count = 0
        self.waits_s: list[float] = []
        self.error_count = 0
        self.done = trio.Event()

    def start(self) -> None:
        for _ in range(WINDOW):
            self.send()

    def send(self) -> None:
        self._number += 1
        self._open_count += 1
        command = commands.Send(
            conversation_id=self._conversation_id, client_id=f"k{self._number}", text=TEXT
        )
        self._core.service.handle(self._session, command, Ack(self))

    def acked(self, wait_s: float, error: HubbubError | None) -> None:
        self._open_count -= 1
        if error is None:
            self.waits_s.append(wait_s)
        else:
            self.error_count += 1
        if time.perf_counter() < self._until:
            self.send()
        elif not self._open_count:
            self.done.set()


class Ack:
    """The reply to one send."""

    __slots__ = ("_sender", "_sent_at", "is_done")

    def __init__(self, sender: Sender) -> None:
        self._sender = sender
        self._sent_at = time.perf_counter()
        self.is_done = False

    def resolve(self, value: object) -> None:
        self._end(None)

    def fail(self, error: HubbubError) -> None:
        self._end(error)

    def _end(self, error: HubbubError | None) -> None:
        if not self.is_done:
            self.is_done = True
            self._sender.acked(time.perf_counter() - self._sent_at, error)


class Node:
    """A chat core over a fresh data directory."""

    def __init__(self, core: ChatCore, users: list[User], store: SqliteStore) -> None:
        self.core = core
        self.store = store
        self._users = users
        self.listeners: list[Listener] = []

    @property
    def user_ids(self) -> list[str]:
        """All users, connected or not."""
        return [user.user_id for user in self._users]

    async def connect(self, count: int) -> list[Listener]:
        for user in self._users[:count]:
            identity = Identity(user=user, app_id=user.app_id, session_id=user.user_id)
            listener = Listener(identity, len(self.listeners) + 1)
            hello = Hello(token="t", device_id="d")
            await self.core.service.open(cast(Session, listener), hello)
            self.listeners.append(listener)
        return self.listeners

    def disconnect(self) -> None:
        for listener in self.listeners:
            self.core.service.closed(cast(Session, listener))


@asynccontextmanager
async def open_node(directory: Path, user_count: int, *, tails_bytes: int = MAX_BYTES) -> AsyncIterator[Node]:
    users = [
        User(
            user_id=f"u{number}",
            app_id="default",
            username=f"u{number}",
            username_key=f"u{number}",
            name="",
            name_key="",
            created_at_ms=1,
        )
        for number in range(user_count)
    ]
    async with open_store(directory) as store:
        people = Directory(store)
        core = ChatCore(
            store,
            people,
            LogIns(store, people, token_bytes(32)),
            surround=partial(Alone, await store.claim_all("bench")),
            node_id="bench",
            server="bench",
            nodes=list,
            now_ms=lambda: time.time_ns() // 1_000_000,
            max_file_bytes=1 << 20,
            debounce_s=0.0,
            secret=token_bytes(32),
            tails_bytes=tails_bytes,
        )
        await store.commit([Insert(user) for user in users])
        async with trio.open_nursery() as nursery:
            await nursery.start(core.supervisor.run)
            node = Node(core, users, store)
            yield node
            node.disconnect()
            nursery.cancel_scope.cancel()


async def measure(node: Node, senders: list[Sender], profiler: cProfile.Profile | None) -> dict[str, float]:
    pushed_before = sum(listener.pushed_count for listener in node.listeners)
    started_at = time.perf_counter()
    if profiler is not None:
        profiler.enable()
    for sender in senders:
        sender.start()
    for sender in senders:
        await sender.done.wait()
    if profiler is not None:
        profiler.disable()
    took_s = time.perf_counter() - started_at
    waits_s = sorted(wait for sender in senders for wait in sender.waits_s)
    pushed_count = sum(listener.pushed_count for listener in node.listeners) - pushed_before
    cuts = statistics.quantiles(waits_s, n=100)
    return {
        "messages_per_s": round(len(waits_s) / took_s),
        "deliveries_per_s": round(pushed_count / took_s),
        "ack_p50_ms": round(cuts[49] * 1000, 2),
        "ack_p99_ms": round(cuts[98] * 1000, 2),
        "errors": sum(sender.error_count for sender in senders),
    }


async def run_pairs(pairs: int, seconds: float, profiler: cProfile.Profile | None) -> dict[str, float]:
    with tempfile.TemporaryDirectory() as directory:
        async with open_node(Path(directory), 2 * pairs) as node:
            listeners = await node.connect(2 * pairs)
            ids = []
            for one, other in zip(listeners[::2], listeners[1::2], strict=True):
                reply = await node.core.service.execute(
                    one.identity, commands.OpenDirect(user_id=other.user_id)
                )
                assert isinstance(reply, replies.ConversationInfo)
                ids.append(reply.conversation.conversation_id)
            until = time.perf_counter() + seconds
            senders = [
                Sender(node.core, listener, conversation_id, until)
                for listener, conversation_id in zip(listeners[::2], ids, strict=True)
            ]
            with trio.fail_after(seconds + _SLACK_S):
                return await measure(node, senders, profiler)


async def run_crowd(
    members: int, away: int, seconds: float, profiler: cProfile.Profile | None
) -> dict[str, float]:
    with tempfile.TemporaryDirectory() as directory:
        async with open_node(Path(directory), members) as node:
            owner, *_ = await node.connect(members - away)
            create = commands.CreateGroup(client_id="g", title="Crowd", member_ids=node.user_ids[1:])
            reply = await node.core.service.execute(owner.identity, create)
            assert isinstance(reply, replies.ConversationInfo)
            until = time.perf_counter() + seconds
            sender = Sender(node.core, owner, reply.conversation.conversation_id, until)
            with trio.fail_after(seconds + _SLACK_S):
                return await measure(node, [sender], profiler)


async def main(arguments: argparse.Namespace) -> None:
    profiler = cProfile.Profile() if arguments.profile else None
    pairs = await run_pairs(arguments.pairs, arguments.seconds, profiler)
    crowd = await run_crowd(arguments.members, arguments.away, arguments.seconds, profiler)
    if profiler is not None:
        profiler.dump_stats(arguments.profile)
    found = subprocess.run(["git", "rev-parse", "--short", "HEAD"], capture_output=True, text=True)
    print(
        json.dumps(
            {
                "bench": "chat_core",
                "commit": found.stdout.strip(),
                "machine": f"{platform.machine()} {os.cpu_count()} cores, Python {platform.python_version()}",
                "pairs": {"conversations": arguments.pairs, "window": WINDOW, **pairs},
                "crowd": {"members": arguments.members, "away": arguments.away, "window": WINDOW, **crowd},
            }
        )
    )


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n\n")[0])
    parser.add_argument("--seconds", type=float, default=5.0)
    parser.add_argument("--pairs", type=int, default=100)
    parser.add_argument("--members", type=int, default=500)
    parser.add_argument("--away", type=int, default=0, help="members of the crowd who are not connected")
    parser.add_argument("--profile", default="", help="write cProfile statistics of the Trio thread here")
    structlog.configure(logger_factory=structlog.PrintLoggerFactory(sys.stderr))
    trio.run(main, parser.parse_args())
