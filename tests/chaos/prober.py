"""Send to one conversation of each of many shards, by a steady timetable, and note when acks come.

A shard's gap between acks is its unavailability as clients see it who are connected to a node that lives: a
probe that is not acked soon is sent again, under the same client_id, through another node.
"""

import random
from collections import defaultdict
from collections.abc import Mapping, Sequence
from typing import Final

import trio
import trio.lowlevel

from actors import Address
from actors.conversation_rules import group_id
from protocol import replies as r
from tests.chaos.ledger import Ledger
from tests.chaos.light import LightClient, Place

# A session's socket is not read while 32 of its sends are unanswered: shards that fail must not hold up
# others.
SHARDS_PER_USER: Final = 12  # with each of them tried twice, and some to spare
TRY_S: Final = 2.0  # a probe without an answer by then goes through another node
AGAIN_S: Final = 0.25  # after a refusal that means "later"
STAGGER: Final = 7  # probes of neighbouring shards start apart, so that load is even


def shard_of_conversation(conversation_id: str) -> int:
    return Address("conversation", conversation_id).shard


def key_for_shard(app_id: str, user_id: str, shard: int) -> tuple[str, str]:
    """Find a client_id for which a group of that user falls on the shard: (client_id, conversation_id)."""
    number = 0
    while True:  # 256 tries on average
        client_id = f"probe{shard}-{number}"
        conversation_id = group_id(app_id, user_id, client_id)
        if shard_of_conversation(conversation_id) == shard:
            return client_id, conversation_id
        number += 1


class ProbeUser:
    """One user with a connection to every node, and the conversations that it probes."""

    def __init__(self, user_id: str, token: str, conversations: Mapping[int, str]) -> None:
        self.user_id = user_id
        self.token = token
        self.conversations = conversations  # shard -> conversation_id


class Prober:
    """Probes under way, and their acks: shard -> times."""

    def __init__(
        self,
        users: Sequence[ProbeUser],
        places: Sequence[Place],
        ledger: Ledger,
        rng: random.Random,
        *,
        every_s: float,
    ) -> None:
        self.acks: dict[int, list[float]] = defaultdict(list)
        self._users = users
        self._ledger = ledger
        self._rng = rng
        self._every_s = every_s
        self._stop = trio.Event()
        self.has_ended = trio.Event()  # the last probe is acked: what was acked is all that will be
        self._clients = {
            user.user_id: [self._client(user, place, number) for number, place in enumerate(places)]
            for user in users
        }
        self._nursery: trio.Nursery | None = None

    def _client(self, user: ProbeUser, place: Place, number: int) -> LightClient:
        return LightClient(
            f"probe-{user.user_id}",
            user.token,
            [place],
            self._ledger,
            random.Random(self._rng.random()),
            device_id=f"probe-{number}",
            focus=[],
            beat_s=5.0,
        )

    def add_place(self, place: Place) -> None:
        """Probe through one more node."""
        assert self._nursery is not None, "run() first"
        for user in self._users:
            clients = self._clients[user.user_id]
            clients.append(self._client(user, place, len(clients)))
            self._nursery.start_soon(clients[-1].run)

    def stop(self) -> None:
        """Begin no more probes; `run` ends when the last one is acked."""
        self._stop.set()

    async def run(self) -> None:
        """Probe until stopped."""
        async with trio.open_nursery() as self._nursery:
            for clients in self._clients.values():
                for client in clients:
                    self._nursery.start_soon(client.run)
            async with trio.open_nursery() as probes:
                for user in self._users:
                    for shard in user.conversations:
                        probes.start_soon(self._probe_shard, user, shard)
            self.has_ended.set()
            self._nursery.cancel_scope.cancel()

    async def _probe_shard(self, user: ProbeUser, shard: int) -> None:
        conversation_id = user.conversations[shard]
        due = trio.current_time() + self._every_s * (shard * STAGGER % 64) / 64
        number = 0
        while True:
            with trio.move_on_at(due):
                await self._stop.wait()
            if self._stop.is_set():
                return
            number += 1
            client_id = f"p{shard}-{number}"
            send = self._ledger.begin(
                conversation_id, user.user_id, client_id, f"probe {number}", trio.current_time()
            )
            sent, via = await self._until_acked(user, conversation_id, client_id, send.text, number)
            now = trio.current_time()
            self._ledger.acked(send, sent.seq, now, via)
            self.acks[shard].append(now)
            due = max(due + self._every_s, now)

    async def _until_acked(
        self, user: ProbeUser, conversation_id: str, client_id: str, text: str, turn: int
    ) -> tuple[r.Sent, str]:
        clients = self._clients[user.user_id]
        while True:  # until it is acked
            turn += 1
            open_clients = [client for client in clients if client.node]
            if not open_clients:
                await trio.sleep(AGAIN_S)
                continue
            client = open_clients[turn % len(open_clients)]
            via = client.node
            reply = await client.send(conversation_id, client_id, text, TRY_S)
            if isinstance(reply, r.Sent):
                return reply, via
            if isinstance(reply, r.Error):
                self._ledger.refusals[f"send:{reply.code}"] += 1
                if reply.retry_after_s is None:
                    self._ledger.failures.append(
                        f"probe {client_id} of {conversation_id} was refused by {via}: {reply.code} "
                        f"{reply.message}"
                    )
                await trio.sleep(min(reply.retry_after_s or 1.0, AGAIN_S))
            elif reply is None:
                self._ledger.refusals["send:no answer"] += 1
                await trio.lowlevel.checkpoint()
