"""Where to connect next: the addresses that the user gave, and the nodes that the server told of. Pure.

An attempt goes to the best place that was not tried yet in this round; when all were tried, the round is over
and the next one begins, after a pause that is not this file's matter. Best is, in this order:

1. the nodes that the server named, but not one that could not be reached, drains or is full; those of the
   zone of the node that was lost before the others, and among them by chance, weighted by their room, so that
   the clients of a dead node do not all land on the same one;
2. the addresses that the user gave, the one in use last: a load balancer may stand there, and a wrong list
   must not lock us out;
3. the other nodes that the server named;
4. the node whose connection was lost: it may be dead, and if it is not, the others do as well.

Nothing here decides whom to trust: `hubbub.endpoint.node_endpoint` does.
"""

import math
from collections.abc import Callable, Sequence
from typing import Final

from hubbub.endpoint import Endpoint, node_endpoint
from protocol.types import NodeInfo

FULL_LOAD: Final = 0.95  # it is about to turn newcomers away
MAX_NODES: Final = 64  # of a list; nobody needs more to find one that lives


class Nodes:
    """What one client knows of where its server is."""

    def __init__(self, configured: Sequence[Endpoint], chance: Callable[[], float]) -> None:
        self.configured = list(configured)
        self._chance = chance
        self._told: dict[Endpoint, NodeInfo] = {}  # the latest list
        self._unreached: set[Endpoint] = set()  # told, tried, and not reached since
        self._tried: set[Endpoint] = set()  # in this round
        self._left: Endpoint | None = None  # where the last session was
        self._left_node = NodeInfo(node_id="", url="")

    def __str__(self) -> str:
        return ", ".join(map(str, self.configured))

    def learn(self, nodes: Sequence[NodeInfo]) -> None:
        """Take a list from the server in place of the one before; an empty one says nothing new."""
        told = {
            endpoint: node
            for node in nodes[:MAX_NODES]
            if (endpoint := node_endpoint(node, self.configured)) is not None
        }
        if told:
            self._told = told
            self._unreached &= told.keys()

    def opened(self, endpoint: Endpoint, node_id: str) -> None:
        """Note that a session is open at `endpoint`, where the node `node_id` answered."""
        self._unreached.discard(endpoint)
        self._tried.clear()
        self._left = endpoint
        unknown = NodeInfo(node_id=node_id, url="")
        self._left_node = next((node for node in self._told.values() if node.node_id == node_id), unknown)

    def failed(self, endpoint: Endpoint) -> bool:
        """Note that no session came about at `endpoint`. Returns whether another place is left to try now;
        else this round is over."""
        self._tried.add(endpoint)
        if endpoint in self._told:
            self._unreached.add(endpoint)
        if any(place not in self._tried for place in self._places()):
            return True
        self._tried.clear()
        return False

    @property
    def has_choice(self) -> bool:
        """Whether there is more than one place."""
        return len(self._places()) > 1

    def next(self) -> Endpoint:
        """Return where to try now."""
        places = self._places()
        return min([place for place in places if place not in self._tried] or places, key=self._rank)

    def _places(self) -> list[Endpoint]:
        return list(dict.fromkeys((*self._told, *self.configured)))

    def _rank(self, endpoint: Endpoint) -> tuple[int, bool, float]:
        left = self._left_node
        node = self._told.get(endpoint)
        if node is None:
            return 2 if endpoint == self._left else 1, False, self._chance()
        if endpoint == self._left or (node.node_id == left.node_id and bool(left.node_id)):
            group = 4
        elif endpoint in self._unreached or node.draining or node.load >= FULL_LOAD:
            group = 1 if endpoint in self.configured else 3
        else:
            group = 0
        room = min(1.0, max(0.01, 1.0 - node.load))
        # The same weighted shuffle as the server's (server/discovery.py): the list may be the same for many.
        ticket = -math.log(1.0 - self._chance()) / (room * room)
        return group, bool(left.zone) and node.zone != left.zone, ticket
