"""`hubbub replay` against a real node: promised is every line once and in order, and right unread counts."""

import json
import random
import subprocess
import sys
from pathlib import Path

import pytest
import trio

from hubbub.replay import Replayer, Settings, open_replay, read_plan, replay
from tests.nodes import NodeProcess, running_node

pytestmark = [pytest.mark.slow, pytest.mark.timeout(180)]

NICKS = [f"nick{number}" for number in range(30)]


def write_log(path: Path, *, line_count: int, seed: int) -> None:
    """Write a log like the channel's: people come, speak, rename themselves and go."""
    rng = random.Random(seed)
    rows: list[bytes] = []
    for number in range(line_count):
        nick = rng.choice(NICKS)
        draw = rng.random()
        if draw < 0.08:
            rows.append(f"=== {nick} [~x@host.example]  has joined #test".encode())
        elif draw < 0.12:
            rows.append(f"=== {nick} [~x@host.example]  has left #test []".encode())
        elif draw < 0.16:
            rows.append(f"=== {nick} is now known as {nick}_away".encode())
        elif draw < 0.18:
            rows.append(f"[10:{number // 60 % 60:02}]  * {nick} waves".encode())
        elif draw < 0.2:
            rows.append(f"[10:{number // 60 % 60:02}] <{nick}> br\u00f6ken ".encode() + b"\xff\xfe")
        else:
            rows.append(f"[10:{number // 60 % 60:02}] <{nick}> line {number}".encode())
    path.write_bytes(b"\n".join(rows) + b"\n")


def app_key(node: NodeProcess) -> tuple[str, str]:
    """Make an app key as an operator does."""
    made = subprocess.run(
        [sys.executable, "-m", "server", "keys", "create", "--json", "--data-dir", str(node.data_dir)],
        capture_output=True,
        check=True,
        timeout=60,
    )
    body = json.loads(made.stdout)
    return body["app_key"], body["app_secret"]


def settings_of(node: NodeProcess, *, via_bots: bool = True) -> Settings:
    key, secret = app_key(node)
    return Settings(
        url=node.url,
        connect_url=node.bot_url if via_bots else "",
        app_key=key,
        app_secret=secret,
        group="#test",
        max_members=20,
        max_sessions=16,
    )


@pytest.mark.parametrize("via_bots", [True, False])
async def test_every_line_is_stored_once_in_order_and_unread_counts_are_right(
    tmp_path: Path, via_bots: bool
) -> None:
    """More nicks than seats and connections: members come and go, connections are closed and opened."""
    write_log(tmp_path / "a.txt", line_count=250, seed=1)
    write_log(tmp_path / "b.txt", line_count=100, seed=2)
    wanted = read_plan([tmp_path], max_members=20)
    with running_node(tmp_path) as node, trio.fail_after(120):
        settings = settings_of(node, via_bots=via_bots)
        summary, faults = await replay(settings, wanted, is_verified=True)
        assert faults == []
        assert summary.lines == wanted.line_count
        again, faults = await replay(settings, wanted, is_verified=True)
        assert faults == []
        assert (again.lines, again.skipped) == (0, wanted.line_count)


async def test_a_replay_goes_on_over_a_node_that_is_killed_and_after_its_own_death(tmp_path: Path) -> None:
    """kill -9 in the middle, restart, resume: the same result."""
    write_log(tmp_path / "a.txt", line_count=400, seed=3)
    wanted = read_plan([tmp_path / "a.txt"], max_members=20)
    with running_node(tmp_path) as node, trio.fail_after(150):
        settings = settings_of(node)
        # The replayer dies in the middle of its work.
        stopped_at = 0
        with trio.CancelScope() as death:

            def die(stored: int) -> None:
                nonlocal stopped_at
                stopped_at = stored
                if stored >= 90:
                    death.cancel()

            await replay(settings, wanted, on_line=die)
        assert death.cancelled_caught
        # Its successor sees the node die under it.
        killed = trio.Event()

        def note(stored: int) -> None:
            if stored >= 180:
                killed.set()

        async with trio.open_nursery() as nursery:

            async def kill_the_node() -> None:
                await killed.wait()
                await trio.to_thread.run_sync(node.kill)
                await trio.to_thread.run_sync(node.start)

            nursery.start_soon(kill_the_node)
            summary, faults = await replay(settings, wanted, on_line=note, is_verified=True)
        assert faults == []
        assert summary.skipped >= stopped_at
        assert summary.skipped + summary.lines == wanted.line_count


async def test_verifying_finds_what_is_wrong(tmp_path: Path) -> None:
    """A check that cannot fail would prove nothing."""
    write_log(tmp_path / "a.txt", line_count=40, seed=4)
    wanted = read_plan([tmp_path / "a.txt"], max_members=20)
    with running_node(tmp_path) as node, trio.fail_after(90):
        settings = settings_of(node)
        async with open_replay(settings, wanted) as replayer:
            assert isinstance(replayer, Replayer)
            await replayer.prepare()
            await replayer.play(lambda _: None)
            owner = replayer._operators[0]
            assert await replayer.verify() == []
            newest = await anext(owner.history(replayer.conversation_id))
            await owner.delete(replayer.conversation_id, newest.seq)
            faults = await replayer.verify()
        assert any("stored" in fault or "difference" in fault for fault in faults), faults
