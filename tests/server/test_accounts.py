"""Accounts over the real store: races, caches, other processes, and time."""

from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Literal

import argon2
import pytest
import trio

from protocol.commands import UpdateProfile
from protocol.errors import HubbubError, Refused, Unavailable
from protocol.records import Credential, Op, SessionUse
from server import accounts as module
from server import auth
from server.accounts import Accounts
from server.identity import Identity
from server.passwords import Passwords
from storage.sqlite import SqliteStore, open_store
from tests.server.http_world import PASSWORD, SECRET, cheap_passwords

DAY_MS = 86_400_000


class Clock:
    """Wall time that a test moves."""

    def __init__(self) -> None:
        self.now_ms = 1_700_000_000_000

    def __call__(self) -> int:
        return self.now_ms


class Office:
    def __init__(self, store: SqliteStore, accounts: Accounts, clock: Clock) -> None:
        self.store = store
        self.accounts = accounts
        self.clock = clock
        self.revoked: list[tuple[str, str]] = []
        accounts.on_session_revoked = lambda session_id, user_id: self.revoked.append((session_id, user_id))


@asynccontextmanager
async def open_office(folder: Path, passwords: Passwords | None = None) -> AsyncIterator[Office]:
    clock = Clock()
    async with open_store(folder) as store:
        accounts = Accounts(store, SECRET, passwords=passwords or cheap_passwords(), clock=clock)
        await accounts.ensure_default_app()
        with trio.fail_after(30):
            yield Office(store, accounts, clock)


def code_of(error: pytest.ExceptionInfo[HubbubError]) -> str:
    return error.value.code


async def refused(accounts: Accounts, token: str) -> bool:
    try:
        await accounts.authenticate(token)
    except Refused as exc:
        assert exc.code == "unauthenticated"
        return True
    return False


async def test_of_many_who_want_one_name_at_once_one_gets_it(tmp_path: Path) -> None:
    """People whose name means one account."""
    async with open_office(tmp_path) as office:
        outcomes: list[str] = []

        async def try_it(spelling: str) -> None:
            try:
                await office.accounts.sign_up("", spelling, PASSWORD)
                outcomes.append("ok")
            except Refused as exc:
                outcomes.append(exc.code)

        async with trio.open_nursery() as nursery:
            for spelling in ("ann", "Ann", "ANN", "ａｎｎ", "aNN"):
                nursery.start_soon(try_it, spelling)
        assert sorted(outcomes) == ["name_taken"] * 4 + ["ok"]


async def test_a_new_user_of_a_backend_is_made_once_however_many_devices_come_at_once(tmp_path: Path) -> None:
    """A product's user with a phone and a laptop."""
    async with open_office(tmp_path) as office:
        key, secret = await office.accounts.create_app_key("default")
        exp = office.clock.now_ms // 1000 + 600
        seen: list[Identity] = []

        async def come(number: int) -> None:
            token = auth.sign_jwt(key.app_key, secret, {"sub": "c7", "exp": exp, "name": f"Device {number}"})
            seen.append(await office.accounts.authenticate(token))

        async with trio.open_nursery() as nursery:
            for number in range(8):
                nursery.start_soon(come, number)
        assert len({identity.user_id for identity in seen}) == 1
        assert len({identity.session_id for identity in seen}) == 8


async def test_a_provisioned_user_gets_a_free_name_when_the_wish_cannot_be_had(tmp_path: Path) -> None:
    """Backends whose user names follow other rules."""
    async with open_office(tmp_path) as office:
        names = []
        for external_id, wish in [
            ("1", "ann"),
            ("2", "Ann"),
            ("3", "a/b?"),
            ("4", "admin"),
            ("mail@x.y", ""),
        ]:
            user, was_created = await office.accounts.provision("default", external_id, username=wish)
            assert was_created
            names.append(user.username)
        assert names[0] == "ann"
        assert names[1].startswith("Ann-")
        assert len({auth.fold(name) for name in names}) == 5
        for name in names:
            auth.checked_username(name)


async def test_the_name_of_nobody_costs_as_much_as_a_wrong_password(tmp_path: Path) -> None:
    """Everybody whose address would otherwise be found out by a stop-watch."""
    calls: list[str] = []

    class Counting(argon2.PasswordHasher):
        def verify(self, hash: str | bytes, password: str | bytes) -> Literal[True]:
            calls.append(str(hash))
            return super().verify(hash, password)

    hasher = Counting(time_cost=1, memory_cost=8, parallelism=1)
    async with open_office(tmp_path, Passwords(hasher)) as office:
        await office.accounts.sign_up("", "ann", PASSWORD)
        await office.accounts.provision("default", "backend-user", username="bob")
        for name in ("ann", "nobody", "bob", "x" * 64):
            with pytest.raises(Refused) as error:
                await office.accounts.log_in("", name, "wrong password")
            assert code_of(error) == "bad_credentials"
        assert len(calls) == 4
        assert all(call.startswith("$argon2id$") for call in calls)


