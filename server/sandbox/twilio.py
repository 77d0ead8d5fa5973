"""A fake of Twilio's Messages API: checks, answers, opt-outs, and status callbacks."""

import base64
import binascii
import hmac
import re
import secrets
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from email.utils import format_datetime
from typing import Any, Final
from urllib.parse import urlsplit

from server.sandbox.exchange import Answer, Headers, Request, form_of, json_answer
from server.sandbox.faults import Fault, Faults
from server.sandbox.ledger import Ledger, sms_identity
from server.sandbox.receipts import Postman, Receipt, arrange, is_local_url, twilio_signature
from server.sandbox.sms_text import is_phone_number, segment_count

MAX_BODY_CHARS: Final = 1_600
MAX_VALIDITY_S: Final = 36_000
_VERSION: Final = "2010-04-01"
_MAX_MESSAGES: Final = 100_000
_PATH: Final = re.compile(rf"/{_VERSION}/Accounts/([^/]+)/Messages(?:/([^/]+))?\.json\Z")
# Error code: HTTP status and message (twilio.com/docs/api/errors)
_ERRORS: Final[Mapping[int, tuple[int, str]]] = {
    20003: (401, "Authenticate"),
    20404: (404, "The requested resource was not found"),
    20429: (429, "Too Many Requests"),
    20500: (500, "Internal Server Error"),
    20503: (503, "Service Unavailable"),
    21211: (400, "Invalid 'To' Phone Number: {to}"),
    21602: (400, "Message body is required."),
    21603: (400, "A 'From' or 'MessagingServiceSid' parameter is required."),
    21604: (400, "A 'To' phone number is required."),
    21606: (400, "The 'From' phone number {sender} is not a valid, SMS-capable Twilio number."),
    21608: (400, "The number {to} is unverified. Trial accounts cannot send messages to unverified numbers."),
    21609: (400, "The 'StatusCallback' URL {callback} is not a valid URL."),
    21610: (400, "Attempt to send to unsubscribed recipient"),
    21611: (400, "This 'From' number has exceeded the maximum number of queued messages"),
    21612: (400, "The 'To' phone number: {to}, is not currently reachable using the 'From' number."),
    21614: (400, "'To' number is not a valid mobile number: {to}"),
    21617: (400, "The concatenated message body exceeds the 1600 character limit"),
    21624: (400, "Invalid validity period value"),
    21701: (404, "The Messaging Service {service} does not exist."),
}
_USUAL_CODES: Final[Mapping[int, int]] = {401: 20003, 404: 20404, 429: 20429, 500: 20500, 503: 20503}


class _Refusal(Exception):
    def __init__(self, code: int) -> None:
        super().__init__(code)
        self.code = code


