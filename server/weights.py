"""What single commands cost of their sender's allowances. Pure.

The unit is what a typing mark or a short message takes: one look at what is in memory, or one row in a
batched write. `weight_of` is charged to the session, `creation_weight_of` to the user as well.
"""

from collections.abc import Callable
from typing import Any, Final

from protocol import feed_commands
from protocol.commands import (
    Ack,
    AddMembers,
    Command,
    CreateGroup,
    FindUsers,
    GetUsers,
    Heartbeat,
    History,
    Join,
    ListContacts,
    ListConversations,
    ListInvites,
    ListMembers,
    ListSessions,
    OpenDirect,
    Sync,
    SyncInbox,
    WatchPresence,
)

# Commands whose answer may be as long as a page; the others' answers are a line.
LONG_ANSWERS: Final = frozenset(
    {
        feed_commands.GetPost,
        feed_commands.GetRecommendations,
        feed_commands.GetTrends,
        feed_commands.ListComments,
        feed_commands.ListFollowRequests,
        feed_commands.ListFollowers,
        feed_commands.ListFollowing,
        feed_commands.ListInterests,
        feed_commands.ListLikes,
        feed_commands.ListMuted,
        feed_commands.ListPosts,
        feed_commands.ReadFeed,
        FindUsers,
        GetUsers,
        Heartbeat,
        History,
        ListContacts,
        ListConversations,
        ListInvites,
        ListMembers,
        ListSessions,
        Sync,
        SyncInbox,
        WatchPresence,
    }
)
IDS_PER_UNIT: Final = 10  # rows read by their ids, or actors told
CURSORS_PER_UNIT: Final = 100  # entries compared in memory and written in one batch
MEMBERS_PER_CREATION: Final = 50  # each is a row, an inbox event and a wake-up, but in batches
_LIST: Final = 5.0  # a query whose answer is a page of rows


def _by_members(command: CreateGroup) -> float:
    return 1.0 + len(command.member_ids) / IDS_PER_UNIT


def _by_users(command: AddMembers | WatchPresence | GetUsers) -> float:
    return 1.0 + len(command.user_ids) / IDS_PER_UNIT


def _by_cursors(command: Ack | Heartbeat) -> float:
    return 1.0 + len(command.cursors) / CURSORS_PER_UNIT


def _list(_command: Command) -> float:
    return _LIST


# History and the syncs cost one: a device that returns asks for dozens, each an index range of bounded size.
_WEIGHTS: Final[dict[type, Callable[[Any], float]]] = {
    CreateGroup: _by_members,
    AddMembers: _by_users,
    WatchPresence: _by_users,
    GetUsers: _by_users,
    Ack: _by_cursors,
    Heartbeat: _by_cursors,
    FindUsers: _list,
    ListContacts: _list,
    ListConversations: _list,
    ListInvites: _list,
    ListMembers: _list,
    ListSessions: _list,
    feed_commands.GetRecommendations: lambda _command: 4 * _LIST,  # some ms of a reader's thread
    feed_commands.GetTrends: _list,
    feed_commands.ListComments: _list,
    feed_commands.ListFollowRequests: _list,
    feed_commands.ListFollowers: _list,
    feed_commands.ListFollowing: _list,
    feed_commands.ListLikes: _list,
    feed_commands.ListMuted: _list,
    feed_commands.ListPosts: _list,
    feed_commands.WatchFeed: lambda command: 1.0 + len(command.post_ids) / CURSORS_PER_UNIT,
}
# They leave rows and wake actors that nobody clears away, so opening more sessions must not help.
_CREATIONS: Final[dict[type, Callable[[Any], float]]] = {
    CreateGroup: lambda command: 1.0 + len(command.member_ids) / MEMBERS_PER_CREATION,
    AddMembers: lambda command: 1.0 + len(command.user_ids) / MEMBERS_PER_CREATION,
    OpenDirect: lambda _command: 1.0,
    Join: lambda _command: 1.0,
    feed_commands.AddComment: lambda _command: 1.0,
    feed_commands.CreatePost: lambda _command: 1.0,
    feed_commands.FollowUser: lambda _command: 1.0,
    feed_commands.Repost: lambda _command: 1.0,
}

WEIGHED: Final = frozenset(_WEIGHTS)
"""Commands that cost something else than 1."""
CREATING: Final = frozenset(_CREATIONS)
"""Commands that create something lasting between users."""


def weight_of(command: Command) -> float:
    """What a command costs of its session's commands; 1 for most."""
    weigh = _WEIGHTS.get(type(command))
    return 1.0 if weigh is None else weigh(command)


def creation_weight_of(command: Command) -> float:
    """What a command costs of its user's creations; 0 for what creates nothing lasting between users."""
    weigh = _CREATIONS.get(type(command))
    return 0.0 if weigh is None else weigh(command)
