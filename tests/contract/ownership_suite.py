"""What every ownership table must do: storage.store.Store, and the double that the cluster's tests use.

Subclass `OwnershipSuite` and give it a `reopen` fixture. The ShardKeeper relies on each of these claims.
"""

from collections.abc import Callable
from contextlib import AbstractAsyncContextManager
from typing import Any

import trio

from cluster.ownership import Ownership

SHARD = 7
# The whole store's suite knows more of what it opens.
Reopen = Callable[[], AbstractAsyncContextManager[Any]]


class OwnershipSuite:
    """Claims, leases and their ends. `reopen` opens the same table again, beside those that are open."""

    async def test_all_256_shards_begin_free(self, reopen: Reopen) -> None:
        async with reopen() as store:
            rows = await store.shards()
            assert [row.shard for row in rows] == list(range(256))
            assert {(row.owner, row.boot, row.epoch) for row in rows} == {("", 0, 0)}
            assert await store.members() == []

    async def test_one_claim_of_many_wins_and_fences_the_rest(self, reopen: Reopen) -> None:
        """Nodes that see the same dead owner: each shard goes to one of them."""
        async with reopen() as first, reopen() as second:
            stores: dict[str, Ownership] = {"a": first, "b": second, "c": first}
            boots = {name: await store.register_node(name, f"{name}:1") for name, store in stores.items()}
            wishes = {"a": range(200), "b": range(50, 256), "c": range(0, 256, 2)}
            claims: dict[str, dict[int, tuple[int, int]]] = {}

            async def claim(name: str) -> None:
                seen = dict.fromkeys(wishes[name], 0)
                claims[name] = await stores[name].claim(seen, node_id=name, boot=boots[name])

            async with trio.open_nursery() as nursery:
                for name in stores:
                    nursery.start_soon(claim, name)
            won = [shard for claimed in claims.values() for shard in claimed]
            assert sorted(won) == list(range(256))
            for row in await second.shards():
                assert claims[row.owner][row.shard] == (1, 0)
                assert (row.boot, row.epoch) == (boots[row.owner], 1)

    async def test_a_claim_takes_what_it_can_and_leaves_out_the_rest(self, reopen: Reopen) -> None:
        async with reopen() as store:
            a = await store.register_node("a", "a:1")
            b = await store.register_node("b", "b:1")
            assert await store.claim({1: 0, 2: 0}, node_id="a", boot=a) == {1: (1, 0), 2: (1, 0)}
            seen = {1: 1, 2: 0, 3: 0, 4: 5, 999: 0}  # held; held and stale; free; never seen so; no shard
            assert await store.claim(seen, node_id="b", boot=b) == {3: (1, 0)}
            assert await store.claim({}, node_id="b", boot=b) == {}

    async def test_a_live_lease_protects_and_an_ended_one_does_not(self, reopen: Reopen) -> None:
        async with reopen() as store:
            a = await store.register_node("a", "a:1", lease_ms=60_000)
            b = await store.register_node("b", "b:1", lease_ms=60_000)
            assert await store.claim({3: 0}, node_id="a", boot=a) == {3: (1, 0)}
            assert await store.claim({3: 1}, node_id="b", boot=b) == {}
            assert await store.renew_node("a", a, lease_ms=-1)
            assert {node.node_id: node.lease_left_ms > 0 for node in await store.members()} == {
                "a": False,
                "b": True,
            }
            assert await store.claim({3: 0}, node_id="b", boot=b) == {}
            assert await store.claim({3: 1}, node_id="b", boot=b) == {3: (2, 0)}

    async def test_who_has_no_live_lease_wins_nothing(self, reopen: Reopen) -> None:
        """A node that wakes up after its lease ended must renew before it takes anything."""
        async with reopen() as store:
            a = await store.register_node("a", "a:1", lease_ms=60_000)
            assert await store.renew_node("a", a, lease_ms=-1)
            assert await store.claim({3: 0}, node_id="a", boot=a) == {}
            assert await store.claim({3: 0}, node_id="stranger", boot=1) == {}
            assert await store.renew_node("a", a)
            later = await store.register_node("a", "a:1")
            assert await store.claim({3: 0}, node_id="a", boot=a) == {}
            assert await store.claim({3: 0}, node_id="a", boot=later) == {3: (1, 0)}

    async def test_a_restarted_node_takes_its_own_shards_back_at_once(self, reopen: Reopen) -> None:
        async with reopen() as store:
            first = await store.register_node("a", "a:1")
            assert await store.claim({3: 0}, node_id="a", boot=first) == {3: (1, 0)}
            second = await store.register_node("a", "a:2")
            assert second > first
            assert not await store.renew_node("a", first)
            assert await store.renew_node("a", second, is_draining=True)
            assert await store.claim({3: 1}, node_id="a", boot=second) == {3: (2, 0)}
            (node,) = await store.members()
            assert (node.address, node.is_draining) == ("a:2", True)

    async def test_a_restarted_nodes_former_shards_are_free_for_all(self, reopen: Reopen) -> None:
        """Its new life knows nothing of them, however live its lease is."""
        async with reopen() as store:
            first = await store.register_node("a", "a:1")
            b = await store.register_node("b", "b:1")
            assert await store.claim({3: 0}, node_id="a", boot=first) == {3: (1, 0)}
            await store.register_node("a", "a:1")
            assert await store.claim({3: 1}, node_id="b", boot=b) == {3: (2, 0)}

    async def test_a_released_shard_is_free_under_a_new_epoch(self, reopen: Reopen) -> None:
        async with reopen() as store:
            a = await store.register_node("a", "a:1")
            b = await store.register_node("b", "b:1")
            await store.claim({SHARD: 0, 8: 0, 9: 0}, node_id="a", boot=a)
            assert await store.release({SHARD: 1, 8: 1, 9: 7}) == {SHARD: 2, 8: 2}
            assert await store.release({SHARD: 1, 8: 1}) == {}
            rows = await store.shards()
            assert (rows[SHARD].owner, rows[SHARD].boot, rows[SHARD].epoch) == ("", 0, 2)
            assert (rows[9].owner, rows[9].epoch) == ("a", 1)
            assert await store.claim({SHARD: 2}, node_id="b", boot=b) == {SHARD: (3, 0)}

    async def test_no_lease_of_a_node_that_lives_is_ended(self, reopen: Reopen) -> None:
        """Whoever asks, and however the node's last renewal went."""
        async with reopen() as first, reopen() as second:
            a = await first.register_node("a", "a:1")
            b = await second.register_node("b", "b:1")
            again = await first.register_node("a", "a:1")
            assert again > a
            assert await first.end_leases_of_the_dead() == []
            assert await second.end_leases_of_the_dead() == []
            assert await first.renew_node("a", again)
            assert await second.renew_node("b", b)
            assert all(node.lease_left_ms > 0 for node in await first.members())
