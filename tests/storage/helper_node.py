"""A cluster node as far as the store sees one, in a process of its own. Run by test_many_processes.

usage: helper_node.py DIRECTORY NODE_ID

It says "loaded" and then does what each line on stdin says, answering with one line:
start            open the store, make the app and the key as a node does, register -> started BOOT KEY
claim SHARD …    -> claimed COUNT
write SHARD      append to a stream of that shard, one at a time, until the next line -> wrote COUNT
stop             close the store and end

What is refused is answered by "refused CODE MESSAGE".
"""

import sys
from contextlib import AsyncExitStack
from pathlib import Path

import trio

from protocol.errors import HubbubError
from protocol.records import Append
from server.config import Settings, server_secret
from server.directory import Directory
from storage import SqliteStore, open_store
from tests.storage.rooms import message

LEASE_MS = 600_000  # longer than any test: here only a lock can end it


class HelperNode:
    """Obey the lines."""

    def __init__(self, directory: str, node_id: str) -> None:
        self._directory = directory
        self._node_id = node_id
        self._store: SqliteStore
        self._boot = 0
        self._epochs: dict[int, int] = {}

    async def run(self) -> None:
        _say("loaded")
        async with AsyncExitStack() as stack:
            while (words := (await _next_line()).split()) and words[0] != "stop":
                try:
                    _say(await self._obey(stack, words[0], [int(word) for word in words[1:]]))
                except HubbubError as error:
                    _say(f"refused {error.code} {error.message}")
        _say("stopped")

    async def _obey(self, stack: AsyncExitStack, command: str, shards: list[int]) -> str:
        if command == "start":
            self._store = await stack.enter_async_context(open_store(self._directory))
            await Directory(self._store).ensure_default_app()
            secret = server_secret(Settings(data_dir=self._directory))
            self._boot = await self._store.register_node(self._node_id, "x:1", lease_ms=LEASE_MS)
            return f"started {self._boot} {secret.hex()}"
        if command == "claim":
            seen = {row.shard: row.epoch for row in await self._store.shards() if row.shard in shards}
            won = await self._store.claim(seen, node_id=self._node_id, boot=self._boot)
            self._epochs |= {shard: epoch for shard, (epoch, _) in won.items()}
            return f"claimed {len(won)}"
        return await self._write(shards[0])

    async def _write(self, shard: int) -> str:
        count = 0
        async with trio.open_nursery() as nursery:

            async def write() -> None:
                nonlocal count
                while True:
                    row = message(f"{self._node_id}-{shard}", "ann")
                    await self._store.append(Append(shard=shard, epoch=self._epochs[shard], rows=(row,)))
                    count += 1

            _say("writing")
            nursery.start_soon(write)
            await _next_line()
            nursery.cancel_scope.cancel()
        return f"wrote {count}"


async def _next_line() -> str:
    return await trio.to_thread.run_sync(sys.stdin.readline)


def _say(line: str) -> None:
    print(line, flush=True)


if __name__ == "__main__":
    trio.run(HelperNode(str(Path(sys.argv[1])), sys.argv[2]).run)
