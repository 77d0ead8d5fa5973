"""The notification part of a node: its actors as hosts, the channels, and what they share."""

from collections.abc import Callable, Collection
from contextlib import suppress

import msgspec
import trio
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

from actors.address import Address
from actors.entity_host import DeadLetterSink, EntityHost
from actors.hub import Hub
from actors.notify import address as notify_address
from actors.notify.address import partition_address, partition_of
from actors.notify.app import AppActor
from actors.notify.channel_desk import ChannelDesk
from actors.notify.channel_stats import BUCKETS_S
from actors.notify.keeper import NotifyNeeds, NotifyStats
from actors.notify.messages import UserChanged
from actors.notify.partition import NotifyPartition
from actors.notify.resumer import NotifyResumer
from actors.notify.sender import NOTIFICATIONS_STREAM
from actors.ports import Fanout, Leases, Relay
from actors.rounds import Turn
from actors.router import Router
from actors.supervisor import ChildSpec, at_once
from protocol.errors import Unavailable
from protocol.notify_records import PARTITION_COUNT
from protocol.notify_types import Priority
from protocol.provider_configs import WebPushConfig
from server.notify.alerts import Alerts
from server.notify.app_desk import AppDesk
from server.notify.dashboard import Dashboards
from server.notify.entry import NotifyEntry
from server.notify.exporter import Exporter
from server.notify.links import Links
from server.notify.node_views import AskOthers, NodeViews
from server.notify.provider_registry import open_registry
from server.notify.rates import Rates, counters_of
from server.notify.renderer import NotifyRenderer
from server.notify.setups import SetupCache
from server.notify.sns import SnsDoor
from server.notify.templates import Templates
from server.notify.vault import Vault, derived_key
from server.notify.watch import Watch
from server.notify.webhooks import WebhookKeys
from server.providers.reach import Reach
from storage.store import Store

# The order of P-256 (SEC 2 section 2.4.2): a private key is a number below it.
_P256_ORDER = 0xFFFFFFFF00000000FFFFFFFFFFFFFFFFBCE6FAADA7179E84F3B9CAC2FC632551


