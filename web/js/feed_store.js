// What this tab knows of posts, authors and the own feed, as a function of what the server said. No I/O.
//
// A post is held once, whatever lists show it, so that a like or an edit shows everywhere. Posts are immutable: a
// change makes a new one, so views compare by identity.
//
// The feed is one stretch without a hole, read from one anchor: older pages are put at its end. What comes later is
// not put in but counted ("3 new posts"), and read from a new anchor when the person asks for it: so nothing moves
// under their eyes, and ads stand after every fifth post. Own new posts stand above it until then.

const MAX_POSTS = 3000; // held; what no list shows is dropped beyond that

/** Give absent fields their defaults, as the server leaves them out. */
function whole(post) {
  return {
    text: "", files: [], mentions: [], hashtags: [], visibility: "public", repost_of: 0, edited_at_ms: 0, deleted: false,
    likes: 0, comments: 0, reposts: 0, ...post,
  };
}

function newFeed() {
  return {
    is_loaded: false,
    is_restoring: false,
    is_stale: false, // somebody was followed or no longer is: other posts belong in it
    anchor_id: 0, // the newest post when it was read; what is older and not here comes by scrolling
    items: [],
    keys: new Set(),
    own: [], // items of posts that were made here since
    before: "", // where to go on; "" with is_end
    is_end: false,
    is_complete: true,
    order: "chronological",
    position: 0,
    read_position: 0,
    new_above: 0,
    fresh: new Set(), // post ids that came after the newest item
    has_gap: false, // there may be more than that
    news: 0, // posts of hot authors, of which only the number is known
  };
}

export class FeedStore {
  /** `onchange(topic, id)`: topics are feed, posts, authors, follow_requests. `isBlocked(user_id)` as known to chat. */
  constructor({ onchange = () => {}, onneed = () => {}, isBlocked = () => false, my_id = () => "" } = {}) {
    Object.assign(this, { onchange, onneed, isBlocked, my_id });
    this.posts = new Map();
    this.marks = new Map(); // post_id of an original -> {liked, reposted, repost_id}
    this.authors = new Map();
    this.muted = new Set();
    this.mutedSince = new Set(); // the feed was read
    this.hidden = new Map(); // "kind target" -> {kind, target}: not interested, said in this tab
    this.said = new Map(); // key of an item -> "kind target" that was said there
    this.feed = newFeed();
    this.lists = new Set(); // other lists of items that views show: {items}
  }

  // -- posts ----------------------------------------------------------------------------------------

  post(post_id) {
    return this.posts.get(post_id) || null;
  }

  mark(post_id) {
    return this.marks.get(post_id) || { liked: false, reposted: false, repost_id: 0 };
  }

  setPost(post) {
    const known = this.posts.get(post.post_id);
    let next = whole(post);
    if (known && known.deleted) return; // a tombstone wins over any answer that was under way
    if (known && known.edited_at_ms > next.edited_at_ms) {
      next = { ...known, likes: next.likes, comments: next.comments, reposts: next.reposts };
    }
    this.posts.set(post.post_id, next);
    this.onchange("posts", post.post_id);
  }

  setMark(post_id, fields) {
    this.marks.set(post_id, { ...this.mark(post_id), ...fields });
    this.onchange("posts", post_id);
  }

  setCounts({ post_id, likes = 0, comments = 0, reposts = 0 }) {
    const known = this.posts.get(post_id);
    if (!known) return;
    if (known.likes === likes && known.comments === comments && known.reposts === reposts) return;
    this.posts.set(post_id, { ...known, likes, comments, reposts });
    this.onchange("posts", post_id);
  }

  dropPost(post_id) {
    const known = this.posts.get(post_id);
    if (!known) return;
    this.posts.set(post_id, { ...known, deleted: true, text: "", files: [] });
    this.onchange("posts", post_id);
  }

