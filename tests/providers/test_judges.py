"""What each provider's answers mean, line by line of its error tables."""

import pytest

from actors.notify.delivery import Outcome
from server.providers.smtp_replies import Stage, judge_lost, judge_smtp, queue_id
from server.providers.twilio import judge_twilio
from server.providers.vonage import judge_vonage


def _short(outcome: Outcome) -> tuple[str, str, str]:
    return outcome.kind, outcome.action, outcome.scope


@pytest.mark.parametrize(
    ("status", "code", "expected"),
    [
        (429, 20429, ("refused", "retry", "credential")),
        (429, None, ("refused", "retry", "credential")),
        (400, 14107, ("refused", "retry", "credential")),
        (400, 21610, ("refused", "suppress", "device")),
        (400, 21211, ("refused", "retire", "device")),
        (400, 21614, ("refused", "retire", "device")),
        (400, 21612, ("refused", "retire", "device")),
        (400, 21606, ("refused", "break", "credential")),
        (400, 21608, ("refused", "break", "credential")),
        (401, 20003, ("refused", "break", "credential")),
        (401, None, ("refused", "break", "credential")),
        (403, None, ("refused", "break", "credential")),
        (404, 20404, ("refused", "break", "credential")),
        (400, 21408, ("refused", "failover", "credential")),
        (400, 21611, ("refused", "failover", "credential")),
        (400, 30001, ("refused", "failover", "credential")),
        (400, 30036, ("refused", "expired", "device")),
        (400, 21602, ("refused", "dead_letter", "device")),
        (400, None, ("refused", "dead_letter", "device")),
        (301, None, ("refused", "dead_letter", "device")),
        (408, None, ("refused", "retry", "credential")),
        (500, 20500, ("unknown", "resolve_unknown", "provider")),
        (503, None, ("unknown", "resolve_unknown", "provider")),
        (504, 21610, ("unknown", "resolve_unknown", "provider")),
    ],
)
def test_twilio_errors(status: int, code: int | None, expected: tuple[str, str, str]) -> None:
    """Numbers that opted out are left alone, dead ones retired, and a wrong sender stops the queue."""
    body = b"" if code is None else b'{"code": %d, "message": "m", "more_info": "x", "status": 1}' % code
    outcome = judge_twilio(status, body, 7.0)
    assert _short(outcome) == expected
    assert outcome.code == str(code or status)
    assert outcome.retry_after_s == (7.0 if outcome.action in ("retry", "resolve_unknown") else None)


@pytest.mark.parametrize(
    ("body", "provider_id", "code"),
    [
        (b'{"sid": "SM1", "status": "queued", "error_code": null}', "SM1", "queued"),
        (b"<html>", "", "201"),
        (b"", "", "201"),
        (b'{"sid": 5}', "", "201"),
    ],
)
def test_twilio_accepts(body: bytes, provider_id: str, code: str) -> None:
    """201 is a yes even where the body cannot be read: sending again would double it."""
    outcome = judge_twilio(201, body)
    assert (outcome.kind, outcome.action) == ("accepted", "done")
    assert (outcome.provider_id, outcome.code) == (provider_id, code)


@pytest.mark.parametrize(
    ("code", "expected"),
    [
        ("1", ("refused", "retry", "credential")),
        ("2", ("refused", "dead_letter", "device")),
        ("3", ("refused", "dead_letter", "device")),
        ("4", ("refused", "break", "credential")),
        ("5", ("unknown", "resolve_unknown", "provider")),
        ("6", ("refused", "failover", "device")),
        ("7", ("refused", "suppress", "device")),
        ("8", ("refused", "break", "credential")),
        ("9", ("refused", "break", "credential")),
        ("10", ("refused", "retry", "credential")),
        ("12", ("refused", "dead_letter", "device")),
        ("15", ("refused", "break", "credential")),
        ("29", ("refused", "break", "credential")),
        ("33", ("refused", "retire", "device")),
        ("777", ("refused", "dead_letter", "device")),
    ],
)
def test_vonage_errors(code: str, expected: tuple[str, str, str]) -> None:
    """Vonage says 200 to everything and means it only where the status is 0."""
    body = b'{"message-count": "1", "messages": [{"status": "%s", "error-text": "e"}]}' % code.encode()
    outcome = judge_vonage(200, body)
    assert _short(outcome) == expected
    assert (outcome.code, outcome.detail) == (code, "e")


@pytest.mark.parametrize(
    ("status", "body", "expected"),
    [
        (200, b"not json", ("unknown", "resolve_unknown", "provider")),
        (200, b'{"messages": []}', ("unknown", "resolve_unknown", "provider")),
        (500, b"", ("unknown", "resolve_unknown", "provider")),
        (429, b"", ("refused", "retry", "credential")),
        (401, b"", ("refused", "break", "credential")),
        (404, b"", ("refused", "dead_letter", "device")),
    ],
)
def test_vonage_statuses(status: int, body: bytes, expected: tuple[str, str, str]) -> None:
    """What is not its usual answer is read by HTTP's rules."""
    assert _short(judge_vonage(status, body)) == expected


