// Lists of people, read in pages: followers and those followed, requests, who is muted, who likes a post.

import { button, h, reconcile } from "../dom.js";
import { columns } from "./feed.js";
import { attempt, openDialog, personAvatar } from "./parts.js";
import { stateLine } from "./post.js";

const PAGE = 50;
const NEAR_END_PX = 400;
const FIND_MS = 200; // after the last key
const FOUND = 12; // people in an answer; more letters find the others

/** A list that a command reads in pages by `after` and `next`. */
export class PeopleList {
  /** `actions(user_id)` gives the controls of a row; `words` stands where nobody is in it. */
  constructor(app, command, { actions = null, words = "Nobody yet.", label = "People" } = {}) {
    Object.assign(this, { app, command, actions, words });
    this.items = [];
    this.next = "";
    this.isEnd = false;
    this.problem = "";
    this.list = h("ul", { class: "people", "aria-label": label });
    this.state = h("div", { class: "feed-state", role: "status" });
    this.node = h("div", { class: "people-list" }, this.list, this.state);
  }

  /** Follow the scrolling of what the list stands in. */
  within(scroller) {
    scroller.addEventListener("scroll", () => {
      if (scroller.scrollHeight - scroller.scrollTop - scroller.clientHeight < NEAR_END_PX) this.more();
    }, { passive: true });
    return this;
  }

  /** From the start again. */
  async load() {
    Object.assign(this, { next: "", isEnd: false, problem: "" });
    await this.more(true);
  }

  async more(isFirst = false) {
    if (this.isLoading || this.isEnd || (this.problem && !isFirst)) return;
    this.isLoading = true;
    this.problem = "";
    this.render();
    try {
      const page = await this.app.client.ask({ ...this.command, after: this.next, limit: PAGE });
      const known = new Set(isFirst ? [] : this.items.map((item) => item.user_id));
      this.items = [...(isFirst ? [] : this.items), ...(page.items || []).filter((item) => !known.has(item.user_id))];
      this.next = page.next || "";
      this.isEnd = !this.next;
    } catch (error) {
      this.problem = error.message || error.code;
    } finally {
      this.isLoading = false;
      this.render();
    }
  }

  drop(user_id) {
    this.items = this.items.filter((item) => item.user_id !== user_id);
    this.render();
  }

  render() {
    const { store } = this.app;
    reconcile(this.list, this.items.map(({ user_id }) => {
      const author = store.feed.authors.get(user_id);
      return {
        key: user_id,
        deps: [store.people.get(user_id), store.nameOf(user_id), author, store.feed.muted.has(user_id), store.blocked.has(user_id)],
        render: () => personRow(this.app, user_id, this.actions ? this.actions(user_id) : []),
      };
    }));
    stateLine(this.state, { problem: this.problem, isLoading: this.isLoading, words: this.isEnd && !this.items.length ? this.words : "", onretry: () => this.more(!this.items.length) });
  }
}

/** Find people by the beginning of a name; whom one finds has a profile and a button to follow. */
export class PeopleSearch {
  constructor(app) {
    this.app = app;
    this.found = null; // profiles, null: nothing was asked
    this.asked = 0;
    this.problem = "";
    const label = "Find people by name";
    this.input = h("input", { class: "field", type: "search", placeholder: label, "aria-label": label, maxlength: "64", autocomplete: "off" });
    this.list = h("ul", { class: "people", "aria-label": "People found" });
    this.state = h("div", { class: "search-state", role: "status" });
    this.node = h("div", { class: "search people-search", role: "search", "aria-label": "People" }, this.input, this.list, this.state);
    this.input.addEventListener("input", () => {
      clearTimeout(this.timer);
      this.timer = setTimeout(() => this.find(), FIND_MS);
    });
  }

  close() {
    clearTimeout(this.timer);
    this.asked += 1; // what is under way is for nobody
  }

  async find() {
    const prefix = this.input.value.trim();
    const mine = (this.asked += 1);
    this.problem = "";
    if (!prefix) {
      this.found = null;
      this.render();
      return;
    }
    if (this.app.client.connection.state !== "open") return; // it is asked for when there is a connection
    try {
      const { items = [] } = await this.app.client.ask({ type: "find_users", prefix, limit: FOUND });
      if (mine !== this.asked) return;
      const { store, client } = this.app;
      store.setPeople(items);
      this.found = items.filter(({ user_id }) => user_id !== store.my_id);
      this.render();
      // How one stands to them is not part of the answer: without it a button would offer the wrong thing.
      await Promise.all(this.found.map(({ user_id }) => (store.feed.authors.has(user_id) ? null : client.feed.loadAuthor(user_id).catch(() => {}))));
    } catch (error) {
      if (mine === this.asked && error.code !== "disconnected") this.problem = error.message || error.code;
    }
    if (mine === this.asked) this.render();
  }

  render() {
    const { store } = this.app;
    reconcile(this.list, (this.found || []).map(({ user_id }) => ({
      key: user_id,
      deps: [store.people.get(user_id), store.nameOf(user_id), store.feed.authors.get(user_id), store.blocked.has(user_id)],
      render: () => personRow(this.app, user_id, store.feed.authors.has(user_id) ? [followButton(this.app, user_id)] : []),
    })));
    this.list.hidden = !this.found || !this.found.length;
    const words = this.found && !this.found.length ? "Nobody found. Names are searched from their beginning." : "";
    stateLine(this.state, { problem: this.problem, words, onretry: () => this.find() });
  }
}

