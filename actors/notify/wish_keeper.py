"""What users want to hear: preferences, kept and honoured at once."""

import msgspec

from actors.notify.messages import Unsubscribe
from actors.notify.opt_outs import with_opt_out
from actors.notify.ports import Setup
from actors.notify.recheck import Recheck
from actors.notify.timekeeper import Timekeeper
from actors.notify.user_state import UserState
from actors.notify.wishes import is_wanted
from actors.reply import NO_REPLY, Reply
from actors.stream_actor import Staged
from protocol import notify_replies, replies
from protocol.errors import Refused
from protocol.notify_records import NotifyUserRow
from protocol.notify_replies import TypeInfo
from protocol.notify_types import Decision, Preferences, TypeRule
from protocol.records import Put

_encode = msgspec.json.Encoder().encode


class WishKeeper(Timekeeper):
    """Keep preferences. Each method is called with the user in memory."""

    def user_of(self, user_id: str, app_id: str) -> UserState:
        """Raises: Refused(user_not_found)."""
        user = self._users.get(user_id)
        if user is None or user.app_id != app_id:
            raise Refused("user_not_found")
        return user

    def _preferences_of(self, user: UserState) -> notify_replies.PreferencesInfo:
        setup = self._setup_of(user.app_id)
        wishes = user.facts.preferences
        return notify_replies.PreferencesInfo(
            preferences=wishes,
            types=[_type_info(rule, wishes, setup) for rule in setup.all_types()],
            consents=list(user.facts.consents.values()),
            time_zone=user.facts.time_zone,
            vapid_public_key=setup.vapid_public_key,
        )

    def _set_preferences(self, user: UserState, preferences: Preferences, reply: Reply, how: str) -> None:
        self._setup_of(user.app_id)  # by which it is answered once it is stored
        user.facts.preferences = preferences
        row = NotifyUserRow(
            user_id=user.user_id,
            app_id=user.app_id,
            preferences=_encode(preferences).decode(),
        )
        user.batch = self._batch
        self._stage_ops([Put(row)], Staged(reply, lambda _at: self._preferences_of(user)))
        self._drop_unwanted(user, how)

    def _drop_unwanted(self, user: UserState, how: str) -> None:
        """What waits and is not wanted any more is not sent."""
        wishes = user.facts.preferences
        for note_id, note in [(i, n) for i, n in self._notes.items() if n.user_id == user.user_id]:
            if note.rule.is_security:
                continue
            for number in sorted(note.numbers):
                job = self._jobs[note_id, number]
                if not job.is_begun and not is_wanted(wishes, note.rule.name, job.channel):
                    why = Decision("preferences", "drop", how, job.channel)
                    self._skip(job, Recheck("drop", why, code="not_wanted"))

    def unsubscribe(self, message: Unsubscribe, reply: Reply) -> None:
        """Set the one preference that a link in a mail stands for. Doing it again changes nothing."""
        user = self.user_of(message.user_id, message.app_id)
        wishes = user.facts.preferences
        if message.type_name:
            known = {rule.name for rule in self._setup_of(user.app_id).all_types()}
            wishes = with_opt_out(wishes, message.type_name, message.channel, known)
        else:
            wishes = msgspec.structs.replace(wishes, channels={**wishes.channels, message.channel: False})
        self._set_preferences(user, wishes, NO_REPLY, message.how)
        self._answer_when_stored(reply, lambda _at: replies.Ok())


def _type_info(rule: TypeRule, wishes: Preferences, setup: Setup) -> TypeInfo:
    offers = dict.fromkeys([*rule.channels, *rule.fallback])
    wish = wishes.types.get(rule.name)
    frequency = wish.frequency if wish is not None and wish.frequency is not None else wishes.frequency
    return TypeInfo(
        name=rule.name,
        title=rule.title or rule.name,
        channels=[channel for channel in rule.channels if is_wanted(wishes, rule.name, channel)],
        is_security=rule.is_security,
        frequency=frequency,
        offers=[channel for channel in offers if channel == "inapp" or setup.has_provider(channel)],
        purpose=rule.purpose,
    )
