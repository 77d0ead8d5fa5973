"""Every node puts a user into the same variant, for as long as the experiment runs."""

import subprocess
import sys
from collections import Counter
from itertools import pairwise
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from actors.notify.experiments import assign, check_experiment, is_running
from protocol.errors import ProtocolError
from protocol.notify_templates import HOLDOUT, Experiment, Template

USERS = [f"u{number}" for number in range(10_000)]
GOLDEN = ["b", "default", "holdout", "b", "b", "a", "a", "default", "default", "default", "b", "default"]


def _experiment(**fields: Any) -> Experiment:
    return msgspec.convert(
        {"name": "copy", "template": "sale", "variants": {"default": 1, "short": 1}} | fields, Experiment
    )


def _shares(experiment: Experiment) -> dict[str, float]:
    counts = Counter(assign(experiment, user_id) for user_id in USERS)
    return {variant: count / len(USERS) for variant, count in counts.items()}


@pytest.mark.parametrize(
    ("weights", "holdout_percent"),
    [
        ({"default": 1, "short": 1}, 0.0),
        ({"default": 7, "a": 2, "b": 1}, 10.0),
        ({"default": 1, "a": 0, "b": 1}, 50.0),
    ],
)
def test_users_are_shared_out_by_weight(weights: dict[str, int], holdout_percent: float) -> None:
    """Within 2 %, which is four standard deviations."""
    shares = _shares(_experiment(variants=weights, holdout_percent=holdout_percent))
    assert shares.get(HOLDOUT, 0.0) == pytest.approx(holdout_percent / 100, abs=0.02)
    for variant, weight in weights.items():
        expected = (1 - holdout_percent / 100) * weight / sum(weights.values())
        assert shares.get(variant, 0.0) == pytest.approx(expected, abs=0.02)
        assert weight or variant not in shares


def test_another_process_says_the_same() -> None:
    """Nodes, and the same node after a restart: nothing depends on Python's salted hashes."""
    code = (
        "from actors.notify.experiments import assign; from protocol.notify_templates import Experiment;"
        "e = Experiment(name='copy', template='sale', variants={'short': 1, 'default': 1},"
        " holdout_percent=10.0);"
        "print(','.join(assign(e, f'u{n}') for n in range(200)))"
    )
    said = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    experiment = _experiment(holdout_percent=10)
    assert said.stdout.strip().split(",") == [assign(experiment, user_id) for user_id in USERS[:200]]


def test_these_assignments_never_change() -> None:
    """A release that assigned otherwise would spoil every running experiment."""
    experiment = _experiment(variants={"default": 2, "a": 1, "b": 1}, holdout_percent=20)
    assert [assign(experiment, user_id) for user_id in USERS[:12]] == GOLDEN


@given(
    st.dictionaries(st.sampled_from("abcdef"), st.integers(0, 20), min_size=2).filter(
        lambda w: sum(w.values()) > 0
    ),
    st.sampled_from("abcdef"),
    st.integers(1, 20),
)
def test_changing_one_weight_moves_users_only_to_or_from_that_variant(
    weights: dict[str, int], changed: str, weight: int
) -> None:
    """All others keep reading what they read before."""
    before, after = (
        _experiment(variants=weights | {"z": 1}),
        _experiment(variants=weights | {"z": 1, changed: weight}),
    )
    grows = weight >= weights.get(changed, 0)
    for user_id in USERS[:100]:
        was, now = assign(before, user_id), assign(after, user_id)
        if was != now:
            assert (now if grows else was) == changed


def test_changing_a_weight_moves_no_more_than_the_shares_need() -> None:
    """From 1:1:1 to 2:1:1 one half must have the first: one sixth moves."""
    before, after = (
        _experiment(variants={"a": 1, "b": 1, "c": 1}),
        _experiment(variants={"a": 2, "b": 1, "c": 1}),
    )
    moved = sum(assign(before, user_id) != assign(after, user_id) for user_id in USERS) / len(USERS)
    assert moved == pytest.approx(1 / 6, abs=0.02)


def test_a_growing_holdout_only_takes() -> None:
    """Who was held out stays so, and nobody changes the variant."""
    sizes = [
        [assign(_experiment(holdout_percent=percent), user_id) for user_id in USERS[:2_000]]
        for percent in (0, 5, 20, 50)
    ]
    for smaller, larger in pairwise(sizes):
        for was, now in zip(smaller, larger, strict=True):
            assert now in (was, HOLDOUT)


def test_experiments_are_independent_unless_they_share_a_salt() -> None:
    """A user's luck in one says nothing about the other."""
    one, other = _experiment(name="one"), _experiment(name="other")
    same = sum(assign(one, user_id) == assign(other, user_id) for user_id in USERS) / len(USERS)
    assert same == pytest.approx(0.5, abs=0.02)
    salted = [_experiment(name=name, salt="s") for name in ("one", "other")]
    assert len({tuple(assign(experiment, user_id) for user_id in USERS[:100]) for experiment in salted}) == 1


def test_an_experiment_runs_between_its_start_and_its_end() -> None:
    """The end is not part of it."""
    experiment = _experiment(started_at_ms=10, ended_at_ms=20)
    assert [is_running(experiment, now_ms) for now_ms in (9, 10, 19, 20)] == [False, True, True, False]
    assert is_running(_experiment(started_at_ms=10), 10**13)


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"template": "other"}, "template"),
        ({"control": "long"}, "control"),
        ({"variants": {"default": 1, "gone": 1}}, "'gone'"),
        ({"variants": {"default": 1, "short": 0}}, "two of them"),
        ({"started_at_ms": 10, "ended_at_ms": 10}, "ended_at_ms"),
    ],
)
def test_an_experiment_that_cannot_run_is_refused(fields: dict[str, Any], words: str) -> None:
    """Its author learns of it when it is set up."""
    text = {"en": {"default": {"body": "x"}}}
    template = msgspec.convert({"name": "sale", "texts": {"default": text, "short": text}}, Template)
    check_experiment(_experiment(), template)
    with pytest.raises(ProtocolError, match=words):
        check_experiment(_experiment(**fields), template)
