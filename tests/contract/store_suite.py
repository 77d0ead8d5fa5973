"""What every implementation of storage.store.Store must do. Subclass `StoreSuite` and give it a `reopen`
fixture.

The actors, the gateways and the cluster rely on each of these claims; none of them looks at the engine
beneath.
"""

from collections.abc import Callable, Sequence
from contextlib import AbstractAsyncContextManager

import pytest
import trio
import trio.testing

from protocol.errors import Conflict, Fenced, HeadMismatch, HubbubError, Refused, Unavailable
from protocol.records import (
    Advance,
    App,
    Append,
    Appended,
    Arrival,
    ConversationRow,
    DeviceCursor,
    Disabled,
    Insert,
    LogIn,
    LogRow,
    MemberRow,
    Mention,
    MessageState,
    Op,
    Put,
    Redact,
    Remove,
    Session,
    SessionUse,
    StreamHead,
    Tell,
    Update,
    User,
)
from storage.store import Outcome, Store
from tests.contract.ownership_suite import OwnershipSuite

Reopen = Callable[[], AbstractAsyncContextManager[Store]]
SHARD = 7
STREAM = "c:room"


def message(
    text: str = "hi",
    *,
    stream: str = STREAM,
    user_id: str = "ann",
    client_id: str | None = None,
    at_ms: int = 1000,
    thread: int | None = None,
) -> LogRow:
    """One message to be appended."""
    return LogRow(
        stream=stream,
        kind="message",
        at_ms=at_ms,
        user_id=user_id,
        body=f'{{"text":"{text}"}}',
        client_id=client_id,
        is_message=True,
        thread=thread,
    )


def notice(*, stream: str = STREAM, kind: str = "renamed", at_ms: int = 1000) -> LogRow:
    """One event that is no message."""
    return LogRow(stream=stream, kind=kind, at_ms=at_ms, user_id="ann", body="{}")


def user(user_id: str, username: str, *, external_id: str | None = None, is_bot: bool = False) -> User:
    return User(
        user_id=user_id,
        app_id="app",
        username=username,
        username_key=username.casefold(),
        name=username,
        name_key=username.casefold(),
        external_id=external_id,
        is_bot=is_bot,
        created_at_ms=1,
    )


class Owner:
    """The single owner of all shards, as a node is after its start."""

    def __init__(self, store: Store, epochs: dict[int, int]) -> None:
        self.store = store
        self.epochs = epochs

    @classmethod
    async def of(cls, store: Store) -> "Owner":
        return cls(store, await store.claim_all("node"))

    def make(
        self, rows: Sequence[LogRow], ops: Sequence[Op] = (), *, shard: int = SHARD, head: int | None = None
    ) -> Append:
        return Append(
            shard=shard, epoch=self.epochs[shard], rows=tuple(rows), ops=tuple(ops), expected_head=head
        )

    async def append(self, *rows: LogRow, ops: Sequence[Op] = (), shard: int = SHARD) -> tuple[Appended, ...]:
        return await self.store.append(self.make(rows, ops, shard=shard))


class Outcomes:
    """Collect the outcomes of appends that were queued together."""

    def __init__(self, store: Store) -> None:
        self.found: list[tuple[int, Outcome]] = []
        self._store = store
        self._count = 0

    def queue(self, *appends: Append) -> None:
        for append in appends:
            self._queue(append, self._count)
            self._count += 1

    def _queue(self, append: Append, number: int) -> None:
        self._store.append_nowait(append, lambda outcome: self.found.append((number, outcome)))

    async def decided(self) -> list[Outcome]:
        await self._store.barrier()
        assert [number for number, _ in self.found] == list(range(len(self.found)))  # in the order queued
        return [outcome for _, outcome in self.found]


