"""How an app's larger requests give way to others."""

from actors.notify.app import EASY_PAGE_S, MAX_REST_S, rest_s


def test_a_campaign_rests_only_where_its_pages_take_long() -> None:
    """On an idle node it is as fast as it can be; on a busy one, one-time codes come first."""
    assert rest_s(EASY_PAGE_S / 2) == 0.0
    assert rest_s(EASY_PAGE_S) == 0.0
    assert rest_s(0.5) > 0.5
    assert rest_s(0.3) < rest_s(0.6)
    assert rest_s(60.0) == MAX_REST_S
