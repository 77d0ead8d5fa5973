"""Which text a user gets of a template, and whose conventions of numbers and dates go with it.

Lookup is that of RFC 4647 section 3.4: a tag loses its last subtag until something fits, and a single
letter or digit goes together with what follows it.
"""

from collections.abc import Collection, Iterator, Mapping
from datetime import UTC, tzinfo
from functools import lru_cache
from typing import Final

import msgspec
from babel import Locale, UnknownLocaleError
from babel.core import get_global
from babel.dates import get_timezone

from protocol.notify_templates import DEFAULT_VARIANT, ChannelText, Template
from protocol.notify_types import PUSH_CHANNELS

MAX_TAG_CHARS: Final = 35  # RFC 5646 section 4.4.1
_FALLBACK_LOCALE: Final = "en"  # conventions of a language that CLDR does not know


class Choice(msgspec.Struct, frozen=True):
    """The text that fits best, and where it stands in the template."""

    text: ChannelText
    variant: str
    locale: str
    channel: str


def choose_text(
    template: Template, *, variant: str, channel: str, wanted: str, app_default: str
) -> Choice | None:
    """Find a user's text: the user's language first, then the defaults', then any, the first by its tag.

    A language is first sought in `variant`, then in the default variant: who belongs to a variant that is
    not translated yet had better read what all others read than a foreign language. Only texts count that
    `channel` can show. None: there is no text for this channel in any language.
    """
    variants = dict.fromkeys((variant, DEFAULT_VARIANT))
    shown = {name: _shown_on(template, name, channel) for name in variants if name in template.texts}
    for tag in (wanted, template.default_locale, app_default, ""):
        for name, channels in shown.items():
            locale = find_locale(channels, tag) if tag else min(channels, default=None)
            if locale is not None:
                found = channels[locale]
                text = template.texts[name][locale][found]  # type: ignore[index]  # `found` is one of its keys
                return Choice(text, name, locale, found)
    return None


def find_locale(available: Collection[str], wanted: str) -> str | None:
    """The available locale that serves a wanted one: by lookup, else a sibling of language and script.

    A sibling (`pt-BR` for who wants `pt` or `pt-PT`) is not of RFC 4647; but it beats a foreign language.
    """
    by_tag = {normal_tag(tag): tag for tag in available}
    for tag in truncations(wanted):
        if tag in by_tag:
            return by_tag[tag]
    language, script = normal_tag(wanted).partition("-")[0], _script(wanted)
    for tag in sorted(by_tag):
        if tag.partition("-")[0] == language and _script(tag) == script:
            return by_tag[tag]
    return None


def truncations(tag: str) -> Iterator[str]:
    """Yield a tag, in its normal form, and what it is shortened to step by step."""
    subtags = [subtag for subtag in normal_tag(tag).split("-") if subtag]
    while subtags:
        yield "-".join(subtags)
        subtags.pop()
        if subtags and len(subtags[-1]) == 1:
            subtags.pop()


def normal_tag(tag: str) -> str:
    """Fold what is the same locale: pt_BR, PT-br and pt_BR.UTF-8 are all `pt-br`."""
    return tag[:MAX_TAG_CHARS].partition(".")[0].partition("@")[0].replace("_", "-").lower()


def conventions(wanted: str, used: str) -> Locale:
    """How to write numbers, dates and lists in a text of locale `used` for a user who wants `wanted`.

    The user's own region where the language is the same (1'000 in a German text for de-CH), else the text's.
    """
    is_same = normal_tag(wanted).partition("-")[0] == normal_tag(used).partition("-")[0]
    return babel_locale(wanted if is_same else used)


@lru_cache(maxsize=2_000)  # tags come from users
def babel_locale(tag: str) -> Locale:
    """Babel's locale of a tag, or of the nearest that CLDR knows."""
    for shorter in truncations(tag):
        try:
            return _mended(Locale.parse(shorter, sep="-"))
        except (UnknownLocaleError, ValueError):
            continue
    return Locale.parse(_FALLBACK_LOCALE)


def _mended(locale: Locale) -> Locale:
    """Group Swiss numbers by ’: Babel 2.19 takes two of CLDR's ' for quotes, and 1'234'567 has none left."""
    symbols = locale.number_symbols.get("latn", {})
    if symbols.get("group") == "'":
        symbols["group"] = "’"  # as CLDR had it until 2025, unicode-org/cldr pull request 5019
    return locale


@lru_cache(maxsize=1_000)
def zone(name: str) -> tzinfo:
    """A time zone by its IANA name; UTC where there is none of that name."""
    try:
        return get_timezone(name) if name else UTC
    except (LookupError, ValueError, OSError):  # unknown; not a name; a directory of the zone files
        return UTC


def _shown_on(template: Template, variant: str, channel: str) -> dict[str, str]:
    """Locales of a variant that have a text for a channel, and which of their channels holds it."""
    order = (channel, "push", "default") if channel in PUSH_CHANNELS else (channel, "default")
    found: dict[str, str] = {}
    for locale, channels in template.texts[variant].items():
        name: str | None = next((name for name in order if name in channels), None)
        if name is not None:
            found[locale] = name
    return found


@lru_cache(maxsize=2_000)
def _script(tag: str) -> str:
    """The script of a tag, by CLDR's likely subtags: Hant of zh-TW, Latn of pt."""
    known: Mapping[str, str] = get_global("likely_subtags")
    for subtag in normal_tag(tag).split("-")[1:]:
        if len(subtag) == 4 and subtag.isalpha():
            return subtag.title()
    for shorter in truncations(tag):
        language, _, region = shorter.partition("-")
        likely = known.get(f"{language}_{region.upper()}" if region else language)
        if likely is not None:
            return likely.split("_")[1]
    return ""
