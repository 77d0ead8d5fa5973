"""The feed of a real node as the SDK and HTTP show it: what app developers and bot authors rely on."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import httpx
import pytest
import trio

import hubbub
from hubbub.client import Events
from protocol.feed_events import FeedPosted, FollowChanged, FollowerChanged, PostCounts
from protocol.feed_types import Post
from tests.examples.test_running import operate
from tests.nodes import NodeProcess, running_node

pytestmark = [pytest.mark.slow, pytest.mark.timeout(120)]

FAST = hubbub.Backoff(first_delay_s=0.01, max_delay_s=0.2)


@asynccontextmanager
async def two_people(
    node: NodeProcess, *, max_queued_events: int = 1_000
) -> AsyncIterator[tuple[hubbub.Client, hubbub.Client]]:
    """Ann, who reads, and Bob, who writes; she follows him."""
    _, ann_token = node.sign_up("ann")
    _, bob_token = node.sign_up("bob")
    async with (
        hubbub.connect(node.url, token=ann_token, backoff=FAST, max_queued_events=max_queued_events) as ann,
        hubbub.connect(node.bot_url, token=bob_token, backoff=FAST) as bob,
    ):
        assert await ann.follows.follow(bob.user_id) == "following"
        yield ann, bob


async def take_posts(events: Events, count: int) -> list[Post]:
    """The next so many new posts."""
    posts: list[Post] = []
    while len(posts) < count:
        event = await anext(events)
        if isinstance(event, FeedPosted) and event.item is not None and event.item.post is not None:
            posts.append(event.item.post)
    return posts


async def test_a_live_feed_outlives_its_node(tmp_path: Path) -> None:
    """Killed and started again in the midst of posts: each comes once, and in order."""
    with running_node(tmp_path) as node, trio.fail_after(100):
        async with two_people(node) as (ann, bob):
            events = ann.events()
            await ann.feed.start_live()
            texts = [f"post {number}" for number in range(60)]

            async def write() -> None:
                for text in texts:
                    await bob.posts.create(text, client_id=text)

            async def kill_and_start() -> None:
                for _ in range(2):
                    await trio.sleep(0.2)
                    node.kill()
                    await trio.to_thread.run_sync(node.start)

            async with trio.open_nursery() as nursery:
                nursery.start_soon(write)
                nursery.start_soon(kill_and_start)
                posts = await take_posts(events, len(texts))
            assert [post.text for post in posts] == texts
            shown = [item.post.text async for item in ann.feed.items() if item.post is not None]
            assert shown == texts[::-1]
            last = await bob.posts.create("the end")
            assert [post.post_id for post in await take_posts(events, 1)] == [last.post_id]


async def test_a_reader_who_lags_far_behind_misses_nothing(tmp_path: Path) -> None:
    """The server drops what has no room and says so; the SDK reads it."""
    with running_node(tmp_path) as node, trio.fail_after(100):
        async with two_people(node, max_queued_events=5) as (ann, bob):
            await ann.feed.start_live()
            events = ann.events()
            count = 1_200  # of 1 KB: more than the outbox of a session and the buffers of a socket hold
            left = iter(range(count))

            async def write() -> None:
                for number in left:
                    await bob.posts.create(f"{number} " + "x" * 1_000)

            async with trio.open_nursery() as nursery:
                for _ in range(16):
                    nursery.start_soon(write)
            posts = await take_posts(events, count)
            assert len({post.post_id for post in posts}) == count
            last = await bob.posts.create("the end")
            assert [post.post_id for post in await take_posts(events, 1)] == [last.post_id]


async def test_counts_follows_and_comments_come_live(tmp_path: Path) -> None:
    """What is on one screen changes as others act."""
    with running_node(tmp_path) as node, trio.fail_after(60):
        async with two_people(node) as (ann, bob):
            post = await bob.posts.create("hello #World")
            assert post.hashtags == ["world"]
            events = bob.events()
            await bob.feed.watch([post.post_id])
            await ann.posts.like(post.post_id)
            await ann.posts.like(post.post_id)
            await ann.posts.comment(post.post_id, "well said", client_id="once")
            await ann.posts.comment(post.post_id, "well said", client_id="once")
            while True:  # until all of it was counted
                event = await anext(events)
                if isinstance(event, PostCounts) and (event.likes, event.comments) == (1, 1):
                    break
            comments = [comment.text async for comment in ann.posts.comments(post.post_id)]
            assert comments == ["well said"]
            await bob.follows.set_private(True)
            await ann.follows.unfollow(bob.user_id)
            assert await ann.follows.follow(bob.user_id) == "requested"
            assert [one.user_id async for one in bob.follows.requests()] == [ann.user_id]
            follows = ann.events()
            await bob.follows.accept(ann.user_id)
            while True:
                event = await anext(follows)
                if isinstance(event, FollowChanged) and event.follow == "following":
                    break
            while True:
                event = await anext(events)
                if isinstance(event, FollowerChanged) and event.follow == "following":
                    break
            page = await ann.feed.read()
            assert [item.post.text for item in page.items if item.post is not None] == ["hello #World"]


async def test_a_bot_reads_on_where_it_was(tmp_path: Path) -> None:
    """Whatever is posted while it is down, it handles once it is back."""
    with running_node(tmp_path) as node, trio.fail_after(60):
        async with two_people(node) as (ann, bob):
            bot_id, bot_token = node.sign_up("reader")
            seen: list[str] = []
            more = trio.Event()
            for turn in range(3):
                bot = hubbub.Bot(node.bot_url, token=bot_token, backoff=FAST)
                started = trio.Event()

                @bot.on_start
                async def follow(running: hubbub.Bot, started: trio.Event = started) -> None:
                    await running.client.follows.follow(bob.user_id)
                    started.set()

                @bot.on_post
                async def note(context: hubbub.PostContext) -> None:
                    nonlocal more
                    seen.append(context.text)
                    more.set()
                    more = trio.Event()

                async with trio.open_nursery() as nursery:
                    nursery.start_soon(bot.serve)
                    await started.wait()
                    await bob.posts.create(f"live {turn}")
                    while f"live {turn}" not in seen:
                        await more.wait()
                    bot.stop()
                await bob.posts.create(f"away {turn}")
            assert seen == ["live 0", "away 0", "live 1", "away 1", "live 2"]
            assert bot_id not in {bob.user_id, ann.user_id}


async def test_a_feed_over_http_alone(tmp_path: Path) -> None:
    """A product without a connection: curl is enough."""
    with running_node(tmp_path) as node, trio.fail_after(60):
        _, ann = node.sign_up("ann")
        bob_id, bob = node.sign_up("bob")
        async with httpx.AsyncClient(base_url=node.url, timeout=30) as http:

            async def call(token: str, method: str, path: str, **more: object) -> httpx.Response:
                headers = {"authorization": f"Bearer {token}", **more.pop("headers", {})}  # type: ignore[dict-item]
                return await http.request(method, path, headers=headers, **more)  # type: ignore[arg-type]

            for _ in range(2):
                made = await call(
                    bob, "POST", "/v1/posts", json={"text": "hi"}, headers={"Idempotency-Key": "k"}
                )
                assert made.status_code == 201
            assert made.json()["duplicate"]
            post_id = made.json()["post"]["post_id"]
            followed = await call(ann, "PUT", f"/v1/following/{bob_id}")
            assert followed.json()["follow"] == "following"
            for number in range(5):
                await call(bob, "POST", "/v1/posts", json={"text": f"{number}", "client_id": f"{number}"})
            texts: list[str] = []
            before = ""
            while True:
                page = (await call(ann, "GET", f"/v1/feed?limit=2&before={before}")).json()
                texts += [item["post"]["text"] for item in page["items"]]
                before = page.get("before", "")
                if not before:
                    break
            assert texts == ["4", "3", "2", "1", "0", "hi"]
            liked = await call(ann, "PUT", f"/v1/posts/{post_id}/like")
            assert (liked.json()["likes"], liked.json()["liked"]) == (1, True)
            assert (await call(ann, "PUT", "/v1/feed/position", json={"post_id": post_id})).status_code == 204
            page = (await call(ann, "GET", "/v1/feed")).json()
            assert (page["read_position"], page["new_above"]) == (post_id, 5)
            await call(ann, "PUT", f"/v1/interests/author/{bob_id}")
            page = (await call(ann, "GET", "/v1/feed?explain=true")).json()
            assert page["items"] == []
            assert {one["reason"] for one in page["left_out"]} == {"not_interested"}
            await call(ann, "DELETE", f"/v1/interests/author/{bob_id}")
            assert len((await call(ann, "GET", "/v1/feed")).json()["items"]) == 6
            for path, status, code in (
                ("/v1/posts/5", 404, "post_not_found"),
                ("/v1/feed?before=made-up", 400, "bad_cursor"),
                ("/v1/users/nobody/author", 404, "user_not_found"),
            ):
                refused = await call(ann, "GET", path)
                assert (refused.status_code, refused.json()["code"]) == (status, code), path
            own = await call(bob, "PUT", f"/v1/following/{bob_id}")
            assert (own.status_code, own.json()["code"]) == (400, "self_not_allowed")
            assert (await call(bob, "DELETE", f"/v1/posts/{post_id}")).status_code == 204
            assert len((await call(ann, "GET", "/v1/feed")).json()["items"]) == 5


async def test_pages_that_nobody_looks_at_take_no_ads(tmp_path: Path) -> None:
    """Who pays for ads: what the SDK reads to catch up must not use up what a reader may be shown."""
    with running_node(tmp_path) as node, trio.fail_after(60):
        key = operate(node, "keys", "create")
        app = (key["app_key"], key["app_secret"])
        async with two_people(node) as (ann, bob), httpx.AsyncClient(base_url=node.url, auth=app) as backend:
            options = await backend.put("/v1/app/feed_options", json={"ads": True})
            assert options.status_code == 200, options.text
            campaign = {"title": "Tea", "url": "https://tea.example/", "client_id": "tea", "daily_cap": 1}
            made = await backend.post("/v1/app/campaigns", json=campaign)
            assert made.status_code in (200, 201), made.text
            for number in range(12):
                await bob.posts.create(f"{number}")
            kinds = [item.kind for item in (await ann.feed.read(ads=False)).items]
            assert kinds == ["post"] * 12
            kinds = [item.kind for item in (await ann.feed.read()).items]
            assert kinds == ["post"] * 5 + ["ad"] + ["post"] * 7  # its one ad was still to be shown
