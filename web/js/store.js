// What this tab knows, as a function of what the server said. No I/O: events and answers go in, `onchange` tells
// the views what moved, and `onneed` tells the client what has to be asked for.
//
// A conversation is *live* once a snapshot of its timeline was loaded; from then on `cursor` is the last seq that
// was applied, each event is applied in order and exactly once, and a hole asks for a sync. Conversations that are
// not in focus get `heads` instead, which move the list line and the badge but not the cursor; opening one again
// syncs from the cursor. Messages are immutable objects: a change makes a new one, so views compare by identity.

import { FeedStore } from "./feed_store.js";
import { NotifyStore } from "./notify_store.js";

const MAX_PENDING = 512; // events held behind a hole; more than that is cheaper to read again
const MAX_KEPT_MESSAGES = 800; // a timeline that grows at its end while being watched is cut at its start
const KEPT_AFTER_CUT = 400;
const MAX_AHEAD = 1000;
const READ_UNSURE_MS = 4000; // a heads hint this soon after `read` may count messages that `read` has counted
const TYPING_MS = 6000; // a typing mark ends by itself (protocol/limits.py)

const NOTES = new Set([
  "created", "members_added", "member_removed", "member_unbanned", "role_changed", "member_silenced", "renamed",
]);

function newConversation(id) {
  return {
    id,
    kind: "group",
    title: "",
    head: 0,
    message_count: 0,
    unread: 0,
    mentions_unread: 0,
    read_seq: 0,
    role: "member",
    member_count: 0,
    peer_id: "",
    muted_until_ms: 0,
    updated_at_ms: 0,
    last_message: null,
    is_known: false, // a summary was seen
    is_live: false,
    cursor: 0,
    counted_head: 0, // the badge is exact for everything up to here; events before it do not move it
    read_moved_at: 0,
    messages: new Map(), // seq -> Message
    notes: new Map(), // seq -> event that changed the group
    extra: new Map(), // messages outside the loaded stretch: quoted ones, threads; null: there is none
    has_more: false,
    pending: new Map(), // events that came ahead of a hole
    ahead: new Set(), // seqs of deletions that were applied before their turn
    members: null, // user_id -> Member, where the list was read
    banned: [],
    divider_seq: 0,
    is_at_end: true, // the person looks at the end, so the start may be cut away
    version: 0,
    items: null,
  };
}

export class Store {
  /** `onchange(topic, id)`: topics are list, conversation, members, people, presence, typing, contacts, me, notifications, and the feed's. */
  constructor({ onchange = () => {}, onneed = () => {}, now = () => Date.now() } = {}) {
    this.onchange = onchange;
    this.onneed = onneed;
    this.now = now;
    this.me = null;
    this.limits = null;
    this.focus = new Set();
    this.conversations = new Map();
    this.is_list_complete = false;
    this.list_next = "";
    this.people = new Map();
    this.presence = new Map();
    this.typing = new Map(); // conversation_id -> Map(user_id -> ends at ms)
    this.contacts = new Map();
    this.blocked = new Set();
    this.inbox_cursor = 0;
    this.inbox_pending = new Map();
    this.feed = new FeedStore({
      onchange: (topic, id) => this.onchange(topic, id),
      onneed: (kind, id) => this.onneed(kind, id),
      isBlocked: (user_id) => this.blocked.has(user_id),
      my_id: () => this.my_id,
    });
    this.notify = new NotifyStore({
      onchange: (topic, id) => this.onchange(topic, id),
      onneed: (kind, id) => this.onneed(kind, id),
    });
  }

  get my_id() {
    return this.me ? this.me.user_id : "";
  }

  conversation(id) {
    return this.conversations.get(id) || null;
  }

  _ensure(id) {
    let conversation = this.conversations.get(id);
    if (!conversation) {
      conversation = newConversation(id);
      this.conversations.set(id, conversation);
    }
    return conversation;
  }

  // -- what the server answered ---------------------------------------------------------------------

  welcome(frame) {
    this.me = frame.user;
    this.people.set(frame.user.user_id, frame.user);
    this.limits = frame.limits;
    this.onchange("me");
  }

