// What trends, and whom one might follow: beside the feed, and a page of its own, where people are found by name.

import { h, reconcile } from "../dom.js";
import { followButton, PeopleSearch, personRow } from "./people.js";
import { itemSpecs, openHashtag } from "./post.js";

const FRESH_MS = 60_000;

export class TrendsPart {
  constructor(app, { withPosts = false } = {}) {
    this.app = app;
    this.withPosts = withPosts;
    this.editing = 0;
    this.window = "hour";
    this.hashtags = [];
    this.posts = [];
    this.authors = [];
    this.readAt = -Infinity;
    this.people = h("ul", { class: "people", "aria-label": "Whom to follow" });
    this.tags = h("ol", { class: "trend-tags", "aria-label": "Trending hashtags" });
    this.rows = h("ol", { class: withPosts ? "posts" : "trend-posts", "aria-label": "Trending posts" });
    this.windows = h("div", { class: "segments small", role: "group", "aria-label": "Of the last" }, this._window("hour", "Hour"), this._window("day", "Day"));
    this.whom = card("Whom to follow", null, this.people);
    this.what = card("Trending", this.windows, this.tags);
    this.which = card("Popular posts", null, this.rows);
    this.empty = h("p", { class: "empty-line", hidden: true, text: "Nothing trends yet. As people post, like and comment, it shows here." });
    this.node = h("div", { class: "trends" }, this.whom, this.what, this.which, this.empty);
  }

  _window(name, text) {
    return h("button", { type: "button", class: "segment", text, dataset: { window: name }, onclick: () => {
      this.window = name;
      this.load();
    } });
  }

  get items() {
    return this.posts;
  }

  opened() {
    if (performance.now() - this.readAt > FRESH_MS) this.load();
  }

  async load() {
    if (this.app.client.connection.state !== "open") return;
    this.readAt = performance.now();
    const { feed } = this.app.store;
    const ask = (command) => this.app.client.ask(command).catch((error) => {
      if (error.code === "disconnected") this.readAt = -Infinity;
      return null; // an app may have it switched off: then there is nothing to show
    });
    const trends = (kind) => ask({ type: "get_trends", kind, window: this.window, limit: kind === "post" ? 5 : 8 });
    const [tags, posts, whom] = await Promise.all([trends("hashtag"), trends("post"), ask({ type: "get_recommendations", limit: 5 })]);
    this.hashtags = (tags && tags.items) || [];
    if (this.withPosts) await Promise.all(((posts && posts.items) || []).map(({ post }) => post && this.app.client.feed.loadPost(post.post_id).catch(() => {}))); // the own marks
    this.posts = ((posts && posts.items) || []).filter((trend) => trend.post).map((trend) => {
      const { liked, reposted } = feed.mark(trend.post.post_id);
      return feed.takeItem({ post: trend.post, liked, reposted });
    });
    this.authors = (whom && whom.authors) || [];
    this.isRead = true;
    await Promise.all(this.authors.map(({ user_id }) => (feed.authors.has(user_id) ? null : this.app.client.feed.loadAuthor(user_id).catch(() => {}))));
    this.render();
  }

  render() {
    const { store } = this.app;
    if (this.readAt === -Infinity && this.node.isConnected) this.load();
    for (const tab of this.windows.children) tab.setAttribute("aria-pressed", String(tab.dataset.window === this.window));
    reconcile(this.people, this.authors.map((one) => ({
      key: one.user_id,
      deps: [store.people.get(one.user_id), store.nameOf(one.user_id), store.feed.authors.get(one.user_id), store.blocked.has(one.user_id), (one.by || []).map((id) => store.nameOf(id)).join()],
      render: () => personRow(this.app, one.user_id, [followButton(this.app, one.user_id)], reason(store, one)),
    })));
    const hashtags = this.hashtags.filter(({ hashtag }) => !store.feed.hidden.has(`hashtag ${hashtag}`));
    reconcile(this.tags, hashtags.map((trend, at) => ({
      key: trend.hashtag, deps: [at, trend.people],
      render: () => h("li", { class: "trend-tag" }, h("span", { class: "trend-rank", text: String(at + 1) }),
        h("button", { type: "button", class: "hashtag trend-name", dir: "auto", text: `#${trend.hashtag}`, "aria-haspopup": "menu", dataset: { focus: "hashtag" }, onclick: (event) => openHashtag(this.app, event.currentTarget, trend.hashtag) }),
        h("span", { class: "person-sub", text: `${trend.people || 0} ${trend.people === 1 ? "person" : "people"}` })),
    })));
    const shown = store.feed.shown(this.posts);
    if (this.withPosts) reconcile(this.rows, itemSpecs(this.app, this, this.posts));
    else {
      reconcile(this.rows, shown.map((item) => {
        const post = store.feed.post(item.post_id);
        return {
          key: item.key, deps: [post.text, post.likes, store.nameOf(post.author_id)],
          render: () => h("li", {}, h("a", { class: "trend-post", href: `#post/${post.post_id}` },
            h("strong", { text: store.nameOf(post.author_id) }), h("span", { class: "trend-words", dir: "auto", text: post.text || "A picture" }),
            h("span", { class: "person-sub", text: `${post.likes} ${post.likes === 1 ? "like" : "likes"}` }))),
        };
      }));
    }
    this.whom.hidden = !this.authors.length;
    this.which.hidden = !shown.length;
    // The switch stays where the other window may have something.
    this.what.hidden = !hashtags.length && this.window === "hour" && !shown.length;
    this.empty.hidden = !this.isRead || !this.withPosts || Boolean(this.authors.length || hashtags.length || shown.length);
  }

  edit(post_id) {
    this.editing = post_id;
    this.render();
  }
}

function reason(store, { by = [], by_count = 0, reason: why }) {
  if (why === "trending") return "popular now";
  if (!by.length) return "";
  const others = Math.max(by_count, by.length) - 1;
  return `followed by ${store.nameOf(by[0])}${others > 0 ? ` and ${others} other${others > 1 ? "s" : ""} you follow` : ""}`;
}

function card(title, control, ...body) {
  return h("section", { class: "card", "aria-label": title }, h("header", { class: "card-head" }, h("h2", { text: title }), control), ...body);
}

export class TrendsPage {
  /** `isFinding`: the person came to look for somebody. */
  constructor(app, { isFinding = false } = {}) {
    this.title = "Discover";
    this.isFinding = isFinding;
    this.search = new PeopleSearch(app);
    this.part = new TrendsPart(app, { withPosts: true });
    this.node = h("main", { class: "feed", "aria-label": "Discover" },
      h("div", { class: "feed-scroller", tabindex: "0", role: "region", "aria-label": "Discover" }, h("div", { class: "feed-columns" }, h("div", { class: "feed-main" },
        h("header", { class: "feed-head" }, h("h1", { text: "Discover" })), this.search.node, this.part.node))));
    this.app = app;
    app.store.feed.lists.add(this.part);
  }

  opened() {
    this.part.load();
    if (this.isFinding) this.search.input.focus({ preventScroll: true });
  }

  connected() {
    this.part.load();
    this.search.find();
  }

  close() {
    this.search.close();
    this.app.store.feed.lists.delete(this.part);
  }

  render() {
    this.search.render();
    this.part.render();
  }
}
