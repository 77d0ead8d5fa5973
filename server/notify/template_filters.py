"""Filters of templates: a few of Jinja2's by the same names, and CLDR's forms by Babel.

Each takes its value as data carry it, and raises TypeError or ValueError where it cannot; what is not there
raises UnknownVariable. What makes a string pays for it. Numbers are written with Latin digits in every
locale, as CLDR's default digits of Arabic differ by region and devices show Latin ones everywhere.
"""

from collections.abc import Callable, Mapping
from copy import copy
from datetime import UTC, date, datetime
from decimal import Decimal
from functools import wraps
from typing import Any, Final
from urllib.parse import quote

from babel import Locale, dates, lists, numbers
from jinja2 import pass_context
from jinja2.runtime import Undefined
from markupsafe import Markup, escape

from server.notify.template_locales import babel_locale
from server.notify.template_sandbox import RenderContext

PLURAL_FORMS: Final = ("zero", "one", "two", "few", "many", "other")
_FORMATS: Final = ("short", "medium", "long", "full")
_MAX_ITEMS: Final = 100  # of a written list; babel joins them one by one
_ITEM_STEPS: Final = 3  # that each of them costs
_MAX_NUMBER: Final = Decimal(10**15)  # money beyond it is a mistake; 1e999999 would be a megabyte of digits
_MAX_DECIMALS: Final = 20
_YEAR_10000_MS: Final = 253_402_300_800_000

# What stands for people who are not named. A language that is not here shows "+3", which all understand.
_OTHERS: Final[dict[str, dict[str, str]]] = {
    "en": {"one": "# other", "other": "# others"},
    "de": {"one": "# weitere Person", "other": "# weitere"},
    "fr": {"one": "# autre personne", "other": "# autres"},
    "es": {"one": "# persona más", "other": "# personas más"},
    "pt": {"one": "mais # pessoa", "other": "mais # pessoas"},
    "ru": {
        "one": "ещё # человек",
        "few": "ещё # человека",
        "many": "ещё # человек",
        "other": "ещё # человека",
    },
    "ar": {
        "one": "شخص آخر",
        "two": "شخصان آخران",
        "few": "# أشخاص آخرون",
        "many": "# شخصًا آخر",
        "other": "# شخص آخر",
    },
    "ja": {"other": "他#人"},
}
_SOMEONE: Final[dict[str, str]] = {
    "en": "Someone",
    "de": "Jemand",
    "fr": "Quelqu’un",
    "es": "Alguien",
    "pt": "Alguém",
    "ru": "Кто-то",
    "ar": "شخص ما",
    "ja": "誰か",
}


def plural_form(locale: Locale, count: Decimal) -> str:
    """The CLDR cardinal category of a number: zero, one, two, few, many or other."""
    return locale.plural_form(count.copy_abs())


def write_plural(locale: Locale, count: Decimal, forms: Mapping[str, str]) -> str:
    """The form for a number, with the number in the place of each #.

    `zero` is used for 0 in languages without such a form too, so that one can say "No likes". A form that is
    not there is `other`.
    """
    form = forms.get(plural_form(locale, count))
    if count == 0 and "zero" in forms:
        form = forms["zero"]
    if form is None:
        form = forms["other"]
    return form.replace("#", numbers.format_decimal(count, locale=locale)) if "#" in form else form


def write_names(locale: Locale, names: list[str], others: int) -> str:
    """Name some, and count the others: "Ann, Ben and 3 others"."""
    parts = list(names)
    if others > 0:
        forms = _OTHERS.get(locale.language, {"other": "+#"})
        parts.append(write_plural(locale, Decimal(others), forms))
    if not parts:
        return _SOMEONE.get(locale.language, "?")
    # American English would put a comma before "and", which reads badly before "3 others".
    return lists.format_list(parts, locale=babel_locale("en-001") if locale.language == "en" else locale)


def _filter(function: Callable[..., Any]) -> Callable[..., Any]:
    """Make a filter of it: arguments that are not there raise, and a string that it returns is paid for."""

    @pass_context
    @wraps(function)
    def run(context: RenderContext, value: Any, *args: Any, **kwargs: Any) -> Any:
        for argument in (value, *args, *kwargs.values()):
            if isinstance(argument, Undefined):
                str(argument)
        made = function(context, value, *args, **kwargs)
        if isinstance(made, str):
            context.make(len(made))
        return made

    return run


