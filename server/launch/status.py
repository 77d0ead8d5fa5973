"""How the cluster is: what the store, the launcher and the nodes themselves say, put together.

Each of the three may be missing: a node that is down answers nothing, nodes that systemd starts have no
launcher, and the store can be read while none of them runs.
"""

import ipaddress
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Final
from urllib.parse import urlsplit

import httpx
import msgspec
import trio

from protocol.http import ClusterView
from protocol.records import NodeLease
from server.launch.orders import NodeState, State
from storage.glance import Glance

_ANSWER_WITHIN_S: Final = 2.0  # a node that takes longer has more to do than it can
LOW_LEASE_MS: Final = 4_000  # of 9 s, renewed every 2: two renewals have failed
HIGH_LAG_S: Final = 0.25  # people begin to notice


class NodeLine(msgspec.Struct, frozen=True, kw_only=True):
    """One node. What is None could not be learnt."""

    node_id: str
    state: str  # its launcher's word; else up, draining or gone, by the store
    pid: int | None = None
    restarts: int | None = None
    boot: int = 0
    address: str = ""
    url: str = ""
    lease_left_ms: int = 0
    is_draining: bool = False
    shard_count: int = 0
    epoch_min: int | None = None
    epoch_max: int | None = None
    connection_count: int | None = None
    cpu_share: float | None = None
    loop_lag_s: float | None = None
    load: float | None = None
    presence_users: int | None = None
    presence_digest: str | None = None
    refused: dict[str, int] = {}


class ClusterStatus(msgspec.Struct, frozen=True, kw_only=True):
    """All nodes, and what a person should look at."""

    launcher_pid: int | None
    nodes: list[NodeLine]
    shard_count: int
    unowned_count: int
    is_presence_agreed: bool | None  # None: fewer than two nodes told
    problems: list[str]


def put_together(seen: Glance, state: State | None, views: Mapping[str, ClusterView]) -> ClusterStatus:
    """Make one picture of what each side says; pure. `views` are the nodes' own, by node id."""
    leases = {member.node_id: member for member in seen.members}
    states = {node.node_id: node for node in state.nodes} if state is not None else {}
    # Shards whose owner's life is over belong to nobody, whatever their row says.
    living = {(m.node_id, m.boot) for m in seen.members if m.lease_left_ms > 0}
    owned = [shard for shard in seen.shards if (shard.owner, shard.boot) in living]
    known = sorted(
        {m.node_id for m in seen.members if m.lease_left_ms > 0} | states.keys() | views.keys(),
        key=lambda node_id: (len(node_id), node_id),  # n10 after n9
    )
    lines = []
    for node_id in known:
        epochs = [shard.epoch for shard in owned if shard.owner == node_id]
        lines.append(_line(node_id, leases.get(node_id), states.get(node_id), views.get(node_id), epochs))
    digests = {view.presence_digest for view in views.values() if view.presence_digest}
    told_count = sum(1 for view in views.values() if view.presence_digest)
    unowned_count = len(seen.shards) - len(owned)
    return ClusterStatus(
        launcher_pid=state.pid if state is not None else None,
        nodes=lines,
        shard_count=len(seen.shards),
        unowned_count=unowned_count,
        is_presence_agreed=len(digests) == 1 if told_count > 1 else None,
        problems=[
            *_problems(lines, states, views),
            *_broken_ways(lines, views),
            *_shard_problems(unowned_count, lines),
        ],
    )


def _line(
    node_id: str,
    lease: NodeLease | None,
    state: NodeState | None,
    view: ClusterView | None,
    epochs: list[int],
) -> NodeLine:
    is_draining = lease is not None and lease.lease_left_ms > 0 and lease.is_draining
    if state is not None:
        shown = "crash loop" if state.is_crash_looping and state.phase != "up" else state.phase
    elif lease is not None and lease.lease_left_ms > 0:
        shown = "draining" if is_draining else "up"
    else:
        shown = "gone"
    return NodeLine(
        node_id=node_id,
        state=shown,
        pid=(state.pid or None) if state is not None else None,
        restarts=state.restart_count if state is not None else None,
        boot=lease.boot if lease is not None else 0,
        address=(lease.address if lease is not None else "") or (state.cluster_address if state else ""),
        url=state.local_url if state is not None else "",
        lease_left_ms=lease.lease_left_ms if lease is not None else 0,
        is_draining=is_draining,
        shard_count=len(epochs),
        epoch_min=min(epochs, default=None),
        epoch_max=max(epochs, default=None),
        connection_count=view.connection_count if view is not None else None,
        cpu_share=state.cpu_share if state is not None else None,
        loop_lag_s=view.loop_lag_s if view is not None else None,
        load=view.load if view is not None else None,
        presence_users=view.presence_users if view is not None else None,
        presence_digest=view.presence_digest if view is not None else None,
        refused=view.refused if view is not None else {},
    )


