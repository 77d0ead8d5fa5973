"""A mail says the same to `email`'s parser as it was told, in lines that relays leave alone."""

import re
from email import message_from_bytes, policy
from email.message import EmailMessage
from typing import Any, cast

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from actors.notify.delivery import Outcome
from protocol.provider_configs import SmtpConfig
from server.providers.mail import Mail, Mailbox, MailSender, compose, mail_sender
from server.providers.smtp_replies import dot_stuffed
from tests.providers.outgoing import NOW_MS, make_outgoing

LONG_URL = "https://hub.example/u/" + "a1-_" * 200
TEXT = st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=300)


def _sender(**changes: Any) -> MailSender:
    return mail_sender(SmtpConfig(host="127.0.0.1", **{"sender": "shop@example.org", **changes}))


def _compose(sender: MailSender | None = None, address: str = "ann@example.org", **changes: Any) -> Mail:
    mail = compose(sender or _sender(), make_outgoing("email", address, **changes), NOW_MS)
    assert isinstance(mail, Mail)
    return mail


def _parsed(mail: Mail) -> EmailMessage:
    return message_from_bytes(mail.data, policy=policy.default)


def _head(mail: Mail) -> list[bytes]:
    """The lines of the header as they are in the bytes, folds and all."""
    return mail.data.partition(b"\r\n\r\n")[0].split(b"\r\n")


def _content(message: EmailMessage, kind: str) -> str:
    part = message.get_body((kind,))
    assert part is not None
    return cast(str, part.get_content()).replace("\r\n", "\n")


def test_a_mail_has_text_and_html_and_what_receivers_ask_for() -> None:
    """RFC 8058, RFC 3834, and a Message-ID that stays."""
    sender = _sender(sender='"Shop, the" <shop@example.org>', reply_to="help@example.org")
    mail = _compose(
        sender,
        html="<p>Grüße</p>",
        body="Grüße\n.\n.dot",
        url="https://shop.example/o/42",
        unsubscribe_url="https://hub.example/u/x1",
        locale="de-AT",
    )
    message = _parsed(mail)
    assert not message.defects
    assert message.get_content_type() == "multipart/alternative"
    assert [part.get_content_type() for part in message.iter_parts()] == ["text/plain", "text/html"]
    assert _content(message, "plain") == "Grüße\n.\n.dot\n\nhttps://shop.example/o/42\n"
    assert _content(message, "html") == "<p>Grüße</p>\n"
    assert message["From"].addresses[0].display_name == "Shop, the"
    assert message["From"].addresses[0].addr_spec == "shop@example.org"
    assert message["Reply-To"] == "help@example.org"
    assert message["To"] == "ann@example.org"
    assert message["Subject"] == "On its way"
    assert message["Message-ID"] == "<n42-d7@example.org>"
    assert message["Date"].datetime.timestamp() * 1_000 == NOW_MS
    assert message["Auto-Submitted"] == "auto-generated"
    assert message["Content-Language"] == "de-AT"
    assert message["Feedback-ID"] == "order.sent:shop:notification:hubbub"
    assert b"List-Unsubscribe: <https://hub.example/u/x1>" in _head(mail)
    assert b"List-Unsubscribe-Post: List-Unsubscribe=One-Click" in _head(mail)
    assert (mail.sender, mail.recipient, mail.needs_smtputf8) == (
        "shop@example.org",
        "ann@example.org",
        False,
    )
    assert mail == _compose(
        sender,
        html="<p>Grüße</p>",
        body="Grüße\n.\n.dot",
        url="https://shop.example/o/42",
        unsubscribe_url="https://hub.example/u/x1",
        locale="de-AT",
    )


def test_a_mail_without_html_is_plain() -> None:
    """Nothing to choose from, nothing to part."""
    message = _parsed(_compose())
    assert message.get_content_type() == "text/plain"
    assert message.get_content() == "Your order has left.\r\n"
    assert message["List-Unsubscribe"] is None
    assert message["List-Unsubscribe-Post"] is None


