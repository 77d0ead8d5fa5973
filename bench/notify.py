"""NOTIFY: how many notifications are accepted, decided and delivered a second, and how late are they?

The people and the app's types are in bench/notify_cast.py. The providers are the sandbox (server/sandbox), a
process of its own on the client's core that checks requests as the real ones do and counts what comes twice.
Requests carry a key each, as backends send them, and come in over the bot port.

Variants:

- "in-app": closed loop, 256 requests unanswered: each is accepted, goes through the whole pipeline, and is in
  the user's centre when it is answered. What all others cost beside the way to a provider.
- "in-app by HTTP": the same by POST /v1/notifications, 16 connections with one request under way each.
- "apns", "fcm", "webpush", "sms", "email": the same, but to one device on that channel and nothing else; no
  more than 1,000 that the provider has not taken. "sms" is one POST each: dramatiq on Redis does that part of
  it beside (bench/peers/dramatiq_notify.py).
- "campaign": one request to all users, in-app: decisions a second.
- "a day in small": bench/notify_plan.py; by a timetable, whatever has become of those before.

Latencies "HIGH to provider" and so on count from when a request was due to when the provider had it, by the
provider's own note; what is held (batches, quiet hours, a later time) is not among them. Afterwards
bench/notify_check.py goes through all records with rules of its own.
"""

import sqlite3
import time
from collections.abc import Sequence
from contextlib import closing
from typing import Final

from bench.load.loop import Loop, now
from bench.load.meter import Meter, calm
from bench.load.target import cpu_s
from bench.load.trial import WARM_UP_S, Samples, Setting, Trial, Workload, measured
from bench.notify_check import Asked, Report, check
from bench.notify_client import Backend, Entry, Timetable
from bench.notify_plan import DAY_COUNT, DAY_RATE_PER_S, PRIORITIES, campaign, make_day, single
from bench.notify_target import SERVICES, NotifyHubbub
from bench.peers.dramatiq_notify import DramatiqNotify, run_dramatiq
from bench.report.results import Figure

IN_APP: Final = "in-app"
BY_HTTP: Final = "in-app by HTTP"
CAMPAIGN: Final = "campaign"
DAY: Final = "a day in small"
PEER_VARIANT: Final = "sms"
VARIANTS: Final = (IN_APP, BY_HTTP, *SERVICES, CAMPAIGN, DAY)
WINDOW: Final = 256  # requests unanswered
AHEAD: Final = 1_000  # requests that the provider has not taken yet
DONE_TIMEOUT_S: Final = 300.0
_POLL_S: Final = 0.05
_HELD_S: Final = 8.0  # after the last request: batches and what is to be sent later are due within it
_LEAD_S: Final = 2.0  # between laying a day down and its beginning, for what is due at a given time


def run(setting: Setting, variant: str) -> Trial:
    """Run one variant."""
    target = setting.target
    if isinstance(target, DramatiqNotify):
        return run_dramatiq(setting, variant)
    assert isinstance(target, NotifyHubbub)
    if variant == DAY:
        return _run_day(setting)
    if variant == CAMPAIGN:
        return _run_campaign(setting)
    return _run_singles(setting, variant)


def _run_singles(setting: Setting, variant: str) -> Trial:
    target = setting.target
    assert isinstance(target, NotifyHubbub)
    by_http = variant == BY_HTTP
    channel = variant if variant in SERVICES else "inapp"
    people = [
        person
        for person in target.world.people  # who would not hear it would make it look cheap
        if channel in ("inapp", *person.channels) and person.preferences is None
    ]
    loop = Loop()
    backend = Backend(loop, target, http=by_http)
    is_asking = False
    taken = 0

    def fill(_: Entry | None = None) -> None:
        while (
            is_asking
            and backend.sent_count - backend.answered_count < WINDOW
            and (channel == "inapp" or backend.answered_count - taken < AHEAD)
        ):
            number = len(backend.entries)
            user_id = people[number % len(people)].user_id
            backend.ask(single(channel, number, user_id), by_http=by_http)

    def poll() -> None:
        nonlocal taken
        if is_asking and channel != "inapp":
            taken = target.sandbox.arrival_count()
            fill()
            loop.at(now() + _POLL_S, poll)

    def ask_for(seconds: float) -> None:
        nonlocal is_asking
        is_asking = True
        poll()
        fill()
        loop.run_for(seconds)
        is_asking = False
        backend.settle()
        loop.run_until(lambda: is_done(target), timeout_s=DONE_TIMEOUT_S, what="all is delivered")

    meter = Meter(target)
    with calm():
        backend.on_answer = fill
        ask_for(WARM_UP_S)
        warmed = len(backend.entries)
        meter.start()
        sandbox_before = cpu_s(target.sandbox.pid)
        ask_for(setting.seconds)
        meter.stop()
        sandbox_s = cpu_s(target.sandbox.pid) - sandbox_before
    count = len(backend.entries) - warmed
    report = _checked(backend, target)
    figures = [
        Figure(name="accepted", value=count / meter.seconds, unit="/s", is_headline=True),
        Figure(
            name="server CPU each", value=meter.server_cpu_s / count * 1e6, unit="µs", is_higher_better=False
        ),
        *meter.cpu_per_thousand(count),
    ]
    samples = {"ack": backend.acks(meter.started_at)}
    if channel != "inapp":
        if report.delivery_count != len(backend.entries):
            report.violations.append(f"{report.delivery_count} deliveries of {len(backend.entries)} requests")
        figures.insert(0, Figure(name="deliveries", value=count / meter.seconds, unit="/s", is_headline=True))
        figures.append(_share("sandbox of its core", sandbox_s, meter.seconds))
        samples = _to_provider(backend, report, since=meter.started_at) | samples
    return _trial(variant, meter, figures, samples, backend, report, sandbox_s)


