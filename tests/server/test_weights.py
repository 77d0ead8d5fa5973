"""What commands cost of their sender's allowances."""

import pytest

from protocol.commands import (
    AddMembers,
    Command,
    Heartbeat,
    ListMembers,
    OpenDirect,
    SetTyping,
    WatchPresence,
)
from protocol.limits import MAX_CURSORS, MAX_IDS
from server.session import SessionLimits
from server.weights import creation_weight_of, weight_of

STRANGERS = [f"u{number}" for number in range(MAX_IDS)]
HEAVIEST: list[Command] = [
    AddMembers(conversation_id="c", user_ids=STRANGERS),
    WatchPresence(user_ids=STRANGERS),
    Heartbeat(cursors={f"c{number}": 1 for number in range(MAX_CURSORS)}),
    ListMembers(conversation_id="c"),
]


@pytest.mark.parametrize("command", HEAVIEST)
def test_heavy_commands_cost_more_than_a_typing_mark_and_fit_the_default_burst(command: Command) -> None:
    """The edge session; a command that no full bucket could pay would never be let through."""
    assert weight_of(SetTyping(conversation_id="c")) == 1.0
    assert 4.0 < weight_of(command) < SessionLimits().commands.burst / 2


def test_only_what_lasts_between_users_is_a_creation() -> None:
    """The gateway's registry, for all sessions of a user together."""
    assert creation_weight_of(SetTyping(conversation_id="c")) == 0.0
    assert creation_weight_of(OpenDirect(user_id="u")) == 1.0
    assert creation_weight_of(AddMembers(conversation_id="c", user_ids=STRANGERS)) == 11.0
