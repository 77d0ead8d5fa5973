"""The WebSocket upgrade: what is answered, and what is refused."""

import pytest
from wsproto import ConnectionType, WSConnection
from wsproto.events import AcceptConnection
from wsproto.events import Request as UpgradeRequest

from protocol.codec import Wire
from server.listener import HandshakeFailed, RequestHead, parse_head
from server.upgrade import upgrade

REQUEST = (
    b"GET /ws HTTP/1.1\r\nHost: chat.test\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
    b"Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n\r\n"
)


def test_the_example_of_the_rfc_gets_the_rfcs_answer() -> None:
    """RFC 6455 section 1.3 gives this key and this answer; every browser checks it."""
    answer, wire = upgrade(parse_head(REQUEST))
    assert b"\r\nSec-WebSocket-Accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=\r\n" in answer
    assert answer.startswith(b"HTTP/1.1 101 ")
    assert answer.endswith(b"\r\n\r\n")
    assert b"Protocol:" not in answer
    assert wire is Wire.JSON_WS


@pytest.mark.parametrize("offered", [[], ["hubbub.msgpack"], ["other", "hubbub.json"], ["other"]])
def test_a_client_library_accepts_the_answer(offered: list[str]) -> None:
    """The library writes the request and judges what comes back, the chosen subprotocol included."""
    client = WSConnection(ConnectionType.CLIENT)
    sent = client.send(UpgradeRequest(host="chat.test", target="/ws", subprotocols=offered))
    answer, wire = upgrade(parse_head(sent))
    client.receive_data(answer)
    (accepted,) = client.events()
    assert isinstance(accepted, AcceptConnection)
    known = [name for name in offered if name.startswith("hubbub.")]
    assert accepted.subprotocol == (known[0] if known else None)
    assert wire is (Wire.MSGPACK_WS if "hubbub.msgpack" in known else Wire.JSON_WS)


@pytest.mark.parametrize(
    ("old", "new"),
    [
        (b"HTTP/1.1", b"HTTP/1.0"),
        (b"GET", b"POST"),
        (b"Host: chat.test\r\n", b""),
        (b"Host: chat.test", b"Host:"),
        (b"Host: chat.test", b"Host: chat.test\r\nHost: other.test"),
        (b"chat.test", b"\xff.test"),
        (b"chat.test", b"chat .test"),
        (b"chat.test", b"chat.test\nX: y"),
        (b"chat.test", b"chat.test\rX: y"),
        (b"Host", b"Ho(st"),
        (b"Upgrade: websocket", b"Upgrade: notwebsocket"),
        (b"Connection: Upgrade", b"Connection: keep-alive"),
        (b"Connection: Upgrade", b"Connection: Upgrade\r\nContent-Length: 5"),
        (b"Connection: Upgrade", b"Connection: Upgrade\r\nTransfer-Encoding: chunked"),
        (b"Sec-WebSocket-Key: ", b"Sec-WebSocket-Key: AAAA\r\nSec-WebSocket-Key: "),
        (b"dGhlIHNhbXBsZSBub25jZQ==", b"dGhlIHNhbXBsZSBub25j"),
        (b"dGhlIHNhbXBsZSBub25jZQ==", b"dGhlIHNhbXBsZSBub25j!Q=="),
        (b"dGhlIHNhbXBsZSBub25jZQ==", b"dGhlIHNhbXBsZSBub25jZQQQ"),
    ],
)
def test_what_is_not_quite_an_upgrade_is_refused(old: bytes, new: bytes) -> None:
    """A request that a proxy may read otherwise than we do opens nothing."""
    assert old in REQUEST
    with pytest.raises(HandshakeFailed) as refused:
        upgrade(parse_head(REQUEST.replace(old, new, 1)))
    assert refused.value.reason == "bad_upgrade"
    assert refused.value.answer.startswith(b"HTTP/1.1 400 ")


@pytest.mark.parametrize("connection", ["keep-alive, Upgrade", "upgrade", "Upgrade,close"])
def test_words_of_a_header_are_found_in_any_case_and_place(connection: str) -> None:
    """Firefox sends "keep-alive, Upgrade"."""
    head = parse_head(REQUEST.replace(b"Connection: Upgrade", b"Connection: " + connection.encode()))
    assert upgrade(head)[1] is Wire.JSON_WS


def test_another_version_is_told_ours() -> None:
    """RFC 6455 section 4.4: so the client can try again."""
    with pytest.raises(HandshakeFailed) as refused:
        upgrade(parse_head(REQUEST.replace(b"Version: 13", b"Version: 8")))
    assert b"HTTP/1.1 426 " in refused.value.answer
    assert b"\r\nsec-websocket-version: 13\r\n" in refused.value.answer


def test_a_head_knows_its_version() -> None:
    """HTTP/1.0 cannot be upgraded."""
    assert RequestHead("GET", "/ws", {}).is_http_11
    assert not parse_head(b"GET /ws HTTP/1.0\r\n\r\n").is_http_11
