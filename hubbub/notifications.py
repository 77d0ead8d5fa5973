"""Notifications as a noun of the client: `client.notifications`.

    async for item in client.notifications.list():
        ...
    await client.notifications.mark("read", up_to=item.notification_id)
    async for event in client.notifications.watch():
        ...

Each method is one command of the protocol and behaves as those of `hubbub.api.Commands`: it waits for its
answer, over reconnects if need be, and raises what the server answered instead.
"""

from collections.abc import Callable, Mapping, Sequence

import msgspec

from hubbub.api import Pages, new_client_id
from hubbub.feed import Ask
from hubbub.notification_watch import NotificationWatch, Watchers
from protocol import notify_commands as c
from protocol import notify_replies as nr
from protocol.notify_commands import MarkKind
from protocol.notify_content import NotifyRequest
from protocol.notify_replies import Forecast, NotificationItem, NotificationPage, PreferencesInfo, PushDevice
from protocol.notify_types import Channel, Preferences

MAX_MARKED = 200  # in one command


class Notifications:
    """The signed-in user's notification centre, wishes and devices; and, for an app's bots, `notify`."""

    def __init__(self, next_id: Callable[[], int], ask: Ask, watchers: Watchers) -> None:
        self._next_id = next_id
        self._ask = ask
        self._watchers = watchers

    # -- the centre ---------------------------------------------------------------------------------

    async def page(self, *, before: int = 0, limit: int = 50, unread_only: bool = False) -> NotificationPage:
        """Read one page, newest first, with how many in all are unread."""
        command = c.ListNotifications(id=self._next_id(), before=before, limit=limit, unread_only=unread_only)
        return await self._ask(command, NotificationPage)

    def list(
        self, *, before: int = 0, unread_only: bool = False, page_size: int = 50
    ) -> Pages[NotificationItem]:
        """Iterate over notifications, newest first; `before`: only smaller ids."""
        place = before

        async def fetch() -> tuple[Sequence[NotificationItem], bool]:
            nonlocal place
            page = await self.page(before=place, limit=page_size, unread_only=unread_only)
            if page.items:
                place = page.items[-1].notification_id
            return page.items, page.more and bool(page.items)

        return Pages(fetch)

    async def unread(self) -> int:
        """Read the badge."""
        return (await self.page(limit=1)).unread

    async def mark(
        self, mark: MarkKind, notification_ids: int | Sequence[int] = (), *, up_to: int = 0
    ) -> int:
        """Mark some notifications, or all that are unread up to one; returns how many are unread then.

        seen, read, unread, opened, clicked; dismissed ones leave the centre for good. Safe to repeat.
        """
        ids = [notification_ids] if isinstance(notification_ids, int) else [*notification_ids]
        if not ids and not up_to:
            raise ValueError("name the notifications, or up to which one")
        unread = 0
        for start in range(0, max(1, len(ids)), MAX_MARKED):
            command = c.MarkNotifications(
                id=self._next_id(),
                mark=mark,
                notification_ids=ids[start : start + MAX_MARKED],
                up_to=up_to if start == 0 else 0,
            )
            unread = (await self._ask(command, nr.Badge)).unread
        return unread

    def watch(self) -> NotificationWatch:
        """Iterate over what happens in the centre from now on: `NotificationShown`, `NotificationsMarked`.

        Whatever the connection does meanwhile: what was missed is read and told (new ones, at most the newest
        1,000; and what has become of the newest 100). Independent of `client.events()`, which may be used
        beside it. The iteration ends as that of `events()` does; who stops half-way leaves nothing behind.
        """
        return self._watchers.add(NotificationWatch(self.page))

    # -- wishes -------------------------------------------------------------------------------------

    async def preferences(self) -> PreferencesInfo:
        """Read what the user wants to hear, what there is to choose from, and the consents."""
        return await self._ask(c.GetPreferences(id=self._next_id()), PreferencesInfo)

    async def set_preferences(self, preferences: Preferences) -> PreferencesInfo:
        """Set all of one's preferences at once: change what `preferences()` gave."""
        return await self._ask(c.SetPreferences(id=self._next_id(), preferences=preferences), PreferencesInfo)

    async def give_consent(self, purpose: str, *, source: str = "", ends_at_ms: int = 0) -> PreferencesInfo:
        """Agree to one purpose; `ends_at_ms` 0: until it is withdrawn."""
        command = c.SetConsent(
            id=self._next_id(), purpose=purpose, given=True, source=source, ends_at_ms=ends_at_ms
        )
        return await self._ask(command, PreferencesInfo)

    async def withdraw_consent(self, purpose: str) -> PreferencesInfo:
        """End a consent; what rested on it is erased before this returns."""
        command = c.SetConsent(id=self._next_id(), purpose=purpose, given=False)
        return await self._ask(command, PreferencesInfo)

    async def plan(self, *, days: int = 7) -> Sequence[Forecast]:
        """Ask what the coming days hold: a dry run of the server's own rules."""
        return (await self._ask(c.PlanNotifications(id=self._next_id(), days=days), nr.Forecasts)).items

    # -- devices ------------------------------------------------------------------------------------

    async def register_push(
        self,
        channel: Channel,
        address: str,
        *,
        keys: Mapping[str, str] | None = None,
        name: str = "",
        opt_in: bool = False,
    ) -> Sequence[PushDevice]:
        """Tell where this user can be reached; again whenever the app starts. Returns all addresses.

        `opt_in`: the user has just asked for messages there, which ends an earlier STOP or complaint.
        """
        command = c.RegisterPush(
            id=self._next_id(),
            channel=channel,
            address=address,
            keys=dict(keys or {}),
            name=name,
            opt_in=opt_in,
        )
        return (await self._ask(command, nr.PushDevices)).items

    async def unregister_push(self, device_key: str) -> Sequence[PushDevice]:
        """Send nothing more to an address. Raises: Refused(device_not_found)."""
        command = c.UnregisterPush(id=self._next_id(), device_key=device_key)
        return (await self._ask(command, nr.PushDevices)).items

    async def devices(self) -> Sequence[PushDevice]:
        """Read at which addresses the user can be reached."""
        return (await self._ask(c.ListPush(id=self._next_id()), nr.PushDevices)).items

    # -- for bots of the app ------------------------------------------------------------------------

    async def notify(
        self, request: NotifyRequest, *, app_key: str = "", secret: str = ""
    ) -> nr.NotifyAccepted:
        """Notify users of the app, once however often the connection breaks meanwhile.

        For bots that the app itself has made; others name the app's key and secret. A request without an
        `idempotency_key` gets one of its own; who may be interrupted chooses one.
        """
        command = c.Notify(id=self._next_id(), app_key=app_key, secret=secret, request=with_key(request))
        return await self._ask(command, nr.NotifyAccepted)

    async def cancel(self, request_id: str, *, app_key: str = "", secret: str = "") -> nr.RequestCancelled:
        """Cancel a request by the id that `notify` told; what waits is not sent any more. Safe to repeat.

        The counts tell for how many users that was in time. Raises: Refused(request_not_found).
        """
        command = c.CancelRequest(id=self._next_id(), app_key=app_key, secret=secret, request_id=request_id)
        return await self._ask(command, nr.RequestCancelled)


def with_key(request: NotifyRequest) -> NotifyRequest:
    """Give a request a key of its own where it has none: then trying it again does no harm."""
    if request.idempotency_key:
        return request
    return msgspec.structs.replace(request, idempotency_key=new_client_id())
