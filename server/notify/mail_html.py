"""Html of mails: send its links through ours, and make a plain text of it."""

import re
from collections.abc import Callable, Collection
from html import escape, unescape
from html.parser import HTMLParser
from typing import Final

_LINKED_TAGS: Final = frozenset({"a", "area"})
# Browsers strip these from both ends of an address, and drop tabs and line ends within (WHATWG URL 4.4).
_STRIPPED: Final = "".join(map(chr, range(0x21)))
_DROPPED: Final = str.maketrans("", "", "\t\n\r")
_HTTP: Final = re.compile(r"https?://[^/]", re.IGNORECASE)
_UNSUBSCRIBES: Final = re.compile(r"unsubscribe|opt[-_]?out", re.IGNORECASE)
_PAGE: Final = re.compile(r"<!doctype\s|<html[\s>]|<body[\s>]", re.IGNORECASE)
_PAGE_END: Final = re.compile(r"</(body|html)\s*>", re.IGNORECASE)
NO_TRACK: Final = "data-no-track"

_BLOCKS: Final = frozenset(
    [
        "address",
        "article",
        "aside",
        "blockquote",
        "center",
        "dd",
        "div",
        "dl",
        "dt",
        "fieldset",
        "figure",
        "footer",
        "form",
        "h1",
        "h2",
        "h3",
        "h4",
        "h5",
        "h6",
        "header",
        "hr",
        "li",
        "main",
        "nav",
        "ol",
        "p",
        "pre",
        "section",
        "table",
        "tr",
        "ul",
    ]
)
_PARAGRAPHS: Final = frozenset(
    ["blockquote", "h1", "h2", "h3", "h4", "h5", "h6", "ol", "p", "pre", "table", "ul"]
)
_UNSEEN: Final = frozenset({"head", "script", "style", "template", "title"})
_SPACES: Final = re.compile(r"[\x00-\x20]+")  # so that no text holds the marks below
_LINE: Final = "\x01"
_PARAGRAPH: Final = "\x02"
_BR: Final = "\n"
_BULLET: Final = "- "
_GAPS: Final = re.compile(r"[ \x01\x02\n]+")


def rewrite_links(html: str, make_url: Callable[[str], str], *, keep: Collection[str] = ()) -> str:
    """Replace each http and https address of a link by what `make_url` makes of it.

    All else stays as it is, to the byte, and so do links that unsubscribe: those in `keep`, those whose
    address says so, and those with rel="unsubscribe" or the attribute data-no-track. A link to unsubscribe
    must not depend on a tracker (RFC 8058), and a click on it is no interest.
    """
    rewriter = _LinkRewriter(html, make_url, frozenset(keep))
    # No close(): what is left unparsed is no whole tag, so it has no link; and parsing on from each "<" of
    # broken html would take quadratic time.
    rewriter.feed(html)
    return rewriter.result()


def is_page(html: str) -> bool:
    """Tell whether it is a whole page, and not what stands in the body of one."""
    return _PAGE.search(html) is not None


def put_at_end(page: str, html: str) -> str:
    """Put something at the end of what a whole page shows. All else stays as it is."""
    ends = list(_PAGE_END.finditer(page))
    bodies = [end for end in ends if end[1].lower() == "body"]
    place = bodies[-1].start() if bodies else ends[-1].start() if ends else len(page)
    return f"{page[:place]}{html}{page[place:]}"


def text_of(html: str) -> str:
    """Write html as plain text: paragraphs, list items, and addresses of links behind their texts."""
    writer = _TextWriter()
    writer.feed(html)
    writer.end()
    return writer.result()


class _Parser(HTMLParser):
    def parse_marked_section(self, i: int, report: bool = True) -> int:
        """Skip `<![if mso]>` and the like up to the next ">"; html.parser fails on what it does not know."""
        return self.parse_bogus_comment(i, report)


