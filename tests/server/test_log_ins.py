"""Log-ins over the real store: races, caches, other processes, and time."""

from collections.abc import Sequence
from pathlib import Path

import pytest
import trio

from protocol.errors import Unavailable
from protocol.records import Op, SessionUse
from server import auth
from server import log_ins as module
from server.identity import Identity
from server.log_ins import LogIns
from storage.sqlite import open_store
from tests.server.http_world import PASSWORD, SECRET
from tests.server.office import Office, code_of, open_office, refused

DAY_MS = 86_400_000


async def test_a_new_user_of_a_backend_is_made_once_however_many_devices_come_at_once(tmp_path: Path) -> None:
    """A product's user with a phone and a laptop."""
    async with open_office(tmp_path) as office:
        key, secret = await office.accounts.create_app_key("default")
        exp = office.clock.now_ms // 1000 + 600
        seen: list[Identity] = []

        async def come(number: int) -> None:
            token = auth.sign_jwt(key.app_key, secret, {"sub": "c7", "exp": exp, "name": f"Device {number}"})
            seen.append(await office.log_ins.authenticate(token))

        async with trio.open_nursery() as nursery:
            for number in range(8):
                nursery.start_soon(come, number)
        assert len({identity.user_id for identity in seen}) == 1
        assert len({identity.session_id for identity in seen}) == 8


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
        live = [await office.log_ins.authenticate(token) for token in (ann.token, bob.token, bot_token, jwt)]
        other = Office(other_store, office.clock)
        await other.accounts.disable_user(await other.directory.find_user("default", "ann"))
        await other.accounts.rotate_bot_token(bot)
        await other.accounts.revoke_app_key("default", key.app_key)
        assert office.revoked == []  # nobody has told this process
        heard = trio.Event()
        ended: set[str] = set()

        def on_revoked(session_id: str, _user_id: str) -> None:
            ended.add(session_id)
            if len(ended) == 3:
                heard.set()

        office.log_ins.on_session_revoked = on_revoked
        async with trio.open_nursery() as nursery:
            nursery.start_soon(office.log_ins.run, lambda: live)
            await heard.wait()
            nursery.cancel_scope.cancel()
        assert ended == {live[0].session_id, live[2].session_id, live[3].session_id}
        assert await refused(office.log_ins, ann.token)
        assert await refused(office.log_ins, bot_token)
        assert await refused(office.log_ins, jwt)
        assert not await refused(office.log_ins, bob.token)


async def test_a_log_in_ends_by_lying_idle_and_not_by_being_used(tmp_path: Path) -> None:
    """Phones in drawers, and phones in use."""
    async with open_office(tmp_path) as office:
        used = await office.accounts.sign_up("", "ann", PASSWORD)
        idle = await office.accounts.log_in("", "ann", PASSWORD)
        bot_token = (await office.accounts.create_bot("default", "echo"))[1]
        for _ in range(4):
            office.clock.now_ms += 30 * DAY_MS
            fresh = LogIns(office.store, office.directory, SECRET, clock=office.clock)  # with an empty cache
            assert not await refused(fresh, used.token)
            assert not await refused(fresh, bot_token)
            await fresh.flush_uses()
        fresh = LogIns(office.store, office.directory, SECRET, clock=office.clock)
        assert await refused(fresh, idle.token)


async def test_when_a_log_in_was_used_is_written_rarely_and_together(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The store: thousands of requests a second must not become commits."""
    async with open_office(tmp_path) as office:
        ann = await office.accounts.sign_up("", "ann", PASSWORD)
        for _ in range(50):
            await office.log_ins.authenticate(ann.token)
        written: list[int] = []
        commit = office.store.commit

        async def counted(ops: Sequence[Op]) -> None:
            written.append(len(ops))
            await commit(ops)

        monkeypatch.setattr(office.store, "commit", counted)
        await office.log_ins.flush_uses()
        await office.log_ins.flush_uses()
        assert written == [1]
        (use,) = await office.store.find(SessionUse, {})
        assert use.last_seen_ms == office.clock.now_ms
        office.clock.now_ms += module.USE_GRAIN_MS
        await office.log_ins.authenticate(ann.token)
        (session,) = await office.log_ins.list_sessions(ann.identity)
        assert session.last_seen_ms == office.clock.now_ms


async def test_a_token_with_an_end_ends_even_while_it_is_cached(tmp_path: Path) -> None:
    """Backends that give out short tokens."""
    async with open_office(tmp_path) as office:
        user, _, _ = await office.directory.provision("default", "c7")
        done = await office.accounts.issue_token("default", user.user_id, ttl_s=60)
        assert not await refused(office.log_ins, done.token)
        office.clock.now_ms += 60_000
        assert await refused(office.log_ins, done.token)
        assert await office.log_ins.find_ended([done.identity]) == [done.identity]


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
        await office.log_ins.authenticate(tokens[0])
        newest = await office.accounts.log_in("", "ann", PASSWORD)
        assert [await refused(office.log_ins, token) for token in tokens] == [False, True, False]
        assert len(await office.log_ins.list_sessions(newest.identity)) == 3
        assert len(office.revoked) == 1


async def test_a_store_that_takes_no_writes_refuses_with_a_hint_to_come_back(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Clients that sign up while the disk is full."""
    async with open_office(tmp_path) as office:

        async def full(_ops: object) -> None:
            raise Unavailable("storage_unavailable", retry_after_s=5.0)

        ann = await office.accounts.sign_up("", "ann", PASSWORD)
        await office.log_ins.authenticate(ann.token)
        monkeypatch.setattr(office.store, "commit", full)
        with pytest.raises(Unavailable) as error:
            await office.accounts.sign_up("", "bob", PASSWORD)
        assert code_of(error) == "storage_unavailable"
        assert not await refused(office.log_ins, ann.token)  # reads go on
        with pytest.raises(Unavailable):
            await office.log_ins.flush_uses()
        monkeypatch.undo()
        await office.log_ins.flush_uses()
        assert len(await office.store.find(SessionUse, {})) == 1


async def test_what_is_kept_of_log_ins_is_bounded_and_forgotten_by_user(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Profile changes and revocations, which come often and must not look at everybody's log-ins."""
    monkeypatch.setattr(module, "CACHE_COUNT", 5)
    async with open_office(tmp_path) as office:
        log_ins = office.log_ins
        identities = []
        for name in ("ann", "ben"):
            for done in (
                await office.accounts.sign_up("", name, PASSWORD),
                await office.accounts.log_in("", name, PASSWORD),
                await office.accounts.log_in("", name, PASSWORD),
            ):
                identities.append(await log_ins.authenticate(done.token))
        ann, ben = identities[0].user_id, identities[-1].user_id
        assert {user_id: len(kept) for user_id, kept in log_ins._digests.items()} == {ann: 2, ben: 3}
        await log_ins.log_out(identities[-1])
        assert {user_id: len(kept) for user_id, kept in log_ins._digests.items()} == {ann: 2, ben: 2}
        log_ins.forget_user(ann)
        assert list(log_ins._digests) == [ben]
        assert {kept.user_id for kept, _ in log_ins._cache.values()} == {ben}
