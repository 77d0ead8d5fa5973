"""Requests without a word that nobody reads: a misspelt field or parameter is refused, not skipped.

Elsewhere readers skip what they do not know, so that old nodes and clients understand new ones: the same
Structs are read so from the store, from other nodes and from connections, and stay lenient there. What an
app's backend sets up is another matter: a rule that is dropped in silence is a rule that does not hold.
"""

from collections.abc import Collection, Iterable, Mapping
from functools import cache
from typing import Final

import msgspec
import msgspec.inspect as mi

from protocol.errors import ProtocolError

MAX_SHOWN_CHARS: Final = 200


class _Fields(msgspec.Struct, frozen=True):
    """An object of a Struct: its fields, and what may be unknown beneath them."""

    beneath: Mapping[str, "_Shape | None"]


class _Each(msgspec.Struct, frozen=True):
    """A list, or an object whose keys are free: what each of its values is."""

    of: "_Shape"


class _Tagged(msgspec.Struct, frozen=True):
    """An object of one of several Structs, as its tag says."""

    tag_field: str
    kinds: Mapping[str | int, _Fields]


_Shape = _Fields | _Each | _Tagged


def check_known(wanted: object, value: object) -> None:
    """Refuse a body that has fields which its type does not have, at any depth.

    `wanted`: a type that msgspec knows; `value`: what the body's JSON was decoded to. Whether its values fit
    is not looked at: the decoder tells it better. Raises: ProtocolError(bad_field), with the first's path.
    """
    path = _unknown(_shape(wanted), value)
    if path:
        raise ProtocolError("bad_field", f"There is no field {path[:MAX_SHOWN_CHARS]!r}.")


def check_parameters(known: Collection[str], given: Iterable[str]) -> None:
    """Refuse a query with a parameter that the address does not take: a list would be of more than was meant.

    Raises: ProtocolError(bad_field), with the first one's name, and those that there are.
    """
    for name in given:
        if name not in known:
            taken = f"those here are {', '.join(sorted(known))}" if known else "there are none here"
            raise ProtocolError(
                "bad_field", f"There is no query parameter {name[:MAX_SHOWN_CHARS]!r}; {taken}."
            )


def _unknown(shape: _Shape | None, value: object) -> str:
    """The path of the first unknown field, or ""."""
    if isinstance(shape, _Tagged) and isinstance(value, dict):
        tag = value.get(shape.tag_field)
        shape = shape.kinds.get(tag) if isinstance(tag, (str, int)) else None
    if isinstance(shape, _Each) and isinstance(value, list):
        value = dict(enumerate(value))
    if shape is None or isinstance(shape, _Tagged) or not isinstance(value, dict):
        return ""
    for name, item in value.items():
        if isinstance(shape, _Fields) and name not in shape.beneath:
            return str(name)
        beneath = shape.of if isinstance(shape, _Each) else shape.beneath[name]
        if beneath is not None and (path := _unknown(beneath, item)):
            return f"{name}.{path}"
    return ""


@cache
def _shape(wanted: object) -> _Shape | None:
    return _shape_of(mi.type_info(wanted))


def _shape_of(info: mi.Type) -> _Shape | None:
    """What of a type's values has to be looked at; None: nothing, they hold no Structs."""
    if isinstance(info, mi.Metadata):
        return _shape_of(info.type)
    if isinstance(info, mi.StructType):
        beneath = {field.encode_name: _shape_of(field.type) for field in info.fields}
        return _Fields(beneath if info.tag_field is None else {info.tag_field: None, **beneath})
    if isinstance(info, mi.ListType):
        of = _shape_of(info.item_type)
        return of and _Each(of)
    if isinstance(info, mi.DictType):
        of = _shape_of(info.value_type)
        return of and _Each(of)
    if isinstance(info, mi.UnionType):
        return _either(info)
    return None


def _either(info: mi.UnionType) -> _Shape | None:
    kinds: dict[str | int, _Fields] = {}
    shapes: list[_Shape] = []
    tag_field = ""
    for member in info.types:
        shape = _shape_of(member)
        if isinstance(member, mi.StructType) and member.tag is not None and isinstance(shape, _Fields):
            kinds[member.tag] = shape
            tag_field = member.tag_field or ""
        elif shape is not None:
            shapes.append(shape)
    if kinds:
        shapes.append(_Tagged(tag_field, kinds))
    if len(shapes) > 1:
        raise TypeError(f"nothing says which one of {info} a body is")
    return shapes[0] if shapes else None
