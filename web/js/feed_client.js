// What happens between the feed's store and the server: reading pages, what is on the screen, the reading position,
// likes, reposts, follows, "not interested", ads, and posts and comments that are under way.

import { newClientId, Outbox } from "./outbox.js";

const PAGE = 20;
const CATCH_UP_PAGE = 100;
const MAX_CATCH_UP = 500; // posts above the reading position that are read to come back to it
const WATCH_MS = 250;
const POSITION_MS = 800; // after the scrolling has come to rest
const MAX_WATCHED = 200; // protocol/limits.py
const ORDER_KEY = "hubbub.feed.order";

export class FeedClient {
  /** `client`: the page's (client.js), which is connected. */
  constructor(client) {
    this.client = client;
    this.store = client.store.feed;
    this.isOpen = false; // the feed was on the screen: its events are wanted from then on
    this.screens = new Map(); // view -> post ids on it
    this.watched = "";
    this.loading = null;
    this.refreshing = null;
    this.wishes = new Map(); // post_id -> whether it is to be liked
    this.adsSeen = new Set();
    this.adsClicked = new Set();
    this.positionTold = -1;
    this.problem = ""; // why the last page did not come
    this.outbox = new Outbox({
      name: "posts",
      user_id: client.session.user.user_id,
      storage: localStorage,
      send: (item) => this._sendItem(item),
      onsent: (item, reply) => this._sent(item, reply),
      onchange: () => client.onchange("feed"),
    });
  }

  ask(command) {
    return this.client.ask(command);
  }

  // -- the connection -------------------------------------------------------------------------------

  /** Connected, for the first time or again: say what is on the screen, and read what may have been missed. */
  welcomed() {
    this.watched = "";
    this.outbox.pumpAll();
    this._sendWatch();
    if (!this.isOpen) return;
    this.problem = "";
    if (this.store.feed.is_loaded) {
      this.refresh();
      this._refreshScreens();
    } else this.load();
  }

  /** What stands on the screen now: told to the server, which sends counts and changes of these posts. */
  onScreen(view, post_ids) {
    this.screens.set(view, post_ids);
    this._watchSoon();
  }

  offScreen(view) {
    this.screens.delete(view);
    this._watchSoon();
  }

  _watchSoon() {
    clearTimeout(this.watchTimer);
    this.watchTimer = setTimeout(() => this._sendWatch(), WATCH_MS);
  }

  _onScreenIds() {
    return [...new Set([...this.screens.values()].flat())].slice(0, MAX_WATCHED).sort((one, other) => one - other);
  }

  _sendWatch() {
    const post_ids = this._onScreenIds();
    const watched = `${this.isOpen} ${post_ids.join(" ")}`;
    if (this.client.connection.state !== "open" || watched === this.watched) return;
    if (!this.watched && !this.isOpen && !post_ids.length) return;
    this.watched = watched;
    this.client._ask({ type: "watch_feed", feed: this.isOpen, post_ids }).catch((error) => {
      if (this.watched === watched) this.watched = "";
      if (error.code !== "disconnected") setTimeout(() => this._sendWatch(), (error.retry_after_s || 1) * 1000);
    });
  }

  /** Nothing was heard for a while: read again what the person looks at. */
  async _refreshScreens() {
    for (const post_id of this._onScreenIds().slice(0, PAGE)) await this.loadPost(post_id).catch(() => {});
  }

  // -- the own feed ---------------------------------------------------------------------------------

  get order() {
    return localStorage.getItem(ORDER_KEY) || null;
  }

  setOrder(order) {
    localStorage.setItem(ORDER_KEY, order);
    return this.load({ isRestoring: false });
  }

  /** The feed came to the screen. */
  open() {
    const wasOpen = this.isOpen;
    this.isOpen = true;
    if (this.client.connection.state !== "open") return; // welcomed() goes on
    this._sendWatch();
    if (!this.store.feed.is_loaded || this.store.feed.is_stale) this.load();
    else if (!wasOpen) this.refresh();
  }

  /** Read the newest page, and with `isRestoring` as many as it takes to come back to where the person was. */
  load({ isRestoring = true } = {}) {
    this.loading ||= this._load(isRestoring).finally(() => {
      this.loading = null;
      this.client.onchange("feed");
    });
    return this.loading;
  }

