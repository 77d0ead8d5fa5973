"""Accounts: who may sign in, as what, and until when. A service over the Store; the rules are in auth.py.

Every method takes or finds the app it works in and never reaches into another: what belongs to another app
is `not_found`, as if it did not exist. Profiles are made here and then changed only by the user's own actor,
so `checked_profile` only checks what is to be sent there.

Answers of `authenticate` are kept for CACHE_S and thrown away when this process revokes something. What
another process revokes (the operator's command line) takes effect when the cache runs out, and open
connections are closed by `run`, which looks at all of them every WATCH_S.
"""

import time
from collections import OrderedDict
from collections.abc import Callable, Iterable, Sequence
from typing import Final

import msgspec
import structlog
import trio

from protocol.commands import UpdateProfile
from protocol.errors import Conflict, HubbubError, ProtocolError, Refused, Unavailable
from protocol.records import (
    App,
    AppKey,
    Credential,
    Disabled,
    FileRow,
    Insert,
    Op,
    Put,
    Remove,
    Session,
    SessionUse,
    User,
)
from protocol.types import DeviceSession, Profile
from server import auth
from server.identity import Identity
from server.passwords import Passwords
from server.ratelimit import AddressRates, Rate
from storage.store import Store

DEFAULT_APP_ID: Final = "default"
CACHE_S: Final = 3.0  # how long a user disabled by another process can still sign in
CACHE_COUNT: Final = 20_000  # some 1 KB each
WATCH_S: Final = 5.0  # how long such a user's open connections can outlive that
USE_GRAIN_MS: Final = 600_000  # "last seen" in the list of sessions is right to ten minutes
IDLE_END_MS: Final = 90 * 24 * 3600 * 1000  # a log-in that nobody used for a season is a lost phone
MAX_BOTS_PER_USER: Final = 20
MAX_SESSIONS_PER_USER: Final = 100  # the ones used longest ago end
FIND_CHUNK: Final = 1000  # the most values of one Store.find_many

log: structlog.stdlib.BoundLogger = structlog.get_logger("accounts")


class SignedIn(msgspec.Struct, frozen=True):
    """A new log-in and its token, which exists nowhere else."""

    identity: Identity
    token: str


class AccountRates(msgspec.Struct, frozen=True):
    """Failures and sign-ups that are let through, for one name or one address."""

    failures_per_name: Rate = Rate(1 / 60, 10)  # 1,440 guesses a day find no password that passed our rule
    failures_per_address: Rate = Rate(1 / 10, 50)  # an office behind one address
    sign_ups_per_address: Rate = Rate(1 / 30, 20)  # a class room that starts together


def wall_clock_ms() -> int:
    """Unix time in milliseconds."""
    return time.time_ns() // 1_000_000


def profile_of(user: User) -> Profile:
    """What other users of the app may see of a user."""
    return Profile(
        user_id=user.user_id,
        username=user.username,
        name=user.name,
        avatar=user.avatar,
        language=user.language,
        time_zone=user.time_zone,
        is_bot=user.is_bot,
    )