  /** A line of the list. Exact as of `summary.head`. */
  applySummary(summary) {
    const conversation = this._ensure(summary.conversation_id);
    const head = summary.head || 0;
    if (conversation.is_known && head < conversation.counted_head) return conversation; // an older answer
    const known_read = conversation.read_seq;
    Object.assign(conversation, {
      kind: summary.kind,
      title: summary.title || "",
      message_count: summary.message_count || 0,
      unread: summary.unread || 0,
      mentions_unread: summary.mentions_unread || 0,
      read_seq: Math.max(known_read, summary.read_seq || 0),
      role: summary.role || "member",
      member_count: summary.member_count || 0,
      peer_id: summary.peer_id || "",
      muted_until_ms: summary.muted_until_ms || 0,
      updated_at_ms: Math.max(conversation.updated_at_ms, summary.updated_at_ms || 0),
      head: Math.max(conversation.head, head),
      counted_head: head,
      is_known: true,
    });
    if (known_read >= head) conversation.unread = conversation.mentions_unread = 0; // we read on while it was asked
    const last = summary.last_message || null;
    if (!conversation.last_message || !last || last.seq >= conversation.last_message.seq) {
      conversation.last_message = last;
    }
    this._changed(conversation);
    return conversation;
  }

  /**
   * The newest page of a timeline, read after its head was `head`. Events that it already contains come again
   * through the cursor; applying them twice changes nothing.
   */
  startTimeline(id, head, messages, has_more) {
    const conversation = this._ensure(id);
    conversation.messages = new Map(messages.map((message) => [message.seq, message]));
    conversation.notes = new Map();
    conversation.extra = new Map();
    conversation.has_more = has_more;
    conversation.cursor = head;
    conversation.is_live = true;
    conversation.ahead = new Set();
    for (const seq of conversation.pending.keys()) if (seq <= head) conversation.pending.delete(seq);
    conversation.head = Math.max(conversation.head, head);
    this._drain(conversation);
    this._changed(conversation);
  }

  addOlder(id, messages, has_more) {
    const conversation = this._ensure(id);
    for (const message of messages) {
      if (!conversation.messages.has(message.seq)) conversation.messages.set(message.seq, message);
    }
    conversation.has_more = has_more;
    this._changed(conversation);
  }

  /** Messages that are needed on their own, not as part of the loaded stretch. */
  addExtra(id, messages, asked_seq = 0) {
    const conversation = this._ensure(id);
    if (asked_seq) conversation.extra.set(asked_seq, null);
    for (const message of messages) conversation.extra.set(message.seq, message);
    this._changed(conversation);
  }

  /** One message wherever it is held: undefined where it is not loaded, null where there is none. */
  message(id, seq) {
    const conversation = this.conversations.get(id);
    return conversation ? conversation.messages.get(seq) || conversation.extra.get(seq) : undefined;
  }

  /** The first message of a thread and its replies, as far as they are loaded. */
  thread(id, root_seq) {
    const conversation = this.conversations.get(id);
    if (!conversation) return [];
    const found = new Map();
    for (const held of [conversation.extra, conversation.messages]) {
      for (const [seq, message] of held) {
        if (message && (seq === root_seq || message.thread === root_seq)) found.set(seq, message);
      }
    }
    return [...found.values()].sort((one, other) => one.seq - other.seq);
  }

  /** Notes of group changes, as read by sync for a stretch of loaded history. */
  addNotes(id, events) {
    const conversation = this._ensure(id);
    for (const event of events) if (NOTES.has(event.type)) conversation.notes.set(event.seq, event);
    this._changed(conversation);
  }

  dropTimeline(id) {
    const conversation = this.conversations.get(id);
    if (!conversation) return;
    Object.assign(conversation, {
      is_live: false, cursor: 0, messages: new Map(), notes: new Map(), pending: new Map(), ahead: new Set(),
      extra: new Map(),
    });
    this._changed(conversation);
  }

