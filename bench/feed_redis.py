"""What `hubbub bench feed` asks of Redis; bench/peers/redis_feed.py says what Redis does there."""

from collections import Counter
from collections.abc import Callable, Sequence
from typing import Final

from bench.feed_cast import Cast
from bench.feed_plan import (
    AHEAD_ENTRIES,
    AT_GOAL,
    BOTH,
    DRAIN_TIMEOUT_S,
    PAGE,
    POSTS,
    UNACKED,
    UNANSWERED,
    WARM,
    Ladder,
    Rung,
    Timetable,
    p99_s,
)
from bench.feed_rows import active_share_of, earlier_text_of, is_active, text_of, user_id_of
from bench.load.loop import Loop, TimedOut, now
from bench.load.meter import Meter, calm
from bench.load.trial import SETTLE_TIMEOUT_S, WARM_UP_S, Samples, Setting, Trial, measured
from bench.peers.redis_feed import (
    FIRST_ID,
    RedisConnection,
    RedisFeed,
    body_of,
    command,
    fan_out_commands,
    key_of,
    numbered,
)
from bench.report.results import Figure

POST_CONNECTIONS: Final = 16  # of the application's pool
READ_CONNECTIONS: Final = UNANSWERED
PRELOAD_BATCH: Final = 500  # commands


class RedisApp:
    """The application in front of Redis, as far as there is one: it knows who follows whom, and counts."""

    def __init__(self, loop: Loop, target: RedisFeed, people: Cast) -> None:
        self.loop = loop
        self.people = people
        self.graph = graph = target.graph
        share = active_share_of(graph)
        self._commands: dict[int, list[tuple[bytes, int]]] = {}
        for author in people.posters:
            followers = graph.followers(author)
            feeds = (author, *followers) if len(followers) < people.hot_from else ()
            self._commands[author] = fan_out_commands(
                [key_of(account) for account in feeds if is_active(account, share)]
            )
        self._posting = [RedisConnection(loop, target.port) for _ in range(POST_CONNECTIONS)]
        self._reading = [RedisConnection(loop, target.port) for _ in range(READ_CONNECTIONS)]
        self._places: dict[int, int] = {}  # post_id -> number, of those posted in the run
        self.next_id = FIRST_ID
        self.newest: dict[int, int] = {}  # author -> post_id of the newest in all feeds
        self.post_count = self.done_count = self.entry_count = self.written_count = 0
        self.read_count = self.answered_count = 0
        self.counts_from = 0.0
        self.posts, self.reads, self.lags = Samples(), Samples(), Samples()
        self.errors: list[str] = []
        self.on_done: Callable[[], None] | None = None
        self.on_answer: Callable[[], None] | None = None

    def preload(self, history: int) -> None:
        """Give the readers' feeds the earlier posts of whom they follow; bodies included."""
        authors = sorted(
            {author for reader in self.people.readers for author in self.graph.followees(reader)}
        )
        made: dict[int, list[int]] = {author: [] for author in authors}
        words = []
        for number in range(history):
            for author in authors:
                post_id, self.next_id = self.next_id, self.next_id + 1
                made[author].append(post_id)
                body = body_of(post_id, user_id_of(author), earlier_text_of(author, number))
                words.append(command(b"SET", b"post:%d" % post_id, body))
        for reader in self.people.readers:
            for author in self.graph.followees(reader):
                pairs = [b"%d" % post_id for post_id in made[author] for _ in range(2)]
                if pairs:
                    words.append(command(b"ZADD", key_of(reader), *pairs))
        left_count = len(words)

        def done(value: object, at: float) -> None:
            nonlocal left_count
            left_count -= PRELOAD_BATCH

        for start in range(0, len(words), PRELOAD_BATCH):
            batch = words[start : start + PRELOAD_BATCH]
            self._posting[start % POST_CONNECTIONS].send(b"".join(batch), len(batch), done)
        self.loop.run_until(
            lambda: left_count <= 0, timeout_s=DRAIN_TIMEOUT_S, what="the earlier posts are there"
        )

    def post_next(self, at: float) -> None:
        """Store one more post and put it into all feeds; its latency counts from `at`."""
        number, self.post_count = self.post_count, self.post_count + 1
        author = self.people.order[number % len(self.people.order)]
        post_id, self.next_id = self.next_id, self.next_id + 1
        connection = self._posting[number % POST_CONNECTIONS]
        self.entry_count += self.people.entries[author]
        body = body_of(post_id, user_id_of(author), text_of(number))
        batches = self._commands[author]
        left_count = 1 + len(batches)

        def done(entry_count: int, at_done: float) -> None:
            nonlocal left_count
            left_count -= 1
            self.written_count += entry_count
            if not left_count:
                self.done_count += 1
                if batches and post_id > self.newest.get(author, 0):
                    self.newest[author] = post_id
                self._note(self.posts, at, at_done)
                if self.on_done is not None:
                    self.on_done()

        def counting(entry_count: int) -> Callable[[object, float], None]:
            return lambda _, at_done: done(entry_count, at_done)

        connection.send(command(b"SET", b"post:%d" % post_id, body), 1, counting(0))
        for data, entry_count in batches:
            connection.send(numbered(data, post_id), 2 * entry_count, counting(entry_count))

    def read_page(self, place: int, at: float) -> None:
        """Read the newest page of a reader; its latency counts from `at`."""
        reader = self.people.readers[place % len(self.people.readers)]
        connection = self._reading[self.read_count % READ_CONNECTIONS]
        self.read_count += 1
        newest = self.newest
        floor = max((newest.get(author, 0) for author in self.graph.followees(reader)), default=0)

        def got_ids(value: object, _: float) -> None:
            assert isinstance(value, list)
            if len(value) != PAGE:
                self.errors.append(f"{len(value)} posts")
            elif int(value[0]) < floor:
                self.errors.append("a post is missing that was in every feed")
            keys = [b"post:" + post_id for post_id in value]
            connection.send(command(b"MGET", *keys) if keys else command(b"TIME"), 0, got_bodies)

        def got_bodies(value: object, at_done: float) -> None:
            assert isinstance(value, list)
            if None in value:
                self.errors.append("a body is missing")
            self.answered_count += 1
            self._note(self.reads, at, at_done)
            if self.on_answer is not None:
                self.on_answer()

        connection.send(command(b"ZREVRANGE", key_of(reader), b"0", b"%d" % (PAGE - 1)), 0, got_ids)

    @property
    def is_idle(self) -> bool:
        """Tell whether nothing is on its way."""
        return self.done_count == self.post_count and self.answered_count == self.read_count

    def forget(self) -> None:
        """Begin to measure."""
        self.counts_from = now()
        for samples in (self.posts, self.reads, self.lags):
            samples.clear()

    def note_lag(self, due_at: float, at: float) -> None:
        """Note how late the client itself was."""
        self._note(self.lags, due_at, at)

    def settle(self) -> float:
        """Wait until nothing is on its way; return how long that took. Raises: TimedOut."""
        started_at = now()
        self.loop.run_until(lambda: self.is_idle, timeout_s=DRAIN_TIMEOUT_S, what="all is in every feed")
        return now() - started_at

    def close(self) -> None:
        for connection in (*self._posting, *self._reading):
            connection.close()
        self.loop.close()

    def _note(self, samples: Samples, begun_at: float, at: float) -> None:
        if begun_at >= self.counts_from:
            samples.add(at, at - begun_at)


