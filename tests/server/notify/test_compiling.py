"""Templates are compiled beside the loop, once, and nobody but who needs the text waits."""

import threading
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import msgspec
import pytest
import trio
import trio.testing

from actors.notify.address import partition_of
from protocol import commands, notify_commands
from protocol.notify_content import NotifyRequest
from protocol.notify_templates import ChannelText, Template
from protocol.notify_types import TypeRule
from server.notify import compiled_texts
from server.notify.compiled_texts import CompiledText, CompiledTexts
from server.notify.template_locales import Choice
from tests.server.notify.notify_world import APP, Clock, Notifier, open_notifier
from tests.server.world import Device

HOUR_MS = 3_600_000


class Compiler:
    """Compiles as the real one does; German texts take as long as the test likes."""

    def __init__(self) -> None:
        self.texts: list[str] = []
        self.threads: set[int] = set()
        self.has_begun = threading.Event()
        self.may_go_on = threading.Event()

    def __call__(self, choice: Choice) -> object:
        self.texts.append(f"{choice.text.body} {choice.locale}")
        self.threads.add(threading.get_ident())
        if choice.locale == "de":
            self.has_begun.set()
            assert self.may_go_on.wait(20)
        return CompiledText(choice.text, "x")

    async def begun(self) -> None:
        await trio.to_thread.run_sync(self.has_begun.wait)


@pytest.fixture
def compiler(monkeypatch: pytest.MonkeyPatch) -> Iterator[Compiler]:
    made = Compiler()
    monkeypatch.setattr(compiled_texts, "_compile", made)
    yield made
    made.may_go_on.set()


def template(name: str = "greeting") -> Template:
    texts: dict[str, Any] = {
        locale: {"default": ChannelText(title=word, body=word)}
        for locale, word in (("en", "Hello"), ("de", "Hallo"))
    }
    return Template(name=name, texts={"default": texts})


async def neighbours(notifier: Notifier) -> tuple[Device, Device]:
    """A user who reads German, and one of the same partition who does not."""
    await notifier.core.desk.put_type(APP, TypeRule(name="t", channels=["inapp"], dedup_s=0, is_capped=False))
    await notifier.core.desk.put_template(APP, template())
    ann = await notifier.world.person("ann")
    await ann.do(commands.UpdateProfile(language="de"))
    for number in range(1_000):
        bob = await notifier.world.person(f"bob{number}")
        if partition_of(bob.user_id) == partition_of(ann.user_id):
            return ann, bob
    raise AssertionError("there are sixteen partitions")


def request(device: Device, template: str = "", text: str = "", **more: str) -> NotifyRequest:
    return NotifyRequest(type="t", user_id=device.user_id, template=template, text=text, **more)  # type: ignore[arg-type]


async def titles(device: Device) -> list[str]:
    page = await device.do(notify_commands.ListNotifications())
    return [item.title or item.text for item in page.items][::-1]  # type: ignore[union-attr]


async def test_who_needs_no_new_text_does_not_wait_and_who_does_keeps_the_order(
    tmp_path: Path, compiler: Compiler
) -> None:
    """The first campaign with a large template must not stop chats, nor the partition."""
    async with open_notifier(tmp_path) as notifier:
        ann, bob = await neighbours(notifier)
        done: list[str] = []

        async def notify(name: str, asked: NotifyRequest) -> None:
            await notifier.notify(asked)
            done.append(name)

        with trio.fail_after(20):
            async with trio.open_nursery() as nursery:
                nursery.start_soon(notify, "first", request(ann, "greeting"))
                await compiler.begun()
                nursery.start_soon(notify, "second", request(ann, text="plain"))
                await trio.testing.wait_all_tasks_blocked()
                nursery.start_soon(notify, "third", request(ann, "greeting"))
                await trio.testing.wait_all_tasks_blocked()
                await notify("bob's", request(bob, "greeting"))
                await notify("bob's other", request(bob, text="plain"))
                assert done == ["bob's", "bob's other"]
                compiler.may_go_on.set()
        assert await titles(ann) == ["Hallo", "plain", "Hallo"]
        assert await titles(bob) == ["Hello", "plain"]
        assert sorted(compiler.texts) == ["Hallo de", "Hello en"]  # each once
        assert threading.get_ident() not in compiler.threads


