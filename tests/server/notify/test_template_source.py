"""A template comes from anybody: it can reach nothing but its data, and cannot burn memory or time."""

import tracemalloc
from datetime import UTC
from typing import Any

import pytest

from protocol.errors import ProtocolError, Refused
from server.notify.template_locales import babel_locale
from server.notify.template_source import MAX_NODES, Source
from tests.server.notify.texts import write

DATA: dict[str, Any] = {
    "name": "Ann",
    "count": 3,
    "items": list(range(30)),
    "user": {"name": "Ben", "age": 5},
    "null": None,
}
MANY = "[" + ",".join(["''"] * 100) + "]"


@pytest.mark.parametrize(
    "source",
    [
        "{{ ''.__class__ }}",
        "{{ ''.__class__.__mro__[1].__subclasses__() }}",
        "{{ name.__init__.__globals__ }}",
        "{{ items.__len__ }}",
        "{{ user._private }}",
        "{{ self }}",
        "{{ self._TemplateReference__context }}",
        "{{ cycler.__init__.__globals__.os }}",
        "{{ lipsum() }}",
        "{{ namespace() }}",
        "{{ dict(a=1) }}",
        "{{ name.format(1) }}",
        "{{ '{0.__class__}'.format(name) }}",
        "{{ '%s' | format(name) }}",
        "{{ name | attr('__class__') }}",
        "{{ items | map(attribute='__class__') }}",
        "{{ name | safe }}",
        "{{ name | pprint }}",
        "{{ range.__self__ }}",
        "{{ loop() }}",
        "{{ items.append(1) }}",
        "{{ user.update(x=1) }}",
        "{{ user | xmlattr }}",
        "{{ name | upper(*items) }}",
        "{{ name | default(**user) }}",
        "{% set range = 5 %}",
        "{% set user.name = 'x' %}",
        "{% set ns.x = 1 %}",
        "{% set a, b = 1, 2 %}",
        "{% set a %}text{% endset %}",
        "{% macro m() %}{{ m() }}{% endmacro %}{{ m() }}",
        "{% include 'secret' %}",
        "{% import 'os' as os %}",
        "{% from 'os' import system %}",
        "{% extends 'base' %}",
        "{% block a %}{% endblock %}",
        "{% filter upper %}x{% endfilter %}",
        "{% call(x) m() %}{% endcall %}",
        "{% for x in items recursive %}{{ loop(items) }}{% endfor %}",
        "{% autoescape false %}{{ name }}{% endautoescape %}",
        "{% with a = 1 %}{% endwith %}",
        "{{ [name, name] }}",
        "{{ {'a': 1} }}",
        "{{ (name, name) }}",
        "{{ 2 ** 1000000 }}",
        "{{ 9" + "9" * 5_000 + " }}",
        "{{ " + "(" * 500 + "1" + ")" * 500 + " }}",
        "{{ " + "not " * 500 + "name }}",
        "{{ " + "-" * 500 + "1 }}",
        "{{ 1" + " + 1" * 500 + " }}",
        "{{ name" + " | upper" * 500 + " }}",
        "{% if name %}" * 50 + "x" + "{% endif %}" * 50,
        "{% for x in items %}" * 25 + "x" + "{% endfor %}" * 25,
        "{{ name }}" * (MAX_NODES + 1),
        "{{ count | plural(one='#') }}",
        "{% debug %}",
        "{{ name",
        "{% for %}",
        "{# never closed",
        "x" * (64 * 1024 + 1),
    ],
)
def test_what_a_template_may_not_say_is_refused_before_it_is_kept(source: str) -> None:
    """An operator trusts that an app's template runs none of Python."""
    with pytest.raises(ProtocolError) as caught:
        Source(source, where="texts.default.en.push.body")
    assert caught.value.code == "bad_field"
    assert "texts.default.en.push.body" in caught.value.message


@pytest.mark.parametrize(
    "source",
    [
        "{{ name.upper }}",
        "{{ name['__class__'] }}",
        "{{ user['__class__'] }}",
        "{{ items['append'] }}",
        "{{ items['__class__']['__mro__'] }}",
        "{{ user['__getitem__'] }}",
        "{{ (name ~ '')['__class__'] }}",
        "{% for x in items %}{{ loop.undefined }}{% endfor %}",
        "{{ items[1000] }}",
        "{{ missing }}",
        "{{ missing.field }}",
        "{{ missing ~ name }}",
        "{{ missing + 1 }}",
        "{{ missing == 1 }}",
        "{{ missing | upper }}",
        "{{ missing | plural(other='#') }}",
        "{{ count | plural(one=missing, other='#') }}",
        "{{ missing[1:2] }}",
        "{% if missing %}{% endif %}",
        "{% for x in missing %}{% endfor %}",
    ],
)
def test_what_the_data_do_not_have_is_unknown(source: str) -> None:
    """Objects have fields, and nothing else: no method and nothing of Python's own can be reached."""
    with pytest.raises(Refused) as caught:
        write(source, **DATA)
    assert caught.value.code == "template_variable_unknown"


