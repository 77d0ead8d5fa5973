"""Groups: roles, invites, limits; direct conversations; and that events add up to the members."""

from collections.abc import Callable
from pathlib import Path
from random import Random

import pytest
import trio

from protocol import commands, events, replies
from protocol.commands import Command
from protocol.errors import HubbubError
from protocol.events import Event
from protocol.limits import MAX_GROUP_MEMBERS
from protocol.records import InviteRow, conversation_stream
from protocol.stored_events import read_event
from protocol.types import Role
from tests.server.world import Device, World, open_world

ACTIONS: dict[str, Callable[[str, str], Command]] = {
    "add": lambda g, _: commands.AddMembers(conversation_id=g, user_ids=["u_new"]),
    "remove": lambda g, other: commands.RemoveMember(conversation_id=g, user_id=other),
    "ban": lambda g, other: commands.RemoveMember(conversation_id=g, user_id=other, ban=True),
    "unban": lambda g, _: commands.Unban(conversation_id=g, user_id="u_bad"),
    "rename": lambda g, _: commands.Rename(conversation_id=g, title="Other"),
    "promote": lambda g, other: commands.SetRole(conversation_id=g, user_id=other, role="admin"),
    "demote": lambda g, other: commands.SetRole(conversation_id=g, user_id=other, role="member"),
    "hand over": lambda g, other: commands.SetRole(conversation_id=g, user_id=other, role="owner"),
    "silence": lambda g, other: commands.Silence(conversation_id=g, user_id=other, until_ms=2**42),
    "invite": lambda g, _: commands.CreateInvite(conversation_id=g),
    "list invites": lambda g, _: commands.ListInvites(conversation_id=g),
    "revoke": lambda g, _: commands.RevokeInvite(conversation_id=g, code="nope"),
}
ON_OTHERS = ("remove", "ban", "silence")
RANK = {"member": 0, "admin": 1, "owner": 2}


def expected_code(action: str, actor: Role, other: Role) -> str:
    """What the rules promise; empty where the action succeeds."""
    if action in ("promote", "demote", "hand over"):
        return "" if actor == "owner" else "role_too_low"
    if RANK[actor] < RANK["admin"]:
        return "role_too_low"
    if action in ON_OTHERS and RANK[other] >= RANK[actor]:
        return "role_too_low"
    return "invite_not_found" if action == "revoke" else ""


@pytest.mark.parametrize("action", ACTIONS)
async def test_who_may_do_what_to_whom(tmp_path: Path, action: str) -> None:
    """Every role tries every administrative action on every role."""
    async with open_world(tmp_path) as world:
        people = {name: await world.person(name) for name in ("boss", "adm", "adm2", "mem", "mem2", "bad")}
        await world.user("new")
        roles: dict[str, Role] = {"boss": "owner", "adm": "admin", "adm2": "admin"}
        pairs = [("boss", "adm"), ("boss", "mem"), ("adm", "boss"), ("adm", "adm2"), ("adm", "mem")]
        pairs += [("mem", "boss"), ("mem", "adm"), ("mem", "mem2")]
        for actor, other in pairs:
            boss = people["boss"]
            group = await world.group(*people.values())
            for name in ("adm", "adm2"):
                await boss.do(commands.SetRole(conversation_id=group, user_id=f"u_{name}", role="admin"))
            await boss.do(commands.RemoveMember(conversation_id=group, user_id="u_bad", ban=True))
            command = ACTIONS[action](group, f"u_{other}")
            wanted = expected_code(action, roles.get(actor, "member"), roles.get(other, "member"))
            try:
                await people[actor].do(command)
                code = ""
            except HubbubError as error:
                code = error.code
            assert code == wanted, (actor, other)


async def test_what_only_a_group_can_do_is_refused_in_a_direct_conversation(tmp_path: Path) -> None:
    async with open_world(tmp_path) as world:
        ann, bob = await world.people("ann", "bob")
        await world.user("new")
        direct = await world.direct(ann, bob)
        for action, make in ACTIONS.items():
            assert await ann.refusal(make(direct, "u_bob")) == "not_a_group", action
        assert await ann.refusal(commands.Leave(conversation_id=direct)) == "not_a_group"


