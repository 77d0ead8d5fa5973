"""URLs, user tokens, kept log-ins and what is shown: the small parts people trip over."""

from pathlib import Path

import jwt
import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.console import Console

import hubbub
from hubbub.accounts import http_base
from hubbub.endpoint import parse_url
from hubbub.terminal.logins import LoginFile, SavedLogin
from hubbub.terminal.text import clean, message_line
from protocol.codec import Wire
from protocol.types import Message, Reaction


@pytest.mark.parametrize(
    ("url", "shown"),
    [
        ("http://127.0.0.1:8080", "ws://127.0.0.1:8080/ws"),
        ("https://chat.example", "wss://chat.example:443/ws"),
        ("https://example.com/chat/", "wss://example.com:443/chat/ws"),
        ("ws://host:1/other", "ws://host:1/other"),
        ("hubbub://host", "hubbub://host:8081"),
        ("hubbubs://host:9", "hubbubs://host:9"),
        ("localhost:8080", "ws://localhost:8080/ws"),
    ],
)
def test_urls_are_read_as_people_write_them(url: str, shown: str) -> None:
    """One address serves for the page, the API and the SDK."""
    assert str(parse_url(url)) == shown


@pytest.mark.parametrize("url", ["", "ftp://host", "http://", "http://host:port"])
def test_a_wrong_url_is_explained(url: str) -> None:
    """The error is a sentence, not a traceback from below."""
    with pytest.raises(ValueError, match=r"."):
        parse_url(url)


def test_a_websocket_may_speak_json_and_tcp_may_not() -> None:
    """`wire` chooses between the two subprotocols."""
    assert parse_url("ws://h", wire=Wire.JSON_WS).wire is Wire.JSON_WS
    assert parse_url("hubbub://h", wire=Wire.JSON_WS).wire is Wire.MSGPACK_TCP


@pytest.mark.parametrize(
    ("url", "base"),
    [("ws://h:1/ws", "http://h:1"), ("wss://h", "https://h"), ("h:8080", "http://h:8080")],
)
def test_the_api_is_found_from_any_url_of_the_public_port(url: str, base: str) -> None:
    """People give one address."""
    assert http_base(url) == base


@given(external_id=st.text(min_size=1, max_size=50), name=st.text(max_size=20))
def test_user_tokens_are_valid_jwts(external_id: str, name: str) -> None:
    """An app's backend that uses the SDK signs what servers accept."""
    secret = "a secret of more than thirty-two bytes"
    token = hubbub.sign_user_token("key", secret, external_id, ttl_s=60, name=name)
    assert jwt.get_unverified_header(token)["kid"] == "key"
    claims = jwt.decode(token, secret, algorithms=["HS256"])
    assert (claims["sub"], claims["name"]) == (external_id, name)
    assert claims["exp"] - claims["iat"] == 60


def test_logins_are_kept_by_server_and_only_for_their_owner(tmp_path: Path) -> None:
    """A token is a password; other users of the machine must not read it."""
    path = tmp_path / "config" / "hubbub" / "logins.json"
    logins = LoginFile(path)
    assert logins.load("http://a") is None
    for server in ("http://a", "http://b"):
        logins.save(server, SavedLogin(token=server, username="ann", device_id="d"))
    assert path.stat().st_mode & 0o777 == 0o600
    assert path.parent.stat().st_mode & 0o777 == 0o700
    logins.save("http://a", None)
    assert logins.load("http://a") is None
    kept = logins.load("http://b")
    assert kept is not None
    assert kept.token == "http://b"
    path.write_bytes(b"broken")
    assert logins.load("http://b") is None


@given(st.text())
def test_what_others_write_cannot_command_the_terminal(text: str) -> None:
    """No escape codes, no carriage returns, no marks that turn the direction of text."""
    shown = clean(text)
    assert all(char.isprintable() or char == "\n" for char in shown)


def test_a_message_is_shown_as_it_now_is() -> None:
    """Edited, deleted and reacted-to messages look like it."""

    def shown(message: Message) -> str:
        console = Console(width=200)
        with console.capture() as capture:
            console.print(message_line(message, "Ann", is_mine=False, now=0.0))
        return capture.get()

    message = Message(conversation_id="c", seq=7, at_ms=0, user_id="u", text="[bold]hi[/]", reply_to=3)
    assert "   7 Ann → 3: [bold]hi[/]" in shown(message)
    edited = Message(
        conversation_id="c",
        seq=7,
        at_ms=0,
        user_id="u",
        text="new",
        edited_at_ms=1,
        reactions=[Reaction(emoji="👍", user_ids=["a", "b"])],
    )
    assert "new (edited)  👍 2" in shown(edited)
    assert "(deleted)" in shown(Message(conversation_id="c", seq=7, at_ms=0, user_id="u", deleted=True))
