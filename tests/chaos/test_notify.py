"""kill -9 while notifications are on their way: none that was accepted is lost, and each double is counted.

Nodes are killed at random moments, so also between "attempt stored", "sent" and "result stored"; the provider
answers late, so that there is always something in between. Two types are sent: one that may come twice after
an unknown outcome, and one that must not. A failure prints its seed; HUBBUB_SEED repeats the choices (not the
scheduling).
"""

import os
import random
from collections import Counter
from pathlib import Path
from typing import Final

import httpx
import msgspec
import pytest
import trio

from protocol.http_notify import ProviderBody
from protocol.notify_types import TypeRule
from server.sandbox.faults import Fault
from server.sandbox.sandbox import Sandbox, open_sandbox
from tests.chaos.scenarios import until_owned
from tests.cluster_nodes import ClusterProcesses, running_cluster

IS_LONG: Final = os.environ.get("HUBBUB_LONG") == "1"
SENDERS: Final = 8
EACH: Final = 150 if IS_LONG else 30
KILLS: Final = 20 if IS_LONG else 4
USERS: Final = 40
ANSWER_S: Final = 0.05  # the provider's, so that a kill finds requests under way
DONE_S: Final = 90.0  # leases of a dead node have to run out, and retries wait
pytestmark = [pytest.mark.chaos, pytest.mark.slow, pytest.mark.timeout(900 if IS_LONG else 240)]


class App:
    """The app's backend: it repeats what was not answered, under the same key, at whichever node answers."""

    def __init__(self, cluster: ClusterProcesses, auth: tuple[str, str]) -> None:
        self.cluster = cluster
        self.client = httpx.AsyncClient(auth=auth, timeout=10)
        self.users: list[str] = []
        self.accepted: dict[int, str] = {}  # notification_id -> type
        self.answered = trio.Event()

    async def ask(self, method: str, path: str, body: object) -> httpx.Response:
        """Ask until a node answers with something else than "later"."""
        pause_s = 0.05
        while True:
            for node in random.sample(self.cluster.nodes, len(self.cluster.nodes)):
                try:
                    response = await self.client.request(
                        method, f"{node.url}{path}", content=msgspec.json.encode(body)
                    )
                except httpx.HTTPError:
                    continue
                if response.status_code < 429:
                    return response
            await trio.sleep(pause_s)  # nobody tells when a node is back
            pause_s = min(1.0, 2 * pause_s)

    async def set_up(self, sandbox: Sandbox) -> None:
        config = ProviderBody(config=sandbox.configs().apns)
        assert (await self.ask("PUT", "/v1/app/notify/providers/apns", config)).status_code == 200
        for name, may_double in (("code", True), ("transfer", False)):
            rule = TypeRule(name=name, channels=["apns"], is_security=True, may_double=may_double)
            assert (await self.ask("PUT", f"/v1/app/notify/types/{name}", rule)).status_code == 200
        for node in self.cluster.nodes:  # changes reach other nodes within 3 s, and at once where one asks
            (await self.client.get(f"{node.url}/v1/app/notify")).raise_for_status()
        wanted = {"users": [{"external_id": f"u{number}"} for number in range(USERS)]}
        made = (await self.ask("POST", "/v1/app/users", wanted)).json()
        self.users = [item["user"]["user_id"] for item in made["items"]]
        for number, user_id in enumerate(self.users):
            address = {"channel": "apns", "address": f"{number + 1:064x}"}
            response = await self.ask("POST", f"/v1/app/users/{user_id}/addresses", address)
            assert response.status_code == 200, response.text

    async def send(self, sender: int) -> None:
        for number in range(EACH):
            kind = "code" if number % 2 else "transfer"
            wanted = {
                "type": kind,
                "user_id": random.choice(self.users),
                "text": f"{sender} {number}",
                "idempotency_key": f"{sender}-{number}",
            }
            response = await self.ask("POST", "/v1/notifications", wanted)
            assert response.status_code == 202, response.text
            (item,) = response.json()["items"]
            assert item.get("state") not in ("dropped", "refused"), item
            self.accepted[item["notification_id"]] = kind


