"""Bodies of the HTTP API by which an app's backend runs ads and switches its feeds."""

from typing import Annotated

import msgspec
from msgspec import Meta

from protocol.feed_types import Hashtag
from protocol.limits import MAX_SAFE_INTEGER
from protocol.types import AtMs, ClientId, Count

MAX_DAILY_CAP = 100  # a reader gets at most 200 ads a day of all campaigns together

Title = Annotated[str, Meta(min_length=1, max_length=100, description="One line, the headline of the ad.")]
AdText = Annotated[str, Meta(max_length=1_000, description="Beneath the headline; may have several lines.")]
AdUrl = Annotated[
    str, Meta(max_length=2_048, description="Where a click leads: an http or https address; empty: nowhere.")
]
AdImage = Annotated[
    str,
    Meta(
        max_length=64,
        description="file_id of a picture that was uploaded to this app; empty: none. Not an address, as a"
        " reader's device calls nobody but this server before a click.",
    ),
]
Sponsor = Annotated[str, Meta(max_length=100, description="Who pays; shown with the ad.")]
Impressions = Annotated[
    int, Meta(ge=0, le=MAX_SAFE_INTEGER, description="Impressions in all; 0: without limit.")
]
DailyCap = Annotated[
    int,
    Meta(ge=0, le=MAX_DAILY_CAP, description="Showings to one user within 24 hours; 0: without limit."),
]
Languages = Annotated[
    list[Annotated[str, Meta(max_length=35)]],
    Meta(max_length=20, description="BCP 47; en reaches en-GB too. Empty: whatever the user speaks."),
]
Hashtags = Annotated[
    list[Hashtag],
    Meta(max_length=30, description="One of them stands in the five posts above the ad. Empty: wherever."),
]
StartsAt = Annotated[AtMs, Meta(description="0: at once.")]
EndsAt = Annotated[AtMs, Meta(description="0: without end.")]


class _Body(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    pass


class CreateCampaign(_Body, frozen=True, kw_only=True, omit_defaults=True):
    """Ads of one sponsor. With a `client_id`, sending it again gets the same campaign."""

    title: Title
    text: AdText = ""
    url: AdUrl = ""
    image: AdImage = ""
    sponsor: Sponsor = ""
    starts_at_ms: StartsAt = 0
    ends_at_ms: EndsAt = 0
    budget: Impressions = 0
    daily_cap: DailyCap = 3
    languages: Languages = []
    hashtags: Hashtags = []
    is_paused: bool = False
    client_id: ClientId | None = None


class UpdateCampaign(_Body, frozen=True, kw_only=True, omit_defaults=True):
    """Change a campaign; absent fields stay."""

    title: Title | None = None
    text: AdText | None = None
    url: AdUrl | None = None
    image: AdImage | None = None
    sponsor: Sponsor | None = None
    starts_at_ms: StartsAt | None = None
    ends_at_ms: EndsAt | None = None
    budget: Impressions | None = None
    daily_cap: DailyCap | None = None
    languages: Languages | None = None
    hashtags: Hashtags | None = None
    is_paused: Annotated[
        bool | None, Meta(description="A paused one is in no feed from the next read on.")
    ] = None


class Campaign(_Body, frozen=True, kw_only=True, omit_defaults=True):
    """A campaign as it now is."""

    campaign_id: str
    title: str
    text: str = ""
    url: str = ""
    image: str = ""
    sponsor: str = ""
    starts_at_ms: AtMs = 0
    ends_at_ms: AtMs = 0
    budget: Count
    daily_cap: Count
    languages: list[str] = []
    hashtags: list[str] = []
    is_paused: bool = False
    created_at_ms: AtMs = 0


class Campaigns(_Body, frozen=True, kw_only=True, omit_defaults=True):
    """Campaigns by rising id. `next` is `after` for the page behind it; empty: that was all."""

    items: list[Campaign]
    next: str = ""


class CampaignReport(_Body, frozen=True, kw_only=True, omit_defaults=True):
    """What has become of a campaign by now; exact, each slot of a feed counted once."""

    campaign_id: str
    showings: Annotated[Count, Meta(description="Slots of feeds that it was put into.")]
    impressions: Annotated[Count, Meta(description="Of these, how many were on a screen.")]
    clicks: Count
    budget: Annotated[Count, Meta(description="Impressions in all; 0: without limit.")]
    left: Annotated[Count | None, Meta(description="Of the budget; null: without limit.")]
