"""What happens when an actor crashes, the store fails, or the node dies between a commit and its effects."""

from pathlib import Path

import pytest
import trio
import trio.testing

from actors.conversation import Conversation
from actors.relay import TellRelay
from actors.reply import Reply
from actors.user import UserActor
from protocol import commands, events, replies
from protocol.errors import Fenced, HubbubError, Overloaded, StorageUnavailable, Unavailable
from protocol.records import Append, DeadLetter, Tell, conversation_stream, inbox_stream
from tests.server.world import Device, World, open_world, texts


class Bug(RuntimeError):
    """Injected."""


def inject(monkeypatch: pytest.MonkeyPatch, crashes: int = 10**6) -> list[str]:
    """Let each Send of the text "crash" raise a Bug, at most so often; return the list of those crashes."""
    original, original_nowait = Conversation.handle, Conversation.handle_nowait
    crashed: list[str] = []

    def crash(message: object) -> None:
        command = getattr(message, "command", None)
        if isinstance(command, commands.Send) and command.text == "crash" and len(crashed) < crashes:
            crashed.append(command.client_id)
            raise Bug

    async def handle(self: Conversation, message: object, reply: Reply) -> None:
        crash(message)
        await original(self, message, reply)

    def handle_nowait(self: Conversation, message: object, reply: Reply) -> bool:
        crash(message)
        return original_nowait(self, message, reply)

    monkeypatch.setattr(Conversation, "handle", handle)
    monkeypatch.setattr(Conversation, "handle_nowait", handle_nowait)
    return crashed


async def outcome(device: Device, conversation_id: str, text: str, client_id: str) -> str:
    try:
        await device.send(conversation_id, text, client_id)
    except HubbubError as error:
        return error.code
    return "sent"


