// An open conversation: header, timeline, composer.

import { announce, button, drawIcon, h, reconcile, setText } from "../dom.js";
import { mentionsIn } from "../text.js";
import { ago, dayKey, dayName } from "../time.js";
import { Composer, postingNotice } from "./composer.js";
import { continues, messageRow, pendingRow } from "./message.js";
import { attempt, avatar, openMenu, personAvatar } from "./parts.js";

const NEAR_END_PX = 60;
const NEAR_START_PX = 800; // older messages are asked for before the person arrives there

export class ConversationView {
  constructor(app, id) {
    this.app = app;
    this.id = id;
    this.editing = 0;
    this.isAtEnd = true;
    this.seenLast = 0;
    this.wanted = new Set();
    this.newCount = 0;
    this.head = h("header", { class: "conversation-head" });
    this.rows = h("ol", { class: "timeline", "aria-label": "Messages" });
    this.state = h("div", { class: "timeline-state", role: "status" });
    this.scroller = h("div", { class: "scroller", tabindex: "0", role: "region", "aria-label": "Messages" }, this.state, this.rows);
    this.jumpCount = h("span", { class: "badge", hidden: true });
    this.jumpButton = h("button", { type: "button", class: "jump", hidden: true, "aria-label": "Jump to the latest message", onclick: () => this.toEnd() }, drawIcon("down"), this.jumpCount);
    this.composer = new Composer(app, {
      conversation_id: id, names: () => this.names(), oneditlast: () => this._editLast(), onsent: () => this.toEnd(),
    });
    this.typingLine = h("div", { class: "typing-note", "aria-live": "off" });
    this.node = h("main", { class: "conversation", "aria-label": "Conversation" }, this.head,
      h("div", { class: "scroll-frame" }, this.scroller, this.jumpButton), this.typingLine, this.composer.node);
    this.scroller.addEventListener("scroll", () => this._scrolled(), { passive: true });
    this.resize = new ResizeObserver(() => this.isAtEnd && this._stick());
    this.resize.observe(this.scroller);
    this.resize.observe(this.rows); // pictures grow their rows when they arrive
    this.node.addEventListener("dragover", (event) => event.preventDefault());
    this.node.addEventListener("drop", (event) => {
      event.preventDefault();
      if (event.dataTransfer.files.length) this.composer.addFiles(event.dataTransfer.files);
    });
  }

  get conversation() {
    return this.app.store.conversation(this.id);
  }

  close() {
    this.resize.disconnect();
    if (this.conversation) Object.assign(this.conversation, { divider_seq: 0, is_at_end: true });
  }

  async opened() {
    this.composer.focus();
    const known = this.conversation;
    if (known && known.is_live && known.unread) known.divider_seq = known.read_seq || -1;
    try {
      await this.app.client.open(this.id);
    } catch (error) {
      if (error.code === "disconnected") return; // welcome loads it
      this.problem = error.message || error.code;
      this.render();
    }
  }

  // -- actions that rows call -----------------------------------------------------------------------

  reply(seq) {
    this.composer.reply(seq);
  }

  edit(seq) {
    this.editing = seq;
    this.render();
    if (!seq) this.composer.area.focus();
  }

  thread(seq) {
    this.app.openPanel("thread", seq);
  }

  wantMessage(seq) {
    if (this.wanted.has(seq)) return;
    this.wanted.add(seq);
    this.app.client.loadMessage(this.id, seq).catch(() => this.wanted.delete(seq));
  }

  mentions(text) {
    return mentionsIn(text, this.names());
  }

  /** username -> user_id of the members, for mentions. */
  names() {
    const conversation = this.conversation;
    const names = new Map();
    if (!conversation || !conversation.members) return names;
    for (const user_id of conversation.members.keys()) {
      const profile = this.app.store.people.get(user_id);
      if (profile) names.set(profile.username.toLowerCase(), user_id);
    }
    return names;
  }

  async jump(seq) {
    for (let tries = 0; tries < 20 && !this.rows.querySelector(`[data-seq="${seq}"]`); tries += 1) {
      const conversation = this.conversation;
      if (!conversation || !conversation.has_more) break;
      await attempt(this.app.client.loadOlder(this.id));
      this.render();
    }
    const row = this.rows.querySelector(`[data-seq="${seq}"]`);
    if (!row) return;
    row.scrollIntoView({ block: "center" });
    row.classList.add("flash");
    row.addEventListener("animationend", () => row.classList.remove("flash"), { once: true });
  }

