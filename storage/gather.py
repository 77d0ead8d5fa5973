"""Questions of one kind that come while another query runs are answered together, by one query.

Like the writer's commits: nothing waits for a timer, and the busier the node, the larger the groups. A way to
a reader's thread and back costs ten times the look-up itself, and each row that is fetched there is a fight
for the interpreter's lock; a crowd that connects at once pays both once for all.
"""

import sqlite3
from collections.abc import Callable, Sequence
from typing import Any, Final, Generic, TypeVar

import trio

from protocol.errors import HubbubError, Overloaded
from storage.reader import MAX_WAITING_READS, Read, Readers

MAX_GROUP: Final = 64  # questions of one query: some ms, so that nobody waits long for the others'

K = TypeVar("K")
V = TypeVar("V")


class _Question(Generic[K, V]):
    """What one task waits for."""

    __slots__ = ("error", "key", "task", "value")

    def __init__(self, key: K, task: trio.lowlevel.Task) -> None:
        self.key = key
        self.task: trio.lowlevel.Task | None = task  # None: it was cancelled
        self.value: V | None = None
        self.error: Exception | None = None


class Gathered(Generic[K, V]):
    """Ask one kind of question. `query(connection, keys)` returns an answer for each key, in order."""

    def __init__(
        self, readers: Readers, query: Callable[[sqlite3.Connection, Sequence[K]], Sequence[V]]
    ) -> None:
        self._readers = readers
        self._query = query
        self._waiting: list[_Question[K, V]] = []
        self._asked: list[_Question[K, V]] = []  # those of the query that runs

    async def ask(self, key: K) -> V:
        """Return the answer of a query that begins after this call. A cancelled caller leaves at once.

        Raises: as Readers.run; an error of the query is raised to all who share it, a copy to each.
        """
        await trio.lowlevel.checkpoint_if_cancelled()
        if len(self._waiting) >= MAX_WAITING_READS:
            raise Overloaded("Too many reads are waiting.")
        question: _Question[K, V] = _Question(key, trio.lowlevel.current_task())
        self._waiting.append(question)
        if not self._asked:
            try:
                self._begin()
            except HubbubError:
                self._waiting.clear()  # ours alone: whoever came before has begun
                raise

        def abort(_: object) -> trio.lowlevel.Abort:
            question.task = None
            return trio.lowlevel.Abort.SUCCEEDED

        await trio.lowlevel.wait_task_rescheduled(abort)
        if question.error is not None:
            raise _copy_of(question.error)
        value: V = question.value  # type: ignore[assignment]  # an answer, None where that is one
        return value

    def _begin(self) -> None:
        """Ask for those who wait, the first MAX_GROUP of them. Raises: as Readers.submit."""
        asked = [question for question in self._waiting[:MAX_GROUP] if question.task is not None]
        if asked:
            self._readers.submit(self._query, ([question.key for question in asked],), self._done)
        del self._waiting[:MAX_GROUP]
        self._asked = asked

    def _done(self, read: Read) -> None:
        asked, self._asked = self._asked, []
        values: Sequence[Any] = [None] * len(asked) if read.error is not None else read.value
        for question, value in zip(asked, values, strict=True):
            question.value = value
            question.error = read.error
            _resume(question)
        try:
            while self._waiting and not self._asked:  # again only where a whole group was cancelled
                self._begin()
        except HubbubError as exc:  # the store was closed, or has too much to do
            waiting, self._waiting = self._waiting, []
            for question in waiting:
                question.error = exc
                _resume(question)


def _copy_of(error: Exception) -> Exception:
    """Make an error of the same type, args and attributes, caused by this one.

    One instance raised in many tasks would collect the tracebacks, and so the frames, of them all. `__new__`,
    as an error's own `__init__` need not take its `args`.
    """
    copy: Exception = type(error).__new__(type(error), *error.args)
    copy.__dict__.update(error.__dict__)
    copy.__cause__ = error
    return copy


def _resume(question: _Question[Any, Any]) -> None:
    if question.task is not None:
        task, question.task = question.task, None
        trio.lowlevel.reschedule(task)
