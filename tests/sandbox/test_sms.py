"""What the fakes of Twilio and Vonage check, asked by httpx; receipts arrive at a listener of the test's."""

import base64
import hashlib
import hmac
from collections.abc import AsyncIterator
from typing import Any
from urllib.parse import parse_qsl

import h11
import httpx
import pytest
import trio

from server.sandbox import Fault, Sandbox
from server.sandbox.receipts import twilio_signature, vonage_signature
from server.sandbox.sms_text import segment_count
from tests.sandbox.clients import http_client, trusting

TO = "+4915112345678"
CREATED_KEYS = {
    *("account_sid", "api_version", "body", "date_created", "date_sent", "date_updated", "direction"),
    *("error_code", "error_message", "from", "messaging_service_sid", "num_media", "num_segments"),
    *("price", "price_unit", "sid", "status", "subresource_uris", "to", "uri"),
}


class Callbacks:
    """A small HTTP server that keeps what is posted to it."""

    def __init__(self) -> None:
        self.url = ""
        self.send, self.receive = trio.open_memory_channel[tuple[dict[str, str], dict[str, str]]](100)

    async def serve(self, stream: trio.SocketStream) -> None:
        connection = h11.Connection(h11.SERVER)
        headers: dict[str, str] = {}
        body = b""
        while True:
            event = connection.next_event()
            if event is h11.NEED_DATA:
                connection.receive_data(await stream.receive_some())
            elif isinstance(event, h11.Request):
                headers, body = {name.decode(): value.decode() for name, value in event.headers}, b""
            elif isinstance(event, h11.Data):
                body += event.data
            elif isinstance(event, h11.EndOfMessage):
                self.send.send_nowait((headers, dict(parse_qsl(body.decode(), keep_blank_values=True))))
                answer = h11.Response(status_code=204, headers=[])
                await stream.send_all(
                    (connection.send(answer) or b"") + (connection.send(h11.EndOfMessage()) or b"")
                )
                connection.start_next_cycle()
            else:
                return

    async def take(self, count: int) -> list[tuple[dict[str, str], dict[str, str]]]:
        with trio.fail_after(5):
            return [await self.receive.receive() for _ in range(count)]


@pytest.fixture
async def callbacks() -> AsyncIterator[Callbacks]:
    callbacks = Callbacks()
    async with trio.open_nursery() as nursery:
        listeners = await trio.open_tcp_listeners(0, host="127.0.0.1")
        callbacks.url = (
            f"http://127.0.0.1:{listeners[0].socket.getsockname()[1]}/status?app=1&delivery_id=d_3"
        )
        nursery.start_soon(trio.serve_listeners, callbacks.serve, listeners)
        yield callbacks
        nursery.cancel_scope.cancel()


async def send(
    sandbox: Sandbox, *, auth: tuple[str, str] | None = None, **form: str | None
) -> httpx.Response:
    """Post to Twilio's Messages.json; a None leaves a field out."""
    config = sandbox.configs().twilio
    fields = {"To": TO, "From": config.sender, "Body": "Your code is 123456", **form}
    async with http_client(sandbox) as client:
        return await client.post(
            f"{sandbox.twilio_url}/2010-04-01/Accounts/{config.account_sid}/Messages.json",
            data={name: value for name, value in fields.items() if value is not None},
            auth=auth or (config.account_sid, config.secret),
        )


def test_twilios_signature_is_theirs() -> None:
    """The vector of the tests of Twilio's own libraries, and the same computed here without our code."""
    url = "https://mycompany.com/myapp.php?foo=1&bar=2"
    form = {
        "To": "+18005551212",
        "Digits": "1234",
        "From": "+14158675309",
        "Caller": "+14158675309",
        "CallSid": "CA1234567890ABCDE",
    }
    text = (
        b"https://mycompany.com/myapp.php?foo=1&bar=2CallSidCA1234567890ABCDECaller+14158675309"
        b"Digits1234From+14158675309To+18005551212"
    )
    # HMAC by its definition (RFC 2104), of SHA-1 with a key that is shorter than a block of 64 bytes.
    key = b"12345".ljust(64, b"\0")
    inner = hashlib.sha1(bytes(byte ^ 0x36 for byte in key) + text).digest()
    expected = base64.b64encode(hashlib.sha1(bytes(byte ^ 0x5C for byte in key) + inner).digest()).decode()
    assert expected == "RSOYDt4T1cUTdK1PDd93/VVr8B8="  # as in twilio-php's RequestValidatorTest
    assert twilio_signature("12345", url, form) == expected