async def test_what_is_held_for_a_new_text_lets_the_rest_be_released(
    tmp_path: Path, compiler: Compiler
) -> None:
    """After a restart nothing is compiled, and thousands may be due."""
    clock = Clock()
    compiler.may_go_on.set()
    async with open_notifier(tmp_path, clock=clock) as notifier:
        ann, bob = await neighbours(notifier)
        at = {"send_at": (datetime.now(UTC) + timedelta(hours=1)).isoformat(timespec="seconds")}
        held = []
        for asked in (
            request(ann, "greeting", **at),
            request(bob, text="plain", **at),
            request(bob, "greeting", **at),
        ):
            held.append((await notifier.notify(asked)).items[0].notification_id)
    compiler.texts.clear()
    compiler.has_begun.clear()
    compiler.may_go_on.clear()
    clock.ahead_ms = 2 * HOUR_MS
    async with open_notifier(tmp_path, is_new=False, clock=clock) as notifier:
        with trio.fail_after(20):
            assert (await notifier.settled(held[1])).title == ""
            await compiler.begun()
            assert (await notifier.row(held[0])).state == "held"
            compiler.may_go_on.set()
            assert (await notifier.settled(held[0])).title == "Hallo"
            assert (await notifier.settled(held[2])).title == "Hello"
        assert sorted(compiler.texts) == ["Hallo de", "Hello en"]
        assert threading.get_ident() not in compiler.threads


async def test_a_batch_that_is_told_anew_after_a_restart_is_compiled_beside_the_loop_too(
    tmp_path: Path, compiler: Compiler
) -> None:
    """One of two requests is cancelled, and what the centre shows tells of the other."""
    compiler.may_go_on.set()
    async with open_notifier(tmp_path) as notifier:
        ann, _ = await neighbours(notifier)
        rule = TypeRule(name="t", channels=["inapp", "apns"], dedup_s=0, batch_window_s=3_600)
        await notifier.core.desk.put_type(APP, rule)
        one = await notifier.notify(request(ann, "greeting", subject="s"))
        await notifier.notify(request(ann, "greeting", subject="s"))
        assert await titles(ann) == ["Hallo"]
    compiler.texts.clear()
    async with open_notifier(tmp_path, is_new=False) as notifier:
        with trio.fail_after(20):
            cancelled = await notifier.core.entry.cancel(APP, one.request_id)
        assert cancelled.partly == 1
        assert compiler.texts == ["Hallo de"]
        assert threading.get_ident() not in compiler.threads


async def test_a_text_is_compiled_once_however_many_ask(compiler: Compiler) -> None:
    """Sixteen partitions and the entry ask for the same one at the same time."""
    compiler.may_go_on.set()
    texts, found = CompiledTexts(), template()
    async with trio.open_nursery() as nursery:
        for locale in ("de", "de-AT", "de-CH", "en", "fr"):
            for _ in range(3):
                nursery.start_soon(texts.prepare, found, ("app", "greeting", 1, locale, "en"))
    assert sorted(compiler.texts) == ["Hallo de", "Hello en"]
    assert texts.is_ready(found, ("app", "greeting", 1, "it", "en"))
    assert not texts.is_ready(found, ("app", "greeting", 2, "it", "en"))
    assert not texts._turns  # nothing is left of who waited


async def test_many_variants_are_ready_once_prepared(compiler: Compiler) -> None:
    """An experiment's variants are drawn after the texts were asked for."""
    compiler.may_go_on.set()
    texts = CompiledTexts()
    variants: dict[str, Any] = {
        name: {"en": {"default": ChannelText(body=name)}} for name in ("default", *map(str, range(9)))
    }
    found = Template(name="t", texts=variants)
    place = ("app", "t", 1, "en", "en")
    assert not texts.is_ready(found, place)
    await texts.prepare(found, place)
    assert texts.is_ready(found, place)
    assert len(compiler.texts) == 10
    for name in variants:
        assert texts.get(found, place, name, "sms")[0].text.body == name
    assert texts.get(found, place, "unknown", "sms")[0].text.body == "default"
    assert len(compiler.texts) == 10
    changed = msgspec.structs.replace(found, version=2)
    assert not texts.is_ready(changed, ("app", "t", 2, "en", "en"))
