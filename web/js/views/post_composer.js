// Where a post is written: text with a counter, who sees it, pictures, videos and files. Comments use the small form.

import { button, h, setText } from "../dom.js";
import { bytes } from "../time.js";
import { mentionsIn, utf8Length } from "../text.js";
import { attempt, personAvatar, toast } from "./parts.js";
import { knownNames, MAX_POST_BYTES, visibilitySelect } from "./post.js";
import { Suggestions } from "./suggestions.js";
import { Uploads } from "./uploads.js";

const MAX_COMMENT_BYTES = 4 * 1024; // protocol/limits.py
const NAME_MS = 300;
const MAX_NAME_WAIT_MS = 1500; // a post does not wait longer for names that are looked up
const COUNTER_FROM = 0.8; // of the limit: before that nobody needs to think of it

/** A text that grows, counts its bytes, keeps its draft and knows people. Ctrl+Enter sends it, in a `isQuick` one Enter. */
class Writer {
  constructor(app, { label, placeholder, max_bytes, draft, rows, isQuick = false }) {
    Object.assign(this, { app, max_bytes });
    this.draftKey = `hubbub.draft.${draft}`;
    this.area = h("textarea", { class: "write-field", rows, placeholder, "aria-label": label, "aria-autocomplete": "list", dir: "auto",
      enterkeyhint: isQuick ? "send" : null, title: isQuick ? "Enter sends, Shift+Enter starts a new line" : null });
    this.area.value = sessionStorage.getItem(this.draftKey) || "";
    this.counter = h("span", { class: "write-counter", role: "status", hidden: true });
    this.suggestions = new Suggestions(app, this.area, { find: (typed) => this._people(typed), onpick: () => this._input() });
    this.asked = new Set(); // names that were looked up
    this.area.addEventListener("input", () => this._input());
    this.area.addEventListener("keydown", (event) => {
      if (event.isComposing || this.suggestions.key(event)) return;
      if (event.key === "Enter" && (event.ctrlKey || event.metaKey || (isQuick && !event.shiftKey))) {
        event.preventDefault();
        this.send();
      }
    });
    requestAnimationFrame(() => this._grow());
  }

  get text() {
    return this.area.value.trim();
  }

  get isTooLong() {
    return utf8Length(this.text) > this.max_bytes;
  }

  mentions() {
    return mentionsIn(this.text, knownNames(this.app));
  }

