"""Where requests to notify come in, by HTTP, from bots, and from hubbub itself: checked, then handed on.

What is refused here has left no trace. What is accepted is stored: a request to some users when all of their
partitions have stored it, a larger one when the app's actor has.
"""

import re
from collections.abc import Callable, Sequence
from hashlib import blake2b
from typing import Final

import msgspec
import trio

from actors.notify.address import app_address, notify_address, partition_address, partition_of
from actors.notify.messages import CancelRequest, Notify, RunRequest
from actors.notify.ports import Setup
from actors.notify.recurrence import check_cron
from actors.notify.send_at import send_at_ms
from actors.reply import Reply
from actors.router import Router
from protocol.errors import HubbubError, ProtocolError, Refused
from protocol.notify_content import NotifyRequest, content_of, kept_of
from protocol.notify_replies import Notified, NotifyAccepted, RequestCancelled
from protocol.notify_types import MAX_DATA_BYTES, MAX_TEXT_BYTES, PUSH_CHANNELS, Channel
from server import auth
from server.notify import first_answer
from server.notify.app_setup import AppSetup
from server.notify.renderer import NotifyRenderer
from server.notify.request_check import check_meaning
from server.notify.setups import SetupCache
from server.notify.tap_address import is_picture, leads_safely
from storage.store import Store

ASK_TIMEOUT_S: Final = 15.0
MAX_DIRECT: Final = 500  # users who are asked for at once; more go by the app's actor
# What may have been set up on another node a moment ago.
_MAY_BE_NEW: Final = frozenset(
    {"type_not_found", "template_not_found", "template_variable_unknown", "experiment_not_found"}
)
_CONTROL: Final = re.compile(r"[\x00-\x09\x0b-\x1f]")
_encode = msgspec.json.Encoder(order="sorted").encode


