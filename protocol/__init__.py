"""The language: commands, replies, events, errors, limits and codecs.

Owns every type that crosses a wire. Leaves to others: sockets, clocks, storage, rules. Imports nothing
of ours.
"""

from protocol.codec import (
    WS_SUBPROTOCOLS,
    CommandError,
    Encoded,
    FrameSplitter,
    Wire,
    decode_command,
    decode_server,
    encode_frame,
    encode_payload,
    encode_tcp_command,
)
from protocol.commands import Command
from protocol.errors import CODES, CloseCode, HubbubError, ProtocolError, Refused, Unavailable, may_reconnect
from protocol.events import ConversationEvent, Event, InboxEvent, LiveEvent
from protocol.replies import Reply

__all__ = [
    "CODES",
    "WS_SUBPROTOCOLS",
    "CloseCode",
    "Command",
    "CommandError",
    "ConversationEvent",
    "Encoded",
    "Event",
    "FrameSplitter",
    "HubbubError",
    "InboxEvent",
    "LiveEvent",
    "ProtocolError",
    "Refused",
    "Reply",
    "Unavailable",
    "Wire",
    "decode_command",
    "decode_server",
    "encode_frame",
    "encode_payload",
    "encode_tcp_command",
    "may_reconnect",
]
