"""Senders as an app would write them: httpx, PyJWT, and a raw h2 connection in a thread."""

import secrets
import socket
import ssl
import time
from collections.abc import Mapping, Sequence
from typing import Any, Final, Self
from urllib.parse import urlsplit

import h2.config
import h2.connection
import hpack
import httpx
import jwt
import msgspec
import trio
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec

from server.providers import aes128gcm
from server.sandbox import Sandbox, Subscription
from server.sandbox.webpush_rules import base64url, unbase64

TOKEN: Final = "0a" * 32
PATIENCE_S: Final = 10.0


class Clock:
    """The wall clock, and what a test adds to it."""

    def __init__(self) -> None:
        self.ahead_s = 0.0

    def now_ms(self) -> int:
        return time.time_ns() // 1_000_000 + int(self.ahead_s * 1_000)

    def now_s(self) -> int:
        return self.now_ms() // 1_000


def trusting(sandbox: Sandbox) -> ssl.SSLContext:
    return ssl.create_default_context(cadata=sandbox.ca_pem)


def http_client(sandbox: Sandbox, *, http2: bool = True) -> httpx.AsyncClient:
    return httpx.AsyncClient(http2=http2, verify=trusting(sandbox), timeout=PATIENCE_S, trust_env=False)


# -- APNs -------------------------------------------------------------------------------------------


def provider_token(sandbox: Sandbox, issued_at_s: float, **changes: Any) -> str:
    """Sign a provider token; `changes`: kid, iss, key, algorithm, or claims (None: leave it out)."""
    config = sandbox.configs().apns
    claims = {"iss": changes.pop("iss", config.team_id), "iat": issued_at_s}
    key = changes.pop("key", config.private_key)
    algorithm = changes.pop("algorithm", "ES256")
    headers = {"kid": changes.pop("kid", config.key_id)}
    assert not changes
    claims = {name: value for name, value in claims.items() if value is not None}
    return jwt.encode(claims, key, algorithm=algorithm, headers=headers)


def apns_headers(token: str, **changes: str | None) -> dict[str, str]:
    """Return headers of an alert; a None leaves one out. Underscores stand for dashes."""
    headers: dict[str, str | None] = {
        "authorization": f"bearer {token}",
        "apns-topic": "com.example.app",
        "apns-push-type": "alert",
        **{name.replace("_", "-"): value for name, value in changes.items()},
    }
    return {name: value for name, value in headers.items() if value is not None}


# -- FCM --------------------------------------------------------------------------------------------


async def google_token(sandbox: Sandbox, client: httpx.AsyncClient, clock: Clock) -> str:
    response = await client.post(sandbox.token_url, data=grant_form(sandbox, clock))
    assert response.status_code == 200, response.text
    return str(response.json()["access_token"])


def grant_form(sandbox: Sandbox, clock: Clock, **changes: Any) -> dict[str, str]:
    config = sandbox.configs().fcm
    key = changes.pop("key", config.private_key)
    claims = {
        "iss": config.client_email,
        "scope": "https://www.googleapis.com/auth/firebase.messaging",
        "aud": sandbox.token_url,
        "iat": clock.now_s(),
        "exp": clock.now_s() + 3_600,
        **changes,
    }
    return {
        "grant_type": "urn:ietf:params:oauth:grant-type:jwt-bearer",
        "assertion": jwt.encode(claims, key, algorithm="RS256"),
    }


# -- Web Push ---------------------------------------------------------------------------------------


def vapid_header(sandbox: Sandbox, clock: Clock, *, key: str = "", k: str = "", **changes: Any) -> str:
    """Sign; `k` names another public key than the one that signed."""
    private_key = serialization.load_pem_private_key(
        (key or sandbox.configs().webpush.private_key).encode(), None
    )
    assert isinstance(private_key, ec.EllipticCurvePrivateKey)
    claims: dict[str, Any] = {
        "aud": sandbox.addresses.webpush_url,
        "exp": clock.now_s() + 43_200,
        "sub": "mailto:admin@example.com",
        **changes,
    }
    claims = {name: value for name, value in claims.items() if value is not None}
    token = jwt.encode(claims, private_key, algorithm="ES256")
    return f"vapid t={token}, k={k or public_point(private_key)}"


def public_point(key: ec.EllipticCurvePrivateKey) -> str:
    return base64url(
        key.public_key().public_bytes(
            serialization.Encoding.X962, serialization.PublicFormat.UncompressedPoint
        )
    )


def encrypt(subscription: Subscription, plaintext: bytes, *, record_bytes: int = 4_096) -> bytes:
    return aes128gcm.encrypt(
        plaintext,
        private_key=ec.generate_private_key(ec.SECP256R1()),
        receiver=unbase64(subscription.p256dh),
        auth=unbase64(subscription.auth),
        salt=secrets.token_bytes(16),
        record_bytes=record_bytes,
    )


