"""Fixtures of the actors' tests."""

from collections.abc import Iterator

import pytest

from tests.actors.ledger import Ledger


@pytest.fixture(scope="module", params=[False, True], ids=["by_mailbox", "at_once"])
def both_ways(request: pytest.FixtureRequest) -> Iterator[None]:
    """Run a module's tests twice: an entity that gets all by mail, and one that takes what it can at once."""
    Ledger.is_prompt = request.param
    yield
    Ledger.is_prompt = False
