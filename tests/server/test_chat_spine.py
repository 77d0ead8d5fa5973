"""Chat through the service, the actors and the real store: what a client is promised."""

from pathlib import Path

import pytest

from protocol import commands, events, replies
from protocol.errors import Refused
from tests.server.world import open_world


async def test_a_message_reaches_every_member_and_is_stored_once(tmp_path: Path) -> None:
    """Everybody relies on it; the same client_id gets the first answer again."""
    async with open_world(tmp_path) as world:
        ann, bob = await world.person("ann"), await world.person("bob")
        group = await world.group(ann, bob)
        sent = await ann.send(group, "hello", "k1")
        again = await ann.send(group, "hello", "k1")
        assert (again.seq, again.duplicate) == (sent.seq, True)
        heard = await bob.until(events.MessagePosted)
        assert [(m.text, m.seq) for m in heard] == [("hello", sent.seq)]
        assert await world.unread(bob, group) == 1
        assert await world.unread(ann, group) == 0
        page = await bob.do(commands.Sync(conversation_id=group))
        assert isinstance(page, replies.EventPage)
        assert [type(e) for e in page.items] == [events.ConversationCreated, events.MessagePosted]
        assert page.items[1] == heard[0]


async def test_opening_a_direct_conversation_twice_gives_the_same_one(tmp_path: Path) -> None:
    async with open_world(tmp_path) as world:
        ann, bob = await world.person("ann"), await world.person("bob")
        one, two = await world.direct(ann, bob), await world.direct(bob, ann)
        assert one == two
        added = await bob.until(events.ConversationAdded)
        assert added[0].conversation_id == one
        with pytest.raises(Refused, match="self_not_allowed"):
            await ann.do(commands.OpenDirect(user_id=ann.user_id))
