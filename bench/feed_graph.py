"""Who follows whom in `hubbub bench feed`: a power-law graph from a seed, or one that is read from a file."""

import gzip
import random
from array import array
from bisect import bisect_left
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Final

import msgspec

WARM_FOLLOWERS: Final = 100
HOT_FOLLOWERS: Final = 10_000  # the server's default; from there authors are merged in when feeds are read
CLASSES: Final = ("cold", "warm", "hot")


def class_of(follower_count: int, *, warm_from: int = WARM_FOLLOWERS, hot_from: int = HOT_FOLLOWERS) -> str:
    """Name the class of an author with so many followers."""
    return CLASSES[bisect_left((warm_from, hot_from), follower_count + 1)]


class Graph:
    """Accounts 0, 1, 2, … and who follows whom. Made of two arrays: `fans[i]` follows `authors[i]`."""

    def __init__(self, account_count: int, fans: "array[int]", authors: "array[int]", origin: str) -> None:
        self.account_count = account_count
        self.fans = fans
        self.authors = authors
        self.origin = origin  # for people: where it is from
        self._by_author = _Grouped(account_count, authors, fans)
        self._by_fan = _Grouped(account_count, fans, authors)

    @property
    def edge_count(self) -> int:
        return len(self.fans)

    def followers(self, author: int) -> Sequence[int]:
        """Who follows this account."""
        return self._by_author[author]

    def follower_count(self, author: int) -> int:
        return self._by_author.count(author)

    def followees(self, fan: int) -> Sequence[int]:
        """Whom this account follows."""
        return self._by_fan[fan]

    def followed(self) -> list[int]:
        """All accounts that have a follower, in order."""
        return [account for account in range(self.account_count) if self._by_author.count(account)]

    def following(self) -> list[int]:
        """All accounts that follow somebody, in order."""
        return [account for account in range(self.account_count) if self._by_fan.count(account)]


class _Grouped:
    """Values in groups by key, in two arrays: two lists for each of 250,000 accounts would be 30 MB more."""

    def __init__(self, key_count: int, keys: "array[int]", values: "array[int]") -> None:
        starts = array("l", bytes(8 * (key_count + 1)))
        for key in keys:
            starts[key + 1] += 1
        for key in range(key_count):
            starts[key + 1] += starts[key]
        places = array("l", starts)
        self._values = array("l", bytes(8 * len(values)))
        for key, value in zip(keys, values, strict=True):
            self._values[places[key]] = value
            places[key] += 1
        self._starts = starts

    def __getitem__(self, key: int) -> Sequence[int]:
        return self._values[self._starts[key] : self._starts[key + 1]]

    def count(self, key: int) -> int:
        return self._starts[key + 1] - self._starts[key]


def power_law(account_count: int, follows_each: int, *, seed: int) -> Graph:
    """Grow a graph in which the popular become more so (Price 1976; Barabási and Albert 1999).

    Each account follows up to `follows_each` of those before it: one in follows_each + 1 times anybody, else
    whom somebody follows already. Followers per author then fall off with an exponent near 2, and
    with 5 each the first authors of 100,000 accounts have more than 10,000.
    """
    if account_count < 2 or follows_each < 1:
        raise ValueError("a graph needs two accounts and one follow each")
    chance = random.Random(seed)
    fans, authors = array("l"), array("l")
    for fan in range(1, account_count):
        chosen: set[int] = set()
        for _ in range(follows_each):
            if authors and chance.random() * (follows_each + 1) >= 1:
                author = authors[int(chance.random() * len(authors))]
            else:
                author = int(chance.random() * fan)
            if author != fan:
                chosen.add(author)
        for author in sorted(chosen):
            fans.append(fan)
            authors.append(author)
    return Graph(account_count, fans, authors, f"power law, {follows_each} follows each, seed {seed}")


def read_edges(path: Path) -> Graph:
    """Read lines "u v", which say that u follows v; u and v are any words. A name in .gz is unpacked.

    Lines that are empty or begin with # are skipped, and so are follows of oneself and repetitions.
    Raises: OSError; ValueError, with the line's number.
    """
    opener = gzip.open if path.suffix == ".gz" else open
    with opener(path, "rt", encoding="utf-8", errors="replace") as lines:
        graph = from_lines(lines, origin=path.name)
    if not graph.edge_count:
        raise ValueError(f"{path} has no follows")
    return graph


def from_lines(lines: Iterable[str], *, origin: str = "lines") -> Graph:
    """As read_edges, of lines that are read already."""
    numbers: dict[str, int] = {}
    fans, authors = array("l"), array("l")
    seen: set[tuple[int, int]] = set()
    for number, line in enumerate(lines, 1):
        words = line.split()
        if not words or words[0].startswith("#"):
            continue
        if len(words) != 2:
            raise ValueError(f"{origin}, line {number}: not two words, who follows and whom")
        fan, author = (numbers.setdefault(word, len(numbers)) for word in words)
        if fan != author and (fan, author) not in seen:
            seen.add((fan, author))
            fans.append(fan)
            authors.append(author)
    return Graph(len(numbers), fans, authors, origin)


class Statistics(msgspec.Struct, frozen=True, kw_only=True):
    """What a graph is like."""

    account_count: int
    edge_count: int
    author_count: int  # who have a follower
    reader_count: int  # who follow somebody
    follower_percentiles: dict[str, int]  # of authors: "p50", "p90", "p99", "p99.9", "max"
    class_counts: dict[str, int]  # authors by class
    class_edges: dict[str, int]  # their followers

    def __str__(self) -> str:
        spread = ", ".join(f"{name} {count:,}" for name, count in self.follower_percentiles.items())
        classes = ", ".join(
            f"{name} {self.class_counts[name]:,} authors with {self.class_edges[name]:,}" for name in CLASSES
        )
        return (
            f"{self.account_count:,} accounts, {self.edge_count:,} follows by {self.reader_count:,} of "
            f"{self.author_count:,}; followers per author {spread}; {classes}"
        )


def statistics(graph: Graph, *, warm_from: int = WARM_FOLLOWERS, hot_from: int = HOT_FOLLOWERS) -> Statistics:
    """Sum a graph up."""
    counts = sorted(graph.follower_count(author) for author in graph.followed())
    by_class: dict[str, list[int]] = {name: [] for name in CLASSES}
    for count in counts:
        by_class[class_of(count, warm_from=warm_from, hot_from=hot_from)].append(count)

    def at(per_mille: int) -> int:
        return counts[-(-len(counts) * per_mille // 1000) - 1] if counts else 0

    return Statistics(
        account_count=graph.account_count,
        edge_count=graph.edge_count,
        author_count=len(counts),
        reader_count=len(graph.following()),
        follower_percentiles={
            "p50": at(500),
            "p90": at(900),
            "p99": at(990),
            "p99.9": at(999),
            "max": at(1000),
        },
        class_counts={name: len(of_class) for name, of_class in by_class.items()},
        class_edges={name: sum(of_class) for name, of_class in by_class.items()},
    )
