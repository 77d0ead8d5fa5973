"""Several processes on one data directory, as `hubbub cluster` runs them."""

import subprocess
import sys
from pathlib import Path

import pytest
import trio

from storage import DirectoryInUse, check, open_store
from storage.locks import NodeLock, WriteLock

ROOT = Path(__file__).parent.parent.parent
COUNT = 1500


@pytest.mark.slow
async def test_three_processes_take_turns_and_none_starves(tmp_path: Path) -> None:
    """Their writes and checkpoints never meet (SQLite before 3.51.3 corrupts a WAL if they do)."""
    async with open_store(tmp_path):
        pass
    arguments = [sys.executable, "-m", "tests.storage.sharing_node", str(tmp_path)]
    nodes = [
        subprocess.Popen(
            [*arguments, str(number), str(COUNT)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            cwd=ROOT,
        )
        for number in range(3)
    ]
    try:
        for node in nodes:
            assert node.stdout is not None
            lines = iter(node.stdout.readline, "")
            assert any(line == "ready\n" for line in lines)
        for node in nodes:
            assert node.stdin is not None
            node.stdin.write("go\n")
            node.stdin.flush()
        outputs = [await trio.to_thread.run_sync(node.communicate) for node in nodes]
    finally:
        for node in nodes:
            node.kill()
            node.wait()
    times = [output.splitlines()[-1].split() for output, _ in outputs]
    assert [time[0] for time in times] == ["done"] * 3
    durations = [float(time[1]) for time in times]
    assert max(durations) < 5 * min(durations) + 1, "one process was starved"
    async with open_store(tmp_path) as store:
        for number in range(3):
            assert (await store.head(f"c:r{number}")).seq == COUNT
    assert check(tmp_path) == []


def test_the_write_lock_lets_one_in_at_a_time(tmp_path: Path) -> None:
    first, second = WriteLock(tmp_path), WriteLock(tmp_path)
    with first.held():
        with pytest.raises(Exception, match="write lock") as caught, second.held(timeout_s=0.05):
            pass
        assert getattr(caught.value, "code", "") == "storage_unavailable"
    with second.held(timeout_s=0.05):
        pass
    first.close()
    second.close()


def test_a_single_node_and_cluster_nodes_keep_apart(tmp_path: Path) -> None:
    """The operator is told who is in the way, and what to do."""
    alone, second, member, other = (NodeLock(tmp_path) for _ in range(4))
    alone.take_alone()
    with pytest.raises(DirectoryInUse, match="Stop it first"):
        second.take_alone()
    with pytest.raises(DirectoryInUse):
        member.take_shared()
    alone.close()
    member.take_shared()
    other.take_shared()
    with pytest.raises(DirectoryInUse):
        second.take_alone()
    for lock in (second, member, other):
        lock.close()
