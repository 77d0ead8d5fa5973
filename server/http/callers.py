"""Who asks is known before anything of the request's body is: strangers do not learn what is wrong with it.

Which way a handler wants to know it stands in its `security`, by which the API's description tells it, too.
"""

from typing import Final

from litestar.enums import ParamType
from litestar.exceptions import SerializationException
from litestar.handlers import HTTPRouteHandler
from litestar.params import ParameterKwarg

from server.http.app_auth import APP_AUTH, app_of
from server.http.context import BEARER, AnyRequest, signed_in
from server.http.known_fields import check_known, check_parameters

STRICT: Final = "has_known_fields_only"  # opt of routers that take no unknown field, and no such parameter


async def before_request(request: AnyRequest) -> None:
    """Called for each request whose handler was found; handlers are told what it finds without a second look.

    Handlers that may be asked in several ways, or by a stranger, see to it by themselves.
    Raises: HubbubError, as app_of and signed_in; ProtocolError(bad_field).
    """
    security = request.route_handler.security
    if security == APP_AUTH:
        await app_of(request)
    elif security == BEARER:
        await signed_in(request)
    if request.route_handler.opt.get(STRICT):
        if request.scope["query_string"]:
            check_parameters(_parameters_of(request.route_handler), request.query_params.keys())
        await _check_fields(request)


def _parameters_of(handler: HTTPRouteHandler) -> frozenset[str]:
    """The names of a handler's query parameters."""
    return frozenset(
        field.kwarg_definition.name or name
        for name, field in handler.parsed_fn_signature.parameters.items()
        if isinstance(field.kwarg_definition, ParameterKwarg)
        and field.kwarg_definition.param_type is ParamType.QUERY
    )


async def _check_fields(request: AnyRequest) -> None:
    """Raises: ProtocolError(bad_field), where the body has a field that its type has not."""
    data = request.route_handler.parsed_data_field
    if data is None:
        return
    try:
        value = await request.json()  # kept for the framework, which makes the Struct of it
    except SerializationException:
        return  # no JSON at all: the framework finds that too, and says so
    check_known(data.annotation, value)
