"""SMS by Twilio's Messages resource: the request, and what its answers mean."""

import base64
from collections.abc import Callable
from typing import Final
from urllib.parse import quote, urlencode

import msgspec

from actors.notify.delivery import Action, Outcome, Outgoing
from protocol.notify_types import Channel
from protocol.provider_configs import TwilioConfig
from server.clock import wall_clock_ms
from server.providers.form_client import FormClient, NotSent, Unanswered, judge_failure, retry_after_s
from server.providers.reach import PUBLIC, Reach
from server.providers.sms_text import sms_text

BASE_URL: Final = "https://api.twilio.com"
MAX_VALIDITY_S: Final = 36_000  # ValidityPeriod is 1..36000 (Twilio's OpenAPI, api_v2010)

# twilio.com/docs/api/errors. What is not here is taken as our bug or the app's.
_ACTIONS: Final[dict[int, Action]] = {
    20429: "retry",  # too many requests: "never processed"
    14107: "retry",  # message rate limit exceeded
    21610: "suppress",  # the recipient answered STOP
    21211: "retire",  # not a valid number
    21214: "retire",  # cannot be reached
    21612: "retire",  # no route from this sender to that number
    21614: "retire",  # not a mobile number
    21635: "retire",  # a landline
    20003: "break",  # authentication
    20005: "break",  # the account is not active
    20404: "break",  # no such account
    21212: "break",  # not a valid sender
    21603: "break",  # no sender at all
    21606: "break",  # the sender is not ours, or cannot send SMS
    21608: "break",  # a trial account, which may only write to verified numbers
    21659: "break",  # not a Twilio number, nor a short code of the account
    21660: "break",  # the sender belongs to another account
    21703: "break",  # the messaging service has no sender
    30002: "break",  # the account is suspended
    21408: "failover",  # the account may not write to that country
    21611: "failover",  # the sender's queue is full
    30001: "failover",  # likewise
    30036: "expired",  # the validity period has passed
}


class TwilioReply(msgspec.Struct, frozen=True):
    """What we read of a message or of an error. `code` is of errors, `error_code` of messages."""

    sid: str | None = None
    status: str | int | None = None
    code: int | None = None
    message: str | None = None
    error_code: int | None = None
    error_message: str | None = None


class TwilioProvider:
    """One account at Twilio, with its connections.

    Raises: ValueError where the config names no sender, or an address that is none.
    """

    def __init__(
        self,
        config: TwilioConfig,
        *,
        connections: int = 64,  # as the channel has hands: nobody waits for one
        clock_ms: Callable[[], int] = wall_clock_ms,
        client: FormClient | None = None,
        reach: Reach = PUBLIC,
    ) -> None:
        if not (config.sender or config.messaging_service_sid):
            raise ValueError("a sender or a messaging service is needed")
        self._config = config
        self._clock_ms = clock_ms
        self._path = f"/2010-04-01/Accounts/{quote(config.account_sid, safe='')}/Messages.json"
        login = f"{config.user or config.account_sid}:{config.secret}".encode()
        self._headers = (
            ("Authorization", f"Basic {base64.b64encode(login).decode()}"),
            ("Accept", "application/json"),
        )
        self._client = client or FormClient(
            config.base_url or BASE_URL, ca_pem=config.ca_pem, connections=connections, reach=reach
        )

    @property
    def channel(self) -> Channel:
        return "sms"

    async def send(self, outgoing: Outgoing) -> Outcome:
        """Try once. Never raises but trio.Cancelled."""
        now_ms = self._clock_ms()
        form = twilio_form(self._config, outgoing, now_ms)
        if isinstance(form, Outcome):
            return form
        try:
            answer = await self._client.post(
                self._path,
                urlencode(form).encode(),
                self._headers,
                is_urgent=outgoing.priority == "high",
            )
        except (NotSent, Unanswered) as failure:
            return judge_failure(failure)
        return judge_twilio(answer.status, answer.body, retry_after_s(answer.headers, now_ms))

    async def aclose(self) -> None:
        await self._client.aclose()


def twilio_form(config: TwilioConfig, outgoing: Outgoing, now_ms: int) -> dict[str, str] | Outcome:
    """Return the form to post, or the refusal of what is too late or empty."""
    body = sms_text(outgoing.title, outgoing.body, outgoing.url)
    if not body:
        return Outcome(kind="refused", action="dead_letter", code="empty", detail="Nothing to send.")
    form = {"To": outgoing.target.address, "Body": body}
    if config.messaging_service_sid:
        form["MessagingServiceSid"] = config.messaging_service_sid
    if config.sender:  # with a service it picks one of the service's senders
        form["From"] = config.sender
    if outgoing.callback_url:
        form["StatusCallback"] = outgoing.callback_url
    if outgoing.expires_at_ms:
        left_s = (outgoing.expires_at_ms - now_ms) // 1_000
        if left_s < 1:
            return Outcome(
                kind="refused", action="expired", code="expired", detail="It was too late to send."
            )
        form["ValidityPeriod"] = str(min(left_s, MAX_VALIDITY_S))
    return form


def judge_twilio(status: int, body: bytes, retry_after: float | None = None) -> Outcome:
    """Say what an answer means. Source: Twilio's error dictionary, and the HTTP status where it has no code.

    A 5xx leaves it open whether the message was made, and Twilio knows no idempotency key: unknown.
    """
    try:
        reply = msgspec.json.decode(body, type=TwilioReply)
    except msgspec.DecodeError:
        reply = TwilioReply()
    number = reply.code or reply.error_code
    if 200 <= status < 300:
        action = _ACTIONS.get(number) if number else None
        if action is None:
            return Outcome(
                kind="accepted", action="done", code=str(reply.status or status), provider_id=reply.sid or ""
            )
    elif status >= 500:
        return Outcome(
            kind="unknown",
            action="resolve_unknown",
            code=str(number or status),
            detail=(reply.message or "")[:300],
            retry_after_s=retry_after,
            scope="provider",
        )
    else:
        action = _ACTIONS.get(number) if number else None
        if action is None:
            action = _by_status(status)
    return Outcome(
        kind="refused",
        action=action,
        code=str(number or status),
        detail=(reply.message or reply.error_message or "")[:300],
        retry_after_s=retry_after if action == "retry" else None,
        scope="credential" if action in ("retry", "break", "failover") else "device",
        provider_id=reply.sid or "",
    )


def _by_status(status: int) -> Action:
    if status in (401, 403):
        return "break"
    if status in (408, 429):  # the server has not got the request, or did not look at it
        return "retry"
    return "dead_letter"
