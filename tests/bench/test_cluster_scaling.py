"""W9, and W1 and W2 on several nodes: run small, on a real cluster of `hubbub cluster`."""

import contextlib
import os
import socket
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from bench import cluster_scaling, fan_out, one_to_one
from bench.load.cluster_target import HubbubCluster, _Launch
from bench.load.target import Cores, _json_line, running
from bench.load.trial import Setting, Trial
from bench.load.wires import Got

NODE_COUNT = 3
SCALE = 0.04
SECONDS = 0.5
# How sends end while a busy machine gives a node no time.
HELD_UP = {"outcome_unknown", "overloaded", "busy", "timeout"}


@pytest.fixture(scope="module")
def cluster() -> Iterator[HubbubCluster]:
    """Nothing is pinned: other tests run too."""
    cores = Cores()
    cores.is_pinned = False
    with running(HubbubCluster, cores, node_count=NODE_COUNT) as target:
        assert isinstance(target, HubbubCluster)
        yield target


def _setting(cluster: HubbubCluster, wire: str = "json") -> Setting:
    return Setting(target=cluster, wire_name=wire, seconds=SECONDS, scale=SCALE)


def _figures(trial: Trial) -> dict[str, float]:
    return {figure.name: figure.value for figure in trial.figures}


def _sound(cluster: HubbubCluster, run: Callable[[Setting, str], Trial], variant: str) -> Trial:
    """Run until a run is sound; only one in which a node was held up for seconds may not be.

    Then its link counts as down, and what was sent over it ends as outcome_unknown.
    """
    return _sound_over("json", cluster, run, variant)


def _sound_over(
    wire: str, cluster: HubbubCluster, run: Callable[[Setting, str], Trial], variant: str
) -> Trial:
    for _ in range(3):
        trial = run(_setting(cluster, wire), variant)
        if trial.is_sound or not HELD_UP & set(trial.errors):
            break
    assert trial.is_sound, _story(cluster, trial)
    return trial


def _story(cluster: HubbubCluster, trial: Trial) -> str:
    """What was wrong, and what the nodes logged lately that may be why."""
    lines = [line for log in cluster.directory.glob("*.log") for line in log.read_text().splitlines()]
    words = ("link_changed", "loop_lagged", "warning", "error")
    return "\n".join(
        [*trial.findings, *[line for line in lines if any(word in line for word in words)][-30:]]
    )


# -- the cluster ------------------------------------------------------------------------------------


def test_a_log_line_counts_also_behind_what_was_printed() -> None:
    """A launcher prints where it is beside its log; a line that is missed is waited for in vain."""
    assert _json_line('hubbub is at http://127.0.0.1:1{"event": "cluster_started"}\n') == {
        "event": "cluster_started"
    }
    assert _json_line("hubbub is at http://127.0.0.1:1\n") == {}


def test_each_node_gets_a_core_while_the_client_keeps_one() -> None:
    """Scaling shows on nodes that do not take turns; latency is measured by a client that is not late."""
    wide = Cores([0], usable=range(8)).widened(3)
    assert (wide.servers, wide.client) == ((0, 1, 2), (3, 4, 5, 6, 7))
    assert Cores([0], usable=range(2)).widened(3).servers == (0,)
    assert Cores([0], usable=range(3)).widened(3).servers == (0, 1)
    assert Cores([4, 5], usable=range(8)).widened(1).servers == (4, 5)
    loose = Cores([0], usable=range(8))
    loose.is_pinned = False
    assert not loose.widened(3).is_pinned


def test_a_cluster_on_too_few_cores_says_so(tmp_path: Path) -> None:
    """Else a reader takes three nodes on one core for a cluster that does not scale."""
    assert "3 nodes share core 0" in HubbubCluster(tmp_path, Cores([0], usable=range(2))).sharing()
    assert "3 nodes share 2 cores" in HubbubCluster(tmp_path, Cores([0], usable=range(3))).sharing()
    assert HubbubCluster(tmp_path, Cores([0], usable=range(4))).sharing() == ""


def test_a_cluster_counts_as_started_once_every_node_is_linked_to_every_other() -> None:
    """Before that, what crosses between nodes would be measured while its ways are only just opening."""
    launch = _Launch(2)
    lines: list[dict[str, Any]] = [
        {"event": "node_process_started", "node_id": "n2", "pid": 12},
        {"event": "node_process_started", "node_id": "n1", "pid": 11},
        {"event": "link_changed", "node": "n1", "peer_id": "n2", "is_up": True},
        {"event": "cluster_started"},
        {"event": "link_changed", "node": "n1", "peer_id": "n2", "is_up": False},
        {"event": "link_changed", "node": "n2", "peer_id": "n1", "is_up": True},
    ]
    assert not any(launch.is_up(line) for line in lines)
    assert launch.is_up({"event": "link_changed", "node": "n1", "peer_id": "n2", "is_up": True})
    assert launch.pids == {"n1": 11, "n2": 12}


