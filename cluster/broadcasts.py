"""The queue of news to spread: at most one claim per member, each sent a limited number of times."""

import msgspec

from cluster.gossip_messages import Claim


class Broadcast(msgspec.Struct, frozen=True):
    """A claim on its way, how often it was sent, and when it came into the queue among the others."""

    claim: Claim
    sent_count: int
    serial: int


# By node_id: newer news about a member replace the older (memberlist: invalidation).
Broadcasts = dict[str, Broadcast]


def add_broadcast(queue: Broadcasts, claim: Claim, serial: int) -> None:
    """Put news into the queue. Whatever it held about the same member is no longer worth sending."""
    queue[claim.member.node_id] = Broadcast(claim, 0, serial)


def take_broadcasts(queue: Broadcasts, *, limit: int, retransmit_limit: int) -> tuple[Claim, ...]:
    """Take what the next message should carry: what was sent least first, then the newest.

    Counts it as sent once more, and forgets what has now been sent `retransmit_limit` times.
    """
    if not queue:
        return ()
    chosen = sorted(queue.values(), key=_priority)[:limit]
    for item in chosen:
        node_id = item.claim.member.node_id
        if item.sent_count + 1 >= retransmit_limit:
            del queue[node_id]
        else:
            queue[node_id] = Broadcast(item.claim, item.sent_count + 1, item.serial)
    return tuple([item.claim for item in chosen])


def _priority(item: Broadcast) -> tuple[int, int]:
    return (item.sent_count, -item.serial)
