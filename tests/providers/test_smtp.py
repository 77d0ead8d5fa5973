"""Mails reach a real server (aiosmtpd), and each way to fail has the outcome that SMTP gives it."""

from collections.abc import AsyncIterator
from email import message_from_bytes, policy
from pathlib import Path
from typing import Protocol

import pytest
import trio
from trio.testing import MockClock

import server.providers.smtp as smtp
from actors.notify.delivery import Outcome
from protocol.provider_configs import SmtpConfig
from server.providers.reach import ANYWHERE
from server.providers.smtp import SmtpProvider
from server.providers.smtp_connection import COMMAND_TIMEOUT_S, FINAL_TIMEOUT_S
from tests.providers.certificates import Authority
from tests.providers.mail_peer import open_mail_server, open_scripted, smtp_config
from tests.providers.outgoing import NOW_MS, make_outgoing

HELLO: list[bytes | None] = [b"220 hi\r\n", b"250-me\r\n250 SIZE 10000000\r\n"]
PIPELINING: list[bytes | None] = [b"220 hi\r\n", b"250-me\r\n250-PIPELINING\r\n250 SIZE 0\r\n"]
OK = b"250 2.1.0 OK\r\n"
GO = b"354 go\r\n"
TAKEN = b"250 2.0.0 Ok: queued as Q7\r\n"


class MakeProvider(Protocol):
    def __call__(self, config: SmtpConfig) -> SmtpProvider: ...


@pytest.fixture
async def make() -> AsyncIterator[MakeProvider]:
    """Make providers that are closed when the test ends."""
    made: list[SmtpProvider] = []

    def make_provider(config: SmtpConfig) -> SmtpProvider:
        made.append(SmtpProvider(config, clock_ms=lambda: NOW_MS, reach=ANYWHERE))
        return made[-1]

    yield make_provider
    for provider in made:
        await provider.aclose()


async def _send(provider: SmtpProvider, address: str = "ann@example.org", **changes: str) -> Outcome:
    with trio.fail_after(10):
        return await provider.send(make_outgoing("email", address, **changes))


def _short(outcome: Outcome) -> tuple[str, str, str]:
    return outcome.kind, outcome.action, outcome.code


# --- a real server ---------------------------------------------------------------------------------------


async def test_mails_arrive_as_they_were_written_over_one_connection(make: MakeProvider) -> None:
    """Dots, other letters and one-click survive the way; connections are kept."""
    url = "https://hub.example/u/" + "x" * 400
    with open_mail_server() as (inbox, port):
        provider = make(smtp_config(port))
        for number in range(3):
            outcome = await _send(
                provider, body=f".\n..{number}\nGrüße", html="<p>.\n.</p>", title="Ж", unsubscribe_url=url
            )
            assert _short(outcome) == ("accepted", "done", "250")
            assert outcome.provider_id == f"Q{number + 1}"
        assert len(inbox.peers) == 1
        assert inbox.resets == 0
        letter = inbox.letters[2]
        assert (letter.mail_from, letter.rcpt_tos) == ("shop@example.org", ["ann@example.org"])
        assert isinstance(letter.content, bytes)
        assert b"\r\nList-Unsubscribe: <" + url.encode() + b">\r\n" in letter.content
        message = message_from_bytes(letter.content, policy=policy.default)
        assert message["Subject"] == "Ж"
        part = message.get_body(("plain",))
        assert part is not None
        assert part.get_content() == ".\r\n..2\r\nGrüße\r\n"
        assert provider.channel == "email"


async def test_many_at_once_use_no_more_connections_than_configured(make: MakeProvider) -> None:
    """A server counts connections and turns away what is too many."""
    with open_mail_server() as (inbox, port):
        provider = make(smtp_config(port, connections=3))
        async with trio.open_nursery() as nursery:
            for number in range(30):
                nursery.start_soon(_send, provider, f"u{number}@example.org")
        assert sorted(letter.rcpt_tos[0] for letter in inbox.letters) == sorted(
            f"u{number}@example.org" for number in range(30)
        )
        assert 1 <= len(inbox.peers) <= 3


async def test_a_refused_address_harms_no_other(make: MakeProvider) -> None:
    """One connection goes on after 452 and 550, with RSET in between."""
    with open_mail_server() as (inbox, port):
        inbox.rcpt_replies = {"full@example.org": "452 4.2.2 full", "gone@example.org": "550 5.1.1 unknown"}
        provider = make(smtp_config(port))
        assert _short(await _send(provider, "full@example.org")) == ("refused", "retry", "452")
        assert _short(await _send(provider, "gone@example.org")) == ("refused", "retire", "550")
        assert _short(await _send(provider)) == ("accepted", "done", "250")
        assert inbox.resets == 2
        assert len(inbox.letters) == 1