class _LinkRewriter(_Parser):
    def __init__(self, html: str, make_url: Callable[[str], str], keep: frozenset[str]) -> None:
        super().__init__(convert_charrefs=True)
        self._html = html
        self._make_url = make_url
        self._keep = keep
        self._line_starts = [0, *(match.end() for match in re.finditer("\n", html))]
        self._parts: list[str] = []
        self._copied_to = 0

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self._rewrite(tag, attrs, ">")

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self._rewrite(tag, attrs, " />")

    def result(self) -> str:
        return "".join((*self._parts, self._html[self._copied_to :]))

    def _rewrite(self, tag: str, attrs: list[tuple[str, str | None]], end: str) -> None:
        if tag not in _LINKED_TAGS:
            return
        names = [name for name, _ in attrs]
        if "href" not in names or NO_TRACK in names:
            return
        place = names.index("href")  # of two, browsers take the first
        url = (attrs[place][1] or "").strip(_STRIPPED).translate(_DROPPED)
        rel = next((value or "" for name, value in attrs if name == "rel"), "")
        if not _HTTP.match(url) or url in self._keep or _UNSUBSCRIBES.search(f"{url} {rel}"):
            return
        attrs[place] = ("href", self._make_url(url))
        source = self.get_starttag_text() or ""
        line, column = self.getpos()
        start = self._line_starts[line - 1] + column
        self._parts += [self._html[self._copied_to : start], _start_tag(tag, attrs, end)]
        self._copied_to = start + len(source)


def _start_tag(tag: str, attrs: list[tuple[str, str | None]], end: str) -> str:
    written = (f" {name}" if value is None else f' {name}="{escape(value)}"' for name, value in attrs)
    return f"<{tag}{''.join(written)}{end}"


class _TextWriter(_Parser):
    """Collect texts, with _LINE and _PARAGRAPH where blocks begin and end."""

    def __init__(self) -> None:
        super().__init__(convert_charrefs=True)
        self._parts: list[str] = []
        self._unseen_depth = 0
        self._link: tuple[str, int] | None = None  # the open one's address, and where its text begins

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        if tag in _UNSEEN:
            self._unseen_depth += 1
        elif tag == "body":
            self._unseen_depth = 0  # a head may lack its end tag
        elif tag == "br":
            self._parts.append(_BR)
        elif tag in _BLOCKS:
            self._break(tag)
            if tag == "li":
                self._parts.append(_BULLET)
        elif tag in ("td", "th"):
            self._parts.append(" ")
        elif tag == "img":
            self.handle_data(dict(attrs).get("alt") or "")
        elif tag == "a":
            self._link = (dict(attrs).get("href") or "", len(self._parts))

    def handle_endtag(self, tag: str) -> None:
        if tag in _UNSEEN:
            self._unseen_depth = max(0, self._unseen_depth - 1)
        elif tag in _BLOCKS:
            self._break(tag)
        elif tag == "a" and self._link is not None:
            (url, start), self._link = self._link, None
            text = "".join(self._parts[start:])
            if url.lower().startswith(("http:", "https:")) and url.partition("://")[2] not in text:
                self._parts.append(f" ({url})" if text.strip() else url)

    def handle_data(self, data: str) -> None:
        if not self._unseen_depth:
            self._parts.append(_SPACES.sub(" ", data))

    def end(self) -> None:
        """Take in what feed() left: a text that ends in an unfinished character reference."""
        if not self.rawdata.startswith("<"):
            self.handle_data(unescape(self.rawdata))

    def result(self) -> str:
        return _GAPS.sub(_gap, "".join(self._parts)).strip()

    def _break(self, tag: str) -> None:
        if not self._parts or self._parts[-1] != _BULLET:
            self._parts.append(_PARAGRAPH if tag in _PARAGRAPHS else _LINE)


def _gap(match: re.Match[str]) -> str:
    gap = match.group()
    if _PARAGRAPH in gap:
        return "\n\n"
    return "\n" * min(2, gap.count(_BR) + (_LINE in gap and _BR not in gap)) or " "
