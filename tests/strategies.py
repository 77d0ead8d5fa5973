"""Hypothesis strategies for the protocol, made from the Structs' own annotations and limits.

A new type, field or limit is taken in without a change here.
"""

from collections.abc import Callable
from functools import cache
from typing import Any

import hypothesis
import msgspec
from hypothesis import strategies as st
from msgspec import inspect

from protocol import Wire, encode_payload
from protocol.limits import MAX_SAFE_INTEGER
from protocol.reference import COMMANDS, EVENTS, REPLIES, always_sent
from protocol.types import ID_PATTERN
from tests.conftest import IS_LONG_RUN

# Enough to reach every branch of a decoder; a limit of 100 KB or 1,000 entries is tested by its own test.
MAX_ITEMS = 4
MAX_CHARS = 40

ids = st.text("abcXYZ019_-", min_size=1, max_size=64)
wires = st.sampled_from(Wire)


def examples(short: int, *, long: int) -> hypothesis.settings:
    """Say how many examples a test takes; `long` applies under HUBBUB_LONG=1."""
    return hypothesis.settings(max_examples=long if IS_LONG_RUN else short)


def structs(*kinds: type[msgspec.Struct]) -> st.SearchStrategy[Any]:
    """Draw values of these Structs that a decoder accepts."""
    return st.one_of([_struct(kind) for kind in kinds])


def commands() -> st.SearchStrategy[Any]:
    """Draw any command."""
    return structs(*COMMANDS)


def server_messages() -> st.SearchStrategy[Any]:
    """Draw any reply or event."""
    return structs(*REPLIES, *EVENTS)


@cache
def _struct(kind: type[msgspec.Struct]) -> st.SearchStrategy[Any]:
    # Deferred, as pages hold events and messages hold attachments.
    return st.deferred(lambda: _struct_now(kind))


def _struct_now(kind: type[msgspec.Struct]) -> st.SearchStrategy[Any]:
    info = inspect.type_info(kind)
    assert isinstance(info, inspect.StructType)
    needed = always_sent(kind)
    required: dict[str, st.SearchStrategy[Any]] = {}
    optional: dict[str, st.SearchStrategy[Any]] = {}
    for field in info.fields:
        is_required = field.required or field.encode_name in needed
        (required if is_required else optional)[field.name] = _value(field.type)
    return st.fixed_dictionaries(required, optional=optional).map(lambda fields: kind(**fields))


def _value(kind: inspect.Type) -> st.SearchStrategy[Any]:
    match kind:
        case inspect.Metadata():
            return _value(kind.type)
        case inspect.StrType(pattern=None):
            return st.text(
                min_size=kind.min_length or 0, max_size=min(kind.max_length or MAX_CHARS, MAX_CHARS)
            )
        case inspect.StrType(pattern=pattern):
            return ids if pattern == ID_PATTERN else st.from_regex(pattern or "", fullmatch=True)
        case inspect.IntType():
            low = -MAX_SAFE_INTEGER if kind.ge is None else kind.ge
            return st.integers(low, MAX_SAFE_INTEGER if kind.le is None else kind.le)
        case inspect.FloatType():
            return st.floats(kind.ge, kind.le, allow_nan=False, allow_infinity=False)
        case inspect.BoolType():
            return st.booleans()
        case inspect.NoneType():
            return st.none()
        case inspect.LiteralType():
            return st.sampled_from(kind.values)
        case inspect.ListType():
            most = min(kind.max_length or MAX_ITEMS, MAX_ITEMS)
            return st.lists(_value(kind.item_type), min_size=kind.min_length or 0, max_size=most)
        case inspect.DictType():
            most = min(kind.max_length or MAX_ITEMS, MAX_ITEMS)
            return st.dictionaries(_value(kind.key_type), _value(kind.value_type), max_size=most)
        case inspect.StructType():
            return _struct(kind.cls)
        case inspect.UnionType():
            return st.one_of([_value(item) for item in kind.types])
    raise TypeError(f"There is no strategy for {kind!r} yet.")


json_values: st.SearchStrategy[Any] = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**63), 2**64 - 1)
    | st.floats(allow_nan=False)
    | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=10), inner, max_size=4),
    max_leaves=8,
)


def almost_commands() -> st.SearchStrategy[dict[str, Any]]:
    """Draw objects that look like a command: its type and its field names, with any values at all."""

    def of(kind: type[msgspec.Struct]) -> st.SearchStrategy[dict[str, Any]]:
        names = [field.encode_name for field in msgspec.structs.fields(kind)]
        tag = st.just(str(kind.__struct_config__.tag))
        return st.fixed_dictionaries({"type": tag}, optional=dict.fromkeys(names, json_values))

    return st.sampled_from(COMMANDS).flatmap(of)


@st.composite
def damaged_commands(draw: Callable[[st.SearchStrategy[Any]], Any], wire: Wire) -> bytes:
    """Draw the payload of a command with a few bytes flipped, cut out, put in, or doubled."""
    payload = bytearray(encode_payload(draw(commands()), wire))
    for _ in range(draw(st.integers(1, 4))):
        at = draw(st.integers(0, len(payload)))
        match draw(st.sampled_from(["flip", "cut", "insert", "truncate", "double"])):
            case "flip" if at < len(payload):
                payload[at] ^= draw(st.integers(1, 255))
            case "cut":
                del payload[at : at + draw(st.integers(1, 8))]
            case "insert":
                payload[at:at] = draw(st.binary(min_size=1, max_size=8))
            case "truncate":
                del payload[at:]
            case "double":
                payload[at:at] = payload[at : at + 16]
    return bytes(payload)
