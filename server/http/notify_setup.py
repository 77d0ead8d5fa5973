"""For the backend of an app: what its notifications are, by whom they go, and what its users want."""

from functools import partial
from typing import Annotated, Final, cast

import msgspec
from litestar import Router, delete, get, post, put
from litestar.params import FromPath, JSONBody, QueryParameter

from actors.messages import Ask
from actors.notify.address import notify_address
from actors.notify.mass_retirement import is_allowed
from actors.notify.messages import PutAddress
from protocol import notify_commands, notify_replies
from protocol.errors import ProtocolError
from protocol.http_notify import (
    AddressBody,
    ConsentBody,
    NotifySetup,
    PreviewBody,
    ProviderBody,
    ProviderInfo,
    Templates,
)
from protocol.notify_records import ProviderRow
from protocol.notify_templates import Experiment, ExperimentResults, Preview, Template
from protocol.notify_types import AppRules, Channel, Preferences, Purpose, TypeRule
from server.http.app_auth import APP_AUTH, app_of
from server.http.callers import STRICT
from server.http.context import AnyRequest, notify_of, services_of
from server.notify.core import NotifyCore
from server.notify.template_check import preview

TAGS: Final = ["Notification setup"]
USER_TAGS: Final = ["Notifications of a user"]
BODY_BYTES: Final = 1024 * 1024  # a template in many languages
ASK_TIMEOUT_S: Final = 15.0

_keys = msgspec.json.Decoder(dict[str, str]).decode


@get("/notify", summary="Read the setup", tags=TAGS, security=APP_AUTH)
async def get_setup(request: AnyRequest) -> NotifySetup:
    """Rules, types, providers, templates and experiments."""
    app, _ = await app_of(request)
    core = notify_of(request)
    setup = await core.desk.setup(app.app_id)
    rows = await core.desk.providers(app.app_id)
    breakers = await core.views.breakers(app.app_id)
    return NotifySetup(
        rules=setup.rules,
        types=setup.all_types(),
        providers=[_provider_of(row, breakers.get((row.channel, row.provider_id), "closed")) for row in rows],
        templates={template.name: template.version for template in setup.templates.values()},
        experiments=list(setup.experiments.values()),
        retirement_allowed={
            cast(Channel, name): until_ms
            for name, until_ms in setup.retirement.items()
            if is_allowed(until_ms, services_of(request).now_ms())
        },
        vapid_public_key=setup.vapid_public_key,
        webhook_key=core.webhook_keys.key_of(app.app_id),
    )


@put("/notify/rules", summary="Set the rules", tags=TAGS, security=APP_AUTH)
async def put_rules(request: AnyRequest, data: JSONBody[AppRules]) -> AppRules:
    """All of them at once: what is absent gets its default."""
    app, _ = await app_of(request)
    await notify_of(request).desk.put_rules(app.app_id, data)
    return data


@put("/notify/types/{name:str}", summary="Set a type", tags=TAGS, security=APP_AUTH)
async def put_type(request: AnyRequest, name: FromPath[str], data: JSONBody[TypeRule]) -> TypeRule:
    """Built-in types (chat, mention, contact, like, comment, follow, digest, security) can be replaced."""
    app, _ = await app_of(request)
    _check_name(name, data.name)
    await notify_of(request).desk.put_type(app.app_id, data)
    return data


@delete("/notify/types/{name:str}", status_code=204, summary="Remove a type", tags=TAGS, security=APP_AUTH)
async def remove_type(request: AnyRequest, name: FromPath[str]) -> None:
    """A built-in type that was replaced is as it was before."""
    app, _ = await app_of(request)
    await notify_of(request).desk.remove_type(app.app_id, name)


@put("/notify/providers/{provider_id:str}", summary="Set a provider", tags=TAGS, security=APP_AUTH)
async def put_provider(
    request: AnyRequest, provider_id: FromPath[str], data: JSONBody[ProviderBody]
) -> ProviderInfo:
    """Settings are stored encrypted and never shown again. A change closes the provider's breaker."""
    app, _ = await app_of(request)
    if not 1 <= len(provider_id) <= 64:
        raise ProtocolError("bad_field", "A provider's id has 1 to 64 characters.")
    row = await notify_of(request).desk.put_provider(
        app.app_id, provider_id, data.config, position=data.position, is_paused=data.is_paused
    )
    return _provider_of(row, "closed")


@delete(
    "/notify/providers/{provider_id:str}",
    status_code=204,
    summary="Remove a provider",
    tags=TAGS,
    security=APP_AUTH,
)
async def remove_provider(request: AnyRequest, provider_id: FromPath[str]) -> None:
    """What waits for it waits on, for another account of the channel."""
    app, _ = await app_of(request)
    await notify_of(request).desk.remove_provider(app.app_id, provider_id)


