"""Links in mails and messages, and what providers tell: open to the world, each signed by itself."""

import base64
from html import escape
from typing import Final

import msgspec
import structlog
from litestar import MediaType, Response, Router, get, post
from litestar.params import FromPath
from litestar.response import Redirect

from actors.notify.address import notify_address, owner_of
from actors.notify.messages import DeliveryTold, Mark, Unsubscribe
from protocol.errors import HubbubError, Refused
from protocol.notify_types import Channel
from protocol.provider_configs import SmtpConfig, TwilioConfig, VonageConfig
from server.http.context import AnyRequest, notify_of, services_of
from server.notify.callbacks import Told, told_by_sendgrid, told_by_twilio, told_by_vonage
from server.notify.links import Called, Clicked, Link, Opened, Unsubscribed

ASK_TIMEOUT_S: Final = 10.0
BODY_BYTES: Final = 1024 * 1024  # SendGrid tells of up to a thousand events at a time
_GIF: Final = base64.b64decode("R0lGODlhAQABAIAAAAAAAP///yH5BAEAAAAALAAAAAABAAEAAAIBRAA7")

log = structlog.get_logger(__name__)


def _read(request: AnyRequest, token: str) -> Link:
    if len(token) > 6_000:
        raise Refused("bad_link")
    return notify_of(request).links.read(token)


async def _mark(request: AnyRequest, notification_id: int, mark: str, how: str, app_id: str = "") -> None:
    """Take note, if it can be: the reader's page or picture must come all the same."""
    try:
        await notify_of(request).router.ask(
            owner_of(notification_id), Mark(notification_id, mark, how, app_id), timeout_s=ASK_TIMEOUT_S
        )
    except HubbubError as error:
        log.info("mark_not_taken", code=error.code, mark=mark)


@get("/o/{token:str}", include_in_schema=False)
async def opened(request: AnyRequest, token: FromPath[str]) -> Response[bytes]:
    """The picture in a mail."""
    link = _read(request, token)
    if not isinstance(link, Opened):
        raise Refused("bad_link")
    await _mark(request, link.notification_id, "opened", "pixel")
    return Response(_GIF, media_type="image/gif", headers={"cache-control": "no-store, private"})


@get("/c/{token:str}", include_in_schema=False)
async def clicked(request: AnyRequest, token: FromPath[str]) -> Redirect:
    """A link in a notification: on to where it leads, which is part of what was signed."""
    link = _read(request, token)
    if not isinstance(link, Clicked):
        raise Refused("bad_link")
    await _mark(request, link.notification_id, "clicked", "link")
    return Redirect(link.url, status_code=302)


@get("/u/{token:str}", include_in_schema=False, media_type=MediaType.HTML)
async def unsubscribe_page(request: AnyRequest, token: FromPath[str]) -> Response[str]:
    """A page with a button: mail scanners follow links, so a GET changes nothing (RFC 8058 section 1)."""
    link = _read(request, token)
    if not isinstance(link, Unsubscribed):
        raise Refused("bad_link")
    setup = await notify_of(request).setups.load(link.app_id)
    rule = setup.type_rule(link.type_name)
    name = escape((rule.title if rule is not None else "") or link.type_name)
    body = (
        f"<h1>Unsubscribe</h1><p>No more mail about <strong>{name}</strong>?</p>"
        '<form method="post"><input type="hidden" name="List-Unsubscribe" value="One-Click">'
        '<button type="submit">Unsubscribe</button></form>'
    )
    return Response(_page("Unsubscribe", body), media_type=MediaType.HTML)


@post("/u/{token:str}", status_code=200, include_in_schema=False, media_type=MediaType.HTML)
async def unsubscribe(request: AnyRequest, token: FromPath[str]) -> Response[str]:
    """One click (RFC 8058): no log-in, no question. Safe to repeat."""
    link = _read(request, token)
    if not isinstance(link, Unsubscribed):
        raise Refused("bad_link")
    message = Unsubscribe(
        link.user_id,
        link.app_id,
        link.type_name,
        msgspec.convert(link.channel, Channel),
    )
    await notify_of(request).router.ask(notify_address(link.user_id), message, timeout_s=ASK_TIMEOUT_S)
    return Response(
        _page("Unsubscribed", "<h1>Done</h1><p>You will get no more of these mails.</p>"),
        media_type=MediaType.HTML,
    )


@post("/p/{token:str}", status_code=200, include_in_schema=False)
async def provider_told(request: AnyRequest, token: FromPath[str]) -> Response[bytes]:
    """A provider tells what became of one delivery; checked by its own signature as well."""
    return await _told(request, token)


