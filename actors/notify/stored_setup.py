"""Types and requests as they were stored, read as they would be let in now. Pure.

Older releases took a channel that was named twice, and sent twice to each device there.
"""

from typing import Final

import msgspec

from protocol.notify_content import KeptRequest
from protocol.notify_types import Channel, TypeRule

_type: Final = msgspec.json.Decoder(TypeRule).decode
_request: Final = msgspec.json.Decoder(KeptRequest).decode


def read_type(body: str) -> TypeRule:
    """A type's rule. Raises: msgspec.MsgspecError, where it cannot be read any more."""
    rule = _type(body)
    channels, fallback = each_once(rule.channels), each_once(rule.fallback)
    if (channels, fallback) == (rule.channels, rule.fallback):
        return rule
    return msgspec.structs.replace(rule, channels=channels, fallback=fallback)


def read_request(body: str) -> KeptRequest:
    """A request to many, or one that recurs. Raises: as read_type."""
    request = _request(body)
    channels = each_once(request.channels)
    return request if channels == request.channels else msgspec.structs.replace(request, channels=channels)


def each_once(channels: list[Channel]) -> list[Channel]:
    """Channels in the order in which they are first named."""
    return list(dict.fromkeys(channels))
