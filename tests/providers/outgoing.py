"""One notification for one address, as the tests of providers need it."""

from typing import Any

import msgspec

from actors.notify.delivery import Outgoing, Target
from protocol.notify_types import Channel

NOW_MS = 1_790_000_000_000


def make_outgoing(channel: Channel, address: str, **changes: Any) -> Outgoing:
    """A plain notification; `changes` are fields of Outgoing."""
    outgoing = Outgoing(
        delivery_id="n42-d7",
        notification_id=42,
        app_id="shop",
        user_id="ann",
        type="order.sent",
        priority="high",
        target=Target(device_key="k1", channel=channel, address=address),
        title="On its way",
        body="Your order has left.",
    )
    return msgspec.structs.replace(outgoing, **changes)
