"""For the backend of an app: import users, addresses and groups from a file."""

from collections.abc import AsyncIterator
from typing import Final

import msgspec
from litestar import Router, post
from litestar.params import FromPath
from litestar.response import Stream

from protocol import replies
from protocol.commands import UpdateProfile
from protocol.errors import ProtocolError
from protocol.records import User
from server.http.app_auth import APP_AUTH, app_of
from server.http.callers import STRICT
from server.http.context import AnyRequest, execute, notify_of, services_of
from server.identity import Identity
from server.notify.import_lines import Format, open_file
from server.notify.importing import Importer, Kind, Progress

MAX_BYTES: Final = 128 * 1024 * 1024  # a million lines
_encode = msgspec.json.Encoder().encode


@post(
    "/v1/app/import/{kind:str}",
    status_code=200,
    summary="Import users, addresses or groups",
    tags=["Notification setup"],
    security=APP_AUTH,
    request_max_body_size=MAX_BYTES,
    media_type="application/x-ndjson",
)
async def import_file(request: AnyRequest, kind: FromPath[str]) -> Stream:
    """The body is CSV (`text/csv`) or NDJSON; the answer, line by line, how far it has come. Safe to repeat.

    A user who is there already gets the name, language and time zone of the line, where it has them. Whoever
    had a device's address before has it no more.

    users: external_id, username, name, language, time_zone, email, phone. addresses: external_id or user_id,
    channel, address, name, p256dh, auth. groups: group, external_id or user_id. A line that is wrong is told
    with its number in the file, and the others are taken.
    """
    app, _ = await app_of(request)
    services = services_of(request)
    try:
        wanted = msgspec.convert(kind, Kind)
    except msgspec.ValidationError:
        raise ProtocolError("bad_field", "What can be imported is users, addresses or groups.") from None
    form: Format = "csv" if "csv" in request.headers.get("content-type", "") else "ndjson"
    file = open_file(await request.body(), form)
    core = notify_of(request)

    async def update(user: User, change: UpdateProfile) -> None:
        session_id = f"a_{app.app_key}"
        identity = Identity(
            user=user, app_id=app.app_id, session_id=session_id, kind="app_key", app_key=app.app_key
        )
        await execute(request, identity, change, replies.ProfileList)

    importer = Importer(
        services.store,
        services.directory,
        core.desk,
        core.router,
        take_away=services.take_away,
        update=update,
    )
    return Stream(_told(importer.run(app.app_id, wanted, file)), media_type="application/x-ndjson")


async def _told(progress: AsyncIterator[Progress]) -> AsyncIterator[bytes]:
    async for report in progress:
        yield _encode(report) + b"\n"


def notify_import_router() -> Router:
    """Imports."""
    return Router(path="/", opt={STRICT: True}, route_handlers=[import_file])