class Accounts:
    """Sign up, sign in, prove who one is, and all that an operator does to accounts."""

    def __init__(
        self,
        store: Store,
        server_secret: bytes,
        *,
        passwords: Passwords | None = None,
        rates: AccountRates | None = None,
        is_sign_up_open: bool = True,
        on_session_revoked: Callable[[str, str], None] | None = None,
        clock: Callable[[], int] = wall_clock_ms,
    ) -> None:
        """`on_session_revoked(session_id, user_id)` closes that log-in's connections; it must not raise."""
        rates = rates or AccountRates()
        self.on_session_revoked: Callable[[str, str], None] = on_session_revoked or (lambda *_: None)
        self.server_secret = server_secret
        self._store = store
        self._passwords = passwords or Passwords()
        self._is_sign_up_open = is_sign_up_open
        self._clock = clock
        self._cache: OrderedDict[str, tuple[Identity, float]] = OrderedDict()
        self._uses: OrderedDict[str, SessionUse] = OrderedDict()  # of log-ins used lately
        self._unwritten_uses: set[str] = set()  # their session ids
        self._name_failures = AddressRates(rates.failures_per_name)
        self._address_failures = AddressRates(rates.failures_per_address)
        self._sign_ups = AddressRates(rates.sign_ups_per_address)

    # -- proving who one is -------------------------------------------------------------------------

    async def authenticate(self, token: str) -> Identity:
        """Find who the bearer of a token is. Raises: Refused(unauthenticated)."""
        if not token or len(token) > auth.MAX_TOKEN_CHARS:
            raise Refused("unauthenticated")
        now_ms = self._clock()
        digest = auth.token_hash(token)
        cached = self._cache.get(digest)
        if cached is not None and cached[1] > trio.current_time():
            identity = cached[0]
            if identity.expires_at_ms and identity.expires_at_ms <= now_ms:
                raise Refused("unauthenticated", "The token has expired.")
        else:
            if auth.is_jwt(token):
                identity = await self._authenticate_jwt(token, digest, now_ms)
            else:
                identity = await self._authenticate_session(digest, now_ms)
            self._cache[digest] = (identity, trio.current_time() + CACHE_S)
            self._cache.move_to_end(digest)
            if len(self._cache) > CACHE_COUNT:
                self._cache.popitem(last=False)
        if identity.kind != "jwt":
            self._note_use(identity, now_ms)
        return identity

    async def _authenticate_session(self, digest: str, now_ms: int) -> Identity:
        found = await self._store.find(Session, {"token_hash": digest}, limit=1)
        if not found:
            raise Refused("unauthenticated")
        session = found[0]
        if 0 < session.expires_at_ms <= now_ms:
            raise Refused("unauthenticated", "The session has ended; log in again.")
        user = await self._store.get(User, session.user_id)
        if user is None or await self._store.get(Disabled, session.user_id):
            raise Refused("unauthenticated", "This account is disabled.")
        if not user.is_bot and not session.expires_at_ms:
            use = self._uses.get(session.session_id) or await self._store.get(SessionUse, session.session_id)
            last_ms = max(session.created_at_ms, use.last_seen_ms if use else 0)
            if last_ms + IDLE_END_MS <= now_ms:
                raise Refused("unauthenticated", "The session was not used for 90 days; log in again.")
            if use is not None:
                self._uses.setdefault(session.session_id, use)
        return _identity(user, session)

    async def _authenticate_jwt(self, token: str, digest: str, now_ms: int) -> Identity:
        key = await self._store.get(AppKey, auth.jwt_key_id(token))
        if key is None or key.revoked_at_ms:
            raise Refused("unauthenticated", "The token's kid is not a working app key.")
        claims = auth.verify_jwt(token, auth.app_secret(self.server_secret, key.app_key), now_ms)
        user, _ = await self.provision(
            key.app_id,
            claims.sub,
            username=claims.username,
            name=claims.name,
            avatar=claims.avatar,
            language=claims.language,
            time_zone=claims.time_zone,
        )
        if await self._store.get(Disabled, user.user_id):
            raise Refused("unauthenticated", "This account is disabled.")
        session_id = f"j_{digest[:32]}"
        return Identity(
            user=user,
            app_id=key.app_id,
            session_id=session_id,
            expires_at_ms=int(claims.exp * 1000),
            kind="jwt",
            app_key=key.app_key,
        )

    async def authenticate_app(self, app_key: str, secret: str) -> AppKey:
        """Find the app that an app key and its secret stand for. Raises: Refused(unauthenticated)."""
        is_right = auth.is_app_secret(self.server_secret, app_key, secret)  # first: the same time for all
        key = await self._store.get(AppKey, app_key) if is_right else None
        if key is None or key.revoked_at_ms:
            raise Refused("unauthenticated", "The app key or its secret is wrong, or the key was revoked.")
        return key

    async def act_as(self, key: AppKey, user_id: str) -> Identity:
        """Let an app's backend act as one of its users. Raises: Refused(user_not_found, forbidden)."""
        user = await self.user_of(key.app_id, user_id)
        if await self._store.get(Disabled, user_id):
            raise Refused("forbidden", "This account is disabled.")
        return Identity(
            user=user,
            app_id=key.app_id,
            session_id=f"a_{key.app_key}",
            kind="app_key",
            app_key=key.app_key,
        )

    def _forget(self, is_meant: Callable[[Identity], bool]) -> None:
        for digest in [digest for digest, (identity, _) in self._cache.items() if is_meant(identity)]:
            del self._cache[digest]

    def forget_user(self, user_id: str) -> None:
        """Read this user's row anew at the next request; called when the profile has changed."""
        self._forget(lambda identity: identity.user.user_id == user_id)

    def _revoked(self, sessions: Iterable[Session]) -> None:
        self._end({session.session_id: session.user_id for session in sessions})

    def _end(self, ended: dict[str, str]) -> None:
        """Forget log-ins (session id -> user id) and close their connections."""
        if not ended:
            return
        self._forget(lambda identity: identity.session_id in ended)
        for session_id, user_id in ended.items():
            self._uses.pop(session_id, None)
            self.on_session_revoked(session_id, user_id)

    # -- sign up, log in, log out -------------------------------------------------------------------

    async def sign_up(
        self,
        app_id: str,
        username: str,
        password: str,
        *,
        name: str = "",
        device_name: str = "",
        address: str = "",
    ) -> SignedIn:
        """Make an account and sign in to it.

        Raises: ProtocolError(bad_field); Refused(not_found, forbidden, name_taken, weak_password);
        Unavailable(rate_limited, overloaded) and what the store raises.
        """
        app = await self.app_of(app_id or DEFAULT_APP_ID)
        if not (self._is_sign_up_open and app.allow_sign_up):
            raise Refused("forbidden", "Sign-up is closed here; ask the operator for an account.")
        shown, key = auth.checked_username(username)
        auth.check_password(password, shown)
        shown_name = auth.checked_name(name or shown)
        now = trio.current_time()
        if address and not self._sign_ups.take(address, now):
            wait_s = self._sign_ups.retry_after_s(address, now)
            raise Unavailable("rate_limited", "Too many accounts from this address.", retry_after_s=wait_s)
        if await self._store.find(User, {"app_id": app.app_id, "username_key": key}, limit=1):
            raise Refused("name_taken")  # before the costly hash; the index decides in the end
        user = User(
            user_id=auth.new_id("u"),
            app_id=app.app_id,
            username=shown,
            username_key=key,
            name=shown_name,
            name_key=auth.fold(shown_name),
            created_at_ms=self._clock(),
        )
        credential = await self._first_credential(user.user_id, password)
        session, token = self._new_session(user, device_name)
        await self._insert_user(user, [Insert(credential), Insert(session)])
        log.info("user_signed_up", app_id=app.app_id, user_id=user.user_id)
        return SignedIn(_identity(user, session), token)

    async def log_in(
        self, app_id: str, username: str, password: str, *, device_name: str = "", address: str = ""
    ) -> SignedIn:
        """Sign in with a password.

        An unknown name costs as much time as a wrong password and gets the same answer.
        Raises: Refused(bad_credentials), Unavailable(rate_limited, overloaded).
        """
        app_id, key = app_id or DEFAULT_APP_ID, auth.fold(username.strip())
        name_key = f"{app_id}/{key}"
        self._check_failures(name_key, address)
        found = await self._store.find(User, {"app_id": app_id, "username_key": key}, limit=1)
        user = found[0] if found else None
        credential = await self._credential(user.user_id) if user else None
        is_right, new_hash = await self._passwords.verify(
            credential.password_hash if credential else "", password[: auth.MAX_PASSWORD_CHARS + 1]
        )
        if user is None or credential is None or not is_right:
            self._count_failure(name_key, address)
            raise Refused("bad_credentials")
        if await self._store.get(Disabled, user.user_id):
            raise Refused("forbidden", "This account is disabled; ask the operator.")
        session, token = self._new_session(user, device_name)
        dropped = await self._surplus_sessions(user.user_id)
        await self._store.commit([Insert(session), *_session_removals(dropped)])
        self._revoked(dropped)
        if new_hash:
            await self._rehash(credential, new_hash)
        log.info("user_logged_in", app_id=app_id, user_id=user.user_id, session_id=session.session_id)
        return SignedIn(_identity(user, session), token)

    def _check_failures(self, name_key: str, address: str) -> None:
        """Refuse who has failed too often.

        Asked before and charged after the check, so that the right password costs nothing. Attempts at once
        can slip through while there is one left, but never more than wait for hashing.
        """
        now = trio.current_time()
        wait_s = self._name_failures.retry_after_s(name_key, now)
        if address:
            wait_s = max(wait_s, self._address_failures.retry_after_s(address, now))
        if wait_s:
            raise Unavailable("rate_limited", "Too many failed log-ins; wait a little.", retry_after_s=wait_s)

    def _count_failure(self, name_key: str, address: str) -> None:
        now = trio.current_time()
        self._name_failures.take(name_key, now)
        if address:
            self._address_failures.take(address, now)

    async def log_out(self, identity: Identity) -> None:
        """End the log-in that the caller came by. Raises: Refused(forbidden) for a JWT."""
        await self.revoke_session(identity, identity.session_id)

    async def revoke_session(self, identity: Identity, session_id: str) -> None:
        """End one of the caller's own log-ins. Raises: Refused(not_found), Refused(forbidden) for a JWT."""
        if identity.kind in ("jwt", "app_key") and session_id == identity.session_id:
            raise Refused("forbidden", "This token was given by the app's backend and ends by itself.")
        session = await self._store.get(Session, session_id)
        if session is None or session.user_id != identity.user_id:
            raise Refused("not_found", "There is no such session.")
        await self._store.commit(_session_removals([session]))
        self._revoked([session])
        log.info("session_revoked", user_id=session.user_id, session_id=session_id)

    async def list_sessions(self, identity: Identity) -> list[DeviceSession]:
        """List the caller's log-ins, the latest used first."""
        sessions = await self._store.find(Session, {"user_id": identity.user_id})
        uses = await self._last_uses(identity.user_id)
        items = [
            DeviceSession(
                session_id=session.session_id,
                device_name=session.device_name,
                created_at_ms=session.created_at_ms,
                last_seen_ms=max(uses.get(session.session_id, 0), session.created_at_ms),
                expires_at_ms=session.expires_at_ms,
                current=session.session_id == identity.session_id,
            )
            for session in sessions
        ]
        items.sort(key=lambda item: (item.current, item.last_seen_ms), reverse=True)
        return items

    async def change_password(
        self, identity: Identity, old_password: str, new_password: str, *, address: str = ""
    ) -> None:
        """Change the caller's password and end every other log-in.

        Raises: Refused(bad_credentials, weak_password, bot_not_allowed),
        Unavailable(rate_limited, overloaded).
        """
        user = identity.user
        if user.is_bot:
            raise Refused("bot_not_allowed", "A bot has a token instead of a password.")
        auth.check_password(new_password, user.username)
        name_key = f"{user.app_id}/{user.username_key}"
        self._check_failures(name_key, address)
        credential = await self._credential(user.user_id)
        is_right, _ = await self._passwords.verify(
            credential.password_hash if credential else "", old_password[: auth.MAX_PASSWORD_CHARS + 1]
        )
        if credential is None or not is_right:
            self._count_failure(name_key, address)
            raise Refused("bad_credentials", "The old password is wrong.")
        await self._set_password(user.user_id, credential, new_password, keep=identity.session_id)

    async def _set_password(
        self, user_id: str, old: Credential | None, password: str, *, keep: str = ""
    ) -> None:
        new_hash = await self._passwords.hash(password)
        sessions = await self._store.find(Session, {"user_id": user_id})
        ended = [session for session in sessions if session.session_id != keep]
        await self._store.commit([*self._replacement(user_id, old, new_hash), *_session_removals(ended)])
        self._revoked(ended)
        log.info("password_changed", user_id=user_id, ended_session_count=len(ended))

    def _replacement(self, user_id: str, old: Credential | None, password_hash: str) -> list[Op]:
        version = old.version if old else 0
        new = Credential(
            user_id=user_id,
            version=version + 1,
            password_hash=password_hash,
            changed_at_ms=self._clock(),
        )
        return [Insert(new), Remove(Credential, {"user_id": user_id, "version": version})]

    async def _rehash(self, old: Credential, new_hash: str) -> None:
        try:
            await self._store.commit(self._replacement(old.user_id, old, new_hash))
        except HubbubError as exc:
            # The password was changed meanwhile, or the store is busy: the next log-in tries again.
            log.info("password_not_rehashed", user_id=old.user_id, code=exc.code)

    async def _credential(self, user_id: str) -> Credential | None:
        found = await self._store.find(Credential, {"user_id": user_id}, order_by="version")
        return found[-1] if found else None

    async def _first_credential(self, user_id: str, password: str) -> Credential:
        return Credential(
            user_id=user_id,
            version=1,
            password_hash=await self._passwords.hash(password),
            changed_at_ms=self._clock(),
        )

    def _new_session(self, user: User, device_name: str, *, expires_at_ms: int = 0) -> tuple[Session, str]:
        token = auth.new_token()
        session = Session(
            session_id=auth.new_id("s"),
            user_id=user.user_id,
            app_id=user.app_id,
            token_hash=auth.token_hash(token),
            device_name=" ".join(device_name.split())[:100],
            created_at_ms=self._clock(),
            expires_at_ms=expires_at_ms,
        )
        return session, token

    async def _surplus_sessions(self, user_id: str) -> list[Session]:
        """What must end so that one more fits: those that have ended anyway, then the longest unused."""
        sessions = await self._store.find(Session, {"user_id": user_id})
        now_ms = self._clock()
        ended = [session for session in sessions if 0 < session.expires_at_ms <= now_ms]
        rest = [session for session in sessions if not 0 < session.expires_at_ms <= now_ms]
        excess = len(rest) - (MAX_SESSIONS_PER_USER - 1)
        if excess > 0:
            uses = await self._last_uses(user_id)
            rest.sort(key=lambda session: max(session.created_at_ms, uses.get(session.session_id, 0)))
            ended += rest[:excess]
        return ended

    # -- when log-ins were used, and which have ended -----------------------------------------------

    async def _last_uses(self, user_id: str) -> dict[str, int]:
        rows = await self._store.find(SessionUse, {"user_id": user_id})
        uses = {row.session_id: row.last_seen_ms for row in rows}
        for use in self._uses.values():
            if use.user_id == user_id:
                uses[use.session_id] = max(uses.get(use.session_id, 0), use.last_seen_ms)
        return uses

    def _note_use(self, identity: Identity, now_ms: int) -> None:
        """Remember that a log-in was used; `run` writes it, many in one transaction."""
        session_id = identity.session_id
        last = self._uses.get(session_id)
        if last is not None and last.last_seen_ms + USE_GRAIN_MS > now_ms:
            return
        self._uses[session_id] = SessionUse(
            session_id=session_id, user_id=identity.user_id, last_seen_ms=now_ms
        )
        self._uses.move_to_end(session_id)
        self._unwritten_uses.add(session_id)
        if len(self._uses) > CACHE_COUNT:
            oldest, _ = self._uses.popitem(last=False)
            self._unwritten_uses.discard(oldest)

    async def flush_uses(self) -> None:
        """Write when log-ins were last used; called by `run`, and once more when the node drains.

        Raises what Store.commit raises; what was not written stays noted.
        """
        while self._unwritten_uses:
            batch = [self._unwritten_uses.pop() for _ in range(min(500, len(self._unwritten_uses)))]
            rows = [self._uses[session_id] for session_id in batch if session_id in self._uses]
            try:
                await self._store.commit([Put(row) for row in rows])
            except HubbubError:
                self._unwritten_uses.update(session_id for session_id in batch if session_id in self._uses)
                raise

    async def find_ended(self, identities: Sequence[Identity]) -> list[Identity]:
        """Find those among live connections' identities that could not sign in again."""
        now_ms = self._clock()
        sessions: set[str] = set()
        disabled: set[str] = set()
        revoked_keys: set[str] = set()
        for start in range(0, len(identities), FIND_CHUNK):
            chunk = identities[start : start + FIND_CHUNK]
            stored_ids = [item.session_id for item in chunk if item.kind in ("session", "bot")]
            if stored_ids:
                rows = await self._store.find_many(Session, "session_id", stored_ids)
                sessions.update(row.session_id for row in rows)
            banned = await self._store.find_many(Disabled, "user_id", [item.user_id for item in chunk])
            disabled.update(row.user_id for row in banned)
            keys = sorted({item.app_key for item in chunk if item.app_key})
            if keys:
                key_rows = await self._store.find_many(AppKey, "app_key", keys)
                revoked_keys.update(set(keys) - {row.app_key for row in key_rows if not row.revoked_at_ms})
        return [
            item
            for item in identities
            if item.user_id in disabled
            or 0 < item.expires_at_ms <= now_ms
            or item.app_key in revoked_keys
            or (item.kind in ("session", "bot") and item.session_id not in sessions)
        ]

    async def run(self, live: Callable[[], Sequence[Identity]]) -> None:
        """Close what has ended and note what was used, every WATCH_S, until cancelled.

        `live` gives the identities of all open connections. Whatever ended a log-in (its time, another
        process, another node), `on_session_revoked` closes them. A failing store is waited for.
        """
        while True:
            await trio.sleep(WATCH_S)
            try:
                ended = {item.session_id: item.user_id for item in await self.find_ended(live())}
                self._end(ended)
                await self.flush_uses()
            except HubbubError as exc:
                log.warning("accounts_not_watched", code=exc.code)

    # -- users --------------------------------------------------------------------------------------

    async def app_of(self, app_id: str) -> App:
        """Raises: Refused(not_found)."""
        app = await self._store.get(App, app_id)
        if app is None:
            raise Refused("not_found", "There is no such app.")
        return app

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

    async def _check_avatar(self, app_id: str, file_id: str) -> None:
        row = await self._store.get(FileRow, file_id)
        if row is None or row.app_id != app_id:
            raise Refused("file_not_found", "The avatar must be an uploaded file of this app.")
        if not row.width:
            raise Refused("bad_image", "The avatar must be a picture.")

    async def _insert_user(self, user: User, ops: Sequence[Op]) -> None:
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
    ) -> tuple[User, bool]:
        """Find the user whom an app's backend knows by that id, or make it; True where it was made.

        The backend is trusted with its own users, so a value that cannot be had (a taken user name, an
        unknown time zone) is replaced or left empty rather than keeping the user out.
        """
        for _ in range(4):  # each turn settles one race for the id or for a name
            found = await self._store.find(User, {"app_id": app_id, "external_id": external_id}, limit=1)
            if found:
                return found[0], False
            shown, key = _wished_username(username, name, external_id)
            if not key or await self._store.find(User, {"app_id": app_id, "username_key": key}, limit=1):
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
            return user, True
        raise Unavailable("busy", "The user is being made by several requests at once.", retry_after_s=1.0)

    async def _avatar_or_empty(self, app_id: str, file_id: str) -> str:
        try:
            if file_id:
                await self._check_avatar(app_id, file_id)
        except Refused:
            return ""
        return file_id

    async def issue_token(self, app_id: str, user_id: str, *, ttl_s: int, device_name: str = "") -> SignedIn:
        """Sign a user in for an app's backend. Raises: Refused(user_not_found, forbidden)."""
        user = await self.user_of(app_id, user_id)
        if await self._store.get(Disabled, user_id):
            raise Refused("forbidden", "This account is disabled.")
        if user.is_bot:
            raise Refused("bot_not_allowed", "A bot has its own token; rotate it instead.")
        expires_at_ms = self._clock() + ttl_s * 1000
        session, token = self._new_session(user, device_name, expires_at_ms=expires_at_ms)
        dropped = await self._surplus_sessions(user_id)
        await self._store.commit([Insert(session), *_session_removals(dropped)])
        self._revoked(dropped)
        return SignedIn(_identity(user, session), token)

    # -- bots ---------------------------------------------------------------------------------------

    async def create_bot(
        self, app_id: str, username: str, *, name: str = "", owner: User | None = None
    ) -> tuple[User, str]:
        """Make a bot and its token; without an owner it belongs to the app itself.

        Raises: ProtocolError(bad_field), Refused(name_taken, bot_not_allowed, forbidden).
        """
        if owner is not None:
            if owner.is_bot:
                raise Refused("bot_not_allowed", "A bot cannot make bots.")
            if len(await self.list_bots(app_id, owner_id=owner.user_id)) >= MAX_BOTS_PER_USER:
                raise Refused("forbidden", f"A user has at most {MAX_BOTS_PER_USER} bots; delete one first.")
        shown, key = auth.checked_username(username)
        shown_name = auth.checked_name(name or shown)
        bot = User(
            user_id=auth.new_id("u"),
            app_id=app_id,
            username=shown,
            username_key=key,
            name=shown_name,
            name_key=auth.fold(shown_name),
            is_bot=True,
            owner_id=owner.user_id if owner else "",
            created_at_ms=self._clock(),
        )
        session, token = self._new_session(bot, "bot token")
        await self._insert_user(bot, [Insert(session)])
        log.info("bot_created", app_id=app_id, user_id=bot.user_id, owner_id=bot.owner_id)
        return bot, token

    async def list_bots(self, app_id: str, *, owner_id: str | None = None) -> list[User]:
        """The working bots of one user, or of the whole app."""
        where: dict[str, str | int | None] = {"app_id": app_id, "is_bot": 1}
        if owner_id is not None:
            where = {"owner_id": owner_id}
        rows = await self._store.find(User, where, order_by="user_id")
        banned = await self.disabled_among([row.user_id for row in rows])
        return [row for row in rows if row.app_id == app_id and row.is_bot and row.user_id not in banned]

    async def bot_of(self, app_id: str, bot_id: str, *, owner_id: str | None = None) -> User:
        """Raises: Refused(user_not_found), where it is not that owner's as well."""
        bot = await self.user_of(app_id, bot_id)
        if not bot.is_bot or (owner_id is not None and bot.owner_id != owner_id):
            raise Refused("user_not_found", "There is no such bot.")
        if await self._store.get(Disabled, bot_id):
            raise Refused("user_not_found", "There is no such bot.")
        return bot

    async def rotate_bot_token(self, bot: User) -> str:
        """Give a bot a new token; the old ones and their connections end."""
        session, token = self._new_session(bot, "bot token")
        old = await self._store.find(Session, {"user_id": bot.user_id})
        await self._store.commit([*_session_removals(old), Insert(session)])
        self._revoked(old)
        log.info("bot_token_rotated", user_id=bot.user_id)
        return token

    # -- what an operator does ----------------------------------------------------------------------

    async def create_user(self, app_id: str, username: str, password: str, *, name: str = "") -> User:
        """Make an account whether sign-up is open or not; reserved names are the operator's to give.

        Raises: ProtocolError(bad_field); Refused(not_found, name_taken, weak_password).
        """
        await self.app_of(app_id)
        shown, key = auth.checked_username(username, allow_reserved=True)
        shown_name = auth.checked_name(name or shown)
        auth.check_password(password, shown)
        user = User(
            user_id=auth.new_id("u"),
            app_id=app_id,
            username=shown,
            username_key=key,
            name=shown_name,
            name_key=auth.fold(shown_name),
            created_at_ms=self._clock(),
        )
        await self._insert_user(user, [Insert(await self._first_credential(user.user_id, password))])
        return user

    async def find_user(self, app_id: str, name_or_id: str) -> User:
        """Find a user by id or user name, as an operator types it. Raises: Refused(user_not_found)."""
        user = await self._store.get(User, name_or_id)
        if user is None or user.app_id != app_id:
            where: dict[str, str | int | None] = {"app_id": app_id, "username_key": auth.fold(name_or_id)}
            found = await self._store.find(User, where, limit=1)
            if not found:
                raise Refused("user_not_found", f"There is no user {name_or_id!r} in the app {app_id!r}.")
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

    async def disable_user(self, user: User) -> None:
        """Keep a user or bot out: log-ins end now, connections in this node now, elsewhere within WATCH_S."""
        sessions = await self._store.find(Session, {"user_id": user.user_id})
        await self._store.commit(
            [Put(Disabled(user_id=user.user_id, at_ms=self._clock())), *_session_removals(sessions)]
        )
        self._revoked(sessions)
        self.forget_user(user.user_id)
        log.info("user_disabled", app_id=user.app_id, user_id=user.user_id)

    async def enable_user(self, user: User) -> None:
        """Let a user in again; a bot needs a new token."""
        await self._store.commit([Remove(Disabled, {"user_id": user.user_id})])
        log.info("user_enabled", app_id=user.app_id, user_id=user.user_id)

    async def set_password(self, user: User, password: str) -> None:
        """Give a user another password and end all log-ins.

        Raises: Refused(weak_password, bot_not_allowed).
        """
        if user.is_bot:
            raise Refused("bot_not_allowed", "A bot has a token instead of a password.")
        auth.check_password(password, user.username)
        await self._set_password(user.user_id, await self._credential(user.user_id), password)

    # -- apps and their keys ------------------------------------------------------------------------

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

    async def create_app_key(self, app_id: str, name: str = "") -> tuple[AppKey, str]:
        """Make a key for an app's backend, and its secret. Raises: Refused(not_found)."""
        await self.app_of(app_id)
        key = AppKey(
            app_key=auth.new_id("k"),
            app_id=app_id,
            name=auth.checked_name(name) if name else "",
            created_at_ms=self._clock(),
        )
        await self._store.commit([Insert(key)])
        log.info("app_key_created", app_id=app_id, app_key=key.app_key)
        return key, auth.app_secret(self.server_secret, key.app_key)

    async def list_app_keys(self, app_id: str) -> list[AppKey]:
        """All keys of an app, revoked ones too."""
        return await self._store.find(AppKey, {"app_id": app_id}, order_by="app_key")

    async def revoke_app_key(self, app_id: str, app_key: str) -> None:
        """End a key, and with it every token signed with its secret. Raises: Refused(not_found)."""
        key = await self._store.get(AppKey, app_key)
        if key is None or key.app_id != app_id:
            raise Refused("not_found", f"There is no key {app_key!r} in the app {app_id!r}.")
        if not key.revoked_at_ms:
            await self._store.commit([Put(msgspec.structs.replace(key, revoked_at_ms=self._clock()))])
        self._forget(lambda identity: identity.app_key == app_key)
        log.info("app_key_revoked", app_id=app_id, app_key=app_key)


def _identity(user: User, session: Session) -> Identity:
    return Identity(
        user=user,
        app_id=session.app_id,
        session_id=session.session_id,
        expires_at_ms=session.expires_at_ms,
        kind="bot" if user.is_bot else "session",
    )


def _session_removals(sessions: Iterable[Session]) -> list[Op]:
    ops: list[Op] = []
    for session in sessions:
        ops.append(Remove(Session, {"session_id": session.session_id}))
        ops.append(Remove(SessionUse, {"session_id": session.session_id}))
    return ops


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
