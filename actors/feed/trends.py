"""What trends: decayed counts of what different people act on, over a sliding window, in bounded memory.

Each node counts what it sees and tells the others a summary; what is shown is the union over the nodes.

An item (a post or a hashtag) keeps a sample of the people who acted on it: all of them while they are few,
and else those whose hash lies below 2^-level, each standing for 2^level people (adaptive sampling: Flajolet,
"On adaptive sampling", 1990). The hash is the same on every node, so two nodes sample the same people, and
who is seen by both counts once. A person is kept with the bucket of the first act and the heaviest weight,
so a union asks neither for order nor for how often something was told.

    score = sum over people of weight × influence × 2^(-age / half life) × 2^level

The influence is what keeps brigades small: a person's first items in a window count fully, then ever less.
"""

import struct
from collections.abc import Iterable, Mapping, Sequence
from functools import lru_cache
from hashlib import blake2b
from typing import Final, NamedTuple, Protocol

import msgspec

MAX_ITEMS: Final = 500  # kept when it gets tight; twice as many are followed until then
MAX_PEOPLE: Final = 64  # sampled of one item: its count is exact up to here, and then good to about 15 %
MIN_PEOPLE: Final = 3  # fewer are no trend, however hard they try
MAX_SPENDERS: Final = 20_000  # people whose spending is remembered for one window
MAX_BODY_BYTES: Final = 60_000  # of a summary as JSON: the strongest items that fit

_POINTS: Final = 64  # of weight 1 at full influence; a person's points fit a byte
_MAX_POINTS: Final = 255
_MAX_OVERDRAFT: Final = 5.0  # in units of full_items: there an act is worth 1/32, and counts no more
_HASH_BITS: Final = 32
_MIXER: Final = 0x9E37_79B9_7F4A_7C15  # 2^64 / golden ratio: spreads what differs over the upper bits
_ENTRY: Final = struct.Struct("<IBBB")  # person, buckets before the summary's, level, points


class Span(msgspec.Struct, frozen=True):
    """A sliding window of `bucket_count` buckets, the current one among them."""

    name: str
    bucket_ms: int
    bucket_count: int
    half_life_ms: int
    full_items: int  # so many items of one person count fully in a window

    @property
    def window_ms(self) -> int:
        return self.bucket_ms * self.bucket_count

    def decay(self) -> list[float]:
        """What an act is still worth, by its age in buckets; nothing beyond."""
        return [0.5 ** (age * self.bucket_ms / self.half_life_ms) for age in range(self.bucket_count)]


# The half life is a quarter of the window, so that what leaves the window was worth 1/16 or less, and nothing
# jumps. 20 items an hour are more than anybody reads with care; a day has room for three such hours.
HOUR: Final = Span("hour", bucket_ms=300_000, bucket_count=12, half_life_ms=900_000, full_items=20)
DAY: Final = Span("day", bucket_ms=3_600_000, bucket_count=24, half_life_ms=21_600_000, full_items=60)
SPANS: Final = {span.name: span for span in (HOUR, DAY)}


class Trending(NamedTuple):
    """An item with its decayed count, and how many different people acted on it in the window (estimated)."""

    item: str
    score: float
    people: int


class Weighed(NamedTuple):
    """How many people of the window are sampled, how many they stand for, and the score."""

    sampled: int
    people: int
    score: float


class Part(Protocol):
    """What can be joined: the counters of this node, or the summary of another."""

    def names(self) -> Iterable[str]: ...

    def people_of(self, item: str) -> Mapping[int, int]:
        """Person -> bucket << 16 | level << 8 | points; empty where the item is not known."""
        ...

    def weigh(self, item: str, bucket: int, decay: Sequence[float]) -> "Weighed":
        """What it comes to in that bucket, of the people of this part alone."""
        ...


class Summary(msgspec.Struct, frozen=True):
    """What one node counted, as of `at_ms`. `items` hold their people packed, relative to `bucket`."""

    at_ms: int
    bucket: int
    items: dict[str, bytes]

    def names(self) -> Iterable[str]:
        return self.items

    def people_of(self, item: str) -> Mapping[int, int]:
        packed = self.items.get(item, b"")
        return {
            person: self.bucket - age << 16 | level << 8 | points
            for person, age, level, points in _ENTRY.iter_unpack(packed)
        }

    def weigh(self, item: str, bucket: int, decay: Sequence[float]) -> Weighed:
        return _weigh(self.people_of(item).values(), bucket, decay)

    def body(self) -> str:
        """As JSON, of at most about MAX_BODY_BYTES."""
        return msgspec.json.encode(self).decode()