async def test_an_outdated_hash_is_renewed_at_the_next_log_in(tmp_path: Path) -> None:
    """Operators, who raise the cost as machines get faster."""
    async with open_office(tmp_path) as office:
        await office.accounts.sign_up("", "ann", PASSWORD)
        stronger = argon2.PasswordHasher(time_cost=2, memory_cost=16, parallelism=1)
        later = Accounts(office.store, SECRET, passwords=Passwords(stronger), clock=office.clock)
        await later.log_in("", "ann", PASSWORD)
        (row,) = await office.store.find(Credential, {})
        assert "m=16,t=2" in row.password_hash
        assert row.version == 2
        await later.log_in("", "ann", PASSWORD)
        assert (await office.store.find(Credential, {}))[0] == row


async def test_log_ins_beyond_what_hashing_can_take_are_refused_at_once(tmp_path: Path) -> None:
    """Those who are in: a flood of log-ins must not slow them."""
    passwords = Passwords(
        argon2.PasswordHasher(time_cost=30, memory_cost=8192, parallelism=1), max_waiting_count=1
    )
    async with open_office(tmp_path, passwords) as office:
        codes: list[str] = []

        async def try_it() -> None:
            try:
                await office.accounts.log_in("", "nobody", "whatever it is")
            except HubbubError as exc:
                codes.append(exc.code)

        with pytest.raises(Refused):
            await office.accounts.log_in("", "nobody", "makes nobody's hash")
        async with trio.open_nursery() as nursery:
            for _ in range(6):
                nursery.start_soon(try_it)
        assert codes.count("overloaded") == 3
        assert codes.count("bad_credentials") == 3