  toEnd() {
    this.isAtEnd = true;
    this.newCount = 0;
    this._stick();
    this._settle();
  }

  _editLast() {
    const mine = this.app.store.timeline(this.id).filter((item) => !item.type && item.user_id === this.app.store.my_id && !item.deleted && item.text);
    if (mine.length) this.edit(mine.at(-1).seq);
  }

  // -- scrolling ------------------------------------------------------------------------------------

  _stick() {
    this.scroller.scrollTop = this.scroller.scrollHeight;
  }

  _scrolled() {
    const { scrollTop, scrollHeight, clientHeight } = this.scroller;
    this.isAtEnd = scrollHeight - scrollTop - clientHeight < NEAR_END_PX;
    if (this.isAtEnd) this.newCount = 0;
    if (scrollTop < NEAR_START_PX) this._older();
    this._settle();
  }

  _older() {
    const conversation = this.conversation;
    if (!conversation || !conversation.is_live || !conversation.has_more) return;
    if (this.app.client.connection.state === "open") this.app.client.loadOlder(this.id).catch(() => {});
  }

  /** What depends on where the person looks: the jump button and the read mark. */
  _settle() {
    if (this.conversation) this.conversation.is_at_end = this.isAtEnd;
    this.jumpButton.hidden = this.isAtEnd;
    this.jumpCount.hidden = !this.newCount;
    setText(this.jumpCount, String(this.newCount));
    if (this.isAtEnd && document.visibilityState === "visible") this.app.client.markRead(this.id);
  }

  // -- rendering ------------------------------------------------------------------------------------

  render() {
    const conversation = this.conversation;
    this._renderHead(conversation);
    this._renderTyping();
    this.composer.setNotice(conversation ? postingNotice(this.app, conversation) : "");
    const isLoading = !conversation || !conversation.is_live;
    setText(this.state, this.problem || (isLoading ? "Loading messages…" : conversation.has_more ? "Loading older messages…" : ""));
    if (!conversation) return;
    const specs = isLoading ? [] : this._specs(conversation);
    for (const item of this.app.client.outbox.of(this.id, 0)) {
      specs.push({ key: `own ${item.client_id}`, deps: [item.version || 0], render: () => pendingRow(this.app, item) });
    }
    const anchor = this.isAtEnd ? null : this._anchor();
    reconcile(this.rows, specs);
    if (this.isAtEnd) this._stick();
    else if (anchor) this._restore(anchor);
    this._noticeNew(conversation);
    if (!isLoading && this.scroller.scrollTop < NEAR_START_PX) this._older();
    this._settle();
  }

  /** The first row on the screen, and where: it stays there when others come above it. */
  _anchor() {
    const top = this.scroller.getBoundingClientRect().top;
    for (const row of this.rows.children) {
      const box = row.getBoundingClientRect();
      if (box.bottom > top && row.dataset.seq) return { seq: row.dataset.seq, offset: box.top - top };
    }
    return null;
  }

  _restore({ seq, offset }) {
    const row = this.rows.querySelector(`[data-seq="${seq}"]`);
    if (!row) return;
    const now = row.getBoundingClientRect().top - this.scroller.getBoundingClientRect().top;
    if (Math.abs(now - offset) > 1) this.scroller.scrollTop += now - offset;
  }

  _noticeNew(conversation) {
    const items = this.app.store.timeline(this.id);
    const last = items.findLast((item) => !item.type);
    if (!last || !conversation.is_live) return;
    if (this.seenLast && last.seq > this.seenLast) {
      const fresh = items.filter((item) => !item.type && item.seq > this.seenLast && item.user_id !== this.app.store.my_id);
      if (!this.isAtEnd) this.newCount += fresh.length;
      if (fresh.length) {
        const newest = fresh.at(-1);
        announce(`${this.app.store.nameOf(newest.user_id)}: ${(newest.text || "sent a file").slice(0, 200)}`);
      }
    }
    this.seenLast = Math.max(this.seenLast, last.seq);
  }

