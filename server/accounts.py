"""Accounts: what proves who one is is given and taken away here: passwords, bots' tokens, apps' keys.

For people (sign up, log in, another password), backends and operators alike. Users and apps are found in
directory.py; a log-in, once begun, is looked after by log_ins.py. Whatever ends log-ins ends them in one
transaction with its reason and closes their connections at once.
"""

from collections.abc import Callable
from typing import Final

import msgspec
import structlog
import trio

from protocol.errors import HubbubError, Refused, Unavailable
from protocol.records import AppKey, Credential, Disabled, Insert, Op, Put, Remove, Session, User
from server import auth
from server.clock import wall_clock_ms
from server.directory import DEFAULT_APP_ID, Directory
from server.identity import Identity
from server.log_ins import LogIns, SignedIn, identity_of, removals_of
from server.passwords import Passwords
from server.ratelimit import AddressRates, Rate
from storage.store import Store

MAX_BOTS_PER_USER: Final = 20
# A deleted bot keeps its user name, so it counts for a while: names must not be squatted.
DELETED_BOT_COUNTS_MS: Final = 30 * 24 * 3600 * 1000

log: structlog.stdlib.BoundLogger = structlog.get_logger("accounts")


class AccountRates(msgspec.Struct, frozen=True):
    """Failures and sign-ups that are let through, for one name or one address."""

    failures_per_name: Rate = Rate(1 / 60, 10)  # 1,440 guesses a day find no password that passed our rule
    failures_per_address: Rate = Rate(1 / 10, 50)  # an office behind one address
    sign_ups_per_address: Rate = Rate(1 / 30, 20)  # a class room that starts together


