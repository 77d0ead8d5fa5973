"""Carry out single commands of the protocol over HTTP, for who needs no connection."""

import msgspec
from litestar import Response, post

from protocol import replies
from protocol.codec import Wire, decode_command, encode_payload
from protocol.limits import MAX_FRAME_BYTES
from server.http.context import BEARER, AnyRequest, services_of, signed_in
from server.http.errors import error_of
from server.identity import Identity


async def carry_out(request: AnyRequest, identity: Identity) -> Response[bytes]:
    """Decode the body as a command, carry it out, and answer with its reply."""
    services = services_of(request)
    command = decode_command(await request.body(), Wire.JSON_WS)
    services.charge_creation(identity.user_id, command)
    reply = await services.execute(identity, command)
    if isinstance(reply, replies.Error):
        raise error_of(reply)
    reply = msgspec.structs.replace(reply, id=command.id)
    return Response(encode_payload(reply, Wire.JSON_WS), media_type="application/json")


@post(
    "/v1/commands",
    status_code=200,
    summary="Carry out a command",
    tags=["Commands"],
    security=BEARER,
    operation_id="command",
    request_max_body_size=MAX_FRAME_BYTES,
)
async def command(request: AnyRequest) -> Response[bytes]:
    """The body is any command of the protocol that needs no connection; the answer is its reply.

    A reply of type `error` comes as an error answer instead.
    """
    return await carry_out(request, await signed_in(request))
