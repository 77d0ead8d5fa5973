"""What a batch or digest tells when some of its members leave it before it is due. Pure."""

from collections.abc import Sequence

import msgspec

from actors.notify.batching import MAX_NAMES
from actors.notify.builtin_types import DIGEST
from actors.notify.user_state import Kept


def without(
    kept: Kept, count: int, gone: Sequence[Kept], left: Sequence[Kept], *, is_own: bool
) -> tuple[Kept, int]:
    """Return what a group goes on with, and how many it tells of then; with 0 it has nothing to tell.

    `gone`: the members that leave; `left`: those that stay, the oldest first, as far as they are known.
    `is_own`: the notification that opened the group leaves too. Its row then carries the group alone.
    """
    own = kept.first or kept.content
    leaving = [member.content for member in gone]
    staying = [member.content for member in left]
    if is_own:
        leaving.append(own)
    elif not kept.is_carrier and kept.content.type != DIGEST:
        staying.insert(0, own)
    actors = {content.actor for content in staying}
    leavers = {content.actor for content in leaving if content.actor} - actors
    names = [name for name in kept.names if name not in leavers]
    for name in dict.fromkeys(content.actor for content in staying if content.actor):
        if len(names) < MAX_NAMES and name not in names:  # who was an "other" until now
            names.append(name)
    unnamed = sum(max(0, member.actor_count - len(member.names)) for member in gone)
    content = kept.content
    if content in leaving and staying:  # else one that came since tells it, or nobody is left
        content = staying[-1]
    first = None if is_own or kept.first in leaving else kept.first
    changed = msgspec.structs.replace(
        kept,
        content=content,
        names=names,
        actor_count=max(len(names), kept.actor_count - len(leavers) - unnamed),
        first=first,
        is_carrier=kept.is_carrier or is_own,
    )
    return changed, max(0, count - len(leaving))
