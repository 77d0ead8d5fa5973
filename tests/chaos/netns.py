"""A network of its own for each node of a chaos run, made of network namespaces, whose links can be cut.

Needs root, iproute2 and nsenter; nothing outside of the namespaces is touched. One namespace is the clients':
it holds a bridge with the address …254; each node has a namespace with the address …1, …2, … on that bridge.

A cut gives a node a wrong hardware address for another one: what it sends is lost without a word, as on a
broken network, also on connections that exist. It may be one-way.
"""

import os
import shutil
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from tests.cluster_nodes import ClusterNode

NETWORK = "10.231.47"  # of the bridge; exists inside the namespaces only
WRONG_ADDRESS = "02:00:00:00:00:fe"  # locally administered, and nobody's
CLIENTS = ".254"


def can_make_namespaces() -> bool:
    """Whether this machine lets us."""
    if sys.platform != "linux" or os.geteuid() != 0:
        return False
    if shutil.which("ip") is None or shutil.which("nsenter") is None:
        return False
    name = f"hbtry{os.getpid()}"
    made = subprocess.run(["ip", "netns", "add", name], capture_output=True, check=False)
    if made.returncode != 0:
        return False
    bridge = subprocess.run(
        ["ip", "-n", name, "link", "add", "br0", "type", "bridge"], capture_output=True, check=False
    )
    subprocess.run(["ip", "netns", "delete", name], capture_output=True, check=False)
    return bridge.returncode == 0


def _ip(*words: str, is_checked: bool = True) -> None:
    done = subprocess.run(["ip", *words], capture_output=True, text=True, check=False)
    if is_checked and done.returncode != 0:
        raise RuntimeError(f"ip {' '.join(words)}: {done.stderr.strip()}")


class Networks:
    """The namespaces of one run. Nodes are numbered from 1, as their names n1, n2, … are."""

    def __init__(self, name: str, count: int) -> None:
        self.name = name
        self.count = count

    def namespace(self, number: int) -> str:
        """Of a node; 0 is the clients'."""
        return f"{self.name}-{number}"

    def within(self, number: int) -> Sequence[str]:
        """What runs a command in there; it keeps its process id."""
        return ("nsenter", f"--net=/run/netns/{self.namespace(number)}", "--")

    def address(self, number: int) -> str:
        return f"{NETWORK}.{number}"

    def make(self) -> None:
        clients = self.namespace(0)
        for number in range(self.count + 1):
            _ip("netns", "add", self.namespace(number))
            _ip("-n", self.namespace(number), "link", "set", "lo", "up")
        _ip("-n", clients, "link", "add", "br0", "type", "bridge")
        _ip("-n", clients, "addr", "add", f"{NETWORK}{CLIENTS}/24", "dev", "br0")
        _ip("-n", clients, "link", "set", "br0", "up")
        for number in range(1, self.count + 1):
            inside = self.namespace(number)
            _ip("-n", clients, "link", "add", f"v{number}", "type", "veth", "peer", "eth0", "netns", inside)
            _ip("-n", clients, "link", "set", f"v{number}", "master", "br0", "up")
            _ip("-n", inside, "addr", "add", f"{self.address(number)}/24", "dev", "eth0")
            _ip("-n", inside, "link", "set", "eth0", "up")

    def remove(self) -> None:
        for number in range(self.count + 1):
            _ip("netns", "delete", self.namespace(number), is_checked=False)

    # -- a Cutter, see scenarios.py -----------------------------------------------------------------

    def cut(self, source: ClusterNode, target: ClusterNode) -> None:
        """Lose what source sends to target."""
        _ip(
            *("-n", self.namespace(_number(source)), "neigh", "replace", self.address(_number(target))),
            *("lladdr", WRONG_ADDRESS, "dev", "eth0", "nud", "permanent"),
        )

    def heal(self) -> None:
        """Mend every cut."""
        for number in range(1, self.count + 1):
            for other in range(1, self.count + 1):
                if other != number:
                    _ip(
                        *("-n", self.namespace(number), "neigh", "del", self.address(other), "dev", "eth0"),
                        is_checked=False,
                    )


def _number(node: ClusterNode) -> int:
    return int(node.name.removeprefix("n"))


@contextmanager
def open_networks(name: str, count: int) -> Iterator[Networks]:
    """Namespaces that are gone when the context ends."""
    networks = Networks(name, count)
    networks.remove()  # of a run that was killed
    try:
        networks.make()
        yield networks
    finally:
        networks.remove()
