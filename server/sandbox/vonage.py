"""A fake of Vonage's SMS API: checks, answers (always 200, with a status inside), and delivery receipts."""

import hmac
import secrets
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from typing import Any, Final

import msgspec

from server.sandbox.exchange import Answer, Request, form_of, json_answer
from server.sandbox.faults import Fault, Faults
from server.sandbox.ledger import Ledger, sms_identity
from server.sandbox.receipts import Postman, Receipt, arrange, is_local_url, vonage_signature
from server.sandbox.sms_text import is_gsm, segment_count

PATH: Final = "/sms/json"
MAX_TEXT_CHARS: Final = 3_200
_MIN_TTL_MS: Final = 20_000
_MAX_TTL_MS: Final = 604_800_000
# developer.vonage.com, "SMS API errors"
_TEXTS: Final[Mapping[str, str]] = {
    "1": "Throughput Rate Exceeded - please wait [ 250 ] and retry",
    "2": "Missing {field} param",
    "3": "Invalid {field} param",
    "4": "Bad Credentials",
    "5": "Internal Error",
    "6": "The message was invalid or not supported",
    "7": "Number barred",
    "8": "Partner account barred",
    "9": "Quota Exceeded - rejected",
    "11": "Account not enabled for HTTP",
    "12": "Message too long",
    "15": "Invalid sender address",
    "22": "Invalid network code",
    "23": "Invalid callback url",
    "29": "Non White-listed Destination - rejected",
    "33": "Number is deactivated",
}
_USUAL_STATUSES: Final[Mapping[int, str]] = {401: "4", 420: "1", 429: "1", 500: "5", 503: "5"}
_ERROR_CODES: Final = {"delivered": "0", "failed": "1", "undelivered": "1"}
_OUTCOMES: Final = {"delivered": "delivered", "failed": "failed", "undelivered": "failed"}


class _Refusal(Exception):
    def __init__(self, status: str, field: str = "") -> None:
        super().__init__(status)
        self.status = status
        self.field = field


