"""Links of mails lead through ours, all else of the html stays, and there is a text for who reads no html."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from server.notify.mail_html import is_page, put_at_end, rewrite_links, text_of


def _through(url: str) -> str:
    return f"https://t.example/c?u={len(url)}&x=1"


def _seen(html: str) -> list[str]:
    """The addresses that a rewriting asks about."""
    urls: list[str] = []

    def note(url: str) -> str:
        urls.append(url)
        return url

    rewrite_links(html, note)
    return urls


@pytest.mark.parametrize(
    ("html", "expected"),
    [
        ('<a href="http://x.example/">x</a>', '<a href="https://t.example/c?u=17&amp;x=1">x</a>'),
        (
            "<A HREF='http://x.example/' class=b>x</A>",
            '<a href="https://t.example/c?u=17&amp;x=1" class="b">x</A>',
        ),
        ("<a href=http://x.example/>x", '<a href="https://t.example/c?u=17&amp;x=1">x'),
        (
            '<a\n  id=a\n href = " http://x.exa\nmple/ "\n>x',
            '<a id="a" href="https://t.example/c?u=17&amp;x=1">x',
        ),
        ('<area href="http://x.example/" />', '<area href="https://t.example/c?u=17&amp;x=1" />'),
        (
            'é\n€ <a title="a>b" href="http://x.example/">',
            'é\n€ <a title="a&gt;b" href="https://t.example/c?u=17&amp;x=1">',
        ),
        (
            '<a href="http://x.example/" href="http://y">',
            '<a href="https://t.example/c?u=17&amp;x=1" href="http://y">',
        ),
    ],
)
def test_a_links_address_is_replaced_however_it_is_written(html: str, expected: str) -> None:
    """Editors of mails write html in all ways that browsers read."""
    assert rewrite_links(html, _through) == expected


def test_the_address_is_read_as_a_browser_reads_it() -> None:
    """&amp; in an attribute is &, and of two addresses the first counts."""
    assert _seen('<a href="https://x.example/?a=1&amp;b=&quot;2">') == ['https://x.example/?a=1&b="2']
    assert _seen("<a href=HTTPS://x.example><p><a href='http://y/z'></a>") == [
        "HTTPS://x.example",
        "http://y/z",
    ]


@pytest.mark.parametrize(
    "html",
    [
        '<a href="mailto:a@x.example">',
        '<a href="#top">',
        '<a href="/relative">',
        '<a href="//x.example/">',
        '<a href="app://x">',
        '<a href="javascript:x">',
        "<a href>",
        '<a name="http://x.example/">',
        '<link href="https://x.example/a.css">',
        '<img src="https://x.example/a.png">',
        "<!-- <a href='https://x.example/'> -->",
        "<style>a[href='https://x.example/'] {}</style>",
        "<script>'<a href=\"https://x.example/\">'</script>",
        'a < b <a href="https://x.example/',
        "<!--[if mso]><a href='https://x.example/'><![endif]--><![endif]><![nonsense",
        '<a href="https://x.example/unsubscribe?t=1">',
        '<a href="https://x.example/Opt-Out">',
        '<a href="https://x.example/u" rel="unsubscribe">',
        '<a data-no-track href="https://x.example/u">',
        "<",
        "",
    ],
)
def test_what_is_no_link_to_the_web_or_unsubscribes_stays(html: str) -> None:
    """A link to unsubscribe works even where the tracker does not."""
    assert rewrite_links(html, _through) == html


def test_links_that_are_to_be_kept_are_kept() -> None:
    """The caller knows the one-click address, whatever it looks like."""
    html = '<a href="https://x.example/u/1">a</a><a href="https://x.example/u/2">b</a>'
    rewritten = rewrite_links(html, _through, keep=["https://x.example/u/1"])
    assert rewritten.startswith('<a href="https://x.example/u/1">a</a>')
    assert "u/2" not in rewritten


@given(
    st.lists(
        st.sampled_from(["<", ">", "a", " ", "\n", "&", "é", '"', "'", "/", "!--", "-->", "<p>", "</p>"])
    )
)
def test_html_without_links_is_unchanged_whatever_it_is(parts: list[str]) -> None:
    """To the byte: a mail's layout depends on its quirks."""
    html = "".join(parts)
    assert rewrite_links(html, _through) == html


