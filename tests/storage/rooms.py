"""A room with members, written the way the conversation actor writes one."""

import sqlite3
from collections.abc import Sequence
from contextlib import closing
from pathlib import Path

from protocol.records import (
    Advance,
    App,
    Append,
    Appended,
    ConversationRow,
    LogRow,
    MemberRow,
    Op,
    Put,
    User,
)
from storage import Store

SHARD = 5


def message(room: str, user_id: str, text: str = "hi", *, client_id: str | None = None) -> LogRow:
    return LogRow(
        stream=f"c:{room}",
        kind="message",
        at_ms=1000,
        user_id=user_id,
        body=f'{{"text":"{text}"}}',
        client_id=client_id,
        is_message=True,
    )


class Room:
    """One conversation and the epoch to write it with."""

    def __init__(self, store: Store, epoch: int, name: str, members: Sequence[str]) -> None:
        self.store = store
        self.epoch = epoch
        self.name = name
        self.members = members

    @classmethod
    async def open(cls, store: Store, *members: str, name: str = "room") -> "Room":
        """Claim the store and found a room."""
        epochs = await store.claim_all("node")
        room = cls(store, epochs[SHARD], name, members)
        people: list[Op] = [Put(App(app_id="app", name="app", created_at_ms=1))]
        for user_id in members:
            person = User(
                user_id=user_id,
                app_id="app",
                username=user_id,
                username_key=user_id,
                name=user_id.title(),
                name_key=user_id,
                created_at_ms=1,
            )
            people.append(Put(person))
        await store.commit(people)
        founded = ConversationRow(
            conversation_id=name,
            app_id="app",
            kind="group",
            title=name,
            created_at_ms=1,
            created_by=members[0],
            member_count=len(members),
        )
        rows = [MemberRow(conversation_id=name, user_id=user_id, role="member") for user_id in members]
        created = LogRow(stream=f"c:{name}", kind="created", at_ms=1, user_id=members[0], body="{}")
        await room.append(created, ops=[Put(founded), *map(Put, rows)])
        return room

    async def append(self, *rows: LogRow, ops: Sequence[Op] = ()) -> tuple[Appended, ...]:
        return await self.store.append(
            Append(shard=SHARD, epoch=self.epoch, rows=tuple(rows), ops=tuple(ops))
        )

    async def say(self, user_id: str, text: str = "hi", *, client_id: str | None = None) -> Appended:
        """Send a message, which the sender has read itself."""
        own = Advance(conversation_id=self.name, user_id=user_id, row_index=0)
        return (await self.append(message(self.name, user_id, text, client_id=client_id), ops=[own]))[0]


def change(directory: Path, *statements: str) -> None:
    """Change a database behind the store's back."""
    with closing(sqlite3.connect(directory / "hubbub.db")) as connection, connection:
        for statement in statements:
            connection.execute(statement)
