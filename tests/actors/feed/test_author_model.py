"""Authors against a model, with crashes and refusals at any time: nothing acked is lost, or counted twice."""

from collections.abc import Callable, Iterator
from typing import TypeVar, cast

import hypothesis
import pytest
import trio
from hypothesis import given
from hypothesis import strategies as st

from actors import relay
from actors.reply import ReplySlot
from protocol import feed_commands, feed_replies, replies
from protocol.commands import Command
from protocol.errors import Unavailable
from protocol.records import (
    CommentRow,
    FanoutJob,
    FollowerRow,
    PostLike,
    PostRow,
    RepostRow,
)
from tests.actors.feed.author_world import World, open_world
from tests.strategies import examples

K = TypeVar("K")
V = TypeVar("V")
PEOPLE = ("ann", "bob", "cai")
AUTHORS = ("ann", "bob")

_people = st.sampled_from(PEOPLE)
_authors = st.sampled_from(AUTHORS)
_picks = st.integers(0, 50)
_steps = st.one_of(
    st.tuples(st.just("post"), _authors, _picks),
    st.tuples(st.just("repost"), _people, _picks),
    st.tuples(st.just("delete"), _people, _picks),
    st.tuples(st.just("like"), _people, _picks),
    st.tuples(st.just("unlike"), _people, _picks),
    st.tuples(st.just("comment"), _people, _picks),
    st.tuples(st.just("uncomment"), _people, _picks),
    st.tuples(st.just("follow"), _people, _picks),
    st.tuples(st.just("unfollow"), _people, _picks),
)
_rounds = st.lists(
    st.tuples(
        st.lists(_steps, min_size=1, max_size=12),
        st.sampled_from(["", "", "crash", "crash", "refuse", "restart"]),
    ),
    min_size=1,
    max_size=6,
)


