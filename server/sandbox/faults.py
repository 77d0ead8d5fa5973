"""Faults on purpose: rules that say which request goes wrong, and how. Deterministic by a seed."""

import fnmatch
from collections.abc import Iterable
from random import Random
from typing import Annotated, Final, Literal

import msgspec
from msgspec import Meta

from server.sandbox.exchange import Answer, Headers
from server.sandbox.holds import Hold, Holds

Service = Literal["apns", "fcm", "token", "webpush", "twilio", "vonage", "smtp"]
"""A fake. `token` is Google's OAuth endpoint, which FCM's senders ask first."""
Stage = Literal["", "connect", "auth", "mail", "rcpt", "data", "dot"]
"""Where in an SMTP session. `data`: in the middle of the message; `dot`: its end, before the reply."""

SERVICES: Final[tuple[Service, ...]] = ("apns", "fcm", "token", "webpush", "twilio", "vonage", "smtp")
_GROUPS: Final[dict[str, tuple[Service, ...]]] = {"sms": ("twilio", "vonage"), "email": ("smtp",)}


def services_of(channel: str) -> tuple[Service, ...]:
    """Tell which fakes a channel's name means: `sms` is Twilio and Vonage, `email` is SMTP.

    Raises: ValueError.
    """
    if channel in _GROUPS:
        return _GROUPS[channel]
    for service in SERVICES:
        if service == channel:
            return (service,)
    raise ValueError(f"There is no channel {channel!r}; there are {', '.join((*SERVICES, *_GROUPS))}.")


class Fault(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True, forbid_unknown_fields=True):
    """What goes wrong, for whom, and how often. Only requests that pass all checks are counted and hit.

    The fates, of which one rule has at most one: nothing but `status`, an answer with that status and `code`;
    `stall`, no answer at all; `reset`, the connection is reset and nothing was accepted; `rst_stream`, the
    same for one HTTP/2 stream; `goaway`, alone: refused unprocessed, with `status`: answered, then the end;
    `drop_after_accept`, accepted and kept, then the connection is reset: the sender cannot know.
    `delay_s` and `holds` go with any of them, or stand alone: late, or not before `Sandbox.release`; of the
    two, the delay comes first. A rule with nothing but `receipt…` lets the SMS through.
    """

    channel: Annotated[str, Meta(description="apns, fcm, token, webpush, twilio, vonage, smtp; sms, email.")]
    match: Annotated[str, Meta(description="Pattern for the address (*, ?, […]); empty: all.")] = ""
    times: Annotated[int, Meta(ge=0, description="How often it hits; 0: for ever.")] = 0
    skip: Annotated[int, Meta(ge=0, description="So many that match go unhurt first.")] = 0
    probability: Annotated[float, Meta(ge=0, le=1)] = 1.0
    status: Annotated[int, Meta(ge=0, le=599, description="HTTP status, or SMTP reply code.")] = 0
    code: Annotated[str, Meta(description="The provider's word for it; empty: the usual one.")] = ""
    retry_after_s: Annotated[int, Meta(ge=0)] | None = None
    timestamp_ms: Annotated[int, Meta(ge=0, description="With APNs 410: since when. 0: now.")] = 0
    delay_s: Annotated[float, Meta(ge=0, le=3_600)] = 0.0
    holds: Annotated[bool, Meta(description="The answer waits until it is let go.")] = False
    stall: bool = False
    reset: bool = False
    rst_stream: bool = False
    goaway: bool = False
    drop_after_accept: bool = False
    at: Annotated[Stage, Meta(description="SMTP only; empty: the usual place, see `stage`.")] = ""
    receipt: Annotated[
        Literal["", "delivered", "undelivered", "failed", "none"],
        Meta(description="SMS: what the receipts end with; none: they get lost."),
    ] = ""
    receipt_code: Annotated[str, Meta(description="SMS: error code of an undelivered one.")] = ""
    receipts_doubled: bool = False
    receipts_reversed: bool = False

    def __post_init__(self) -> None:
        """Raises: ValueError, where the rule contradicts itself."""
        services = services_of(self.channel)
        fates = [self.stall, self.reset, self.rst_stream, self.goaway, self.drop_after_accept]
        if sum(fates) > 1:
            raise ValueError(
                "A fault has at most one of stall, reset, rst_stream, goaway, drop_after_accept."
            )
        if self.status and (self.stall or self.reset or self.rst_stream or self.drop_after_accept):
            raise ValueError("A request that gets no answer has no status.")
        if self.at and services != ("smtp",):
            raise ValueError("`at` is for smtp only.")
        if "smtp" in services and (self.goaway or self.rst_stream):
            raise ValueError("SMTP has no streams: use reset.")
        if self.has_receipts and not set(services) <= {"twilio", "vonage"}:
            raise ValueError("Receipts are of sms, twilio and vonage.")
        if not 0 <= self.probability <= 1:
            raise ValueError("`probability` is 0 to 1.")
        if not (self.status or any(fates) or self.delay_s or self.holds or self.has_receipts):
            raise ValueError("Nothing would go wrong: say status, a fate, delay_s, holds or a receipt.")

    @property
    def has_receipts(self) -> bool:
        return bool(self.receipt or self.receipt_code or self.receipts_doubled or self.receipts_reversed)

    @property
    def refuses(self) -> bool:
        """Tell whether the request is not accepted."""
        is_hit = self.stall or self.reset or self.rst_stream or self.goaway or self.status
        return bool(is_hit) and not 200 <= self.status < 300

    @property
    def stage(self) -> Stage:
        """Where in an SMTP session it hits, if `at` does not say."""
        if self.at:
            return self.at
        if self.drop_after_accept:
            return "dot"
        return "data" if self.reset or self.stall else "rcpt"

    def retry_after(self) -> Headers:
        """Return the header, or none."""
        return [] if self.retry_after_s is None else [("retry-after", str(self.retry_after_s))]


