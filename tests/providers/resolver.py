"""A name server whose answers a test chooses."""

import socket
from typing import Any

import pytest

from server.providers import lookup


class Resolver:
    """Answers in turn, as a name does whose owner rebinds it."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, *answers: list[str]) -> None:
        self.answers = list(answers)
        self.asked_count = 0
        monkeypatch.setattr(lookup, "getaddrinfo", self)

    def __call__(self, host: str, port: int, **_: Any) -> list[tuple[Any, ...]]:
        self.asked_count += 1
        return [(socket.AF_INET, socket.SOCK_STREAM, 6, "", (found, port)) for found in self.answers.pop(0)]