  /** Take in what an answer holds of one post. Returns {key, kind, post_id, root_id, why, ad}. */
  takeItem(item) {
    if (item.kind === "ad") return { key: `ad ${item.ad.slot_id}`, kind: "ad", ad: item.ad, post_id: 0, root_id: 0 };
    const { post, original } = item;
    this.setPost(post);
    if (original) this.setPost(original);
    const root_id = original ? original.post_id : post.post_id;
    const mark = this.mark(root_id);
    const repost_id = post.repost_of && post.author_id === this.my_id() ? post.post_id : mark.repost_id;
    this.setMark(root_id, { liked: Boolean(item.liked), reposted: Boolean(item.reposted), repost_id });
    return { key: `post ${post.post_id}`, kind: "post", post_id: post.post_id, root_id, why: item.why || "followed" };
  }

  // -- what is shown --------------------------------------------------------------------------------

  /** Deleted, or by somebody whose posts this person is not to see any more. */
  isGone(item) {
    if (item.kind === "ad") return false;
    return [item.post_id, item.root_id].some((post_id) => {
      const post = this.posts.get(post_id);
      return !post || post.deleted || this.isBlocked(post.author_id) || this.muted.has(post.author_id);
    });
  }

  /** Whether a "not interested" of this tab is about the item. */
  isHidden(item) {
    if (item.kind === "ad" || !this.hidden.size) return false;
    const post = this.posts.get(item.post_id);
    const root = this.posts.get(item.root_id) || post;
    const has = (kind, target) => this.hidden.has(`${kind} ${target}`);
    return has("post", post.post_id) || has("post", root.post_id) || has("author", post.author_id) ||
      has("author", root.author_id) || root.hashtags.some((tag) => has("hashtag", tag));
  }

  /** The items of a list that are to be shown; one where "not interested" was said stays as a line with an undo. */
  shown(items) {
    return items.filter((item) => !this.isGone(item) && (this.said.has(item.key) || !this.isHidden(item)));
  }

  // -- the own feed ---------------------------------------------------------------------------------

  /** The newest page: a new anchor. `isRestoring`: the person is to stand where they were, else at the top. */
  startFeed(page, { isRestoring = false } = {}) {
    this.feed = { ...newFeed(), is_loaded: true, is_restoring: isRestoring, order: page.order || "chronological", position: page.position || 0,
      read_position: page.read_position || 0, new_above: page.new_above || 0 };
    // The server leaves out what is hidden and muted: taking that back needs another read from now on.
    this.said.clear();
    this.hidden.clear();
    this.mutedSince.clear();
    this._prune();
    this._append(page);
    for (const { post_id } of this.feed.items) this.feed.anchor_id = Math.max(this.feed.anchor_id, post_id);
  }

  /** The page behind the last one, asked for with `before`. One that answers an older question is left out. */
  addOlder(before, page) {
    if (this.feed.before === before && !this.feed.is_end) this._append(page);
  }

  _append(page) {
    const { feed } = this;
    for (const one of page.items || []) {
      const item = this.takeItem(one);
      if (feed.keys.has(item.key)) continue;
      feed.keys.add(item.key);
      feed.items.push(item);
    }
    feed.before = page.before || "";
    feed.is_end = !feed.before;
    feed.is_complete = page.complete !== false;
    this.onchange("feed");
  }

  /**
   * The newest page again, after events may have been lost: what is new is counted, what was there and is missing
   * from the same stretch is gone. A page that does not reach what is known leaves a gap, of which there is a mark.
   */
  refreshFeed(page) {
    const { feed } = this;
    feed.position = Math.max(feed.position, page.position || 0);
    const items = (page.items || []).filter((one) => one.kind !== "ad").map((one) => this.takeItem(one));
    const keys = new Set(items.map((item) => item.key));
    const isMeeting = items.some((item) => feed.keys.has(item.key)) || !page.before;
    for (const item of items) if (item.post_id > feed.anchor_id && !this._isKnown(item)) feed.fresh.add(item.post_id);
    feed.news = 0; // they are in the page
    feed.has_gap ||= !isMeeting;
    if (feed.order === "chronological" && isMeeting) {
      const oldest = page.before ? Math.min(...items.map((item) => item.post_id)) : 0;
      feed.items = feed.items.filter((item) => item.kind === "ad" || item.post_id < oldest || keys.has(item.key) || this.said.has(item.key) || this.isHidden(item));
    }
    this.onchange("feed");
  }

  _isKnown(item) {
    return this.feed.keys.has(item.key) || this.feed.own.some((one) => one.key === item.key);
  }

