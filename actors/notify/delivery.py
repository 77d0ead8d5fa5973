"""What a channel hands to a provider, and what comes back: two Structs, and the interface between them."""

from typing import Literal, Protocol

import msgspec

from protocol.notify_types import Channel, Priority

Kind = Literal["accepted", "refused", "unknown"]
"""An outcome has three values. `unknown`: the request may have arrived, nobody knows."""
Action = Literal[
    "done",  # accepted
    "retry",  # nothing was sent; again after retry_after_s, or by backoff
    "retry_now",  # nothing was sent, and the cause is mended (a new token, a new connection)
    "retire",  # the address is dead: retire it, do not try again
    "suppress",  # the recipient said stop: no more to this address until an opt-in; consents stay
    "dead_letter",  # our bug or the app's: no retry, tell the developers
    "break",  # the credentials or their settings are wrong: open the breaker, keep the queue, alert
    "failover",  # this provider cannot; the next of the chain may
    "expired",  # too late, by the provider's word
    "resolve_unknown",  # the outcome is unknown: the type's policy decides
]


class Target(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """One address of one user. `keys`: what else the channel needs to reach it, such as p256dh and auth."""

    device_key: str
    channel: Channel
    address: str  # device token in hex, FCM token, push endpoint, phone in E.164, mail address, apprise URL
    keys: dict[str, str] = {}
    registered_at_ms: int = 0


class Outgoing(msgspec.Struct, frozen=True, kw_only=True):
    """One notification for one address, rendered: all that a provider needs. Times are Unix ms."""

    delivery_id: str  # stable over all attempts, unique for ever: [A-Za-z0-9_-], at most 64 characters
    notification_id: int
    app_id: str
    user_id: str
    type: str
    priority: Priority
    target: Target
    title: str = ""
    body: str = ""
    html: str = ""  # of mail; empty: `body` alone
    url: str = ""
    image: str = ""
    data: dict[str, str] = {}
    badge: int | None = None
    collapse_key: str = ""  # shown instead of an earlier one with the same key, where the channel can
    is_silent: bool = False
    expires_at_ms: int = 0  # 0: no end
    unsubscribe_url: str = ""  # one-click, RFC 8058
    click_url: str = ""  # tells that it was followed, and leads on to `url`
    callback_url: str = ""  # where the provider may tell of the delivery
    locale: str = ""
    shows_variant: bool = False  # the text is that of the variant which was drawn in an experiment


class Outcome(msgspec.Struct, frozen=True, kw_only=True):
    """What became of one attempt. `code` is the provider's own word for it, for people and for the ledger."""

    kind: Kind
    action: Action
    code: str = ""
    detail: str = ""
    provider_id: str = ""  # the provider's id of what it took
    retry_after_s: float | None = None  # as the provider asked
    invalid_since_ms: int = 0  # with `retire`: an address registered later than this is alive
    is_doubtful: bool = False  # with `retire`: wrong settings of the account would look the same
    scope: Literal["device", "credential", "provider", "host"] = "device"  # whom a retry or a break concerns


ACCEPTED = Outcome(kind="accepted", action="done")


class Provider(Protocol):
    """One account at one provider, with its connections. Safe to call from several tasks at once."""

    @property
    def channel(self) -> Channel: ...

    async def send(self, outgoing: Outgoing) -> Outcome:
        """Try once. Never raises but trio.Cancelled; a timeout after the request left is `unknown`.

        A cancelled call leaves the outcome unknown to the caller, and other calls unharmed.
        """
        ...

    async def aclose(self) -> None:
        """Close connections; what is in flight becomes unknown."""
        ...