def test_unsubscribing_stays_on_one_line_however_long() -> None:
    """An encoded word or a fold there ends one-click (nodemailer 1654, and Python's own trap)."""
    sender = _sender(unsubscribe_mailto="bye@example.org")
    mail = _compose(sender, unsubscribe_url=LONG_URL)
    mailto = b"<mailto:bye@example.org?subject=unsubscribe%20n42-d7>"
    assert b"List-Unsubscribe: <" + LONG_URL.encode() + b">, " + mailto in _head(mail)
    longer = LONG_URL + "b" * (998 - len("List-Unsubscribe: <>") - len(LONG_URL))
    assert b"List-Unsubscribe: <" + longer.encode() + b">" in _head(_compose(sender, unsubscribe_url=longer))
    assert b"List-Unsubscribe: " + mailto in _head(_compose(sender))
    refused = compose(sender, make_outgoing("email", "a@example.org", unsubscribe_url=longer + "b"), NOW_MS)
    assert isinstance(refused, Outcome)
    assert refused.code == "bad_unsubscribe_url"
    plain = _compose(unsubscribe_url="http://127.0.0.1:9/u")
    assert not any(line.startswith(b"List-Unsubscribe-Post") for line in _head(plain))  # needs https


@given(TEXT, TEXT, TEXT)
@example("a" * 500, "x", "y")
@example("=?utf-8?q?no?=", "=?x?=", "b")
@example("Ünï " * 60, "Jürgen", "b")
def test_any_subject_name_and_body_comes_back(subject: str, name: str, body: str) -> None:
    """Whatever people write, in lines and encoded words of legal length (RFC 5322, 2045, 2047)."""
    visible = re.sub("[\x00-\x20\x7f-\x9f\u2028\u2029]+", " ", name).strip(" ")
    sender = MailSender(Mailbox("shop@example.org", visible), None, "")
    mail = _compose(sender, title=subject, body=body, html=f"<p>{body}</p>")
    lines = mail.data.split(b"\r\n")
    assert all(len(line) <= 76 or line.startswith(b'From: "') for line in lines)
    assert mail.data.isascii()
    assert mail.data.count(b"\n") == mail.data.count(b"\r") == len(lines) - 1
    assert all(len(word) <= 75 for word in re.findall(rb"=\?utf-8\?b\?[^?]*\?=", mail.data))
    message = _parsed(mail)
    expected = re.sub("[\x00-\x20\x7f-\x9f\u2028\u2029]+", " ", subject).strip(" ")
    if expected:
        assert _words(mail, b"Subject") == expected
    text = _content(message, "html")
    assert text.replace("\n", "") == re.sub("\r|\n", "", f"<p>{body}</p>")


def _words(mail: Mail, name: bytes) -> str:
    """Read a header with the decoder for encoded words alone, as the parser's cleans up more than that."""
    from email.header import decode_header, make_header

    raw = re.search(rb"^%s:([^\r]*(?:\r\n [^\r]*)*)" % name, mail.data, re.MULTILINE)
    assert raw is not None
    return str(make_header(decode_header(raw[1].replace(b"\r\n", b"").decode().strip())))


@pytest.mark.parametrize(
    "field",
    ["title", "body", "html", "type", "app_id", "locale", "url"],
)
def test_no_field_can_bring_a_header_of_its_own(field: str) -> None:
    """An app puts what its users wrote into these."""
    for end in ("\r\n", "\n", "\r", "\u2028", "\x0b", "\x85"):
        value = f"x{end}Bcc: victim@example.org{end}{end}<b>"
        changes: dict[str, Any] = {"title": "t", "body": "b", field: value}
        mail = _compose(**changes)
        names = {line.partition(b":")[0].lower() for line in _head(mail)}
        assert b"bcc" not in names
        assert _parsed(mail)["Bcc"] is None