class Counters:
    """Count the acts on the items of one app, of one kind, over one window, as this node sees them."""

    def __init__(self, span: Span) -> None:
        self.span = span
        self.change_count = 0  # acts that have changed anything
        self._items: dict[str, _Item] = {}
        self._spent = _Spent(span)

    def note(self, item: str, user_id: str, weight: float, now_ms: int) -> bool:
        """Count an act of a person on an item, and tell whether that changed anything.

        A person counts once per item and window, with the heaviest act. An author's acts on the own post are
        the caller's to leave out.
        """
        bucket = now_ms // self.span.bucket_ms
        person = _person_of(user_id)
        tracked = self._items.get(item)
        if tracked is not None:
            if tracked.bucket < bucket:
                tracked.sweep(bucket, self.span.bucket_count)
            sampled = _sample_of(person, tracked.salt)
            if sampled >> _HASH_BITS - tracked.level:
                return False
            known = tracked.people.get(sampled)
            if known is not None:
                points = _points(weight, self._spent.influence(person, now_ms))
                if points <= known & 0xFF:
                    return False
                tracked.put(sampled, known & ~0xFF | points)
                self.change_count += 1
                return True
        points = _points(weight, self._spent.influence(person, now_ms))
        if not points:
            return False
        self._spent.spend(person)
        if tracked is None:
            tracked = self._track(item, bucket)
            sampled = _sample_of(person, tracked.salt)
        tracked.add(sampled, bucket, points)
        self.change_count += 1
        return True

    def absorb(self, summary: Summary, now_ms: int) -> None:
        """Take back what this node had told before it was restarted. What it knows by now stays."""
        oldest = now_ms // self.span.bucket_ms - self.span.bucket_count + 1
        for item in summary.items:
            people = summary.people_of(item)
            if not any(value >> 16 >= oldest for value in people.values()):
                continue
            tracked = self._items.get(item)
            if tracked is None:
                tracked = self._track(item, summary.bucket)
            tracked.join(people, oldest)

    def summary(self, now_ms: int) -> Summary:
        """Sum up for the other nodes, and for this one after a restart: the strongest items that fit."""
        bucket = now_ms // self.span.bucket_ms
        left = MAX_BODY_BYTES
        items: dict[str, bytes] = {}
        for item in self._strongest(bucket):
            packed = self._items[item].packed(bucket, self.span.bucket_count)
            left -= len(msgspec.json.encode(item)) + (len(packed) + 2) // 3 * 4 + 4
            if left < 0:
                break
            items[item] = packed
        return Summary(at_ms=now_ms, bucket=bucket, items=items)

    def top(self, limit: int, now_ms: int) -> list[Trending]:
        """The strongest items by what this node has seen alone."""
        return top_of(self.span, [self], limit, now_ms)

    def names(self) -> Iterable[str]:
        return self._items

    def people_of(self, item: str) -> Mapping[int, int]:
        tracked = self._items.get(item)
        return {} if tracked is None else tracked.people

    def weigh(self, item: str, bucket: int, decay: Sequence[float]) -> Weighed:
        return self._items[item].weigh(bucket, decay)

    @property
    def item_count(self) -> int:
        return len(self._items)

    @property
    def people_count(self) -> int:
        """How many people are sampled, over all items."""
        return sum(len(tracked.people) for tracked in self._items.values())

    @property
    def spender_count(self) -> int:
        """Of how many people it is remembered how much they have spent."""
        return self._spent.people_count

    def _track(self, item: str, bucket: int) -> "_Item":
        if len(self._items) >= 2 * MAX_ITEMS:
            self._prune(bucket)
        tracked = self._items[item] = _Item(_salt_of(item), bucket)
        return tracked

    def _prune(self, bucket: int) -> None:
        """Keep the strongest half. In one go for many newcomers, so each of them pays some microseconds."""
        kept = self._strongest(bucket)[:MAX_ITEMS]
        self._items = {item: self._items[item] for item in reversed(kept)}  # the strongest count as newest

    def _strongest(self, bucket: int) -> list[str]:
        """Items with anybody left in the window; of equals the newest first, so that news has a chance."""
        decay = self.span.decay()
        scores: dict[str, float] = {}
        for item in reversed(self._items):
            weighed = self._items[item].weigh(bucket, decay)
            if weighed.sampled:
                scores[item] = weighed.score
        return sorted(scores, key=scores.__getitem__, reverse=True)


