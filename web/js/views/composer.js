// Where a message is written: text, mentions, quotes, files.

import { upload } from "../api.js";
import { button, drawIcon, fill, h } from "../dom.js";
import { bytes, clock } from "../time.js";
import { mentionsIn, utf8Length } from "../text.js";
import { openMenu, personAvatar, toast } from "./parts.js";

const MAX_FILES = 20;

export class Composer {
  /** `thread`: the seq of a thread's first message, or 0. `oneditlast` opens the own last message. */
  constructor(app, { conversation_id, thread = 0, names, oneditlast = () => {}, onsent = () => {} }) {
    Object.assign(this, { app, conversation_id, thread, names, oneditlast, onsent });
    this.replyTo = 0;
    this.files = []; // {file, state, share, record, url, abort}
    this.draftKey = `hubbub.draft.${conversation_id}.${thread}`;
    this.area = h("textarea", {
      class: "compose-field", rows: "1", placeholder: thread ? "Reply in thread" : "Message", "aria-label": thread ? "Reply in thread" : "Message",
      "aria-autocomplete": "list", enterkeyhint: "send", dir: "auto",
    });
    this.area.value = sessionStorage.getItem(this.draftKey) || "";
    this.replyBar = h("div", { class: "reply-bar", hidden: true });
    this.tray = h("div", { class: "tray", hidden: true });
    this.suggestions = h("ul", { class: "suggestions", role: "listbox", "aria-label": "People", hidden: true });
    this.notice = h("div", { class: "compose-notice", hidden: true });
    this.picker = h("input", { type: "file", multiple: true, hidden: true, "aria-label": "Choose files" });
    this.picker.addEventListener("change", () => {
      this.addFiles(this.picker.files);
      this.picker.value = "";
    });
    this.sendButton = button("Send", () => this.send(), { icon: "send", kind: "send" });
    const smile = button("Insert an emoji", () => this._emoji(smile), { icon: "smile", kind: "quiet" });
    this.row = h("div", { class: "compose-row" },
      button("Attach files", () => this.picker.click(), { icon: "clip", kind: "quiet" }), this.area, smile, this.sendButton);
    this.node = h("div", { class: "composer" }, this.suggestions, this.replyBar, this.tray, this.notice, this.row, this.picker);
    this.area.addEventListener("input", () => this._input());
    this.area.addEventListener("keydown", (event) => this._key(event));
    // Late, so that a click on a suggestion comes first; and not when the person is back by then.
    this.area.addEventListener("blur", () => setTimeout(() => {
      if (document.activeElement !== this.area) this.suggestions.hidden = true;
    }, 150));
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
    const max_bytes = this.app.store.limits ? this.app.store.limits.max_file_bytes : Infinity;
    for (const file of list) {
      if (this.files.length >= MAX_FILES) {
        toast(`At most ${MAX_FILES} files in one message.`, { isError: true });
        break;
      }
      if (file.size > max_bytes) {
        toast(`${file.name} is larger than ${bytes(max_bytes)}.`, { isError: true });
        continue;
      }
      this._upload({ file, state: "uploading", share: 0, record: null, url: file.type.startsWith("image/") ? URL.createObjectURL(file) : "" });
    }
  }

  /** Upload, and again where that may help: an upload that arrived twice is one file to the server. */
  async _upload(entry, triesLeft = 3) {
    if (!this.files.includes(entry)) this.files.push(entry);
    const stop = new AbortController();
    Object.assign(entry, { state: "uploading", share: 0, abort: () => stop.abort() });
    this._tray();
    try {
      entry.record = await upload(this.app.session.token, entry.file, {
        signal: stop.signal,
        onprogress: (share) => {
          entry.share = share;
          if (entry.bar) entry.bar.value = share;
        },
      });
      entry.state = "ready";
    } catch (error) {
      if (error.code === "aborted") return;
      const wait_s = error.retry_after_s ?? (error.code === "unreachable" ? 1 : null);
      if (wait_s !== null && triesLeft > 1) {
        await new Promise((resolve) => setTimeout(resolve, wait_s * 1000));
        if (this.files.includes(entry)) await this._upload(entry, triesLeft - 1);
        return;
      }
      entry.state = "failed";
      toast(`${entry.file.name}: ${error.message}`, { isError: true });
    }
    this._tray();
  }

