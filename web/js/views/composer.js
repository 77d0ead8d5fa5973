// Where a message is written: text, mentions, quotes, files.

import { button, drawIcon, fill, h } from "../dom.js";
import { bytes, clock } from "../time.js";
import { mentionsIn, utf8Length } from "../text.js";
import { openMenu, toast } from "./parts.js";
import { Suggestions } from "./suggestions.js";
import { Uploads } from "./uploads.js";

export class Composer {
  /** `thread`: the seq of a thread's first message, or 0. `oneditlast` opens the own last message. */
  constructor(app, { conversation_id, thread = 0, names, oneditlast = () => {}, onsent = () => {} }) {
    Object.assign(this, { app, conversation_id, thread, names, oneditlast, onsent });
    this.replyTo = 0;
    this.draftKey = `hubbub.draft.${conversation_id}.${thread}`;
    this.area = h("textarea", {
      class: "compose-field", rows: "1", placeholder: thread ? "Reply in thread" : "Message", "aria-label": thread ? "Reply in thread" : "Message",
      "aria-autocomplete": "list", enterkeyhint: "send", dir: "auto",
    });
    this.area.value = sessionStorage.getItem(this.draftKey) || "";
    this.replyBar = h("div", { class: "reply-bar", hidden: true });
    this.uploads = new Uploads(app, { what: "message", onchange: () => this._state() });
    this.suggestions = new Suggestions(app, this.area, { find: (typed) => this._found(typed), onpick: () => this._input() });
    this.notice = h("div", { class: "compose-notice", hidden: true });
    this.sendButton = button("Send", () => this.send(), { icon: "send", kind: "send" });
    const smile = button("Insert an emoji", () => this._emoji(smile), { icon: "smile", kind: "quiet" });
    this.row = h("div", { class: "compose-row" },
      button("Attach files", () => this.uploads.choose(), { icon: "clip", kind: "quiet" }), this.area, smile, this.sendButton);
    this.node = h("div", { class: "composer" }, this.suggestions.node, this.replyBar, this.uploads.tray, this.notice, this.row, this.uploads.picker);
    this.area.addEventListener("input", () => this._input());
    this.area.addEventListener("keydown", (event) => this._key(event));
    this.area.addEventListener("paste", (event) => {
      if (event.clipboardData.files.length) {
        event.preventDefault();
        this.addFiles(event.clipboardData.files);
      }
    });
    requestAnimationFrame(() => this._grow());
    this._state();
  }

  focus() {
    // A phone's keyboard would cover what was just opened.
    if (matchMedia("(hover: hover)").matches) this.area.focus({ preventScroll: true });
  }

  /** Say why nothing can be posted; null: it can. */
  setNotice(text) {
    this.notice.hidden = !text;
    this.row.hidden = Boolean(text);
    this.notice.textContent = text || "";
  }

  reply(seq) {
    this.replyTo = seq;
    const quoted = seq ? this.app.store.message(this.conversation_id, seq) : null;
    this.replyBar.hidden = !quoted;
    if (quoted) {
      fill(this.replyBar, drawIcon("reply", "icon tiny"),
        h("span", { class: "reply-words" },
          h("strong", { text: this.app.store.nameOf(quoted.user_id) }),
          h("span", { text: (quoted.text || (quoted.files || []).map((file) => file.name).join(", ")).slice(0, 200) })),
        button("Do not reply to this", () => this.reply(0), { icon: "close", kind: "quiet" }));
      this.area.focus();
    }
  }

  addFiles(list) {
    this.uploads.add(list);
  }

  _state() {
    const hasText = Boolean(this.area.value.trim());
    this.sendButton.disabled = this.uploads.isBusy || !(hasText || this.uploads.hasReady);
  }

  send() {
    this._state();
    if (this.sendButton.disabled) return;
    const text = this.area.value.trim();
    const max_bytes = this.app.store.limits ? this.app.store.limits.max_text_bytes : 102_400;
    if (utf8Length(text) > max_bytes) {
      toast(`A message may be at most ${bytes(max_bytes)} long.`, { isError: true });
      return;
    }
    this.app.client.send({
      conversation_id: this.conversation_id, text, thread: this.thread, reply_to: this.replyTo,
      mentions: mentionsIn(text, this.names()), files: this.uploads.take(),
    });
    this.area.value = "";
    sessionStorage.removeItem(this.draftKey);
    this.reply(0);
    this._grow();
    this._state();
    this.onsent();
  }

  _input() {
    this._grow();
    this._state();
    this.suggestions.update();
    if (this.area.value) {
      sessionStorage.setItem(this.draftKey, this.area.value.slice(0, 100_000));
      this.app.client.typing(this.conversation_id);
    } else {
      sessionStorage.removeItem(this.draftKey);
      this.app.client.stopTyping(this.conversation_id);
    }
  }

  _grow() {
    this.area.style.height = "auto";
    this.area.style.height = `${Math.min(this.area.scrollHeight, 180)}px`;
  }

  _key(event) {
    if (event.isComposing) return;
    if (this.suggestions.key(event)) return;
    if (event.key === "Enter" && !event.shiftKey) {
      event.preventDefault();
      this.send();
    } else if (event.key === "ArrowUp" && !this.area.value) {
      event.preventDefault();
      this.oneditlast();
    } else if (event.key === "Escape" && this.replyTo) {
      event.stopPropagation();
      this.reply(0);
    }
  }

  /** Members whose name begins like that. */
  _found(typed) {
    const conversation = this.app.store.conversation(this.conversation_id);
    if (!conversation || !conversation.members) return [];
    return [...conversation.members.keys()]
      .map((user_id) => this.app.store.people.get(user_id))
      .filter((profile) => profile && profile.user_id !== this.app.store.my_id &&
        (profile.username.toLowerCase().startsWith(typed) || profile.name.toLowerCase().startsWith(typed)));
  }

  _emoji(anchor) {
    const insert = (emoji) => {
      this.area.setRangeText(emoji, this.area.selectionStart, this.area.selectionEnd, "end");
      this._input();
      this.area.focus();
    };
    openMenu(anchor, [], {
      label: "Choose an emoji",
      content: h("div", { class: "emoji-grid" }, ["😀", "😂", "😉", "😍", "🤔", "😮", "😢", "😎", "👍", "👎", "🙏", "👏", "🎉", "❤️", "🔥", "✅"].map((emoji) =>
        h("button", { type: "button", class: "emoji", text: emoji, "aria-label": emoji, onclick: () => insert(emoji) }))),
    });
  }
}

/** Why this person cannot post here now; "" where it is allowed. */
export function postingNotice(app, conversation) {
  if (conversation.kind === "direct" && app.store.blocked.has(conversation.peer_id)) {
    return "You blocked this person. Unblock them to write.";
  }
  const mine = conversation.members && conversation.members.get(app.store.my_id);
  if (mine && mine.silenced_until_ms > Date.now()) return `You may not post here until ${clock(mine.silenced_until_ms)}.`;
  return "";
}
