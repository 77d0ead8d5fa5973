"""The campaigns and feed options of apps: kept in the store, and in the memory of every node.

A change counts on this node when it is answered, on others within REFRESH_S. Feeds ask `book` and
`options_of`, which never wait.
"""

import unicodedata
from collections.abc import Callable
from hashlib import blake2b
from typing import Any, Final
from urllib.parse import urlsplit

import msgspec
import structlog
import trio

from actors.feed.ad_book import RESERVE_MS, AdBook
from actors.feed.interest import target_of
from protocol.ads_found import AdCounts, Seen
from protocol.errors import Conflict, HubbubError, ProtocolError, Refused
from protocol.feed_types import FeedOptions, FeedOrder
from protocol.http_campaigns import CreateCampaign, UpdateCampaign
from protocol.records import CampaignRow, FeedOptionsRow, FileRow, Insert, Put, Update
from server import auth
from server.clock import wall_clock_ms
from storage.store import Store

REFRESH_S: Final = 3.0  # how long a change may take to the other nodes; one read of some ms
SETTLE_MS: Final = 60_000  # no row is stored so long after the moment it tells of: an append waits for 1 s
_ORDERS: Final[dict[str, FeedOrder]] = {"chronological": "chronological", "ranked": "ranked"}

log: structlog.stdlib.BoundLogger = structlog.get_logger("campaigns")


class Campaigns:
    """Make and change campaigns, and keep a node's AdBook up to date: by `run`, while feeds are served."""

    def __init__(self, store: Store, *, clock: Callable[[], int] = wall_clock_ms) -> None:
        self.book = AdBook()
        self._store = store
        self._clock = clock
        self._options: dict[str, FeedOptions] = {}
        self._settled: dict[str, Seen] = {}
        self._reading = trio.Lock()  # the book takes one reading at a time

    # -- campaigns ---------------------------------------------------------------------------------------

    async def create(self, app_id: str, wanted: CreateCampaign) -> CampaignRow:
        """Make a campaign; with the same client_id, return the one that was made.

        Raises: ProtocolError(bad_field); Refused(file_not_found, bad_image).
        """
        fields = msgspec.structs.asdict(wanted)
        client_id = fields.pop("client_id")
        row = CampaignRow(
            campaign_id=_id_of(app_id, client_id) if client_id else auth.new_id("ad"),
            app_id=app_id,
            created_at_ms=self._clock(),
            **await self._checked(app_id, fields),
        )
        if 0 < row.ends_at_ms <= self._clock():
            raise ProtocolError("bad_field", "ends_at_ms has passed already.")
        _check_dates(row)
        try:
            await self._store.commit([Insert(row)])
        except Conflict:
            return await self.get(app_id, row.campaign_id)
        await self._changed()
        log.info("campaign_created", app_id=app_id, campaign_id=row.campaign_id)
        return row

    async def update(self, app_id: str, campaign_id: str, change: UpdateCampaign) -> CampaignRow:
        """Change what is given. Raises: Refused(campaign_not_found), and as create."""
        row = await self.get(app_id, campaign_id)
        given = {name: value for name, value in msgspec.structs.asdict(change).items() if value is not None}
        fields = await self._checked(app_id, given)
        row = msgspec.structs.replace(row, **fields)
        _check_dates(row)
        if fields:
            # These columns alone: another request may be changing others.
            await self._store.commit([Update(CampaignRow, {"campaign_id": campaign_id}, fields)])
            await self._changed()
            log.info("campaign_changed", app_id=app_id, campaign_id=campaign_id, fields=sorted(fields))
        return await self.get(app_id, campaign_id)

    async def get(self, app_id: str, campaign_id: str) -> CampaignRow:
        """Raises: Refused(campaign_not_found), for campaigns of other apps as well."""
        row = await self._store.get(CampaignRow, campaign_id)
        if row is None or row.app_id != app_id:
            raise Refused("campaign_not_found")
        return row

    async def list_page(self, app_id: str, *, after: str = "", limit: int = 100) -> list[CampaignRow]:
        """An app's campaigns by rising id, beyond `after`."""
        where: dict[str, str | int | None] = {"app_id": app_id}
        return await self._store.find(
            CampaignRow, where, order_by="campaign_id", after=after or None, limit=limit
        )

    async def report(self, app_id: str, campaign_id: str) -> tuple[CampaignRow, AdCounts]:
        """What has become of a campaign. Raises: Refused(campaign_not_found)."""
        row = await self.get(app_id, campaign_id)
        return row, await self._store.ads.counts(campaign_id)

    # -- options -----------------------------------------------------------------------------------------

    def options_of(self, app_id: str) -> FeedOptions:
        """What an app has switched on, as this node knows it."""
        return self._options.get(app_id, _DEFAULTS)

    async def read_options(self, app_id: str) -> FeedOptions:
        """What an app has switched on, as it is stored."""
        row = await self._store.get(FeedOptionsRow, app_id)
        return _DEFAULTS if row is None else _options_of(row)

    async def put_options(self, app_id: str, options: FeedOptions) -> None:
        """Switch an app's feeds."""
        row = FeedOptionsRow(
            app_id=app_id,
            feed_order=options.order,
            ads=options.ads,
            trending=options.trending,
            recommendations=options.recommendations,
        )
        await self._store.commit([Put(row)])
        await self._changed()
        log.info("feed_options_changed", app_id=app_id, **msgspec.structs.asdict(options))

    # -- the node's memory -------------------------------------------------------------------------------

    async def run(self) -> None:
        """Refresh every REFRESH_S, until cancelled. A store that fails is waited for; what is known stays."""
        while True:
            await self._changed()
            await trio.sleep(REFRESH_S)

    async def refresh(self) -> None:
        """Take over what is stored now. Raises: as the store's reads."""
        async with self._reading:
            now_ms = self._clock()
            self.book.begin_reading()
            found = await self._store.ads.state(
                now_ms,
                settled=self._settled,
                settle_to_ms=now_ms - SETTLE_MS,
                untold_after_ms=now_ms - RESERVE_MS,
            )
            self._settled = found.seen
            self._options = {row.app_id: _options_of(row) for row in found.options}
            used = {
                row.campaign_id: found.untold.get(row.campaign_id, 0) + seen.settled + seen.recent
                for row in found.campaigns
                if (seen := found.seen.get(row.campaign_id)) is not None
            }
            self.book.load(found.campaigns, used, now_ms)

    async def _changed(self) -> None:
        """Refresh, if it can be: what is stored is stored, and the next turn of `run` will find it."""
        try:
            await self.refresh()
        except HubbubError as exc:
            log.warning("campaigns_not_refreshed", code=exc.code)

    # -- values ------------------------------------------------------------------------------------------

    async def _checked(self, app_id: str, fields: dict[str, Any]) -> dict[str, Any]:
        """Tidy the values of a campaign's fields, and write lists as they are stored."""
        checked = dict(fields)
        for name in ("title", "sponsor"):
            if name in checked:
                checked[name] = _line(checked[name], name)
        if "title" in checked and not checked["title"]:
            raise ProtocolError("bad_field", "title is empty.")
        if "text" in checked:
            checked["text"] = "\n".join(_line(line, "text") for line in checked["text"].strip().splitlines())
        if "url" in checked:
            _check_url(checked["url"])
        if checked.get("image"):
            await self._check_image(app_id, checked["image"])
        if "languages" in checked:
            checked["languages"] = _json(_language(raw) for raw in checked["languages"])
        if "hashtags" in checked:
            checked["hashtags"] = _json(target_of("hashtag", raw, "") for raw in checked["hashtags"])
        return checked

    async def _check_image(self, app_id: str, file_id: str) -> None:
        row = await self._store.get(FileRow, file_id)
        if row is None or row.app_id != app_id:
            raise Refused("file_not_found", "The image must be the file_id of an upload to this app.")
        if not row.width:
            raise Refused("bad_image", "The image must be a picture.")