async def test_a_command_that_crashes_its_actor_hits_nobody_else(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Promise 8: the culprit is set aside, its neighbours do not notice, nothing acked is lost."""
    crashed = inject(monkeypatch)
    async with open_world(tmp_path) as world:
        ann, bob = await world.people("ann", "bob")
        group, other = await world.group(ann, bob), await world.group(ann, bob)
        codes: dict[str, str] = {}

        async def send(conversation_id: str, text: str, client_id: str) -> None:
            codes[client_id] = await outcome(ann, conversation_id, text, client_id)
            if codes[client_id] == "restarted":  # in flight when it happened: sending again is safe
                codes[client_id] = await outcome(ann, conversation_id, text, client_id)

        async with trio.open_nursery() as nursery:
            for number in range(10):
                nursery.start_soon(send, group, "crash" if number == 5 else "fine", f"k{number}")
                nursery.start_soon(send, other, "fine", f"o{number}")
        assert codes.pop("k5") == "crashed"
        assert set(codes.values()) == {"sent"}
        assert crashed == ["k5", "k5"]
        (letter,) = await world.store.find(DeadLetter, {})
        assert (letter.kind, letter.actor_id, letter.message_type) == ("conversation", group, "Send")
        assert letter.crash_count == 2
        assert "Bug" in letter.error
        assert "k5" in letter.body
        assert texts(await bob.sync(group)) == ["fine"] * 9
        assert texts(await bob.sync(other)) == ["fine"] * 10
        assert any(e.conversation_id == group for e in bob.heard(events.Resync))
        assert not any(e.conversation_id == other for e in bob.heard(events.Resync))
        last = await ann.send(group, "after")
        await bob.until_heard(lambda e: isinstance(e, events.MessagePosted) and e.seq == last.seq)


async def test_a_command_that_crashes_once_succeeds(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Bad luck is not the sender's fault."""
    inject(monkeypatch, crashes=1)
    async with open_world(tmp_path) as world:
        ann, bob = await world.people("ann", "bob")
        group = await world.group(ann, bob)
        await ann.send(group, "crash")
        assert texts(await bob.sync(group)) == ["crash"]
        assert await world.store.find(DeadLetter, {}) == []


@pytest.mark.parametrize("error", [StorageUnavailable(), Fenced(), Overloaded()], ids=lambda e: e.code)
@pytest.mark.parametrize("is_failing_at_once", [False, True])
async def test_a_failed_append_is_answered_and_the_state_comes_from_the_log(
    tmp_path: Path, error: Unavailable, is_failing_at_once: bool
) -> None:
    """What was decided but not stored must not be remembered."""
    async with open_world(tmp_path) as world:
        ann, bob, cid = await world.people("ann", "bob", "cid")
        group = await world.group(ann, bob)
        await bob.until(events.ConversationAdded)
        world.flaky.is_failing_at_once = is_failing_at_once
        world.flaky.failures = [error]
        add = commands.AddMembers(conversation_id=group, user_ids=["u_cid"])
        with pytest.raises(Unavailable) as caught:
            await ann.do(add)
        assert caught.value.code == error.code
        assert set(await ann.members(group)) == {"u_ann", "u_bob"}
        assert cid.heard(events.ConversationAdded) == []
        (resync,) = await bob.until(events.Resync)
        assert resync == events.Resync(conversation_id=group, head=1)
        await ann.do(add)
        await cid.until(events.ConversationAdded)
        await cid.send(group, "here")
        assert texts(await bob.sync(group)) == ["here"]


async def test_nothing_is_stored_on_top_of_a_failed_append(tmp_path: Path) -> None:
    """A rename in flight behind a failed membership change must not be stored without it."""
    async with open_world(tmp_path) as world:
        ann, bob, _cid = await world.people("ann", "bob", "cid")
        group = await world.group(ann, bob)
        codes: list[str] = []

        async def do(command: commands.Command) -> None:
            try:
                await ann.do(command)
            except HubbubError as error:
                codes.append(error.code)

        world.flaky.failures = [StorageUnavailable()]
        async with trio.open_nursery() as nursery:
            for _ in range(2):
                nursery.start_soon(do, commands.RemoveMember(conversation_id=group, user_id="u_bob"))
                await trio.testing.wait_all_tasks_blocked()
        assert "storage_unavailable" in codes
        kinds = [type(e) for e in await ann.sync(group)]
        members = await ann.members(group)
        assert ("u_bob" in members) == (events.MemberRemoved not in kinds)


async def test_who_was_added_or_removed_in_a_crash_hears_or_stops_hearing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A member removed in the moment of a crash must not go on listening."""
    original = Conversation._publish
    has_crashed = False

    def publish(self: Conversation, event: events.ConversationEvent, message_count: int) -> None:
        nonlocal has_crashed
        if isinstance(event, events.MemberRemoved | events.MembersAdded) and not has_crashed:
            has_crashed = True
            raise Bug
        original(self, event, message_count)

    monkeypatch.setattr(Conversation, "_publish", publish)
    async with open_world(tmp_path) as world:
        ann, bob, cid = await world.people("ann", "bob", "cid")
        group = await world.group(ann, bob)
        code = await ann.refusal(commands.RemoveMember(conversation_id=group, user_id="u_bob"))
        assert code == "restarted"  # committed, but the answer was lost
        await ann.until(events.Resync)
        await ann.send(group, "not for bob")
        assert texts(bob.events) == []
        has_crashed = False
        await ann.refusal(commands.AddMembers(conversation_id=group, user_ids=["u_cid"]))
        await cid.until(events.Resync)
        await ann.send(group, "for cid")
        await cid.until(events.MessagePosted)
        assert texts(cid.events) == ["for cid"]


async def test_a_stopped_actor_announces_what_was_committed_behind_the_failure(tmp_path: Path) -> None:
    """Promise 4: events that nobody fanned out are announced without waiting for the next command."""
    async with open_world(tmp_path) as world:
        ann, bob = await world.people("ann", "bob")
        group = await world.group(ann, bob)
        await bob.until(events.ConversationCreated)
        world.flaky.failures = [StorageUnavailable()]
        assert await outcome(ann, group, "lost", "k") == "storage_unavailable"
        await bob.until(events.Resync)


async def _rest(_relay: TellRelay) -> None:
    await trio.sleep_forever()


async def test_tells_that_a_node_took_with_it_arrive_once_after_a_restart(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A user must find every group and request in the inbox, even if the node died in between."""
    with monkeypatch.context() as patch:
        patch.setattr(TellRelay, "run", _rest)
        async with open_world(tmp_path) as world:
            ann, bob = await world.people("ann", "bob")
            groups = [await world.group(ann, bob) for _ in range(200)]  # more than one page of a scan
            await ann.do(commands.RequestContact(user_id="u_bob"))
            await ann.do(commands.RemoveMember(conversation_id=groups[0], user_id="u_bob"))
            await ann.do(commands.Mute(conversation_id=groups[1], until_ms=7))
            assert await bob.sync_inbox() == []
    async with open_world(tmp_path) as world:
        ann, bob = await world.people("ann", "bob")
        await bob.until_heard(lambda e: isinstance(e, events.ConversationRemoved))
        while await world.store.find(Tell, {}):
            await trio.testing.wait_all_tasks_blocked(0.01)
        inbox = await bob.sync_inbox()
        added = [e.conversation_id for e in inbox if isinstance(e, events.ConversationAdded)]
        assert added == groups  # in the order in which they were made
        assert [type(e) for e in inbox[200:]] == [events.ContactChanged, events.ConversationRemoved]
        assert [getattr(e, "seq", 0) for e in inbox] == list(range(1, 203))
        own = [e for e in await ann.sync_inbox() if isinstance(e, events.ConversationMuted)]
        assert [(e.conversation_id, e.until_ms) for e in own] == [(groups[1], 7)]
    async with open_world(tmp_path) as world:
        bob = await world.person("bob")
        assert await bob.sync_inbox() == inbox


async def test_a_tell_whose_target_fails_comes_again_in_order(tmp_path: Path) -> None:
    """Added and removed must not change places because the store was out for a moment."""
    async with open_world(tmp_path) as world:
        ann, bob = await world.people("ann", "bob")
        group = await world.group(ann)
        await ann.until(events.ConversationAdded)
        user_stream = inbox_stream("u_bob")
        plain = world.flaky.append_nowait
        failed: list[Append] = []

        def append_nowait(append: Append, on_done: object) -> None:
            if any(row.stream == user_stream for row in append.rows) and len(failed) < 2:
                failed.append(append)
                raise StorageUnavailable
            plain(append, on_done)  # type: ignore[arg-type]  # what was given

        world.flaky.append_nowait = append_nowait  # type: ignore[method-assign]
        await ann.do(commands.AddMembers(conversation_id=group, user_ids=["u_bob"]))
        await ann.do(commands.RemoveMember(conversation_id=group, user_id="u_bob"))
        await bob.until(events.ConversationRemoved)
        assert len(failed) == 2
        assert [type(e) for e in await bob.sync_inbox()] == [
            events.ConversationAdded,
            events.ConversationRemoved,
        ]


async def test_a_tell_that_crashes_its_target_is_set_aside_and_the_others_arrive(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One undecodable row must not lock a user out, nor hold up anybody else."""
    async with open_world(tmp_path) as world:
        ann, bob = await world.people("ann", "bob")
        bad = Tell(tell_id="0", shard=0, kind="user", target_id="u_bob", body='{"type":"?"}', at_ms=0)
        world.core.relay.hint([bad])
        group = await world.group(ann, bob)
        while not bob.heard(events.ConversationAdded):
            await trio.testing.wait_all_tasks_blocked(0.01)
        assert bob.heard(events.ConversationAdded)[0].conversation_id == group
        (letter,) = await world.store.find(DeadLetter, {})
        assert (letter.actor_id, letter.message_type) == ("u_bob", "Told")
        world.core.relay.hint([bad])
        await ann.do(commands.RequestContact(user_id="u_bob"))
        await bob.until(events.ContactChanged)
        assert len(await world.store.find(DeadLetter, {})) == 1


async def test_presence_comes_back_after_the_users_actor_crashed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Somebody who is there must not vanish because of a bug."""
    original, bugs = UserActor._update_profile, [Bug(), Bug()]

    async def update(self: UserActor, *args: object) -> None:
        if bugs:
            raise bugs.pop()
        await original(self, *args)  # type: ignore[arg-type]  # what was given

    monkeypatch.setattr(UserActor, "_update_profile", update)
    async with open_world(tmp_path) as world:
        ann, bob = await world.people("ann", "bob")
        await world.group(ann, bob)
        await ann.do(commands.WatchPresence(user_ids=["u_bob"]))
        assert await bob.refusal(commands.UpdateProfile(name="B")) == "crashed"
        await bob.until(events.Resync)
        shown = await ann.do(commands.WatchPresence(user_ids=["u_bob"]))
        assert isinstance(shown, replies.PresenceList)
        assert shown.items[0].state == "online"
        bob.disconnect()
        await ann.until_heard(lambda e: isinstance(e, events.Presence) and e.items[0].state == "offline")


async def test_acked_is_stored_when_the_node_is_killed(tmp_path: Path) -> None:
    """Every ack given before the world ends is found by the next one, in the order of the acks."""
    acked: list[tuple[int, str]] = []
    async with open_world(tmp_path) as world:
        ann, bob = await world.people("ann", "bob")
        group = await world.group(ann, bob)

        async def flood(world: World, device: Device, name: str) -> None:
            number = 0
            while True:
                sent = await device.send(group, f"{name}{number}")
                acked.append((sent.seq, f"{name}{number}"))
                number += 1

        async with trio.open_nursery() as nursery:
            for name in "abcd":
                nursery.start_soon(flood, world, ann, name)
            await bob.until(events.MessagePosted, 100)
            nursery.cancel_scope.cancel()
    async with open_world(tmp_path) as world:
        stored = await world.store.read(conversation_stream(group), after=0, limit=10_000)
        assert [e.seq for e in stored] == list(range(1, len(stored) + 1))
        found = {(e.seq, t) for e, t in zip(stored[1:], texts(await _all(world, group)), strict=True)}
        assert set(acked) <= found
        assert len(stored[1:]) <= len(acked) + 4  # at most one in flight for each


async def _all(world: World, group: str) -> list[events.Event]:
    return await (await world.person("bob")).sync(group)
