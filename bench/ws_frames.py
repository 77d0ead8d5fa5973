"""How many WebSocket messages a second does the server's own frame reader take, beside wsproto?

Load: text messages of 20, 150, 1,500 and 100,000 bytes, masked at random, in reads of at most 16 KiB as the
transport makes them; and 150-byte messages one to a read, as they come from people. Both read the same bytes
in the same run, in turns, and each is judged by its best turn. Units: messages per second of one core, and
ours divided by wsproto's. One JSON line.

    python -m bench.ws_frames [--seconds S]
"""

import argparse
import json
import os
import platform
import time
from collections.abc import Callable

from wsproto.connection import Connection, ConnectionType
from wsproto.events import TextMessage

from protocol.limits import MAX_FRAME_BYTES
from server.transport import RECEIVE_BYTES
from server.ws_frames import FrameReader

ROUND_BYTES = 400_000  # of payload in one turn: long enough for the clock, short enough to take turns
MAX_ROUND_MESSAGES = 2_000
TURNS = 5  # at least; the best one counts, as others share the cores

Read = Callable[[list[bytes]], int]


def read_by_us(reads: list[bytes]) -> int:
    """Return how many messages our reader finds."""
    reader = FrameReader(MAX_FRAME_BYTES)
    return sum(len(reader.feed(data)) for data in reads)


def read_by_wsproto(reads: list[bytes]) -> int:
    """Return how many messages wsproto finds; parts of one are joined, as everybody must who uses it."""
    connection = Connection(ConnectionType.SERVER)
    count = 0
    parts: list[str] = []
    for data in reads:
        connection.receive_data(data)
        for event in connection.events():
            assert isinstance(event, TextMessage)
            parts.append(event.data)
            if event.message_finished:
                "".join(parts)
                parts.clear()
                count += 1
    return count


def cut(sent: list[bytes], *, is_one_by_one: bool) -> list[bytes]:
    """Return what the reads from a socket give."""
    if is_one_by_one:
        return sent
    stream = b"".join(sent)
    return [stream[start : start + RECEIVE_BYTES] for start in range(0, len(stream), RECEIVE_BYTES)]


def rate(read: Read, reads: list[bytes], message_count: int) -> float:
    """Messages per second of one turn."""
    started_at = time.perf_counter()
    found = read(reads)
    elapsed_s = time.perf_counter() - started_at
    if found != message_count:
        raise RuntimeError(f"{read.__name__} found {found} of {message_count} messages")
    return message_count / elapsed_s


def measure(size_bytes: int, seconds: float, *, is_one_by_one: bool = False) -> dict[str, float]:
    """Measure both readers in turns."""
    client = Connection(ConnectionType.CLIENT)
    text = (os.urandom(size_bytes).hex())[:size_bytes]
    message_count = max(1, min(MAX_ROUND_MESSAGES, ROUND_BYTES // size_bytes))
    sent = [client.send(TextMessage(data=text)) for _ in range(message_count)]
    reads = cut(sent, is_one_by_one=is_one_by_one)
    ours: list[float] = []
    theirs: list[float] = []
    until = time.perf_counter() + seconds
    while len(ours) < TURNS or time.perf_counter() < until:
        ours.append(rate(read_by_us, reads, message_count))
        theirs.append(rate(read_by_wsproto, reads, message_count))
    best, their_best = max(ours), max(theirs)
    return {
        "messages_per_s": round(best),
        "wsproto_messages_per_s": round(their_best),
        "ratio": round(best / their_best, 1),
    }


def main() -> None:
    """Run as the docstring says."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--seconds", type=float, default=1.0, help="for each size")
    seconds = parser.parse_args().seconds
    line: dict[str, object] = {
        "bench": "ws_frames",
        "machine": platform.node(),
        "python": platform.python_version(),
        "150_bytes_one_by_one": measure(150, seconds, is_one_by_one=True),
    }
    for size_bytes in (20, 150, 1_500, 100_000):
        line[f"{size_bytes}_bytes"] = measure(size_bytes, seconds)
    print(json.dumps(line))


if __name__ == "__main__":
    main()
