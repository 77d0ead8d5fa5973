"""Where everything meets: one node, from its settings to its orderly end.

Supervision tree (rest_for_one at the root, since what stands later builds on what stands before):

    root        the store is open around it
    |- store    notices when the store's writer has crashed, which only a new process mends
    |- actors   one_for_one: user and conversation hosts, hub, relay, service
    |- cluster  only of several nodes: lease and shards, lanes, gossip, routing; see cluster.node
    |- log_ins  watches for log-ins that ended, writes when they were used
    |- janitor  removes what no upload names any more
    `- gateway  the public port, the bot port, and a session for each connection

SIGTERM or SIGINT drains: nobody new, clients told to reconnect, work in flight finished, exit code 0. When
the root has restarted its children too often it gives up, and so does the process, with code 1: whoever runs
it starts it anew, and everything that was acked comes back from the log.
"""

import errno
import gc
import random
import signal
import socket
import ssl
from collections.abc import Callable, Collection
from dataclasses import dataclass
from functools import partial
from typing import Final

import structlog
import trio

from actors.hub import Hub
from actors.notify.channel_stats import BUCKETS_S
from actors.router import LocalRouter
from actors.supervisor import ChildSpec, ChildStatus, Strategy, Supervisor, SupervisorEscalated
from cluster.node import ClusterNode
from protocol.types import NodeInfo
from server import janitor
from server.accounts import AccountRates, Accounts
from server.chat_core import Alone, ChatCore, Surroundings
from server.clock import wall_clock_ms
from server.clustering import cluster_settings
from server.config import ConfigError, Settings, server_secret
from server.directory import Directory
from server.discovery import MAX_IN_WELCOME, ClusterOrigins, load_of, recommend
from server.files import Files
from server.gateway import Gateway, GatewaySettings
from server.http_api import HttpServices, make_http_app
from server.identity import Identity
from server.listener import TlsFiles, open_listener
from server.log_ins import LogIns
from server.log_setup import set_up_logging
from server.metrics import Metrics
from server.ratelimit import Rate
from server.session import SessionLimits
from server.version import VERSION
from storage import SqliteStore, open_store
from storage.writer import COMMIT_BUCKETS_S

RECONNECT_WITHIN_S: Final = 5.0  # over which a drained node's clients spread themselves

log = structlog.get_logger(__name__)


class CannotStart(OSError):
    """Something outside of the node is in the way; the message says what, and what to do."""


@dataclass(frozen=True, slots=True)
class Addresses:
    """Where a node that is up can be reached."""

    page: str
    bots: str