def run_redis(setting: Setting, variant: str, people: Cast) -> Trial:
    """Run one variant."""
    target = setting.target
    assert isinstance(target, RedisFeed)
    loop = Loop()
    app = RedisApp(loop, target, people)
    app.preload(target.world.history)
    if variant in POSTS:
        trial = _run_posts(setting, variant, app)
    elif variant in (AT_GOAL, BOTH):
        trial = _run_both(setting, variant, app)
    else:
        trial = _run_reads(setting, variant, app)
    app.close()
    return trial


def _run_posts(setting: Setting, variant: str, app: RedisApp) -> Trial:
    target = setting.target
    assert isinstance(target, RedisFeed)
    is_posting = False

    def fill() -> None:
        while (
            is_posting
            and app.post_count - app.done_count < UNACKED
            and app.entry_count - app.written_count < AHEAD_ENTRIES
        ):
            app.post_next(now())

    def post_for(seconds: float) -> None:
        nonlocal is_posting
        is_posting = True
        fill()
        app.loop.run_for(seconds)
        is_posting = False
        app.settle()

    app.on_done = fill
    size_before = target.data_bytes()
    meter = Meter(target)
    with calm():
        post_for(WARM_UP_S)
        warmed = app.post_count, app.entry_count
        app.forget()
        meter.start()
        post_for(setting.seconds)
        meter.stop()
    grown_bytes = target.data_bytes() - size_before
    post_count, entry_count = app.post_count - warmed[0], app.entry_count - warmed[1]
    return _trial(
        app,
        meter,
        variant,
        [
            Figure(name="entries", value=entry_count / meter.seconds, unit="/s", is_headline=True),
            Figure(name="posts", value=post_count / meter.seconds, unit="/s", is_headline=True),
            Figure(
                name="store per entry",
                value=grown_bytes / max(1, app.entry_count),
                unit="bytes",
                is_higher_better=False,
            ),
            *meter.cpu_per_thousand(entry_count),
        ],
        {"post in the last feed": app.posts},
        f"{app.post_count:,} posts, {app.entry_count:,} entries",
    )