@given(
    st.lists(st.sampled_from(["<p>", "é", "\n", "</p>", "<br>", "&amp;", "a < b", '<a href="http://x/y">']))
)
def test_only_the_links_change(parts: list[str]) -> None:
    """Positions are right after lines, entities and characters of any width."""
    link = '<a href="http://x/y">'
    expected = "".join(
        f'<a href="{_through("http://x/y").replace("&", "&amp;")}">' if part == link else part
        for part in parts
    )
    assert rewrite_links("".join(parts), _through) == expected


@pytest.mark.parametrize(
    ("html", "text"),
    [
        ("<p>One</p><p>Two<br>lines</p>", "One\n\nTwo\nlines"),
        ("<div>a</div><div>b</div>", "a\nb"),
        ("<ul><li>a</li><li><p>b</p></li></ul>c", "- a\n- b\n\nc"),
        ("<a href='https://x.example/a'>Go</a>!", "Go (https://x.example/a)!"),
        ("<a href='https://x.example/a'>x.example/a</a>", "x.example/a"),
        ("<a href='https://x.example/a'><img alt=''></a>", "https://x.example/a"),
        ("<a href='mailto:a@x.example'>Mail</a>", "Mail"),
        ("<img alt='A logo'> a", "A logo a"),
        ("<head><title>t</title><style>x{}</style></head><body>Hi", "Hi"),
        ("<head><title>t</title><body>Hi", "Hi"),
        ("  a \n\t b&nbsp;c &lt;d&gt; &amp", "a b\xa0c <d> &"),
        ("<table><tr><td>a</td><td>b</td></tr><tr><td>c</td></tr></table>", "a b\nc"),
        ("a<![if !mso]>b<![endif]>c", "abc"),
        ("a<script>x</script><!-- y -->b", "ab"),
        ("a<br><br><br>b", "a\n\nb"),
        ("", ""),
    ],
)
def test_html_is_told_as_text(html: str, text: str) -> None:
    """Paragraphs, lists and addresses are still there; nothing that is not shown is."""
    assert text_of(html) == text


@pytest.mark.parametrize(
    "part",
    [
        "<",
        "<a ",
        "<!--",
        "<!",
        "</",
        "&",
        "<a href='",
        '<a href="x" ',
        "<a>",
        "<p ",
        "<?",
        "<![",
        " <td>",
        "<br>",
        "<li>",
        "\n",
    ],
)
@pytest.mark.timeout(30)
def test_broken_html_takes_no_longer_than_whole(part: str) -> None:
    """64 KB of anything come to an end: what takes the square of the length would not within the timeout."""
    html = (part * (64 * 1024))[: 64 * 1024]
    assert rewrite_links(html, _through) == html
    text_of(html)


@pytest.mark.parametrize(
    ("page", "expected"),
    [
        ("<html><body>a</body></html>", "<html><body>a+</body></html>"),
        ("<HTML><BODY>a</BODY ></HTML>\n", "<HTML><BODY>a+</BODY ></HTML>\n"),
        ("<!doctype html><p>a", "<!doctype html><p>a+"),
        ("<html ><p>a</html>", "<html ><p>a+</html>"),
        ("<body><!-- </body> -->a</body>", "<body><!-- </body> -->a+</body>"),
    ],
)
def test_what_is_put_at_the_end_of_a_page_is_shown(page: str, expected: str) -> None:
    """Behind the end of the page some mail readers show nothing."""
    assert is_page(page)
    assert put_at_end(page, "+") == expected


@pytest.mark.parametrize("html", ["", "<p>a</p>", "<header>a</header>", "&lt;html&gt;", "<bodyguard>"])
def test_a_part_of_a_page_is_none(html: str) -> None:
    """A page is written around it."""
    assert not is_page(html)
