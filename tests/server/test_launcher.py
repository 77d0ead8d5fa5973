"""The launcher over nodes that stand in for real ones: real processes, real signals, a real door."""

import os
import signal
from pathlib import Path
from typing import Any

import pytest

from server.launch.door import NobodyThere, ask
from server.launch.orders import Add, Answer, Done, Drain, Look, Progress, Restart, Start, Stop
from storage.locks import WriteLock
from tests.launchers import LauncherProcess, freeze, stand_ins, wait_until_gone, write_script

pytestmark = pytest.mark.slow


def all_up(launcher: LauncherProcess) -> list[str]:
    pages = launcher.announced()
    launcher.until("cluster_started")
    return pages


def told(answers: list[Answer]) -> list[tuple[str, str]]:
    """What was said of whom, the first word of it."""
    return [(one.node_id, one.text.split()[0]) for one in answers if isinstance(one, Progress)]


def test_nodes_are_started_named_and_drained(tmp_path: Path) -> None:
    """Ctrl-C or systemd: everybody is asked to end, and 0 says that all did."""
    with stand_ins(tmp_path, 3) as launcher:
        pages = all_up(launcher)
        assert len(set(pages)) == 3
        assert {node.phase for node in launcher.nodes().values()} == {"up"}
        launcher.signal(signal.SIGINT)
        assert launcher.end() == 0
        started = [line["node"] for line in launcher.lines if line["event"] == "node_started"]
        assert sorted(started) == ["n1", "n2", "n3"]
        heard = [line for line in launcher.lines if line["event"] == "signal_heard"]
        assert [line["signal"] for line in heard] == [
            "SIGTERM"
        ] * 3  # each once: a second one would not drain
        assert launcher.lines[-1]["event"] == "cluster_ended"
        with pytest.raises(NobodyThere):
            list(ask(launcher.directory, Look()))


def test_a_killed_node_is_started_again_where_it_was(tmp_path: Path) -> None:
    """Its clients look for it at the same port, and no other node notices."""
    with stand_ins(tmp_path, 2) as launcher:
        all_up(launcher)
        before = launcher.nodes()
        os.kill(before["n2"].pid, signal.SIGKILL)
        ended = launcher.until("node_process_ended", node_id="n2")
        assert ended["ended_by"] == "SIGKILL"
        launcher.until("node_started", node="n2")
        after = launcher.nodes()
        assert after["n2"].local_url == before["n2"].local_url
        assert after["n2"].pid != before["n2"].pid
        assert after["n2"].restart_count == 1
        assert after["n1"].pid == before["n1"].pid


def test_a_crash_loop_is_told_and_leaves_the_others_alone(tmp_path: Path) -> None:
    """One bad node must neither burn the machine nor hide."""
    with stand_ins(tmp_path, 2, n2=[{"print": "no disk"}, {"exit": 1}]) as launcher:
        delays = [launcher.until("node_restarting", node_id="n2")["delay_s"] for _ in range(2)]
        launcher.until("node_crash_looping", node_id="n2")
        assert delays[0] == 0
        assert 0.08 <= delays[1] <= 0.12
        nodes = launcher.nodes()
        assert nodes["n2"].is_crash_looping
        assert nodes["n2"].last_exit == "exit code 1"
        assert (nodes["n1"].restart_count, nodes["n1"].is_crash_looping) == (0, False)
        write_script(tmp_path, "n2")  # the disk is back
        assert told(launcher.ask(Start(node_id="n2")))[-1] == ("n2", "has")
        assert launcher.nodes()["n2"].phase == "up"


def test_wrong_settings_end_the_launch_with_their_own_code(tmp_path: Path) -> None:
    """systemd's RestartPreventExitStatus=2: starting it again does not help."""
    with stand_ins(tmp_path, 2, n1=[{"print": "tls_cert cannot be used"}, {"exit": 2}]) as launcher:
        assert launcher.end() == 2
        texts = [line.get("text") for line in launcher.lines if line["node"] == "n1"]
        assert "tls_cert cannot be used" in texts


def test_a_second_signal_kills_those_who_do_not_end(tmp_path: Path) -> None:
    """Somebody at a terminal does not want to wait."""
    with stand_ins(tmp_path, 2, n2=[{"deaf": True}]) as launcher:
        all_up(launcher)
        launcher.signal(signal.SIGTERM)
        launcher.until("node_process_ended", node_id="n1")
        launcher.signal(signal.SIGTERM)
        assert launcher.end() == 1
        ended = [line for line in launcher.lines if line["event"] == "node_process_ended"]
        assert [line["ended_by"] for line in ended] == ["exit code 0", "SIGKILL"]


