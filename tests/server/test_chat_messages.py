"""Messages: sending once and for good, editing, deleting, reacting, mentioning, reading back."""

import sqlite3
from contextlib import closing
from pathlib import Path

import msgspec
import pytest
import trio
import trio.testing

from protocol import commands, events, replies
from protocol.limits import EDIT_WINDOW_MS, MAX_REACTION_KINDS, MAX_TEXT_BYTES, PAGE_BYTES
from protocol.records import FileRow, Insert
from protocol.types import Message
from tests.server.world import Device, open_world, texts


async def history(
    device: Device, conversation_id: str, *, limit: int, rising: bool, thread: int = 0
) -> list[Message]:
    """Read all messages, page by page, from either end."""
    found: list[Message] = []
    while True:
        if rising:
            command = commands.History(
                conversation_id=conversation_id,
                after=found[-1].seq if found else 0,
                limit=limit,
                thread=thread,
            )
        else:
            command = commands.History(
                conversation_id=conversation_id,
                before=found[0].seq if found else 0,
                limit=limit,
                thread=thread,
            )
        page = await device.do(command)
        assert isinstance(page, replies.MessagePage)
        assert len(page.items) <= limit
        found = found + page.items if rising else page.items + found
        if not page.more:
            return found


@pytest.mark.parametrize("char", ["a", "é", "€", "🐝"])
async def test_a_text_of_100_kb_is_taken_and_one_byte_more_is_not(tmp_path: Path, char: str) -> None:
    """The limit counts bytes of UTF-8, whatever the language."""
    async with open_world(tmp_path) as world:
        ann, bob = await world.people("ann", "bob")
        group = await world.group(ann, bob)
        size = len(char.encode())
        fitting = char * (MAX_TEXT_BYTES // size) + "x" * (MAX_TEXT_BYTES % size)
        assert len(fitting.encode()) == MAX_TEXT_BYTES
        sent = await ann.send(group, fitting)
        assert texts(await bob.sync(group)) == [fitting]
        too_long = commands.Send(conversation_id=group, client_id="k", text=fitting + "x")
        assert await ann.refusal(too_long) == "text_too_long"
        edit = commands.Edit(conversation_id=group, target=sent.seq, text=fitting + "x")
        assert await ann.refusal(edit) == "text_too_long"


async def test_every_refused_message_names_its_reason(tmp_path: Path) -> None:
    """Clients translate the codes; none of these stores anything."""
    async with open_world(tmp_path) as world:
        ann, bob, eve = await world.people("ann", "bob", "eve")
        group = await world.group(ann, bob)
        direct = await world.direct(ann, bob)
        sent = await ann.send(group, "here")

        def send(conversation_id: str = group, text: str = "x", **more: object) -> commands.Send:
            return commands.Send(
                conversation_id=conversation_id,
                client_id=world.new_client_id(),
                text=text,
                **more,  # type: ignore[arg-type]  # fields of Send
            )

        assert await ann.refusal(send(text="")) == "text_empty"
        assert await ann.refusal(send(text=" \n\t ")) == "text_empty"
        assert await ann.refusal(send(mentions=["u_eve"])) == "not_member"
        assert await ann.refusal(send(reply_to=99)) == "message_not_found"
        assert await ann.refusal(send(thread=99)) == "message_not_found"
        assert await ann.refusal(send(thread=1)) == "message_not_found"  # the creation is no message
        assert await ann.refusal(send(file_ids=["nope"])) == "file_not_found"
        assert await eve.refusal(send()) == "conversation_not_found"
        assert await eve.refusal(send("no-such")) == "conversation_not_found"
        target = sent.seq
        edit = commands.Edit(conversation_id=group, target=target, text="y")
        assert await bob.refusal(edit) == "not_author"
        assert await bob.refusal(commands.Delete(conversation_id=group, target=target)) == "not_author"
        missing = commands.Edit(conversation_id=group, target=77, text="y")
        assert await ann.refusal(missing) == "message_not_found"
        empty = commands.Edit(conversation_id=group, target=target, text=" ")
        assert await ann.refusal(empty) == "text_empty"
        future = commands.MarkRead(conversation_id=group, seq=target + 1)
        assert await bob.refusal(future) == "bad_cursor"
        assert await bob.refusal(commands.Sync(conversation_id=group, after=99)) == "bad_cursor"
        both = commands.History(conversation_id=group, before=2, after=1)
        assert await bob.refusal(both) == "bad_field"
        assert await bob.refusal(commands.ListConversations(after="no place")) == "bad_cursor"
        await ann.do(commands.Silence(conversation_id=group, user_id="u_bob", until_ms=world.now_ms + 10))
        assert await bob.refusal(send()) == "silenced"
        react = commands.React(conversation_id=group, target=target, emoji="x")
        assert await bob.refusal(react) == "silenced"
        assert await bob.refusal(commands.SetTyping(conversation_id=group)) == "silenced"
        world.now_ms += 11
        await bob.send(group, "free again")
        await ann.do(commands.Delete(conversation_id=group, target=target))
        assert await ann.refusal(edit) == "message_deleted"
        assert await bob.refusal(react) == "message_deleted"
        assert await ann.refusal(send(thread=target)) == "message_deleted"
        reply = await ann.send(group, "root")
        inner = await ann.send(group, "inner", thread=reply.seq)
        assert await ann.refusal(send(thread=inner.seq)) == "message_not_found"
        await bob.do(commands.Block(user_id="u_ann"))
        assert await ann.refusal(send(direct)) == "blocked"
        assert await bob.refusal(send(direct)) == "blocked"
        await ann.send(group, "a block is between two, not in a group")


async def test_the_author_has_24_hours_and_admins_have_for_ever(tmp_path: Path) -> None:
    """What others have read and acted on stays; moderation does not end."""
    async with open_world(tmp_path) as world:
        ann, bob = await world.people("ann", "bob")
        group, direct = await world.group(ann, bob), await world.direct(ann, bob)
        for conversation_id in (group, direct):
            sent = await bob.send(conversation_id, "old")
            world.now_ms += EDIT_WINDOW_MS
            edit = commands.Edit(conversation_id=conversation_id, target=sent.seq, text="in time")
            await bob.do(edit)
            world.now_ms += 1
            delete = commands.Delete(conversation_id=conversation_id, target=sent.seq)
            assert await bob.refusal(edit) == "edit_too_late"
            assert await bob.refusal(delete) == "edit_too_late"
            if conversation_id == group:
                await ann.do(delete)
            else:
                assert await ann.refusal(delete) == "not_author"


async def test_a_retry_gets_the_first_ack_whatever_has_changed_since(tmp_path: Path) -> None:
    """A client that lost the ack must not take a stored message for lost."""
    async with open_world(tmp_path) as world:
        ann, bob, cid = await world.people("ann", "bob", "cid")
        group = await world.group(ann, bob, cid)
        root = await ann.send(group, "root")
        first = await bob.send(group, "@cid", "k1", mentions=["u_cid"], thread=root.seq)
        await ann.do(commands.RemoveMember(conversation_id=group, user_id="u_cid"))
        await ann.do(commands.Delete(conversation_id=group, target=root.seq))
        await ann.do(commands.Silence(conversation_id=group, user_id="u_bob", until_ms=world.now_ms * 2))
        again = await bob.send(group, "@cid", "k1", mentions=["u_cid"], thread=root.seq)
        assert (again.seq, again.at_ms, again.duplicate) == (first.seq, first.at_ms, True)
        new = commands.Send(conversation_id=group, client_id="k2", text="@cid")
        assert await bob.refusal(new) == "silenced"
    async with open_world(tmp_path) as world:
        bob = await world.person("bob")
        again = await bob.send(group, "@cid", "k1")
        assert (again.seq, again.at_ms, again.duplicate) == (first.seq, first.at_ms, True)
        assert texts(await bob.sync(group)) == ["", "@cid"]


async def test_duplicates_in_one_batch_are_stored_once(tmp_path: Path) -> None:
    """Two tabs of one user may send the same queue at once; keys of others do not collide."""
    async with open_world(tmp_path) as world:
        ann, bob = await world.people("ann", "bob")
        tab = await world.connect(ann.identity, "d2")
        group = await world.group(ann, bob)
        root = await ann.send(group, "root")
        sent: dict[tuple[str, str], set[int]] = {}

        async def send(device: Device, client_id: str) -> None:
            at = await device.send(group, client_id, client_id, thread=root.seq)
            sent.setdefault((device.user_id, client_id), set()).add(at.seq)

        async with trio.open_nursery() as nursery:
            for client_id in ("k1", "k2", "k1", "k3", "k1"):
                for device in (ann, tab, bob):
                    nursery.start_soon(send, device, client_id)
        assert all(len(seqs) == 1 for seqs in sent.values())
        stored = await bob.sync(group)
        assert sorted(texts(stored)) == sorted(["root", *["k1", "k2", "k3"] * 2])
        assert [getattr(e, "seq", 0) for e in stored] == list(range(1, 9))
        (first, *_rest) = await history(bob, group, limit=10, rising=True)
        assert first.thread_count == 6


async def test_a_duplicate_behind_a_new_message_leaves_nothing_unread(tmp_path: Path) -> None:
    """A user's own messages are never unread to that user, in whatever order they are repeated."""
    async with open_world(tmp_path) as world:
        ann, bob = await world.people("ann", "bob")
        group = await world.group(ann, bob)
        await ann.send(group, "old", "k1")
        async with trio.open_nursery() as nursery:
            nursery.start_soon(ann.send, group, "new", "k2")
            await trio.testing.wait_all_tasks_blocked()
            nursery.start_soon(ann.send, group, "newer", "k3")
            nursery.start_soon(ann.send, group, "old", "k1")
        await ann.do(commands.Mute(conversation_id=group, until_ms=0))  # behind whatever was put right
        assert await world.unread(ann, group) == 0
        assert await world.unread(bob, group) == 3


async def test_deleting_erases_the_content_from_the_database(tmp_path: Path) -> None:
    """Who deletes a secret trusts that it is gone, its edits and its mentions too."""
    async with open_world(tmp_path) as world:
        ann, bob = await world.people("ann", "bob")
        group = await world.group(ann, bob)
        sent = await ann.send(group, "secret one", mentions=["u_bob"])
        other = await ann.send(group, "public")
        for text in ("secret two", "secret three"):
            edit = commands.Edit(conversation_id=group, target=sent.seq, text=text, mentions=["u_bob"])
            await ann.do(edit)
        await ann.do(commands.Edit(conversation_id=group, target=other.seq, text="public two"))
        await bob.do(commands.React(conversation_id=group, target=sent.seq, emoji="secret4"))
        assert (await bob.line(group)).mentions_unread == 1
        await ann.do(commands.Delete(conversation_id=group, target=sent.seq))
        assert (await bob.line(group)).mentions_unread == 0
        found = await bob.sync(group)
        edits = [e for e in found if isinstance(e, events.MessageEdited)]
        assert [(e.target, e.text) for e in edits] == [(2, ""), (2, ""), (3, "public two")]
        assert [m.deleted for m in await history(bob, group, limit=5, rising=True)] == [True, False]
    with closing(sqlite3.connect(tmp_path / "hubbub.db")) as connection:
        for (table,) in connection.execute("SELECT name FROM sqlite_master WHERE type = 'table'").fetchall():
            for row in connection.execute(f"SELECT * FROM {table}"):
                assert "secret " not in str(row), table


async def test_history_read_from_both_ends_is_what_was_done(tmp_path: Path) -> None:
    """The client scrolls up and jumps to a place; both must show every message as it now is."""
    async with open_world(tmp_path) as world:
        ann, bob = await world.people("ann", "bob")
        group = await world.group(ann, bob)
        model: dict[int, Message] = {}
        roots: list[int] = []
        for number in range(40):
            device = (ann, bob)[number % 2]
            thread = roots[number % len(roots)] if number % 5 == 4 and roots else 0
            sent = await device.send(group, f"text {number}", f"k{number}", thread=thread)
            model[sent.seq] = Message(
                conversation_id=group,
                seq=sent.seq,
                at_ms=sent.at_ms,
                user_id=device.user_id,
                text=f"text {number}",
                client_id=f"k{number}",
                thread=thread,
            )
            if thread:
                root = model[thread]
                model[thread] = _replaced(root, thread_count=root.thread_count + 1)
            elif number % 7 == 0:
                roots.append(sent.seq)
            if number % 6 == 1:
                await device.do(commands.Edit(conversation_id=group, target=sent.seq, text="edited"))
                model[sent.seq] = _replaced(model[sent.seq], text="edited", edited_at_ms=world.now_ms)
            if number % 8 == 3 and sent.seq not in roots:
                await device.do(commands.Delete(conversation_id=group, target=sent.seq))
                model[sent.seq] = Message(
                    conversation_id=group,
                    seq=sent.seq,
                    at_ms=sent.at_ms,
                    user_id=device.user_id,
                    thread=thread,
                    deleted=True,
                )
        expected = [model[seq] for seq in sorted(model)]
        for limit in (1, 7, 500):
            for rising in (True, False):
                assert await history(ann, group, limit=limit, rising=rising) == expected
                for root_seq in roots:
                    of_thread = [m for m in expected if root_seq in (m.seq, m.thread)]
                    found = await history(ann, group, limit=limit, rising=rising, thread=root_seq)
                    assert found == of_thread


async def test_long_messages_end_a_page_early_and_never_the_conversation(tmp_path: Path) -> None:
    """A page fits into a frame; what did not fit is on the next one."""
    async with open_world(tmp_path) as world:
        ann, bob = await world.people("ann", "bob")
        group = await world.group(ann, bob)
        for number in range(8):
            await ann.send(group, f"{number}" + ('"' * 99_000 if number % 2 else ""))
        edited = await ann.send(group, "8")
        await ann.do(commands.Edit(conversation_id=group, target=edited.seq, text="9" * 100_000))
        wanted = [str(n) for n in range(10)]
        assert [m[:1] for m in texts(await bob.sync(group))] == wanted[:9]
        for rising in (True, False):
            found = await history(bob, group, limit=500, rising=rising)
            assert [m.text[:1] for m in found] == [*wanted[:8], "9"]
        page = await bob.do(commands.History(conversation_id=group))
        assert isinstance(page, replies.MessagePage)
        assert sum(len(m.text) for m in page.items) <= PAGE_BYTES


async def test_reactions_are_kept_in_order_and_bounded(tmp_path: Path) -> None:
    """Fifty kinds are plenty; joining a kind that is there is always possible."""
    async with open_world(tmp_path) as world:
        ann, bob = await world.people("ann", "bob")
        group = await world.group(ann, bob)
        sent = await ann.send(group, "x")

        def react(emoji: str, *, removed: bool = False) -> commands.React:
            return commands.React(conversation_id=group, target=sent.seq, emoji=emoji, removed=removed)

        for number in range(MAX_REACTION_KINDS):
            await ann.do(react(f"e{number}"))
        assert await bob.refusal(react("one more")) == "too_many_reactions"
        await bob.do(react("e1"))
        again = await bob.do(react("e1"))
        assert again == replies.Changed(conversation_id=group)
        await ann.do(react("e0", removed=True))
        nothing = await ann.do(react("never", removed=True))
        assert nothing == replies.Changed(conversation_id=group)
        (message,) = await history(bob, group, limit=5, rising=True)
        assert message.reactions[0].emoji == "e1"
        assert message.reactions[0].user_ids == ["u_ann", "u_bob"]
        assert len(message.reactions) == MAX_REACTION_KINDS - 1


async def test_a_file_may_stand_alone_and_only_if_it_is_of_the_same_app(tmp_path: Path) -> None:
    async with open_world(tmp_path) as world:
        (ann,) = await world.people("ann")
        group = await world.group(ann)
        for file_id, app_id in (("f_own", "default"), ("f_other", "acme")):
            row = FileRow(
                file_id=file_id,
                app_id=app_id,
                user_id="u_x",
                sha256="0",
                name="a.png",
                media_type="image/png",
                size_bytes=3,
                at_ms=1,
            )
            await world.store.commit([Insert(row)])
        await ann.send(group, "", file_ids=["f_own"])
        (message,) = await history(ann, group, limit=5, rising=True)
        assert [f.name for f in message.files] == ["a.png"]
        other = commands.Send(conversation_id=group, client_id="k", file_ids=["f_other"])
        assert await ann.refusal(other) == "file_not_found"
        assert await ann.refusal(commands.UpdateProfile(avatar="f_other")) == "file_not_found"


async def test_mentions_are_counted_until_read_deleted_or_edited_away(tmp_path: Path) -> None:
    """The badge of mentions is what makes people come back."""
    async with open_world(tmp_path) as world:
        ann, bob, cid = await world.people("ann", "bob", "cid")
        group = await world.group(ann, bob, cid)
        one = await ann.send(group, "@bob", mentions=["u_bob", "u_bob", "u_ann"])
        two = await ann.send(group, "@bob @cid", mentions=["u_bob", "u_cid"])
        three = await ann.send(group, "nobody")
        assert (await bob.line(group)).mentions_unread == 2
        assert (await ann.line(group)).mentions_unread == 0
        edit = commands.Edit(conversation_id=group, target=three.seq, text="@bob", mentions=["u_bob"])
        await ann.do(edit)
        assert (await bob.line(group)).mentions_unread == 3
        await ann.do(commands.Edit(conversation_id=group, target=two.seq, text="@cid", mentions=["u_cid"]))
        assert (await bob.line(group)).mentions_unread == 2
        await bob.do(commands.MarkRead(conversation_id=group, seq=one.seq))
        assert (await bob.line(group)).mentions_unread == 1
        await cid.do(commands.Leave(conversation_id=group))
        keep = commands.Edit(conversation_id=group, target=two.seq, text="typo", mentions=["u_cid"])
        await ann.do(keep)  # who was mentioned while a member may stay so
        fresh = commands.Edit(conversation_id=group, target=three.seq, text="x", mentions=["u_cid"])
        assert await ann.refusal(fresh) == "not_member"
        await ann.do(commands.Delete(conversation_id=group, target=three.seq))
        assert (await bob.line(group)).mentions_unread == 0


def _replaced(message: Message, **changes: object) -> Message:
    return msgspec.structs.replace(message, **changes)