@pytest.mark.parametrize(
    ("source", "name"),
    [
        ("{{ mising }}", "mising"),
        ("{{ user.nmae }}", "nmae"),
        ("{{ a.b.c }}", "'a'"),
        ("{{ user['x'] }}", "x"),
    ],
)
def test_an_unknown_variable_is_named(source: str, name: str) -> None:
    """Its author reads the message, and corrects the word."""
    with pytest.raises(Refused, match=name):
        write(source, **DATA)


def test_wrong_syntax_is_told_with_its_line() -> None:
    """A mail's html has many lines."""
    with pytest.raises(ProtocolError, match="body, line 3"):
        Source("one\ntwo\n{{ name | }}", where="body")
    with pytest.raises(ProtocolError, match="body, line 2: there is no filter 'uper'"):
        Source("one\n{{ name | uper }}", where="body")


@pytest.mark.parametrize(
    "source",
    [
        "{{ 'a' * 10**9 }}".replace("10**9", "1000000000"),
        "{{ name * 1000000000 }}",
        "{{ items * 1000000000 }}",
        "{{ '%1000000000d' % 1 }}",
        "{{ name + name }}",
        "{{ range(1000000000) | length }}",
        "{% for x in range(1000000000) %}x{% endfor %}",
        "{% for a in range(1000) %}{% for b in range(1000) %}{% for c in range(1000) %}"
        "{% endfor %}{% endfor %}{% endfor %}",
        "{% for a in range(900) %}{% for b in range(900) if b > 1000 %}x{% endfor %}{% endfor %}",
        "{% for a in range(1000) %}" + "{% if a == 1 %}{% endif %}" * 150 + "{% endfor %}",
        "{% for a in range(1000) %}" + "{{ a | number }}" * 20 + "{% endfor %}",
        "{% set a = name %}" + "{% set a = a ~ a %}" * 100,
        "{% set a = 'abcdefgh' %}" + "{% set a = a ~ a %}" * 10 + "{% set b = a[1:] %}" * 100,
        "{% set a = 'aaaaaaaa' %}" + "{% set a = a | replace('a', a) %}" * 20,
        "{% set a = 'x' %}" + "{% set a = a | replace('', a ~ a) %}" * 30,
        "{% set a = 'ab' %}" + "{% set a = items | join(a) %}" * 10,
        "{% set a = count %}" + "{% set a = a * a %}" * 100,
        "{% for a in range(1000) %}" + "x" * 1_000 + "{% endfor %}",
        "{{ 'x' | truncate(-5, name * 9) }}",
        "{{ 1 | number(1000000) }}",
        "{{ '1e999999' | number }}",
        "{{ '1e-999999' | number }}",
        "{{ 'nan' | plural(other='#') }}",
        "{{ count // 0 }}",
        "{{ items }}",
        "{{ user }}",
        "{% for x in name %}x{% endfor %}",
        "{{ name | upper(context=1) }}",
        "{{ name | date }}",
        "{{ 99999999999999999 | date }}".replace("99999999999999999", "999999999999999"),
        "{{ count | currency('EURO') }}",
        "{{ name < count }}",
        "{{ count is divisibleby 0 }}",
        "{% set a = " + MANY + " %}{% for b in range(100) %}{% set c = a | list %}{% endfor %}",
        "{% set a = " + MANY + " %}{% for b in range(100) %}{% set c = a | names(100) %}{% endfor %}",
        "{% set a = " + MANY + " %}{% for b in range(200) %}{% set c = a == a[:] %}{% endfor %}",
        "{% set a = " + MANY + " %}{% for b in range(200) %}{% set c = a is eq(a[:]) %}{% endfor %}",
        "{% set a = " + MANY + " %}{% for b in range(300) %}{% set c = b in a %}{% endfor %}",
        "{% for a in range(900) %}{% set c = 'a' in range(900) %}{% endfor %}",
    ],
)
@pytest.mark.timeout(30)
def test_a_template_that_takes_too_much_fails(source: str) -> None:
    """One app's template must not hold up all others' notifications."""
    compiled = Source(source, where="body")
    tracemalloc.start()
    try:
        with pytest.raises(Refused) as caught:
            compiled.render(DATA, babel_locale("en"), UTC, max_chars=64 * 1024)
        peak_bytes = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert caught.value.code == "template_failed"
    assert peak_bytes < 8 * 1024 * 1024


