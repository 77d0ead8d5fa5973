"""The in-memory ownership table keeps the store's contract, so that what is tested on it means something."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest

from tests.cluster.memory_ownership import MemoryOwnership, MemoryTable
from tests.contract.ownership_suite import OwnershipSuite, Reopen


class TestMemoryOwnership(OwnershipSuite):
    """Each test gets a table of its own."""

    @pytest.fixture
    def reopen(self) -> Reopen:
        table = MemoryTable()

        @asynccontextmanager
        async def open_again() -> AsyncIterator[MemoryOwnership]:
            ownership = MemoryOwnership(table)
            yield ownership
            ownership.kill()

        return open_again