async def test_the_other_refusals_of_membership(tmp_path: Path) -> None:
    async with open_world(tmp_path) as world:
        ann, bob = await world.people("ann", "bob")
        await world.user("cid")
        group = await world.group(ann, bob)

        def remove(user_id: str, *, ban: bool = False) -> commands.RemoveMember:
            return commands.RemoveMember(conversation_id=group, user_id=user_id, ban=ban)

        add = commands.AddMembers(conversation_id=group, user_ids=["u_cid"])
        assert await ann.refusal(commands.Leave(conversation_id=group)) == "owner_must_stay"
        assert await ann.refusal(remove("u_ann")) == "self_not_allowed"
        assert await ann.refusal(remove("u_cid")) == "not_member"
        assert await ann.refusal(remove("u_nobody", ban=True)) == "user_not_found"
        role = commands.SetRole(conversation_id=group, user_id="u_cid", role="admin")
        assert await ann.refusal(role) == "not_member"
        role = commands.SetRole(conversation_id=group, user_id="u_ann", role="member")
        assert await ann.refusal(role) == "self_not_allowed"
        silence = commands.Silence(conversation_id=group, user_id="u_cid", until_ms=1)
        assert await ann.refusal(silence) == "not_member"
        nobody = commands.AddMembers(conversation_id=group, user_ids=["u_nobody"])
        assert await ann.refusal(nobody) == "user_not_found"
        await ann.do(remove("u_cid", ban=True))  # before having been a member
        assert await ann.do(remove("u_cid", ban=True)) == replies.Changed(conversation_id=group)
        assert await ann.refusal(add) == "banned"
        await ann.do(commands.Unban(conversation_id=group, user_id="u_cid"))
        await ann.do(add)
        assert await ann.do(add) == replies.Changed(conversation_id=group)  # nothing to change
        assert await ann.do(commands.Rename(conversation_id=group, title="Group")) == replies.Changed(
            conversation_id=group
        )
        await bob.do(commands.Block(user_id="u_ann"))
        created = commands.CreateGroup(client_id="g", title="No", member_ids=["u_bob"])
        assert await ann.refusal(created) == "blocked"
        assert await bob.refusal(commands.CreateGroup(client_id="g", title="No", member_ids=["u_ann"])) == (
            "blocked"
        )
        await ann.do(remove("u_bob"))
        assert await bob.refusal(commands.ListMembers(conversation_id=group)) == "conversation_not_found"
        await ann.do(remove("u_cid"))
        await ann.do(commands.Leave(conversation_id=group))  # alone, the owner may go
        assert await ann.refusal(commands.GetConversation(conversation_id=group)) == "conversation_not_found"


async def test_a_group_holds_500_members_and_no_more(tmp_path: Path) -> None:
    """Receipts and unread counts are exact up to here."""
    async with open_world(tmp_path) as world:
        ann, late = await world.people("ann", "late")
        crowd = await world.crowd(MAX_GROUP_MEMBERS)
        create = commands.CreateGroup(client_id="big", title="Big", member_ids=crowd)
        assert await ann.refusal(create) == "group_full"
        await ann.do(commands.CreateGroup(client_id="ok", title="Big", member_ids=crowd[:-1]))
        (added,) = await ann.until(events.ConversationAdded)
        group = added.conversation_id
        assert (await ann.line(group)).member_count == MAX_GROUP_MEMBERS
        one_more = commands.AddMembers(conversation_id=group, user_ids=["u_late"])
        assert await ann.refusal(one_more) == "group_full"
        invite = await ann.do(commands.CreateInvite(conversation_id=group))
        assert isinstance(invite, replies.InviteInfo)
        join = commands.Join(code=invite.invite.code)
        assert await late.refusal(join) == "group_full"
        await ann.do(commands.RemoveMember(conversation_id=group, user_id=crowd[0]))
        await late.do(join)
        assert len(await late.members(group)) == MAX_GROUP_MEMBERS


