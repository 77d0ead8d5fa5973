"""The one scheduler of notifications: send, hold or drop, by one written precedence.

The first line that drops or holds decides; those below are then not asked.

| # | stage | drops | holds | passes without being asked |
|---|---|---|---|---|
| 1 | deduplicate | same app, user, type, subject and content told within `dedup_s` | | |
| 2 | consent | the type's `purpose` has no consent, or it has ended | | nothing: security too |
| 3 | preferences | no wanted channel is left; `off` (below) | | security |
| 4 | expiry | `expires_at_ms`, or `created_at_ms` + `ttl_s`, has come | | |
| 5 | schedule | expires before | until `send_at_ms`, in-app as well | |
| 6 | digest | expires before | until the user's daily or weekly time | security, released |
| 7 | batch | expires before | with the open batch, or until `batch_window_s` from now | security, released |
| 8 | quiet_hours | expires before | until they end, by the user's clock | security |
| 9 | cap | expires before | until a place is free, or the next full hour's digest | security, not capped |
| 10 | send | | | |

In-app interrupts nobody: from line 6 on it is delivered at once and the other channels wait, or are dropped,
alone.

- Preferences: as wishes.py tells. `off` leaves nothing but in-app, and that only where the user said yes to
  in-app in so many words.
- A due time satisfies all rules at once: that of a digest, batch, quiet hours or cap is moved on until it
  lies outside of quiet hours and a place under the cap is free, as far as is known now. What is released is
  asked again. An open group keeps the time that its first member got. `send_at_ms` is the app's word and is
  kept as it is: in-app is delivered at it, and the rest is asked anew at that moment.
- Duplicates are judged by when they are told, not by when they are asked for: what is held counts with its
  due time, and is asked again then, against what was told before.
- Released by the schedule (`held_by`), a notification goes through all lines. Released by another stage it is
  past 6 and 7, is without its in-app copy, and waits for a place under the cap by itself.
- The cap: at most `cap_per_hour` counted sends in any hour, one hour open at its end. Security and uncapped
  types neither wait nor count, and what goes in-app only does not.
"""

from typing import Literal

from actors.notify.digest_times import next_daily_ms, next_hour_ms, next_weekly_ms
from actors.notify.facts import AHEAD_MS, HOUR_MS, Facts, UserFacts, dedup_key
from actors.notify.local_time import known_zone
from actors.notify.quiet_hours import quiet_until_ms
from actors.notify.verdict import Stage, Verdict
from actors.notify.wishes import lets_through, wish_of
from protocol.notify_types import AppRules, Channel, Decision, Frequency, Preferences, QuietHours, TypeRule

EXPIRES_BEFORE = "expires before"

_Wait = tuple[Stage, str, int, str]  # stage, group, due_at_ms, reason
_INAPP: list[Channel] = ["inapp"]
# What passes is told in the same words again and again; Structs are frozen and may be shared.
_NEW = Decision("deduplicate", "pass", "dedup_s")
_SECURITY = Decision("preferences", "pass", "is_security")
_NOT_QUIET = Decision("quiet_hours", "pass", "quiet_hours")
_INAPP_ONLY = Decision("choose", "pass", "channels", "inapp only")


