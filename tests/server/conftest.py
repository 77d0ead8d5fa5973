"""Fixtures of the edge's tests."""

from collections.abc import Iterator

import pytest

import server.gateway
from server.poller import IS_AVAILABLE


@pytest.fixture(scope="module", params=["by_poller", "by_tasks"])
def both_pumps(request: pytest.FixtureRequest) -> Iterator[None]:
    """Run a module's tests twice: sockets served by the poller, and as TLS and other systems have it."""
    if request.param == "by_poller" and not IS_AVAILABLE:
        pytest.skip("this system has no epoll")
    patch = pytest.MonkeyPatch()
    patch.setattr(server.gateway, "IS_AVAILABLE", request.param == "by_poller")
    yield
    patch.undo()
