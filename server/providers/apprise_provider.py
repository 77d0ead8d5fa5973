"""The long tail by Apprise: Slack, Telegram, Discord and some 150 more, each by an address of the user's.

Apprise is synchronous, so it runs in worker threads, and it is imported when the first notification needs it.
It tells success and log lines, no more: what a failure means is read out of those.
"""

import logging
import re
import socket
import threading
from collections.abc import Callable, Iterable
from functools import partial
from typing import TYPE_CHECKING, Final, Literal

import msgspec
import trio

from actors.notify.delivery import Outcome, Outgoing
from protocol.notify_types import Channel
from protocol.provider_configs import AppriseConfig
from server.providers.apprise_address import is_scheme_allowed, masked, tame_address
from server.providers.reach import PUBLIC, Reach

if TYPE_CHECKING:
    from apprise import NotifyBase

SEND_TIMEOUT_S: Final = (
    30.0  # Apprise gives up after 4 s to connect and 4 s to read, per request of a service
)
MAX_THREADS: Final = 8
_STATUS: Final = re.compile(r"error=([1-5][0-9]{2})\b")
# What `requests` says where no connection came about, and where one did.
_NOT_SENT: Final = re.compile(
    r"NewConnectionError|NameResolutionError|ConnectTimeout|Connection refused|Failed to establish|"
    r"Name or service not known|CertificateError|CERTIFICATE_VERIFY_FAILED"
)
_UNKNOWN: Final = re.compile(
    r"Read timed out|ReadTimeout|Connection aborted|RemoteDisconnected|Connection reset"
)


class AppriseReport(msgspec.Struct, frozen=True):
    """What Apprise said of one call. `warnings` are for people, `causes` are exceptions it met."""

    is_delivered: bool
    warnings: tuple[str, ...] = ()
    causes: tuple[str, ...] = ()


class AppriseProvider:
    """Sends to whatever address the target holds; there are no credentials of ours."""

    def __init__(
        self,
        config: AppriseConfig,
        *,
        timeout_s: float = SEND_TIMEOUT_S,
        threads: int = MAX_THREADS,
        reach: Reach = PUBLIC,
    ) -> None:
        """`reach`: where the operator lets apps send us, for settings that allow more than public hosts."""
        self._config = config
        self._reach = reach if config.allow_private else PUBLIC
        self._timeout_s = timeout_s
        self._threads = trio.CapacityLimiter(threads)

    @property
    def channel(self) -> Channel:
        return "apprise"

    async def send(self, outgoing: Outgoing) -> Outcome:
        """Try once. Never raises but trio.Cancelled.

        A call that is cancelled or takes too long is left to its thread, which keeps its place among
        `threads` until it ends: so its outcome is unknown. One that gets no thread in time never begins.
        """
        url = tame_address(outgoing.target.address, self._config.schemes)
        if isinstance(url, Outcome):
            return url
        call = _Call(partial(_notify, url, outgoing, self._reach))
        with trio.move_on_after(self._timeout_s):
            outcome = await trio.to_thread.run_sync(call.run, abandon_on_cancel=True, limiter=self._threads)
            return msgspec.structs.replace(outcome, detail=masked(outcome.detail, url)[:300])
        if call.give_up():
            return Outcome(kind="refused", action="retry", code="busy", detail="All threads are busy.")
        return Outcome(kind="unknown", action="resolve_unknown", code="timeout", scope="host")

    async def aclose(self) -> None:
        """There is nothing to close: a connection lives as long as a call."""
        await trio.lowlevel.checkpoint()


class _Call:
    """A call for a worker thread, of which the other side knows for certain whether it has begun."""

    def __init__(self, call: Callable[[], Outcome]) -> None:
        self._call = call
        self._lock = threading.Lock()
        self._is_begun = False
        self._is_given_up = False

    def run(self) -> Outcome:
        """In the worker thread."""
        with self._lock:
            self._is_begun = not self._is_given_up
        return self._call() if self._is_begun else Outcome(kind="refused", action="retry", code="busy")

    def give_up(self) -> bool:
        """Let it not begin any more; False where it has."""
        with self._lock:
            self._is_given_up = not self._is_begun
        return self._is_given_up


async def reason_against(address: str) -> str:
    """Tell whoever registers an address why it can never be used; "": by its form it can.

    Nobody is called. Apprise is asked in a worker thread: the first time it takes a second to be imported.
    """
    url = tame_address(address)
    if isinstance(url, str):
        if await trio.to_thread.run_sync(_is_readable, url):
            return ""
        return "There is no such service at Apprise, or its address has other parts."
    return {
        "scheme_not_allowed": f"Services of this machine are not allowed: {url.detail}://.",
        "reads_files": f"{url.detail} names a file, and is not allowed.",
    }.get(url.code, "An Apprise address begins with a service such as slack:// or tgram://.")


