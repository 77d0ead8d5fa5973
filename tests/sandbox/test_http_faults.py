"""Faults of the HTTP fakes, seen by raw HTTP/2 in a thread and by httpx."""

import httpx
import pytest
import trio

from server.sandbox import Fault, Sandbox
from tests.sandbox.clients import (
    TOKEN,
    Clock,
    RawTls,
    apns_headers,
    ask_raw_apns,
    google_token,
    http_client,
    provider_token,
    trusting,
)

MESSAGE = {"message": {"token": "abc", "notification": {"title": "Hello"}}}


async def push(sandbox: Sandbox, clock: Clock, token: str = TOKEN, *, signed: str = "") -> httpx.Response:
    signed = signed or provider_token(sandbox, clock.now_s())
    async with http_client(sandbox) as client:
        return await client.post(
            f"{sandbox.apns_url}/3/device/{token}",
            json={"aps": {"alert": "Hello"}},
            headers=apns_headers(signed),
        )


async def test_an_injected_status_hits_so_many_times(sandbox: Sandbox, clock: Clock) -> None:
    """Retries are tested by a provider that fails twice and then does not."""
    sandbox.inject(Fault(channel="apns", status=503, times=2, retry_after_s=7))
    signed = provider_token(sandbox, clock.now_s())
    answers = [await push(sandbox, clock, signed=signed) for _ in range(3)]
    assert [answer.status_code for answer in answers] == [503, 503, 200]
    assert answers[0].json() == {"reason": "ServiceUnavailable"}
    assert answers[0].headers["retry-after"] == "7"
    assert sandbox.count("apns") == 1


async def test_an_injected_410_has_its_timestamp(sandbox: Sandbox, clock: Clock) -> None:
    """And only the address that the pattern names is hit."""
    sandbox.inject(Fault(channel="apns", match="aa*", status=410, code="ExpiredToken", timestamp_ms=1_234))
    assert (await push(sandbox, clock, "bb" * 32)).status_code == 200
    assert (await push(sandbox, clock, "aa" * 32)).json() == {"reason": "ExpiredToken", "timestamp": 1_234}


async def test_an_unprocessed_goaway_answers_the_older_streams_only(sandbox: Sandbox, clock: Clock) -> None:
    """What is above the last stream is safe to send again, what is below has its answer."""
    sandbox.inject(Fault(channel="apns", match=f"{3:064x}", goaway=True))
    found = await ask_raw_apns(sandbox, clock, 6)
    assert found.goaway_last == 5
    assert found.statuses == {1: 200, 3: 200, 5: 200}
    assert found.end == "eof"
    assert [int(one.address, 16) for one in sandbox.deliveries("apns")] == [0, 1, 2]


async def test_a_goaway_with_a_status_answers_first(sandbox: Sandbox, clock: Clock) -> None:
    """As Apple shuts a server down."""
    sandbox.inject(Fault(channel="apns", match=f"{2:064x}", goaway=True, status=503, code="Shutdown"))
    found = await ask_raw_apns(sandbox, clock, 5)
    assert (found.goaway_last, found.statuses) == (5, {1: 200, 3: 200, 5: 503})
    sandbox.faults.clear()
    sandbox.inject(Fault(channel="apns", match=f"{1:064x}", goaway=True, status=200))
    found = await ask_raw_apns(sandbox, clock, 2)
    assert (found.goaway_last, found.statuses) == (3, {1: 200, 3: 200})


async def test_goaway_waits_for_delayed_answers(sandbox: Sandbox, clock: Clock) -> None:
    """In-flight requests that were processed must not be lost with the connection."""
    sandbox.inject(Fault(channel="apns", match=f"{0:064x}", delay_s=0.2))
    sandbox.inject(Fault(channel="apns", match=f"{1:064x}", goaway=True))
    found = await ask_raw_apns(sandbox, clock, 2)
    assert (found.goaway_last, found.statuses, found.end) == (1, {1: 200}, "eof")


async def test_rst_stream_ends_one_exchange_and_no_other(sandbox: Sandbox, clock: Clock) -> None:
    """A client must not give the connection up for it."""
    sandbox.inject(Fault(channel="apns", match=f"{1:064x}", rst_stream=True))
    found = await ask_raw_apns(sandbox, clock, 3, timeout_s=0.5)
    assert (found.statuses, found.resets) == ({1: 200, 5: 200}, {3: 2})
    assert found.end == "timeout"  # the connection is still there
    assert sandbox.count("apns") == 2


async def test_a_stalled_request_gets_no_answer_and_holds_up_no_other(sandbox: Sandbox, clock: Clock) -> None:
    """Timeouts are per request."""
    sandbox.inject(Fault(channel="apns", match=f"{0:064x}", stall=True))
    found = await ask_raw_apns(sandbox, clock, 3, timeout_s=0.5)
    assert (found.statuses, found.end) == ({3: 200, 5: 200}, "timeout")


async def test_a_reset_accepts_nothing(sandbox: Sandbox, clock: Clock) -> None:
    """The TCP connection is gone, with all that was in flight."""
    sandbox.inject(Fault(channel="apns", match=f"{0:064x}", reset=True))
    found = await ask_raw_apns(sandbox, clock, 1)
    assert (found.statuses, found.end, sandbox.count("apns")) == ({}, "reset", 0)


async def test_a_drop_after_accept_is_unknown_to_the_sender_alone(sandbox: Sandbox, clock: Clock) -> None:
    """The message was delivered: sending it again makes a double, and the ledger shows it."""
    sandbox.inject(Fault(channel="apns", drop_after_accept=True, times=1))
    found = await ask_raw_apns(sandbox, clock, 1)
    assert (found.statuses, found.end, sandbox.count("apns")) == ({}, "reset", 1)