  /** One page that answers a sync: in order, without gaps, from the cursor that was asked for. */
  applyPage(id, items, head) {
    const conversation = this._ensure(id);
    conversation.head = Math.max(conversation.head, head || 0);
    for (const event of items) this._inOrder(conversation, event);
    this._drain(conversation);
    this._changed(conversation);
  }

  setMembers(id, members, banned) {
    const conversation = this._ensure(id);
    conversation.members = new Map(members.map((member) => [member.user_id, { role: "member", ...member }]));
    conversation.banned = banned || [];
    conversation.member_count = members.length;
    this._changed(conversation);
    this.onchange("members", id);
  }

  setPeople(profiles) {
    for (const profile of profiles) this.people.set(profile.user_id, profile);
    if (profiles.length) this.onchange("people");
  }

  /** While there is no connection nobody's presence is known; the next watch fills it again. */
  clearPresence() {
    this.presence.clear();
    this.onchange("presence");
  }

  setPresence(items) {
    for (const item of items) this.presence.set(item.user_id, item);
    if (items.length) this.onchange("presence");
  }

  setContacts(items, blocked) {
    this.contacts = new Map(items.map((contact) => [contact.user_id, contact]));
    this.blocked = new Set(blocked);
    this.onchange("contacts");
  }

  setRead(id, read_seq, unread) {
    const conversation = this._ensure(id);
    if (read_seq < conversation.read_seq) return; // an older answer; the watermark never goes back
    conversation.read_seq = read_seq;
    conversation.unread = unread || 0;
    if (!conversation.unread) conversation.mentions_unread = 0;
    conversation.read_moved_at = this.now();
    const mine = conversation.members && conversation.members.get(this.my_id);
    if (mine) conversation.members.set(this.my_id, { ...mine, read_seq });
    this._changed(conversation);
  }

  forget(id) {
    this.conversations.delete(id);
    this.focus.delete(id);
    this.typing.delete(id);
    this.onchange("list");
    this.onchange("conversation", id);
  }

  // -- what the server pushed -----------------------------------------------------------------------

  apply(event) {
    switch (event.type) {
      case "heads":
        for (const hint of event.items) this._hint(hint);
        return;
      case "heartbeat_ack":
        for (const head of event.heads || []) this._behind(head.conversation_id, head.head);
        if ((event.inbox_head || 0) > this.inbox_cursor) this.onneed("inbox", "");
        return;
      case "resync":
        if (!event.conversation_id) this.onneed("inbox", "");
        else if (event.conversation_id === "feed" || event.conversation_id === "notifications") this.onneed(event.conversation_id, "");
        else this._resync(event);
        return;
      case "read":
        this.setRead(event.conversation_id, event.read_seq, event.unread);
        return;
      case "receipts":
        this._receipts(event);
        return;
      case "typing":
        this._typing(event.conversation_id, event.user_id, event.on !== false);
        return;
      case "presence":
        this.setPresence(event.items);
        return;
      case "reconnect":
        return;
      case "feed":
      case "feed_news":
      case "feed_changed":
      case "post_counts":
        this.feed.apply(event);
        return;
      case "notification":
      case "notifications_marked":
        this.notify.apply(event);
        return;
      default:
        if (INBOX[event.type]) this._inbox(event);
        else if (event.conversation_id && event.seq) this._conversationEvent(event);
    }
  }

  /** Inbox events in order from a sync, or live. Each sets a state, so an early one does no harm. */
  _inbox(event) {
    if (event.seq <= this.inbox_cursor) return;
    INBOX[event.type](this, event);
    if (event.seq === this.inbox_cursor + 1) {
      this.inbox_cursor = event.seq;
      while (this.inbox_pending.delete(this.inbox_cursor + 1)) this.inbox_cursor += 1;
    } else {
      this.inbox_pending.set(event.seq, true);
      this.onneed("inbox", "");
    }
  }

