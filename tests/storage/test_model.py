"""Random histories against a plain model of what the store promises."""

from collections import defaultdict
from pathlib import Path
from tempfile import TemporaryDirectory

import trio
from hypothesis import given, settings
from hypothesis import strategies as st

from protocol.records import Advance, MemberRow, MessageState, Put
from storage import SqliteStore, check, open_store
from tests.conftest import IS_LONG_RUN
from tests.storage.rooms import SHARD, Room, message

USERS = ("ann", "bob", "eve")
# Each example opens a data directory; a few dozen histories of up to 30 steps take seconds.
EXAMPLES = settings(max_examples=300 if IS_LONG_RUN else 25)

sends = st.tuples(st.just("send"), st.sampled_from(USERS), st.sampled_from([None, "a", "b", "c"]))
reads = st.tuples(st.just("read"), st.sampled_from(USERS), st.integers(0, 40))
deletes = st.tuples(st.just("delete"), st.just(""), st.integers(0, 40))
reopens = st.tuples(st.just("reopen"), st.just(""), st.just(0))
histories = st.lists(st.one_of(sends, sends, sends, reads, deletes, reopens), max_size=30)


class Model:
    """A room as a list of messages; unread counted one by one."""

    def __init__(self) -> None:
        self.rows: list[tuple[str, str | None]] = [("founder", None)]
        self.seq_of_key: dict[tuple[str, str], int] = {}
        self.read_seq: dict[str, int] = defaultdict(int)
        self.deleted: set[int] = set()

    def send(self, user_id: str, client_id: str | None) -> tuple[int, bool]:
        if client_id is not None and (user_id, client_id) in self.seq_of_key:
            return self.seq_of_key[user_id, client_id], True
        self.rows.append((user_id, client_id))
        seq = len(self.rows)
        if client_id is not None:
            self.seq_of_key[user_id, client_id] = seq
        self.read_seq[user_id] = seq
        return seq, False

    def unread(self, user_id: str) -> int:
        messages = range(max(self.read_seq[user_id], 1) + 1, len(self.rows) + 1)
        return sum(seq not in self.deleted for seq in messages)


async def _play(history: list[tuple[str, str, int | str | None]], directory: Path) -> None:
    model = Model()
    step = 0
    while True:
        async with open_store(directory) as store:
            room = await Room.open(store, *USERS) if step == 0 else await _reopen(store)
            while step < len(history) and history[step][0] != "reopen":
                kind, user_id, value = history[step]
                step += 1
                if kind == "send":
                    client_id = None if value is None else str(value)
                    place = await room.say(user_id, client_id=client_id)
                    assert (place.seq, place.is_duplicate) == model.send(user_id, client_id)
                    assert place.message_count == place.seq - 1  # all but the founding row are messages
                elif kind == "read":
                    assert isinstance(value, int)
                    seq = min(value, len(model.rows))
                    count = await store.message_count_at("c:room", seq)
                    await store.commit(
                        [Advance(conversation_id="room", user_id=user_id, read_seq=seq, read_count=count)]
                    )
                    model.read_seq[user_id] = max(model.read_seq[user_id], seq)
                elif kind == "delete":
                    assert isinstance(value, int)
                    if 2 <= value <= len(model.rows):
                        state = MessageState(conversation_id="room", seq=value, deleted_at_ms=1)
                        await store.commit([Put(state)])
                        model.deleted.add(value)
            await _compare(room, model)
        step += 1
        if step >= len(history):
            break
    assert check(directory) == []


async def _reopen(store: SqliteStore) -> Room:
    epochs = await store.claim_all("node")
    return Room(store, epochs[SHARD], "room", USERS)


async def _compare(room: Room, model: Model) -> None:
    store = room.store
    forward: list[int] = []
    while page := await store.read("c:room", after=forward[-1] if forward else 0, limit=7):
        forward += [entry.seq for entry in page]
        for entry in page:
            assert entry.client_id == model.rows[entry.seq - 1][1]
    assert forward == list(range(1, len(model.rows) + 1))
    backward: list[int] = []
    while page_back := await store.read_messages("c:room", before=backward[0] if backward else 0, limit=4):
        backward = [entry.seq for entry, _ in page_back] + backward
        for entry, state in page_back:
            assert (state is not None) == (entry.seq in model.deleted)
    assert backward == forward[1:]
    for user_id in USERS:
        line = await store.conversation_line(user_id, "room")
        assert line is not None
        assert line.unread == model.unread(user_id)
        member = await store.get(MemberRow, "room", user_id)
        assert member is not None
        assert member.read_seq == model.read_seq[user_id]


@EXAMPLES
@given(history=histories)
def test_any_history_gives_what_the_model_says(
    history: list[tuple[str, str, int | str | None]],
) -> None:
    """Sends, retries, reading, deleting and restarts in any order: places, pages and unread are exact."""
    with TemporaryDirectory() as directory:
        trio.run(_play, history, Path(directory))


async def test_appends_of_many_streams_in_one_group_keep_each_stream_gapless(tmp_path: Path) -> None:
    """128 conversations talking at once is the normal case."""
    async with open_store(tmp_path) as store:
        room = await Room.open(store, "ann")
        rows = [message(f"r{number % 128}", "ann", client_id=f"k{number % 300}") for number in range(1000)]
        places = await room.append(*rows)
        expected: dict[str, int] = defaultdict(int)
        seen: dict[tuple[str, str | None], int] = {}
        for row, place in zip(rows, places, strict=True):
            key = (row.stream, row.client_id)
            if key in seen:
                assert (place.seq, place.is_duplicate) == (seen[key], True)
            else:
                expected[row.stream] += 1
                seen[key] = expected[row.stream]
                assert (place.seq, place.is_duplicate) == (seen[key], False)
