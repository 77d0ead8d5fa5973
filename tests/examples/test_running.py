"""Each example as its page tells to run it: a process of its own against a real node."""

import json
import os
import subprocess
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import trio

import hubbub
from hubbub.client import Events
from protocol import events as e
from protocol.feed_events import FeedPosted
from protocol.feed_types import Comment, Post
from tests.nodes import ROOT, NodeProcess, running_node

pytestmark = [pytest.mark.slow, pytest.mark.timeout(120)]


def operate(node: NodeProcess, *arguments: str) -> dict[str, Any]:
    """Run one of the operator's commands and return what it printed."""
    made = subprocess.run(
        [sys.executable, "-m", "server", *arguments, "--json", "--data-dir", str(node.data_dir)],
        capture_output=True,
        check=True,
        timeout=60,
        cwd=ROOT,
    )
    answer: dict[str, Any] = json.loads(made.stdout)
    return answer


def surroundings(**variables: str) -> dict[str, str]:
    """The environment of somebody who has installed hubbub and set these variables."""
    clean = {key: value for key, value in os.environ.items() if not key.startswith("HUBBUB_")}
    return clean | {"PYTHONPATH": str(ROOT)} | variables


@asynccontextmanager
async def running_bot(path: str, *arguments: str, token: str) -> AsyncIterator[None]:
    """A bot's process that is up; at the end it is told to stop, and must do so without complaint."""
    async with trio.open_nursery() as nursery:
        process: trio.Process = await nursery.start(
            partial(
                trio.run_process,
                [sys.executable, path, *arguments],
                stderr=subprocess.PIPE,
                check=False,
                cwd=ROOT,
                env=surroundings(HUBBUB_TOKEN=token),
            )
        )
        try:
            # A new bot answers what is said from now on.
            assert process.stderr is not None
            logged = b""
            while b"bot_started" not in logged:
                data = await process.stderr.receive_some()
                assert data, f"the bot ended: {logged.decode()}"
                logged += data
            yield
            process.terminate()
            assert await process.wait() == 0
        finally:
            if process.returncode is None:
                process.kill()


async def next_text(events: Events, user_id: str) -> str:
    async for event in events:
        if isinstance(event, e.MessagePosted) and event.user_id == user_id:
            return event.text
    raise AssertionError("the events ended")


async def test_the_echo_bot_answers(tmp_path: Path) -> None:
    """The first thing that a bot author runs."""
    with running_node(tmp_path) as node, trio.fail_after(60):
        token = operate(node, "bots", "create", "echo")["token"]
        _, ann_token = node.sign_up("ann")
        async with (
            hubbub.connect(node.url, token=ann_token) as ann,
            running_bot("examples/echo_bot.py", "--url", node.bot_url, token=token),
        ):
            events = ann.events()
            (bot,) = await ann.find_users("echo")
            talk = await ann.open_direct(bot.user_id)
            await ann.send(talk.conversation_id, "hello out there")
            assert await next_text(events, bot.user_id) == "hello out there"


async def test_the_reminder_bot_reminds(tmp_path: Path) -> None:
    """And keeps its state where it is told to."""
    with running_node(tmp_path) as node, trio.fail_after(60):
        token = operate(node, "bots", "create", "reminder")["token"]
        _, ann_token = node.sign_up("ann")
        state = tmp_path / "reminders.db"
        async with (
            hubbub.connect(node.url, token=ann_token) as ann,
            running_bot(
                "examples/reminder_bot.py", "--url", node.bot_url, "--state", str(state), token=token
            ),
        ):
            events = ann.events()
            (bot,) = await ann.find_users("reminder")
            talk = await ann.open_direct(bot.user_id)
            await ann.send(talk.conversation_id, "/remind 1s drink water")
            assert "number 1" in await next_text(events, bot.user_id)
            assert "drink water" in await next_text(events, bot.user_id)
        assert state.exists()


async def test_the_feed_bot_posts_what_its_file_says_and_answers(tmp_path: Path) -> None:
    """An organisation's news in the feeds of who follows it."""
    source = tmp_path / "news.txt"
    source.write_text("The first line #news\n")
    with running_node(tmp_path) as node, trio.fail_after(60):
        token = operate(node, "bots", "create", "news")["token"]
        _, ann_token = node.sign_up("ann")
        async with hubbub.connect(node.url, token=ann_token) as ann:
            events = ann.events()
            (bot,) = await ann.find_users("news")
            await ann.follows.follow(bot.user_id)
            await ann.feed.start_live()
            arguments = ("--source", str(source), "--state", str(tmp_path / "news.db"), "--every", "0.2")
            async with running_bot("examples/feed_bot.py", "--url", node.bot_url, *arguments, token=token):
                first = await next_post(events)
                assert (first.text, first.hashtags) == ("The first line #news", ["news"])
                comment = await ann.posts.comment(first.post_id, "really, @news?", mentions=[bot.user_id])
                answers = await comments_of(ann, first.post_id, comment.comment_id)
                assert [answer.user_id for answer in answers] == [bot.user_id]
                with source.open("a") as file:
                    file.write("The second line\n")
                assert (await next_post(events)).text == "The second line"
            # Stopped and started again, it posts nothing twice.
            async with running_bot("examples/feed_bot.py", "--url", node.bot_url, *arguments, token=token):
                with source.open("a") as file:
                    file.write("The third line\n")
                assert (await next_post(events)).text == "The third line"


async def next_post(events: Events) -> Post:
    async for event in events:
        if isinstance(event, FeedPosted) and event.item is not None and event.item.post is not None:
            return event.item.post
    raise AssertionError("the events ended")


async def comments_of(client: hubbub.Client, post_id: int, parent_id: int) -> list[Comment]:
    """The answers to a comment, once there are some."""
    while True:  # ends by an answer, or by the test's deadline
        found = [one async for one in client.posts.comments(post_id, parent_id=parent_id)]
        if found:
            return found
        await trio.sleep(0.02)


async def test_the_replay_plays_a_folder_of_logs(tmp_path: Path) -> None:
    """What makes an empty server look alive."""
    logs = tmp_path / "logs"
    logs.mkdir()
    (logs / "day.txt").write_text("[10:00] <ann> hello\n[10:01] <bob> hello ann\n[10:01]  * ann waves\n")
    with running_node(tmp_path) as node, trio.fail_after(60):
        key = operate(node, "keys", "create")
        _, token = node.sign_up("watcher")
        done = await trio.run_process(
            [
                *(sys.executable, "examples/irc_replay.py", "--url", node.url),
                *("--speed", "max", "--verify", "--watch", "watcher", "--group", "#played", str(logs)),
            ],
            capture_stdout=True,
            cwd=ROOT,
            env=surroundings(HUBBUB_APP_KEY=key["app_key"], HUBBUB_APP_SECRET=key["app_secret"]),
        )
        assert b"3 lines by 2 users" in done.stdout
        assert b"verified" in done.stdout
        async with hubbub.connect(node.url, token=token) as watcher:
            (summary,) = [item async for item in watcher.list_conversations()]
            texts = [message.text async for message in watcher.history(summary.conversation_id)]
        assert summary.title == "#played"
        assert len(texts) == summary.unread == 3
        assert texts[-1] == "hello"
