"""The benchmark of rules and texts measures something that works."""

from bench.notify_rules import run


def test_a_small_run_has_a_figure_for_each_part() -> None:
    """A call that raised would be a fast one."""
    result = run(10)
    assert len(result) == 8
    assert all(value > 0 for value in result.values()), result
