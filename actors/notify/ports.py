"""What the actors of notifications need of the world; server/notify fits these shapes."""

from collections.abc import Callable
from typing import Protocol

import msgspec

from actors.notify.delivery import Provider
from protocol.errors import HubbubError
from protocol.notify_content import Content
from protocol.notify_types import AppRules, Channel, Decision, TypeRule
from protocol.records import Op


class Text(msgspec.Struct, frozen=True, kw_only=True):
    """What a channel is to show, in the user's language."""

    title: str = ""
    body: str = ""
    html: str = ""
    url: str = ""
    image: str = ""
    unsubscribe_url: str = ""
    click_url: str = ""  # that it was followed is told by this address, where the device itself cannot
    locale: str = ""
    variant: str = ""  # whose text it is: the template may have none of the one that was asked for
    decision: Decision | None = None


class Reader(msgspec.Struct, frozen=True, kw_only=True):
    """For whom a text is written, and of how many things it tells."""

    user_id: str
    name: str
    locale: str
    time_zone: str
    names: tuple[str, ...] = ()  # of a batch: the first whose doing it is
    others: int = 0  # and how many more
    count: int = 1
    titles: tuple[str, ...] = ()  # of a digest


class Setup(Protocol):
    """All that an app has set up, as one version of it."""

    @property
    def app_id(self) -> str: ...

    @property
    def version(self) -> int:
        """Rises with every change, on all nodes alike."""
        ...

    @property
    def rules(self) -> AppRules: ...

    def type_rule(self, name: str) -> TypeRule | None:
        """The app's own type, or a built-in one."""
        ...

    @property
    def vapid_public_key(self) -> str:
        """With which the app's pages subscribe to web push; empty: there is none."""
        ...

    def all_types(self) -> list[TypeRule]:
        """The app's own types, and the built-in ones that it has not replaced."""
        ...

    def has_provider(self, channel: Channel) -> bool:
        """Tell whether the channel leads anywhere."""
        ...

    def variant_of(self, experiment: str, user_id: str) -> str | None:
        """The user's variant in a running experiment, "holdout", or None: there is no such experiment."""
        ...


class Setups(Protocol):
    """What apps have set up, kept in memory and refreshed."""

    def known(self, app_id: str) -> Setup | None:
        """The app's, if it is in memory."""
        ...

    async def load(self, app_id: str) -> Setup:
        """The app's, read where it is not in memory. Raises: HubbubError."""
        ...

    async def at_least(self, app_id: str, version: int) -> Setup:
        """The app's, read where what is in memory is older than that. Raises: HubbubError."""
        ...

    def failure(self, app_id: str) -> HubbubError | None:
        """Why the app's could not be read just now; None: it may be tried."""
        ...

    def put_off(self) -> list[str]:
        """The apps of which none is known, as it could not be read when it was asked for."""
        ...


class Renderer(Protocol):
    """Write texts."""

    def render(
        self,
        setup: Setup,
        content: Content,
        reader: Reader,
        channel: Channel,
        *,
        variant: str,
        notification_id: int,
    ) -> Text:
        """Write one text. Raises: Refused(template_not_found, template_variable_unknown, template_failed)."""
        ...

    def is_ready(self, setup: Setup, template: str, locale: str) -> bool:
        """Tell whether a template's texts for users of that locale are compiled, or there are none."""
        ...

    async def prepare(self, setup: Setup, template: str, locale: str) -> None:
        """Compile them beside the loop, which `render` would hold up for some 50 ms each."""
        ...


class DeveloperAlerts(Protocol):
    """Where an app's developers are told that somebody has to look."""

    def staged(self, app_id: str, kind: str, detail: dict[str, str]) -> tuple[Op, Callable[[], None]]:
        """What to store together with what it tells of, and what to call once that is stored."""
        ...


class Account(msgspec.Struct, frozen=True):
    """One of an app's accounts at the providers of a channel."""

    provider_id: str
    credential: str  # what a breaker and a pace belong to: shared by all accounts with the same credentials
    rate_per_s: float
    provider: Provider


class Accounts(Protocol):
    """The accounts at providers."""

    def chain(self, app_id: str, channel: Channel) -> list[Account]:
        """An app's accounts of a channel, in the order in which they are tried; from memory."""
        ...

    def alive_count(self, app_id: str, channel: Channel) -> int:
        """About how many addresses of that channel the app's users have."""
        ...

    def retirement_until_ms(self, app_id: str, channel: Channel) -> int:
        """Until when a person lets all dead addresses of a channel go; 0: the guard against that holds."""
        ...

    def alert(self, app_id: str, kind: str, detail: dict[str, str]) -> None:
        """Tell the app's developers: a breaker has opened, addresses would be retired in masses, …"""
        ...
