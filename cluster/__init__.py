"""More than one node. Nothing lives here yet: a node runs alone for now.

Membership, presence between nodes, shard placement and the lanes to other nodes will live in this folder.
It will import `actors` and `protocol` and nothing else of ours, and it alone will import pynng.
"""
