"""The public port: pages, HTTP and WebSocket together, TLS, and everything that is none of these."""

import datetime
import errno
import os
import resource
import ssl
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import httpx
import msgspec
import pytest
import trio
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID
from hypothesis import given
from hypothesis import strategies as st

from protocol.codec import Wire, encode_payload
from protocol.commands import Hello
from protocol.errors import CODES
from protocol.replies import Ok
from server.listener import HandshakeFailed, RequestHead, is_origin_allowed, parse_head
from server.ratelimit import Rate
from server.session import SessionLimits
from tests.server.edge import HELLO, TYPING, Bot, Edge, browse, dial, open_bot, open_edge
from tests.server.test_websocket import UPGRADE, frame, rest_of

GET = b"GET / HTTP/1.1\r\nHost: x\r\n\r\n"


def write_certificate(folder: Path, name: str) -> None:
    """Write cert.pem and key.pem for localhost, signed by themselves."""
    key = ec.generate_private_key(ec.SECP256R1())
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
    now = datetime.datetime.now(datetime.UTC)
    certificate = (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(subject)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - datetime.timedelta(days=1))
        .not_valid_after(now + datetime.timedelta(days=1))
        .add_extension(x509.SubjectAlternativeName([x509.DNSName("localhost")]), critical=False)
        .sign(key, hashes.SHA256())
    )
    (folder / "cert.pem").write_bytes(certificate.public_bytes(serialization.Encoding.PEM))
    (folder / "key.pem").write_bytes(
        key.private_bytes(
            serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
        )
    )


def tls_settings(folder: Path) -> dict[str, Any]:
    return {"tls_cert": str(folder / "cert.pem"), "tls_key": str(folder / "key.pem")}


