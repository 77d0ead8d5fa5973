"""What all nodes of the cluster tell of their notifications: asked when somebody looks, and kept a while.

This node's part is read anew each time. The others are asked together, and each has ASK_S to answer: one
that is frozen or out of reach costs whoever looks so long, once in KEPT_S.
"""

from collections.abc import Awaitable, Callable, Iterable, Mapping
from typing import Final, TypeAlias, cast

import msgspec

from actors.notify.admission import Strain
from actors.notify.channel_desk import ChannelDesk
from actors.notify.keeper import NotifyStats
from protocol.notify_node import AccountStrain, AskGlance, Glance, NodeAnswer, NodeQuestion
from protocol.notify_types import Channel
from server.notify.app_setup import AppSetup
from server.notify.dashboard_lines import rates_here
from server.notify.kept import Kept
from server.notify.node_lines import severity, strains_of, worst_breaker
from server.notify.rates import RateRing

ASK_S: Final = 1.0  # a busy node answers within some 10 ms
KEPT_S: Final = 2.0
MAX_APPS: Final = 1_000  # for which others' answers are kept
MAX_STRAINS: Final = 500  # told by one node: 50 KB

AskOthers: TypeAlias = Callable[[NodeQuestion, float], Awaitable[Mapping[str, NodeAnswer | None]]]
"""Ask all other nodes that live something, for at most so many seconds; None: no answer."""


class Whole(msgspec.Struct, frozen=True):
    """The parts of all nodes that have answered, this one included, and the names of the others."""

    parts: dict[str, Glance]
    missing: list[str]


class NodeViews:
    """Look at all nodes by `of`; tell others of this one by `here`."""

    def __init__(
        self,
        node_id: str,
        ask_others: AskOthers,
        *,
        rates: RateRing,
        stats: NotifyStats,
        channels: ChannelDesk,
        setups_of: Callable[[str], Iterable[AppSetup]],
    ) -> None:
        """`setups_of`: an app's setup, if this node has it in memory; "": all that it has."""
        self.node_id = node_id
        self._ask_others = ask_others
        self._rates = rates
        self._stats = stats
        self._channels = channels
        self._setups_of = setups_of
        self._others: dict[str, Kept[Mapping[str, NodeAnswer | None]]] = {}

    def here(self, app_id: str) -> Glance:
        """This node's part, of one app or, "", of all."""
        strains = sorted(self._strains(app_id), key=severity, reverse=True)[:MAX_STRAINS]
        return Glance(rates_here(self._rates, app_id, self._channels, self._stats), strains)

    async def of(self, app_id: str) -> Whole:
        """What all nodes tell of one app or, "", of all; no older than KEPT_S."""
        others = await self._kept(app_id).get()
        parts = {node_id: answer for node_id, answer in others.items() if answer is not None}
        missing = sorted(node_id for node_id, answer in others.items() if answer is None)
        return Whole({self.node_id: self.here(app_id), **parts}, missing)

    async def breakers(self, app_id: str) -> dict[tuple[str, str], str]:
        """(channel, provider_id) -> the worst state of the app's breakers, where one is not closed."""
        found = strains_of((await self.of(app_id)).parts)
        return {key[1:]: worst_breaker(strains) for key, strains in found.items()}

    def forget(self, app_id: str) -> None:
        """Something was changed: who looks next at this app, or at all, asks again."""
        for whose in ("", app_id):
            self._others.pop(whose, None)

    def _kept(self, app_id: str) -> Kept[Mapping[str, NodeAnswer | None]]:
        known = self._others.get(app_id)
        if known is None:
            if len(self._others) >= MAX_APPS:
                del self._others[next(iter(self._others))]
            question = AskGlance(app_id)
            # Waiting for a node that does not answer costs nobody any work.
            known = Kept(lambda: self._ask_others(question, ASK_S), KEPT_S, cost_factor=1.0)
            self._others[app_id] = known
        return known

    def _strains(self, app_id: str) -> list[AccountStrain]:
        strained: dict[str, dict[str, Strain]] = {}
        for name, channel in self._channels.channels.items():
            found = channel.strains()
            if found:
                strained[name] = found
        if not strained:
            return []
        return [
            AccountStrain(setup.app_id, name, account.provider_id, strain.state, strain.pace, strain.pause_s)
            for setup in self._setups_of(app_id)
            for name, found in strained.items()
            for account in setup.chains.get(cast(Channel, name), [])
            if (strain := found.get(account.credential)) is not None
        ]