def test_a_killed_launcher_takes_its_nodes_along_and_the_next_one_starts(tmp_path: Path) -> None:
    """Orphans would hold the ports, and write beside the next launch; also one that is frozen."""
    with stand_ins(tmp_path, 2) as launcher:
        all_up(launcher)
        pids = [node.pid for node in launcher.nodes().values()]
        freeze(pids[1])
        launcher.signal(signal.SIGKILL)
        for pid in pids:
            wait_until_gone(pid)
    with stand_ins(tmp_path, 2) as launcher:
        all_up(launcher)
        assert {node.phase for node in launcher.nodes().values()} == {"up"}


def test_one_launcher_per_directory(tmp_path: Path) -> None:
    """Two of them would start two n1."""
    with stand_ins(tmp_path, 1) as first:
        all_up(first)
        with stand_ins(tmp_path, 1) as second:
            assert second.process.stderr is not None
            assert b"A cluster runs on" in second.process.stderr.read()
            assert second.process.wait() == 1
        assert first.nodes()["n1"].phase == "up"


def test_a_node_that_keeps_the_write_lock_is_killed_and_started_again(tmp_path: Path) -> None:
    """All nodes of the directory wait for it; a kill loses nothing that was acked."""
    data = str(tmp_path / "data")
    with stand_ins(tmp_path, 2, n2=[{"hold": data}]) as launcher:
        all_up(launcher)
        pid = launcher.nodes()["n2"].pid
        freeze(pid)
        write_script(tmp_path, "n2")
        killed = launcher.until("frozen_node_killed")
        assert (killed["node_id"], killed["pid"]) == ("n2", pid)
        assert killed["held_s"] >= 5.0
        launcher.until("node_started", node="n2")
        assert launcher.nodes()["n1"].restart_count == 0


def test_a_holder_that_is_no_child_is_named_and_left_alone(tmp_path: Path) -> None:
    """It may be a backup, or this very test."""
    (tmp_path / "data").mkdir()
    lock = WriteLock(tmp_path / "data")
    with lock.held(), stand_ins(tmp_path, 1) as launcher:
        assert launcher.until("write_lock_kept")["pid"] == os.getpid()
        launcher.signal(signal.SIGTERM)
        assert launcher.end() == 0
        assert not any(line["event"] == "frozen_node_killed" for line in launcher.lines)
    lock.close()


def test_a_node_that_does_not_end_in_time_is_killed(tmp_path: Path) -> None:
    """A frozen node must not hold up the end of a service."""
    with stand_ins(tmp_path, 1) as launcher:
        all_up(launcher)
        freeze(launcher.nodes()["n1"].pid)
        launcher.signal(signal.SIGTERM)
        assert launcher.end() == 1
        assert any(line["event"] == "node_killed" for line in launcher.lines)


def test_junk_and_floods_of_one_node_leave_the_lines_of_others_whole(tmp_path: Path) -> None:
    """Whoever collects the log reads it line by line."""
    junk: list[dict[str, Any]] = [
        {"print": "\xff\xfe\x00 binary"},
        {"print": "x" * 300_000},
        {"flood": 30_000},
        {"print": '{"event": "not closed'},
    ]
    with stand_ins(tmp_path, 2, n1=junk) as launcher:
        launcher.announced()
        launcher.signal(signal.SIGTERM)
        assert launcher.end() == 0
        from_first = [line for line in launcher.lines if line["node"] == "n1"]
        assert from_first[0]["text"].endswith(" binary")
        assert len(from_first[1]["text"]) == 300_000
        numbers = [line["number"] for line in from_first if line["event"] == "flooded"]
        dropped = sum(line["count"] for line in from_first if line["event"] == "lines_dropped")
        assert len(numbers) + dropped == 30_000
        assert numbers == sorted(numbers)
        assert any(line.get("text") == '{"event": "not closed' for line in from_first)
        assert any(line["node"] == "n2" and line["event"] == "node_started" for line in launcher.lines)


def test_a_reload_is_passed_on(tmp_path: Path) -> None:
    """`systemctl reload` after a certificate's renewal."""
    with stand_ins(tmp_path, 2) as launcher:
        all_up(launcher)
        launcher.signal(signal.SIGHUP)
        heard = {launcher.until("signal_heard", signal="SIGHUP")["node"] for _ in range(2)}
        assert heard == {"n1", "n2"}


