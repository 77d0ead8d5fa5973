"""What a batch or digest tells when one more joins it. Pure; regather.py is the way back."""

from collections.abc import Collection
from typing import Final

import msgspec

from actors.notify.builtin_types import DIGEST
from actors.notify.user_state import Kept

MAX_NAMES: Final = 3  # written out in a text, the first ones
MAX_ACTORS: Final = 1_000  # told apart in one batch; beyond it each one more counts


def grown(kept: Kept, actors: Collection[str], member: Kept) -> tuple[Kept, list[str]]:
    """Return what a group goes on with, and whose doing it is besides `actors`, who are told apart so far."""
    names = list(kept.names)
    actor_count = kept.actor_count
    new: list[str] = []
    for name in member.names:
        if name in actors:
            continue
        actor_count += 1
        if len(actors) + len(new) < MAX_ACTORS:
            new.append(name)
            if len(names) < MAX_NAMES:
                names.append(name)
    actor_count += max(0, member.actor_count - len(member.names))  # who are known by their number alone
    is_digest = kept.content.type == DIGEST
    first = kept.first
    if first is None and not is_digest and not kept.is_carrier:
        first = kept.content
    changed = msgspec.structs.replace(
        kept,
        content=kept.content if is_digest else member.content,
        names=names,
        actor_count=max(actor_count, len(names)),
        first=first,
    )
    return changed, new
