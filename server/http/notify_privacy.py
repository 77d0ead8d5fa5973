"""For the backend of an app: what data protection laws ask for, of one user."""

from typing import Annotated, Final, cast

import msgspec
from litestar import Router, delete, get
from litestar.params import FromPath, QueryParameter

from actors.messages import Ask
from actors.notify.address import notify_address
from actors.notify.messages import EraseUser
from protocol import notify_commands, notify_replies
from protocol.http_notify import AddressBody, ErasureInfo, Erasures, UserNotifyData
from protocol.notify_records import NotifyDeviceRow
from protocol.notify_types import Channel
from server.http.app_auth import APP_AUTH, app_of
from server.http.callers import STRICT
from server.http.context import AnyRequest, notify_of, services_of
from server.http.cursors import MAX_CHARS, Number, Word, read_cursor, write_cursor
from server.notify.explanation import told_of
from server.notify_service import item_of

USER_TAGS: Final = ["Notifications of a user"]
ASK_TIMEOUT_S: Final = 15.0

_keys = msgspec.json.Decoder(dict[str, str]).decode
_counts = msgspec.json.Decoder(dict[str, int]).decode


async def _ask(request: AnyRequest, user_id: str, message: object) -> object:
    return await notify_of(request).router.ask(notify_address(user_id), message, timeout_s=ASK_TIMEOUT_S)


@get(
    "/users/{user_id:str}/notification_data",
    summary="Export a user's data",
    tags=USER_TAGS,
    security=APP_AUTH,
)
async def export_user(request: AnyRequest, user_id: FromPath[str]) -> UserNotifyData:
    """All that is known for notifying this user; the newest 10,000 notifications."""
    app, _ = await app_of(request)
    services = services_of(request)
    await services.directory.user_of(app.app_id, user_id)
    wishes = await _ask(request, user_id, Ask(user_id, app.app_id, notify_commands.GetPreferences()))
    assert isinstance(wishes, notify_replies.PreferencesInfo)
    store = services.store
    devices = await store.find(NotifyDeviceRow, {"user_id": user_id})
    rows = await store.notify.history(user_id, before=0, limit=10_000)
    centre, _unread = await store.notify.centre(user_id, before=0, limit=10_000, unread_only=False)
    return UserNotifyData(
        user_id=user_id,
        preferences=wishes.preferences,
        consents=wishes.consents,
        devices=[
            AddressBody(
                channel=cast(Channel, row.channel),
                address=row.address,
                keys=_keys(row.keys) if row.keys else {},
                name=row.name,
            )
            for row in devices
        ],
        notifications=await told_of(store, rows),
        centre=[item_of(row) for row in centre],
    )


@delete(
    "/users/{user_id:str}/notification_data",
    status_code=200,
    summary="Erase a user's data",
    tags=USER_TAGS,
    security=APP_AUTH,
)
async def erase_user(
    request: AnyRequest,
    user_id: FromPath[str],
    purpose: Annotated[str, QueryParameter(max_length=64)] = "",
) -> notify_replies.Erased:
    """Of one purpose, or all that is known for notifying this user. The receipt is kept."""
    app, _ = await app_of(request)
    await services_of(request).directory.user_of(app.app_id, user_id)
    answer = await _ask(request, user_id, EraseUser(user_id, app.app_id, purpose, "requested"))
    return cast(notify_replies.Erased, answer)


@get(
    "/users/{user_id:str}/erasures",
    summary="Read the receipts of a user's erasures",
    tags=USER_TAGS,
    security=APP_AUTH,
)
async def erasures(
    request: AnyRequest,
    user_id: FromPath[str],
    after: Annotated[str, QueryParameter(max_length=MAX_CHARS)] = "",
    limit: Annotated[int, QueryParameter(ge=1, le=500)] = 100,
) -> Erasures:
    """What was erased on request, or with a consent. Also of a user who is not there any more."""
    app, _ = await app_of(request)
    services = services_of(request)
    place = read_cursor(after, tuple[Number, Word]) if after else (0, "")
    rows = await services.store.notify.erasures_page(app.app_id, user_id, after=place, limit=limit + 1)
    last = rows[limit - 1] if len(rows) > limit else None
    if not rows:
        await services.directory.user_of(app.app_id, user_id)  # a wrong id is told
    return Erasures(
        items=[
            ErasureInfo(
                erasure_id=row.erasure_id,
                at_ms=row.at_ms,
                purpose=row.purpose,
                reason=row.reason,
                counts=_counts(row.counts),
            )
            for row in rows[:limit]
        ],
        next=write_cursor(last.at_ms, last.erasure_id) if last else "",
    )


def notify_privacy_router() -> Router:
    """Export, erasure, and its receipts."""
    return Router(path="/v1/app", opt={STRICT: True}, route_handlers=[export_user, erase_user, erasures])
