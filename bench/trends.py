"""What does it cost a node to know what trends?

Question: how long does it take to count one act; what do the counters weigh when they are full; and how long
do a summary for the other nodes, and the joined list that readers are shown, stall the node?
Load: one process, no I/O. `--acts` acts by 50,000 people on 20,000 items, the n-th of which is acted on 1/n
as often as the first. (1) `Counters.note`; (2) a whole act, on a post with three hashtags, in both windows;
(3) the Python heap of counters at their bounds: 1,000 items with 64 people each, and 40,000 people whose
spending is remembered; (4) of those full counters: making a summary, reading it, the list of this node
alone (all items weighed anew, as once in each bucket; and again, as in between), and joined of `--nodes`.
Units: microseconds per act, bytes, milliseconds. Prints one JSON line.

Run it with `python -m bench.trends`.
"""

import argparse
import gc
import json
import os
import platform
import random
import subprocess
import tracemalloc
from collections.abc import Callable
from time import perf_counter
from typing import cast

from actors.feed.trends import (
    HOUR,
    MAX_ITEMS,
    MAX_PEOPLE,
    MAX_SPENDERS,
    Counters,
    Part,
    read_summary,
    top_of,
)
from server.trends import LIKE_WEIGHT, Trends
from storage.store import Store

_NOW_MS = 1_700_000_000_000
_PEOPLE = 50_000
_ITEMS = 20_000
_TURNS = 5  # the best one counts, as others share the cores


def _acts(count: int) -> list[tuple[int, str]]:
    """Draw items and people, always the same ones."""
    dice = random.Random(1)
    weights = [1 / rank for rank in range(1, _ITEMS + 1)]
    return [
        (item, f"user-{dice.randrange(_PEOPLE):08d}")
        for item in dice.choices(range(_ITEMS), weights, k=count)
    ]


def _note_us(acts: list[tuple[int, str]]) -> float:
    counters = Counters(HOUR)
    named = [(f"{7_000_000_000_000 + item}", user_id) for item, user_id in acts]
    started_at = perf_counter()
    for number, (item, user_id) in enumerate(named):
        counters.note(item, user_id, 1.0, _NOW_MS + number)
    return (perf_counter() - started_at) / len(acts) * 1e6


def _act_us(acts: list[tuple[int, str]]) -> float:
    now_ms = _NOW_MS
    trends = Trends(cast(Store, None), "a", lambda: now_ms)  # nothing is read or written
    tags = [f"hashtag{number}" for number in range(3_000)]
    started_at = perf_counter()
    for item, user_id in acts:
        now_ms += 1
        hashtags = (tags[item % 3_000], tags[item * 7 % 3_000], tags[item * 31 % 3_000])
        trends.noted_act("app", item + 1, "author", user_id, hashtags, LIKE_WEIGHT)
    return (perf_counter() - started_at) / len(acts) * 1e6


def _full(node: str) -> Counters:
    """Fill counters to all their bounds; half of the items are known to other nodes too."""
    counters = Counters(HOUR)
    for number in range(2 * MAX_SPENDERS):
        counters.note("0", f"spender-{node}-{number:08d}", 1.0, _NOW_MS)
    for item in range(1, 2 * MAX_ITEMS):
        name = f"{7_000_000_000_000 + item}" if item % 2 else f"{node}-{item}"
        for person in range(MAX_PEOPLE):
            counters.note(name, f"user-{node}-{person * 999 + item:08d}", 1.0, _NOW_MS)
    return counters


def _best_ms(work: Callable[[], object]) -> float:
    best_s = float("inf")
    for _ in range(_TURNS):
        started_at = perf_counter()
        work()
        best_s = min(best_s, perf_counter() - started_at)
    return best_s * 1e3


def run(act_count: int, node_count: int) -> dict[str, float]:
    """Measure all of it."""
    acts = _acts(act_count)
    note_us = min(_note_us(acts) for _ in range(_TURNS))
    act_us = min(_act_us(acts) for _ in range(_TURNS))

    _full("a")  # caches that are there once are not the counters' weight
    gc.collect()
    tracemalloc.start()
    before_bytes, _ = tracemalloc.get_traced_memory()
    counters = _full("a")
    gc.collect()
    full_bytes = tracemalloc.get_traced_memory()[0] - before_bytes
    tracemalloc.stop()

    body = counters.summary(_NOW_MS).body()
    others = [read_summary(_full(f"n{number}").summary(_NOW_MS).body()) for number in range(1, node_count)]
    parts: list[Part] = [counters, *others]
    clock = iter(range(1, _TURNS + 1))
    alone_ms = _best_ms(lambda: top_of(HOUR, [counters], 100, _NOW_MS + next(clock) * HOUR.bucket_ms))
    return {
        "note_us": round(note_us, 2),
        "act_us": round(act_us, 2),
        "items": counters.item_count,
        "people": counters.people_count,
        "full_bytes": full_bytes,
        "body_bytes": len(body.encode()),
        "summary_ms": round(_best_ms(lambda: counters.summary(_NOW_MS).body()), 2),
        "read_ms": round(_best_ms(lambda: read_summary(body)), 2),
        "top_alone_ms": round(alone_ms, 2),
        "top_again_ms": round(_best_ms(lambda: top_of(HOUR, [counters], 100, _NOW_MS)), 2),
        "nodes": node_count,
        "top_joined_ms": round(_best_ms(lambda: top_of(HOUR, parts, 100, _NOW_MS)), 2),
    }


def _commit() -> str:
    found = subprocess.run(
        ["git", "rev-parse", "--short", "HEAD"], capture_output=True, text=True, check=False
    )
    return found.stdout.strip() or "unknown"


def main() -> None:
    """Measure, and print one JSON line."""
    parser = argparse.ArgumentParser(description="Measure the counting of trends by itself.")
    parser.add_argument("--acts", type=int, default=100_000, help="acts that are counted (default: 100000)")
    parser.add_argument("--nodes", type=int, default=4, help="nodes that are joined (default: 4)")
    options = parser.parse_args()
    machine = f"{platform.machine()}, {os.cpu_count()} cores, Python {platform.python_version()}"
    result = run(options.acts, options.nodes)
    print(json.dumps({"bench": "trends", "commit": _commit(), "machine": machine} | result))


if __name__ == "__main__":
    main()
