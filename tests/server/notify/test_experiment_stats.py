"""Results of experiments agree with published values, and keep their promises in simulated experiments."""

from collections.abc import Callable
from math import sqrt
from random import Random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from protocol.notify_templates import Experiment, VariantCounts
from server.notify.experiment_stats import (
    always_valid,
    chi_square_tail,
    compare,
    newcombe,
    results,
    sample_ratio,
    wilson,
)

SEED = 20_261_126
counts = st.integers(0, 10_000).flatmap(
    lambda n: st.integers(0, n).map(lambda x: VariantCounts(exposures=n, conversions=x))
)


@pytest.mark.parametrize(
    ("conversions", "exposures", "low", "high"),
    [(81, 263, 0.2553, 0.3662), (15, 148, 0.0624, 0.1605), (0, 20, 0.0, 0.1611), (1, 29, 0.0061, 0.1718)],
)
def test_intervals_of_rates_are_wilsons(conversions: int, exposures: int, low: float, high: float) -> None:
    """Newcombe, Statistics in Medicine 17 (1998) 857-872, table I, method 3."""
    assert wilson(conversions, exposures) == pytest.approx((low, high), abs=5e-5)


@pytest.mark.parametrize(
    ("one", "other", "low", "high"),
    [
        ((56, 70), (48, 80), 0.0524, 0.3339),
        ((9, 10), (3, 10), 0.1705, 0.8090),
        ((6, 7), (2, 7), 0.0582, 0.8062),
        ((5, 56), (0, 29), -0.0381, 0.1926),
        ((0, 10), (0, 20), -0.1611, 0.2775),
        ((0, 10), (0, 10), -0.2775, 0.2775),
        ((10, 10), (0, 20), 0.6791, 1.0),
        ((10, 10), (0, 10), 0.6075, 1.0),
    ],
)
def test_intervals_of_differences_are_newcombes(
    one: tuple[int, int], other: tuple[int, int], low: float, high: float
) -> None:
    """Newcombe, Statistics in Medicine 17 (1998) 873-890, table II, method 10."""
    found = newcombe(VariantCounts(one[1], one[0]), VariantCounts(other[1], other[0]))
    assert found == pytest.approx((low, high), abs=5e-5)


@pytest.mark.parametrize(
    ("value", "degrees", "tail"),
    [
        (3.841, 1, 0.05),
        (10.828, 1, 0.001),
        (0.00393, 1, 0.95),
        (5.991, 2, 0.05),
        (13.816, 2, 0.001),
        (7.815, 3, 0.05),
        (9.236, 5, 0.1),
        (18.307, 10, 0.05),
        (3.940, 10, 0.95),
    ],
)
def test_chi_squares_tail_is_the_tables(value: float, degrees: int, tail: float) -> None:
    """NIST/SEMATECH e-Handbook of Statistical Methods, section 1.3.6.7.4, which has three decimals."""
    assert chi_square_tail(value, degrees) == pytest.approx(tail, rel=1e-3)


def test_chi_squares_tail_is_exact_where_it_has_a_simple_form() -> None:
    """With two degrees it is exp(-x/2); with one, erfc(sqrt(x/2)). Both ways of evaluating are reached."""
    from math import erfc, exp

    for value in (0.01, 0.5, 1.0, 3.0, 3.9, 4.1, 10.0, 50.0, 300.0):
        assert chi_square_tail(value, 2) == pytest.approx(exp(-value / 2), rel=1e-9)
        assert chi_square_tail(value, 1) == pytest.approx(erfc(sqrt(value / 2)), rel=1e-9)
    assert chi_square_tail(0.0, 3) == 1.0


@given(counts, counts)
def test_intervals_hold_the_estimate_and_the_always_valid_one_is_wider(
    one: VariantCounts, other: VariantCounts
) -> None:
    """Looking at all times costs width, and never turns a result round."""
    for result in (one, other):
        low, high = wilson(result.conversions, result.exposures)
        assert 0 <= low <= high <= 1
    difference = compare(one, other, expected_difference=0.02)
    assert difference.low - 1e-12 <= difference.estimate <= difference.high + 1e-12
    assert difference.always_low <= difference.estimate <= difference.always_high
    if min(one.exposures, other.exposures) >= 100 and difference.verdict in ("better", "worse"):
        assert (difference.estimate > 0) == (difference.verdict == "better")
    mirrored = compare(other, one, expected_difference=0.02)
    assert mirrored.always_low == pytest.approx(-difference.always_high)


