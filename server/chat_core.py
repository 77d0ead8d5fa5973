"""The chat part of a node, without its edge: actors over a store, the hub, and the service for sessions.

Supervision: `actors` is one_for_one. A host that fails is restarted with empty hands; its entities come back
from the log with the next message.
"""

from collections.abc import Callable, Collection, Iterable, Mapping
from functools import partial
from secrets import token_hex
from typing import Final, Protocol

import msgspec
import structlog
import trio

from actors import conversation as conversation_actor
from actors import user as user_actor
from actors.address import Address
from actors.conversation import Conversation
from actors.entity_host import EntityHost
from actors.feed.feed import FeedLimits
from actors.hub import Hub
from actors.messages import Ask
from actors.notice_resumer import NoticeResumer
from actors.ports import Fanout, Leases
from actors.relay import TellRelay
from actors.rounds import Turn
from actors.router import LocalRouter, Router
from actors.supervisor import ChildSpec, Supervisor, at_once
from actors.user import UserActor
from protocol.errors import HubbubError, Unavailable
from protocol.limits import PRESENCE_DEBOUNCE_S
from protocol.notify_node import NodeAnswer, NodeQuestion
from protocol.records import DeadLetter, Put
from protocol.replies import Reply
from protocol.types import NodeInfo
from server.chat_service import ASK_TIMEOUT_S, ChatService, LogIns, People
from server.feed_core import FeedCore
from server.feed_service import FeedService
from server.notify.core import NotifyCore
from server.notify_service import NotifyService
from server.post_service import PostService
from server.providers.reach import PUBLIC, Reach
from server.tails import MAX_BYTES, Tails
from storage.store import Store

_FEED_LIMITS: Final = FeedLimits()
MAX_DEAD_LETTER_CHARS: Final = 100_000

log = structlog.get_logger(__name__)


class Surroundings(Protocol):
    """How the actors and sessions of a node reach those of the others; see Alone and cluster.node."""

    @property
    def router(self) -> Router: ...

    @property
    def fanout(self) -> Fanout: ...

    @property
    def leases(self) -> Leases: ...

    @property
    def boot(self) -> int:
        """Which life of this node it is."""
        ...

    @property
    def node_count(self) -> int:
        """How many nodes may be at work, this one included."""
        ...

    @property
    def check_members(self) -> Callable[[Iterable[str]], None] | None:
        """Read again which conversations these users are in; None where the hub is never told too late."""
        ...

    async def announced(self) -> None:
        """Return when the other nodes know of the sessions that were attached before, or are too slow."""
        ...

    async def ask_others(self, question: NodeQuestion, timeout_s: float) -> Mapping[str, NodeAnswer | None]:
        """Ask all other nodes about themselves; None: it did not answer within that time."""
        ...


class Alone:
    """The surroundings of a single node, which owns every shard."""

    def __init__(self, epochs: dict[int, int], router: LocalRouter, hub: Hub) -> None:
        self.router = router
        self.fanout = hub
        self.leases = self
        self.node_count = 1
        self.check_members = None
        self._epochs = epochs

    def epoch_of(self, shard: int) -> int:
        """The epoch of an owned shard. Raises: Unavailable("moved")."""
        epoch = self._epochs.get(shard)
        if epoch is None:
            raise Unavailable("moved")
        return epoch

    def owns(self, shard: int) -> bool:
        """Tell whether this node runs the shard's actors."""
        return shard in self._epochs

    def fenced(self, shard: int) -> None:
        """Somebody else has written to the directory, which its lock should have kept away.

        There is no other owner to ask; the store goes on refusing what is not ours.
        """
        log.error("shard_fenced", shard=shard)

    @property
    def boot(self) -> int:
        """Which life of this node it is; a node alone does not count them."""
        return 0

    async def announced(self) -> None:
        """Nobody else has to know."""

    async def ask_others(self, question: NodeQuestion, timeout_s: float) -> Mapping[str, NodeAnswer | None]:
        """There is nobody else."""
        return {}


