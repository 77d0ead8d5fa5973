"""A thousand users connect, move and vanish across nodes; watchers on every node must come to agree.

Truth is what the users' own connections are; watchers are clients like any other, one session for each group
on each node (a session watches at most 500 users at once), and they see only what nodes push to them.
"""

import random
from collections.abc import Callable, Sequence
from functools import partial
from typing import cast

import httpx
import trio

from hubbub.accounts import AppBackend, sign_user_token
from protocol import commands as c
from protocol import events as e
from protocol import replies as r
from protocol.events import Event
from protocol.limits import PRESENCE_DEBOUNCE_S
from tests.chaos.checker import Findings
from tests.chaos.ledger import Ledger
from tests.chaos.light import LightClient, Place
from tests.chaos.load import place_of, provision
from tests.chaos.scenarios import Report, until_owned
from tests.cluster_nodes import ClusterProcesses

GROUP_SIZE = 250  # users of one group, all watched by one session on each node
DIGEST_EVERY_S = 0.2
AGREE_WITHIN_S = 5.0  # after the last change that is to be shown
GRACE_S = 5.0  # after a node's loss is known, before its users are shown as gone
LOSS_KNOWN_WITHIN_S = 15.0  # membership: dead within ten seconds, a busy machine's slack
CONNECTING = 50  # at a time


class User:
    """One user and the device that it has while it is there."""

    def __init__(self, user_id: str, token: str) -> None:
        self.user_id = user_id
        self.token = token
        self.client: LightClient | None = None
        self.goes_back = True  # whether it connects again when its node dies

    @property
    def is_there(self) -> bool:
        return self.client is not None


class Watcher:
    """A session that watches a group's users on one node, and when it was told what."""

    def __init__(self, node: str, users: Sequence[User], on_news: Callable[[], None]) -> None:
        self.node = node
        self._on_news = on_news
        self.user_ids = [user.user_id for user in users]
        self.shown = dict.fromkeys(self.user_ids, "offline")
        self.told: dict[str, list[tuple[float, str]]] = {user_id: [] for user_id in self.user_ids}

    def take(self, event: Event) -> None:
        for item in cast("e.Presence", event).items:
            if self.shown.get(item.user_id) != item.state:
                self.shown[item.user_id] = item.state
                self.told[item.user_id].append((trio.current_time(), item.state))
        self._on_news()

    def greet(self, next_id: Callable[[], int]) -> list[c.Command]:
        return [c.WatchPresence(id=next_id(), user_ids=self.user_ids)]