def merge(*told: Mapping[str, Summary]) -> dict[str, Summary]:
    """Join what is known of the nodes (node_id -> summary): of each node the newest.

    Order, grouping and repetition make no difference.
    """
    newest: dict[str, Summary] = {}
    for summaries in told:
        for node_id, summary in summaries.items():
            known = newest.get(node_id)
            if known is None or _is_newer(summary, known):
                newest[node_id] = summary
    return newest


def top_of(span: Span, parts: Sequence[Part], limit: int, now_ms: int) -> list[Trending]:
    """The strongest items of the union of these parts, at least MIN_PEOPLE people each, the best first.

    Milliseconds where parts are large, so callers keep the answer for a while.
    """
    bucket = now_ms // span.bucket_ms
    oldest = bucket - span.bucket_count + 1
    decay = span.decay()
    holders: dict[str, list[Part]] = {}
    for part in parts:
        for item in part.names():
            holders.setdefault(item, []).append(part)
    found: list[Trending] = []
    for item, holding in holders.items():
        if len(holding) == 1:
            weighed = holding[0].weigh(item, bucket, decay)
        else:
            joined = _union([part.people_of(item) for part in holding], oldest)
            weighed = _weigh(joined.values(), bucket, decay)
        if weighed.sampled >= MIN_PEOPLE:
            found.append(Trending(item, weighed.score, weighed.people))
    found.sort(key=lambda trending: (-trending.score, trending.item))
    return found[:limit]


def read_summary(body: str) -> Summary:
    """Read what `Summary.body` wrote. Raises: ValueError, where it is something else."""
    summary = _decoder.decode(body)
    for item, packed in summary.items.items():
        if len(packed) % _ENTRY.size:
            raise ValueError(f"the people of {item!r} are cut short")
        if any(level > _HASH_BITS for _, _, level, _ in _ENTRY.iter_unpack(packed)):
            raise ValueError(f"the people of {item!r} stand for more than there are")
    return summary


def hashtag_weight(weight: float, hashtag_count: int) -> float:
    """What an act on a post counts for each of its hashtags: a post stuffed with them lifts none of them."""
    return weight * min(1.0, 3 / hashtag_count) if hashtag_count else 0.0


class _Item:
    """The sampled people of one item. Who is new is taken where the hash lies below 2^-level."""

    __slots__ = ("_weighed", "_weighed_in", "bucket", "level", "people", "salt")

    def __init__(self, salt: int, bucket: int) -> None:
        self.salt = salt
        self.bucket = bucket  # in which it was last swept
        self.level = 0
        self.people: dict[int, int] = {}
        self._weighed = Weighed(0, 0, 0.0)
        self._weighed_in = -1  # the bucket for which that holds; -1: somebody has come or gone since

    def weigh(self, bucket: int, decay: Sequence[float]) -> Weighed:
        """As the people are now; most items have not changed since they were weighed in the same bucket."""
        if self._weighed_in != bucket:
            self._weighed = _weigh(self.people.values(), bucket, decay)
            self._weighed_in = bucket
        return self._weighed

    def put(self, sampled: int, value: int) -> None:
        self.people[sampled] = value
        self._weighed_in = -1

    def add(self, sampled: int, bucket: int, points: int) -> None:
        self.put(sampled, bucket << 16 | self.level << 8 | points)
        while len(self.people) > MAX_PEOPLE:
            self._thin(self.level + 1)

    def join(self, people: Mapping[int, int], oldest: int) -> None:
        self.people = _union([self.people, people], oldest)
        self._weighed_in = -1
        self.level = max([self.level, *(value >> 8 & 0xFF for value in self.people.values())])
        self._thin(self.level)
        while len(self.people) > MAX_PEOPLE:
            self._thin(self.level + 1)

    def sweep(self, bucket: int, bucket_count: int) -> None:
        """Forget who has left the window. Where few are left, sample more densely from now on.

        Those who stay keep the level that they were sampled with, so each still stands for as many as before.
        """
        oldest = bucket - bucket_count + 1 << 16
        self.people = {person: value for person, value in self.people.items() if value >= oldest}
        for _ in range(min(self.level, bucket - self.bucket)):
            if len(self.people) * 4 > MAX_PEOPLE:
                break
            self.level -= 1
        self.bucket = bucket
        self._weighed_in = -1

    def packed(self, bucket: int, bucket_count: int) -> bytes:
        return b"".join(
            _ENTRY.pack(person, age, value >> 8 & 0xFF, value & 0xFF)
            for person, value in sorted(self.people.items())
            if (age := max(0, bucket - (value >> 16))) < bucket_count
        )

    def _thin(self, level: int) -> None:
        self.level = level
        self.people = _at_level(self.people, level)
        self._weighed_in = -1


