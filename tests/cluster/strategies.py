"""Hypothesis strategies for membership: few nodes and small numbers, so that claims collide."""

from hypothesis import strategies as st

from cluster.gossip_messages import Ack, Claim, Gossip, Nack, Ping, PingReq, Sync
from cluster.member import FINAL_INCARNATION, Member, NodeMeta, Status


def _member(node_id: str, boot: int, incarnation: int, status: Status) -> Member:
    # Only the node itself writes its meta: one for each of its incarnations.
    meta = NodeMeta(host=node_id, port=8082, version=f"{boot}.{incarnation}")
    if incarnation == FINAL_INCARNATION:
        status = Status.DEAD
    return Member(node_id, boot, incarnation, status, meta)


members = st.builds(
    _member,
    st.sampled_from(["a", "b", "c"]),
    st.integers(1, 3),
    st.sampled_from([1, 2, 3, FINAL_INCARNATION]),
    st.sampled_from(Status),
)
claims = st.builds(Claim, members, st.sampled_from(["a", "b", "c", "d"]))
_some = st.lists(claims, max_size=4).map(tuple)
_seq = st.integers(0, (1 << 63) - 1)
_id = st.sampled_from(["a", "b", "me"])
_boot = st.integers(0, 4)
messages = st.one_of(
    st.builds(Ping, _seq, _id, _boot, _some),
    st.builds(PingReq, _seq, _id, _boot, _some),
    st.builds(Ack, _seq, _id, _boot, _some),
    st.builds(Nack, _seq, _some),
    st.builds(Gossip, _some),
    st.builds(Sync, _some, st.booleans()),
)