export function personRow(app, user_id, actions = [], sub = "") {
  const profile = app.store.people.get(user_id);
  return h("li", { class: "person-row", dataset: { user: user_id } },
    h("a", { class: "person", href: `#u/${user_id}` }, personAvatar(app, user_id, { withPresence: false }),
      h("span", { class: "person-words" }, h("span", { class: "person-name", text: app.store.nameOf(user_id) }),
        h("span", { class: "person-sub", text: sub || (profile ? `@${profile.username}` : "") }))), actions);
}

/** Follow, request or unfollow, by how one stands to them; nothing for oneself. */
export function followButton(app, user_id, { isSmall = true } = {}) {
  if (user_id === app.store.my_id) return null;
  const author = app.store.feed.authors.get(user_id);
  const state = author ? author.follow : "none";
  const words = { none: author && author.is_private ? "Ask to follow" : "Follow", requested: "Requested", following: "Following" }[state];
  const name = app.store.nameOf(user_id);
  const label = { none: `${words} ${name}`, requested: `Take the request to ${name} back`, following: `Unfollow ${name}` }[state];
  const control = h("button", {
    type: "button", class: `button follow ${isSmall ? "small" : ""} ${state === "none" ? "primary" : ""}`, text: words, "aria-label": label, title: label,
    disabled: app.store.blocked.has(user_id), dataset: { focus: "follow", follow: state },
    onclick: async () => {
      control.disabled = true;
      await attempt(app.client.feed.follow(user_id, state === "none"));
      control.disabled = false;
    },
  });
  return control;
}

/** The list in a dialog. */
export function openPeople(app, title, command) {
  const list = new PeopleList(app, command);
  const stop = app.listen(["people"], () => list.render());
  const { dialog } = openDialog(title, list.node, { onclose: stop });
  list.within(dialog.querySelector(".dialog-body")).load();
}

/** A page of its own that holds one list. */
export class PeoplePage {
  /** `make(page)` gives {command, words, actions}. */
  constructor(app, title, { command, words, actions }) {
    this.app = app;
    this.title = title;
    this.list = new PeopleList(app, command, { words, actions: actions && ((user_id) => actions(user_id, this)), label: title });
    const scroller = h("div", { class: "feed-scroller", tabindex: "0", role: "region", "aria-label": title },
      columns(h("header", { class: "feed-head" }, button("Back", () => app.back(), { icon: "back", kind: "quiet" }), h("h1", { text: title })), this.list.node));
    this.list.within(scroller);
    this.node = h("main", { class: "feed", "aria-label": title }, scroller);
    this.stop = app.listen(["follow_requests"], () => command.type === "list_follow_requests" && this.list.load());
  }

  opened() {
    this.list.load();
  }

  connected() {
    this.list.load();
  }

  close() {
    this.stop();
  }

  render() {
    this.list.render();
  }
}

export const PAGES = {
  followers: (app, user_id) => new PeoplePage(app, user_id === app.store.my_id ? "Your followers" : `Followers of ${app.store.nameOf(user_id)}`, {
    command: { type: "list_followers", user_id }, words: "No followers yet.",
    actions: (other_id, page) => (user_id !== app.store.my_id ? [] : [small("Remove", async () => {
      if (await attempt(app.client.ask({ type: "remove_follower", user_id: other_id }))) page.list.drop(other_id);
    }, `Remove ${app.store.nameOf(other_id)} from your followers`)]),
  }),
  following: (app, user_id) => new PeoplePage(app, user_id === app.store.my_id ? "Whom you follow" : `Followed by ${app.store.nameOf(user_id)}`, {
    command: { type: "list_following", user_id }, words: "Nobody yet.",
    actions: (other_id, page) => (user_id !== app.store.my_id ? [] : [small("Unfollow", async () => {
      if (await attempt(app.client.feed.follow(other_id, false))) page.list.drop(other_id);
    }, `Unfollow ${app.store.nameOf(other_id)}`)]),
  }),
  requests: (app) => new PeoplePage(app, "Requests to follow you", {
    command: { type: "list_follow_requests" }, words: "Nobody is waiting for an answer.",
    actions: (other_id, page) => {
      const answer = (accept) => async () => {
        if (await attempt(app.client.ask({ type: "answer_follow", user_id: other_id, accept }))) page.list.drop(other_id);
      };
      const name = app.store.nameOf(other_id);
      return [small("Accept", answer(true), `Accept ${name}`, "primary"), small("Decline", answer(false), `Decline ${name}`)];
    },
  }),
  muted: (app) => new PeoplePage(app, "Muted", {
    command: { type: "list_muted" }, words: "You have muted nobody.",
    actions: (other_id, page) => [small("Unmute", async () => {
      if (await attempt(app.client.feed.mute(other_id, false).then(() => true))) page.list.drop(other_id);
    }, `Unmute ${app.store.nameOf(other_id)}`)],
  }),
};

function small(text, onclick, label, kind = "") {
  return h("button", { type: "button", class: `button small ${kind}`, text, "aria-label": label, onclick });
}
