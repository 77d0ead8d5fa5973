"""Tokens, names and signatures as pure functions: what keeps strangers out."""

import base64
import json
from typing import Any

import jwt
import pytest
from hypothesis import given
from hypothesis import strategies as st

from protocol.errors import HubbubError, Refused
from server import auth

SECRET = bytes(range(32))
KEY = "k_test"
NOW_MS = 1_700_000_000_000
NOW_S = NOW_MS // 1000


def code_of(error: pytest.ExceptionInfo[HubbubError]) -> str:
    return error.value.code


def signed(claims: dict[str, Any], *, secret: str = "", algorithm: str = "HS256", **header: str) -> str:
    return jwt.encode(
        claims, secret or auth.app_secret(SECRET, KEY), algorithm=algorithm, headers={"kid": KEY, **header}
    )


def test_tokens_are_told_apart_and_never_repeat() -> None:
    """The look-up of every connection."""
    tokens = {auth.new_token() for _ in range(100)}
    assert len(tokens) == 100
    assert all(token.startswith("hb_") and not auth.is_jwt(token) for token in tokens)
    assert auth.is_jwt(signed({"sub": "a", "exp": 1}))
    assert len({auth.token_hash(token) for token in tokens}) == 100


def test_an_app_secret_depends_on_the_server_and_on_the_key() -> None:
    """Tenants: a database that leaks holds no secret."""
    secret = auth.app_secret(SECRET, KEY)
    assert secret == auth.app_secret(SECRET, KEY)
    assert secret not in (auth.app_secret(SECRET, "k_other"), auth.app_secret(bytes(32), KEY))
    assert auth.is_app_secret(SECRET, KEY, secret)
    assert not auth.is_app_secret(SECRET, KEY, secret[:-1])
    assert not auth.is_app_secret(SECRET, KEY, "é" * 43)
    assert len(base64.urlsafe_b64decode(secret + "=")) == 32


def test_a_signed_token_tells_its_user() -> None:
    """Backends that sign users in by themselves."""
    token = signed({"sub": "cust 7", "exp": NOW_S + 60, "name": "Carol", "aud": "any", "more": {}})
    assert auth.jwt_key_id(token) == KEY
    claims = auth.verify_jwt(token, auth.app_secret(SECRET, KEY), NOW_MS)
    assert (claims.sub, claims.name) == ("cust 7", "Carol")


@pytest.mark.parametrize(
    "claims",
    [
        {"sub": "a"},
        {"exp": NOW_S + 60},
        {"sub": "", "exp": NOW_S + 60},
        {"sub": "a\n", "exp": NOW_S + 60},
        {"sub": "x" * 256, "exp": NOW_S + 60},
        {"sub": 7, "exp": NOW_S + 60},
        {"sub": "a", "exp": NOW_S - 31},
        {"sub": "a", "exp": NOW_S + 86_400 + 31},
        {"sub": "a", "exp": "soon"},
        {"sub": "a", "exp": NOW_S + 60, "nbf": NOW_S + 50},
        {"sub": "a", "exp": NOW_S + 60, "iat": NOW_S + 50},
        {"sub": "a", "exp": NOW_S + 60, "name": 7},
    ],
)
def test_a_token_with_wrong_claims_is_refused(claims: dict[str, Any]) -> None:
    """Everybody else in the app."""
    raw = jwt.api_jws.encode(
        json.dumps(claims).encode(), auth.app_secret(SECRET, KEY), headers={"kid": KEY, "typ": "JWT"}
    )
    with pytest.raises(Refused) as error:
        auth.verify_jwt(raw, auth.app_secret(SECRET, KEY), NOW_MS)
    assert code_of(error) == "unauthenticated"