  async _load(isRestoring) {
    this.problem = "";
    this.client.onchange("feed");
    try {
      this.store.startFeed(await this._read({ limit: PAGE }), { isRestoring });
      const { feed } = this.store;
      if (!isRestoring || feed.order !== "chronological" || !feed.read_position) return;
      const oldest = () => feed.items.reduce((low, item) => (item.kind === "ad" ? low : Math.min(low, item.post_id)), Infinity);
      while (!feed.is_end && oldest() > feed.read_position && feed.items.length < MAX_CATCH_UP && this.store.feed === feed) {
        await this._older(CATCH_UP_PAGE);
      }
    } catch (error) {
      this._failed(error);
    }
  }

  /** The page behind the last one. After a failure only when the person asks again. */
  older(isAsked = false) {
    const { feed } = this.store;
    if (this.loading || !feed.is_loaded || feed.is_end || this.client.connection.state !== "open") return;
    if (this.problem && !isAsked) return;
    this.problem = "";
    this.loading = this._older(PAGE).catch((error) => this._failed(error)).finally(() => {
      this.loading = null;
      this.client.onchange("feed");
    });
    this.client.onchange("feed");
  }

  async _older(limit) {
    const { before } = this.store.feed;
    this.store.addOlder(before, await this._read({ before, limit }));
  }

  _read(fields) {
    const order = this.order;
    return this.ask({ type: "read_feed", ...(order ? { order } : {}), ...fields });
  }

  _failed(error) {
    this.problem = error.message || error.code;
    if (error.code === "bad_cursor") this.store.feed.is_loaded = false; // the store went back in time
  }

  /** Events may have been lost: read the newest page again. By time also for a ranked feed, whose scroll stays as it is. */
  refresh() {
    if (this.loading) return this.loading.then(() => this.refresh());
    if (!this.store.feed.is_loaded) return undefined;
    this.refreshing ||= this._read({ limit: PAGE, order: "chronological" })
      .then((page) => this.store.refreshFeed(page), (error) => {
        if (error.code !== "disconnected") console.warn("refreshing the feed failed", error.code);
      })
      .finally(() => (this.refreshing = null));
    return this.refreshing;
  }

  /** The first post on the screen, when the scrolling has come to rest. */
  savePosition(post_id) {
    this.positionWanted = post_id;
    clearTimeout(this.positionTimer);
    this.positionTimer = setTimeout(() => this.flushPosition(), POSITION_MS);
  }

  flushPosition() {
    clearTimeout(this.positionTimer);
    const post_id = this.positionWanted;
    if (!post_id || post_id === this.positionTold || this.client.connection.state !== "open") return;
    this.positionTold = post_id;
    this.store.feed.read_position = post_id;
    this.client._ask({ type: "set_feed_position", post_id }).catch(() => (this.positionTold = -1));
  }

  // -- posts ----------------------------------------------------------------------------------------

  async loadPost(post_id) {
    try {
      const info = await this.client._ask({ type: "get_post", post_id });
      return this.store.takeItem(info);
    } catch (error) {
      if (error.code === "post_not_found") this.store.dropPost(post_id);
      throw error;
    }
  }

  /** Like it or take that back: at once on the screen, then as the server counts. The last wish wins. */
  async like(post_id) {
    const liked = !this.store.mark(post_id).liked;
    const post = this.store.post(post_id);
    this.store.setMark(post_id, { liked });
    if (post) this.store.setCounts({ ...post, likes: Math.max(0, post.likes + (liked ? 1 : -1)) });
    const isRunning = this.wishes.has(post_id);
    this.wishes.set(post_id, liked);
    if (isRunning) return;
    let told = !liked;
    try {
      while (this.wishes.get(post_id) !== told) {
        told = this.wishes.get(post_id);
        const reply = await this.ask({ type: "like_post", post_id, removed: !told });
        if (this.wishes.get(post_id) !== told) continue;
        this.store.setCounts(reply);
        this.store.setMark(post_id, { liked: Boolean(reply.liked) });
      }
    } catch (error) {
      this.store.setMark(post_id, { liked: !told });
      await this.loadPost(post_id).catch(() => {});
      throw error;
    } finally {
      this.wishes.delete(post_id);
    }
  }