@pytest.fixture
def few_files() -> Iterator[int]:
    """Leave room for a dozen more file descriptors only."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    room = len(os.listdir("/proc/self/fd")) + 24
    resource.setrlimit(resource.RLIMIT_NOFILE, (room, hard))
    yield room
    resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


async def ask(edge: Edge, request: bytes) -> bytes:
    """Send raw bytes to the public port and return everything that comes back."""
    stream = await dial(edge, is_bot=False)
    await stream.send_all(request)
    return await rest_of(stream)


async def test_one_port_serves_http_and_websocket_side_by_side() -> None:
    """Operators open one port in their firewall and name one address in their proxy."""
    with trio.fail_after(30):
        async with open_edge() as edge, browse(edge, hello=HELLO) as browser:
            async with httpx.AsyncClient(base_url=f"http://127.0.0.1:{edge.port}") as client:
                for size in (0, 10, 300_000):  # kept alive between them
                    answer = await client.post("/echo", content=b"x" * size)
                    assert answer.text == str(size)
                assert (await client.get("/")).text == "hello"
            await browser.send(TYPING)
            assert await browser.receive() == Ok(id=9)
            assert edge.metrics.accepted == {"http": 1, "websocket": 1}
            assert {address for address, _port in edge.app.clients} == {"127.0.0.1"}
            assert edge.app.lifespan == ["lifespan.startup"]
        assert edge.app.lifespan == ["lifespan.startup", "lifespan.shutdown"]


async def test_tls_serves_http_websocket_and_bots(tmp_path: Path) -> None:
    """Two settings turn TLS on everywhere."""
    write_certificate(tmp_path, "first")
    context = ssl.create_default_context(cafile=str(tmp_path / "cert.pem"))
    with trio.fail_after(40):
        async with open_edge(**tls_settings(tmp_path)) as edge:
            async with httpx.AsyncClient(base_url=f"https://localhost:{edge.port}", verify=context) as client:
                assert (await client.post("/echo", content=b"x" * 100_000)).text == "100000"
            async with browse(edge, ssl_context=context, hello=HELLO) as browser:
                await browser.send(TYPING)
                assert await browser.receive() == Ok(id=9)
            secured = trio.SSLStream(await dial(edge), context, server_hostname="localhost")
            bot = Bot(secured)
            await bot.send(Hello(id=1, token="ben", device_id="d"), TYPING)
            await bot.receive()
            assert await bot.receive() == Ok(id=9)


async def test_a_renewed_certificate_is_used_without_a_restart(tmp_path: Path) -> None:
    """Certificates are renewed every few weeks; a broken file must not take the old one away."""
    write_certificate(tmp_path, "first")
    with trio.fail_after(30):
        async with open_edge(**tls_settings(tmp_path)) as edge:

            async def serial() -> int:
                context = ssl.create_default_context()
                context.check_hostname = False
                context.verify_mode = ssl.CERT_NONE
                stream = trio.SSLStream(await dial(edge, is_bot=False), context)
                await stream.do_handshake()
                der = stream.getpeercert(binary_form=True)
                return x509.load_der_x509_certificate(der).serial_number

            first = await serial()
            write_certificate(tmp_path, "second")
            assert await serial() == first
            assert edge.gateway.reload_tls()
            second = await serial()
            assert second != first
            (tmp_path / "cert.pem").write_text("garbage")
            assert not edge.gateway.reload_tls()
            assert await serial() == second


@pytest.mark.parametrize(
    ("sent", "status", "reason"),
    [
        (b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + b"x" * 50, b"", "tls_on_plain_port"),
        (b"\x00\x00\x00\x10abcdefghijklmnop", b"400", "not_http"),
        (b"hello there\r\n\r\n", b"400", "not_http"),
        (b"SSH-2.0-OpenSSH_9.2\r\n", b"400", "not_http"),
        (b"GET /\r\n\r\n", b"400", "bad_request_line"),
        (b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", b"400", "bad_request_line"),
        (b"GET / HTTP/1.1\r\nno colon\r\n\r\n", b"400", "bad_header"),
        (b"GET / HTTP/1.1\r\nX: " + b"y" * 20_000 + b"\r\n\r\n", b"431", "head_too_large"),
        (b"GET /ws HTTP/1.1\r\nHost: x\r\n\r\n", b"426", "no_upgrade"),
        (b"POST /ws HTTP/1.1\r\nHost: x\r\ncontent-length: 0\r\n\r\n", b"426", "no_upgrade"),
        (UPGRADE.replace(b"/ws", b"/other"), b"404", "wrong_path"),
        (UPGRADE.replace(b"Version: 13", b"Version: 8"), b"426", "bad_upgrade"),
        (UPGRADE.replace(b"chat.test", b"\xff.test"), b"400", "bad_upgrade"),
        (UPGRADE.replace(b"Sec-WebSocket-Key", b"X-Key"), b"400", "bad_upgrade"),
    ],
)
async def test_whatever_is_no_request_of_ours_is_answered_counted_and_closed(
    sent: bytes, status: bytes, reason: str
) -> None:
    """Scanners and misconfigured clients knock all day: no traceback, no socket left behind."""
    with trio.fail_after(30):
        async with open_edge() as edge:
            answer = await ask(edge, sent)
            if status:
                assert answer.startswith(b"HTTP/1.1 " + status + b" ")
                assert b'"code":"' in answer
            else:
                assert not answer
            await edge.gateway.until_empty()
            assert edge.metrics.handshake_failures == {reason: 1}


async def test_plain_http_on_a_tls_port_is_counted_and_closed(tmp_path: Path) -> None:
    """A forgotten s in https:// is the commonest mistake."""
    write_certificate(tmp_path, "first")
    with trio.fail_after(30):
        async with open_edge(**tls_settings(tmp_path)) as edge:
            await ask(edge, GET)
            await edge.gateway.until_empty()
            assert edge.metrics.handshake_failures == {"plain_on_tls_port": 1}
            bot = await dial(edge)
            await bot.send_all(b"\0\0\0\x01x" * 10)
            await rest_of(bot)
            await edge.gateway.until_empty()
            assert edge.metrics.handshake_failures == {"plain_on_tls_port": 1, "tls_failed": 1}


async def test_half_open_handshakes_are_swept_away_and_bounded() -> None:
    """Hundreds of sockets that never finish their request must not keep others out for long."""
    with trio.fail_after(30):
        async with open_edge(handshake_timeout_s=1.0, max_handshakes=200) as edge:
            for number in range(250):
                stream = await dial(edge, is_bot=False)
                if number % 2:
                    await stream.send_all(b"GET / HT")
            while edge.metrics.shed["max_handshakes"] < 50:
                await trio.lowlevel.checkpoint()
            assert edge.gateway.stats()["handshakes"] == 200
            await edge.gateway.until_empty()
            assert edge.metrics.handshake_failures["timeout"] == 200
            assert edge.metrics.shed == {"max_handshakes": 50}
            assert (await ask(edge, GET.replace(b"Host", b"Connection: close\r\nHost"))).endswith(b"hello")


