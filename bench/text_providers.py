"""How many texts and mails does one core hand to a provider?

Question: how many deliveries a second do the Twilio client and the SMTP client make, and is the SMTP client
worth having: what do `smtplib` in worker threads and `email.message` make of the same mails?
Load: `--texts` and `--mails` deliveries to servers in processes of their own on 127.0.0.1 that only answer,
over `--connections` connections with as many tasks (or threads) at once. (1) Twilio forms; (2) SMTP, the
commands of a mail sent at once (PIPELINING); (3) SMTP, one by one; (4) the same by `smtplib` in threads,
which knows no other way; (5) writing a mail with text and HTML, by us and by `email.message`.
Units: deliveries a second, microseconds of this process's CPU per delivery or mail. Prints one JSON line.

Run it with `python -m bench.text_providers`.
"""

import argparse
import json
import os
import platform
import smtplib
import subprocess
import sys
import threading
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager
from email import policy
from email.message import EmailMessage
from time import perf_counter, process_time

import trio

from actors.notify.delivery import Outcome, Outgoing, Target
from protocol.notify_types import Channel
from protocol.provider_configs import SmtpConfig, TwilioConfig
from server.providers.mail import Mail, compose, mail_sender
from server.providers.reach import ANYWHERE
from server.providers.smtp import SmtpProvider
from server.providers.twilio import TwilioProvider

_NOW_MS = 1_790_000_000_000
_TURNS = 3  # the best one counts, as others share the cores
_REPLY = b'{"sid": "SM0123456789abcdef0123456789abcdef", "status": "queued", "error_code": null, "to": "+1"}'
_ANSWER = (
    b"HTTP/1.1 201 Created\r\nContent-Type: application/json\r\nDate: Mon, 21 Sep 2026 14:13:20 GMT\r\n"
    b"Twilio-Request-Id: RQ1\r\nConnection: keep-alive\r\nContent-Length: %d\r\n\r\n%b"
    % (len(_REPLY), _REPLY)
)


def _outgoing(channel: Channel, address: str) -> Outgoing:
    return Outgoing(
        delivery_id="n42-d7",
        notification_id=42,
        app_id="shop",
        user_id="ann",
        type="order.sent",
        priority="high",
        target=Target(device_key="k", channel=channel, address=address),
        title="Your order is on its way",
        body="Grüße! Your order has left our house and is with you tomorrow. " * 4,
        html="<p>Grüße! Your order has left our house and is with you tomorrow.</p>" * 8
        if channel == "email"
        else "",
        url="https://shop.example/orders/42",
        unsubscribe_url="https://hub.example/u/0123456789abcdef0123456789abcdef"
        if channel == "email"
        else "",
    )


# --- the servers, each in a process of its own -----------------------------------------------------------


async def _answer_forms(stream: trio.SocketStream) -> None:
    buffer = b""
    while data := await stream.receive_some(65_536):
        buffer += data
        while (end := buffer.find(b"\r\n\r\n")) >= 0:
            head = buffer[:end].lower()
            length = int(head.partition(b"content-length:")[2].partition(b"\r\n")[0])
            if len(buffer) < end + 4 + length:
                break
            buffer = buffer[end + 4 + length :]
            await stream.send_all(_ANSWER)


async def _answer_mails(stream: trio.SocketStream, *, is_pipelining: bool) -> None:
    await stream.send_all(b"220 bench\r\n")
    buffer, is_letter = b"", False
    while data := await stream.receive_some(65_536):
        buffer += data
        replies: list[bytes] = []
        while (end := buffer.find(b"\r\n.\r\n" if is_letter else b"\r\n")) >= 0:
            if is_letter:
                buffer, is_letter = buffer[end + 5 :], False
                replies.append(b"250 2.0.0 Ok: queued as 4F1xyz\r\n")
                continue
            line, buffer = buffer[:end].upper(), buffer[end + 2 :]
            if line == b"DATA":
                is_letter = True
                replies.append(b"354 go\r\n")
            elif line.startswith(b"EHLO"):
                extra = b"250-PIPELINING\r\n" if is_pipelining else b""
                replies.append(b"250-bench\r\n" + extra + b"250 SIZE 10000000\r\n")
            else:
                replies.append(b"250 2.1.0 Ok\r\n")
        if replies:
            await stream.send_all(b"".join(replies))


async def _serve(kind: str) -> None:
    async def handle(stream: trio.SocketStream) -> None:
        try:
            if kind == "forms":
                await _answer_forms(stream)
            else:
                await _answer_mails(stream, is_pipelining=kind == "pipelining")
        except trio.BrokenResourceError:
            pass

    listeners = await trio.open_tcp_listeners(0, host="127.0.0.1")
    print(listeners[0].socket.getsockname()[1], flush=True)
    await trio.serve_listeners(handle, listeners)


@asynccontextmanager
async def _server(kind: str) -> AsyncIterator[int]:
    command = [sys.executable, "-m", "bench.text_providers", "--serve", kind]
    process = await trio.lowlevel.open_process(command, stdout=subprocess.PIPE)
    assert process.stdout is not None
    try:
        yield int(await process.stdout.receive_some(32))
    finally:
        process.terminate()
        with trio.CancelScope(shield=True):
            await process.wait()


# --- the load --------------------------------------------------------------------------------------------