class Node:
    """One running node. `run` returns its exit code."""

    def __init__(self, settings: Settings, *, on_ready: Callable[[Addresses], None] | None = None) -> None:
        self.settings = settings
        self.node_id = settings.node_id or socket.gethostname()
        self.metrics = Metrics()
        self._on_ready = on_ready or (lambda _addresses: None)
        self._cluster_origins: Callable[[], Collection[str]] = (
            ClusterOrigins(self._nodes) if settings.is_clustered else frozenset
        )
        self._store: SqliteStore
        self._core: ChatCore
        self._log_ins: LogIns
        self._gateway: Gateway
        self._cluster: ClusterNode | None = None

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> int:
        """Serve until a signal, cancellation, or a failure that restarting did not mend."""
        settings = self.settings
        exit_code = 0
        try:
            async with open_store(settings.data_path, synchronous=settings.synchronous.upper()) as store:
                await _check_ports(settings)
                if settings.is_clustered:
                    await store.live_as(self.node_id)
                    await self._build(store, partial(self._surround, store))
                else:
                    epochs = await store.claim_all(self.node_id)
                    await self._build(store, partial(Alone, epochs))
                root = Supervisor(
                    "root",
                    [
                        ChildSpec(name="store", start=self._watch_store),
                        self._core.supervisor.as_child(),
                        *([] if self._cluster is None else [self._cluster.supervisor.as_child()]),
                        ChildSpec(name="log_ins", start=self._watch_log_ins),
                        ChildSpec(name="janitor", start=self._keep_tidy),
                        ChildSpec(name="gateway", start=self._gateway.run, shutdown_s=15.0),
                    ],
                    strategy=Strategy.REST_FOR_ONE,
                    max_restarts=3,
                    period_s=60.0,
                )
                async with trio.open_nursery() as nursery:
                    nursery.start_soon(self._until_signal, nursery.cancel_scope)
                    await nursery.start(root.run)
                    self._announce()
                    task_status.started()
        except* SupervisorEscalated as group:
            log.error("node_gave_up", reason=str(group.exceptions[0]))  # noqa: TRY400 - logged before
            exit_code = 1
        log.info("node_stopped", exit_code=exit_code)
        return exit_code

    def _surround(self, store: SqliteStore, router: LocalRouter, hub: Hub) -> ClusterNode:
        """Make this node's part in the cluster."""
        settings = cluster_settings(self.settings, self.node_id)
        self._cluster = ClusterNode(settings, store, router, hub, now_ms=wall_clock_ms, load=self._load)
        return self._cluster

    def _load(self) -> tuple[int, float, float]:
        gateway = self._gateway
        lag_s = gateway.lag.lag_s(trio.current_time())
        load = load_of(
            connection_count=gateway.connection_count,
            max_connections=self.settings.max_connections,
            lag_s=lag_s,
        )
        return gateway.connection_count, load, lag_s

    async def _build(self, store: SqliteStore, surround: Callable[[LocalRouter, Hub], Surroundings]) -> None:
        settings = self.settings
        self._store = store
        directory = Directory(store)
        await directory.ensure_default_app()
        self._log_ins = LogIns(store, directory, server_secret(settings))
        accounts = Accounts(
            store,
            directory,
            self._log_ins,
            rates=_account_rates(settings),
            is_sign_up_open=settings.sign_up_open,
        )
        self._core = ChatCore(
            store,
            directory,
            self._log_ins,
            surround=surround,
            node_id=self.node_id,
            server=f"hubbub/{VERSION}",
            nodes=self._nodes_for_welcome,
            now_ms=wall_clock_ms,
            max_file_bytes=settings.max_file_bytes,
            feed_limits=settings.feeds,
            secret=server_secret(settings),
            public_url=settings.public_url,
            reach=settings.notify_reach,
        )
        store.deliver_within(self._core.turn)
        if self._cluster is not None:
            self._cluster.serve(self._core)
            self._cluster.on_beat = self._cluster_origins
            self.metrics.add_gauges(
                "cluster", "The cluster as this node sees it.", self._cluster.overview.gauges
            )
        self._log_ins.on_session_revoked = self._core.service.session_revoked
        accounts.on_user_changed = self._core.notifications.user_changed
        services = HttpServices(
            accounts=accounts,
            directory=directory,
            log_ins=self._log_ins,
            files=Files(
                store,
                store.files,
                max_file_bytes=settings.max_file_bytes,
            ),
            settings=settings,
            execute=self._core.service.execute,
            charge_creation=lambda user_id, command: self._gateway.charge_creation(user_id, command),
            nodes=self._nodes,
            not_ready=self._not_ready,
            metrics=self.metrics.text,
            cluster_origins=self._cluster_origins,
            cluster_view=lambda: None if self._cluster is None else self._cluster.overview.view(),
            campaigns=self._core.feeds.campaigns,
            store=store,
            notifications=self._core.notifications,
            take_away=self._core.notify_service.take_away,
            plan=self._core.notify_service.plan,
        )
        self._gateway = Gateway(
            _gateway_settings(settings),
            authenticate=self._log_ins.authenticate,
            service=self._core.service,
            app=make_http_app(services),
            metrics=self.metrics,
            cluster_origins=self._cluster_origins,
            turn=self._core.turn,
        )
        self.metrics.add_gauges("actors", "Actors and their mailboxes.", self._core.gauges)
        self.metrics.add_gauges("feed", "The news feed: feeds, pages and pushes.", self._core.feeds.gauges)
        notifications = self._core.notifications
        self.metrics.add_gauges("notify", "Notifications: decided, sent, waiting.", notifications.gauges)
        for priority in ("high", "medium", "low"):
            self.metrics.add_histogram(
                f"notify_{priority}_seconds",
                f"From the request to the provider's yes, of {priority} priority.",
                BUCKETS_S,
                partial(notifications.latency, priority),
            )
        self.metrics.add_gauges("store", "The store and its commits.", self._store_gauges)
        self.metrics.add_histogram(
            "commit_seconds",
            "How long a group's commit took, the fsync included.",
            COMMIT_BUCKETS_S,
            lambda: (store.stats.commit_buckets, store.stats.commit_s),
        )

    async def _watch_store(self, *, task_status: ChildStatus) -> None:
        """End, and with the restarts used up the process, when the store's writer has crashed."""
        task_status.started()
        await self._store.watch()

    async def _watch_log_ins(self, *, task_status: ChildStatus) -> None:
        task_status.started()
        await self._log_ins.run(self._live)

    async def _keep_tidy(self, *, task_status: ChildStatus) -> None:
        task_status.started()
        store = self._store

        def is_ours() -> bool:
            return self._core.leases.owns(0)

        async with trio.open_nursery() as nursery:
            nursery.start_soon(
                partial(janitor.run_signatures, store, is_ours=is_ours, now_ms=wall_clock_ms),
                name="signatures",
            )
            await janitor.run(store, store.files, is_ours=is_ours)

    def _live(self) -> list[Identity]:
        return [session.identity for session in self._gateway.sessions()]

    # -- start and stop -----------------------------------------------------------------------------

    def _announce(self) -> None:
        settings, gateway = self.settings, self._gateway
        scheme, bot_scheme = ("https", "hubbubs") if settings.is_tls else ("http", "hubbub")
        shown = "127.0.0.1" if settings.host in ("0.0.0.0", "::", "") else settings.host
        shown = f"[{shown}]" if ":" in shown else shown
        addresses = Addresses(
            page=settings.public_url or f"{scheme}://{shown}:{gateway.port}",
            bots=f"{bot_scheme}://{shown}:{gateway.bot_port}",
        )
        if self._cluster is not None:
            self._cluster.reached_at(_websocket_url(addresses.page), addresses.bots)
        log.info("node_started", page=addresses.page, bots=addresses.bots, version=VERSION)
        self._on_ready(addresses)

    async def _until_signal(self, scope: trio.CancelScope) -> None:
        """Drain at the first SIGTERM or SIGINT, stop at once at the second; SIGHUP reloads certificates."""
        with trio.open_signal_receiver(signal.SIGTERM, signal.SIGINT, signal.SIGHUP) as signals:
            async with trio.open_nursery() as nursery:
                async for number in signals:
                    if number == signal.SIGHUP:
                        self._gateway.reload_tls()
                    elif self._gateway.is_draining:
                        scope.cancel()
                    else:
                        nursery.start_soon(self._drain, scope)

    async def _drain(self, scope: trio.CancelScope) -> None:
        cluster, drain_s = self._cluster, self.settings.drain_s
        if cluster is not None:
            cluster.drain()
        others = [node for node in self._nodes_for_welcome() if node.node_id != self.node_id]
        # With somewhere else to go, clients are given the time to go there by themselves.
        await self._gateway.drain(
            within_s=RECONNECT_WITHIN_S,
            nodes=others,
            grace_s=RECONNECT_WITHIN_S if others else 0.0,
            deadline_s=drain_s,
        )
        await self._core.service.flush_cursors()
        await self._log_ins.flush_uses()
        if cluster is not None:
            await cluster.leave(drain_s)
        scope.cancel()

    # -- what the node says of itself ---------------------------------------------------------------

    def _nodes(self) -> list[NodeInfo]:
        settings = self.settings
        if self._cluster is not None:
            return self._cluster.overview.nodes()
        if not settings.public_url:
            return []  # a client that got here knows the address; we cannot know how it is seen from there
        url = _websocket_url(settings.public_url)
        return [NodeInfo(node_id=self.node_id, url=url, zone=settings.zone)]

    def _nodes_for_welcome(self) -> list[NodeInfo]:
        """The nodes, for a client that is on this one: so its zone is likely ours."""
        return recommend(self._nodes(), zone=self.settings.zone, chance=random.random, limit=MAX_IN_WELCOME)

    def _not_ready(self) -> str:
        if self._gateway.is_draining:
            return "draining"
        if self._cluster is not None and not self._cluster.keeper.lease_left_s:
            return "no lease"
        return self._store.health

    def _store_gauges(self) -> dict[str, float]:
        store, stats = self._store, self._store.stats
        return {
            "commits": stats.commit_count,
            "appends": stats.append_count,
            "rows": stats.row_count,
            "duplicates": stats.duplicate_count,
            "refused": stats.refused_count,
            "longest_commit_seconds": stats.longest_commit_s,
            "largest_group": stats.largest_group,
            "checkpoints": stats.checkpoint_count,
            "faults": stats.fault_count,
            "queued_bytes": store.queued_bytes,
            "queued_appends": store.queued_count,
            "oldest_queued_seconds": store.oldest_queued_s,
            "waiting_reads": store.waiting_reads_count,
            "is_healthy": float(not store.health),
        }


