"""How much memory does an idle WebSocket connection cost a node, and how fast do users come in?

Load: `hubbub serve` as an operator runs it, with a fresh data directory; N connections (default 2,000) of N
users from this process, each signed in by a JWT of the app's backend (so each is authenticated and made on
its way in), welcomed and then silent. Units: KiB of resident memory of the node per connection, connections
per second, and CPU seconds of the node per second while all are silent. One JSON line.

    python -m bench.connections_idle [N]
"""

import argparse
import json
import os
import platform
import resource
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import jwt

from protocol.codec import Wire, encode_payload
from protocol.commands import Hello

WARM_UP_COUNT = 50  # connections before the first reading: imports, caches, the first arenas
SETTLE_S = 5.0  # caches of the store and of the accounts are written behind the connections
IDLE_S = 10.0  # how long the CPU of the idle node is measured
UPGRADE = (
    b"GET /ws HTTP/1.1\r\nHost: bench\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
    b"Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n\r\n"
)


@contextmanager
def running_node(directory: str) -> Iterator[tuple[int, int]]:
    """A node in a process of its own: (pid, port)."""
    command = [sys.executable, "-m", "server", "serve", "--data-dir", directory, "--log-format", "json"]
    command += ["--port", "0", "--bot-port", "0", "--log-level", "info"]
    with subprocess.Popen(command, stderr=subprocess.PIPE, stdout=subprocess.DEVNULL, text=True) as node:
        assert node.stderr is not None
        try:
            for line in node.stderr:
                event = json.loads(line)
                if event["event"] == "node_started":
                    break
            else:
                raise RuntimeError("the node did not start")
            # Read what it logs: a full pipe would stop it.
            drain = threading.Thread(target=node.stderr.read)
            drain.start()
            yield node.pid, int(event["page"].rpartition(":")[2])
        finally:
            node.terminate()


def app_key(directory: str) -> tuple[str, str]:
    """Make an app key: (key, secret)."""
    made = subprocess.run(
        [sys.executable, "-m", "server", "keys", "create", "--data-dir", directory, "--json"],
        capture_output=True,
        check=True,
        text=True,
    )
    answer = json.loads(made.stdout)
    return answer["app_key"], answer["app_secret"]


def connect(port: int, number: int, token: str) -> socket.socket:
    """Open one WebSocket and wait for its welcome."""
    sock = socket.create_connection(("127.0.0.1", port), timeout=30)
    hello = encode_payload(Hello(id=1, token=token, device_id="device"), Wire.JSON_WS)
    head = bytes((0x81, 0x80 | 126)) + len(hello).to_bytes(2, "big")  # a text frame, masked by zeros
    sock.sendall(UPGRADE + head + b"\0\0\0\0" + hello)
    received = b""
    while b'"welcome"' not in received:
        data = sock.recv(65536)
        if not data:
            raise RuntimeError(f"the server closed connection {number}: {received!r}")
        received += data
    return sock


def rss_kib(pid: int) -> int:
    """Resident memory of a process."""
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith("VmRSS:"):
            return int(line.split()[1])
    raise RuntimeError("no VmRSS")


def cpu_s(pid: int) -> float:
    """CPU seconds that a process has used so far."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def measure(connection_count: int) -> dict[str, object]:
    """Run the node in another process and return the figures."""
    with tempfile.TemporaryDirectory() as directory, running_node(directory) as (pid, port):
        key, secret = app_key(directory)
        expires_at = int(time.time()) + 3600
        tokens = [
            jwt.encode({"sub": f"user{n}", "exp": expires_at}, secret, "HS256", headers={"kid": key})
            for n in range(connection_count)
        ]
        sockets = [connect(port, n, tokens[n]) for n in range(WARM_UP_COUNT)]
        before_kib = rss_kib(pid)
        started_at = time.monotonic()
        sockets += [connect(port, n, tokens[n]) for n in range(WARM_UP_COUNT, connection_count)]
        elapsed_s = time.monotonic() - started_at
        time.sleep(SETTLE_S)
        after_kib = rss_kib(pid)
        busy_before_s = cpu_s(pid)
        time.sleep(IDLE_S)
        busy_s = cpu_s(pid) - busy_before_s
        for sock in sockets:
            sock.close()
    added = connection_count - WARM_UP_COUNT
    return {
        "bench": "connections_idle",
        "machine": platform.node(),
        "python": platform.python_version(),
        "connections": connection_count,
        "kib_per_connection": round((after_kib - before_kib) / added, 1),
        "node_rss_mib": round(after_kib / 1024, 1),
        "connects_per_s": round(added / elapsed_s),
        "idle_cpu_share": round(busy_s / IDLE_S, 3),
    }


def main() -> None:
    """Run as the docstring says."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("connections", nargs="?", type=int, default=2000)
    arguments = parser.parse_args()
    _soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    # The node inherits it.
    resource.setrlimit(resource.RLIMIT_NOFILE, (min(hard, arguments.connections + 500), hard))
    print(json.dumps(measure(arguments.connections)))


if __name__ == "__main__":
    main()
