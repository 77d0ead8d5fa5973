"""What operators and developers see of notifications, and what they say, holds for all nodes."""

from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
import trio

from actors.notify.address import KIND, partition_of
from protocol.http_notify_dashboard import NotifyDashboard
from protocol.notify_content import NotifyRequest
from protocol.notify_records import NotifyDeviceRow
from protocol.notify_types import TypeRule
from server.clock import wall_clock_ms
from server.notify import dashboard, node_views, rates, setups
from server.sandbox.faults import Fault
from server.sandbox.sandbox import Sandbox, open_sandbox
from tests.cluster.worlds import ClusterWorld, Member, open_cluster
from tests.server.notify.notify_world import APP, apns_devices


class Cluster:
    """Two nodes, and users with phones whose partitions are on one or on the other."""

    def __init__(self, world: ClusterWorld, sandbox: Sandbox, users: Sequence[str]) -> None:
        self.world = world
        self.sandbox = sandbox
        self.one, self.two = (world.members[name] for name in ("n1", "n2"))
        owners = {user_id: world.owner_of(KIND, str(partition_of(user_id))) for user_id in users}
        self.of_one = [user_id for user_id, owner in owners.items() if owner is self.one]
        self.of_two = [user_id for user_id, owner in owners.items() if owner is self.two]

    async def push(self, users: Sequence[str], text: str) -> list[int]:
        """Notify them through the first node; returns the notifications' ids."""
        request = NotifyRequest(type="push", user_ids=list(users), text=text)
        done = await self.one.core.notifications.entry.notify(APP, request)
        return [item.notification_id for item in done.items]

    async def settled(self, ids: Sequence[int]) -> None:
        """Wait until what became of all of them is stored, by whichever node."""
        reads = self.one.store.notify
        while {row.state for row in await reads.notifications(ids)} != {"done"}:  # noqa: ASYNC110 - by two nodes
            await trio.sleep(0.01)

    async def alive(self) -> set[str]:
        """Who has a phone that is not retired, as stored."""
        return {row.user_id for row in await self.one.store.find(NotifyDeviceRow, {"retired_at_ms": 0})}


@asynccontextmanager
async def open_pushing(
    folder: Path, monkeypatch: pytest.MonkeyPatch, *, count: int = 40
) -> AsyncIterator[Cluster]:
    """What others tell is asked for with each look, and changes are noticed soon, so that no test waits."""
    monkeypatch.setattr(node_views, "KEPT_S", 0.0)
    monkeypatch.setattr(dashboard, "KEPT_S", 0.0)
    monkeypatch.setattr(setups, "REFRESH_S", 0.05)
    async with open_sandbox() as sandbox, open_cluster(folder, "n1", "n2") as world:
        for member in world.members.values():
            member.now_ms = wall_clock_ms()
        one = world.members["n1"]
        users = await one.crowd(count)
        await one.store.commit(apns_devices(users))
        desk = one.core.notifications.desk
        await desk.put_provider(APP, "apns", sandbox.configs().apns)
        await desk.put_type(APP, TypeRule(name="push", channels=["apns"], is_capped=False, dedup_s=0))
        yield Cluster(world, sandbox, users)


async def shown(member: Member, app_id: str = "") -> NotifyDashboard:
    return await member.core.notifications.dashboard.of(app_id)


