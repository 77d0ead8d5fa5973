"""For the backend of an app: groups of users who can be notified by one name."""

from typing import Annotated, Final

from litestar import Router, get, post
from litestar.params import FromPath, JSONBody, QueryParameter

from protocol.errors import ProtocolError, Refused
from protocol.http_notify import GroupBody, GroupChanged, GroupMembers, Groups
from server.http.app_auth import APP_AUTH, app_of
from server.http.callers import STRICT
from server.http.context import AnyRequest, notify_of, services_of

TAGS: Final = ["Notification setup"]
BODY_BYTES: Final = 1024 * 1024  # 10,000 users who join, and as many who leave


@post(
    "/groups/{name:str}",
    status_code=200,
    summary="Change a group",
    tags=TAGS,
    security=APP_AUTH,
    request_max_body_size=BODY_BYTES,
)
async def change_group(request: AnyRequest, name: FromPath[str], data: JSONBody[GroupBody]) -> GroupChanged:
    """Users who can be notified by the group's name. A group without users does not exist."""
    app, _ = await app_of(request)
    if not 1 <= len(name) <= 64 or name == "*":
        raise ProtocolError("bad_field", "A group's name has 1 to 64 characters, and is not *.")
    added = await notify_of(request).desk.change_group(app.app_id, name, add=data.add, remove=data.remove)
    return GroupChanged(added=added)


@get("/groups", summary="List groups", tags=TAGS, security=APP_AUTH)
async def list_groups(
    request: AnyRequest,
    after: Annotated[str, QueryParameter(max_length=64)] = "",
    limit: Annotated[int, QueryParameter(ge=1, le=1_000)] = 100,
) -> Groups:
    """By name."""
    app, _ = await app_of(request)
    store = services_of(request).store
    names = await store.notify.group_names(app.app_id, after=after, limit=limit + 1)
    return Groups(items=names[:limit], next=names[limit - 1] if len(names) > limit else "")


@get("/groups/{name:str}", summary="Read a group's users", tags=TAGS, security=APP_AUTH)
async def group_members(
    request: AnyRequest,
    name: FromPath[str],
    after: Annotated[str, QueryParameter(max_length=64)] = "",
    limit: Annotated[int, QueryParameter(ge=1, le=1_000)] = 100,
) -> GroupMembers:
    """Those who would be notified by its name."""
    app, _ = await app_of(request)
    store = services_of(request).store
    users = await store.notify.group_page(app.app_id, name, after=after, limit=limit + 1)
    if not users and not after:
        raise Refused("group_not_found")
    return GroupMembers(user_ids=users[:limit], next=users[limit - 1] if len(users) > limit else "")


def notify_group_router() -> Router:
    """All about groups."""
    return Router(
        path="/v1/app",
        opt={STRICT: True},
        route_handlers=[list_groups, group_members, change_group],
    )
