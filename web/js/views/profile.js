// A user as an author: who they are, how one stands to them, and their timeline.

import { button, drawIcon, h, reconcile } from "../dom.js";
import { columns, Scroller } from "./feed.js";
import { attempt, confirmDialog, openMenu, personAvatar } from "./parts.js";
import { followButton } from "./people.js";
import { authorActions, itemSpecs, stateLine } from "./post.js";

const PAGE = 20;

export class ProfilePage {
  constructor(app, user_id) {
    this.app = app;
    this.user_id = user_id;
    this.editing = 0;
    this.items = [];
    this.keys = new Set();
    this.next = 0;
    this.isEnd = false;
    this.problem = "";
    this.scroller = new Scroller(app, this, { label: "Profile", onend: () => this._more() });
    this.hero = h("div", {});
    this.rows = h("ol", { class: "posts feed-rows", "aria-label": "Posts" });
    this.state = h("div", { class: "feed-state", role: "status" });
    this.scroller.node.append(columns(
      h("header", { class: "feed-head" }, button("Back", () => app.back(), { icon: "back", kind: "quiet" }), h("h1", { text: "Profile" })),
      this.hero, this.rows, this.state));
    this.node = h("main", { class: "feed", "aria-label": "Profile" }, this.scroller.node);
    this.stop = app.listen(["posted"], () => this.isMine && this._load());
  }

  get isMine() {
    return this.user_id === this.app.store.my_id;
  }

  get title() {
    return this.app.store.nameOf(this.user_id);
  }

  close() {
    this.scroller.close();
    this.stop();
    this.app.store.feed.lists.delete(this);
  }

  opened() {
    this.app.store.feed.lists.add(this);
    this._load();
  }

  connected() {
    this._load();
  }

  edit(post_id) {
    this.editing = post_id;
    this.render();
  }

  async _load() {
    if (this.app.client.connection.state !== "open") return; // connected() comes
    this.problem = "";
    try {
      await this.app.client.feed.loadAuthor(this.user_id);
      await this._read(0);
    } catch (error) {
      if (error.code !== "disconnected") this.problem = error.code === "user_not_found" ? "There is no such user, or they are not for you to see." : error.message || error.code;
    }
    this.render();
  }

  _more() {
    if (this.isEnd || this.isLoading || this.problem || !this.next) return;
    this._read(this.next).catch((error) => {
      if (error.code !== "disconnected") this.problem = error.message || error.code;
    }).finally(() => this.render());
  }

  async _read(before) {
    this.isLoading = true;
    try {
      const page = await this.app.client.ask({ type: "list_posts", user_id: this.user_id, before, limit: PAGE });
      if (!before) {
        this.items = [];
        this.keys.clear();
      }
      for (const one of page.items || []) {
        const item = this.app.store.feed.takeItem(one);
        if (this.keys.has(item.key)) continue;
        this.keys.add(item.key);
        this.items.push(item);
      }
      this.next = page.next || 0;
      this.isEnd = !this.next;
    } finally {
      this.isLoading = false;
    }
  }

  render() {
    const { store } = this.app;
    const author = store.feed.authors.get(this.user_id);
    const profile = store.people.get(this.user_id);
    const name = store.nameOf(this.user_id);
    const isBlocked = store.blocked.has(this.user_id);
    const isMuted = store.feed.muted.has(this.user_id);
    reconcile(this.hero, author ? [{
      key: "hero", deps: [author, profile, name, isBlocked, isMuted], render: () => this._hero(author, profile, name, { isBlocked, isMuted }),
    }] : []);
    // What is muted is hidden in lists that mix authors; who comes here wants to see it.
    const { muted } = store.feed;
    const wasMuted = muted.delete(this.user_id);
    reconcile(this.rows, itemSpecs(this.app, this, this.items));
    if (wasMuted) muted.add(this.user_id);
    const isClosed = author && author.is_private && author.follow !== "following" && !this.isMine;
    stateLine(this.state, {
      problem: this.problem, isLoading: this.isLoading || !author,
      words: isBlocked ? "You blocked them." : isClosed ? "This account is private. Their posts are for approved followers."
        : !this.isEnd ? "" : this.rows.children.length ? "That was all." : "No posts yet.",
      onretry: () => this._load(),
    });
    this.scroller.watch(this.rows);
  }

  _hero(author, profile, name, { isBlocked, isMuted }) {
    const { app } = this;
    const fact = (number, words, href) => h(href ? "a" : "span", { class: "fact", href }, h("strong", { text: String(number) }), ` ${words}`);
    const more = button("More", () => openMenu(more, authorActions(app, this.user_id)), { icon: "more", kind: "quiet", "aria-haspopup": "menu" });
    return h("section", { class: "hero", "aria-label": name },
      h("div", { class: "hero-top" }, personAvatar(app, this.user_id, { size: "large", withPresence: false }), h("span", { class: "spacer" }),
        this.isMine
          ? h("button", { type: "button", class: "button", text: "Edit profile", onclick: () => app.openProfile() })
          : h("div", { class: "hero-actions" }, more,
              h("button", { type: "button", class: "button", text: "Message", disabled: isBlocked, onclick: () => app.openDirect(this.user_id) }),
              followButton(app, this.user_id, { isSmall: false }))),
      h("h2", { class: "hero-name" }, name, author.is_private ? h("span", { class: "post-lock", role: "img", "aria-label": "Private account", title: "Private account" }, drawIcon("lock", "icon tiny")) : null),
      h("p", { class: "hero-sub" }, profile ? `@${profile.username}` : "",
        author.follows_you ? h("span", { class: "role", text: "follows you" }) : null,
        isMuted ? h("span", { class: "role", text: "muted" }) : null,
        isBlocked ? h("span", { class: "role", text: "blocked" }) : null),
      h("p", { class: "facts" },
        fact(author.posts, author.posts === 1 ? "post" : "posts"),
        fact(author.followers, author.followers === 1 ? "follower" : "followers", `#u/${this.user_id}/followers`),
        fact(author.following, "following", `#u/${this.user_id}/following`)),
      this.isMine ? this._mine(author) : null);
  }

  _mine(author) {
    const box = h("input", { type: "checkbox", role: "switch", class: "switch", id: "private-account" });
    box.checked = author.is_private;
    const set = async (is_private) => {
      const reply = await attempt(this.app.client.ask({ type: "update_author", is_private }));
      if (reply) this.app.store.feed.setAuthor(reply.author, { isWhole: true });
      else box.checked = author.is_private;
    };
    box.addEventListener("change", () => {
      if (box.checked) return set(true);
      box.checked = true; // until it is confirmed
      return confirmDialog("Public account", "Everybody can see your posts, and whoever asked to follow you is let in.", "Make it public", () => set(false));
    });
    const line = (href, text) => h("a", { class: "hero-link", href }, text);
    return h("div", { class: "hero-mine" },
      h("div", { class: "switch-row" }, h("label", { for: "private-account" }, "Private account", h("span", { class: "person-sub", text: "Only followers you approve see your posts." })), box),
      h("nav", { class: "hero-links", "aria-label": "Your lists" },
        line("#requests", "Requests to follow you"), line("#muted", "Muted"), line("#interests", "Not interested"), line("#notification-settings", "Notifications")));
  }
}
