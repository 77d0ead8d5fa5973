"""No read of the notification service looks at all rows of a table that grows with what is sent.

SQLite takes a partial index only where its condition stands in the query: one that was forgotten costs
nothing in a small test, and a second for each call a month later.
"""

import inspect
import re
import sqlite3
import types
import typing
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from protocol.notify_found import UntoldDead
from storage import notify_glance, notify_pages, notify_queries, open_delivery_queries
from storage.migrations import migrate

MODULES = (notify_queries, open_delivery_queries, notify_glance, notify_pages)
GROWING = {
    "dead_delivery",
    "delivery",
    "log",
    "notification",
    "notify_consent",
    "notify_device",
    "notify_group",
    "notify_user",
    "user_account",
}
# These hold what waits alone, or little of each: to read one of them whole is what is asked for.
OF_WHAT_IS_OPEN = {
    "idx_dead_untold_cause",
    "idx_delivery_line",
    "idx_delivery_open",
    "idx_device_alive",
    "idx_notification_held",
}


def value_of(annotation: Any) -> Any:
    """Some value of a type."""
    simple = {int: 1, str: "x", bool: True, UntoldDead: UntoldDead("a", "sms", "p", "c", 1, 1, "")}
    if annotation in simple:
        return simple[annotation]
    values = [value_of(part) for part in typing.get_args(annotation) if part not in (type(None), ...)]
    if isinstance(annotation, types.UnionType):
        return values[0]
    return tuple(values) if typing.get_origin(annotation) is tuple else values


def public_functions() -> list[Callable[..., Any]]:
    return [
        function
        for module in MODULES
        for name, function in inspect.getmembers(module, inspect.isfunction)
        if function.__module__ == module.__name__ and not name.startswith("_")
    ]


@pytest.fixture(scope="module")
def database(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("plans") / "hubbub.db"
    migrate(path)
    return path


@pytest.mark.parametrize("function", public_functions())
def test_no_query_looks_at_a_whole_table(function: Callable[..., Any], database: Path) -> None:
    """A read that grows with all that was ever sent stops every partition, and the dashboard, one day."""
    statements: list[str] = []
    with closing(sqlite3.connect(database)) as connection:
        connection.set_trace_callback(statements.append)
        first, *others = inspect.signature(function, eval_str=True).parameters.values()
        assert first.name == "connection"
        function(connection, *(value_of(parameter.annotation) for parameter in others))
        connection.set_trace_callback(None)
        assert statements
        for statement in statements:
            plan = [row[3] for row in connection.execute(f"EXPLAIN QUERY PLAN {statement}")]
            tables = _aliases(statement) | {
                name: "" for step in plan for name in re.findall(r"(?:CO-ROUTINE|MATERIALIZE) (\w+)", step)
            }
            scans = [
                step
                for step in plan
                if (found := re.match(r"SCAN (\w+)", step)) and tables.get(found[1], found[1]) in GROWING
            ]
            assert [step for step in scans if step.rpartition(" ")[2] not in OF_WHAT_IS_OPEN] == [], statement


def _aliases(statement: str) -> dict[str, str]:
    """By what names a statement calls the tables."""
    return {alias: table for table, alias in re.findall(r"(?:FROM|JOIN) (\w+) (\w+)", statement)}
