"""What a partition has begun and goes on with later, so that everybody else has a turn in between.

Texts of an app's template may take milliseconds each. The partitions of a node share one lock, and between
two turns the loop serves whoever is ready: however many campaigns run, the next message waits for one turn.
"""

from typing import Final

import msgspec
import trio

from actors.entity import EntityContext
from actors.notify.messages import Notify
from actors.notify.plan import Asked

TURN_S: Final = 0.01  # then others are served; a text of plain words takes 0.05 ms


class Rest(msgspec.Struct, frozen=True):
    """The users of a request about whom it is still to be decided, as the request without the others."""

    asked: Asked
    left: Notify
    digest: str
    is_own: bool = True  # it goes on whether its sender still waits or not


async def post_in_turn(turns: trio.Lock, ctx: EntityContext, message: object) -> None:
    """Post a message to the own actor when the others of the node have had their turns."""
    async with turns:
        await trio.lowlevel.checkpoint()
        ctx.post(message)