def _websocket_url(page: str) -> str:
    return "ws" + page.removeprefix("http").rstrip("/") + "/ws"


def _account_rates(settings: Settings) -> AccountRates:
    return AccountRates(
        failures_per_name=Rate(settings.failures_per_name_per_h / 3600, 10),
        failures_per_address=Rate(settings.failures_per_address_per_h / 3600, 50),
        sign_ups_per_address=Rate(settings.sign_ups_per_address_per_h / 3600, 20),
    )


async def _check_ports(settings: Settings) -> None:
    """Find out that a port cannot be had before anything is started, and say so in a sentence.

    Whoever takes the port in the moment after that meets the supervisor, which tries again.
    Raises: CannotStart, ConfigError.
    """
    doors = [
        ("host", settings.host, "port", settings.port),
        ("host", settings.host, "bot_port", settings.bot_port),
    ]
    if settings.is_clustered:
        host, port = settings.cluster_host, settings.cluster_port
        doors += [
            ("cluster_host", host, "cluster_port", port),
            ("cluster_host", host, "cluster_port", port + 1),
        ]
    for host_name, host, name, port in doors:
        try:
            listener = await open_listener(host, port)
        except socket.gaierror:
            raise ConfigError(f"{host_name} is {host!r}, which is no address of a machine.") from None
        except OSError as exc:
            where = f"{host} port {port}"
            cause = (
                exc.__cause__ if isinstance(exc.__cause__, OSError) else exc
            )  # trio wraps what it closes after
            reasons = {
                errno.EADDRINUSE: f"{where} is in use; stop what runs there, or set {name} to another one.",
                errno.EADDRNOTAVAIL: f"{host_name} is {host!r}, which is no address of this machine; "
                "0.0.0.0 means all it has.",
                errno.EACCES: f"{where} is not for this user; take 1024 or more, with a proxy before it.",
            }
            raise CannotStart(reasons.get(cause.errno or 0, f"{where} cannot be used: {exc}.")) from None
        await listener.aclose()


