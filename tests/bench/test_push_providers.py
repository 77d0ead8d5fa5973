"""The benchmark of push providers counts notifications that the peer has accepted."""

import trio

from bench.push_providers import run, run_plain
from tests.providers.peers import needs_node


@needs_node
async def test_a_small_run_has_all_of_them_accepted() -> None:
    """A rate of failures would be a high one, and worth nothing."""
    with trio.fail_after(30):
        result = await run(request_count=500, in_flight=20, connections=2)
        result |= await run_plain(request_count=200, in_flight=20)
    assert (result["requests"], result["failed"]) == (500, 0)
    for name in ("per_s", "per_core", "cpu_ms_each", "p50_ms", "p99_ms", "plain_per_s", "plain_cpu_ms_each"):
        assert result[name] > 0