  _specs(conversation) {
    const { store } = this.app;
    const items = store.timeline(this.id);
    const names = this.names();
    const namesKey = [...names.keys()].join();
    const others = [...(conversation.members || new Map()).values()].filter((member) => member.user_id !== store.my_id);
    const read = others.map((member) => member.read_seq || 0).sort((one, other) => one - other);
    const delivered = others.map((member) => member.delivered_seq || 0).sort((one, other) => one - other);
    const specs = [];
    let before = null;
    let hasDivider = false;
    for (let at = 0; at < items.length; at += 1) {
      const item = items[at];
      if (!before || dayKey(before.at_ms) !== dayKey(item.at_ms)) {
        const day = dayKey(item.at_ms);
        specs.push({ key: `day ${day}`, deps: [dayName(item.at_ms)], render: () => h("li", { class: "day" }, h("span", { text: dayName(item.at_ms) })) });
        before = null;
      }
      if (conversation.divider_seq && !hasDivider && !item.type && item.seq > conversation.divider_seq && item.user_id !== store.my_id) {
        hasDivider = true;
        specs.push({ key: "divider", deps: [], render: () => h("li", { class: "divider", role: "separator" }, h("span", { text: "New messages" })) });
        before = null;
      }
      if (item.type) {
        const words = noteWords(store, item);
        specs.push({ key: `note ${item.seq}`, deps: [words], render: () => h("li", { class: "note" }, h("span", { text: words })) });
        before = item;
        continue;
      }
      if (item.thread) {
        specs.push(this._threadLine(item));
        before = { ...item, type: "line" };
        continue;
      }
      specs.push(this._messageSpec(conversation, item, before, items[at + 1], { names, namesKey, read, delivered }));
      before = item;
    }
    return specs;
  }

  _messageSpec(conversation, message, before, after, { names, namesKey, read, delivered }) {
    const { store } = this.app;
    const isMine = message.user_id === store.my_id;
    const isFirst = !continues(message, before);
    let tick = "";
    let readBy = 0;
    if (isMine) {
      tick = read.length && read[0] >= message.seq ? "read" : delivered.length && delivered[0] >= message.seq ? "delivered" : "sent";
      const isBlockEnd = !after || after.type || after.user_id !== message.user_id || after.thread;
      if (conversation.kind === "group" && isBlockEnd && !message.deleted) readBy = atLeast(read, message.seq);
    }
    const isEditing = this.editing === message.seq && !message.deleted;
    const quoted = message.reply_to ? store.message(this.id, message.reply_to) : 0;
    const profile = store.people.get(message.user_id);
    return {
      key: message.seq,
      deps: [message, isFirst, tick, readBy, isEditing, namesKey, quoted, quoted ? store.nameOf(quoted.user_id) : "",
        profile ? profile.name : store.nameOf(message.user_id), profile ? profile.avatar : "",
        conversation.role, (message.reactions || []).map((one) => one.user_ids.map((id) => store.nameOf(id)).join()).join()],
      render: () => messageRow(this.app, this, conversation, message, { isFirst, tick, readBy, isEditing, names, inThread: false }),
    };
  }

  /** A reply inside a thread: one line here, the whole of it in the panel. */
  _threadLine(message) {
    const { store } = this.app;
    const name = store.nameOf(message.user_id);
    const words = message.deleted ? "deleted a reply" : (message.text || "sent a file").slice(0, 140);
    return {
      key: message.seq,
      deps: [name, words],
      render: () => h("li", { class: "thread-line", dataset: { seq: message.seq } },
        h("button", { type: "button", class: "thread-link", onclick: () => this.thread(message.thread), dataset: { focus: "thread" } },
          drawIcon("thread", "icon tiny"), h("strong", { text: name }), h("span", { class: "thread-words", text: words }))),
    };
  }

  _renderTyping() {
    const names = this.app.store.typingIn(this.id).map((user_id) => this.app.store.nameOf(user_id));
    const words = !names.length ? "" : names.length === 1 ? `${names[0]} is typing…`
      : names.length === 2 ? `${names[0]} and ${names[1]} are typing…` : `${names.length} people are typing…`;
    setText(this.typingLine, words);
  }

