"""What real users do, many at once: a group of 500, pairs, probes of shards, the replay of IRC days.

Half of the people who talk use the SDK over WebSocket with JSON, MessagePack, or the bots' TCP; they send,
listen and mark as read. Most members of the group are light listeners, or not connected at all.
"""

import random
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

import trio

import hubbub
from hubbub.accounts import AppBackend, sign_user_token
from hubbub.replay import Settings as ReplaySettings
from hubbub.replay import read_plan, replay
from protocol import commands as c
from protocol import replies as r
from protocol.codec import Wire
from protocol.errors import HubbubError
from protocol.events import ConversationEvent, MessagePosted
from protocol.http import ProvisionUser
from storage.check import check
from tests.chaos.checker import Findings, judge, read_store
from tests.chaos.ledger import Content, Ledger, View
from tests.chaos.light import LightClient, Place
from tests.chaos.prober import SHARDS_PER_USER, Prober, ProbeUser, key_for_shard
from tests.cluster_nodes import ClusterNode, ClusterProcesses

APP_ID = "default"
SETTLE_S = 60.0  # after the last fault: retries, reconnects and syncs of everybody are over by then
READ_EVERY = 5  # messages of the other one after which a person marks them as read
UNREAD_SAMPLE = 20  # members whose unread count is asked for on every node


@dataclass(frozen=True)
class Scale:
    """How much load. Two cores carry clients and nodes together."""

    members: int = 500
    listeners: int = 40
    talkers: int = 6
    pairs: int = 6
    send_every_s: float = 0.5
    shards: int = 64
    probe_every_s: float = 0.5
    replay: Sequence[Path] = ()
    replay_s: float = 150.0  # how long a replay shall take


SHORT = Scale(members=200, listeners=24, talkers=4, pairs=4, shards=48)
LONG = Scale(listeners=400, talkers=8, pairs=8, shards=256, probe_every_s=2.0)


def place_of(node: ClusterNode) -> Place:
    return Place(node.name, node.host, node.bot_port)


@dataclass(slots=True)
class Person:
    """Somebody with the SDK."""

    external_id: str
    user_id: str
    conversation_ids: list[str] = field(default_factory=list)
    views: dict[str, View] = field(default_factory=dict)
    marked: dict[str, int] = field(default_factory=dict)  # conversation -> read_seq as acked