async def test_invites_end_by_time_by_use_by_hand_and_with_the_group(tmp_path: Path) -> None:
    """A link that leaks must be stoppable."""
    async with open_world(tmp_path) as world:
        ann, bob, cid, dan = await world.people("ann", "bob", "cid", "dan")
        group = await world.group(ann)

        async def invite(expires_at_ms: int = 0, max_uses: int = 0) -> str:
            reply = await ann.do(
                commands.CreateInvite(conversation_id=group, expires_at_ms=expires_at_ms, max_uses=max_uses)
            )
            assert isinstance(reply, replies.InviteInfo)
            return reply.invite.code

        async def working() -> set[str]:
            reply = await ann.do(commands.ListInvites(conversation_id=group))
            assert isinstance(reply, replies.InviteList)
            return {item.code for item in reply.items}

        once, brief, revoked = await invite(max_uses=1), await invite(world.now_ms + 5), await invite()
        assert await working() == {once, brief, revoked}
        info = await bob.do(commands.Join(code=once))
        assert isinstance(info, replies.ConversationInfo)
        assert info.conversation.conversation_id == group
        await bob.do(commands.Join(code=once))  # a retry of a member
        assert await cid.refusal(commands.Join(code=once)) == "invite_not_found"
        await ann.do(commands.RevokeInvite(conversation_id=group, code=revoked))
        again = await ann.do(commands.RevokeInvite(conversation_id=group, code=revoked))
        assert again == replies.Changed(conversation_id=group)
        assert await cid.refusal(commands.Join(code=revoked)) == "invite_not_found"
        await cid.do(commands.Join(code=brief))
        world.now_ms += 5
        assert await dan.refusal(commands.Join(code=brief)) == "invite_not_found"
        assert await working() == set()
        assert await dan.refusal(commands.Join(code="unknown")) == "invite_not_found"
        await ann.do(commands.RemoveMember(conversation_id=group, user_id="u_cid", ban=True))
        open_one = await invite()
        assert await cid.refusal(commands.Join(code=open_one)) == "banned"
        added = [e for e in await ann.sync(group) if isinstance(e, events.MembersAdded)]
        assert [e.member_ids for e in added] == [["u_bob"], ["u_cid"]]
        assert all(e.invite and e.invite not in (once, brief) for e in added)  # the code is not given away
        await ann.do(commands.RemoveMember(conversation_id=group, user_id="u_bob"))
        await ann.do(commands.Leave(conversation_id=group))
        assert await dan.refusal(commands.Join(code=open_one)) == "invite_not_found"


async def test_a_group_has_at_most_100_working_invites_and_forgets_spent_ones(tmp_path: Path) -> None:
    async with open_world(tmp_path) as world:
        (ann,) = await world.people("ann")
        group = await world.group(ann)
        create = commands.CreateInvite(conversation_id=group)
        for _ in range(100):
            await ann.do(create)
        assert await ann.refusal(create) == "already_exists"
        listed = await ann.do(commands.ListInvites(conversation_id=group))
        assert isinstance(listed, replies.InviteList)
        for item in listed.items:
            await ann.do(commands.RevokeInvite(conversation_id=group, code=item.code))
            await ann.do(create)
        assert len(await world.store.find(InviteRow, {"conversation_id": group}, limit=1000)) == 200
        listed = await ann.do(commands.ListInvites(conversation_id=group))
        assert isinstance(listed, replies.InviteList)
        await ann.do(commands.RevokeInvite(conversation_id=group, code=listed.items[0].code))
        await ann.do(create)
        assert len(await world.store.find(InviteRow, {"conversation_id": group}, limit=1000)) == 200


async def test_both_sides_open_one_direct_conversation_at_once(tmp_path: Path) -> None:
    """Two people may think of each other in the same moment."""
    async with open_world(tmp_path) as world:
        ann, bob = await world.people("ann", "bob")
        found: list[replies.ConversationInfo] = []

        async def open_direct(device: Device, other: Device) -> None:
            reply = await device.do(commands.OpenDirect(user_id=other.user_id))
            assert isinstance(reply, replies.ConversationInfo)
            found.append(reply)

        async with trio.open_nursery() as nursery:
            for _ in range(5):
                nursery.start_soon(open_direct, ann, bob)
                nursery.start_soon(open_direct, bob, ann)
        assert len({info.conversation.conversation_id for info in found}) == 1
        assert sum(info.created for info in found) == 1
        assert {info.conversation.peer_id for info in found} == {"u_ann", "u_bob"}
        assert len(await ann.sync(found[0].conversation.conversation_id)) == 1


async def test_a_group_is_created_once_however_often_it_is_asked_for(tmp_path: Path) -> None:
    """A lost answer must not leave two groups of the same name."""
    async with open_world(tmp_path) as world:
        ann, bob = await world.people("ann", "bob")
        create = commands.CreateGroup(client_id="k1", title="Once", member_ids=["u_bob", "u_bob", "u_ann"])
        ids: list[str] = []

        async def run(device: Device) -> None:
            reply = await device.do(create)
            assert isinstance(reply, replies.ConversationInfo)
            ids.append(reply.conversation.conversation_id)

        async with trio.open_nursery() as nursery:
            for _ in range(4):
                nursery.start_soon(run, ann)
        assert len(set(ids)) == 1
        await bob.until(events.ConversationAdded)
    async with open_world(tmp_path) as world:
        ann, bob = await world.people("ann", "bob")
        again = await world.core.service.execute(ann.identity, create)
        assert isinstance(again, replies.ConversationInfo)
        assert (again.conversation.conversation_id, again.created) == (ids[0], False)
        listed = await bob.do(commands.ListConversations())
        assert isinstance(listed, replies.ConversationList)
        assert [item.conversation_id for item in listed.items] == ids[:1]
        assert [type(e) for e in await bob.sync_inbox()] == [events.ConversationAdded]


