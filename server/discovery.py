"""Which nodes to recommend to clients, how loaded a node is, and whose pages belong to the cluster. Pure.

A recommendation is a guess that thousands make at the same moment, from numbers that are some seconds old.
Were it the same for all, they would all land on the node that had the most room and leave it with the least.
So each answer is shuffled anew, weighted by room: together the clients fill all nodes evenly.
"""

import heapq
import math
from collections.abc import Callable, Iterable
from typing import Final
from urllib.parse import urlsplit

from protocol.types import NodeInfo

SHED_LAG_S: Final = 0.5  # GatewaySettings.shed_lag_s: from there on newcomers are turned away
FULL_LOAD: Final = 0.95  # so close to turning newcomers away that they should try others first
MAX_IN_WELCOME: Final = 16  # enough to find one that lives; a hundred in each welcome would only cost
MAX_REMEMBERED_ORIGINS: Final = 1000  # nodes that come and go under new names must not add up for ever
_LOOPBACK: Final = ("127.0.0.1", "localhost", "[::1]")


def load_of(
    *, connection_count: int, max_connections: int, lag_s: float, shed_lag_s: float = SHED_LAG_S
) -> float:
    """Return how close a node is to turning newcomers away: 0.0 idle, 1.0 it does.

    The worse of two: the share of its connections that are taken, and how late its event loop is, against
    the lag at which it sheds. Rounded, so that gossip need not carry every single connection.
    """
    taken = connection_count / max_connections if max_connections > 0 else 1.0
    late = lag_s / shed_lag_s if shed_lag_s > 0 else 1.0
    return round(min(1.0, max(0.0, taken, late)), 2)


def recommend(
    nodes: Iterable[NodeInfo], *, zone: str = "", chance: Callable[[], float], limit: int | None = None
) -> list[NodeInfo]:
    """Order nodes for one client, best first.

    Nodes with room before those that are full or drain; among them the client's zone first, where it names
    one; among those a shuffle weighted by the square of their room: of two nodes with loads 0.2 and 0.8, the
    first comes first 16 times in 17. `chance` returns numbers in [0, 1); each client needs its own.
    """

    def place(node: NodeInfo) -> tuple[bool, bool, bool, float]:
        is_elsewhere = bool(zone) and node.zone != zone
        return node.draining, node.load >= FULL_LOAD, is_elsewhere, _ticket(node.load, chance())

    placed = [(place(node), index, node) for index, node in enumerate(nodes)]
    best = sorted(placed) if limit is None else heapq.nsmallest(limit, placed)
    return [node for _place, _index, node in best]


def _ticket(load: float, draw: float) -> float:
    """Return a waiting time: exponential, with the weight as its rate, so that sorting by it is a weighted
    shuffle (Efraimidis and Spirakis, Weighted random sampling with a reservoir, 2006)."""
    room = min(1.0, max(0.01, 1.0 - load))  # the fullest still has its chance: loads are old news
    return -math.log(1.0 - draw) / (room * room)


def origin_of_node(node: NodeInfo) -> str:
    """Return the origin of the pages that a node serves, such as https://chat.example.com; "" for none."""
    try:
        parts = urlsplit(node.url)
        is_wrong = not parts.hostname or parts.port == 0
    except ValueError:
        return ""
    scheme = {"ws": "http", "http": "http", "wss": "https", "https": "https"}.get(parts.scheme, "")
    if not scheme or is_wrong:
        return ""
    host = parts.netloc.rpartition("@")[2].lower()
    default = ":443" if scheme == "https" else ":80"
    return f"{scheme}://{host.removesuffix(default)}"


class ClusterOrigins:
    """The origins of all nodes' pages: of living nodes first, then of nodes that were seen before.

    A page whose node is dead is the one that needs the others, and they no longer list its node: so an
    origin is remembered for the life of this process. It gives no rights by itself: there are no cookies,
    and a token is only ever in the storage of the origin where its user signed in.

    Call it whenever the nodes change, or nodes that came and went in between are missed.
    """

    def __init__(self, nodes: Callable[[], Iterable[NodeInfo]]) -> None:
        self._nodes = nodes
        self._urls: tuple[str, ...] = ()
        self._origins: tuple[str, ...] = ()

    def __call__(self) -> tuple[str, ...]:
        nodes = list(self._nodes())
        urls = tuple(node.url for node in nodes)
        if urls != self._urls:
            self._urls = urls
            live = sorted(alias for node in nodes for alias in _aliases(origin_of_node(node)))
            # dict: each once, and the first place counts.
            self._origins = tuple(dict.fromkeys((*live, *self._origins)))[:MAX_REMEMBERED_ORIGINS]
        return self._origins


def _aliases(origin: str) -> list[str]:
    """All names of an origin: a node on one's own machine is opened as localhost, too."""
    if not origin:
        return []
    scheme, _, place = origin.partition("://")
    for name in _LOOPBACK:
        if place == name or place.startswith(f"{name}:"):
            return [f"{scheme}://{other}{place[len(name) :]}" for other in _LOOPBACK]
    return [origin]
