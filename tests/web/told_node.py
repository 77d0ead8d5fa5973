"""A `hubbub serve` that names the nodes it is told of, as a node of a cluster does: for the page's tests.

TOLD_NODES holds the nodes' public addresses with commas between them, the same for all of them.
"""

import os
from collections.abc import Callable

import trio

from protocol.types import NodeInfo
from server.app import Addresses, Node
from server.config import Settings, load
from server.discovery import ClusterOrigins
from server.log_setup import set_up_logging


class ToldNode(Node):
    """One node that believes in the others."""

    def __init__(self, settings: Settings, *, on_ready: Callable[[Addresses], None] | None = None) -> None:
        super().__init__(settings, on_ready=on_ready)
        self._cluster_origins = ClusterOrigins(self._nodes)

    def _nodes(self) -> list[NodeInfo]:
        urls = os.environ["TOLD_NODES"].split(",")
        return [
            NodeInfo(node_id=f"node-{number}", url=f"{url.replace('http', 'ws', 1)}/ws")
            for number, url in enumerate(urls, 1)
        ]


if __name__ == "__main__":
    set_up_logging(log_format="json", level="info")
    trio.run(ToldNode(load({}, os.environ).settings).run)