def _draw(random: Random, rate: float, exposures: int) -> VariantCounts:
    return VariantCounts(exposures, sum(random.random() < rate for _ in range(exposures)))


@pytest.mark.parametrize(("rate", "exposures"), [(0.02, 400), (0.1, 150), (0.5, 60)])
def test_95_percent_intervals_cover_the_truth_in_at_least_93_percent(rate: float, exposures: int) -> None:
    """Of 2,000 simulated experiments each; the standard error of the share is half a percent."""
    random = Random(SEED)
    rate_hits = difference_hits = 0
    other_rate = rate * 1.5
    for _ in range(2_000):
        one, other = _draw(random, rate, exposures), _draw(random, other_rate, exposures)
        low, high = wilson(one.conversions, exposures)
        rate_hits += low <= rate <= high
        low, high = newcombe(other, one)
        difference_hits += low <= other_rate - rate <= high
    assert 0.93 <= rate_hits / 2_000 <= 0.985
    assert 0.93 <= difference_hits / 2_000 <= 0.985


def _verdict_comes(
    random: Random, rates: tuple[float, float], *, users: int, look_every: int, says: Callable[..., bool]
) -> int:
    """Run one experiment, looking all the time; at how many users of each a difference is said, or 0."""
    control = other = 0
    for number in range(1, users + 1):
        control += random.random() < rates[0]
        other += random.random() < rates[1]
        if number % look_every == 0 and says(VariantCounts(number, control), VariantCounts(number, other)):
            return number
    return 0


def _sequential(control: VariantCounts, other: VariantCounts) -> bool:
    return compare(control, other, expected_difference=0.02).verdict in ("better", "worse")


def _naive(control: VariantCounts, other: VariantCounts) -> bool:
    """What one would do without: stop as soon as the interval for one look leaves zero."""
    low, high = newcombe(other, control)
    return min(control.conversions, other.conversions) >= 10 and (low > 0 or high < 0)


def _false_share(
    rate: float, says: Callable[..., bool], *, experiments: int, users: int, look_every: int
) -> float:
    random = Random(SEED)
    return (
        sum(
            _verdict_comes(random, (rate, rate), users=users, look_every=look_every, says=says) > 0
            for _ in range(experiments)
        )
        / experiments
    )


def test_peeking_without_a_sequential_test_errs_often() -> None:
    """The simulation does see the error that the sequential test is there to prevent."""
    assert _false_share(0.1, _naive, experiments=200, users=2_000, look_every=20) > 0.15


def test_a_verdict_errs_rarely_though_one_looks_all_the_time() -> None:
    """At most 5 % of experiments without a difference are ever told to have one."""
    assert _false_share(0.1, _sequential, experiments=400, users=1_000, look_every=10) <= 0.05


@pytest.mark.slow
@pytest.mark.parametrize(("rate", "users"), [(0.02, 3_000), (0.1, 2_000), (0.5, 1_000)])
def test_a_verdict_errs_rarely_at_any_rate_and_at_every_user(rate: float, users: int) -> None:
    """The same, looked at after every single pair of users, for rare and for frequent conversions."""
    assert _false_share(rate, _sequential, experiments=600, users=users, look_every=1) <= 0.05


def test_the_always_valid_interval_covers_a_true_difference_at_all_looks() -> None:
    """It is an interval, not only a test."""
    random, missed = Random(SEED), 0

    def leaves(control: VariantCounts, other: VariantCounts) -> bool:
        if min(control.conversions, other.conversions) < 10:
            return False
        low, high = always_valid(other, control, expected_difference=0.02)
        return not low <= 0.05 <= high

    for _ in range(300):
        missed += _verdict_comes(random, (0.1, 0.15), users=1_000, look_every=10, says=leaves) > 0
    assert missed / 300 <= 0.05


def test_a_true_difference_is_found() -> None:
    """A test that never speaks makes no error either: 10 % against 15 % is seen by 4,000 users each."""
    random = Random(SEED)
    ends = [
        _verdict_comes(random, (0.10, 0.15), users=4_000, look_every=50, says=_sequential) for _ in range(60)
    ]
    assert sum(end > 0 for end in ends) >= 0.9 * len(ends)