async def test_another_process_ends_log_ins_here_by_the_next_look(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Operators at the command line beside a running node."""
    monkeypatch.setattr(module, "CACHE_S", 0.05)
    monkeypatch.setattr(module, "WATCH_S", 0.05)
    async with open_office(tmp_path) as office, open_store(tmp_path) as other_store:
        ann = await office.accounts.sign_up("", "ann", PASSWORD)
        bob = await office.accounts.sign_up("", "bob", PASSWORD)
        bot, bot_token = await office.accounts.create_bot("default", "echo")
        key, secret = await office.accounts.create_app_key("default")
        exp = office.clock.now_ms // 1000 + 600
        jwt = auth.sign_jwt(key.app_key, secret, {"sub": "c7", "exp": exp})
        live = [await office.accounts.authenticate(token) for token in (ann.token, bob.token, bot_token, jwt)]
        other = Accounts(other_store, SECRET, passwords=cheap_passwords(), clock=office.clock)
        await other.disable_user(await other.find_user("default", "ann"))
        await other.rotate_bot_token(bot)
        await other.revoke_app_key("default", key.app_key)
        assert office.revoked == []  # nobody has told this process
        heard = trio.Event()
        ended: set[str] = set()

        def on_revoked(session_id: str, _user_id: str) -> None:
            ended.add(session_id)
            if len(ended) == 3:
                heard.set()

        office.accounts.on_session_revoked = on_revoked
        async with trio.open_nursery() as nursery:
            nursery.start_soon(office.accounts.run, lambda: live)
            await heard.wait()
            nursery.cancel_scope.cancel()
        assert ended == {live[0].session_id, live[2].session_id, live[3].session_id}
        assert await refused(office.accounts, ann.token)
        assert await refused(office.accounts, bot_token)
        assert await refused(office.accounts, jwt)
        assert not await refused(office.accounts, bob.token)


async def test_a_log_in_ends_by_lying_idle_and_not_by_being_used(tmp_path: Path) -> None:
    """Phones in drawers, and phones in use."""
    async with open_office(tmp_path) as office:
        used = await office.accounts.sign_up("", "ann", PASSWORD)
        idle = await office.accounts.log_in("", "ann", PASSWORD)
        bot_token = (await office.accounts.create_bot("default", "echo"))[1]
        for _ in range(4):
            office.clock.now_ms += 30 * DAY_MS
            fresh = Accounts(office.store, SECRET, clock=office.clock)  # with an empty cache
            assert not await refused(fresh, used.token)
            assert not await refused(fresh, bot_token)
            await fresh.flush_uses()
        fresh = Accounts(office.store, SECRET, clock=office.clock)
        assert await refused(fresh, idle.token)


async def test_when_a_log_in_was_used_is_written_rarely_and_together(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The store: thousands of requests a second must not become commits."""
    async with open_office(tmp_path) as office:
        ann = await office.accounts.sign_up("", "ann", PASSWORD)
        for _ in range(50):
            await office.accounts.authenticate(ann.token)
        written: list[int] = []
        commit = office.store.commit

        async def counted(ops: Sequence[Op]) -> None:
            written.append(len(ops))
            await commit(ops)

        monkeypatch.setattr(office.store, "commit", counted)
        await office.accounts.flush_uses()
        await office.accounts.flush_uses()
        assert written == [1]
        (use,) = await office.store.find(SessionUse, {})
        assert use.last_seen_ms == office.clock.now_ms
        office.clock.now_ms += module.USE_GRAIN_MS
        await office.accounts.authenticate(ann.token)
        (session,) = await office.accounts.list_sessions(ann.identity)
        assert session.last_seen_ms == office.clock.now_ms


async def test_a_token_with_an_end_ends_even_while_it_is_cached(tmp_path: Path) -> None:
    """Backends that give out short tokens."""
    async with open_office(tmp_path) as office:
        user, _ = await office.accounts.provision("default", "c7")
        done = await office.accounts.issue_token("default", user.user_id, ttl_s=60)
        assert not await refused(office.accounts, done.token)
        office.clock.now_ms += 60_000
        assert await refused(office.accounts, done.token)
        assert await office.accounts.find_ended([done.identity]) == [done.identity]


async def test_the_longest_unused_log_in_makes_room_for_a_new_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The directory: a script that logs in each minute must not fill it."""
    monkeypatch.setattr(module, "MAX_SESSIONS_PER_USER", 3)
    async with open_office(tmp_path) as office:
        tokens = [(await office.accounts.sign_up("", "ann", PASSWORD)).token]
        for _ in range(2):
            office.clock.now_ms += 1
            tokens.append((await office.accounts.log_in("", "ann", PASSWORD)).token)
        office.clock.now_ms += DAY_MS
        await office.accounts.authenticate(tokens[0])
        newest = await office.accounts.log_in("", "ann", PASSWORD)
        assert [await refused(office.accounts, token) for token in tokens] == [False, True, False]
        assert len(await office.accounts.list_sessions(newest.identity)) == 3
        assert len(office.revoked) == 1


async def test_a_user_has_a_bounded_number_of_bots(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The directory."""
    monkeypatch.setattr(module, "MAX_BOTS_PER_USER", 1)
    async with open_office(tmp_path) as office:
        ann = (await office.accounts.sign_up("", "ann", PASSWORD)).identity.user
        bot, _ = await office.accounts.create_bot("default", "one", owner=ann)
        with pytest.raises(Refused) as error:
            await office.accounts.create_bot("default", "two", owner=ann)
        assert code_of(error) == "forbidden"
        await office.accounts.disable_user(bot)
        await office.accounts.create_bot("default", "two", owner=ann)


async def test_an_operators_password_stands_against_a_renewal_at_the_same_moment(tmp_path: Path) -> None:
    """Somebody whose account was taken over: the old password must not come back."""
    async with open_office(tmp_path) as office:
        await office.accounts.sign_up("", "ann", PASSWORD)
        user = await office.accounts.find_user("default", "ann")
        (old,) = await office.store.find(Credential, {})
        await office.accounts.set_password(user, "quite another one")
        await office.accounts._rehash(old, old.password_hash)  # what a log-in begun before would write
        with pytest.raises(Refused):
            await office.accounts.log_in("", "ann", PASSWORD)
        await office.accounts.log_in("", "ann", "quite another one")


async def test_apps_have_names_of_their_own(tmp_path: Path) -> None:
    """Operators of several products."""
    async with open_office(tmp_path) as office:
        assert (await office.accounts.ensure_default_app()).app_id == "default"
        shop = await office.accounts.create_app("shop")
        with pytest.raises(Refused) as error:
            await office.accounts.create_app("shop")
        assert code_of(error) == "already_exists"
        assert await office.accounts.find_app("shop") == shop
        assert [app.name for app in await office.accounts.list_apps()] == ["default", "shop"]
        for missing in ("nowhere", "u_1"):
            with pytest.raises(Refused) as error:
                await office.accounts.find_app(missing)
            assert code_of(error) == "not_found"
        with pytest.raises(Refused) as error:
            await office.accounts.revoke_app_key(
                "default", (await office.accounts.create_app_key(shop.app_id))[0].app_key
            )
        assert code_of(error) == "not_found"


async def test_a_profile_change_is_tidied_before_it_reaches_the_actor(tmp_path: Path) -> None:
    """The user's actor, which stores what it is given."""
    async with open_office(tmp_path) as office:
        ann = (await office.accounts.sign_up("", "ann", PASSWORD)).identity
        change = UpdateProfile(id=4, name=" Ann  B ", language="EN-gb", avatar="")
        assert await office.accounts.checked_profile(ann, change) == UpdateProfile(
            id=4, name="Ann B", language="en-GB", avatar=""
        )


async def test_a_store_that_takes_no_writes_refuses_with_a_hint_to_come_back(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Clients that sign up while the disk is full."""
    async with open_office(tmp_path) as office:

        async def full(_ops: object) -> None:
            raise Unavailable("storage_unavailable", retry_after_s=5.0)

        ann = await office.accounts.sign_up("", "ann", PASSWORD)
        await office.accounts.authenticate(ann.token)
        monkeypatch.setattr(office.store, "commit", full)
        with pytest.raises(Unavailable) as error:
            await office.accounts.sign_up("", "bob", PASSWORD)
        assert code_of(error) == "storage_unavailable"
        assert not await refused(office.accounts, ann.token)  # reads go on
        with pytest.raises(Unavailable):
            await office.accounts.flush_uses()
        monkeypatch.undo()
        await office.accounts.flush_uses()
        assert len(await office.store.find(SessionUse, {})) == 1
