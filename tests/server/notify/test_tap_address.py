"""Where a notification may lead."""

import pytest

from server.notify.tap_address import is_picture, leads_safely


@pytest.mark.parametrize(
    "address",
    [
        "",
        "https://a.example/x?y=1#z",
        "/orders/7",
        "#c/cv_1",
        "myapp://orders/7",
        "mailto:a@b.example",
        "a:1",
    ],
)
def test_a_page_and_an_apps_own_scheme_are_welcome(address: str) -> None:
    """Deep links are what a push is for."""
    assert leads_safely(address)


@pytest.mark.parametrize(
    "address",
    [
        "javascript:alert(1)",
        " JavaScript:x",
        "java\tscript:x",
        "java\nscript:x",
        "\x01javascript:x",
        "javascript :x",
        "data:text/html,<script>",
        "vbscript:x",
        "file:///etc/passwd",
        "blob:https://a.example/1",
        "content://sms",
        "view-source:https://a.example",
    ],
)
def test_what_would_run_or_read_something_is_not_opened(address: str) -> None:
    """Apps put words of their own users into addresses, and clients of others open them."""
    assert not leads_safely(address)
    assert not is_picture(address)


def test_a_picture_comes_from_the_web_or_from_our_own_page() -> None:
    """A phone loads it without being asked."""
    assert is_picture("https://a.example/x.png")
    assert is_picture("/v1/files/f_1")
    assert is_picture("")
    assert not is_picture("myapp://x")