class NotifyEntry:
    """Take requests for an app."""

    def __init__(
        self,
        store: Store,
        router: Router,
        setups: SetupCache,
        renderer: NotifyRenderer,
        *,
        now_ms: Callable[[], int],
    ) -> None:
        self._store = store
        self._router = router
        self._setups = setups
        self._renderer = renderer
        self._now_ms = now_ms

    async def notify(self, app_id: str, request: NotifyRequest) -> NotifyAccepted:
        """Check, store, and carry out a request. Raises: HubbubError; then nothing is sent."""
        digest = blake2b(_encode(request), digest_size=12).hexdigest()
        try:
            setup = await self._checked(app_id, request)
        except (Refused, ProtocolError):
            first = await self._first_answer(app_id, request, digest) if request.idempotency_key else None
            if first is None:
                raise
            return first
        request = await self._resolved(app_id, request)
        key = request.idempotency_key
        request_id = _request_id(app_id, request) if key else auth.new_id("rq")
        if _is_larger(request):
            message = RunRequest(request_id, kept_of(request), digest, setup.version)
            answer = await self._router.ask(app_address(app_id), message, timeout_s=ASK_TIMEOUT_S)
            assert isinstance(answer, NotifyAccepted)
            return answer
        return await self._notify_users(app_id, request, request_id, key, digest, setup.version)

    async def _checked(self, app_id: str, request: NotifyRequest) -> AppSetup:
        """The setup by which a request is right. Raises: HubbubError."""
        setup = await self._setups.load(app_id)
        try:
            await self._check(setup, request)
        except Refused as refused:
            if refused.code not in _MAY_BE_NEW:
                raise
            setup = await self._setups.newest(app_id)
            await self._check(setup, request)
        return setup

    async def _check(self, setup: AppSetup, request: NotifyRequest) -> None:
        """As `check`; a template that nobody has used yet is compiled beside the loop first."""
        if not self._is_ready(setup, request):
            await self._renderer.prepare(setup, request.template, setup.rules.default_locale)
        self.check(setup, request)

    def _is_ready(self, setup: AppSetup, request: NotifyRequest) -> bool:
        template = request.template
        return not template or self._renderer.is_ready(setup, template, setup.rules.default_locale)

    async def _first_answer(self, app_id: str, request: NotifyRequest, digest: str) -> NotifyAccepted | None:
        """What a request that is wrong by now was answered when it came first, by its key; None: it did not.

        Raises: Refused(payload_conflict), HubbubError.
        """
        try:
            request = await self._resolved(app_id, request)
        except Refused:
            return None
        request_id = _request_id(app_id, request)
        if _is_larger(request):
            return await first_answer.of_larger(self._store, app_id, request_id, digest)
        return await first_answer.of_users(self._store, app_id, request_id, request.user_ids, digest)

    def notify_nowait(self, app_id: str, request: NotifyRequest, reply: Reply) -> bool:
        """As `notify`, without waiting; the answer goes to `reply`. False: it takes more, nothing was done.

        Only for what most requests are: to one user, once, of an app that is in memory. Raises: HubbubError.
        """
        setup = self._setups.known(app_id)
        user_id = request.user_id
        if setup is None or not user_id or request.cron or not self._is_ready(setup, request):
            return False
        try:
            self.check(setup, request)
        except (Refused, ProtocolError) as refused:
            if refused.code in _MAY_BE_NEW or request.idempotency_key:
                return False
            raise
        key = request.idempotency_key
        message = Notify(
            app_id=app_id,
            user_ids=(user_id,),
            content=content_of(request),
            request_id=_request_id(app_id, request) if key else auth.new_id("rq"),
            key=key,
            digest=blake2b(_encode(request), digest_size=12).hexdigest(),
            setup_version=setup.version,
        )
        self._router.ask_nowait(notify_address(user_id), message, reply)
        return True

    async def cancel(self, app_id: str, request_id: str) -> RequestCancelled:
        """Do not go on with a request, and cancel what waits. Raises: Refused(request_not_found)."""
        message = CancelRequest(request_id)
        answer = await self._router.ask(app_address(app_id), message, timeout_s=ASK_TIMEOUT_S)
        assert isinstance(answer, RequestCancelled)
        return answer

    def check(self, setup: Setup, request: NotifyRequest) -> None:
        """Judge a request by itself. Raises: ProtocolError, Refused."""
        rule = setup.type_rule(request.type)
        if rule is None:
            raise Refused("type_not_found", f"The app has no type {request.type!r}.")
        named = [
            bool(request.user_id),
            bool(request.user_ids),
            bool(request.external_ids),
            bool(request.group),
        ]
        if sum(named) != 1:
            raise ProtocolError(
                "bad_field", "Name whom to notify by one of user_id, user_ids, external_ids and group."
            )
        if request.template and (request.text or request.title):
            raise ProtocolError("bad_field", "Give either a template or a text, not both.")
        if not request.template and not (request.text or request.title):
            raise Refused("text_empty", "A notification needs a template, a text or a title.")
        size = len(request.text.encode("utf-8", "surrogatepass"))
        if size > MAX_TEXT_BYTES:
            raise Refused("text_too_long", f"The text has {size} bytes; {MAX_TEXT_BYTES} are the most.")
        if len(_encode(request.data)) > MAX_DATA_BYTES:
            raise ProtocolError("bad_field", f"data has more than {MAX_DATA_BYTES} bytes as JSON.")
        for name in ("title", "text", "actor"):
            if _CONTROL.search(getattr(request, name)):
                raise ProtocolError("bad_field", f"{name} must not have control characters.")
        if not leads_safely(request.url):
            raise ProtocolError("bad_field", "url is an address that cannot be opened safely.")
        if not is_picture(request.image):
            raise ProtocolError("bad_field", "image is an http or https address.")
        if "\n" in request.title:
            raise ProtocolError("bad_field", "title is one line.")
        if request.cron:
            check_cron(request.cron)
            if request.send_at:
                raise ProtocolError("bad_field", "Give either cron or send_at, not both.")
        if request.time_zone:
            auth.checked_time_zone(request.time_zone)
        if request.send_at:
            send_at_ms(request.send_at, "UTC")
        if 0 < request.expires_at_ms <= self._now_ms():
            raise ProtocolError("bad_field", "expires_at_ms has passed already.")
        if request.experiment and setup.variant_of(request.experiment, "") is None:
            self._check_experiment(setup, request.experiment)
        own = setup if isinstance(setup, AppSetup) else None
        check_meaning(
            request,
            own.templates.get(request.template) if own else None,
            own.experiments.get(request.experiment) if own else None,
        )
        if request.template:
            channels = request.channels or [*rule.channels, *rule.fallback]
            self._renderer.check(setup, content_of(request), _told_apart(channels))

    def _check_experiment(self, setup: Setup, name: str) -> None:
        if isinstance(setup, AppSetup) and name not in setup.experiments:
            raise Refused("experiment_not_found")

    async def _resolved(self, app_id: str, request: NotifyRequest) -> NotifyRequest:
        """With users by their own ids. Raises: Refused(user_not_found, group_not_found)."""
        user_ids = list(dict.fromkeys(request.user_ids or ([request.user_id] if request.user_id else [])))
        if request.external_ids:
            wanted = list(dict.fromkeys(request.external_ids))
            found = await self._store.notify.users_by_external(app_id, wanted)
            missing = [external_id for external_id in wanted if external_id not in found]
            if missing:
                raise Refused("user_not_found", f"The app has no user with the external id {missing[0]!r}.")
            user_ids = [found[external_id] for external_id in wanted]
        if request.group and request.group != "*":
            some = await self._store.notify.group_page(app_id, request.group, after="", limit=1)
            if not some:
                raise Refused("group_not_found")
        return msgspec.structs.replace(request, user_id="", user_ids=user_ids, external_ids=[])

    async def _notify_users(
        self, app_id: str, request: NotifyRequest, request_id: str, key: str, digest: str, version: int
    ) -> NotifyAccepted:
        """Ask the partitions of these users, and answer when all have stored it."""
        content = content_of(request)
        parts: dict[int, list[str]] = {}
        for user_id in request.user_ids:
            parts.setdefault(partition_of(user_id), []).append(user_id)

        def message(user_ids: Sequence[str]) -> Notify:
            return Notify(
                app_id=app_id,
                user_ids=tuple(user_ids),
                content=content,
                request_id=request_id,
                key=key,
                digest=digest,
                setup_version=version,
            )

        if len(parts) == 1:
            ((partition, user_ids),) = parts.items()
            answer = await self._router.ask(
                partition_address(partition), message(user_ids), timeout_s=ASK_TIMEOUT_S
            )
            assert isinstance(answer, NotifyAccepted)
            return answer
        items: dict[str, Notified] = {}
        failures: list[HubbubError] = []
        repeated: list[bool] = []

        async def ask(partition: int, user_ids: list[str]) -> None:
            try:
                answer = await self._router.ask(
                    partition_address(partition), message(user_ids), timeout_s=ASK_TIMEOUT_S
                )
            except Refused as refused:
                if refused.code != "user_not_found":
                    failures.append(refused)
                    return
                for user_id in user_ids:
                    items[user_id] = Notified(
                        user_id=user_id, notification_id=0, state="refused", reason=refused.code
                    )
            except HubbubError as error:
                failures.append(error)
            else:
                assert isinstance(answer, NotifyAccepted)
                repeated.append(answer.repeated)
                items.update({item.user_id: item for item in answer.items})

        async with trio.open_nursery() as nursery:
            for partition, user_ids in parts.items():
                nursery.start_soon(ask, partition, user_ids)
        if failures:
            raise failures[0]
        return NotifyAccepted(
            request_id=request_id,
            items=[items[user_id] for user_id in request.user_ids],
            repeated=bool(repeated) and all(repeated),
        )


def _is_larger(request: NotifyRequest) -> bool:
    """Tell whether it goes by the app's actor."""
    return bool(request.group or request.cron) or len(request.user_ids) > MAX_DIRECT


def _request_id(app_id: str, request: NotifyRequest) -> str:
    """The id of what an app calls by an idempotency key: a repeated request finds the first one by it.

    A user's keys are the user's, so requests to others are others, and one is cancelled without the other. A
    larger one is known by its key alone: to other users it is refused as something else.
    """
    user_ids = () if _is_larger(request) else request.user_ids or (request.user_id,)
    named = "\x00".join((app_id, request.idempotency_key, *user_ids)).encode()
    return f"rq_{blake2b(named, digest_size=12).hexdigest()}"


def _told_apart(channels: list[Channel]) -> list[Channel]:
    """One of the push channels stands for all: they share their texts."""
    kept = [channel for channel in channels if channel not in PUSH_CHANNELS]
    push = [channel for channel in channels if channel in PUSH_CHANNELS]
    return [*kept, *push[:1]]
