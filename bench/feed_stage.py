"""Who is connected to a hubbub in `hubbub bench feed`: they post, read, watch, and check what comes."""

from collections import Counter, deque
from collections.abc import Callable, Sequence
from typing import Final

import msgspec

from actors.feed.address import PARTITION_COUNT, partition_of
from bench.feed_cast import Cast
from bench.feed_graph import CLASSES, Graph, class_of
from bench.feed_plan import DRAIN_TIMEOUT_S, PAGE, UNANSWERED, WHOLE_EVERY
from bench.feed_rows import earlier_text_of, name_of, text_of, user_id_of
from bench.feed_target import FeedHubbub
from bench.load.client import Account, Connection, as_dict, ask_all, open_all
from bench.load.counters import Counters
from bench.load.loop import Loop, TimedOut, now
from bench.load.trial import Samples, Setting, close_all
from bench.load.wires import WireFormat, encoded
from protocol.feed_commands import CreatePost, ReadFeed, WatchFeed

# The server's counters, by their names in /metrics.
PUSHED: Final = "feed_entries_pushed_total"
COLD_LOADS: Final = "feed_cold_loads_total"
IN_MEMORY: Final = "feed_in_memory"
READ_IDS: Final = 500_000_000  # from here: ids of reads; below: of posts


class PostSeen(msgspec.Struct, gc=False):
    """A post in a page, as far as each one is looked at."""

    post_id: int


class ItemSeen(msgspec.Struct, gc=False):
    """An item of a page."""

    post: PostSeen | None = None


class LivePost(msgspec.Struct, gc=False):
    """A post in an event or an answer."""

    post_id: int
    text: str = ""


class LiveItem(msgspec.Struct, gc=False):
    """The item of a `feed` event."""

    post: LivePost | None = None


class Seen(msgspec.Struct, gc=False):
    """Any reply or event, as far as each one is looked at."""

    type: str
    id: int = 0
    code: str | int = ""
    items: list[ItemSeen] = []
    complete: bool = True
    item: LiveItem | None = None
    post: LivePost | None = None
    position: int = 0
    count: int = 0


def seen_decoder(wire: WireFormat) -> Callable[[bytes], Seen]:
    """What decodes whatever comes in."""
    if wire.name == "json":
        return msgspec.json.Decoder(Seen).decode
    return msgspec.msgpack.Decoder(Seen).decode


class Scene:
    """What all connections of a run share: what was posted, what was asked, and what came of it."""

    def __init__(self, graph: Graph, people: Cast) -> None:
        self.graph = graph
        self.people = people
        self.post_count = 0  # sent
        self.acked_count = 0
        self.entry_count = 0  # feeds that all posts sent will be in, their authors' own included
        self.sent_at: list[float] = []  # by post number: sent, or due
        self.numbers: dict[int, int] = {}  # post_id -> its number
        self.newest: dict[int, int] = {}  # author -> post_id of the newest acked one
        self.read_count = 0  # asked
        self.answered_count = 0
        self.whole_count = 0
        self.answer_bytes = 0
        self.counts_from = 0.0  # what began before is not measured
        self.acks, self.reads, self.lags = Samples(), Samples(), Samples()
        self.live = {name: Samples() for name in CLASSES}
        self.errors: list[str] = []
        self.on_ack: Callable[[], None] | None = None
        self.on_answer: Callable[[Person], None] | None = None
        hot_from = people.hot_from
        self._classes = {
            author: class_of(graph.follower_count(author), hot_from=hot_from) for author in people.posters
        }

    def author_of(self, number: int) -> int:
        order = self.people.order
        return order[number % len(order)]

    def class_of(self, number: int) -> str:
        """The class of a post's author."""
        return self._classes[self.author_of(number)]

    def note_sent(self, number: int, at: float) -> None:
        self.sent_at.append(at)
        author = self.author_of(number)
        self.entry_count += self.people.entries[author]

    def note(self, samples: Samples, begun_at: float, at: float) -> None:
        """Keep a latency, if it belongs to the measured part."""
        if begun_at >= self.counts_from:
            samples.add(at, at - begun_at)

    def forget(self) -> None:
        """Begin to measure."""
        self.counts_from = now()
        self.answer_bytes = 0
        for samples in (self.acks, self.reads, self.lags, *self.live.values()):
            samples.clear()