  /** Names that stand in the text and may be somebody's, of whom this page does not know yet. */
  _strangers() {
    const known = knownNames(this.app);
    const names = [...this.text.matchAll(/(?:^|[\s(])@([\p{L}\p{N}_.-]{2,32})/gu)].map((match) => match[1].toLowerCase().replace(/[.-]+$/, ""));
    return [...new Set(names)].filter((name) => !known.has(name) && !this.asked.has(name)).slice(0, 10);
  }

  async _meet() {
    const names = this._strangers();
    for (const name of names) this.asked.add(name);
    await Promise.all(names.map((name) => this._people(name)));
  }

  /** Send, when it is known who is mentioned. */
  async send() {
    this._state();
    if (this.isTooLong) toast(`At most ${bytes(this.max_bytes)} are taken.`, { isError: true });
    if (this.sendButton.disabled || this.isSending) return;
    this.isSending = true;
    try {
      if (this._strangers().length) await Promise.race([this._meet(), new Promise((resolve) => setTimeout(resolve, MAX_NAME_WAIT_MS))]);
      if (!this._canSend()) return;
      this._send();
      this._clear();
      this.onsent();
    } finally {
      this.isSending = false;
    }
  }

  async _people(typed) {
    if (!typed) return [];
    const reply = await this.app.client.ask({ type: "find_users", prefix: typed, limit: 6 }).catch(() => ({ items: [] }));
    this.app.store.setPeople(reply.items || []);
    return (reply.items || []).filter((profile) => profile.user_id !== this.app.store.my_id);
  }

  _input() {
    if (this.area.value) sessionStorage.setItem(this.draftKey, this.area.value.slice(0, 100_000));
    else sessionStorage.removeItem(this.draftKey);
    this._grow();
    this._state();
    this.suggestions.update();
    clearTimeout(this.nameTimer);
    this.nameTimer = setTimeout(() => this._meet(), NAME_MS);
  }

  _grow() {
    this.area.style.height = "auto";
    if (this.area.scrollHeight) this.area.style.height = `${Math.min(this.area.scrollHeight, 420)}px`;
  }

  _state() {
    const left = this.max_bytes - utf8Length(this.text);
    this.counter.hidden = left > this.max_bytes * (1 - COUNTER_FROM);
    this.counter.classList.toggle("over", left < 0);
    setText(this.counter, left < 0 ? `${bytes(-left)} too long` : `${bytes(left)} left`);
    this.sendButton.disabled = !this._canSend();
  }

  _clear() {
    this.area.value = "";
    sessionStorage.removeItem(this.draftKey);
    this._grow();
    this._state();
  }
}

export class PostComposer extends Writer {
  constructor(app, { onsent = () => {} } = {}) {
    super(app, { label: "Write a post", placeholder: "What’s new?", max_bytes: MAX_POST_BYTES, draft: "post", rows: "1" });
    this.onsent = onsent;
    this.uploads = new Uploads(app, { what: "post", label: "Choose pictures, videos or files", onchange: () => this.sendButton && this._state() });
    this.who = visibilitySelect("public");
    this.sendButton = h("button", { type: "button", class: "button primary post-button", text: "Post", onclick: () => this.send() });
    this.face = h("span", { class: "write-face" }, personAvatar(app, app.store.my_id, { withPresence: false }));
    this.node = h("section", { class: "write", "aria-label": "Write a post" },
      this.face,
      h("div", { class: "write-body" },
        h("div", { class: "write-place" }, this.area, this.suggestions.node),
        this.uploads.tray,
        h("div", { class: "write-row" },
          button("Add pictures, videos or files", () => this.uploads.choose(), { icon: "picture", kind: "quiet" }),
          this.who, h("span", { class: "spacer" }), this.counter, this.sendButton)),
      this.uploads.picker);
    this.area.addEventListener("paste", (event) => {
      if (!event.clipboardData.files.length) return;
      event.preventDefault();
      this.uploads.add(event.clipboardData.files);
    });
    this.node.addEventListener("dragover", (event) => event.preventDefault());
    this.node.addEventListener("drop", (event) => {
      event.preventDefault();
      this.uploads.add(event.dataTransfer.files);
    });
    this._state();
  }

  _canSend() {
    return !this.uploads.isBusy && !this.isTooLong && Boolean(this.text || this.uploads.hasReady);
  }

  _send() {
    this.app.client.feed.send("posts", { text: this.text, mentions: this.mentions(), visibility: this.who.value, files: this.uploads.take() });
  }
}

export class CommentComposer extends Writer {
  /** `parent_id`: the comment that is answered, or 0. */
  constructor(app, post_id, { parent_id = 0, to = "", onsent = () => {}, oncancel = null }) {
    const label = parent_id ? `Answer ${to}` : "Write a comment";
    const hasKeyboard = matchMedia("(hover: hover)").matches; // on a phone the key itself says that it sends
    super(app, { label, placeholder: hasKeyboard ? `${label} (Enter sends)` : label, max_bytes: MAX_COMMENT_BYTES, draft: `comment.${post_id}.${parent_id}`, rows: "1", isQuick: true });
    Object.assign(this, { post_id, parent_id, onsent });
    this.sendButton = button("Send", () => this.send(), { icon: "send", kind: "send" });
    this.node = h("div", { class: "write write-comment" },
      personAvatar(app, app.store.my_id, { size: "small", withPresence: false }),
      h("div", { class: "write-place" }, this.area, this.suggestions.node),
      this.counter,
      oncancel ? button("Do not answer", oncancel, { icon: "close", kind: "quiet" }) : null, this.sendButton);
    this._state();
  }

  _canSend() {
    return Boolean(this.text) && !this.isTooLong;
  }

  _send() {
    this.app.client.feed.send(`post ${this.post_id}`, { post_id: this.post_id, parent_id: this.parent_id, text: this.text, mentions: this.mentions() });
  }
}

/** Delete a comment, after asking. */
export async function deleteComment(app, comment) {
  return attempt(app.client.ask({ type: "delete_comment", post_id: comment.post_id, comment_id: comment.comment_id }));
}
