"""Posts and feeds over HTTP: every address is its command, with its limits and codes."""

import json
import re
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, cast, get_args

import msgspec
import pytest

from protocol import feed_commands as fc
from protocol import feed_replies as fr
from protocol.commands import Command
from protocol.errors import Refused
from protocol.feed_types import (
    Author,
    Comment,
    FeedItem,
    Follow,
    Interest,
    Post,
)
from protocol.limits import MAX_POST_TEXT_BYTES
from protocol.replies import Error, Ok, Reply
from server.http.feed import feed_router
from server.identity import Identity
from tests.server.http_world import Api, Person, code_of, open_api

POST = Post(post_id=7, author_id="u_bob", at_ms=1, text="hi")
REPLIES: dict[type, Any] = {
    Ok: Ok(),
    fr.PostInfo: fr.PostInfo(post=POST),
    fr.PostPage: fr.PostPage(items=[FeedItem(post=POST)], next=7),
    fr.PostCountsInfo: fr.PostCountsInfo(post_id=7, likes=1, liked=True),
    fr.CommentInfo: fr.CommentInfo(comment=Comment(comment_id=8, post_id=7, user_id="u_ann", at_ms=1)),
    fr.CommentPage: fr.CommentPage(items=[]),
    fr.FollowInfo: fr.FollowInfo(user_id="u_bob", follow="requested"),
    fr.FollowList: fr.FollowList(items=[Follow(user_id="u_bob")], next="x"),
    fr.AuthorInfo: fr.AuthorInfo(author=Author(user_id="u_bob")),
    fr.FeedPage: fr.FeedPage(items=[FeedItem(post=POST)], before="b", after="a", complete=True, position=3),
    fr.Explanation: fr.Explanation(post_id=7, left_out="muted"),
    fr.InterestInfo: fr.InterestInfo(interest=Interest(kind="hashtag", target="cats")),
    fr.InterestList: fr.InterestList(items=[]),
    fr.TrendList: fr.TrendList(items=[]),
    fr.Recommendations: fr.Recommendations(authors=[]),
}


class Recorder:
    """Stands where the node's service stands; answers each command with a reply of its type."""

    def __init__(self) -> None:
        self.commands: list[Command] = []
        self.failure: Refused | Error | None = None

    async def __call__(self, _identity: Identity, command: Command) -> Reply:
        self.commands.append(command)
        if isinstance(self.failure, Refused):
            raise self.failure
        if self.failure is not None:
            return self.failure
        reply = REPLIES[type(command).reply]
        assert isinstance(reply, get_args(Reply))
        return cast("Reply", reply)


@asynccontextmanager
async def world(folder: Path) -> AsyncIterator[tuple[Api, Person, Recorder]]:
    recorder = Recorder()
    async with open_api(folder, execute=recorder) as api:
        yield api, await api.sign_up("ann"), recorder