def _open(cluster: ClusterProcesses) -> list[tuple[int, str]]:
    with cluster.database() as connection:
        return connection.execute(
            "SELECT notification_id, state FROM notification WHERE state IN ('open', 'held')"
        ).fetchall()


def _deliveries(cluster: ClusterProcesses) -> dict[str, tuple[str, int, int]]:
    """delivery_id -> state, attempts, doubles."""
    with cluster.database() as connection:
        rows = connection.execute("SELECT notification_id, number, state, attempt, doubles FROM delivery")
        return {f"{row[0]:x}-{row[1]}": tuple(row[2:]) for row in rows.fetchall()}


async def _until_done(cluster: ClusterProcesses) -> None:
    """Wait until nothing is under way any more."""
    with trio.move_on_after(DONE_S) as scope:
        while True:
            if not await trio.to_thread.run_sync(_open, cluster):
                return
            await trio.sleep(0.2)  # the store tells nobody when it changes
    if scope.cancelled_caught:
        with cluster.database() as connection:
            left = connection.execute("SELECT * FROM delivery WHERE is_open = 1 LIMIT 5").fetchall()
        evidence = "\n".join(cluster.evidence()[-20:])
        raise AssertionError(f"still open: {_open(cluster)[:10]}, {left}\n{evidence}")


async def _kill_some(cluster: ClusterProcesses, rng: random.Random, done: trio.Event) -> int:
    kills = 0
    while kills < KILLS and not done.is_set():
        with trio.move_on_after(rng.uniform(0.2, 1.5)):
            await done.wait()
        node = rng.choice(cluster.nodes)
        await trio.to_thread.run_sync(node.kill)
        kills += 1
        await trio.to_thread.run_sync(node.start)
    return kills


@pytest.mark.parametrize("count", [1, 3])
async def test_nothing_accepted_is_lost_and_doubles_are_counted(tmp_path: Path, count: int) -> None:
    """A bank sends its codes and its receipts by this."""
    seed = int(os.environ.get("HUBBUB_SEED") or random.randrange(1 << 32))
    rng = random.Random(seed)
    async with open_sandbox() as sandbox:
        sandbox.inject(Fault(channel="apns", delay_s=ANSWER_S))
        with running_cluster(tmp_path, count, "--notify-networks", "127.0.0.0/8") as cluster:
            await until_owned(cluster)
            auth = await trio.to_thread.run_sync(cluster.app_key)
            app = App(cluster, auth)
            await app.set_up(sandbox)
            done = trio.Event()
            kills = 0

            async def kill() -> None:
                nonlocal kills
                kills = await _kill_some(cluster, rng, done)

            async with trio.open_nursery() as killing:
                killing.start_soon(kill)
                async with trio.open_nursery() as sending:
                    for sender in range(SENDERS):
                        sending.start_soon(app.send, sender)
            done.set()
            await _until_done(cluster)
            deliveries = await trio.to_thread.run_sync(_deliveries, cluster)
            await app.client.aclose()
            evidence = f"seed {seed}, {kills} kills"
        assert kills > 0, evidence
        assert len(app.accepted) == SENDERS * EACH, evidence
        copies = Counter(found.identity for found in sandbox.deliveries("apns"))
        for notification_id, kind in app.accepted.items():
            name = f"{notification_id:x}-0"
            state, attempts, doubles = deliveries[name]
            told = f"{evidence}: {kind} {name} is {state} after {attempts}, {copies[name]} copies, {doubles}"
            if kind == "code":  # sent again until it is known to have arrived
                assert state == "accepted", told
            else:  # never twice, so it may be unknown
                assert state in ("accepted", "unknown"), told
                assert attempts == 1, told
            assert copies[name] >= (state == "accepted"), told
            assert copies[name] <= 1 + doubles, told
        assert set(copies) <= set(deliveries), evidence
