"""Texts of notifications: find an app's template, choose the text that fits the user, and render it."""

import re
from collections.abc import Callable, Mapping
from typing import Any, Final, Protocol

from protocol.errors import Refused
from protocol.notify_templates import (
    DEFAULT_VARIANT,
    MAX_SOURCE_BYTES,
    Rendered,
    Template,
    Variable,
    VariableKind,
)
from protocol.notify_types import MAX_TEXT_BYTES, Channel, Decision
from server.notify.builtin_templates import BUILTIN_TEMPLATES
from server.notify.compiled_texts import CompiledText, CompiledTexts, Place, no_text
from server.notify.mail_html import text_of
from server.notify.tap_address import is_picture, leads_safely
from server.notify.template_locales import Choice, choose_text, conventions, zone
from server.notify.template_sandbox import Purse
from server.notify.template_source import Source

MAX_TITLE_CHARS: Final = 200  # as in a request without a template; devices show fewer
MAX_URL_CHARS: Final = 2_000
MAX_MAIL_CHARS: Final = MAX_SOURCE_BYTES

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


class Templates:
    """All apps' templates, compiled when they are first used. Nothing but `prepare` waits."""

    def __init__(self, reads: TemplateReads) -> None:
        self._reads = reads
        self._texts = CompiledTexts()

    def is_ready(self, app_id: str, template: str, locale: str) -> bool:
        """Tell whether nothing has to be compiled for users of that locale; so it is where there is none."""
        found = self._find(app_id, template, locale)
        return found is None or self._texts.is_ready(*found)

    async def prepare(self, app_id: str, template: str, locale: str) -> None:
        """Compile what users of that locale may get, beside the loop."""
        found = self._find(app_id, template, locale)
        if found is not None:
            await self._texts.prepare(*found)

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
        known = self._find(app_id, template, locale)
        if known is None:
            raise Refused("template_not_found", f"The app has no template {template!r}.")
        found, place = known
        choice, compiled = self._texts.get(found, place, variant, channel)
        values = complete(found, data)
        return render_text(found, choice, compiled, values, locale, time_zone, channel)

    def _find(self, app_id: str, name: str, locale: str) -> tuple[Template, Place] | None:
        """The app's own template, or the built-in one, and where its texts for a locale are kept."""
        owner, found = app_id, self._reads.template(app_id, name)
        if found is None:
            owner, found = "", BUILTIN_TEMPLATES.get(name)
            if found is None:
                return None
        return found, (owner, name, found.version, locale, self._reads.default_locale(app_id))


def choose_or_refuse(template: Template, variant: str, channel: str, locale: str, app_default: str) -> Choice:
    """Choose the text that fits best. Raises: Refused(template_failed): there is none for the channel."""
    choice = choose_text(template, variant=variant, channel=channel, wanted=locale, app_default=app_default)
    if choice is None:
        raise no_text(template, channel)
    return choice


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


def _address(text: str, field: str, is_safe: Callable[[str], bool]) -> str:
    if not text:
        return ""
    address = text.strip()
    if len(address) > MAX_URL_CHARS or not is_safe(address):
        raise Refused("template_failed", f"The {field} is too long, or none that can be opened safely.")
    return address
