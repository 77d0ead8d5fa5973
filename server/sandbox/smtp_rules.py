"""What an SMTP submission server checks, as pure functions. Replies are (code, text) with enhanced codes.

Sources: RFC 5321 (SMTP), 1870 (SIZE), 3207 (STARTTLS), 4954 (AUTH), 6152 (8BITMIME), 3463 (enhanced codes).
"""

import base64
import binascii
import re
from email import policy
from email.message import EmailMessage
from email.parser import BytesParser
from typing import Any, Final

import msgspec

MAX_MESSAGE_BYTES: Final = 10 * 1024 * 1024
MAX_LINE_BYTES: Final = 998  # without CRLF: RFC 5322 section 2.1.1
MAX_COMMAND_BYTES: Final = 2_048  # RFC 5321 says 512; AUTH needs more
MAX_RECIPIENTS: Final = 50  # per message, as SES
Reply = tuple[int, str]

_PATH: Final = re.compile(r"<([^<>]*)>((?: [A-Za-z0-9-]+(?:=[\x21-\x3c\x3e-\x7e]+)?)*)\Z")
_MAILBOX: Final = re.compile(
    r"(?:[A-Za-z0-9!#$%&'*+/=?^_`{|}~.-]{1,64})@(?:[A-Za-z0-9](?:[A-Za-z0-9-]*[A-Za-z0-9])?\.?)+\Z"
)
_SINGLE: Final = ("from", "to", "cc", "subject", "date", "message-id", "reply-to")


class SmtpRefusal(Exception):
    """The server says no."""

    def __init__(self, code: int, text: str) -> None:
        super().__init__(f"{code} {text}")
        self.code = code
        self.text = text


class Envelope(msgspec.Struct, kw_only=True):
    """One transaction: from MAIL to the end of DATA."""

    sender: str
    recipients: list[str] = []


def split_command(line: bytes) -> tuple[str, str]:
    """Split a line into verb (capitals) and the rest. Raises: SmtpRefusal."""
    try:
        text = line.decode("ascii")
    except UnicodeDecodeError:
        raise SmtpRefusal(500, "5.5.2 Commands are ASCII") from None
    verb, _, rest = text.strip().partition(" ")
    return verb.upper(), rest.strip()


def read_mail(rest: str) -> Envelope:
    """Read `FROM:<path> [SIZE=n] [BODY=…]`. Raises: SmtpRefusal."""
    path, parameters = _read_path(rest, "FROM:")
    if path and not _MAILBOX.match(path):
        raise SmtpRefusal(501, "5.1.7 Bad sender address syntax")
    envelope = Envelope(sender=path)
    for name, value in parameters.items():
        if name == "SIZE":
            if not value.isdigit():
                raise SmtpRefusal(501, "5.5.4 SIZE is a number")
            if int(value) > MAX_MESSAGE_BYTES:
                raise SmtpRefusal(552, "5.3.4 Message size exceeds fixed limit")
        elif name == "BODY" and value.upper() in {"7BIT", "8BITMIME"}:
            continue
        elif name != "AUTH":
            raise SmtpRefusal(555, f"5.5.4 Unsupported option: {name}")
    return envelope


def read_recipient(rest: str, envelope: Envelope) -> str:
    """Read `TO:<path>`. Raises: SmtpRefusal."""
    path, parameters = _read_path(rest, "TO:")
    if parameters:
        raise SmtpRefusal(555, "5.5.4 Unsupported option")
    if not _MAILBOX.match(path):
        raise SmtpRefusal(501, "5.1.3 Bad recipient address syntax")
    if len(envelope.recipients) >= MAX_RECIPIENTS:
        raise SmtpRefusal(452, "4.5.3 Too many recipients")
    return path


def _read_path(rest: str, keyword: str) -> tuple[str, dict[str, str]]:
    if rest[: len(keyword)].upper() != keyword:
        raise SmtpRefusal(501, f"5.5.4 Syntax: {keyword}<address>")
    match = _PATH.match(rest[len(keyword) :].strip())
    if match is None:
        raise SmtpRefusal(501, f"5.5.4 Syntax: {keyword}<address>")
    parameters = {}
    for word in match[2].split():
        name, _, value = word.partition("=")
        parameters[name.upper()] = value
    return match[1], parameters


def read_plain(encoded: str) -> tuple[str, str]:
    """Read the response of AUTH PLAIN (RFC 4616); returns (user, password). Raises: SmtpRefusal."""
    parts = unbase64(encoded).split("\0")
    if len(parts) != 3:
        raise SmtpRefusal(501, "5.5.2 Cannot decode the response")
    return parts[1], parts[2]


def unbase64(text: str) -> str:
    """Decode a SASL response. Raises: SmtpRefusal."""
    try:
        return base64.b64decode(text, validate=True).decode()
    except (binascii.Error, UnicodeDecodeError):
        raise SmtpRefusal(501, "5.5.2 Cannot decode the response") from None


def check_message(data: bytes) -> None:
    """Check a message's bytes, dots already taken off. Raises: SmtpRefusal."""
    if len(data) > MAX_MESSAGE_BYTES:
        raise SmtpRefusal(552, "5.3.4 Message size exceeds fixed limit")
    lines = data.split(b"\r\n")
    if any(b"\n" in line or b"\r" in line for line in lines):
        raise SmtpRefusal(550, "5.6.11 Bare line feeds or carriage returns are not allowed")
    if any(len(line) > MAX_LINE_BYTES for line in lines):
        raise SmtpRefusal(554, f"5.6.0 A line is longer than {MAX_LINE_BYTES} bytes")
    # A body of 8 bits is taken without BODY=8BITMIME, too: smtplib sends it so, and real servers do not mind.
    head = data.partition(b"\r\n\r\n")[0]
    if not head.isascii():
        raise SmtpRefusal(554, "5.6.7 Headers are not ASCII, and SMTPUTF8 was not asked for")
    headers = BytesParser(policy=policy.SMTP).parsebytes(head + b"\r\n\r\n", headersonly=True)
    if not headers.get_all("From"):
        raise SmtpRefusal(554, "5.6.0 The message has no From header")
    for name in _SINGLE:
        if len(headers.get_all(name, [])) > 1:
            raise SmtpRefusal(554, f"5.6.0 Duplicate header: {name}")


def message_id_of(data: bytes) -> str:
    """Return the Message-ID, or nothing."""
    head = data.partition(b"\r\n\r\n")[0] + b"\r\n\r\n"
    return str(
        BytesParser(policy=policy.SMTP).parsebytes(head, headersonly=True).get("Message-ID", "")
    ).strip()


def content_of(data: bytes, envelope: Envelope) -> dict[str, Any]:
    """Parse a message for those who look at it. What cannot be read is left out; `raw` has all of it."""
    message = BytesParser(policy=policy.SMTP).parsebytes(data)
    content: dict[str, Any] = {
        "mail_from": envelope.sender,
        "rcpt_to": list(envelope.recipients),
        "headers": [[name, str(value)] for name, value in message.items()],
        "subject": str(message.get("Subject", "")),
        "raw": data.decode("utf-8", "replace"),
    }
    if isinstance(message, EmailMessage):
        for kind, name in (("plain", "text"), ("html", "html")):
            part = message.get_body((kind,))
            if part is not None:
                content[name] = str(part.get_content())
    return content
