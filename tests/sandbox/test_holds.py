"""Answers that wait until they are let go, so that a test does in between what it has to."""

from collections.abc import Callable

import h2.config
import h2.connection
import h2.events
import httpx
import pytest
import trio
import trio.testing

from server.sandbox import Fault, Keyring, Sandbox, open_sandbox
from server.sandbox.holds import Hold
from tests.sandbox import test_fcm, test_sms, test_smtp, test_webpush
from tests.sandbox.clients import (
    PATIENCE_S,
    TOKEN,
    Clock,
    RawTls,
    apns_headers,
    google_token,
    http_client,
    provider_token,
    trusting,
)
from tests.sandbox.test_http_faults import push

KINDS = ["apns", "fcm", "fcm over http/1.1", "token", "webpush", "twilio", "vonage", "smtp", "smtps"]
COUNTED = {"apns", "fcm", "webpush", "twilio", "vonage"}  # on arrival; a mail arrives after its recipient


def service_of(kind: str) -> str:
    return "smtp" if kind == "smtps" else kind.split()[0]


async def deliver(sandbox: Sandbox, clock: Clock, kind: str) -> bool:
    """Send something as an app would; tell whether it was taken."""
    match kind:
        case "apns":
            return (await push(sandbox, clock)).status_code == 200
        case "fcm" | "fcm over http/1.1":
            http2 = kind == "fcm"
            return (await test_fcm.send(sandbox, clock, test_fcm.MESSAGE, http2=http2)).status_code == 200
        case "token":
            async with http_client(sandbox) as client:
                return bool(await google_token(sandbox, client, clock))
        case "webpush":
            subscription = sandbox.webpush.subscribe()
            return (await test_webpush.push(sandbox, clock, subscription)).status_code == 201
        case "twilio":
            return (await test_sms.send(sandbox)).status_code == 201
        case "vonage":
            return bool((await test_sms.send_vonage(sandbox))["messages"][0]["status"] == "0")
        case _:
            refused = await test_smtp.with_client(
                sandbox, lambda client: client.send_message(test_smtp.mail()), is_tls=kind == "smtps"
            )
            return refused == {}


async def until_nothing_is_held(sandbox: Sandbox) -> None:
    with trio.fail_after(PATIENCE_S):
        while sandbox.held_count():  # noqa: ASYNC110 - that a client has gone is told to nobody
            await trio.sleep(0.005)


@pytest.mark.parametrize("kind", KINDS)
async def test_an_answer_is_held_until_it_is_let_go(sandbox: Sandbox, clock: Clock, kind: str) -> None:
    """What arrived is in the ledger, and its sender waits for as long as the test likes."""
    service = service_of(kind)
    sandbox.inject(Fault(channel=service, holds=True, times=1))
    taken: list[bool] = []

    async def one() -> None:
        taken.append(await deliver(sandbox, clock, kind))

    with trio.fail_after(PATIENCE_S):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(one)
            await sandbox.wait_held(service)
            await trio.testing.wait_all_tasks_blocked()
            assert (taken, sandbox.held_count(service), sandbox.held_count()) == ([], 1, 1)
            assert sandbox.count(service) == (service in COUNTED)
            assert sandbox.release("apns" if service != "apns" else "smtp") == 0
            assert sandbox.release(service) == 1
    assert taken == [True]
    assert sandbox.held_count() == 0
    assert await deliver(sandbox, clock, kind)  # the rule is spent


@pytest.mark.parametrize("at", ["connect", "auth", "mail", "rcpt", "data", "dot"])
async def test_a_mail_can_be_held_anywhere(sandbox: Sandbox, at: str) -> None:
    """And what a client sends meanwhile is read, and answered in its turn."""
    sandbox.inject(Fault(channel="smtp", at=at, holds=True, times=1))  # type: ignore[arg-type]  # a stage
    with trio.fail_after(PATIENCE_S):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(
                test_smtp.with_client, sandbox, lambda client: client.send_message(test_smtp.mail())
            )
            await sandbox.wait_held("email")
            assert sandbox.count("smtp") == 0
            sandbox.release()
    assert sandbox.count("smtp") == 1