async def test_a_breaker_that_is_open_on_one_node_is_seen_on_the_other(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A load balancer leads to whichever node; half of the users hear nothing."""
    async with open_pushing(tmp_path, monkeypatch) as cluster:
        one, two = cluster.one, cluster.two
        cluster.sandbox.inject(Fault(channel="apns", status=403, code="InvalidProviderToken", times=1))
        await cluster.push(cluster.of_two[:1], "refused")
        while not two.core.notifications.channels.channels["apns"].breakers():  # noqa: ASYNC110
            await trio.sleep(0.005)
        assert not one.core.notifications.channels.channels["apns"].breakers()
        for member in (one, two):
            for app_id in ("", APP):
                (line,) = [line for line in (await shown(member, app_id)).providers.lines if line.kind]
                assert (line.breaker, line.breakers) == ("open", {"n2": "open"})
            assert await member.core.notifications.views.breakers(APP) == {("apns", "apns"): "open"}
        # Pausing and resuming it at one node closes it at the other, too.
        for is_paused in (True, False):
            await one.core.notifications.desk.pause_provider(APP, "apns", is_paused=is_paused)
        await cluster.sandbox.wait_for("apns", 1)
        assert await one.core.notifications.views.breakers(APP) == {}


async def test_rates_and_counts_are_those_of_all_nodes_whichever_is_asked(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Figures must not jump from one look to the next behind a load balancer."""
    monkeypatch.setattr(rates, "EVERY_S", 0.1)
    async with open_pushing(tmp_path, monkeypatch) as cluster:
        one, two = cluster.one, cluster.two
        await cluster.push([*cluster.of_one, *cluster.of_two], "all")
        await cluster.sandbox.wait_for("apns", 40)
        stats = [member.core.notifications.stats for member in (one, two)]
        while sum(one_stats.accepted for one_stats in stats) < 40:  # noqa: ASYNC110 - counters tell nobody
            await trio.sleep(0.005)
        assert [one_stats.notified for one_stats in stats] == [len(cluster.of_one), len(cluster.of_two)]
        assert min(one_stats.notified for one_stats in stats) > 0
        for member in (one, two):
            seen = await shown(member)
            assert seen.node_id == member.name
            assert [(line.node_id, line.is_missing) for line in seen.nodes] == [("n1", False), ("n2", False)]
            assert seen.rates.since_start["notified"] == seen.rates.since_start["accepted"] == 40
            assert (await shown(member, APP)).rates.since_start == {}  # of all apps: operators only
        while True:  # as soon as both have sampled what they did
            mine, theirs = await shown(one, APP), await shown(two, APP)
            if all(line.accepted_per_s for line in (*mine.nodes, *theirs.nodes)):
                break
            await trio.sleep(0.02)
        assert mine.rates.accepted_per_s == pytest.approx(sum(line.accepted_per_s for line in mine.nodes))
        other = await shown(one, "another")
        assert (other.rates.accepted_per_s, other.rates.notified_per_s) == (0, 0)


async def test_a_node_that_does_not_answer_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Figures without it look better than things are."""
    monkeypatch.setattr(node_views, "ASK_S", 0.05)
    async with open_pushing(tmp_path, monkeypatch) as cluster:
        cluster.world.network.cut("n1", "n2")
        seen = await shown(cluster.one, APP)
        assert [(line.node_id, line.is_missing) for line in seen.nodes] == [("n1", False), ("n2", True)]
        cluster.world.network.mend("n1", "n2")
        while any(line.is_missing for line in (await shown(cluster.one, APP)).nodes):  # noqa: ASYNC110
            await trio.sleep(0.02)


async def test_that_all_dead_addresses_may_go_is_said_once_for_all_nodes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whoever looked at an alert, and answers it at the node that happens to be there, means all of them."""
    async with open_pushing(tmp_path, monkeypatch, count=120) as cluster:
        users = {*cluster.of_one, *cluster.of_two}
        assert min(len(cluster.of_one), len(cluster.of_two)) > 30  # more than a guard lets go
        cluster.sandbox.inject(Fault(channel="apns", status=410, code="Unregistered"))

        await cluster.settled(await cluster.push(sorted(users), "first"))
        left = await cluster.alive()
        assert len(left) == 120 - 2 * 20
        assert {user_id in cluster.of_one for user_id in left} == {True, False}

        await cluster.one.core.notifications.desk.allow_retirement(APP, "apns", is_allowed=True)
        other = cluster.two.core.notifications.setups
        while not other.retirement_until_ms(APP, "apns"):  # noqa: ASYNC110 - refreshed by itself
            await trio.sleep(0.01)
        await cluster.settled(await cluster.push(sorted(left), "second"))
        assert await cluster.alive() == set()
