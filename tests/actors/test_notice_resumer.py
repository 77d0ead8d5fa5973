"""Conversations and authors with something to tell are woken: all of them, and again until it works."""

from pathlib import Path

import pytest
import trio

from actors import notice_resumer
from actors.address import Address
from actors.messages import Wake
from actors.notice_resumer import NoticeResumer
from actors.reply import Reply
from actors.router import LocalRouter
from protocol.errors import Unavailable
from protocol.notify_records import ChatNotice, NoticeBacklog
from protocol.records import Put
from storage.sqlite import open_store


class Woken:
    """Actors that note when they are woken; the first so many are refused."""

    def __init__(self, kind: str, refusals: int = 0) -> None:
        self.kind = kind
        self.refusals = refusals
        self.woken: set[str] = set()
        self.news = trio.Event()

    def deliver(
        self, address: Address, message: object, reply: Reply, *, may_be_at_once: bool = False
    ) -> None:
        assert isinstance(message, Wake)
        if self.refusals:
            self.refusals -= 1
            raise Unavailable("busy")
        self.woken.add(address.id)
        self.news.set()

    async def until(self, count: int) -> None:
        while len(self.woken) < count:
            self.news = trio.Event()
            await self.news.wait()

    def deliver_if_active(self, address: Address, message: object) -> bool:
        return False


async def test_all_that_have_something_to_tell_are_woken(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(notice_resumer, "PAGE", 3)
    monkeypatch.setattr(notice_resumer, "RETRY_S", 0.01)
    async with open_store(tmp_path) as store:
        rows: list[Put] = [
            Put(ChatNotice(conversation_id=f"c{number}", shard=number % 2, app_id="a", after_seq=0))
            for number in range(20)
        ]
        rows += [
            Put(
                NoticeBacklog(
                    author_id=f"u{number // 4}",
                    kind="like",
                    thing_id=number,
                    shard=0,
                    app_id="a",
                    user_id="u",
                    actor_id="v",
                    count=1,
                    at_ms=1,
                )
            )
            for number in range(20)
        ]
        await store.commit(rows)
        conversations, authors = Woken("conversation", refusals=2), Woken("author")
        resumer = NoticeResumer(store, LocalRouter([conversations, authors]), owns=lambda shard: shard == 0)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(resumer.run)
            with trio.fail_after(5):
                await conversations.until(10)
                await authors.until(5)
            nursery.cancel_scope.cancel()
        assert conversations.woken == {f"c{number}" for number in range(0, 20, 2)}
        assert authors.woken == {f"u{number}" for number in range(5)}