async def test_a_good_text_is_answered_as_twilio_does(sandbox: Sandbox) -> None:
    """Apps read sid, status and num_segments of it."""
    response = await send(sandbox, Body="ä" * 161)
    assert response.status_code == 201
    message = response.json()
    assert set(message) == CREATED_KEYS
    assert message["sid"].startswith("SM")
    assert len(message["sid"]) == 34
    assert (message["status"], message["num_segments"], message["to"]) == ("queued", "2", TO)
    (delivery,) = sandbox.deliveries("sms")
    assert (delivery.service, delivery.address, delivery.id) == ("twilio", TO, message["sid"])
    assert delivery.content["form"]["Body"] == "ä" * 161


@pytest.mark.parametrize(
    ("changes", "status", "code"),
    [
        ({"To": None}, 400, 21604),
        ({"To": "12345"}, 400, 21211),
        ({"To": "+49 151"}, 400, 21211),
        ({"From": None}, 400, 21603),
        ({"From": "+15550001111"}, 400, 21606),
        ({"MessagingServiceSid": "MGunknown"}, 404, 21701),
        ({"Body": None}, 400, 21602),
        ({"Body": "x" * 1_601}, 400, 21617),
        ({"ValidityPeriod": "0"}, 400, 21624),
        ({"ValidityPeriod": "36001"}, 400, 21624),
        ({"StatusCallback": "http://my_host/x"}, 400, 21609),
        ({"StatusCallback": "ftp://host/x"}, 400, 21609),
        ({"auth": ("AC0", "secret")}, 401, 20003),
    ],
)
async def test_a_mistake_gets_twilios_code(
    sandbox: Sandbox, changes: dict[str, Any], status: int, code: int
) -> None:
    """Codes decide: retry, suppress, or alert."""
    response = await send(sandbox, **changes)
    assert (response.status_code, response.json()["code"], response.json()["status"]) == (
        status,
        code,
        status,
    )
    assert set(response.json()) == {"code", "message", "more_info", "status"}
    assert sandbox.count("twilio") == 0


async def test_limits_api_keys_and_services_are_allowed(sandbox: Sandbox) -> None:
    """What is just allowed is taken."""
    sid = sandbox.configs().twilio.account_sid
    sandbox.twilio.api_keys["SK1"] = "s3cret"
    assert (await send(sandbox, Body="x" * 1_600, ValidityPeriod="36000")).status_code == 201
    response = await send(sandbox, auth=("SK1", "s3cret"), From=None, MessagingServiceSid="MG" + sid[2:])
    assert (response.status_code, response.json()["status"]) == (201, "accepted")
    assert (await send(sandbox, auth=("SK1", ""))).status_code == 401


async def test_stop_suppresses_until_start(sandbox: Sandbox) -> None:
    """21610 is a withdrawn consent, not a failure."""
    sandbox.twilio.stop(TO)
    assert (await send(sandbox)).json()["code"] == 21610
    sandbox.twilio.start(TO)
    assert (await send(sandbox)).status_code == 201


async def test_injected_codes(sandbox: Sandbox) -> None:
    """20429 was never processed; others are named by their code."""
    sandbox.inject(Fault(channel="twilio", status=429, retry_after_s=2, times=1))
    sandbox.inject(Fault(channel="twilio", status=400, code="21614", times=1))
    response = await send(sandbox)
    assert (response.status_code, response.json()["code"]) == (429, 20429)
    assert response.headers["retry-after"] == "2"
    response = await send(sandbox)
    assert (response.status_code, response.json()["code"]) == (400, 21614)


async def test_status_callbacks_come_in_order_and_signed(sandbox: Sandbox, callbacks: Callbacks) -> None:
    """queued, sent, delivered; the resource says the same in the end."""
    sid = (await send(sandbox, StatusCallback=callbacks.url)).json()["sid"]
    posts = await callbacks.take(3)
    assert [form["MessageStatus"] for _, form in posts] == ["queued", "sent", "delivered"]
    token = sandbox.configs().twilio.auth_token
    for headers, form in posts:
        assert form["MessageSid"] == form["SmsSid"] == sid
        text = callbacks.url + "".join(name + form[name] for name in sorted(form))
        digest = hmac.new(token.encode(), text.encode(), "sha1").digest()
        assert headers["x-twilio-signature"] == base64.b64encode(digest).decode()
    assert sandbox.deliveries("twilio")[0].identity == "d_3"
    config = sandbox.configs().twilio
    async with http_client(sandbox) as client:
        path = f"{sandbox.twilio_url}/2010-04-01/Accounts/{config.account_sid}/Messages"
        auth = (config.account_sid, config.secret)
        assert (await client.get(f"{path}/{sid}.json", auth=auth)).json()["status"] == "delivered"
        assert (await client.get(f"{path}/SM0.json", auth=auth)).json()["code"] == 20404


