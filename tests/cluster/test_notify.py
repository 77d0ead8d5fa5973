"""Notifications over several nodes: users and their partitions each where their shards happen to be."""

from pathlib import Path

import msgspec
import pytest
import trio

from actors.notify import fact_keeper
from protocol import commands, notify_commands, notify_replies
from protocol.notify_content import NotifyRequest
from protocol.notify_records import NotifyDeviceRow
from protocol.notify_replies import RequestCancelled
from protocol.notify_templates import ChannelText, Template, Variable
from protocol.notify_types import TypeRule
from server.notify import setups
from server.sandbox.faults import Fault
from server.sandbox.sandbox import open_sandbox
from tests.cluster.worlds import open_cluster
from tests.server.world import Device


async def _zone(device: Device) -> str:
    """The user's time zone, as the partition knows it."""
    found = await device.do(notify_commands.GetPreferences())
    assert isinstance(found, notify_replies.PreferencesInfo)
    return found.time_zone


async def test_a_changed_user_is_known_on_whichever_node_decides(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A profile is changed where its user lives, and read where the partition does."""
    monkeypatch.setattr(fact_keeper, "MAX_AGE_S", float("inf"))  # only what is told counts
    async with open_cluster(tmp_path, "n1", "n2") as cluster:
        people = [
            await node.person(f"p{node.name}{n}") for node in cluster.members.values() for n in range(4)
        ]
        for person in people:
            assert await _zone(person) == ""
            await person.do(commands.UpdateProfile(time_zone="Asia/Tokyo"))
            while await _zone(person) != "Asia/Tokyo":  # the tell and the question come by two ways
                pass


async def test_a_request_is_cancelled_on_all_nodes_that_hold_a_part_of_it(tmp_path: Path) -> None:
    """Its users belong to partitions here and there, and the app's actor to one node."""
    async with open_cluster(tmp_path, "n1", "n2") as cluster:
        one, two = (cluster.members[name] for name in ("n1", "n2"))
        users = await one.crowd(40)
        request = NotifyRequest(type="contact", user_ids=users, text="x", send_at="2099-01-01T00:00:00")
        done = await one.core.notifications.entry.notify("default", request)
        found = await two.core.notifications.entry.cancel("default", done.request_id)
        assert found == RequestCancelled(request_id=done.request_id, state="cancelled", cancelled=40)


async def test_what_an_app_sets_up_on_one_node_holds_at_once_on_all(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A backend puts a type and a template through one node, and notifies through another."""
    monkeypatch.setattr(setups, "REFRESH_S", 3600.0)
    async with open_cluster(tmp_path, "n1", "n2") as cluster:
        one, two = (cluster.members[name].core.notifications for name in ("n1", "n2"))
        users = await cluster.members["n1"].crowd(20)
        for core in (one, two):  # both have it in memory, as it was
            await core.entry.notify("default", NotifyRequest(type="contact", user_ids=users, text="before"))
        text = ChannelText(title="{{ n }}", body="You have {{ n }} points.")
        template = Template(
            name="points", variables={"n": Variable()}, texts={"default": {"en": {"default": text}}}
        )
        await one.desk.put_type("default", TypeRule(name="points", channels=["inapp"]))
        await one.desk.put_template("default", template)
        request = NotifyRequest(type="points", user_ids=users, template="points", data={"n": "7"})
        done = await two.entry.notify("default", request)
        assert {item.state for item in done.items} == {"done"}
        await one.desk.put_type("default", TypeRule(name="points", channels=["inapp"], purpose="ads"))
        done = await one.entry.notify("default", msgspec.structs.replace(request, data={"n": "8"}))
        assert {item.state for item in done.items} == {"dropped"}


async def test_stop_from_a_number_holds_on_all_nodes(tmp_path: Path) -> None:
    """Who answers STOP means the number, wherever its other users' partitions are."""
    async with open_sandbox() as sandbox, open_cluster(tmp_path, "n1", "n2") as cluster:
        one, two = (cluster.members[name] for name in ("n1", "n2"))
        core = one.core.notifications
        await core.desk.put_provider("default", "twilio", sandbox.configs().twilio)
        await core.desk.put_type("default", TypeRule(name="ad", channels=["sms"], dedup_s=0))
        phone = notify_commands.RegisterPush(channel="sms", address="+4915112345678")
        people = [await node.person(f"p{node.name}{number}") for node in (one, two) for number in range(6)]
        for person in people:
            await person.do(phone)

        async def states() -> list[str]:
            found = []
            for person in people:
                request = NotifyRequest(type="ad", user_id=person.user_id, text="x")
                found.append((await core.entry.notify("default", request)).items[0].state)
            return found

        sandbox.inject(Fault(channel="twilio", status=400, code="21610", times=1))
        request = NotifyRequest(type="ad", user_id=people[0].user_id, text="x")
        await core.entry.notify("default", request)
        while not all(row.retired_at_ms for row in await one.store.find(NotifyDeviceRow, {})):  # noqa: ASYNC110 - nobody is told
            await trio.sleep(0.01)
        assert set(await states()) == {"dropped"}
        assert sandbox.count("twilio") == 0
