"""Log-ins: whom a token stands for, on which device, and until when. The rules are in auth.py.

Answers of `authenticate` are kept for CACHE_S and thrown away when this process revokes something. What
another process revokes (the operator's command line) takes effect when the cache runs out, and open
connections are closed by `run`, which looks at all of them every WATCH_S.
"""

from collections import OrderedDict
from collections.abc import Callable, Iterable, Sequence
from typing import Final

import msgspec
import structlog
import trio

from protocol.errors import HubbubError, Refused
from protocol.records import AppKey, Disabled, Insert, Op, Put, Remove, Session, SessionUse, Update, User
from protocol.types import DeviceSession
from server import auth
from server.clock import wall_clock_ms
from server.directory import FIND_CHUNK, Directory
from server.identity import Identity
from storage.store import Store

CACHE_S: Final = 3.0  # how long a user disabled by another process can still sign in
KEY_CACHE_S: Final = 1.0  # an app key revoked by another process lets in for so much longer
KEY_CACHE_COUNT: Final = 1_000  # app keys in use at once
CACHE_COUNT: Final = 20_000  # some 1 KB each
WATCH_S: Final = 5.0  # how long such a user's open connections can outlive that
USE_GRAIN_MS: Final = 600_000  # "last seen" in the list of sessions is right to ten minutes
IDLE_END_MS: Final = 90 * 24 * 3600 * 1000  # a log-in that nobody used for a season is a lost phone
MAX_SESSIONS_PER_USER: Final = 100  # the ones used longest ago end

log: structlog.stdlib.BoundLogger = structlog.get_logger("log_ins")


class SignedIn(msgspec.Struct, frozen=True):
    """A new log-in and its token, which exists nowhere else."""

    identity: Identity
    token: str


