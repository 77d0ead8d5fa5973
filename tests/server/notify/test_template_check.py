"""A template is right before it is kept, so that its first reader does not find the mistake."""

import threading
from pathlib import Path
from typing import Any

import msgspec
import pytest
import trio

from protocol.errors import HubbubError, ProtocolError, Refused
from protocol.notify_templates import Template, Variable
from server.notify import app_desk
from server.notify.template_check import check_template, preview
from tests.server.notify.notify_world import APP, open_notifier
from tests.server.notify.texts import TEXT, one_text


def _template(**fields: Any) -> Template:
    return msgspec.convert(
        {"name": "t", "texts": {"default": {"en": {"default": {"body": "x"}}}}} | fields, Template
    )


@pytest.mark.parametrize(
    ("template", "code", "words"),
    [
        (one_text("{{ name }}"), "template_variable_unknown", "texts.default.en.default: no variable 'name'"),
        (one_text("a\n{{ name"), "bad_field", "texts.default.en.default.body, line 2"),
        (one_text("x", html="<p>\n\n{% nope %}"), "bad_field", "html, line 3"),
        (one_text("{{ n | date }}", variables={"n": TEXT}), "template_failed", "body"),
        (one_text("{{ n | number }}", variables={"n": Variable(example="many")}), "template_failed", "body"),
        (one_text("x", variables={"loop": TEXT}), "bad_field", "loop"),
        (
            one_text("x", variables={"count": Variable(kind="number")}),
            "bad_field",
            "'count' is set by hubbub",
        ),
        (one_text("x", variables={"n": Variable(kind="number", default=[])}), "bad_field", "n.default"),
        (one_text("x", variables={"n": Variable(kind="list", example=3)}), "bad_field", "n.example"),
        (
            one_text("x", variables={"n": Variable(kind="list", example=["x" * 3_000])}),
            "bad_field",
            "2048 bytes",
        ),
        (one_text(url="/x"), "bad_field", "neither title nor body"),
        (one_text("x", url="javascript:x"), "template_failed", "url"),
        (_template(default_locale="de"), "bad_field", "default_locale"),
        (_template(texts={"short": {"en": {"default": {"body": "x"}}}}), "bad_field", "no variant 'default'"),
        (
            _template(texts={"default": {"en": {"sms": {"body": "x"}}, "EN": {"sms": {"body": "x"}}}}),
            "bad_field",
            "two spellings",
        ),
        (
            _template(
                texts={
                    "default": {"en": {"sms": {"body": "x" * 60_000}, "push": {"body": "x" * 60_000}}}
                    | {f"e{c}": {"sms": {"body": "x" * 60_000}} for c in "abcdefghi"}
                }
            ),
            "bad_field",
            "512 KiB",
        ),
    ],
)
def test_a_wrong_template_is_refused_with_its_place(template: Template, code: str, words: str) -> None:
    """The message leads to the text, and in it to the line or the variable."""
    with pytest.raises(HubbubError) as caught:
        check_template(template)
    assert caught.value.code == code
    assert words in caught.value.message


def test_every_text_is_checked_in_every_variant_locale_and_channel() -> None:
    """The mistake is in the one text that its author does not read."""
    good = {"default": {"body": "x"}, "sms": {"body": "x"}}
    texts = {
        "default": {"en": good, "de": good},
        "short": {"en": good, "de": {**good, "sms": {"body": "{{ x }}"}}},
    }
    with pytest.raises(Refused, match=r"texts\.short\.de\.sms"):
        check_template(_template(texts=texts))


def test_a_right_template_passes() -> None:
    """Declared variables and those of every notification; an object without an example is not tried."""
    variables = {
        "order": Variable(kind="object"),
        "at": Variable(kind="time"),
        "price": Variable(kind="number", required=False, default=3),
    }
    body = "{{ names | names(others) }} {{ count }} {{ titles | list }} {{ reader }} {{ order.id }}"
    check_template(one_text(body, variables=variables, title="{{ at | date }} {{ price | currency('EUR') }}"))


def test_a_preview_uses_data_then_examples_and_tells_what_is_missing() -> None:
    """An author sees the text before there are any data."""
    variables = {
        "name": Variable(example="Ann"),
        "item": TEXT,
        "size": Variable(kind="number", required=False, default=2),
    }
    template = one_text("{{ name }}: {{ size }} {{ item }}, {{ oops }}", variables=variables)
    shown = preview(template)
    assert shown.rendered.body == "Ann: 2 [item], [oops]"
    assert shown.missing == ["item", "oops"]
    shown = preview(template, data={"name": "Bo", "item": "cups", "size": 5, "oops": "!"})
    assert shown.rendered.body == "Bo: 5 cups, !"
    assert shown.missing == []
    with pytest.raises(ProtocolError):
        preview(one_text("{{"))


async def test_a_template_is_looked_at_beside_the_loop(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One that takes seconds holds up whoever saves it, and nobody's messages."""
    go_on = threading.Event()
    monkeypatch.setattr(app_desk, "check_template", lambda _template: go_on.wait(10))
    with trio.fail_after(10):
        async with open_notifier(tmp_path) as notifier, trio.open_nursery() as nursery:
            nursery.start_soon(notifier.core.desk.put_template, APP, one_text("x"))
            await notifier.world.person("ann")
            go_on.set()  # by the loop, which would not come so far