class Person(Connection):
    """Somebody of the graph who is connected: posts, reads, watches."""

    def __init__(
        self,
        loop: Loop,
        wire: WireFormat,
        address: tuple[str, int],
        account: Account,
        scene: Scene,
        number: int,
    ) -> None:
        super().__init__(loop, wire, address, account)
        self.scene = scene
        self.number = number  # the account's in the graph
        self.heard: list[int] = []  # numbers of the posts that live events told of
        self.news_count = 0
        self.position = 0
        self.is_told_to_sync = False
        self.followees = scene.graph.followees(number)
        self._asked: dict[int, tuple[float, int]] = {}  # id -> when, and the post_id that it must reach
        self._news_due: deque[float] = deque()  # when hot posts were sent that no news has told of
        self._decode = seen_decoder(wire)

    def post(self, number: int, at: float) -> None:
        """Send the post of that number."""
        command = CreatePost(id=number + 1, client_id=f"p{number}", text=text_of(number))
        self.send(encoded(command, self.wire))
        self.scene.note_sent(number, at)

    def ask_page(self, at: float) -> None:
        """Ask for the newest page; its latency counts from `at`."""
        scene = self.scene
        scene.read_count = number = scene.read_count + 1
        newest = scene.newest
        floor = 0
        for followee in self.followees:
            if (post_id := newest.get(followee, 0)) > floor:
                floor = post_id
        self._asked[number] = (at, floor)
        self.send(encoded(ReadFeed(id=READ_IDS + number), self.wire))

    def await_news(self, at: float) -> None:
        """Note that somebody hot whom this one follows has posted."""
        self._news_due.append(at)

    def received(self, data: bytes, at: float) -> bytes:
        payloads, taken = self.wire.split(data)
        decode, answers = self._decode, self._answers
        for payload in payloads:
            seen = decode(payload)
            kind = seen.type
            if kind == "feed_page":
                self._got_page(seen, payload, at)
            elif kind == "feed":
                self._got_live(seen, at)
            elif kind == "post":
                self._got_ack(seen, at)
            elif answers and seen.id in answers:
                answers.pop(seen.id)(payload)
            elif kind == "feed_news":
                self._got_news(seen, at)
            elif kind == "resync":
                self.is_told_to_sync = True
            elif kind == "error":
                self._got_error(seen)
        return data[taken:] if taken else data

    def _got_ack(self, seen: Seen, at: float) -> None:
        scene, number = self.scene, seen.id - 1
        assert seen.post is not None
        scene.acked_count += 1
        scene.numbers[seen.post.post_id] = number
        if seen.post.post_id > scene.newest.get(self.number, 0):
            scene.newest[self.number] = seen.post.post_id
        scene.note(scene.acks, scene.sent_at[number], at)
        if scene.on_ack is not None:
            scene.on_ack()

    def _got_page(self, seen: Seen, payload: bytes, at: float) -> None:
        scene = self.scene
        asked_at, floor = self._asked.pop(seen.id - READ_IDS)
        scene.answered_count += 1
        scene.answer_bytes += len(payload)
        scene.note(scene.reads, asked_at, at)
        wrong = judge(seen, floor)
        if not wrong and scene.answered_count % WHOLE_EVERY == 0:
            scene.whole_count += 1
            wrong = self._compare(payload)
        if wrong:
            scene.errors.append(wrong)
        if scene.on_answer is not None:
            scene.on_answer(self)

    def _compare(self, payload: bytes) -> str:
        """Say what is wrong with the content of a page; empty: nothing."""
        followees = {user_id_of(account): account for account in (*self.followees, self.number)}
        for item in as_dict(payload, self.wire)["items"]:
            post = item["post"]
            author = followees.get(post["author_id"])
            if author is None:
                return "a post of somebody who is not followed"
            number = self.scene.numbers.get(post["post_id"])
            if number is not None:
                if post["text"] != text_of(number):
                    return "another text"
            elif post["text"][0] == "h" and not _is_earlier(post["text"], author):
                return "another earlier text"
        return ""

    def _got_live(self, seen: Seen, at: float) -> None:
        assert seen.item is not None
        assert seen.item.post is not None
        if self.position and seen.position != self.position + 1 and not self.is_told_to_sync:
            self.scene.errors.append("a hole in the positions")
        self.position = seen.position
        number = int(seen.item.post.text[1:9])
        self.heard.append(number)
        scene = self.scene
        scene.note(scene.live[scene.class_of(number)], scene.sent_at[number], at)

    def _got_news(self, seen: Seen, at: float) -> None:
        self.news_count += seen.count
        for _ in range(min(seen.count, len(self._news_due))):
            sent_at = self._news_due.popleft()
            self.scene.note(self.scene.live["hot"], sent_at, at)

    def _got_error(self, seen: Seen) -> None:
        scene = self.scene
        scene.errors.append(str(seen.code))
        if seen.id - READ_IDS in self._asked:
            del self._asked[seen.id - READ_IDS]
            scene.answered_count += 1
            if scene.on_answer is not None:
                scene.on_answer(self)
        elif 0 < seen.id <= scene.post_count:
            scene.acked_count += 1
            if scene.on_ack is not None:
                scene.on_ack()


