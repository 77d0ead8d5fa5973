"""Who posts and who reads in `hubbub bench feed`: drawn from the graph by a seed, alike for every server."""

import random
from array import array
from bisect import bisect_right
from collections.abc import Callable, Sequence
from itertools import accumulate
from typing import Final

import msgspec

from bench.feed_graph import CLASSES, Graph, class_of

DRAW_COUNT: Final = 1000  # posts after which the order of authors begins anew: each takes a connection
_HALVINGS: Final = 40  # of the interval of exponents; far below what a draw of 1,000 can show


def _anybody(account: int) -> bool:
    return True


class Cast(msgspec.Struct, frozen=True, kw_only=True):
    """The people of one run. Post number n is by `order[n % len(order)]`."""

    order: list[int]
    readers: list[int]  # who are connected and read; a third of them follow authors of each class
    exponent: float  # an author's share of the posts is as followers ** exponent
    hot_from: int
    entries: dict[int, int]  # by author: feeds that a post is pushed to
    pushed_each: float  # feeds that a post of this order is pushed to, its author's own included, on average

    @property
    def posters(self) -> list[int]:
        """Each author once."""
        return sorted(set(self.order))


def exponent_for(counts: Sequence[int], mean: float, *, hot_from: int) -> float:
    """Find how authors must be weighted so that a post is pushed to `mean` followers on the average.

    Between 0, where all post alike, and 1, where who has twice the followers posts twice as often; the nearer
    end where no exponent between them does it.
    """
    low, high = 0.0, 1.0
    for _ in range(_HALVINGS):
        middle = (low + high) / 2
        if _mean_pushed(counts, middle, hot_from) < mean:
            low = middle
        else:
            high = middle
    return (low + high) / 2


def _mean_pushed(counts: Sequence[int], exponent: float, hot_from: int) -> float:
    total = pushed = 0.0
    for count in counts:
        weight = count**exponent
        total += weight
        if count < hot_from:
            pushed += weight * count
    return pushed / total


def drawn(graph: Graph, *, exponent: float, count: int, seed: int) -> list[int]:
    """Draw `count` authors in proportion to followers ** exponent, in a random order.

    At even steps through the authors sorted by followers (systematic sampling): a thousand independent draws
    from a power law would miss its mean by a fifth.
    """
    chance = random.Random(seed)
    authors = sorted(graph.followed(), key=graph.follower_count)
    sums = array("d", accumulate(graph.follower_count(author) ** exponent for author in authors))
    step = sums[-1] / count
    start = chance.random() * step
    last = len(authors) - 1
    order = [authors[min(last, bisect_right(sums, start + number * step))] for number in range(count)]
    chance.shuffle(order)
    return order


def cast(
    graph: Graph,
    *,
    reader_count: int,
    hot_from: int,
    is_reader: Callable[[int], bool] = _anybody,
    is_active: Callable[[int], bool] = _anybody,
    exponent: float | None = None,
    mean: float = 0.0,
    draw_count: int = DRAW_COUNT,
    seed: int = 1,
) -> Cast:
    """Choose authors by `exponent`, or so that a post is pushed to `mean` feeds; and readers of them.

    `is_active`: whose feeds are kept, so that posts are pushed there. `is_reader`: who may be a reader.
    """
    if exponent is None:
        counts = [graph.follower_count(author) for author in graph.followed()]
        active = sum(map(is_active, range(graph.account_count))) / graph.account_count
        exponent = exponent_for(counts, mean / active, hot_from=hot_from)
    order = drawn(graph, exponent=exponent, count=draw_count, seed=seed)
    entries = {author: entries_of(graph, author, hot_from, is_active) for author in set(order)}
    readers = _readers(graph, sorted(set(order)), reader_count, hot_from, is_reader, random.Random(seed + 1))
    return Cast(
        order=order,
        readers=readers,
        exponent=exponent,
        hot_from=hot_from,
        entries=entries,
        pushed_each=sum(entries[author] for author in order) / len(order),
    )


def entries_of(graph: Graph, author: int, hot_from: int, is_active: Callable[[int], bool]) -> int:
    """How many kept feeds a post of this author is pushed to: active followers', and the author's own.

    None of a hot author, whose posts are merged in when feeds are read.
    """
    followers = graph.followers(author)
    return sum(map(is_active, (author, *followers))) if len(followers) < hot_from else 0


def _readers(
    graph: Graph,
    posters: Sequence[int],
    count: int,
    hot_from: int,
    is_reader: Callable[[int], bool],
    chance: random.Random,
) -> list[int]:
    """Choose followers of the posters, as many of each class's as there are, up to equal shares."""
    by_class: dict[str, dict[int, None]] = {name: {} for name in CLASSES}
    for poster in posters:
        name = class_of(graph.follower_count(poster), hot_from=hot_from)
        followers = [follower for follower in graph.followers(poster) if is_reader(follower)]
        # One author's followers shall not be all that a class has.
        for follower in chance.sample(followers, min(len(followers), count)):
            by_class[name][follower] = None
    chosen: dict[int, None] = {}
    # The class with the fewest first, so that what it lacks goes to the others.
    waiting = sorted(by_class.values(), key=len)
    for place, candidates in enumerate(waiting):
        share = (count - len(chosen)) // (len(waiting) - place)
        fresh = [account for account in candidates if account not in chosen]
        chance.shuffle(fresh)
        chosen.update(dict.fromkeys(fresh[:share]))
    readers = list(chosen)
    chance.shuffle(readers)
    return readers