async def test_a_refused_letter_harms_no_other(make: MakeProvider) -> None:
    """Throttled, then spam, then taken: as SES answers after the dot."""
    with open_mail_server() as (inbox, port):
        inbox.data_replies = ["454 Throttling failure: Maximum sending rate exceeded.", "554 spam"]
        provider = make(smtp_config(port))
        throttled = await _send(provider)
        assert _short(throttled) == ("refused", "retry", "454")
        assert throttled.scope == "credential"
        assert throttled.retry_after_s is not None
        assert _short(await _send(provider)) == ("refused", "dead_letter", "554")
        assert _short(await _send(provider)) == ("accepted", "done", "250")
        assert len(inbox.peers) == 1


async def test_login_by_starttls(make: MakeProvider, tmp_path: Path) -> None:
    """The usual submission: encrypted before the password is told, to whom the certificate names."""
    authority = Authority()
    with open_mail_server(authority.server_context(tmp_path), require_starttls=True) as (inbox, port):
        config = smtp_config(
            port, security="starttls", username="app", password="s3cret", ca_pem=authority.pem
        )
        provider = make(config)
        assert _short(await _send(provider)) == ("accepted", "done", "250")
        assert inbox.logins == [(b"app", b"s3cret")]

        strange = make(smtp_config(port, security="starttls", username="app", password="s3cret"))
        assert _short(await _send(strange)) == ("refused", "break", "tls")
        assert len(inbox.logins) == 1
        wrong = make(
            smtp_config(port, security="starttls", username="app", password="no", ca_pem=authority.pem)
        )
        outcome = await _send(wrong)
        assert _short(outcome) == ("refused", "break", "535")
        assert outcome.scope == "credential"


async def test_no_encryption_where_it_is_asked_for_is_not_accepted(make: MakeProvider) -> None:
    """Somebody on the way may have struck STARTTLS from the list."""
    with open_mail_server() as (inbox, port):
        provider = make(smtp_config(port, security="starttls", username="app", password="s3cret"))
        assert _short(await _send(provider)) == ("refused", "break", "no_starttls")
        assert inbox.logins == []


async def test_a_local_part_in_other_letters_needs_a_server_that_takes_it(make: MakeProvider) -> None:
    """SMTPUTF8 is asked for only by those addresses (RFC 6531)."""
    with open_mail_server() as (inbox, port):
        assert (await _send(make(smtp_config(port)), "жук@example.org")).kind == "accepted"
        assert inbox.letters[0].rcpt_tos == ["жук@example.org"]
        assert inbox.letters[0].mail_options == [
            "SMTPUTF8",
            "BODY=8BITMIME",
            inbox.letters[0].mail_options[2],
        ]
    with open_mail_server(enable_smtputf8=False) as (inbox, port):
        provider = make(smtp_config(port))
        assert _short(await _send(provider, "жук@example.org")) == ("refused", "failover", "no_smtputf8")
        assert (await _send(provider)).kind == "accepted"


async def test_a_letter_beyond_the_server_s_size_is_not_sent(make: MakeProvider) -> None:
    """It would be refused after all of it was sent (RFC 1870)."""
    with open_mail_server(data_size_limit=3_000) as (_, port):
        provider = make(smtp_config(port))
        assert _short(await _send(provider, html="x" * 5_000)) == ("refused", "dead_letter", "552")
        assert (await _send(provider)).kind == "accepted"


async def test_a_restarted_server_costs_no_mail(make: MakeProvider, monkeypatch: pytest.MonkeyPatch) -> None:
    """The kept connection is gone; the try makes a new one, and nothing is unknown."""
    with open_mail_server() as (_, port):
        provider = make(smtp_config(port))
        assert (await _send(provider)).kind == "accepted"
    assert _short(await _send(provider)) == ("refused", "retry", "connect")
    with open_mail_server() as (inbox, port):
        monkeypatch.setattr(provider, "_config", smtp_config(port))
        assert (await _send(provider)).kind == "accepted"
        assert len(inbox.letters) == 1


