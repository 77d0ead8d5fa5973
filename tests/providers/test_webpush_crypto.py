"""Encryption for Web Push: the RFC's own example, and an implementation that shares no code with ours."""

import base64
import json
import os
import subprocess

import pytest
from cryptography.hazmat.primitives.asymmetric import ec

from server.providers.vapid import base64url, public_point
from server.providers.webpush_crypto import (
    MAX_PLAINTEXT_BYTES,
    SubscriptionKeys,
    encrypted,
    subscription_keys,
)
from tests.providers.peers import NODE_FOLDER, needs_node

P256DH = "BCVxsr7N_eNgVRqvHtD0zTZsEc6-VV-JvLexhqUzORcxaOzi6-AYWXvTBHm4bjyPjs7Vd8pZGH6SRpkNtoIAiw4"
AUTH = "BTBZMqHH6r4Tts7J_aSIgg"
SENDER = "yfWPiYE-n46HLnH0KqZOF1fJJU3MYrct3AELtAQ-oRw"


def _key(scalar: str) -> ec.EllipticCurvePrivateKey:
    return ec.derive_private_key(int.from_bytes(base64.urlsafe_b64decode(scalar + "=")), ec.SECP256R1())


def test_the_example_of_rfc_8291_appendix_a() -> None:
    """Byte for byte, so every step in between is right too."""
    body = encrypted(
        b"When I grow up, I want to be a watermelon",
        subscription_keys({"p256dh": P256DH, "auth": AUTH}),
        private_key=_key(SENDER),
        salt=base64.urlsafe_b64decode("DGv6ra1nlYgDCS1FRnbzlw=="),
    )
    assert base64url(body) == (
        "DGv6ra1nlYgDCS1FRnbzlwAAEABBBP4z9KsN6nGRTbVYI_c7VJSPQTBtkgcy27mlmlMoZIIgDll6e3vCYLocInmYWAmS6Tlz"
        "AC8wEqKK6PBru3jl7A_yl95bQpu6cVPTpK4Mqgkf1CXztLVBSt2Ks3oZwbuwXPXLWyouBWLVWGNWQexSgSxsj_Qulcy4a-fN"
    )


@needs_node
@pytest.mark.parametrize("size", [1, 2, 300, MAX_PLAINTEXT_BYTES])
def test_node_decrypts_it(size: int) -> None:
    """A browser does the same; the largest one too is one record, of 4,096 bytes in all."""
    browser = ec.generate_private_key(ec.SECP256R1())
    auth = os.urandom(16)
    body = encrypted(
        b"\xc3\xa9" * (size // 2) + b"x" * (size % 2), SubscriptionKeys(public_point(browser), auth)
    )
    scalar = browser.private_numbers().private_value.to_bytes(32)
    told = {"body": base64url(body), "key": base64url(scalar), "auth": base64url(auth)}
    done = subprocess.run(
        ["node", str(NODE_FOLDER / "decrypt.js"), json.dumps(told)], capture_output=True, check=True
    )
    assert done.stdout == b"\xc3\xa9" * (size // 2) + b"x" * (size % 2)
    assert len(body) == size + 103


@pytest.mark.parametrize("size", [0, MAX_PLAINTEXT_BYTES + 1])
def test_no_record_and_two_records_are_refused(size: int) -> None:
    """The library would write either without a word, and no browser reads it."""
    keys = subscription_keys({"p256dh": P256DH, "auth": AUTH})
    with pytest.raises(ValueError, match="3993"):
        encrypted(b"x" * size, keys)


@pytest.mark.parametrize(
    "keys",
    [
        {},
        {"p256dh": P256DH},
        {"p256dh": P256DH, "auth": "AAAA"},
        {"p256dh": P256DH[:-4], "auth": AUTH},
        {"p256dh": "Z" + P256DH[1:], "auth": AUTH},
        {"p256dh": "é" * 87, "auth": AUTH},
        {"p256dh": P256DH, "auth": "?" * 22},
    ],
)
def test_keys_that_are_none_are_told(keys: dict[str, str]) -> None:
    """Clients register what they like."""
    with pytest.raises(ValueError):
        subscription_keys(keys)


def test_a_point_off_the_curve_is_told() -> None:
    """An invalid-curve attack ends here."""
    with pytest.raises(ValueError):
        encrypted(b"x", SubscriptionKeys(b"\x04" + b"\x01" * 64, b"a" * 16))