class _Spent:
    """On how many items each person has spent influence, over a window that slides.

    Two halves: the last full window counts as far as it still overlaps (as sliding rate limits do). When too
    many people come, a window ends early: memory is bounded, and the bound of each person a little laxer.
    """

    def __init__(self, span: Span) -> None:
        self._window_ms = span.window_ms
        self._full_items = span.full_items
        self._since_ms = 0
        self._current: dict[int, int] = {}
        self._previous: dict[int, int] = {}

    def influence(self, person: int, now_ms: int) -> float:
        """What the next act of a person counts: 1, after `full_items` ever less, and nothing in the end."""
        since_ms = now_ms - self._since_ms
        if since_ms >= self._window_ms or len(self._current) >= MAX_SPENDERS:
            self._previous = self._current if since_ms < 2 * self._window_ms else {}
            self._current = {}
            self._since_ms = now_ms
            since_ms = 0
        count: float = self._current.get(person, 0)
        if self._previous and (before := self._previous.get(person)):
            count += before * (1.0 - max(0, since_ms) / self._window_ms)
        overdraft = (count - self._full_items) / self._full_items
        if overdraft < 0.0:
            return 1.0
        return 0.0 if overdraft >= _MAX_OVERDRAFT else 0.5**overdraft

    def spend(self, person: int) -> None:
        self._current[person] = self._current.get(person, 0) + 1

    @property
    def people_count(self) -> int:
        return len(self._current) + len(self._previous)


def _weigh(values: Iterable[int], bucket: int, decay: Sequence[float]) -> Weighed:
    count = estimate = 0
    score = 0.0
    for value in values:
        age = bucket - (value >> 16)
        if -len(decay) < age < len(decay):  # below 0: a clock was ahead; by a window: it was wrong
            scale = 1 << (value >> 8 & 0xFF)
            count += 1
            estimate += scale
            score += (value & 0xFF) * scale * decay[max(age, 0)]
    return Weighed(count, estimate, score / _POINTS)


def _union(parts: Sequence[Mapping[int, int]], oldest: int) -> dict[int, int]:
    """Join samples of the same item: at the sparsest level, as only there all of them are whole.

    Who acted before the bucket `oldest` is left out, and does not make it sparser.
    """
    alive = [(person, value) for people in parts for person, value in people.items() if value >> 16 >= oldest]
    level = max((value >> 8 & 0xFF for _, value in alive), default=0)
    joined: dict[int, int] = {}
    for person, value in alive:
        known = joined.get(person)
        joined[person] = value if known is None else _both(known, value)
    return _at_level(joined, level)


def _at_level(people: Mapping[int, int], level: int) -> dict[int, int]:
    return {
        person: value & ~0xFF00 | max(value >> 8 & 0xFF, level) << 8
        for person, value in people.items()
        if not person >> _HASH_BITS - level
    }


def _both(one: int, other: int) -> int:
    """One person as two nodes saw them: the first act's bucket, the heaviest act's points."""
    return (
        min(one >> 16, other >> 16) << 16 | max(one & 0xFF00, other & 0xFF00) | max(one & 0xFF, other & 0xFF)
    )


def _points(weight: float, influence: float) -> int:
    return min(_MAX_POINTS, round(weight * influence * _POINTS))


def _is_newer(summary: Summary, known: Summary) -> bool:
    if summary.at_ms != known.at_ms:
        return summary.at_ms > known.at_ms
    return summary != known and summary.body() > known.body()  # a clock that stood still: any rule will do


def _sample_of(person: int, salt: int) -> int:
    """The 32 bits that decide whether a person is in an item's sample.

    They differ from item to item, so that nobody stands for thousands everywhere.
    """
    return (person ^ salt) * _MIXER >> 32 & 0xFFFF_FFFF


@lru_cache(maxsize=16_384)  # who acts now acts again soon; some 3 MB
def _person_of(user_id: str) -> int:
    return _hash64(user_id)


def _salt_of(item: str) -> int:
    return _hash64(f"item\x00{item}")


def _hash64(text: str) -> int:
    return int.from_bytes(blake2b(text.encode(), digest_size=8).digest(), "big")


_decoder: Final = msgspec.json.Decoder(Summary)


__all__ = [
    "DAY",
    "HOUR",
    "MAX_BODY_BYTES",
    "MAX_ITEMS",
    "MAX_PEOPLE",
    "MIN_PEOPLE",
    "SPANS",
    "Counters",
    "Part",
    "Span",
    "Summary",
    "Trending",
    "hashtag_weight",
    "merge",
    "read_summary",
    "top_of",
]