def schedule(facts: Facts, rule: TypeRule, user: UserFacts, app: AppRules, now_ms: int) -> Verdict:
    """Decide about one notification at `now_ms` (Unix ms). Changes nothing; see `UserFacts.note`.

    To be called again when a hold is due, with `is_released`, and for what is due before what is new.
    """
    why: list[Decision] = []
    key = ""
    if rule.dedup_s and facts.content_hash:
        key = dedup_key(facts)
        seen_id = seen_before(facts, rule, user, key, now_ms)
        if seen_id is not None:
            return _drop(why, "deduplicate", "dedup_s", str(seen_id), f"a duplicate of {seen_id}")
        why.append(_NEW)

    if rule.purpose:
        consent = user.consents.get(rule.purpose)
        if consent is None:
            return _drop(why, "consent", "purpose", rule.purpose, f"no consent to {rule.purpose}")
        if 0 < consent.ends_at_ms <= now_ms:
            return _drop(
                why, "consent", "ends_at_ms", str(consent.ends_at_ms), f"the consent to {rule.purpose} ended"
            )
        why.append(Decision("consent", "pass", "purpose", rule.purpose))

    # Only the schedule holds the copy in the app back, and lets out what the digest and the batch have not
    # seen.
    is_first = not facts.is_released or facts.held_by == "schedule"
    frequency: Frequency = "immediate"
    channels = facts.channels or rule.channels
    fallback = rule.fallback
    if rule.is_security:
        why.append(_SECURITY)
    else:
        wanted = channels
        channels, fallback, frequency = _preferred(wanted, fallback, user.preferences, facts.type)
        if not channels and frequency == "off":
            return _drop(why, "preferences", "frequency", "off", "the user switched it off")
        if not channels:
            return _drop(why, "preferences", "channels", ",".join(wanted), "no channel is left")
        if len(channels) != len(wanted):
            why.append(Decision("preferences", "change", "channels", ",".join(channels)))
    is_inapp = "inapp" in channels
    interrupting: list[Channel] = channels
    if is_inapp:
        interrupting = [channel for channel in channels if channel != "inapp"]
    if is_inapp and not is_first:
        is_inapp = False
        if not interrupting:
            return _drop(why, "preferences", "channels", "inapp", "no channel is left")

    ends_ms = facts.expires_at_ms
    if rule.ttl_s:
        ttl_ms = facts.created_at_ms + rule.ttl_s * 1_000
        ends_ms = min(ends_ms, ttl_ms) if ends_ms else ttl_ms
    if ends_ms:
        if ends_ms <= now_ms:
            return _drop(why, "expiry", "expires_at_ms", str(ends_ms), "expired")
        why.append(Decision("expiry", "pass", "expires_at_ms", str(ends_ms)))

    if facts.send_at_ms > now_ms:
        if ends_ms and ends_ms <= facts.send_at_ms:
            return _drop(why, "expiry", EXPIRES_BEFORE, str(facts.send_at_ms), EXPIRES_BEFORE)
        why.append(Decision("schedule", "hold", "send_at_ms", str(facts.send_at_ms)))
        return Verdict(
            kind="hold",
            due_at_ms=facts.send_at_ms,
            stage="schedule",
            reason="it is to be sent later",
            held_channels=channels,
            fallback=fallback,
            dedup_key=key,
            expires_at_ms=ends_ms,
            decisions=why,
        )

    is_counted = rule.is_capped and app.cap_per_hour > 0 and not rule.is_security and bool(interrupting)
    wait: _Wait | None = None
    if not interrupting:
        why.append(_INAPP_ONLY)
    elif not rule.is_security:
        wait = _wait(facts, rule, user, app, now_ms, frequency if is_first else "", is_counted, why)
    if wait is None:
        return Verdict(
            kind="send",
            channels=channels if is_first else interrupting,
            fallback=fallback,
            inapp_now=is_inapp,
            is_counted=is_counted,
            dedup_key=key,
            expires_at_ms=ends_ms,
            decisions=why,
        )
    stage, group, due_ms, reason = wait
    why.append(Decision(stage, "hold", group or stage, str(due_ms)))
    if ends_ms and ends_ms <= due_ms:
        why.append(Decision("expiry", "drop", EXPIRES_BEFORE, str(due_ms)))
        return Verdict(
            kind="send" if is_inapp else "drop",
            stage="" if is_inapp else "expiry",
            reason=EXPIRES_BEFORE,
            channels=_INAPP if is_inapp else [],
            inapp_now=is_inapp,
            dedup_key=key if is_inapp else "",
            expires_at_ms=ends_ms,
            decisions=why,
        )
    return Verdict(
        kind="hold",
        due_at_ms=due_ms,
        group=group,
        stage=stage,
        reason=reason,
        channels=_INAPP if is_inapp else [],
        held_channels=interrupting,
        fallback=fallback,
        inapp_now=is_inapp,
        dedup_key=key,
        expires_at_ms=ends_ms,
        decisions=why,
    )


def seen_before(facts: Facts, rule: TypeRule, user: UserFacts, key: str, now_ms: int) -> int | None:
    """Tell of which notification this one is a duplicate. `key`: its dedup key."""
    if key not in user.recent and key not in user.planned:
        return None
    at_ms = max(now_ms, facts.send_at_ms)
    dedup_ms = rule.dedup_s * 1_000
    return user.seen_as(key, facts.notification_id, at_ms, dedup_ms, is_due=facts.is_released)


