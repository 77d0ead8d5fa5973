"""kill -9 of a node under load, again and again: nothing acked is lost, nothing is doubled, order is one."""

import os
import random
from collections import Counter
from functools import partial
from pathlib import Path

import pytest
import trio

import hubbub
from protocol.events import MessagePosted
from tests.nodes import NodeProcess, running_node

IS_LONG = os.environ.get("HUBBUB_LONG") == "1"
KILLS = 20 if IS_LONG else 4
USERS = 8
pytestmark = [pytest.mark.chaos, pytest.mark.timeout(900 if IS_LONG else 240)]


class Talker:
    """A user who sends all the time and notes what was acked, and what was heard, in order."""

    def __init__(self, name: str, url: str, token: str) -> None:
        self.name = name
        self.url = url
        self.token = token
        self.acked: dict[str, int] = {}  # text -> seq
        self.heard: list[MessagePosted] = []
        self.last_heard_seq = 0
        self.news = trio.Event()

    async def run(self, group: str, stop: trio.Event, settled: trio.Event) -> None:
        async with (
            hubbub.connect(
                self.url, token=self.token, device_id=f"device-{self.name}", history="all"
            ) as client,
            trio.open_nursery() as nursery,
        ):
            nursery.start_soon(self._listen, client, group)
            number = 0
            while not stop.is_set():
                number += 1
                text = f"{self.name} {number}"
                sent = await client.send(group, text)
                assert text not in self.acked
                self.acked[text] = sent.seq
            await settled.wait()
            nursery.cancel_scope.cancel()

    async def _listen(self, client: hubbub.Client, group: str) -> None:
        async for event in client.events():
            if isinstance(event, MessagePosted) and event.conversation_id == group:
                self.heard.append(event)
                self.last_heard_seq = event.seq
                news, self.news = self.news, trio.Event()
                news.set()

    async def until_heard(self, seq: int) -> None:
        while self.last_heard_seq < seq:
            await self.news.wait()


async def _kill_often(node: NodeProcess, rng: random.Random) -> None:
    for _ in range(KILLS):
        await trio.sleep(rng.uniform(0.5, 2.0))  # the moment of the power cut is what is random here
        node.kill()
        await trio.to_thread.run_sync(node.start)
    await trio.sleep(1.0)


async def _stored(url: str, token: str, group: str) -> list[MessagePosted]:
    async with hubbub.connect(url, token=token, device_id="auditor", history="new") as client:
        found: list[MessagePosted] = []
        cursor = 0
        while True:
            page = await client.sync_page(group, cursor, limit=500)
            for event in page.items:
                cursor += 1
                assert event.seq == cursor, "the stream has a gap"  # type: ignore[union-attr]
                if isinstance(event, MessagePosted):
                    found.append(event)
            if not page.more:
                return found


async def test_kill_9_under_load_loses_and_doubles_nothing(tmp_path: Path) -> None:
    """Promises 1 to 3: users choose us for them."""
    seed = int(os.environ.get("HUBBUB_SEED", random.randrange(1 << 32)))
    print(f"seed {seed}: HUBBUB_SEED={seed} repeats the moments of the kills")
    rng = random.Random(seed)
    with running_node(tmp_path, "--sign-ups-per-address-per-h", "100000") as node:
        accounts = [await trio.to_thread.run_sync(partial(node.sign_up, f"talker{n}")) for n in range(USERS)]
        # Half by WebSocket, half by the bot protocol.
        talkers = [
            Talker(f"talker{n}", node.url if n % 2 else node.bot_url, token)
            for n, (_, token) in enumerate(accounts)
        ]
        async with hubbub.connect(node.url, token=accounts[0][1], device_id="setup") as client:
            info = await client.create_group("Chaos", [user_id for user_id, _ in accounts[1:]])
        group = info.conversation_id
        stop, settled = trio.Event(), trio.Event()
        async with trio.open_nursery() as nursery:
            for talker in talkers:
                nursery.start_soon(talker.run, group, stop, settled)
            await _kill_often(node, rng)
            stop.set()
            with trio.fail_after(60):
                stored = await _stored(node.url, accounts[0][1], group)
                for talker in talkers:
                    await talker.until_heard(stored[-1].seq)
            # A send may still have been in flight when the store was read: read again, now all is still.
            settled.set()
        stored = await _stored(node.url, accounts[0][1], group)
        texts = Counter(message.text for message in stored)
        assert not [text for text, count in texts.items() if count > 1], "doubled"
        by_text = {message.text: message.seq for message in stored}
        for talker in talkers:
            assert talker.acked.items() <= by_text.items(), "an acked message is missing or elsewhere"
            heard = [(m.seq, m.text) for m in talker.heard]
            expected = [(m.seq, m.text) for m in stored][: len(heard)]
            assert heard == expected, "a listener's view differs from the store"
            assert talker.acked, "a talker never got through: the test shows nothing"
        print(f"{len(stored)} messages, {sum(len(t.acked) for t in talkers)} acked, {KILLS} kills")
        assert await trio.to_thread.run_sync(node.stop) == 0
