"""When a batch or digest is due: each member is asked again, and what is left goes out as one.

The rules are the scheduler's; here is only how the answers of several members become one.
"""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Literal

import msgspec

from actors.notify.facts import Facts, UserFacts
from actors.notify.scheduler import schedule
from actors.notify.verdict import Verdict
from protocol.notify_types import CHANNELS, AppRules, Channel, Decision, TypeRule


class Release(msgspec.Struct, frozen=True, kw_only=True):
    """What becomes of a group whose time has come. It counts as one send, if any of its members counts.

    `hold`: until the last of its members may go, so that they stay together. `kept`: the members that go on,
    in their order, and their `verdicts`; `dropped`: the others, each with its own verdict. `channels`: on
    which to send, and which members the user lets through on each; where those differ, the text does.
    `drop`: nobody is left.
    """

    kind: Literal["send", "hold", "drop"]
    due_at_ms: int = 0
    reason: str = ""
    channels: dict[Channel, list[int]] = {}
    kept: list[Facts] = []
    verdicts: list[Verdict] = []
    dropped: list[tuple[Facts, Verdict]] = []
    is_counted: bool = False
    decisions: list[Decision] = []


def release(
    members: Sequence[Facts], rules: Mapping[str, TypeRule], user: UserFacts, app: AppRules, now_ms: int
) -> Release:
    """Ask the scheduler for each member of a due group. Changes nothing: the caller counts the send.

    A type that the app has removed since goes by the defaults of `TypeRule`. Of members that say the same,
    the first is told and the others are its duplicates.
    """
    own = {facts.notification_id for facts in members}
    others = {key: seen for key, seen in user.recent.items() if seen[0] not in own}
    user = replace(user, recent=others, planned={})
    kept: list[tuple[Facts, Verdict]] = []
    dropped: list[tuple[Facts, Verdict]] = []
    for facts in members:
        if not facts.is_released or facts.held_by == "schedule":
            facts = msgspec.structs.replace(facts, is_released=True, held_by="group")
        rule = rules.get(facts.type) or TypeRule(name=facts.type)
        verdict = schedule(facts, rule, user, app, now_ms)
        (dropped if verdict.kind == "drop" else kept).append((facts, verdict))
        if verdict.kind != "drop":
            user.told(verdict.dedup_key, facts.notification_id, now_ms)
    if not kept:
        why = dropped[-1][1] if dropped else None
        return Release(
            kind="drop",
            reason=why.reason if why else "it is empty",
            dropped=dropped,
            decisions=why.decisions if why else [],
        )
    latest = max((verdict for _, verdict in kept), key=lambda verdict: verdict.due_at_ms)
    if latest.kind == "hold":
        return Release(
            kind="hold",
            due_at_ms=latest.due_at_ms,
            reason=latest.reason,
            kept=[facts for facts, _ in kept],
            verdicts=[verdict for _, verdict in kept],
            dropped=dropped,
            decisions=latest.decisions,
        )
    return Release(
        kind="send",
        channels={
            channel: ids
            for channel in CHANNELS
            if (ids := [facts.notification_id for facts, verdict in kept if channel in verdict.channels])
        },
        kept=[facts for facts, _ in kept],
        verdicts=[verdict for _, verdict in kept],
        dropped=dropped,
        is_counted=any(verdict.is_counted for _, verdict in kept),
        decisions=kept[0][1].decisions,
    )