async def test_a_header_that_trickles_in_ends_at_the_same_deadline() -> None:
    """Slow loris: a byte now and then does not buy more time."""
    with trio.fail_after(30):
        async with open_edge(handshake_timeout_s=0.5) as edge:
            stream = await dial(edge, is_bot=False)
            started_at = trio.current_time()
            with suppress(trio.BrokenResourceError):
                for byte in b"GET / HTTP/1.1\r\nX-Slow: " + b"x" * 1000:
                    await stream.send_all(bytes((byte,)))
                    await trio.sleep(0.02)
            assert trio.current_time() - started_at < 6.0
            assert edge.metrics.handshake_failures == {"timeout": 1}


async def test_a_request_fed_byte_by_byte_is_served() -> None:
    """Networks cut where they like."""
    with trio.fail_after(30):
        async with open_edge() as edge:
            stream = await dial(edge, is_bot=False)
            for (
                byte
            ) in b"POST /echo HTTP/1.1\r\nHost: x\r\nConnection: close\r\nContent-Length: 3\r\n\r\nabc":
                await stream.send_all(bytes((byte,)))
            assert (await rest_of(stream)).endswith(b"3")


async def test_an_upgrade_on_a_kept_alive_connection_is_refused() -> None:
    """The HTTP side cannot hand a connection over; it must not pretend to."""
    with trio.fail_after(30):
        async with open_edge() as edge:
            answer = await ask(edge, GET + UPGRADE)
            assert answer.startswith(b"HTTP/1.1 200 ")
            assert b"HTTP/1.1 426 " in answer
            assert b'{"code":"wrong_transport",' in answer


@pytest.mark.parametrize(
    "request_bytes",
    [
        b"GET / HTTP/1.1\r\n\r\n",
        b"POST /echo HTTP/1.1\r\nHost: x\r\nContent-Length: many\r\n\r\n",
        b"POST /echo HTTP/1.1\r\nHost: x\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\n",
        GET.replace(b"GET", b"HEAD") + b"GET / HTTP/1.1\r\n\r\n",
    ],
)
async def test_a_request_that_the_parser_refuses_is_answered_with_a_code(request_bytes: bytes) -> None:
    """Authors of clients by hand, to whom an empty 400 says nothing."""
    with trio.fail_after(30):
        async with open_edge() as edge:
            answer = await ask(edge, request_bytes)
            head, _, body = answer.rpartition(b"\r\n\r\n")
            head = head[head.rindex(b"HTTP/1.1 ") :]
            assert head.startswith(b"HTTP/1.1 400 ")
            assert b"content-type: application/json" in head
            assert b"content-length: %d\r\n" % len(body) in head
            assert msgspec.json.decode(body) == {"code": "bad_request", "message": CODES["bad_request"]}


async def test_a_refused_head_request_has_no_body() -> None:
    """A client that asks for HEAD would take a body for the next answer."""
    with trio.fail_after(30):
        async with open_edge() as edge:
            answer = await ask(edge, GET + UPGRADE.replace(b"GET", b"HEAD"))
            assert b"HTTP/1.1 426 " in answer
            assert answer.endswith(b"\r\n\r\n")


async def test_a_client_that_does_not_read_its_answer_is_dropped() -> None:
    """A download that nobody takes must not hold its memory and its task for ever."""
    with trio.fail_after(30):
        async with open_edge(session=SessionLimits(write_timeout_s=0.5)) as edge:
            stream = await dial(edge, is_bot=False, receive_buffer_bytes=4096)
            await stream.send_all(GET.replace(b"/ ", b"/big "))
            await edge.app.finished.wait()
            await edge.gateway.until_empty()


async def test_an_address_has_a_bounded_number_and_rate_of_connections() -> None:
    """One address cannot take all places, nor dial in a loop."""
    with trio.fail_after(30):
        async with open_edge(max_connections_per_address=2) as edge:
            first = await open_bot(edge, device_id="a")
            await open_bot(edge, device_id="b")
            assert b"429" in await ask(edge, GET)
            assert edge.metrics.shed == {"address_connections": 1}
            await first.stream.aclose()
            await edge.service.until(lambda: bool(edge.service.closed_sessions))
            while edge.gateway.stats()["connections"] > 1:
                await trio.lowlevel.checkpoint()
            await open_bot(edge, device_id="c")
        async with open_edge(connections=Rate(0.001, 2.0)) as edge:
            for device_id in "ab":
                await open_bot(edge, device_id=device_id)
            refused = await ask(edge, GET)
            assert refused.startswith(b"HTTP/1.1 429 ")
            assert b"retry-after: " in refused
            assert b'"code":"too_many_connections"' in refused


