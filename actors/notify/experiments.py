"""Who gets which variant of an experiment: by a hash, so that every node, now and later, says the same.

Variants are chosen by weighted rendezvous hashing (Schindelhauer and Schomaker, "Weighted Distributed Hash
Tables", SPAA 2005, logarithmic method): each variant draws a number of its own for the user, and the lowest
of -ln(number) / weight wins. When one weight changes, users move only to or from that variant, as few as
the new shares allow. The holdout is drawn by another hash, so that changing it moves nobody between variants.
"""

from hashlib import blake2b
from math import log
from typing import Final

from protocol.errors import ProtocolError
from protocol.notify_templates import HOLDOUT, Experiment, Template

_HASHES: Final = 2**53  # a float holds as many, so that no number is rounded to 1


def assign(experiment: Experiment, user_id: str) -> str:
    """The user's variant, or HOLDOUT. It is the same as long as salt, names and weights are.

    Raises: ValueError: no variant has a weight; check_experiment refuses such an experiment.
    """
    salt = experiment.salt or experiment.name
    if _draw(salt, HOLDOUT, user_id) * 100 < experiment.holdout_percent:
        return HOLDOUT
    return min(
        (variant for variant, weight in experiment.variants.items() if weight),
        key=lambda variant: (-log(_draw(salt, variant, user_id)) / experiment.variants[variant], variant),
    )


def is_running(experiment: Experiment, now_ms: int) -> bool:
    """Tell whether it assigns users now."""
    has_begun = experiment.started_at_ms <= now_ms
    return has_begun and not (experiment.ended_at_ms and experiment.ended_at_ms <= now_ms)


def check_experiment(experiment: Experiment, template: Template) -> None:
    """Raises: ProtocolError(bad_field): it cannot be run with this template."""
    if experiment.template != template.name:
        raise ProtocolError("bad_field", f"template: not {template.name!r}")
    if experiment.control not in experiment.variants:
        raise ProtocolError("bad_field", f"control: {experiment.control!r} is not among the variants")
    for variant in experiment.variants:
        if variant == HOLDOUT:
            raise ProtocolError("bad_field", f"variants: {HOLDOUT!r} is not a variant's name")
        if variant not in template.texts:
            raise ProtocolError("bad_field", f"variants: the template has no {variant!r}")
    if sum(weight > 0 for weight in experiment.variants.values()) < 2:
        raise ProtocolError("bad_field", "variants: two of them need a weight")
    if experiment.ended_at_ms and experiment.ended_at_ms <= experiment.started_at_ms:
        raise ProtocolError("bad_field", "ended_at_ms: before the start")


def _draw(salt: str, name: str, user_id: str) -> float:
    """A number above 0 and up to 1, as if drawn evenly."""
    digest = blake2b(f"{salt}\x00{name}\x00{user_id}".encode(), digest_size=8).digest()
    return ((int.from_bytes(digest, "big") >> 11) + 1) / _HASHES
