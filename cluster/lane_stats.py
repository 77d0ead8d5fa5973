"""How the lanes are doing, for the metrics and for people."""

import msgspec


class LaneStats(msgspec.Struct, frozen=True):
    """One lane to one peer, since it was connected to that life of it."""

    queued_bytes: int  # with what Python needs around the items
    envelopes_sent: int  # beats included
    items_sent: int
    items_refused: int  # the lane was full or down, or the item too long
    items_dropped: int  # waited for a connection until they were of no use


class PeerStats(msgspec.Struct, frozen=True):
    """The ways to and from one peer."""

    boot: int
    is_reachable: bool
    control: LaneStats
    data: LaneStats
    connects: int  # how often a connection was made, both lanes together; two at best
    lost_envelopes: int  # of its data lane, on the way to us


class LanesStats(msgspec.Struct, frozen=True):
    """All of a node's lanes. Whatever is counted by peer begins anew when a peer does."""

    peers: dict[str, PeerStats]
    envelopes_received: int
    items_received: int
    gaps: int
    refused: dict[str, int]  # frames by Refusal, and connections that came to nothing
