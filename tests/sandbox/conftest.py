"""A sandbox for each test, one set of keys for all: an RSA key takes a while."""

from collections.abc import AsyncIterator
from datetime import UTC, datetime

import pytest

from server.sandbox import Keyring, Sandbox, SandboxOptions, make_keyring, open_sandbox
from tests.sandbox.clients import Clock


@pytest.fixture(scope="session")
def keyring() -> Keyring:
    return make_keyring(datetime.now(UTC))


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
async def sandbox(keyring: Keyring, clock: Clock) -> AsyncIterator[Sandbox]:
    async with open_sandbox(keyring, SandboxOptions(now_ms=clock.now_ms, seed=7)) as sandbox:
        yield sandbox
