"""One app never sees another's anything, and nobody sees a conversation from outside."""

from pathlib import Path
from typing import get_args

import msgspec

from protocol import commands, events, feed_commands, feed_events, feed_replies, replies
from protocol.commands import Command
from protocol.errors import HubbubError
from protocol.records import FileRow, Insert
from protocol.reference import COMMANDS
from tests.server.feeds import page, post, texts
from tests.server.world import Device, World, open_world

VALUES = {
    "client_id": "k",
    "text": "x",
    "target": 2,
    "emoji": "x",
    "seq": 1,
    "title": "x",
    "role": "admin",
    "until_ms": 1,
    "code": "code",
    "accept": True,
    "active": True,
    "prefix": "b",
    "post_id": 1,
    "comment_id": 1,
    "kind": "hashtag",
    "slot_id": "x",
    "is_private": False,
    "mark": "read",
    "preferences": {},
    "channel": "sms",
    "address": "+4915112345678",
    "device_key": "x",
    "purpose": "ads",
    "given": True,
    "request_id": "nr_x",
    "request": {"type": "chat", "user_id": "u_x", "text": "x"},
}
CONVERSATION_COMMANDS = [
    kind for kind in COMMANDS if "conversation_id" in {field.name for field in msgspec.structs.fields(kind)}
]


# A command that names a post or an author answers with this to who may not know of it.
POST_COMMANDS = {
    kind: "post_not_found"
    for kind in get_args(feed_commands.FeedCommand)
    if "post_id" in {field.name for field in msgspec.structs.fields(kind)}
    # These are about what is one's own, and are answered without a look at the post.
    and kind not in (feed_commands.SetFeedPosition, feed_commands.ExplainPost)
}
AUTHOR_COMMANDS = {
    kind: "user_not_found"
    for kind in get_args(feed_commands.FeedCommand)
    if "user_id" in {field.name for field in msgspec.structs.fields(kind)}
} | {
    feed_commands.AnswerFollow: "follow_not_found",
    feed_commands.RemoveFollower: "follow_not_found",
    feed_commands.Unfollow: "",  # "none", as of everybody whom one does not follow
}


def touching(kind: type[msgspec.Struct], conversation_id: str, user_id: str, post_id: int = 1) -> Command:
    """A valid command of that type about a conversation, a user and a post, as if decoded from a frame."""
    values = VALUES | {"conversation_id": conversation_id, "user_id": user_id, "user_ids": [user_id]}
    values |= {"post_id": post_id, "post_ids": [post_id]}
    if kind is feed_commands.SetInterest:
        values["target"] = "x"
    command: Command = msgspec.convert({"type": kind.__struct_config__.tag, **values}, Command)
    return command


async def both_doors(world: World, device: Device, command: Command) -> set[str]:
    """The codes with which a command is refused on a connection and by HTTP."""
    codes: set[str] = set()
    try:
        await device.do(command)
        codes.add("")
    except HubbubError as error:
        codes.add(error.code)
    try:
        await world.core.service.execute(device.identity, command)
        codes.add("")
    except HubbubError as error:
        codes.add(error.code)
    return codes


async def test_to_outsiders_and_other_apps_a_conversation_does_not_exist(tmp_path: Path) -> None:
    """Every command that names a conversation, by socket and by HTTP; not even its existence shows."""
    assert len(CONVERSATION_COMMANDS) >= 20
    async with open_world(tmp_path) as world:
        ann, bob = await world.people("ann", "bob")
        near, far = await world.person("near"), await world.person("far", app_id="acme")
        group, direct = await world.group(ann, bob), await world.direct(ann, bob)
        await ann.send(group, "secret")
        await ann.send(direct, "secret")
        for outsider in (near, far):
            for conversation_id in (group, direct, "no-such"):
                for kind in CONVERSATION_COMMANDS:
                    command = touching(kind, conversation_id, "u_bob")
                    codes = await both_doors(world, outsider, command)
                    assert codes == {"conversation_not_found"}, command
            assert outsider.events == []
        assert len(await ann.sync(group)) == 2


