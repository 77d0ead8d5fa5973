"""The SQLite store keeps the store's contract."""

from pathlib import Path

import pytest

from storage import open_store
from tests.contract.store_suite import Reopen, StoreSuite


class TestSqliteStore(StoreSuite):
    """Every test runs on a data directory of its own, on a real disk."""

    @pytest.fixture
    def reopen(self, tmp_path: Path) -> Reopen:
        return lambda: open_store(tmp_path / "data")