@pytest.mark.parametrize(
    "address",
    [
        "ann@example.org\r\nBcc: x@example.org",
        "ann@example.org>\r\nDATA",
        "a b@example.org",
        "<ann@example.org",
        "ann",
        "@example.org",
        "ann@",
        "ann@exa mple.org",
        "ann@-x.org",
        "ann..b@example.org",
        ".ann@example.org",
        "a" * 65 + "@example.org",
        "ann@" + "a" * 64 + ".org",
        "ann@" + ".".join(["a" * 60] * 5),
        "ann@example.org,bob@example.org",
        "ann@[127.0.0.1]",
        "",
    ],
)
def test_what_is_no_address_is_retired(address: str) -> None:
    """It would never work, and some of it is an attack on the envelope."""
    outcome = compose(_sender(), make_outgoing("email", address), NOW_MS)
    assert isinstance(outcome, Outcome)
    assert (outcome.kind, outcome.action, outcome.code) == ("refused", "retire", "bad_address")


@pytest.mark.parametrize(
    "url", ["https://a.b/\r\nX: y", "https://a.b/<x>", "javascript:x", "https://a.b/ä", "https://a b"]
)
def test_what_is_no_link_is_not_offered_for_unsubscribing(url: str) -> None:
    """A mail with a broken one-click link counts as spam, and a break in it is an injection."""
    outcome = compose(_sender(), make_outgoing("email", "a@example.org", unsubscribe_url=url), NOW_MS)
    assert isinstance(outcome, Outcome)
    assert (outcome.action, outcome.code) == ("dead_letter", "bad_unsubscribe_url")


def test_only_a_local_part_in_other_letters_needs_smtputf8() -> None:
    """A domain has an ASCII form, and names have encoded words, which every server takes."""
    mail = _compose(_sender(sender="Jürgen Müller <j@müller.example>"), address="ann@bücher.example")
    assert not mail.needs_smtputf8
    assert (mail.sender, mail.recipient) == ("j@xn--mller-kva.example", "ann@xn--bcher-kva.example")
    assert _parsed(mail)["From"].addresses[0].display_name == "Jürgen Müller"
    mail = _compose(address="жук@example.org")
    assert mail.needs_smtputf8
    assert _parsed(mail)["To"] is not None
    assert "To: жук@example.org".encode() in _head(mail)


def test_a_config_with_a_wrong_sender_is_refused_at_once() -> None:
    """An operator hears of it when it is stored, not with the first mail."""
    for changes in ({"sender": "nobody"}, {"reply_to": "x\r\n"}, {"unsubscribe_mailto": "ж@example.org"}):
        with pytest.raises(ValueError):
            _sender(**changes)


def test_what_cannot_be_a_mail_is_not_one() -> None:
    """Too late, empty, or with an id that would break the Message-ID."""
    sender = _sender()
    for changes, action in (
        ({"expires_at_ms": NOW_MS}, "expired"),
        ({"title": "", "body": " "}, "dead_letter"),
        ({"delivery_id": "a>b"}, "dead_letter"),
    ):
        outcome = compose(sender, make_outgoing("email", "a@example.org", **changes), NOW_MS)
        assert isinstance(outcome, Outcome)
        assert outcome.action == action


@given(st.binary().map(lambda data: data.replace(b"x", b"\r\n.")))
@example(b".")
@example(b"a\n.\nb")
@example(b"a\r.\rb")
def test_stuffing_leaves_one_end_and_no_bare_line_ends(data: bytes) -> None:
    """SMTP smuggling lives on what two servers take for different ends."""
    stuffed = dot_stuffed(data)
    assert stuffed.endswith(b"\r\n.\r\n") or stuffed == b".\r\n"
    assert b"\r\n.\r\n" not in stuffed[:-5]
    assert stuffed.count(b"\r") == stuffed.count(b"\n") == stuffed.count(b"\r\n")
    unstuffed = re.sub(rb"(?m)^\.", b"", stuffed[:-3])
    normal = re.sub(rb"\r\n|\r|\n", b"\r\n", data)
    assert unstuffed == (normal if normal.endswith(b"\r\n") else normal + b"\r\n")