  applyInboxPage(items) {
    for (const event of items) {
      if (event.seq <= this.inbox_cursor) continue;
      if (INBOX[event.type]) INBOX[event.type](this, event);
      this.inbox_cursor = event.seq;
    }
    for (const seq of this.inbox_pending.keys()) if (seq <= this.inbox_cursor) this.inbox_pending.delete(seq);
    while (this.inbox_pending.delete(this.inbox_cursor + 1)) this.inbox_cursor += 1;
  }

  _conversationEvent(event) {
    const conversation = this._ensure(event.conversation_id);
    if (!conversation.is_known) this.onneed("summary", conversation.id);
    conversation.head = Math.max(conversation.head, event.seq);
    if (conversation.is_live && event.seq <= conversation.cursor) return; // had it
    const inFocus = this.focus.has(conversation.id);
    if (conversation.is_live && event.seq === conversation.cursor + 1) {
      this._inOrder(conversation, event);
      this._drain(conversation);
    } else {
      // Behind a hole, or of a timeline that is not loaded. A deletion cannot wait: the text has to go now.
      // In focus, what was not applied yet is neither shown nor counted: its deletion comes after it by itself.
      const isShown = !(inFocus && conversation.is_live && event.target > conversation.cursor);
      if (event.type === "deleted" && isShown && !conversation.ahead.has(event.seq)) {
        this._deleteEarly(conversation, event);
      }
      if (!conversation.is_live) this._listLine(conversation, event);
      if (inFocus) {
        if (conversation.pending.size < MAX_PENDING) conversation.pending.set(event.seq, event);
        if (conversation.is_live) this.onneed("sync", conversation.id);
      }
    }
    this._changed(conversation);
  }

  _drain(conversation) {
    let event;
    while ((event = conversation.pending.get(conversation.cursor + 1))) {
      conversation.pending.delete(event.seq);
      this._inOrder(conversation, event);
    }
    for (const seq of conversation.pending.keys()) {
      if (seq <= conversation.cursor) conversation.pending.delete(seq);
    }
    if (conversation.pending.size) this.onneed("sync", conversation.id);
  }

  /** Apply one event at its place. The only way by which a cursor moves. */
  _inOrder(conversation, event) {
    if (event.seq !== conversation.cursor + 1) return;
    conversation.cursor = event.seq;
    conversation.head = Math.max(conversation.head, event.seq);
    const wasEarly = conversation.ahead.delete(event.seq);
    this._count(conversation, event, wasEarly);
    if (event.type === "message") this._posted(conversation, event);
    else if (event.type === "edited") this._edited(conversation, event);
    else if (event.type === "deleted") this._dropText(conversation, event.target);
    else if (event.type === "reacted") this._reacted(conversation, event);
    else this._membership(conversation, event);
  }

  /** Keep the badge exact: what the last summary, a hint or an early deletion counted is not counted again. */
  _count(conversation, event, wasEarly) {
    if (event.type === "message") {
      const total = event.message_count || conversation.message_count + 1;
      const isNew = total > conversation.message_count && event.seq > conversation.counted_head;
      conversation.message_count = Math.max(conversation.message_count, total);
      if (event.user_id === this.my_id) {
        if (event.seq > conversation.read_seq) {
          conversation.read_seq = event.seq;
          conversation.unread = conversation.mentions_unread = 0;
          conversation.divider_seq = 0;
        }
      } else if (isNew && event.seq > conversation.read_seq) {
        conversation.unread += 1;
        if ((event.mentions || []).includes(this.my_id)) conversation.mentions_unread += 1;
      }
    } else if (event.type === "deleted" && !wasEarly && event.seq > conversation.counted_head) {
      this._uncount(conversation, event.target);
    }
  }

  _uncount(conversation, target) {
    if (target <= conversation.read_seq) return;
    const last = conversation.last_message;
    const message = conversation.messages.get(target) || (last && last.seq === target ? last : null);
    if (!message) this.onneed("summary", conversation.id); // whose it was is not known here
    else if (!message.deleted && message.user_id !== this.my_id) {
      conversation.unread = Math.max(0, conversation.unread - 1);
    }
  }

