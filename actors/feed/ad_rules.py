"""Which ad stands where: the slots of a scroll, who may see a campaign, and which of several is taken.

Nothing here is drawn by chance: the same reader, slot and campaigns give the same ad, on every node.
"""

import math
import re
from collections.abc import Collection, Iterable, Mapping, Sequence
from hashlib import blake2b
from typing import Final, Literal, NamedTuple

import msgspec

from protocol.errors import Refused
from protocol.limits import AD_EVERY, MAX_SAFE_INTEGER
from protocol.records import CampaignRow

DAY_MS: Final = 24 * 3600 * 1000
_HOUR_MS: Final = 3600 * 1000
_OPEN_END_HOURS: Final = 30 * 24  # over which a budget without an end is spread
_FILLER_PACE: Final = 0.1  # of a campaign without a budget: it takes what the others leave
_SLOWEST_PACE: Final = 1.0  # of one that has a budget
_NUMBER: Final = re.compile(rf"[1-9][0-9]{{0,{len(str(MAX_SAFE_INTEGER)) - 1}}}")  # in one spelling only

Obstacle = Literal["paused", "not_started", "over", "budget_used", "language", "hashtags", "capped"]
"""Why a campaign is not shown to a reader now."""
_texts = msgspec.json.Decoder(list[str])


class Reader(NamedTuple):
    """Whose feed it is. `language` is BCP 47; empty: not known."""

    user_id: str
    app_id: str
    language: str = ""


class Campaign(NamedTuple):
    """A campaign with its targets read."""

    row: CampaignRow
    languages: tuple[str, ...]
    hashtags: frozenset[str]

    @property
    def target_count(self) -> int:
        """By how many kinds of targets it is narrowed."""
        return bool(self.languages) + bool(self.hashtags)


def campaign_of(row: CampaignRow) -> Campaign:
    """Read a stored campaign's targets."""
    return Campaign(
        row,
        tuple(_texts.decode(row.languages)) if row.languages else (),
        frozenset(_texts.decode(row.hashtags)) if row.hashtags else frozenset(),
    )


# -- slots ------------------------------------------------------------------------------------------


def slot_indexes(count: int, counted_before: int) -> range:
    """Tell behind which of a page's `count` organic items an ad stands, by their index.

    Behind every 5th, counted from the beginning of the scroll; `counted_before` are those of the pages
    before. So no ad opens a feed and no two stand side by side, however the scroll is cut into pages.
    """
    first = AD_EVERY - 1 - counted_before % AD_EVERY
    return range(first, count, AD_EVERY)


def hashtags_above(page: Sequence[Collection[str]], index: int) -> frozenset[str]:
    """The hashtags that an ad behind `index` is matched with: of the posts since the last slot."""
    above = page[max(0, index + 1 - AD_EVERY) : index + 1]
    return frozenset().union(*above)


def slot_id_of(anchor: int, slot: int) -> str:
    """Name a slot: `slot` is the post before it, `anchor` where the scroll began."""
    return f"{anchor}.{slot}"


def parse_slot_id(slot_id: str) -> tuple[int, int]:
    """Return (anchor, slot). Raises: Refused(slot_not_found) for anything that slot_id_of does not make."""
    parts = slot_id.split(".")
    if len(parts) == 2 and all(map(_NUMBER.fullmatch, parts)):
        return int(parts[0]), int(parts[1])
    raise Refused("slot_not_found")


# -- campaigns --------------------------------------------------------------------------------------


def obstacle_to(
    campaign: Campaign,
    reader: Reader,
    *,
    hashtags: Collection[str],
    shown_count: int,
    spent: int,
    now_ms: int,
) -> Obstacle | None:
    """Say why a campaign cannot be shown to this reader now; None: it can.

    `hashtags`: of the posts above the slot. `shown_count`: how often the reader was shown it within 24 h.
    `spent`: impressions told, and showings that may still become one.
    """
    row = campaign.row
    if row.is_paused:
        return "paused"
    if now_ms < row.starts_at_ms:
        return "not_started"
    if is_over(row, now_ms):
        return "over"
    if row.budget and spent >= row.budget:
        return "budget_used"
    if campaign.languages and not any(speaks(reader.language, wanted) for wanted in campaign.languages):
        return "language"
    if campaign.hashtags and campaign.hashtags.isdisjoint(hashtags):
        return "hashtags"
    if row.daily_cap and shown_count >= row.daily_cap:
        return "capped"
    return None


def is_over(row: CampaignRow, now_ms: int) -> bool:
    """Tell whether its last moment has passed."""
    return 0 < row.ends_at_ms <= now_ms


def speaks(language: str, wanted: str) -> bool:
    """Match by prefix, as RFC 4647 section 3.3.1: en matches en-GB, not the other way round."""
    language, wanted = language.lower(), wanted.lower()
    return language == wanted or language.startswith(f"{wanted}-")


def pace_of(row: CampaignRow, spent: int, now_ms: int) -> float:
    """How many impressions an hour it needs, so that its budget is used when it ends."""
    if not row.budget:
        return _FILLER_PACE
    hours_left = (row.ends_at_ms - now_ms) / _HOUR_MS if row.ends_at_ms else _OPEN_END_HOURS
    return max((row.budget - spent) / max(hours_left, 1.0), _SLOWEST_PACE)


def choose(
    campaigns: Iterable[Campaign],
    reader: Reader,
    *,
    hashtags: Collection[str],
    shown: Mapping[str, int],
    spent: Mapping[str, int],
    previous_campaign_id: str = "",
    next_campaign_id: str = "",
    seed: str,
    now_ms: int,
) -> Campaign | None:
    """Choose the campaign of a slot; None where none can be shown.

    Not the one of the slot before, nor of the one behind (which has its ad where a slot is filled late),
    where another can be shown. Of the rest, the more narrowly targeted; of those by pace: one that needs
    twice as many impressions an hour is taken twice as often. `seed` names reader and slot; `shown` counts by
    campaign what the reader was shown within 24 h, `spent` is as for `obstacle_to`.
    """
    able = [
        campaign
        for campaign in campaigns
        if obstacle_to(
            campaign,
            reader,
            hashtags=hashtags,
            shown_count=shown.get(campaign.row.campaign_id, 0),
            spent=spent.get(campaign.row.campaign_id, 0),
            now_ms=now_ms,
        )
        is None
    ]
    if not able:
        return None
    for avoided in ({previous_campaign_id, next_campaign_id}, {previous_campaign_id}):
        if others := [campaign for campaign in able if campaign.row.campaign_id not in avoided]:
            able = others
            break
    narrowest = max(campaign.target_count for campaign in able)
    return min(
        (campaign for campaign in able if campaign.target_count == narrowest),
        key=lambda campaign: _turn(campaign.row, spent.get(campaign.row.campaign_id, 0), seed, now_ms),
    )


def _turn(row: CampaignRow, spent: int, seed: str, now_ms: int) -> tuple[float, str]:
    """Draw by hash, so that the smallest belongs to each with a chance in proportion to its pace.

    Weighted rendezvous hashing: -ln(u) / weight is exponentially distributed with the weight as its rate. A
    campaign more or less changes only the slots that it gains or gives up.
    """
    digest = blake2b(f"{seed}\x00{row.campaign_id}".encode(), digest_size=8).digest()
    chance = (int.from_bytes(digest, "big") + 1) / (2**64 + 1)
    return -math.log(chance) / pace_of(row, spent, now_ms), row.campaign_id
