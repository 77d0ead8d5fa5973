"""FEED: how many posts get into how many feeds a second, how many feeds are read, how late is a live one?

The people are a graph (bench/feed_graph.py), by default one that is grown from a seed, or a file of who
follows whom; bench/feed_rows.py writes them into the store before the server starts, with 20 earlier posts
of each author. Four fifths of them, or as many as a node keeps feeds of, have read their feed lately; posts
are pushed to these. A thousand posts' authors are drawn by a stated law (bench/feed_cast.py), and 3,000 of
their followers are connected: a third of them follow cold authors (below 100 followers), a third warm ones,
a third hot ones (from 10,000 on, who are merged in at read), as far as there are. All texts have 200 bytes.

Variants:

- "posts by followers": who has twice the followers posts twice as often. Closed loop: 64 posts unacked, and
  no more posted than 40,000 entries that the server has not yet written.
- "posts evenly": every author posts alike, so most posts have one or two followers.
- "posts to 200": between them, so that a post is pushed to 200 feeds on the average, which is the goal's.
- "reads cold": the first page (20 posts with bodies) of those whose feed is not kept, once for each reader.
- "reads after a start": the same of those whose feed is kept in the store.
- "reads warm": the newest page over and over, 64 requests under way, each reader in turn.
- "at the goal": "posts to 200" and warm reads by a timetable, 23,148 entries and 11,574 reads a second, while
  all readers watch their feeds.
- "both": the same, but the greatest part of the goal that is sustained is sought, then measured: all is done
  within a second of the end, and p99 stays under 550 ms from a post to a live event, and for a read.

Before reads are measured, one page is read in each partition of feeds: what it takes until a partition is
awake after a start is a figure of its own.

Entries are feeds that got a post, by the server's own counter, which must in the end be the sum of all
posts' followers. Latencies of live events count from when a post was sent (by a timetable: was due) to a
follower's `feed` event (of hot authors: `feed_news`, which is coalesced), by the author's class. Every page
is checked: 20 posts by falling id, and none missing that was acked by an author the reader follows before it
was asked for; every 50th wholly. Every live event must come once to each follower who watches, and positions
have no hole.

Redis does its part of the same beside it: see bench/peers/redis_feed.py.
"""

from collections import Counter
from collections.abc import Sequence
from typing import Final

from bench.feed_cast import Cast
from bench.feed_plan import (
    AHEAD_ENTRIES,
    BOTH,
    DRAIN_TIMEOUT_S,
    PAGE,
    POSTS,
    READS,
    UNACKED,
    UNANSWERED,
    VARIANTS,
    WARM,
    Ladder,
    Rung,
    Timetable,
    p99_s,
    people_of,
)
from bench.feed_redis import run_redis
from bench.feed_stage import COLD_LOADS, IN_MEMORY, Person, Scene, Stage
from bench.feed_target import FeedHubbub, FeedTarget
from bench.load.loop import TimedOut, now
from bench.load.meter import Meter, calm
from bench.load.trial import WARM_UP_S, Samples, Setting, Trial, Workload, measured
from bench.report.results import Figure

POLL_S: Final = 0.25
NEWS_WITHIN_S: Final = 1.5  # after a hot author's post


def run(setting: Setting, variant: str) -> Trial:
    """Run one variant."""
    target = setting.target
    assert isinstance(target, FeedTarget)
    people = people_of(target.graph, variant, hot_from=target.hot_from, scale=setting.scale)
    if not isinstance(target, FeedHubbub):
        return run_redis(setting, variant, people)
    if variant in POSTS:
        return _run_posts(setting, variant, people)
    if variant in READS:
        return _run_reads(setting, variant, people)
    return _run_both(setting, variant, people)