async def test_people_files_and_invites_of_another_app_do_not_exist(tmp_path: Path) -> None:
    async with open_world(tmp_path) as world:
        ann, bob = await world.people("ann", "bob")
        far = await world.person("far", app_id="acme")
        group = await world.group(ann, bob)
        invite = await ann.do(commands.CreateInvite(conversation_id=group))
        assert isinstance(invite, replies.InviteInfo)
        file = FileRow(
            file_id="f1",
            app_id="default",
            user_id="u_ann",
            sha256="0",
            name="a.png",
            media_type="image/png",
            size_bytes=1,
            at_ms=1,
        )
        await world.store.commit([Insert(file)])
        own = await world.group(far)
        for command, code in (
            (commands.OpenDirect(user_id="u_ann"), "user_not_found"),
            (commands.CreateGroup(client_id="k", title="x", member_ids=["u_ann"]), "user_not_found"),
            (commands.AddMembers(conversation_id=own, user_ids=["u_ann"]), "user_not_found"),
            (commands.RemoveMember(conversation_id=own, user_id="u_ann", ban=True), "user_not_found"),
            (commands.RequestContact(user_id="u_ann"), "user_not_found"),
            (commands.Block(user_id="u_ann"), "user_not_found"),
            (commands.AnswerContact(user_id="u_ann", accept=True), "contact_not_found"),
            (commands.RemoveContact(user_id="u_ann"), "contact_not_found"),
            (commands.Join(code=invite.invite.code), "invite_not_found"),
            (commands.Send(conversation_id=own, client_id="k", mentions=["u_ann"], text="x"), "not_member"),
            (commands.Send(conversation_id=own, client_id="k", file_ids=["f1"]), "file_not_found"),
            (commands.UpdateProfile(avatar="f1"), "file_not_found"),
        ):
            assert await both_doors(world, far, command) == {code}, command
        for empty in (
            commands.GetUsers(user_ids=["u_ann", "u_bob"]),
            commands.FindUsers(prefix="a"),
        ):
            assert await far.do(empty) == replies.ProfileList(items=[])
        watched = await far.do(commands.WatchPresence(user_ids=["u_ann", "u_bob"], contacts=True))
        assert watched == replies.PresenceList(items=[])
        listed = await far.do(commands.ListConversations())
        assert isinstance(listed, replies.ConversationList)
        assert [item.conversation_id for item in listed.items] == [own]
        # The same ids and keys in two apps name different things.
        first = await far.do(commands.CreateGroup(client_id="same", title="x"))
        second = await ann.do(commands.CreateGroup(client_id="same", title="x"))
        assert isinstance(first, replies.ConversationInfo)
        assert isinstance(second, replies.ConversationInfo)
        assert first.conversation.conversation_id != second.conversation.conversation_id
        assert not [e for e in far.events if isinstance(e, events.Presence | events.Typing)]


async def test_posts_and_authors_of_another_app_do_not_exist(tmp_path: Path) -> None:
    """Nor do posts that are not for somebody of the same app; by socket and by HTTP."""
    assert len(POST_COMMANDS) >= 9
    assert len(AUTHOR_COMMANDS) >= 9
    async with open_world(tmp_path) as world:
        ann, near = await world.people("ann", "near")
        far = await world.person("far", app_id="acme")
        public = await post(ann, "secret #tag")
        close = await post(ann, "secret", visibility="followers")
        await ann.do(feed_commands.AddComment(client_id="c", post_id=close, text="secret"))
        for outsider, post_ids in ((far, (public, close, 1)), (near, (close, 1))):
            for post_id in post_ids:
                for kind, code in POST_COMMANDS.items():
                    command = touching(kind, "none", "u_ann", post_id)
                    assert await both_doors(world, outsider, command) == {code}, command
        for user_id in ("u_ann", "u_nobody"):
            for kind, code in AUTHOR_COMMANDS.items():
                command = touching(kind, "none", user_id)
                assert await both_doors(world, far, command) == {code}, command
        create = feed_commands.CreatePost(client_id="k", text="x", mentions=["u_ann"])
        assert await both_doors(world, far, create) == {"user_not_found"}
        for device in (ann, far):
            await device.do(feed_commands.WatchFeed(feed=True, post_ids=[public, close]))
        await near.do(feed_commands.LikePost(post_id=public))
        await ann.do(feed_commands.EditPost(post_id=public, text="more"))
        await ann.until(feed_events.FeedChanged)
        await ann.until_heard(lambda event: isinstance(event, feed_events.PostCounts) and event.likes == 1)
        trends = await far.do(feed_commands.GetTrends(kind="hashtag"))
        assert trends == feed_replies.TrendList(items=[])
        assert texts(await page(far)) == []
        assert far.events == []


async def test_every_command_is_served_or_refused_by_name(tmp_path: Path) -> None:
    """A command that the schema knows and no handler serves would answer "unknown_type"."""
    async with open_world(tmp_path) as world:
        ann, bob = await world.people("ann", "bob")
        group = await world.group(ann)
        post_id = await post(bob, "x")
        for kind in COMMANDS:
            if kind in (commands.Hello, commands.Logout, commands.RevokeSession):
                continue  # the session's own, and the log-ins', which have tests of their own
            command = touching(kind, group, "u_bob", post_id)
            try:
                answer = await ann.do(command)
                assert isinstance(answer, command.reply), command
            except HubbubError as error:
                assert error.code not in ("unknown_type", "internal", "crashed", "busy"), (command, error)