  async repost(post_id) {
    const info = await this.ask({ type: "repost", client_id: newClientId(), post_id });
    this.store.takeItem({ ...info, reposted: true });
    return info;
  }

  async unrepost(post_id) {
    let { repost_id } = this.store.mark(post_id);
    // Which post of ours repeats it is not known after a reload. Repeating it again tells, and changes nothing.
    if (!repost_id) repost_id = (await this.repost(post_id)).post.post_id;
    await this.ask({ type: "delete_post", post_id: repost_id });
    this.store.dropPost(repost_id);
    this.store.setMark(post_id, { reposted: false, repost_id: 0 });
    await this.loadPost(post_id).catch(() => {});
  }

  async deletePost(post_id) {
    await this.ask({ type: "delete_post", post_id });
    this.store.dropPost(post_id);
  }

  async editPost(post_id, fields) {
    const info = await this.ask({ type: "edit_post", post_id, ...fields });
    this.store.setPost(info.post);
  }

  // -- posts and comments under way -----------------------------------------------------------------

  /** `lane`: "posts", or "post <id>" for a comment on it. In each lane one is sent at a time. */
  send(lane, fields) {
    return this.outbox.add({ ...fields, conversation_id: lane });
  }

  async _sendItem(item) {
    if (item.post_id) {
      return this.client._ask({
        type: "add_comment", client_id: item.client_id, post_id: item.post_id, text: item.text,
        parent_id: item.parent_id || 0, mentions: item.mentions || [],
      });
    }
    return this.client._ask({
      type: "create_post", client_id: item.client_id, text: item.text, visibility: item.visibility || "public",
      mentions: item.mentions || [], file_ids: (item.files || []).map((file) => file.file_id),
    });
  }

  _sent(item, reply) {
    if (item.post_id) this.client.onchange("comment", reply.comment);
    else {
      this.store.addOwn(reply);
      this.client.onchange("posted", reply.post);
    }
  }

  // -- people ---------------------------------------------------------------------------------------

  async loadAuthor(user_id) {
    const reply = await this.client._ask({ type: "get_author", user_id });
    this.store.setAuthor(reply.author, { isWhole: true });
    return reply.author;
  }

  /** Something about them has moved: worth a question only where they are shown. */
  async loadAuthorAgain(user_id) {
    if (this.store.authors.has(user_id)) await this.loadAuthor(user_id);
  }

  /** The counts follow by themselves: the author's own part hears of it a moment later. */
  async follow(user_id, isOn) {
    const was = this.store.authors.get(user_id);
    const reply = await this.ask({ type: isOn ? "follow" : "unfollow", user_id });
    const follow = reply.follow || "none";
    this.store.setFollow(user_id, follow);
    if (!was) return;
    const step = Number(follow === "following") - Number(was.follow === "following");
    const mine = this.store.authors.get(this.store.my_id());
    this.store.setAuthor({ user_id, followers: Math.max(0, (was.followers || 0) + step) });
    if (mine) this.store.setAuthor({ ...mine, following: Math.max(0, mine.following + step) });
  }

  async mute(user_id, isOn) {
    await this.ask({ type: "mute_user", user_id, removed: !isOn });
    this.store.setMuted(user_id, isOn, { isNews: true });
    this.store.setAuthor({ user_id, muted: isOn });
  }

  /** Hides at once; comes back where the server does not take it. */
  async hide(kind, target, key = "") {
    this.store.hide(kind, target, key);
    try {
      await this.ask({ type: "set_interest", kind, target: String(target) });
    } catch (error) {
      this.store.unhide(kind, target);
      throw error;
    }
  }

  async unhide(kind, target) {
    await this.ask({ type: "set_interest", kind, target: String(target), removed: true });
    this.store.unhide(kind, target);
  }

  // -- ads ------------------------------------------------------------------------------------------

  adSeen(slot_id) {
    this._adOnce(this.adsSeen, "ad_seen", slot_id);
  }

  adClicked(slot_id) {
    this._adOnce(this.adsClicked, "ad_clicked", slot_id);
  }

  _adOnce(told, type, slot_id) {
    if (told.has(slot_id)) return;
    told.add(slot_id);
    this.ask({ type, slot_id }).catch(() => told.delete(slot_id)); // counted once by the server as well
  }
}