async def test_status_callbacks_can_be_doubled_and_out_of_order(
    sandbox: Sandbox, callbacks: Callbacks
) -> None:
    """Receivers have to take them as a state that only moves forward."""
    sandbox.inject(Fault(channel="twilio", receipts_doubled=True, receipts_reversed=True, times=1))
    await send(sandbox, StatusCallback=callbacks.url)
    posts = await callbacks.take(6)
    expected = ["delivered", "delivered", "sent", "sent", "queued", "queued"]
    assert [form["MessageStatus"] for _, form in posts] == expected


async def test_undelivered_texts_have_an_error_code(sandbox: Sandbox, callbacks: Callbacks) -> None:
    """30008 means: once more, by another provider."""
    sandbox.inject(Fault(channel="twilio", match=TO, receipt="undelivered", receipt_code="30008"))
    await send(sandbox, StatusCallback=callbacks.url)
    posts = await callbacks.take(3)
    assert [form.get("ErrorCode") for _, form in posts] == [None, None, "30008"]
    sandbox.faults.clear()
    sandbox.inject(Fault(channel="twilio", receipt="none", times=1))
    await send(sandbox, StatusCallback=callbacks.url, Body="lost")
    await send(sandbox, StatusCallback=callbacks.url, Body="told")
    assert [form["MessageStatus"] for _, form in await callbacks.take(3)] == ["queued", "sent", "delivered"]
    assert sandbox.count("twilio") == 3


async def test_callbacks_leave_this_machine_never(sandbox: Sandbox, callbacks: Callbacks) -> None:
    """A test must not post to whatever host its data names."""
    await send(sandbox, StatusCallback="http://callbacks.example.com/x")
    await send(sandbox, StatusCallback=callbacks.url)
    await callbacks.take(3)
    assert {posted.url for posted in sandbox.postman.posted} <= {callbacks.url}


async def test_a_dropped_answer_leaves_a_double_behind(sandbox: Sandbox) -> None:
    """The sender that tries again sent two texts, and the sandbox counts them."""
    sandbox.inject(Fault(channel="twilio", drop_after_accept=True, times=1))
    with pytest.raises(httpx.TransportError):
        await send(sandbox)
    assert (await send(sandbox)).status_code == 201
    assert list(sandbox.doubles("sms").values()) == [2]


# -- Vonage -----------------------------------------------------------------------------------------


async def send_vonage(sandbox: Sandbox, *, as_json: bool = False, **fields: str | None) -> dict[str, Any]:
    config = sandbox.configs().vonage
    form = {
        "api_key": config.api_key,
        "api_secret": config.api_secret,
        "from": config.sender,
        "to": TO[1:],
        "text": "Your code is 123456",
        **{name.replace("_ref", "-ref").rstrip("_"): value for name, value in fields.items()},
    }
    form = {name: value for name, value in form.items() if value is not None}
    async with http_client(sandbox) as client:
        body: dict[str, Any] = {"json": form} if as_json else {"data": form}
        response = await client.post(f"{sandbox.vonage_url}/sms/json", **body)
    assert response.status_code == 200
    answer: dict[str, Any] = response.json()
    assert answer["message-count"] == str(len(answer["messages"]))
    return answer


@pytest.mark.parametrize("as_json", [True, False])
async def test_vonage_takes_forms_and_json(sandbox: Sandbox, as_json: bool) -> None:
    """A long text is answered part by part."""
    answer = await send_vonage(sandbox, as_json=as_json, text="x" * 200, client_ref="d_5")
    assert [message["status"] for message in answer["messages"]] == ["0", "0"]
    (delivery,) = sandbox.deliveries("vonage")
    assert (delivery.identity, delivery.id) == ("d_5", answer["messages"][0]["message-id"])
    assert "api_secret" not in delivery.content["form"]


@pytest.mark.parametrize(
    ("fields", "status"),
    [
        ({"api_secret": "wrong"}, "4"),
        ({"to": None}, "2"),
        ({"text": ""}, "2"),
        ({"to": TO}, "3"),
        ({"to": "0151"}, "3"),
        ({"from_": "A name too long"}, "15"),
        ({"text": "x" * 3_201}, "12"),
        ({"text": "Привет"}, "6"),
        ({"type": "mms"}, "3"),
        ({"ttl": "5"}, "3"),
        ({"callback": "example.com"}, "23"),
    ],
)
async def test_vonages_mistakes_have_a_status_inside_a_200(
    sandbox: Sandbox, fields: dict[str, Any], status: str
) -> None:
    """Who looks at the HTTP status alone believes that all was sent."""
    answer = await send_vonage(sandbox, **fields)
    assert [message["status"] for message in answer["messages"]] == [status]
    assert answer["messages"][0]["error-text"]
    assert sandbox.count("vonage") == 0


