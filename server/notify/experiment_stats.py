"""What an experiment has shown: rates, differences, a verdict that may be looked at any time, and a check.

Intervals of rates are Wilson's (E. B. Wilson, JASA 22, 1927), of differences Newcombe's hybrid score
(R. G. Newcombe, Statistics in Medicine 17, 1998, 873-890, method 10). Both are right at one look.

The verdict is right at all looks together: the mixture sequential probability ratio test with a normal
mixture over the difference (Robbins 1970; Johari, Pekelis and Walsh, "Always Valid Inference", 2015),
turned into a confidence sequence. With D the difference of rates, V its variance and T the variance of the
mixture, the likelihood ratio against "no difference" is sqrt(V / (V + T)) exp(T D^2 / (2 V (V + T))), and by
Ville's inequality it ever reaches 1 / a with a probability of at most a, if there is none. As the normal
approximation is poor for few conversions, nothing is said before each side has MIN_OUTCOMES of either
outcome, and rates within V are drawn towards a half by one success and one failure.

All counts are of users, each counted once: several notifications to one user are no independent trials.

Rates, verdict and winner are of those who were sent the variant's text. Where one variant loses more users
than another on the way to that (it has no text in some language), these are no fair groups any more; the
sample ratio is theirs, too, and shows it. Beside them stands what became of all who were drawn (intention to
treat): a fair comparison in any case, if one that dilutes what the text does.
"""

from collections.abc import Mapping
from math import exp, lgamma, log, sqrt
from typing import Final

from protocol.notify_templates import (
    HOLDOUT,
    Difference,
    DrawnDifference,
    DrawnResult,
    Experiment,
    ExperimentResults,
    SampleRatio,
    VariantCounts,
    VariantResult,
    Verdict,
)

Z_95: Final = 1.959963984540054  # the normal distribution's 97.5 % point
ERROR_RATE: Final = 0.05  # of all verdicts of one experiment together
MIN_OUTCOMES: Final = 10  # conversions, and users without one, of either side
# Fabijan et al., "Diagnosing Sample Ratio Mismatch in Online Controlled Experiments" (KDD 2019), take a
# small level, so that a correct split, looked at often, raises no alarm.
MISMATCH_P: Final = 0.0005
MIN_EXPECTED: Final = 5.0  # of chi-square's cells (Cochran 1954)


def results(experiment: Experiment, counts: Mapping[str, VariantCounts]) -> ExperimentResults:
    """Judge an experiment by what became of its users so far; variants without users may be absent.

    Several variants are each compared with the control, and share the error rate among them (Bonferroni).
    `winner` is the variant that is better than the control and has the highest rate of those that are; with
    a sample ratio mismatch there is none.
    """
    control = counts.get(experiment.control, VariantCounts())
    control_drawn = drawn_counts(control)
    others = [name for name in experiment.variants if name != experiment.control]
    variants = [variant_result(experiment.control, control)]
    for name in others:
        mine = counts.get(name, VariantCounts())
        difference = compare(
            control,
            mine,
            expected_difference=experiment.expected_difference,
            error_rate=ERROR_RATE / len(others),
        )
        variants.append(variant_result(name, mine, difference, control_drawn))
    ratio = sample_ratio(
        {name: counts.get(name, VariantCounts()).exposures for name in experiment.variants},
        experiment.variants,
    )
    better = [
        result
        for result in variants
        if result.difference is not None and result.difference.verdict == "better"
    ]
    best = max(better, key=lambda result: result.rate, default=None)
    return ExperimentResults(
        name=experiment.name,
        metric=experiment.metric,
        control=experiment.control,
        variants=variants,
        sample_ratio=ratio,
        holdout=variant_result(HOLDOUT, counts[HOLDOUT]) if HOLDOUT in counts else None,
        winner="" if best is None or ratio.is_mismatch else best.variant,
    )


def drawn_counts(counts: VariantCounts) -> VariantCounts:
    """The counts of all who were drawn, as those of who was exposed."""
    return VariantCounts(counts.drawn, counts.drawn_conversions)


def drawn_result(counts: VariantCounts, control: VariantCounts | None) -> DrawnResult:
    """What became of all who were drawn; both counts are `drawn_counts`. Without a control: no difference."""
    low, high = wilson(counts.conversions, counts.exposures)
    return DrawnResult(
        users=counts.exposures,
        conversions=counts.conversions,
        rate=_rate(counts),
        low=low,
        high=high,
        difference=None if control is None else _drawn_difference(counts, control),
    )


def _drawn_difference(counts: VariantCounts, control: VariantCounts) -> DrawnDifference:
    low, high = newcombe(counts, control)
    return DrawnDifference(estimate=_rate(counts) - _rate(control), low=low, high=high)


def variant_result(
    name: str,
    counts: VariantCounts,
    difference: Difference | None = None,
    control_drawn: VariantCounts | None = None,
) -> VariantResult:
    """One variant's rate with its interval, and that of all who were drawn for it."""
    low, high = wilson(counts.conversions, counts.exposures)
    return VariantResult(
        variant=name,
        exposures=counts.exposures,
        conversions=counts.conversions,
        rate=_rate(counts),
        low=low,
        high=high,
        difference=difference,
        drawn=drawn_result(drawn_counts(counts), control_drawn),
    )


