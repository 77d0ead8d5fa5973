"""What clients of a chaos run saw: each send with its ack, each listener's view. Recorded only, judged later.

Times are trio.current_time() seconds of this process.
"""

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field

import msgspec

from protocol import events as e
from protocol.events import ConversationEvent


class Content(msgspec.Struct, frozen=True, cache_hash=True):
    """An event as far as two observers must agree on it, and as far as the store keeps it in plain sight."""

    kind: str
    user_id: str
    client_id: str = ""
    text: str = ""


def content_of(event: ConversationEvent) -> Content:
    kind = str(type(event).__struct_config__.tag)
    if isinstance(event, e.MessagePosted):
        return Content(kind, event.user_id, event.client_id, event.text)
    return Content(kind, event.user_id)


@dataclass(slots=True)
class Send:
    """One message from its first try on. `seq` is 0 until it is acked."""

    conversation_id: str
    user_id: str
    client_id: str
    text: str
    sent_at: float
    acked_at: float = 0.0
    seq: int = 0
    via: str = ""  # where it was acked


@dataclass(slots=True)
class View:
    """What one listener has of one conversation: the events from `start + 1` on, without a gap."""

    owner: str
    conversation_id: str
    start: int = 0
    contents: list[Content] = field(default_factory=list)
    faults: list[str] = field(default_factory=list)

    @property
    def cursor(self) -> int:
        return self.start + len(self.contents)


class Ledger:
    """Everything that was seen in one run."""

    def __init__(self) -> None:
        self.sends: dict[tuple[str, str, str], Send] = {}  # (conversation, user, client_id)
        self.views: list[View] = []
        self.refusals: Counter[str] = Counter()  # error codes that clients were told, retried ones too
        self.failures: list[str] = []  # what no client should meet
        self.reconnects = 0
        self.overlaps = 0  # events that came live and by a sync; clients skip them
        self._known: dict[Content, Content] = {}

    def begin(self, conversation_id: str, user_id: str, client_id: str, text: str, now: float) -> Send:
        """Record the first try of a message."""
        send = Send(conversation_id, user_id, client_id, text, now)
        key = (conversation_id, user_id, client_id)
        assert key not in self.sends, f"the load used {key} twice"
        self.sends[key] = send
        return send

    def acked(self, send: Send, seq: int, now: float, via: str = "") -> None:
        """Record an ack. Another one must say the same."""
        if send.seq and send.seq != seq:
            self.failures.append(f"{send.client_id} was acked at {send.seq}, then at {seq} by {via}")
            return
        if not send.seq:
            send.seq, send.acked_at, send.via = seq, now, via

    def view(self, owner: str, conversation_id: str, start: int = 0) -> View:
        """Begin a listener's view of a conversation after `start`."""
        view = View(owner, conversation_id, start)
        self.views.append(view)
        return view

    def heard(self, view: View, event: ConversationEvent) -> bool:
        """Add what follows the view. Returns False, and adds nothing, where it does not follow."""
        content = self.interned(content_of(event))
        at = event.seq - view.start - 1
        if 0 <= at < len(view.contents):
            self.overlaps += 1
            if view.contents[at] != content:
                view.faults.append(f"seq {event.seq} was {view.contents[at]}, and later {content}")
            return False
        if at != len(view.contents):
            return False
        view.contents.append(content)
        return True

    def interned(self, content: Content) -> Content:
        """One object per content, however many listeners have it: 500 views of a group are lists of these."""
        return self._known.setdefault(content, content)

    @property
    def acks(self) -> Iterable[Send]:
        return (send for send in self.sends.values() if send.seq)
