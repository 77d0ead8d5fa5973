"""What the fake SMTP server checks, asked by smtplib in a thread and by raw sockets."""

import smtplib
import socket
from collections.abc import Callable
from email import policy
from email.message import EmailMessage
from typing import TypeVar

import pytest
import trio

from server.sandbox import Fault, Sandbox
from tests.sandbox.clients import PATIENCE_S, trusting

Result = TypeVar("Result")


def mail(*, text: str = "Hello, Ann.", message_id: str = "<d_1@example.com>") -> EmailMessage:
    message = EmailMessage(policy=policy.SMTP.clone(max_line_length=998))
    message["From"] = "Example <news@example.com>"
    message["To"] = "ann@example.com"
    message["Subject"] = "Your code"
    message["Message-ID"] = message_id
    message.set_content(text)
    return message


def logged_in(sandbox: Sandbox, *, is_tls: bool = False) -> smtplib.SMTP:
    config = sandbox.configs().smtp
    if is_tls:
        client: smtplib.SMTP = smtplib.SMTP_SSL(
            "127.0.0.1", sandbox.smtps_port, context=trusting(sandbox), timeout=PATIENCE_S
        )
    else:
        client = smtplib.SMTP("127.0.0.1", sandbox.smtp_port, timeout=PATIENCE_S)
        client.starttls(context=trusting(sandbox))
    client.login(config.username, config.password)
    return client


async def with_client(
    sandbox: Sandbox, work: Callable[[smtplib.SMTP], Result], *, is_tls: bool = False
) -> Result:
    def run() -> Result:
        client = logged_in(sandbox, is_tls=is_tls)
        try:
            return work(client)
        finally:
            client.close()

    return await trio.to_thread.run_sync(run)


@pytest.mark.parametrize("is_tls", [False, True])
async def test_a_mail_is_taken_and_parsed(sandbox: Sandbox, is_tls: bool) -> None:
    """By STARTTLS, and by TLS from the start."""
    message = mail(text="Grüße\n.\n..two dots\n")
    message.add_alternative("<p>Grüße</p>", subtype="html")
    message["List-Unsubscribe"] = "<https://example.com/u/" + "x" * 100 + ">"
    refused = await with_client(sandbox, lambda client: client.send_message(message), is_tls=is_tls)
    assert refused == {}
    (delivery,) = sandbox.deliveries("email")
    assert (delivery.address, delivery.identity) == ("ann@example.com", "<d_1@example.com>")
    content = delivery.content
    assert content["subject"] == "Your code"
    assert content["text"].splitlines() == ["Grüße", ".", "..two dots"]
    assert content["html"].strip() == "<p>Grüße</p>"
    assert content["mail_from"] == "news@example.com"
    assert ["List-Unsubscribe", str(message["List-Unsubscribe"])] in content["headers"]
    assert content["raw"].startswith("From: Example <news@example.com>\r\n")


async def test_one_connection_carries_many_mails(sandbox: Sandbox) -> None:
    """And doubles are counted by Message-ID."""

    def work(client: smtplib.SMTP) -> None:
        for number in (1, 2, 2):
            client.send_message(mail(message_id=f"<d_{number}@example.com>"))
        assert client.noop()[0] == 250
        assert client.quit()[0] == 221

    await with_client(sandbox, work)
    assert sandbox.doubles("smtp") == {"<d_2@example.com>": 2}


async def test_recipients_are_judged_one_by_one(sandbox: Sandbox) -> None:
    """4yz is tried again, 5yz is not, and the others get their mail."""
    sandbox.inject(Fault(channel="smtp", match="full@*", status=452, code="4.2.2 Mailbox full"))
    sandbox.inject(Fault(channel="smtp", match="gone@*", status=550, code="5.1.1 No such user"))
    to = ["ann@example.com", "full@example.com", "gone@example.com"]
    refused = await with_client(
        sandbox, lambda client: client.sendmail("news@example.com", to, mail().as_bytes())
    )
    assert refused == {
        "full@example.com": (452, b"4.2.2 Mailbox full"),
        "gone@example.com": (550, b"5.1.1 No such user"),
    }
    assert sandbox.deliveries("smtp")[0].content["rcpt_to"] == ["ann@example.com"]


async def test_throttling_looks_like_that_of_ses(sandbox: Sandbox) -> None:
    """454, the mail is lost, and later it works."""
    sandbox.inject(Fault(channel="smtp", at="dot", status=454, times=1))

    def work(client: smtplib.SMTP) -> tuple[int, bytes]:
        with pytest.raises(smtplib.SMTPDataError) as caught:
            client.send_message(mail())
        client.send_message(mail())
        assert isinstance(caught.value.smtp_error, bytes)
        return caught.value.smtp_code, caught.value.smtp_error

    expected = (454, b"Throttling failure: Maximum sending rate exceeded.")
    assert await with_client(sandbox, work) == expected
    assert sandbox.count("smtp") == 1


