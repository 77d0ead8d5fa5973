"""What is alive: the actor runtime, and the chat, feed and notification actors that run on it.

Owns mailboxes, supervision, activation and passivation, and the rules of each actor. Leaves storage, sockets
and other nodes to whoever fits its interfaces. Imports `protocol` only.
"""

from actors.address import SHARD_COUNT, Address, shard_of
from actors.crash_history import CrashPolicy
from actors.entity import Entity, EntityContext, StopEntity
from actors.entity_host import DeadLetterSink, EntityHost, HostStats
from actors.mailbox import BATCH_LIMIT, MAILBOX_CAPACITY, Mailbox, MailboxFull
from actors.reply import NO_REPLY, Reply, ReplySlot
from actors.router import Host, LocalRouter, Router, UnknownKind
from actors.supervisor import (
    ChildInfo,
    ChildSpec,
    ChildStatus,
    Restart,
    Strategy,
    Supervisor,
    SupervisorEscalated,
)

__all__ = [
    "SHARD_COUNT",
    "Address",
    "shard_of",
    "CrashPolicy",
    "Entity",
    "EntityContext",
    "StopEntity",
    "DeadLetterSink",
    "EntityHost",
    "HostStats",
    "BATCH_LIMIT",
    "MAILBOX_CAPACITY",
    "Mailbox",
    "MailboxFull",
    "NO_REPLY",
    "Reply",
    "ReplySlot",
    "Host",
    "LocalRouter",
    "Router",
    "UnknownKind",
    "ChildInfo",
    "ChildSpec",
    "ChildStatus",
    "Restart",
    "Strategy",
    "Supervisor",
    "SupervisorEscalated",
]