CALLS: list[tuple[str, str, dict[str, Any], int, Command]] = [
    (
        "POST",
        "/v1/posts",
        {
            "json": {
                "client_id": "k",
                "text": "hi #cats",
                "file_ids": ["f_1"],
                "mentions": ["u_bob"],
                "visibility": "followers",
                "language": "de",
            }
        },
        201,
        fc.CreatePost(
            client_id="k",
            text="hi #cats",
            file_ids=["f_1"],
            mentions=["u_bob"],
            visibility="followers",
            language="de",
        ),
    ),
    (
        "POST",
        "/v1/posts",
        {"json": {"text": "hi"}, "headers": {"Idempotency-Key": "h"}},
        201,
        fc.CreatePost(client_id="h", text="hi"),
    ),
    ("GET", "/v1/posts/7", {}, 200, fc.GetPost(post_id=7)),
    ("PATCH", "/v1/posts/7", {"json": {"text": "better"}}, 200, fc.EditPost(post_id=7, text="better")),
    ("PATCH", "/v1/posts/7", {"json": {"mentions": []}}, 200, fc.EditPost(post_id=7, mentions=[])),
    ("DELETE", "/v1/posts/7", {}, 204, fc.DeletePost(post_id=7)),
    (
        "POST",
        "/v1/posts/7/repost",
        {"headers": {"idempotency-key": "k"}},
        201,
        fc.Repost(client_id="k", post_id=7),
    ),
    ("PUT", "/v1/posts/7/like", {}, 200, fc.LikePost(post_id=7)),
    ("DELETE", "/v1/posts/7/like", {}, 200, fc.LikePost(post_id=7, removed=True)),
    ("GET", "/v1/posts/7/likes?after=p&limit=3", {}, 200, fc.ListLikes(post_id=7, after="p", limit=3)),
    (
        "GET",
        "/v1/posts/7/comments?parent_id=3&after=2&limit=5",
        {},
        200,
        fc.ListComments(post_id=7, parent_id=3, after=2, limit=5),
    ),
    (
        "POST",
        "/v1/posts/7/comments",
        {"json": {"client_id": "k", "text": "no", "parent_id": 3, "mentions": ["u_bob"]}},
        201,
        fc.AddComment(client_id="k", post_id=7, text="no", parent_id=3, mentions=["u_bob"]),
    ),
    ("DELETE", "/v1/posts/7/comments/8", {}, 204, fc.DeleteComment(post_id=7, comment_id=8)),
    ("GET", "/v1/posts/7/explanation", {}, 200, fc.ExplainPost(post_id=7)),
    (
        "GET",
        "/v1/users/u_bob/posts?before=9&limit=2",
        {},
        200,
        fc.ListPosts(user_id="u_bob", before=9, limit=2),
    ),
    ("GET", "/v1/users/u_bob/author", {}, 200, fc.GetAuthor(user_id="u_bob")),
    ("PATCH", "/v1/author", {"json": {"is_private": True}}, 200, fc.UpdateAuthor(is_private=True)),
    ("GET", "/v1/users/u_bob/followers", {}, 200, fc.ListFollowers(user_id="u_bob")),
    (
        "GET",
        "/v1/users/u_bob/following?after=x",
        {},
        200,
        fc.ListFollowing(user_id="u_bob", after="x"),
    ),
    ("PUT", "/v1/following/u_bob", {}, 200, fc.FollowUser(user_id="u_bob")),
    ("DELETE", "/v1/following/u_bob", {}, 200, fc.Unfollow(user_id="u_bob")),
    ("GET", "/v1/follow_requests", {}, 200, fc.ListFollowRequests()),
    ("PUT", "/v1/follow_requests/u_bob", {}, 204, fc.AnswerFollow(user_id="u_bob", accept=True)),
    ("DELETE", "/v1/follow_requests/u_bob", {}, 204, fc.AnswerFollow(user_id="u_bob", accept=False)),
    ("DELETE", "/v1/followers/u_bob", {}, 204, fc.RemoveFollower(user_id="u_bob")),
    ("GET", "/v1/mutes", {}, 200, fc.ListMuted()),
    ("PUT", "/v1/mutes/u_bob", {}, 204, fc.MuteUser(user_id="u_bob")),
    ("DELETE", "/v1/mutes/u_bob", {}, 204, fc.MuteUser(user_id="u_bob", removed=True)),
    ("GET", "/v1/feed", {}, 200, fc.ReadFeed()),
    (
        "GET",
        "/v1/feed?before=c&limit=5&order=ranked&explain=true&ads=false",
        {},
        200,
        fc.ReadFeed(before="c", limit=5, order="ranked", explain=True, ads=False),
    ),
    ("GET", "/v1/feed?after=c", {}, 200, fc.ReadFeed(after="c")),
    ("PUT", "/v1/feed/position", {"json": {"post_id": 7}}, 204, fc.SetFeedPosition(post_id=7)),
    ("GET", "/v1/interests", {}, 200, fc.ListInterests()),
    ("PUT", "/v1/interests/post/7", {}, 200, fc.SetInterest(kind="post", target="7")),
    ("PUT", "/v1/interests/author/u_bob", {}, 200, fc.SetInterest(kind="author", target="u_bob")),
    (
        "DELETE",
        "/v1/interests/hashtag/%D0%BA%D0%BE%D1%82",
        {},
        200,
        fc.SetInterest(kind="hashtag", target="кот", removed=True),
    ),
    ("GET", "/v1/trends", {}, 200, fc.GetTrends()),
    (
        "GET",
        "/v1/trends?kind=post&window=day&limit=3",
        {},
        200,
        fc.GetTrends(kind="post", window="day", limit=3),
    ),
    ("GET", "/v1/recommendations?limit=3", {}, 200, fc.GetRecommendations(limit=3)),
    ("POST", "/v1/feed/ads/12.5/seen", {}, 204, fc.AdSeen(slot_id="12.5")),
    ("POST", "/v1/feed/ads/12.5/clicked", {}, 204, fc.AdClicked(slot_id="12.5")),
]


