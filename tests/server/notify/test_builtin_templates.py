"""What hubbub itself says is right in every language, for none, one and many."""

import re
from typing import Any

import pytest

from protocol.notify_types import CHANNELS, Channel
from server.notify.builtin_templates import BUILTIN_TEMPLATES
from server.notify.template_check import check_template
from server.notify.templates import Templates
from tests.server.notify.texts import Reads

LOCALES = ("en", "de", "fr", "es", "pt", "ru", "ar", "ja")
COUNTS = (0, 1, 2, 5, 21)
PEOPLE = ["Ann", "Ben"]


def _data(count: int) -> dict[str, Any]:
    return {
        "names": PEOPLE[:count],
        "others": max(0, count - 2),
        "count": count,
        "titles": [f"Title {number}" for number in range(count)],
        "files": count,
        "at": 1_767_225_600_000,
        "device": "Firefox <3",
        "place": "Lisbon",
        "url": "https://x.example/?a=1&b=2",
        "conversation": "Hikers",
    }


def _text(
    name: str, locale: str, count: int, channel: Channel = "inapp", **data: Any
) -> tuple[str, str, str]:
    rendered = Templates(Reads()).render(
        "app", name, locale=locale, time_zone="UTC", channel=channel, data=_data(count) | data
    )
    assert rendered.locale == locale
    return rendered.title, rendered.body, rendered.html


@pytest.mark.parametrize("name", sorted(BUILTIN_TEMPLATES))
def test_a_template_passes_its_own_check_and_has_all_locales(name: str) -> None:
    """They are held to the rules that apps' templates are held to."""
    template = BUILTIN_TEMPLATES[name]
    check_template(template)
    assert tuple(template.texts["default"]) == LOCALES


@pytest.mark.parametrize("name", sorted(BUILTIN_TEMPLATES))
@pytest.mark.parametrize("locale", LOCALES)
def test_every_text_is_whole_in_every_channel_and_for_every_count(name: str, locale: str) -> None:
    """Nothing of Jinja2, Python or the plural's sign is left in a text, and no channel is empty."""
    templates = Templates(Reads())
    for channel in CHANNELS:
        for count in COUNTS:
            for text in ("", "Hello\nthere"):
                rendered = templates.render(
                    "app",
                    name,
                    locale=locale,
                    time_zone="Asia/Tokyo",
                    channel=channel,
                    data=_data(count) | {"text": text},
                )
                assert rendered.body or (name in ("mention", "digest") and not (text and count)), channel
                assert rendered.title or channel == "sms"
                assert not re.search(r"[{}#\[\]]|None|True|undefined", rendered.title + rendered.body)
                assert rendered.url == ("" if channel == "sms" else "https://x.example/?a=1&b=2")
                if channel == "email":
                    assert 'href="https://x.example/?a=1&amp;b=2"' in rendered.html
                    assert "<3" not in rendered.html
                    assert f'dir="{"rtl" if locale == "ar" else "ltr"}"' in rendered.html


@pytest.mark.parametrize(
    ("locale", "expected"),
    [
        ("en", ["0 new likes", "1 new like", "2 new likes", "5 new likes", "21 new likes"]),
        (
            "fr",
            [
                "0 nouveau « J’aime »",
                "1 nouveau « J’aime »",
                *(f"{n} nouveaux « J’aime »" for n in (2, 5, 21)),
            ],
        ),
        ("pt", ["0 nova curtida", "1 nova curtida", *(f"{n} novas curtidas" for n in (2, 5, 21))]),
        (
            "ru",
            [
                "0 отметок «Нравится»",
                "1 отметка «Нравится»",
                "2 отметки «Нравится»",
                "5 отметок «Нравится»",
                "21 отметка «Нравится»",
            ],
        ),
        (
            "ar",
            ["لا إعجابات جديدة", "إعجاب جديد", "إعجابان جديدان", "5 إعجابات جديدة", "21 إعجابًا جديدًا"],
        ),
        ("ja", [f"新しい「いいね！」{n}件" for n in COUNTS]),
    ],
)
def test_likes_are_counted_in_each_languages_forms(locale: str, expected: list[str]) -> None:
    """Russian has three forms of whole numbers, Arabic six, Japanese one."""
    assert [_text("like", locale, count)[0] for count in COUNTS] == expected


def test_a_batch_names_two_and_counts_the_others_with_the_verb_that_fits() -> None:
    """One person likes, several like."""
    assert _text("like", "de", 1)[1] == "Ann mag deinen Beitrag."
    assert _text("like", "de", 5)[1] == "Ann, Ben und 3 weitere mögen deinen Beitrag."
    assert _text("follow", "en", 1)[1] == "Ann now follows you."
    assert _text("follow", "en", 21)[1] == "Ann, Ben and 19 others now follow you."
    assert _text("comment", "en", 1, text="Nice!")[1] == "Ann: Nice!"
    assert _text("comment", "en", 2, text="Nice!")[1] == "Ann and Ben commented on your post."


def test_a_message_shows_who_where_and_what() -> None:
    """Without a text it tells of the files."""
    assert _text("chat", "en", 1, text="Hi")[:2] == ("Ann · Hikers", "Hi")
    assert _text("chat", "ru", 1, files=3)[1] == "📎 3 файла"
    assert _text("chat", "en", 1, "sms", text="Hi")[1] == "Ann · Hikers: Hi https://x.example/?a=1&b=2"


def test_a_digest_shows_the_first_ten_and_counts_the_rest() -> None:
    """A week may hold hundreds."""
    title, body, _ = _text("digest", "en", 21)
    assert title == "21 notifications"
    assert body.splitlines()[0] == "• Title 0"
    assert body.splitlines()[-1] == "+11"
    assert len(body.splitlines()) == 11