class FakeVonage:
    """One account."""

    def __init__(
        self,
        ledger: Ledger,
        faults: Faults,
        postman: Postman,
        *,
        api_key: str,
        api_secret: str,
        signature_secret: str,
        now_ms: Callable[[], int],
    ) -> None:
        self._ledger = ledger
        self._faults = faults
        self._postman = postman
        self._api_key = api_key
        self._api_secret = api_secret
        self._signature_secret = signature_secret
        self._now_ms = now_ms
        self.barred: set[str] = set()  # numbers without plus sign: status 7

    def answer(self, request: Request) -> Answer:
        """Check one request as Vonage does, and send the receipt of what was accepted."""
        fields = _fields_of(request)
        if request.path != PATH or request.method not in {"GET", "POST"}:
            return json_answer(404, {"title": "Not Found"})
        try:
            self._check(fields)
        except _Refusal as refusal:
            return _error(refusal.status, field=refusal.field)
        hit = self._faults.pick("vonage", fields["to"], "+" + fields["to"])
        if hit is not None and hit.fault.refuses:
            return hit.end(_refuse_by(hit.fault))
        parts = segment_count(fields["text"])
        ids = [secrets.token_hex(8).upper() for _ in range(parts)]
        self._ledger.record(
            "vonage",
            at_ms=self._now_ms(),
            address=fields["to"],
            id=ids[0],
            identity=fields.get("client-ref")
            or sms_identity(fields.get("callback", ""), fields["to"], fields["text"]),
            content={"form": {name: value for name, value in fields.items() if name != "api_secret"}},
        )
        self._send_receipt(ids, fields, hit.fault if hit else None)
        messages = [_message(one, fields) for one in ids]
        answer = json_answer(200, {"message-count": str(parts), "messages": messages})
        return answer if hit is None else hit.end(answer)

    def _check(self, fields: Mapping[str, str]) -> None:
        for name in ("api_key", "api_secret", "from", "to", "text"):
            if not fields.get(name):
                raise _Refusal("2", name)
        is_known = hmac.compare_digest(fields["api_key"].encode(), self._api_key.encode())
        if not hmac.compare_digest(fields["api_secret"].encode(), self._api_secret.encode()) or not is_known:
            raise _Refusal("4")
        to, sender = fields["to"], fields["from"]
        if not (to.isascii() and to.isdigit() and 7 <= len(to) <= 15 and to[0] != "0"):
            raise _Refusal("3", "to")  # digits alone: no plus sign
        is_number = sender.removeprefix("+").isdigit()
        if len(sender) > (16 if is_number else 11):
            raise _Refusal("15")
        if len(fields["text"]) > MAX_TEXT_CHARS:
            raise _Refusal("12")
        kind = fields.get("type", "text")
        if kind not in {"text", "unicode"}:
            raise _Refusal("3", "type")
        if kind == "text" and not is_gsm(fields["text"]):
            # Vonage would send question marks; a fake is the place to notice it.
            raise _Refusal("6")
        ttl = fields.get("ttl", str(_MIN_TTL_MS))
        if not (ttl.isascii() and ttl.isdigit() and _MIN_TTL_MS <= int(ttl) <= _MAX_TTL_MS):
            raise _Refusal("3", "ttl")
        callback = fields.get("callback", "")
        if callback and not callback.startswith(("http://", "https://")):
            raise _Refusal("23")
        if len(fields.get("client-ref", "")) > 100:
            raise _Refusal("3", "client-ref")
        if to in self.barred:
            raise _Refusal("7")

    def _send_receipt(self, ids: list[str], fields: Mapping[str, str], fault: Fault | None) -> None:
        url = fields.get("callback", "")
        outcome = (fault.receipt if fault else "") or "delivered"
        if not url or not is_local_url(url) or outcome == "none":
            return
        now_ms = self._now_ms()
        now = datetime.fromtimestamp(now_ms / 1_000, UTC)
        code = (fault.receipt_code if fault else "") or _ERROR_CODES[outcome]
        receipts = []
        for message_id in ids:
            for status in ("accepted", _OUTCOMES[outcome]):
                form = {
                    "msisdn": fields["to"],
                    "to": fields["from"],
                    "network-code": "00101",
                    "messageId": message_id,
                    "price": "0.03330000",
                    "status": status,
                    "scts": now.strftime("%y%m%d%H%M"),
                    "err-code": "0" if status == "accepted" else code,
                    "api-key": self._api_key,
                    "message-timestamp": now.strftime("%Y-%m-%d %H:%M:%S"),
                    "timestamp": str(now_ms // 1_000),
                    "nonce": secrets.token_hex(8),
                }
                if fields.get("client-ref"):
                    form["client-ref"] = fields["client-ref"]
                form["sig"] = vonage_signature(self._signature_secret, form)
                receipts.append(Receipt(url=url, form=form))
        self._postman.post_nowait(arrange(receipts, fault))


def _fields_of(request: Request) -> dict[str, str]:
    if request.headers.get("content-type", "").partition(";")[0].strip().lower() == "application/json":
        try:
            found = msgspec.json.decode(request.body, type=dict[str, str | int | bool])
        except msgspec.DecodeError:
            return {}
        return {name: str(value) for name, value in found.items()}
    return {**request.query, **form_of(request)}


def _message(message_id: str, fields: Mapping[str, str]) -> dict[str, Any]:
    message = {
        "to": fields["to"],
        "message-id": message_id,
        "status": "0",
        "remaining-balance": "15.53590000",
        "message-price": "0.03330000",
        "network": "00101",
    }
    if fields.get("client-ref"):
        message["client-ref"] = fields["client-ref"]
    return message


def _refuse_by(fault: Fault) -> Answer:
    """A status word in `code` makes an answer of Vonage's kind; without one, plain HTTP fails."""
    if not fault.status:
        return Answer()
    if fault.code in _TEXTS:
        return _error(fault.code)
    if fault.status in {401, 420, 429}:
        answer = _error(_USUAL_STATUSES[fault.status])
        answer.status = fault.status
        answer.headers += fault.retry_after()
        return answer
    return json_answer(fault.status, {"title": "Injected by the sandbox."}, fault.retry_after())


def _error(status: str, *, field: str = "") -> Answer:
    text = _TEXTS.get(status, "Injected by the sandbox.").format(field=field)
    body = {"message-count": "1", "messages": [{"status": status, "error-text": text}]}
    return json_answer(200, body)
