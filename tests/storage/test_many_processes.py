"""What must hold when the nodes of one machine share a data directory, and one of them dies or freezes."""

import fcntl
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import trio

from protocol.errors import StorageUnavailable
from protocol.records import App, Append
from storage import DirectoryInUse, check, open_store, write_lock_holder
from storage.locks import WriteLock
from tests.storage.rooms import Room, message

ROOT = Path(__file__).parent.parent.parent
pytestmark = pytest.mark.slow


class Process:
    """One helper_node; see there for what it obeys."""

    def __init__(self, directory: Path, node_id: str) -> None:
        self._process = subprocess.Popen(
            [sys.executable, "-m", "tests.storage.helper_node", str(directory), node_id],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            cwd=ROOT,
        )
        self.pid = self._process.pid

    def tell(self, line: str) -> None:
        assert self._process.stdin is not None
        self._process.stdin.write(f"{line}\n")
        self._process.stdin.flush()

    def answer(self) -> str:
        """The next line that it says about what it was told."""
        assert self._process.stdout is not None
        for line in self._process.stdout:
            if line.startswith(("loaded", "started", "claimed", "writing", "wrote", "stopped", "refused")):
                return line.strip()
        raise AssertionError(f"it ended with {self._process.wait()}")

    def ask(self, line: str) -> str:
        self.tell(line)
        return self.answer()

    def freeze(self) -> None:
        """SIGSTOP; returns when it has stopped."""
        self._process.send_signal(signal.SIGSTOP)
        os.waitpid(self.pid, os.WUNTRACED)

    def kill(self) -> None:
        self._process.kill()
        self._process.communicate()

    def wait(self) -> int:
        self._process.communicate()
        return self._process.returncode


Start = Callable[[str], Process]


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Start]:
    """Start processes that have loaded their modules and wait to be told."""
    processes: list[Process] = []

    def begin(node_id: str) -> Process:
        processes.append(Process(tmp_path / "data", node_id))
        return processes[-1]

    yield begin
    for process in processes:
        process.kill()


async def test_four_nodes_may_start_at_once_on_an_empty_directory(tmp_path: Path, start: Start) -> None:
    """`hubbub cluster --nodes 4` for the first time: one of them makes the tables, all of them find them."""
    for round_number in range(1, 4):
        nodes = [start(f"n{number}") for number in range(4)]
        for node in nodes:
            assert node.answer() == "loaded"
        for node in nodes:
            node.tell("start")
        answers = [node.answer().split() for node in nodes]
        assert [answer[:2] for answer in answers] == [["started", str(round_number)]] * 4, answers
        assert len({answer[2] for answer in answers}) == 1, "all sign with the same key"
        for node in nodes:
            node.tell("stop")
        assert [node.wait() for node in nodes] == [0] * 4
    async with open_store(tmp_path / "data") as store:
        assert [app.app_id for app in await store.find(App, {})] == ["default"]
        assert [member.node_id for member in await store.members()] == ["n0", "n1", "n2", "n3"]
    assert check(tmp_path / "data") == []


async def test_nodes_come_and_go_while_another_one_writes(tmp_path: Path, start: Start) -> None:
    """A rolling restart: opening, migrating and closing never harm whoever is in the middle of its work."""
    writer = start("writer")
    assert writer.answer() == "loaded"
    assert writer.ask("start").startswith("started")
    assert writer.ask("claim 3") == "claimed 1"
    assert writer.ask("write 3") == "writing"
    for _ in range(25):
        async with open_store(tmp_path / "data") as store:
            boot = await store.register_node("guest", "x:1")
            epoch = (await store.shards())[4].epoch
            won = await store.claim({4: epoch}, node_id="guest", boot=boot)
            await store.append(Append(shard=4, epoch=won[4][0], rows=(message("guests", "bob"),)))
            await store.release({4: won[4][0]})
    count = int(writer.ask("enough").split()[1])
    assert count > 25
    writer.tell("stop")
    assert writer.wait() == 0
    async with open_store(tmp_path / "data") as store:
        assert (await store.head("c:guests")).seq == 25
        assert (await store.head("c:writer-3")).seq >= count
    assert check(tmp_path / "data") == []


