"""What follows on an attempt's outcome: try again, the next provider, give up, and when.

An outcome has three values. After `unknown` the notification may have arrived: it is sent again only where a
second copy replaces the first (a collapse key on APNs, FCM or Web Push), or where its type says `may_double`;
another provider replaces nothing, so it is asked only with `may_double`.

| outcome | step |
|---|---|
| accepted | done |
| retry | by backoff; the 4th refusal: the next provider, if there is one; after `max_attempts` dead_letter |
| retry_now | at once the first two times, then as retry |
| retire, suppress, dead_letter | the same |
| break | the breaker opens; the next provider, or wait for it to close |
| failover | the next provider; without one retry where the provider named a time, else dead_letter |
| expired | the same |
| unknown | retry as said above, after `max_attempts` or too late unknown_final |

A retry that would come after the end of the notification is the next provider's, or expired.
"""

from math import ceil
from typing import Literal

import msgspec

from actors.notify.delivery import Outcome
from protocol.notify_types import PUSH_CHANNELS, Channel, Decision, TypeRule

BASE_S = 1.0
CAP_S = 900.0  # 15 minutes
MAX_DELAY_S = 86_400.0  # whatever a provider asks: a day later the world is another
MAX_ATTEMPTS = 24  # 3.5 hours at the most: 1, 2, 4, … 512 s, then 15 minutes each time
FAILOVER_AFTER = 3  # refusals; the backoff of three is some 7 s at the most, so an urgent one is not late
IMMEDIATE_RETRIES = 2  # then "mended" is not believed any more
BREAK_MS = 300_000  # how long a broken credential is left alone, as by breaker.py

StepKind = Literal[
    "done",
    "retry",
    "failover",
    "retire",
    "suppress",
    "dead_letter",
    "break",
    "expired",
    "unknown_final",
]


class Step(msgspec.Struct, frozen=True):
    """What to do with this address, when (Unix ms; 0 where nothing follows), and why.

    `opens_breaker`: the provider's credentials or settings are wrong, whatever becomes of this one.
    """

    kind: StepKind
    at_ms: int
    why: Decision
    opens_breaker: bool = False


def delay_s(attempt: int, retry_after_s: float | None, rand: float) -> float:
    """How long to wait after an attempt (from 1): exponential, with full jitter. `rand` in [0, 1).

    What the provider asked for is the least; jitter comes on top, so that those who were refused together do
    not come back together. (Full jitter: "Exponential Backoff And Jitter", AWS Architecture Blog, 2015.)
    """
    jitter_s = rand * min(CAP_S, BASE_S * 2.0 ** (min(max(attempt, 1), 32) - 1))
    floor_s = retry_after_s if retry_after_s is not None and retry_after_s > 0 else 0.0
    return min(floor_s + jitter_s, MAX_DELAY_S)


def resumed_at_ms(due_at_ms: int, now_ms: int) -> int:
    """When a retry that is found in the store goes on: no later than the backoff could have asked for.

    The clock may have been ahead when it was stored. A longer time that a provider named is forgotten with a
    restart; it will name it again. Times of day, as quiet hours, are asked for anew. Unix ms.
    """
    return min(due_at_ms, now_ms + int(CAP_S * 1_000))


def next_step(
    outcome: Outcome,
    *,
    channel: Channel,
    attempt: int,
    rule: TypeRule,
    now_ms: int,
    expires_at_ms: int = 0,
    has_collapse: bool = False,
    has_next_provider: bool = False,
    rand: float = 0.5,
    max_attempts: int = MAX_ATTEMPTS,
) -> Step:
    """Decide what follows on the `attempt`-th outcome (from 1) at one provider. Times: Unix ms, 0: none."""
    if outcome.kind == "accepted":
        return _step("done", 0, "accepted", outcome.code)
    is_late = 0 < expires_at_ms <= now_ms
    if outcome.kind == "unknown":  # whatever the action says: it may have arrived
        return _after_unknown(
            outcome,
            channel=channel,
            attempt=attempt,
            rule=rule,
            now_ms=now_ms,
            expires_at_ms=expires_at_ms,
            has_collapse=has_collapse,
            has_next_provider=has_next_provider,
            rand=rand,
            max_attempts=max_attempts,
        )
    match outcome.action:
        case "retire" | "suppress" | "dead_letter":
            return _step(outcome.action, 0, "refused", outcome.code)
        case "expired":
            return _step("expired", 0, "refused", outcome.code)
        case "break":
            if is_late:
                return _step("expired", 0, "expires_at_ms", str(expires_at_ms), opens_breaker=True)
            if has_next_provider:
                return _step("failover", now_ms, "break", outcome.code, opens_breaker=True)
            return _step("break", now_ms + BREAK_MS, "break", outcome.code, opens_breaker=True)
        case _:
            pass
    if is_late:
        return _step("expired", 0, "expires_at_ms", str(expires_at_ms))
    if outcome.action == "failover":
        if has_next_provider:
            return _step("failover", now_ms, "refused", outcome.code)
        if outcome.retry_after_s is None:
            return _step("dead_letter", 0, "no_provider_left", outcome.code)
    is_immediate = outcome.action == "retry_now" and attempt <= IMMEDIATE_RETRIES
    if has_next_provider and not is_immediate and attempt > FAILOVER_AFTER:
        return _step("failover", now_ms, "failover_after", str(FAILOVER_AFTER))
    if attempt >= max_attempts:
        return _step("dead_letter", 0, "max_attempts", str(max_attempts))
    if is_immediate:
        return _step("retry", now_ms, "retry_now", outcome.code)
    at_ms = now_ms + ceil(delay_s(attempt, outcome.retry_after_s, rand) * 1_000)
    if 0 < expires_at_ms <= at_ms:
        if has_next_provider:
            return _step("failover", now_ms, "expires before", str(at_ms))
        return _step("expired", 0, "expires before", str(at_ms))
    return _step("retry", at_ms, "backoff", str(attempt))


def _after_unknown(
    outcome: Outcome,
    *,
    channel: Channel,
    attempt: int,
    rule: TypeRule,
    now_ms: int,
    expires_at_ms: int,
    has_collapse: bool,
    has_next_provider: bool,
    rand: float,
    max_attempts: int,
) -> Step:
    heals = has_collapse and channel in PUSH_CHANNELS
    if not heals and not rule.may_double:
        return _step("unknown_final", 0, "may_double", outcome.code)
    if 0 < expires_at_ms <= now_ms:
        return _step("unknown_final", 0, "expires_at_ms", str(expires_at_ms))
    may_fail_over = rule.may_double and has_next_provider
    if may_fail_over and attempt > FAILOVER_AFTER:
        return _step("failover", now_ms, "failover_after", str(FAILOVER_AFTER))
    if attempt >= max_attempts:
        return _step("unknown_final", 0, "max_attempts", str(max_attempts))
    at_ms = now_ms + ceil(delay_s(attempt, outcome.retry_after_s, rand) * 1_000)
    if 0 < expires_at_ms <= at_ms:
        if may_fail_over:
            return _step("failover", now_ms, "expires before", str(at_ms))
        return _step("unknown_final", 0, "expires before", str(at_ms))
    return _step("retry", at_ms, "collapse_key" if heals else "may_double", str(attempt))


_TOLD = {
    "done": "accepted",
    "retry": "retry",
    "failover": "retry",
    "break": "hold",
    "unknown_final": "unknown",
}


def _step(kind: StepKind, at_ms: int, rule: str, value: str, *, opens_breaker: bool = False) -> Step:
    return Step(kind, at_ms, Decision("result", _TOLD.get(kind, "refused"), rule, value), opens_breaker)