def push_headers(**changes: str | None) -> dict[str, str]:
    headers: dict[str, str | None] = {
        "ttl": "60",
        "content-encoding": "aes128gcm",
        **{name.replace("_", "-"): value for name, value in changes.items()},
    }
    return {name: value for name, value in headers.items() if value is not None}


# -- raw HTTP/2 -------------------------------------------------------------------------------------


class RawTls:
    """TLS over a blocking socket of ours: Python's own TLS sockets show a reset as an end of file."""

    def __init__(self, context: ssl.SSLContext, port: int, timeout_s: float) -> None:
        self._in, self._out = ssl.MemoryBIO(), ssl.MemoryBIO()
        self._tls = context.wrap_bio(self._in, self._out, server_hostname="localhost")
        self._socket = socket.create_connection(("127.0.0.1", port), timeout=timeout_s)

    def __enter__(self) -> Self:
        while True:
            try:
                self._tls.do_handshake()
            except ssl.SSLWantReadError:
                self._socket.sendall(self._out.read())
                self._in.write(self._socket.recv(65_536))
            else:
                self._socket.sendall(self._out.read())
                return self

    def __exit__(self, *_: object) -> None:
        self._socket.close()

    def send(self, data: bytes) -> None:
        if data:
            self._tls.write(data)
            self._socket.sendall(self._out.read())

    def receive(self) -> bytes:
        """Return some bytes, or none at the end. Raises: ConnectionResetError, TimeoutError."""
        while True:
            try:
                return self._tls.read(65_536)
            except ssl.SSLWantReadError:
                data = self._socket.recv(65_536)
                if not data:
                    return b""
                self._in.write(data)


class RawAnswers(msgspec.Struct):
    """What an HTTP/2 connection brought until it ended: statuses and resets by stream, and how it ended."""

    statuses: dict[int, int] = {}
    resets: dict[int, int] = {}
    goaway_last: int | None = None
    end: str = ""  # eof, reset or timeout


def ask_raw(
    sandbox: Sandbox,
    url: str,
    requests: Sequence[tuple[str, Mapping[str, str], bytes]],
    *,
    timeout_s: float = 5.0,
) -> RawAnswers:
    """Send requests at once on one connection, and read until it ends. Blocks: run it in a thread."""
    where = urlsplit(url)
    context = trusting(sandbox)
    context.set_alpn_protocols(["h2"])
    found = RawAnswers()
    with RawTls(context, int(where.port or 0), timeout_s) as tls:
        protocol = h2.connection.H2Connection(h2.config.H2Configuration(header_encoding="utf-8"))
        protocol.initiate_connection()
        for number, (path, headers, body) in enumerate(requests):
            stream_id = 1 + 2 * number
            pseudo = [(":method", "POST"), (":scheme", "https"), (":path", path), (":authority", "localhost")]
            protocol.send_headers(stream_id, [*pseudo, *headers.items()])
            protocol.send_data(stream_id, body, end_stream=True)
        # h2 reads nothing behind a GOAWAY, so frames are read here.
        decoder, buffer = hpack.Decoder(), b""
        try:
            tls.send(protocol.data_to_send())
            while data := tls.receive():
                buffer = _note(found, decoder, buffer + data)
        except OSError as exc:
            found.end = "timeout" if isinstance(exc, TimeoutError) else "reset"
        else:
            found.end = "eof"
    return found


def _note(found: RawAnswers, decoder: hpack.Decoder, buffer: bytes) -> bytes:
    """Take whole frames; returns what is left."""
    while len(buffer) >= 9:
        size, kind, stream_id = (
            int.from_bytes(buffer[:3], "big"),
            buffer[3],
            int.from_bytes(buffer[5:9], "big"),
        )
        payload, rest = buffer[9 : 9 + size], buffer[9 + size :]
        if len(payload) < size:
            break
        buffer = rest
        if kind == 1:  # HEADERS
            found.statuses[stream_id] = int(
                {str(name): value for name, value in decoder.decode(payload)}[":status"]
            )
        elif kind == 3:  # RST_STREAM
            found.resets[stream_id] = int.from_bytes(payload, "big")
        elif kind == 7:  # GOAWAY
            found.goaway_last = int.from_bytes(payload[:4], "big")
    return buffer


async def ask_raw_apns(sandbox: Sandbox, clock: Clock, count: int, *, timeout_s: float = 5.0) -> RawAnswers:
    """Push `count` alerts at once on one connection; the body says which."""
    headers = apns_headers(provider_token(sandbox, clock.now_s()))
    requests = [
        (f"/3/device/{number:064x}", headers, b'{"aps":{"alert":"%d"}}' % number) for number in range(count)
    ]
    return await trio.to_thread.run_sync(
        lambda: ask_raw(sandbox, sandbox.apns_url, requests, timeout_s=timeout_s)
    )
