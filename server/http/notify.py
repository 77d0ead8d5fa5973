"""For the backend of an app: notify, and follow what became of it."""

from collections.abc import AsyncIterator
from typing import Annotated, Final, cast

import msgspec
from litestar import Router, delete, get, post
from litestar.params import FromPath, HeaderParameter, JSONBody, QueryParameter
from litestar.response import Stream

from actors.notify.address import owner_of
from actors.notify.keeper import ledger_body
from actors.notify.messages import Redrive
from protocol.errors import ProtocolError, Refused
from protocol.http_notify import (
    DeadInfo,
    DeadLetters,
    Explanation,
    History,
    NotificationInfo,
    RedriveBody,
    RequestInfo,
    Requests,
    RequestState,
)
from protocol.limits import MAX_SAFE_INTEGER
from protocol.notify_content import MAX_KEY_CHARS, NotifyRequest
from protocol.notify_ids import partition_of_id
from protocol.notify_records import (
    PARTITION_COUNT,
    DeadDelivery,
    RequestRow,
)
from protocol.notify_replies import NotifyAccepted, Redriven, RequestCancelled
from protocol.notify_types import Channel
from server.http.app_auth import APP_AUTH, BY_KEY, app_of
from server.http.callers import STRICT
from server.http.context import AnyRequest, notify_of, services_of
from server.http.cursors import MAX_CHARS, Number, Word, read_cursor, write_cursor
from server.http.signatures import spend
from server.notify.app_export import SPAN
from server.notify.explanation import explain_notification, row_of, told_of
from storage.store import Store

TAGS: Final = ["Notifications"]
REQUEST_BODY_BYTES: Final = 256 * 1024  # a thousand ids of users
EXPORT_PAGE: Final = 1_000
ASK_TIMEOUT_S: Final = 15.0

_Key = Annotated[
    str,
    HeaderParameter(
        name="Idempotency-Key",
        description="Instead of `idempotency_key`: the same key gets the first answer.",
    ),
]
_encode = msgspec.json.Encoder().encode


class _Asked(msgspec.Struct, frozen=True):
    """What of a stored request is shown, whatever else it holds."""

    type: str
    group: str = ""
    cron: str = ""
    time_zone: str = ""
    send_at: str = ""


_asked = msgspec.json.Decoder(_Asked).decode


@post(
    "/v1/notifications",
    status_code=202,
    summary="Notify users",
    tags=TAGS,
    security=APP_AUTH,
    request_max_body_size=REQUEST_BODY_BYTES,
    opt={BY_KEY: True},
)
async def notify(request: AnyRequest, data: JSONBody[NotifyRequest], key: _Key = "") -> NotifyAccepted:
    """Answered once it is stored for good. `explain` tells later what every stage decided."""
    app, signature = await app_of(request)
    if len(key) > MAX_KEY_CHARS:
        raise ProtocolError("bad_field", f"Idempotency-Key has at most {MAX_KEY_CHARS} characters.")
    if not data.idempotency_key:
        if signature and key:  # the header is not signed: with another key a replay would be a new request
            services = services_of(request)
            await spend(services.store, app.app_key, signature, services.now_ms())
        data = msgspec.structs.replace(data, idempotency_key=key or signature[-MAX_KEY_CHARS:])
    return await notify_of(request).entry.notify(app.app_id, data)


@get("/v1/notifications/{notification_id:int}", summary="Read a notification", tags=TAGS, security=APP_AUTH)
async def get_notification(request: AnyRequest, notification_id: FromPath[int]) -> NotificationInfo:
    """As it now is."""
    app, _ = await app_of(request)
    store = services_of(request).store
    (told,) = await told_of(store, [await row_of(store, app.app_id, notification_id)])
    return told


@get(
    "/v1/notifications/{notification_id:int}/explain",
    summary="Explain a notification",
    tags=TAGS,
    security=APP_AUTH,
)
async def explain(request: AnyRequest, notification_id: FromPath[int]) -> Explanation:
    """Why did, or didn't, the user get this: every stage with its time, rule and value."""
    app, _ = await app_of(request)
    return await explain_notification(services_of(request).store, app.app_id, notification_id)