def _text(value: Any) -> str:
    if value is None:
        return ""
    if not isinstance(value, str | int | float):
        raise TypeError(f"a text is needed, not a {type(value).__name__}")
    return str(value)


def _number(value: Any) -> Decimal:
    """A number, or a string that is one, as amounts of money are often sent."""
    if isinstance(value, bool) or not isinstance(value, int | float | str):
        raise TypeError(f"a number is needed, not a {type(value).__name__}")
    if isinstance(value, str) and len(value) > 40:
        raise ValueError("a number is needed, not a text")
    number = Decimal(str(value))
    exponent = number.as_tuple().exponent
    if not isinstance(exponent, int) or exponent < -_MAX_DECIMALS:
        raise ValueError(f"{value} is no number, or has too many decimals")
    if not -_MAX_NUMBER <= number <= _MAX_NUMBER:
        raise ValueError(f"a number beyond ±10^15: {value}")
    whole = int(number)
    return Decimal(whole) if whole == number else number  # 1.0 like is 1 like


def _with_decimals(pattern: numbers.NumberPattern, decimals: Any) -> numbers.NumberPattern:
    changed = copy(pattern)
    changed.frac_prec = _decimals(decimals)
    return changed


def _decimals(value: Any) -> tuple[int, int]:
    if not isinstance(value, int) or not 0 <= value <= _MAX_DECIMALS:
        raise ValueError(f"decimals are 0 to {_MAX_DECIMALS}")
    return value, value


def _instant(value: Any) -> datetime | date:
    """Unix ms, or ISO 8601: without an offset in UTC, without a time of day a date wherever one is."""
    if isinstance(value, bool) or not isinstance(value, int | float | str):
        raise TypeError(f"a time is needed, not a {type(value).__name__}")
    if isinstance(value, str):
        if len(value) == 10:
            return date.fromisoformat(value)
        instant = datetime.fromisoformat(value[:40])
        return instant if instant.tzinfo is not None else instant.replace(tzinfo=UTC)
    if not 0 <= value < _YEAR_10000_MS:
        raise ValueError(f"a time is Unix milliseconds, not {value}")
    return datetime.fromtimestamp(value / 1000, UTC)


def _style(style: Any) -> Any:
    if style not in _FORMATS:
        raise ValueError(f"a format is one of {', '.join(_FORMATS)}")
    return style


def _date(context: RenderContext, value: Any, style: str = "medium") -> str:
    instant = _instant(value)
    if isinstance(instant, datetime):
        instant = instant.astimezone(context.time_zone)
    return dates.format_date(instant, _style(style), locale=context.locale)


def _time(context: RenderContext, value: Any, style: str = "short") -> str:
    instant = _instant(value)
    if not isinstance(instant, datetime):
        raise TypeError("a date has no time of day")
    return dates.format_time(instant, _style(style), tzinfo=context.time_zone, locale=context.locale)


def _datetime(context: RenderContext, value: Any, style: str = "medium") -> str:
    instant = _instant(value)
    if not isinstance(instant, datetime):
        raise TypeError("a date has no time of day")
    return dates.format_datetime(instant, _style(style), tzinfo=context.time_zone, locale=context.locale)


def _format_number(context: RenderContext, value: Any, decimals: int | None = None) -> str:
    if decimals is None:
        return numbers.format_decimal(_number(value), locale=context.locale)
    pattern = _with_decimals(context.locale.decimal_formats[None], decimals)
    return numbers.format_decimal(_number(value), format=pattern, locale=context.locale)


def _currency(context: RenderContext, value: Any, code: Any) -> str:
    if not (isinstance(code, str) and len(code) == 3 and code.isascii() and code.isalpha()):
        raise ValueError("a currency is three letters, such as EUR")
    return numbers.format_currency(_number(value), code.upper(), locale=context.locale)


def _percent(context: RenderContext, value: Any, decimals: int = 0) -> str:
    pattern = _with_decimals(context.locale.percent_formats[None], decimals)
    return numbers.format_percent(_number(value), format=pattern, locale=context.locale)


def _texts(context: RenderContext, value: Any) -> list[str]:
    if not isinstance(value, list | tuple):
        raise TypeError(f"a list is needed, not a {type(value).__name__}")
    if len(value) > _MAX_ITEMS:
        raise ValueError(f"a list of more than {_MAX_ITEMS} cannot be written: take a slice of it")
    context.step(len(value) * _ITEM_STEPS)
    return [_text(item) for item in value]


