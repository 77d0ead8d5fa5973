// The own feed: written in at the top, read downwards to the end, and never moved under the reader's eyes.
//
// Rows that are not on the screen are laid out but not drawn (content-visibility), so hundreds of them cost little.

import { announce, drawIcon, h, reconcile, setText } from "../dom.js";
import { itemSpecs, pendingSpecs, stateLine } from "./post.js";
import { PostComposer } from "./post_composer.js";

const NEAR_END_PX = 1600; // older posts are asked for before the person arrives there
const SEEN_KEY = "hubbub.feed.seen";
const hasAnchoring = CSS.supports("overflow-anchor", "auto");

/** A scrolled list of posts: tells what is on the screen, counts ads as seen, asks for more near the end. */
export class Scroller {
  constructor(app, view, { label, onend }) {
    Object.assign(this, { app, view, onend });
    this.node = h("div", { class: "feed-scroller", tabindex: "0", role: "region", "aria-label": label });
    this.visible = new Set();
    this.watcher = new IntersectionObserver((entries) => this._moved(entries), { root: this.node });
    this.adWatcher = new IntersectionObserver((entries) => {
      for (const { target, isIntersecting } of entries) if (isIntersecting) app.client.feed.adSeen(target.dataset.slot);
    }, { root: this.node, threshold: 0.5 });
    this.watchedRows = new WeakSet();
    this.node.addEventListener("scroll", () => this.scrolled(), { passive: true });
  }

  close() {
    this.watcher.disconnect();
    this.adWatcher.disconnect();
    this.visible.clear();
    this.app.client.feed.offScreen(this.view);
  }

  /** Look at rows that are new in these lists. */
  watch(...lists) {
    for (const list of lists) {
      for (const row of list.children) {
        if (this.watchedRows.has(row)) continue;
        this.watchedRows.add(row);
        this.watcher.observe(row);
        if (row.dataset.slot) this.adWatcher.observe(row);
      }
    }
    for (const row of this.visible) if (!row.isConnected) this.visible.delete(row);
    this._tell();
    this.scrolled();
  }

  _moved(entries) {
    for (const { target, isIntersecting } of entries) {
      if (isIntersecting) this.visible.add(target);
      else this.visible.delete(target);
    }
    this._tell();
    this.view.moved?.();
  }

  _tell() {
    if (!this.node.isConnected) return;
    const post_ids = [...this.visible].map((row) => Number(row.dataset.post)).filter(Boolean);
    this.app.client.feed.onScreen(this.view, post_ids);
  }

  scrolled() {
    const { scrollTop, scrollHeight, clientHeight } = this.node;
    if (clientHeight && scrollHeight - scrollTop - clientHeight < NEAR_END_PX) this.onend();
  }
}

export class FeedView {
  constructor(app) {
    this.app = app;
    this.title = "Feed";
    this.editing = 0;
    this.shownFeed = null;
    this.scroller = new Scroller(app, this, { label: "Feed", onend: () => app.client.feed.older() });
    this.composer = new PostComposer(app, { onsent: () => this.toTop() });
    this.pending = h("ol", { class: "posts", "aria-label": "Posts under way" });
    this.own = h("ol", { class: "posts", "aria-label": "Your new posts" });
    this.rows = h("ol", { class: "posts feed-rows", "aria-label": "Posts" });
    this.state = h("div", { class: "feed-state", role: "status" });
    this.pillWords = h("span");
    this.pill = h("button", { type: "button", class: "pill", hidden: true, onclick: () => this._showNew() }, drawIcon("up", "icon tiny"), this.pillWords);
    this.tabs = h("div", { class: "segments", role: "group", "aria-label": "Order" },
      this._tab("chronological", "Latest"), this._tab("ranked", "For you"));
    this.head = h("header", { class: "feed-head" }, h("h1", { text: "Feed" }), this.tabs, this.pill);
    this.scroller.node.append(columns(this.head, this.composer.node, this.pending, this.own, this.rows, this.state));
    this.node = h("main", { class: "feed", "aria-label": "Feed" }, this.scroller.node);
    this.scroller.node.addEventListener("scroll", () => this.moved(), { passive: true });
    this.node.addEventListener("keydown", (event) => this._key(event));
    this._onhide = () => document.visibilityState === "hidden" && this._save(true);
    document.addEventListener("visibilitychange", this._onhide);
    addEventListener("pagehide", (this._onleave = () => this._save(true)));
    this.stop = app.listen(["posted"], () => this.toTop());
  }