@pytest.mark.parametrize(
    ("fault", "count"),
    [
        (Fault(channel="smtp", reset=True), 0),
        (Fault(channel="smtp", at="mail", reset=True), 0),
        (Fault(channel="smtp", at="dot", reset=True), 0),
        (Fault(channel="smtp", drop_after_accept=True), 1),
    ],
)
async def test_a_lost_connection_loses_the_answer(sandbox: Sandbox, fault: Fault, count: int) -> None:
    """smtplib cannot tell these apart; only after the final dot the mail may have been taken."""
    sandbox.inject(fault)

    def work(client: smtplib.SMTP) -> None:
        with pytest.raises((smtplib.SMTPServerDisconnected, OSError)):
            client.send_message(mail())

    await with_client(sandbox, work)
    assert sandbox.count("smtp") == count


@pytest.mark.parametrize(
    ("fault", "code"),
    [
        (Fault(channel="smtp", at="mail", status=451), 451),
        (Fault(channel="smtp", at="data", status=451), 451),
        (Fault(channel="smtp", at="dot", status=554), 554),
        (Fault(channel="smtp", at="rcpt", status=421), 421),
    ],
)
async def test_a_stage_refuses(sandbox: Sandbox, fault: Fault, code: int) -> None:
    """Each stage has its own error in smtplib; the code is the injected one."""
    sandbox.inject(fault)

    def work(client: smtplib.SMTP) -> int:
        with pytest.raises(smtplib.SMTPException) as caught:
            client.send_message(mail())
        error = caught.value
        if isinstance(error, smtplib.SMTPRecipientsRefused):
            return next(iter(error.recipients.values()))[0]
        assert isinstance(error, smtplib.SMTPResponseException)
        return int(error.smtp_code)

    assert await with_client(sandbox, work) == code
    assert sandbox.count("smtp") == 0


async def test_logging_in_can_fail(sandbox: Sandbox) -> None:
    """By a wrong password, and by a fault; both kinds of AUTH are understood."""

    def log_in(password: str, mechanism: str = "auth_plain") -> int:
        with smtplib.SMTP("127.0.0.1", sandbox.smtp_port, timeout=PATIENCE_S) as client:
            client.starttls(context=trusting(sandbox))
            client.ehlo()
            client.user, client.password = "sandbox", password
            name = mechanism.removeprefix("auth_").upper()
            try:
                return client.auth(name, getattr(client, mechanism))[0]
            except smtplib.SMTPAuthenticationError as exc:
                return exc.smtp_code

    password = sandbox.configs().smtp.password
    for mechanism in ("auth_plain", "auth_login"):
        for word, code in ((password, 235), ("wrong", 535)):
            assert await trio.to_thread.run_sync(log_in, word, mechanism) == code
    sandbox.inject(Fault(channel="smtp", at="auth", status=454, code="4.7.0 Later"))
    assert await trio.to_thread.run_sync(log_in, password) == 454


def _talk(sandbox: Sandbox, *lines: bytes) -> list[bytes]:
    """Send raw lines in plain text, all at once; returns the first word of every reply, the greeting too."""
    with socket.create_connection(("127.0.0.1", sandbox.smtp_port), timeout=PATIENCE_S) as raw:
        raw.sendall(b"".join(line + b"\r\n" for line in lines))
        raw.shutdown(socket.SHUT_WR)
        data = b""
        while piece := raw.recv(65_536):
            data += piece
    replies = [line for line in data.split(b"\r\n") if line[3:4] == b" "]
    return [reply[:3] for reply in replies]


@pytest.mark.parametrize(
    ("lines", "codes"),
    [
        ([b"MAIL FROM:<a@b.example>"], [b"503"]),
        ([b"EHLO x", b"MAIL FROM:<a@b.example>"], [b"250", b"530"]),
        ([b"EHLO x", b"AUTH PLAIN AGEAYg=="], [b"250", b"538"]),
        ([b"EHLO"], [b"501"]),
        ([b"EHLO x", b"WHAT"], [b"250", b"502"]),
        ([b"EHLO x", b"\xff"], [b"250", b"500"]),
        ([b"EHLO x", b"STARTTLS", b"EHLO y"], [b"250", b"503", b"250"]),
        ([b"NOOP", b"RSET", b"VRFY x", b"QUIT", b"NOOP"], [b"250", b"250", b"252", b"221"]),
        ([b"X"] * 30, [b"502"] * 21 + [b"421"]),
    ],
)
async def test_plain_text_allows_little(sandbox: Sandbox, lines: list[bytes], codes: list[bytes]) -> None:
    """A client that forgets STARTTLS, or pipelines behind it, has a hole."""
    assert await trio.to_thread.run_sync(_talk, sandbox, *lines) == [b"220", *codes]