async def test_what_is_sent_ahead_of_a_held_answer_is_not_lost() -> None:
    """To know whether a peer is there, the sandbox reads on: those bytes are the next request."""
    ours, theirs = trio.testing.memory_stream_pair()
    taken, told = bytearray(), []
    hold = Hold(trio.lowlevel.ParkingLot())

    async def held() -> None:
        told.append(await hold.wait_with(theirs, taken.extend))

    async with trio.open_nursery() as nursery:
        nursery.start_soon(held)
        await ours.send_all(b"one")
        await trio.testing.wait_all_tasks_blocked()
        assert (bytes(taken), told) == (b"one", [])
        hold.release()
        await trio.testing.wait_all_tasks_blocked()
        await ours.send_all(b"two")
        assert await theirs.receive_some() == b"two"
    assert told == [True]


async def test_a_release_is_never_too_early(sandbox: Sandbox, clock: Clock) -> None:
    """Between a test and the sandbox there is a node that is as busy as it likes."""
    sandbox.inject(Fault(channel="apns", holds=True))
    assert sandbox.release("apns") == 0
    with trio.fail_after(PATIENCE_S):
        assert await deliver(sandbox, clock, "apns")
        sandbox.inject(Fault(channel="fcm", holds=True))
        again = sandbox.inject(Fault(channel="apns", holds=True))
        assert (await push(sandbox, clock)).status_code == 200  # the older rule hits
        sandbox.withdraw(again)
        sandbox.reset()
        assert await deliver(sandbox, clock, "fcm")


@pytest.mark.parametrize("end", ["withdraw", "clear", "reset"])
async def test_a_rule_that_ends_lets_go_what_it_holds(sandbox: Sandbox, clock: Clock, end: str) -> None:
    """Nobody could let it go later."""
    fault_id = sandbox.inject(Fault(channel="sms", holds=True))
    with trio.fail_after(PATIENCE_S):
        async with trio.open_nursery() as nursery:
            for kind in ("twilio", "vonage"):
                nursery.start_soon(deliver, sandbox, clock, kind)
            await sandbox.wait_held("sms", 2)
            match end:
                case "withdraw":
                    sandbox.withdraw(fault_id)
                case "clear":
                    sandbox.faults.clear()
                case _:
                    sandbox.reset()
    assert sandbox.held_count() == 0


@pytest.mark.parametrize(
    ("fault", "status", "count"),
    [
        (Fault(channel="apns", status=503, holds=True), 503, 0),
        (Fault(channel="apns", reset=True, holds=True), 0, 0),
        (Fault(channel="apns", drop_after_accept=True, holds=True), 0, 1),
        (Fault(channel="apns", rst_stream=True, holds=True), 0, 0),
        (Fault(channel="apns", goaway=True, status=200, holds=True), 200, 1),
        (Fault(channel="apns", delay_s=0.01, holds=True), 200, 1),
    ],
)
async def test_a_fate_comes_with_the_release(
    sandbox: Sandbox, clock: Clock, fault: Fault, status: int, count: int
) -> None:
    """A test says when a provider fails, too."""
    sandbox.inject(fault)
    found: list[int] = []

    async def one() -> None:
        try:
            found.append((await push(sandbox, clock)).status_code)
        except httpx.TransportError:
            found.append(0)

    with trio.fail_after(PATIENCE_S):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(one)
            await sandbox.wait_held("apns")
            assert (found, sandbox.count("apns")) == ([], count)
            sandbox.release("apns")
    assert found == [status]


@pytest.mark.parametrize("kind", ["apns", "fcm over http/1.1", "twilio"])
async def test_who_hangs_up_leaves_nothing_that_is_held(sandbox: Sandbox, clock: Clock, kind: str) -> None:
    """Senders that time out would else pile up."""
    service = service_of(kind)
    sandbox.inject(Fault(channel=service, holds=True, times=1))
    with trio.fail_after(PATIENCE_S):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(deliver, sandbox, clock, kind)
            await sandbox.wait_held(service)
            nursery.cancel_scope.cancel()
        await until_nothing_is_held(sandbox)
        assert await deliver(sandbox, clock, kind)


@pytest.mark.parametrize("is_tls", [False, True])
async def test_a_mailer_that_hangs_up_leaves_nothing_that_is_held(sandbox: Sandbox, is_tls: bool) -> None:
    """Nor a session that goes on without it."""
    sandbox.inject(Fault(channel="smtp", at="dot", holds=True, times=1))
    client = await trio.to_thread.run_sync(lambda: test_smtp.logged_in(sandbox, is_tls=is_tls))

    def send() -> None:
        with pytest.raises(OSError):
            client.send_message(test_smtp.mail())

    with trio.fail_after(PATIENCE_S):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(trio.to_thread.run_sync, send)
            await sandbox.wait_held("smtp")
            assert client.sock is not None
            client.sock.shutdown(2)
            await until_nothing_is_held(sandbox)
    client.close()
    assert sandbox.count("smtp") == 0