def test_a_rolling_restart_takes_one_node_after_the_other(tmp_path: Path) -> None:
    """Two nodes down at once would be more than a reconnect."""
    with stand_ins(tmp_path, 3) as launcher:
        all_up(launcher)
        before = launcher.nodes()
        answers = launcher.ask(Restart())
        steps = ["draining", "ended", "starting", "up", "has"]
        assert told(answers) == [(node_id, step) for node_id in ("n1", "n2", "n3") for step in steps]
        assert answers[-1] == Done()
        after = launcher.nodes()
        assert all(after[node_id].pid != before[node_id].pid for node_id in before)
        assert {node.restart_count for node in after.values()} == {0}  # asked for, so no sign of trouble
        launcher.until("order_progressed", node_id="n3", text="starting")
        moves = [
            (line["node_id"], line["event"])
            for line in launcher.lines
            if line["event"] in ("node_process_started", "node_process_ended")
        ][3:]
        assert moves[:4] == [
            ("n1", "node_process_ended"),
            ("n1", "node_process_started"),
            ("n2", "node_process_ended"),
            ("n2", "node_process_started"),
        ]


def test_a_roll_stops_at_the_first_node_that_does_not_come_back(tmp_path: Path) -> None:
    """A bad version must not take down one node after the other."""
    with stand_ins(tmp_path, 3) as launcher:
        all_up(launcher)
        before = launcher.nodes()
        write_script(tmp_path, "n1", {"exit": 1})
        done = launcher.ask(Restart(node_ids=["n1", "n2"]))[-1]
        assert isinstance(done, Done)
        assert done.code == 1
        assert done.text.startswith("n1 ended at its start (exit code 1)")
        write_script(tmp_path, "n1")
        (tmp_path / "scripts" / "n2.poor").touch()
        done = launcher.ask(Restart(node_ids=["n2", "n3"], timeout_s=0.1))[-1]
        assert isinstance(done, Done)
        assert done.code == 1
        assert "n2 is up, but has 85 shards of about 85" in done.text
        assert launcher.nodes()["n3"].pid == before["n3"].pid


def test_a_roll_whose_asker_leaves_ends_before_the_next_node(tmp_path: Path) -> None:
    """Ctrl-C in `hubbub cluster restart`: no node stays half-way."""
    with stand_ins(tmp_path, 2) as launcher:
        all_up(launcher)
        before = launcher.nodes()
        answers = ask(launcher.directory, Restart())
        assert next(answers) == Progress(node_id="n1", text="draining")
        answers.close()
        assert "has left" in launcher.until("order_failed")["reason"]
        after = launcher.nodes()
        assert after["n1"].phase == "up"
        assert after["n1"].pid != before["n1"].pid
        assert after["n2"].pid == before["n2"].pid


def test_one_order_at_a_time_and_the_end_is_stronger_than_any(tmp_path: Path) -> None:
    """Two operators; and one who stops everything in the middle of a restart."""
    with stand_ins(tmp_path, 2) as launcher:
        all_up(launcher)
        (tmp_path / "scripts" / "n1.poor").touch()
        answers = ask(launcher.directory, Restart())
        while "taking over" not in getattr(next(answers), "text", ""):
            pass
        refused = launcher.ask(Drain(node_id="n2"))
        assert refused == [Done(code=1, text="A restart is under way; wait for its end, and ask again.")]
        launcher.signal(signal.SIGTERM)
        assert list(answers)[-1] == Done(code=1, text="The cluster is ending.")
        assert launcher.end() == 0


def test_nodes_are_drained_started_stopped_and_added(tmp_path: Path) -> None:
    """An operator who takes a node out, and one who needs a fourth."""
    with stand_ins(tmp_path, 2, n2=[{"deaf": True}]) as launcher:
        all_up(launcher)
        assert told(launcher.ask(Drain(node_id="n1"))) == [("n1", "draining"), ("n1", "ended")]
        first = launcher.nodes()["n1"]
        assert (first.phase, first.pid) == ("stopped", 0)
        assert told(launcher.ask(Drain(node_id="n1"))) == [("n1", "is")]
        assert told(launcher.ask(Restart()))[0][0] == "n2"  # what is stopped stays so
        assert told(launcher.ask(Start(node_id="n1"))) == [("n1", "starting"), ("n1", "up"), ("n1", "has")]
        assert told(launcher.ask(Stop(node_id="n2"))) == [("n2", "stopping"), ("n2", "ended")]
        assert launcher.nodes()["n2"].last_exit == "SIGKILL"  # it was deaf
        assert told(launcher.ask(Add())) == [("n3", "starting"), ("n3", "up"), ("n3", "has")]
        assert list(launcher.nodes()) == ["n1", "n2", "n3"]
        (unknown,) = launcher.ask(Drain(node_id="n9"))
        assert unknown == Done(code=2, text="There is no node n9; there are n1, n2, n3.")
