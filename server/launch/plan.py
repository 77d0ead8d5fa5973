"""Which node has which ports, and the words that start it. Pure, but for the search for free ports.

Node 1 has the ports that the settings name, node i those plus 10 * (i - 1): 8080, 8081, 8082 and 8083, then
8090 and so on, so that people can tell a node by its port.
"""

import contextlib
import errno
import random
import socket
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any, Final

import msgspec

from server.config import FIELDS, SECRETS, ConfigError, Settings

PORT_STEP: Final = 10  # room for what a node may open later
MAX_NODES: Final = 32  # they share one machine's cores and one writer at a time; more gain nothing
# What no two nodes can have alike, and what the launcher decides for them.
OWN_TO_A_NODE: Final = frozenset(
    {"node_id", "cluster", "port", "bot_port", "cluster_port", "cluster_advertise", "log_format"}
)
# Above what services use, below the ports that systems hand out to outgoing connections (32768 on Linux,
# 49152 elsewhere): none of those can take a port while its node is down for a moment.
_FREE_PORTS: Final = range(10_240, 32_000)
_SEARCHES: Final = 200


class NodePlan(msgspec.Struct, frozen=True, kw_only=True):
    """One node to run. `cluster_port + 1` is its own, too."""

    node_id: str
    host: str
    port: int
    bot_port: int
    cluster_host: str
    cluster_port: int
    is_tls: bool = False

    @property
    def local_url(self) -> str:
        """Where this machine reaches its HTTP API."""
        shown = {"": "127.0.0.1", "0.0.0.0": "127.0.0.1", "::": "::1"}.get(self.host, self.host)
        shown = f"[{shown}]" if ":" in shown else shown
        return f"{'https' if self.is_tls else 'http'}://{shown}:{self.port}"

    @property
    def ports(self) -> dict[str, tuple[str, int]]:
        """All places it listens at: setting -> (host, port)."""
        return {
            "port": (self.host, self.port),
            "bot_port": (self.host, self.bot_port),
            "cluster_port": (self.cluster_host, self.cluster_port),
            "cluster_port + 1": (self.cluster_host, self.cluster_port + 1),
        }


class FirstPorts(msgspec.Struct, frozen=True):
    """The ports of node 1; 0: any free ones for every node."""

    port: int
    bot_port: int
    cluster_port: int


def first_ports(settings: Settings, sources: Mapping[str, str]) -> FirstPorts:
    """Read them from the settings. Those that nobody set follow `port`: `--port 9000` means 9001 and 9002."""
    port = settings.port

    def follow(name: str, distance: int) -> int:
        given = sources.get(name, "default") != "default"
        if given:
            return int(getattr(settings, name))
        return port + distance if port else 0

    return FirstPorts(port, follow("bot_port", 1), follow("cluster_port", 2))


class NodePlans:
    """The plans of all nodes of a launch, made when first asked for and the same ever after."""

    def __init__(
        self, settings: Settings, first: FirstPorts, *, find_free: Callable[[str, Collection[int]], int]
    ) -> None:
        self._settings = settings
        self._first = first
        self._find_free = find_free
        self._plans: dict[int, NodePlan] = {}

    def plan(self, number: int) -> NodePlan:
        """Return the plan of node `number`, from 1. Raises: ConfigError, where its ports cannot be had."""
        if number not in self._plans:
            self._plans[number] = self._make(number)
        return self._plans[number]

    def _make(self, number: int) -> NodePlan:
        first, settings = self._first, self._settings
        taken = {port for plan in self._plans.values() for _, port in plan.ports.values()}
        # Four ports in a row, of which those are used whose setting is 0.
        free = self._find_free(settings.host, taken) if 0 in msgspec.structs.astuple(first) else 0
        shift = PORT_STEP * (number - 1)
        plan = NodePlan(
            node_id=f"n{number}",
            host=settings.host,
            port=first.port + shift if first.port else free,
            bot_port=first.bot_port + shift if first.bot_port else free + 1,
            cluster_host=settings.cluster_host,
            cluster_port=first.cluster_port + shift if first.cluster_port else free + 2,
            is_tls=settings.is_tls,
        )
        _check(plan, self._plans.values())
        return plan


def _check(plan: NodePlan, others: Collection[NodePlan]) -> None:
    owners = {port: other.node_id for other in others for _, port in other.ports.values()}
    for name, (_, port) in plan.ports.items():
        if not 0 < port < 65536:
            raise ConfigError(f"{plan.node_id} would get port {port}; choose a lower port, or fewer nodes.")
        if port in owners:
            raise ConfigError(
                f"{name} of {plan.node_id} would be {port}, which {owners[port]} has; "
                f"leave bot_port and cluster_port out, or put them {PORT_STEP} apart from the others."
            )
        owners[port] = plan.node_id


def find_free_ports(host: str, taken: Collection[int], *, chance: random.Random | None = None) -> int:
    """Return the first of four ports in a row that nobody has at `host` now. Raises: ConfigError."""
    chance = chance or random.Random()
    for _ in range(_SEARCHES):
        first = chance.choice(_FREE_PORTS)
        four = range(first, first + 4)
        if not any(port in taken for port in four) and all(is_free(host, port) for port in four):
            return first
    raise ConfigError(f"No free ports were found at {host!r}; name some with --port.")


def is_free(host: str, port: int) -> bool:
    """Tell whether nobody listens there now. What else may be in the way, its node says."""
    with contextlib.suppress(socket.gaierror):
        for family, kind, protocol, _, address in socket.getaddrinfo(
            host or None, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        ):
            with socket.socket(family, kind, protocol) as probe:
                probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
                try:
                    probe.bind(address)
                    probe.listen(1)
                except OSError as exc:
                    if exc.errno == errno.EADDRINUSE:
                        return False
    return True


def node_flags(plan: NodePlan, given: Mapping[str, Any], data_dir: str) -> dict[str, Any]:
    """Return the settings that a node gets as flags: its own, and the flags that the launcher was given.

    What comes from variables and the settings file reaches the node by itself, and anew at each start: so a
    rolling restart takes up a changed file.
    """
    shared = {name: value for name, value in given.items() if name not in OWN_TO_A_NODE}
    return shared | {
        "data_dir": data_dir,
        "cluster": True,
        "node_id": plan.node_id,
        "host": plan.host,
        "port": plan.port,
        "bot_port": plan.bot_port,
        "cluster_host": plan.cluster_host,
        "cluster_port": plan.cluster_port,
        "log_format": "json",
    }


def serve_words(flags: Mapping[str, Any], config_file: str) -> list[str]:
    """Return the words after `hubbub` that start a node with these flags."""
    words = ["serve"]
    if config_file:
        words.append(f"--config={config_file}")
    for name, value in flags.items():
        # Every user of the machine can read a command line.
        assert name in FIELDS, name
        assert name not in SECRETS, name
        flag = name.replace("_", "-")
        if isinstance(value, bool):
            words.append(f"--{flag}" if value else f"--no-{flag}")
        elif isinstance(value, Sequence) and not isinstance(value, str):
            words.append(f"--{flag}={','.join(value)}")
        else:
            words.append(f"--{flag}={value}")
    return words