async def test_a_second_process_under_the_same_name_is_refused(tmp_path: Path, start: Start) -> None:
    """The operator who copied a unit file is told what is wrong; the first node goes on."""
    first, second = start("n1"), start("n1")
    for node in (first, second):
        assert node.answer() == "loaded"
    assert first.ask("start").startswith("started 1")
    refusal = second.ask("start")
    assert refusal.startswith(f"refused directory_in_use A node named n1 (process {first.pid})")
    assert first.ask("claim 0 1 2") == "claimed 3"
    async with open_store(tmp_path / "data") as store:
        with pytest.raises(DirectoryInUse):
            await store.register_node("n1", "x:1")
        first.kill()
        assert await store.register_node("n1", "x:1") == 2


async def test_a_killed_node_frees_its_shards_at_once_and_a_frozen_one_does_not(
    tmp_path: Path, start: Start
) -> None:
    """kill -9 is noticed by the lock that the kernel frees, without waiting for the lease."""
    node = start("n1")
    assert node.answer() == "loaded"
    assert node.ask("start").startswith("started 1")
    assert node.ask("claim 1 2 3") == "claimed 3"
    async with open_store(tmp_path / "data") as store:
        boot = await store.register_node("me", "x:2")
        node.freeze()
        assert await store.end_leases_of_the_dead() == []
        assert await store.claim({1: 1, 2: 1, 3: 1}, node_id="me", boot=boot) == {}
        node.kill()
        assert await store.end_leases_of_the_dead() == [("n1", 1)]
        assert await store.end_leases_of_the_dead() == []
        won = await store.claim({1: 1, 2: 1, 3: 1}, node_id="me", boot=boot)
        assert sorted(won) == [1, 2, 3]
        again = start("n1")
        assert again.answer() == "loaded"
        assert again.ask("start").startswith("started 2")
        assert await store.end_leases_of_the_dead() == []
        assert again.ask("claim 4") == "claimed 1"


async def test_a_process_frozen_in_the_queue_for_the_write_lock_stops_nobody(tmp_path: Path) -> None:
    """SIGSTOP strikes anywhere; only one that is frozen in its very commit may hold up the others."""
    async with open_store(tmp_path) as store:
        room = await Room.open(store, "ann")
        turn = os.open(tmp_path / "turn.lock", os.O_RDWR)
        fcntl.flock(turn, fcntl.LOCK_EX)  # what such a process leaves behind, for as long as it is frozen
        started_at = time.monotonic()
        for number in range(20):
            assert (await room.say("ann")).seq == number + 2
        assert time.monotonic() - started_at < 5.0
        os.close(turn)


async def test_a_process_frozen_in_its_commit_can_be_named(tmp_path: Path, start: Start) -> None:
    """The supervisor of the nodes kills the one that keeps all others from writing."""
    assert write_lock_holder(tmp_path) is None
    async with open_store(tmp_path) as store:
        await Room.open(store, "ann")
        holder = write_lock_holder(tmp_path)
        assert holder is not None
        assert (holder.pid, holder.is_held) == (os.getpid(), False)
    lock = WriteLock(tmp_path)
    counts = []
    for _ in range(2):
        with lock.held():
            holder = write_lock_holder(tmp_path)
            assert holder is not None
            assert (holder.pid, holder.is_held) == (os.getpid(), True)
            assert write_lock_holder(tmp_path) == holder
            counts.append(holder.count)
    assert counts[0] < counts[1]
    lock.close()


async def test_a_store_that_waited_for_a_frozen_process_recovers_soon_after_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The lock's holder was killed after half a minute; renewals that kept coming do not put the end off."""
    async with open_store(tmp_path) as store:
        room = await Room.open(store, "ann")
        monkeypatch.setattr(WriteLock.acquire, "__defaults__", (0.1,))
        lock = WriteLock(tmp_path)
        lock.acquire()
        with pytest.raises(StorageUnavailable):
            await room.say("ann")
        async with trio.open_nursery() as nursery:

            async def renew() -> None:
                while True:
                    with pytest.raises(StorageUnavailable):
                        await store.renew_node("node", 1)
                    await trio.sleep(0.05)

            nursery.start_soon(renew)
            await trio.sleep(1.5)  # many probes fail; on a failing disk they would come ever more slowly
            nursery.cancel_scope.cancel()
        lock.release()
        lock.close()
        with trio.fail_after(2):
            while store.health:  # noqa: ASYNC110 - the writer probes by its own clock; nothing announces it
                await trio.sleep(0.05)
