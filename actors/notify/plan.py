"""What is decided of one notification, until it is staged; and who waits for it."""

from hashlib import blake2b

import msgspec

from actors.notify.delivery import Outgoing
from actors.notify.local_time import known_zone
from actors.notify.messages import Notify
from actors.notify.ports import Setup, Text
from actors.notify.user_state import UserState
from actors.reply import Reply
from protocol import notify_replies
from protocol.notify_content import Content
from protocol.notify_records import DeliveryRow, NotificationRow
from protocol.notify_replies import Notified
from protocol.notify_types import Decision


class Asked:
    """One message that asks for notifications, and what has become of it so far."""

    __slots__ = ("items", "message", "remaining", "reply")

    def __init__(self, message: Notify, reply: Reply) -> None:
        self.message = message
        self.reply = reply
        self.items: list[Notified | None] = [None] * len(message.user_ids)
        self.remaining = len(message.user_ids)

    def done(self, index: int, item: Notified) -> None:
        """Take the answer for one user; with the last one, answer."""
        self.items[index] = item
        self.remaining -= 1
        if not self.remaining:
            self.reply.resolve(
                notify_replies.NotifyAccepted(
                    request_id=self.message.request_id,
                    items=[item for item in self.items if item is not None],
                    repeated=all(item is not None and item.repeated for item in self.items),
                )
            )


class Ready(msgspec.Struct, frozen=True):
    """Held notifications whose time has come, and how they were tried.

    `members`: of digests, what became part of them and is not read yet.
    """

    rows: list[NotificationRow]
    members: dict[int, list[NotificationRow]]
    tried: dict[int, list[DeliveryRow]]
    is_own: bool = True


class DigestPart(msgspec.Struct, frozen=True):
    """What a digest tells on one channel: of which notifications, and the first lines, each once."""

    ids: list[int]
    lines: list[str]


class Plan(msgspec.Struct):
    """What is to be stored of one decision."""

    decisions: list[Decision]
    state: str = "done"
    reason: str = ""
    centre: Text | None = None
    deliveries: list[tuple[Outgoing, int]] = []  # and when each is due
    variant: str = ""  # experiment:variant, as it was drawn
    is_exposed: bool = False  # the centre shows that variant's text
    counted_at_ms: int = 0

    def shows_variant(self, text: Text) -> bool:
        """Tell whether a text is that of the variant which was drawn, and no other's in its stead."""
        return bool(self.variant) and self.variant.partition(":")[2] == text.variant


def content_hash(content: Content, occurrence: str = "") -> str:
    """Name what a notification says, whoever gets it: template and data, or text."""
    said = (
        occurrence,
        content.template,
        content.actor,
        content.title,
        content.text,
        content.url,
        content.image,
        msgspec.to_builtins(content.data),
    )
    return blake2b(msgspec.json.encode(said, order="sorted"), digest_size=12).hexdigest()


def zone_of(user: UserState, setup: Setup) -> str:
    """The user's time zone, else the app's."""
    return known_zone(user.facts.time_zone, setup.rules.default_time_zone)
