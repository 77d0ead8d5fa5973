"""A reader's command that needs the feed, on its way; and a feed on its way into memory."""

from actors.feed.feed import Feed
from actors.feed.index import Change
from actors.feed.page import Fetched
from actors.messages import Ask
from actors.reply import Reply


class Request:
    """A command of a reader that needs the feed, on its way."""

    __slots__ = ("ask", "feed", "fetched", "is_fresh", "reply", "rounds")

    def __init__(self, ask: Ask, reply: Reply) -> None:
        self.ask = ask
        self.reply = reply
        self.fetched = Fetched()
        self.rounds = 0
        self.feed: Feed | None = None  # one that is not kept
        self.is_fresh = False  # what other nodes did was read after it came


class Arrival:
    """A feed that is being read from the store."""

    __slots__ = ("changes", "post_ids", "waiting")

    def __init__(self) -> None:
        self.waiting: list[Request] = []
        self.post_ids: list[int] = []  # pushed meanwhile
        self.changes: list[Change] = []