def _run_campaign(setting: Setting) -> Trial:
    target = setting.target
    assert isinstance(target, NotifyHubbub)
    loop = Loop()
    backend = Backend(loop, target, http=False)
    meter = Meter(target)
    with calm():
        meter.start()
        entry = backend.ask(campaign())
        backend.settle()
        loop.run_until(
            lambda: is_done(target, entry.state), timeout_s=DONE_TIMEOUT_S, what="the campaign is done"
        )
        meter.stop()
    report = _checked(backend, target)
    count = report.notification_count
    figures = [
        Figure(name="decided", value=count / meter.seconds, unit="/s", is_headline=True),
        Figure(
            name="server CPU each", value=meter.server_cpu_s / count * 1e6, unit="µs", is_higher_better=False
        ),
        *meter.cpu_per_thousand(count),
    ]
    return _trial(CAMPAIGN, meter, figures, {"ack": backend.acks(meter.started_at)}, backend, report, 0.0)


def _run_day(setting: Setting) -> Trial:
    target = setting.target
    assert isinstance(target, NotifyHubbub)
    people = target.world.people
    loop = Loop()
    backend = Backend(loop, target)
    total = max(len(people) + 10, round(DAY_COUNT * setting.scale))
    starts_at_ms = time.time_ns() // 1_000_000 + round(_LEAD_S * 1000 + total / 20)  # encoding takes its time
    day = make_day(people, starts_at_ms=starts_at_ms, total=total)
    due: list[tuple[float, Entry, bytes]] = []
    first = 1  # behind the campaign
    for number, planned in enumerate(day, first):
        entry = Entry(planned.request, 0.0, planned.by_http)
        due.append((planned.due_s, entry, backend.frame(number, planned.request, by_http=planned.by_http)))
    timetable = Timetable(backend, due)
    meter = Meter(target)
    with calm():
        loop.run_for(max(0.0, starts_at_ms / 1000 - time.time()))
        meter.start()
        sandbox_before = cpu_s(target.sandbox.pid)
        began_ms = time.time_ns() // 1_000_000
        news = backend.ask(campaign())
        timetable.start()
        loop.run_until(lambda: timetable.is_done, timeout_s=DONE_TIMEOUT_S, what="the day is asked for")
        backend.settle()
        loop.run_until(lambda: is_done(target, news.state), timeout_s=DONE_TIMEOUT_S, what="the day is done")
        meter.stop()
        sandbox_s = cpu_s(target.sandbox.pid) - sandbox_before
        held_to_ms = time.time_ns() // 1_000_000 + round(_HELD_S * 1000)
        loop.run_until(
            lambda: is_done(target, held_to_ms=held_to_ms), timeout_s=DONE_TIMEOUT_S, what="batches are sent"
        )
    report = _checked(backend, target)
    seconds = (report.last_at_ms - began_ms) / 1000
    campaign_s = (report.campaign_done_at_ms - began_ms) / 1000
    samples = _to_provider(backend, report, since=meter.started_at)
    samples |= {
        "HIGH ack": backend.acks(meter.started_at, kinds=("code", "message")),
        "ack": backend.acks(meter.started_at, by_http=False),
        "ack by HTTP": backend.acks(meter.started_at, by_http=True),
        "held beyond its time": _late(report),
        "client lag": timetable.lags,
    }
    figures = [
        Figure(name="notifications", value=report.notification_count / seconds, unit="/s", is_headline=True),
        Figure(name="deliveries", value=sum(report.arrived.values()) / seconds, unit="/s", is_headline=True),
        Figure(name="goal", value=DAY_RATE_PER_S, unit="/s"),
        Figure(name="campaign took", value=campaign_s, unit="s", is_higher_better=False),
        Figure(name="all done after", value=seconds, unit="s", is_higher_better=False),
        _share("sandbox of its core", sandbox_s, meter.seconds),
        *(
            Figure(name=f"by {channel}", value=count, unit="")
            for channel, count in report.arrived.items()
            if count
        ),
        *(Figure(name=f"{state}", value=count, unit="") for state, count in report.states.items()),
        Figure(name="memory", value=target.rss_kib() / 1024, unit="MiB", is_higher_better=False),
        *meter.cpu_per_thousand(report.notification_count),
    ]
    return _trial(DAY, meter, figures, samples, backend, report, sandbox_s)