def test_a_token_of_another_algorithm_key_or_signature_is_refused() -> None:
    """The classic attacks on JWT: alg none, another HMAC, a cut signature, another key's secret."""
    good = {"sub": "a", "exp": NOW_S + 60}
    secret = auth.app_secret(SECRET, KEY)
    none = jwt.encode(good, "", algorithm="none", headers={"kid": KEY})
    other_algorithm = signed(good, algorithm="HS384", secret="x" * 64)
    for token in (none, other_algorithm, "a.b.c", "..", "é.é.é", signed(good)[1:]):
        with pytest.raises(Refused) as error:
            auth.jwt_key_id(token)
        assert code_of(error) == "unauthenticated"
    for token in (
        none,
        signed(good, secret="x" * 43),
        signed(good)[:-3],
        signed(good, algorithm="HS512", secret=secret * 2),
    ):
        with pytest.raises(Refused) as error:
            auth.verify_jwt(token, secret, NOW_MS)
        assert code_of(error) == "unauthenticated"
    no_kid = jwt.encode(good, secret, algorithm="HS256")
    with pytest.raises(Refused):
        auth.jwt_key_id(no_kid)


@given(st.text(max_size=200))
def test_any_text_at_all_is_refused_as_a_token_and_nothing_worse(text: str) -> None:
    """The node: a token is the first thing a stranger sends."""
    auth.token_hash(text)
    with pytest.raises(Refused):
        auth.jwt_key_id(text)
    with pytest.raises(Refused):
        auth.verify_jwt(text, auth.app_secret(SECRET, KEY), NOW_MS)
    with pytest.raises(Refused):
        auth.verify_file_grant(SECRET, text, NOW_MS)


def test_a_file_grant_opens_one_app_and_stays_the_same_for_an_hour() -> None:
    """Browsers' caches, and other tenants."""
    grant, expires_at_ms = auth.sign_file_grant(SECRET, "a_1", NOW_MS)
    assert auth.verify_file_grant(SECRET, grant, NOW_MS) == "a_1"
    assert NOW_MS + 3_600_000 <= expires_at_ms <= NOW_MS + 7_200_000
    hour_start = NOW_MS // 3_600_000 * 3_600_000
    assert auth.sign_file_grant(SECRET, "a_1", hour_start) == auth.sign_file_grant(
        SECRET, "a_1", hour_start + 3_599_999
    )
    forged = grant.replace("a_1", "a_2")
    longer = grant.replace(str(expires_at_ms), str(expires_at_ms + 1))
    for bad, now_ms in [(forged, NOW_MS), (longer, NOW_MS), (grant, expires_at_ms)]:
        with pytest.raises(Refused) as error:
            auth.verify_file_grant(SECRET, bad, now_ms)
        assert code_of(error) == "unauthenticated"
    with pytest.raises(Refused):
        auth.verify_file_grant(bytes(32), grant, NOW_MS)


@pytest.mark.parametrize(
    ("raw", "shown", "key"),
    [
        ("ann", "ann", "ann"),
        ("  Ann_B.7- ", "Ann_B.7-", "ann_b.7-"),
        ("ＡＮＮ", "ANN", "ann"),
        ("Straße", "Straße", "strasse"),
        ("José", "José", "josé"),
        ("Jose\u0301", "José", "josé"),
        ("Анна", "Анна", "анна"),
        ("山田taro", "山田taro", "山田taro"),
        ("さとうカナ", "さとうカナ", "さとうカナ"),
        ("अनीता", "अनीता", "अनीता"),
        ("42", "42", "42"),
    ],
)
def test_user_names_of_many_scripts_are_accepted(raw: str, shown: str, key: str) -> None:
    """People whose name is not English."""
    assert auth.checked_username(raw) == (shown, key)


@pytest.mark.parametrize(
    "raw",
    [
        "a", "x" * 33, "", ".ann", "-ann", "_ann", "a b", "a/b", "a@b", "a\tb", "ann\u200b", "ann\u202e",
        "аnn",  # Cyrillic а
        "αnn",  # Greek alpha
        "anո",  # Armenian
        "a٣",  # an Arabic digit
        "a😀", "a\0b", "\u0301ann",
    ],
)  # fmt: skip
def test_user_names_that_could_pass_for_another_are_refused(raw: str) -> None:
    """Everybody who reads a name and trusts it."""
    with pytest.raises(HubbubError) as error:
        auth.checked_username(raw)
    assert code_of(error) == "bad_field"