def _wait(
    facts: Facts,
    rule: TypeRule,
    user: UserFacts,
    app: AppRules,
    now_ms: int,
    frequency: Frequency | Literal[""],
    is_counted: bool,
    why: list[Decision],
) -> _Wait | None:
    """Lines 6 to 9: until when, and why, the interrupting channels wait. `frequency`: "" is past 6 and 7."""
    free_ms = _free_at_ms(user, app.cap_per_hour, now_ms) if is_counted else 0
    quiet = user.preferences.quiet_hours
    zone = known_zone(user.time_zone, app.default_time_zone)
    if frequency == "daily" or frequency == "weekly":
        group = f"digest:{frequency}"
        due_ms = _open_until_ms(user, group, now_ms) or _settle(
            _digest_ms(user.preferences, frequency, zone, now_ms), quiet, zone, free_ms
        )
        return "digest", group, due_ms, f"the user wants it {frequency}"

    if frequency and rule.batch_window_s and facts.batch_key:
        group = f"batch:{facts.type}:{facts.batch_key}"
        due_ms = _open_until_ms(user, group, now_ms) or _settle(
            now_ms + rule.batch_window_s * 1_000, quiet, zone, free_ms
        )
        return "batch", group, due_ms, "similar ones become one"

    if quiet is not None:
        until_ms = quiet_until_ms(quiet, zone, now_ms)
        if until_ms:
            return "quiet_hours", "", _settle(until_ms, quiet, zone, free_ms), "quiet hours"
        why.append(_NOT_QUIET)

    if free_ms > now_ms:
        reason = f"{app.cap_per_hour} were sent within an hour"
        if app.over_cap == "later" or facts.is_released:
            return "cap", "", _settle(free_ms, quiet, zone, free_ms), reason
        due_ms = _open_until_ms(user, "digest:cap", now_ms) or _settle(
            next_hour_ms(zone, free_ms - 1), quiet, zone, free_ms
        )
        return "cap", "digest:cap", due_ms, reason
    if is_counted:
        why.append(Decision("cap", "pass", "cap_per_hour", str(app.cap_per_hour)))
    return None


def _drop(why: list[Decision], stage: Stage, rule: str, value: str, reason: str) -> Verdict:
    why.append(Decision(stage, "drop", rule, value))
    return Verdict(kind="drop", stage=stage, reason=reason, decisions=why)


def _preferred(
    wanted: list[Channel], fallback: list[Channel], preferences: Preferences, type_name: str
) -> tuple[list[Channel], list[Channel], Frequency]:
    """What the user lets through of the wanted channels and the fallback, and how often."""
    frequency, chosen = wish_of(preferences, type_name)
    if not chosen and frequency != "off":
        return wanted, fallback, frequency
    return (
        [channel for channel in wanted if lets_through(frequency, chosen, channel)],
        [channel for channel in fallback if lets_through(frequency, chosen, channel)],
        frequency,
    )


def _free_at_ms(user: UserFacts, cap: int, now_ms: int) -> int:
    """From when on one more is under the cap, if nothing else is sent; long ago where it already is."""
    sent = user.sent_at_ms
    if len(sent) < cap:
        return 0
    if sent[-1] > now_ms + AHEAD_MS:  # see UserFacts.count_send
        sent = [at_ms for at_ms in sent if at_ms <= now_ms + AHEAD_MS]
        return sent[-cap] + HOUR_MS if len(sent) >= cap else 0
    return sent[-cap] + HOUR_MS


def _open_until_ms(user: UserFacts, group: str, now_ms: int) -> int:
    """When the group is due that is open to new members; 0: there is none."""
    known = user.open_groups.get(group)
    return known.due_at_ms if known is not None and known.due_at_ms > now_ms else 0


def _digest_ms(preferences: Preferences, frequency: str, zone: str, now_ms: int) -> int:
    if frequency == "daily":
        return next_daily_ms(preferences.digest_at, zone, now_ms)
    return next_weekly_ms(preferences.digest_weekday, preferences.digest_at, zone, now_ms)


def _settle(due_ms: int, quiet: QuietHours | None, zone: str, free_ms: int) -> int:
    """The first moment from `due_ms` on that is outside of quiet hours and has a place under the cap.

    A place that is free stays free while nothing is sent, so after the cap only quiet hours can move it
    again.
    """
    due_ms = max(due_ms, free_ms)
    if quiet is None:
        return due_ms
    return quiet_until_ms(quiet, zone, due_ms) or due_ms