async def test_pipelined_commands_are_answered_in_order(sandbox: Sandbox) -> None:
    """RFC 2920: MAIL, RCPT and DATA in one write."""
    sandbox.smtp.has_auth = False
    lines = [b"EHLO x", b"MAIL FROM:<a@b.example> SIZE=100 BODY=8BITMIME", b"RCPT TO:<c@d.example>", b"DATA"]
    body = [b"From: a@b.example", b"Subject: \xe2\x82\xac is no header byte", b"", b".", b"QUIT"]
    codes = await trio.to_thread.run_sync(_talk, sandbox, *(lines + body))
    assert codes == [b"220", b"250", b"250", b"250", b"354", b"554", b"221"]
    body[1] = b"Subject: x"
    codes = await trio.to_thread.run_sync(_talk, sandbox, *(lines + body))
    assert codes == [b"220", b"250", b"250", b"250", b"354", b"250", b"221"]


@pytest.mark.parametrize(
    ("lines", "code"),
    [
        ([b"MAIL FROM:a@b.example"], b"501"),
        ([b"MAIL FROM:<a@b@c>"], b"501"),
        ([b"MAIL FROM:<a@b.example> SIZE=99999999999"], b"552"),
        ([b"MAIL FROM:<a@b.example> SMTPUTF8"], b"555"),
        ([b"MAIL FROM:<>", b"MAIL FROM:<>"], b"503"),
        ([b"MAIL FROM:<>", b"RCPT TO:<nobody>"], b"501"),
        ([b"RCPT TO:<a@b.example>"], b"503"),
        ([b"MAIL FROM:<>", b"DATA"], b"503"),
    ],
)
async def test_envelopes_are_checked(sandbox: Sandbox, lines: list[bytes], code: bytes) -> None:
    """RFC 5321, and the extensions that are offered."""
    sandbox.smtp.has_auth = False
    codes = await trio.to_thread.run_sync(_talk, sandbox, b"EHLO x", *lines)
    assert codes[-1] == code


@pytest.mark.parametrize(
    ("message", "code"),
    [
        ([b"Subject: no sender", b"", b"x"], b"554"),
        ([b"From: a@b.example", b"From: c@d.example", b"", b"x"], b"554"),
        ([b"From: a@b.example", b"", b"bare\nline feed"], b"550"),
        ([b"From: a@b.example", b"", b"x" * 999], b"554"),
        ([b"From: a@b.example", b"", "ü".encode()], b"250"),
        ([b"From: a@b.example", b"", b"x" * 998], b"250"),
    ],
)
async def test_messages_are_checked(sandbox: Sandbox, message: list[bytes], code: bytes) -> None:
    """What real servers bounce is better found here."""
    sandbox.smtp.has_auth = False
    lines = [b"EHLO x", b"MAIL FROM:<>", b"RCPT TO:<a@b.example>", b"DATA", *message, b"."]
    codes = await trio.to_thread.run_sync(_talk, sandbox, *lines)
    assert codes[-1] == code


async def test_a_stall_ends_when_the_client_gives_up(sandbox: Sandbox) -> None:
    """The client's own timeout is what is tested."""
    sandbox.inject(Fault(channel="smtp", at="connect", stall=True))

    def connect() -> None:
        with (
            socket.create_connection(("127.0.0.1", sandbox.smtp_port), timeout=0.3) as raw,
            pytest.raises(TimeoutError),
        ):
            raw.recv(1)

    await trio.to_thread.run_sync(connect)


async def test_connecting_can_be_refused_in_words_or_by_an_outage(sandbox: Sandbox) -> None:
    """554 instead of a greeting; a reset instead of anything."""
    rule = sandbox.inject(Fault(channel="email", at="connect", status=554))

    def greeting() -> bytes:
        with socket.create_connection(("127.0.0.1", sandbox.smtp_port), timeout=PATIENCE_S) as raw:
            return raw.recv(100)[:3]

    assert await trio.to_thread.run_sync(greeting) == b"554"
    sandbox.withdraw(rule)
    with sandbox.outage("email"), pytest.raises(ConnectionResetError):
        await trio.to_thread.run_sync(greeting)
    assert await trio.to_thread.run_sync(greeting) == b"220"
