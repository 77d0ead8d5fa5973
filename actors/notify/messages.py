"""What the actors of notifications are told, beside commands. It travels between nodes, so it only grows."""

import msgspec

from protocol.notify_content import Content, KeptRequest
from protocol.notify_types import Channel


class Notify(msgspec.Struct, frozen=True, tag="notify_users"):
    """To a partition: notify these users of it. Answered by NotifyAccepted, once all is stored.

    `key`: with it, a user is notified once, however often this is asked; empty: each time. `source` says who
    asks: api, chat, feed, …; `digest` is of what was asked: the same key with another one is refused.
    """

    app_id: str
    user_ids: tuple[str, ...]
    content: Content
    request_id: str = ""
    key: str = ""
    source: str = "api"
    digest: str = ""
    occurrence: str = ""  # of what recurs: the same content at another time is no duplicate
    is_bulk: bool = False  # part of a campaign: refused as busy while the partition has enough to send
    actor_count: int = 0  # how many people's doing it tells of, where that is more than content.actor
    setup_version: int = 0  # of the app's setup it was checked by: who knows an older one reads it first


class RunRequest(msgspec.Struct, frozen=True, tag="run_request"):
    """To an app's actor: store this request and carry it out. Answered by NotifyAccepted, once stored."""

    request_id: str
    request: KeptRequest
    digest: str
    setup_version: int = 0  # as that of Notify


class CancelRequest(msgspec.Struct, frozen=True, tag="cancel_request"):
    """To an app's actor: do not go on with a request, and cancel what waits. Answered by RequestCancelled."""

    request_id: str


class CancelPart(msgspec.Struct, frozen=True, tag="cancel_part"):
    """To a partition: cancel what waits of a request. Answered by RequestCancelled, for its part."""

    app_id: str
    request_id: str


class Mark(msgspec.Struct, frozen=True, tag="mark_notification"):
    """To a partition: a link in it was followed, a picture in it loaded. Answered by Ok.

    `app_id`: whose provider says so, which may tell of that app's alone; empty: a link that we have signed.
    """

    notification_id: int
    mark: str
    how: str = ""
    app_id: str = ""


class DeliveryTold(msgspec.Struct, frozen=True, tag="delivery_told"):
    """To a partition: a provider tells later what became of a delivery: confirmed, bounced, complained, …

    `app_id`, `provider_id`: whose account; one that is another app's delivery is not found. `provider_ref`:
    the provider's own id of the message, where it has one for each. Answered by Ok.
    """

    notification_id: int
    number: int
    state: str
    code: str = ""
    action: str = ""  # retire, suppress, failover; empty: none
    app_id: str = ""
    provider_id: str = ""
    provider_ref: str = ""


class PutAddress(msgspec.Struct, frozen=True, tag="put_address"):
    """To a partition: register an address of a user. Answered by PushDevices.

    `opt_in`: the user has just asked for messages there. `is_users_own`: the user registers it, and not the
    app's backend; `is_import`: it stands in a list.
    """

    user_id: str
    app_id: str
    channel: Channel
    address: str
    keys: dict[str, str] = {}
    name: str = ""
    opt_in: bool = False
    is_users_own: bool = False
    is_import: bool = False


class DropAddress(msgspec.Struct, frozen=True, tag="drop_address"):
    """To a partition: an address belongs to this user no more, because of `reason`. Answered by Ok."""

    user_id: str
    device_key: str
    reason: str


class StopAddress(msgspec.Struct, frozen=True, tag="stop_address"):
    """To a partition: an address of these users takes nothing more, as of `at_ms`. Answered by Ok.

    Another user of the app who has it has said STOP, or its provider has called it dead: `code`.
    """

    app_id: str
    user_ids: tuple[str, ...]
    device_key: str
    code: str
    at_ms: int


class Unsubscribe(msgspec.Struct, frozen=True, tag="unsubscribe"):
    """To a partition: the user wants no more of that type (empty: of any) on that channel. Answered by Ok."""

    user_id: str
    app_id: str
    type_name: str
    channel: Channel
    how: str = "one_click"


class EraseUser(msgspec.Struct, frozen=True, tag="erase_user"):
    """To a partition: erase what is known for notifying a user, of one purpose or all. Answered by Erased."""

    user_id: str
    app_id: str
    purpose: str = ""
    reason: str = "requested"


class Redrive(msgspec.Struct, frozen=True, tag="redrive"):
    """To a partition: try dead deliveries again. Answered by Redriven."""

    app_id: str
    deliveries: tuple[tuple[int, int], ...]


class UserChanged(msgspec.Struct, frozen=True, tag="user_changed"):
    """To a partition: a user's name, language or time zone has changed, or whether it is disabled.

    Told after it was stored, once. Not answered: what is lost is noticed by the age of what is known.
    """

    user_id: str


class SetupChanged(msgspec.Struct, frozen=True, tag="setup_changed"):
    """To an app's actor: what the app has set up has changed. Not answered."""


NotifyActorMessage = (
    Notify
    | RunRequest
    | CancelRequest
    | CancelPart
    | Mark
    | DeliveryTold
    | PutAddress
    | DropAddress
    | StopAddress
    | Unsubscribe
    | EraseUser
    | Redrive
    | UserChanged
    | SetupChanged
)
