"""What a user gets to read: the right text, whole, and safe."""

from typing import Any

import msgspec
import pytest

from protocol.errors import Refused
from protocol.notify_templates import ChannelText, Rendered, Template, Variable
from protocol.notify_types import Channel
from server.notify.templates import Templates, cut
from tests.server.notify.texts import TEXT, Reads, one_text


def _render(
    template: Template, channel: Channel = "inapp", *, variant: str = "default", **data: Any
) -> Rendered:
    templates = Templates(Reads(template))
    return templates.render(
        "app", template.name, variant=variant, locale="en", time_zone="UTC", channel=channel, data=data
    )


def test_a_text_has_all_its_fields_rendered() -> None:
    """A device shows title, body and picture, and opens the address."""
    template = one_text(
        "Hi {{ name }}",
        variables={"name": TEXT},
        title="{{ name }}!",
        url="app://u/{{ name }}",
        image="/i.png",
    )
    rendered = _render(template, name="Ann")
    assert (rendered.title, rendered.body, rendered.html) == ("Ann!", "Hi Ann", "")
    assert (rendered.url, rendered.image) == ("app://u/Ann", "/i.png")
    assert (rendered.locale, rendered.variant) == ("en", "default")
    assert rendered.decision.stage == "render"
    assert rendered.decision.outcome == "pass"
    assert rendered.decision.value == "greeting@1 default en default"


def test_an_apps_template_takes_the_place_of_a_built_in_one() -> None:
    """An app may say "like" in its own words; another app's words do not change."""
    own = msgspec.structs.replace(one_text("Yay"), name="like")
    templates = Templates(Reads(own))

    def body(app_id: str, name: str = "like") -> str:
        return templates.render(
            app_id, name, locale="en", time_zone="UTC", channel="inapp", data={"names": ["Ann"]}
        ).body

    assert body("other") == "Ann liked your post."
    assert body("app") == "Yay"
    with pytest.raises(Refused) as caught:
        body("app", "nothing")
    assert caught.value.code == "template_not_found"


def test_all_texts_of_a_rendering_pay_from_one_purse() -> None:
    """A title, an address and a body must not each take as long as a whole rendering may."""
    dear = "{% for a in range(1000) %}" + "{% set b = a %}" * 4 + "{% endfor %}x"
    assert _render(one_text("x", title=dear)).title == "x"
    assert _render(one_text(dear, title="x")).body == "x"
    with pytest.raises(Refused, match="steps") as caught:
        _render(one_text(dear, title=dear))
    assert caught.value.code == "template_failed"


def test_a_new_version_is_used_at_once() -> None:
    """A template's author sees the change with the next notification."""
    reads = Reads(one_text("old"))
    templates = Templates(reads)

    def body() -> str:
        return templates.render(
            "app", "greeting", locale="en", time_zone="UTC", channel="inapp", data={}
        ).body

    assert body() == "old"
    reads.templates["greeting"] = msgspec.structs.replace(one_text("new"), version=2)
    assert body() == "new"


def test_a_missing_variable_is_named_and_a_default_stands_in() -> None:
    """Data without a name must not greet nobody; null is as good as absent."""
    variables = {
        "name": TEXT,
        "count": Variable(kind="number", required=False, default=7),
        "tags": Variable(kind="list", required=False),
    }
    template = one_text("{{ name }} {{ count }} {{ tags | length }}", variables=variables)
    assert _render(template, name="Ann").body == "Ann 7 0"
    assert _render(template, name="Ann", count=None, tags=["a"]).body == "Ann 7 1"
    without: list[dict[str, Any]] = [{}, {"name": None}]
    for data in without:
        with pytest.raises(Refused, match="'name'") as caught:
            _render(template, **data)
        assert caught.value.code == "template_variable_unknown"


@pytest.mark.parametrize(
    ("kind", "wrong"),
    [
        ("text", ["a"]),
        ("number", {}),
        ("number", True),
        ("flag", 1),
        ("time", []),
        ("list", "a"),
        ("object", "a"),
    ],
)
def test_data_of_the_wrong_kind_are_refused(kind: Any, wrong: Any) -> None:
    """The app's developer learns of it by name, before anybody reads it."""
    with pytest.raises(Refused, match="'x'") as caught:
        _render(one_text("hello", variables={"x": Variable(kind=kind)}), x=wrong)
    assert caught.value.code == "template_failed"