def _problems(
    lines: Iterable[NodeLine], states: Mapping[str, NodeState], views: Mapping[str, ClusterView]
) -> list[str]:
    found = []
    for line in lines:
        state = states.get(line.node_id)
        if state is not None and state.phase != "up":
            last = f"; it ended last by {state.last_exit}" if state.last_exit else ""
            found.append(f"{line.node_id} is not up ({line.state}){last}.")
        elif line.node_id not in views and line.state == "up":
            found.append(f"{line.node_id} does not tell how it is: frozen, overloaded, or not to be reached.")
        if line.state in ("up", "draining") and line.lease_left_ms < LOW_LEASE_MS:
            found.append(f"{line.node_id} cannot renew its lease: {line.lease_left_ms} ms are left of it.")
        if line.loop_lag_s is not None and line.loop_lag_s >= HIGH_LAG_S:
            found.append(
                f"{line.node_id} has more to do than it can: its loop is {line.loop_lag_s:.2f} s late."
            )
    return found


def _broken_ways(lines: Iterable[NodeLine], views: Mapping[str, ClusterView]) -> list[str]:
    """Find the nodes that stand in the store and live, but not with each other."""
    telling = {
        line.node_id: views[line.node_id] for line in lines if line.lease_left_ms and line.node_id in views
    }
    found = []
    for node_id, view in telling.items():
        reached = {member.node_id for member in view.members if member.is_reachable}
        missed = [other for other in telling if other != node_id and other not in reached]
        if missed and view.members:
            found.append(
                f"{node_id} does not reach {', '.join(missed)}: "
                "another secret or certificate, or a cut network."
            )
    return found


def _shard_problems(unowned_count: int, lines: list[NodeLine]) -> list[str]:
    if not any(line.lease_left_ms for line in lines):
        return ["No node has a lease."]
    return [f"{unowned_count} shards have no owner."] if unowned_count else []


# -- asking the nodes -------------------------------------------------------------------------------


async def ask_nodes(urls: Iterable[str], admin_token: str) -> dict[str, ClusterView]:
    """Ask the nodes at these addresses, and those on this machine that they name.

    Returns what answered, by node id. The token goes to an address of `urls` only, and never to this machine,
    which needs none.
    """
    views: dict[str, ClusterView] = {}
    wanted = set(urls)
    asked: set[str] = set()
    # On this machine a certificate's name cannot be right, and nobody can listen in.
    near = httpx.AsyncClient(verify=False, timeout=_ANSWER_WITHIN_S, trust_env=False)
    far = httpx.AsyncClient(timeout=_ANSWER_WITHIN_S, headers=_bearer(admin_token))
    async with near, far:
        while unasked := wanted - asked:
            asked |= unasked
            async with trio.open_nursery() as nursery:
                for url in unasked:
                    nursery.start_soon(_ask, near if is_on_this_machine(url) else far, url, views)
            # A cluster that systemd runs is found from any of its nodes.
            named = {http_url(member.url) for view in views.values() for member in view.members}
            wanted |= {url for url in named if is_on_this_machine(url)}
    return views


def _bearer(token: str) -> dict[str, str]:
    return {"authorization": f"Bearer {token}"} if token else {}


async def _ask(client: httpx.AsyncClient, url: str, views: dict[str, ClusterView]) -> None:
    try:
        answer = await client.get(f"{url}/v1/cluster")
        if answer.status_code == 200:
            view = msgspec.json.decode(answer.content, type=ClusterView)
            views[view.node_id] = view
    except (httpx.HTTPError, httpx.InvalidURL, msgspec.DecodeError):
        return  # it is down, or something else listens there: the picture says that it did not tell


def http_url(url: str) -> str:
    """Return the address of a node's HTTP API from that of its WebSocket; "" where it is none."""
    try:
        parts = urlsplit(url)
    except ValueError:
        return ""
    scheme = {"ws": "http", "wss": "https", "http": "http", "https": "https"}.get(parts.scheme, "")
    return f"{scheme}://{parts.netloc}" if scheme and parts.netloc else ""


def is_on_this_machine(url: str) -> bool:
    """Tell whether an address cannot leave this machine."""
    host = urlsplit(url).hostname or ""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def look_up_state(directory: Path) -> State | None:
    """Ask the launcher of a directory; None where none runs."""
    from server.launch.door import NobodyThere, ask
    from server.launch.orders import Look

    try:
        for answer in ask(directory, Look()):
            if isinstance(answer, State):
                return answer
    except NobodyThere:
        return None
    return None