class PresenceWorld:
    """All users, all watchers, and what is done to them."""

    def __init__(self, cluster: ClusterProcesses, seed: int) -> None:
        self.cluster = cluster
        self.rng = random.Random(f"presence {seed}")
        self.ledger = Ledger()
        self.users: list[User] = []
        self.watchers: list[Watcher] = []
        self.places: list[Place] = [place_of(node) for node in cluster.nodes]
        self.last_shown_change_at = 0.0  # when the last change is due to be shown
        self.changes = 0
        self._tasks: trio.Nursery
        self._watching: list[LightClient] = []
        self._news = trio.Event()  # a watcher was told something

    async def prepare(self, count: int, nursery: trio.Nursery) -> None:
        """Make users, groups and watchers."""
        self._tasks = nursery
        key, secret = await trio.to_thread.run_sync(self.cluster.app_key)
        sign = partial(sign_user_token, key, secret, ttl_s=24 * 3600)
        async with AppBackend(self.cluster.nodes[0].url, key, secret) as backend:
            names = [f"user{number}" for number in range(count)]
            ids = await provision(backend, [*names, "watcher"])
            self.users = [User(ids[name], sign(name)) for name in names]
            for start in range(0, count, GROUP_SIZE):
                part = self.users[start : start + GROUP_SIZE]
                await backend.command_as(
                    ids["watcher"],
                    c.CreateGroup(
                        id=1,
                        client_id=f"watched-{start}",
                        title="Watched",
                        member_ids=[user.user_id for user in part],
                    ),
                    r.ConversationInfo,
                )
                for number, place in enumerate(self.places):
                    watcher = Watcher(place.node, part, self._wake)
                    client = LightClient(
                        f"watcher on {place.node}",
                        sign("watcher"),
                        [place],
                        self.ledger,
                        random.Random(self.rng.random()),
                        device_id=f"watch-{number}-{start}",
                        focus=[],
                        beat_s=5.0,
                        on_live=watcher.take,
                        greet=watcher.greet,
                    )
                    self.watchers.append(watcher)
                    self._watching.append(client)
                    nursery.start_soon(client.run)
        for client in self._watching:
            await client.connected.wait()

    # -- what users do ------------------------------------------------------------------------------

    def connect(self, user: User, place: int) -> None:
        user.client = LightClient(
            user.user_id,
            user.token,
            self.places,
            self.ledger,
            random.Random(self.rng.random()),
            focus=[],
            beat_s=30.0,
            first=self.places[place],
        )
        self._tasks.start_soon(user.client.run)
        self._changed(0.0)

    def vanish(self, user: User) -> None:
        assert user.client is not None
        user.client.leave()
        user.client = None
        self._changed(PRESENCE_DEBOUNCE_S)

    def move(self, user: User, place: int) -> None:
        """Leave one node and come to another one at once: nobody should see anything."""
        assert user.client is not None
        user.client.move(self.places[place])
        self.changes += 1

    def _changed(self, shown_after_s: float) -> None:
        self.changes += 1
        self.last_shown_change_at = max(self.last_shown_change_at, trio.current_time() + shown_after_s)

    async def until_connected(self) -> None:
        """Wait until everybody who should be there is welcomed; then the last change is now, at the least."""
        for user in self.users:
            if user.client is not None:
                await user.client.connected.wait()
        self.last_shown_change_at = max(self.last_shown_change_at, trio.current_time())

    async def bring_all(self) -> None:
        """Everybody connects, spread over all nodes."""
        for start in range(0, len(self.users), CONNECTING):
            part = self.users[start : start + CONNECTING]
            for user in part:
                if not user.is_there:
                    self.connect(user, self.rng.randrange(len(self.places)))
            for user in part:
                assert user.client is not None
                await user.client.connected.wait()
        await self.until_connected()

    async def stir(self, duration_s: float, per_s: float) -> None:
        """Users come, go and move, at a steady pace."""
        start = due = trio.current_time()
        while due < start + duration_s:
            await trio.sleep_until(due)
            due += 1.0 / per_s
            user = self.rng.choice(self.users)
            place = self.rng.randrange(len(self.places))
            if not user.is_there:
                self.connect(user, place)
            elif self.rng.random() < 0.5:
                self.move(user, place)
            else:
                self.vanish(user)
        await self.until_connected()

    # -- what watchers see --------------------------------------------------------------------------

    def differences(self) -> list[str]:
        """Where what a watcher is shown is not what is."""
        there = {user.user_id: "online" if user.is_there else "offline" for user in self.users}
        return [
            f"{watcher.node} shows {user_id} as {shown}, which is {there[user_id]}"
            for watcher in self.watchers
            for user_id, shown in watcher.shown.items()
            if shown != there[user_id]
        ]

    async def until_agreed(self, findings: Findings, what: str) -> float:
        """Wait until all watchers see the truth. Returns how long after the last change that was."""
        while trio.current_time() < self.last_shown_change_at + AGREE_WITHIN_S:
            if not self.differences():
                return max(0.0, trio.current_time() - self.last_shown_change_at)
            with trio.move_on_at(self.last_shown_change_at + AGREE_WITHIN_S):
                await self._news.wait()
        for text in self.differences():
            findings.add(f"{what}, after {AGREE_WITHIN_S:g} s", text)
        return AGREE_WITHIN_S

    def _wake(self) -> None:
        news, self._news = self._news, trio.Event()
        news.set()

    async def settled_digests(self) -> dict[str, str]:
        """What each node says of its whole table, once they say the same, or after the bound.

        They are asked one after the other, and whom nobody watches may be shown as gone in between.
        """
        deadline = trio.current_time() + AGREE_WITHIN_S
        while True:
            found = await self._digests()
            if len(set(found.values())) <= 1 or trio.current_time() >= deadline:
                return found
            await trio.sleep(DIGEST_EVERY_S)

    async def _digests(self) -> dict[str, str]:
        """Empty where nodes do not tell."""
        found: dict[str, str] = {}
        async with httpx.AsyncClient(timeout=10.0) as http:
            for node in self.cluster.nodes:
                if node.is_running:
                    answer = await http.get(f"{node.url}/v1/cluster")
                    if answer.status_code == 200:
                        found[node.name] = str(answer.json().get("presence_digest", ""))
        return {name: digest for name, digest in found.items() if digest}

    async def lose_node(self, findings: Findings) -> dict[str, float]:
        """kill -9: half of the node's users come back elsewhere at once, the others are gone for good."""
        node = self.rng.choice(self.cluster.nodes)
        there = [user for user in self.users if user.client is not None and user.client.node == node.name]
        gone, back = there[::2], there[1::2]
        elsewhere = [place for place in self.places if place.node != node.name]
        for user in gone:
            assert user.client is not None
            user.client.comes_back = False
        for user in back:
            assert user.client is not None
            user.client.next_place = self.rng.choice(elsewhere)
        killed_at = trio.current_time()
        await trio.to_thread.run_sync(node.kill)
        for user in gone:
            user.client = None
        watchers = [watcher for watcher in self.watchers if watcher.node != node.name]
        self.watchers = watchers
        deadline = killed_at + LOSS_KNOWN_WITHIN_S + GRACE_S + AGREE_WITHIN_S
        with trio.move_on_at(deadline):
            while self.differences():
                await self._news.wait()
        for text in self.differences():
            findings.add(f"{deadline - killed_at:g} s after the loss of {node.name}", text)
        gone_ids, back_ids = ({user.user_id for user in part} for part in (gone, back))
        took: list[float] = []
        for watcher in watchers:
            for user_id, told in watcher.told.items():
                for at, state in told:
                    if at < killed_at or state != "offline":
                        continue
                    if user_id in back_ids:
                        findings.add("flicker", f"{watcher.node} showed {user_id} as gone, who came back")
                    if user_id in gone_ids:
                        took.append(at - killed_at)
                        if at < killed_at + GRACE_S:
                            findings.add(
                                "grace",
                                f"{watcher.node} showed {user_id} as gone {at - killed_at:.1f} s after",
                            )
        return {
            "lost_users": len(gone),
            "moved_users": len(back),
            "first_offline_s": round(min(took, default=0.0), 1),
            "last_offline_s": round(max(took, default=0.0), 1),
        }


