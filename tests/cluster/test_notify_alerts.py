"""Alerts of what all nodes could find are told by the one that looks, and by no other that has looked."""

from pathlib import Path
from typing import Any

import msgspec
import pytest
import trio

from cluster.placement import desired_owners
from protocol.notify_content import NotifyRequest
from protocol.notify_records import AlertRow, DeadDelivery
from protocol.notify_types import AppRules, TypeRule
from server.clock import wall_clock_ms
from server.notify import alert_keeper, setups, watch
from server.sandbox.faults import Fault
from server.sandbox.sandbox import Sandbox, open_sandbox
from tests.cluster.worlds import Member, open_cluster
from tests.server.notify.notify_world import APP, apns_devices
from tests.server.notify.test_http_notify import Hooks, open_webhooks


async def dead_letter(member: Member, sandbox: Sandbox, hooks: Hooks) -> None:
    """Have a delivery refused for good, in an app whose webhook is called."""
    (user_id,) = await member.crowd(1)
    await member.store.commit(apns_devices([user_id]))
    core = member.core.notifications
    await core.desk.put_rules(APP, AppRules(alert_webhook=f"{hooks.url}/alerts"))
    await core.desk.put_provider(APP, "apns", sandbox.configs().apns)
    await core.desk.put_type(APP, TypeRule(name="push", channels=["apns"], is_capped=False, dedup_s=0))
    sandbox.inject(Fault(channel="apns", status=400, code="BadTopic", times=1))
    await core.entry.notify(APP, NotifyRequest(type="push", user_ids=[user_id], text="x"))


async def nodes_of_rows(member: Member) -> set[str]:
    return {row.node_id for row in await member.store.find(AlertRow, {"kind": "dead_letter"})}


async def owns_first(member: Member) -> None:
    while not member.node.keeper.owns(0):  # noqa: ASYNC110 - the keeper tells nobody
        await trio.sleep(0.02)


@pytest.mark.slow
async def test_a_node_that_looks_no_more_tells_no_more_of_what_it_has_found(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Shard 0 moves for balance; both nodes live, and one of them tells."""
    monkeypatch.setattr(watch, "LOOK_S", 0.05)
    monkeypatch.setattr(setups, "REFRESH_S", 0.05)
    monkeypatch.setattr(alert_keeper, "PAUSE_S", 0.01)
    later_name = desired_owners(["n1", "n2"])[0]  # takes shard 0, once there are two
    (first_name,) = {"n1", "n2"} - {later_name}
    async with (
        open_sandbox() as sandbox,
        open_webhooks() as hooks,
        open_cluster(tmp_path, first_name) as world,
    ):
        first = world.members[first_name]
        first.now_ms = wall_clock_ms()
        hooks.refuses["/alerts"] = 500
        await dead_letter(first, sandbox, hooks)
        await hooks.until_told("/alerts", 1)
        assert await nodes_of_rows(first) == {first_name}
        (later,) = await world.start(later_name)
        later.now_ms = first.now_ms
        await owns_first(later)
        while await nodes_of_rows(first) != {later_name}:  # noqa: ASYNC110 - the store tells nobody
            await trio.sleep(0.02)
        hooks.refuses.clear()
        before = len(hooks.at("/alerts"))
        for member in (first, later):
            member.now_ms += 600_000  # longer than any pause between two tries
        while await later.store.find(DeadDelivery, {"alerted_at_ms": 0}):  # noqa: ASYNC110 - as above
            await trio.sleep(0.02)
        told: list[dict[str, Any]] = [msgspec.json.decode(body) for body in hooks.at("/alerts")]
        assert [len(told) - before, len({alert["alert_id"] for alert in told})] == [1, 1]
        counts = [member.core.notifications.alerts.told_count for member in (first, later)]
        assert counts == [0, 1]
