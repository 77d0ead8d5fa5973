"""Where does a node's time go under one workload? By a sampling profiler (py-spy), by area and function.

The node is stopped for each sample, so the workload's own figures are lower than without: read the shares,
not the rates. Counted is who holds the interpreter lock, as that is what a node is short of; SQLite's own
work and the kernel's mostly go on without it.

    python -m bench.profile W1 --variant "window 10" --wire json [--markdown] [--raw FILE]
"""

import argparse
import re
import shutil
import subprocess
import sys
import tempfile
import threading
from collections import Counter
from collections.abc import Iterable
from pathlib import Path
from typing import Any, Final

import msgspec

from bench.command import add_people_arguments, world_of
from bench.feed_target import FeedHubbub
from bench.load.target import Cores, Hubbub, Target, running
from bench.load.trial import Setting
from bench.notify_target import NotifyHubbub, NotifyWorld
from bench.workloads import WORKLOADS

RATE_HZ: Final = 100  # each sample stops the node for a millisecond or so
_SHOWN: Final = 20

# The first area whose pattern fits a frame's file gets the sample; frames are looked at from the innermost.
AREAS: Final[tuple[tuple[str, str], ...]] = (
    ("store: transactions and SQLite", r"^storage/"),
    (
        "sockets: poller, reads, writes",
        r"^server/(poller|socket_pump|transport)|^trio/(_socket|_highlevel_socket)",
    ),
    ("frames and codecs", r"^protocol/|^server/(ws_frames|websocket|bot_gateway)"),
    ("feeds: pages", r"^actors/feed/(page|post_cache|index|feed\.|ranked_feed|ad_)"),
    ("feeds: authors, partitions, pushing", r"^actors/feed"),
    (
        "notifications: providers",
        r"^server/providers|^h2|^hpack|^hyperframe|^server/notify/provider_registry",
    ),
    ("notifications: texts", r"^server/notify/(renderer|templates|links|mail_html|template_)|^jinja2"),
    ("notifications: rules", r"^actors/notify/(scheduler|facts|quiet_hours|local_time|verdict|wishes)"),
    ("notifications: channels", r"^actors/notify/(channel|fair_queue|breaker|pacer|job)"),
    ("notifications: deciding, deliveries", r"^actors/notify|^server/notify"),
    ("outboxes and fan-out", r"^server/outbox|^actors/(hub|stream_gate|presence)"),
    ("sessions: limits, replies", r"^server/(session|ratelimit|weights|metrics|gateway)"),
    ("service and routing", r"^server/(chat_service|chat_core)|^actors/(router|address|reply)"),
    ("history in memory", r"^server/tails?\."),
    ("conversations: rules, staging, receipts", r"^actors/(conversation|stream_actor|user)"),
    ("actor runtime", r"^actors/"),
    ("Trio's scheduler", r"^trio/|^outcome/|^<attrs generated methods trio"),
    ("other nodes", r"^cluster/"),
)
_OTHER: Final = "everything else"


class Profile(msgspec.Struct, frozen=True):
    """Samples by area and by function; the shares of each sum up to 1."""

    sample_count: int
    areas: dict[str, float]
    functions: dict[str, float]


def summed(lines: Iterable[str]) -> Profile:
    """Sum up py-spy's raw format: "outermost (file:line);…;innermost (file:line) count" per line."""
    areas: Counter[str] = Counter()
    functions: Counter[str] = Counter()
    for line in lines:
        stack, _, count = line.rstrip().rpartition(" ")
        if not stack:
            continue
        frames = stack.split(";")
        areas[_area_of(frames)] += int(count)
        functions[re.sub(r":\d+\)$", ")", frames[-1])] += int(count)
    total = max(1, areas.total())
    return Profile(
        sample_count=areas.total(),
        areas={name: count / total for name, count in areas.most_common()},
        functions={name: count / total for name, count in functions.most_common()},
    )


def _area_of(frames: list[str]) -> str:
    """The area of the innermost frame that has one: a library's time is its caller's."""
    for frame in reversed(frames):
        place = frame.rpartition("(")[2]
        for area, pattern in AREAS:
            if re.search(pattern, place):
                return area
    return _OTHER


def record(
    workload_name: str, variant: str, wire: str, seconds: float, kind: type[Target], **options: Any
) -> list[str]:
    """Run a workload against such a server, and return what py-spy has recorded in its measured part."""
    profiler = shutil.which("py-spy", path=str(Path(sys.executable).parent)) or shutil.which("py-spy")
    if profiler is None:
        raise FileNotFoundError("py-spy is not installed: ./check installs it, or pip install -e '.[bench]'")
    workload = WORKLOADS[workload_name]
    cores = Cores()
    cores.pin_client()
    with running(kind, cores, **options) as target, tempfile.TemporaryDirectory() as directory:
        raw = Path(directory, "raw")
        command = [profiler, "record", "--pid", str(target.pids()[0]), "--rate", str(RATE_HZ)]
        command += ["--duration", str(int(seconds)), "--format", "raw", "--output", str(raw), "--gil"]
        profiling = threading.Thread(target=subprocess.run, args=[command], kwargs={"capture_output": True})

        def begin() -> None:
            if profiling.ident is None:  # the first of several measured parts
                profiling.start()

        target.on_measure = begin
        workload.run(Setting(target=target, wire_name=wire, seconds=seconds + 2.0), variant)
        profiling.join()
        return raw.read_text().splitlines()


def told(profile: Profile, *, is_markdown: bool) -> str:
    """Lay a profile out for a terminal or for the docs."""
    lines: list[str] = []
    for title, shares in (("area", profile.areas), ("function, by its own time", profile.functions)):
        if is_markdown:
            lines += [f"| {title} | share |", "|---|---|"]
        else:
            lines.append(title)
        for name, share in list(shares.items())[:_SHOWN]:
            lines.append(f"| {name} | {share:.1%} |" if is_markdown else f"  {share:6.1%}  {name}")
        lines.append("")
    lines.append(f"{profile.sample_count} samples with the interpreter lock held.")
    return "\n".join(lines)


def main() -> int:
    """Profile, and print."""
    parser = argparse.ArgumentParser(prog="python -m bench.profile")
    parser.add_argument("workload", choices=list(WORKLOADS))
    parser.add_argument("--variant", default="", help="default: the last one")
    parser.add_argument("--wire", default="json", choices=Hubbub.wires)
    parser.add_argument("--seconds", type=float, default=10.0)
    parser.add_argument("--markdown", action="store_true")
    parser.add_argument("--raw", type=Path, help="keep the samples: input of flame graphs")
    add_people_arguments(parser)
    options = parser.parse_args()
    kind: type[Target] = Hubbub
    more: dict[str, object] = {}
    if options.workload == "NOTIFY":
        kind, more = NotifyHubbub, {"world": NotifyWorld()}
    elif WORKLOADS[options.workload].has_own_targets:
        kind, more = FeedHubbub, {"world": world_of(options)}
    variants = WORKLOADS[options.workload].variants
    try:
        lines = record(
            options.workload, options.variant or variants[-1], options.wire, options.seconds, kind, **more
        )
    except FileNotFoundError as exc:
        print(f"bench.profile: {exc}", file=sys.stderr)
        return 1
    if options.raw is not None:
        options.raw.write_text("\n".join(lines) + "\n")
    print(told(summed(lines), is_markdown=options.markdown))
    return 0


if __name__ == "__main__":
    sys.exit(main())