async def run_presence(cluster: ClusterProcesses, report: Report, *, users: int, stir_s: float) -> None:
    """The whole scenario; what is wrong goes into the report."""
    findings = Findings()
    await trio.to_thread.run_sync(cluster.start_all)
    if cluster.is_clustered:
        await until_owned(cluster)
    began = trio.current_time()
    world = PresenceWorld(cluster, report.seed)
    async with trio.open_nursery() as nursery:
        await world.prepare(users, nursery)
        start = trio.current_time()
        await world.bring_all()
        report.notes["connected_per_s"] = round(users / (trio.current_time() - start))
        report.notes["agreed_on_all_s"] = round(await world.until_agreed(findings, "all came"), 2)
        # A quarter of the users each second would be a storm of its own; this is a lively evening.
        await world.stir(stir_s, per_s=users / 20)
        report.notes["agreed_after_stir_s"] = round(await world.until_agreed(findings, "stirred"), 2)
        digests = await world.settled_digests()
        report.notes["digests"] = digests
        if len(set(digests.values())) > 1:
            findings.add("digest", f"{digests}")
        if cluster.is_clustered:
            report.notes |= await world.lose_node(findings)
        nursery.cancel_scope.cancel()
    report.seconds = trio.current_time() - began
    report.counts = {
        "users": users,
        "changes": world.changes,
        "watchers": len(world.watchers),
        "told": sum(len(told) for watcher in world.watchers for told in watcher.told.values()),
        "refusals": dict(world.ledger.refusals),
    }
    report.findings += findings.lines()
    if not report.is_ok:
        report.evidence = cluster.evidence()
