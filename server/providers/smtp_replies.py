"""What an SMTP server says: taking replies out of the bytes, and what they mean for a mail. Pure.

Sources: RFC 5321 sections 4.2 and 4.3, enhanced codes RFC 3463 and RFC 7505, throttling by SES's guide.
"""

import re
from typing import Final, Literal

import msgspec

from actors.notify.delivery import Outcome

Stage = Literal["greeting", "hello", "starttls", "auth", "mail", "rcpt", "data", "body"]
"""Where the conversation stood. `body`: the reply to the final dot."""

MAX_LINE_BYTES: Final = 4_096  # RFC 5321 section 4.5.3.1.5 says 512; some explain themselves at length
MAX_LINES: Final = 128
SES_RATE_WAIT_S: Final = 5.0  # its rate is per second; backoff does the rest, up to the ten minutes it names
QUOTA_WAIT_S: Final = 600.0
_LINE: Final = re.compile(rb"([2-5][0-9]{2})([ -]?)(.*)", re.DOTALL)
_ENHANCED: Final = re.compile(r"\b([245])\.([0-9]{1,3})\.([0-9]{1,3})\b")
_QUEUED: Final = re.compile(r"queued as <?([!-;=?-~]+?)>?[.,]?(?:\s|$)", re.IGNORECASE)
_OK_ID: Final = re.compile(r"(?:[0-9.]+ )?ok:? ([0-9A-Za-z][0-9A-Za-z._-]{7,})", re.IGNORECASE)
# Relaying is denied to these credentials; or SES does not know the sender, or is in its sandbox.
_NOT_ALLOWED: Final = re.compile(r"relay(?:ing)? (?:access )?(?:is )?(?:denied|not)|to relay|is not verified")
_DEAD_ADDRESS: Final = frozenset({(1, 0), (1, 1), (1, 2), (1, 3), (1, 6), (1, 10), (2, 1)})
_DEAD_CODES: Final = frozenset({550, 551, 553, 556})  # 556: RFC 7504, the domain takes no mail
_LOGIN_CODES: Final = frozenset({530, 534, 535, 538})  # RFC 4954 section 6


class BadReply(Exception):
    """The server does not speak SMTP."""


class Reply(msgspec.Struct, frozen=True):
    """One reply, all its lines."""

    code: int
    lines: tuple[str, ...]

    @property
    def text(self) -> str:
        return " ".join(self.lines)

    @property
    def is_ok(self) -> bool:
        return 200 <= self.code < 300


class ReplyReader:
    """Takes bytes as they come and gives whole replies, in order."""

    def __init__(self) -> None:
        self._buffer = b""
        self._lines: list[str] = []

    @property
    def has_rest(self) -> bool:
        """Whether something came that is not a whole reply yet, or was not asked for."""
        return bool(self._buffer or self._lines)

    def feed(self, data: bytes) -> None:
        self._buffer += data

    def next_reply(self) -> Reply | None:
        """Return the next whole reply, None if more bytes are needed. Raises: BadReply."""
        while True:
            line, end, rest = self._buffer.partition(b"\n")
            if not end:
                if len(line) > MAX_LINE_BYTES:
                    raise BadReply("a line is too long")
                return None
            self._buffer = rest
            match = _LINE.fullmatch(line.rstrip(b"\r"))
            if match is None or len(line) > MAX_LINE_BYTES or len(self._lines) >= MAX_LINES:
                raise BadReply("not a reply")
            self._lines.append(match[3].decode("utf-8", "replace"))
            if match[2] != b"-":
                reply = Reply(int(match[1]), tuple(self._lines))
                self._lines.clear()
                return reply


def dot_stuffed(data: bytes) -> bytes:
    """Prepare a letter for DATA, final dot and all (RFC 5321 section 4.5.2).

    Bare CR and LF become CRLF first: what one server takes for text, the next may take for the end.
    """
    if data.count(b"\n") != data.count(b"\r\n") or data.count(b"\r") != data.count(b"\r\n"):
        data = re.sub(rb"\r\n|\r|\n", b"\r\n", data)
    if not data.endswith(b"\r\n"):
        data += b"\r\n"
    if data.startswith(b"."):
        data = b"." + data
    return data.replace(b"\r\n.", b"\r\n..") + b".\r\n"


def extensions_of(reply: Reply) -> dict[str, str]:
    """Read an answer to EHLO: extensions in capitals, and their parameters."""
    found: dict[str, str] = {}
    for line in reply.lines[1:]:
        name, _, parameters = line.strip().partition(" ")
        if name.upper().startswith("AUTH="):  # as servers wrote it before RFC 2554
            name, parameters = "AUTH", f"{name[5:]} {parameters}"
        found[name.upper()] = f"{found.get(name.upper(), '')} {parameters}".strip()
    return found


def judge_smtp(stage: Stage, code: int, text: str) -> Outcome:
    """Say what a reply means: 2yz to the final dot is accepted, 4yz comes again, 5yz does not.

    550, 551 and 553 retire an address only as an answer to RCPT, and not where the enhanced code tells of
    policy: many servers say 550 to what they take for spam, which says nothing about the address.
    """
    code_text = str(code)
    if stage == "body" and 200 <= code < 300:
        return Outcome(kind="accepted", action="done", code=code_text, provider_id=queue_id(text))
    match = _ENHANCED.search(text)
    subject = (int(match[2]), int(match[3])) if match else None
    detail, lower = text[:300], text.lower()
    if code < 500:  # 2yz and 3yz, too, where they make no sense
        return _judge_later(stage, code, detail, lower)
    if (
        stage in ("greeting", "hello", "starttls", "auth")
        or code in _LOGIN_CODES
        or subject in ((1, 7), (1, 8))  # the sender's address
        or _NOT_ALLOWED.search(lower)
        or (stage == "mail" and code != 552 and subject not in ((3, 4), (2, 3)))  # the sender, not the size
    ):
        return Outcome(kind="refused", action="break", code=code_text, detail=detail, scope="credential")
    is_dead = subject in _DEAD_ADDRESS if subject else stage == "rcpt" and code in _DEAD_CODES
    return Outcome(
        kind="refused", action="retire" if is_dead else "dead_letter", code=code_text, detail=detail
    )


def judge_lost(*, is_after_dot: bool, code: str = "lost") -> Outcome:
    """Say what a lost connection means: before the final dot nothing was taken, after it nobody knows."""
    if is_after_dot:
        return Outcome(
            kind="unknown",
            action="resolve_unknown",
            code=code,
            detail="No reply to the letter.",
            scope="provider",
        )
    return Outcome(kind="refused", action="retry", code=code, scope="provider")


def queue_id(text: str) -> str:
    """Find the server's id of what it took: Postfix, SendGrid ("queued as …") or SES ("Ok …"); "" if none."""
    match = _QUEUED.search(text) or _OK_ID.match(text)
    return match[1][:200] if match else ""


def _judge_later(stage: Stage, code: int, detail: str, lower: str) -> Outcome:
    if "quota" in lower and "daily" in lower:  # SES: hold it to the reset, or take another provider
        return Outcome(
            kind="refused",
            action="failover",
            code=str(code),
            detail=detail,
            retry_after_s=QUOTA_WAIT_S,
            scope="credential",
        )
    is_throttled = "throttl" in lower or "sending rate" in lower
    is_ours = is_throttled or code == 421 or stage not in ("rcpt", "body")
    return Outcome(
        kind="refused",
        action="retry",
        code=str(code),
        detail=detail,
        retry_after_s=SES_RATE_WAIT_S if is_throttled else None,
        scope="credential" if is_ours else "device",
    )
