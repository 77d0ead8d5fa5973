"""A benchmark binds processes to cores; a test of one must leave them all to the tests after it."""

import os
import sys
from collections.abc import Iterator

import pytest


@pytest.fixture(scope="module", autouse=True)
def cores_are_given_back() -> Iterator[None]:
    """A pinned pytest would run all later tests, and each process they start, on one core."""
    if sys.platform != "linux":  # elsewhere nothing can be pinned
        yield
        return
    usable = os.sched_getaffinity(0)
    yield
    left = os.sched_getaffinity(0)
    os.sched_setaffinity(0, usable)
    assert left == usable