async def _rate(send: Callable[[], Awaitable[Outcome]], count: int, tasks: int) -> dict[str, float]:
    """Let `tasks` tasks make `count` deliveries in all, some times over; return the best run's figures."""
    best = {"per_s": 0.0, "cpu_us": 0.0}
    for _ in range(_TURNS):
        left: Iterator[int] = iter(range(count))

        async def work(left: Iterator[int] = left) -> None:
            for _ in left:
                outcome = await send()
                assert outcome.kind == "accepted", outcome

        started_at, cpu_at = perf_counter(), process_time()
        async with trio.open_nursery() as nursery:
            for _ in range(tasks):
                nursery.start_soon(work)
        per_s = count / (perf_counter() - started_at)
        if per_s > best["per_s"]:
            best = {"per_s": round(per_s), "cpu_us": round((process_time() - cpu_at) / count * 1e6, 1)}
    return best


async def _texts(count: int, connections: int) -> dict[str, float]:
    async with _server("forms") as port:
        config = TwilioConfig(
            account_sid="AC0123456789abcdef0123456789abcdef",
            secret="s3cret",
            sender="+15005550006",
            base_url=f"http://127.0.0.1:{port}",
        )
        provider = TwilioProvider(config, connections=connections, reach=ANYWHERE)
        outgoing = _outgoing("sms", "+4915112345678")
        try:
            return await _rate(lambda: provider.send(outgoing), count, connections)
        finally:
            await provider.aclose()


async def _mails(kind: str, count: int, connections: int) -> dict[str, float]:
    async with _server(kind) as port:
        provider = SmtpProvider(_smtp_config(port, connections), reach=ANYWHERE)
        outgoing = _outgoing("email", "ann@example.org")
        try:
            return await _rate(lambda: provider.send(outgoing), count, connections)
        finally:
            await provider.aclose()


async def _mails_by_smtplib(count: int, connections: int) -> dict[str, float]:
    """The same mails, a kept `smtplib` connection to each worker thread."""
    kept = threading.local()
    sender = mail_sender(_smtp_config(1, 1))
    outgoing = _outgoing("email", "ann@example.org")
    limiter = trio.CapacityLimiter(connections)
    async with _server("one-by-one") as port:

        def send_in_thread() -> Outcome:
            if not hasattr(kept, "smtp"):
                kept.smtp = smtplib.SMTP("127.0.0.1", port)
            mail = compose(sender, outgoing, _NOW_MS)
            assert isinstance(mail, Mail)
            kept.smtp.sendmail(mail.sender, [mail.recipient], mail.data)
            return Outcome(kind="accepted", action="done")

        async def send() -> Outcome:
            return await trio.to_thread.run_sync(send_in_thread, limiter=limiter)

        return await _rate(send, count, connections)


def _smtp_config(port: int, connections: int) -> SmtpConfig:
    return SmtpConfig(
        host="127.0.0.1",
        port=port,
        security="none",
        sender="Shop <shop@example.org>",
        connections=connections,
    )


def _writing_us(write: Callable[[], object], count: int = 500) -> float:
    best = float("inf")
    for _ in range(_TURNS):
        started_at = perf_counter()
        for _ in range(count):
            write()
        best = min(best, (perf_counter() - started_at) / count * 1e6)
    return round(best, 1)


def _by_email_message(outgoing: Outgoing) -> bytes:
    message = EmailMessage(policy=policy.SMTP.clone(max_line_length=998, cte_type="7bit"))
    message["From"] = "Shop <shop@example.org>"
    message["To"] = outgoing.target.address
    message["Subject"] = outgoing.title
    message["Message-ID"] = f"<{outgoing.delivery_id}@example.org>"
    message["List-Unsubscribe"] = f"<{outgoing.unsubscribe_url}>"
    message.set_content(outgoing.body)
    message.add_alternative(outgoing.html, subtype="html")
    return message.as_bytes()


async def _run(texts: int, mails: int, connections: int) -> dict[str, object]:
    sender, outgoing = mail_sender(_smtp_config(1, 1)), _outgoing("email", "ann@example.org")
    return {
        "twilio": await _texts(texts, connections),
        "smtp_pipelining": await _mails("pipelining", mails, connections),
        "smtp_one_by_one": await _mails("one-by-one", mails, connections),
        "smtplib_in_threads": await _mails_by_smtplib(mails, connections),
        "write_mail_us": _writing_us(lambda: compose(sender, outgoing, _NOW_MS)),
        "write_by_email_message_us": _writing_us(lambda: _by_email_message(outgoing)),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--texts", type=int, default=10_000)
    parser.add_argument("--mails", type=int, default=4_000)
    parser.add_argument("--connections", type=int, default=8)
    parser.add_argument("--serve", choices=["forms", "pipelining", "one-by-one"], help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.serve:
        trio.run(_serve, options.serve)
        return
    commit = subprocess.run(
        ["git", "rev-parse", "--short", "HEAD"], capture_output=True, text=True, check=False
    ).stdout.strip()
    result = {
        "bench": "text_providers",
        "commit": commit,
        "machine": f"{platform.machine()} {os.cpu_count()} cores, Python {platform.python_version()}",
        "texts": options.texts,
        "mails": options.mails,
        "connections": options.connections,
        **trio.run(_run, options.texts, options.mails, options.connections),
    }
    print(json.dumps(result))


if __name__ == "__main__":
    main()