def _run_posts(setting: Setting, variant: str, people: Cast) -> Trial:
    stage = Stage(setting, people, watches=True, posts=True)
    scene, loop, target = stage.scene, stage.loop, stage.target
    size_before = target.data_bytes()
    stage.read_all_once()  # as who shows a feed does; from then on its events are told
    stage.begin_counting()
    is_posting = False

    def fill() -> None:
        while is_posting and scene.post_count - scene.acked_count < UNACKED and stage.ahead < AHEAD_ENTRIES:
            stage.post_next(now())

    def tick() -> None:
        if is_posting:
            stage.poll()
            fill()
            loop.at(now() + POLL_S, tick)

    def post_for(seconds: float) -> float:
        """Post, then wait for what is on its way; return how long that took."""
        nonlocal is_posting
        is_posting = True
        tick()
        loop.run_for(seconds)
        is_posting = False
        return stage.settle()

    meter = Meter(target)
    with calm():
        scene.on_ack = fill
        post_for(WARM_UP_S)
        warmed = scene.post_count, scene.entry_count
        scene.forget()
        meter.start()
        # What is on its way at the end was begun in the measured part: it counts, with the time it takes.
        settle_s = post_for(setting.seconds)
        meter.stop()
        loop.run_for(NEWS_WITHIN_S)
    counters = stage.counters.read()
    rss_kib = target.rss_kib()
    errors = stage.faults(watches=True)
    post_count, entry_count = scene.post_count - warmed[0], scene.entry_count - warmed[1]
    stage.close()
    target.stop()  # which writes all into the one file
    grown_bytes = target.data_bytes() - size_before
    return measured(
        meter,
        variant=variant,
        figures=[
            Figure(name="entries", value=entry_count / meter.seconds, unit="/s", is_headline=True),
            Figure(name="posts", value=post_count / meter.seconds, unit="/s", is_headline=True),
            Figure(
                name="store per entry",
                value=grown_bytes / max(1, scene.entry_count),
                unit="bytes",
                is_higher_better=False,
            ),
            Figure(
                name="store per post",
                value=grown_bytes / max(1, scene.post_count),
                unit="bytes",
                is_higher_better=False,
            ),
            _memory(rss_kib),
            Figure(name="feeds in memory", value=counters[IN_MEMORY], unit=""),
            *meter.cpu_per_thousand(entry_count),
        ],
        samples=_samples(scene),
        errors=errors,
        findings=_story(stage, errors, f"for the last {settle_s:.2f} s nothing was posted, only awaited"),
        is_sound=not errors,
        notes=_notes(stage),
    )


def _run_reads(setting: Setting, variant: str, people: Cast) -> Trial:
    stage = Stage(setting, people, watches=False, posts=False)
    scene, loop, target = stage.scene, stage.loop, stage.target
    waking_s = stage.wake_partitions()
    before = stage.begin_counting()
    rss_before_kib = target.rss_kib()
    meter = Meter(target)
    with calm():
        if variant == WARM:
            stage.read_all_once()
            waiting = stage.readers[UNANSWERED:]
            is_asking = True

            def ask_next(person: Person) -> None:
                if is_asking:
                    waiting.append(person)
                    waiting[scene.read_count % len(waiting)].ask_page(now())

            scene.on_answer = ask_next
            for reader in stage.readers[:UNANSWERED]:
                reader.ask_page(now())
            loop.run_for(WARM_UP_S)
            scene.forget()
            meter.start()
            loop.run_for(setting.seconds)
            meter.stop()
            is_asking = False
        else:
            scene.forget()
            meter.start()
            stage.read_all_once()
            meter.stop()
    answer_count, answer_bytes = len(scene.reads), scene.answer_bytes
    stage.settle()
    after = stage.counters.read()
    rss_kib = target.rss_kib()
    errors = stage.faults(watches=False)
    stage.close()
    loaded_count = after[COLD_LOADS] - before[COLD_LOADS]
    figures = [
        Figure(name="reads", value=answer_count / meter.seconds, unit="/s", is_headline=True),
        Figure(name="bytes per page", value=answer_bytes / max(1, answer_count), unit="bytes"),
        _memory(rss_kib),
        Figure(name="feeds in memory", value=after[IN_MEMORY], unit=""),
        Figure(name="partitions awake after", value=waking_s, unit="s", is_higher_better=False),
        *meter.cpu_per_thousand(answer_count),
    ]
    if variant != WARM:
        figures.append(
            Figure(
                name="memory per feed read",
                value=(rss_kib - rss_before_kib) / max(1, answer_count),
                unit="KiB",
                is_higher_better=False,
            )
        )
    return measured(
        meter,
        variant=variant,
        figures=figures,
        samples={"read": scene.reads},
        errors=errors,
        findings=_story(stage, errors, f"{loaded_count:,.0f} of them loaded from the store"),
        is_sound=not errors,
        notes=_notes(stage),
    )