async def test_each_address_is_its_command_and_answers_with_its_reply(tmp_path: Path) -> None:
    """Whoever has read the protocol's reference knows the answers."""
    async with world(tmp_path) as (_api, ann, recorder):
        for method, path, more, status, command in CALLS:
            response = await ann.call(method, path, **more)
            assert response.status_code == status, (path, response.text)
            assert recorder.commands.pop() == command, path
            if status == 204:
                assert response.content == b""
            else:
                reply: Any = msgspec.json.decode(response.content, type=type(command).reply)
                assert reply == REPLIES[type(command).reply], path


def test_every_command_of_the_feed_has_an_address() -> None:
    """A command that is added to the protocol is added here; watching needs a connection."""
    assert {type(call[-1]) for call in CALLS} | {fc.WatchFeed} == set(get_args(fc.FeedCommand))
    called = [(method, path.partition("?")[0]) for method, path, *_ in CALLS]
    for route in feed_router().routes:
        pattern = re.compile(re.sub(r"{[^}]+}", "[^/]+", route.path))
        for method in getattr(route, "methods", set()) - {"OPTIONS", "HEAD"}:
            assert any(method == one and pattern.fullmatch(path) for one, path in called), route.path


async def test_a_post_needs_a_key_and_a_repost_does_not(tmp_path: Path) -> None:
    """A phone that repeats a request it knows no answer to must not post twice."""
    async with world(tmp_path) as (_api, ann, recorder):
        for path in ("/v1/posts", "/v1/posts/7/comments"):
            refused = await ann.call("POST", path, json={"text": "hi"})
            assert code_of(refused) == (400, "bad_field")
            assert "Idempotency-Key" in refused.json()["message"]
        assert recorder.commands == []
        for _ in range(2):
            assert (await ann.call("POST", "/v1/posts/7/repost")).status_code == 201
        first, second = recorder.commands
        assert isinstance(first, fc.Repost)
        assert isinstance(second, fc.Repost)
        assert first.client_id != second.client_id


@pytest.mark.parametrize(
    ("method", "path", "body"),
    [
        ("GET", "/v1/posts/x", None),
        ("GET", "/v1/posts/0", None),
        ("GET", "/v1/posts/-1", None),
        ("GET", "/v1/posts/9007199254740992", None),
        ("GET", "/v1/posts/7.5", None),
        ("PUT", "/v1/posts/true/like", None),
        ("GET", "/v1/posts/7/likes?limit=0", None),
        ("GET", "/v1/posts/7/likes?limit=101", None),
        ("GET", "/v1/posts/7/comments?after=-1", None),
        ("DELETE", "/v1/posts/7/comments/x", None),
        ("GET", "/v1/users/u%20bob/posts", None),
        ("PUT", f"/v1/following/{'u' * 65}", None),
        ("GET", f"/v1/feed?before={'c' * 121}", None),
        ("GET", "/v1/feed?order=newest", None),
        ("GET", "/v1/feed?limit=many", None),
        ("GET", "/v1/feed?explain=perhaps", None),
        ("PUT", "/v1/feed/position", {"post_id": -1}),
        ("PUT", "/v1/feed/position", {}),
        ("PUT", "/v1/interests/colour/red", None),
        ("PUT", f"/v1/interests/hashtag/{'x' * 101}", None),
        ("GET", "/v1/trends?kind=author", None),
        ("GET", "/v1/trends?window=year", None),
        ("POST", f"/v1/feed/ads/{'1' * 101}/seen", None),
        ("PATCH", "/v1/author", {"is_private": "yes"}),
        ("POST", "/v1/posts", {"client_id": "k", "text": "x", "visibility": "secret"}),
        ("POST", "/v1/posts", {"client_id": "k" * 65, "text": "x"}),
        ("POST", "/v1/posts", {"client_id": "k", "text": "x", "file_ids": ["f"] * 21}),
        ("POST", "/v1/posts", {"client_id": "k", "text": "x", "mentions": ["u"] * 51}),
        ("POST", "/v1/posts", {"client_id": "k", "text": 7}),
        ("POST", "/v1/posts/7/comments", {"client_id": "k"}),
    ],
)
async def test_what_no_command_could_hold_is_a_bad_field(
    tmp_path: Path, method: str, path: str, body: Any
) -> None:
    """The same limits as on a connection, with the same code."""
    async with world(tmp_path) as (_api, ann, recorder):
        more = {} if body is None else {"json": body}
        assert code_of(await ann.call(method, path, **more)) == (400, "bad_field")
        assert recorder.commands == []


