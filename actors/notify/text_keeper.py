"""Templates that nobody has used yet: what needs their texts waits until they are compiled.

That takes up to 50 ms a text, and is done beside the loop (Renderer.prepare). A message that waits is taken
again from its beginning, so it is decided by what is known then. What asks for the same users waits behind
it, so that decisions stay in order per user; everybody else goes on. What is released is looked for again in
the store: of apps that compile nothing is read meanwhile, and their rows are in nobody's way.
"""

from collections.abc import Iterable, Mapping, Sequence
from typing import Final

import msgspec

from actors.notify.digester import Digester
from actors.notify.messages import Notify
from actors.notify.plan import Ready
from actors.notify.ports import Setup
from actors.notify.user_state import UserState, decode_kept
from actors.reply import NO_REPLY, Reply
from protocol.errors import Unavailable
from protocol.notify_records import NotificationRow

MAX_LATE: Final = 4_096  # messages that wait: as many as a mailbox holds
_Text = tuple[str, str, str]  # app, template, locale


class TextsReady(msgspec.Struct, frozen=True):
    """A template's texts for a locale are compiled."""

    text: _Text


class _Late(msgspec.Struct):
    """A message that waits, for whose sake, and for what."""

    message: object
    reply: Reply
    user_ids: tuple[str, ...]
    missing: set[_Text]


class TextKeeper(Digester):
    """See to it that texts are compiled before anything is decided that may need them."""

    _late: list[_Late]
    _late_users: set[str]  # of those that wait
    _compiling: set[_Text]

    def begin_texts(self) -> None:
        """Nothing waits; called once per incarnation, in `activate`."""
        self._late = []
        self._late_users = set()
        self._compiling = set()

    def may_passivate(self) -> bool:
        return super().may_passivate() and not self._compiling

    def compiling_apps(self) -> list[str]:
        """The apps whose texts are being compiled for this partition."""
        return list({text[0] for text in self._compiling}) if self._compiling else []

    def has_texts(self, notify: Notify, message: object, reply: Reply) -> bool:
        """Tell whether all is compiled that it may show; else `message` comes again then.

        Its users are in memory, if they exist. Raises: Unavailable(busy): too many wait already.
        """
        template = notify.content.template
        is_behind = bool(self._late_users) and not self._late_users.isdisjoint(notify.user_ids)
        if not template and not is_behind:
            return True
        setup = self._setups.known(notify.app_id)
        if not is_behind and len(notify.user_ids) == 1 and not self._compiling and setup is not None:
            user = self._users.get(notify.user_ids[0])  # as most are
            locale = (user.language if user is not None else "") or setup.rules.default_locale
            if self._renderer.is_ready(setup, template, locale):
                return True
        missing = self._missing(setup, template, notify.user_ids) if template and setup is not None else set()
        if not missing and not is_behind:
            return True
        if len(self._late) >= MAX_LATE and not getattr(message, "is_own", False):
            raise Unavailable("busy", "Many wait for texts of templates.")
        self._late.append(_Late(message, reply, notify.user_ids, missing))
        self._late_users.update(notify.user_ids)
        if setup is not None:
            self._want_texts(setup, missing)
        return False

    def with_texts(self, ready: Ready) -> Ready:
        """Return what of it can be released without compiling; the rest is found again."""
        left: list[NotificationRow] = []
        for row in ready.rows:
            user, setup = self._users.get(row.user_id), self._setups.known(row.app_id)
            if user is None or setup is None:
                left.append(row)
                continue
            missing: set[_Text] = set()
            for template in self._templates_of(user, row, ready.members.get(row.notification_id, ())):
                missing |= self._missing(setup, template, (row.user_id,))
            if missing:
                self._want_texts(setup, missing)
            else:
                left.append(row)
        return ready if len(left) == len(ready.rows) else msgspec.structs.replace(ready, rows=left)

    def has_batch_texts(
        self,
        heads: Iterable[NotificationRow],
        members: Mapping[int, Sequence[NotificationRow]],
        message: object,
    ) -> bool:
        """Tell whether batches in the centre can be written anew; else the own `message` comes again."""
        missing: set[_Text] = set()
        for head in heads:
            user, setup = self._users.get(head.user_id), self._setups.known(head.app_id)
            if user is None or setup is None or not head.in_centre:
                continue
            templates = self._templates_of(user, head, ())
            templates.update(member.template for member in members.get(head.notification_id, ()))
            for template in templates - {""}:
                missing |= self._missing(setup, template, (head.user_id,))
            self._want_texts(setup, missing)
        if missing:
            self._late.append(_Late(message, NO_REPLY, (), missing))
        return not missing

    async def texts_ready(self, message: TextsReady) -> None:
        """Take again what has waited for nothing else."""
        self._compiling.discard(message.text)
        late, self._late, self._late_users = self._late, [], set()
        again: list[tuple[object, Reply]] = []
        for one in late:
            one.missing.discard(message.text)
            if one.missing or not self._late_users.isdisjoint(one.user_ids):
                self._late.append(one)
                self._late_users.update(one.user_ids)
            else:
                again.append((one.message, one.reply))
        await self.handle_again_if_room(again)

    def _missing(self, setup: Setup, template: str, user_ids: tuple[str, ...]) -> set[_Text]:
        """What has to be compiled for these users."""
        default, users = setup.rules.default_locale, self._users
        locales = {user.language or default for user_id in user_ids if (user := users.get(user_id))}
        return {
            text
            for locale in locales
            if (text := (setup.app_id, template, locale)) in self._compiling
            or not self._renderer.is_ready(setup, template, locale)
        }

    def _templates_of(
        self, user: UserState, row: NotificationRow, members: Iterable[NotificationRow]
    ) -> set[str]:
        """The templates by which a held notification may be told. `members`: of a digest."""
        found = {row.template}
        group = user.groups.get(row.group_key) if row.group_key else None
        if group is not None:
            found.add(group.kept.content.template)
        elif row.item_count > 1 and row.content:
            found.add(decode_kept(row.content).content.template)
        found.update(member.template for member in members if not (member.title or member.text))
        return found - {""}

    def _want_texts(self, setup: Setup, texts: set[_Text]) -> None:
        for text in texts - self._compiling:
            self._compiling.add(text)
            self._ctx.start_soon(self._compile, setup, text)

    async def _compile(self, setup: Setup, text: _Text) -> None:
        await self._renderer.prepare(setup, text[1], text[2])
        self._ctx.post(TextsReady(text))