def _run_reads(setting: Setting, variant: str, app: RedisApp) -> Trial:
    place = 0
    is_asking = True

    def ask_next() -> None:
        nonlocal place
        if is_asking and (variant == WARM or place < len(app.people.readers)):
            place += 1
            app.read_page(place, now())

    meter = Meter(setting.target)
    with calm():
        if variant == WARM:
            app.on_answer = ask_next
            for _ in range(UNANSWERED):
                ask_next()
            app.loop.run_for(WARM_UP_S)
            app.forget()
            meter.start()
            app.loop.run_for(setting.seconds)
            meter.stop()
            is_asking = False
        else:  # all is in memory at all times, so this is one round of the same
            app.forget()
            meter.start()
            reader_count = len(app.people.readers)
            app.on_answer = ask_next
            for _ in range(min(UNANSWERED, reader_count)):
                ask_next()
            app.loop.run_until(
                lambda: app.answered_count >= reader_count,
                timeout_s=SETTLE_TIMEOUT_S,
                what="every reader has a page",
            )
            meter.stop()
        answer_count = len(app.reads)
        app.settle()
    return _trial(
        app,
        meter,
        variant,
        [
            Figure(name="reads", value=answer_count / meter.seconds, unit="/s", is_headline=True),
            *meter.cpu_per_thousand(answer_count),
        ],
        {"read": app.reads},
        f"{app.answered_count:,} pages of {PAGE} posts",
    )


def _run_both(setting: Setting, variant: str, app: RedisApp) -> Trial:
    meter = Meter(setting.target)

    def climb(part: float, seconds: float) -> Rung:
        app.forget()
        entries = app.entry_count
        timetable = Timetable(
            app.loop,
            part,
            entries_each=app.people.pushed_each,
            scale=setting.scale,
            post=app.post_next,
            read=app.read_page,
            lag=app.note_lag,
        )
        meter.start()
        timetable.start(seconds)
        app.loop.run_for(seconds)
        meter.stop()
        try:
            settle_s = app.settle()
        except TimedOut:
            settle_s = DRAIN_TIMEOUT_S
        return Rung(
            part=part,
            entries_per_s=(app.entry_count - entries) / seconds,
            reads_per_s=timetable.read_count / seconds,
            posts_per_s=timetable.post_count / seconds,
            settle_s=settle_s,
            live_p99_s=p99_s(app.posts),
            read_p99_s=p99_s(app.reads),
        )

    ladder = Ladder(climb)
    with calm():
        climb(0.1, WARM_UP_S)
        last = ladder.find(setting.seconds) if variant == BOTH else ladder.measure(1.0, setting.seconds)
    return _trial(
        app,
        meter,
        variant,
        [
            Figure(
                name="part of goal", value=last.part * 100 * last.is_sustained, unit="%", is_headline=True
            ),
            Figure(name="entries", value=last.entries_per_s, unit="/s", is_headline=True),
            Figure(name="reads", value=last.reads_per_s, unit="/s", is_headline=True),
            Figure(name="posts", value=last.posts_per_s, unit="/s"),
            *meter.cpu_per_thousand(round((last.entries_per_s + last.reads_per_s) * meter.seconds)),
        ],
        {"post in the last feed": app.posts, "read": app.reads, "client lag": app.lags},
        str(ladder),
    )


def _trial(
    app: RedisApp,
    meter: Meter,
    variant: str,
    figures: Sequence[Figure],
    samples: dict[str, Samples],
    story: str,
) -> Trial:
    errors = app.errors
    if app.written_count != app.entry_count:
        errors.append(f"{app.written_count - app.entry_count:+} entries")
    return measured(
        meter,
        variant=variant,
        figures=list(figures),
        samples=samples,
        errors=errors,
        findings=[f"errors: {dict(Counter(errors))}"] if errors else [story],
        is_sound=not errors,
        notes=[
            "no application, no rights, no filters, nobody is told: only Redis' part, played by the client"
        ],
    )
