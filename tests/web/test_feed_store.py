"""The page's feed holds what a read of the feed would give, however events are lost, doubled or late.

`web/js/feed_store.js` runs where it runs for people, in a browser; the server is a list in this file.
"""

from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from playwright.sync_api import Page

pytestmark = [pytest.mark.browser, pytest.mark.slow, pytest.mark.timeout(900)]

PAGE = 3

# A server of one feed: posts come in, events about them may get lost, pages are read when the store asks.
DRIVE = """
async ({ steps, page_size }) => {
  const { FeedStore } = await import("/js/feed_store.js");
  const posts = []; // newest first
  const events = [];
  let wants = 0;
  let position = 0;
  let next_id = 1;
  const store = new FeedStore({ onneed: (kind) => { if (kind === "feed") wants += 1; }, my_id: () => "me" });
  const item = (post) => ({ post });
  const page = (before) => {
    const from = before ? posts.filter((post) => post.post_id < Number(before)) : posts;
    const items = from.slice(0, page_size);
    const more = from.length > page_size;
    return { items: items.map(item), before: more ? String(items.at(-1).post_id) : "", position };
  };
  const refresh = () => {
    wants = 0;
    store.refreshFeed(page(""));
  };
  const add = (count) => {
    for (let number = 0; number < count; number += 1) {
      const post = { post_id: next_id, author_id: `u${next_id % 3}`, at_ms: next_id, text: `t${next_id}` };
      next_id += 1;
      position += 1;
      posts.unshift(post);
      events.push({ type: "feed", position, item: item(post) });
    }
  };
  add(4);
  store.startFeed(page(""));
  events.length = 0;
  const anchor = posts[0].post_id;
  const gone = new Set();
  for (const [kind, argument] of steps) {
    if (kind === "post") add(1);
    else if (kind === "lose") events.splice(0, argument);
    else if (kind === "deliver") for (const event of events.splice(0, argument)) store.apply(event);
    else if (kind === "again" && events.length) store.apply(events[0]);
    else if (kind === "older" && !store.feed.is_end) {
      const { before } = store.feed;
      store.addOlder(before, page(before));
      store.addOlder(before, page(before)); // the same answer once more
    } else if (kind === "refresh" && wants) refresh();
    else if (kind === "delete" && posts.length) {
      const [post] = posts.splice(argument % posts.length, 1);
      gone.add(post.post_id);
      store.apply({ type: "feed_changed", post: { ...post, deleted: true } });
      store.setPost(post); // an answer that was under way
    }
  }
  for (const event of events.splice(0)) store.apply(event);
  // The connection comes back: whatever was lost at the end is found by the newest page.
  refresh();
  const shown = store.shown(store.feed.items).map((one) => one.post_id);
  const low = store.feed.is_end ? 0 : Math.min(...store.feed.items.map((one) => one.post_id));
  return {
    shown,
    expected: posts.map((post) => post.post_id).filter((post_id) => post_id <= anchor && post_id >= low),
    fresh: [...store.feed.fresh].filter((post_id) => !gone.has(post_id)).sort((one, other) => other - one),
    above: posts.map((post) => post.post_id).filter((post_id) => post_id > anchor),
    has_gap: store.feed.has_gap,
  };
}
"""

STEPS = st.lists(
    st.one_of(
        st.tuples(st.just("post"), st.just(0)),
        st.tuples(st.sampled_from(["lose", "deliver"]), st.integers(1, 3)),
        st.tuples(st.sampled_from(["again", "older", "refresh"]), st.just(0)),
        st.tuples(st.just("delete"), st.integers(0, 9)),
    ),
    max_size=30,
)