class FakeTwilio:
    """One account with one number and one messaging service."""

    def __init__(
        self,
        ledger: Ledger,
        faults: Faults,
        postman: Postman,
        *,
        account_sid: str,
        auth_token: str,
        number: str,
        now_ms: Callable[[], int],
    ) -> None:
        self._ledger = ledger
        self._faults = faults
        self._postman = postman
        self._sid = account_sid
        self._auth_token = auth_token
        self._now_ms = now_ms
        self._opt_outs: set[str] = set()
        self._messages: dict[str, dict[str, Any]] = {}
        self.senders = {number}
        self.messaging_service_sids = {"MG" + account_sid[2:]}
        self.api_keys: dict[str, str] = {}  # SID of a key: its secret

    def stop(self, number: str) -> None:
        """Let a phone answer STOP: 21610 from now on."""
        self._opt_outs.add(number)

    def start(self, number: str) -> None:
        """Let a phone answer START."""
        self._opt_outs.discard(number)

    def answer(self, request: Request) -> Answer:
        """Check one request as Twilio does, and send the status callbacks of what was accepted."""
        match = _PATH.match(request.path)
        form = form_of(request)
        if match is None:
            return _error(20404, form)
        if match[1] != self._sid or not self._is_authentic(request.headers.get("authorization", "")):
            return _error(20003, form)
        if match[2] is not None:
            message = self._messages.get(match[2]) if request.method == "GET" else None
            return _error(20404, form) if message is None else json_answer(200, message)
        if request.method != "POST":
            return _error(20404, form)
        try:
            self._check(form)
        except _Refusal as refusal:
            return _error(refusal.code, form)
        hit = self._faults.pick("twilio", form["To"])
        if hit is not None and hit.fault.refuses:
            return hit.end(_refuse_by(hit.fault, form))
        message = self._accept(form)
        self._send_receipts(message, form, hit.fault if hit else None)
        answer = json_answer(201, message)
        return answer if hit is None else hit.end(answer)

    def _is_authentic(self, authorization: str) -> bool:
        scheme, _, encoded = authorization.partition(" ")
        try:
            user, _, secret = base64.b64decode(encoded, validate=True).decode().partition(":")
        except (binascii.Error, UnicodeDecodeError):
            return False
        expected = self._auth_token if user == self._sid else self.api_keys.get(user, "")
        is_same = hmac.compare_digest(secret.encode(), expected.encode())
        return scheme.lower() == "basic" and expected != "" and is_same

    def _check(self, form: Mapping[str, str]) -> None:
        to, sender = form.get("To", ""), form.get("From", "")
        service, body = form.get("MessagingServiceSid", ""), form.get("Body", "")
        if not to:
            raise _Refusal(21604)
        if not is_phone_number(to):
            raise _Refusal(21211)
        if not sender and not service:
            raise _Refusal(21603)
        if service and service not in self.messaging_service_sids:
            raise _Refusal(21701)
        if sender and sender not in self.senders:
            raise _Refusal(21606)
        if not body and "MediaUrl" not in form:
            raise _Refusal(21602)
        if len(body) > MAX_BODY_CHARS:
            raise _Refusal(21617)
        validity = form.get("ValidityPeriod", "1")
        if not (validity.isascii() and validity.isdigit() and 1 <= int(validity) <= MAX_VALIDITY_S):
            raise _Refusal(21624)
        callback = form.get("StatusCallback", "")
        if callback and not _is_callback(callback):
            raise _Refusal(21609)
        if to in self._opt_outs:
            raise _Refusal(21610)

    def _accept(self, form: Mapping[str, str]) -> dict[str, Any]:
        sid = "SM" + secrets.token_hex(16)
        now_ms = self._now_ms()
        now = format_datetime(datetime.fromtimestamp(now_ms / 1_000, UTC))
        uri = f"/{_VERSION}/Accounts/{self._sid}/Messages/{sid}"
        message: dict[str, Any] = {
            "account_sid": self._sid,
            "api_version": _VERSION,
            "body": form.get("Body", ""),
            "date_created": now,
            "date_sent": None,
            "date_updated": now,
            "direction": "outbound-api",
            "error_code": None,
            "error_message": None,
            "from": form.get("From") or None,
            "messaging_service_sid": form.get("MessagingServiceSid") or None,
            "num_media": "0",
            "num_segments": str(segment_count(form.get("Body", ""))),
            "price": None,
            "price_unit": "USD",
            "sid": sid,
            "status": "accepted" if form.get("MessagingServiceSid") else "queued",
            "subresource_uris": {"media": f"{uri}/Media.json"},
            "to": form["To"],
            "uri": f"{uri}.json",
        }
        self._messages[sid] = message
        if len(self._messages) > _MAX_MESSAGES:
            del self._messages[next(iter(self._messages))]
        self._ledger.record(
            "twilio",
            at_ms=now_ms,
            address=form["To"],
            id=sid,
            identity=sms_identity(form.get("StatusCallback", ""), form["To"], form.get("Body", "")),
            content={"form": dict(form), "num_segments": message["num_segments"]},
        )
        return message

    def _send_receipts(self, message: dict[str, Any], form: Mapping[str, str], fault: Fault | None) -> None:
        """Move the message to its end, and tell the callback address: queued, sent, then the outcome."""
        outcome = (fault.receipt if fault else "") or "delivered"
        code = (fault.receipt_code or "30003") if fault and outcome in {"undelivered", "failed"} else ""
        statuses = ["queued", "failed"] if outcome == "failed" else ["queued", "sent", outcome]
        # The resource is asked for later: the answer to this request still says what it was at first.
        self._messages[message["sid"]] = {
            **message,
            "status": "sent" if outcome == "none" else outcome,
            "error_code": int(code) if code.isdigit() else None,
        }
        url = form.get("StatusCallback", "")
        if not url or outcome == "none" or not is_local_url(url):
            return
        receipts = []
        for status in statuses:
            fields = {
                "AccountSid": self._sid,
                "ApiVersion": _VERSION,
                "From": form.get("From") or sorted(self.senders)[0],
                "MessageSid": message["sid"],
                "MessageStatus": status,
                "SmsSid": message["sid"],
                "SmsStatus": status,
                "To": form["To"],
            }
            if form.get("MessagingServiceSid"):
                fields["MessagingServiceSid"] = form["MessagingServiceSid"]
            if code and status == outcome:
                fields["ErrorCode"] = code
            signature = twilio_signature(self._auth_token, url, fields)
            receipts.append(Receipt(url=url, form=fields, headers={"X-Twilio-Signature": signature}))
        self._postman.post_nowait(arrange(receipts, fault))


def _is_callback(url: str) -> bool:
    try:
        parts = urlsplit(url)
        host = parts.hostname or ""
    except ValueError:
        return False
    return parts.scheme in {"http", "https"} and bool(host) and "_" not in host


def _refuse_by(fault: Fault, form: Mapping[str, str]) -> Answer:
    if not fault.status:
        return Answer()
    code = int(fault.code) if fault.code.isdigit() else _USUAL_CODES.get(fault.status, 21211)
    return _error(code, form, status=fault.status, headers=fault.retry_after())


def _error(code: int, form: Mapping[str, str], *, status: int = 0, headers: Headers | None = None) -> Answer:
    usual_status, words = _ERRORS.get(code, (400, "Injected by the sandbox."))
    message = words.format(
        to=form.get("To", ""),
        sender=form.get("From", ""),
        callback=form.get("StatusCallback", ""),
        service=form.get("MessagingServiceSid", ""),
    )
    body = {
        "code": code,
        "message": message,
        "more_info": f"https://www.twilio.com/docs/errors/{code}",
        "status": status or usual_status,
    }
    return json_answer(status or usual_status, body, headers)
