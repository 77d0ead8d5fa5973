"""The benchmark of trends measures what it says: full counters, within their bounds."""

from actors.feed.trends import MAX_ITEMS, MAX_PEOPLE
from bench.trends import run


def test_a_small_run_measures_full_counters() -> None:
    """A figure in the documentation has to be of counters that are really full."""
    result = run(act_count=500, node_count=2)
    assert result["items"] == 2 * MAX_ITEMS
    assert result["people"] > (2 * MAX_ITEMS - 1) * MAX_PEOPLE * 0.95
    assert result["full_bytes"] > 8 * result["people"]
    assert 50_000 < result["body_bytes"] < 65_536
    for name in (
        "note_us",
        "act_us",
        "summary_ms",
        "read_ms",
        "top_alone_ms",
        "top_again_ms",
        "top_joined_ms",
    ):
        assert result[name] > 0