  /** A post that was just made here stands on top. */
  addOwn(info) {
    const item = this.takeItem({ ...info, kind: "post", why: "own" });
    const { feed } = this;
    feed.fresh.delete(item.post_id);
    if (!this._isKnown(item)) feed.own = [item, ...feed.own];
    this.onchange("feed");
  }

  /** How many posts can be read that the list does not hold yet. */
  get waiting_count() {
    return this.feed.fresh.size + this.feed.news;
  }

  _prune() {
    if (this.posts.size <= MAX_POSTS) return;
    const kept = new Set();
    for (const { items } of [this.feed, ...this.lists]) for (const item of items) kept.add(item.post_id).add(item.root_id);
    for (const post_id of this.posts.keys()) {
      if (kept.has(post_id)) continue;
      this.posts.delete(post_id);
      this.marks.delete(post_id);
    }
  }

  // -- what the server pushed -----------------------------------------------------------------------

  apply(event) {
    switch (event.type) {
      case "feed":
        this._posted(event);
        return;
      case "feed_news":
        if (!this.feed.is_loaded) return;
        this.feed.news += event.count || 0;
        this.onchange("feed");
        return;
      case "feed_changed":
        if (event.post.deleted) this.dropPost(event.post.post_id);
        else this.setPost(event.post);
        return;
      case "post_counts":
        this.setCounts(event);
        return;
      case "follow_changed":
        this.setFollow(event.user_id, event.follow);
        return;
      case "follower_changed":
        this.onneed("author", event.user_id);
        this.onneed("author", this.my_id());
        this.onchange("follow_requests");
        return;
      default:
    }
  }

  _posted({ position, item }) {
    const { feed } = this;
    if (!feed.is_loaded || position <= feed.position) return; // the page that was read holds it
    if (position > feed.position + 1) this.onneed("feed", "");
    feed.position = position;
    if (!item) return; // it came into the feed, and is not shown to this person
    const taken = this.takeItem(item);
    if (this._isKnown(taken) || this.isGone(taken) || this.isHidden(taken)) return;
    feed.fresh.add(taken.post_id);
    this.onchange("feed");
  }

  // -- people and interests -------------------------------------------------------------------------

  /** Fields of an Author, as far as they were told. */
  setAuthor(fields, { isWhole = false } = {}) {
    const known = this.authors.get(fields.user_id);
    if (!known && !isWhole) return;
    const blank = { is_private: false, followers: 0, following: 0, posts: 0, follow: "none", follows_you: false, muted: false, blocked: false };
    const next = isWhole ? { ...blank, ...fields } : { ...known, ...fields };
    this.authors.set(fields.user_id, next);
    if (isWhole) this.setMuted(fields.user_id, Boolean(next.muted));
    if (known && known.follow !== next.follow && [known.follow, next.follow].includes("following")) this.setStale();
    this.onchange("authors", fields.user_id);
  }

  setFollow(user_id, follow) {
    if (this.authors.has(user_id)) this.setAuthor({ user_id, follow });
    else if (follow !== "requested") this.setStale();
  }

  /** Other posts belong in the feed than those that were read. */
  setStale() {
    this.feed.is_stale = this.feed.is_loaded;
    this.onchange("feed");
  }

  /** `isNews`: it was done now, so that the feed which was read holds their posts. */
  setMuted(user_id, muted, { isNews = false } = {}) {
    if (muted === this.muted.has(user_id)) return;
    if (muted) {
      this.muted.add(user_id);
      if (isNews) this.mutedSince.add(user_id);
    } else {
      this.muted.delete(user_id);
      if (!this.mutedSince.delete(user_id)) this.setStale();
    }
    this.onchange("posts", 0);
  }

  /** "Not interested" said of an item of a list, or elsewhere (`key` ""). */
  hide(kind, target, key = "") {
    const name = `${kind} ${target}`;
    this.hidden.set(name, { kind, target: String(target) });
    if (key) this.said.set(key, name);
    this.onchange("posts", 0);
  }

  unhide(kind, target) {
    const name = `${kind} ${target}`;
    if (!this.hidden.delete(name)) this.setStale();
    for (const [key, one] of this.said) if (one === name) this.said.delete(key);
    this.onchange("posts", 0);
  }
}