  _drop(entry) {
    entry.abort?.();
    this.files = this.files.filter((one) => one !== entry);
    if (entry.url) URL.revokeObjectURL(entry.url);
    this._tray();
  }

  _tray() {
    this.tray.hidden = !this.files.length;
    fill(this.tray, this.files.map((entry) => {
      entry.bar = entry.state === "uploading" ? h("progress", { max: "1", value: String(entry.share), "aria-label": `Uploading ${entry.file.name}` }) : null;
      return h("div", { class: `tray-item ${entry.state}` },
        entry.url ? h("img", { src: entry.url, alt: "" }) : drawIcon("file"),
        h("span", { class: "tray-words" }, h("span", { class: "file-name", text: entry.file.name }),
          entry.bar || (entry.state === "failed"
            ? h("button", { type: "button", class: "link", text: "Try again", onclick: () => this._upload(entry) })
            : h("span", { class: "file-size", text: bytes(entry.file.size) }))),
        button(`Remove ${entry.file.name}`, () => this._drop(entry), { icon: "close", kind: "quiet" }));
    }));
    this._state();
  }

  _state() {
    const hasText = Boolean(this.area.value.trim());
    const isUploading = this.files.some((entry) => entry.state === "uploading");
    this.sendButton.disabled = isUploading || !(hasText || this.files.some((entry) => entry.state === "ready"));
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
    const files = this.files.filter((entry) => entry.state === "ready").map(({ file, record }) => ({
      file_id: record.file_id, name: record.name || file.name, media_type: record.media_type || file.type,
      size_bytes: record.size_bytes || file.size, width: record.width || 0, height: record.height || 0,
    }));
    this.app.client.send({
      conversation_id: this.conversation_id, text, thread: this.thread, reply_to: this.replyTo,
      mentions: mentionsIn(text, this.names()), files,
    });
    for (const entry of [...this.files]) if (entry.state === "ready") this._drop(entry);
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
    this._suggest();
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
    if (!this.suggestions.hidden && this._suggestionKey(event)) return;
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

  // -- mentions -------------------------------------------------------------------------------------

  _suggest() {
    const before = this.area.value.slice(0, this.area.selectionStart);
    const match = /(?:^|[\s(])@([\p{L}\p{N}_.-]{0,32})$/u.exec(before);
    const conversation = this.app.store.conversation(this.conversation_id);
    if (!match || !conversation || !conversation.members) {
      this.suggestions.hidden = true;
      return;
    }
    const typed = match[1].toLowerCase();
    const found = [...conversation.members.keys()]
      .map((user_id) => this.app.store.people.get(user_id))
      .filter((profile) => profile && profile.user_id !== this.app.store.my_id &&
        (profile.username.toLowerCase().startsWith(typed) || profile.name.toLowerCase().startsWith(typed)))
      .slice(0, 6);
    this.suggestions.hidden = !found.length;
    this.chosen = 0;
    fill(this.suggestions, found.map((profile, at) => h("li", {
      class: "suggestion", role: "option", "aria-selected": String(at === 0),
      onpointerdown: (event) => {
        event.preventDefault();
        this._complete(profile);
      },
    }, personAvatar(this.app, profile.user_id, { size: "small" }), h("span", { text: profile.name }), h("span", { class: "person-sub", text: `@${profile.username}` }))));
    this.found = found;
  }

  _suggestionKey(event) {
    if (event.key === "Escape") {
      event.stopPropagation();
      this.suggestions.hidden = true;
    } else if (event.key === "Enter" || event.key === "Tab") {
      event.preventDefault();
      this._complete(this.found[this.chosen]);
    } else if (event.key === "ArrowDown" || event.key === "ArrowUp") {
      event.preventDefault();
      const step = event.key === "ArrowDown" ? 1 : -1;
      this.chosen = (this.chosen + step + this.found.length) % this.found.length;
      [...this.suggestions.children].forEach((node, at) => node.setAttribute("aria-selected", String(at === this.chosen)));
    } else return false;
    return true;
  }

  _complete(profile) {
    const at = this.area.selectionStart;
    const start = this.area.value.lastIndexOf("@", at - 1);
    this.area.setRangeText(`@${profile.username} `, start, at, "end");
    this.suggestions.hidden = true;
    this._input();
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