@pytest.fixture(scope="module", autouse=True)
def _hasty() -> Iterator[None]:
    """Tells that a crash has turned away come again at once, instead of after a second."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(relay, "RETRY_S", 0.01)
        yield


class Model:
    """What must be true once all is settled."""

    def __init__(self) -> None:
        self.posts: dict[int, str] = {}  # not deleted, no reposts: post_id -> author
        self.likes: set[tuple[int, str]] = set()
        self.reposts: dict[tuple[int, str], int] = {}  # (post, user) -> repost_id
        self.comments: dict[int, tuple[int, str]] = {}  # comment_id -> (post, user)
        self.follows: dict[tuple[str, str], int] = {}  # (follower, author) -> since post
        self.pushed: dict[int, set[str]] = {}  # post or repost -> followers at the time
        self.versions = 0

    def pick(self, number: int) -> int:
        ids = sorted(self.posts)
        return ids[number % len(ids)] if ids else 0


async def insist(world: World, user_id: str, of: str, command: Command) -> replies.Reply:
    """Give a command as a client does: again, as it is, until there is an answer."""
    while True:
        slot: ReplySlot = world.ask(user_id, command, of=of)
        try:
            return cast(replies.Reply, await slot.wait())
        except Unavailable:
            await trio.sleep(0.001)


async def do(world: World, model: Model, step: tuple[str, str, int]) -> Callable[[], None] | None:
    """Carry out a step; returns how the model changes when it is answered."""
    kind, user_id, number = step
    if kind == "post":
        text = f"{number}"
        command: Command = feed_commands.CreatePost(client_id=world.client_id(), text=text)
        reply = await insist(world, user_id, user_id, command)
        assert isinstance(reply, feed_replies.PostInfo)
        post_id = reply.post.post_id
        return lambda: model.posts.__setitem__(post_id, user_id)
    if kind in ("follow", "unfollow"):
        author_id = AUTHORS[number % 2]
        model.versions += 1
        await world.edge(user_id, author_id, "following" if kind == "follow" else "", model.versions)
        if kind == "follow":
            return lambda: model.follows.__setitem__((user_id, author_id), 0)
        return lambda: _discard(model.follows, (user_id, author_id))
    post_id = model.pick(number)
    if not post_id:
        return None
    of = model.posts[post_id]
    if kind in ("like", "unlike"):
        is_wanted = kind == "like"
        await insist(world, user_id, of, feed_commands.LikePost(post_id=post_id, removed=not is_wanted))
        change = model.likes.add if is_wanted else model.likes.discard
        return lambda: change((post_id, user_id))
    if kind == "comment":
        command = feed_commands.AddComment(post_id=post_id, client_id=world.client_id(), text="x")
        reply = await insist(world, user_id, of, command)
        assert isinstance(reply, feed_replies.CommentInfo)
        comment_id = reply.comment.comment_id
        return lambda: model.comments.__setitem__(comment_id, (post_id, user_id))
    if kind == "uncomment":
        ids = sorted(i for i, (_, writer) in model.comments.items() if writer == user_id)
        if not ids:
            return None
        comment_id = ids[number % len(ids)]
        on, _ = model.comments[comment_id]
        if on in model.posts:
            command = feed_commands.DeleteComment(post_id=on, comment_id=comment_id)
            await insist(world, user_id, model.posts[on], command)
            return lambda: _discard(model.comments, comment_id)
        return None
    if kind == "repost":
        command = feed_commands.Repost(post_id=post_id, client_id=world.client_id())
        reply = await insist(world, user_id, user_id, command)
        assert isinstance(reply, feed_replies.PostInfo)
        repost_id = reply.post.post_id
        return lambda: model.reposts.__setitem__((post_id, user_id), repost_id)
    repost = model.reposts.get((post_id, user_id))
    if repost is None:
        return None
    await insist(world, user_id, user_id, feed_commands.DeletePost(post_id=repost))
    return lambda: _discard(model.reposts, (post_id, user_id))


def _discard(found: dict[K, V], key: K) -> None:
    found.pop(key, None)


def key_of(model: Model, step: tuple[str, str, int]) -> object:
    """Steps with the same key depend on each other, and are not given at once."""
    kind, user_id, number = step
    if kind == "post":
        return object()
    if kind in ("follow", "unfollow"):
        return "follow", user_id, number % 2
    group = {"unlike": "like", "delete": "repost"}.get(kind, kind)
    if kind == "comment":
        return object()
    return group, user_id, model.pick(number) if kind != "uncomment" else 0


async def check(world: World, model: Model) -> None:
    """Compare what is stored with the model, when nothing is under way any more."""
    await world.told_all()
    for author_id in PEOPLE:
        rows = await world.store.find(FollowerRow, {"author_id": author_id})
        assert {(row.follower_id, author_id) for row in rows} == {
            edge for edge in model.follows if edge[1] == author_id
        }
    for author_id in AUTHORS:
        followers = [edge for edge in model.follows if edge[1] == author_id]
        posts = [i for i, by in model.posts.items() if by == author_id]
        posts += [i for (_, by), i in model.reposts.items() if by == author_id]
        if followers or posts:
            row = await world.author(author_id)
            assert (row.follower_count, row.post_count) == (len(followers), len(posts))
    stored = {row.post_id: row for row in await world.store.find(PostRow, {"deleted_at_ms": 0})}
    assert stored.keys() == model.posts.keys() | set(model.reposts.values())
    for post_id in model.posts:
        likers = {row.user_id for row in await world.store.find(PostLike, {"post_id": post_id})}
        assert likers == {user_id for on, user_id in model.likes if on == post_id}
        found = await world.store.find(CommentRow, {"post_id": post_id, "deleted_at_ms": 0})
        comments = {row.comment_id for row in found}
        assert comments == {i for i, (on, _) in model.comments.items() if on == post_id}
        reposters = {
            (row.post_id, row.user_id): row.repost_id
            for row in await world.store.find(RepostRow, {"post_id": post_id})
        }
        assert reposters == {key: i for key, i in model.reposts.items() if key[0] == post_id}
        assert await world.counts(post_id) == (len(likers), len(comments), len(reposters))


async def all_jobs_done(world: World) -> None:
    """Whatever crashed, somebody wakes the authors; here the test does what a look each 30 s does."""
    while await world.store.find(FanoutJob, {}, limit=1):
        world.resumer.scan_soon()
        await trio.sleep(0.005)


@examples(15, long=400)
@given(_rounds)
@hypothesis.example(
    [([("post", "ann", 1), ("follow", "bob", 0)] * 5, "crash"), ([("like", "cai", 0)], "restart")]
)
async def test_authors_are_as_the_model_says_whatever_crashes(
    tmp_path_factory: pytest.TempPathFactory,
    rounds: list[tuple[list[tuple[str, str, int]], str]],
) -> None:
    directory = tmp_path_factory.mktemp("authors")
    model = Model()
    got: dict[int, set[str]] = {}
    while rounds:
        async with open_world(directory) as world:
            await world.people(*PEOPLE)
            while rounds:
                steps, trouble = rounds[0]
                rounds = rounds[1:]
                await play(world, model, steps, trouble)
                if trouble == "restart":
                    break
            await all_jobs_done(world)
            await check(world, model)
            for push in world.partitions.pushes:
                got.setdefault(push.post_id, set()).update(push.user_ids)
    for post_id in [*model.posts, *model.reposts.values()]:
        assert got[post_id] >= model.pushed[post_id], post_id


async def play(world: World, model: Model, steps: list[tuple[str, str, int]], trouble: str) -> None:
    """Give steps at once as far as they do not depend on each other, in the trouble that is asked for."""
    changes: list[Callable[[], None]] = []
    keys: set[object] = set()
    before = set(model.follows)
    ended: set[tuple[str, str]] = set()

    async def one(step: tuple[str, str, int]) -> None:
        change = await do(world, model, step)
        if change is not None:
            changes.append(change)

    if trouble == "refuse":
        world.partitions.refusals = {p: Unavailable("busy", retry_after_s=0.01) for p in range(0, 32, 2)}
    async with trio.open_nursery() as nursery:
        for step in steps:
            key = key_of(model, step)
            if key in keys:
                continue
            keys.add(key)
            if step[0] == "unfollow":
                ended.add((step[1], AUTHORS[step[2] % 2]))
            nursery.start_soon(one, step)
        if trouble == "crash":
            for _ in range(3):
                await trio.sleep(0.002)
                for author_id in AUTHORS:
                    await world.crash(author_id)
    known = set(model.posts) | set(model.reposts.values())
    for change in changes:
        change()
    # Who followed before and does not end it in this round is owed what was posted in it.
    for post_id, by in [*model.posts.items(), *((i, by) for (_, by), i in model.reposts.items())]:
        if post_id not in known:
            model.pushed[post_id] = {by} | {u for u, a in before - ended if a == by}
    world.partitions.refusals = {}
    await world.told_all()
