"""How groups are told, and that they stay small."""

import msgspec
from hypothesis import given
from hypothesis import strategies as st

from actors.notify.batching import MAX_ACTORS, MAX_IDS, MAX_NAME_CHARS, Batch, Summary, merge_data, summarise
from protocol.notify_types import MAX_DATA_BYTES

PEOPLE = ["Ann", "Ben", "Cid", "Dan", "Eve"]


def test_names_and_others() -> None:
    """Ann; Ann and Ben; Ann, Ben and Cid; Ann, Ben and 2 others. Never one other."""
    told = [(summary.names, summary.others) for summary in (summarise(9, PEOPLE[:n]) for n in range(6))]
    assert told == [
        ([], 0),
        (["Ann"], 0),
        (["Ann", "Ben"], 0),
        (["Ann", "Ben", "Cid"], 0),
        (["Ann", "Ben"], 2),
        (["Ann", "Ben"], 3),
    ]
    assert summarise(7, ["Ann", "", "Ann"]) == Summary(count=7, names=["Ann"])


@given(st.lists(st.integers(0, 1_500), max_size=30), st.integers(0, 1_500))
def test_actors_are_counted_exactly_up_to_a_thousand(seen: list[int], crowd: int) -> None:
    """Whoever acts often counts once; beyond a thousand it is said to be at least that many."""
    actors = [f"u{number}" for number in [*range(crowd), *seen]]
    summary = summarise(len(actors), actors)
    distinct = len(set(actors))
    assert len(summary.names) + summary.others == min(distinct, MAX_ACTORS)
    assert summary.is_exact == (distinct <= MAX_ACTORS)
    assert summary.names == list(dict.fromkeys(actors))[: 3 if distinct <= 3 else 2]


def test_a_batch_is_bounded_and_survives_being_stored() -> None:
    """It is kept with the group, and a restart goes on with it."""
    batch = Batch()
    for number in range(2_000):
        batch.add(number, f"user {number} " + "x" * 200, {"last": number})
    stored = msgspec.msgpack.decode(msgspec.msgpack.encode(batch), type=Batch)
    assert stored == batch
    assert stored.ids == list(range(2_000 - MAX_IDS, 2_000))
    assert stored.data == {"last": 1_999}
    assert [len(name) for name in stored.names] == [MAX_NAME_CHARS] * 3
    summary = stored.summary()
    assert (summary.count, summary.others, summary.is_exact) == (2_000, 998, False)


values = st.text(max_size=200) | st.integers() | st.lists(st.text(max_size=10)) | st.none()
datas = st.dictionaries(st.text(max_size=8), values, max_size=8)


@given(datas, datas, st.integers(2, MAX_DATA_BYTES))
def test_merged_data_fits_and_the_newest_win(
    old: dict[str, object], new: dict[str, object], limit: int
) -> None:
    """Whole values, nested ones too; what was set longest ago goes first where it is too much."""
    merged = merge_data(old, new, limit)
    encode = msgspec.json.encode
    assert len(encode(merged)) <= limit
    order = [key for key in old if key not in new] + list(new)
    assert list(merged) == order[len(order) - len(merged) :]
    assert all(merged[key] == (new if key in new else old)[key] for key in merged)
    if len(merged) < len(order):  # one more would not have fitted
        dropped = order[len(order) - len(merged) - 1]
        assert len(encode({dropped: (old | new)[dropped]} | merged)) > limit
