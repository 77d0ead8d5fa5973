"""The followers of one author in memory, by the partition that their feeds belong to."""

from collections.abc import Callable, Iterator
from itertools import islice
from typing import Final

from actors.feed.address import partition_of

MAX_STEP: Final = 1000  # users in one FanOut
LONG_LIST: Final = 1000  # followers from which on those who are connected are worth a message of their own

Step = tuple[int, tuple[str, ...]]
"""A partition, and users of it who get a post by one message."""


class Followers:
    """Who is to get the posts of an author, who gets them too."""

    def __init__(self, author_id: str) -> None:
        self._author_id = author_id
        self._groups: dict[int, dict[str, int]] = {}  # partition -> follower_id -> version of the edge
        self._steps: dict[int, list[Step]] = {}  # as they were last made
        self._count = 0

    def __len__(self) -> int:
        return self._count

    def version_of(self, follower_id: str) -> int | None:
        """The version of an edge; None: they do not follow."""
        return self._groups.get(partition_of(follower_id), {}).get(follower_id)

    def put(self, follower_id: str, version: int) -> None:
        """They follow, by this version of the edge."""
        partition = partition_of(follower_id)
        group = self._groups.setdefault(partition, {})
        if follower_id not in group:
            self._count += 1
            self._steps.pop(partition, None)
        group[follower_id] = version

    def discard(self, follower_id: str) -> None:
        """They do not follow."""
        partition = partition_of(follower_id)
        if self._groups.get(partition, {}).pop(follower_id, None) is not None:
            self._count -= 1
            self._steps.pop(partition, None)

    def steps(self, is_connected: Callable[[str], bool]) -> list[Step]:
        """All messages that bring a post to everybody: the author's own first.

        In a long list those who are connected come before all others, whatever their partition.
        """
        own = partition_of(self._author_id)
        if self._count < LONG_LIST:
            found: list[Step] = []
            for partition in {own: None} | dict.fromkeys(self._groups):
                found += self._steps_of(partition)
            return found
        first: list[Step] = []
        later: list[Step] = []
        for partition in {own: None} | dict.fromkeys(self._groups):
            members = self._members(partition)
            connected = [u for u in members if u == self._author_id or is_connected(u)]
            present = set(connected)
            first += _cut(partition, iter(connected))
            later += _cut(partition, (u for u in members if u not in present))
        return first + later

    def _steps_of(self, partition: int) -> list[Step]:
        steps = self._steps.get(partition)
        if steps is None:
            steps = self._steps[partition] = list(_cut(partition, iter(self._members(partition))))
        return steps

    def _members(self, partition: int) -> list[str]:
        group = self._groups.get(partition, {})
        own = [self._author_id] if partition == partition_of(self._author_id) else []
        return own + [u for u in group if u != self._author_id]


def _cut(partition: int, user_ids: Iterator[str]) -> Iterator[Step]:
    while step := tuple(islice(user_ids, MAX_STEP)):
        yield partition, step
