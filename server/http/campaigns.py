"""For the backend of an app: the ads in its users' feeds, and what its feeds have switched on."""

from typing import Annotated

import msgspec
from litestar import Router, get, patch, post, put
from litestar.params import FromPath, JSONBody, QueryParameter

from protocol.errors import Refused
from protocol.feed_types import FeedOptions
from protocol.http_campaigns import (
    Campaign,
    CampaignReport,
    Campaigns,
    CreateCampaign,
    UpdateCampaign,
)
from protocol.records import CampaignRow
from server import campaigns
from server.http.app_auth import APP_AUTH, app_of
from server.http.context import SMALL_BODY_BYTES, AnyRequest, services_of

_TAGS = ["Ads and feed options"]
_texts = msgspec.json.Decoder(list[str])


@post("/campaigns", status_code=201, summary="Make a campaign", tags=_TAGS, security=APP_AUTH)
async def create_campaign(request: AnyRequest, data: JSONBody[CreateCampaign]) -> Campaign:
    """It runs from `starts_at_ms` on, where the app's feeds have ads switched on."""
    key, _ = await app_of(request)
    return _shown(await _campaigns_of(request).create(key.app_id, data))


@get("/campaigns", summary="List the app's campaigns", tags=_TAGS, security=APP_AUTH)
async def list_campaigns(
    request: AnyRequest,
    after: Annotated[str, QueryParameter(max_length=64, description="`next` of the page before.")] = "",
    limit: Annotated[int, QueryParameter(ge=1, le=500)] = 100,
) -> Campaigns:
    """Those that are paused or over too."""
    key, _ = await app_of(request)
    rows = await _campaigns_of(request).list_page(key.app_id, after=after, limit=limit + 1)
    items = [_shown(row) for row in rows[:limit]]
    return Campaigns(items=items, next=items[-1].campaign_id if len(rows) > limit else "")


@get("/campaigns/{campaign_id:str}", summary="Read a campaign", tags=_TAGS, security=APP_AUTH)
async def get_campaign(request: AnyRequest, campaign_id: FromPath[str]) -> Campaign:
    """As it now is."""
    key, _ = await app_of(request)
    return _shown(await _campaigns_of(request).get(key.app_id, campaign_id))


@patch("/campaigns/{campaign_id:str}", summary="Change or pause a campaign", tags=_TAGS, security=APP_AUTH)
async def update_campaign(
    request: AnyRequest, campaign_id: FromPath[str], data: JSONBody[UpdateCampaign]
) -> Campaign:
    """Ads that stand in feeds already are changed as well, at the next read."""
    key, _ = await app_of(request)
    return _shown(await _campaigns_of(request).update(key.app_id, campaign_id, data))


@get("/campaigns/{campaign_id:str}/report", summary="Count a campaign", tags=_TAGS, security=APP_AUTH)
async def campaign_report(request: AnyRequest, campaign_id: FromPath[str]) -> CampaignReport:
    """Showings, impressions and clicks up to now."""
    key, _ = await app_of(request)
    row, counts = await _campaigns_of(request).report(key.app_id, campaign_id)
    return CampaignReport(
        campaign_id=row.campaign_id,
        showings=counts.showings,
        impressions=counts.impressions,
        clicks=counts.clicks,
        budget=row.budget,
        left=max(0, row.budget - counts.impressions) if row.budget else None,
    )


@get("/feed_options", summary="Read the feed's options", tags=_TAGS, security=APP_AUTH)
async def get_feed_options(request: AnyRequest) -> FeedOptions:
    """What the app's feeds have switched on."""
    key, _ = await app_of(request)
    return await _campaigns_of(request).read_options(key.app_id)


@put("/feed_options", summary="Set the feed's options", tags=_TAGS, security=APP_AUTH)
async def put_feed_options(request: AnyRequest, data: JSONBody[FeedOptions]) -> FeedOptions:
    """All of them at once: what is absent gets its default."""
    key, _ = await app_of(request)
    await _campaigns_of(request).put_options(key.app_id, data)
    return data


def _campaigns_of(request: AnyRequest) -> campaigns.Campaigns:
    found = services_of(request).campaigns
    if found is None:
        raise Refused("not_enabled", "This server has no news feed.")
    return found


def _shown(row: CampaignRow) -> Campaign:
    return Campaign(
        campaign_id=row.campaign_id,
        title=row.title,
        text=row.text,
        url=row.url,
        image=row.image,
        sponsor=row.sponsor,
        starts_at_ms=row.starts_at_ms,
        ends_at_ms=row.ends_at_ms,
        budget=row.budget,
        daily_cap=row.daily_cap,
        languages=_texts.decode(row.languages) if row.languages else [],
        hashtags=_texts.decode(row.hashtags) if row.hashtags else [],
        is_paused=row.is_paused,
        created_at_ms=row.created_at_ms,
    )


def campaign_router() -> Router:
    """Everything that an app's backend does about ads and feed options."""
    return Router(
        path="/v1/app",
        route_handlers=[
            create_campaign,
            list_campaigns,
            get_campaign,
            update_campaign,
            campaign_report,
            get_feed_options,
            put_feed_options,
        ],
        request_max_body_size=SMALL_BODY_BYTES,
    )
