"""Sign up, log in, sessions, the own profile, other users, and one's own bots."""

from typing import Annotated

from litestar import Router, delete, get, patch, post
from litestar.params import FromPath, JSONBody, QueryParameter

from actors.user_rules import profile_of
from protocol.commands import UpdateProfile
from protocol.errors import ProtocolError
from protocol.http import (
    BotToken,
    ChangePassword,
    CreateBot,
    LogIn,
    Me,
    Sessions,
    SignedIn,
    SignUp,
    UpdateMe,
    Users,
)
from protocol.limits import MAX_IDS
from protocol.replies import ProfileList
from server import log_ins
from server.http.context import (
    BEARER,
    SMALL_BODY_BYTES,
    AnyRequest,
    address_of,
    execute,
    note_user,
    services_of,
    signed_in,
)


def signed_in_body(done: log_ins.SignedIn) -> SignedIn:
    """The answer to a new log-in."""
    identity = done.identity
    return SignedIn(
        token=done.token,
        session_id=identity.session_id,
        user=profile_of(identity.user),
        app_id=identity.app_id,
        expires_at_ms=identity.expires_at_ms,
    )


@post("/signup", status_code=201, summary="Make an account and sign in", tags=["Accounts"])
async def sign_up(request: AnyRequest, data: JSONBody[SignUp]) -> SignedIn:
    """Refused where sign-up is closed, the name is taken, or the password is weak."""
    done = await services_of(request).accounts.sign_up(
        data.app_id,
        data.username,
        data.password,
        name=data.name,
        device_name=data.device_name,
        address=address_of(request),
    )
    note_user(request, done.identity.app_id, done.identity.user_id)
    return signed_in_body(done)


@post("/login", status_code=200, summary="Sign in", tags=["Accounts"])
async def log_in(request: AnyRequest, data: JSONBody[LogIn]) -> SignedIn:
    """After ten failures with one name, or fifty from one address, there are a few more each hour."""
    done = await services_of(request).accounts.log_in(
        data.app_id,
        data.username,
        data.password,
        device_name=data.device_name,
        address=address_of(request),
    )
    note_user(request, done.identity.app_id, done.identity.user_id)
    return signed_in_body(done)


@post("/logout", status_code=204, summary="End this log-in", tags=["Accounts"], security=BEARER)
async def log_out(request: AnyRequest) -> None:
    """Its connections are closed. A token that an app's backend signed ends by itself."""
    identity = await signed_in(request)
    await services_of(request).log_ins.log_out(identity)


@get("/sessions", summary="List the own log-ins", tags=["Accounts"], security=BEARER)
async def list_sessions(request: AnyRequest) -> Sessions:
    """This one first, then the latest used."""
    identity = await signed_in(request)
    return Sessions(items=await services_of(request).log_ins.list_sessions(identity))


@delete(
    "/sessions/{session_id:str}", status_code=204, summary="End a log-in", tags=["Accounts"], security=BEARER
)
async def revoke_session(request: AnyRequest, session_id: FromPath[str]) -> None:
    """Its connections are closed."""
    identity = await signed_in(request)
    await services_of(request).log_ins.revoke_session(identity, session_id)


@get("/me", summary="Who am I", tags=["Accounts"], security=BEARER)
async def get_me(request: AnyRequest) -> Me:
    """The profile as it now is."""
    identity = await signed_in(request)
    user = await services_of(request).directory.user_of(identity.app_id, identity.user_id)
    return Me(
        user=profile_of(user),
        app_id=identity.app_id,
        session_id=identity.session_id,
        expires_at_ms=identity.expires_at_ms,
    )


@patch("/me", summary="Change the own profile", tags=["Accounts"], security=BEARER)
async def update_me(request: AnyRequest, data: JSONBody[UpdateMe]) -> Users:
    """Goes the way of the command `update_profile`, so that all devices hear of it."""
    identity = await signed_in(request)
    change = UpdateProfile(
        name=data.name, avatar=data.avatar, language=data.language, time_zone=data.time_zone
    )
    reply = await execute(request, identity, change, ProfileList)
    return Users(items=reply.items)


