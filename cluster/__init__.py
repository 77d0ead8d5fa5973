"""More than one node: one system made of several processes that share a store.

Owns membership (`membership`, run by `gossip`), the lanes between nodes (`lanes`), which node runs what
(`placement`, `shards`), who is connected where (`presence`), and how calls and events cross nodes (`wire`,
`mesh`, `router`, `fanout`); `node` puts them together. Leaves to others what actors decide and what is
stored: it states its needs as Protocols. Imports actors and protocol only; it alone imports pynng.
"""

from cluster.node import ClusterNode, ClusterSettings

__all__ = ["ClusterNode", "ClusterSettings"]
