"""A process that appends without end and reports each ack, until it is killed. Run by test_kill9_store.

usage: store_writer.py DIRECTORY RUN SEED

Before an append is queued, "try STREAM CLIENT_ID" is written to stdout; when it is acked, "ack STREAM
CLIENT_ID SEQ". Each line is one write(), so a kill cuts none in two.
"""

import os
import random
import sys
from functools import partial

import trio

from protocol.errors import HubbubError
from protocol.records import Advance, Append, LogRow
from storage import SqliteStore, open_store
from storage.store import Outcome

STREAM_COUNT = 12
SHARD_COUNT = 4
IN_FLIGHT = 40


def body_of(stream: str, client_id: str) -> str:
    """The content that belongs to a key, of varying length, so that mixed-up rows are noticed."""
    noise = random.Random(f"{stream} {client_id}")
    return f'{{"text":"{stream} {client_id} {"x" * noise.randrange(2000)}"}}'


def row_of(stream: str, client_id: str) -> LogRow:
    return LogRow(
        stream=stream,
        kind="message",
        at_ms=1,
        user_id="writer",
        body=body_of(stream, client_id),
        client_id=client_id,
        is_message=True,
    )


def stream_of(number: int) -> tuple[str, int]:
    """(stream, shard)"""
    return f"c:{number % STREAM_COUNT}", number % STREAM_COUNT % SHARD_COUNT


class Load:
    """Keep a number of appends in flight."""

    def __init__(self, store: SqliteStore, epochs: dict[int, int], run: int, seed: int) -> None:
        self._store = store
        self._epochs = epochs
        self._run = run
        self._random = random.Random(seed)
        self._number = 0

    def send(self) -> None:
        self._number += 1
        stream, shard = stream_of(self._random.randrange(STREAM_COUNT))
        client_ids = [
            f"{self._run}-{self._number}-{part}" for part in range(self._random.choice((1, 1, 1, 3)))
        ]
        advance = Advance(conversation_id=stream[2:], user_id="writer", row_index=len(client_ids) - 1)
        append = Append(
            shard=shard,
            epoch=self._epochs[shard],
            rows=tuple(row_of(stream, client_id) for client_id in client_ids),
            ops=(advance,),
        )
        tell("".join(f"try {stream} {client_id}\n" for client_id in client_ids))
        self._store.append_nowait(append, partial(self._done, stream, client_ids))

    def _done(self, stream: str, client_ids: list[str], outcome: Outcome) -> None:
        if isinstance(outcome, HubbubError):
            tell(f"error {outcome.code}\n")
            return
        tell(
            "".join(
                f"ack {stream} {client_id} {place.seq}\n"
                for client_id, place in zip(client_ids, outcome, strict=True)
            )
        )
        self.send()


def tell(lines: str) -> None:
    os.write(1, lines.encode())


async def main(directory: str, run: int, seed: int) -> None:
    async with open_store(directory) as store:
        load = Load(store, await store.claim_all("writer"), run, seed)
        for _ in range(IN_FLIGHT):
            load.send()
        await trio.sleep_forever()


if __name__ == "__main__":
    trio.run(main, sys.argv[1], int(sys.argv[2]), int(sys.argv[3]))