  _deleteEarly(conversation, event) {
    if (conversation.ahead.size < MAX_AHEAD) conversation.ahead.add(event.seq);
    if (event.seq > conversation.counted_head) this._uncount(conversation, event.target);
    this._dropText(conversation, event.target);
  }

  _posted(conversation, event) {
    const wasThere = conversation.messages.has(event.seq);
    if (!wasThere) {
      const { type, message_count, ...message } = event;
      conversation.messages.set(event.seq, message);
      if (message.thread) {
        this._replace(conversation, message.thread, (root) => ({ ...root, thread_count: (root.thread_count || 0) + 1 }));
      }
    }
    const message = conversation.messages.get(event.seq);
    this._last(conversation, message);
    this._typing(conversation.id, event.user_id, false);
    this._moveReceipt(conversation, event.user_id, event.seq, event.seq);
    if (conversation.is_at_end && conversation.messages.size > MAX_KEPT_MESSAGES) {
      const seqs = [...conversation.messages.keys()].sort((one, other) => one - other);
      const cut = seqs[seqs.length - KEPT_AFTER_CUT];
      for (const seq of seqs) if (seq < cut) conversation.messages.delete(seq);
      for (const seq of conversation.notes.keys()) if (seq < cut) conversation.notes.delete(seq);
      conversation.has_more = true;
    }
  }

  _last(conversation, message) {
    if (conversation.last_message && conversation.last_message.seq > message.seq) return;
    conversation.last_message = message;
    conversation.updated_at_ms = Math.max(conversation.updated_at_ms, message.at_ms);
  }

  _replace(conversation, seq, change) {
    const message = conversation.messages.get(seq);
    if (message) conversation.messages.set(seq, change(message));
    const extra = conversation.extra.get(seq);
    if (extra) conversation.extra.set(seq, change(extra));
    if (conversation.last_message && conversation.last_message.seq === seq) {
      conversation.last_message = message ? conversation.messages.get(seq) : change(conversation.last_message);
    }
  }

  _edited(conversation, event) {
    this._replace(conversation, event.target, (message) =>
      message.deleted
        ? message
        : { ...message, text: event.text, mentions: event.mentions || [], edited_at_ms: event.at_ms },
    );
  }

  _dropText(conversation, target) {
    this._replace(conversation, target, (message) => ({
      conversation_id: conversation.id,
      seq: message.seq,
      at_ms: message.at_ms,
      user_id: message.user_id,
      client_id: message.client_id,
      thread: message.thread,
      thread_count: message.thread_count,
      reply_to: message.reply_to,
      deleted: true,
    }));
  }

  _reacted(conversation, event) {
    this._replace(conversation, event.target, (message) => {
      if (message.deleted) return message;
      const reactions = (message.reactions || []).map((reaction) => ({ ...reaction }));
      const known = reactions.find((reaction) => reaction.emoji === event.emoji);
      const others = known ? known.user_ids.filter((user_id) => user_id !== event.user_id) : [];
      if (!event.removed) {
        if (!known) reactions.push({ emoji: event.emoji, user_ids: [event.user_id] });
        else if (!known.user_ids.includes(event.user_id)) known.user_ids = [...known.user_ids, event.user_id];
      } else if (known) known.user_ids = others;
      return { ...message, reactions: reactions.filter((reaction) => reaction.user_ids.length) };
    });
  }

