"""Give commands of notifications their meaning: which actor decides, and what is read from the store."""

from collections import OrderedDict
from collections.abc import Awaitable, Callable
from typing import Final, Protocol, cast

from actors.address import Address
from actors.messages import Ask
from actors.notify.address import notify_address
from actors.notify.addresses import checked, device_key
from actors.notify.messages import DropAddress
from actors.notify.user_state import UserState
from actors.reply import Reply as ReplyPort
from actors.router import Router
from protocol import notify_commands, notify_replies
from protocol.commands import Command
from protocol.errors import Refused
from protocol.notify_ids import first_id_at
from protocol.notify_records import NotificationRow, NotifyDeviceRow
from protocol.notify_replies import NotificationItem
from protocol.notify_types import Priority
from protocol.records import AppKey
from protocol.replies import Reply
from server.caller import Caller
from server.notify.core import NotifyCore
from server.notify.forecast import forecasts_of, requests_for
from server.providers.apprise_provider import reason_against
from storage.store import Store

ASK_TIMEOUT_S: Final = 10.0
KEY_CACHE_MS: Final = 3_000  # how long a revoked app key may still notify by the bot port
MAX_CACHED_KEYS: Final = 1_000

_OWN: Final = frozenset(
    {
        notify_commands.MarkNotifications,
        notify_commands.GetPreferences,
        notify_commands.SetPreferences,
        notify_commands.UnregisterPush,
        notify_commands.ListPush,
        notify_commands.SetConsent,
    }
)

Read = Callable[[Caller, Command], Awaitable[Reply]]


class AppKeys(Protocol):
    """The part of the log-ins that knows apps; server/log_ins.py fits this."""

    async def authenticate_app(self, app_key: str, secret: str) -> AppKey: ...


