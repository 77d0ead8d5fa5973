"""What do the pure parts of a notification cost: rules, texts, queue, and an app's dearest template?

Question: how long does one decision take, how long one text, how long a job through the queue; and for how
long can one app's template, or one app's mail, hold up the others?
Load: one process, no I/O. `--calls` calls each, the best of five turns: (1) `schedule` for a user without and
with quiet hours, and where it holds; (2) a short text with two variables; (3) a push and a pop, of four apps;
(4) the dearest template that is allowed to end, and one that is stopped; (5) the links of 64 KB of mail.
Units: microseconds, milliseconds. Prints one JSON line.

Run it with `python -m bench.notify_rules`.
"""

import argparse
import json
import os
import platform
import subprocess
from collections.abc import Callable
from contextlib import nullcontext, suppress
from datetime import UTC
from time import perf_counter

from actors.notify.facts import Facts, UserFacts
from actors.notify.fair_queue import FairQueue
from actors.notify.scheduler import schedule
from protocol.errors import Refused
from protocol.notify_templates import ChannelText, Template, Variable
from protocol.notify_types import AppRules, Preferences, QuietHours, TypeRule
from server.notify.mail_html import rewrite_links, text_of
from server.notify.template_locales import babel_locale
from server.notify.template_source import Source
from server.notify.templates import Templates

_TURNS = 5  # the best one counts, as others share the cores
_NOW_MS = 1_795_694_400_000
_DEAR = "{% for a in range(200) %}{{ a | number }}{{ a | plural(other='#') }}{% endfor %}"
_ENDLESS = "{% for a in range(990) %}{% for b in range(990) %}{{ b }}{% endfor %}{% endfor %}"


def _best_us(call: Callable[[], object], count: int) -> float:
    call()
    best = float("inf")
    for _ in range(_TURNS):
        started_at = perf_counter()
        for _ in range(count):
            call()
        best = min(best, (perf_counter() - started_at) / count)
    return best * 1e6


def _schedule_us(quiet: QuietHours | None, count: int) -> float:
    facts = Facts(
        notification_id=1, app_id="a", user_id="u", type="t", created_at_ms=_NOW_MS, content_hash="h"
    )
    rule, app = TypeRule(name="t"), AppRules()
    user = UserFacts(time_zone="Europe/Berlin", preferences=Preferences(quiet_hours=quiet))
    return _best_us(lambda: schedule(facts, rule, user, app, _NOW_MS), count)


class _Reads:
    """One app with one template."""

    def __init__(self, template: Template) -> None:
        self._template = template

    def template(self, app_id: str, name: str) -> Template | None:
        return self._template

    def default_locale(self, app_id: str) -> str:
        return "en"


def _text_us(count: int) -> float:
    text = ChannelText(body="{{ a }} sent {{ b }}")
    template = Template(
        name="t",
        variables={"a": Variable(), "b": Variable()},
        texts={"default": {"en": {"default": text}}},
    )
    templates = Templates(_Reads(template))
    data = {"a": "Ann", "b": "a file"}
    return _best_us(
        lambda: templates.render("a", "t", locale="en-US", time_zone="UTC", channel="apns", data=data),
        count,
    )


def _source_ms(source: str, *, is_stopped: bool = False) -> float:
    """Raises: Refused, where it is stopped and should not be."""
    compiled = Source(source, where="body")

    def render() -> None:
        with suppress(Refused) if is_stopped else nullcontext():
            compiled.render({}, babel_locale("en"), UTC, max_chars=64 * 1024)

    return _best_us(render, 1) / 1e3


def _mail_ms() -> float:
    html = ('<a href="https://a.example/x">x</a>' * 2_000)[: 64 * 1024]

    def rewrite() -> None:
        rewrite_links(html, lambda url: url + "?")
        text_of(html)

    return _best_us(rewrite, 1) / 1e3


def _queue_us(count: int) -> float:
    best = float("inf")
    for _ in range(_TURNS):
        queue: FairQueue[int] = FairQueue(count + 1)
        started_at = perf_counter()
        for number in range(count):
            queue.push(number, f"app{number & 3}", number % 3, 0)
        for _ in range(count):
            queue.pop(_NOW_MS)
        best = min(best, (perf_counter() - started_at) / count)
    return best * 1e6


def run(calls: int) -> dict[str, float]:
    """Measure all of them."""
    return {
        "schedule_us": round(_schedule_us(None, calls), 2),
        "schedule_not_quiet_us": round(_schedule_us(QuietHours(start="22:00", end="07:00"), calls), 2),
        "schedule_held_us": round(_schedule_us(QuietHours(start="09:00", end="18:00"), calls), 2),
        "text_us": round(_text_us(calls), 2),
        "queue_us": round(_queue_us(calls), 2),
        "dearest_template_ms": round(_source_ms(_DEAR), 1),
        "stopped_template_ms": round(_source_ms(_ENDLESS, is_stopped=True), 1),
        "mail_of_64_kb_ms": round(_mail_ms(), 1),
    }


def _commit() -> str:
    done = subprocess.run(
        ["git", "rev-parse", "--short", "HEAD"], capture_output=True, text=True, check=False
    )
    return done.stdout.strip() or "unknown"


def main() -> None:
    """Measure, and print one JSON line."""
    parser = argparse.ArgumentParser(description="Measure the pure parts of notifications.")
    parser.add_argument("--calls", type=int, default=20_000, help="calls of each (default: 20000)")
    options = parser.parse_args()
    machine = f"{platform.machine()}, {os.cpu_count()} cores, Python {platform.python_version()}"
    result = run(options.calls)
    print(json.dumps({"bench": "notify_rules", "commit": _commit(), "machine": machine} | result))


if __name__ == "__main__":
    main()
