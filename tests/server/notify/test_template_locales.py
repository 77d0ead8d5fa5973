"""A user reads the language that comes nearest to what the device asks for."""

from datetime import UTC

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from protocol.notify_templates import Template
from server.notify.template_locales import (
    babel_locale,
    choose_text,
    conventions,
    find_locale,
    normal_tag,
    truncations,
    zone,
)

TAGS = ["en", "en-GB", "pt", "pt-BR", "pt_PT", "de-CH-1996", "zh-Hans", "zh-Hant", "sr-Latn", "ja", "ar"]
tags = st.sampled_from(
    [*TAGS, "zh-TW", "zh-CN", "sr", "de", "EN_us", "zh-Hant-CN-x-private1-private2", "", "x"]
)


def test_a_tag_is_shortened_as_rfc_4647_shows() -> None:
    """The example of section 3.4."""
    assert list(truncations("zh-Hant-CN-x-private1-private2")) == [
        "zh-hant-cn-x-private1-private2",
        "zh-hant-cn-x-private1",
        "zh-hant-cn",
        "zh-hant",
        "zh",
    ]


@pytest.mark.parametrize(
    ("wanted", "available", "found"),
    [
        ("pt-BR", ["pt", "pt_BR"], "pt_BR"),
        ("pt-BR", ["pt", "en"], "pt"),
        ("PT_br.UTF-8", ["pt-BR"], "pt-BR"),
        ("pt", ["en", "pt-BR"], "pt-BR"),  # a sibling
        ("pt-PT", ["en", "pt-BR"], "pt-BR"),
        ("zh-TW", ["zh-Hans", "zh-Hant"], "zh-Hant"),  # by script
        ("zh-TW", ["zh-Hans", "en"], None),
        ("zh", ["zh-Hant", "zh-Hans"], "zh-Hans"),
        ("sr", ["sr-Latn", "en"], None),
        ("fr", ["en"], None),
        ("", ["en"], None),
        ("-", ["en"], None),
    ],
)
def test_the_nearest_locale_is_found(wanted: str, available: list[str], found: str | None) -> None:
    """Users with a regional setting read the general text, and the other way round; never another script."""
    assert find_locale(available, wanted) == found


@given(available=st.lists(tags.filter(lambda tag: len(tag) > 1), unique_by=normal_tag), wanted=tags)
def test_lookup_finds_the_longest_prefix_or_the_same_language(available: list[str], wanted: str) -> None:
    """Whatever is found is the wanted tag shortened, and no longer one is there; else a sibling."""
    found = find_locale(available, wanted)
    by_tag = {normal_tag(tag) for tag in available}
    fitting = [tag for tag in truncations(wanted) if tag in by_tag]
    if fitting:
        assert found is not None
        assert normal_tag(found) == max(fitting, key=len)
    elif found is not None:
        assert found in available
        assert normal_tag(found).split("-")[0] == normal_tag(wanted).split("-")[0]


def _template(texts: dict[str, dict[str, list[str]]], default_locale: str = "de") -> Template:
    body = {
        variant: {
            locale: {channel: {"body": f"{variant} {locale} {channel}"} for channel in channels}
            for locale, channels in locales.items()
        }
        for variant, locales in texts.items()
    }
    return msgspec.convert({"name": "t", "default_locale": default_locale, "texts": body}, Template)


@pytest.mark.parametrize(
    ("variant", "channel", "wanted", "found"),
    [
        ("default", "apns", "fr-CA", "default fr apns"),
        ("default", "fcm", "fr", "default fr push"),
        ("default", "sms", "fr", "default fr default"),
        ("default", "webpush", "de", "default de default"),
        ("default", "email", "de", "default de default"),
        ("default", "apns", "xx", "default de default"),  # the template's default locale
        ("short", "apns", "en", "short en default"),
        ("short", "apns", "fr", "default fr apns"),  # the language is worth more than the variant
        ("short", "apns", "xx", "default de default"),
        ("gone", "sms", "en", "default de default"),
    ],
)
def test_a_text_is_chosen_by_language_variant_and_channel(
    variant: str, channel: str, wanted: str, found: str
) -> None:
    """The language comes first; a channel without a text of its own has that of push, or the default."""
    texts = {
        "default": {"de": ["default"], "fr": ["apns", "push", "default"], "es": ["email"]},
        "short": {"en": ["default"]},
    }
    choice = choose_text(_template(texts), variant=variant, channel=channel, wanted=wanted, app_default="es")
    assert choice is not None
    assert choice.text.body == found == f"{choice.variant} {choice.locale} {choice.channel}"


def test_a_locale_without_a_text_for_the_channel_is_passed_over() -> None:
    """A text in another language beats none; where no locale has one, there is nothing to send."""
    template = _template({"default": {"de": ["email"], "fr": ["sms", "email"], "es": ["sms"]}})

    def chosen(channel: str, app_default: str) -> str | None:
        choice = choose_text(
            template, variant="default", channel=channel, wanted="de", app_default=app_default
        )
        return None if choice is None else choice.locale

    assert chosen("email", "es") == "de"
    assert chosen("sms", "fr") == "fr"
    assert chosen("sms", "es") == "es"
    assert chosen("sms", "ja") == "es"  # any: the first by its tag
    assert chosen("apns", "es") is None


def test_conventions_are_the_users_where_the_language_is() -> None:
    """A Swiss reads German texts with Swiss numbers, and English texts with English ones."""
    assert str(conventions("de-CH", "de")) == "de_CH"
    assert str(conventions("de-CH", "en-GB")) == "en_GB"
    assert str(babel_locale("en-XY")) == "en"
    assert str(babel_locale("zh-TW")) == "zh_Hant_TW"
    assert str(babel_locale("")) == str(babel_locale("tlh")) == "en"


@pytest.mark.parametrize("name", ["Nowhere/City", "../../etc/passwd", "", "Europe", "a" * 300, "\x00"])
def test_a_zone_that_does_not_exist_is_utc(name: str) -> None:
    """What a device tells cannot keep a notification back."""
    assert zone(name) is UTC
    assert str(zone("Europe/Berlin")) == "Europe/Berlin"