def is_done(target: NotifyHubbub, request_id: str = "", *, held_to_ms: int = 0) -> bool:
    """Tell whether nothing is on its way any more, by the records themselves; nor held until `held_to_ms`."""
    with closing(sqlite3.connect(f"file:{target.database}?mode=ro", uri=True, timeout=10.0)) as records:
        (open_count,) = records.execute("SELECT count(*) FROM delivery WHERE is_open = 1").fetchone()
        (held_count,) = records.execute(
            "SELECT count(*) FROM notification WHERE state = 'held' AND due_at_ms <= ?", (held_to_ms,)
        ).fetchone()
        if open_count or held_count:
            return False
        if not request_id:
            return True
        row = records.execute(
            "SELECT state FROM notify_request WHERE request_id = ?", (request_id,)
        ).fetchone()
        return row is not None and row[0] == "done"


def _checked(backend: Backend, target: NotifyHubbub) -> Report:
    asked = [
        Asked(
            request=entry.request,
            notification_id=entry.notification_id,
            state=entry.state,
            is_repeated=entry.repeated,
        )
        for entry in backend.entries
        if entry.answered_at
    ]
    return check(target.database, asked, {channel: target.sandbox.arrivals(channel) for channel in SERVICES})


def _to_provider(backend: Backend, report: Report, *, since: float) -> dict[str, Samples]:
    """From when a request was due to when its first delivery was with the provider, by priority."""
    offset_s = time.time() - now()
    found = {"high": Samples(), "medium": Samples(), "low": Samples()}
    for entry in backend.entries:
        if entry.due_at < since or entry.state != "open" or entry.repeated:
            continue
        arrived_at_ms = report.arrived_at_ms.get(entry.notification_id)
        if arrived_at_ms is not None:
            priority = PRIORITIES.get(entry.request.type, "medium")
            at = arrived_at_ms / 1000 - offset_s
            found[priority].add(at, max(0.0, at - entry.due_at))
    return {f"{name.upper()} to provider": samples for name, samples in found.items() if len(samples)}


def _late(report: Report) -> Samples:
    samples = Samples()
    for late_ms in report.release_lates_ms:
        samples.add(0.0, late_ms / 1000)
    return samples


def _share(name: str, used_s: float, seconds: float) -> Figure:
    return Figure(name=name, value=100 * used_s / seconds, unit="%", is_higher_better=False)


def _trial(
    variant: str,
    meter: Meter,
    figures: Sequence[Figure],
    samples: dict[str, Samples],
    backend: Backend,
    report: Report,
    sandbox_s: float,
) -> Trial:
    errors = [*backend.faults(), *report.violations]
    busy = backend.busy_count()
    backend.close()
    backend.loop.close()
    notes = [f"asked to come again {busy} times"] if busy else []
    if (sandbox_s + meter.client_cpu_s) / meter.seconds > 0.9:
        notes.append("the providers' and the client's core was at its limit")
    return measured(
        meter,
        variant=variant,
        figures=list(figures),
        samples=samples,
        errors=errors,
        findings=[f"errors: {errors[:10]}"] if errors else [str(report)],
        is_sound=not errors,
        notes=notes,
    )


WORKLOAD: Final = Workload(
    name="NOTIFY",
    title="How many notifications are accepted, decided and delivered a second, and how late are they?",
    variants=VARIANTS,
    run=run,
    wires=("bot", "redis"),
    has_own_targets=True,
)