def _list(context: RenderContext, value: Any, style: str = "and") -> str:
    if style not in ("and", "or"):
        raise ValueError("a list is joined by and or or")
    items = _texts(context, value)
    context.make(sum(map(len, items)))
    return lists.format_list(items, "standard" if style == "and" else "or", locale=context.locale)


def _names(context: RenderContext, value: Any, others: Any = 0, show: Any = 2) -> str:
    names, other_count = _texts(context, value), int(_number(others))
    if not isinstance(show, int) or show < 1:
        raise ValueError("at least one name is shown")
    context.make(sum(map(len, names)))
    return write_names(context.locale, names[:show], max(0, other_count) + len(names[show:]))


def _plural(context: RenderContext, value: Any, **forms: Any) -> str:
    texts = {name: _text(form) for name, form in forms.items()}
    if "other" not in texts or not texts.keys() <= set(PLURAL_FORMS):
        raise TypeError(f"forms are {', '.join(PLURAL_FORMS)}; other is needed")
    return write_plural(context.locale, _number(value), texts)


def _plural_form(context: RenderContext, value: Any) -> str:
    return plural_form(context.locale, _number(value))


@pass_context
def _default(context: RenderContext, value: Any, default: Any = "", is_for_empty: bool = False) -> Any:
    del context  # as with all filters, so that none is run while compiling
    return default if isinstance(value, Undefined) or value is None or (is_for_empty and not value) else value


def _truncate(context: RenderContext, value: Any, length: int = 100, end: str = "…") -> str:
    """At most `length` characters with the end, cut between words where one ends in the last quarter."""
    text = _text(value)
    if len(text) <= length:
        return text
    room = max(0, length - len(end))
    space = text.rfind(" ", room - room // 4, room + 1)
    return text[: space if space > 0 else room].rstrip() + end


def _replace(context: RenderContext, value: Any, old: str, new: str) -> str:
    text, old, new = _text(value), _text(old), _text(new)
    context.make(len(text) + text.count(old) * max(0, len(new) - len(old)))
    return text.replace(old, new)


def _join(context: RenderContext, value: Any, separator: str = "") -> str:
    items = _texts(context, value)
    context.make(sum(map(len, items)) + len(items) * len(_text(separator)))
    return _text(separator).join(items)


def _length(context: RenderContext, value: Any) -> int:
    return len(value)


def _items(context: RenderContext, value: Any) -> list[tuple[str, Any]]:
    if not isinstance(value, dict):
        raise TypeError(f"an object is needed, not a {type(value).__name__}")
    context.step(len(value))
    return list(value.items())


def _first(context: RenderContext, value: Any) -> Any:
    return value[0]


def _last(context: RenderContext, value: Any) -> Any:
    return value[-1]


def _round(context: RenderContext, value: Any, decimals: int = 0) -> int | float:
    rounded = round(float(_number(value)), _decimals(decimals)[0])
    return rounded if decimals else int(rounded)


def _nl2br(context: RenderContext, value: Any) -> str:
    """Lines of a text as lines of html, escaped; plain text stays as it is."""
    text = _text(value)
    if not context.eval_ctx.autoescape:
        return text
    return Markup("<br>\n").join(escape(line) for line in text.split("\n"))


HEAVY_FILTERS: Final = frozenset(
    [
        *("date", "time", "datetime", "number", "currency", "percent", "round"),
        *("list", "names", "plural", "plural_form"),
    ]
)
FILTERS: Final[dict[str, Callable[..., Any]]] = {
    "date": _filter(_date),
    "time": _filter(_time),
    "datetime": _filter(_datetime),
    "number": _filter(_format_number),
    "currency": _filter(_currency),
    "percent": _filter(_percent),
    "list": _filter(_list),
    "names": _filter(_names),
    "plural": _filter(_plural),
    "plural_form": _filter(_plural_form),
    "default": _default,
    "truncate": _filter(_truncate),
    "replace": _filter(_replace),
    "join": _filter(_join),
    "length": _filter(_length),
    "items": _filter(_items),
    "first": _filter(_first),
    "last": _filter(_last),
    "round": _filter(_round),
    "upper": _filter(lambda context, value: _text(value).upper()),
    "lower": _filter(lambda context, value: _text(value).lower()),
    "capitalize": _filter(lambda context, value: _text(value).capitalize()),
    "title": _filter(lambda context, value: _text(value).title()),
    "trim": _filter(lambda context, value: _text(value).strip()),
    "urlencode": _filter(lambda context, value: quote(_text(value), safe="")),
    "nl2br": _filter(_nl2br),
}
