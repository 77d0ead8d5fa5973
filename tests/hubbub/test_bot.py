"""Bots against a scripted peer: what bot authors rely on."""

import os
import signal

import pytest
import trio
from hypothesis import given
from hypothesis import strategies as st

import hubbub
from hubbub.bot import parse_invocation
from protocol import events as e
from tests.hubbub.peer import Peer, open_peer

FAST = hubbub.Backoff(first_delay_s=0.001, max_delay_s=0.01)


@given(st.text(max_size=60))
def test_any_text_is_a_command_or_is_not(text: str) -> None:
    """Whatever people type, a bot does not stumble over it."""
    found = parse_invocation(text)
    if found is not None:
        assert text.strip()[0] in "/!"
        assert found.name == found.name.casefold()


@pytest.mark.parametrize(
    ("text", "name", "args"),
    [
        ("/remind 10m drink water", "remind", ["10m", "drink", "water"]),
        ("!Echo 'two words' three", "echo", ["two words", "three"]),
        ("/say it's fine", "say", ["it's", "fine"]),
        ("/go\nnow", "go", ["now"]),
    ],
)
def test_commands_are_parsed_as_people_type_them(text: str, name: str, args: list[str]) -> None:
    """Quotes group words; a lone apostrophe is just an apostrophe."""
    found = parse_invocation(text)
    assert found is not None
    assert (found.name, list(found.args)) == (name, args)


@pytest.mark.parametrize("text", ["hello", "/", "/ x", "/1", "//x", "a /b"])
def test_other_texts_are_no_commands(text: str) -> None:
    """A path or a fraction in a sentence does not wake a bot."""
    assert parse_invocation(text) is None


async def replies(peer: Peer, count: int, room: str = "room") -> list[e.MessagePosted]:
    """Wait for the bot's own messages."""
    while True:  # ends by the count, or by the test's deadline
        mine = [
            event
            for event in peer.conversations.get(room, [])
            if isinstance(event, e.MessagePosted) and event.user_id == "ann"
        ]
        if len(mine) >= count:
            return mine
        await trio.sleep(0.002)


async def test_handlers_get_what_is_theirs_and_a_failing_one_stops_nothing(
    caplog: pytest.LogCaptureFixture,
) -> None:
    """One bug in one handler is a line in the log."""
    bot_calls: list[str] = []
    async with open_peer() as peer, trio.open_nursery() as nursery:
        bot = hubbub.Bot(peer.tcp_url, token="token-ann", backoff=FAST)

        @bot.command("fail")
        async def fail(context: hubbub.Context) -> None:
            raise RuntimeError("a bug")

        @bot.command("add")
        async def add(context: hubbub.Context) -> None:
            await context.reply(str(sum(int(arg) for arg in context.args)))

        @bot.on_mention
        async def mentioned(context: hubbub.Context) -> None:
            bot_calls.append(f"mention {context.text}")

        @bot.on_message
        async def said(context: hubbub.Context) -> None:
            bot_calls.append(f"message {context.text}")

        started = trio.Event()

        @bot.on_start
        async def ready(_: hubbub.Bot) -> None:
            started.set()

        nursery.start_soon(bot.serve)
        with trio.fail_after(10):
            await started.wait()
            await peer.post("room", "/fail")
            await peer.post("room", "/add 1 2")
            [answer] = await replies(peer, 1)
            await peer.add(
                e.MessagePosted(
                    conversation_id="room", seq=4, at_ms=1, user_id="bob", text="hi", mentions=["ann"]
                )
            )
            await peer.post("room", "/add 4 5")
            answers = await replies(peer, 2)
            bot.stop()
    assert (answer.text, answer.reply_to) == ("3", 2)
    assert answers[1].text == "9"
    assert bot_calls == ["mention hi", "message hi"]
    assert "handler_failed" in caplog.text


async def test_one_conversation_is_handled_in_order_and_others_meanwhile() -> None:
    """A slow answer in one conversation holds up nobody else, and its own order stays."""
    order: list[str] = []
    async with open_peer() as peer, trio.open_nursery() as nursery:
        bot = hubbub.Bot(peer.tcp_url, token="token-ann", backoff=FAST)
        gate, started, done = trio.Event(), trio.Event(), trio.Event()

        @bot.on_start
        async def ready(_: hubbub.Bot) -> None:
            started.set()

        @bot.on_message
        async def said(context: hubbub.Context) -> None:
            if context.text == "slow":
                await gate.wait()
            order.append(context.text)
            if context.text == "other":
                gate.set()
            if context.text == "after":
                done.set()

        nursery.start_soon(bot.serve)
        with trio.fail_after(10):
            await started.wait()
            await peer.post("slow-room", "slow")
            await peer.post("slow-room", "after")
            await peer.post("other-room", "other")
            await done.wait()
            bot.stop()
    assert order == ["other", "slow", "after"]


async def test_a_stopped_bot_goes_on_where_it_was_and_answers_once() -> None:
    """Restart a bot at any time: each question is answered, and answered once."""
    store = hubbub.MemoryCursors()
    async with open_peer() as peer:
        await peer.post("room", "before the bot came")
        for round_number in range(3):
            bot = hubbub.Bot(peer.tcp_url, token="token-ann", backoff=FAST, cursors=store)
            started = trio.Event()

            @bot.on_start
            async def ready(_: hubbub.Bot, started: trio.Event = started) -> None:
                started.set()

            @bot.on_message
            async def answer(context: hubbub.Context) -> None:
                await context.reply(f"re: {context.text}")

            with trio.fail_after(10):
                async with trio.open_nursery() as nursery:
                    nursery.start_soon(bot.serve)
                    await started.wait()
                    await peer.post("room", f"live {round_number}")
                    await replies(peer, 2 * round_number + 1)
                    bot.stop()
                await peer.post("room", f"while away {round_number}")
                if round_number == 2:
                    break
            expected = 2 * (round_number + 1)
            bot_again = hubbub.Bot(peer.tcp_url, token="token-ann", backoff=FAST, cursors=store)

            @bot_again.on_message
            async def answer_again(context: hubbub.Context) -> None:
                await context.reply(f"re: {context.text}")

            with trio.fail_after(10):
                async with trio.open_nursery() as nursery:
                    nursery.start_soon(bot_again.serve)
                    await replies(peer, expected)
                    bot_again.stop()
        texts = [event.text for event in await replies(peer, 5)]
    assert texts == ["re: live 0", "re: while away 0", "re: live 1", "re: while away 1", "re: live 2"]


async def test_timers_run_and_sigterm_stops_the_bot() -> None:
    """A service manager stops a bot as it stops everything else."""
    async with open_peer() as peer:
        bot = hubbub.Bot(peer.tcp_url, token="token-ann", backoff=FAST)
        ticks = 0

        @bot.every(0.01)
        async def tick(_: hubbub.Bot) -> None:
            nonlocal ticks
            ticks += 1
            if ticks == 3:
                os.kill(os.getpid(), signal.SIGTERM)

        with trio.fail_after(10):
            await bot._run_until_signal()
    assert ticks >= 3


async def test_a_bot_with_a_wrong_token_ends_with_the_reason() -> None:
    """An operator reads why it does not start."""
    async with open_peer() as peer:
        with trio.fail_after(10), pytest.raises(hubbub.Refused) as refused:
            await hubbub.Bot(peer.tcp_url, token="wrong").serve()
    assert refused.value.code == "unauthenticated"