def _run_both(setting: Setting, variant: str, people: Cast) -> Trial:
    stage = Stage(setting, people, watches=True, posts=True)
    scene, loop, target = stage.scene, stage.loop, stage.target
    stage.begin_counting()
    meter = Meter(target)
    readers = stage.readers

    def climb(part: float, seconds: float) -> Rung:
        scene.forget()
        entries = scene.entry_count
        timetable = Timetable(
            loop,
            part,
            entries_each=people.pushed_each,
            scale=setting.scale,
            post=stage.post_next,
            read=lambda place, due_at: readers[place % len(readers)].ask_page(due_at),
            lag=lambda due_at, at: scene.note(scene.lags, due_at, at),
        )
        meter.start()
        timetable.start(seconds)
        loop.run_for(seconds)
        meter.stop()
        try:
            settle_s = stage.settle()
        except TimedOut:
            settle_s = DRAIN_TIMEOUT_S
        return Rung(
            part=part,
            entries_per_s=(scene.entry_count - entries) / seconds,
            reads_per_s=timetable.read_count / seconds,
            posts_per_s=timetable.post_count / seconds,
            settle_s=settle_s,
            live_p99_s=p99_s(Samples.joined(scene.live.values())),
            read_p99_s=p99_s(scene.reads),
        )

    ladder = Ladder(climb)
    with calm():
        stage.read_all_once()
        climb(0.1, WARM_UP_S)
        last = ladder.find(setting.seconds) if variant == BOTH else ladder.measure(1.0, setting.seconds)
        loop.run_for(NEWS_WITHIN_S)
    rss_kib = target.rss_kib()
    errors = stage.faults(watches=True)
    stage.close()
    notes = _notes(stage)
    if not last.is_sustained:
        notes.append("not sustained")
    return measured(
        meter,
        variant=variant,
        figures=both_figures(last, scene.lags, rss_kib, meter),
        samples=_samples(scene),
        errors=errors,
        findings=_story(stage, errors, str(ladder)),
        is_sound=not errors,
        notes=notes,
    )


def both_figures(last: Rung, lags: Samples, rss_kib: int, meter: Meter) -> list[Figure]:
    """What is told of posts and reads at the same time, of hubbub and of Redis alike."""
    return [
        Figure(name="part of goal", value=last.part * 100 * last.is_sustained, unit="%", is_headline=True),
        Figure(name="entries", value=last.entries_per_s, unit="/s", is_headline=True),
        Figure(name="reads", value=last.reads_per_s, unit="/s", is_headline=True),
        Figure(name="posts", value=last.posts_per_s, unit="/s"),
        _memory(rss_kib),
        Figure(name="client lag p99", value=p99_s(lags) * 1e3, unit="ms", is_higher_better=False),
        *meter.cpu_per_thousand(round((last.entries_per_s + last.reads_per_s) * meter.seconds)),
    ]


def _memory(rss_kib: int) -> Figure:
    return Figure(name="memory", value=rss_kib / 1024, unit="MiB", is_higher_better=False)


def _samples(scene: Scene) -> dict[str, Samples]:
    found = {"live event": Samples.joined(scene.live.values())}
    found |= {f"live event, {name}": samples for name, samples in scene.live.items() if len(samples)}
    found |= {"ack": scene.acks}
    if len(scene.reads):
        found["read"] = scene.reads
    if len(scene.lags):
        found["client lag"] = scene.lags
    return found


def _story(stage: Stage, errors: Sequence[str], more: str) -> list[str]:
    if errors:
        return [f"errors: {dict(Counter(errors))}"]
    scene = stage.scene
    said = []
    if scene.post_count:
        heard_count = sum(len(reader.heard) for reader in stage.readers)
        said.append(
            f"{scene.post_count:,} posts acked, {scene.entry_count:,} entries, as many as their followers; "
            f"{heard_count:,} live events, each once to every follower who watched"
        )
    if scene.answered_count:
        said.append(
            f"{scene.answered_count:,} pages of {PAGE} posts by falling id, none without what was acked "
            f"before; {scene.whole_count:,} compared wholly"
        )
    return ["; ".join((*said, more))]


def _notes(stage: Stage) -> list[str]:
    people = stage.scene.people
    notes = [
        f"{stage.target.about}; posts in proportion to followers^{people.exponent:.2f}, each pushed to "
        f"{people.pushed_each:,.0f} feeds; {len(stage.readers):,} readers connected"
    ]
    told_count = sum(reader.is_told_to_sync for reader in stage.readers)
    if told_count:
        notes.append(f"{told_count} readers were told to read their feed anew: their outbox was full")
    if stage.shed_count:
        notes.append(f"{stage.shed_count} connections were refused at first: the server was still busy")
    return notes


WORKLOAD: Final = Workload(
    name="FEED",
    title="news feed: posts into their followers' feeds, pages of 20, live events",
    variants=VARIANTS,
    run=run,
    has_own_targets=True,
    wires=("json", "msgpack", "bot", "resp"),
)