@get("/v1/notifications/requests", summary="List larger requests", tags=TAGS, security=APP_AUTH)
async def list_requests(
    request: AnyRequest,
    in_state: Annotated[RequestState | None, QueryParameter(name="state", description="Those alone.")] = None,
    before: Annotated[str, QueryParameter(max_length=MAX_CHARS)] = "",
    limit: Annotated[int, QueryParameter(ge=1, le=500)] = 100,
) -> Requests:
    """To groups and to many users, recurring ones too; the newest come first."""
    app, _ = await app_of(request)
    place = read_cursor(before, tuple[Number, Word]) if before else None
    rows = await services_of(request).store.notify.requests_page(
        app.app_id, in_state or "", before=place, limit=limit + 1
    )
    items = [_request_of(row) for row in rows[:limit]]
    last = items[-1] if len(rows) > limit else None
    return Requests(items=items, next=write_cursor(last.created_at_ms, last.request_id) if last else "")


@get("/v1/notifications/requests/{request_id:str}", summary="Read a request", tags=TAGS, security=APP_AUTH)
async def get_request(request: AnyRequest, request_id: FromPath[str]) -> RequestInfo:
    """How far it has come."""
    app, _ = await app_of(request)
    row = await services_of(request).store.get(RequestRow, request_id)
    if row is None or row.app_id != app.app_id:
        raise Refused("request_not_found")
    return _request_of(row)


@delete(
    "/v1/notifications/requests/{request_id:str}",
    status_code=200,
    summary="Cancel a request",
    tags=TAGS,
    security=APP_AUTH,
)
async def cancel_request(request: AnyRequest, request_id: FromPath[str]) -> RequestCancelled:
    """Of any size, by the id that its answer told; safe to repeat.

    What is held or waits is not sent any more. The counts tell for how many that was in time.
    """
    app, _ = await app_of(request)
    return await notify_of(request).entry.cancel(app.app_id, request_id)


@get(
    "/v1/app/users/{user_id:str}/notifications",
    summary="Read a user's history",
    tags=TAGS,
    security=APP_AUTH,
)
async def history(
    request: AnyRequest,
    user_id: FromPath[str],
    before: Annotated[int, QueryParameter(ge=0, le=MAX_SAFE_INTEGER)] = 0,
    limit: Annotated[int, QueryParameter(ge=1, le=500)] = 100,
) -> History:
    """Everything that the user was, or was not, notified of."""
    app, _ = await app_of(request)
    services = services_of(request)
    await services.directory.user_of(app.app_id, user_id)
    rows = await services.store.notify.history(user_id, before=before, limit=limit + 1)
    items = await told_of(services.store, rows[:limit])
    return History(items=items, next=items[-1].notification_id if len(rows) > limit else 0)


@get("/v1/app/notify/dead_letters", summary="List dead deliveries", tags=TAGS, security=APP_AUTH)
async def dead_letters(
    request: AnyRequest,
    after: Annotated[str, QueryParameter(max_length=MAX_CHARS)] = "",
    limit: Annotated[int, QueryParameter(ge=1, le=500)] = 100,
) -> DeadLetters:
    """What was given up, and why."""
    app, _ = await app_of(request)
    place = read_cursor(after, tuple[Number, Number, Number]) if after else (0, 0, 0)
    rows = await services_of(request).store.notify.dead_page(app.app_id, after=place, limit=limit + 1)
    items = [
        DeadInfo(
            notification_id=row.notification_id,
            number=row.number,
            channel=cast(Channel, row.channel),
            provider_id=row.provider_id,
            code=row.code,
            detail=row.detail,
            at_ms=row.at_ms,
        )
        for row in rows[:limit]
    ]
    last = items[-1] if len(rows) > limit else None
    goes_on = write_cursor(last.at_ms, last.notification_id, last.number) if last else ""
    return DeadLetters(items=items, next=goes_on)