async def test_an_idle_connection_is_left_for_a_new_one(
    make: MakeProvider, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Servers drop what is idle; ours says QUIT before."""
    with open_mail_server() as (inbox, port):
        provider = make(smtp_config(port))
        await _send(provider)
        await _send(provider)
        assert len(inbox.peers) == 1
        monkeypatch.setattr(smtp, "IDLE_LIMIT_S", -1.0)
        await _send(provider)
        assert len(inbox.peers) == 2


# --- faults ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("script", "expected"),
    [
        ([None], ("refused", "retry", "lost")),
        ([b"554 go away\r\n"], ("refused", "break", "554")),
        ([b"421 busy\r\n"], ("refused", "retry", "421")),
        ([b"SSH-2.0-x\r\n"], ("refused", "retry", "bad_reply")),
        ([*HELLO, None], ("refused", "retry", "lost")),
        ([*HELLO, b"421 bye\r\n"], ("refused", "retry", "421")),
        ([*HELLO, OK, None], ("refused", "retry", "lost")),
        ([*HELLO, OK, OK, b"421 bye\r\n"], ("refused", "retry", "421")),
        ([*HELLO, OK, OK, None], ("refused", "retry", "lost")),
        ([*HELLO, OK, OK, b"250 what?\r\n"], ("refused", "retry", "250")),
        ([*HELLO, OK, OK, GO, None], ("unknown", "resolve_unknown", "lost")),
        ([*HELLO, OK, OK, GO, b"nonsense\r\n"], ("unknown", "resolve_unknown", "bad_reply")),
        ([*HELLO, OK, OK, GO, b"421 bye\r\n"], ("refused", "retry", "421")),
        ([*HELLO, OK, OK, GO, TAKEN], ("accepted", "done", "250")),
        ([*PIPELINING, OK, OK, GO, TAKEN], ("accepted", "done", "250")),
        ([*PIPELINING, OK, b"550 5.1.1 no\r\n", b"554 no one\r\n"], ("refused", "retire", "550")),
        ([*PIPELINING, OK, b"450 later\r\n", GO, b"554 no one\r\n"], ("refused", "retry", "450")),
        ([*PIPELINING, b"550 5.7.1 not you\r\n", OK, OK], ("refused", "break", "550")),
        ([*PIPELINING, OK, None], ("refused", "retry", "lost")),
    ],
)
async def test_each_point_of_failure_has_its_outcome(
    make: MakeProvider, script: list[bytes | None], expected: tuple[str, str, str]
) -> None:
    """Before the final dot nothing was taken; after it only a reply tells."""
    async with open_scripted(script) as peer:
        assert _short(await _send(make(smtp_config(peer.port)))) == expected


async def test_pipelined_commands_go_out_at_once_and_no_letter_to_nobody(make: MakeProvider) -> None:
    """RFC 2920: a 354 after a refused RCPT wants its dot, and the next mail starts afresh."""
    script = [*PIPELINING, OK, b"550 5.1.1 no\r\n", GO, b"554 no one\r\n", OK, OK, OK, GO, TAKEN]
    async with open_scripted(script) as peer:
        provider = make(smtp_config(peer.port))
        assert _short(await _send(provider)) == ("refused", "retire", "550")
        assert (await _send(provider, "bob@example.org")).kind == "accepted"
        said = peer.said[0]
        assert said[1:4] == [b"MAIL FROM:<shop@example.org> SIZE=" + said[1].rpartition(b"=")[2], *said[2:4]]
        assert said[2] == b"RCPT TO:<ann@example.org>"
        assert said[5:8] == [b"RSET", said[6], b"RCPT TO:<bob@example.org>"]


async def test_a_drop_in_the_middle_of_a_big_letter_is_not_unknown(make: MakeProvider) -> None:
    """The kernel could not take it all, so the server cannot have the dot."""
    async with trio.open_nursery() as nursery:
        listeners = await trio.open_tcp_listeners(0, host="127.0.0.1")

        async def drop(stream: trio.SocketStream) -> None:
            for reply in (b"220 hi\r\n", b"250 me\r\n", OK, OK):
                await stream.send_all(reply)
                await stream.receive_some(4_096)
            await stream.send_all(GO)
            await stream.receive_some(4_096)
            await trio.aclose_forcefully(stream)

        nursery.start_soon(trio.serve_listeners, drop, listeners)
        provider = make(smtp_config(listeners[0].socket.getsockname()[1]))
        outcome = await _send(provider, html="x" * 20_000_000)
        assert _short(outcome) == ("refused", "retry", "lost")
        nursery.cancel_scope.cancel()


async def test_a_kept_connection_that_says_421_is_replaced_within_the_try(make: MakeProvider) -> None:
    """That is how servers end long sessions: nothing was taken, and the mail need not wait."""
    first: list[bytes | None] = [*HELLO, OK, OK, GO, TAKEN, b"421 too many mails\r\n"]
    async with open_scripted(first, [*HELLO, OK, OK, GO, TAKEN]) as peer:
        provider = make(smtp_config(peer.port))
        assert (await _send(provider)).kind == "accepted"
        assert (await _send(provider)).kind == "accepted"
        assert len(peer.said) == 2


async def test_a_kept_connection_lost_after_the_dot_is_not_replaced(make: MakeProvider) -> None:
    """A second try could be a second mail."""
    first: list[bytes | None] = [*HELLO, OK, OK, GO, TAKEN, OK, OK, GO, None]
    async with open_scripted(first) as peer:
        provider = make(smtp_config(peer.port))
        assert (await _send(provider)).kind == "accepted"
        assert _short(await _send(provider)) == ("unknown", "resolve_unknown", "lost")
        assert len(peer.said) == 1


async def test_words_put_before_the_encryption_are_not_heard(make: MakeProvider) -> None:
    """The known attack on STARTTLS: an answer smuggled in before the handshake (CVE-2011-0411)."""
    script: list[bytes | None] = [
        b"220 hi\r\n",
        b"250-me\r\n250 STARTTLS\r\n",
        b"220 go\r\n250-me\r\n250 AUTH PLAIN\r\n",
    ]
    async with open_scripted(script) as peer:
        provider = make(smtp_config(peer.port, security="starttls"))
        assert _short(await _send(provider)) == ("refused", "break", "starttls_injection")


async def test_login_without_plain(make: MakeProvider) -> None:
    """Some servers know AUTH LOGIN only, and some no login at all."""
    script: list[bytes | None] = [b"220 hi\r\n", b"250-me\r\n250 AUTH LOGIN\r\n", b"334 VXNlcg==\r\n"]
    async with open_scripted([*script, b"334 UGFzcw==\r\n", b"235 ok\r\n", OK, OK, GO, TAKEN], HELLO) as peer:
        provider = make(smtp_config(peer.port, username="app", password="s3cret"))
        assert (await _send(provider)).kind == "accepted"
        assert peer.said[0][1:4] == [b"AUTH LOGIN", b"YXBw", b"czNjcmV0"]
        await provider.aclose()
        assert _short(await _send(provider)) == ("refused", "retry", "closed")
        other = make(smtp_config(peer.port, username="app", password="s3cret"))
        assert _short(await _send(other)) == ("refused", "break", "no_auth")


@pytest.mark.parametrize(
    ("script", "wait_s", "expected"),
    [
        ([*HELLO, OK, b""], COMMAND_TIMEOUT_S, ("refused", "retry", "timeout")),
        ([*HELLO, OK, OK, GO, b""], FINAL_TIMEOUT_S, ("unknown", "resolve_unknown", "timeout")),
    ],
)
async def test_silence_ends(
    make: MakeProvider,
    script: list[bytes | None],
    wait_s: float,
    expected: tuple[str, str, str],
    mock_clock: MockClock,
) -> None:
    """A worker waits half a minute for a command, two minutes for the reply to a letter, and no longer."""
    async with open_scripted(script) as peer, trio.open_nursery() as nursery:
        got: list[Outcome] = []

        async def call() -> None:
            outgoing = make_outgoing("email", "ann@example.org")
            got.append(await make(smtp_config(peer.port)).send(outgoing))

        nursery.start_soon(call)
        answered = sum(step is not None for step in script)
        while not peer.said or len(peer.said[0]) < answered - 1:
            await trio.lowlevel.checkpoint()
        await trio.testing.wait_all_tasks_blocked(0.01)
        mock_clock.jump(wait_s - 1)
        await trio.testing.wait_all_tasks_blocked(0.01)
        assert got == []
        mock_clock.jump(2)
    assert [_short(outcome) for outcome in got] == [expected]


async def test_a_cancelled_mail_costs_its_connection_only(make: MakeProvider) -> None:
    """Drain cancels; the neighbour's mail and the next one go on."""
    async with open_scripted([*HELLO, OK, b""], [*HELLO, OK, OK, GO, TAKEN, OK, OK, GO, TAKEN]) as peer:
        provider = make(smtp_config(peer.port))
        async with trio.open_nursery() as nursery:
            nursery.start_soon(_send, provider)
            with trio.fail_after(5):
                while not peer.said or len(peer.said[0]) < 3:
                    await trio.lowlevel.checkpoint()
            assert (await _send(provider)).kind == "accepted"
            nursery.cancel_scope.cancel()
        with trio.fail_after(5):
            await peer.closed[0].wait()
        assert (await _send(provider)).kind == "accepted"
        assert len(peer.said) == 2


async def test_closing_tells_what_was_under_way(make: MakeProvider) -> None:
    """A letter that left and had no reply is unknown, and not forgotten."""
    async with open_scripted([*HELLO, OK, OK, GO, b""]) as peer, trio.open_nursery() as nursery:
        provider = make(smtp_config(peer.port))
        got: list[Outcome] = []

        async def call() -> None:
            got.append(await _send(provider))

        nursery.start_soon(call)
        with trio.fail_after(5):
            while not peer.said or len(peer.said[0]) < 5:
                await trio.lowlevel.checkpoint()
            await provider.aclose()
            while not got:
                await trio.lowlevel.checkpoint()
        assert _short(got[0]) == ("unknown", "resolve_unknown", "lost")
