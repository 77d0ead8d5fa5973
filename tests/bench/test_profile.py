"""Samples become shares of areas and functions."""

from bench.profile import summed, told

LINES = [
    "run (trio/_core/_run.py:10);_serve (actors/entity_host.py:5);_send (actors/conversation.py:7) 30",
    "run (trio/_core/_run.py:10);_poll (server/poller.py:3);json_decode (msgspec/_core.c:1) 10",
    "run (trio/_core/_run.py:11) 50",
    "_bootstrap (threading.py:1);_run (storage/writer.py:2);<lambda> (<string>:1) 10",
    "",
]


def test_a_sample_counts_for_the_innermost_area_that_is_named() -> None:
    """What a library does is on the account of who called it."""
    profile = summed(LINES)
    assert profile.sample_count == 100
    assert profile.areas == {
        "Trio's scheduler": 0.5,
        "conversations: rules, staging, receipts": 0.3,
        "sockets: poller, reads, writes": 0.1,
        "store: transactions and SQLite": 0.1,
    }


def test_a_function_is_one_whatever_its_line() -> None:
    """Lines of one function are not told apart in the table."""
    profile = summed([*LINES, "run (trio/_core/_run.py:12) 100"])
    assert profile.functions["run (trio/_core/_run.py)"] == 0.75


def test_nothing_sampled_is_told_without_failing() -> None:
    """A workload may be over before the profiler begins."""
    assert "0 samples" in told(summed([]), is_markdown=False)