class Fold:
    """A client's view of a conversation, from its events alone."""

    def __init__(self) -> None:
        self.title = ""
        self.roles: dict[str, Role] = {}
        self.silenced: dict[str, int] = {}
        self.banned: set[str] = set()

    def add(self, event: Event) -> None:
        match event:
            case events.ConversationCreated():
                self.title = event.title
                self.roles = dict.fromkeys(event.member_ids, "member")
                self.roles[event.user_id] = "owner"
            case events.MembersAdded():
                self.roles |= dict.fromkeys(event.member_ids, "member")
            case events.MemberRemoved():
                self.roles.pop(event.member_id, None)
                self.silenced.pop(event.member_id, None)
                if event.banned:
                    self.banned.add(event.member_id)
            case events.MemberUnbanned():
                self.banned.discard(event.member_id)
            case events.RoleChanged():
                if event.role == "owner":
                    old = next(u for u, role in self.roles.items() if role == "owner")
                    self.roles[old] = "admin"
                self.roles[event.member_id] = event.role
            case events.MemberSilenced():
                self.silenced[event.member_id] = event.until_ms
            case events.Renamed():
                self.title = event.title


@pytest.mark.parametrize("seed", range(6))
async def test_events_from_any_point_add_up_to_a_fresh_snapshot(tmp_path: Path, seed: int) -> None:
    """A client keeps members, roles and title by events alone; it must never drift."""
    random = Random(seed)
    async with open_world(tmp_path) as world:
        people = await world.people("ann", "bob", "cid", "dan", "eve")
        group = await world.group(people[0], *people[1:3])
        commands_done = 0

        async def act(device: Device) -> None:
            nonlocal commands_done
            for _ in range(25):
                command = _random_command(random, group, [p.user_id for p in people])
                if device is people[0] and isinstance(command, commands.Leave):
                    continue  # else a run may be over before it has begun
                try:
                    await device.do(command)
                    commands_done += 1
                except HubbubError:
                    pass

        async with trio.open_nursery() as nursery:
            for device in people:
                nursery.start_soon(act, device)
        assert commands_done
        fold = await _fold(world, group)
        owner = next((p for p in people if fold.roles.get(p.user_id) == "owner"), None)
        if owner is None:  # the last one to be in the group has left it
            assert not fold.roles
            return
        listed = await owner.do(commands.ListMembers(conversation_id=group))
    async with open_world(tmp_path) as world:
        owner = await world.connect(owner.identity)
        fresh = await owner.do(commands.ListMembers(conversation_id=group))
        assert isinstance(listed, replies.MemberList)
        assert isinstance(fresh, replies.MemberList)
        assert {m.user_id: m for m in fresh.items} == {m.user_id: m for m in listed.items}
        assert {m.user_id: m.role for m in fresh.items} == fold.roles
        assert {m.user_id: m.silenced_until_ms for m in fresh.items if m.silenced_until_ms} == {
            u: until for u, until in fold.silenced.items() if until and u in fold.roles
        }
        assert set(fresh.banned) == fold.banned
        line = await owner.line(group)
        assert (line.title, line.member_count) == (fold.title, len(fold.roles))


async def _fold(world: World, group: str) -> Fold:
    fold = Fold()
    for entry in await world.store.read(conversation_stream(group), after=0, limit=10_000):
        fold.add(read_event(group, entry))
    return fold


def _random_command(random: Random, group: str, user_ids: list[str]) -> Command:
    other = random.choice(user_ids)
    match random.randrange(9):
        case 0:
            return commands.Rename(conversation_id=group, title=random.choice("xyz"))
        case 1 | 2:
            return commands.AddMembers(conversation_id=group, user_ids=random.sample(user_ids, 3))
        case 3:
            return commands.RemoveMember(conversation_id=group, user_id=other, ban=random.random() < 0.3)
        case 4:
            return commands.Unban(conversation_id=group, user_id=other)
        case 5 | 6:
            role: Role = random.choices(("owner", "admin", "member"), (1, 3, 2))[0]
            return commands.SetRole(conversation_id=group, user_id=other, role=role)
        case 7:
            return commands.Silence(conversation_id=group, user_id=other, until_ms=random.choice((0, 5)))
        case _:
            return commands.Leave(conversation_id=group)