  _membership(conversation, event) {
    const members = conversation.members;
    if (NOTES.has(event.type)) conversation.notes.set(event.seq, event);
    const isCounted = event.seq > conversation.counted_head;
    if (event.type === "renamed") conversation.title = event.title;
    else if (event.type === "members_added") {
      if (members) {
        for (const user_id of event.member_ids) {
          if (!members.has(user_id)) members.set(user_id, { user_id, role: "member", joined_at_ms: event.at_ms });
        }
      } else if (isCounted) conversation.member_count += event.member_ids.length;
    } else if (event.type === "member_removed") {
      if (members) members.delete(event.member_id);
      else if (isCounted) conversation.member_count -= 1;
      if (event.banned && !conversation.banned.includes(event.member_id)) {
        conversation.banned = [...conversation.banned, event.member_id];
      }
    } else if (event.type === "member_unbanned") {
      conversation.banned = conversation.banned.filter((user_id) => user_id !== event.member_id);
    } else if (event.type === "role_changed") {
      if (members && event.role === "owner") {
        for (const [user_id, member] of members) {
          if (member.role === "owner") members.set(user_id, { ...member, role: "admin" });
        }
      }
      this._setMember(conversation, event.member_id, { role: event.role });
      if (event.role === "owner" && conversation.role === "owner") conversation.role = "admin";
      if (event.member_id === this.my_id) conversation.role = event.role;
    } else if (event.type === "member_silenced") {
      this._setMember(conversation, event.member_id, { silenced_until_ms: event.until_ms });
    }
    if (members) conversation.member_count = members.size;
    this.onchange("members", conversation.id);
  }

  _setMember(conversation, user_id, fields) {
    const member = conversation.members && conversation.members.get(user_id);
    if (member) conversation.members.set(user_id, { ...member, ...fields });
  }

  /** An event of a conversation whose timeline is not loaded: only its line in the list moves. */
  _listLine(conversation, event) {
    if (event.type === "message") {
      this._count(conversation, event, false);
      const { type, message_count, ...message } = event;
      this._last(conversation, message);
    } else if (event.type === "edited") this._edited(conversation, event);
    else if (event.type === "renamed") conversation.title = event.title;
  }

  _hint(hint) {
    const conversation = this._ensure(hint.conversation_id);
    if (!conversation.is_known) {
      conversation.head = Math.max(conversation.head, hint.head);
      this.onneed("summary", conversation.id);
      return;
    }
    const last = hint.last_message || null;
    const growth = (hint.message_count || 0) - conversation.message_count;
    const headGrew = hint.head > conversation.head;
    conversation.head = Math.max(conversation.head, hint.head);
    if (last) this._last(conversation, last);
    if (this.focus.has(conversation.id) && conversation.is_live) {
      // It came into focus while the hint was under way. The messages themselves are counted as they come.
      if (hint.head > conversation.cursor) this.onneed("sync", conversation.id);
    } else if (growth > 0 && hint.head > conversation.counted_head) {
      conversation.message_count = hint.message_count;
      if (last && last.user_id === this.my_id) {
        conversation.read_seq = Math.max(conversation.read_seq, last.seq);
        conversation.unread = conversation.mentions_unread = 0;
      } else if (last && last.seq <= conversation.read_seq) {
        conversation.unread = conversation.mentions_unread = 0;
      } else {
        conversation.unread += growth;
        if (last && (last.mentions || []).includes(this.my_id)) conversation.mentions_unread += 1;
        // `read` may have counted some of these, or some may be ours: ask rather than be wrong.
        if (this.now() - conversation.read_moved_at < READ_UNSURE_MS) this.onneed("summary", conversation.id);
      }
    } else if (headGrew) {
      this.onneed("summary", conversation.id); // no message: a rename, an edit of the last line, a membership
    }
    this._changed(conversation);
  }

  _behind(id, head) {
    const conversation = this._ensure(id);
    const isNews = head > conversation.head;
    conversation.head = Math.max(conversation.head, head);
    if (conversation.is_live && this.focus.has(id)) {
      if (head > conversation.cursor) this.onneed("sync", id);
    } else if (isNews || !conversation.is_known) this.onneed("summary", id);
  }

  _resync(event) {
    const conversation = this._ensure(event.conversation_id);
    conversation.head = Math.max(conversation.head, event.head || 0);
    if (conversation.is_live && this.focus.has(conversation.id)) this.onneed("sync", conversation.id);
    this.onneed("summary", conversation.id);
    this.onneed("members", conversation.id); // receipts have no seq: what was dropped is read again
  }

  _receipts(event) {
    const conversation = this._ensure(event.conversation_id);
    for (const item of event.items) {
      this._moveReceipt(conversation, item.user_id, item.delivered_seq || 0, item.read_seq || 0);
    }
    this.onchange("conversation", conversation.id);
  }

