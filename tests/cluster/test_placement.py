"""Which node should own which shard, and how shards change hands."""

import time
from collections import Counter

from hypothesis import given
from hypothesis import strategies as st

from actors.address import SHARD_COUNT
from cluster.placement import MoveRules, desired_owners, free_shards, plan_claims, plan_moves
from protocol.records import NodeLease, ShardOwner

RULES = MoveRules()
NAMES = [[f"{prefix}{number}" for number in range(1, 10)] for prefix in ("n", "node-", "host.example-")]


@given(st.sets(st.text(min_size=1, max_size=20), min_size=1, max_size=12), st.randoms())
def test_loads_differ_by_one_at_most_and_the_order_does_not_matter(node_ids: set[str], random) -> None:  # type: ignore[no-untyped-def]  # hypothesis gives a Random of its own
    """Every node works it out for itself from its own list of members."""
    desired = desired_owners(node_ids)
    loads = Counter(desired)
    assert set(loads) == node_ids
    assert max(loads.values()) - min(loads.values()) <= 1
    shuffled = list(node_ids)
    random.shuffle(shuffled)
    assert desired_owners([*shuffled, *shuffled]) == desired


def test_the_placement_is_the_same_in_every_release() -> None:
    """Nodes of two releases run side by side during a rolling upgrade."""
    desired = desired_owners(["n1", "n2", "n3"])
    assert desired[:8] == ("n1", "n1", "n1", "n2", "n1", "n3", "n3", "n1")


def test_without_nodes_nobody_is_wanted() -> None:
    assert set(desired_owners([])) == {""}


def test_a_join_moves_shards_to_the_newcomer_and_few_others() -> None:
    """Each move interrupts the conversations of a shard: the minimum is what the newcomer must get."""
    for names in NAMES:
        for count in range(1, 9):
            before, after = desired_owners(names[:count]), desired_owners(names[: count + 1])
            moved = sum(old != new for old, new in zip(before, after, strict=True))
            assert moved <= 1.4 * after.count(names[count]), (names[0], count, moved)


def test_a_leave_moves_the_leavers_shards_and_few_others() -> None:
    for names in NAMES:
        for count in range(2, 10):
            before = desired_owners(names[:count])
            for leaver in names[:count]:
                after = desired_owners([name for name in names[:count] if name != leaver])
                moved = sum(old != new for old, new in zip(before, after, strict=True))
                assert moved <= 1.4 * before.count(leaver), (leaver, count, moved)


def test_more_nodes_than_shards_are_no_trouble() -> None:
    loads = Counter(desired_owners([f"n{number}" for number in range(300)]))
    assert set(loads.values()) == {1}
    assert len(loads) == SHARD_COUNT


def test_a_view_is_worked_out_once() -> None:
    """The keeper asks every second."""
    names = [f"quick{number}" for number in range(8)]
    desired_owners(names)
    started_at = time.thread_time()
    for _ in range(1000):
        desired_owners(names)
    assert time.thread_time() - started_at < 0.5


def test_only_a_live_lease_of_the_same_life_holds_a_shard() -> None:
    members = [
        NodeLease(node_id="a", boot=2, lease_left_ms=5),
        NodeLease(node_id="b", boot=1, lease_left_ms=0),
        NodeLease(node_id="c", boot=1, lease_left_ms=5, is_draining=True),
    ]
    rows = [
        ShardOwner(0, "a", 2, 7, 0),
        ShardOwner(1, "a", 1, 8, 0),  # an earlier life
        ShardOwner(2, "b", 1, 9, 0),  # its lease has ended
        ShardOwner(3, "c", 1, 10, 0),  # gives it up when it is ready
        ShardOwner(4, "", 0, 11, 0),
        ShardOwner(5, "nobody", 1, 12, 0),
    ]
    assert free_shards(rows, members) == {1: 8, 2: 9, 4: 11, 5: 12}


def test_what_others_should_take_is_left_to_them_for_a_moment() -> None:
    """Views may differ; after that availability goes first."""
    desired = desired_owners(["a", "b"])
    mine, others = desired.index("a"), desired.index("b")
    wait_s = RULES.others_after_s
    assert plan_claims({mine: 0.0, others: wait_s - 0.1}, desired, "a", rules=RULES) == [mine]
    assert plan_claims({mine: 0.0, others: wait_s}, desired, "a", rules=RULES) == [mine, others]


def moves(owners: list[str], live: list[str], node_id: str, **changes: object) -> list[int]:
    held = [shard for shard, owner in enumerate(owners) if owner == node_id]
    options: dict[str, object] = {"is_draining": False, "stable_for_s": 20.0, "given_lately": 0, **changes}
    return plan_moves(held, owners, desired_owners(live), node_id, rules=RULES, **options)  # type: ignore[arg-type]  # options of a test


def test_a_newcomer_gets_a_tenth_in_ten_seconds_from_all_together() -> None:
    owners = ["a"] * SHARD_COUNT
    assert len(moves(owners, ["a", "b"], "a")) == 25
    assert len(moves(owners, ["a", "b"], "a", given_lately=20)) == 5
    assert moves(owners, ["a", "b"], "a", given_lately=25) == []
    owners = list(desired_owners(["a", "b", "c"]))
    given = [shard for node_id in "abc" for shard in moves(owners, ["a", "b", "c", "d"], node_id)]
    assert 3 <= len(given) <= 25
    assert len(set(given)) == len(given)
    assert all(desired_owners(["a", "b", "c", "d"])[shard] != owners[shard] for shard in given)


def test_nothing_moves_while_the_members_still_change() -> None:
    """A node that restarts comes back within that time, and everybody has what they had."""
    assert moves(["a"] * SHARD_COUNT, ["a", "b"], "a", stable_for_s=MoveRules().settle_s - 0.1) == []


def test_nothing_moves_when_everything_is_in_place() -> None:
    owners = list(desired_owners(["a", "b"]))
    assert moves(owners, ["a", "b"], "a") == []
    assert moves(owners, [], "a") == [], "nobody to give to"


def test_a_draining_node_gives_all_in_batches_at_once() -> None:
    owners = ["a"] * 100 + ["b"] * 156
    given = moves(owners, ["b"], "a", is_draining=True, stable_for_s=0.0, given_lately=200)
    assert given == list(range(32))