def test_every_node_serves_at_its_own_address_and_owns_its_share(cluster: HubbubCluster) -> None:
    """Connections are spread by these addresses; a node without shards would own no conversation."""
    for wire in ("json", "bot"):
        addresses = cluster.addresses(wire)
        assert len(set(addresses)) == NODE_COUNT
        for address in addresses:
            socket.create_connection(address, timeout=5).close()
    owners = cluster.owners()
    assert {owners.count(node_id) for node_id in cluster.node_ids} == {85, 86}
    assert len(set(cluster.pids())) == NODE_COUNT
    assert cluster.cpu_s() > 0
    assert cluster.rss_kib() > 0


@pytest.fixture
def own_cores() -> Iterator[None]:
    """Afterwards this process may use all its cores again: a benchmark that ends need not give them back."""
    usable = os.sched_getaffinity(0)
    yield
    os.sched_setaffinity(0, usable)


def test_a_killed_cluster_is_gone_and_comes_back_at_the_same_addresses(own_cores: None) -> None:
    """A crash is only one if no node survives it; clients come back to where they were."""
    with running(HubbubCluster, Cores(), node_count=2) as target:
        addresses, pids = target.addresses("json"), target.pids()
        if target.cores.is_pinned:
            assert os.sched_getaffinity(0) == set(target.cores.client)
            threads = {int(task.name) for pid in pids for task in Path(f"/proc/{pid}/task").iterdir()}
            assert set().union(*map(os.sched_getaffinity, threads)) == set(target.cores.servers)
        target.kill()
        assert not any(Path(f"/proc/{pid}/exe").exists() for pid in pids)
        with pytest.raises(ConnectionRefusedError):
            socket.create_connection(addresses[0], timeout=5)
        target.start()
        assert target.addresses("json") == addresses
        assert not set(target.pids()) & set(pids)


# -- the workloads ----------------------------------------------------------------------------------


@pytest.mark.parametrize("wire", ["json", "bot"])
def test_messages_between_nodes_come_once_and_in_order(cluster: HubbubCluster, wire: str) -> None:
    """The same verdict as on one node: W1 asks nothing less of a cluster."""
    trial = _sound_over(wire, cluster, one_to_one.run, "window 10")
    assert _figures(trial)["delivered"] > 0


def test_a_group_over_all_nodes_hears_everything_once_and_in_order(cluster: HubbubCluster) -> None:
    """Senders, witness and members are on different nodes; the group's order is one."""
    trial = _sound(cluster, fan_out.run, "5 senders x 5")
    assert _figures(trial)["deliveries"] > 0


def test_w9_tells_for_how_many_nodes_its_figures_are(cluster: HubbubCluster) -> None:
    """Scaling is read from the same variant at several numbers of nodes."""
    for variant in ("1:1 over the nodes", "fan-out over the nodes"):
        trial = _sound(cluster, cluster_scaling.run, variant)
        assert trial.variant == variant
        assert _figures(trial)["nodes"] == NODE_COUNT
        assert trial.notes == [note for note in [cluster.sharing()] if note]


def test_a_case_is_told_by_where_sender_receiver_and_owner_are() -> None:
    """A pair that is filed under the wrong case would make a hop look free."""
    assert cluster_scaling.case_of(1, 1, 1) == "near"
    assert cluster_scaling.case_of(1, 1, 0) == "owner away"
    assert cluster_scaling.case_of(1, 2, 1) == "receiver away"
    assert cluster_scaling.case_of(1, 2, 2) == ""  # away from the sender, and back to its other devices
    assert cluster_scaling.case_of(0, 1, 2) == ""


@pytest.mark.parametrize("variant", cluster_scaling.HOPS)
def test_a_hop_is_measured_for_owner_and_receiver(cluster: HubbubCluster, variant: str) -> None:
    """Each case has samples of its own, and what it adds to `near` is a figure."""
    trial = _sound(cluster, cluster_scaling.run, variant)
    for case in cluster_scaling.CASES:
        assert len(trial.samples[f"delivery, {case}"]) > 0
        assert len(trial.samples[f"ack, {case}"]) > 0
        assert _figures(trial)[f"{case}: CPU per message"] > 0
    assert {"owner away adds CPU", "receiver away adds CPU"} <= _figures(trial).keys()


@pytest.mark.parametrize("variant", cluster_scaling.HOPS)
def test_a_message_that_is_heard_twice_spoils_the_hop(
    cluster: HubbubCluster, variant: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A fast cluster that repeats itself is none to compare with."""
    honest = one_to_one.Receiver.got

    def twice(receiver: one_to_one.Receiver, got: Got, payload: bytes, at: float) -> None:
        honest(receiver, got, payload, at)
        if got.type == "message" and got.client_id.endswith("3"):
            with contextlib.suppress(KeyError):
                honest(receiver, got, payload, at)

    monkeypatch.setattr(one_to_one.Receiver, "got", twice)
    trial = cluster_scaling.run(_setting(cluster), variant)
    assert not trial.is_sound
    assert "out_of_order" in trial.errors
