"""The process that both uvicorn peers are: their command line, their one endpoint, and uvicorn's settings.

Defaults but for what is said here. `websockets-sansio` is what uvicorn itself picks where websockets is
installed; `websockets` is deprecated and warns.
"""

import argparse
import json
import signal
import socket
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Final, Protocol

import uvicorn
from starlette.applications import Starlette
from starlette.routing import WebSocketRoute
from starlette.websockets import WebSocket

from bench.peers.uvicorn_store import Store
from protocol.limits import MAX_FRAME_BYTES

GRACE_S: Final = 5  # for connections to close at the end
SUBPROTOCOL: Final = "hubbub.json"


class Chat(Protocol):
    """What a peer makes of a store and a secret."""

    async def serve(self, websocket: WebSocket) -> None:
        """Serve one connection, accepted already, until it ends."""
        ...


class Server(uvicorn.Server):
    """Says on stdout when it listens: {"event": "started", "port": N}. `run` returns after SIGTERM."""

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        port = self.servers[0].sockets[0].getsockname()[1]
        print(json.dumps({"event": "started", "port": port}), flush=True)


def make_server(description: str, make_chat: Callable[[Store, str], Chat]) -> Server:
    """Read the command line and make the server; the store is open while it runs."""
    parser = argparse.ArgumentParser(description=description)
    parser.add_argument("--data-dir", type=Path, required=True)
    parser.add_argument("--port", type=int, default=0)
    parser.add_argument("--secret", required=True, help="what the app's backend signs its tokens with")
    options = parser.parse_args()
    # When uvicorn has shut down it raises the signal again: then nothing is left to do.
    signal.signal(signal.SIGTERM, lambda number, frame: None)
    return Server(
        uvicorn.Config(
            _make_app(options.data_dir, options.secret, make_chat),
            host="127.0.0.1",
            port=options.port,
            loop="uvloop",
            ws="websockets-sansio",
            ws_max_size=MAX_FRAME_BYTES,
            ws_per_message_deflate=False,
            ws_ping_interval=None,  # the clients send heartbeats
            log_level="warning",
            access_log=False,
            lifespan="on",
            timeout_graceful_shutdown=GRACE_S,
        )
    )


def _make_app(data_dir: Path, secret: str, make_chat: Callable[[Store, str], Chat]) -> Starlette:
    chats: list[Chat] = []

    @asynccontextmanager
    async def lifespan(app: Starlette) -> AsyncIterator[None]:
        store = Store(data_dir / "chat.sqlite3")
        chats.append(make_chat(store, secret))
        yield
        store.close()

    async def endpoint(websocket: WebSocket) -> None:
        is_offered = SUBPROTOCOL in websocket.scope["subprotocols"]
        await websocket.accept(subprotocol=SUBPROTOCOL if is_offered else None)
        await chats[0].serve(websocket)

    return Starlette(routes=[WebSocketRoute("/ws", endpoint)], lifespan=lifespan)