@pytest.mark.parametrize(
    ("code", "status"),
    [
        ("post_not_found", 404),
        ("comment_not_found", 404),
        ("follow_not_found", 404),
        ("slot_not_found", 404),
        ("campaign_not_found", 404),
        ("user_not_found", 404),
        ("self_not_allowed", 400),
        ("bad_cursor", 400),
        ("text_too_long", 413),
        ("too_many_follows", 409),
        ("too_many_muted", 409),
        ("not_repostable", 409),
        ("not_enabled", 409),
        ("blocked", 403),
        ("not_author", 403),
    ],
)
async def test_a_refusal_has_its_status(tmp_path: Path, code: str, status: int) -> None:
    """Generic clients, which act on the status alone."""
    async with world(tmp_path) as (_api, ann, recorder):
        for failure in (Refused(code), Error(code=code, message="no")):
            recorder.failure = failure
            assert code_of(await ann.call("PUT", "/v1/posts/7/like")) == (status, code)


async def test_nothing_is_told_to_strangers(tmp_path: Path) -> None:
    """Feeds are private."""
    async with world(tmp_path) as (api, _ann, recorder):
        for method, path, more, _status, _command in CALLS:
            refused = await api.call(method, path, **more)
            assert code_of(refused) == (401, "unauthenticated"), path
        assert recorder.commands == []


async def test_a_text_that_is_too_long_reaches_the_rules_that_say_so(tmp_path: Path) -> None:
    """`text_too_long` helps a writer; `frame_too_large` does not."""
    async with world(tmp_path) as (_api, ann, recorder):
        text = "\0" * (4 * MAX_POST_TEXT_BYTES)  # six bytes each in JSON
        response = await ann.call("POST", "/v1/posts", json={"client_id": "k", "text": text})
        assert response.status_code == 201
        (command,) = recorder.commands
        assert isinstance(command, fc.CreatePost)
        assert command.text == text


async def test_the_description_tells_of_posts_and_feeds(tmp_path: Path) -> None:
    """Who writes a client from it."""
    async with world(tmp_path) as (api, _ann, _recorder):
        schema = (await api.call("GET", "/v1/openapi.json")).json()
        read = schema["paths"]["/v1/feed"]["get"]
        assert {item["name"] for item in read["parameters"]} == {
            "before",
            "after",
            "limit",
            "order",
            "explain",
            "ads",
        }
        made = schema["paths"]["/v1/posts"]["post"]
        assert "Idempotency-Key" in {item["name"] for item in made["parameters"]}
        assert made["requestBody"]["content"]["application/json"]["schema"]["$ref"].endswith("PostBody")
        answers = json.dumps(read["responses"]["200"])
        name = answers.split('"$ref": "#/components/schemas/')[1].split('"')[0]
        assert "new_above" in json.dumps(schema["components"]["schemas"][name])
        for path in ("/v1/following/{user_id}", "/v1/interests/{kind}/{target}"):
            for operation in schema["paths"][path].values():
                assert operation["security"] == [{"bearer": []}]
                assert operation["description"]
