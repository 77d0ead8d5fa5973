"""Accounts over the real store: names, passwords, bots."""

from collections.abc import Sequence
from pathlib import Path
from typing import Literal

import argon2
import pytest
import trio

from protocol.errors import HubbubError, Refused, Unavailable
from protocol.records import Credential, Op, Session
from server import accounts as module
from server.passwords import Passwords
from tests.server.http_world import PASSWORD
from tests.server.office import Office, code_of, open_office


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
        await office.directory.provision("default", "backend-user", username="bob")
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
        later = Office(office.store, office.clock, Passwords(stronger)).accounts
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
        with pytest.raises(Refused):
            await office.accounts.create_bot("default", "two", owner=ann)  # or names could be squatted
        office.clock.now_ms += module.DELETED_BOT_COUNTS_MS
        await office.accounts.create_bot("default", "two", owner=ann)


async def test_bots_that_are_made_at_once_are_counted_one_by_one(tmp_path: Path) -> None:
    """The directory, against a script that asks sixty times in parallel."""
    codes: list[str] = []
    async with open_office(tmp_path) as office:
        ann = (await office.accounts.sign_up("", "ann", PASSWORD)).identity.user

        async def make(number: int) -> None:
            try:
                await office.accounts.create_bot("default", f"bot{number}", owner=ann)
            except Refused as exc:
                codes.append(exc.code)

        async with trio.open_nursery() as nursery:
            for number in range(60):
                nursery.start_soon(make, number)
        assert codes == ["forbidden"] * (60 - module.MAX_BOTS_PER_USER)
        assert len(await office.directory.list_bots("default", owner_id=ann.user_id)) == 20
        assert not office.accounts._bot_locks


async def test_making_bots_costs_like_signing_up(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """An owner whose limit was raised still cannot take a thousand names in a minute."""
    monkeypatch.setattr(module, "MAX_BOTS_PER_USER", 1000)
    async with open_office(tmp_path) as office:
        ann = (await office.accounts.sign_up("", "ann", PASSWORD)).identity.user
        for number in range(20):
            await office.accounts.create_bot("default", f"bot{number}", owner=ann)
        with pytest.raises(Unavailable) as error:
            await office.accounts.create_bot("default", "one_more", owner=ann)
        assert code_of(error) == "rate_limited"


async def test_a_log_in_whose_password_is_changed_while_it_is_checked_does_not_last(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whoever changes a stolen password must be alone afterwards."""
    async with open_office(tmp_path) as office:
        user = (await office.accounts.sign_up("", "ann", PASSWORD)).identity.user
        verify = office.accounts._passwords.verify

        async def verify_and_lose_the_race(stored: str, password: str) -> tuple[bool, str]:
            answer = await verify(stored, password)
            monkeypatch.setattr(office.accounts._passwords, "verify", verify)
            await office.accounts.set_password(user, "quite another one")
            return answer

        monkeypatch.setattr(office.accounts._passwords, "verify", verify_and_lose_the_race)
        with pytest.raises(Refused) as error:
            await office.accounts.log_in("", "ann", PASSWORD)
        assert code_of(error) == "bad_credentials"
        assert await office.store.find(Session, {"user_id": user.user_id}) == []


async def test_a_log_in_that_begins_while_the_password_changes_ends_with_the_others(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The same race the other way round: stored after the change looked, before it was committed."""
    async with open_office(tmp_path) as office:
        own = (await office.accounts.sign_up("", "ann", PASSWORD)).identity
        await office.accounts.log_in("", "ann", PASSWORD)
        commit = office.store.commit

        async def log_in_first(ops: Sequence[Op]) -> None:
            monkeypatch.setattr(office.store, "commit", commit)
            await office.accounts.log_in("", "ann", PASSWORD)
            await commit(ops)

        monkeypatch.setattr(office.store, "commit", log_in_first)
        await office.accounts.change_password(own, PASSWORD, "quite another one")
        left = await office.store.find(Session, {"user_id": own.user_id})
        assert [session.session_id for session in left] == [own.session_id]


async def test_a_log_in_during_a_mere_rehash_stays(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Two devices that log in together after the hashing was made stronger."""
    async with open_office(tmp_path) as office:
        await office.accounts.sign_up("", "ann", PASSWORD)
        verify = office.accounts._passwords.verify

        async def verify_and_rehash(stored: str, password: str) -> tuple[bool, str]:
            answer = await verify(stored, password)
            monkeypatch.setattr(office.accounts._passwords, "verify", verify)
            (old,) = await office.store.find(Credential, {})
            await office.accounts._rehash(old, await office.accounts._passwords.hash(password))
            return answer

        monkeypatch.setattr(office.accounts._passwords, "verify", verify_and_rehash)
        done = await office.accounts.log_in("", "ann", PASSWORD)
        assert (await office.log_ins.authenticate(done.token)).session_id == done.identity.session_id


async def test_an_operators_password_stands_against_a_renewal_at_the_same_moment(tmp_path: Path) -> None:
    """Somebody whose account was taken over: the old password must not come back."""
    async with open_office(tmp_path) as office:
        await office.accounts.sign_up("", "ann", PASSWORD)
        user = await office.directory.find_user("default", "ann")
        (old,) = await office.store.find(Credential, {})
        await office.accounts.set_password(user, "quite another one")
        await office.accounts._rehash(old, old.password_hash)  # what a log-in begun before would write
        with pytest.raises(Refused):
            await office.accounts.log_in("", "ann", PASSWORD)
        await office.accounts.log_in("", "ann", "quite another one")