async def test_addresses_are_counted_behind_a_trusted_proxy_only() -> None:
    """X-Forwarded-For is anybody's to write, unless our own proxy wrote it."""
    hello = frame(encode_payload(HELLO, Wire.JSON_WS))

    def behind(header: bytes) -> bytes:
        return UPGRADE.replace(b"Host", b"X-Forwarded-For: " + header + b"\r\nHost") + hello

    with trio.fail_after(30):
        async with open_edge(trusted_proxies=("127.0.0.0/8",), connections=Rate(0.001, 1.0)) as edge:
            for header, status in (
                (b"6.6.6.6, 9.9.9.9", b"101"),
                (b"7.7.7.7, 9.9.9.9", b"429"),
                (b"9.9.9.9, 2001:db8::1", b"101"),
                (b"2001:db8::2, 127.0.0.9", b"429"),
                (b"2001:db8:0:1::2", b"101"),
                (b"nonsense", b"101"),
            ):
                stream = await dial(edge, is_bot=False)
                await stream.send_all(behind(header))
                assert (await stream.receive_some(1000)).startswith(b"HTTP/1.1 " + status), header
            await edge.service.until(lambda: len(edge.service.opened) == 4)
            addresses = [session.remote_address for session in edge.service.opened]
            assert addresses == ["9.9.9.9", "2001:db8::1", "2001:db8:0:1::2", "127.0.0.1"]
        async with open_edge() as edge:
            stream = await dial(edge, is_bot=False)
            await stream.send_all(behind(b"9.9.9.9"))
            await edge.service.until(lambda: bool(edge.service.opened))
            assert edge.service.opened[0].remote_address == "127.0.0.1"


async def test_newcomers_are_shed_when_the_loop_lags_or_the_node_is_full() -> None:
    """Those who are in keep their service; those outside are told when to come again."""
    with trio.fail_after(30):
        async with open_edge() as edge:
            inside = await open_bot(edge)
            edge.gateway.lag._recent_s = 0.6
            assert (await ask(edge, GET)).startswith(b"HTTP/1.1 503 ")
            outside = Bot(await dial(edge))
            assert await outside.close_code() == 4003
            assert edge.metrics.shed == {"loop_lag": 2}
            await inside.send(TYPING)
            assert await inside.receive() == Ok(id=9)
        async with open_edge(max_connections=1) as edge:
            await open_bot(edge)
            assert (await ask(edge, GET)).startswith(b"HTTP/1.1 503 ")
            assert edge.metrics.shed == {"max_connections": 1}


async def test_running_out_of_file_descriptors_is_survived(few_files: int) -> None:
    """The kernel keeps those who wait; they are served when others leave."""
    with trio.fail_after(40):
        async with open_edge() as edge:
            streams: list[trio.SocketStream] = []
            while not edge.metrics.accept_errors:
                try:
                    streams.append(await dial(edge, is_bot=False))
                except OSError as exc:
                    assert exc.errno == errno.EMFILE
                    await trio.sleep(0.05)  # our own sockets are out, too: the listener tries in its own time
            assert set(edge.metrics.accept_errors) == {"EMFILE"}
            for stream in streams[:-1]:
                await stream.aclose()
            await streams[-1].send_all(GET)
            assert (await streams[-1].receive_some(1000)).startswith(b"HTTP/1.1 200 ")


@given(head=st.binary(max_size=300))
def test_any_head_is_read_or_refused(head: bytes) -> None:
    """No bytes of a stranger make an exception that nobody expects."""
    try:
        parse_head(head + b"\r\n\r\n")
    except HandshakeFailed as exc:
        assert exc.answer.startswith(b"HTTP/1.1 400 ")


@pytest.mark.parametrize(
    ("origin", "host", "is_allowed"),
    [
        (None, "a.test", True),
        ("https://a.test", "a.test", True),
        ("http://a.test:8080", "a.test:8080", True),
        ("http://a.test:8080", "a.test", False),
        ("https://a.test.evil", "a.test", False),
        ("https://app.test", "a.test", True),
        ("null", "a.test", False),
        ("file://", "", False),
        ("chrome-extension://a.test", "a.test", False),
        ("http://[", "[", False),
    ],
)
def test_an_origin_is_allowed_if_it_is_the_server_or_on_the_list(
    origin: str | None, host: str, is_allowed: bool
) -> None:
    """The browser's promise is only as good as this comparison."""
    headers = {"host": host} | ({} if origin is None else {"origin": origin})
    head = RequestHead("GET", "/ws", headers)
    assert is_origin_allowed(head, frozenset({"https://app.test"})) is is_allowed