class Hit(msgspec.Struct, frozen=True, eq=False):
    """A fault that hits one request, and where the answer to that is held, if it is."""

    fault: Fault
    hold: Hold | None = None

    def end(self, answer: Answer) -> Answer:
        """Give `answer`, which is what the rule says or an acceptance, the rule's delay, hold and fate."""
        fault = self.fault
        answer.delay_s = fault.delay_s
        answer.hold = self.hold
        if fault.reset or fault.drop_after_accept:
            answer.fate = "reset"
        elif fault.stall:
            answer.fate = "stall"
        elif fault.rst_stream:
            answer.fate = "rst_stream"
        elif fault.goaway:
            answer.fate = "goaway"
            if not fault.status:
                answer.status = 0
        return answer


class Rule(msgspec.Struct, kw_only=True):
    """A Fault in force: how often it was met and how often it hit."""

    id: int
    fault: Fault
    met_count: int = 0
    hit_count: int = 0

    @property
    def is_spent(self) -> bool:
        return 0 < self.fault.times <= self.hit_count


class Faults:
    """The rules in force, oldest first. Each rule draws from a generator of its own, so that one seed and
    one order of requests to a service give the same faults whatever the other services do."""

    def __init__(self, seed: int = 0) -> None:
        self._seed = seed
        self._made_count = 0
        self._rules: dict[int, Rule] = {}
        self._draws: dict[int, Random] = {}
        self._by_service: dict[Service, list[Rule]] = {service: [] for service in SERVICES}
        self.holds = Holds()

    def inject(self, fault: Fault) -> int:
        """Put a rule in force; returns its id."""
        self._made_count += 1
        rule = Rule(id=self._made_count, fault=fault)
        self._rules[rule.id] = rule
        self._draws[rule.id] = Random(f"{self._seed} {rule.id}")
        for service in services_of(fault.channel):
            self._by_service[service].append(rule)
        if fault.holds:
            self.holds.add(rule.id, services_of(fault.channel))
        return rule.id

    def withdraw(self, rule_id: int) -> bool:
        """End a rule, and let go what it holds; False if there is none."""
        rule = self._rules.pop(rule_id, None)
        if rule is None:
            return False
        del self._draws[rule_id]
        for service in services_of(rule.fault.channel):
            self._by_service[service].remove(rule)
        self.holds.remove(rule_id)
        return True

    def clear(self) -> None:
        """End all rules."""
        for rule_id in list(self._rules):
            self.withdraw(rule_id)

    def rules(self) -> list[Rule]:
        """Return all rules, oldest first, spent ones too: their counts are worth reading."""
        return list(self._rules.values())

    def pick(self, service: Service, *addresses: str, stages: Iterable[Stage] = ()) -> Hit | None:
        """Return what hits this request, and count it. The first rule that hits wins."""
        rules = self._by_service[service]
        if not rules:
            return None
        wanted = tuple(stages)
        for rule in rules:
            fault = rule.fault
            if rule.is_spent or (wanted and fault.stage not in wanted):
                continue
            if fault.match and not any(fnmatch.fnmatchcase(one, fault.match) for one in addresses):
                continue
            rule.met_count += 1
            if rule.met_count <= fault.skip:
                continue
            if fault.probability < 1 and self._draws[rule.id].random() >= fault.probability:
                continue
            rule.hit_count += 1
            return Hit(fault, self.holds.of(rule.id, service))
        return None
