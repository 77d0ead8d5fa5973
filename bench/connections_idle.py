"""How much memory does an idle WebSocket connection cost the node?

Load: a server process with the real gateway, sessions and outboxes, behind them a service that does nothing;
N connections (default 2,000) of N users from this process, each welcomed and then silent. Unit: KiB of
resident memory of the server process per connection, and of that what Python's allocator holds. One JSON
line.

    python -m bench.connections_idle [N]
"""

import argparse
import gc
import json
import platform
import resource
import socket
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import trio

from actors.reply import Reply as ReplyPort
from protocol.codec import Wire, encode_payload
from protocol.commands import Command, Hello
from protocol.limits import MAX_FRAME_BYTES
from protocol.records import User
from protocol.replies import Welcome
from protocol.types import Profile, ServerLimits
from server.gateway import GatewaySettings, open_gateway
from server.identity import Identity
from server.metrics import Metrics
from server.ratelimit import Rate
from server.session import Session

WARM_UP_COUNT = 50  # connections before the first reading: imports, caches, the first arenas
UPGRADE = (
    b"GET /ws HTTP/1.1\r\nHost: bench\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
    b"Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n\r\n"
)


class SilentService:
    """Welcome everybody, and do nothing."""

    async def open(self, session: Session, hello: Hello) -> Welcome:
        await trio.lowlevel.checkpoint()
        return Welcome(
            user=Profile(user_id=session.user_id, username=session.user_id, name="Somebody"),
            app_id="app",
            session_id=session.identity.session_id,
            device_id=hello.device_id,
            node_id="bench",
            server="hubbub",
            now_ms=0,
            heartbeat_interval_s=30.0,
            limits=ServerLimits(
                max_frame_bytes=MAX_FRAME_BYTES,
                max_text_bytes=102_400,
                max_group_members=500,
                max_unacked_sends=32,
                max_file_bytes=0,
            ),
        )

    def handle(self, session: Session, command: Command, reply: ReplyPort) -> None:
        raise AssertionError("nobody sends anything")

    def closed(self, session: Session) -> None:
        """Nothing to detach."""


async def authenticate(token: str) -> Identity:
    """Take the token for the user's id."""
    await trio.lowlevel.checkpoint()
    user = User(
        user_id=token,
        app_id="app",
        username=token,
        username_key=token,
        name="Somebody",
        name_key="somebody",
        created_at_ms=0,
    )
    return Identity(user=user, app_id="app", session_id=f"login-of-{token}")


async def no_http(scope: Any, receive: Any, send: Any) -> None:
    """Take the lifespan's events; nobody asks for a page."""
    while (await receive())["type"] != "lifespan.shutdown":
        await send({"type": "lifespan.startup.complete"})
    await send({"type": "lifespan.shutdown.complete"})


async def serve(connection_count: int) -> None:
    """Serve until the standard input ends; answer each line by a reading."""
    settings = GatewaySettings(
        port=0,
        bot_port=None,
        max_connections=connection_count + 10,
        max_connections_per_address=connection_count + 10,
        connections=Rate(1e6, 1e6),
    )
    async with open_gateway(
        settings, authenticate=authenticate, service=SilentService(), app=no_http, metrics=Metrics()
    ) as gateway:
        print(gateway.port, flush=True)
        while await trio.to_thread.run_sync(sys.stdin.readline):
            gc.collect()
            reading = {"sessions": gateway.stats()["sessions"], "blocks": sys.getallocatedblocks()}
            print(json.dumps(reading), flush=True)


def connect(port: int, number: int) -> socket.socket:
    """Open one WebSocket and wait for its welcome."""
    sock = socket.create_connection(("127.0.0.1", port), timeout=30)
    hello = encode_payload(Hello(id=1, token=f"user{number}", device_id="device"), Wire.JSON_WS)
    assert len(hello) < 126
    sock.sendall(UPGRADE + bytes((0x81, 0x80 | len(hello))) + b"\0\0\0\0" + hello)
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


def measure(connection_count: int) -> dict[str, object]:
    """Run the server in another process and return the figures."""
    command = [sys.executable, "-m", "bench.connections_idle", "--serve", str(connection_count)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as server:
        assert server.stdin is not None
        assert server.stdout is not None

        def read() -> tuple[dict[str, int], int]:
            assert server.stdin is not None
            assert server.stdout is not None
            server.stdin.write("\n")
            server.stdin.flush()
            return json.loads(server.stdout.readline()), rss_kib(server.pid)

        port = int(server.stdout.readline())
        sockets = [connect(port, number) for number in range(WARM_UP_COUNT)]
        before, before_kib = read()
        started_at = time.monotonic()
        sockets += [
            connect(port, WARM_UP_COUNT + number) for number in range(connection_count - WARM_UP_COUNT)
        ]
        elapsed_s = time.monotonic() - started_at
        after, after_kib = read()
        for sock in sockets:
            sock.close()
        server.stdin.close()
    added = int(after["sessions"] - before["sessions"])
    return {
        "bench": "connections_idle",
        "machine": platform.node(),
        "python": platform.python_version(),
        "connections": int(after["sessions"]),
        "kib_per_connection": round((after_kib - before_kib) / added, 1),
        "blocks_per_connection": round((after["blocks"] - before["blocks"]) / added),
        "server_rss_mib": round(after_kib / 1024, 1),
        "connects_per_s": round(added / elapsed_s),
    }


def main() -> None:
    """Run as the docstring says."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("connections", nargs="?", type=int, default=2000)
    parser.add_argument("--serve", action="store_true", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    _soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (min(hard, arguments.connections + 200), hard))
    if arguments.serve:
        trio.run(serve, arguments.connections)
    else:
        print(json.dumps(measure(arguments.connections)))


if __name__ == "__main__":
    main()
