"""Ask other nodes about themselves, and answer what they ask: for views that show the whole cluster.

Nothing is asked twice. Who does not answer in time, is of an older version, or cannot be reached, is left
out of the answers, so that whoever asked can name it.
"""

from collections.abc import Callable, Collection
from secrets import randbits

import trio

from cluster import wire
from cluster.router import Way
from protocol.notify_node import NodeAnswer, NodeQuestion

_CORR_BITS = 60  # MessagePack's integers have 64


class _Asked:
    """One question to several nodes, and who has answered."""

    __slots__ = ("answers", "complete", "waiting")

    def __init__(self, node_ids: set[str]) -> None:
        self.waiting = node_ids
        self.answers: dict[str, NodeAnswer] = {}
        self.complete = trio.Event()


class Inquiries:
    """`ask` others; `received` takes what they say. `answer` answers them, at once."""

    def __init__(self, way: Way) -> None:
        self._way = way
        self._asked: dict[int, _Asked] = {}
        # An answer to a former process of this node must not be taken for one of ours.
        self._next_corr = randbits(_CORR_BITS)
        self.answer: Callable[[NodeQuestion], NodeAnswer | None] = _no_answer

    async def ask(
        self, node_ids: Collection[str], question: NodeQuestion, *, timeout_s: float
    ) -> dict[str, NodeAnswer]:
        """Ask these nodes, and return what came within that time, by node."""
        corr, self._next_corr = self._next_corr, self._next_corr + 1
        item = wire.Inquire(corr, question)
        asked = self._asked[corr] = _Asked(set(node_ids))
        try:
            for node_id in node_ids:
                if not self._way.send(node_id, item):
                    asked.waiting.discard(node_id)
            if asked.waiting:
                with trio.move_on_after(timeout_s):
                    await asked.complete.wait()
        finally:
            del self._asked[corr]
        return asked.answers

    def received(self, node_id: str, item: wire.Item) -> bool:
        """Take a question or an answer; False: it is neither."""
        if isinstance(item, wire.Inquire):
            found = self.answer(item.question)
            if found is not None:
                self._way.send(node_id, wire.Told(item.corr, found))
        elif isinstance(item, wire.Told):
            asked = self._asked.get(item.corr)
            if asked is not None and node_id in asked.waiting:
                asked.waiting.discard(node_id)
                asked.answers[node_id] = item.answer
                if not asked.waiting:
                    asked.complete.set()
        else:
            return False
        return True


def _no_answer(_question: NodeQuestion) -> NodeAnswer | None:
    return None
