"""The directory: which apps, keys, users and bots there are. A service over the Store; rules are in auth.py.

Every method takes or finds the app it works in and never reaches into another: what belongs to another app
is `not_found`, as if it did not exist. Nothing here begins or ends a log-in; accounts.py does. Profiles are
made here and then changed only by the user's own actor, so `checked_profile` only checks what is to be sent
there.
"""

from collections.abc import Callable, Sequence
from typing import Final, NamedTuple

import msgspec
import structlog

from actors.user_rules import profile_of
from protocol.commands import UpdateProfile
from protocol.errors import Conflict, HubbubError, ProtocolError, Refused, Unavailable
from protocol.records import App, AppKey, Disabled, FileRow, Insert, Op, Put, User
from protocol.types import Profile
from server import auth
from server.clock import wall_clock_ms
from server.identity import Identity
from storage.store import Store

DEFAULT_APP_ID: Final = "default"
FIND_CHUNK: Final = 1000  # the most values of one Store.find_many

log: structlog.stdlib.BoundLogger = structlog.get_logger("directory")


class Provisioned(NamedTuple):
    """A user of an app's backend."""

    user: User
    was_created: bool
    is_disabled: bool


class Directory:
    """Find and make apps and users, for people, backends and operators."""

    def __init__(self, store: Store, *, clock: Callable[[], int] = wall_clock_ms) -> None:
        self._store = store
        self._clock = clock

    # -- users -------------------------------------------------------------------------------------------

    async def user_of(self, app_id: str, user_id: str) -> User:
        """Raises: Refused(user_not_found), for users of other apps as well."""
        user = await self._store.get(User, user_id)
        if user is None or user.app_id != app_id:
            raise Refused("user_not_found")
        return user

    async def get_users(self, app_id: str, user_ids: Sequence[str]) -> list[Profile]:
        """Profiles in the order asked for; users who are unknown or of another app are left out."""
        wanted = list(dict.fromkeys(user_ids))
        rows = await self._store.find_many(User, "user_id", wanted) if wanted else []
        known = {row.user_id: row for row in rows if row.app_id == app_id}
        return [profile_of(known[user_id]) for user_id in wanted if user_id in known]

    async def find_users(self, app_id: str, prefix: str, limit: int = 20) -> list[Profile]:
        """Users whose user name or name begins so, user names first; disabled users are left out."""
        folded = auth.fold(prefix.strip().removeprefix("@"))
        if not folded:
            return []
        found: dict[str, User] = {}
        for column in ("username_key", "name_key"):
            # Twice the limit, as some may be disabled.
            rows = await self._store.find_prefix(User, {"app_id": app_id}, column, folded, limit=2 * limit)
            found.update((row.user_id, row) for row in rows if row.user_id not in found)
        banned = await self._store.find_many(Disabled, "user_id", list(found)) if found else []
        for row in banned:
            del found[row.user_id]
        return [profile_of(user) for user in found.values()][:limit]

    async def find_user(self, app_id: str, name_or_id: str) -> User:
        """Find a user by id or user name, as an operator types it. Raises: Refused(user_not_found)."""
        user = await self._store.get(User, name_or_id)
        if user is None or user.app_id != app_id:
            where: dict[str, str | int | None] = {"app_id": app_id, "username_key": auth.fold(name_or_id)}
            found = await self._store.find(User, where, limit=1)
            if not found:
                raise Refused(
                    "user_not_found",
                    f"There is no user {name_or_id!r} in the app {app_id!r}; `hubbub users list` shows them.",
                )
            user = found[0]
        return user

    async def list_users(self, app_id: str, *, after: str = "", limit: int = 1000) -> list[User]:
        """Users of an app by rising user id, beyond `after`."""
        return await self._store.find(
            User, {"app_id": app_id}, order_by="user_id", after=after or None, limit=limit
        )

    async def disabled_among(self, user_ids: Sequence[str]) -> set[str]:
        """Which of these users may not sign in."""
        banned: set[str] = set()
        for start in range(0, len(user_ids), FIND_CHUNK):
            rows = await self._store.find_many(Disabled, "user_id", user_ids[start : start + FIND_CHUNK])
            banned.update(row.user_id for row in rows)
        return banned

    # -- users that are made -----------------------------------------------------------------------------

    async def insert_user(self, user: User, ops: Sequence[Op]) -> None:
        """Store a new user, and what comes with one, at once. Raises: Refused(name_taken)."""
        try:
            await self._store.commit([Insert(user), *ops])
        except Conflict as exc:
            if exc.table == User.table:
                raise Refused("name_taken") from None
            raise

    async def provision(
        self,
        app_id: str,
        external_id: str,
        *,
        username: str = "",
        name: str = "",
        avatar: str = "",
        language: str = "",
        time_zone: str = "",
    ) -> Provisioned:
        """Find the user whom an app's backend knows by that id, or make it; True where it was made.

        Users come with tokens that their backend has signed, so a value that cannot be had (a taken user
        name, an unknown time zone) is replaced or left empty rather than keeping the user out. Where the
        backend itself asks, it is told of a wrong one before.
        """
        for turn in range(5):  # each settles one race for the id or for a name
            known = await self._store.external_user(app_id, external_id)
            if known is not None:
                return Provisioned(known[0], was_created=False, is_disabled=known[1])
            shown, key = _wished_username(username, name, external_id)
            # The first turn only tries: mostly the name is free, and inserting finds that out as well.
            if not key or (turn and await self._is_username_taken(app_id, key)):
                shown, key = auth.checked_username(f"{shown[:22] or 'user'}-{auth.new_id('u')[2:10]}")
            shown_name = _or_empty(auth.checked_name, name[:64]) or shown
            user = User(
                user_id=auth.new_id("u"),
                app_id=app_id,
                username=shown,
                username_key=key,
                name=shown_name,
                name_key=auth.fold(shown_name),
                external_id=external_id,
                avatar=await self._avatar_or_empty(app_id, avatar),
                language=_or_empty(auth.checked_language, language),
                time_zone=_or_empty(auth.checked_time_zone, time_zone),
                created_at_ms=self._clock(),
            )
            try:
                await self._store.commit([Insert(user)])
            except Conflict:
                continue
            log.info("user_provisioned", app_id=app_id, user_id=user.user_id)
            return Provisioned(user, was_created=True, is_disabled=False)
        raise Unavailable("busy", "The user is being made by several requests at once.", retry_after_s=1.0)

    async def _is_username_taken(self, app_id: str, key: str) -> bool:
        return bool(await self._store.find(User, {"app_id": app_id, "username_key": key}, limit=1))

    async def _avatar_or_empty(self, app_id: str, file_id: str) -> str:
        try:
            if file_id:
                await self._check_avatar(app_id, file_id)
        except Refused:
            return ""
        return file_id

    async def _check_avatar(self, app_id: str, file_id: str) -> None:
        row = await self._store.get(FileRow, file_id)
        if row is None or row.app_id != app_id:
            raise Refused("file_not_found", "The avatar must be an uploaded file of this app.")
        if not row.width:
            raise Refused("bad_image", "The avatar must be a picture.")

    async def checked_profile(self, identity: Identity, change: UpdateProfile) -> UpdateProfile:
        """Return a profile change as it may be handed to the user's actor, its values tidied.

        Raises: ProtocolError(bad_field); Refused(file_not_found, bad_image) for the avatar.
        """
        if change.avatar:
            await self._check_avatar(identity.app_id, change.avatar)
        return msgspec.structs.replace(
            change,
            name=None if change.name is None else auth.checked_name(change.name),
            language=None if change.language is None else auth.checked_language(change.language),
            time_zone=None if change.time_zone is None else auth.checked_time_zone(change.time_zone),
        )

    # -- bots --------------------------------------------------------------------------------------------

    async def list_bots(self, app_id: str, *, owner_id: str | None = None) -> list[User]:
        """The working bots of one user, or of the whole app."""
        where: dict[str, str | int | None] = {"app_id": app_id, "is_bot": 1}
        if owner_id is not None:
            where = {"owner_id": owner_id}
        rows = await self._store.find(User, where, order_by="user_id")
        banned = await self.disabled_among([row.user_id for row in rows])
        return [row for row in rows if row.app_id == app_id and row.is_bot and row.user_id not in banned]

    async def count_bots(self, owner_id: str, *, deleted_since_ms: int) -> int:
        """How many bots a user has, those deleted since then included."""
        count = 0
        after = ""
        while rows := await self._store.find(
            User, {"owner_id": owner_id}, order_by="user_id", after=after, limit=FIND_CHUNK
        ):
            banned = await self._store.find_many(Disabled, "user_id", [row.user_id for row in rows])
            count += len(rows) - sum(row.at_ms <= deleted_since_ms for row in banned)
            after = rows[-1].user_id
        return count

    async def bot_of(self, app_id: str, bot_id: str, *, owner_id: str | None = None) -> User:
        """Raises: Refused(user_not_found), where it is not that owner's as well."""
        bot = await self.user_of(app_id, bot_id)
        if not bot.is_bot or (owner_id is not None and bot.owner_id != owner_id):
            raise Refused("user_not_found", "There is no such bot.")
        if await self._store.get(Disabled, bot_id):
            raise Refused("user_not_found", "There is no such bot.")
        return bot

    # -- apps and their keys -----------------------------------------------------------------------------

    async def app_of(self, app_id: str) -> App:
        """Raises: Refused(not_found)."""
        app = await self._store.get(App, app_id)
        if app is None:
            raise Refused("not_found", "There is no such app.")
        return app

    async def ensure_default_app(self) -> App:
        """Return the app of those who name none, made at the first start."""
        app = await self._store.get(App, DEFAULT_APP_ID)
        if app is None:
            app = App(app_id=DEFAULT_APP_ID, name="default", created_at_ms=self._clock())
            try:
                await self._store.commit([Insert(app)])
            except Conflict:  # another process was as quick
                return await self.app_of(DEFAULT_APP_ID)
        return app

    async def create_app(self, name: str, *, allow_sign_up: bool = True) -> App:
        """Make a tenant. Raises: ProtocolError(bad_field), Refused(already_exists)."""
        app = App(
            app_id=auth.new_id("a"),
            name=auth.checked_name(name),
            created_at_ms=self._clock(),
            allow_sign_up=allow_sign_up,
        )
        try:
            await self._store.commit([Insert(app)])
        except Conflict:
            raise Refused("already_exists", f"There is an app named {app.name!r} already.") from None
        return app

    async def set_sign_up(self, app: App, *, is_allowed: bool) -> App:
        """Open or close an app's sign-up."""
        app = msgspec.structs.replace(app, allow_sign_up=is_allowed)
        await self._store.commit([Put(app)])
        return app

    async def list_apps(self) -> list[App]:
        """All tenants, by name."""
        return await self._store.find(App, {}, order_by="name")

    async def find_app(self, name_or_id: str) -> App:
        """Find an app by id or name, as an operator types it. Raises: Refused(not_found)."""
        app = await self._store.get(App, name_or_id)
        if app is None:
            found = await self._store.find(App, {"name": name_or_id}, limit=1)
            if not found:
                raise Refused("not_found", f"There is no app {name_or_id!r}; `hubbub apps list` shows them.")
            app = found[0]
        return app

    async def list_app_keys(self, app_id: str) -> list[AppKey]:
        """All keys of an app, revoked ones too."""
        return await self._store.find(AppKey, {"app_id": app_id}, order_by="app_key")


def _or_empty(check: Callable[[str], str], value: str) -> str:
    try:
        return check(value) if value else ""
    except ProtocolError:
        return ""


def _wished_username(*wishes: str) -> tuple[str, str]:
    """The first wish that makes a user name, spaces becoming underscores; two empty strings for none."""
    for wish in wishes:
        try:
            return auth.checked_username("_".join(wish.split()))
        except HubbubError:
            continue
    return "", ""
