"""What every test shares: hypothesis profiles, the rule for the `long` marker, and Ctrl-C."""

import logging
import os
import signal
from collections.abc import Iterator

import hypothesis
import pytest
import structlog

IS_LONG_RUN = os.environ.get("HUBBUB_LONG") == "1"

# No deadline per example and no complaint about slow ones: the machine that runs CI has two cores and other
# work. pytest's `timeout` guards against hangs.
BUSY_MACHINE = [hypothesis.HealthCheck.too_slow]
hypothesis.settings.register_profile(
    "short", max_examples=100, deadline=None, suppress_health_check=BUSY_MACHINE, print_blob=True
)
hypothesis.settings.register_profile(
    "long", max_examples=5_000, deadline=None, suppress_health_check=BUSY_MACHINE, print_blob=True
)
hypothesis.settings.load_profile("long" if IS_LONG_RUN else "short")

# What a shell starts in the background, as ./check does with the slow tests, is deaf to Ctrl-C, and so would
# be the nodes that tests start.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture(autouse=True)
def _restored_logging() -> Iterator[None]:
    """What a test sets up for logging goes with it: it may write to where pytest has captured that test."""
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level
    yield
    if structlog.is_configured():
        root.handlers[:] = handlers
        root.setLevel(level)
        structlog.reset_defaults()
        structlog.contextvars.clear_contextvars()


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Skip the tests marked `long` unless HUBBUB_LONG=1 asks for them."""
    if IS_LONG_RUN:
        return
    skip_long = pytest.mark.skip(reason="long form: ./check --long (HUBBUB_LONG=1) runs it")
    for item in items:
        if item.get_closest_marker("long") is not None:
            item.add_marker(skip_long)