def test_what_is_too_long_for_a_device_is_cut_between_characters() -> None:
    """1,500 bytes of text, 200 characters of title; the ledger says that it was cut."""
    template = one_text("{{ text }}", variables={"text": TEXT}, title="{{ text }}")
    rendered = _render(template, "apns", text="é€🙂" * 400)
    assert len(rendered.body.encode()) <= 1_500
    assert len(rendered.body.encode()) > 1_490
    assert rendered.body.endswith("…")
    assert len(rendered.title) == 200
    assert (rendered.decision.outcome, rendered.decision.rule) == ("change", "text_cut")
    assert _render(template, "email", text="é€🙂" * 400).body == "é€🙂" * 400
    assert cut("a" * 1_500, 1_500) == "a" * 1_500
    assert cut("a" * 1_501, 1_500) == "a" * 1_497 + "…"


def test_a_mail_that_is_too_long_is_refused() -> None:
    """Cut html would be broken."""
    body = "{% for a in range(900) %}" + "x" * 100 + "{% endfor %}"
    with pytest.raises(Refused, match="longer than"):
        _render(one_text(html=body), "email")


def test_a_mail_has_html_and_its_text_and_no_other_channel_has_html() -> None:
    """Readers of plain text read the same."""
    template = one_text(
        html="<h1>Hi {{ name }}</h1><p>Come <a href='https://x.example/'>in</a>", variables={"name": TEXT}
    )
    mail = _render(template, "email", name="<Ann>")
    assert mail.html.startswith("<h1>Hi &lt;Ann&gt;</h1>")
    assert mail.body == "Hi <Ann>\n\nCome in (https://x.example/)"
    assert _render(template, "apns", name="Ann").html == ""


def test_a_title_is_one_line_and_control_characters_are_left_out() -> None:
    """A name with a line break must not add headers to a mail."""
    template = one_text("{{ name }}", variables={"name": TEXT}, title="Hi {{ name }}")
    rendered = _render(template, "email", name="Ann\r\nBcc: all@x.example\x00\x1b[31m\n!")
    assert rendered.title == "Hi Ann Bcc: all@x.example[31m !"
    assert rendered.body == "Ann\nBcc: all@x.example[31m\n!"


@pytest.mark.parametrize(
    "url",
    ["javascript:alert(1)", " JavaScript:x", "data:text/html,x", "java\nscript:x", "x" * 2_001, "a\x00b"],
)
def test_an_address_that_would_run_something_is_refused(url: str) -> None:
    """The address may come from somebody's data."""
    with pytest.raises(Refused) as caught:
        _render(one_text("hi", variables={"url": TEXT}, url="{{ url }}"), url=url)
    assert caught.value.code == "template_failed"


def test_an_sms_has_plain_spaces() -> None:
    """A narrow no-break space makes three messages of one."""
    template = one_text("{{ at | time }} {{ 0.5 | percent }}", variables={"at": Variable(kind="time")})
    assert _render(template, "inapp", at=0).body == "12:00\u202fAM 50%"
    assert _render(template, "sms", at=0).body == "12:00 AM 50%"


def test_the_variant_that_was_read_is_told() -> None:
    """An exposure counts for what the user has seen, not for what was drawn."""
    texts: dict[str, Any] = {
        "default": {"en": {"default": ChannelText(body="long")}},
        "short": {"en": {"sms": ChannelText(body="s")}},
    }
    template = Template(name="t", texts=texts)
    assert _render(template, "sms", variant="short").variant == "short"
    assert _render(template, "apns", variant="short").variant == "default"
    assert _render(template, "apns", variant="gone").body == "long"


def test_caches_stay_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    """Locales come from devices: whoever makes them up must not fill the memory."""
    monkeypatch.setattr("server.notify.compiled_texts.MAX_PLACES", 10)
    monkeypatch.setattr("server.notify.compiled_texts.MAX_COMPILED", 2)
    templates = Templates(Reads(one_text("hi")))
    for number in range(50):
        for name in ("greeting", "like", "follow"):
            templates.render(
                "app", name, locale=f"x{number}", time_zone="UTC", channel="inapp", data={"names": []}
            )
    texts = templates._texts
    assert len(texts._compiled) == 2
    assert 0 < len(texts._texts) <= 10
    held = [text for place in texts._texts.values() for _, text in place.found.values()]
    assert {id(text) for text in held} <= {id(text) for text in texts._compiled.values()}
    assert all(len(text.places) <= 10 for text in texts._compiled.values())  # type: ignore[union-attr]
