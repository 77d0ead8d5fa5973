"""Push hosts beside each other: many that nobody needs any more leave room for one that is new."""

import pytest
import trio
import trio.testing

from server.providers import push_pools
from server.providers.dialing import Origin
from server.providers.exchange import NotProcessed, Request
from server.providers.push_pools import open_push_pools
from server.providers.reach import ANYWHERE
from tests.providers.http_peer import HttpPeer, open_http_peer, stall

POST = Request(b"/", (), ((b"content-length", b"1"),), b"x")


def origin_of(peer: HttpPeer) -> Origin:
    return Origin("http", "127.0.0.1", peer.port)


async def test_a_new_push_service_gets_the_place_of_a_host_that_has_nothing_to_do(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Connections stay open for minutes; 500 made-up hosts must not lock a real one out for as long."""
    monkeypatch.setattr(push_pools, "MAX_HOSTS", 2)
    async with (
        open_http_peer() as idle,
        open_http_peer() as busy,
        open_http_peer() as new,
        open_push_pools(reach=ANYWHERE) as pools,
        trio.open_nursery() as nursery,
    ):
        busy.usual = stall
        working = pools.host(origin_of(busy))
        nursery.start_soon(working.request, POST)
        await trio.testing.wait_all_tasks_blocked(0.05)
        resting = pools.host(origin_of(idle))
        assert (await resting.request(POST)).status == 201
        assert resting.connection_count == 1
        assert (await pools.host(origin_of(new)).request(POST)).status == 201
        assert resting.connection_count == 0
        assert pools.host(origin_of(busy)) is working
        nursery.cancel_scope.cancel()


async def test_hosts_that_all_have_something_to_do_are_not_cut_off(monkeypatch: pytest.MonkeyPatch) -> None:
    """What is under way would be unknown."""
    monkeypatch.setattr(push_pools, "MAX_HOSTS", 1)
    async with (
        open_http_peer() as busy,
        open_push_pools(reach=ANYWHERE) as pools,
        trio.open_nursery() as nursery,
    ):
        busy.usual = stall
        nursery.start_soon(pools.host(origin_of(busy)).request, POST)
        await trio.testing.wait_all_tasks_blocked(0.05)
        with pytest.raises(NotProcessed, match="too_many_hosts"):
            pools.host(Origin("http", "127.0.0.2", 1))
        nursery.cancel_scope.cancel()