async def test_vonages_receipts_are_signed(sandbox: Sandbox, callbacks: Callbacks) -> None:
    """With the SHA-256 of their signed webhooks."""
    await send_vonage(sandbox, callback=callbacks.url, client_ref="a=b&c", text="Привет", type="unicode")
    posts = await callbacks.take(2)
    assert [form["status"] for _, form in posts] == ["accepted", "delivered"]
    secret = sandbox.configs().vonage.signature_secret
    for _, form in posts:
        assert form["client-ref"] == "a=b&c"
        text = "".join(
            f"&{name}={form[name].replace('&', '_').replace('=', '_')}"
            for name in sorted(form)
            if name != "sig"
        )
        assert form["sig"].lower() == hmac.new(secret.encode(), text.encode(), "sha256").hexdigest()
    assert vonage_signature("s", {"a": "1", "sig": "x"}) == vonage_signature("s", {"a": "1"})


async def test_vonages_faults(sandbox: Sandbox, callbacks: Callbacks) -> None:
    """`sms` hits both providers; a status word in `code` makes an answer of Vonage's kind."""
    sandbox.inject(Fault(channel="vonage", status=429, code="1", times=1))
    assert (await send_vonage(sandbox))["messages"][0]["status"] == "1"
    sandbox.vonage.barred.add(TO[1:])
    assert (await send_vonage(sandbox))["messages"][0]["status"] == "7"
    sandbox.vonage.barred.clear()
    sandbox.inject(Fault(channel="sms", match=TO, receipt="undelivered", receipt_code="5"))
    await send_vonage(sandbox, callback=callbacks.url)
    _, form = (await callbacks.take(2))[1]
    assert (form["status"], form["err-code"]) == ("failed", "5")
    with sandbox.outage("twilio"):
        with pytest.raises(httpx.TransportError):
            await send(sandbox)
        assert (await send_vonage(sandbox))["messages"][0]["status"] == "0"


@pytest.mark.parametrize(
    ("text", "count"),
    [
        *[("", 1), ("x" * 160, 1), ("x" * 161, 2), ("x" * 306, 2), ("x" * 307, 3)],
        *[("€" * 80, 1), ("€" * 81, 2), ("😀" * 35, 1), ("😀" * 36, 2)],
        *[("Ж" * 70, 1), ("Ж" * 71, 2), ("Ж" * 134, 2), ("Ж" * 135, 3)],
    ],
)
def test_segments_are_counted_as_operators_do(text: str, count: int) -> None:
    """Texts are paid by the segment."""
    assert segment_count(text) == count


async def test_each_provider_has_a_host_of_its_own(sandbox: Sandbox) -> None:
    """A sender that takes one for the other finds nothing there, as at the real ones."""
    assert sandbox.configs().twilio.base_url == sandbox.twilio_url
    assert sandbox.configs().vonage.base_url == sandbox.vonage_url
    assert sandbox.twilio_url != sandbox.vonage_url
    async with http_client(sandbox) as client:
        sid = sandbox.configs().twilio.account_sid
        strayed = await client.post(f"{sandbox.vonage_url}/2010-04-01/Accounts/{sid}/Messages.json", data={})
        assert strayed.status_code == 404
        assert (await client.post(f"{sandbox.twilio_url}/sms/json", data={})).status_code == 404


@pytest.mark.parametrize(("service", "other"), [("twilio", "vonage"), ("vonage", "twilio")])
async def test_a_certificate_is_for_one_provider_alone(sandbox: Sandbox, service: str, other: str) -> None:
    """Each has a name of its own beside this machine's address."""
    port = int(getattr(sandbox, f"{service}_url").rpartition(":")[2])
    for name, is_right in (
        (f"{service}.localhost", True),
        ("127.0.0.1", True),
        (f"{other}.localhost", False),
    ):
        stream = await trio.open_tcp_stream("127.0.0.1", port)
        tls = trio.SSLStream(stream, trusting(sandbox), server_hostname=name, https_compatible=True)
        if is_right:
            await tls.do_handshake()
        else:
            with pytest.raises(trio.BrokenResourceError):
                await tls.do_handshake()
        await trio.aclose_forcefully(tls)
