"""What an app may send as a template or experiment is bounded when it is decoded."""

from typing import Any

import msgspec
import pytest

from protocol.notify_templates import Experiment, Template

TEXT = {"en": {"default": {"body": "x"}}}


def _template(**fields: Any) -> bytes:
    return msgspec.json.encode({"name": "t", "texts": {"default": TEXT}} | fields)


def _experiment(**fields: Any) -> bytes:
    return msgspec.json.encode({"name": "e", "template": "t", "variants": {"default": 1, "b": 1}} | fields)


def test_a_template_comes_back_as_it_was_kept() -> None:
    """The store holds its JSON."""
    template = msgspec.json.decode(
        _template(variables={"n": {"kind": "number", "default": 3}}), type=Template
    )
    assert template.variables["n"].default == 3
    assert msgspec.json.decode(msgspec.json.encode(template), type=Template) == template


@pytest.mark.parametrize(
    "body",
    [
        _template(name="T"),
        _template(name="t\n"),
        _template(version=0),
        _template(texts={}),
        _template(texts={"default": {}}),
        _template(texts={"default": {"en": {}}}),
        _template(texts={"holdout": TEXT}),
        _template(texts={f"v{n}": TEXT for n in range(11)}),
        _template(texts={"default": {"e" * 36: TEXT["en"]}}),
        _template(texts={"default": {"en\n": TEXT["en"]}}),
        _template(texts={"default": {"../x": TEXT["en"]}}),
        _template(texts={"default": {"en": {"fax": {"body": "x"}}}}),
        _template(texts={"default": {"en": {"sms": {"body": "x" * 65_537}}}}),
        _template(texts={"default": {"en": {"sms": {"title": "x" * 2_001}}}}),
        _template(variables={"_x": {}}),
        _template(variables={"a b": {}}),
        _template(variables={"x": {"kind": "money"}}),
        _template(variables={f"v{n}": {} for n in range(51)}),
    ],
)
def test_a_template_beyond_its_limits_is_not_decoded(body: bytes) -> None:
    """Sizes and names are checked before anything is compiled."""
    with pytest.raises(msgspec.ValidationError):
        msgspec.json.decode(body, type=Template)


@pytest.mark.parametrize(
    "body",
    [
        _experiment(variants={"default": 1}),
        _experiment(variants={"default": 1, "holdout": 1}),
        _experiment(variants={"default": 1, "b": -1}),
        _experiment(variants={"default": 1, "b": 10_001}),
        _experiment(variants={f"v{n}": 1 for n in range(11)}),
        _experiment(holdout_percent=51),
        _experiment(metric="smiled"),
        _experiment(expected_difference=0),
        _experiment(control="holdout"),
        _experiment(salt="x" * 65),
    ],
)
def test_an_experiment_beyond_its_limits_is_not_decoded(body: bytes) -> None:
    """The statistics rely on them."""
    msgspec.json.decode(_experiment(), type=Experiment)
    with pytest.raises(msgspec.ValidationError):
        msgspec.json.decode(body, type=Experiment)
