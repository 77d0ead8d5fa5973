"""Which release this is."""

from importlib.metadata import PackageNotFoundError, version
from typing import Final


def _installed() -> str:
    try:
        return version("hubbub")
    except PackageNotFoundError:  # run from a clone that was never installed
        return "unknown"


VERSION: Final = _installed()