@settings(max_examples=80, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(steps=STEPS)
def test_the_list_has_no_hole_and_the_count_no_doubles(blank: Page, steps: list[tuple[str, int]]) -> None:
    """What is shown is a stretch of the feed from its anchor on; what is new is counted, or told as a gap."""
    held: dict[str, Any] = blank.evaluate(DRIVE, {"steps": steps, "page_size": PAGE})
    assert held["shown"] == held["expected"]
    assert set(held["fresh"]) <= set(held["above"])
    if not held["has_gap"]:
        assert held["fresh"] == held["above"]


def test_a_hole_in_the_positions_asks_for_the_newest_page(blank: Page) -> None:
    """The number that comes with each event is how a lost one is noticed."""
    needs = blank.evaluate(
        """async () => { // 9 is a post that is not shown to this person
          const { FeedStore } = await import("/js/feed_store.js");
          const needs = [];
          const store = new FeedStore({ onneed: (kind) => needs.push(kind) });
          const item = (post_id) => ({ post: { post_id, author_id: "a", at_ms: 1 } });
          const item_at = (position) => (position === 9 ? null : item(position));
          const event = (position) => ({ type: "feed", position, item: item_at(position) });
          store.apply(event(3)); // nothing is read yet: nothing is missing
          store.startFeed({ items: [], position: 4 });
          const seen = [];
          for (const position of [4, 5, 7, 7, 8, 9, 10]) {
            store.apply(event(position));
            seen.push([needs.length, store.waiting_count]);
          }
          return seen;
        }"""
    )
    assert needs == [[0, 0], [0, 1], [1, 2], [1, 2], [1, 3], [1, 3], [1, 4]]


def test_a_post_that_is_hidden_muted_or_blocked_is_not_shown_nor_counted(blank: Page) -> None:
    """A pill that says "1 new post" must not open upon nothing."""
    seen = blank.evaluate(
        """async () => {
          const { FeedStore } = await import("/js/feed_store.js");
          const blocked = new Set();
          const store = new FeedStore({ isBlocked: (user_id) => blocked.has(user_id) });
          const post = (post_id, author_id, more = {}) => ({ post_id, author_id, at_ms: 1, ...more });
          const item = (...fields) => ({ post: post(...fields) });
          const repost = { post: post(9, "eve", { repost_of: 2 }), original: post(2, "bob") };
          const tea = item(4, "ann", { hashtags: ["tea"] });
          store.startFeed({ items: [repost, tea, item(3, "ann"), item(2, "bob")], position: 4 });
          const shown = () => store.shown(store.feed.items).map((one) => one.post_id);
          const seen = [shown()];
          store.hide("hashtag", "tea", "post 4");
          seen.push(shown(), store.said.get("post 4"));
          store.unhide("hashtag", "tea");
          store.hide("author", "bob");
          seen.push(shown());
          store.apply({ type: "feed", position: 5, item: item(10, "bob") });
          seen.push(store.waiting_count);
          store.unhide("author", "bob");
          store.setMuted("ann", true);
          seen.push(shown());
          store.setMuted("ann", false);
          blocked.add("eve");
          seen.push(shown());
          return seen;
        }"""
    )
    assert seen == [[9, 4, 3, 2], [9, 4, 3, 2], "hashtag tea", [4, 3], 0, [9, 2], [4, 3, 2]]


def test_counts_and_edits_reach_every_list_and_old_answers_do_not_undo_them(blank: Page) -> None:
    """A post is held once; a page that was read before an edit may arrive after it."""
    held = blank.evaluate(
        """async () => {
          const { FeedStore } = await import("/js/feed_store.js");
          const store = new FeedStore();
          const post = { post_id: 5, author_id: "ann", at_ms: 1, text: "old" };
          store.startFeed({ items: [{ post, liked: true }], position: 1 });
          store.apply({ type: "feed_changed", post: { ...post, text: "new", edited_at_ms: 2, likes: 1 } });
          store.apply({ type: "post_counts", post_id: 5, likes: 7, comments: 2 });
          store.takeItem({ post: { ...post, likes: 8 }, liked: true });
          const { text, likes, comments } = store.post(5);
          return [text, likes, comments, store.mark(5).liked];
        }"""
    )
    assert held == ["new", 8, 0, True]


def test_news_of_hot_authors_count_until_the_page_is_read(blank: Page) -> None:
    """Of them only a number is told; the page that is read then holds the posts."""
    seen = blank.evaluate(
        """async () => {
          const { FeedStore } = await import("/js/feed_store.js");
          const store = new FeedStore();
          const item = (post_id) => ({ post: { post_id, author_id: "star", at_ms: 1 } });
          store.apply({ type: "feed_news", count: 5 }); // before anything was read: the page will hold them
          store.startFeed({ items: [item(4)], position: 0 });
          const seen = [store.waiting_count];
          store.apply({ type: "feed_news", count: 2, user_ids: ["star"] });
          seen.push(store.waiting_count);
          store.refreshFeed({ items: [item(6), item(5), item(4)], position: 0 });
          seen.push(store.waiting_count);
          store.startFeed({ items: [item(6), item(5), item(4)], position: 0 });
          seen.push(store.waiting_count);
          return seen;
        }"""
    )
    assert seen == [0, 2, 2, 0]
