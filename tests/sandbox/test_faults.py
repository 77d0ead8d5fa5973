"""The rules of faults: who is hit, how often, and always the same by the same seed."""

from typing import Any

import msgspec
import pytest

from server.sandbox import Fault
from server.sandbox.faults import Faults


def test_a_rule_skips_hits_and_is_spent() -> None:
    """Tests say exactly which request goes wrong."""
    faults = Faults()
    faults.inject(Fault(channel="apns", status=503, skip=1, times=2))
    hits = [faults.pick("apns", "a") is not None for _ in range(5)]
    assert hits == [False, True, True, False, False]
    assert faults.pick("fcm", "a") is None
    (rule,) = faults.rules()
    assert (rule.met_count, rule.hit_count, rule.is_spent) == (3, 2, True)


def test_the_oldest_rule_that_hits_wins() -> None:
    """A narrow rule before a wide one."""
    faults = Faults()
    first = faults.inject(Fault(channel="sms", match="+49*", status=400, code="21614"))
    faults.inject(Fault(channel="sms", status=500))
    for service in ("twilio", "vonage"):
        found = [faults.pick(service, to) for to in ("+491", "+441")]
        assert [hit and hit.fault.status for hit in found] == [400, 500]
    assert faults.withdraw(first)
    assert not faults.withdraw(first)
    found_now = faults.pick("vonage", "+491")
    assert found_now is not None
    assert found_now.fault.status == 500


def test_chance_is_the_same_by_the_same_seed() -> None:
    """A failed run can be run again, whatever the other services did meanwhile."""

    def draw(seed: int, *, is_disturbed: bool = False) -> list[bool]:
        faults = Faults(seed)
        faults.inject(Fault(channel="apns", status=500, probability=0.3))
        faults.inject(Fault(channel="fcm", status=500, probability=0.3))
        hits = []
        for _ in range(1_000):
            hits.append(faults.pick("apns", "a") is not None)
            if is_disturbed:
                faults.pick("fcm", "a")
        return hits

    assert draw(1) == draw(1, is_disturbed=True)
    assert draw(1) != draw(2)
    assert 250 < sum(draw(1)) < 350


@pytest.mark.parametrize(
    "fields",
    [
        {"channel": "pigeon", "status": 500},
        {"channel": "apns"},
        {"channel": "apns", "stall": True, "reset": True},
        {"channel": "apns", "stall": True, "status": 500},
        {"channel": "apns", "status": 500, "at": "dot"},
        {"channel": "smtp", "goaway": True},
        {"channel": "apns", "receipt": "none"},
        {"channel": "apns", "status": 500, "probability": 2.0},
        {"channel": "apns", "status": 500, "colour": "red"},
    ],
)
def test_rules_that_make_no_sense_are_refused(fields: dict[str, Any]) -> None:
    """A typo in a rule must not be a rule that never hits."""
    with pytest.raises(msgspec.ValidationError):
        msgspec.convert(fields, Fault)