@get("/p/{token:str}", include_in_schema=False)
async def provider_told_by_get(request: AnyRequest, token: FromPath[str]) -> Response[bytes]:
    """The same for those who tell by GET."""
    return await _told(request, token)


async def _told(request: AnyRequest, token: str) -> Response[bytes]:
    link = _read(request, token)
    if not isinstance(link, Called):
        raise Refused("bad_link")
    core = notify_of(request)
    config = await core.desk.provider_config(link.app_id, link.provider_id)
    url = core.links.called(link.notification_id, link.number, link.app_id, link.provider_id)
    query = request.scope.get("query_string", b"").decode("latin-1")
    body = await request.body()
    if isinstance(config, TwilioConfig):
        signature = request.headers.get("x-twilio-signature", "")
        told = told_by_twilio(config, url, query, body, signature)
    elif isinstance(config, VonageConfig):
        told = told_by_vonage(config, query, body, services_of(request).now_ms())
    else:
        raise Refused("bad_link")
    if told is not None:
        await _tell(request, link.app_id, link.provider_id, link.notification_id, link.number, told)
    return Response(b"", media_type=MediaType.TEXT)


@post("/e/{app_id:str}/{provider_id:str}", status_code=200, include_in_schema=False)
async def mail_events(
    request: AnyRequest, app_id: FromPath[str], provider_id: FromPath[str]
) -> Response[bytes]:
    """SendGrid's event webhook: bounces, complaints, opens and clicks of many mails at once."""
    core = notify_of(request)
    config = await core.desk.provider_config(app_id, provider_id)
    if not isinstance(config, SmtpConfig) or not config.webhook_key:
        raise Refused("provider_not_found")
    events = told_by_sendgrid(
        config,
        await request.body(),
        request.headers.get("x-twilio-email-event-webhook-signature", ""),
        request.headers.get("x-twilio-email-event-webhook-timestamp", ""),
        services_of(request).now_ms(),
    )
    for notification_id, number, told in events:
        if told.mark:
            await _mark(request, notification_id, told.mark, "provider", app_id)
        else:
            await _tell(request, app_id, provider_id, notification_id, number, told)
    return Response(b"", media_type=MediaType.TEXT)


@post("/s/{app_id:str}/{provider_id:str}", status_code=200, include_in_schema=False)
async def ses_events(
    request: AnyRequest, app_id: FromPath[str], provider_id: FromPath[str]
) -> Response[bytes]:
    """SES's events through SNS: bounces, complaints, deliveries."""
    core = notify_of(request)
    config = await core.desk.provider_config(app_id, provider_id)
    if not isinstance(config, SmtpConfig) or not config.sns_topic_arn:
        raise Refused("provider_not_found")

    def tell_developers() -> None:
        what = {"provider_id": provider_id, "detail": 'Switch "include original headers" on at SES.'}
        core.alerts.add(app_id, "mail_events_nameless", what)

    for notification_id, number, told in await core.sns.take(
        config, await request.body(), services_of(request).now_ms(), on_nameless=tell_developers
    ):
        if told.mark:
            await _mark(request, notification_id, told.mark, "provider", app_id)
        else:
            await _tell(request, app_id, provider_id, notification_id, number, told)
    return Response(b"", media_type=MediaType.TEXT)


async def _tell(
    request: AnyRequest, app_id: str, provider_id: str, notification_id: int, number: int, told: Told
) -> None:
    """Hand a report on. One of what is not known here (any more) is taken, and said nothing about."""
    message = DeliveryTold(
        notification_id,
        number,
        told.state,
        told.code,
        told.action,
        app_id,
        provider_id,
        told.provider_ref,
    )
    try:
        await notify_of(request).router.ask(owner_of(notification_id), message, timeout_s=ASK_TIMEOUT_S)
    except Refused as refused:
        log.info("report_not_taken", code=refused.code, app_id=app_id, notification_id=notification_id)


def _page(title: str, body: str) -> str:
    return (
        f'<!doctype html><html lang="en"><head><meta charset="utf-8"><title>{title}</title>'
        '<meta name="viewport" content="width=device-width"></head><body>'
        f"<main>{body}</main></body></html>"
    )


def notify_link_router() -> Router:
    """Links and callbacks."""
    return Router(
        path="/n",
        route_handlers=[
            opened,
            clicked,
            unsubscribe_page,
            unsubscribe,
            provider_told,
            provider_told_by_get,
            mail_events,
            ses_events,
        ],
        request_max_body_size=BODY_BYTES,
    )