class ChatCore:
    """Wire actors, hub, relay and service over one store. `supervisor.run` brings them to life."""

    def __init__(
        self,
        store: Store,
        people: People,
        log_ins: LogIns,
        *,
        surround: Callable[[LocalRouter, Hub], Surroundings],
        node_id: str,
        server: str,
        nodes: Callable[[], list[NodeInfo]],
        now_ms: Callable[[], int],
        max_file_bytes: int,
        debounce_s: float = PRESENCE_DEBOUNCE_S,
        tails_bytes: int = MAX_BYTES,
        feed_limits: FeedLimits = _FEED_LIMITS,
        secret: bytes,
        public_url: str = "",
        reach: Reach = PUBLIC,
    ) -> None:
        """`tails_bytes`: memory for recent history; 0: the store is asked each time.

        `secret`: the server's, from which keys are derived. `public_url`: where links in mails lead.
        `reach`: where apps may have notifications sent.
        """
        self._store = store
        self._now_ms = now_ms
        self.turn = turn = Turn()
        local = LocalRouter()
        self.hub = Hub(now_ms=now_ms, debounce_s=debounce_s)
        surroundings = surround(local, self.hub)
        self.router, self.fanout = surroundings.router, surroundings.fanout
        self.leases = leases = surroundings.leases
        self.hub.watermarks.router = self.router
        self.tails = Tails(store, leases, max_bytes=tails_bytes)
        self.relay = TellRelay(store, self.router, owns=leases.owns)

        self.feeds = FeedCore(
            store,
            node_id=node_id,
            router=self.router,
            hub=self.hub,
            fanout=self.fanout,
            leases=leases,
            relay=self.relay,
            turn=turn,
            now_ms=now_ms,
            on_dead_letter=self._keep_dead_letter,
            has_others=surroundings.check_members is not None,
            limits=feed_limits,
        )

        self.notifications = NotifyCore(
            store,
            node_id=node_id,
            router=self.router,
            fanout=self.fanout,
            hub=self.hub,
            leases=leases,
            relay=self.relay,
            turn=turn,
            nodes=lambda: surroundings.node_count,
            ask_others=surroundings.ask_others,
            now_ms=now_ms,
            on_dead_letter=self._keep_dead_letter,
            server_secret=secret,
            public_url=public_url,
            reach=reach,
        )

        self.notice_resumer = NoticeResumer(store, self.router, owns=leases.owns)

        def conversation(address: Address) -> Conversation:
            return Conversation(
                address,
                log=store,
                leases=leases,
                fanout=self.fanout,
                relay=self.relay,
                now_ms=now_ms,
                recent=self.tails,
            )

        def user(address: Address) -> UserActor:
            return UserActor(
                address,
                log=store,
                leases=leases,
                fanout=self.fanout,
                relay=self.relay,
                now_ms=now_ms,
                index=self.feeds.node,
            )

        self.conversations = EntityHost(
            conversation_actor.KIND,
            conversation,
            router=self.router,
            on_dead_letter=self._keep_dead_letter,
            wakes_after_crash=True,
            turn=turn,
        )
        self.users = EntityHost(
            user_actor.KIND,
            user,
            router=self.router,
            on_dead_letter=self._keep_dead_letter,
            wakes_after_crash=True,
            turn=turn,
        )
        local.add(self.conversations)
        local.add(self.users)
        for host in (*self.feeds.hosts, *self.notifications.hosts):
            local.add(host)
        self._hosts = (self.users, self.conversations, *self.feeds.hosts, *self.notifications.hosts)
        self.feed_service = FeedService(
            router=self.router, hub=self.hub, posts=PostService(store, ask=self._ask), reads=self.feeds.reads
        )
        self.notify_service = NotifyService(
            store, self.notifications, log_ins, router=self.router, now_ms=now_ms
        )
        self.service = ChatService(
            store=store,
            router=self.router,
            hub=self.hub,
            people=people,
            log_ins=log_ins,
            node_id=node_id,
            server=server,
            nodes=nodes,
            now_ms=now_ms,
            max_file_bytes=max_file_bytes,
            fanout=self.fanout,
            announced=surroundings.announced,
            boot=lambda: surroundings.boot,
            check_members=surroundings.check_members,
            tails=self.tails,
            feeds=self.feed_service,
            notifications=self.notify_service,
        )
        self.supervisor = Supervisor(
            "actors",
            [
                self.users.child_spec(),
                self.conversations.child_spec(),
                *self.feeds.child_specs(),
                *self.notifications.child_specs(),
                ChildSpec(name="hub", start=at_once(self.hub.run)),
                ChildSpec(name="relay", start=at_once(self.relay.run)),
                ChildSpec(name="notice_resumer", start=at_once(self.notice_resumer.run)),
                ChildSpec(name="service", start=self.service.run),
                ChildSpec(name="feed_service", start=at_once(self.feed_service.run)),
            ],
            max_restarts=20,
            period_s=60.0,
        )

    async def hand_over(self, shards: Collection[int], deadline_s: float) -> None:
        """Let the actors of these shards finish what waits and leave; what is late is cut off."""
        async with trio.open_nursery() as nursery:
            for host in self._hosts:
                leave = partial(host.passivate_matching, deadline_s=deadline_s)
                nursery.start_soon(leave, lambda address: address.shard in shards)
        self.tails.forget_shards(shards)

    def cut_off(self, shards: Collection[int]) -> None:
        """End the actors of these shards at once: another node may run them by now."""
        for host in self._hosts:
            host.cut_off(lambda address: address.shard in shards, Unavailable("moved", retry_after_s=0.5))
        self.tails.forget_shards(shards)

    def shards_moved(self, shards: Collection[int], *, ours: Collection[int]) -> None:
        """Other actors serve these shards from now on; `ours`: those that this node has taken."""
        self.service.tells.shards_moved(shards)
        self.feed_service.shards_moved(shards)
        self.feeds.shards_moved(ours=ours)
        self.notifications.shards_moved(shards, ours=ours)
        if ours:
            self.relay.scan_soon()
            self.notice_resumer.scan_soon()

    def user_lost(self, user_id: str, at_ms: int) -> None:
        """The last connection of a user was on a node that was lost then."""
        self.service.tells.lost(user_id, at_ms)

    def answer(self, question: NodeQuestion) -> NodeAnswer | None:
        """Another node asks about this one."""
        return self.notifications.views.here(question.app_id)

    def gauges(self) -> dict[str, float]:
        """How the actors are doing, for the metrics."""
        numbers: dict[str, float] = {
            "tells_waiting": self.relay.depth,
            "tails": self.tails.tail_count,
            "tails_bytes": self.tails.size_bytes,
            "tails_fills": self.tails.fill_count,
        }
        for host in self._hosts:
            for name, value in msgspec.structs.asdict(host.stats()).items():
                if name != "kind":
                    numbers[f'{name}{{kind="{host.kind}"}}'] = value
        return numbers

    async def _ask(self, address: Address, message: object) -> Reply:
        answer: Reply = await self.router.ask(  # type: ignore[assignment]  # actors answer with Replies
            address, message, timeout_s=ASK_TIMEOUT_S
        )
        return answer

    async def _keep_dead_letter(
        self, address: Address, message: object, error: BaseException, crash_count: int
    ) -> None:
        kind = message.command if isinstance(message, Ask) else message
        row = DeadLetter(
            dead_letter_id=token_hex(12),
            kind=address.kind,
            actor_id=address.id,
            message_type=type(kind).__name__,
            body=_body_of(message)[:MAX_DEAD_LETTER_CHARS],
            error=f"{type(error).__name__}: {error}"[:2000],
            crash_count=crash_count,
            at_ms=self._now_ms(),
        )
        try:
            await self._store.commit([Put(row)])
        except HubbubError as failure:
            log.exception("dead_letter_not_stored", actor=str(address), code=failure.code, letter=row.error)


def _body_of(message: object) -> str:
    try:
        return msgspec.json.encode(message).decode()
    except (TypeError, ValueError) as error:
        return repr(error)
