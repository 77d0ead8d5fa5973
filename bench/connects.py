"""How many connections can a node take in a second, and what does one cost it?

Load: `hubbub serve` with a fresh data directory, on one core; a client in this process, on another core where
there is one, keeps a number of connects in flight (default 32). Each is a TCP connection, a WebSocket
upgrade and a hello with a JWT of the app's backend, and ends with the welcome. Three rounds over N users
(default 2,000): new users (who are made on their way in), then known ones, then all known ones at once (a
reconnect storm). Units: connects per second, microseconds of the node's CPU per connect, KiB of resident
memory per connection, ms from the first connect to the last welcome. One JSON line.

    python -m bench.connects [N] [--in-flight 32]
"""

import argparse
import json
import os
import platform
import resource
import selectors
import socket
import tempfile
import time
from collections.abc import Sequence

import jwt

from bench.connections_idle import UPGRADE, app_key, cpu_s, rss_kib, running_node
from protocol.codec import Wire, encode_payload
from protocol.commands import Hello

WARM_UP_COUNT = 50
FIRST_WAIT_S = 3.0  # longer than a log-in is kept, so that known users are looked up anew
STALL_S = 30.0  # no byte for so long: the run is broken


class Connect:
    """One connection on its way to the welcome."""

    def __init__(self, port: int, token: str) -> None:
        self.sock = socket.socket()
        self.sock.setblocking(False)
        self.sock.connect_ex(("127.0.0.1", port))
        hello = encode_payload(Hello(id=1, token=token, device_id="device"), Wire.JSON_WS)
        head = bytes((0x81, 0x80 | 126)) + len(hello).to_bytes(2, "big")  # a text frame, masked by zeros
        self.request = UPGRADE + head + b"\0\0\0\0" + hello
        self.received = b""


def come_in(port: int, tokens: Sequence[str], in_flight: int) -> tuple[list[socket.socket], float]:
    """Connect all, so many at a time: (sockets, seconds to the last welcome)."""
    done: list[socket.socket] = []
    waiting = list(reversed(tokens))
    with selectors.DefaultSelector() as selector:

        def begin() -> None:
            connect = Connect(port, waiting.pop())
            selector.register(connect.sock, selectors.EVENT_WRITE, connect)

        started_at = time.monotonic()
        for _ in range(min(in_flight, len(tokens))):
            begin()
        while len(done) < len(tokens):
            ready = selector.select(STALL_S)
            if not ready:
                raise RuntimeError(f"nothing for {STALL_S} s, {len(done)} of {len(tokens)} are in")
            for key, _ in ready:
                connect: Connect = key.data
                if connect.request:
                    connect.sock.sendall(connect.request)  # some 500 bytes: they fit
                    connect.request = b""
                    selector.modify(connect.sock, selectors.EVENT_READ, connect)
                    continue
                data = connect.sock.recv(65536)
                connect.received += data
                if not data:
                    raise RuntimeError(f"the server closed a connection: {connect.received!r}")
                if b'"welcome"' in connect.received:
                    selector.unregister(connect.sock)
                    done.append(connect.sock)
                    if waiting:
                        begin()
        return done, time.monotonic() - started_at


def leave(sockets: Sequence[socket.socket]) -> None:
    """Drop all, and let the node notice."""
    for sock in sockets:
        sock.close()
    time.sleep(FIRST_WAIT_S + 1)


def measure(user_count: int, in_flight: int) -> dict[str, object]:
    """Run the node in another process and return the figures."""
    with tempfile.TemporaryDirectory() as directory, running_node(directory) as (pid, port):
        cores = sorted(os.sched_getaffinity(0))
        for thread in os.listdir(f"/proc/{pid}/task"):
            os.sched_setaffinity(int(thread), cores[:1])
        os.sched_setaffinity(0, cores[1:] or cores)
        key, secret = app_key(directory)
        expires_at = int(time.time()) + 3600
        tokens = [
            jwt.encode({"sub": f"user{n}", "exp": expires_at}, secret, "HS256", headers={"kid": key})
            for n in range(WARM_UP_COUNT + user_count)
        ]
        warm, _ = come_in(port, tokens[:WARM_UP_COUNT], in_flight)
        before_kib = rss_kib(pid)
        figures: dict[str, object] = {
            "bench": "connects",
            "machine": platform.node(),
            "python": platform.python_version(),
            "users": user_count,
            "in_flight": in_flight,
        }
        rounds = (("new", in_flight), ("known", in_flight), ("storm", user_count))
        for name, at_once in rounds:
            busy_s, own_s = cpu_s(pid), time.process_time()
            sockets, elapsed_s = come_in(port, tokens[WARM_UP_COUNT:], at_once)
            busy_s, own_s = cpu_s(pid) - busy_s, time.process_time() - own_s
            figures[f"{name}_connects_per_s"] = round(user_count / elapsed_s)
            figures[f"{name}_cpu_us"] = round(busy_s / user_count * 1e6)
            figures[f"{name}_client_share"] = round(own_s / elapsed_s, 2)
            if name == "new":
                time.sleep(1.5)  # devices are written behind the connections
                figures["kib_per_connection"] = round((rss_kib(pid) - before_kib) / user_count, 1)
            elif name == "storm":
                figures["storm_ms"] = round(elapsed_s * 1000)
            leave(sockets)
        for sock in warm:
            sock.close()
    return figures


def main() -> None:
    """Run as the docstring says."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("users", nargs="?", type=int, default=2000)
    parser.add_argument("--in-flight", type=int, default=32)
    arguments = parser.parse_args()
    _soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    # The node inherits it.
    resource.setrlimit(resource.RLIMIT_NOFILE, (min(hard, arguments.users + 500), hard))
    print(json.dumps(measure(arguments.users, arguments.in_flight)))


if __name__ == "__main__":
    main()