  close() {
    this.scroller.close();
    this.stop();
    document.removeEventListener("visibilitychange", this._onhide);
    removeEventListener("pagehide", this._onleave);
  }

  opened() {
    this.app.client.feed.open();
    if (!this.kept) return;
    const { scrollTop, row, below } = this.kept;
    const { node } = this.scroller;
    node.scrollTop = scrollTop;
    if (row?.isConnected) this._settle(row, () => (node.scrollTop += row.getBoundingClientRect().top - node.getBoundingClientRect().top - below));
  }

  /** Another view takes the place; this one stays as it is until the person comes back. */
  left() {
    const { node } = this.scroller;
    const first = node.scrollTop ? this._first() : null;
    this.kept = { scrollTop: node.scrollTop, row: first?.row, below: first ? first.box.top - node.getBoundingClientRect().top : 0 };
    this._save(true);
    this.app.client.feed.offScreen(this);
  }

  edit(post_id) {
    this.editing = post_id;
    this.render();
  }

  get feed() {
    return this.app.store.feed.feed;
  }

  _tab(order, text) {
    return h("button", { type: "button", class: "segment", text, dataset: { order }, onclick: () => {
      if (this.feed.order !== order) this._anew(() => this.app.client.feed.setOrder(order));
    } });
  }

  // -- where the person is --------------------------------------------------------------------------

  toTop() {
    this.scroller.node.scrollTop = 0;
  }

  /** Read from a new anchor, and stand at its top. */
  async _anew(load) {
    await load();
    this.render();
    this.toTop();
    this.rows.querySelector("article")?.focus({ preventScroll: true });
  }

  _showNew() {
    if (this.app.store.feed.waiting_count || this.feed.is_stale) this._anew(() => this.app.client.feed.load({ isRestoring: false }));
    else {
      this._noteSeen(Math.max(...this.feed.items.map((item) => item.post_id)));
      this.toTop();
    }
  }

  /** Posts that are there and stand above all that was ever on the screen. */
  _aboveCount() {
    if (this.feed.order !== "chronological" || !this.feed.read_position) return 0;
    const newest = Math.max(this._seen(), this.feed.read_position);
    return this.app.store.feed.shown(this.feed.items).filter((item) => item.kind !== "ad" && item.post_id > newest).length;
  }

  _seen() {
    return Number(localStorage.getItem(`${SEEN_KEY}.${this.app.store.my_id}`)) || 0;
  }

  _noteSeen(post_id) {
    if (post_id > this._seen()) localStorage.setItem(`${SEEN_KEY}.${this.app.store.my_id}`, String(post_id));
  }

  /** The first post below the head: the one that is being read. */
  _first() {
    const top = this.scroller.node.getBoundingClientRect().top + this.head.offsetHeight;
    const visible = [...this.scroller.visible].filter((row) => row.dataset.post && row.parentNode === this.rows);
    let first = null;
    for (const row of visible) {
      const box = row.getBoundingClientRect();
      if (box.bottom > top + 8 && (!first || box.top < first.box.top)) first = { row, box, top };
    }
    return first;
  }

  /** Something else is on the screen. */
  moved() {
    if (this.isPlacing) return;
    this._save(false);
    this._renderPill();
  }

  /** Remember the post that is being read, and the newest one that was seen here. */
  _save(isLeaving) {
    if (!this.node.isConnected || this.feed !== this.shownFeed || this.feed.order !== "chronological" || !this.isPlaced) return;
    const first = this._first();
    if (!first || (document.visibilityState !== "visible" && !isLeaving)) return;
    const post_id = Number(first.row.dataset.item.split(" ")[1]);
    this._noteSeen(post_id);
    this.app.client.feed.savePosition(post_id);
    if (isLeaving) this.app.client.feed.flushPosition();
  }