def test_vonage_counts_a_partly_sent_text_as_accepted() -> None:
    """Sending all of it again would double what is on its way."""
    body = b'{"messages": [{"status": "0", "message-id": "A"}, {"status": "1", "error-text": "slow"}]}'
    outcome = judge_vonage(200, body)
    assert (outcome.kind, outcome.provider_id, outcome.code, outcome.detail) == (
        "accepted",
        "A",
        "1/2",
        "slow",
    )
    assert judge_vonage(200, b'{"messages": [{"status": "0", "message-id": "A"}]}').code == "0"


@pytest.mark.parametrize(
    ("stage", "code", "text", "expected"),
    [
        ("body", 250, "2.0.0 Ok: queued as 4F1", ("accepted", "done", "device")),
        ("rcpt", 450, "4.2.1 busy", ("refused", "retry", "device")),
        ("rcpt", 452, "4.2.2 full", ("refused", "retry", "device")),
        ("body", 451, "4.7.1 greylisted", ("refused", "retry", "device")),
        ("mail", 451, "local error", ("refused", "retry", "credential")),
        ("mail", 421, "closing", ("refused", "retry", "credential")),
        ("body", 421, "closing", ("refused", "retry", "credential")),
        (
            "body",
            454,
            "Throttling failure: Maximum sending rate exceeded.",
            ("refused", "retry", "credential"),
        ),
        (
            "body",
            454,
            "Throttling failure: Daily message quota exceeded.",
            ("refused", "failover", "credential"),
        ),
        ("auth", 454, "4.7.0 Temporary authentication failure", ("refused", "retry", "credential")),
        ("auth", 535, "5.7.8 bad credentials", ("refused", "break", "credential")),
        ("auth", 500, "what?", ("refused", "break", "credential")),
        ("mail", 530, "5.7.0 Must issue STARTTLS first", ("refused", "break", "credential")),
        ("rcpt", 530, "Authentication required", ("refused", "break", "credential")),
        ("mail", 550, "5.7.1 sender not owned", ("refused", "break", "credential")),
        ("mail", 552, "5.3.4 too big", ("refused", "dead_letter", "device")),
        ("rcpt", 550, "no such user", ("refused", "retire", "device")),
        ("rcpt", 551, "user not local", ("refused", "retire", "device")),
        ("rcpt", 553, "mailbox name not allowed", ("refused", "retire", "device")),
        ("rcpt", 550, "5.1.1 unknown", ("refused", "retire", "device")),
        ("rcpt", 550, "5.1.1 unknown at relay.example.org", ("refused", "retire", "device")),
        ("rcpt", 556, "5.1.10 null MX", ("refused", "retire", "device")),
        ("rcpt", 550, "5.2.1 disabled", ("refused", "retire", "device")),
        ("rcpt", 550, "5.7.1 blocked by policy", ("refused", "dead_letter", "device")),
        ("rcpt", 554, "5.7.1 <a@b>: Relay access denied", ("refused", "break", "credential")),
        ("rcpt", 552, "5.2.2 mailbox full", ("refused", "dead_letter", "device")),
        ("rcpt", 554, "transaction failed", ("refused", "dead_letter", "device")),
        ("rcpt", 553, "5.1.8 bad sender", ("refused", "break", "credential")),
        ("body", 550, "spam", ("refused", "dead_letter", "device")),
        ("body", 550, "5.1.1 no such user after all", ("refused", "retire", "device")),
        ("body", 552, "too big", ("refused", "dead_letter", "device")),
        (
            "body",
            554,
            "Message rejected: Email address is not verified. The following identities failed",
            ("refused", "break", "credential"),
        ),
        ("greeting", 554, "no SMTP service here", ("refused", "break", "credential")),
        ("greeting", 421, "too many connections", ("refused", "retry", "credential")),
        ("data", 250, "what?", ("refused", "retry", "credential")),
    ],
)
def test_smtp_replies(stage: Stage, code: int, text: str, expected: tuple[str, str, str]) -> None:
    """An address is given up only where the server speaks of it (RFC 5321, RFC 3463, SES's guide)."""
    outcome = judge_smtp(stage, code, text)
    assert _short(outcome) == expected
    assert outcome.code == str(code)


def test_a_lost_connection_is_unknown_only_after_the_dot() -> None:
    """Before it the server must not deliver (RFC 5321 section 4.1.1.4)."""
    assert _short(judge_lost(is_after_dot=False)) == ("refused", "retry", "provider")
    assert _short(judge_lost(is_after_dot=True)) == ("unknown", "resolve_unknown", "provider")


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("2.0.0 Ok: queued as 4F1xyz", "4F1xyz"),
        ("Ok: queued as <abc@def>", "abc@def"),
        ("Ok 010001941c6a7d9c-5b3a-000000", "010001941c6a7d9c-5b3a-000000"),
        ("2.0.0 OK 1732654321 a1-20020a05 - gsmtp", "1732654321"),
        ("OK", ""),
        ("Message accepted for delivery", ""),
    ],
)
def test_a_queue_id_is_found(text: str, found: str) -> None:
    """Later reports name the mail by it."""
    assert queue_id(text) == found
