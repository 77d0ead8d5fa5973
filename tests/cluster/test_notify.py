"""Notifications over several nodes: users and their partitions each where their shards happen to be."""

from pathlib import Path

import pytest

from actors.notify import fact_keeper
from protocol import commands, notify_commands, notify_replies
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
