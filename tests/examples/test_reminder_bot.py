"""The example bots, run against a scripted peer: people copy them, so they must be right."""

from pathlib import Path

import pytest
import trio
from hypothesis import given
from hypothesis import strategies as st

import hubbub
from examples import echo_bot
from examples.reminder_bot import MAX_DELAY_S, Reminders, make_bot, parse_delay
from protocol import events as e
from tests.hubbub.peer import Hangup, Peer, open_peer


@pytest.mark.parametrize(
    ("word", "delay_s"),
    [("10m", 600), ("90s", 90), ("1h30m", 5400), ("2d", 172_800), ("0s", None), ("m", None), ("400d", None)],
)
def test_delays_are_read_as_people_write_them(word: str, delay_s: int | None) -> None:
    """/remind 1h30m."""
    assert parse_delay(word) == delay_s


@given(st.text("0123456789smhdSMHD x", max_size=12))
def test_any_word_is_a_sane_delay_or_none(word: str) -> None:
    """No input makes a reminder for the past or the next century."""
    delay_s = parse_delay(word)
    assert delay_s is None or 0 < delay_s <= MAX_DELAY_S


def said(peer: Peer) -> list[str]:
    return [
        event.text
        for event in peer.conversations.get("room", [])
        if isinstance(event, e.MessagePosted) and event.user_id == "ann"
    ]


async def wait_said(peer: Peer, text: str) -> None:
    while text not in said(peer):  # noqa: ASYNC110 - it happens on the other end of a real socket
        await trio.sleep(0.002)


async def test_a_reminder_survives_a_restart_and_fires_once(tmp_path: Path) -> None:
    """Killed between sending and writing that down, the bot sends again and the server stores it once."""
    path = str(tmp_path / "reminders.db")
    now = 0.0
    async with open_peer() as peer:
        started = trio.Event()
        reminders = Reminders(path)
        bot = make_bot(
            peer.tcp_url, "token-ann", reminders, state=f"{path}.c", clock=lambda: now, tick_s=0.01
        )

        @bot.on_start
        async def ready(_: hubbub.Bot) -> None:
            started.set()

        with trio.fail_after(20):
            async with trio.open_nursery() as nursery:
                nursery.start_soon(bot.serve)
                await started.wait()
                await peer.post("room", "/remind 10m drink water")
                await wait_said(peer, "I will remind you in 10m (number 1).")
                await peer.post("room", "/remind soon")
                await wait_said(peer, "Like this: /remind 10m drink water (s, m, h or d; 1h30m works too).")
                await peer.post("room", "/remind 1d tomorrow")
                await wait_said(peer, "I will remind you in 1d (number 2).")
                await peer.post("room", "/forget 2")
                await wait_said(peer, "Number 2 is forgotten.")
                bot.stop()
            reminders.close()
            now = 700.0
            # The process is killed just after its send was stored: nothing is written down.
            for _ in range(2):
                reminders = Reminders(path)
                [due] = reminders.due(now)
                async with hubbub.connect(peer.tcp_url, token="token-ann") as client:
                    await client.send("room", "Reminder: drink water", client_id=f"reminder:{due.reply_to}")
                reminders.close()
            reminders = Reminders(path)
            again = make_bot(
                peer.tcp_url, "token-ann", reminders, state=f"{path}.c", clock=lambda: now, tick_s=0.01
            )
            fired = trio.Event()

            @again.every(0.01)
            async def look(_: hubbub.Bot) -> None:
                if not reminders.due(now):
                    fired.set()

            async with trio.open_nursery() as nursery:
                nursery.start_soon(again.serve)
                await fired.wait()
                again.stop()
            reminders.close()
        assert said(peer).count("Reminder: drink water") == 1
        assert "Reminder: tomorrow" not in said(peer)


async def test_the_echo_bot_answers_commands_over_a_broken_line() -> None:
    """The smallest bot is as reliable as the SDK below it."""
    async with open_peer() as peer:
        cuts = 0

        def cut_once(_: object, event: e.Event) -> tuple[e.Event, ...]:
            nonlocal cuts
            if cuts < 2 and isinstance(event, e.MessagePosted) and event.user_id == "bob":
                cuts += 1
                raise Hangup
            return (event,)

        bot = echo_bot.make_bot(peer.tcp_url, "token-ann")
        started = trio.Event()

        @bot.on_start
        async def ready(_: hubbub.Bot) -> None:
            started.set()

        with trio.fail_after(20):
            async with trio.open_nursery() as nursery:
                nursery.start_soon(bot.serve)
                await started.wait()
                peer.on_live = cut_once
                await peer.post("room", "/echo one")
                await wait_said(peer, "one")
                await peer.post("room", "/echo two")
                await wait_said(peer, "two")
                bot.stop()
        assert said(peer) == ["one", "two"]
