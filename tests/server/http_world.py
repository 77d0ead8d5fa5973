"""A node's HTTP side as its users meet it: a real socket, the real store, the real actors behind it."""

from collections.abc import AsyncIterator, Callable, Collection, Sequence
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path
from typing import Any

import argon2
import httpx
import trio
from hypercorn.config import Config
from hypercorn.trio import serve

from protocol.types import NodeInfo
from server.accounts import AccountRates, Accounts
from server.chat_core import Alone, ChatCore
from server.clock import wall_clock_ms
from server.config import Settings
from server.directory import Directory
from server.files import Files
from server.http_api import HttpServices, make_http_app
from server.log_ins import LogIns
from server.passwords import Passwords
from storage.sqlite import SqliteStore, open_store
from tests.server.reach import HERE

SECRET = bytes(range(32))
PASSWORD = "a long pass phrase"


def cheap_passwords() -> Passwords:
    """The real hasher with parameters that do not slow every test down."""
    return Passwords(argon2.PasswordHasher(time_cost=1, memory_cost=8, parallelism=1))


class Person:
    """Somebody who is signed in."""

    def __init__(self, api: "Api", body: dict[str, Any], app_id: str) -> None:
        self.api = api
        self.token: str = body["token"]
        self.session_id: str = body["session_id"]
        self.user_id: str = body["user"]["user_id"]
        self.username: str = body["user"]["username"]
        self.app_id = app_id
        self.headers = {"authorization": f"Bearer {self.token}"}

    async def call(self, method: str, path: str, **more: Any) -> httpx.Response:
        headers = {**self.headers, **more.pop("headers", {})}
        return await self.api.client.request(method, path, headers=headers, **more)


class Api:
    """The server, and a client that talks to it."""

    def __init__(self, client: httpx.AsyncClient, services: HttpServices, store: SqliteStore) -> None:
        self.client = client
        self.accounts = services.accounts
        self.directory = services.directory
        self.campaigns = services.campaigns
        self.notifications = services.notifications
        self.store = store
        self.revoked: list[tuple[str, str]] = []
        self.reason = ""  # why the node is not ready

    async def call(self, method: str, path: str, **more: Any) -> httpx.Response:
        return await self.client.request(method, path, **more)

    async def sign_up(self, username: str, app_id: str = "default", **more: Any) -> Person:
        body = {"username": username, "password": PASSWORD, "app_id": app_id, **more}
        response = await self.client.post("/v1/signup", json=body)
        assert response.status_code == 201, response.text
        return Person(self, response.json(), app_id)

    async def log_in(self, username: str, app_id: str = "default") -> Person:
        body = {"username": username, "password": PASSWORD, "app_id": app_id, "device_name": "phone"}
        response = await self.client.post("/v1/login", json=body)
        assert response.status_code == 200, response.text
        return Person(self, response.json(), app_id)

    async def other_app(self) -> str:
        return (await self.directory.create_app("other")).app_id


def code_of(response: httpx.Response) -> tuple[int, str]:
    """Status and code of an error answer, after checking that it has the one shape of all errors."""
    body = response.json()
    assert set(body) <= {"code", "message", "retry_after_s"}, body
    assert body["message"]
    assert response.headers["content-type"] == "application/json"
    assert ("retry-after" in response.headers) == ("retry_after_s" in body)
    return response.status_code, body["code"]


@asynccontextmanager
async def open_api(
    folder: Path,
    *,
    settings: Settings | None = None,
    rates: AccountRates | None = None,
    clock: Callable[[], int] = wall_clock_ms,
    execute: Any = None,
    web_folder: Path | None = None,
    nodes: Sequence[NodeInfo] = (NodeInfo(node_id="n1", url="ws://127.0.0.1/ws"),),
    cluster_origins: Callable[[], Collection[str]] = frozenset,
    has_campaigns: bool = True,
) -> AsyncIterator[Api]:
    settings = settings or Settings(requests_per_s=10_000, requests_burst=10_000)
    api: Api
    async with open_store(folder) as store:
        directory = Directory(store, clock=clock)
        await directory.ensure_default_app()
        log_ins = LogIns(
            store,
            directory,
            SECRET,
            on_session_revoked=lambda session_id, user_id: api.revoked.append((session_id, user_id)),
            clock=clock,
        )
        accounts = Accounts(
            store,
            directory,
            log_ins,
            passwords=cheap_passwords(),
            rates=rates,
            is_sign_up_open=settings.sign_up_open,
            clock=clock,
        )
        core = ChatCore(
            store,
            directory,
            log_ins,
            surround=partial(Alone, await store.claim_all("n1")),
            node_id="n1",
            server="test",
            nodes=list,
            now_ms=clock,
            max_file_bytes=settings.max_file_bytes,
            secret=log_ins.server_secret,
            public_url=settings.public_url,
            reach=HERE,
        )
        accounts.on_user_changed = core.notifications.user_changed
        services = HttpServices(
            store=store,
            notifications=core.notifications,
            take_away=core.notify_service.take_away,
            plan=core.notify_service.plan,
            accounts=accounts,
            directory=directory,
            log_ins=log_ins,
            files=Files(store, store.files, max_file_bytes=settings.max_file_bytes, clock=clock),
            settings=settings,
            execute=execute or core.service.execute,
            nodes=lambda: nodes,
            cluster_origins=cluster_origins,
            not_ready=lambda: api.reason,
            metrics=lambda: b"hubbub_up 1\n",
            campaigns=core.feeds.campaigns if has_campaigns else None,
        )
        app = make_http_app(services, **({"web_folder": web_folder} if web_folder else {}))
        config = Config()
        config.bind = ["127.0.0.1:0"]
        config.errorlog = None
        config.graceful_timeout = 1.0
        stop = trio.Event()
        async with trio.open_nursery() as nursery:
            await nursery.start(core.supervisor.run)
            binds: list[str] = await nursery.start(partial(serve, app, config, shutdown_trigger=stop.wait))
            async with httpx.AsyncClient(base_url=binds[0], timeout=20) as client:
                api = Api(client, services, store)
                with trio.fail_after(60):
                    yield api
            stop.set()
            nursery.cancel_scope.cancel()