class LogIns:
    """Prove who one is; list, end and watch log-ins."""

    def __init__(
        self,
        store: Store,
        directory: Directory,
        server_secret: bytes,
        *,
        on_session_revoked: Callable[[str, str], None] | None = None,
        clock: Callable[[], int] = wall_clock_ms,
    ) -> None:
        """`on_session_revoked(session_id, user_id)` closes that log-in's connections; it must not raise."""
        self.on_session_revoked: Callable[[str, str], None] = on_session_revoked or (lambda *_: None)
        self.server_secret = server_secret
        self._store = store
        self._directory = directory
        self._clock = clock
        self._cache: OrderedDict[str, tuple[Identity, float]] = OrderedDict()
        self._digests: dict[str, set[str]] = {}  # the cache's keys by user
        self._app_keys: dict[str, tuple[AppKey, float]] = {}  # working ones, and until when they are believed
        self._key_revocation_count = 0
        self._uses: OrderedDict[str, SessionUse] = OrderedDict()  # of log-ins used lately
        self._unwritten_uses: set[str] = set()  # their session ids

    # -- proving who one is ------------------------------------------------------------------------------

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
            self._keep(digest, identity)
        if identity.kind != "jwt":
            self._note_use(identity, now_ms)
        return identity

    def _keep(self, digest: str, identity: Identity) -> None:
        now = trio.current_time()
        self._drop(digest)  # it may have been another's
        self._forget_old(now)
        self._cache[digest] = (identity, now + CACHE_S)
        self._digests.setdefault(identity.user_id, set()).add(digest)
        if len(self._cache) > CACHE_COUNT:
            self._drop(next(iter(self._cache)))

    def _forget_old(self, now: float) -> None:
        """Drop what has run out: a node of many quiet connections would keep 1 KB for each."""
        while self._cache:
            digest, (_, until) = next(iter(self._cache.items()))
            if until > now:
                return
            self._drop(digest)

    def _drop(self, digest: str) -> None:
        kept = self._cache.pop(digest, None)
        if kept is not None:
            user_id = kept[0].user_id
            digests = self._digests[user_id]
            digests.remove(digest)
            if not digests:
                del self._digests[user_id]

    async def _authenticate_session(self, digest: str, now_ms: int) -> Identity:
        found = await self._store.log_in(digest)
        if found is None:
            raise Refused("unauthenticated")
        session, user = found.session, found.user
        if 0 < session.expires_at_ms <= now_ms:
            raise Refused("unauthenticated", "The session has ended; log in again.")
        if user is None or found.is_disabled:
            raise Refused("unauthenticated", "This account is disabled.")
        if not user.is_bot and not session.expires_at_ms:
            use = self._uses.get(session.session_id)
            used_ms = use.last_seen_ms if use is not None else found.last_seen_ms
            if max(session.created_at_ms, used_ms) + IDLE_END_MS <= now_ms:
                raise Refused("unauthenticated", "The session was not used for 90 days; log in again.")
            if used_ms:
                self._uses.setdefault(
                    session.session_id,
                    SessionUse(session_id=session.session_id, user_id=user.user_id, last_seen_ms=used_ms),
                )
        return identity_of(user, session)

    async def _authenticate_jwt(self, token: str, digest: str, now_ms: int) -> Identity:
        key = await self._app_key(auth.jwt_key_id(token))
        claims = auth.verify_jwt(token, auth.app_secret(self.server_secret, key.app_key), now_ms)
        user, _, is_disabled = await self._directory.provision(
            key.app_id,
            claims.sub,
            username=claims.username,
            name=claims.name,
            avatar=claims.avatar,
            language=claims.language,
            time_zone=claims.time_zone,
        )
        if is_disabled:
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

    async def _app_key(self, app_key: str) -> AppKey:
        """Find a working app key, read at most KEY_CACHE_S ago. Raises: Refused(unauthenticated)."""
        kept = self._app_keys.get(app_key)
        if kept is not None and kept[1] > trio.current_time():
            return kept[0]
        self._app_keys.pop(app_key, None)
        until, revocation_count = trio.current_time() + KEY_CACHE_S, self._key_revocation_count
        key = await self._store.get(AppKey, app_key)
        if key is None or key.revoked_at_ms:
            raise Refused("unauthenticated", "The token's kid is not a working app key.")
        if self._key_revocation_count == revocation_count:  # else it may be the one
            if len(self._app_keys) >= KEY_CACHE_COUNT:
                del self._app_keys[next(iter(self._app_keys))]
            self._app_keys[app_key] = (key, until)
        return key

    async def authenticate_app(self, app_key: str, secret: str) -> AppKey:
        """Find the app that an app key and its secret stand for. Raises: Refused(unauthenticated)."""
        is_right = auth.is_app_secret(self.server_secret, app_key, secret)  # first: the same time for all
        key = await self._store.get(AppKey, app_key) if is_right else None
        if key is None or key.revoked_at_ms:
            raise Refused("unauthenticated", "The app key or its secret is wrong, or the key was revoked.")
        return key

    def secret_of(self, app_key: str) -> str:
        """The secret that an app key has, if it exists: to check a signature made with it."""
        return auth.app_secret(self.server_secret, app_key)

    async def act_as(self, key: AppKey, user_id: str) -> Identity:
        """Let an app's backend act as one of its users. Raises: Refused(user_not_found, forbidden)."""
        user = await self._directory.user_of(key.app_id, user_id)
        if await self._store.get(Disabled, user_id):
            raise Refused("forbidden", "This account is disabled.")
        return Identity(
            user=user,
            app_id=key.app_id,
            session_id=f"a_{key.app_key}",
            kind="app_key",
            app_key=key.app_key,
        )

    # -- beginning and ending ----------------------------------------------------------------------------

    async def begin(self, user: User, device_name: str, *, expires_at_ms: int = 0) -> SignedIn:
        """Make a log-in and store it; the ones beyond MAX_SESSIONS_PER_USER end."""
        session, token = self.draft(user, device_name, expires_at_ms=expires_at_ms)
        dropped = await self._surplus(user.user_id)
        await self._store.commit([Insert(session), *removals(dropped)])
        self.revoked(dropped)
        return SignedIn(identity_of(user, session), token)

    def draft(self, user: User, device_name: str, *, expires_at_ms: int = 0) -> tuple[Session, str]:
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
        await self._store.commit(removals([session]))
        self.revoked([session])
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

    async def _surplus(self, user_id: str) -> list[Session]:
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

    async def take_back(self, identity: Identity) -> None:
        """End a log-in that should not have begun; fine if it has ended already."""
        await self._store.commit(
            [Remove(table, {"session_id": identity.session_id}) for table in (Session, SessionUse)]
        )
        self._end({identity.session_id: identity.user_id})

    def revoked(self, sessions: Iterable[Session]) -> None:
        self._end({session.session_id: session.user_id for session in sessions})

    def _end(self, ended: dict[str, str]) -> None:
        """Forget log-ins (session id -> user id) and close their connections."""
        if not ended:
            return
        for user_id in set(ended.values()):
            for digest in tuple(self._digests.get(user_id, ())):
                if self._cache[digest][0].session_id in ended:
                    self._drop(digest)
        for session_id, user_id in ended.items():
            self._uses.pop(session_id, None)
            self.on_session_revoked(session_id, user_id)

    def forget_user(self, user_id: str) -> None:
        """Read this user's row anew at the next request; called when the profile has changed."""
        for digest in tuple(self._digests.get(user_id, ())):
            self._drop(digest)

    def forget_key(self, app_key: str) -> None:
        """Let nobody in by a revoked app key. Looks at everybody: an operator does it now and then."""
        self._key_revocation_count += 1
        self._app_keys.pop(app_key, None)
        for digest in [digest for digest, (kept, _) in self._cache.items() if kept.app_key == app_key]:
            self._drop(digest)

    # -- when log-ins were used, and which have ended ----------------------------------------------------

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
            self._forget_old(trio.current_time())
            try:
                ended = await self.find_ended(live())
                for item in ended:
                    self._app_keys.pop(item.app_key, None)  # it may be why
                self._end({item.session_id: item.user_id for item in ended})
                await self.flush_uses()
            except HubbubError as exc:
                log.warning("log_ins_not_watched", code=exc.code)


def removals(sessions: Iterable[Session]) -> list[Op]:
    """What takes log-ins out of the store; after the commit, `LogIns.revoked` tells of it."""
    ops: list[Op] = []
    for session in sessions:
        ops.append(Remove(Session, {"session_id": session.session_id}))
        ops.append(Remove(SessionUse, {"session_id": session.session_id}))
    return ops


def removals_of(user_id: str, keep: str = "") -> list[Op]:
    """What takes out all log-ins that a user has when it is committed, but for the one to keep.

    Not a list of those found before, as one may begin meanwhile. The kept row steps aside within the
    transaction: written anew, it would come back where it has just been ended.
    """
    ops: list[Op] = []
    for table in (Session, SessionUse):
        removal = Remove(table, {"user_id": user_id})
        if keep:
            aside = Update(table, {"session_id": keep, "user_id": user_id}, {"user_id": f"kept {keep}"})
            back = Update(table, {"user_id": f"kept {keep}"}, {"user_id": user_id})
            ops += [aside, removal, back]
        else:
            ops.append(removal)
    return ops


def identity_of(user: User, session: Session) -> Identity:
    """Who has signed in by a stored log-in."""
    return Identity(
        user=user,
        app_id=session.app_id,
        session_id=session.session_id,
        expires_at_ms=session.expires_at_ms,
        kind="bot" if user.is_bot else "session",
    )
