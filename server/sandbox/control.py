"""The sandbox's control API: plain HTTP and JSON on 127.0.0.1, for tests in other processes and languages."""

import math
import re
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, Any, Final, TypeVar

import msgspec
import trio

from server.sandbox.apns import Environment
from server.sandbox.exchange import Answer, Request, json_answer
from server.sandbox.faults import Fault

if TYPE_CHECKING:
    from server.sandbox.sandbox import Sandbox

_MAX_WAIT_S: Final = 300.0
_MAX_LIMIT: Final = 10_000
_DEFAULT_LIMIT: Final = 100
_HOSTS: Final = re.compile(r"(?:127\.0\.0\.1|localhost)(?::[0-9]+)?\Z")
_Body = TypeVar("_Body")


class ApnsDevice(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A device's token; `gone_at_ms` lets it be dead since then."""

    token: str
    bundle_id: str = ""
    environment: Environment = "production"
    gone_at_ms: int | None = None
    reason: str = "Unregistered"


class FcmRegistration(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A registration token, of one project or (empty) of any."""

    token: str
    project_id: str = ""
    is_gone: bool = False


class Subscribe(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A browser subscribes."""

    application_server_key: str = ""


class Endpoint(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A subscription's endpoint."""

    endpoint: str
    is_online: bool | None = None
    is_gone: bool = False


class Phone(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A phone number that answers STOP, or START."""

    number: str
    is_stopped: bool = True


class Control:
    """Every call of the Python object that makes sense from outside, as one route each."""

    def __init__(self, sandbox: "Sandbox") -> None:
        self._sandbox = sandbox
        self._routes: tuple[tuple[str, re.Pattern[str], _Route], ...] = tuple(
            (method, re.compile(pattern + r"\Z"), route)
            for method, pattern, route in (
                ("GET", r"/", self._home),
                ("GET", r"/v1/configs", self._configs),
                ("GET", r"/v1/ca\.pem", self._ca),
                ("GET", r"/v1/counts", self._counts),
                ("GET", r"/v1/deliveries/([a-z]+)", self._deliveries),
                ("GET", r"/v1/doubles/([a-z]+)", self._doubles),
                ("GET", r"/v1/arrivals/([a-z]+)", self._arrivals),
                ("GET", r"/v1/receipts", self._receipts),
                ("GET", r"/v1/faults", self._faults),
                ("POST", r"/v1/faults", self._inject),
                ("DELETE", r"/v1/faults", self._clear_faults),
                ("DELETE", r"/v1/faults/([0-9]{1,9})", self._withdraw),
                ("GET", r"/v1/holds/([a-z]+)", self._held),
                ("DELETE", r"/v1/holds(?:/([a-z]+))?", self._release),
                ("PUT", r"/v1/outages/([a-z]+)", self._begin_outage),
                ("DELETE", r"/v1/outages/([a-z]+)", self._end_outage),
                ("PUT", r"/v1/apns/devices", self._device),
                ("PUT", r"/v1/fcm/registrations", self._registration),
                ("POST", r"/v1/webpush/subscriptions", self._subscribe),
                ("PUT", r"/v1/webpush/subscriptions", self._change_subscription),
                ("PUT", r"/v1/sms/phones", self._phone),
                ("POST", r"/v1/reset", self._reset),
            )
        )

    async def answer(self, request: Request) -> Answer:
        """Answer one call. What is wrong with it is told in words, as `{"error": …}`."""
        # A page in a browser of this machine could else reach it under a name of its own.
        if not _HOSTS.match(request.headers.get("host", "")):
            return json_answer(403, {"error": "Ask for 127.0.0.1 or localhost."})
        for method, pattern, route in self._routes:
            match = pattern.match(request.path)
            if match is not None and method == request.method:
                try:
                    answer = route(request, *match.groups())
                    return answer if isinstance(answer, Answer) else await answer
                except (ValueError, msgspec.MsgspecError) as exc:
                    return json_answer(400, {"error": str(exc)})
                except KeyError as exc:
                    return json_answer(404, {"error": f"There is no {exc.args[0]!r}."})
        return json_answer(404, {"error": f"There is no {request.method} {request.path}."})

    # -- looking ------------------------------------------------------------------------------------

    def _home(self, _: Request) -> Answer:
        return json_answer(200, {"addresses": self._sandbox.addresses, "counts": self._sandbox.counts()})

    def _configs(self, _: Request) -> Answer:
        return json_answer(200, self._sandbox.configs())

    def _ca(self, _: Request) -> Answer:
        headers = [("content-type", "application/x-pem-file")]
        return Answer(status=200, headers=headers, body=self._sandbox.ca_pem.encode())

    def _counts(self, _: Request) -> Answer:
        return json_answer(200, self._sandbox.counts())

    async def _deliveries(self, request: Request, channel: str) -> Answer:
        """`count` and `timeout_s` wait; `after_seq` and `limit` page."""
        query = request.query
        count = _number(query, "count", 0)
        with trio.move_on_after(_timeout_s(query)) as scope:
            await self._sandbox.wait_for(channel, int(count))
        after_seq = _number(query, "after_seq", 0)
        limit = min(int(_number(query, "limit", _DEFAULT_LIMIT)), _MAX_LIMIT)
        found = [one for one in self._sandbox.deliveries(channel) if one.seq > after_seq]
        body = {
            "count": self._sandbox.count(channel),
            "is_complete": not scope.cancelled_caught,
            "deliveries": found[:limit],
        }
        return json_answer(200, body)

    def _doubles(self, _: Request, channel: str) -> Answer:
        return json_answer(200, self._sandbox.doubles(channel))

    def _arrivals(self, _: Request, channel: str) -> Answer:
        """All at once, as [identity, address, at_ms]; empty unless only `ids` are kept."""
        return json_answer(200, self._sandbox.ledger.arrivals(channel))

    def _receipts(self, _: Request) -> Answer:
        return json_answer(200, list(self._sandbox.postman.posted))

    # -- faults -------------------------------------------------------------------------------------

    def _faults(self, _: Request) -> Answer:
        return json_answer(200, self._sandbox.faults.rules())

    def _inject(self, request: Request) -> Answer:
        return json_answer(201, {"id": self._sandbox.inject(_body(request, Fault))})

    def _clear_faults(self, _: Request) -> Answer:
        self._sandbox.faults.clear()
        return Answer(status=204)

    def _withdraw(self, _: Request, fault_id: str) -> Answer:
        if not self._sandbox.withdraw(int(fault_id)):
            raise KeyError(fault_id)
        return Answer(status=204)

    async def _held(self, request: Request, channel: str) -> Answer:
        """`count` and `timeout_s` wait until so many answers are held at once."""
        with trio.move_on_after(_timeout_s(request.query)) as scope:
            await self._sandbox.wait_held(channel, int(_number(request.query, "count", 0)))
        body = {"count": self._sandbox.held_count(channel), "is_complete": not scope.cancelled_caught}
        return json_answer(200, body)

    def _release(self, _: Request, channel: str | None) -> Answer:
        return json_answer(200, {"count": self._sandbox.release(channel or "")})

    def _begin_outage(self, _: Request, channel: str) -> Answer:
        self._sandbox.begin_outage(channel)
        return Answer(status=204)

    def _end_outage(self, _: Request, channel: str) -> Answer:
        self._sandbox.end_outage(channel)
        return Answer(status=204)

    def _reset(self, _: Request) -> Answer:
        self._sandbox.reset()
        return Answer(status=204)

    # -- devices ------------------------------------------------------------------------------------

    def _device(self, request: Request) -> Answer:
        device = _body(request, ApnsDevice)
        self._sandbox.apns.register(device.token, bundle_id=device.bundle_id, environment=device.environment)
        if device.gone_at_ms is not None:
            self._sandbox.apns.unregister(device.token, at_ms=device.gone_at_ms, reason=device.reason)
        return Answer(status=204)

    def _registration(self, request: Request) -> Answer:
        registration = _body(request, FcmRegistration)
        if registration.is_gone:
            self._sandbox.fcm.unregister(registration.token)
        else:
            self._sandbox.fcm.register(registration.token, project_id=registration.project_id)
        return Answer(status=204)

    def _subscribe(self, request: Request) -> Answer:
        key = _body(request, Subscribe).application_server_key
        return json_answer(201, self._sandbox.webpush.subscribe(key).as_json())

    def _change_subscription(self, request: Request) -> Answer:
        change = _body(request, Endpoint)
        subscription = self._sandbox.webpush.find(change.endpoint)
        if subscription is None:
            raise KeyError(change.endpoint)
        if change.is_gone:
            self._sandbox.webpush.unsubscribe(change.endpoint)
        elif change.is_online:
            self._sandbox.webpush.go_online(change.endpoint)
        elif change.is_online is False:
            subscription.is_online = False
        return Answer(status=204)

    def _phone(self, request: Request) -> Answer:
        phone = _body(request, Phone)
        if phone.is_stopped:
            self._sandbox.twilio.stop(phone.number)
        else:
            self._sandbox.twilio.start(phone.number)
        return Answer(status=204)


_Route = Callable[..., Answer | Awaitable[Answer]]


def _body(request: Request, kind: type[_Body]) -> _Body:
    return msgspec.json.decode(request.body or b"{}", type=kind)


def _timeout_s(query: dict[str, Any]) -> float:
    return min(_number(query, "timeout_s", 10), _MAX_WAIT_S)


def _number(query: dict[str, Any], name: str, default: float) -> float:
    value = float(query.get(name, default))
    if not math.isfinite(value) or value < 0:
        raise ValueError(f"{name} is a number from 0 on.")
    return value
