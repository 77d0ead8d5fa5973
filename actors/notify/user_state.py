"""What a partition has in memory of one user: wishes, addresses, and what was told lately."""

from typing import Final, cast

import msgspec
import structlog

from actors.notify.delivery import Target
from actors.notify.facts import OpenGroup, UserFacts
from actors.stream_actor import Batch
from protocol.notify_content import Content
from protocol.notify_found import MAX_RECENT, FoundGroup, FoundUser
from protocol.notify_ids import at_ms_of
from protocol.notify_types import Channel, Consent, Preferences, Priority

NO_PREFERENCES: Final = Preferences()
UNREADABLE: Final = Preferences(frequency="off")  # nothing but security: one opt-out too many is the milder
log = structlog.get_logger(__name__)
_preferences: Final = msgspec.json.Decoder(Preferences).decode
_keys: Final = msgspec.json.Decoder(dict[str, str]).decode


class Kept(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """What is stored with a notification until it is told: NotificationRow.content."""

    content: Content
    source: str = "api"
    channels: list[Channel] = []
    priority: Priority = "medium"
    names: list[str] = []  # of a batch: the first whose doing it is
    actor_count: int = 0  # and how many they are
    digest: str = ""  # of the content, by which duplicates are found
    held_by: str = ""  # the stage that held it last
    first: Content | None = None  # of a batch that others have joined: what opened it
    is_carrier: bool = False  # what opened the group was cancelled: it goes on for those that joined


decode_kept: Final = msgspec.json.Decoder(Kept).decode


def _preferences_of(found: FoundUser) -> Preferences:
    """What a user wants. A row that cannot be read costs this user alone, and not the partition."""
    if not found.preferences:
        return NO_PREFERENCES
    try:
        return _preferences(found.preferences)
    except msgspec.MsgspecError:
        log.error("preferences_unreadable", user_id=found.user_id, app_id=found.app_id)  # noqa: TRY400
        return UNREADABLE


class Group:
    """A batch or digest that is open: what comes next joins it."""

    __slots__ = ("actors", "count", "due_at_ms", "kept", "notification_id", "opener_id")

    def __init__(
        self, notification_id: int, due_at_ms: int, count: int, kept: Kept, *, opener_id: int = 0
    ) -> None:
        self.notification_id = notification_id
        self.opener_id = opener_id  # the notification with which it was opened; 0: by one that is stored
        self.due_at_ms = due_at_ms
        self.count = count
        self.kept = kept
        self.actors: set[str] = set(kept.names)


def _group_of(found: FoundUser, group: FoundGroup) -> Group | None:
    """An open group; None where it cannot be read: then nothing more joins it."""
    try:
        kept = decode_kept(group.content)
    except msgspec.MsgspecError:
        log.error("group_unreadable", user_id=found.user_id, notification_id=group.notification_id)  # noqa: TRY400
        return None
    return Group(group.notification_id, group.due_at_ms, group.item_count, kept)


class Stopped(msgspec.Struct, frozen=True):
    """An address to which nothing is sent any more, and why."""

    target: Target
    why: str


class UserState:
    """One user, as decisions that are staged leave it; gone with the incarnation if they are not stored."""

    __slots__ = (
        "app_id",
        "batch",
        "device_names",
        "devices",
        "facts",
        "facts_at_s",
        "groups",
        "is_disabled",
        "is_doubtful",
        "language",
        "name",
        "stopped",
        "unread",
        "user_id",
    )

    def __init__(self, found: FoundUser, at_s: float = 0.0) -> None:
        """`at_s`: trio.current_time() before it was read."""
        self.facts_at_s = at_s  # name, language, time zone and whether disabled are as of then, or newer
        self.user_id = found.user_id
        self.app_id = found.app_id
        self.name = found.name
        self.language = found.language
        self.is_disabled = bool(found.is_disabled)
        self.unread = set(found.unread)
        self.batch: Batch | None = None  # the last one that holds a change of this user
        self.is_doubtful = False  # what is in memory is not what was stored: read again once it is settled
        self.devices = {
            device.device_key: Target(
                device_key=device.device_key,
                channel=cast(Channel, device.channel),
                address=device.address,
                keys=_keys(device.keys) if device.keys else {},
                registered_at_ms=device.registered_at_ms,
            )
            for device in found.devices
        }
        self.device_names = {device.device_key: device.name for device in found.devices}
        self.device_names.update({device.device_key: device.name for device in found.stopped})
        self.stopped = {
            device.device_key: Stopped(
                Target(
                    device_key=device.device_key,
                    channel=cast(Channel, device.channel),
                    address=device.address,
                    registered_at_ms=device.registered_at_ms,
                ),
                device.why,
            )
            for device in found.stopped
        }
        self.groups = {group.group_key: made for group in found.groups if (made := _group_of(found, group))}
        self.facts = UserFacts(
            time_zone=found.time_zone,
            preferences=_preferences_of(found),
            consents={
                consent.purpose: Consent(
                    purpose=consent.purpose,
                    source=consent.source,
                    given_at_ms=consent.given_at_ms,
                    ends_at_ms=consent.ends_at_ms,
                )
                for consent in found.consents
            },
            sent_at_ms=sorted(found.counted),
            recent={
                recent.dedup_key: (recent.notification_id, recent.told_at_ms)
                for recent in reversed(found.recent)
                if recent.told_at_ms
            },
            planned={
                recent.dedup_key: (recent.notification_id, recent.due_at_ms)
                for recent in reversed(found.recent)
                if recent.due_at_ms
            },
            recent_since_ms=(
                at_ms_of(found.recent[-1].notification_id) if len(found.recent) >= MAX_RECENT else 0
            ),
            open_groups={
                key: OpenGroup(group.notification_id, group.due_at_ms, group.count)
                for key, group in self.groups.items()
            },
        )

    def undo(self, notification_id: int) -> None:
        """Forget a notification that was decided and turns out to have been stored before, by another id."""
        self.is_doubtful = True
        self.unread.discard(notification_id)
        facts = self.facts
        for key in [key for key, group in self.groups.items() if group.opener_id == notification_id]:
            del self.groups[key]
            facts.open_groups.pop(key, None)
        for known in (facts.recent, facts.planned):
            for key in [key for key, seen in known.items() if seen[0] == notification_id]:
                del known[key]

    @property
    def is_settled(self) -> bool:
        """Tell whether all that was changed here is stored."""
        return self.batch is None or self.batch.is_concluded
