"""TLS from end to end: a real node with a certificate of its own, and the SDK on each of its transports."""

import datetime
import ipaddress
import ssl
from pathlib import Path

import httpx
import pytest
import trio
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

import hubbub
from tests.nodes import NodeProcess, running_node

pytestmark = [pytest.mark.slow, pytest.mark.timeout(120)]

PASSWORD = "a good long password"


def write_certificate(folder: Path, *, host: str = "localhost") -> int:
    """Write cert.pem and key.pem; for localhost they hold for 127.0.0.1 too. Returns the serial number."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "hubbub test")])
    now = datetime.datetime.now(datetime.UTC)
    names: list[x509.GeneralName] = [x509.DNSName(host)]
    if host == "localhost":
        names.append(x509.IPAddress(ipaddress.ip_address("127.0.0.1")))
    certificate = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - datetime.timedelta(days=2))
        .not_valid_after(now + datetime.timedelta(days=1))
        .add_extension(x509.SubjectAlternativeName(names), critical=False)
        .sign(key, hashes.SHA256())
    )
    (folder / "cert.pem").write_bytes(certificate.public_bytes(serialization.Encoding.PEM))
    (folder / "key.pem").write_bytes(
        key.private_bytes(
            serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
        )
    )
    return certificate.serial_number


def tls_flags(folder: Path) -> tuple[str, ...]:
    return ("--tls-cert", str(folder / "cert.pem"), "--tls-key", str(folder / "key.pem"))


def trusting(folder: Path) -> ssl.SSLContext:
    """A context that trusts the certificate as it is now."""
    return ssl.create_default_context(cafile=str(folder / "cert.pem"))


async def served_serial(port: int) -> int:
    """The serial number of the certificate that a port shows to whoever comes."""
    context = ssl.create_default_context()
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    stream = await trio.open_ssl_over_tcp_stream(
        "127.0.0.1", port, ssl_context=context, https_compatible=True
    )
    async with stream:
        await stream.do_handshake()
        der = stream.getpeercert(binary_form=True)
    assert der is not None
    return x509.load_der_x509_certificate(der).serial_number


async def sign_up(node: NodeProcess, context: ssl.SSLContext, name: str) -> str:
    async with hubbub.Accounts(f"https://127.0.0.1:{node.port}", ssl_context=context) as accounts:
        return (await accounts.sign_up(name, PASSWORD)).token


async def test_people_and_bots_talk_over_tls_on_every_transport(tmp_path: Path) -> None:
    """Two flags, and nothing of a conversation crosses the net in the clear."""
    write_certificate(tmp_path)
    context = trusting(tmp_path)
    with running_node(tmp_path, *tls_flags(tmp_path)) as node, trio.fail_after(60):
        ann_token = await sign_up(node, context, "ann")
        bob_token = await sign_up(node, context, "bob")
        urls = (
            f"https://127.0.0.1:{node.port}",
            f"https://localhost:{node.port}",
            f"wss://localhost:{node.port}",
            f"hubbubs://127.0.0.1:{node.bot_port}",
        )
        async with hubbub.connect(urls[0], token=bob_token, ssl_context=context) as bob:
            events = bob.events()
            for url in urls:
                async with hubbub.connect(url, token=ann_token, ssl_context=context) as ann:
                    opened = await ann.open_direct(bob.user_id)
                    await ann.send(opened.conversation_id, f"over {url}")
                async for event in events:
                    if getattr(event, "text", "") == f"over {url}":
                        break
        async with hubbub.Accounts(urls[0], token=ann_token, ssl_context=context) as accounts:
            stored = await accounts.upload(b"secret \x00" * 50_000, name="big.bin")
            assert await accounts.download(stored.file_id) == b"secret \x00" * 50_000


async def test_a_client_that_does_not_trust_the_server_says_so_and_tells_it_nothing(tmp_path: Path) -> None:
    """A token or a password must not go to whoever answers; and a person must know what to do."""
    write_certificate(tmp_path)
    with running_node(tmp_path, *tls_flags(tmp_path)) as node, trio.fail_after(60):
        token = await sign_up(node, trusting(tmp_path), "ann")
        for url in (f"https://localhost:{node.port}", f"hubbubs://localhost:{node.bot_port}"):
            with pytest.raises(hubbub.Refused, match=r"not trusted.*self.signed") as refused:
                async with hubbub.connect(url, token=token):
                    pass
            assert refused.value.code == "untrusted_certificate"
        with pytest.raises(hubbub.Refused, match=r"self.signed") as no_account:
            async with hubbub.Accounts(f"https://localhost:{node.port}") as accounts:
                await accounts.log_in("ann", PASSWORD)
        assert no_account.value.code == "untrusted_certificate"
        # One that is trusted, but belongs to another name, is no better.
        write_certificate(tmp_path, host="chat.example")
        await trio.to_thread.run_sync(node.reload_certificate)
        with pytest.raises(hubbub.Refused, match=r"not trusted.*mismatch"):
            async with hubbub.connect(
                f"https://localhost:{node.port}", token=token, ssl_context=trusting(tmp_path)
            ):
                pass


async def test_speaking_plain_to_tls_or_tls_to_plain_ends_soon_and_harms_nobody(tmp_path: Path) -> None:
    """The commonest mistake in a URL; it must neither hang nor keep others out."""
    (tmp_path / "plain").mkdir()
    write_certificate(tmp_path)
    context = trusting(tmp_path)
    with (
        running_node(tmp_path, *tls_flags(tmp_path)) as secured,
        running_node(tmp_path / "plain") as plain,
        trio.fail_after(60),
    ):
        token = await sign_up(secured, context, "ann")
        async with httpx.AsyncClient() as browser:
            with pytest.raises((httpx.RemoteProtocolError, httpx.ReadError)):
                await browser.get(f"http://127.0.0.1:{secured.port}/")
        for url, what in (
            (f"http://127.0.0.1:{secured.port}", "hung up without an answer"),
            (f"hubbub://127.0.0.1:{secured.bot_port}", "closed the connection|read failed|prefix|frame"),
            (f"https://127.0.0.1:{plain.port}", "no TLS at"),
            (f"hubbubs://127.0.0.1:{plain.bot_port}", "no TLS at"),
        ):
            with pytest.raises(hubbub.HubbubError, match=what):
                async with hubbub.connect(url, token=token, ssl_context=context, connect_timeout_s=3):
                    pass
        # Both nodes serve on.
        async with hubbub.connect(f"https://localhost:{secured.port}", token=token, ssl_context=context):
            pass
        _, plain_token = await trio.to_thread.run_sync(plain.sign_up, "bob")
        async with hubbub.connect(plain.url, token=plain_token):
            pass
        assert (secured.stop(), plain.stop()) == (0, 0)


async def test_a_renewed_certificate_is_served_after_sighup_and_sessions_stay(tmp_path: Path) -> None:
    """Certificates are renewed every few weeks: nobody is to be thrown out for it."""
    first = write_certificate(tmp_path)
    before = trusting(tmp_path)
    with running_node(tmp_path, *tls_flags(tmp_path)) as node, trio.fail_after(60):
        token = await sign_up(node, before, "ann")
        url = f"https://localhost:{node.port}"
        async with hubbub.connect(url, token=token, ssl_context=before) as old:
            welcome = old.welcome
            second = write_certificate(tmp_path)
            assert {await served_serial(node.port), await served_serial(node.bot_port)} == {first}
            await trio.to_thread.run_sync(node.reload_certificate)
            assert {await served_serial(node.port), await served_serial(node.bot_port)} == {second}
            async with hubbub.connect(url, token=token, ssl_context=trusting(tmp_path)):
                pass
            await old.list_contacts()
            assert old.welcome is welcome  # the same session all the time