class NotifyService:
    """Serve the notification commands of sessions and of HTTP."""

    def __init__(
        self,
        store: Store,
        core: NotifyCore,
        keys: AppKeys,
        *,
        router: Router,
        now_ms: Callable[[], int],
    ) -> None:
        self._store = store
        self._core = core
        self._keys = keys
        self._router = router
        self._now_ms = now_ms
        self._known_keys: OrderedDict[tuple[str, str], tuple[int, str]] = OrderedDict()
        self.reads: dict[type[Command], Read] = {
            notify_commands.ListNotifications: self._list,
            notify_commands.RegisterPush: self._register,
            notify_commands.PlanNotifications: self._plan,
            notify_commands.Notify: self._notify,
            notify_commands.CancelRequest: self._cancel,
        }

    @staticmethod
    def actor_of(caller: Caller, kind: type[Command]) -> Address | None:
        """The actor that answers a command without a look at anything before; None: there is none."""
        return notify_address(caller.user_id) if kind in _OWN else None

    def begin(self, caller: Caller, command: notify_commands.Notify, reply: ReplyPort) -> bool:
        """Carry out a request to notify without a task of its own. False: it takes one, nothing was done.

        Raises: HubbubError.
        """
        app_id = caller.app_id
        if command.app_key:
            known = self._known_keys.get((command.app_key, command.secret))
            if known is None or self._now_ms() - known[0] >= KEY_CACHE_MS:
                return False
            app_id = known[1]
        else:
            _check_bot(caller)
        return self._core.entry.notify_nowait(app_id, command.request, reply)

    async def _list(self, caller: Caller, command: Command) -> Reply:
        assert isinstance(command, notify_commands.ListNotifications)
        rows, unread = await self._store.notify.centre(
            caller.user_id,
            before=command.before,
            limit=command.limit + 1,
            unread_only=command.unread_only,
        )
        return notify_replies.NotificationPage(
            items=[item_of(row) for row in rows[: command.limit]],
            unread=unread,
            more=len(rows) > command.limit,
        )

    async def _register(self, caller: Caller, command: Command) -> Reply:
        """Register an address, and take it away from whoever had it: a phone that was sold."""
        assert isinstance(command, notify_commands.RegisterPush)
        await self.take_away(caller.app_id, caller.user_id, command.channel, command.address, command.keys)
        answer = await self._router.ask(
            notify_address(caller.user_id),
            Ask(caller.user_id, caller.app_id, command),
            timeout_s=ASK_TIMEOUT_S,
        )
        return cast(Reply, answer)

    async def take_away(
        self, app_id: str, user_id: str, channel: str, address: str, keys: dict[str, str]
    ) -> None:
        """Let other users of the app have that address no more. Raises: Refused(bad_device_token)."""
        await check_service(channel, address)
        if channel in ("email", "sms"):
            return  # a family may share these; a push token is one installation, signed in by one user
        kept = checked(channel, address, keys)  # type: ignore[arg-type]  # a Channel
        where: dict[str, str | int | None] = {"app_id": app_id, "channel": channel, "address": kept}
        for row in await self._store.find(NotifyDeviceRow, where, limit=100):
            if row.user_id != user_id:
                message = DropAddress(row.user_id, device_key(channel, kept), "somebody_elses")  # type: ignore[arg-type]
                await self._router.ask(notify_address(row.user_id), message, timeout_s=ASK_TIMEOUT_S)

    async def _plan(self, caller: Caller, command: Command) -> Reply:
        assert isinstance(command, notify_commands.PlanNotifications)
        return await self.plan(caller.app_id, caller.user_id, command.days)

    async def plan(self, app_id: str, user_id: str, days: int) -> notify_replies.Forecasts:
        """A dry run of one user's coming days. Raises: Refused(user_not_found)."""
        now_ms = self._now_ms()
        found = await self._store.notify.users(
            [user_id],
            since_id=first_id_at(now_ms - 30 * 86_400_000),
            counted_since_ms=now_ms - 3_600_000,
        )
        if not found or found[0].app_id != app_id:
            raise Refused("user_not_found")
        setup = await self._core.setups.load(app_id)
        held = await self._store.notify.held_of(user_id)
        requests = await requests_for(self._store, app_id, user_id)
        return forecasts_of(UserState(found[0]), setup, held, requests, now_ms=now_ms, days=days)

    async def _notify(self, caller: Caller, command: Command) -> Reply:
        """For the app's own bots, and for whoever names an app key with its secret."""
        assert isinstance(command, notify_commands.Notify)
        return await self._core.entry.notify(await self._notifying_app(caller, command), command.request)

    async def _cancel(self, caller: Caller, command: Command) -> Reply:
        assert isinstance(command, notify_commands.CancelRequest)
        app_id = await self._notifying_app(caller, command)
        return await self._core.entry.cancel(app_id, command.request_id)

    async def _notifying_app(
        self, caller: Caller, command: notify_commands.Notify | notify_commands.CancelRequest
    ) -> str:
        """The app in whose name a command is given. Raises: Refused."""
        if command.app_key:
            return await self._app_of(command.app_key, command.secret)
        _check_bot(caller)
        return caller.app_id

    async def _app_of(self, app_key: str, secret: str) -> str:
        now_ms = self._now_ms()
        known = self._known_keys.get((app_key, secret))
        if known is not None and now_ms - known[0] < KEY_CACHE_MS:
            return known[1]
        key = await self._keys.authenticate_app(app_key, secret)
        self._known_keys[app_key, secret] = (now_ms, key.app_id)
        if len(self._known_keys) > MAX_CACHED_KEYS:
            self._known_keys.popitem(last=False)
        return key.app_id


async def check_service(channel: str, address: str) -> None:
    """Look at an Apprise address more closely than partitions can. Raises: Refused(bad_device_token)."""
    reason = await reason_against(address) if channel == "apprise" else ""
    if reason:
        raise Refused("bad_device_token", reason)


def _check_bot(caller: Caller) -> None:
    """Raises: Refused, where it is not a bot that the app itself has made."""
    user = caller.identity.user
    if not user.is_bot or user.owner_id:
        raise Refused("forbidden", "Only the app's backend and the bots it has made may notify.")


def item_of(row: NotificationRow) -> NotificationItem:
    """A notification as the centre shows it."""
    return NotificationItem(
        notification_id=row.notification_id,
        type=row.type,
        priority=cast(Priority, row.priority),
        at_ms=row.created_at_ms,
        title=row.title,
        text=row.text,
        url=row.url,
        image=row.image,
        count=row.item_count if row.item_count > 1 else 0,
        seen=row.seen_at_ms > 0,
        read=row.read_at_ms > 0,
    )
