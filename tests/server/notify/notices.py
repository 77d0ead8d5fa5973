"""What tests of hubbub's own notifications do again and again."""

import trio

from protocol import feed_commands
from protocol.notify_records import ChatNotice, NoticeBacklog, NotificationRow
from protocol.records import Tell
from tests.server.world import Device, World


async def told(world: World, user_id: str) -> list[NotificationRow]:
    """What a user has been notified of, the oldest first."""
    await world.store.barrier()
    return await world.store.find(NotificationRow, {"user_id": user_id}, order_by="notification_id")


async def texts_told(world: World, user_id: str) -> list[tuple[str, str]]:
    """(type, text) of it."""
    return [(row.type, row.text) for row in await told(world, user_id)]


async def all_told(world: World) -> None:
    """Wait until hubbub has nothing more to tell."""
    while True:
        await world.store.barrier()
        owed = [await world.store.find(table, {}, limit=1) for table in (ChatNotice, NoticeBacklog, Tell)]
        if not any(owed):
            return
        await trio.sleep(0.005)


async def comment(device: Device, post_id: int, text: str, **more: object) -> int:
    """Write a comment; returns its id."""
    client_id = device.world.new_client_id()
    command = feed_commands.AddComment(post_id=post_id, client_id=client_id, text=text, **more)  # type: ignore[arg-type]
    done = await device.do(command)
    return int(done.comment.comment_id)  # type: ignore[union-attr]
