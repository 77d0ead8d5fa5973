"""Names: whoever chooses one that is never answered holds up no other kind of names."""

import socket
import threading
from typing import Any

import pytest
import trio
import trio.testing

from server.providers import lookup
from server.providers.lookup import THREADS
from server.providers.reach import ANYWHERE

MANY = 3 * THREADS


class SlowServer:
    """Answers at once but for names with `evil` in them, which wait until the end."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.is_over = threading.Event()
        monkeypatch.setattr(lookup, "getaddrinfo", self)

    def __call__(self, host: str, port: int, **_: Any) -> list[tuple[Any, ...]]:
        if "evil" in host:
            self.is_over.wait(20)
            raise OSError("no such name")
        return [(socket.AF_INET, socket.SOCK_STREAM, 6, "", ("8.8.8.8", port))]


async def test_names_of_users_that_are_never_answered_hold_up_no_provider(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """One user registers many endpoints; APNs, mail, webhooks and known push services go on."""
    server = SlowServer(monkeypatch)
    assert await ANYWHERE.resolve("push.example", 443, "user") == ["8.8.8.8"]

    async def ask(number: int) -> None:
        with pytest.raises(OSError, match="no such name"):
            await ANYWHERE.resolve(f"evil{number}.example", 443, "user")

    with trio.fail_after(10):
        async with trio.open_nursery() as nursery:
            for number in range(MANY):
                nursery.start_soon(ask, number)
            await trio.testing.wait_all_tasks_blocked()
            try:
                assert await ANYWHERE.resolve("api.push.example", 443) == ["8.8.8.8"]
                assert await ANYWHERE.resolve("push.example", 443, "user") == ["8.8.8.8"]
                assert await ANYWHERE.resolve("127.0.0.1", 443, "user") == ["127.0.0.1"]
                assert trio.to_thread.current_default_thread_limiter().borrowed_tokens == 0
            finally:
                server.is_over.set()


async def test_a_name_that_was_found_and_is_slow_now_is_a_stranger_again(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Who answers the first time only does not get among those that answer."""
    server, lookups = SlowServer(monkeypatch), lookup.Lookups()
    for number in range(MANY):
        lookups._found["user", f"evil{number}.example"] = None
    lookups._found["user", "push.example"] = None
    try:
        for number in range(0, MANY, THREADS):
            async with trio.open_nursery() as nursery:
                for each in range(number, number + THREADS):
                    nursery.start_soon(lookups.addresses_of, f"evil{each}.example", 443, "user")
                await trio.testing.wait_all_tasks_blocked()
                nursery.cancel_scope.cancel()
        assert list(lookups._found) == [("user", "push.example")]
    finally:
        server.is_over.set()
    with trio.fail_after(10):
        assert await lookups.addresses_of("push.example", 443, "user") == ["8.8.8.8"]