@post("/me/password", status_code=204, summary="Change the own password", tags=["Accounts"], security=BEARER)
async def change_password(request: AnyRequest, data: JSONBody[ChangePassword]) -> None:
    """Every other log-in ends."""
    identity = await signed_in(request)
    await services_of(request).accounts.change_password(
        identity, data.old_password, data.new_password, address=address_of(request)
    )


@get("/users", summary="Read or find users", tags=["Users"], security=BEARER)
async def get_users(
    request: AnyRequest,
    ids: Annotated[str, QueryParameter(description="User ids, with commas between; at most 500.")] = "",
    prefix: Annotated[
        str, QueryParameter(max_length=64, description="How the user name or the name begins.")
    ] = "",
    limit: Annotated[int, QueryParameter(ge=1, le=50)] = 20,
) -> Users:
    """Either `ids` or `prefix`. Only users of the own app are ever shown."""
    identity = await signed_in(request)
    directory = services_of(request).directory
    if bool(ids) == bool(prefix):
        raise ProtocolError("bad_field", "Give either ids or prefix.")
    if prefix:
        return Users(items=await directory.find_users(identity.app_id, prefix, limit))
    wanted = [user_id for user_id in ids.split(",") if user_id]
    if len(wanted) > MAX_IDS:
        raise ProtocolError("bad_field", f"At most {MAX_IDS} ids at once.")
    return Users(items=await directory.get_users(identity.app_id, wanted))


@get("/bots", summary="List the own bots", tags=["Bots"], security=BEARER)
async def list_bots(request: AnyRequest) -> Users:
    """Those that work."""
    identity = await signed_in(request)
    bots = await services_of(request).directory.list_bots(identity.app_id, owner_id=identity.user_id)
    return Users(items=[profile_of(bot) for bot in bots])


@post("/bots", status_code=201, summary="Make a bot", tags=["Bots"], security=BEARER)
async def create_bot(request: AnyRequest, data: JSONBody[CreateBot]) -> BotToken:
    """The token is shown this once."""
    identity = await signed_in(request)
    bot, token = await services_of(request).accounts.create_bot(
        identity.app_id, data.username, name=data.name, owner=identity.user
    )
    return BotToken(user=profile_of(bot), token=token)


@post(
    "/bots/{user_id:str}/token",
    status_code=200,
    summary="Give a bot a new token",
    tags=["Bots"],
    security=BEARER,
)
async def rotate_bot_token(request: AnyRequest, user_id: FromPath[str]) -> BotToken:
    """The old one ends, and so do its connections."""
    identity = await signed_in(request)
    services = services_of(request)
    bot = await services.directory.bot_of(identity.app_id, user_id, owner_id=identity.user_id)
    return BotToken(user=profile_of(bot), token=await services.accounts.rotate_bot_token(bot))


@delete("/bots/{user_id:str}", status_code=204, summary="Delete a bot", tags=["Bots"], security=BEARER)
async def delete_bot(request: AnyRequest, user_id: FromPath[str]) -> None:
    """What it has written stays; its name is not given again."""
    identity = await signed_in(request)
    services = services_of(request)
    bot = await services.directory.bot_of(identity.app_id, user_id, owner_id=identity.user_id)
    await services.accounts.disable_user(bot)


def account_router() -> Router:
    """Everything that a person does with an account."""
    return Router(
        path="/v1",
        route_handlers=[
            sign_up,
            log_in,
            log_out,
            list_sessions,
            revoke_session,
            get_me,
            update_me,
            change_password,
            get_users,
            list_bots,
            create_bot,
            rotate_bot_token,
            delete_bot,
        ],
        request_max_body_size=SMALL_BODY_BYTES,
    )
