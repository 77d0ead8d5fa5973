"""Who asks is known before anything of the request's body is: strangers do not learn what is wrong with it.

Which way a handler wants to know it stands in its `security`, by which the API's description tells it, too.
"""

from server.http.app_auth import APP_AUTH, app_of
from server.http.context import APP_KEY, BEARER, AnyRequest, app_key_of, signed_in


async def before_request(request: AnyRequest) -> None:
    """Called for each request whose handler was found; handlers are told what it finds without a second look.

    Handlers that may be asked in several ways, or by a stranger, see to it by themselves.
    Raises: HubbubError, as app_of, app_key_of and signed_in.
    """
    security = request.route_handler.security
    if security == APP_AUTH:
        await app_of(request)
    elif security == APP_KEY:
        await app_key_of(request)
    elif security == BEARER:
        await signed_in(request)
