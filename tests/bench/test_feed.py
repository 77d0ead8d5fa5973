"""The news feed's workload: a sound run is told as one, and a server that cheats is found out."""

import shutil
from pathlib import Path

import pytest

from bench.feed import WORKLOAD
from bench.feed_cast import cast
from bench.feed_graph import power_law
from bench.feed_plan import AT_GOAL, BY_FOLLOWERS, COLD, KEPT, PAGE, WARM
from bench.feed_rows import is_active
from bench.feed_stage import ItemSeen, PostSeen, Scene, Seen, judge, live_faults, seen_decoder
from bench.feed_target import FeedHubbub, FeedTarget, FeedWorld
from bench.load.target import CannotRun, Cores, running
from bench.load.trial import Setting, Trial
from bench.load.wires import WIRES
from bench.peers.redis_feed import RedisFeed, RedisFeedAlways, is_installed
from protocol.codec import encode_payload
from protocol.feed_events import FeedPosted
from protocol.feed_replies import FeedPage, PostInfo
from protocol.feed_types import FeedItem, Post
from tests.bench.small_run import figures_of

ACCOUNTS = 400


@pytest.fixture(scope="module")
def world() -> FeedWorld:
    """400 people; nobody is hot, as the server's threshold is what it is."""
    return FeedWorld(power_law(ACCOUNTS, 3, seed=2))


def run(kind: type[FeedTarget], world: FeedWorld, wire: str, variant: str) -> Trial:
    """Run one variant small. Nothing is pinned: other tests run too."""
    cores = Cores()
    cores.is_pinned = False
    with running(kind, cores, world=world) as target:
        setting = Setting(target=target, wire_name=wire, seconds=0.5, scale=0.01)
        return WORKLOAD.run(setting, variant)


@pytest.mark.slow
@pytest.mark.parametrize(("wire", "variant"), [("json", BY_FOLLOWERS), ("msgpack", AT_GOAL), ("bot", WARM)])
def test_a_run_is_sound_and_counts_what_it_did(world: FeedWorld, wire: str, variant: str) -> None:
    """Every entry by the server's counter, every page and every live event are checked on the way."""
    trial = run(FeedHubbub, world, wire, variant)
    assert (trial.is_sound, trial.errors) == (True, [])
    figures = figures_of(trial)
    assert trial.server_cpu_s > 0
    if variant != WARM:
        assert figures["entries"] > 0
        assert len(trial.samples["live event"]) > 0
    if variant == BY_FOLLOWERS:
        assert figures["store per post"] > 200
        assert figures["feeds in memory"] > 0.6 * ACCOUNTS
    if variant != BY_FOLLOWERS:
        assert figures["reads"] > 0
        assert len(trial.samples["read"]) > 0


@pytest.mark.slow
@pytest.mark.parametrize(("variant", "loaded"), [(COLD, True), (KEPT, False)])
def test_first_reads_are_of_feeds_that_are_not_kept_or_are(
    world: FeedWorld, variant: str, loaded: bool
) -> None:
    """The two cost differently: one is made by pull, of the other only the reader's relations are read."""
    trial = run(FeedHubbub, world, "json", variant)
    assert (trial.is_sound, trial.errors) == (True, [])
    assert figures_of(trial)["reads"] > 0
    (story,) = trial.findings
    assert story.endswith("; 0 of them loaded from the store") is not loaded


@pytest.mark.slow
@pytest.mark.skipif(not is_installed(), reason="there is no redis-server here")
@pytest.mark.parametrize(
    ("kind", "variant"),
    [(RedisFeed, BY_FOLLOWERS), (RedisFeed, WARM), (RedisFeed, COLD), (RedisFeedAlways, AT_GOAL)],
)
def test_redis_is_asked_the_same(world: FeedWorld, kind: type[RedisFeed], variant: str) -> None:
    """Same people, same order of posts: only then can the two be divided."""
    trial = run(kind, world, "resp", variant)
    assert (trial.is_sound, trial.errors) == (True, [])
    figures = figures_of(trial)
    assert figures.get("entries", 1) > 0
    assert figures.get("reads", 1) > 0


