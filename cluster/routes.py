"""Who owns a shard, as far as a node knows: what the router sends by, and what nodes tell each other."""

import msgspec


class ShardRoute(msgspec.Struct, frozen=True, array_like=True):
    """Where a shard's actors run. Of two routes the one with the higher epoch is the newer."""

    shard: int
    node_id: str = ""  # empty: nobody owns it
    boot: int = 0
    epoch: int = 0
    next_id: str = ""  # of a shard that nobody owns: who will probably take it
