"""Templates, short to write, and a place where Templates finds them."""

from typing import Any

from protocol.notify_templates import ChannelText, Template, Variable
from server.notify.template_locales import babel_locale, zone
from server.notify.template_source import Source

TEXT = Variable()
MAX_CHARS = 64 * 1024


class Reads:
    """One app's templates."""

    def __init__(self, *templates: Template, default_locale: str = "en") -> None:
        self.templates = {template.name: template for template in templates}
        self.locale = default_locale

    def template(self, app_id: str, name: str) -> Template | None:
        return self.templates.get(name) if app_id == "app" else None

    def default_locale(self, app_id: str) -> str:
        return self.locale


def write(
    source: str, *, locale: str = "en", time_zone: str = "UTC", is_html: bool = False, **data: Any
) -> str:
    """Compile and render one source."""
    compiled = Source(source, where="body", is_html=is_html)
    return compiled.render(data, babel_locale(locale), zone(time_zone), max_chars=MAX_CHARS)


def one_text(body: str = "", *, variables: dict[str, Variable] | None = None, **fields: str) -> Template:
    """A template with one English text for all channels."""
    return Template(
        name="greeting",
        variables=variables or {},
        texts={"default": {"en": {"default": ChannelText(body=body, **fields)}}},
    )
