"""Texts of notifications: find an app's template, choose the text that fits the user, and render it."""

import re
from collections.abc import Callable, Mapping
from typing import Any, Final, Protocol

from protocol.errors import Refused
from protocol.notify_templates import (
    DEFAULT_VARIANT,
    MAX_SOURCE_BYTES,
    ChannelText,
    Rendered,
    Template,
    Variable,
    VariableKind,
)
from protocol.notify_types import MAX_TEXT_BYTES, Channel, Decision
from server.notify.builtin_templates import BUILTIN_TEMPLATES
from server.notify.mail_html import text_of
from server.notify.tap_address import is_picture, leads_safely
from server.notify.template_locales import Choice, choose_text, conventions, zone
from server.notify.template_sandbox import Purse
from server.notify.template_source import Source

MAX_TITLE_CHARS: Final = 200  # as in a request without a template; devices show fewer
MAX_URL_CHARS: Final = 2_000
MAX_MAIL_CHARS: Final = MAX_SOURCE_BYTES
MAX_COMPILED: Final = 4_000  # texts, at some 10 KB each
MAX_CHOSEN: Final = 20_000  # small ones, by whatever locales users' devices tell

AMBIENT: Final[dict[str, Variable]] = {
    "names": Variable(kind="list", required=False, example=["Ann", "Ben"]),
    "others": Variable(kind="number", required=False, default=0, example=3),
    "count": Variable(kind="number", required=False, default=1, example=5),
    "titles": Variable(kind="list", required=False, example=["Ann likes your post", "Ben: Hello"]),
    "reader": Variable(kind="text", required=False, example="Kim"),
    "unsubscribe_url": Variable(kind="text", required=False, example="https://example.com/unsubscribe"),
}
"""What every notification has beside its data: of a batch, whose doing it is (`names`, `others`) and of how
many (`count`); of a digest, what it holds (`titles`); the reader's name; of a mail where to unsubscribe."""

_EMPTY: Final[dict[VariableKind, Any]] = {
    "text": "",
    "number": 0,
    "flag": False,
    "time": 0,
    "list": [],
    "object": {},
}
_KINDS: Final[dict[VariableKind, tuple[type, ...]]] = {
    "text": (str, int, float),
    "number": (int, float, str),
    "flag": (bool,),
    "time": (int, float, str),
    "list": (list, tuple),
    "object": (dict,),
}
_CONTROLS: Final = re.compile("[\x00-\x08\x0b-\x1f\x7f]")
# CLDR puts these between a number and its unit. In an SMS one of them costs more than half of its room, as
# the text no longer fits the GSM alphabet (70 characters instead of 160).
_SMS_SPACES: Final = str.maketrans({"\u202f": " ", "\u00a0": " ", "\u2009": " "})


class TemplateReads(Protocol):
    """Where an app's templates are, in memory. Versions only rise: the same version is the same text."""

    def template(self, app_id: str, name: str) -> Template | None:
        """An app's newest version of a template; None: then a built-in one may serve."""
        ...

    def default_locale(self, app_id: str) -> str:
        """The locale for users of whom none is known."""
        ...


class CompiledText:
    """The sources of one text, compiled; None where there is none."""

    __slots__ = ("body", "html", "image", "title", "url")

    def __init__(self, text: ChannelText, where: str) -> None:
        """Raises: ProtocolError(bad_field): see Source."""
        self.title = _compiled(text.title, f"{where}.title")
        self.body = _compiled(text.body, f"{where}.body")
        self.html = _compiled(text.html, f"{where}.html", is_html=True)
        self.url = _compiled(text.url, f"{where}.url")
        self.image = _compiled(text.image, f"{where}.image")

    @property
    def names(self) -> frozenset[str]:
        """The variables that it uses."""
        sources = (self.title, self.body, self.html, self.url, self.image)
        return frozenset().union(*(source.names for source in sources if source is not None))


_Key = tuple[str, ...]  # app, template, version, variant, locale, channel; and the app's default locale


class Templates:
    """All apps' templates, compiled when they are first used. Nothing here waits."""

    def __init__(self, reads: TemplateReads) -> None:
        self._reads = reads
        self._chosen: dict[_Key, tuple[Choice, CompiledText]] = {}
        self._compiled: dict[_Key, CompiledText] = {}

    def render(
        self,
        app_id: str,
        template: str,
        *,
        variant: str = DEFAULT_VARIANT,
        locale: str,
        time_zone: str,
        channel: Channel,
        data: Mapping[str, Any],
    ) -> Rendered:
        """Write a notification's text. `locale`, `time_zone`: the user's; `data`: with what AMBIENT names.

        A variant that the template does not have is the default one. Data that it does not use do no harm.

        Raises: Refused(template_not_found, template_variable_unknown, template_failed).
        """
        owner, found = app_id, self._reads.template(app_id, template)
        if found is None:
            owner, found = "", BUILTIN_TEMPLATES.get(template)
            if found is None:
                raise Refused("template_not_found", f"The app has no template {template!r}.")
        app_default = self._reads.default_locale(app_id)
        key = (owner, template, str(found.version), variant, locale, channel, app_default)
        choice, compiled = self._chosen.get(key) or self._choose(found, key)
        values = complete(found, data)
        return render_text(found, choice, compiled, values, locale, time_zone, channel)

    def _choose(self, template: Template, key: _Key) -> tuple[Choice, CompiledText]:
        owner, name, version, variant, locale, channel, app_default = key
        choice = choose_or_refuse(template, variant, channel, locale, app_default)
        found_at = (owner, name, version, choice.variant, choice.locale, choice.channel)
        compiled = self._compiled.get(found_at)
        if compiled is None:
            compiled = CompiledText(choice.text, where_of(choice))
            _keep(self._compiled, found_at, compiled, MAX_COMPILED)
        _keep(self._chosen, key, (choice, compiled), MAX_CHOSEN)
        return choice, compiled


