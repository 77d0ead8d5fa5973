"""The sandbox's own certificate authority, and the TLS contexts of its servers."""

import datetime
import ipaddress
import ssl
import tempfile
from pathlib import Path
from typing import Final

import msgspec
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

_CA_DAYS: Final = 3_650
_LEAF_DAYS: Final = 825  # Apple's TLS clients take no longer ones
_LOCALHOST: Final = "localhost"
_ADDRESSES: Final = ("127.0.0.1", "::1")


class Authority(msgspec.Struct, frozen=True, kw_only=True):
    """A CA that signs for this machine only. Keep its key secret: who trusts the CA trusts the key."""

    ca_pem: str
    key_pem: str


def make_authority(now: datetime.datetime) -> Authority:
    """Make a CA with a new key. `now` is aware."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "hubbub sandbox CA")])
    certificate = (
        _builder(name, name, key.public_key(), now, _CA_DAYS)
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .add_extension(_usage(is_ca=True), critical=True)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
        .sign(key, hashes.SHA256())
    )
    return Authority(
        ca_pem=certificate.public_bytes(serialization.Encoding.PEM).decode(), key_pem=private_pem(key)
    )


def host_name(service: str) -> str:
    """The name of its own that a service's certificate has; it leads to this machine (RFC 6761, 6.3)."""
    return f"{service}.localhost"


def server_context(
    authority: Authority, now: datetime.datetime, alpn: list[str], *, name: str = ""
) -> ssl.SSLContext:
    """Make a TLS context with a fresh certificate, offering `alpn` (none if empty).

    The certificate is for localhost and this machine's addresses, and for `name` where there is one.
    """
    issuer = x509.load_pem_x509_certificate(authority.ca_pem.encode())
    issuer_key = serialization.load_pem_private_key(authority.key_pem.encode(), None)
    if not isinstance(issuer_key, ec.EllipticCurvePrivateKey):
        raise TypeError("The sandbox's CA key is a P-256 key.")
    key = ec.generate_private_key(ec.SECP256R1())
    names: list[x509.GeneralName] = [x509.DNSName(each) for each in (_LOCALHOST, name) if each]
    names += [x509.IPAddress(ipaddress.ip_address(address)) for address in _ADDRESSES]
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name or "hubbub sandbox")])
    certificate = (
        _builder(subject, issuer.subject, key.public_key(), now, _LEAF_DAYS)
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .add_extension(_usage(is_ca=False), critical=True)
        .add_extension(x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH]), critical=False)
        .add_extension(x509.SubjectAlternativeName(names), critical=False)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
        .add_extension(
            x509.AuthorityKeyIdentifier.from_issuer_public_key(issuer_key.public_key()), critical=False
        )
        .sign(issuer_key, hashes.SHA256())
    )
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    if alpn:
        context.set_alpn_protocols(alpn)
    with tempfile.TemporaryDirectory() as folder:  # ssl reads keys from files only
        chain = Path(folder, "chain.pem")
        chain.touch(mode=0o600)
        chain.write_bytes(private_pem(key).encode() + certificate.public_bytes(serialization.Encoding.PEM))
        context.load_cert_chain(chain)
    return context


def private_pem(key: ec.EllipticCurvePrivateKey) -> str:
    """Return a key as PKCS #8 PEM, as Apple's .p8 files are."""
    return key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    ).decode()


def _builder(
    subject: x509.Name,
    issuer: x509.Name,
    key: ec.EllipticCurvePublicKey,
    now: datetime.datetime,
    days: int,
) -> x509.CertificateBuilder:
    return (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer)
        .public_key(key)
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - datetime.timedelta(days=1))  # clocks of containers may be behind
        .not_valid_after(now + datetime.timedelta(days=days))
    )


def _usage(*, is_ca: bool) -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature=not is_ca,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        key_cert_sign=is_ca,
        crl_sign=is_ca,
        encipher_only=False,
        decipher_only=False,
    )
