"""Compare what the clients of a chaos run saw with what is stored. Blind to how the nodes did it.

The store is read from the database itself, so that no node's cache can hide anything.
"""

import json
import sqlite3
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from statistics import median

from tests.chaos.ledger import Content, Ledger, Send, View

MAX_SHOWN = 8  # findings of each kind; the count tells the rest

Stored = Mapping[str, Sequence[Content]]  # conversation_id -> its events from seq 1 on


def read_store(connection: sqlite3.Connection, conversation_ids: Iterable[str]) -> dict[str, list[Content]]:
    """Read whole conversations. Raises: AssertionError where seq does not run from 1 without a gap."""
    stored: dict[str, list[Content]] = {}
    for conversation_id in conversation_ids:
        contents: list[Content] = []
        rows = connection.execute(
            "SELECT l.seq, l.kind, l.user_id, l.client_id, l.body FROM log l JOIN stream s USING (stream_id)"
            " WHERE s.name = ? ORDER BY l.seq",
            (f"c:{conversation_id}",),
        )
        for seq, kind, user_id, client_id, body in rows:
            assert seq == len(contents) + 1, f"{conversation_id} has seq {seq} after {len(contents)}"
            if kind == "message":
                contents.append(Content(kind, user_id, client_id or "", json.loads(body).get("text", "")))
            else:
                contents.append(Content(kind, user_id))
        stored[conversation_id] = contents
    return stored


@dataclass(slots=True)
class Findings:
    """What is wrong, by kind; empty where all is right."""

    by_kind: dict[str, list[str]] = field(default_factory=lambda: defaultdict(list))

    def add(self, kind: str, text: str) -> None:
        self.by_kind[kind].append(text)

    def lines(self) -> list[str]:
        found: list[str] = []
        for kind, texts in self.by_kind.items():
            found += [f"{kind}: {text}" for text in texts[:MAX_SHOWN]]
            if len(texts) > MAX_SHOWN:
                found.append(f"{kind}: … and {len(texts) - MAX_SHOWN} more")
        return found


def judge(ledger: Ledger, stored: Stored) -> Findings:
    """Hold every ack and every view to the store."""
    findings = Findings()
    for failure in ledger.failures:
        findings.add("failure", failure)
    _judge_store(ledger, stored, findings)
    for send in ledger.acks:
        _judge_ack(send, stored, findings)
    _judge_time(ledger, findings)
    for view in ledger.views:
        _judge_view(view, stored, findings)
    return findings


def _judge_store(ledger: Ledger, stored: Stored, findings: Findings) -> None:
    for conversation_id, contents in stored.items():
        seen: dict[tuple[str, str], int] = {}
        for seq, content in enumerate(contents, 1):
            if content.kind != "message":
                continue
            key = (content.user_id, content.client_id)
            if key in seen:
                findings.add("doubled", f"{conversation_id}: {content} at {seen[key]} and {seq}")
            seen[key] = seq
            send = ledger.sends.get((conversation_id, *key))
            if send is None:
                findings.add("unknown", f"{conversation_id} {seq}: {content} was never sent")
            elif send.text != content.text:
                findings.add("changed", f"{conversation_id} {seq}: {content.text!r}, sent {send.text!r}")


def _judge_ack(send: Send, stored: Stored, findings: Findings) -> None:
    contents = stored[send.conversation_id]
    where = f"{send.conversation_id} {send.seq} {send.client_id} (acked at {send.acked_at:.2f} by {send.via})"
    if send.seq > len(contents):
        findings.add("lost", f"{where}: the store ends at {len(contents)}")
        return
    content = contents[send.seq - 1]
    if (content.user_id, content.client_id) != (send.user_id, send.client_id):
        findings.add("lost", f"{where}: the store has {content} there")


def _judge_time(ledger: Ledger, findings: Findings) -> None:
    """What was sent after another message's ack must stand behind that message."""
    by_conversation: dict[str, list[Send]] = defaultdict(list)
    for send in ledger.acks:
        by_conversation[send.conversation_id].append(send)
    for conversation_id, sends in by_conversation.items():
        sends.sort(key=lambda send: send.seq)
        latest: Send | None = None  # of those with a smaller seq, the one that was sent last
        for send in sends:
            if latest is not None and latest.sent_at > send.acked_at:
                findings.add(
                    "reordered",
                    f"{conversation_id}: {latest.client_id} stands at {latest.seq}, before "
                    f"{send.client_id} at {send.seq}, but was sent "
                    f"{latest.sent_at - send.acked_at:.3f} s after its ack",
                )
            if latest is None or send.sent_at > latest.sent_at:
                latest = send


def _judge_view(view: View, stored: Stored, findings: Findings) -> None:
    who = f"{view.owner} of {view.conversation_id}"
    for fault in view.faults:
        findings.add("view changed", f"{who}: {fault}")
    wanted = stored[view.conversation_id][view.start :]
    if len(view.contents) != len(wanted):
        findings.add(
            "view length", f"{who} ends at {view.cursor}, the store at {len(stored[view.conversation_id])}"
        )
    for at, (mine, theirs) in enumerate(zip(view.contents, wanted, strict=False), view.start + 1):
        if mine != theirs:
            findings.add("view differs", f"{who} at {at}: {mine}, stored {theirs}")
            break


# -- unavailability ---------------------------------------------------------------------------------


@dataclass(slots=True)
class Fault:
    """One thing that was done to the cluster, and the shards it should have hit."""

    name: str
    node: str
    at: float
    shards: frozenset[int] = frozenset()
    until: float = float("inf")  # when the next one began, or the load ended


@dataclass(slots=True, frozen=True)
class Outage:
    """The longest time that a shard acked nothing around a fault. `is_hit`: the node that fell owned it."""

    fault: Fault
    shard: int
    gap_s: float
    is_hit: bool


def outages(acks: Mapping[int, Sequence[float]], faults: Sequence[Fault], end: float) -> list[Outage]:
    """Find each shard's longest gap between acks for each fault.

    A gap counts for a fault where it overlaps the time from the fault to the next one, and it counts whole:
    it holds up to one tick of the prober's timetable in which all was well.
    """
    found: list[Outage] = []
    for fault in faults:
        until = min(fault.until, end)
        for shard, times in acks.items():
            gap_s = 0.0
            points = [*times, end]  # what never came back is a gap to the end
            for before, after in pairwise(points):
                if after > fault.at and before < until:
                    gap_s = max(gap_s, after - before)
            found.append(Outage(fault, shard, gap_s, shard in fault.shards))
    return found


def summed_up(found: Sequence[Outage]) -> dict[str, float]:
    """Median and worst over the shards that were hit, and the worst over all others."""
    hit = [outage.gap_s for outage in found if outage.is_hit]
    others = [outage.gap_s for outage in found if not outage.is_hit]
    return {
        "hit_count": len(hit),
        "median_s": round(median(hit), 2) if hit else 0.0,
        "worst_s": round(max(hit, default=0.0), 2),
        "worst_of_others_s": round(max(others, default=0.0), 2),
    }