@post(
    "/notify/channels/{channel:str}/allow_retirement",
    status_code=204,
    summary="Allow many addresses to be retired",
    tags=TAGS,
    security=APP_AUTH,
)
async def allow_retirement(request: AnyRequest, channel: FromPath[str]) -> None:
    """For an hour, on all nodes: after an alert `mass_retirement` that turned out to be right."""
    app, _ = await app_of(request)
    core = notify_of(request)
    await core.desk.allow_retirement(app.app_id, _sending_channel(core, channel), is_allowed=True)


@delete(
    "/notify/channels/{channel:str}/allow_retirement",
    status_code=204,
    summary="Allow it no longer",
    tags=TAGS,
    security=APP_AUTH,
)
async def forbid_retirement(request: AnyRequest, channel: FromPath[str]) -> None:
    """Before the hour is over: from now on the guard against it holds again."""
    app, _ = await app_of(request)
    core = notify_of(request)
    await core.desk.allow_retirement(app.app_id, _sending_channel(core, channel), is_allowed=False)


@get("/notify/templates", summary="List templates", tags=TAGS, security=APP_AUTH)
async def list_templates(request: AnyRequest) -> Templates:
    """The newest version of each."""
    app, _ = await app_of(request)
    setup = await notify_of(request).desk.setup(app.app_id)
    return Templates(items=list(setup.templates.values()))


@put("/notify/templates/{name:str}", summary="Set a template", tags=TAGS, security=APP_AUTH)
async def put_template(request: AnyRequest, name: FromPath[str], data: JSONBody[Template]) -> Template:
    """A new version, once all its texts can be rendered with examples of its variables."""
    app, _ = await app_of(request)
    _check_name(name, data.name)
    return await notify_of(request).desk.put_template(app.app_id, data)


@delete(
    "/notify/templates/{name:str}", status_code=204, summary="Remove a template", tags=TAGS, security=APP_AUTH
)
async def remove_template(request: AnyRequest, name: FromPath[str]) -> None:
    """A built-in template that was replaced is as it was before. Not while an experiment is about it."""
    app, _ = await app_of(request)
    await notify_of(request).desk.remove_template(app.app_id, name)


@post(
    "/notify/templates/preview", status_code=200, summary="Look at a template", tags=TAGS, security=APP_AUTH
)
async def preview_template(request: AnyRequest, data: JSONBody[PreviewBody]) -> Preview:
    """Nothing is stored or sent; `missing` names what the data has no value for."""
    await app_of(request)
    show = partial(
        preview,
        data.template,
        variant=data.variant,
        locale=data.locale,
        time_zone=data.time_zone,
        channel=data.channel,
        data=data.data,
    )
    return await notify_of(request).desk.template_checks.run(show)


@put("/notify/experiments/{name:str}", summary="Set an experiment", tags=TAGS, security=APP_AUTH)
async def put_experiment(request: AnyRequest, name: FromPath[str], data: JSONBody[Experiment]) -> Experiment:
    """Requests name it to take part. `ended_at_ms` ends it."""
    app, _ = await app_of(request)
    _check_name(name, data.name)
    await notify_of(request).desk.put_experiment(app.app_id, data)
    return data


@delete(
    "/notify/experiments/{name:str}",
    status_code=204,
    summary="Remove an experiment",
    tags=TAGS,
    security=APP_AUTH,
)
async def remove_experiment(request: AnyRequest, name: FromPath[str]) -> None:
    """With its results. To end one and keep them, set its `ended_at_ms`."""
    app, _ = await app_of(request)
    await notify_of(request).desk.remove_experiment(app.app_id, name)


@get("/notify/experiments/{name:str}", summary="Read an experiment's results", tags=TAGS, security=APP_AUTH)
async def experiment_results(request: AnyRequest, name: FromPath[str]) -> ExperimentResults:
    """With intervals, and a verdict that holds however often one looks."""
    app, _ = await app_of(request)
    return await notify_of(request).desk.experiment_results(app.app_id, name)


# -- one user ---------------------------------------------------------------------------------------


async def _ask(request: AnyRequest, user_id: str, message: object) -> object:
    return await notify_of(request).router.ask(notify_address(user_id), message, timeout_s=ASK_TIMEOUT_S)


@post(
    "/users/{user_id:str}/addresses",
    status_code=200,
    summary="Register an address",
    tags=USER_TAGS,
    security=APP_AUTH,
)
async def put_address(
    request: AnyRequest, user_id: FromPath[str], data: JSONBody[AddressBody]
) -> notify_replies.PushDevices:
    """A token, a subscription, a phone number, a mail address. Repeat it whenever it is seen."""
    app, _ = await app_of(request)
    services = services_of(request)
    await services.directory.user_of(app.app_id, user_id)
    await services.take_away(app.app_id, user_id, data.channel, data.address, data.keys)
    message = PutAddress(
        user_id, app.app_id, data.channel, data.address, data.keys, data.name, opt_in=data.opt_in
    )
    return cast(notify_replies.PushDevices, await _ask(request, user_id, message))