  _moveReceipt(conversation, user_id, delivered_seq, read_seq) {
    const member = conversation.members && conversation.members.get(user_id);
    if (!member) return;
    const read = Math.max(member.read_seq || 0, read_seq);
    const delivered = Math.max(member.delivered_seq || 0, delivered_seq, read);
    conversation.members.set(user_id, { ...member, delivered_seq: delivered, read_seq: read });
  }

  _typing(id, user_id, on) {
    if (user_id === this.my_id) return;
    let users = this.typing.get(id);
    if (!on) {
      if (!users || !users.delete(user_id)) return;
    } else {
      if (!users) this.typing.set(id, (users = new Map()));
      users.set(user_id, this.now() + TYPING_MS);
    }
    this.onchange("typing", id);
  }

  /** Who is typing now. */
  typingIn(id) {
    const users = this.typing.get(id);
    if (!users) return [];
    const now = this.now();
    for (const [user_id, ends_at] of users) if (ends_at <= now) users.delete(user_id);
    return [...users.keys()];
  }

  _changed(conversation) {
    conversation.version += 1;
    conversation.items = null;
    this.onchange("conversation", conversation.id);
    this.onchange("list");
  }

  // -- what the views read --------------------------------------------------------------------------

  /** Messages and notes by rising seq. Notes above the loaded messages stay hidden while there is more. */
  timeline(id) {
    const conversation = this.conversations.get(id);
    if (!conversation) return [];
    if (!conversation.items) {
      const items = [...conversation.messages.values()].sort((one, other) => one.seq - other.seq);
      const first = items.length && conversation.has_more ? items[0].seq : 0;
      const notes = [...conversation.notes.values()].filter((note) => note.seq > first);
      conversation.items = notes.length
        ? [...items, ...notes].sort((one, other) => one.seq - other.seq)
        : items;
    }
    return conversation.items;
  }

  /** The list, newest first. */
  list() {
    return [...this.conversations.values()]
      .filter((conversation) => conversation.is_known)
      .sort((one, other) => other.updated_at_ms - one.updated_at_ms || (one.id < other.id ? -1 : 1));
  }

  unreadTotal() {
    let total = 0;
    const now = this.now();
    for (const conversation of this.conversations.values()) {
      if (conversation.is_known && conversation.muted_until_ms <= now) total += conversation.unread;
    }
    return total;
  }

  nameOf(user_id) {
    const profile = this.people.get(user_id);
    if (!profile) this.onneed("people", user_id);
    return profile ? profile.name || profile.username : "…";
  }

  titleOf(conversation) {
    if (conversation.kind === "direct") return this.nameOf(conversation.peer_id);
    return conversation.title || "Group";
  }
}

const INBOX = {
  conversation_added(store, event) {
    store.onneed("summary", event.conversation_id);
  },
  conversation_removed(store, event) {
    store.forget(event.conversation_id);
    store.onneed("removed", event.conversation_id);
  },
  conversation_muted(store, event) {
    const conversation = store.conversations.get(event.conversation_id);
    if (!conversation) return;
    conversation.muted_until_ms = event.until_ms;
    store._changed(conversation);
  },
  contact_changed(store, event) {
    if (event.contact) store.contacts.set(event.user_id, event.contact);
    else store.contacts.delete(event.user_id);
    store.onneed("people", event.user_id);
    store.onchange("contacts");
  },
  block_changed(store, event) {
    if (event.blocked) store.blocked.add(event.user_id);
    else store.blocked.delete(event.user_id);
    if (!event.blocked) store.feed.setStale();
    store.onchange("contacts");
  },
  profile_changed(store, event) {
    store.people.set(event.profile.user_id, event.profile);
    if (event.profile.user_id === store.my_id) store.me = event.profile;
    store.onchange("people");
    store.onchange("me");
  },
  follow_changed(store, event) {
    store.feed.apply(event);
  },
  follower_changed(store, event) {
    store.feed.apply(event);
  },
  session_revoked(store) {
    store.onchange("sessions");
  },
};
