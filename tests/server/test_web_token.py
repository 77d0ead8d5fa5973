"""JSON Web Tokens, against a library that knows all of the standard."""

import base64
import json
from typing import Any

import jwt
import pytest
from hypothesis import given
from hypothesis import strategies as st

from server.web_token import BadSignature, BadToken, header_of, sign, verified_payload

SECRET = b"0123456789abcdef0123456789abcdef"
OTHER = SECRET[::-1]

claim_sets = st.dictionaries(
    st.text(max_size=9).filter(lambda name: name not in {"exp", "nbf", "iat", "aud", "iss", "sub", "jti"}),
    st.none() | st.booleans() | st.integers(-(2**53), 2**53) | st.text(max_size=30),
    max_size=5,
)


@given(claim_sets, st.text(min_size=1, max_size=20))
def test_what_the_library_signs_is_verified_here_and_the_other_way_round(
    claims: dict[str, Any], kid: str
) -> None:
    """Backends in any language sign with a library like it."""
    theirs = jwt.encode(claims, SECRET, "HS256", headers={"kid": kid})
    assert json.loads(verified_payload(theirs, SECRET)) == claims
    assert header_of(theirs).kid == kid
    ours = sign(claims, SECRET, kid)
    assert jwt.decode(ours, SECRET, algorithms=["HS256"]) == claims
    assert jwt.get_unverified_header(ours)["kid"] == kid


@given(claim_sets, st.data())
def test_a_token_with_any_character_changed_is_refused(claims: dict[str, Any], data: st.DataObject) -> None:
    """The signature covers every character, and is itself spelt in one way only."""
    token = sign(claims, SECRET, "key")
    at = data.draw(st.integers(0, len(token) - 1))
    other = data.draw(st.characters(codec="ascii").filter(lambda char: char != token[at]))
    with pytest.raises(BadToken):
        verified_payload(token[:at] + other + token[at + 1 :], SECRET)


def test_another_secret_is_a_bad_signature() -> None:
    """Who reads the answer looks for a wrong secret, not for a broken token."""
    with pytest.raises(BadSignature):
        verified_payload(sign({"sub": "ann"}, OTHER, "key"), SECRET)


@pytest.mark.parametrize(
    "header",
    [
        {"alg": "none"},
        {"alg": "hs256"},
        {"alg": "HS384"},
        {"alg": "HS256", "crit": ["b64"], "b64": False},
        {"alg": "HS256", "crit": []},
        {"alg": ["HS256"]},
        {"typ": "JWT"},
        ["HS256"],
    ],
)
def test_a_header_that_asks_for_anything_else_is_refused_though_the_mac_is_right(header: object) -> None:
    """What we do not know must not be passed over (RFC 7515 section 4.1.11)."""
    right = sign({"sub": "ann"}, SECRET, "key")
    payload = right.split(".")[1]
    signed = f"{_part(json.dumps(header).encode())}.{payload}"
    mac = jwt.algorithms.HMACAlgorithm(jwt.algorithms.HMACAlgorithm.SHA256).sign(signed.encode(), SECRET)
    with pytest.raises(BadToken):
        verified_payload(f"{signed}.{_part(mac)}", SECRET)


@pytest.mark.parametrize(
    "change", ["{}=", " {}", "{}\n", "{}.", ".{}", "{}.x", "", "..", "a.b", "a.b.c", "é.é.é", "{}é"]
)
def test_what_is_not_exactly_three_parts_is_refused(change: str) -> None:
    """Two readers of one token must not see two tokens."""
    with pytest.raises(BadToken):
        verified_payload(change.format(sign({"sub": "ann"}, SECRET, "key")), SECRET)


@given(st.text(alphabet="AQ-_.= eyJ", max_size=60))
def test_any_text_is_refused_and_nothing_worse(text: str) -> None:
    """It is the first thing a stranger sends."""
    with pytest.raises(BadToken):
        verified_payload(text, SECRET)


def _part(raw: bytes) -> str:
    return base64.urlsafe_b64encode(raw).rstrip(b"=").decode()
