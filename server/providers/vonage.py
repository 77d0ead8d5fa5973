"""SMS by Vonage's SMS API, as a second provider: the request, and what its answers mean."""

from collections.abc import Callable
from typing import Final
from urllib.parse import urlencode

import msgspec

from actors.notify.delivery import Action, Outcome, Outgoing
from protocol.notify_types import Channel
from protocol.provider_configs import VonageConfig
from server.clock import wall_clock_ms
from server.providers.form_client import FormClient, NotSent, Unanswered, judge_failure, retry_after_s
from server.providers.reach import PUBLIC, Reach
from server.providers.sms_text import is_gsm7, sms_text

BASE_URL: Final = "https://rest.nexmo.com"
MIN_TTL_MS: Final = 20_000  # `ttl` is 20 s to 7 days (Vonage's SMS reference)
MAX_TTL_MS: Final = 604_800_000

# developer.vonage.com/en/api-errors/sms. What is not here is taken as our bug or the app's.
_ACTIONS: Final[dict[str, Action]] = {
    "1": "retry",  # throttled
    "10": "retry",  # too many connections
    "4": "break",  # credentials
    "8": "break",  # the account is barred
    "9": "break",  # no credit
    "11": "break",  # the account has no HTTP
    "14": "break",  # signature
    "15": "break",  # the sender is not allowed
    "29": "break",  # a trial account, which may only write to registered numbers
    "32": "break",  # signed and with a secret at once
    "6": "failover",  # cannot be processed, as with a prefix that it does not know
    "7": "suppress",  # on a block list: an opt-out, as far as we can know; another provider must not undo it
    "33": "retire",  # the number is not in use any more
}
_INTERNAL_ERROR: Final = "5"  # "whilst processing this message": it may have gone out


class _Message(msgspec.Struct, frozen=True, rename="kebab"):
    status: str = ""
    message_id: str = ""
    error_text: str = ""


class _Reply(msgspec.Struct, frozen=True):
    messages: list[_Message] = []


class VonageProvider:
    """One account at Vonage, with its connections. Raises: ValueError for an address that is none."""

    def __init__(
        self,
        config: VonageConfig,
        *,
        connections: int = 64,  # as the channel has hands: nobody waits for one
        clock_ms: Callable[[], int] = wall_clock_ms,
        client: FormClient | None = None,
        reach: Reach = PUBLIC,
    ) -> None:
        self._config = config
        self._clock_ms = clock_ms
        self._client = client or FormClient(
            config.base_url or BASE_URL, ca_pem=config.ca_pem, connections=connections, reach=reach
        )

    @property
    def channel(self) -> Channel:
        return "sms"

    async def send(self, outgoing: Outgoing) -> Outcome:
        """Try once. Never raises but trio.Cancelled."""
        now_ms = self._clock_ms()
        form = vonage_form(self._config, outgoing, now_ms)
        if isinstance(form, Outcome):
            return form
        try:
            answer = await self._client.post(
                "/sms/json",
                urlencode(form).encode(),
                (("Accept", "application/json"),),
                is_urgent=outgoing.priority == "high",
            )
        except (NotSent, Unanswered) as failure:
            return judge_failure(failure)
        return judge_vonage(answer.status, answer.body, retry_after_s(answer.headers, now_ms))

    async def aclose(self) -> None:
        await self._client.aclose()


def vonage_form(config: VonageConfig, outgoing: Outgoing, now_ms: int) -> dict[str, str] | Outcome:
    """Return the form to post, or the refusal of what is too late or empty."""
    text = sms_text(outgoing.title, outgoing.body, outgoing.url)
    if not text:
        return Outcome(kind="refused", action="dead_letter", code="empty", detail="Nothing to send.")
    form = {
        "api_key": config.api_key,
        "api_secret": config.api_secret,
        "from": config.sender,
        "to": outgoing.target.address.removeprefix("+"),
        "text": text,
        "client-ref": outgoing.delivery_id,  # comes back with the receipt
    }
    if not is_gsm7(text):
        form["type"] = "unicode"
    if outgoing.callback_url:
        form["callback"] = outgoing.callback_url
        form["status-report-req"] = "1"
    if outgoing.expires_at_ms:
        left_ms = outgoing.expires_at_ms - now_ms
        if left_ms < 1_000:
            return Outcome(
                kind="refused", action="expired", code="expired", detail="It was too late to send."
            )
        form["ttl"] = str(min(max(left_ms, MIN_TTL_MS), MAX_TTL_MS))
    return form


def judge_vonage(status: int, body: bytes, retry_after: float | None = None) -> Outcome:
    """Say what an answer means: errors, too, come with 200, one status for each part of a long message.

    One part on its way counts as accepted: sending all again would double it.
    """
    if status != 200:
        return _judge_status(status, retry_after)
    try:
        messages = msgspec.json.decode(body, type=_Reply).messages
    except msgspec.DecodeError:
        messages = []
    if not messages:
        return Outcome(
            kind="unknown",
            action="resolve_unknown",
            code="bad_answer",
            detail="It cannot be read.",
            scope="provider",
        )
    taken = [message for message in messages if message.status == "0"]
    first_refused = next((message for message in messages if message.status != "0"), None)
    if taken:
        return Outcome(
            kind="accepted",
            action="done",
            code=f"{len(taken)}/{len(messages)}" if first_refused else "0",
            detail=first_refused.error_text[:300] if first_refused else "",
            provider_id=taken[0].message_id,
        )
    code, detail = messages[0].status, messages[0].error_text[:300]
    if code == _INTERNAL_ERROR:
        return Outcome(kind="unknown", action="resolve_unknown", code=code, detail=detail, scope="provider")
    action = _ACTIONS.get(code, "dead_letter")
    return Outcome(
        kind="refused",
        action=action,
        code=code,
        detail=detail,
        retry_after_s=retry_after if action == "retry" else None,
        scope="credential" if action in ("retry", "break") else "device",
    )


def _judge_status(status: int, retry_after: float | None) -> Outcome:
    code = str(status)
    if status >= 500:
        return Outcome(
            kind="unknown",
            action="resolve_unknown",
            code=code,
            retry_after_s=retry_after,
            scope="provider",
        )
    if status in (408, 429):
        return Outcome(
            kind="refused", action="retry", code=code, retry_after_s=retry_after, scope="credential"
        )
    if status in (401, 402, 403):
        return Outcome(kind="refused", action="break", code=code, scope="credential")
    return Outcome(kind="refused", action="dead_letter", code=code)