def _is_earlier(text: str, author: int) -> bool:
    """Tell whether this is the text of one of an author's earlier posts."""
    return text == earlier_text_of(author, int(text.split(" ")[1]))


def judge(page: Seen, floor: int) -> str:
    """Say what is wrong with a page's places; empty: nothing. `floor`: the post_id that it must reach."""
    if len(page.items) != PAGE:
        return f"{len(page.items)} posts"
    if not page.complete:
        return "a page that is not complete"
    last = 1 << 60
    for item in page.items:
        if item.post is None:
            return "an item without a post"
        if item.post.post_id >= last:
            return "not by falling post_id"
        last = item.post.post_id
    if floor and page.items[0].post is not None and page.items[0].post.post_id < floor:
        return "an acked post is missing"
    return ""


class Stage:
    """One run: its people connected to one server."""

    def __init__(self, setting: Setting, people: Cast, *, watches: bool, posts: bool) -> None:
        assert isinstance(setting.target, FeedHubbub)
        self.setting = setting
        self.target = target = setting.target
        self.loop = Loop()
        self.wire = setting.wire
        self.scene = Scene(target.graph, people)
        self.counters = Counters(self.loop, target.addresses("json")[0])
        self.pushed_before = 0.0
        self.pushed_count = 0.0  # entries, as the server has told last
        numbers = dict.fromkeys((*people.readers, *(people.posters if posts else ())))
        self.everybody = {number: self._person(number, place) for place, number in enumerate(numbers)}
        self.readers = [self.everybody[number] for number in people.readers]
        # Of each hot author, those of the readers who are told by `feed_news`.
        self._news_for: dict[int, list[Person]] = {}
        if watches:
            for reader in self.readers:
                for author in reader.followees:
                    if target.graph.follower_count(author) >= people.hot_from:
                        self._news_for.setdefault(author, []).append(reader)
        target.allow_files(2 * len(self.everybody) + 1000)
        self.shed_count = open_all(self.loop, self.everybody.values())
        if watches:
            ask_all(self.loop, [(reader, WatchFeed(feed=True)) for reader in self.readers])

    def _person(self, number: int, place: int) -> Person:
        setting = self.setting
        account = self.target.account(name_of(number))
        return Person(self.loop, self.wire, setting.address(place), account, self.scene, number)

    def post_next(self, at: float) -> None:
        """Send one more post; its latencies count from `at`."""
        scene = self.scene
        number = scene.post_count
        scene.post_count = number + 1
        author = scene.author_of(number)
        self.everybody[author].post(number, at)
        for reader in self._news_for.get(author, ()):
            reader.await_news(at)

    def wake_partitions(self) -> float:
        """Let a page be read in each partition by somebody who is no reader; return how long that took."""
        graph = self.target.graph
        wakers: dict[int, int] = {}  # partition -> account
        for account in graph.following():
            if account not in self.everybody:
                wakers.setdefault(partition_of(user_id_of(account)), account)
            if len(wakers) == PARTITION_COUNT:
                break
        people = [self._person(account, place) for place, account in enumerate(wakers.values())]
        open_all(self.loop, people)
        started_at = now()
        for person in people:
            person.ask_page(now())
        self.loop.run_until(
            lambda: self.scene.answered_count >= len(people),
            timeout_s=DRAIN_TIMEOUT_S,
            what="a page is read in every partition",
        )
        took_s = now() - started_at
        for person in people:
            person.close()
        return took_s

    def read_all_once(self) -> None:
        """Let each reader's feed be read once."""
        waiting = deque(self.readers)

        def ask_next(_: object) -> None:
            if waiting:
                waiting.popleft().ask_page(now())

        wanted = self.scene.answered_count + len(self.readers)
        self.scene.on_answer = ask_next
        for _ in range(UNANSWERED):
            ask_next(None)
        self.loop.run_until(
            lambda: self.scene.answered_count >= wanted,
            timeout_s=DRAIN_TIMEOUT_S,
            what="every reader has a page",
        )
        self.scene.on_answer = None

    def poll(self) -> None:
        """Look at the server's counter now and then, while something else goes on."""
        if not self.counters.is_asking:
            self.counters.ask(self._told)

    def _told(self, counters: dict[str, float]) -> None:
        self.pushed_count = counters[PUSHED] - self.pushed_before

    @property
    def ahead(self) -> float:
        """Entries of posts sent that the server had not written when it last told."""
        return self.scene.entry_count - self.pushed_count

    def begin_counting(self) -> dict[str, float]:
        """Take the counters of the start."""
        counters = self.counters.read()
        self.pushed_before = counters[PUSHED]
        return counters

    def settle(self, timeout_s: float = DRAIN_TIMEOUT_S) -> float:
        """Wait until all is acked, answered and written; return how long that took. Raises: TimedOut."""
        scene, started_at = self.scene, now()

        def is_done() -> bool:
            if self.ahead > 0:
                self.poll()
            return (
                self.ahead <= 0
                and scene.acked_count >= scene.post_count
                and scene.answered_count >= scene.read_count
            )

        try:
            self.loop.run_until(is_done, timeout_s=timeout_s, what="all is acked, answered and in every feed")
        except TimedOut as exc:
            raise TimedOut(
                f"{exc}: {scene.post_count - scene.acked_count:,} posts, "
                f"{scene.read_count - scene.answered_count:,} reads, {self.ahead:+,.0f} entries are missing"
                f"{': ' if scene.errors else ''}{dict(Counter(scene.errors)) or ''}"
            ) from None
        return now() - started_at

    def close(self) -> None:
        self.counters.close()
        close_all(self.loop, self.everybody.values())

    def faults(self, *, watches: bool) -> list[str]:
        """Name what is wrong, all in all."""
        scene = self.scene
        found = list(scene.errors)
        found += [f"closed: {person.error}" for person in self.everybody.values() if person.is_closed]
        if self.ahead != 0:
            found.append(f"{-self.ahead:+,.0f} entries against the followers of all posts")
        if watches:
            found += live_faults(scene, self.readers)
        return found


def live_faults(scene: Scene, readers: Sequence[Person]) -> list[str]:
    """Name what readers heard too often or not at all; who was told to sync may have missed some."""
    by_author: dict[int, list[int]] = {}
    for number in range(scene.post_count):
        if scene.class_of(number) != "hot":
            by_author.setdefault(scene.author_of(number), []).append(number)
    found = []
    for reader in readers:
        expected = sorted(
            number for followee in reader.followees for number in by_author.get(followee, ())
        ) + by_author.get(reader.number, [])
        heard = Counter(reader.heard)
        if any(count > 1 for count in heard.values()):
            found.append("heard twice")
        if set(heard) - set(expected):
            found.append("heard of somebody not followed")
        if not reader.is_told_to_sync and set(expected) - set(heard):
            found.append("a live event is missing")
    return found
