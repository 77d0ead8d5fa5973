"""What nodes ask each other about themselves, for the dashboard.

It travels between nodes, so it only grows: a new field has a default.
"""

import msgspec

from protocol.http_notify_dashboard import NotifyRates


class AskGlance(msgspec.Struct, frozen=True, tag="notify_glance"):
    """How do an app's notifications do on your node; "": those of all apps. Answered by Glance."""

    app_id: str


class AccountStrain(msgspec.Struct, frozen=True, array_like=True):
    """An account at a provider that a node does not use as it could.

    `breaker`: closed, open or half_open. `pace`: the share of its rate that is used, below 1 after
    complaints. `pause_s`: for how long yet the provider wants nothing at all.
    """

    app_id: str
    channel: str
    provider_id: str
    breaker: str
    pace: float = 1.0
    pause_s: float = 0.0


class Glance(msgspec.Struct, frozen=True, tag="notify_glanced"):
    """What one node has done, and which accounts it uses less than it could; the worst of these first."""

    rates: NotifyRates
    strains: list[AccountStrain]


NodeQuestion = AskGlance
NodeAnswer = Glance
