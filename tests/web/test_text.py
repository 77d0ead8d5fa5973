"""What the page makes of a message's text: links that lead nowhere bad, and mentions of members only."""

from typing import Any

import pytest
from playwright.sync_api import Page

pytestmark = [pytest.mark.browser, pytest.mark.slow]

PIECES = """
async ([text, names]) => {
  const { pieces } = await import("/js/text.js");
  return pieces(text, new Map(names));
}
"""
NAMES = [["ann", "u1"], ["bob.b", "u2"]]


def pieces(page: Page, text: str) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = page.evaluate(PIECES, [text, NAMES])
    assert "".join(piece["text"] for piece in found) == text, "no character may be lost or added"
    return found


@pytest.mark.parametrize(
    ("text", "links"),
    [
        ("see https://example.com/a.", ["https://example.com/a"]),
        ("(https://example.com/a_(b))", ["https://example.com/a_(b))"]),
        ("(https://example.com/a)", ["https://example.com/a"]),
        ("http://a.example,https://b.example/?q=1&r=2#f!", ["http://a.example,https://b.example/?q=1&r=2#f"]),
        ("javascript:alert(1) data:text/html,x ftp://example.com", []),
        ("https://", []),
        ('https://example.com/"onclick=x', ["https://example.com/"]),
        ("HTTPS://EXAMPLE.COM", ["HTTPS://EXAMPLE.COM"]),
    ],
)
def test_only_web_addresses_become_links(blank: Page, text: str, links: list[str]) -> None:
    """Readers click what others wrote; nothing but http and https may come of it."""
    assert [piece["url"] for piece in pieces(blank, text) if "url" in piece] == links


@pytest.mark.parametrize(
    ("text", "user_ids"),
    [
        ("@ann hello @BOB.B.", ["u1", "u2"]),
        ("mail ann@ann.example", []),
        ("@annabel @nobody @", []),
        ("(@ann), @ann's", ["u1", "u1"]),
        ("https://example.com/@ann", []),
    ],
)
def test_only_members_are_mentioned(blank: Page, text: str, user_ids: list[str]) -> None:
    """A mention alerts somebody, so it has to be meant."""
    assert [piece["user_id"] for piece in pieces(blank, text) if "user_id" in piece] == user_ids


POST_PIECES = """
async ([text, hashtags]) => {
  const { postPieces } = await import("/js/text.js");
  return postPieces(text, new Map([["ann", "u1"]]), hashtags);
}
"""


@pytest.mark.parametrize(
    ("text", "told", "shown"),
    [
        ("#Tea and #coffee, #water", ["tea", "coffee"], ["#Tea", "#coffee"]),
        ("#Straße #STRASSE", ["strasse"], ["#Straße", "#STRASSE"]),
        ("https://example.com/#tea @ann#tea #tea", ["tea"], ["#tea", "#tea"]),
        ("#tea", [], []),
        ("(#日本語)", ["日本語"], ["#日本語"]),
    ],
)
def test_hashtags_are_those_that_the_server_found(
    blank: Page, text: str, told: list[str], shown: list[str]
) -> None:
    """What counts as a hashtag is decided in one place: "not interested" means the same everywhere."""
    found: list[dict[str, Any]] = blank.evaluate(POST_PIECES, [text, told])
    assert "".join(piece["text"] for piece in found) == text
    assert [piece["text"] for piece in found if "hashtag" in piece] == shown
    assert all(piece["hashtag"] in told for piece in found if "hashtag" in piece)
