"""Numbers, dates, lists and plurals are written as the user's language writes them."""

from decimal import Decimal
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from protocol.errors import Refused
from server.notify.template_filters import PLURAL_FORMS, plural_form, write_names, write_plural
from server.notify.template_locales import babel_locale
from tests.server.notify.texts import write

NEW_YEAR_MS = 1_767_225_600_000  # 2026-01-01T00:00:00Z
LOCALES = ["en", "de", "fr", "es", "pt", "ru", "ar", "ja", "pl", "lv", "cy", "he", "zh"]


@pytest.mark.parametrize(
    ("source", "locale", "expected"),
    [
        ("{{ 1234567.5 | number }}", "en", "1,234,567.5"),
        ("{{ 1234567.5 | number }}", "de", "1.234.567,5"),
        ("{{ 1234567.5 | number }}", "de-CH", "1’234’567.5"),
        ("{{ 3 | number(2) }}", "de", "3,00"),
        ("{{ '12.50' | currency('EUR') }}", "de", "12,50\xa0€"),
        ("{{ 12.5 | currency('usd') }}", "en", "$12.50"),
        ("{{ 1200 | currency('JPY') }}", "ja", "￥1,200"),
        ("{{ 0.256 | percent }}", "en", "26%"),
        ("{{ 0.256 | percent(1) }}", "de", "25,6\xa0%"),
        ("{{ names | list }}", "en", "Ann, Ben, and Cy"),
        ("{{ names | list('or') }}", "de", "Ann, Ben oder Cy"),
        ("{{ at | date }}", "en", "Jan 1, 2026"),
        ("{{ at | date('long') }}", "de", "1. Januar 2026"),
        ("{{ at | date('short') }}", "ja", "2026/01/01"),
        ("{{ '2026-03-01' | date('full') }}", "fr", "dimanche 1 mars 2026"),
        ("{{ '2026-03-01T12:30:00+02:00' | time }}", "de", "10:30"),
        ("{{ at | datetime('short') }}", "de", "01.01.26, 00:00"),
        ("{{ 'a b c d e f' | truncate(6) }}", "en", "a b c…"),
        ("{{ 'abcdef' | truncate(6) }}", "en", "abcdef"),
        ("{{ 'abcdefg' | truncate(6, '..') }}", "en", "abcd.."),
        ("{{ 'a&b c' | urlencode }}", "en", "a%26b%20c"),
        ("{{ 2.567 | round(1) }} {{ 2.5 | round }}", "en", "2.6 2"),
        ("{{ names | join('/') }} {{ names | first }} {{ names | last }}", "en", "Ann/Ben/Cy Ann Cy"),
        ("{{ ' a ' | trim | upper | lower | capitalize }}{{ 'ann b' | title }}", "en", "AAnn B"),
        ("{{ 'aXb' | replace('X', '-') }}{{ names | length }}", "en", "a-b3"),
    ],
)
def test_a_filter_writes_as_the_locale_does(source: str, locale: str, expected: str) -> None:
    """The expected values are CLDR's."""
    assert write(source, locale=locale, names=["Ann", "Ben", "Cy"], at=NEW_YEAR_MS) == expected


@pytest.mark.parametrize(
    ("time_zone", "expected"),
    [
        ("UTC", "01.01.2026 00:00"),
        ("America/Los_Angeles", "31.12.2025 16:00"),
        ("Asia/Kathmandu", "01.01.2026 05:45"),
        ("Nowhere/City", "01.01.2026 00:00"),
    ],
)
def test_an_instant_is_told_in_the_users_time_zone(time_zone: str, expected: str) -> None:
    """A meeting is at the user's hour, and maybe on another day."""
    source = "{{ at | date }} {{ at | time }}"
    assert write(source, locale="de", time_zone=time_zone, at=NEW_YEAR_MS) == expected
    assert write("{{ day | date }}", locale="de", time_zone=time_zone, day="2026-01-01") == "01.01.2026"


def test_summer_time_is_that_of_the_day() -> None:
    """The offset is the instant's, not today's."""
    winter, summer = "2026-01-15T12:00:00Z", "2026-07-15T12:00:00Z"
    source = "{{ winter | time }} {{ summer | time }}"
    assert (
        write(source, locale="de", time_zone="Europe/Berlin", winter=winter, summer=summer) == "13:00 14:00"
    )


RUSSIAN = {"one": "# лайк", "few": "# лайка", "many": "# лайков", "other": "# лайка"}
ARABIC = {"zero": "صفر", "one": "واحد", "two": "اثنان", "few": "# قليل", "many": "# كثير", "other": "# غير"}


