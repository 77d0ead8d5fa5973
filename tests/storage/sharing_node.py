"""One of several processes that write into one data directory. Run by test_sharing.

usage: sharing_node.py DIRECTORY NODE COUNT

It claims its shards, says "ready", waits for a line on stdin, appends COUNT messages with 16 in flight, and
prints how long it took and its slowest append.
"""

import sys
import time

import trio

from protocol.records import Append
from storage import open_store
from tests.storage.rooms import message


async def main(directory: str, number: int, count: int) -> None:
    async with open_store(directory) as store:
        boot = await store.register_node(f"n{number}", f"n{number}:1", lease_ms=60_000)
        epoch, _ = (await store.claim({number: 0}, node_id=f"n{number}", boot=boot))[number]
        print("ready", flush=True)
        await trio.to_thread.run_sync(sys.stdin.readline)
        slowest_s = 0.0
        left = count

        async def talk() -> None:
            nonlocal left, slowest_s
            while left > 0:
                left -= 1
                started_at = time.monotonic()
                row = message(f"r{number}", "ann", client_id=f"{left}")
                await store.append(Append(shard=number, epoch=epoch, rows=(row,)))
                slowest_s = max(slowest_s, time.monotonic() - started_at)

        started_at = time.monotonic()
        async with trio.open_nursery() as nursery:
            for _ in range(16):
                nursery.start_soon(talk)
        print(f"done {time.monotonic() - started_at} {slowest_s}", flush=True)


if __name__ == "__main__":
    trio.run(main, sys.argv[1], int(sys.argv[2]), int(sys.argv[3]))