class StoreSuite(OwnershipSuite):
    """The contract. Each test gets `reopen`, which opens the same data again and again."""

    # The log.

    async def test_seq_is_gapless_from_one_and_counts_messages(self, reopen: Reopen) -> None:
        """Cursors, catch-up and unread counts all stand on these two numbers."""
        async with reopen() as store:
            owner = await Owner.of(store)
            assert await store.head(STREAM) == StreamHead()
            first = await owner.append(notice(), message("a", at_ms=5))
            second = await owner.append(message("b", at_ms=6), shard=SHARD)
            assert first == (Appended(1, 0, 1000), Appended(2, 1, 5))
            assert second == (Appended(3, 2, 6),)
            entries = await store.read(STREAM, after=0, limit=10)
            assert [(entry.seq, entry.kind, entry.message_count) for entry in entries] == [
                (1, "renamed", 0),
                (2, "message", 1),
                (3, "message", 2),
            ]
            assert entries[1].body == '{"text":"a"}'
            assert await store.head(STREAM) == StreamHead(3, 2, 6)
            assert [await store.message_count_at(STREAM, seq) for seq in (0, 1, 2, 3, 99)] == [0, 0, 1, 2, 2]

    async def test_what_was_acked_is_there_after_a_new_start(self, reopen: Reopen) -> None:
        """Promise 1; and the next owner goes on where the last one stopped."""
        async with reopen() as store:
            owner = await Owner.of(store)
            await owner.append(message("a"), message("b"))
        async with reopen() as store:
            assert len(await store.read(STREAM, after=0, limit=10)) == 2
            owner = await Owner.of(store)
            assert (await owner.append(message("c")))[0].seq == 3

    async def test_one_append_may_extend_several_streams(self, reopen: Reopen) -> None:
        async with reopen() as store:
            owner = await Owner.of(store)
            places = await owner.append(message(), notice(stream="u:ann"), message(), notice(stream="u:bob"))
            assert [place.seq for place in places] == [1, 1, 2, 1]

    async def test_outcomes_come_in_commit_order_and_once(self, reopen: Reopen) -> None:
        """Acks and fan-out follow the commit in order (an actor pipelines its appends)."""
        async with reopen() as store:
            owner = await Owner.of(store)
            outcomes = Outcomes(store)
            for number in range(300):
                shard = number % 5
                outcomes.queue(owner.make([message(stream=f"c:{shard}")], shard=shard))
            found = await outcomes.decided()
            assert len(found) == 300
            places = [outcome for outcome in found if not isinstance(outcome, HubbubError)]
            assert [place[0].seq for place in places] == [number // 5 + 1 for number in range(300)]

    async def test_a_callback_that_fails_does_not_lose_the_others(self, reopen: Reopen) -> None:
        """One actor's bug must not swallow the acks of its neighbours in the same commit."""

        def broken(_: Outcome) -> None:
            raise RuntimeError("a bug of the caller")

        async with reopen() as store:
            owner = await Owner.of(store)
            outcomes = Outcomes(store)
            store.append_nowait(owner.make([message()]), broken)
            outcomes.queue(owner.make([message()]))
            assert await outcomes.decided() == [(Appended(2, 2, 1000),)]

    async def test_a_cancelled_wait_leaves_the_append_queued(self, reopen: Reopen) -> None:
        """A client that goes away after sending has still sent."""
        async with reopen() as store:
            owner = await Owner.of(store)
            async with trio.open_nursery() as nursery:
                nursery.start_soon(owner.append, message("kept"))
                await trio.testing.wait_all_tasks_blocked()  # it waits for the disk
                nursery.cancel_scope.cancel()
            await store.barrier()
            assert (await store.head(STREAM)).seq == 1

    # Idempotency.

    async def test_a_repeated_client_id_gets_the_first_place_again(self, reopen: Reopen) -> None:
        """Promise 2: a retry, however late and from wherever, is answered and not stored."""
        async with reopen() as store:
            owner = await Owner.of(store)
            await owner.append(message("first", client_id="k", at_ms=10))
            await owner.append(message("other", client_id="k2", at_ms=20))
            again = await owner.append(message("again", client_id="k", at_ms=30))
            assert again == (Appended(1, 1, 10, is_duplicate=True),)
        async with reopen() as store:
            owner = await Owner.of(store)
            again = await owner.append(message("much later", client_id="k", at_ms=99))
            assert again == (Appended(1, 1, 10, is_duplicate=True),)
            assert (await store.head(STREAM)).seq == 2

    async def test_equal_client_ids_in_one_append_and_in_one_group_are_stored_once(
        self, reopen: Reopen
    ) -> None:
        """A client that sends twice on two sockets lands in one commit."""
        async with reopen() as store:
            owner = await Owner.of(store)
            outcomes = Outcomes(store)
            outcomes.queue(
                owner.make([message(client_id="k"), message(client_id="k")]),
                owner.make([message(client_id="k"), message(client_id="l")]),
            )
            first, second = Appended(1, 1, 1000), Appended(1, 1, 1000, is_duplicate=True)
            assert await outcomes.decided() == [(first, second), (second, Appended(2, 2, 1000))]

    async def test_a_crowd_that_retries_together_is_told_its_first_places(self, reopen: Reopen) -> None:
        """After a node's crash, everybody sends again at once."""
        async with reopen() as store:
            owner = await Owner.of(store)
            appends = [
                owner.make([message(stream=f"c:{number % 30}", client_id=f"{number}")], shard=number % 30)
                for number in range(300)
            ]
            first, again = Outcomes(store), Outcomes(store)
            first.queue(*appends)
            stored = await first.decided()
            fresh = owner.make([message(stream="c:0", client_id="new")], shard=0)
            again.queue(*appends[:150], fresh, fresh, *appends[150:])
            told = await again.decided()
            assert told[150] == (Appended(11, 11, 1000),)
            assert told[151] == (Appended(11, 11, 1000, is_duplicate=True),)
            del told[150:152]
            for one, two in zip(stored, told, strict=True):
                assert not isinstance(one, HubbubError)
                assert not isinstance(two, HubbubError)
                assert two == (Appended(one[0].seq, one[0].message_count, 1000, is_duplicate=True),)

    async def test_a_repetition_beside_an_insert_is_a_repetition(self, reopen: Reopen) -> None:
        """What is stored together with a retry must not make the retry look like a conflict."""

        def tell(number: int) -> Tell:
            return Tell(tell_id=f"t{number}", shard=1, kind="user", target_id="bob", body="{}", at_ms=1)

        async with reopen() as store:
            owner = await Owner.of(store)
            await owner.append(message("first", client_id="k"), ops=[Insert(tell(1))])
        async with reopen() as store:
            owner = await Owner.of(store)
            await owner.append(message("next", client_id="l"))
            again = await owner.append(message("first", client_id="k"), ops=[Insert(tell(2))])
            assert again == (Appended(1, 1, 1000, is_duplicate=True),)
            assert (await store.head(STREAM)).seq == 2

    async def test_repetitions_and_news_in_one_group_are_told_apart(self, reopen: Reopen) -> None:
        """Whoever shares a commit with a retry is stored as if it were not there."""
        async with reopen() as store:
            owner = await Owner.of(store)
            await owner.append(message("first", client_id="k"))
            outcomes = Outcomes(store)
            outcomes.queue(
                owner.make([message("news", client_id="l")]),
                owner.make([message("first", client_id="k")]),
                owner.make([message("more", client_id="m")]),
            )
            assert await outcomes.decided() == [
                (Appended(2, 2, 1000),),
                (Appended(1, 1, 1000, is_duplicate=True),),
                (Appended(3, 3, 1000),),
            ]

    async def test_the_key_is_per_stream_and_user(self, reopen: Reopen) -> None:
        async with reopen() as store:
            owner = await Owner.of(store)
            places = await owner.append(
                message(client_id="k"),
                message(client_id="k", user_id="bob"),
                message(client_id="k", stream="c:other"),
            )
            assert [place.is_duplicate for place in places] == [False, False, False]

    async def test_ops_tied_to_a_duplicate_are_skipped(self, reopen: Reopen) -> None:
        """A retry must not move watermarks or write mentions a second time."""
        tell = Tell(tell_id="t", shard=1, kind="user", target_id="bob", body="{}", at_ms=1)
        async with reopen() as store:
            owner = await Owner.of(store)
            await owner.append(message(client_id="k"))
            mention = Mention(user_id="bob", conversation_id="room", seq=0)
            await owner.append(
                message(client_id="k"), ops=[Put(mention, row_index=0, seq_field="seq"), Put(tell)]
            )
            assert await store.find(Mention, {"user_id": "bob"}) == []
            assert await store.get(Tell, "t") == tell
            await owner.append(message(client_id="k"), ops=[Remove(Tell, {"tell_id": "t"}, row_index=0)])
            assert await store.get(Tell, "t") == tell

    # Fences.

    async def test_an_older_epoch_is_fenced_and_leaves_no_trace(self, reopen: Reopen) -> None:
        """Promise 7: a node that lost a shard cannot extend it, whatever it still believes."""
        async with reopen() as store:
            owner = await Owner.of(store)
            await owner.append(message("mine"))
            newer = await Owner.of(store)
            tell = Tell(tell_id="t", shard=1, kind="user", target_id="bob", body="{}", at_ms=1)
            with pytest.raises(Fenced):
                await owner.append(message("stale"), ops=[Put(tell), Insert(tell)])
            with pytest.raises(Fenced):
                await owner.append()
            assert await store.get(Tell, "t") is None
            assert (await newer.append(message("next")))[0].seq == 2

    async def test_a_refused_append_does_not_harm_its_neighbours(self, reopen: Reopen) -> None:
        """A group commit is many decisions and one fsync."""
        async with reopen() as store:
            owner = await Owner.of(store)
            stale = Append(shard=SHARD, epoch=owner.epochs[SHARD] - 1, rows=(message("stale"),))
            app = App(app_id="a", name="taken", created_at_ms=1)
            outcomes = Outcomes(store)
            outcomes.queue(
                owner.make([message("1")], [Insert(app)]),
                stale,
                owner.make(
                    [message("refused")], [Put(Mention(user_id="x", conversation_id="r", seq=1)), Insert(app)]
                ),
                owner.make([message("wrong head")], head=99),
                owner.make([message("2")]),
            )
            kinds = [
                type(outcome).__name__ if isinstance(outcome, HubbubError) else outcome[0].seq
                for outcome in await outcomes.decided()
            ]
            assert kinds == [1, "Fenced", "Conflict", "HeadMismatch", 2]
            bodies = [entry.body for entry in await store.read(STREAM, after=0, limit=9)]
            assert bodies == ['{"text":"1"}', '{"text":"2"}']
            assert await store.find(Mention, {"user_id": "x"}) == []

    async def test_a_broken_row_is_refused_alone(self, reopen: Reopen) -> None:
        """A bug of one actor is that actor's error, and its neighbours' appends are stored."""
        async with reopen() as store:
            owner = await Owner.of(store)
            nameless = MessageState(conversation_id="room", seq=None)  # type: ignore[arg-type]
            outcomes = Outcomes(store)
            outcomes.queue(
                owner.make([message("1", client_id="k")]),
                owner.make([message("refused")], [Put(nameless)]),
                owner.make([message("2"), message("1", client_id="k")]),
            )
            one, refused, two = await outcomes.decided()
            assert one == (Appended(1, 1, 1000),)
            assert isinstance(refused, Unavailable)
            assert refused.code == "internal"
            assert two == (Appended(2, 2, 1000), Appended(1, 1, 1000, is_duplicate=True))
            assert (await store.head(STREAM)).seq == 2

    async def test_a_stream_stays_with_its_shard(self, reopen: Reopen) -> None:
        """Two shards that extend one stream would each pass their own fence."""
        async with reopen() as store:
            owner = await Owner.of(store)
            await owner.append(message(), shard=1)
            for _ in range(2):
                with pytest.raises(Unavailable) as caught:
                    await owner.append(message(), shard=2)
                assert caught.value.code == "internal"
            assert (await owner.append(message(), shard=1))[0].seq == 2

    async def test_expected_head_counts_the_rows_of_a_shard(self, reopen: Reopen) -> None:
        async with reopen() as store:
            owner = await Owner.of(store)
            await store.append(owner.make([message(), message(stream="c:2")], head=0))
            await store.append(owner.make([message(client_id="k")], head=2))
            await store.append(owner.make([message(client_id="k")], head=3))
            await store.append(owner.make([message()], head=3))
            with pytest.raises(HeadMismatch):
                await store.append(owner.make([message()], head=3))
            assert {row.shard: row.head for row in await store.shards()}[SHARD] == 4

    async def test_a_released_shard_goes_on_where_it_was_left(self, reopen: Reopen) -> None:
        """A handed over conversation has no gap, and its old owner cannot add to it any more."""
        async with reopen() as store:
            a = await store.register_node("a", "a:1")
            b = await store.register_node("b", "b:1")
            await store.claim({SHARD: 0}, node_id="a", boot=a)
            await store.append(Append(shard=SHARD, epoch=1, rows=(message(),)))
            assert await store.release({SHARD: 1}) == {SHARD: 2}
            with pytest.raises(Fenced):
                await store.append(Append(shard=SHARD, epoch=1, rows=(message(),)))
            assert await store.claim({SHARD: 2}, node_id="b", boot=b) == {SHARD: (3, 1)}
            with pytest.raises(Fenced):
                await store.append(Append(shard=SHARD, epoch=1, rows=(message(),)))
            assert (await store.append(Append(shard=SHARD, epoch=3, rows=(message(),))))[0].seq == 2

    async def test_two_stores_on_one_data_never_both_extend_a_stream(self, reopen: Reopen) -> None:
        """Promise 7: the owner that was taken for dead writes on and is refused, wherever it stands."""
        async with reopen() as old, reopen() as new:
            a = await old.register_node("a", "a:1", lease_ms=60_000)
            b = await new.register_node("b", "b:1", lease_ms=60_000)
            await old.claim({SHARD: 0}, node_id="a", boot=a)
            assert (await old.append(Append(shard=SHARD, epoch=1, rows=(message("1"),))))[0].seq == 1
            assert await new.claim({SHARD: 1}, node_id="b", boot=b) == {}
            assert await old.renew_node("a", a, lease_ms=-1)
            stored: list[int] = []
            refused = 0

            async def write_on() -> None:
                nonlocal refused
                while not refused:
                    try:
                        places = await old.append(Append(shard=SHARD, epoch=1, rows=(message("old"),)))
                    except Fenced:
                        refused += 1
                    else:
                        stored.append(places[0].seq)

            async def take_over() -> None:
                won = await new.claim({SHARD: 1}, node_id="b", boot=b)
                epoch, _ = won[SHARD]
                for _ in range(20):
                    places = await new.append(Append(shard=SHARD, epoch=epoch, rows=(message("new"),)))
                    stored.append(places[0].seq)

            async with trio.open_nursery() as nursery:
                nursery.start_soon(write_on)
                nursery.start_soon(take_over)
            assert refused == 1
            assert sorted(stored) == list(range(2, 2 + len(stored)))
            assert len(await new.read(STREAM, after=0, limit=10_000)) == 1 + len(stored)

    async def test_a_shard_that_comes_back_is_read_anew(self, reopen: Reopen) -> None:
        """What a node remembers of its shard is worth nothing once another node has written there."""
        async with reopen() as one, reopen() as other:
            a = await one.register_node("a", "a:1")
            b = await other.register_node("b", "b:1")
            seq, epoch = 0, 0
            for _ in range(3):
                for store, node_id, boot in ((one, "a", a), (other, "b", b)):
                    won = await store.claim({SHARD: epoch}, node_id=node_id, boot=boot)
                    epoch, head = won[SHARD]
                    assert head == seq
                    for _ in range(2):
                        append = Append(shard=SHARD, epoch=epoch, rows=(message(client_id=f"{seq}"),))
                        seq += 1
                        assert (await store.append(append))[0].seq == seq
                    again = Append(shard=SHARD, epoch=epoch, rows=(message(client_id="0"),))
                    assert (await store.append(again))[0].is_duplicate
                    epoch = (await store.release({SHARD: epoch}))[SHARD]

    # Ops.

    async def test_put_takes_the_seq_of_its_row(self, reopen: Reopen) -> None:
        async with reopen() as store:
            owner = await Owner.of(store)
            await owner.append(notice())
            mention = Mention(user_id="bob", conversation_id="room", seq=0)
            other = Mention(user_id="ann", conversation_id="room", seq=0)
            await owner.append(
                message("a"),
                message("b"),
                ops=[Put(mention, row_index=1, seq_field="seq"), Put(other, row_index=0, seq_field="seq")],
            )
            assert await store.get(Mention, "bob", "room", 3) is not None
            assert await store.get(Mention, "ann", "room", 2) is not None

    async def test_put_replaces_insert_conflicts_update_leaves_the_rest(self, reopen: Reopen) -> None:
        async with reopen() as store:
            await store.commit([Insert(App(app_id="a", name="one", created_at_ms=1))])
            await store.commit([Put(App(app_id="a", name="two", created_at_ms=2, allow_sign_up=False))])
            assert await store.get(App, "a") == App(
                app_id="a", name="two", created_at_ms=2, allow_sign_up=False
            )
            await store.commit([Update(App, {"app_id": "a"}, {"name": "three"})])
            assert await store.get(App, "a") == App(
                app_id="a", name="three", created_at_ms=2, allow_sign_up=False
            )
            with pytest.raises(Conflict) as by_key:
                await store.commit([Insert(App(app_id="a", name="other", created_at_ms=1))])
            assert by_key.value.table == "app"
            await store.commit([Insert(App(app_id="b", name="b", created_at_ms=1))])
            for op in (
                Insert(App(app_id="c", name="three", created_at_ms=1)),
                Put(App(app_id="b", name="three", created_at_ms=1)),
                Update(App, {"app_id": "b"}, {"name": "three"}),
            ):
                with pytest.raises(Conflict):
                    await store.commit([Put(App(app_id="d", name="d", created_at_ms=1)), op])
            assert await store.get(App, "d") is None
            assert await store.get(App, "b") == App(app_id="b", name="b", created_at_ms=1)

    async def test_ops_run_in_order(self, reopen: Reopen) -> None:
        def cursor(stream: str, seq: int) -> DeviceCursor:
            return DeviceCursor(user_id="u", device_id="d", stream=stream, seq=seq)

        async with reopen() as store:
            await store.commit(
                [
                    Put(cursor("a", 1)),
                    Put(cursor("b", 1)),
                    Remove(DeviceCursor, {"user_id": "u", "stream": "a"}),
                    Put(cursor("c", 1)),
                    Put(cursor("a", 2)),
                    Remove(DeviceCursor, {"stream": "none"}),
                    Put(cursor("b", 3)),
                ]
            )
            assert await store.device_cursors("u", "d") == {"a": 2, "b": 3, "c": 1}
            assert await store.device_cursors("u", "other") == {}

    async def test_watermarks_never_go_back(self, reopen: Reopen) -> None:
        async with reopen() as store:
            owner = await Owner.of(store)
            await owner.append(
                notice(), ops=[Put(MemberRow(conversation_id="room", user_id="ann", role="member"))]
            )
            own = Advance(conversation_id="room", user_id="ann", row_index=0)
            await owner.append(message(), ops=[own])
            member = await store.get(MemberRow, "room", "ann")
            assert member is not None
            assert (member.delivered_seq, member.read_seq, member.read_count) == (2, 2, 1)
            await store.commit([Advance(conversation_id="room", user_id="ann", delivered_seq=9, read_seq=1)])
            member = await store.get(MemberRow, "room", "ann")
            assert member is not None
            assert (member.delivered_seq, member.read_seq, member.read_count) == (9, 2, 1)

    async def test_the_highest_of_several_watermarks_in_one_group_counts(self, reopen: Reopen) -> None:
        """Three devices read on at the same time, in any order."""
        async with reopen() as store:
            owner = await Owner.of(store)
            members = [
                Put(MemberRow(conversation_id="room", user_id=f"u{number}", role="member"))
                for number in range(100)
            ]
            await store.commit(members)
            outcomes = Outcomes(store)
            for read_seq in (3, 9, 5):
                for number in range(100):
                    advance = Advance(
                        conversation_id="room",
                        user_id=f"u{number}",
                        read_seq=read_seq,
                        read_count=read_seq - 1,
                        delivered_seq=20 - read_seq,
                    )
                    outcomes.queue(owner.make([], [advance]))
            await outcomes.decided()
            found = await store.find(MemberRow, {"conversation_id": "room"})
            assert {(row.read_seq, row.read_count, row.delivered_seq) for row in found} == {(9, 8, 17)}
            assert len(found) == 100

    async def test_a_redacted_row_keeps_its_place_and_loses_its_content(self, reopen: Reopen) -> None:
        """Deleting means deleting: the text is gone from the log, the history stays gapless."""
        async with reopen() as store:
            owner = await Owner.of(store)
            await owner.append(message("secret", client_id="k"))
            await owner.append(
                message("more"), message("same append"), ops=[Redact(STREAM, 1), Redact(STREAM, 3)]
            )
            entries = await store.read(STREAM, after=0, limit=9)
            assert [entry.body for entry in entries] == ["{}", '{"text":"more"}', "{}"]
            assert (entries[0].user_id, entries[0].client_id) == ("ann", "k")
            again = await owner.append(message("secret", client_id="k"))
            assert again[0].is_duplicate

    # Reads.

    async def test_read_pages_forward_without_hole_or_repeat(self, reopen: Reopen) -> None:
        async with reopen() as store:
            owner = await Owner.of(store)
            await owner.append(*[message(f"{number}") for number in range(25)])
            seen: list[int] = []
            while page := await store.read(STREAM, after=seen[-1] if seen else 0, limit=10):
                seen += [entry.seq for entry in page]
            assert seen == list(range(1, 26))
            assert await store.read("c:none", after=0, limit=10) == []
            found = await store.entry(STREAM, 3)
            assert found is not None
            assert found.body == '{"text":"2"}'
            assert await store.entry(STREAM, 26) is None

    async def test_a_page_ends_at_its_byte_limit_but_is_never_empty(self, reopen: Reopen) -> None:
        async with reopen() as store:
            owner = await Owner.of(store)
            await owner.append(*[message("x" * 1000) for _ in range(5)])
            assert len(await store.read(STREAM, after=0, limit=10, max_bytes=2500)) == 2
            assert len(await store.read(STREAM, after=0, limit=10, max_bytes=1)) == 1
            newest = await store.read_messages(STREAM, limit=10, max_bytes=2500)
            assert [entry.seq for entry, _ in newest] == [4, 5]

    async def test_history_goes_both_ways_with_each_messages_state(self, reopen: Reopen) -> None:
        async with reopen() as store:
            owner = await Owner.of(store)
            await owner.append(message("1"), notice(), message("3"), message("4"), notice())
            state = MessageState(conversation_id="room", seq=3, text="edited", edited_at_ms=5)
            await store.commit([Put(state)])

            async def seqs(**options: int) -> list[int]:
                return [entry.seq for entry, _ in await store.read_messages(STREAM, limit=2, **options)]

            assert await seqs() == [3, 4]
            assert await seqs(before=4) == [1, 3]
            assert await seqs(before=1) == []
            assert await seqs(after=0) == [1, 3]
            assert await seqs(after=3) == [4]
            found = await store.read_messages(STREAM, after=0, limit=9)
            assert [state for _, state in found] == [None, state, None]

    async def test_a_tail_is_the_newest_entries_with_their_messages_states(self, reopen: Reopen) -> None:
        """What is kept in memory of a conversation is filled from it: one state, no hole."""
        async with reopen() as store:
            assert await store.read_tail(STREAM, limit=9) == []
            owner = await Owner.of(store)
            await owner.append(message("1"), notice(), message("x" * 1000), notice(), message("5"))
            state = MessageState(conversation_id="room", seq=3, text="edited", edited_at_ms=5)
            await store.commit([Put(state)])
            found = await store.read_tail(STREAM, limit=4)
            assert [(entry.seq, known) for entry, known in found] == [
                (2, None),
                (3, state),
                (4, None),
                (5, None),
            ]
            assert [entry for entry, _ in found] == await store.read(STREAM, after=1, limit=4)
            assert [entry.seq for entry, _ in await store.read_tail(STREAM, limit=9, max_bytes=500)] == [4, 5]
            assert [entry.seq for entry, _ in await store.read_tail(STREAM, limit=9, max_bytes=1)] == [5]

    async def test_a_thread_is_its_root_and_its_replies(self, reopen: Reopen) -> None:
        async with reopen() as store:
            owner = await Owner.of(store)
            await owner.append(message("1"), message("root"), message("3"))
            await owner.append(
                message("r1", thread=2), message("5"), message("r2", thread=2), message("r3", thread=2)
            )

            async def seqs(limit: int, **options: int) -> list[int]:
                found = await store.read_messages(STREAM, thread=2, limit=limit, **options)
                return [entry.seq for entry, _ in found]

            assert await seqs(9) == [2, 4, 6, 7]
            assert await seqs(2) == [6, 7]
            assert await seqs(3, before=7) == [2, 4, 6]
            assert await seqs(2, after=0) == [2, 4]
            assert await seqs(9, after=2) == [4, 6, 7]
            assert await seqs(9, before=2) == []

    async def test_find_by_columns_by_many_and_by_prefix(self, reopen: Reopen) -> None:
        async with reopen() as store:
            names = ["anna", "Annette", "ann_x", "annz", "bob", "Ängel", "ann\U0010ffff!"]
            users = [user(f"u{number}", name, is_bot=number == 4) for number, name in enumerate(names)]
            await store.commit([Put(App(app_id="app", name="app", created_at_ms=1)), *map(Insert, users)])
            found = await store.find(User, {"app_id": "app"}, order_by="user_id", after="u1", limit=2)
            assert [row.user_id for row in found] == ["u2", "u3"]
            assert [row.user_id for row in await store.find(User, {"is_bot": 1})] == ["u4"]
            assert len(await store.find(User, {"external_id": None})) == 7
            many = await store.find_many(User, "user_id", ["u1", "u9", "u5"])
            assert {row.username for row in many} == {"Annette", "Ängel"}
            assert await store.find_many(User, "user_id", []) == []
            by_prefix = await store.find_prefix(User, {"app_id": "app"}, "name_key", "ann")
            assert [row.username for row in by_prefix] == [
                "ann_x",
                "anna",
                "Annette",
                "annz",
                "ann\U0010ffff!",
            ]
            assert len(await store.find_prefix(User, {"app_id": "app"}, "name_key", "ann", limit=2)) == 2
            assert len(await store.find_prefix(User, {"app_id": "app"}, "name_key", "")) == 7
            high = await store.find_prefix(User, {"app_id": "app"}, "name_key", "ann\U0010ffff")
            assert [row.user_id for row in high] == ["u6"]
            assert await store.find_prefix(User, {"app_id": "other"}, "name_key", "a") == []

    async def test_a_name_that_is_no_column_is_refused(self, reopen: Reopen) -> None:
        """Column names go into SQL: none is ever taken unseen."""
        async with reopen() as store:
            with pytest.raises(ValueError, match="no column"):
                await store.find(User, {"user_id = '' OR 1": "x"})
            with pytest.raises(ValueError, match="no column"):
                await store.find(User, {}, order_by="user_id; --")
            with pytest.raises(ValueError, match="key"):
                await store.get(Mention, "bob")

    async def test_the_list_is_newest_first_with_exact_unread(self, reopen: Reopen) -> None:
        """Unread: messages after read_seq that are not deleted; one's own never count (promise 6)."""
        async with reopen() as store:
            owner = await Owner.of(store)
            for number, name in enumerate(["one", "two", "three", "same"]):
                conversation = ConversationRow(
                    conversation_id=name,
                    app_id="app",
                    kind="group",
                    title=name,
                    created_at_ms=1,
                    created_by="ann",
                )
                await owner.append(
                    notice(stream=f"c:{name}"),
                    ops=[
                        Put(conversation),
                        Put(MemberRow(conversation_id=name, user_id="ann", role="owner")),
                        Put(MemberRow(conversation_id=name, user_id="bob", role="member", muted_until_ms=5)),
                    ],
                )
                stamp = 100 * min(number, 2)
                for text in ("a", "b", "c"):
                    await owner.append(
                        message(text, stream=f"c:{name}", at_ms=stamp),
                        ops=[Advance(conversation_id=name, user_id="ann", row_index=0)],
                    )
            await store.commit(
                [
                    Advance(conversation_id="two", user_id="bob", read_seq=2, read_count=1),
                    Put(MessageState(conversation_id="two", seq=2, deleted_at_ms=5)),
                    Put(MessageState(conversation_id="two", seq=3, deleted_at_ms=5)),
                    Put(MessageState(conversation_id="two", seq=4, text="edited")),
                    Put(Mention(user_id="bob", conversation_id="two", seq=2)),
                    Put(Mention(user_id="bob", conversation_id="two", seq=4)),
                ]
            )
            lines = await store.conversation_lines("bob")
            assert [(line.conversation_id, line.unread, line.mentions_unread) for line in lines] == [
                ("three", 3, 0),
                ("same", 3, 0),
                ("two", 1, 1),
                ("one", 3, 0),
            ]
            assert (lines[0].role, lines[0].muted_until_ms, lines[0].head, lines[0].message_count) == (
                "member",
                5,
                4,
                3,
            )
            first = await store.conversation_lines("bob", limit=1)
            rest = await store.conversation_lines(
                "bob", before=(first[0].updated_at_ms, first[0].conversation_id), limit=9
            )
            assert [line.conversation_id for line in first + rest] == ["three", "same", "two", "one"]
            assert [line.unread for line in await store.conversation_lines("ann")] == [0, 0, 0, 0]
            assert await store.conversation_line("bob", "two") == lines[2]
            assert await store.conversation_line("eve", "two") is None
            assert await store.conversation_lines("eve") == []

    async def test_the_last_message_of_each_conversation(self, reopen: Reopen) -> None:
        async with reopen() as store:
            owner = await Owner.of(store)
            await owner.append(message("1"), message("2"), notice(), message("x", stream="c:other"))
            await owner.append(notice(stream="c:quiet"))
            state = MessageState(conversation_id="room", seq=2, deleted_at_ms=4)
            await store.commit([Put(state)])
            found = await store.last_messages(["room", "other", "quiet", "none"])
            assert set(found) == {"room", "other"}
            assert (found["room"][0].seq, found["room"][1]) == (2, state)
            assert found["other"][1] is None

    async def test_who_shares_a_conversation_with_a_user(self, reopen: Reopen) -> None:
        """Presence is shown to those only; a user may share many groups with hundreds of others."""
        async with reopen() as store:
            assert await store.sharing_conversation("ann", ["bob"]) == set()
            places = [("a", "ann"), ("a", "bob"), ("b", "ann"), ("b", "bob"), ("b", "cid"), ("c", "dan")]
            await store.commit(
                [Put(MemberRow(conversation_id=c, user_id=u, role="member")) for c, u in places]
            )
            asked = ["bob", "cid", "dan", "nobody", 'it\'s "ö"']
            assert await store.sharing_conversation("ann", asked) == {"bob", "cid"}
            assert await store.sharing_conversation("dan", ["ann", "bob"]) == set()
            assert await store.sharing_conversation("cid", ["ann"]) == {"ann"}
            assert await store.sharing_conversation("ann", []) == set()

    async def test_an_arrival_tells_what_a_device_needs_to_be_welcomed(self, reopen: Reopen) -> None:
        """A device that lost its memory goes on where it was; conversations of others are not among them."""
        async with reopen() as store:
            owner = await Owner.of(store)
            await owner.append(notice(stream="u:ann"), notice(stream="u:ann"), message())
            await store.commit(
                [
                    *(
                        Put(MemberRow(conversation_id=c, user_id=u, role="member"))
                        for c, u in (("c1", "ann"), ("c2", "ann"), ("c2", "bob"))
                    ),
                    Put(DeviceCursor(user_id="ann", device_id="phone", stream="c:c1", seq=7)),
                    Put(DeviceCursor(user_id="ann", device_id="phone", stream="u:ann", seq=1)),
                    Put(DeviceCursor(user_id="ann", device_id="desk", stream="c:c1", seq=9)),
                    Put(DeviceCursor(user_id="bob", device_id="phone", stream="c:c2", seq=3)),
                ]
            )
            found = await store.arrival("ann", "phone")
            assert sorted(found.conversation_ids) == ["c1", "c2"]
            assert found.inbox_head == 2
            assert found.cursors == {"c:c1": 7, "u:ann": 1}
            assert (await store.arrival("ann", 'it\'s "ö"')).cursors == {}
            assert await store.arrival("eve", "phone") == Arrival()

    async def test_a_crowd_that_comes_at_once_gets_each_their_own(self, reopen: Reopen) -> None:
        """Many are answered by one query: nobody gets another's conversations or log-in."""
        async with reopen() as store:
            names = [f"user{number}" for number in range(150)]
            await store.commit(
                [
                    *(Insert(user(name, name, external_id=f"ext {name}")) for name in names),
                    *(Put(MemberRow(conversation_id=f"of {n}", user_id=n, role="member")) for n in names),
                    *(
                        Insert(
                            Session(
                                session_id=f"s {name}",
                                user_id=name,
                                app_id="app",
                                token_hash=f"hash {name}",
                                created_at_ms=1,
                            )
                        )
                        for name in names
                    ),
                ]
            )
            right: list[str] = []

            async def come(name: str) -> None:
                known = await store.external_user("app", f"ext {name}")
                log_in = await store.log_in(f"hash {name}")
                arrival = await store.arrival(name, "phone")
                assert known is not None
                assert log_in is not None
                assert known == (log_in.user, False)
                assert (known[0].user_id, log_in.session.session_id) == (name, f"s {name}")
                assert arrival.conversation_ids == [f"of {name}"]
                right.append(name)

            async def come_and_go(name: str) -> None:
                with trio.move_on_after(0):
                    await store.arrival(name, "phone")

            async with trio.open_nursery() as nursery:
                for name in names:
                    nursery.start_soon(come, name)
                    nursery.start_soon(come_and_go, name)
            assert sorted(right) == sorted(names)

    async def test_a_user_of_a_backend_is_found_by_its_id_and_app(self, reopen: Reopen) -> None:
        """Who signs in by a backend's token is this user and no other app's."""
        async with reopen() as store:
            ann = user("ann", "Ann", external_id="7")
            await store.commit([Insert(ann), Insert(user("bot", "bot", external_id="8", is_bot=True))])
            assert await store.external_user("app", "7") == (ann, False)
            assert await store.external_user("app", "9") is None
            assert await store.external_user("other", "7") is None
            await store.commit([Put(Disabled(user_id="ann", at_ms=1))])
            assert await store.external_user("app", "7") == (ann, True)
            bot = await store.external_user("app", "8")
            assert bot is not None
            assert bot[0].is_bot is True

    async def test_no_text_is_taken_for_another_that_it_begins_with(self, reopen: Reopen) -> None:
        """Whom a backend signs in is who that backend has named, to the last character."""
        async with reopen() as store:
            texts = ["alice", "alice\0evil", "alice\0", "alice ", "Alice", 'al"ice\\', "\u2028", "🐝"]
            users = [user(f"u{number}", f"u{number}", external_id=text) for number, text in enumerate(texts)]
            kept = users[:1] + users[4:]
            await store.commit([Insert(user) for user in kept])
            for one in users:
                assert one.external_id is not None
                found = await store.external_user("app", one.external_id)
                assert found == ((one, False) if one in kept else None)
                assert await store.external_user("app\0x", one.external_id) is None
            await store.commit([Insert(user) for user in users if user not in kept])
            for one in users:
                assert one.external_id is not None
                assert await store.external_user("app", one.external_id) == (one, False)

            cursors = [
                DeviceCursor(user_id="u0", device_id=text, stream="c:c1", seq=number)
                for number, text in enumerate(texts)
            ]
            session = Session(session_id="s", user_id="u0", app_id="app", token_hash="hash", created_at_ms=1)
            await store.commit(
                [
                    *map(Put, cursors),
                    Put(MemberRow(conversation_id="c1", user_id="u0", role="member")),
                    Insert(session),
                ]
            )
            for cursor in cursors:
                assert (await store.arrival("u0", cursor.device_id)).cursors == {"c:c1": cursor.seq}
            assert await store.arrival("u0\0", "alice") == Arrival()
            assert await store.log_in("hash\0") is None

    async def test_a_log_in_is_found_by_its_token_with_its_user(self, reopen: Reopen) -> None:
        """What every connection of a person or a bot begins with."""
        async with reopen() as store:
            ann = user("ann", "ann")
            session = Session(
                session_id="s1", user_id="ann", app_id="app", token_hash="hash", created_at_ms=5
            )
            lost = Session(session_id="s2", user_id="gone", app_id="app", token_hash="lost", created_at_ms=5)
            await store.commit([Insert(ann), Insert(session), Insert(lost)])
            assert await store.log_in("hash") == LogIn(session=session, user=ann, is_disabled=False)
            assert await store.log_in("lost") == LogIn(session=lost, user=None, is_disabled=False)
            assert await store.log_in("none") is None
            await store.commit(
                [
                    Put(SessionUse(session_id="s1", user_id="ann", last_seen_ms=9)),
                    Put(Disabled(user_id="ann", at_ms=1)),
                ]
            )
            assert await store.log_in("hash") == LogIn(
                session=session, user=ann, is_disabled=True, last_seen_ms=9
            )

    async def test_heads_of_many_streams_at_once(self, reopen: Reopen) -> None:
        """What devices say they hold is held against these."""
        async with reopen() as store:
            owner = await Owner.of(store)
            await owner.append(message(), message(), notice(stream="c:other"))
            asked = [STREAM, "c:none", "c:other"]
            assert await store.heads(asked) == {STREAM: 2, "c:other": 1}
            assert await store.heads([]) == {}

    async def test_a_read_sees_what_was_acked_before_it(self, reopen: Reopen) -> None:
        """A page is loaded right after a send; it must show it."""
        async with reopen() as store:
            owner = await Owner.of(store)
            for number in range(1, 100):
                await owner.append(message())
                assert (await store.head(STREAM)).seq == number

    async def test_a_store_that_is_overloaded_says_so_and_still_reads(self, reopen: Reopen) -> None:
        """Promise 5: a flood is refused, not buffered."""
        async with reopen() as store:
            owner = await Owner.of(store)
            outcomes = Outcomes(store)
            refused = 0
            for _ in range(200):
                try:
                    outcomes.queue(owner.make([message("x" * 100_000)]))
                except Unavailable as exc:
                    assert exc.code == "overloaded"
                    refused += 1
            assert refused > 50
            assert await store.read("c:none", after=0, limit=1) == []
            found = await outcomes.decided()
            assert len(found) == 200 - refused
            assert all(not isinstance(outcome, HubbubError) for outcome in found)
            assert (await owner.append(message("after")))[0].seq == len(found) + 1

    async def test_a_closed_store_refuses(self, reopen: Reopen) -> None:
        async with reopen() as store:
            owner = await Owner.of(store)
        with pytest.raises(Unavailable):
            await owner.append(message())
        with pytest.raises(Unavailable):
            await store.head(STREAM)

    async def test_two_nodes_by_mistake_are_told_so(self, reopen: Reopen) -> None:
        """The operator who starts a second node on the same data gets a sentence, not a duel of epochs."""
        async with reopen() as first, reopen() as second:
            owner = await Owner.of(first)
            with pytest.raises(Refused) as caught:
                await second.claim_all("other")
            assert caught.value.code == "directory_in_use"
            await owner.append(message())
