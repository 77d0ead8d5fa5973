"""Pages of a ranked feed: the newest posts in the order of their scores, which stays while it is read.

The order is made once, from up to 800 candidates that the chronological feed would show, and kept for the
pages that follow. A snapshot that has gone (an hour, a restart) is made again as of the same moment; counts
and interests may have changed meanwhile, so posts may then stand elsewhere. Behind the last ranked post the
feed goes on by time.
"""

from actors.feed.cursor import Cursor
from actors.feed.feed import ENDLESS, Feed
from actors.feed.page import Missing, PageMaker, Stretch
from actors.feed.post_cache import Shown
from actors.feed.ranked_feed import RankedFeed, RankedFeeds
from actors.feed.ranking import Candidate, parts, rank, score
from protocol.errors import Refused
from protocol.feed_replies import Explanation
from protocol.limits import PAGE_BYTES


def ranked_page(
    maker: PageMaker,
    feed: Feed,
    snapshots: RankedFeeds,
    start: Cursor,
    limit: int,
    *,
    cap: int,
    now_ms: int,
) -> tuple[Stretch, list[float], Cursor | None] | Missing:
    """A page from `start` on: what it shows, the scores, and where it goes on; None: that was all."""
    made_at_ms = start.made_at_ms or now_ms
    snapshot = snapshots.get(feed.user_id, made_at_ms, now_ms) if start.made_at_ms else None
    if snapshot is None:
        made = _make(maker, feed, start.anchor, cap=cap, made_at_ms=made_at_ms)
        if isinstance(made, Missing):
            return made
        snapshot = made
        snapshots.keep(feed.user_id, snapshot)
    shown: list[Shown] = []
    scores: list[float] = []
    offset = start.bound
    size_bytes = 0
    while len(shown) < limit and offset < len(snapshot) and size_bytes <= PAGE_BYTES:
        ids = snapshot.page(offset, limit - len(shown))
        found = maker.still_shown([post_id for post_id, _ in ids])
        if isinstance(found, Missing):
            return found
        for (_, value), entry in zip(ids, found, strict=True):
            if size_bytes > PAGE_BYTES:
                break
            offset += 1
            if entry is not None:  # else it was deleted, blocked or muted since
                shown.append(entry)
                scores.append(value)
                size_bytes += entry[0].size_bytes + (0 if entry[1] is None else entry[1].size_bytes)
    counted = start.counted + len(shown)
    goes_on: Cursor | None = None
    if offset < len(snapshot):
        goes_on = Cursor("ranked", offset, counted, snapshot.anchor_id, snapshot.made_at_ms)
    elif snapshot.goes_on_below:
        goes_on = Cursor("older", snapshot.goes_on_below, counted, snapshot.anchor_id)
    stretch = Stretch(
        shown=shown,
        left_out=[],
        last_examined=0,
        first_examined=snapshot.anchor_id,
        is_end=goes_on is None,
        is_complete=True,
    )
    return stretch, scores, goes_on


def _make(maker: PageMaker, feed: Feed, anchor: int, *, cap: int, made_at_ms: int) -> RankedFeed | Missing:
    """Rank the newest posts, or the newest up to an anchor."""
    stretch = maker.older(anchor + 1 if anchor else 0, cap, max_bytes=ENDLESS)
    if isinstance(stretch, Missing):
        return stretch
    relations = feed.relations
    assert relations is not None
    affinities = relations.affinities
    if affinities is None:
        return Missing(affinities=True)
    candidates = []
    for entry in stretch.shown:
        post, root = entry[0].post, None if entry[1] is None else entry[1].post
        value = score(
            post,
            root,
            affinity=affinities.of(post, root, made_at_ms),
            interest=relations.interests.factor_of(post, root, made_at_ms) if relations.interests else 1.0,
            now_ms=made_at_ms,
        )
        candidates.append(Candidate(value, post.post_id, post.author_id))
    return RankedFeed(
        rank(candidates),
        anchor_id=stretch.first_examined,
        made_at_ms=made_at_ms,
        goes_on_below=0 if stretch.is_end else stretch.last_examined,
    )


def explain(
    maker: PageMaker, feed: Feed, snapshots: RankedFeeds, app_id: str, post_id: int, now_ms: int
) -> Explanation | Missing:
    """Why a reader gets a post, or not, and the factors of its score as of now.

    Raises: Refused("post_not_found"), also of a post that the reader may not see.
    """
    reason = maker.judge(post_id)
    if isinstance(reason, Missing):
        return reason
    relations = feed.relations
    assert relations is not None
    if relations.affinities is None:
        return Missing(affinities=True)
    entry = maker.entry(post_id)
    if entry is None or not maker.may_be_seen(entry, app_id):
        raise Refused("post_not_found")
    omission = None if reason is None else maker.omission(entry[0], reason)
    if reason in ("deleted", "not_followed", "blocked", "not_visible"):
        return Explanation(post_id=post_id, left_out=reason)
    post, root = entry[0].post, None if entry[1] is None else entry[1].post
    factors = parts(
        post,
        root,
        affinity=relations.affinities.of(post, root, now_ms),
        interest=relations.interests.factor_of(post, root, now_ms) if relations.interests else 1.0,
        now_ms=now_ms,
    )
    value = 1.0
    for part in factors:
        value *= part.factor
    snapshot = snapshots.latest(feed.user_id, now_ms)
    place = None if snapshot is None else snapshot.place_of(post_id)
    return Explanation(
        post_id=post_id,
        why=maker.why(entry) if reason is None else None,
        left_out=reason,
        until_ms=0 if omission is None else omission.until_ms,
        score=value,
        factors=factors,
        held_back=0 if snapshot is None or place is None else snapshot.held_back(place),
    )
