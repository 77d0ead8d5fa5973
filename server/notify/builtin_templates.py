"""Templates of what hubbub itself sends. An app's template of the same name takes the place of one."""

from typing import Final

from protocol.notify_templates import DEFAULT_VARIANT, ChannelText, Template, TextChannel, Variable
from server.notify.builtin_texts import BUILTIN_TEXTS, DIGEST_BODY, OPEN

_RIGHT_TO_LEFT: Final = frozenset({"ar"})
_URL: Final = "{{ url }}"
_COMMON: Final = {
    "url": Variable(required=False, example="https://example.com/n/1"),
    "image": Variable(required=False, example="https://example.com/ann.png"),
}
_TEXT: Final = Variable(required=False, example="Shall we meet at eight?")
_VARIABLES: Final[dict[str, dict[str, Variable]]] = {
    "chat": {
        "text": _TEXT,
        "files": Variable(kind="number", required=False, default=1, example=2),
        "conversation": Variable(required=False, example="Hikers"),
    },
    "mention": {"text": _TEXT, "conversation": Variable(required=False, example="Hikers")},
    "comment": {"text": _TEXT},
    "security_login": {
        "device": Variable(required=False, example="Firefox on Linux"),
        "place": Variable(required=False, example="Lisbon"),
        "at": Variable(kind="time", required=False, example=1_767_225_600_000),
    },
}
_TYPES: Final = {
    "contact_request": "contact",
    "contact_accepted": "contact",
    "follow_request": "follow",
    "follow_accepted": "follow",
    "security_login": "security",
}


def _template(name: str) -> Template:
    texts = {locale: _channels(locale, *pair) for locale, pair in BUILTIN_TEXTS[name].items()}
    return Template(
        name=name,
        type=_TYPES.get(name, name),
        variables={**_VARIABLES.get(name, {}), **_COMMON},
        texts={DEFAULT_VARIANT: texts},
    )


def _channels(locale: str, title: str, body: str) -> dict[TextChannel, ChannelText]:
    return {
        "default": ChannelText(title=title, body=body, url=_URL, image="{{ image }}"),
        "sms": ChannelText(body=f"{title}: {body}{{% if url %}} {{{{ url }}}}{{% endif %}}"),
        "email": ChannelText(title=title, html=_html(locale, body), url=_URL),
    }


def _html(locale: str, body: str) -> str:
    """A mail's html around a body, whose line breaks stay. What is inserted is escaped in rendering."""
    direction = "rtl" if locale in _RIGHT_TO_LEFT else "ltr"
    if body is DIGEST_BODY:
        content = (
            "<ul>{% for title in titles %}<li>{{ title }}</li>{% endfor %}</ul>"
            "{% if count > titles | length %}<p>+{{ (count - titles | length) | number }}</p>{% endif %}"
        )
    else:
        content = f'<p style="white-space: pre-line">{body}</p>'
    button = f'{{% if url %}}<p><a href="{{{{ url }}}}">{OPEN[locale]}</a></p>{{% endif %}}'
    return f'<div lang="{locale}" dir="{direction}">{content}{button}</div>'


BUILTIN_TEMPLATES: Final[dict[str, Template]] = {name: _template(name) for name in BUILTIN_TEXTS}