def _experiment(**variants: int) -> Experiment:
    return Experiment(name="e", template="t", variants=variants or {"default": 1, "short": 1})


def test_results_tell_everything_of_a_clear_experiment() -> None:
    """Rates, differences, the check of the split, the holdout, and the winner."""
    found = results(
        _experiment(default=1, short=1, long=1),
        {
            "default": VariantCounts(5_000, 500),
            "short": VariantCounts(5_050, 757),
            "long": VariantCounts(4_950, 300),
            "holdout": VariantCounts(1_000, 20),
        },
    )
    control, short, long = found.variants
    assert (control.variant, control.rate, control.difference) == ("default", 0.1, None)
    assert short.difference is not None
    assert long.difference is not None
    assert (short.difference.verdict, long.difference.verdict) == ("better", "worse")
    assert short.difference.estimate == pytest.approx(757 / 5_050 - 0.1)
    assert not found.sample_ratio.is_mismatch
    assert found.winner == "short"
    assert found.holdout is not None
    assert found.holdout.rate == 0.02


def test_who_was_drawn_is_told_beside_who_was_sent_the_text() -> None:
    """A text that is missing in some languages: what switching to it would bring, and that groups differ."""
    found = results(
        _experiment(default=1, short=1),
        {"default": VariantCounts(5_000, 500, 5_050, 510), "short": VariantCounts(3_000, 450, 5_010, 620)},
    )
    control, short = found.variants
    assert control.drawn is not None
    assert short.drawn is not None
    assert (control.drawn.users, control.drawn.conversions, control.drawn.difference) == (5_050, 510, None)
    assert (short.drawn.users, short.drawn.rate) == (5_010, 620 / 5_010)
    assert (short.drawn.low, short.drawn.high) == wilson(620, 5_010)
    difference = short.drawn.difference
    assert difference is not None
    assert difference.estimate == pytest.approx(620 / 5_010 - 510 / 5_050)
    assert (difference.low, difference.high) == newcombe(VariantCounts(5_010, 620), VariantCounts(5_050, 510))
    assert found.sample_ratio.is_mismatch  # of those who were sent it: they are no fair groups
    assert found.winner == ""


def test_several_variants_share_the_error_rate() -> None:
    """With ten variants one of them would soon look better by chance."""
    data = {
        "default": VariantCounts(5_000, 500),
        "a": VariantCounts(5_000, 600),
        "b": VariantCounts(5_000, 500),
    }
    one = results(_experiment(default=1, a=1), data).variants[1].difference
    of_two = results(_experiment(default=1, a=1, b=1), data).variants[1].difference
    assert one is not None
    assert of_two is not None
    assert of_two.always_low < one.always_low
    assert of_two.low == one.low


def test_too_few_conversions_are_no_verdict() -> None:
    """9 against 0 looks clear, and is not; a variant that nobody got yet is no error."""
    found = results(_experiment(), {"default": VariantCounts(1_000, 0), "short": VariantCounts(1_000, 9)})
    assert found.variants[1].difference is not None
    assert found.variants[1].difference.verdict == "collecting"
    empty = results(_experiment(), {})
    assert empty.variants[1].difference is not None
    assert empty.variants[1].difference.verdict == "collecting"
    assert empty.winner == ""


def test_a_split_that_is_not_as_weighted_has_no_winner() -> None:
    """If users get lost on the way, who is left is not comparable."""
    data = {"default": VariantCounts(5_000, 500), "short": VariantCounts(4_000, 800)}
    found = results(_experiment(), data)
    assert found.sample_ratio.is_mismatch
    assert found.sample_ratio.chi_square == pytest.approx(1_000_000 / 9_000)
    assert found.winner == ""
    assert not results(_experiment(default=5, short=4), data).sample_ratio.is_mismatch


def test_a_right_split_is_seldom_called_wrong() -> None:
    """An alarm that rings for nothing is switched off."""
    random, alarms = Random(SEED), 0
    for _ in range(2_000):
        short = sum(random.random() < 0.5 for _ in range(200))
        alarms += sample_ratio(
            {"default": 200 - short, "short": short}, {"default": 1, "short": 1}
        ).is_mismatch
    assert alarms <= 5
    assert not sample_ratio({"default": 4, "short": 0}, {"default": 1, "short": 1}).is_mismatch
    assert not sample_ratio({}, {"default": 1, "short": 0}).is_mismatch
