// What the person is not interested in, what that does by now, and how to take it back.

import { button, fill, h } from "../dom.js";
import { date } from "../time.js";
import { columns } from "./feed.js";
import { attempt } from "./parts.js";
import { stateLine } from "./post.js";

export class InterestsPage {
  constructor(app) {
    this.app = app;
    this.title = "Not interested";
    this.items = null;
    this.problem = "";
    this.list = h("ul", { class: "interests", "aria-label": "Not interested" });
    this.state = h("div", { class: "feed-state", role: "status" });
    this.node = h("main", { class: "feed", "aria-label": "Not interested" },
      h("div", { class: "feed-scroller", tabindex: "0", role: "region", "aria-label": "Not interested" }, columns(
        h("header", { class: "feed-head" }, button("Back", () => app.back(), { icon: "back", kind: "quiet" }), h("h1", { text: "Not interested" })),
        h("p", { class: "hint page-hint", text: "For two weeks it is hidden; then “For you” ranks it lower, and step by step it comes back. A single post stays hidden." }),
        this.list, this.state)));
  }

  opened() {
    this._load();
  }

  connected() {
    this._load();
  }

  close() {}

  async _load() {
    this.problem = "";
    try {
      this.items = (await this.app.client.ask({ type: "list_interests" })).items || [];
      for (const item of this.items) if (item.kind === "post") this.app.client.feed.loadPost(Number(item.target)).catch(() => {});
    } catch (error) {
      if (error.code !== "disconnected") this.problem = error.message || error.code;
    }
    this.render();
  }

  render() {
    const items = this.items || [];
    const key = JSON.stringify([items, items.map((item) => this._name(item))]);
    if (key !== this.drawn) {
      this.drawn = key;
      fill(this.list, items.map((item) => this._row(item)));
    }
    stateLine(this.state, { problem: this.problem, isLoading: !this.items && !this.problem, words: this.items && !items.length ? "Nothing is hidden from you." : "", onretry: () => this._load() });
  }

  _name({ kind, target }) {
    if (kind === "hashtag") return `#${target}`;
    if (kind === "author") return this.app.store.nameOf(target);
    const post = this.app.store.feed.post(Number(target));
    return post && !post.deleted ? `“${(post.text || "a post").slice(0, 90)}” by ${this.app.store.nameOf(post.author_id)}` : "A post";
  }

  _row(item) {
    const now = Date.now();
    const isHidden = (item.hidden_until_ms || 0) > now;
    const words = isHidden ? `Hidden until ${date(item.hidden_until_ms)}` : `Counts ${Math.round((item.factor || 0) * 100)} % in “For you”`;
    const meter = h("meter", { min: "0", max: "1", value: String(isHidden ? 0 : item.factor || 0), "aria-label": "How much of it comes through" });
    return h("li", { class: "interest" },
      h("span", { class: "person-words" }, h("span", { class: "interest-name", text: this._name(item) }),
        h("span", { class: "person-sub", text: `${words}${item.ends_at_ms && item.ends_at_ms !== item.hidden_until_ms ? ` · over by ${date(item.ends_at_ms)}` : ""}` }), item.kind === "post" ? null : meter),
      h("button", { type: "button", class: "button small", text: "Undo", "aria-label": `Undo: ${this._name(item)}`, onclick: async () => {
        if (!(await attempt(this.app.client.feed.unhide(item.kind, item.target).then(() => true)))) return;
        this.items = this.items.filter((one) => one !== item);
        this.render();
      } }));
  }
}