@pytest.mark.parametrize("raw", ["admin", "Admin", "ＡＤＭＩＮ", "System", "everyone", "hubbub"])
def test_reserved_names_are_the_operators_to_give(raw: str) -> None:
    """People who take `admin` for an admin."""
    with pytest.raises(Refused) as error:
        auth.checked_username(raw)
    assert code_of(error) == "name_taken"
    assert auth.checked_username(raw, allow_reserved=True)[1] == raw.lower().translate(
        {code: code - 0xFEE0 for code in range(0xFF21, 0xFF5B)}
    )


@given(st.text(max_size=40))
def test_a_user_name_that_is_accepted_is_accepted_again_with_the_same_key(raw: str) -> None:
    """Log-in, which folds what sign-up has stored."""
    try:
        shown, key = auth.checked_username(raw)
    except HubbubError as exc:
        assert exc.code in ("bad_field", "name_taken")
        return
    assert auth.checked_username(shown) == (shown, key)
    assert auth.fold(shown) == key
    assert auth.fold(raw.strip()) == key


@given(st.text(max_size=80))
def test_a_name_is_tidied_once(raw: str) -> None:
    """Clients that show it in one line."""
    try:
        shown = auth.checked_name(raw)
    except HubbubError as exc:
        assert exc.code == "bad_field"
        return
    assert auth.checked_name(shown) == shown
    assert "\n" not in shown
    assert "\u202e" not in shown


def test_names_keep_emoji_with_joiners() -> None:
    """Families."""
    assert auth.checked_name("👩‍👩‍👧 Ann") == "👩‍👩‍👧 Ann"


@pytest.mark.parametrize(
    ("password", "username", "code"),
    [
        ("short", "ann", "weak_password"),
        ("annabella", "annabella", "weak_password"),
        ("AnnaBella1", "annabella", "weak_password"),
        ("password123", "ann", "weak_password"),
        ("aaaaaaaaaaaa", "ann", "weak_password"),
        ("x" * 257, "ann", "bad_field"),
    ],
)
def test_weak_passwords_are_refused(password: str, username: str, code: str) -> None:
    """Everybody whose account would be guessed first."""
    with pytest.raises(HubbubError) as error:
        auth.check_password(password, username)
    assert code_of(error) == code


def test_long_and_foreign_passwords_are_accepted() -> None:
    """Password managers."""
    for password in ("correct horse 7", "пароль-длинный", "x1y2" * 64):
        auth.check_password(password, "ann")


@pytest.mark.parametrize(
    ("raw", "tag"),
    [
        ("", ""), ("EN", "en"), ("pt-br", "pt-BR"), ("ZH-hant-tw", "zh-Hant-TW"), ("es-419", "es-419"),
        ("de-CH-1996", "de-CH-1996"), ("en-u-ca-gregory", "en-u-ca-gregory"), ("sl-rozaj", "sl-rozaj"),
    ],
)  # fmt: skip
def test_languages_get_their_usual_letter_case(raw: str, tag: str) -> None:
    """Templates that look translations up."""
    assert auth.checked_language(raw) == tag


@pytest.mark.parametrize("raw", ["e", "english language", "en_US", "en-", "-en", "x" * 36, "12", "en--US"])
def test_what_is_no_language_is_refused(raw: str) -> None:
    """The same templates."""
    with pytest.raises(HubbubError) as error:
        auth.checked_language(raw)
    assert code_of(error) == "bad_field"


def test_time_zones_are_those_that_this_machine_knows() -> None:
    """Quiet hours and digests."""
    assert auth.checked_time_zone("") == ""
    assert auth.checked_time_zone("Europe/Berlin") == "Europe/Berlin"
    for raw in ("Europe/Nowhere", "/etc/localtime", "../x", "europe/berlin!"):
        with pytest.raises(HubbubError) as error:
            auth.checked_time_zone(raw)
        assert code_of(error) == "bad_field"