def compare(
    control: VariantCounts,
    other: VariantCounts,
    *,
    expected_difference: float,
    error_rate: float = ERROR_RATE,
) -> Difference:
    """Compare a variant with the control. `error_rate`: of this comparison, over all looks at it."""
    low, high = newcombe(other, control)
    always_low, always_high = always_valid(
        other, control, expected_difference=expected_difference, error_rate=error_rate
    )
    return Difference(
        estimate=_rate(other) - _rate(control),
        low=low,
        high=high,
        always_low=always_low,
        always_high=always_high,
        verdict=_verdict(control, other, always_low, always_high),
    )


def wilson(conversions: int, exposures: int) -> tuple[float, float]:
    """The 95 % score interval of a rate; nothing is known of a rate without exposures."""
    if not exposures:
        return 0.0, 1.0
    rate, z2 = conversions / exposures, Z_95 * Z_95
    middle = conversions + z2 / 2
    half = Z_95 * sqrt(exposures * rate * (1 - rate) + z2 / 4)
    low = 0.0 if not conversions else (middle - half) / (exposures + z2)
    high = 1.0 if conversions == exposures else (middle + half) / (exposures + z2)
    return low, high


def newcombe(one: VariantCounts, other: VariantCounts) -> tuple[float, float]:
    """The 95 % interval of the first rate minus the second, from both rates' Wilson intervals."""
    if not one.exposures or not other.exposures:
        return -1.0, 1.0
    one_rate, other_rate = _rate(one), _rate(other)
    one_low, one_high = wilson(one.conversions, one.exposures)
    other_low, other_high = wilson(other.conversions, other.exposures)
    difference = one_rate - other_rate
    below = sqrt((one_rate - one_low) ** 2 + (other_high - other_rate) ** 2)
    above = sqrt((one_high - one_rate) ** 2 + (other_rate - other_low) ** 2)
    return difference - below, difference + above


def always_valid(
    one: VariantCounts, other: VariantCounts, *, expected_difference: float, error_rate: float = ERROR_RATE
) -> tuple[float, float]:
    """An interval of the first rate minus the second that holds at all looks together.

    It is where the likelihood ratio of the mixture stays below 1 / error_rate; the mixture's standard
    deviation is the expected difference.
    """
    if not one.exposures or not other.exposures:
        return -1.0, 1.0
    variance = _variance(one) + _variance(other)
    mixture = expected_difference**2
    total = variance + mixture
    half = sqrt(variance * total / mixture * (log(total / variance) - 2 * log(error_rate)))
    difference = _rate(one) - _rate(other)
    return max(-1.0, difference - half), min(1.0, difference + half)


def sample_ratio(exposures: Mapping[str, int], weights: Mapping[str, int]) -> SampleRatio:
    """Compare how many users each variant has with how many its weight should bring.

    Too few users for the test, or a single variant: no mismatch. A variant of weight 0 is left out, as it
    may have had one before.
    """
    names = [name for name, weight in weights.items() if weight]
    total, weight_sum = sum(exposures.get(name, 0) for name in names), sum(weights[name] for name in names)
    expected = {name: total * weights[name] / weight_sum for name in names}
    degrees = len(names) - 1
    if degrees < 1 or min(expected.values()) < MIN_EXPECTED:
        return SampleRatio(chi_square=0.0, degrees=max(0, degrees), p_value=1.0, is_mismatch=False)
    chi_square = sum((exposures.get(name, 0) - expected[name]) ** 2 / expected[name] for name in names)
    p_value = chi_square_tail(chi_square, degrees)
    return SampleRatio(
        chi_square=chi_square, degrees=degrees, p_value=p_value, is_mismatch=p_value < MISMATCH_P
    )


def chi_square_tail(value: float, degrees: int) -> float:
    """The probability that chi-square is above `value`: the upper incomplete gamma function Q(d/2, x/2).

    By its series below d/2 + 1, else by its continued fraction (DLMF 8.7.1 and 8.9.2, the latter evaluated
    by Lentz's method).
    """
    shape, x = degrees / 2, value / 2
    if x <= 0:
        return 1.0
    front = exp(shape * log(x) - x - lgamma(shape))
    if x < shape + 1:
        term = total = 1 / shape
        n = shape
        while term > total * 1e-16:
            n += 1
            term *= x / n
            total += term
        return 1 - front * total
    tiny = 1e-300  # Lentz's stand-in for a denominator of zero
    b = x + 1 - shape
    c, d = 1 / tiny, 1 / b
    fraction = d
    for i in range(1, 10_000):
        a = i * (shape - i)
        b += 2
        d = 1 / ((a * d + b) or tiny)
        c = (b + a / c) or tiny
        fraction *= c * d
        if abs(c * d - 1) < 1e-15:
            break
    return front * fraction


def _verdict(control: VariantCounts, other: VariantCounts, low: float, high: float) -> Verdict:
    outcomes = (
        count
        for counts in (control, other)
        for count in (counts.conversions, counts.exposures - counts.conversions)
    )
    if min(outcomes) < MIN_OUTCOMES:
        return "collecting"
    if low > 0:
        return "better"
    return "worse" if high < 0 else "undecided"


def _rate(counts: VariantCounts) -> float:
    return counts.conversions / counts.exposures if counts.exposures else 0.0


def _variance(counts: VariantCounts) -> float:
    rate = (counts.conversions + 1) / (counts.exposures + 2)
    return rate * (1 - rate) / counts.exposures
