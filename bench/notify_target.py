"""The server of `hubbub bench notify`: a hubbub whose store has the people, and the sandbox as its providers.

The sandbox is a process of its own on the client's core, and what it costs is not the server's.
"""

import json
import os
import shutil
import tempfile
import time
import urllib.error
import urllib.request
import weakref
from base64 import b64encode
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final, TypeVar

import msgspec

from bench.feed_rows import prepare
from bench.load.target import CannotRun, Cores, Hubbub, Target, make_app_key
from bench.notify_cast import (
    RULES,
    SUBSCRIPTIONS,
    TYPES,
    USER_COUNT,
    Person,
    Subscription,
    make_people,
    write,
    write_subscriptions,
)
from server.sandbox.keyring import Addresses
from server.sandbox.ledger import Arrival

PROVIDERS: Final = ("apns", "fcm", "webpush", "twilio", "smtp")
# The sandbox's names for channels. Text messages go by Twilio's API.
SERVICES: Final = {"apns": "apns", "fcm": "fcm", "webpush": "webpush", "sms": "twilio", "email": "smtp"}
_TIMEOUT_S: Final = 60.0
T = TypeVar("T")


class NotifyWorld:
    """The people, and a data directory that was filled with them once: each run gets a copy."""

    def __init__(self, user_count: int = USER_COUNT) -> None:
        self.people: list[Person] = make_people(user_count)
        self._directory: Path | None = None
        self._key = ("", "")

    def copy_to(self, data: Path) -> tuple[str, str]:
        """Make a data directory; return an app's key and secret for it."""
        if self._directory is None:
            self._directory = Path(tempfile.mkdtemp(prefix="hubbub-bench-people-"))
            weakref.finalize(self, shutil.rmtree, self._directory, ignore_errors=True)
            filled = self._directory / "data"
            prepare(filled)
            self._key = make_app_key(str(filled))
            write(filled, self.people)
        shutil.copytree(self._directory / "data", data)
        os.sync()  # what is on its way to the disk would hold up the commits that are measured
        return self._key


class SandboxProcess:
    """The providers, as a process of their own on the client's core."""

    def __init__(self, target: Target) -> None:
        """Start it for a target, whose directory it shares. Raises: CannotRun."""
        self.directory = target.directory / "sandbox"
        command = ["-m", "server", "sandbox", "--port", "0", "--dir", str(self.directory)]
        command += ["--keep", "ids", "--json"]
        said = target._spawn(command, cores=target.cores.client, is_up=lambda line: "control_url" in line)
        self._process = target.processes.pop()  # what it costs is not the server's
        self.addresses = msgspec.convert(said, Addresses)

    @property
    def pid(self) -> int:
        return self._process.pid

    def config(self, name: str, kind: type[T]) -> T:
        """Ready-made settings of a provider."""
        return msgspec.json.decode((self.directory / f"{name}.json").read_bytes(), type=kind)

    def arrivals(self, channel: str) -> list[Arrival]:
        """What the provider of a channel has taken."""
        url = f"{self.addresses.control_url}/v1/arrivals/{SERVICES[channel]}"
        return msgspec.json.decode(_fetch(url), type=list[Arrival])

    def arrival_count(self) -> int:
        """How much all providers have taken so far."""
        counts = json.loads(_fetch(f"{self.addresses.control_url}/v1/counts"))
        return sum(counts[service]["count"] for service in SERVICES.values())

    def subscribe(self, count: int) -> list[Subscription]:
        """Let browsers subscribe."""
        url = f"{self.addresses.control_url}/v1/webpush/subscriptions"
        made = [json.loads(_fetch(url, "POST", b"{}")) for _ in range(count)]
        return [Subscription(one["endpoint"], one["keys"]) for one in made]

    def stop(self) -> None:
        self._process.terminate()
        self._process.wait()
        if self._process.stdin is not None:
            self._process.stdin.close()


class NotifyHubbub(Hubbub):
    """`hubbub serve` with people, types and providers."""

    wires: tuple[str, ...] = ("bot",)

    def __init__(
        self, directory: Path, cores: Cores, *, world: NotifyWorld, flags: Sequence[str] = ()
    ) -> None:
        super().__init__(directory, cores, flags=("--notify-networks", "127.0.0.0/8", *flags))
        self.world = world
        self._sandbox: SandboxProcess | None = None

    @property
    def app_key(self) -> tuple[str, str]:
        """Key and secret of the app."""
        return self._app_key, self._app_secret

    @property
    def database(self) -> Path:
        """Where the records are."""
        return self.directory / "data" / "hubbub.db"

    @property
    def sandbox(self) -> SandboxProcess:
        assert self._sandbox is not None, "the server has not been started"
        return self._sandbox

    def start(self) -> None:
        data = self.directory / "data"
        if not data.exists():
            self._app_key, self._app_secret = self.world.copy_to(data)
        if self._sandbox is None:
            self._sandbox = SandboxProcess(self)
            subscriptions = self._sandbox.subscribe(min(SUBSCRIPTIONS, len(self.world.people)))
            write_subscriptions(data, self.world.people, subscriptions)
        super().start()
        self._set_up()

    def stop(self) -> None:
        super().stop()
        if self._sandbox is not None:
            self._sandbox.stop()
            self._sandbox = None

    def call(self, method: str, path: str, body: object = None) -> Any:
        """Call the server's HTTP API as the app's backend."""
        host, port = self.addresses("json")[0]
        token = b64encode(f"{self._app_key}:{self._app_secret}".encode()).decode()
        return json.loads(
            _fetch(
                f"http://{host}:{port}{path}",
                method,
                msgspec.json.encode(body) if body is not None else None,
                {"Authorization": f"Basic {token}", "Content-Type": "application/json"},
            )
        )

    def _set_up(self) -> None:
        """As an operator does it."""
        self.call("PUT", "/v1/app/notify/rules", RULES)
        for rule in TYPES:
            self.call("PUT", f"/v1/app/notify/types/{rule.name}", rule)
        for name in PROVIDERS:
            config = self.sandbox.config(name, dict)
            self.call("PUT", f"/v1/app/notify/providers/{name}", {"config": config})


def _fetch(
    url: str, method: str = "GET", body: bytes | None = None, headers: dict[str, str] | None = None
) -> bytes:
    """As clients do: who is asked to come again later does, for as long as one answer may take."""
    request = urllib.request.Request(url, data=body, method=method, headers=headers or {})
    give_up_at = time.monotonic() + _TIMEOUT_S
    while True:
        try:
            with urllib.request.urlopen(request, timeout=_TIMEOUT_S) as response:
                answer: bytes = response.read()
                return answer
        except urllib.error.HTTPError as exc:
            wait_s = exc.headers.get("Retry-After", "")
            if exc.code != 503 or not wait_s.isdigit() or time.monotonic() + int(wait_s) > give_up_at:
                raise CannotRun(f"{method} {url}: {exc.code} {exc.read()[:300]!r}") from exc
            time.sleep(int(wait_s))
