"""Signed requests of an app's backend: what any server of the protocol can check."""

import hashlib
import hmac

import httpx
import msgspec
import pytest
import trio
from hypothesis import given
from hypothesis import strategies as st

import hubbub
from hubbub.notifications import with_key
from hubbub.signing import SignedRequests
from protocol.notify_content import NotifyRequest
from protocol.notify_replies import NotifyAccepted

KEY, SECRET = "ak_1", "a secret of some length"


def test_a_known_signature_comes_out() -> None:
    """Backends in other languages compare with this one."""
    headers = hubbub.sign_request(
        "ak_1",
        "s3cret",
        "post",
        "/v1/notifications?dry=1",
        b'{"type":"order"}',
        timestamp=1700000000,
        nonce="n-1",
    )
    # digest=$(printf '{"type":"order"}' | sha256sum | cut -c-64)
    # printf '1700000000\nn-1\nPOST\n/v1/notifications?dry=1\n%s' $digest | openssl dgst -sha256 -hmac s3cret
    assert headers == {
        "X-Hubbub-Key": "ak_1",
        "X-Hubbub-Timestamp": "1700000000",
        "X-Hubbub-Nonce": "n-1",
        "X-Hubbub-Signature": "v1=62c97b33714c9b885ff3790bb1baa3a0a08a9ccaa1737a2aa16a0da0627b97e4",
    }


@given(body=st.binary(max_size=200), other=st.binary(max_size=200), path=st.text("abc/?=&", max_size=20))
def test_another_body_is_another_signature_and_a_nonce_is_used_once(
    body: bytes, other: bytes, path: str
) -> None:
    """Nobody on the way changes a request, or sends it a second time."""

    def sign(content: bytes) -> dict[str, str]:
        return hubbub.sign_request(KEY, SECRET, "POST", f"/{path}", content, timestamp=1, nonce="n")

    assert (sign(body) == sign(other)) == (body == other)
    first, second = (hubbub.sign_request(KEY, SECRET, "POST", "/", body) for _ in range(2))
    assert first["X-Hubbub-Nonce"] != second["X-Hubbub-Nonce"]


class Door:
    """A server of one address on a real socket: it checks requests as the rule says, and may be busy."""

    def __init__(self, busy: int) -> None:
        self.busy = busy  # so many requests are told to come later
        self.nonces: list[str] = []
        self.requests: list[NotifyRequest] = []

    async def serve(self, stream: trio.SocketStream) -> None:
        buffer = b""
        async with stream:
            while b"\r\n\r\n" not in buffer:
                buffer += await stream.receive_some()
            head, _, body = buffer.partition(b"\r\n\r\n")
            first, *lines = head.decode().split("\r\n")
            headers = {name.lower(): value for name, value in (line.split(": ", 1) for line in lines)}
            while len(body) < int(headers["content-length"]):
                body += await stream.receive_some()
            method, path, _ = first.split()
            status, answer = self.judge(method, path, headers, body)
            await stream.send_all(
                b"HTTP/1.1 %d X\r\ncontent-length: %d\r\nconnection: close\r\n\r\n%b"
                % (status, len(answer), answer)
            )

    def judge(self, method: str, path: str, headers: dict[str, str], body: bytes) -> tuple[int, bytes]:
        nonce, stamp = headers["x-hubbub-nonce"], headers["x-hubbub-timestamp"]
        signed = "\n".join((stamp, nonce, method, path, hashlib.sha256(body).hexdigest()))
        wanted = "v1=" + hmac.new(SECRET.encode(), signed.encode(), hashlib.sha256).hexdigest()
        is_known = headers["x-hubbub-key"] == KEY and "authorization" not in headers
        if not is_known or headers["x-hubbub-signature"] != wanted or nonce in self.nonces:
            return 401, b'{"code": "unauthenticated", "message": "no"}'
        self.nonces.append(nonce)
        if self.busy:
            self.busy -= 1
            return 503, b'{"code": "busy", "message": "later", "retry_after_s": 0.01}'
        self.requests.append(msgspec.json.decode(body, type=NotifyRequest))
        return 200, b'{"request_id": "rq_1"}'


async def test_a_backend_notifies_by_signed_requests_and_tries_again() -> None:
    """The secret stays at home, each try has a nonce of its own, and all of them are one request."""
    door = Door(busy=2)
    with trio.fail_after(20):
        async with trio.open_nursery() as nursery:
            listeners = await trio.open_tcp_listeners(0, host="127.0.0.1")
            port = listeners[0].socket.getsockname()[1]
            nursery.start_soon(trio.serve_listeners, door.serve, listeners)
            async with hubbub.AppBackend(f"http://127.0.0.1:{port}", KEY, SECRET) as backend:
                done = await backend.notify(NotifyRequest(type="order", user_id="u_ann", text="äöü"))
            nursery.cancel_scope.cancel()
    assert done == NotifyAccepted(request_id="rq_1")
    assert len(set(door.nonces)) == 3
    (request,) = door.requests
    assert request.text == "äöü"
    assert len(request.idempotency_key) == 32


async def test_a_query_is_signed_as_it_is_sent() -> None:
    """What httpx escapes is signed as the server sees it."""
    seen: list[httpx.Request] = []

    def answer(request: httpx.Request) -> httpx.Response:
        seen.append(request)
        return httpx.Response(200)

    async with httpx.AsyncClient(
        transport=httpx.MockTransport(answer), auth=SignedRequests(KEY, SECRET)
    ) as client:
        await client.get("http://127.0.0.1/v1/x", params={"q": "a b&c/ä"})
    (request,) = seen
    headers = {name.lower(): value for name, value in request.headers.items()}
    status, _ = Door(0).judge("GET", request.url.raw_path.decode(), headers, b"null")
    assert status == 401  # another body
    signed = hubbub.sign_request(
        KEY,
        SECRET,
        "GET",
        request.url.raw_path.decode(),
        timestamp=int(headers["x-hubbub-timestamp"]),
        nonce=headers["x-hubbub-nonce"],
    )
    assert signed["X-Hubbub-Signature"] == headers["x-hubbub-signature"]
    assert "%20" in request.url.raw_path.decode() or "+" in request.url.raw_path.decode()


def test_a_request_with_a_key_keeps_it() -> None:
    """Who chooses a key is told the same after a crash."""
    request = NotifyRequest(type="order", user_id="u", text="x", idempotency_key="mine")
    assert with_key(request) is request


@pytest.mark.parametrize("method", ["post", "POST"])
def test_the_method_is_signed_in_capitals(method: str) -> None:
    """HTTP's methods are; callers write as they like."""
    one = hubbub.sign_request(KEY, SECRET, method, "/", timestamp=1, nonce="n")
    assert one == hubbub.sign_request(KEY, SECRET, "Post", "/", timestamp=1, nonce="n")
