"""What the store finds for ads. Never on the wire; here, since the store and the server speak of it."""

import msgspec

from protocol.records import CampaignRow, FeedOptionsRow


class Seen(msgspec.Struct, frozen=True):
    """Impressions of one campaign: up to a moment, which will not change any more, and after it."""

    settled: int
    settled_to_ms: int
    recent: int


class AdState(msgspec.Struct, frozen=True):
    """What a node has to know to place ads. `seen` is of campaigns with a budget; `untold` by campaign."""

    campaigns: list[CampaignRow]
    options: list[FeedOptionsRow]
    seen: dict[str, Seen]
    untold: dict[str, int]


class AdCounts(msgspec.Struct, frozen=True):
    """What has become of a campaign: how often it was put into a feed, seen there, and clicked."""

    showings: int
    impressions: int
    clicks: int