  _renderHead(conversation) {
    const { store } = this.app;
    if (!conversation || !conversation.is_known) {
      return reconcile(this.head, [{ key: "none", deps: [], render: () => h("div", { class: "head-inner" }, this._back()) }]);
    }
    const title = store.titleOf(conversation);
    const sub = this._subtitle(conversation);
    const isMuted = conversation.muted_until_ms > Date.now();
    const presence = conversation.peer_id ? (store.presence.get(conversation.peer_id) || {}).state : "";
    return reconcile(this.head, [{
      key: "head",
      deps: [title, sub, isMuted, presence, conversation.kind, store.people.get(conversation.peer_id), conversation.role,
        store.blocked.has(conversation.peer_id), (store.contacts.get(conversation.peer_id) || {}).state],
      render: () => h("div", { class: "head-inner" },
        this._back(),
        conversation.kind === "direct" ? personAvatar(this.app, conversation.peer_id) : avatar(this.app, { id: conversation.id, name: title, size: "avatar-group" }),
        h("button", { type: "button", class: "head-words", dataset: { focus: "title" }, onclick: () => this.app.openPanel("members") },
          h("h1", { class: "head-title", text: title }), h("span", { class: "head-sub", text: sub })),
        isMuted ? drawIcon("bell", "icon tiny") : null,
        button(conversation.kind === "group" ? "Members" : "Details", () => this.app.openPanel("members"), { icon: "people", kind: "quiet" }),
        this._moreButton(conversation, isMuted)),
    }]);
  }

  _back() {
    return button("Back to the list", () => this.app.go(""), { icon: "back", kind: "quiet back" });
  }

  _moreButton(conversation, isMuted) {
    const more = button("More", () => openMenu(more, [
      isMuted
        ? { label: "Unmute", action: () => this._mute(0) }
        : { label: "Mute for 8 hours", action: () => this._mute(Date.now() + 8 * 3_600_000) },
      !isMuted && { label: "Mute for good", action: () => this._mute(Date.now() + 10 * 365 * 86_400_000) },
      conversation.kind === "group" && { label: "Members and settings", action: () => this.app.openPanel("members") },
      conversation.kind === "group" && { label: "Leave group", danger: true, action: () => this.app.leave(conversation) },
      ...(conversation.kind === "direct" ? this.app.personActions(conversation.peer_id) : []),
    ], { label: "Conversation actions" }), { icon: "more", kind: "quiet", "aria-haspopup": "menu" });
    return more;
  }

  _mute(until_ms) {
    return attempt(this.app.client.ask({ type: "mute", conversation_id: this.id, until_ms }));
  }

  _subtitle(conversation) {
    const { store } = this.app;
    if (conversation.kind === "group") {
      const count = conversation.member_count;
      const isConnected = this.app.client.connection.state === "open";
      const isOnline = (id) => (id === store.my_id ? isConnected : (store.presence.get(id) || {}).state === "online");
      const online = [...(conversation.members || new Map()).keys()].filter(isOnline).length;
      return `${count} ${count === 1 ? "member" : "members"}${online ? `, ${online} online` : ""}`;
    }
    if (store.blocked.has(conversation.peer_id)) return "blocked";
    const known = store.presence.get(conversation.peer_id);
    if (!known) return "";
    if (known.state !== "offline") return known.state;
    return known.last_seen_ms ? `last seen ${ago(known.last_seen_ms)}` : "offline";
  }
}

/** How many of the sorted watermarks have reached `seq`. */
export function atLeast(sorted, seq) {
  let low = 0;
  let high = sorted.length;
  while (low < high) {
    const middle = (low + high) >> 1;
    if (sorted[middle] >= seq) high = middle;
    else low = middle + 1;
  }
  return sorted.length - low;
}

function noteWords(store, event) {
  const name = (user_id) => (user_id === store.my_id ? "You" : store.nameOf(user_id));
  const list = (ids) => (ids.length > 4 ? `${ids.slice(0, 3).map(name).join(", ")} and ${ids.length - 3} others` : ids.map(name).join(", "));
  const who = name(event.user_id);
  switch (event.type) {
    case "created":
      return event.kind === "direct" ? "Conversation started" : `${who} created the group`;
    case "members_added":
      return event.member_ids.length === 1 && event.member_ids[0] === event.user_id ? `${who} joined` : `${who} added ${list(event.member_ids)}`;
    case "member_removed":
      if (event.member_id === event.user_id) return `${who} left`;
      return `${who} ${event.banned ? "banned" : "removed"} ${name(event.member_id)}`;
    case "member_unbanned":
      return `${who} lifted the ban of ${name(event.member_id)}`;
    case "role_changed":
      return `${who} made ${name(event.member_id)} ${event.role === "member" ? "a member" : event.role === "admin" ? "an admin" : "the owner"}`;
    case "member_silenced":
      return event.until_ms ? `${who} silenced ${name(event.member_id)}` : `${who} let ${name(event.member_id)} post again`;
    case "renamed":
      return `${who} named the group “${event.title}”`;
    default:
      return "";
  }
}
