"""What a node knows of all campaigns: which run, and how much of each budget is used.

A budget is used by impressions, and by showings of the last ten minutes that were not told as seen yet: so
a burst of readers cannot be shown more than was paid for. The book is read anew from the store every few
seconds; between two readings it counts by itself what happens on this node. Nothing here waits or raises.
"""

from collections import Counter
from collections.abc import Iterable, Mapping
from typing import Final

from actors.feed.ad_rules import Campaign, Reader, campaign_of, choose, is_over, slot_id_of
from protocol.feed_types import AdSlot
from protocol.records import AdShown, CampaignRow

RESERVE_MS: Final = 10 * 60 * 1000  # a page is looked at within minutes, or hardly ever


class AdBook:
    """The campaigns of all apps, for the feed partitions of one node. Filled by server/campaigns.py."""

    def __init__(self) -> None:
        self._campaigns: dict[str, Campaign] = {}
        self._by_app: dict[str, list[Campaign]] = {}
        # What is used of each budget: as the last reading found it; on this node before the reading that is
        # under way, and since it began; and chosen, but not known to be stored.
        self._read: dict[str, int] = {}
        self._before: Counter[str] = Counter()
        self._since: Counter[str] = Counter()
        self._chosen: dict[tuple[str, int, int], tuple[str, int]] = {}
        self._used: dict[str, int] = {}  # the sum of these four, by campaign

    # -- reading the store -------------------------------------------------------------------------------

    def begin_reading(self) -> None:
        """Say that the store is about to be read: what was noted up to now will be in it."""
        self._before += self._since
        self._since.clear()

    def load(self, campaigns: Iterable[CampaignRow], used: Mapping[str, int], now_ms: int) -> None:
        """Take what was read after `begin_reading`: all campaigns that run or will, and what each has used.

        What was chosen ten minutes ago and never noted as shown was not stored, and is given back.
        """
        self._campaigns = {row.campaign_id: campaign_of(row) for row in campaigns}
        self._by_app = {}
        for campaign in self._campaigns.values():
            self._by_app.setdefault(campaign.row.app_id, []).append(campaign)
        self._read = dict(used)
        self._before.clear()
        for key, (_, at_ms) in list(self._chosen.items()):
            if at_ms + RESERVE_MS > now_ms:
                break  # the rest is younger
            del self._chosen[key]
        self._used = dict(self._read)
        for campaign_id, count in self._since.items():
            self._add(campaign_id, count)
        for campaign_id, _ in self._chosen.values():
            self._add(campaign_id, 1)

    # -- slots -------------------------------------------------------------------------------------------

    def choose_for(
        self,
        reader: Reader,
        *,
        anchor: int,
        slot: int,
        hashtags: frozenset[str],
        shown: Mapping[str, int],
        previous_campaign_id: str = "",
        next_campaign_id: str = "",
        now_ms: int,
    ) -> AdSlot | None:
        """Choose the ad of an empty slot, and set one impression of its budget aside; see ad_rules.choose.

        When its AdShown is stored, say `noted_shown`.
        """
        campaigns = self._by_app.get(reader.app_id)
        if not campaigns:
            return None
        slot_id = slot_id_of(anchor, slot)
        campaign = choose(
            campaigns,
            reader,
            hashtags=hashtags,
            shown=shown,
            spent=self._used,
            previous_campaign_id=previous_campaign_id,
            next_campaign_id=next_campaign_id,
            seed=f"{reader.user_id}\x00{slot_id}",
            now_ms=now_ms,
        )
        if campaign is None:
            return None
        campaign_id = campaign.row.campaign_id
        key = (reader.user_id, anchor, slot)
        replaced = self._chosen.pop(key, None)  # popped, so that the order stays that of time
        if replaced is not None:
            self._add(replaced[0], -1)
        self._chosen[key] = (campaign_id, now_ms)
        self._add(campaign_id, 1)
        return _slot_of(campaign.row, slot_id)

    def slot_of(self, shown: AdShown, now_ms: int) -> AdSlot | None:
        """The ad that a slot was given, as it reads now; None where its campaign is paused or over."""
        campaign = self._campaigns.get(shown.campaign_id)
        if campaign is None or campaign.row.is_paused or is_over(campaign.row, now_ms):
            return None
        return _slot_of(campaign.row, slot_id_of(shown.anchor, shown.slot))

    def used(self, campaign_id: str) -> int:
        """Impressions, and showings that may still become one."""
        return self._used.get(campaign_id, 0)

    # -- what was stored on this node --------------------------------------------------------------------

    def noted_shown(self, shown: AdShown) -> None:
        """An ad's showing is stored."""
        if self._chosen.pop((shown.user_id, shown.anchor, shown.slot), None) is not None:
            self._since[shown.campaign_id] += 1
        # Else it was given back meanwhile; the next reading counts it.

    def noted_seen(self, shown: AdShown) -> None:
        """An impression is stored. Only a late one changes the sum: the others were counted when shown."""
        if shown.at_ms + RESERVE_MS <= shown.seen_at_ms:
            self._since[shown.campaign_id] += 1
            self._add(shown.campaign_id, 1)

    def _add(self, campaign_id: str, count: int) -> None:
        self._used[campaign_id] = self._used.get(campaign_id, 0) + count


def _slot_of(row: CampaignRow, slot_id: str) -> AdSlot:
    return AdSlot(
        slot_id=slot_id,
        campaign_id=row.campaign_id,
        title=row.title,
        text=row.text,
        url=row.url,
        image=row.image,
        sponsor=row.sponsor,
    )
