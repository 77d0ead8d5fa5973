"""The command line says what is measured: a wrong word is told at once, not after half an hour."""

import argparse
import os
import select
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from bench.command import add_arguments, make_plan, run
from bench.load.target import ROOT, Cores, Remote

REMOTE = ["--app-key", "k", "--app-secret", "s"]


def entrants(*arguments: str, workload: str = "W1") -> list[str]:
    """Who takes part, in order, where these arguments are given."""
    parser = argparse.ArgumentParser()
    add_arguments(parser)
    plan = make_plan(parser.parse_args([workload, "--variant", "window 10", "--rounds", "1", *arguments]))
    return [job.entrant.title for job in plan.jobs()]


def test_both_peers_take_part_unless_told_otherwise() -> None:
    """A ratio to the usual choice alone would hide how far an expert gets with the same libraries."""
    assert entrants("--wire", "json") == ["hubbub json", "uvicorn json", "uvicorn-tuned json"]


def test_peers_are_chosen_by_name_or_left_out() -> None:
    """Who tunes hubbub runs it alone, or beside one of them, and saves the time."""
    assert entrants("--wire", "bot", "--peers", "uvicorn-tuned") == ["hubbub bot", "uvicorn-tuned json"]
    assert entrants("--wire", "json,bot", "--no-peer") == ["hubbub json", "hubbub bot"]
    assert entrants("--wire", "json", "--peers", "") == ["hubbub json"]


def test_each_round_another_one_begins() -> None:
    """A machine that warms up, or tires, would favour the same one in every round."""
    titles = entrants("--wire", "json", "--rounds", "4")
    rounds = [titles[start : start + 3] for start in range(0, 12, 3)]
    assert rounds == [
        ["hubbub json", "uvicorn json", "uvicorn-tuned json"],
        ["uvicorn json", "uvicorn-tuned json", "hubbub json"],
        ["uvicorn-tuned json", "hubbub json", "uvicorn json"],
        ["hubbub json", "uvicorn json", "uvicorn-tuned json"],
    ]


def test_a_server_that_others_have_started_is_not_killed() -> None:
    """W6 would end the whole command, and with it what was measured."""
    address = ["--address", "127.0.0.1:1", "--app-key", "k", "--app-secret", "s", "--wire", "json"]
    assert entrants(*address) == ["hubbub json"]
    with pytest.raises(ValueError, match="nothing to run"):
        entrants(*address, workload="W6")


def test_each_run_against_a_running_server_has_users_of_its_own(tmp_path: Path) -> None:
    """Those of the run before are members of its groups, and would be told of its messages again."""
    options = {"address": "127.0.0.1:1", "bot_address": "", "app_key": "k", "app_secret": "s" * 32}
    one, two = [Remote(tmp_path, Cores(usable=[0]), **options) for _ in range(2)]
    assert one.account("ann").name == one.account("ann").name
    assert one.account("ann").name != two.account("ann").name


def test_a_cluster_has_no_peer() -> None:
    """They run on one node."""
    assert entrants("--wire", "json", "--nodes", "3") == ["hubbub × 3 json"]


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--peers", "uvicorn,hypercorn"], "no peer hypercorn; there are uvicorn, uvicorn-tuned"),
        (["--wire", "jsn"], "no wire jsn"),
        (["--rounds", "0"], "--rounds: 0 is not above 0"),
        (["--seconds", "nan"], "--seconds: nan is not a finite number"),
        (["--seconds", "inf"], "--seconds: inf is not a finite number"),
        (["--scale", "-1"], "--scale: -1.0 is not a finite number above 0"),
        (["--nodes", "x"], "--nodes: x is not a whole number"),
        (["--nodes", "1,0"], "--nodes: 0 is not above 0"),
        ([*REMOTE, "--address", "foo"], "--address: foo is not HOST:PORT"),
        ([*REMOTE, "--address", "foo:"], "--address: foo: is not HOST:PORT"),
        ([*REMOTE, "--address", "h:70000"], "--address: h:70000 is not HOST:PORT"),
        ([*REMOTE, "--address", "h:1", "--bot-address", "h:x"], "--bot-address: h:x is not HOST:PORT"),
    ],
)
def test_a_wrong_word_is_told(arguments: list[str], said: str) -> None:
    """With what there is instead."""
    with pytest.raises(ValueError, match=said):
        entrants(*arguments)


@pytest.mark.parametrize(
    ("listed", "said"), [("z", "z is not a whole number"), ("4095", "core 4095 is not one of those")]
)
def test_a_core_that_is_none_is_told(
    listed: str, said: str, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    """Before anything is started, and not as what the system says when a server cannot be bound to it."""
    code, told = run_in_here(capsys, "--server-cores", listed, "--out", str(tmp_path / "out"))
    assert code == 1
    assert f"--server-cores: {said}" in told
    assert not (tmp_path / "out").exists()


def run_in_here(capsys: pytest.CaptureFixture[str], *arguments: str) -> tuple[int, str]:
    """The command's exit code, and what it printed."""
    parser = argparse.ArgumentParser()
    add_arguments(parser)
    code = run(parser.parse_args(["W1", *arguments]))
    return code, capsys.readouterr().out


def test_a_benchmark_that_is_terminated_leaves_nothing_behind(tmp_path: Path) -> None:
    """A CI job ends like that; its servers and their directories would pile up. What was measured is told."""
    (tmp_path / "temp").mkdir()
    command = [
        *(sys.executable, "-m", "bench.command", "W1", "--no-peer", "--wire", "json", "--scale", "0.03")
    ]
    command += ["--seconds", "60", "--out", str(tmp_path / "out")]
    env = {**os.environ, "TMPDIR": str(tmp_path / "temp"), "PYTHONPATH": str(ROOT)}
    with subprocess.Popen(command, cwd=ROOT, env=env, stdout=subprocess.PIPE, text=True) as process:
        deadline = time.monotonic() + 60
        while not any((tmp_path / "temp").glob("*/*.log")):  # the server's, which is up then
            assert process.poll() is None
            assert time.monotonic() < deadline
            select.select([], [], [], 0.05)
        process.send_signal(signal.SIGTERM)
        said, _ = process.communicate(timeout=60)
    assert process.returncode == 130
    assert "Interrupted" in said
    assert list((tmp_path / "temp").iterdir()) == []


def test_a_workload_that_is_not_there_is_told() -> None:
    """With those that are."""
    with pytest.raises(ValueError, match="no workload W77; there are W1, "):
        entrants(workload="w77")
