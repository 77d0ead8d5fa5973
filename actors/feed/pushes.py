"""Posts of one author on their way into feeds: what is still to be sent, and to whom not before when.

Each partition has a queue of its own, of which few messages are under way: one that is slow or gone holds up
nothing but its own part. A partition that refuses gets nothing until it is tried again, in the same order.
"""

from collections import deque
from collections.abc import Iterable
from itertools import count
from typing import Final

from actors.feed.followers import Step

IN_FLIGHT_PER_PARTITION: Final = 2  # 64 for one author; the next one is there when a commit ends


class Push:
    """One message: a post for some users of a partition."""

    __slots__ = ("number", "partition", "post_id", "user_ids")

    def __init__(self, number: int, post_id: int, partition: int, user_ids: tuple[str, ...]) -> None:
        self.number = number  # rises in the order in which they were added
        self.post_id = post_id
        self.partition = partition
        self.user_ids = user_ids


class _Queue:
    __slots__ = ("in_flight", "is_held", "refused_count", "waiting")

    def __init__(self) -> None:
        self.waiting: deque[Push] = deque()
        self.in_flight = 0
        self.is_held = False
        self.refused_count = 0  # in a row


class Pushes:
    """Keep account of pushes; sends nothing itself."""

    def __init__(self) -> None:
        self._queues: dict[int, _Queue] = {}
        self._left: dict[int, int] = {}  # post_id -> messages that have not arrived
        self._numbers = count()

    def __len__(self) -> int:
        """How many posts are on their way."""
        return len(self._left)

    def add(self, post_id: int, steps: Iterable[Step]) -> None:
        """Take up a post, whose steps are one at least; one that is on its way already is left alone."""
        if post_id in self._left:
            return
        step_count = 0
        for partition, user_ids in steps:
            step_count += 1
            queue = self._queues.get(partition)
            if queue is None:
                queue = self._queues[partition] = _Queue()
            queue.waiting.append(Push(next(self._numbers), post_id, partition, user_ids))
        self._left[post_id] = step_count

    def take(self) -> list[Push]:
        """What is to be sent now: one to each partition before the second to any."""
        taken: list[Push] = []
        for depth in range(IN_FLIGHT_PER_PARTITION):
            for queue in self._queues.values():
                if queue.waiting and not queue.is_held and queue.in_flight <= depth:
                    queue.in_flight += 1
                    taken.append(queue.waiting.popleft())
        return taken

    def arrived(self, push: Push) -> bool:
        """A message was stored; returns whether its post is with everybody now."""
        queue = self._queues[push.partition]
        queue.in_flight -= 1
        queue.refused_count = 0
        if not queue.in_flight and not queue.waiting:
            del self._queues[push.partition]
        left = self._left[push.post_id] - 1
        if left:
            self._left[push.post_id] = left
            return False
        del self._left[push.post_id]
        return True

    def refused(self, push: Push) -> int:
        """A message was not taken. Returns how often in a row its partition has refused; 0: `resume` is due.

        Nothing goes to that partition before `resume`, which the caller owes for each number but 0.
        """
        queue = self._queues[push.partition]
        queue.in_flight -= 1
        place = 0  # behind those that were refused before it and are older: a step or two
        while place < len(queue.waiting) and queue.waiting[place].number < push.number:
            place += 1
        queue.waiting.insert(place, push)
        if queue.is_held:
            return 0
        queue.is_held = True
        queue.refused_count += 1
        return queue.refused_count

    def resume(self, partition: int) -> None:
        """Try a partition again."""
        self._queues[partition].is_held = False
