"""What reaches a cluster port and should not: noise, half-open connections, frames that lie on their size."""

import random
import struct
from collections.abc import Iterator
from contextlib import suppress

import trio

# nng over TCP (the SP protocol): both sides first send \0SP\0, their protocol, two zeros; then each message
# is an 8-byte length and that many bytes. 0x50 is Push, 0x51 is Pull.
SP_PUSH = b"\0SP\0\0\x50\0\0"
SP_PULL = b"\0SP\0\0\x51\0\0"
HOLD_S = 2.0  # how long a connection that says nothing more is held
AT_ONCE = 40


def _framed(payload: bytes) -> bytes:
    return struct.pack("!Q", len(payload)) + payload


def noise(rng: random.Random, count: int) -> Iterator[bytes]:
    """What one connection after the other sends."""
    for number in range(count):
        kind = number % 8
        if kind == 0:
            yield b""  # silence
        elif kind == 1:
            yield rng.randbytes(rng.randrange(1, 5000))
        elif kind == 2:
            yield b"GET / HTTP/1.1\r\nHost: x\r\n\r\n"
        elif kind == 3:
            yield b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + rng.randbytes(500)  # like TLS
        elif kind == 4:
            yield SP_PULL  # the same side as the node's own
        elif kind == 5:
            yield SP_PUSH + b"".join(_framed(rng.randbytes(rng.randrange(300))) for _ in range(50))
        elif kind == 6:
            yield SP_PUSH + struct.pack("!Q", rng.choice([1 << 21, 1 << 31, (1 << 63) - 1])) + b"x" * 1000
        else:
            # MessagePack that parses: arrays, maps, long strings, deep nesting.
            yield SP_PUSH + b"".join(
                _framed(part) for part in (b"\x90", b"\x80", b"\xdb\xff\xff\xff\xff", b"\x91" * 2000, b"\xc0")
            )


async def pester(ports: list[int], rng: random.Random, *, rounds: int) -> int:
    """Send noise to every port, many connections at once. Returns how many there were."""
    limiter = trio.CapacityLimiter(AT_ONCE)
    count = 0

    async def one(port: int, data: bytes) -> None:
        async with limiter:
            with suppress(OSError, trio.BrokenResourceError), trio.move_on_after(HOLD_S):
                async with await trio.open_tcp_stream("127.0.0.1", port) as stream:
                    await stream.send_all(data)
                    while await stream.receive_some(65536):
                        pass  # until it is closed, or we have waited for long enough

    async with trio.open_nursery() as nursery:
        for port in ports:
            for data in noise(rng, rounds):
                nursery.start_soon(one, port, data)
                count += 1
    return count