  /** A feed that was just read: stand where the person was, or at its top. */
  _place() {
    const { read_position, order, is_restoring } = this.feed;
    this.isPlaced = true;
    if (order !== "chronological") return;
    const items = this.app.store.feed.shown(this.feed.items).filter((item) => item.kind !== "ad");
    const at = is_restoring && read_position ? items.findIndex((item) => item.post_id <= read_position) : 0;
    if (at <= 0) {
      if (items.length) this._noteSeen(items[0].post_id);
      return;
    }
    const row = this.rows.querySelector(`[data-item="${items[at].key}"]`);
    this._settle(row, () => row.scrollIntoView({ block: "start" }));
  }

  /** Scroll to a row. What was never drawn has a guessed height: as it is drawn the place is corrected, until it stays. */
  _settle(row, scroll, { triesLeft = 12, quiet = 0 } = {}) {
    this.isPlacing = true;
    const before = row.getBoundingClientRect().top;
    scroll();
    const isQuiet = Math.abs(row.getBoundingClientRect().top - before) < 1;
    const next = { triesLeft: triesLeft - 1, quiet: isQuiet ? quiet + 1 : 0 };
    if (next.quiet < 3 && triesLeft && row.isConnected) requestAnimationFrame(() => this._settle(row, scroll, next));
    else this.isPlacing = false;
  }

  _key(event) {
    if (event.target.closest("textarea, input, select, .menu") || event.ctrlKey || event.metaKey || event.altKey) return;
    if (event.key !== "j" && event.key !== "k") return;
    const all = [...this.rows.querySelectorAll("article")];
    const at = all.findIndex((article) => article.contains(document.activeElement));
    const first = this._first();
    const next = at < 0 ? (first ? first.row.firstChild : all[0]) : all[at + (event.key === "j" ? 1 : -1)];
    if (!next) return;
    next.focus({ preventScroll: true });
    next.scrollIntoView({ block: "nearest" });
    event.preventDefault();
  }

  // -- rendering ------------------------------------------------------------------------------------

  render() {
    const { feed } = this;
    const { client } = this.app;
    const isNew = feed !== this.shownFeed;
    for (const tab of this.tabs.children) tab.setAttribute("aria-pressed", String(tab.dataset.order === (client.feed.order || feed.order)));
    reconcile(this.pending, pendingSpecs(this.app));
    reconcile(this.own, itemSpecs(this.app, this, feed.own));
    const isCatchingUp = isNew && client.feed.loading;
    if (!isCatchingUp) {
      const anchor = hasAnchoring || isNew ? null : this._first();
      reconcile(this.rows, itemSpecs(this.app, this, feed.items));
      if (anchor && anchor.row.isConnected) this.scroller.node.scrollTop += anchor.row.getBoundingClientRect().top - anchor.box.top;
      if (isNew && feed.is_loaded) {
        this.shownFeed = feed;
        this._place();
      }
    }
    const isEmpty = feed.is_loaded && feed.is_end && !this.rows.children.length && !this.own.children.length && !this.pending.children.length;
    stateLine(this.state, {
      problem: client.feed.problem,
      isLoading: Boolean(client.feed.loading) || !feed.is_loaded,
      words: isEmpty ? "Your feed is empty. Follow somebody, and their posts come here."
        : !feed.is_end ? "" : feed.is_complete ? "You have reached the end." : "Some posts are still missing here. Look again in a moment.",
      link: isEmpty ? { href: "#find", text: "Find people" } : null,
      onretry: () => (feed.is_loaded ? client.feed.older(true) : client.feed.load()),
    });
    if (isEmpty && (feed.fresh.size || feed.is_stale) && !client.feed.loading) client.feed.load({ isRestoring: false }); // nothing is being read
    this.scroller.watch(this.own, this.rows);
    this._renderPill();
  }

  _renderPill() {
    const waiting = this.app.store.feed.waiting_count;
    const count = waiting + (this.shownFeed === this.feed ? this._aboveCount() : 0);
    const words = !count ? (this.feed.is_stale ? "Show other posts" : "") : `${count}${this.feed.has_gap ? "+" : ""} new ${count === 1 ? "post" : "posts"}`;
    if (words && this.pill.hidden) announce(words);
    this.pill.hidden = !words;
    setText(this.pillWords, words);
  }
}

/** The column of a page, and the place for what is worth discovering beside it. */
export function columns(...main) {
  return h("div", { class: "feed-columns" }, h("div", { class: "feed-main" }, main), h("aside", { class: "feed-aside", "aria-label": "Discover" }));
}
