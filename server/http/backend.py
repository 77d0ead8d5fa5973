"""For the backend of an app, which comes with its app key and secret: its users, their tokens, its bots."""

from typing import Final

import trio
from litestar import Response, Router, delete, get, post
from litestar.params import FromPath, JSONBody

from actors.user_rules import profile_of
from protocol.errors import HubbubError, ProtocolError, Refused
from protocol.http import (
    BotToken,
    CreateBot,
    IssueToken,
    Provisioned,
    ProvisionedUsers,
    ProvisionUser,
    ProvisionUsers,
    SignedIn,
    Users,
)
from server import auth
from server.http.accounts import signed_in_body
from server.http.app_auth import APP_AUTH, app_of
from server.http.commands import carry_out
from server.http.context import (
    BATCH_BODY_BYTES,
    SMALL_BODY_BYTES,
    AnyRequest,
    note_user,
    services_of,
)

PROVISION_TASKS: Final = 16  # they share the store's group commits; one after the other would wait for each


@post(
    "/users",
    status_code=200,
    summary="Make or find users",
    tags=["App backend"],
    security=APP_AUTH,
    request_max_body_size=BATCH_BODY_BYTES,
)
async def provision_users(request: AnyRequest, data: JSONBody[ProvisionUsers]) -> ProvisionedUsers:
    """Safe to repeat: a user is known by `external_id`, and one who exists is left as is.

    A language or time zone that there is not is refused (`bad_field`) before anybody is made.
    """
    key, _ = await app_of(request)
    for wanted in data.users:
        _check_place(wanted)
    directory = services_of(request).directory
    made: dict[int, Provisioned] = {}

    async def provision_every(start: int) -> None:
        for index in range(start, len(data.users), PROVISION_TASKS):
            wanted = data.users[index]
            user, was_created, _ = await directory.provision(
                key.app_id,
                wanted.external_id,
                username=wanted.username,
                name=wanted.name,
                language=wanted.language,
                time_zone=wanted.time_zone,
            )
            made[index] = Provisioned(
                external_id=wanted.external_id, user=profile_of(user), created=was_created
            )

    # Failures are caught in their task: a nursery would wrap them into a group.
    failures: list[HubbubError] = []

    async def guarded(start: int) -> None:
        try:
            await provision_every(start)
        except HubbubError as exc:
            failures.append(exc)

    async with trio.open_nursery() as nursery:
        for start in range(min(PROVISION_TASKS, len(data.users))):
            nursery.start_soon(guarded, start)
    if failures:
        raise failures[0]
    return ProvisionedUsers(items=[made[index] for index in range(len(data.users))])


def _check_place(wanted: ProvisionUser) -> None:
    """Raises: ProtocolError(bad_field), with whose language or time zone it is that there is not."""
    try:
        auth.checked_language(wanted.language)
        auth.checked_time_zone(wanted.time_zone)
    except ProtocolError as error:
        raise ProtocolError(error.code, f"{wanted.external_id}: {error.message}") from None


@post("/tokens", status_code=201, summary="Sign a user in", tags=["App backend"], security=APP_AUTH)
async def issue_token(request: AnyRequest, data: JSONBody[IssueToken]) -> SignedIn:
    """The backend can also sign a JWT (HS256, kid = app key, sub, exp) and needs no request at all."""
    key, _ = await app_of(request)
    done = await services_of(request).accounts.issue_token(
        key.app_id, data.user_id, ttl_s=data.ttl_s, device_name=data.device_name
    )
    return signed_in_body(done)


@post(
    "/users/{user_id:str}/disable",
    status_code=204,
    summary="Keep a user out",
    tags=["App backend"],
    security=APP_AUTH,
)
async def disable_user(request: AnyRequest, user_id: FromPath[str]) -> None:
    """Log-ins end and connections are closed; what the user has written stays."""
    key, _ = await app_of(request)
    services = services_of(request)
    await services.accounts.disable_user(await services.directory.user_of(key.app_id, user_id))


@post(
    "/users/{user_id:str}/enable",
    status_code=204,
    summary="Let a user in again",
    tags=["App backend"],
    security=APP_AUTH,
)
async def enable_user(request: AnyRequest, user_id: FromPath[str]) -> None:
    """The user logs in anew."""
    key, _ = await app_of(request)
    services = services_of(request)
    await services.accounts.enable_user(await services.directory.user_of(key.app_id, user_id))


@get("/bots", summary="List the app's bots", tags=["App backend"], security=APP_AUTH)
async def list_bots(request: AnyRequest) -> Users:
    """Those of its users too."""
    key, _ = await app_of(request)
    bots = await services_of(request).directory.list_bots(key.app_id)
    return Users(items=[profile_of(bot) for bot in bots])


@post("/bots", status_code=201, summary="Make a bot of the app", tags=["App backend"], security=APP_AUTH)
async def create_bot(request: AnyRequest, data: JSONBody[CreateBot]) -> BotToken:
    """The token is shown this once."""
    key, _ = await app_of(request)
    bot, token = await services_of(request).accounts.create_bot(key.app_id, data.username, name=data.name)
    return BotToken(user=profile_of(bot), token=token)


@post(
    "/bots/{user_id:str}/token",
    status_code=200,
    summary="Give a bot a new token",
    tags=["App backend"],
    security=APP_AUTH,
)
async def rotate_bot_token(request: AnyRequest, user_id: FromPath[str]) -> BotToken:
    """The old one ends, and so do its connections."""
    key, _ = await app_of(request)
    services = services_of(request)
    bot = await services.directory.bot_of(key.app_id, user_id)
    return BotToken(user=profile_of(bot), token=await services.accounts.rotate_bot_token(bot))


@delete(
    "/bots/{user_id:str}", status_code=204, summary="Delete a bot", tags=["App backend"], security=APP_AUTH
)
async def delete_bot(request: AnyRequest, user_id: FromPath[str]) -> None:
    """What it has written stays; its name is not given again."""
    key, _ = await app_of(request)
    services = services_of(request)
    await services.accounts.disable_user(await services.directory.bot_of(key.app_id, user_id))


@post(
    "/commands",
    status_code=200,
    summary="Carry out a command as a user",
    tags=["App backend"],
    security=APP_AUTH,
    operation_id="app_command",
)
async def command(request: AnyRequest) -> Response[bytes]:
    """The body is any command of the protocol; the header `X-Hubbub-User`, or `?user_id=`, names the user.

    A signed request names the user in the address: headers are not signed.
    """
    key, signature = await app_of(request)
    user_id = request.query_params.get("user_id", "")
    if not signature:
        user_id = user_id or request.headers.get("x-hubbub-user", "")
    if not user_id:
        where = "address (?user_id=…), which is signed" if signature else "header X-Hubbub-User"
        raise Refused("bad_request", f"Name the user who acts in the {where}.")
    identity = await services_of(request).log_ins.act_as(key, user_id)
    note_user(request, key.app_id, user_id)
    return await carry_out(request, identity)


def backend_router() -> Router:
    """Everything that an app's backend does."""
    return Router(
        path="/v1/app",
        route_handlers=[
            provision_users,
            issue_token,
            disable_user,
            enable_user,
            list_bots,
            create_bot,
            rotate_bot_token,
            delete_bot,
            command,
        ],
        request_max_body_size=SMALL_BODY_BYTES,
    )
