"""Two devices of one user and one of another: offline for a while, then nothing missing and nothing twice."""

from collections.abc import Callable
from functools import partial
from pathlib import Path

import msgspec
import pytest
import trio

import hubbub
from protocol.events import ConversationEvent, Event, InboxEvent, Read
from tests.nodes import NodeProcess, running_node

pytestmark = [pytest.mark.slow, pytest.mark.timeout(180)]


class Device:
    """One device with cursors in a file, which may be switched off and on."""

    def __init__(self, url: str, token: str, device_id: str, directory: Path) -> None:
        self.url = url
        self.token = token
        self.device_id = device_id
        self.cursors_path = directory / f"{device_id}.cursors"
        self.durable: list[ConversationEvent | InboxEvent] = []
        self.live: list[Event] = []
        self.client: hubbub.Client
        self._news = trio.Event()

    async def run_until(self, off: trio.Event, *, task_status: trio.TaskStatus[None]) -> None:
        cursors = hubbub.FileCursors(self.cursors_path)
        async with (
            hubbub.connect(
                self.url, token=self.token, device_id=self.device_id, cursors=cursors, history="all"
            ) as self.client,
            trio.open_nursery() as nursery,
        ):
            nursery.start_soon(self._listen)
            task_status.started()
            await off.wait()
            nursery.cancel_scope.cancel()

    async def _listen(self) -> None:
        async for event in self.client.events():
            if isinstance(event, ConversationEvent | InboxEvent):
                self.durable.append(event)
            else:
                self.live.append(event)
            news, self._news = self._news, trio.Event()
            news.set()

    async def until(self, is_true: Callable[[], bool]) -> None:
        while not is_true():
            await self._news.wait()

    def of(self, conversation_id: str) -> list[ConversationEvent]:
        return [
            event
            for event in self.durable
            if isinstance(event, ConversationEvent) and event.conversation_id == conversation_id
        ]


def _without_text(event: ConversationEvent) -> ConversationEvent:
    return msgspec.structs.replace(event, text="")


async def _all_events(device: Device, conversation_id: str) -> list[ConversationEvent]:
    found: list[ConversationEvent] = []
    while True:
        page = await device.client.sync_page(conversation_id, found[-1].seq if found else 0, limit=7)
        found += [event for event in page.items if isinstance(event, ConversationEvent)]
        if not page.more:
            return found


async def test_devices_that_were_away_get_everything_once(tmp_path: Path) -> None:
    """People have a phone and a laptop, and one of them is always asleep."""
    with running_node(tmp_path) as node:
        (ann_id, ann_token), (bob_id, bob_token) = [
            await trio.to_thread.run_sync(partial(node.sign_up, name)) for name in ("ann", "bob")
        ]
        phone = Device(node.url, ann_token, "ann-phone", tmp_path)
        laptop = Device(node.bot_url, ann_token, "ann-laptop", tmp_path)
        bob = Device(node.url, bob_token, "bob-phone", tmp_path)
        with trio.fail_after(120):
            async with trio.open_nursery() as nursery:
                off = {device.device_id: trio.Event() for device in (phone, laptop, bob)}
                for device in (phone, laptop, bob):
                    await nursery.start(device.run_until, off[device.device_id])
                group = (await phone.client.create_group("Trip", [bob_id])).conversation_id
                for number in range(20):
                    await bob.client.send(group, f"before {number}")
                await laptop.until(lambda: len(laptop.of(group)) == 21)
                await phone.until(lambda: len(phone.of(group)) == 21)

                # The laptop sleeps; much happens, here and in new conversations; the node restarts too.
                off["ann-laptop"].set()
                sent = [await bob.client.send(group, f"meanwhile {number}") for number in range(300)]
                await bob.client.edit(group, sent[0].seq, "edited")
                await bob.client.delete(group, sent[1].seq)
                await phone.client.react(group, sent[2].seq, "👍")
                direct = (await bob.client.open_direct(ann_id)).conversation_id
                await bob.client.send(direct, "psst")
                await phone.until(lambda: len(phone.of(direct)) == 2)
                assert (await phone.client.get_conversation(group)).unread == 319  # one of 320 is deleted
                read = await phone.client.mark_read(group, sent[-1].seq)
                assert read.unread == 0
                await trio.to_thread.run_sync(_restart, node)
                await bob.client.send(group, "after the restart")

                off["ann-laptop"] = trio.Event()
                await nursery.start(laptop.run_until, off["ann-laptop"])
                head = (await bob.client.get_conversation(group)).head
                for device in (laptop, phone, bob):
                    await device.until(lambda d=device: bool(d.of(group)) and d.of(group)[-1].seq >= head)  # type: ignore[misc]
                await laptop.until(lambda: len(laptop.of(direct)) == 2)
                stored = await _all_events(bob, group)
                for device in (laptop, phone, bob):
                    # Who heard the message before it was deleted heard its text; the store has it no more.
                    heard = [_without_text(e) if e.seq == sent[1].seq else e for e in device.of(group)]
                    assert heard == stored
                assert [event.seq for event in stored] == list(range(1, head + 1))
                inboxes = [
                    [event for event in device.durable if isinstance(event, InboxEvent)]
                    for device in (laptop, phone)
                ]
                assert inboxes[0] == inboxes[1]
                assert [event.seq for event in inboxes[0]] == list(range(1, len(inboxes[0]) + 1))

                # Reading on one device clears the badge on the other.
                assert (await laptop.client.get_conversation(group)).unread == 1
                await laptop.client.mark_read(group, head)
                await phone.until(lambda: any(isinstance(e, Read) and e.read_seq == head for e in phone.live))
                for event in off.values():
                    event.set()
        assert node.stop() == 0


def _restart(node: NodeProcess) -> None:
    node.kill()
    node.start()
