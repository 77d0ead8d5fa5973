"""Peers of the push providers: certificates, and a push service on Node that shares no code with ours."""

import base64
import datetime
import ipaddress
import json
import shutil
import signal
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from functools import cache
from pathlib import Path
from subprocess import PIPE
from typing import Any, TypeVar

import msgspec
import pytest
import trio
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.x509.oid import NameOID

from actors.notify.delivery import Outgoing, Target
from protocol.notify_types import Channel

NODE_FOLDER = Path(__file__).parent / "node"
NODE_MARKS = [
    pytest.mark.skipif(shutil.which("node") is None, reason="there is no node to run the peer with"),
    pytest.mark.slow,  # a process for each test
]
Test = TypeVar("Test", bound=Callable[..., Any])
DEVICE = "ab" * 32


def pem_of(key: ec.EllipticCurvePrivateKey | rsa.RSAPrivateKey) -> str:
    """Write a private key as PEM text."""
    return key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    ).decode()


def public_pem_of(key: ec.EllipticCurvePrivateKey) -> str:
    """Write its public key as PEM text."""
    return (
        key.public_key()
        .public_bytes(serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo)
        .decode()
    )


def needs_node(test: Test) -> Test:
    """Mark a test that runs a peer on Node."""
    for mark in NODE_MARKS:
        test = mark(test)
    return test


class Certificates(msgspec.Struct, frozen=True):
    """A CA's certificate, and key and certificate of a server on this machine. All PEM."""

    ca: str
    key: str
    cert: str


@cache
def certificates() -> Certificates:
    """Make a CA, and let it sign for localhost and 127.0.0.1."""
    now = datetime.datetime.now(datetime.UTC)
    ca_key, key = ec.generate_private_key(ec.SECP256R1()), ec.generate_private_key(ec.SECP256R1())
    ca_name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "test CA")])

    def builder(subject: x509.Name, public: ec.EllipticCurvePublicKey) -> x509.CertificateBuilder:
        return (
            x509.CertificateBuilder()
            .subject_name(subject)
            .issuer_name(ca_name)
            .public_key(public)
            .serial_number(x509.random_serial_number())
            .not_valid_before(now - datetime.timedelta(days=1))
            .not_valid_after(now + datetime.timedelta(days=1))
            .add_extension(x509.AuthorityKeyIdentifier.from_issuer_public_key(ca_key.public_key()), False)
        )

    usage = x509.KeyUsage(True, False, False, False, False, True, True, False, False)
    ca = (
        builder(ca_name, ca_key.public_key())
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .add_extension(usage, critical=True)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(ca_key.public_key()), False)
        .sign(ca_key, hashes.SHA256())
    )
    names = [x509.DNSName("localhost"), x509.IPAddress(ipaddress.IPv4Address("127.0.0.1"))]
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "localhost")])
    cert = (
        builder(name, key.public_key())
        .add_extension(x509.SubjectAlternativeName(names), critical=False)
        .sign(ca_key, hashes.SHA256())
    )
    return Certificates(
        ca.public_bytes(serialization.Encoding.PEM).decode(),
        pem_of(key),
        cert.public_bytes(serialization.Encoding.PEM).decode(),
    )


class Node:
    """A running push service. `heard` gives what it printed, line by line, where it was told to log."""

    def __init__(self, process: trio.Process, port: int, lines: trio.MemoryReceiveChannel[Any]) -> None:
        self._process = process
        self._lines = lines
        self.port = port
        self.url = f"https://127.0.0.1:{port}"

    async def tell(self, **order: Any) -> None:
        """Give it an order while it runs."""
        assert self._process.stdin is not None
        await self._process.stdin.send_all(json.dumps(order).encode() + b"\n")

    async def all_heard(self, what: str = "headers") -> list[dict[str, Any]]:
        """Tell all its words about this that nobody took yet, up to now."""
        await self.tell(echo=True)
        found = []
        with trio.fail_after(10):
            while "echo" not in (line := await self._lines.receive()):
                if what in line:
                    found.append(line)
        return found

    def freeze(self) -> None:
        """Stop the process where it is: its sockets stay open, and nothing comes from it any more."""
        self._process.send_signal(signal.SIGSTOP)

    async def heard(self, what: str = "headers") -> dict[str, Any]:
        """Wait for its next word about this: `headers` of a request, `closed`, `goaway`, `ping`."""
        with trio.fail_after(10):
            while True:
                line: dict[str, Any] = await self._lines.receive()
                if what in line:
                    if "body" in line:
                        line["body"] = base64.b64decode(line["body"])
                    return line


@asynccontextmanager
async def open_node(*, tls: bool = True, **config: Any) -> AsyncIterator[Node]:
    """Run `push_server.js`, which tells of its config."""
    if tls:
        made = certificates()
        config |= {"key": made.key, "cert": made.cert}
    command = ["node", str(NODE_FOLDER / "push_server.js"), json.dumps(config)]
    process = await trio.lowlevel.open_process(command, stdin=PIPE, stdout=PIPE)
    assert process.stdout is not None
    send, receive = trio.open_memory_channel[Any](10_000)
    stdout = process.stdout

    async def read() -> None:
        buffer = b""
        async for chunk in stdout:
            *lines, buffer = (buffer + chunk).split(b"\n")
            for line in lines:
                send.send_nowait(json.loads(line))

    async with trio.open_nursery() as nursery:
        try:
            nursery.start_soon(read)
            with trio.fail_after(20):
                port = (await receive.receive())["port"]
            yield Node(process, port, receive)
        finally:
            process.kill()
            with trio.CancelScope(shield=True):
                await process.wait()
                for pipe in (process.stdin, process.stdout):
                    assert pipe is not None
                    await pipe.aclose()
            nursery.cancel_scope.cancel()


def outgoing(channel: Channel, address: str, **changed: Any) -> Outgoing:
    """Make a notification for one address."""
    keys = changed.pop("keys", {})
    facts: dict[str, Any] = {
        "delivery_id": "d-1",
        "notification_id": 7,
        "app_id": "shop",
        "user_id": "ann",
        "type": "order",
        "priority": "high",
        "target": Target(device_key="k", channel=channel, address=address, keys=keys),
        "title": "Shipped",
        "body": "It is on its way",
    }
    return Outgoing(**(facts | changed))
