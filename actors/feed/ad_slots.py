"""The ads of one reader: what stands in which slot for 24 hours, and what was told as seen and clicked."""

from collections import Counter
from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import Final, NamedTuple

import msgspec

from actors.feed.ad_book import AdBook
from actors.feed.ad_rules import DAY_MS, Reader, hashtags_above, parse_slot_id, slot_indexes
from protocol.errors import Refused
from protocol.feed_types import AdSlot
from protocol.records import AdShown

MAX_SLOTS: Final = 200  # of one reader in 24 h, behind 1,000 posts; from there on the feed has no new ads


class Told(NamedTuple):
    """What ad_seen or ad_clicked has changed: the row to be stored, and what it counts."""

    row: AdShown
    is_impression: bool
    is_click: bool


class AdSlots:
    """One reader's slots of the last 24 hours. Changed at once; the caller stores the rows it gives."""

    def __init__(self, user_id: str, rows: Iterable[AdShown] = ()) -> None:
        """`rows` are those of the last 24 hours, in any order."""
        self._user_id = user_id
        self._rows: dict[tuple[int, int], AdShown] = {}  # in the order of at_ms
        self._counts: Counter[str] = Counter()
        for row in sorted(rows, key=lambda row: row.at_ms):
            self._keep(row)

    def __len__(self) -> int:
        return len(self._rows)

    def at(self, anchor: int, slot: int) -> AdShown | None:
        """What stands in a slot."""
        return self._rows.get((anchor, slot))

    def beside(self, anchor: int, slot: int, *, is_falling: bool) -> tuple[str, str]:
        """The campaigns of the nearest slots before and behind, on whatever page they were; empty: none.

        `is_falling`: post ids fall along the scroll. Else only the slot that was filled last is known, which
        is the one before.
        """
        same = [row for row in self._rows.values() if row.anchor == anchor]
        if not is_falling:
            return same[-1].campaign_id if same else "", ""
        before = min((row for row in same if row.slot > slot), key=_slot, default=None)
        behind = max((row for row in same if row.slot < slot), key=_slot, default=None)
        return (
            "" if before is None else before.campaign_id,
            "" if behind is None else behind.campaign_id,
        )

    @property
    def shown_counts(self) -> Mapping[str, int]:
        """How often each campaign was shown, for its cap. Say `forget` first."""
        return self._counts

    @property
    def has_room(self) -> bool:
        """Whether another slot may be filled."""
        return len(self._rows) < MAX_SLOTS

    def place(self, anchor: int, slot: int, campaign_id: str, now_ms: int) -> AdShown:
        """Put an ad into an empty slot."""
        row = AdShown(
            user_id=self._user_id,
            day=now_ms // DAY_MS,
            anchor=anchor,
            slot=slot,
            campaign_id=campaign_id,
            at_ms=now_ms,
        )
        self._keep(row)
        return row

    def seen(self, slot_id: str, now_ms: int) -> Told | None:
        """Count an impression; None where it was counted before. Raises: Refused(slot_not_found)."""
        row = self._named(slot_id, now_ms)
        if row.seen_at_ms:
            return None
        return self._change(msgspec.structs.replace(row, seen_at_ms=now_ms), is_impression=True)

    def clicked(self, slot_id: str, now_ms: int) -> Told | None:
        """Count a click; None where it was counted before. Who has clicked an ad has also seen it.

        Raises: Refused(slot_not_found).
        """
        row = self._named(slot_id, now_ms)
        if row.clicked_at_ms:
            return None
        changed = msgspec.structs.replace(row, clicked_at_ms=now_ms, seen_at_ms=row.seen_at_ms or now_ms)
        return self._change(changed, is_impression=not row.seen_at_ms, is_click=True)

    def forget(self, now_ms: int) -> None:
        """Drop what is older than 24 hours."""
        while self._rows:
            key, row = next(iter(self._rows.items()))
            if row.at_ms + DAY_MS > now_ms:
                return
            del self._rows[key]
            self._counts[row.campaign_id] -= 1
            if not self._counts[row.campaign_id]:
                del self._counts[row.campaign_id]

    def _named(self, slot_id: str, now_ms: int) -> AdShown:
        self.forget(now_ms)
        row = self._rows.get(parse_slot_id(slot_id))
        if row is None:
            raise Refused("slot_not_found")
        return row

    def _keep(self, row: AdShown) -> None:
        self._rows[row.anchor, row.slot] = row
        self._counts[row.campaign_id] += 1

    def _change(self, row: AdShown, *, is_impression: bool, is_click: bool = False) -> Told:
        self._rows[row.anchor, row.slot] = row
        return Told(row, is_impression, is_click)


def _slot(row: AdShown) -> int:
    return row.slot


class Organic(NamedTuple):
    """One post of a page: what its item is named by, and its hashtags (of a repost: the original's)."""

    post_id: int
    hashtags: Collection[str] = ()


class Filled(NamedTuple):
    """The ads of a page: each with the index of the post that it stands behind, and the rows to be stored."""

    ads: list[tuple[int, AdSlot]]
    rows: list[AdShown]


def fill(
    page: Sequence[Organic],
    *,
    anchor: int,
    counted_before: int,
    slots: AdSlots,
    book: AdBook,
    reader: Reader,
    is_falling: bool = True,
    now_ms: int,
) -> Filled:
    """Put ads into a page's slots: those that stand there already, new ones into the empty slots.

    `anchor` and `counted_before` (organic items of the pages before) come with the cursor. A slot whose
    campaign was paused or is over stays empty. When `rows` are stored, tell the book (`noted_shown`).
    """
    slots.forget(now_ms)
    ads: list[tuple[int, AdSlot]] = []
    rows: list[AdShown] = []
    hashtags = [post.hashtags for post in page]
    for index in slot_indexes(len(page), counted_before):
        post_id = page[index].post_id
        ad: AdSlot | None = None
        shown = slots.at(anchor, post_id)
        if shown is not None:
            ad = book.slot_of(shown, now_ms)
        elif slots.has_room:
            before, behind = slots.beside(anchor, post_id, is_falling=is_falling)
            ad = book.choose_for(
                reader,
                anchor=anchor,
                slot=post_id,
                hashtags=hashtags_above(hashtags, index),
                shown=slots.shown_counts,
                previous_campaign_id=before,
                next_campaign_id=behind,
                now_ms=now_ms,
            )
            if ad is not None:
                rows.append(slots.place(anchor, post_id, ad.campaign_id, now_ms))
        if ad is not None:
            ads.append((index, ad))
    return Filled(ads, rows)