class Accounts:
    """Let people, bots and backends in, and keep them out."""

    def __init__(
        self,
        store: Store,
        directory: Directory,
        log_ins: LogIns,
        *,
        passwords: Passwords | None = None,
        rates: AccountRates | None = None,
        is_sign_up_open: bool = True,
        clock: Callable[[], int] = wall_clock_ms,
    ) -> None:
        rates = rates or AccountRates()
        self._store = store
        self._directory = directory
        self._log_ins = log_ins
        self._passwords = passwords or Passwords()
        self._is_sign_up_open = is_sign_up_open
        self._clock = clock
        self.on_user_changed: Callable[[str], None] = lambda _user_id: None  # disabled, or enabled again
        self._name_failures = AddressRates(rates.failures_per_name)
        self._address_failures = AddressRates(rates.failures_per_address)
        self._sign_ups = AddressRates(rates.sign_ups_per_address)  # and bots, by owner
        self._bot_locks: dict[str, trio.Lock] = {}  # of owners who are making bots now

    # -- sign up and log in ------------------------------------------------------------------------------

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
        app = await self._directory.app_of(app_id or DEFAULT_APP_ID)
        if not (self._is_sign_up_open and app.allow_sign_up):
            raise Refused("forbidden", "Sign-up is closed here; ask the operator for an account.")
        shown, key = auth.checked_username(username)
        auth.check_password(password, shown)
        shown_name = auth.checked_name(name or shown)
        if address:
            self._charge_sign_up(address, "Too many accounts from this address.")
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
        session, token = self._log_ins.draft(user, device_name)
        await self._directory.insert_user(user, [Insert(credential), Insert(session)])
        log.info("user_signed_up", app_id=app.app_id, user_id=user.user_id)
        return SignedIn(identity_of(user, session), token)

    def _charge_sign_up(self, whose: str, message: str) -> None:
        now = trio.current_time()
        if not self._sign_ups.take(whose, now):
            wait_s = self._sign_ups.retry_after_s(whose, now)
            raise Unavailable("rate_limited", message, retry_after_s=wait_s)

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
        done = await self._log_ins.begin(user, device_name)
        if not await self._still_proves(credential, password):
            # The password was changed while it was checked: this log-in came too late to be ended with the
            # others, and the change too late to refuse it.
            await self._log_ins.take_back(done.identity)
            raise Refused("bad_credentials")
        if new_hash:
            await self._rehash(credential, new_hash)
        log.info("user_logged_in", app_id=app_id, user_id=user.user_id, session_id=done.identity.session_id)
        return done

    async def _still_proves(self, checked: Credential, password: str) -> bool:
        """Tell whether a password that was right for `checked` is right for what is stored now."""
        current = await self._credential(checked.user_id)
        if current is None or current.version == checked.version:
            return current is not None
        is_right, _ = await self._passwords.verify(
            current.password_hash, password
        )  # or was it only rehashed?
        return is_right

    async def issue_token(self, app_id: str, user_id: str, *, ttl_s: int, device_name: str = "") -> SignedIn:
        """Sign a user in for an app's backend. Raises: Refused(user_not_found, forbidden)."""
        user = await self._directory.user_of(app_id, user_id)
        if await self._store.get(Disabled, user_id):
            raise Refused("forbidden", "This account is disabled.")
        if user.is_bot:
            raise Refused("bot_not_allowed", "A bot has its own token; rotate it instead.")
        expires_at_ms = self._clock() + ttl_s * 1000
        return await self._log_ins.begin(user, device_name, expires_at_ms=expires_at_ms)

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

    # -- passwords ---------------------------------------------------------------------------------------

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

    async def set_password(self, user: User, password: str) -> None:
        """Give a user another password and end all log-ins.

        Raises: Refused(weak_password, bot_not_allowed).
        """
        if user.is_bot:
            raise Refused("bot_not_allowed", "A bot has a token instead of a password.")
        auth.check_password(password, user.username)
        await self._set_password(user.user_id, await self._credential(user.user_id), password)

    async def _set_password(
        self, user_id: str, old: Credential | None, password: str, *, keep: str = ""
    ) -> None:
        new_hash = await self._passwords.hash(password)
        sessions = await self._store.find(Session, {"user_id": user_id})
        ended = [session for session in sessions if session.session_id != keep]
        await self._store.commit([*self._replacement(user_id, old, new_hash), *removals_of(user_id, keep)])
        self._log_ins.revoked(ended)
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

    # -- users, for operators and backends ---------------------------------------------------------------

    async def create_user(self, app_id: str, username: str, password: str, *, name: str = "") -> User:
        """Make an account whether sign-up is open or not; reserved names are the operator's to give.

        Raises: ProtocolError(bad_field); Refused(not_found, name_taken, weak_password).
        """
        await self._directory.app_of(app_id)
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
        await self._directory.insert_user(
            user, [Insert(await self._first_credential(user.user_id, password))]
        )
        return user

    async def disable_user(self, user: User) -> None:
        """Keep a user or bot out: log-ins end now, connections in this node now, elsewhere within WATCH_S."""
        sessions = await self._store.find(Session, {"user_id": user.user_id})
        await self._store.commit(
            [Put(Disabled(user_id=user.user_id, at_ms=self._clock())), *removals_of(user.user_id)]
        )
        self._log_ins.revoked(sessions)
        self._log_ins.forget_user(user.user_id)
        self.on_user_changed(user.user_id)
        log.info("user_disabled", app_id=user.app_id, user_id=user.user_id)

    async def enable_user(self, user: User) -> None:
        """Let a user in again; a bot needs a new token."""
        await self._store.commit([Remove(Disabled, {"user_id": user.user_id})])
        self.on_user_changed(user.user_id)
        log.info("user_enabled", app_id=user.app_id, user_id=user.user_id)

    # -- bots --------------------------------------------------------------------------------------------

    async def create_bot(
        self, app_id: str, username: str, *, name: str = "", owner: User | None = None
    ) -> tuple[User, str]:
        """Make a bot and its token; without an owner it belongs to the app itself.

        An owner's bots are made one after the other and cost like accounts; a deleted one counts for a month
        against MAX_BOTS_PER_USER. Raises: ProtocolError(bad_field), Refused(name_taken, bot_not_allowed,
        forbidden), Unavailable(rate_limited).
        """
        if owner is None:
            return await self._create_bot(app_id, username, name=name)
        if owner.is_bot:
            raise Refused("bot_not_allowed", "A bot cannot make bots.")
        lock = self._bot_locks.setdefault(owner.user_id, trio.Lock())
        try:
            async with lock:
                since_ms = self._clock() - DELETED_BOT_COUNTS_MS
                count = await self._directory.count_bots(owner.user_id, deleted_since_ms=since_ms)
                if count >= MAX_BOTS_PER_USER:
                    raise Refused(
                        "forbidden",
                        f"A user has at most {MAX_BOTS_PER_USER} bots; a deleted one counts for 30 days.",
                    )
                self._charge_sign_up(owner.user_id, "Too many bots in a short time.")
                return await self._create_bot(app_id, username, name=name, owner_id=owner.user_id)
        finally:
            if not lock.locked() and self._bot_locks.get(owner.user_id) is lock:
                del self._bot_locks[owner.user_id]

    async def _create_bot(
        self, app_id: str, username: str, *, name: str, owner_id: str = ""
    ) -> tuple[User, str]:
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
            owner_id=owner_id,
            created_at_ms=self._clock(),
        )
        session, token = self._log_ins.draft(bot, "bot token")
        await self._directory.insert_user(bot, [Insert(session)])
        log.info("bot_created", app_id=app_id, user_id=bot.user_id, owner_id=bot.owner_id)
        return bot, token

    async def rotate_bot_token(self, bot: User) -> str:
        """Give a bot a new token; the old ones and their connections end."""
        session, token = self._log_ins.draft(bot, "bot token")
        old = await self._store.find(Session, {"user_id": bot.user_id})
        await self._store.commit([*removals_of(bot.user_id), Insert(session)])
        self._log_ins.revoked(old)
        log.info("bot_token_rotated", user_id=bot.user_id)
        return token

    # -- keys of apps ------------------------------------------------------------------------------------

    async def create_app_key(self, app_id: str, name: str = "") -> tuple[AppKey, str]:
        """Make a key for an app's backend, and its secret. Raises: Refused(not_found)."""
        await self._directory.app_of(app_id)
        key = AppKey(
            app_key=auth.new_id("k"),
            app_id=app_id,
            name=auth.checked_name(name) if name else "",
            created_at_ms=self._clock(),
        )
        await self._store.commit([Insert(key)])
        log.info("app_key_created", app_id=app_id, app_key=key.app_key)
        return key, auth.app_secret(self._log_ins.server_secret, key.app_key)

    async def revoke_app_key(self, app_id: str, app_key: str) -> None:
        """End a key, and with it every token signed with its secret. Raises: Refused(not_found)."""
        key = await self._store.get(AppKey, app_key)
        if key is None or key.app_id != app_id:
            raise Refused(
                "not_found",
                f"There is no key {app_key!r} in the app {app_id!r}; `hubbub keys list` shows them.",
            )
        if not key.revoked_at_ms:
            await self._store.commit([Put(msgspec.structs.replace(key, revoked_at_ms=self._clock()))])
        self._log_ins.forget_key(app_key)
        log.info("app_key_revoked", app_id=app_id, app_key=app_key)
