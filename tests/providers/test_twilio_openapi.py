"""What we send to Twilio, judged by its own OpenAPI document through Prism, which shares no code with us."""

import base64
import os
import subprocess
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, Final

import httpx
import pytest
import trio

from protocol.provider_configs import TwilioConfig
from server.providers.reach import ANYWHERE
from server.providers.twilio import TwilioProvider
from server.sandbox.sandbox import open_sandbox
from tests.nodes import free_port
from tests.providers.outgoing import NOW_MS, make_outgoing

PEERS: Final = Path(__file__).resolve().parents[2] / ".peers"
PRISM: Final = PEERS / "node_modules" / ".bin" / "prism"
DOCUMENT: Final = PEERS / "twilio.json"
SID: Final = "AC" + "a1" * 16
PHONE: Final = "+4915112345678"

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(
        not (PRISM.exists() and DOCUMENT.exists()), reason="there is no Prism (.ci/peers gets it)"
    ),
]


@asynccontextmanager
async def open_prism(*words: str, **settings: str) -> AsyncIterator[str]:
    """Run it until the block ends; what is against the document is an error. Yields its address.

    `settings`: more of its environment.
    """
    port = free_port()
    command = [str(PRISM), words[0], "--errors", "--port", str(port), str(DOCUMENT), *words[1:]]
    # Colours and the like depend on the terminal that it thinks it has.
    environment = {"PATH": os.environ["PATH"], "NO_COLOR": "1", **settings}
    async with trio.open_nursery() as nursery:
        process = await trio.lowlevel.open_process(
            command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, env=environment
        )
        assert process.stdout is not None
        is_ready = trio.Event()

        async def read(stream: Any) -> None:
            printed = b""
            async for chunk in stream:
                printed = (printed + chunk)[-100_000:]
                if b"Prism is listening" in printed:
                    is_ready.set()

        nursery.start_soon(read, process.stdout)
        try:
            with trio.fail_after(60):
                await is_ready.wait()
            yield f"http://127.0.0.1:{port}"
        finally:
            process.kill()
            with trio.CancelScope(shield=True):
                await process.wait()
            nursery.cancel_scope.cancel()


def provider_of(url: str, **changes: Any) -> TwilioProvider:
    settings: dict[str, Any] = {"account_sid": SID, "secret": "s", "sender": "+15005550006", **changes}
    config = TwilioConfig(base_url=url, **settings)
    return TwilioProvider(config, clock_ms=lambda: NOW_MS, reach=ANYWHERE)


async def ask(url: str, form: dict[str, str], *, secret: str = "s") -> httpx.Response:
    async with httpx.AsyncClient(trust_env=False, timeout=20) as client:
        authorization = "Basic " + base64.b64encode(f"{SID}:{secret}".encode()).decode()
        return await client.post(
            f"{url}/2010-04-01/Accounts/{SID}/Messages.json",
            data=form,
            headers={"authorization": authorization},
        )


@pytest.mark.parametrize(
    ("changes", "more"),
    [
        ({}, {}),
        ({"sender": "", "messaging_service_sid": "MG" + "b2" * 16, "user": "SK" + "c3" * 16}, {}),
        ({}, {"callback_url": "https://hub.example/n/p/x", "expires_at_ms": NOW_MS + 90_500}),
    ],
)
async def test_the_document_allows_what_we_send(changes: dict[str, str], more: dict[str, Any]) -> None:
    """By a number, by a messaging service with a key of its own, with a callback and an end."""
    async with open_prism("mock") as url:
        provider = provider_of(url, **changes)
        with trio.fail_after(20):
            outcome = await provider.send(make_outgoing("sms", PHONE, body="Grüße & mehr = 100 % 🎉", **more))
        await provider.aclose()
        assert (outcome.kind, outcome.action) == ("accepted", "done")
        # The judge is awake: it takes none without a receiver, and none whose status is a number.
        assert (await ask(url, {"From": "+15005550006", "Body": "x"})).status_code == 422
        wrong = {"To": PHONE, "Body": "x", "ValidityPeriod": "soon"}
        assert (await ask(url, wrong)).status_code == 422


async def test_the_document_allows_what_the_sandbox_answers(tmp_path: Path) -> None:
    """Who tests against the sandbox has tested against Twilio: its answers pass as well."""
    async with open_sandbox() as sandbox:
        config = sandbox.configs().twilio
        assert config is not None
        (tmp_path / "ca.pem").write_text(sandbox.ca_pem)
        trusted = {"NODE_EXTRA_CA_CERTS": str(tmp_path / "ca.pem")}
        async with open_prism("proxy", config.base_url, **trusted) as url:
            account = {"account_sid": config.account_sid, "secret": config.secret, "sender": config.sender}
            provider = provider_of(url, **account)
            with trio.fail_after(20):
                outcome = await provider.send(make_outgoing("sms", PHONE, body="Hello"))
            await provider.aclose()
            assert (outcome.kind, outcome.action, outcome.code) == ("accepted", "done", "queued")
            assert sandbox.count("twilio") == 1
