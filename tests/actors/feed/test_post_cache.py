"""Posts in memory: what a node was told stays, however old what a read of the store brings is."""

from actors.feed.post_cache import PostCache
from protocol.feed_found import FoundPost
from protocol.records import PostCountsRow, PostRow


def row(post_id: int, text: str = "", *, author_id: str = "ann", deleted_at_ms: int = 0) -> PostRow:
    return PostRow(
        post_id=post_id,
        author_id=author_id,
        app_id="app",
        at_ms=1,
        text=text,
        deleted_at_ms=deleted_at_ms,
    )


def text_of(cache: PostCache, post_id: int) -> str | None:
    found = cache.get(post_id)
    return None if found is None else found.post.text


def test_what_was_read_before_a_change_does_not_undo_it() -> None:
    """A deletion is told while a page reads the post: at the next read it must be gone."""
    cache = PostCache()
    moment = cache.begin_read()
    cache.put(row(1, deleted_at_ms=5))
    cache.count(PostCountsRow(post_id=2, likes=3))
    cache.set_private("ann", is_private=True)
    cache.end_read(moment, [1, 2, 3], [FoundPost(row(1, "old"), None, False), FoundPost(row(2), None, False)])
    gone = cache.get(1)
    assert gone is not None
    assert gone.is_deleted
    assert cache.get(2) is None  # its counts are newer than what was read: read it again
    assert not cache.is_known(2)
    assert "ann" in cache.private_author_ids
    assert cache.is_known(3)  # it does not exist
    assert cache.get(3) is None


def test_a_later_read_takes_what_an_earlier_one_had_to_leave() -> None:
    cache = PostCache()
    cache.end_read(
        cache.begin_read(), [1], [FoundPost(row(1, "new"), PostCountsRow(post_id=1, likes=2), True)]
    )
    assert text_of(cache, 1) == "new"
    assert cache.private_author_ids == {"ann"}
    found = cache.get(1)
    assert found is not None
    assert found.post.likes == 2


def test_counts_are_kept_through_an_edit_and_shown_to_all() -> None:
    cache = PostCache()
    cache.put(row(1, "one"))
    cache.count(PostCountsRow(post_id=1, likes=4, comments=1))
    cache.put(row(1, "two"))
    found = cache.get(1)
    assert found is not None
    assert (found.post.text, found.post.likes, found.post.comments) == ("two", 4, 1)
    assert found.plain_item.post == found.post


def test_the_cache_is_bounded_in_number_and_in_bytes_and_keeps_what_is_used() -> None:
    cache = PostCache(max_posts=10)
    for post_id in range(100):
        cache.put(row(post_id))
        assert text_of(cache, 0) == ""
    assert len(cache) <= 10
    small = PostCache(max_bytes=20_000)
    for post_id in range(100):
        small.put(row(post_id, "x" * 1_000))
    assert len(small) <= 20


def test_an_author_in_doubt_is_read_anew() -> None:
    cache = PostCache()
    cache.put(row(1, "ann's"))
    cache.put(row(2, "bob's", author_id="bob"))
    cache.forget_author("ann")
    assert not cache.is_known(1)
    assert text_of(cache, 2) == "bob's"