def judge_apprise(report: AppriseReport) -> Outcome:
    """Read what became of a call from what Apprise logged about it.

    A service that answers 404 or 410 does not know the address any more. Without any clue a failure is final:
    Apprise may have reached some of an address's several targets, which a second try would reach twice.
    """
    if report.is_delivered:
        return Outcome(kind="accepted", action="done")
    detail = " / ".join(report.warnings)
    statuses = [int(status) for status in _STATUS.findall(detail)]
    if statuses:
        return _judge_status(statuses[-1], detail)
    causes = " / ".join(report.causes)
    if _UNKNOWN.search(causes):
        return Outcome(kind="unknown", action="resolve_unknown", code="lost", detail=detail, scope="host")
    if _NOT_SENT.search(causes):
        return Outcome(kind="refused", action="retry", code="connect", detail=detail, scope="host")
    return Outcome(kind="refused", action="dead_letter", code="failed", detail=detail)


def _judge_status(status: int, detail: str) -> Outcome:
    code = str(status)
    if status >= 500:
        return Outcome(kind="unknown", action="resolve_unknown", code=code, detail=detail, scope="host")
    if status in (408, 429):
        return Outcome(kind="refused", action="retry", code=code, detail=detail, scope="host")
    action: Literal["retire", "dead_letter"] = "retire" if status in (404, 410) else "dead_letter"
    return Outcome(kind="refused", action=action, code=code, detail=detail)


def _notify(url: str, outgoing: Outgoing, reach: Reach) -> Outcome:
    """In a worker thread: make the service, look at its host, send.

    150 plugins read what users wrote, and not all raise only what they should: here it ends, as a failure.
    """
    try:
        return _notify_by_apprise(url, outgoing, reach)
    except Exception as exc:
        return Outcome(kind="unknown", action="resolve_unknown", code=type(exc).__name__, detail=str(exc))


def _is_readable(url: str) -> bool:
    try:
        return _service_of(url) is not None
    except Exception:  # 150 plugins read what users wrote, and not all raise only what they should
        return False


def _service_of(url: str) -> "NotifyBase | None":
    """In a worker thread: what Apprise makes of an address; None: nothing."""
    import apprise

    # Its debug lines tell why a connection failed, and hold payloads and secrets: they reach its own capture
    # of a call, and no handler of ours.
    logger = logging.getLogger("apprise")
    logger.setLevel(logging.DEBUG)
    logger.propagate = False
    asset = apprise.AppriseAsset(
        app_id="hubbub",
        app_desc="hubbub",
        storage_mode=apprise.PersistentStoreMode.MEMORY,
        secure_logging=True,
    )
    asset.http_redirects = False
    return apprise.Apprise.instantiate(url, asset=asset)


def _notify_by_apprise(url: str, outgoing: Outgoing, reach: Reach) -> Outcome:
    import apprise

    service = _service_of(url)
    if service is None:
        return Outcome(kind="refused", action="retire", code="bad_address", detail="Apprise cannot read it.")
    refusal = _unsafe(service, reach)
    if refusal is not None:
        return refusal
    caller = apprise.Apprise(asset=service.asset)
    caller.add(service)
    text = outgoing.body or outgoing.title
    if outgoing.url and outgoing.url not in text:
        text = f"{text}\n{outgoing.url}".strip()
    if not text:
        return Outcome(kind="refused", action="dead_letter", code="empty", detail="Nothing to send.")
    result = caller.notify(body=text, title=outgoing.title if outgoing.body else "", log_level=logging.DEBUG)
    entries = [(str(entry.level), str(entry.message)) for entry in result.logs()]
    result.close()
    return judge_apprise(_report(bool(result), entries))


def _report(is_delivered: bool, entries: Iterable[tuple[str, str]]) -> AppriseReport:
    """Part warnings from causes. Other debug lines hold the payload, and are dropped."""
    warnings: list[str] = []
    causes: list[str] = []
    for level, message in entries:
        if level in ("WARNING", "ERROR", "CRITICAL"):
            warnings.append(message)
        elif "Exception:" in message:
            causes.append(message)
    return AppriseReport(is_delivered, tuple(warnings), tuple(causes))


def _unsafe(service: "NotifyBase", reach: Reach) -> Outcome | None:
    """Refuse a service of this machine, and a host in a private network.

    Apprise looks the name up once more when it sends; a name server that answers otherwise then gets through.
    Where that matters, list the hosted services in `schemes`.
    """
    for scheme in service.schemas():  # type: ignore[no-untyped-call]  # Apprise annotates only some
        if not is_scheme_allowed(str(scheme)):
            return Outcome(
                kind="refused", action="dead_letter", code="scheme_not_allowed", detail=str(scheme)
            )
    hosts = [getattr(service, "smtp_host", None)]
    if "host" in service.template_tokens:
        hosts.append(getattr(service, "host", None))
    for host in hosts:
        if not isinstance(host, str) or not host:
            continue
        try:
            found = socket.getaddrinfo(host.strip("[]"), None, type=socket.SOCK_STREAM)
        except (OSError, UnicodeError) as exc:
            return Outcome(kind="refused", action="retry", code="no_such_host", detail=str(exc), scope="host")
        if not all(reach.allows(str(entry[4][0])) for entry in found):
            return Outcome(kind="refused", action="dead_letter", code="private_host")
    return None