@get("/users/{user_id:str}/addresses", summary="List addresses", tags=USER_TAGS, security=APP_AUTH)
async def list_addresses(request: AnyRequest, user_id: FromPath[str]) -> notify_replies.PushDevices:
    """Where the user can be reached, by device key; of an address its end alone is shown."""
    app, _ = await app_of(request)
    answer = await _ask(request, user_id, Ask(user_id, app.app_id, notify_commands.ListPush()))
    return cast(notify_replies.PushDevices, answer)


@delete(
    "/users/{user_id:str}/addresses/{device_key:str}",
    status_code=204,
    summary="Remove an address",
    tags=USER_TAGS,
    security=APP_AUTH,
)
async def remove_address(request: AnyRequest, user_id: FromPath[str], device_key: FromPath[str]) -> None:
    """What waits for it is not sent."""
    app, _ = await app_of(request)
    command = notify_commands.UnregisterPush(device_key=device_key)
    await _ask(request, user_id, Ask(user_id, app.app_id, command))


@get("/users/{user_id:str}/preferences", summary="Read preferences", tags=USER_TAGS, security=APP_AUTH)
async def get_preferences(request: AnyRequest, user_id: FromPath[str]) -> notify_replies.PreferencesInfo:
    """What the user wants to hear."""
    app, _ = await app_of(request)
    answer = await _ask(request, user_id, Ask(user_id, app.app_id, notify_commands.GetPreferences()))
    return cast(notify_replies.PreferencesInfo, answer)


@put("/users/{user_id:str}/preferences", summary="Set preferences", tags=USER_TAGS, security=APP_AUTH)
async def put_preferences(
    request: AnyRequest, user_id: FromPath[str], data: JSONBody[Preferences]
) -> notify_replies.PreferencesInfo:
    """In the user's name: by the app's own settings page."""
    app, _ = await app_of(request)
    command = notify_commands.SetPreferences(preferences=data)
    answer = await _ask(request, user_id, Ask(user_id, app.app_id, command))
    return cast(notify_replies.PreferencesInfo, answer)


@put(
    "/users/{user_id:str}/consents/{purpose:str}", summary="Set a consent", tags=USER_TAGS, security=APP_AUTH
)
async def put_consent(
    request: AnyRequest, user_id: FromPath[str], purpose: FromPath[str], data: JSONBody[ConsentBody]
) -> notify_replies.PreferencesInfo:
    """As it was given to the app, with its source and its end; or withdrawn: what rested on it is erased."""
    app, _ = await app_of(request)
    try:
        purpose = msgspec.convert(purpose, Purpose)
    except msgspec.ValidationError:
        raise ProtocolError("bad_field", f"{purpose!r} is no name of a purpose, such as marketing.") from None
    command = notify_commands.SetConsent(
        purpose=purpose, given=data.given, source=data.source, ends_at_ms=data.ends_at_ms
    )
    answer = await _ask(request, user_id, Ask(user_id, app.app_id, command))
    return cast(notify_replies.PreferencesInfo, answer)


@get("/users/{user_id:str}/plan", summary="Plan the coming days", tags=USER_TAGS, security=APP_AUTH)
async def plan(
    request: AnyRequest,
    user_id: FromPath[str],
    days: Annotated[int, QueryParameter(ge=1, le=31)] = 7,
) -> notify_replies.Forecasts:
    """A dry run: what the user is to hear, when, and why."""
    app, _ = await app_of(request)
    return await services_of(request).plan(app.app_id, user_id, days)


def _provider_of(row: ProviderRow, breaker: str) -> ProviderInfo:
    return ProviderInfo(
        provider_id=row.provider_id,
        channel=cast(Channel, row.channel),
        kind=row.kind,
        position=row.position,
        is_paused=row.is_paused,
        changed_at_ms=row.changed_at_ms,
        breaker=breaker,
    )


def _sending_channel(core: NotifyCore, name: str) -> Channel:
    for channel in core.channels.channels:
        if channel == name:
            return channel
    raise ProtocolError("bad_field", f"The channels are {', '.join(core.channels.channels)}.")


def _check_name(in_path: str, in_body: str) -> None:
    if in_path != in_body:
        raise ProtocolError("bad_field", f"The path names {in_path!r}, the body {in_body!r}.")


def notify_setup_router() -> Router:
    """Everything that an app sets up, and what it knows and changes of its users."""
    return Router(
        path="/v1/app",
        opt={STRICT: True},
        route_handlers=[
            get_setup,
            put_rules,
            put_type,
            remove_type,
            put_provider,
            remove_provider,
            allow_retirement,
            forbid_retirement,
            list_templates,
            put_template,
            remove_template,
            preview_template,
            put_experiment,
            experiment_results,
            remove_experiment,
            put_address,
            list_addresses,
            remove_address,
            get_preferences,
            put_preferences,
            put_consent,
            plan,
        ],
        request_max_body_size=BODY_BYTES,
    )