async def test_a_delay_delays(sandbox: Sandbox, clock: Clock) -> None:
    """The answer is good, but late."""
    sandbox.inject(Fault(channel="apns", delay_s=0.3))
    began = trio.current_time()
    assert (await push(sandbox, clock)).status_code == 200
    assert trio.current_time() - began >= 0.3


async def test_an_outage_resets_what_stands_and_what_comes(sandbox: Sandbox, clock: Clock) -> None:
    """And afterwards the provider is back, for new connections."""
    url = f"{sandbox.apns_url}/3/device/{TOKEN}"
    headers = apns_headers(provider_token(sandbox, clock.now_s()))
    async with http_client(sandbox) as client:
        assert (await client.post(url, json={"aps": {}}, headers=headers)).status_code == 200
        with sandbox.outage("apns"):
            for _ in range(2):
                with pytest.raises(httpx.TransportError):
                    await client.post(url, json={"aps": {}}, headers=headers)
        assert (await client.post(url, json={"aps": {}}, headers=headers)).status_code == 200
    assert sandbox.count("apns") == 2


async def test_without_new_access_tokens_fcm_lives_on_old_ones_and_the_other_way_round(
    sandbox: Sandbox, clock: Clock
) -> None:
    """Google's two services fail apart; of FCM's outage nobody's request is read, and then lost."""
    async with http_client(sandbox) as client:
        token = await google_token(sandbox, client, clock)
        with sandbox.outage("fcm"):
            with pytest.raises(httpx.ConnectError):
                await client.post(
                    f"{sandbox.fcm_url}/v1/projects/sandbox-project/messages:send", json=MESSAGE
                )
            await google_token(sandbox, client, clock)
        with sandbox.outage("token"):
            with pytest.raises(httpx.TransportError):
                await client.post(sandbox.token_url)
            response = await client.post(
                f"{sandbox.fcm_url}/v1/projects/sandbox-project/messages:send",
                json=MESSAGE,
                headers={"authorization": f"Bearer {token}"},
            )
    assert response.status_code == 200


def _ask_raw_http_1(sandbox: Sandbox, token: str) -> str:
    """Post a message over HTTP/1.1 and tell how the connection ended."""
    port = int(sandbox.fcm_url.rpartition(":")[2])
    context = trusting(sandbox)
    body = b'{"message":{"token":"abc","notification":{"title":"x"}}}'
    head = (
        "POST /v1/projects/sandbox-project/messages:send HTTP/1.1\r\nhost: localhost\r\n"
        f"authorization: Bearer {token}\r\ncontent-length: {len(body)}\r\n\r\n"
    )
    with RawTls(context, port, 0.5) as tls:
        tls.send(head.encode() + body)
        try:
            return tls.receive().split(b"\r\n")[0].decode() or "eof"
        except ConnectionResetError:
            return "reset"
        except TimeoutError:
            return "timeout"


@pytest.mark.parametrize(
    ("fault", "end", "count"),
    [
        (Fault(channel="fcm", reset=True), "reset", 0),
        (Fault(channel="fcm", drop_after_accept=True), "reset", 1),
        (Fault(channel="fcm", stall=True), "timeout", 0),
        (Fault(channel="fcm", goaway=True), "eof", 0),
        (Fault(channel="fcm", rst_stream=True), "eof", 0),
        (Fault(channel="fcm", status=503), "HTTP/1.1 503 Service Unavailable", 0),
    ],
)
async def test_fates_over_http_1(sandbox: Sandbox, clock: Clock, fault: Fault, end: str, count: int) -> None:
    """The same rules mean the same there, as far as HTTP/1.1 can say it."""
    async with http_client(sandbox, http2=False) as client:
        token = await google_token(sandbox, client, clock)
    sandbox.inject(fault)
    assert await trio.to_thread.run_sync(_ask_raw_http_1, sandbox, token) == end
    assert sandbox.count("fcm") == count


async def test_a_connection_takes_a_thousand_streams_at_once(sandbox: Sandbox, clock: Clock) -> None:
    """As Apple does; a client is told so from the first byte on."""
    sandbox.inject(Fault(channel="apns", delay_s=0.3))
    found = await ask_raw_apns(sandbox, clock, 1_000, timeout_s=2.0)
    assert len(found.statuses) == 1_000
    assert set(found.statuses.values()) == {200}


async def test_a_broken_connection_breaks_nothing_else(sandbox: Sandbox, clock: Clock) -> None:
    """Neither one that breaks HTTP/2, nor one that goes away while its answer is late."""

    def babble() -> bytes:
        context = trusting(sandbox)
        context.set_alpn_protocols(["h2"])
        with RawTls(context, int(sandbox.apns_url.rpartition(":")[2]), 5.0) as tls:
            tls.send(b"GET / HTTP/1.1\r\nhost: localhost\r\n\r\n" * 10)
            data = b""
            while piece := tls.receive():
                data += piece
            return data

    await trio.to_thread.run_sync(babble)
    sandbox.inject(Fault(channel="apns", delay_s=0.2, times=2))
    async with trio.open_nursery() as nursery:
        nursery.start_soon(push, sandbox, clock)
        await sandbox.wait_for("apns", 1)
        nursery.cancel_scope.cancel()
    # As late as the first, which by then has had nowhere to go.
    assert (await push(sandbox, clock)).status_code == 200