def _check_tls(settings: Settings) -> None:
    if not settings.is_tls:
        return
    try:
        TlsFiles(settings.tls_cert, settings.tls_key)
    except ssl.SSLError as exc:
        raise ConfigError(
            f"tls_cert {settings.tls_cert} and tls_key {settings.tls_key} cannot be used: "
            f"{exc.reason or 'no PEM'}; they must be PEM files that belong together."
        ) from None
    except OSError as exc:
        raise ConfigError(
            f"tls_cert or tls_key cannot be read: {exc.strerror}; correct the owner or the path."
        ) from None


def _gateway_settings(settings: Settings) -> GatewaySettings:
    return GatewaySettings(
        host=settings.host,
        port=settings.port,
        bot_port=settings.bot_port,
        tls_cert=settings.tls_cert,
        tls_key=settings.tls_key,
        origins=tuple(settings.origins),
        public_url=settings.public_url,
        trusted_proxies=tuple(settings.trusted_proxies),
        unlimited=tuple(settings.unlimited),
        max_connections=settings.max_connections,
        max_connections_per_address=settings.max_connections_per_address,
        connections=settings.connections,
        creations=settings.creations,
        session=SessionLimits(commands=settings.commands),
    )


def _calm_garbage_collector() -> None:
    """Look for reference cycles less often, and never among what lives as long as the process.

    A node holds many long-lived objects and makes few cycles. With Python's defaults (700, 10, 10) a third
    of a busy node's time went into collections: 100 pairs with ten sends in flight each came to 9,500 and
    10,100 messages a second, with these numbers to 14,100 and 15,800 in the same runs.
    """
    gc.collect()
    gc.freeze()
    gc.set_threshold(20_000, 50, 100)


def run(settings: Settings, *, on_ready: Callable[[Addresses], None] | None = None) -> int:
    """Run a node in this process until it is told to stop; returns the exit code.

    Raises: ConfigError, CannotStart, and what open_store raises, before anything is served.
    """
    set_up_logging(log_format=settings.log_format, level=settings.log_level)
    _check_tls(settings)
    node = Node(settings, on_ready=on_ready)
    _calm_garbage_collector()
    return trio.run(partial(node.run))