@post(
    "/v1/app/notify/dead_letters/redrive",
    status_code=202,
    summary="Try dead deliveries again",
    tags=TAGS,
    security=APP_AUTH,
)
async def redrive(request: AnyRequest, data: JSONBody[RedriveBody]) -> Redriven:
    """At most 1,000 at a time; what is mended is then sent as if it were new."""
    app, _ = await app_of(request)
    check_redrive(data)
    services = services_of(request)
    wanted = list(dict.fromkeys(data.deliveries))
    if not wanted:
        where: dict[str, str | int | None] = {"app_id": app.app_id}
        if data.channel:
            where["channel"] = data.channel
        if data.code:
            where["code"] = data.code
        rows = await services.store.find(DeadDelivery, where, order_by="at_ms", limit=1_000)
        wanted = [(row.notification_id, row.number) for row in rows]
    parts: dict[int, list[tuple[int, int]]] = {}
    for delivery in wanted:
        parts.setdefault(partition_of_id(delivery[0]), []).append(delivery)
    count = 0
    for deliveries in parts.values():
        answer = await notify_of(request).router.ask(
            owner_of(deliveries[0][0]),
            Redrive(app.app_id, tuple(deliveries)),
            timeout_s=ASK_TIMEOUT_S,
        )
        assert isinstance(answer, Redriven)
        count += answer.count
    notify_of(request).dashboard.changed(app.app_id)
    return Redriven(count=count)


def check_redrive(body: RedriveBody) -> None:
    """See that a body says in one way what to try again: nothing is not everything.

    Raises: ProtocolError(bad_field).
    """
    ways = [bool(body.deliveries), body.channel is not None or bool(body.code), body.all]
    if sum(ways) != 1:
        raise ProtocolError(
            "bad_field", 'Name what to try again by deliveries; by channel, code or both; or by "all": true.'
        )


@get(
    "/v1/app/notify/events",
    summary="Export what has happened, as NDJSON",
    tags=TAGS,
    security=APP_AUTH,
    media_type="application/x-ndjson",
)
async def events(
    request: AnyRequest,
    after: Annotated[
        str, QueryParameter(max_length=400, description="`cursor` of the last line; empty: from the start.")
    ] = "",
    limit: Annotated[int, QueryParameter(ge=1, le=100_000)] = 10_000,
) -> Stream:
    """Each line is one ledger entry: cursor, notification_id, user_id, kind, at_ms, decisions."""
    app, _ = await app_of(request)
    store = services_of(request).store
    places = read_places(after)
    return Stream(_exported(store, app.app_id, places, limit), media_type="application/x-ndjson")


def read_places(cursor: str) -> list[int]:
    """Where each partition's ledger goes on. Raises: Refused(bad_cursor)."""
    if not cursor:
        return [0] * PARTITION_COUNT
    try:
        places = [int(part) for part in cursor.split(".")]
    except ValueError:
        raise Refused("bad_cursor") from None
    if len(places) != PARTITION_COUNT or not 0 <= min(places) <= max(places) <= MAX_SAFE_INTEGER:
        raise Refused("bad_cursor")
    return places


async def _exported(store: Store, app_id: str, places: list[int], limit: int) -> AsyncIterator[bytes]:
    """Lines of the app's entries. A ledger holds others' too, and no read goes through more than SPAN."""
    left = limit
    for partition in range(PARTITION_COUNT):
        while left > 0:
            after, most = places[partition], min(EXPORT_PAGE, left)
            upto = await store.notify.ledger_step(partition, after=after, rows=SPAN)
            if not upto:
                break
            page = await store.notify.exported(app_id, partition, after=after, upto=upto, limit=most)
            lines = []
            for entry in page:
                places[partition] = entry.seq
                lines.append(
                    _encode(
                        {
                            "cursor": ".".join(map(str, places)),
                            "notification_id": entry.notification_id,
                            "user_id": entry.user_id,
                            "kind": entry.kind,
                            "at_ms": entry.at_ms,
                            "decisions": ledger_body(entry.body).d if entry.body != "{}" else [],
                        }
                    )
                )
            if len(page) < most:
                places[partition] = upto
            left -= len(page)
            if lines:
                yield b"\n".join(lines) + b"\n"


def _request_of(row: RequestRow) -> RequestInfo:
    asked = msgspec.structs.asdict(_asked(row.body))
    names = [name for name in RequestInfo.__struct_fields__ if name not in asked]
    return RequestInfo(**asked, **{name: getattr(row, name) for name in names})  # the same names


def notify_router() -> Router:
    """Everything about notifications that are sent."""
    return Router(
        path="/",
        opt={STRICT: True},
        route_handlers=[
            notify,
            get_notification,
            explain,
            list_requests,
            get_request,
            cancel_request,
            history,
            dead_letters,
            redrive,
            events,
        ],
    )
