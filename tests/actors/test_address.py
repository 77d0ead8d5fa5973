"""Addresses name the same actor and the same shard on every node."""

import subprocess
import sys

from hypothesis import given
from hypothesis import strategies as st

from actors import SHARD_COUNT, Address, shard_of


def test_the_shard_of_an_address_never_changes() -> None:
    """A store written by one release is opened by the next: these values are part of the format."""
    assert [shard_of(Address("conversation", str(n))) for n in range(4)] == [101, 193, 254, 103]
    assert Address("user", "zoë").shard == 176


def test_another_process_computes_the_same_shard() -> None:
    """Nodes agree on owners without talking: nothing may depend on a per-process hash seed."""
    code = "from actors import Address; print(Address('user', 'ann').shard)"
    seen = {
        subprocess.run(
            [sys.executable, "-c", code], env={"PYTHONHASHSEED": seed}, check=True, stdout=-1
        ).stdout
        for seed in ("1", "2")
    }
    assert seen == {f"{Address('user', 'ann').shard}\n".encode()}


@given(st.text(), st.text())
def test_every_address_has_a_shard(kind: str, id_: str) -> None:
    """The store has a row for each shard and for no other."""
    assert 0 <= Address(kind, id_).shard < SHARD_COUNT


def test_kind_and_id_do_not_run_together() -> None:
    """("ab", "c") and ("a", "bc") are different actors, and their shards are not the same by construction."""
    pairs = [(Address("ab" * n, "c"), Address("ab" * n + "c", "")) for n in range(1, 9)]
    assert any(one.shard != other.shard for one, other in pairs)


def test_shards_are_evenly_used() -> None:
    """Nodes get a fair share of the actors by taking a fair share of the shards."""
    counts = [0] * SHARD_COUNT
    for n in range(SHARD_COUNT * 100):
        counts[Address("user", f"u{n}").shard] += 1
    assert min(counts) > 50
    assert max(counts) < 150


def test_equal_addresses_are_one_key() -> None:
    """Routers and hosts find actors by address in dicts."""
    assert {Address("user", "ann"): 1}[Address("user", "ann")] == 1
    assert str(Address("user", "ann")) == "user/ann"
