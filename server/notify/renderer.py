"""Write what a channel shows, from a template or plain text, with links that tell when they are followed.

Fits actors.notify.ports.Renderer. Nothing but `prepare` waits.
"""

from html import escape
from typing import Any, Final

from actors.notify.ports import Reader, Setup, Text
from protocol.notify_content import Content
from protocol.notify_types import Channel, Decision
from server.notify.links import Links
from server.notify.mail_html import is_page, put_at_end, rewrite_links
from server.notify.mail_words import UNSUBSCRIBE
from server.notify.templates import Templates

MAX_PUSH_BODY_CHARS: Final = 1_500
_MAIL: Final = (
    '<!doctype html><html lang="{lang}"><head><meta charset="utf-8">'
    '<meta name="viewport" content="width=device-width"><title>{title}</title></head>'
    '<body style="margin:0;padding:24px;font:16px/1.5 sans-serif;color:#222">'
    '<div style="max-width:600px;margin:0 auto">{html}{footer}</div>{pixel}</body></html>'
)


class NotifyRenderer:
    """Render notifications."""

    def __init__(self, templates: Templates, links: Links) -> None:
        self._templates = templates
        self._links = links

    def render(
        self,
        setup: Setup,
        content: Content,
        reader: Reader,
        channel: Channel,
        *,
        variant: str,
        notification_id: int,
    ) -> Text:
        """Write one text. Raises: Refused(template_not_found, template_variable_unknown, template_failed)."""
        title, body, html, url, image = content.title, content.text, "", content.url, content.image
        locale = reader.locale
        unsubscribe_url = click_url = ""
        if channel == "email" and self._links.base_url:
            rule = setup.type_rule(content.type)
            if rule is None or not rule.is_security:
                unsubscribe_url = self._links.unsubscribed(
                    setup.app_id, reader.user_id, content.type, channel
                )
        decision: Decision | None = None
        written = ""
        if content.template:
            data: dict[str, Any] = {
                **content.data,
                "names": list(reader.names),
                "others": reader.others,
                "count": reader.count,
                "titles": list(reader.titles),
                "reader": reader.name,
                "unsubscribe_url": unsubscribe_url,
            }
            rendered = self._templates.render(
                setup.app_id,
                content.template,
                variant=variant.partition(":")[2] or "default",
                locale=reader.locale,
                time_zone=reader.time_zone,
                channel=channel,
                data=data,
            )
            title, body, html = rendered.title, rendered.body, rendered.html
            url, image = rendered.url or content.url, rendered.image or content.image
            locale, decision, written = rendered.locale, rendered.decision, rendered.variant
        if url.startswith("/") and not url.startswith("//") and self._links.base_url:
            url = f"{self._links.base_url}{url}"  # of hubbub's own pages
        if channel == "webpush" and self._links.base_url:
            page = f"{self._links.base_url}/"
            click_url = self._links.clicked(notification_id, f"{page}{url}" if url[:1] in ("", "#") else url)
        if channel == "email":
            html = self._mail(title, body, html, url, locale, unsubscribe_url, notification_id)
            if unsubscribe_url and unsubscribe_url not in body:
                body = f"{body}\n\n{_words(locale)}: {unsubscribe_url}"
        elif channel == "sms" and url and url not in body:
            body = f"{body} {url}".strip()
        return Text(
            title=title,
            body=body,
            html=html,
            url=url,
            image=image,
            unsubscribe_url=unsubscribe_url,
            click_url=click_url,
            locale=locale,
            variant=written,
            decision=decision,
        )

    def is_ready(self, setup: Setup, template: str, locale: str) -> bool:
        """Tell whether a template's texts for users of that locale are compiled, or there are none."""
        return self._templates.is_ready(setup.app_id, template, locale)

    async def prepare(self, setup: Setup, template: str, locale: str) -> None:
        """Compile them beside the loop."""
        await self._templates.prepare(setup.app_id, template, locale)

    def check(self, setup: Setup, content: Content, channels: list[Channel]) -> None:
        """Render once for each channel, for nobody: so what cannot be rendered is refused before it is taken.

        Raises: as render.
        """
        reader = Reader(
            user_id="",
            name="",
            locale=setup.rules.default_locale,
            time_zone=setup.rules.default_time_zone,
            names=(content.actor,) if content.actor else (),
        )
        for channel in channels:
            self.render(setup, content, reader, channel, variant="", notification_id=0)

    def _mail(
        self,
        title: str,
        body: str,
        html: str,
        url: str,
        locale: str,
        unsubscribe_url: str,
        notification_id: int,
    ) -> str:
        """A whole page around what the template wrote, or around plain text.

        One that the template wrote whole stays as it is, with the link to unsubscribe and the picture at its
        end. A template that has placed the link itself gets no second one.
        """
        pixel = footer = ""
        if self._links.base_url:
            pixel = f'<img src="{self._links.opened(notification_id)}" width="1" height="1" alt="">'
        if unsubscribe_url and unsubscribe_url not in html:
            footer = (
                '<hr style="border:0;border-top:1px solid #ddd;margin:32px 0 16px">'
                f'<p style="font-size:13px;color:#777"><a href="{unsubscribe_url}">{_words(locale)}</a></p>'
            )
        if not html:
            html = "".join(f"<p>{escape(line)}</p>" for line in body.split("\n") if line.strip())
            if url:
                html += f'<p><a href="{escape(url, quote=True)}">{escape(url)}</a></p>'
        if self._links.base_url:
            html = rewrite_links(
                html, lambda link: self._links.clicked(notification_id, link), keep=(unsubscribe_url,)
            )
        if is_page(html):
            return put_at_end(html, f"{footer}{pixel}")
        return _MAIL.format(lang=escape(locale), title=escape(title), html=html, footer=footer, pixel=pixel)


def _words(locale: str) -> str:
    return UNSUBSCRIBE.get(locale[:2].lower(), UNSUBSCRIBE["en"])
