"""The command line says what is measured: a wrong word is told at once, not after half an hour."""

import argparse

import pytest

from bench.command import add_arguments, make_plan


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


def test_a_server_that_others_have_started_is_not_killed() -> None:
    """W6 would end the whole command, and with it what was measured."""
    address = ["--address", "127.0.0.1:1", "--app-key", "k", "--app-secret", "s", "--wire", "json"]
    assert entrants(*address) == ["hubbub json"]
    with pytest.raises(ValueError, match="nothing to run"):
        entrants(*address, workload="W6")


def test_a_cluster_has_no_peer() -> None:
    """They run on one node."""
    assert entrants("--wire", "json", "--nodes", "3") == ["hubbub × 3 json"]


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--peers", "uvicorn,hypercorn"], "no peer hypercorn; there are uvicorn, uvicorn-tuned"),
        (["--wire", "jsn"], "no wire jsn"),
        (["--rounds", "0"], "above 0"),
    ],
)
def test_a_wrong_word_is_told(arguments: list[str], said: str) -> None:
    """With what there is instead."""
    with pytest.raises(ValueError, match=said):
        entrants(*arguments)


def test_a_workload_that_is_not_there_is_told() -> None:
    """With those that are."""
    with pytest.raises(ValueError, match="no workload W77; there are W1, "):
        entrants(workload="w77")