class Load:
    """The users of one run, and all that they do."""

    def __init__(self, cluster: ClusterProcesses, scale: Scale, seed: int) -> None:
        self.cluster = cluster
        self.scale = scale
        self.ledger = Ledger()
        self.rng = random.Random(f"load {seed}")
        self.prober: Prober
        self.people: list[Person] = []
        self.listeners: list[LightClient] = []
        self.group_id = ""
        self.replay_faults: list[str] = []
        self.replay_lines = 0
        self._quiet: list[str] = []  # members who never do anything
        self._group_members: list[str] = []
        self._key = self._secret = ""
        self._stop = trio.Event()
        self._settled = trio.Event()
        self._news = trio.Event()
        self._senders = 0

    def token(self, external_id: str) -> str:
        return sign_user_token(self._key, self._secret, external_id, ttl_s=24 * 3600)

    # -- before -------------------------------------------------------------------------------------

    async def prepare(self) -> None:
        """Make users and conversations."""
        self._key, self._secret = await trio.to_thread.run_sync(self.cluster.app_key)
        scale = self.scale
        talkers = [f"talker{n}" for n in range(scale.talkers)]
        pairs = [f"pair{n}{side}" for n in range(scale.pairs) for side in "ab"]
        members = [f"member{n}" for n in range(scale.members - scale.talkers)]
        probers = [f"prober{n}" for n in range(-(-scale.shards // SHARDS_PER_USER))]
        async with AppBackend(self.cluster.nodes[0].url, self._key, self._secret) as backend:
            ids = await provision(backend, [*talkers, *pairs, *members, *probers])
            group = await backend.command_as(
                ids[talkers[0]],
                c.CreateGroup(
                    id=1,
                    client_id="everybody",
                    title="Everybody",
                    member_ids=[ids[name] for name in (*talkers[1:], *members)],
                ),
                r.ConversationInfo,
            )
            self.group_id = group.conversation.conversation_id
            self._group_members = [ids[name] for name in (*talkers, *members)]
            self.people = [Person(name, ids[name], [self.group_id]) for name in talkers]
            for n in range(scale.pairs):
                a, b = ids[f"pair{n}a"], ids[f"pair{n}b"]
                direct = await backend.command_as(a, c.OpenDirect(id=1, user_id=b), r.ConversationInfo)
                conversation_id = direct.conversation.conversation_id
                self.people += [
                    Person(f"pair{n}a", a, [conversation_id]),
                    Person(f"pair{n}b", b, [conversation_id]),
                ]
            probe_users = await self._make_probes(backend, {name: ids[name] for name in probers})
        for person in self.people:
            person.views = {
                conversation_id: self.ledger.view(person.external_id, conversation_id)
                for conversation_id in person.conversation_ids
            }
        places = [place_of(node) for node in self.cluster.nodes]
        for number, name in enumerate(members[: scale.listeners]):
            client = LightClient(
                name,
                self.token(name),
                places,
                self.ledger,
                random.Random(self.rng.random()),
                beat_s=5.0 if number % 2 else 25.0,  # half of them notice a frozen node soon
            )
            client.follow(self.group_id)
            self.listeners.append(client)
        self._quiet = [ids[name] for name in members[scale.listeners :]]
        self.prober = Prober(probe_users, places, self.ledger, self.rng, every_s=scale.probe_every_s)

    async def _make_probes(self, backend: AppBackend, users: dict[str, str]) -> list[ProbeUser]:
        shards = list(range(256))
        self.rng.shuffle(shards)
        wanted = sorted(shards[: self.scale.shards])
        made: list[ProbeUser] = []
        for number, (name, user_id) in enumerate(users.items()):
            conversations: dict[int, str] = {}
            for shard in wanted[number * SHARDS_PER_USER :][:SHARDS_PER_USER]:
                client_id, conversation_id = key_for_shard(APP_ID, user_id, shard)
                info = await backend.command_as(
                    user_id, c.CreateGroup(id=1, client_id=client_id, title="Probe"), r.ConversationInfo
                )
                assert info.conversation.conversation_id == conversation_id, "ids are not made as they were"
                conversations[shard] = conversation_id
            made.append(ProbeUser(user_id, self.token(name), conversations))
        self._probe_ids = [name for user in made for name in user.conversations.values()]
        return made

    def add_node(self, node: ClusterNode) -> None:
        """Use a node that joined under load: some listeners move to it, others come when they lose theirs."""
        place = place_of(node)
        self.prober.add_place(place)
        for number, listener in enumerate(self.listeners):
            listener.places.append(place)
            if number % len(self.cluster.nodes) == 0:
                listener.move(place)

    # -- during -------------------------------------------------------------------------------------

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Everybody at work, until `settle` lets them go."""
        async with trio.open_nursery() as nursery:
            for listener in self.listeners:
                nursery.start_soon(listener.run)
            nursery.start_soon(self.prober.run)
            async with trio.open_nursery() as starting:
                for number, person in enumerate(self.people):
                    starting.start_soon(nursery.start, self._be, person, number)
                for listener in self.listeners:
                    starting.start_soon(listener.connected.wait)
            for number, node in enumerate(self.cluster.nodes):
                paths = self.scale.replay[number :: len(self.cluster.nodes)]
                if paths:
                    nursery.start_soon(self._replay, node, paths)
            task_status.started()
            await self._settled.wait()
            nursery.cancel_scope.cancel()

    async def _be(self, person: Person, number: int, *, task_status: trio.TaskStatus[None]) -> None:
        """One person's device: listen, send, mark as read."""
        node = self.cluster.nodes[number % len(self.cluster.nodes)]
        kind = number // len(self.cluster.nodes) % 3
        async with (
            hubbub.connect(
                node.bot_url if kind == 0 else node.url,
                token=self.token(person.external_id),
                device_id="sdk",
                history="all",
                wire=(None, Wire.JSON_WS, Wire.MSGPACK_WS)[kind],
                connect_timeout_s=60.0,
                rng=random.Random(self.rng.random()),
            ) as client,
            trio.open_nursery() as nursery,
        ):
            reads, to_read = trio.open_memory_channel[tuple[str, int]](100)
            nursery.start_soon(self._listen, client, person, reads)
            nursery.start_soon(self._mark_read, client, person, to_read)
            for conversation_id in person.conversation_ids:
                nursery.start_soon(self._talk, client, person, conversation_id)
            task_status.started()
            await self._settled.wait()
            nursery.cancel_scope.cancel()

    async def _listen(
        self, client: hubbub.Client, person: Person, reads: trio.MemorySendChannel[tuple[str, int]]
    ) -> None:
        count = 0
        async for event in client.events():
            if not isinstance(event, ConversationEvent):
                continue
            view = person.views.get(event.conversation_id)
            if view is None:
                continue
            if not self.ledger.heard(view, event):
                view.faults.append(f"the SDK gave {event} after seq {view.cursor}")
            self._wake()
            if isinstance(event, MessagePosted) and event.user_id != person.user_id:
                count += 1
                if count % READ_EVERY == 0:
                    with suppress(trio.WouldBlock):  # those before are still under way
                        reads.send_nowait((event.conversation_id, event.seq))

    async def _mark_read(
        self, client: hubbub.Client, person: Person, to_read: trio.MemoryReceiveChannel[tuple[str, int]]
    ) -> None:
        async for conversation_id, seq in to_read:
            try:
                marked = await client.mark_read(conversation_id, seq)
            except HubbubError as exc:
                self.ledger.failures.append(f"{person.external_id} could not mark {seq} as read: {exc}")
                continue
            if marked.read_seq < seq:
                self.ledger.failures.append(f"{person.external_id} marked {seq}, and got {marked.read_seq}")
            person.marked[conversation_id] = max(person.marked.get(conversation_id, 0), marked.read_seq)

    async def _talk(self, client: hubbub.Client, person: Person, conversation_id: str) -> None:
        self._senders += 1
        every_s = self.scale.send_every_s
        due = trio.current_time() + every_s * self.rng.random()
        number = 0
        while True:
            with trio.move_on_at(due):
                await self._stop.wait()
            if self._stop.is_set():
                break
            number += 1
            key = f"{person.external_id}-{number}"
            send = self.ledger.begin(conversation_id, person.user_id, key, f"{key} says", trio.current_time())
            try:
                sent = await client.send(conversation_id, send.text, client_id=key)
            except HubbubError as exc:
                self.ledger.failures.append(f"{person.external_id} could not send {key}: {exc}")
            else:
                self.ledger.acked(send, sent.seq, trio.current_time(), client.welcome.node_id)
            due = max(due + every_s, trio.current_time())
        self._senders -= 1
        self._wake()

    async def _replay(self, node: ClusterNode, paths: Sequence[Path]) -> None:
        plan = read_plan(list(paths))
        settings = ReplaySettings(
            url=node.url,
            connect_url=node.bot_url,
            app_key=self._key,
            app_secret=self._secret,
            group=f"#irc-{node.name}",
            speed=max((step.at_s for step in plan.steps), default=0.0) / self.scale.replay_s,
            max_sessions=32,
        )
        self._senders += 1
        try:
            summary, faults = await replay(settings, plan, is_verified=True)
            self.replay_lines += summary.lines
            self.replay_faults += [f"replay by {node.name}: {fault}" for fault in faults]
        except HubbubError as exc:
            self.replay_faults.append(f"replay by {node.name} stopped: {exc}")
        self._senders -= 1
        self._wake()

    # -- after --------------------------------------------------------------------------------------

    async def settle(self) -> Findings:
        """Stop sending, let everybody catch up, and judge. All nodes must be up and healed by now."""
        self._stop.set()
        self.prober.stop()
        findings = Findings()
        with trio.move_on_after(SETTLE_S + self.scale.replay_s * bool(self.scale.replay)) as patience:
            while self._senders:
                await self._news.wait()
            await self.prober.has_ended.wait()
        if patience.cancelled_caught:
            who = f"{self._senders} senders" if self._senders else "the prober"
            findings.add("stuck", f"unanswered sends of {who} after {SETTLE_S:g} s")
        ids = {send.conversation_id for send in self.ledger.sends.values()}
        ids |= {view.conversation_id for view in self.ledger.views}
        read = partial(self._read_store, ids)
        stored = await trio.to_thread.run_sync(read)
        with trio.move_on_after(SETTLE_S):
            async with trio.open_nursery() as nursery:
                for listener in self.listeners:
                    nursery.start_soon(listener.until, self.group_id, len(stored[self.group_id]))
                for person in self.people:
                    for conversation_id, view in person.views.items():
                        nursery.start_soon(self._until, view, len(stored[conversation_id]))
        stored = await trio.to_thread.run_sync(read)  # receipts are no events: nothing should have come
        for kind, texts in judge(self.ledger, stored).by_kind.items():
            for text in texts:
                findings.add(kind, text)
        for fault in self.replay_faults:
            findings.add("replay", fault)
        await self._judge_receipts({name: len(events) for name, events in stored.items()}, findings)
        self._settled.set()
        for problem in await trio.to_thread.run_sync(check, self.cluster.data_dir):
            findings.add("hubbub check", str(problem))
        return findings

    def _read_store(self, ids: set[str]) -> dict[str, list[Content]]:
        with self.cluster.database() as connection:
            return read_store(connection, sorted(ids))

    async def _until(self, view: View, seq: int) -> None:
        while view.cursor < seq:
            await self._news.wait()

    async def _judge_receipts(self, heads: dict[str, int], findings: Findings) -> None:
        """Every node must tell the same watermarks, and exact unread counts."""
        with self.cluster.database() as connection:
            (messages,) = connection.execute(
                "SELECT count(*) FROM log l JOIN stream s USING (stream_id) WHERE s.name = ?"
                " AND l.is_message = 1",
                (f"c:{self.group_id}",),
            ).fetchone()
        for node in self.cluster.nodes:
            if not node.is_running:
                continue
            async with AppBackend(node.url, self._key, self._secret) as backend:
                for user_id in self._quiet[:UNREAD_SAMPLE]:
                    info = await backend.command_as(
                        user_id, c.GetConversation(id=1, conversation_id=self.group_id), r.ConversationInfo
                    )
                    if info.conversation.unread != messages:
                        findings.add(
                            "unread",
                            f"{user_id} on {node.name}: {info.conversation.unread}, stored are {messages}",
                        )
                for person in self.people:
                    for conversation_id in person.conversation_ids:
                        await self._judge_member(backend, node, person, conversation_id, heads, findings)

    async def _judge_member(
        self,
        backend: AppBackend,
        node: ClusterNode,
        person: Person,
        conversation_id: str,
        heads: dict[str, int],
        findings: Findings,
    ) -> None:
        members = await backend.command_as(
            person.user_id, c.ListMembers(id=1, conversation_id=conversation_id), r.MemberList
        )
        me = next(member for member in members.items if member.user_id == person.user_id)
        own = [
            send.seq
            for send in self.ledger.acks
            if send.user_id == person.user_id and send.conversation_id == conversation_id
        ]
        least = max([person.marked.get(conversation_id, 0), *own])
        if not least <= me.read_seq <= heads[conversation_id]:
            findings.add(
                "receipt",
                f"{person.external_id} has read {least} of {heads[conversation_id]}; "
                f"{node.name} says {me.read_seq}",
            )

    def _wake(self) -> None:
        news, self._news = self._news, trio.Event()
        news.set()

    def counts(self) -> dict[str, object]:
        """How much was done."""
        ledger = self.ledger
        return {
            "sends": len(ledger.sends),
            "acked": sum(1 for _ in ledger.acks),
            "views": len(ledger.views),
            "events_seen": sum(len(view.contents) for view in ledger.views),
            "reconnects": ledger.reconnects,
            "refusals": dict(sorted(ledger.refusals.items())),
            "overlaps": ledger.overlaps,
            "replay_lines": self.replay_lines,
        }


async def provision(backend: AppBackend, names: Sequence[str]) -> dict[str, str]:
    """Make users by an app's key: name -> user_id. No passwords, so it is quick."""
    ids: dict[str, str] = {}
    for start in range(0, len(names), 200):
        batch = names[start : start + 200]
        made = await backend.provision(
            [ProvisionUser(external_id=name, username=name, name=name) for name in batch]
        )
        ids |= {name: item.user.user_id for name, item in zip(batch, made.items, strict=True)}
    return ids