class NotifyCore:
    """Wire the notification actors over one store."""

    def __init__(
        self,
        store: Store,
        *,
        node_id: str,
        router: Router,
        fanout: Fanout,
        hub: Hub,
        leases: Leases,
        relay: Relay,
        turn: Turn,
        nodes: Callable[[], int],
        ask_others: AskOthers,
        now_ms: Callable[[], int],
        on_dead_letter: DeadLetterSink,
        server_secret: bytes,
        public_url: str,
        reach: Reach,
    ) -> None:
        """`nodes`: how many nodes of the cluster live, which share the paces of accounts."""
        self._now_ms = now_ms
        self._hub = hub
        self._reach = reach
        self.stats = NotifyStats()
        self.links = Links(server_secret, public_url)
        self.vault = Vault(server_secret)
        self.webhook_keys = WebhookKeys(server_secret)
        self.alerts = Alerts(
            store,
            self.webhook_keys,
            node_id=node_id,
            is_chief=lambda: leases.owns(0),
            reach=reach,
            now_ms=now_ms,
        )
        self.setups = setups = SetupCache(
            store, self.vault, own_push(server_secret, public_url), now_ms=now_ms, alert=self.alerts.add
        )
        self.alerts.setups = setups
        self.templates = Templates(setups)
        self.renderer = NotifyRenderer(self.templates, self.links)
        self.desk = AppDesk(store, setups, self.vault, reach=reach, now_ms=now_ms)
        self.channels = ChannelDesk(setups, now_ms=now_ms, nodes=nodes)
        setups.on_credential_changed = self._credential_changed
        self.router = router
        self.sns = SnsDoor()
        self.entry = NotifyEntry(store, router, setups, self.renderer, now_ms=now_ms)
        self.exporter = Exporter(
            store, setups, self.alerts, self.webhook_keys, owns=leases.owns, reach=reach, now_ms=now_ms
        )
        self.watch = Watch(store, self.alerts, is_ours=lambda: leases.owns(0), now_ms=now_ms)
        self.rates = Rates(lambda: counters_of(self.stats, self.channels))
        self.views = NodeViews(
            node_id,
            ask_others,
            rates=self.rates.ring,
            stats=self.stats,
            channels=self.channels,
            setups_of=setups.in_memory,
        )
        self.dashboard = Dashboards(store, self.desk, self.views, unreadable=setups.unreadable, now_ms=now_ms)
        self._resumer = NotifyResumer(store.notify, router, owns=leases.owns, now_ms=now_ms)
        needs = NotifyNeeds(
            log=store,
            reads=store.notify,
            leases=leases,
            relay=relay,
            fanout=fanout,
            now_ms=now_ms,
            setups=setups,
            renderer=self.renderer,
            channels=self.channels,
            stats=self.stats,
            restarted=lambda partition: self._resync({partition_address(partition).shard}),
        )

        def partition(address: Address) -> NotifyPartition:
            return NotifyPartition(int(address.id), needs)

        def app(address: Address) -> AppActor:
            return AppActor(
                address.id,
                log=store,
                reads=store.notify,
                leases=leases,
                relay=relay,
                now_ms=now_ms,
                setups=setups,
                alerts=self.alerts,
            )

        self.partitions = EntityHost(
            notify_address.KIND,
            partition,
            router=router,
            on_dead_letter=on_dead_letter,
            mailbox_capacity=4096,  # it speaks for thousands of users
            wakes_after_crash=True,
            turn=turn,
        )
        self.apps = EntityHost(
            notify_address.APP_KIND,
            app,
            router=router,
            on_dead_letter=on_dead_letter,
            wakes_after_crash=True,
            turn=turn,
        )

    @property
    def hosts(self) -> tuple[EntityHost, EntityHost]:
        """The hosts, for routing and hand-over."""
        return self.partitions, self.apps

    def child_specs(self) -> list[ChildSpec]:
        """What to supervise, in the order of starting."""
        return [
            ChildSpec(name="notify_setups", start=self._run_setups),
            *self.channels.child_specs(),
            self.partitions.child_spec(),
            self.apps.child_spec(),
            ChildSpec(name="notify_alerts", start=at_once(self.alerts.run)),
            ChildSpec(name="notify_exporter", start=at_once(self.exporter.run)),
            ChildSpec(name="notify_watch", start=at_once(self.watch.run)),
            ChildSpec(name="notify_rates", start=at_once(self.rates.run)),
            ChildSpec(name="notify_resumer", start=at_once(self._resumer.run)),
        ]

    async def _run_setups(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        async with open_registry(self.links, self._now_ms, self._reach) as registry:
            await self.setups.run(registry, task_status=task_status)

    def shards_moved(self, shards: Collection[int], *, ours: Collection[int]) -> None:
        """Other actors serve these shards, those of `ours` here."""
        if ours:
            self._resumer.scan_soon()
        self._resync(set(shards))

    def _resync(self, shards: set[int]) -> None:
        """Users of these shards may have missed something that was stored."""
        partitions = {
            partition for partition in range(PARTITION_COUNT) if partition_address(partition).shard in shards
        }
        if partitions:
            self._hub.resync_live(NOTIFICATIONS_STREAM, lambda user_id: partition_of(user_id) in partitions)

    def user_changed(self, user_id: str) -> None:
        """Tell whoever notifies that user, on whichever node, that it was disabled or enabled."""
        with suppress(Unavailable):  # the partition reads a user anew before long
            self.router.tell(notify_address.notify_address(user_id), UserChanged(user_id))

    def gauges(self) -> dict[str, float]:
        """How notifications are doing, for the metrics; names in _total only rise."""
        read: dict[str, float] = {
            f"{name}_total": float(value)
            for name, value in msgspec.structs.asdict(self.stats).items()
            if name != "notified_by_app"
        }
        read["alerts_told_total"] = self.alerts.told_count
        read["events_exported_total"] = self.exporter.told_count
        read["exports_failed_total"] = self.exporter.failed_count
        read["overdue"] = sum(self.watch.overdue.values())
        read["setups_unreadable"] = len(self.setups.unreadable())
        for name, channel in self.channels.channels.items():
            stats = channel.stats
            read[f'queued{{channel="{name}"}}'] = channel.depth
            read[f'in_hand{{channel="{name}"}}'] = channel.in_hand
            read[f'requests_total{{channel="{name}"}}'] = stats.sent
            read[f'provider_seconds_total{{channel="{name}"}}'] = stats.busy_s
            for outcome, count in stats.outcomes().items():
                read[f'outcomes_total{{channel="{name}",outcome="{outcome}"}}'] = count
            read[f'breakers_open{{channel="{name}"}}'] = len(channel.breakers())
            read[f'hosts_held{{channel="{name}"}}'] = len(channel.open_hosts())
        return read

    def latency(self, priority: Priority) -> tuple[list[int], float]:
        """How long it took from the request to the provider's yes: counts by bucket, and the sum."""
        counts = [0] * (len(BUCKETS_S) + 1)
        sum_s = 0.0
        for channel in self.channels.channels.values():
            for index, count in enumerate(channel.stats.latency[priority]):
                counts[index] += count
            sum_s += channel.stats.latency_sum_s[priority]
        return counts, sum_s

    def _credential_changed(self, credential: str) -> None:
        for channel in self.channels.channels.values():
            channel.reset(credential)


def own_push(server_secret: bytes, public_url: str) -> WebPushConfig:
    """The server's own key pair for web push, the same for ever as long as secret.key is."""
    number = int.from_bytes(derived_key(server_secret, "web push", size=48), "big")
    key = ec.derive_private_key(number % (_P256_ORDER - 1) + 1, ec.SECP256R1())
    pem = key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()).decode()
    # RFC 8292 section 2.1: how a push service reaches who answers for it.
    subject = public_url if public_url.startswith("https://") else "mailto:postmaster@localhost"
    return WebPushConfig(private_key=pem, subject=subject)