@pytest.mark.parametrize(
    ("locale", "forms", "count", "expected"),
    [
        *(("ru", RUSSIAN, n, f"{n} лайк") for n in (1, 21, 101)),
        *(("ru", RUSSIAN, n, f"{n} лайка") for n in (2, 3, 4, 22, 104)),
        *(("ru", RUSSIAN, n, f"{n} лайков") for n in (0, 5, 11, 12, 14, 19, 20, 111)),
        ("ru", RUSSIAN, 1.5, "1,5 лайка"),
        ("ar", ARABIC, 0, "صفر"),
        ("ar", ARABIC, 1, "واحد"),
        ("ar", ARABIC, 2, "اثنان"),
        *(("ar", ARABIC, n, f"{n} قليل") for n in (3, 10, 103)),
        *(("ar", ARABIC, n, f"{n} كثير") for n in (11, 26, 99, 111)),
        *(("ar", ARABIC, n, f"{n} غير") for n in (100, 101, 102)),
        ("en", {"one": "# like", "other": "# likes"}, 1, "1 like"),
        ("en", {"one": "# like", "other": "# likes"}, 1.0, "1 like"),
        ("en", {"one": "# like", "other": "# likes"}, 1_000_000, "1,000,000 likes"),
        ("en", {"zero": "No likes", "one": "# like", "other": "# likes"}, 0, "No likes"),
        ("fr", {"one": "# vue", "other": "# vues"}, 0, "0 vue"),
        ("fr", {"one": "# vue", "other": "# vues"}, 2, "2 vues"),
        ("ja", {"one": "never", "other": "#件"}, 1, "1件"),
    ],
)
def test_a_plural_has_the_form_of_its_language(
    locale: str, forms: dict[str, str], count: float, expected: str
) -> None:
    """The forms are CLDR's cardinal categories; a form that is not given is `other`."""
    arguments = ", ".join(f"{name}='{form}'" for name, form in forms.items())
    assert write(f"{{{{ n | plural({arguments}) }}}}", locale=locale, n=count) == expected


@given(locale=st.sampled_from(LOCALES), count=st.integers(-(10**15), 10**15) | st.floats(0, 10**6))
def test_every_number_has_a_form(locale: str, count: float) -> None:
    """Whatever is counted: there is a text, it is that of its form, and no other."""
    number, found = Decimal(str(count)), babel_locale(locale)
    form = plural_form(found, number)
    assert form in PLURAL_FORMS
    forms = {name: f"<{name}>" for name in PLURAL_FORMS}
    assert write_plural(found, number, forms) == ("<zero>" if number == 0 else f"<{form}>")
    assert write_plural(found, number, {"other": "<other>"}) == "<other>"


@pytest.mark.parametrize(
    ("locale", "names", "others", "expected"),
    [
        ("en", [], 0, "Someone"),
        ("en", ["Ann"], 0, "Ann"),
        ("en", ["Ann", "Ben"], 0, "Ann and Ben"),
        ("en", ["Ann", "Ben"], 3, "Ann, Ben and 3 others"),
        ("en-US", ["Ann"], 1, "Ann and 1 other"),
        ("en", [], 2, "2 others"),
        ("de", ["Ann", "Ben"], 1200, "Ann, Ben und 1.200 weitere"),
        ("fr", ["Ann"], 1, "Ann et 1 autre personne"),
        ("ru", ["Ann", "Ben"], 5, "Ann, Ben и ещё 5 человек"),
        ("ja", ["Ann", "Ben"], 3, "Ann、Ben、他3人"),
        ("sv", ["Ann", "Ben"], 3, "Ann, Ben och +3"),
    ],
)
def test_names_are_told_with_how_many_others(
    locale: str, names: list[str], others: int, expected: str
) -> None:
    """A batch says who and how many, in the language's own words."""
    assert write_names(babel_locale(locale), names, others) == expected


def test_only_so_many_names_are_shown_and_the_rest_is_counted() -> None:
    """Nobody is lost: those who are not named are among the others."""
    names = ["Ann", "Ben", "Cy", "Di"]
    assert write("{{ names | names(6) }}", names=names) == "Ann, Ben and 8 others"
    assert write("{{ names | names(6, show=3) }}", names=names) == "Ann, Ben, Cy and 7 others"
    assert write("{{ names | names }}", names=["{0}", "{1}%s"]) == "{0} and {1}%s"


@pytest.mark.parametrize(
    ("source", "value"),
    [
        ("{{ x | number }}", "many"),
        ("{{ x | number }}", True),
        ("{{ x | number }}", [1]),
        ("{{ x | date }}", "tomorrow"),
        ("{{ x | date }}", -1),
        ("{{ x | date('huge') }}", 0),
        ("{{ x | time }}", "2026-01-01"),
        ("{{ x | list }}", "Ann"),
        ("{{ x | list }}", list(range(101))),
        ("{{ x | list('xor') }}", ["a"]),
        ("{{ x | names(0, show=0) }}", ["a"]),
        ("{{ x | upper }}", {"a": 1}),
        ("{{ x | plural(other='#', several='#') }}", 1),
        ("{{ x | first }}", []),
        ("{{ x | items }}", []),
    ],
)
def test_a_value_that_a_filter_cannot_write_is_refused(source: str, value: Any) -> None:
    """Better no notification, and a message to its developer, than one that says None."""
    with pytest.raises(Refused) as caught:
        write(source, x=value)
    assert caught.value.code == "template_failed"
