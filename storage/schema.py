"""What the Structs of protocol.records look like in SQL: columns, statements, and how to read a row back.

A Struct is a table and each of its fields a plain column, so that people can look inside with any SQLite
tool. The statements are made once per table; values always travel as parameters.
"""

import types
import typing
from collections.abc import Callable
from functools import cache
from typing import Annotated, Any, Final, Generic, TypeVar

import msgspec

from protocol.records import Row
from protocol.tables import TABLES

R = TypeVar("R", bound=Row)

SHARD_COUNT: Final = 256  # fixed for the life of a data directory (DESIGN section 2)


class Column(msgspec.Struct, frozen=True):
    """One field of a Struct as a column."""

    name: str
    python_type: type  # str, int or bool
    is_nullable: bool
    default: Any  # msgspec.NODEFAULT where the field is required

    @property
    def has_default(self) -> bool:
        return self.default is not msgspec.NODEFAULT and self.default is not None


class TableSpec(Generic[R]):
    """Everything the stores need to know of one table, made from its Struct."""

    __slots__ = (
        "_bools",
        "columns",
        "insert",
        "is_uniquely_indexed",
        "name",
        "names",
        "put",
        "row_type",
        "select",
    )

    def __init__(self, row_type: type[R]) -> None:
        self.row_type = row_type
        self.name = row_type.table
        self.columns = _columns(row_type)
        self.names = tuple(column.name for column in self.columns)
        self._bools = tuple(column.name for column in self.columns if column.python_type is bool)
        # A Put into such a table may break a unique index although its key is free.
        self.is_uniquely_indexed = bool(row_type.unique)
        listed = ", ".join(self.names)
        self.select = f"SELECT {listed} FROM {self.name}"
        self.insert = f"INSERT INTO {self.name} ({listed}) VALUES ({', '.join('?' * len(self.names))})"
        updates = ", ".join(f"{name} = excluded.{name}" for name in self.names if name not in row_type.key)
        then = f"DO UPDATE SET {updates}" if updates else "DO NOTHING"
        self.put = f"{self.insert} ON CONFLICT ({', '.join(row_type.key)}) {then}"

    def row(self, values: tuple[Any, ...]) -> R:
        """Make the Struct from the columns of `select`."""
        fields = dict(zip(self.names, values, strict=True))
        for name in self._bools:
            fields[name] = bool(fields[name])
        return self.row_type(**fields)

    def check_columns(self, names: typing.Iterable[str]) -> None:
        """Refuse a name that is no column: names are put into SQL, so they are never taken from outside."""
        for name in names:
            if name not in self.names:
                raise ValueError(f"{self.name} has no column {name!r}")


@cache
def spec_of(row_type: type[R]) -> TableSpec[R]:
    """The table of a Struct."""
    return TableSpec(row_type)


def all_specs() -> tuple[TableSpec[Any], ...]:
    """The directory's tables, in the order of protocol.tables."""
    return tuple(spec_of(row_type) for row_type in TABLES)


values_of: Callable[[Row], tuple[Any, ...]] = msgspec.structs.astuple


def _columns(row_type: type[Row]) -> tuple[Column, ...]:
    return tuple(_column(field) for field in msgspec.structs.fields(row_type))


def _column(field: msgspec.structs.FieldInfo) -> Column:
    python_type, is_nullable = _plain(field.type)
    return Column(
        name=field.name,
        python_type=python_type,
        is_nullable=is_nullable,
        default=field.default,
    )


def _plain(hint: Any) -> tuple[type, bool]:
    """Reduce a field's annotation to str, int or bool, and whether None is allowed."""
    if typing.get_origin(hint) is Annotated:
        return _plain(typing.get_args(hint)[0])
    if isinstance(hint, types.UnionType) or typing.get_origin(hint) is typing.Union:
        inner = [part for part in typing.get_args(hint) if part is not type(None)]
        if len(inner) != 1:
            raise TypeError(f"a column holds one type, not {hint}")
        return _plain(inner[0])[0], True
    if hint in (str, int, bool):
        return hint, False
    raise TypeError(f"a column is str, int or bool, not {hint}")