class RawPush:
    """One HTTP/2 connection to APNs, driven step by step. Each step blocks: run it in a thread."""

    def __init__(self, sandbox: Sandbox, clock: Clock) -> None:
        context = trusting(sandbox)
        context.set_alpn_protocols(["h2"])
        port = int(sandbox.apns_url.rpartition(":")[2])
        self.tls = RawTls(context, port, PATIENCE_S)
        self.protocol = h2.connection.H2Connection(h2.config.H2Configuration(header_encoding="utf-8"))
        self.headers = apns_headers(provider_token(sandbox, clock.now_s()))

    def begin(self) -> None:
        self.tls.__enter__()
        self.protocol.initiate_connection()
        self.push(1)

    def push(self, stream_id: int) -> None:
        head = {
            ":method": "POST",
            ":scheme": "https",
            ":path": f"/3/device/{TOKEN}",
            ":authority": "localhost",
        }
        self.protocol.send_headers(stream_id, [*head.items(), *self.headers.items()])
        self.protocol.send_data(stream_id, b'{"aps":{"alert":"x"}}', end_stream=True)
        self.tls.send(self.protocol.data_to_send())

    def give_up_and_go_on(self) -> set[int]:
        """End the first exchange and begin a second; returns which were answered once that one was."""
        self.protocol.reset_stream(1)
        self.push(3)
        answered: set[int] = set()
        while 3 not in answered:
            for event in self.protocol.receive_data(self.tls.receive()):
                if isinstance(event, h2.events.ResponseReceived):
                    answered.add(event.stream_id)
        return answered


async def test_a_request_that_is_given_up_is_held_no_longer(sandbox: Sandbox, clock: Clock) -> None:
    """Its connection goes on: it may last for hours."""
    sandbox.inject(Fault(channel="apns", holds=True, times=1))
    raw = RawPush(sandbox, clock)
    with trio.fail_after(2 * PATIENCE_S):
        try:
            await trio.to_thread.run_sync(raw.begin)
            await sandbox.wait_held("apns")
            assert await trio.to_thread.run_sync(raw.give_up_and_go_on) == {3}
            await until_nothing_is_held(sandbox)
        finally:
            raw.tls.__exit__()
    assert sandbox.count("apns") == 2


async def test_what_is_held_ends_with_the_sandbox(keyring: Keyring, clock: Clock) -> None:
    """A test that fails before it lets go must not hang."""
    ended: list[str] = []

    async def one(send: Callable[[], object]) -> None:
        def run() -> None:
            try:
                send()
            except OSError:
                ended.append("mail")

        await trio.to_thread.run_sync(run)

    async def pushes(sandbox: Sandbox) -> None:
        with pytest.raises(httpx.TransportError):
            await push(sandbox, clock)
        ended.append("push")

    with trio.fail_after(2 * PATIENCE_S):
        async with trio.open_nursery() as nursery, open_sandbox(keyring) as sandbox:
            for channel in ("apns", "smtp"):
                sandbox.inject(Fault(channel=channel, holds=True))
            client = await trio.to_thread.run_sync(test_smtp.logged_in, sandbox)
            nursery.start_soon(one, lambda: client.send_message(test_smtp.mail()))
            nursery.start_soon(pushes, sandbox)
            await sandbox.wait_held("apns")
            await sandbox.wait_held("smtp")
    client.close()
    assert sorted(ended) == ["mail", "push"]
    assert sandbox.held_count() == 0


async def test_an_outage_ends_what_is_held(sandbox: Sandbox, clock: Clock) -> None:
    """As it ends all that is under way."""
    sandbox.inject(Fault(channel="apns", holds=True))
    with trio.fail_after(PATIENCE_S):
        async with trio.open_nursery() as nursery:

            async def one() -> None:
                with pytest.raises(httpx.TransportError):
                    await push(sandbox, clock)

            nursery.start_soon(one)
            await sandbox.wait_held("apns")
            sandbox.begin_outage("apns")
    assert sandbox.held_count() == 0
