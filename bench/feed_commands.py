"""Have a small graph's follows, posts and feeds made by commands, as people would; only users are written.

It takes minutes where bench/feed_rows.py takes seconds, and shows that the rows there are what commands
leave: tests/bench/test_feed_commands.py compares the two.
"""

import time
from pathlib import Path
from secrets import token_hex
from typing import Final

from bench.feed_graph import Graph
from bench.feed_rows import Loaded, earlier_text_of, is_active, name_of, user_id_of, write_users
from bench.load.client import Connection, ask_all, open_all
from bench.load.counters import Counters
from bench.load.loop import Loop
from bench.load.target import CannotRun, Cores, Hubbub
from bench.load.trial import close_all
from bench.load.wires import WIRES
from protocol.feed_commands import CreatePost, FollowUser, ReadFeed

MOST_ACCOUNTS: Final = 5_000  # each is connected while it lasts
WAITING: Final = "actors_tells_waiting"  # the server's counters: follows that are not counted yet
PENDING: Final = "feed_posts_pending"  # posts that are not in all feeds yet
TIMEOUT_S: Final = 600.0


def write_by_commands(
    directory: Path, graph: Graph, *, cores: Cores, history: int, active_share: float
) -> Loaded:
    """Fill `directory`/data, which has one app key and no users, by a node that runs on it for the while.

    Raises: CannotRun, where the graph is too large for it.
    """
    if graph.account_count > MOST_ACCOUNTS:
        raise CannotRun(f"By commands a graph of up to {MOST_ACCOUNTS:,} accounts is made; without, any.")
    started_at = time.monotonic()
    user_count = write_users(directory / "data", graph)
    target = Hubbub(directory, cores)
    try:
        target.start()
        target.allow_files(graph.account_count + 1000)
        entry_count = _by_commands(target, graph, history, active_share)
    finally:
        target.stop()
    followed_count = len(graph.followed())
    return Loaded(
        user_count=user_count,
        follow_count=graph.edge_count,
        post_count=followed_count * history,
        feed_count=sum(is_active(account, active_share) for account in range(graph.account_count)),
        entry_count=entry_count,
        row_count=user_count + graph.edge_count + followed_count * history,
        seconds=time.monotonic() - started_at,
    )


def _by_commands(target: Hubbub, graph: Graph, history: int, active_share: float) -> int:
    """Follow, post and read; return how many entries the feeds have, up to 100 of each."""
    loop, wire = Loop(), WIRES["bot"]()
    address = target.addresses("bot")[0]
    people = [
        Connection(loop, wire, address, target.account(name_of(account)))
        for account in range(graph.account_count)
    ]
    counters = Counters(loop, target.addresses("json")[0])
    try:
        open_all(loop, people)
        follows = [
            (people[fan], FollowUser(user_id=user_id_of(author)))
            for fan, author in zip(graph.fans, graph.authors, strict=True)
        ]
        ask_all(loop, follows, timeout_s=TIMEOUT_S)
        _wait_until_none(loop, counters, WAITING)
        for number in range(history):
            posts = [
                (people[author], CreatePost(client_id=token_hex(8), text=earlier_text_of(author, number)))
                for author in graph.followed()
            ]
            ask_all(loop, posts, timeout_s=TIMEOUT_S)
        _wait_until_none(loop, counters, PENDING)
        readers = [people[n] for n in range(graph.account_count) if is_active(n, active_share)]
        pages = ask_all(loop, [(reader, ReadFeed(limit=100)) for reader in readers], timeout_s=TIMEOUT_S)
        return sum(len(page["items"]) for page in pages)
    finally:
        counters.close()
        close_all(loop, people)


def _wait_until_none(loop: Loop, counters: Counters, name: str) -> None:
    """Wait until the server says that nothing of this kind is under way."""
    left: list[float] = []

    def is_done() -> bool:
        if not counters.is_asking:
            counters.ask(lambda told: left.append(told[name]))
        return bool(left) and left[-1] == 0

    loop.run_until(is_done, timeout_s=TIMEOUT_S, what=f"{name} is 0")
