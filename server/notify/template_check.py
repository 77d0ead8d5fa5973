"""Whether a template is right, before it is kept, and what it looks like with example data."""

from collections.abc import Callable, Mapping
from typing import Any, Final, TypeVar

import msgspec
import trio

from protocol.errors import ProtocolError, Refused
from protocol.notify_templates import (
    DEFAULT_VARIANT,
    MAX_TEMPLATE_BYTES,
    Preview,
    Template,
    Variable,
    VariableKind,
)
from protocol.notify_types import CHANNELS, MAX_DATA_BYTES, Channel
from server.notify.compiled_texts import CompiledText, where_of
from server.notify.template_locales import Choice, find_locale, normal_tag
from server.notify.template_source import RESERVED
from server.notify.templates import (
    AMBIENT,
    choose_or_refuse,
    complete,
    default_of,
    fits,
    render_text,
)

MAX_AT_ONCE: Final = 2  # of all apps; more would only share Python's one lock
T = TypeVar("T")
_EXAMPLES: Final[dict[VariableKind, Any]] = {
    "number": 3,
    "flag": True,
    "time": 1_767_225_600_000,
    "list": [],
    "object": {},
}
# An example that we make up has no fields and no elements, so that it would show errors where there are none.
_NEED_EXAMPLES: Final[frozenset[VariableKind]] = frozenset({"list", "object"})


class TemplateChecks:
    """Look at templates beside the loop, which serves everybody else meanwhile, few at a time.

    Who comes behind a large template waits a second or so.
    """

    def __init__(self) -> None:
        self._limiter = trio.CapacityLimiter(MAX_AT_ONCE)

    async def run(self, function: Callable[[], T]) -> T:
        """Call `check_template` or `preview` in a thread. Raises: what it raises."""
        return await trio.to_thread.run_sync(function, limiter=self._limiter)


def check_template(template: Template) -> None:
    """Compile every text, and render it with examples. A large template takes seconds: see TemplateChecks.

    Raises: ProtocolError(bad_field): wrong syntax, with the line; or the template is too large, or lacks a
    text that it needs. Refused(template_variable_unknown): a text uses a variable that is not declared.
    Refused(template_failed): a text cannot be rendered with the examples.
    """
    if len(msgspec.json.encode(template)) > MAX_TEMPLATE_BYTES:
        raise ProtocolError("bad_field", f"texts: more than {MAX_TEMPLATE_BYTES // 1024} KiB in all")
    _check_variables(template)
    _check_locales(template)
    known = template.variables.keys() | AMBIENT.keys()
    for variant, locales in template.texts.items():
        for locale, channels in locales.items():
            for channel, text in channels.items():
                choice = Choice(text, variant, locale, channel)
                where = where_of(choice)
                if not (text.title or text.body or text.html):
                    raise ProtocolError("bad_field", f"{where}: neither title nor body nor html")
                compiled = CompiledText(text, where)
                unknown = sorted(compiled.names - known)
                if unknown:
                    message = f"{where}: no variable {unknown[0]!r} is declared"
                    raise Refused("template_variable_unknown", message)
                _try(template, choice, compiled)


def preview(
    template: Template,
    *,
    variant: str = DEFAULT_VARIANT,
    locale: str = "",
    time_zone: str = "UTC",
    channel: Channel = "inapp",
    data: Mapping[str, Any] | None = None,
    app_default: str = "en",
) -> Preview:
    """Show a text with `data`, and with examples for what they lack; the template need not be kept yet.

    Raises: as Templates.render does, and ProtocolError(bad_field): wrong syntax.
    """
    _check_variables(template)
    locale = locale or template.default_locale
    choice = choose_or_refuse(template, variant, channel, locale, app_default)
    compiled = CompiledText(choice.text, where_of(choice))
    given = {name: value for name, value in (data or {}).items() if value is not None}
    examples = {name: example_of(name, variable) for name, variable in _declared(template).items()}
    undeclared = sorted(compiled.names - examples.keys() - given.keys())
    values = {**{name: f"[{name}]" for name in undeclared}, **examples, **given}
    missing = [
        name
        for name, variable in template.variables.items()
        if variable.required and variable.example is None and name not in given
    ]
    rendered = render_text(template, choice, compiled, complete(template, values), locale, time_zone, channel)
    return Preview(rendered=rendered, missing=sorted({*missing, *undeclared}))


def example_of(name: str, variable: Variable) -> Any:
    """A variable's example, else its default, else something of its kind."""
    if variable.example is not None:
        return variable.example
    if not variable.required and variable.default is not None:
        return default_of(variable)
    return _EXAMPLES.get(variable.kind, f"[{name}]")


def _declared(template: Template) -> dict[str, Variable]:
    return {**AMBIENT, **template.variables}


def _check_variables(template: Template) -> None:
    for name, variable in template.variables.items():
        if name in RESERVED:
            raise ProtocolError("bad_field", f"variables: {name!r} is a word of the language")
        if name in AMBIENT:
            raise ProtocolError(
                "bad_field", f"variables: {name!r} is set by hubbub for every notification, undeclared"
            )
        for field, value in (("default", variable.default), ("example", variable.example)):
            if value is None:
                continue
            if not fits(variable.kind, value):
                raise ProtocolError("bad_field", f"variables.{name}.{field}: no {variable.kind}")
            if len(msgspec.json.encode(value)) > MAX_DATA_BYTES:
                message = f"variables.{name}.{field}: more than {MAX_DATA_BYTES} bytes as JSON"
                raise ProtocolError("bad_field", message)


def _check_locales(template: Template) -> None:
    if DEFAULT_VARIANT not in template.texts:
        raise ProtocolError("bad_field", f"texts: no variant {DEFAULT_VARIANT!r}, which serves all others")
    for variant, locales in template.texts.items():
        if len({normal_tag(locale) for locale in locales}) < len(locales):
            raise ProtocolError("bad_field", f"texts.{variant}: two spellings of the same locale")
    if find_locale(template.texts[DEFAULT_VARIANT], template.default_locale) is None:
        raise ProtocolError("bad_field", f"texts: none for default_locale {template.default_locale!r}")


def _try(template: Template, choice: Choice, compiled: CompiledText) -> None:
    """Render a text with examples, on a channel that shows it. Raises: Refused."""
    declared = _declared(template)
    for name in compiled.names:
        variable = declared[name]
        if variable.kind in _NEED_EXAMPLES and variable.example is None and variable.default is None:
            return
    values = {name: example_of(name, variable) for name, variable in declared.items()}
    shown_on = next((channel for channel in CHANNELS if channel == choice.channel), "email")
    render_text(template, choice, compiled, values, choice.locale, "UTC", shown_on)