@pytest.mark.parametrize(
    "source",
    [
        "{% for a in range(990) %}" + "{% if name in name %}{% endif %}" * 2 + "{% endfor %}",
        "{% for a in range(200) %}{{ a | number }}{{ a | plural(other='#') }}{% endfor %}",
        "{% for a in items %}{% for b in items %}{{ a * b }},{% endfor %}{% endfor %}",
        "{% set a = 'aaaaaaaa' %}" + "{% set a = a ~ a %}" * 9 + "{% if 'ab' in a %}{% endif %}" * 150,
    ],
)
@pytest.mark.timeout(30)
def test_the_dearest_templates_that_are_allowed_end(source: str) -> None:
    """The bound is by counting: bench/notify_rules.py tells how long that takes."""
    compiled = Source(source, where="body")
    assert compiled.render(DATA, babel_locale("en"), UTC, max_chars=64 * 1024) is not None


def test_data_cannot_become_a_template() -> None:
    """A user may be named {{ 7 * 7 }}."""
    assert write("Hi {{ name }}", name="{{ 7 * 7 }}{% include 'x' %}") == "Hi {{ 7 * 7 }}{% include 'x' %}"


def test_html_escapes_whatever_is_inserted_and_text_does_not() -> None:
    """A name must not become markup in a mail, nor &amp; in a push."""
    name = "<script>alert('x')</script> & \"Co\""
    assert write("{{ name }}", name=name) == name
    html = write('<p title="{{ name }}">{{ name ~ "<b>" }}{{ name | upper }}</p>', is_html=True, name=name)
    assert html.count("<") == 2
    assert "&#34;Co&#34;" in html
    assert "&lt;B&gt;" not in html  # the constant was not made upper case, only the name
    assert write("{{ text | nl2br }}", is_html=True, text="<a>\nb") == "&lt;a&gt;<br>\nb"
    assert write("{{ text | nl2br }}", text="<a>\nb") == "<a>\nb"


def test_the_language_that_is_left_says_what_texts_need() -> None:
    """Conditions, loops, arithmetic, slices, fields, and asking whether something is there."""
    source = (
        "{% set total = count * 2 + 1 %}{{ total }} {{ user.name }} {{ user['age'] }} {{ items[0] }} "
        "{% for item in items[:3] %}{{ loop.index }}:{{ item }}{{ ', ' if not loop.last }}{% endfor %} "
        "{% if missing is defined %}no{% elif count in (3, 4) and not null %}yes{% endif %} "
        "{{ missing | default('-') }}{{ null }}{{ null | default('+') }} "
        "{% for key, value in user | items %}{{ key }}={{ value }};{% endfor %} "
        "{% for x in range(0) %}{% else %}none{% endfor %} {{ 'a' ~ count ~ 'b' }} {# unseen #}{{ 7 // 2 }}"
    )
    expected = "7 Ben 5 0 1:0, 2:1, 3:2 yes -+ name=Ben;age=5; none a3b 3"
    assert write(source, **DATA) == expected


def test_a_source_tells_which_variables_it_needs() -> None:
    """A template is checked against what it declares."""
    source = Source(
        "{% set a = b %}{{ a }}{{ c.d }}{% for e in f %}{{ e }}{{ loop.index }}{% endfor %}", where="x"
    )
    assert source.names == {"b", "c", "f"}


@pytest.mark.parametrize(
    ("source", "text"),
    [
        (r"{{ '\ud83d\ude00' }}", "😀"),
        (r"{{ '\ud83d' ~ '\ude00' }}!", "😀!"),
        (r"{{ '\ud83d' }}{{ '\ude00' }}", "😀"),
        (r"a{{ '\ude00' }}b", "a\ufffdb"),
        (r"{{ '\ud83d' | upper }}", "\ufffd"),
        ("é😀", "é😀"),
    ],
)
def test_halves_of_a_character_are_joined_or_replaced(source: str, text: str) -> None:
    """Emoji are often written as JavaScript escapes them; half of one can be neither stored nor sent."""
    assert write(source) == text


@pytest.mark.parametrize(
    "source", [r"{{ user['\ud83d'] }}", r"{{ '\ud83d' | number }}", r"{{ '\ud83d' | urlencode }}"]
)
def test_what_is_said_of_half_a_character_can_be_stored(source: str) -> None:
    """The reason stands in the ledger and in answers."""
    with pytest.raises(Refused) as caught:
        write(source, **DATA)
    assert caught.value.message.encode()