_DEFAULTS: Final = FeedOptions()


def _options_of(row: FeedOptionsRow) -> FeedOptions:
    return FeedOptions(
        order=_ORDERS.get(row.feed_order, "chronological"),  # a newer release may know more
        ads=row.ads,
        trending=row.trending,
        recommendations=row.recommendations,
    )


def _id_of(app_id: str, client_id: str) -> str:
    """The id of what an app's backend calls `client_id`: a repeated request finds the first one by it."""
    named = f"{app_id}\x00{client_id}".encode()
    return f"ad_{blake2b(named, digest_size=12).hexdigest()}"


def _json(items: Any) -> str:
    listed = sorted(set(items))
    return msgspec.json.encode(listed).decode() if listed else ""


def _language(raw: str) -> str:
    if not raw:
        raise ProtocolError("bad_field", "A language is empty.")
    return auth.checked_language(raw)


def _line(raw: str, field: str) -> str:
    """One line, its spaces tidied. Raises: ProtocolError(bad_field) for control characters and the like."""
    line = " ".join(unicodedata.normalize("NFC", raw).split())
    if any(unicodedata.category(char) in ("Cc", "Cs", "Co", "Cn") or char in _TURNING for char in line):
        raise ProtocolError("bad_field", f"{field} must not have control characters.")
    return line


_TURNING: Final = frozenset("\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069\u200e\u200f\ufeff")


def _check_url(url: str) -> None:
    """Raises: ProtocolError(bad_field) for what is no plain address of a page."""
    if not url:
        return
    problem = ProtocolError("bad_field", "url must be an address that begins with http:// or https://.")
    if any(char.isspace() or not char.isprintable() for char in url):
        raise problem
    try:
        parts = urlsplit(url)
        has_host = bool(parts.hostname) and parts.port != 0
    except ValueError:  # a port or an IPv6 address that is none
        raise problem from None
    # A user name before the host is how one address is made to look like another.
    if parts.scheme not in ("http", "https") or not has_host or "@" in parts.netloc:
        raise problem


def _check_dates(row: CampaignRow) -> None:
    if 0 < row.ends_at_ms <= row.starts_at_ms:
        raise ProtocolError("bad_field", "ends_at_ms must be after starts_at_ms.")
