"""What an author, a reader of posts and a commentator may do: pure rules over rows.

Each `may_…` that raises returns nothing when it is allowed, and raises Refused with a stable code when not.
"""

import re
from collections.abc import Iterator
from typing import Final
from unicodedata import category, normalize

from protocol.errors import Refused
from protocol.limits import MAX_COMMENT_TEXT_BYTES, MAX_HASHTAGS, MAX_POST_TEXT_BYTES
from protocol.records import AuthorRow, AuthorView, CommentRow, PostRow

MAX_HASHTAG_CHARS: Final = 100
FIRST_RETRY_S: Final = 0.25
LAST_RETRY_S: Final = 15.0  # a partition that moves is back in a second; one in quarantine says when itself
_JITTER: Final = 0.5

_WORDS: Final = re.compile(r"\S+")
_MARKS: Final = frozenset("#\uff03")  # the second is the full-width one
_JOINERS: Final = frozenset("\u200c\u200d")  # within words of Persian and of Indian languages


# -- texts ------------------------------------------------------------------------------------------


def check_post_text(text: str, *, has_files: bool) -> None:
    """A post needs text or files, and takes 10 KB of UTF-8. Raises: Refused(text_empty, text_too_long)."""
    if not has_files and (not text or text.isspace()):
        raise Refused("text_empty")
    _check_size(text, MAX_POST_TEXT_BYTES)


def check_comment_text(text: str) -> None:
    """A comment needs text, and takes 4 KB of UTF-8. Raises: Refused(text_empty, text_too_long)."""
    if not text or text.isspace():
        raise Refused("text_empty")
    _check_size(text, MAX_COMMENT_TEXT_BYTES)


def hashtags_of(text: str) -> list[str]:
    """The hashtags in a text, folded, each once, in their order; at most MAX_HASHTAGS.

    # begins one where a word begins, but not within an address. It ends at what is neither a letter or
    digit of any script (with its marks) nor an underscore, and needs a letter.
    """
    found: dict[str, None] = {}
    for word in _WORDS.finditer(text):
        for tag in _tags_in(word.group()):
            found[tag] = None
            if len(found) == MAX_HASHTAGS:
                return list(found)
    return list(found)


def fold_hashtag(tag: str) -> str:
    """What differs only in case or in how it is composed is the same hashtag."""
    return normalize("NFC", normalize("NFC", tag).casefold())


def _tags_in(word: str) -> Iterator[str]:
    if not _MARKS.isdisjoint(word):
        end = word.find("://")
        end = len(word) if end < 0 else end
        at = 0
        while at < end:
            if word[at] not in _MARKS or (at and (_is_of_tag(word[at - 1]) or word[at - 1] in "/&#\uff03")):
                at += 1
                continue
            begin = at = at + 1
            while at < end and _is_of_tag(word[at]):
                at += 1
            tag = fold_hashtag(word[begin:at].strip("\u200c\u200d"))
            if any(char.isalpha() for char in tag) and len(tag) <= MAX_HASHTAG_CHARS:
                yield tag


def _is_of_tag(char: str) -> bool:
    return char.isalnum() or char == "_" or char in _JOINERS or category(char)[0] == "M"


def _check_size(text: str, max_bytes: int) -> None:
    # Four bytes a character at the most: short texts need not be encoded to be measured.
    if len(text) * 4 > max_bytes and len(text.encode()) > max_bytes:
        raise Refused("text_too_long")


# -- who may what -----------------------------------------------------------------------------------


def may_see(post: PostRow, author: AuthorView, viewer_id: str) -> bool:
    """Tell whether a viewer may see a post, whose author stands to them as `author` says.

    Of a repost this says nothing about what it repeats. Muting is no matter of rights: it is for feeds.
    """
    if post.deleted_at_ms:
        return False
    if post.author_id == viewer_id:
        return True
    if author.is_blocked or author.blocks_viewer:
        return False
    return author.follow == "following" or (post.visibility == "public" and not author.is_private)


def may_see_lists(author: AuthorView, viewer_id: str) -> None:
    """Who follows an author, and whom they follow, is as private as their account is.

    Raises: Refused(blocked, forbidden).
    """
    if author.author_id == viewer_id:
        return
    if author.is_blocked or author.blocks_viewer:
        raise Refused("blocked")
    if author.is_private and author.follow != "following":
        raise Refused("forbidden", "Only followers see this of a private account.")


def may_repost(post: PostRow, author: AuthorRow | None) -> None:
    """Only what everybody may see can be repeated; `author`: None where there is no row.

    Raises: Refused(post_not_found, not_repostable).
    """
    if post.deleted_at_ms:
        raise Refused("post_not_found")
    if post.repost_of or post.visibility != "public" or (author is not None and author.is_private):
        raise Refused("not_repostable")


def may_edit(post: PostRow) -> None:
    """Raises: Refused(post_not_found, forbidden)."""
    if post.deleted_at_ms:
        raise Refused("post_not_found")
    if post.repost_of:
        raise Refused("forbidden", "A repost has no text of its own.")


def may_answer(parent: CommentRow | None, post_id: int) -> CommentRow:
    """The comment that is to be answered: one on this post itself. Raises: Refused(comment_not_found)."""
    if parent is None or parent.post_id != post_id or parent.deleted_at_ms or parent.parent_id:
        raise Refused("comment_not_found", "An answer is to a comment on the post, which is there.")
    return parent


def may_delete_comment(comment: CommentRow, post: PostRow, user_id: str) -> None:
    """Its writer may, and the author of the post. Raises: Refused(forbidden)."""
    if user_id not in (comment.user_id, post.author_id):
        raise Refused("forbidden", "Only its writer or the author of the post may delete a comment.")


# -- the way into feeds -----------------------------------------------------------------------------


def next_is_hot(is_hot: bool, follower_count: int, *, hot_at: int, cool_at: int) -> bool:
    """Tell whether the next post is merged in at read: from `hot_at` followers on, until below `cool_at`."""
    return follower_count >= (cool_at if is_hot else hot_at)


def retry_delay_s(refused_count: int, retry_after_s: float | None, jitter: float) -> float:
    """How long to wait after so many refusals in a row (1 at least); `jitter` is from 0 to 1."""
    # So that the exponent stays small however often.
    backoff_s = min(LAST_RETRY_S, FIRST_RETRY_S * (1 << min(refused_count - 1, 10)))
    return max(backoff_s, retry_after_s or 0.0) * (1 + _JITTER * jitter)
