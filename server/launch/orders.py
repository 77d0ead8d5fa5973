"""What `hubbub cluster restart` and its kin ask of the running launcher, and what it answers.

One JSON line asks; lines of progress answer, and `Done` ends them. Both sides are the same version on one
machine, so this is no part of protocol/.
"""

from typing import Annotated

import msgspec
from msgspec import Meta

NodeName = Annotated[str, Meta(max_length=64)]


class _Order(msgspec.Struct, frozen=True, kw_only=True):
    pass


class Look(_Order, frozen=True, kw_only=True, tag="look"):
    """How is everybody? Answered by `State` alone."""


class Restart(_Order, frozen=True, kw_only=True, tag="restart"):
    """One node after the other: drain, end, start, wait until it has its share of the shards."""

    node_ids: Annotated[list[NodeName], Meta(description="Empty: all of them.")] = []
    timeout_s: Annotated[float, Meta(gt=0, description="How long to wait for each node's shards.")] = 120.0


class Drain(_Order, frozen=True, kw_only=True, tag="drain"):
    """Let a node hand over what it has and end; it stays down."""

    node_id: NodeName


class Stop(_Order, frozen=True, kw_only=True, tag="stop"):
    """End a node at once; it stays down."""

    node_id: NodeName


class Start(_Order, frozen=True, kw_only=True, tag="start"):
    """Start a node that is down, and wait until it has its share of the shards."""

    node_id: NodeName
    timeout_s: Annotated[float, Meta(gt=0)] = 120.0


class Add(_Order, frozen=True, kw_only=True, tag="add"):
    """Run one node more, and wait until it has its share of the shards."""

    timeout_s: Annotated[float, Meta(gt=0)] = 120.0


Order = Look | Restart | Drain | Stop | Start | Add


class NodeState(msgspec.Struct, frozen=True, kw_only=True):
    """One node as its launcher sees it."""

    node_id: str
    phase: str
    pid: int = 0
    age_s: float = 0.0
    restart_count: int = 0
    is_crash_looping: bool = False
    last_exit: str = ""
    page: Annotated[str, Meta(description="Its address; empty until it was up once.")] = ""
    local_url: Annotated[str, Meta(description="Where this machine reaches its HTTP API.")] = ""
    cluster_address: str = ""
    cpu_share: Annotated[float | None, Meta(description="Of one core, over the last seconds.")] = None


class State(msgspec.Struct, frozen=True, kw_only=True, tag="state"):
    """The launcher and its nodes."""

    pid: int
    is_ending: bool
    nodes: list[NodeState]


class Progress(msgspec.Struct, frozen=True, kw_only=True, tag="progress"):
    """Something has come about."""

    node_id: str
    text: str


class Done(msgspec.Struct, frozen=True, kw_only=True, tag="done"):
    """The end: `code` is the command's exit code, `text` says why where it is not 0."""

    code: int = 0
    text: str = ""


Answer = State | Progress | Done