def choose_or_refuse(template: Template, variant: str, channel: str, locale: str, app_default: str) -> Choice:
    """Choose the text that fits best. Raises: Refused(template_failed): there is none for the channel."""
    choice = choose_text(template, variant=variant, channel=channel, wanted=locale, app_default=app_default)
    if choice is None:
        raise Refused("template_failed", f"Template {template.name!r} has no text for {channel}.")
    return choice


def where_of(choice: Choice) -> str:
    """The place of a text in its template, for messages."""
    return f"texts.{choice.variant}.{choice.locale}.{choice.channel}"


def complete(template: Template, data: Mapping[str, Any]) -> dict[str, Any]:
    """Add defaults to data. A value that is null counts as absent.

    Raises: Refused(template_variable_unknown, template_failed): one is missing, or of the wrong kind.
    """
    values = {**_AMBIENT_DEFAULTS, **data}
    for name, variable in template.variables.items():
        value = data.get(name)
        if value is not None:
            if not fits(variable.kind, value):
                message = f"The data's {name!r} is no {variable.kind}, but {type(value).__name__}."
                raise Refused("template_failed", message)
        elif variable.required:
            raise Refused("template_variable_unknown", f"The data have no {name!r}.")
        else:
            values[name] = default_of(variable)
    return values


def fits(kind: VariableKind, value: Any) -> bool:
    """Tell whether a value can be of a kind. Only a flag is true or false."""
    return isinstance(value, _KINDS[kind]) and (kind == "flag" or not isinstance(value, bool))


def default_of(variable: Variable) -> Any:
    """What stands for a variable that is absent."""
    return _EMPTY[variable.kind] if variable.default is None else variable.default


_AMBIENT_DEFAULTS: Final = {name: default_of(variable) for name, variable in AMBIENT.items()}


def render_text(
    template: Template,
    choice: Choice,
    compiled: CompiledText,
    values: dict[str, Any],
    locale: str,
    time_zone: str,
    channel: str,
) -> Rendered:
    """Render all fields that a channel shows, and hold them to its limits.

    What is too long for a device is cut, and the decision says so; a mail that is too long is refused.
    """
    style, time_zone_info = conventions(locale, choice.locale), zone(time_zone)
    purse = Purse()

    def write(source: Source | None) -> str:
        if source is None:
            return ""
        return source.render(values, style, time_zone_info, max_chars=MAX_MAIL_CHARS, purse=purse)

    is_mail = channel == "email"
    html = write(compiled.html) if is_mail else ""
    full_title = " ".join(write(compiled.title).split())  # a line break would end a mail's header
    full_body = write(compiled.body).strip()
    if is_mail and compiled.body is None:
        full_body = text_of(html)
    title = full_title if len(full_title) <= MAX_TITLE_CHARS else full_title[: MAX_TITLE_CHARS - 1] + "…"
    body = full_body if is_mail else cut(full_body, MAX_TEXT_BYTES)
    is_cut = title is not full_title or body is not full_body
    if not body.isprintable():  # a line break is not, either
        body = _CONTROLS.sub("", body)
    if not title.isprintable():
        title = _CONTROLS.sub("", title)
    if channel == "sms":
        title, body = title.translate(_SMS_SPACES), body.translate(_SMS_SPACES)
    where = f"{template.name}@{template.version} {choice.variant} {choice.locale} {choice.channel}"
    return Rendered(
        title=title,
        body=body,
        html=html,
        url=_address(write(compiled.url), "url", leads_safely),
        image=_address(write(compiled.image), "image", is_picture),
        locale=choice.locale,
        variant=choice.variant,
        decision=Decision(
            "render", "change" if is_cut else "pass", "text_cut" if is_cut else "template", where
        ),
    )


def cut(text: str, max_bytes: int) -> str:
    """Cut a text to so many bytes of UTF-8, with an ellipsis, between characters."""
    if len(text) * 4 <= max_bytes:
        return text
    encoded = text.encode(errors="replace")
    if len(encoded) <= max_bytes:
        return text
    ellipsis = "…".encode()
    return encoded[: max_bytes - len(ellipsis)].decode(errors="ignore").rstrip() + "…"


def _compiled(source: str, where: str, *, is_html: bool = False) -> Source | None:
    return Source(source, where=where, is_html=is_html) if source else None


def _address(text: str, field: str, is_safe: Callable[[str], bool]) -> str:
    if not text:
        return ""
    address = text.strip()
    if len(address) > MAX_URL_CHARS or not is_safe(address):
        raise Refused("template_failed", f"The {field} is too long, or none that can be opened safely.")
    return address


def _keep(cache: dict[_Key, Any], key: _Key, value: Any, max_count: int) -> None:
    """Keep a value; the one that came first gives way, as old versions of templates are."""
    if len(cache) >= max_count:
        del cache[next(iter(cache))]
    cache[key] = value