@pytest.mark.slow
def test_people_that_were_kept_are_found_again(tmp_path: Path) -> None:
    """A quarter of a million of them take half a minute; other ones must not be taken for these."""
    graph = power_law(30, 2, seed=1)
    first = FeedWorld(graph, directory=tmp_path / "people")
    key = first.copy_to(tmp_path / "one")
    again = FeedWorld(graph, directory=tmp_path / "people")
    assert again.copy_to(tmp_path / "two") == key
    assert again.loaded == first.loaded
    other = FeedWorld(power_law(31, 2, seed=1), directory=tmp_path / "people")
    with pytest.raises(CannotRun, match="other people"):
        other.copy_to(tmp_path / "three")
    (tmp_path / "people" / "people.json").unlink()
    with pytest.raises(CannotRun, match="not filled to its end"):
        FeedWorld(graph, directory=tmp_path / "people").copy_to(tmp_path / "four")
    shutil.rmtree(tmp_path / "people")


# -- what is checked ------------------------------------------------------------------------------------


def page(ids: list[int], *, complete: bool = True) -> Seen:
    """An answer, as far as it is looked at."""
    items = [ItemSeen(post=PostSeen(post_id=post_id)) for post_id in ids]
    return Seen(type="feed_page", items=items, complete=complete)


HONEST = list(range(100, 100 - PAGE, -1))


@pytest.mark.parametrize(
    ("answer", "floor", "wrong"),
    [
        (page(HONEST), 0, ""),
        (page(HONEST), 100, ""),
        (page(HONEST), 101, "an acked post is missing"),
        (page(HONEST[:-1]), 0, "19 posts"),
        (page(HONEST, complete=False), 0, "a page that is not complete"),
        (page([*HONEST[:-1], 82]), 0, "not by falling post_id"),
        (page([101, *HONEST[:-2], HONEST[-2]]), 101, ""),
    ],
)
def test_a_wrong_page_is_found_out(answer: Seen, floor: int, wrong: str) -> None:
    """Short, out of order, doubled or stale: none of it may count as a fast answer."""
    assert judge(answer, floor) == wrong


class Heard:
    """A reader who has heard of some posts."""

    def __init__(self, number: int, followees: list[int], heard: list[int]) -> None:
        self.number = number
        self.followees = followees
        self.heard = heard
        self.is_told_to_sync = False


@pytest.fixture
def scene() -> Scene:
    """Four posts, by authors in turn; nobody is hot."""
    graph = power_law(50, 3, seed=1)
    people = cast(graph, reader_count=5, hot_from=1000, exponent=0.0, draw_count=2)
    made = Scene(graph, people)
    made.post_count = 4
    return made


@pytest.mark.parametrize(
    ("heard", "faults"),
    [
        ([0, 2], []),
        ([2, 0], []),
        ([0], ["a live event is missing"]),
        ([0, 2, 2], ["heard twice"]),
        ([0, 1, 2], ["heard of somebody not followed"]),
    ],
)
def test_live_events_come_once_to_who_follows(scene: Scene, heard: list[int], faults: list[str]) -> None:
    """Post 0 and 2 are by one author, whom the reader follows; 1 and 3 by another."""
    author = scene.author_of(0)
    assert scene.author_of(1) != author
    reader = Heard(number=-1, followees=[author], heard=heard)
    assert live_faults(scene, [reader]) == faults  # type: ignore[list-item]  # all that is looked at
    reader.is_told_to_sync = True  # it reads its feed anew, and may have missed some
    assert "a live event is missing" not in live_faults(scene, [reader])  # type: ignore[list-item]


@pytest.mark.parametrize("name", WIRES)
def test_what_comes_in_is_read_on_every_wire(name: str) -> None:
    """The light decoder has to see what the protocol's own encoder writes."""
    wire = WIRES[name]()
    decode = seen_decoder(wire)
    post = Post(post_id=7, author_id="u", at_ms=1, text="p00000003 x")
    answer = decode(
        encode_payload(FeedPage(id=5, items=[FeedItem(post=post)], position=9, complete=True), wire.wire)
    )
    assert (answer.type, answer.id, answer.complete) == ("feed_page", 5, True)
    assert [item.post.post_id for item in answer.items if item.post] == [7]
    event = decode(encode_payload(FeedPosted(position=4, item=FeedItem(post=post)), wire.wire))
    assert event.item is not None
    assert event.item.post is not None
    assert (event.type, event.position, event.item.post.text) == ("feed", 4, "p00000003 x")
    ack = decode(encode_payload(PostInfo(id=2, post=post), wire.wire))
    assert ack.post is not None
    assert (ack.type, ack.id, ack.post.post_id) == ("post", 2, 7)


def test_only_a_part_has_read_lately() -> None:
    """Who has not is who is read cold."""
    assert any(not is_active(account, 0.8) for account in range(ACCOUNTS))
