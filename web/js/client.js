// What happens between the store (what is known) and the connection (who is asked): loading and syncing timelines,
// focus, read marks, delivered acks, presence, typing, the outbox. Views call it and never touch the connection.

import { useNodes } from "./api.js";
import { Connection } from "./connection.js";
import { FeedClient } from "./feed_client.js";
import { Nodes } from "./nodes.js";
import { NotifyClient } from "./notify_client.js";
import { Outbox } from "./outbox.js";
import { askPatiently } from "./patience.js";
import { Store } from "./store.js";

const PAGE = 50;
const SYNC_PAGE = 200;
const MAX_SYNC_BEHIND = 2000; // further back than that, the newest page is loaded afresh
const ACK_MS = 200; // receipts are batched by the server for 250 ms anyway
const READ_MS = 120;
const TYPING_REPEAT_MS = 3000; // a mark lasts 6 s, so one may be lost
const AWAY_HIDDEN_MS = 60_000;
const AWAY_IDLE_MS = 300_000; // the server's own AWAY_AFTER_S
const MAX_WATCHED = 500; // user ids in one command

export class Client {
  /** `session`: {token, user, device_id(), renewDevice()}. `onchange(topic, id)`; `onstate(state, detail)`. */
  constructor({ session, onchange, onstate, onremoved = () => {} }) {
    this.session = session;
    this.onchange = (topic, id) => {
      // A new contact, or a new member of the open conversation, may be watched from now on.
      if (topic === "contacts" || (topic === "members" && id === this.focused)) this._watchPresence();
      onchange(topic, id);
    };
    this.onstate = onstate;
    this.onremoved = onremoved;
    this.store = new Store({ onchange: this.onchange, onneed: (kind, id) => this._need(kind, id) });
    this.store.me = session.user;
    this.store.people.set(session.user.user_id, session.user);
    this.focused = "";
    this.wasOpen = false;
    this.needs = new Map(); // "kind id" -> timer
    this.running = new Map(); // "kind id" -> promise
    this.again = new Set();
    this.wantedPeople = new Set();
    this.askedPeople = new Set();
    this.acked = new Map();
    this.dirtyAcks = new Map();
    this.typingSentAt = new Map();
    this.lastInputAt = performance.now();
    this.isActive = true;
    this.loadingOlder = new Set();
    this.outbox = new Outbox({
      user_id: session.user.user_id,
      storage: localStorage,
      send: (item) => this._sendItem(item),
      onsent: (item, ack) => this._sent(item, ack),
      onchange: (item) => onchange("outbox", item.conversation_id),
    });
    this.feed = new FeedClient(this);
    this.notify = new NotifyClient(this);
    const nodes = new Nodes();
    useNodes(nodes);
    this.connection = new Connection({
      nodes,
      makeHello: () => this._hello(),
      makeHeartbeat: () => this._heartbeat(),
      onwelcome: (frame) => this._welcome(frame),
      onevent: (event) => this._event(event),
      onstate: (state, detail) => {
        if (state !== "open") this.store.clearPresence();
        this.onstate(state, detail);
      },
      onreplaced: () => session.renewDevice(),
    });
    this._watchActivity();
  }

  start() {
    this.connection.start();
  }

  stop() {
    this.connection.stop();
    this.notify.close();
  }

  _ask(command) {
    return this.connection.ask(command);
  }

  /** For a person, who should not notice that a node went. */
  ask(command) {
    return askPatiently((one) => this._ask(one), command);
  }

  // -- the connection -------------------------------------------------------------------------------

  _hello() {
    const hello = {
      token: this.session.token,
      device_id: this.session.device_id(),
      client: "hubbub-page/1",
      focus: this.focused ? [this.focused] : [],
    };
    if (this.wasOpen) {
      hello.cursors = this._ackedCursors();
      hello.inbox_cursor = this.store.inbox_cursor;
    }
    return hello;
  }

  _heartbeat() {
    return { cursors: this._ackedCursors(), inbox_cursor: this.store.inbox_cursor, active: this.isActive };
  }

  _ackedCursors() {
    return Object.fromEntries([...this.acked].slice(-1000));
  }

  async _welcome(frame) {
    const isFirst = !this.wasOpen;
    this.wasOpen = true;
    this.store.welcome(frame);
    if (isFirst) this.store.inbox_cursor = frame.inbox_head || 0; // the snapshots below are younger
    else if ((frame.inbox_head || 0) !== this.store.inbox_cursor) this._need("inbox", "");
    this.outbox.pumpAll();
    this.feed.welcomed();
    this.notify.welcomed();
    if (!this.isActive) this.connection.tell({ type: "activity", active: false });
    this.watched = "";
    try {
      await Promise.all([
        this._loadList(""),
        this.refreshContacts(),
        this.focused ? this._catchUp(this.focused) : null,
      ]);
      for (const head of frame.heads || []) {
        const known = this.store.conversation(head.conversation_id);
        if (!known || known.counted_head < head.head) this._need("summary", head.conversation_id);
      }
    } catch (error) {
      if (error.code !== "disconnected") console.warn("catching up failed", error.code);
    }
    this._watchPresence();
  }

  _event(event) {
    if (event.type === "message" && event.user_id === this.store.my_id && event.client_id) {
      this.store.apply(event);
      this.outbox.settle(event.client_id);
    } else this.store.apply(event);
    if (event.type === "heads") for (const hint of event.items) this._ackLater(hint.conversation_id);
    else if (event.conversation_id && event.seq && !event.by) this._ackLater(event.conversation_id);
  }

  /** This device has what it needs of the conversation: its timeline, or the line in its list. */
  _ackLater(id) {
    const conversation = this.store.conversation(id);
    if (!conversation) return;
    const seq = conversation.is_live && this.store.focus.has(id) ? conversation.cursor : conversation.head;
    if (seq <= (this.acked.get(id) || 0)) return;
    this.acked.delete(id); // to the end: the newest thousand are told
    this.acked.set(id, seq);
    if (!this.dirtyAcks.size) setTimeout(() => this._flushAcks(), ACK_MS);
    this.dirtyAcks.set(id, seq);
  }

  _flushAcks() {
    const cursors = Object.fromEntries([...this.dirtyAcks].slice(-1000));
    this.dirtyAcks.clear();
    this.connection.tell({ type: "ack", cursors, inbox_cursor: this.store.inbox_cursor });
  }

  // -- what the store lacks -------------------------------------------------------------------------

  /** Ask for it soon, once; again afterwards if it was needed anew meanwhile. */
  _need(kind, id) {
    if (kind === "people") return this._wantPerson(id);
    if (kind === "removed") return this.onremoved(id);
    const key = `${kind} ${id}`;
    if (this.running.has(key)) {
      this.again.add(key);
      return undefined;
    }
    if (this.needs.has(key)) return undefined;
    const wait_ms = kind === "sync" || kind === "inbox" ? 0 : 150;
    this.needs.set(key, setTimeout(() => this._run(kind, id, key), wait_ms));
    return undefined;
  }

  async _run(kind, id, key) {
    this.needs.delete(key);
    const work = { sync: () => this._sync(id), summary: () => this._summary(id), inbox: () => this._syncInbox(),
      members: () => this.loadMembers(id), feed: () => this.feed.refresh(), notifications: () => this.notify.refresh(), author: () => this.feed.loadAuthorAgain(id) }[kind];
    const running = work();
    this.running.set(key, running);
    try {
      await running;
    } catch (error) {
      if (error.code === "conversation_not_found" || error.code === "not_member") this.store.forget(id);
      else if (typeof error.retry_after_s === "number") {
        setTimeout(() => this._need(kind, id), error.retry_after_s * 1000 + 200);
      } else if (error.code !== "disconnected") console.warn(kind, "failed", error.code || error);
    } finally {
      this.running.delete(key);
      if (this.again.delete(key)) this._need(kind, id);
    }
  }

  async _summary(id) {
    const reply = await this._ask({ type: "get_conversation", conversation_id: id });
    this.store.applySummary(reply.conversation);
    this._ackLater(id);
  }

  async _sync(id) {
    for (;;) {
      const conversation = this.store.conversation(id);
      if (!conversation || !conversation.is_live) return;
      if (conversation.head - conversation.cursor > MAX_SYNC_BEHIND) {
        await this._load(id);
        return;
      }
      const after = conversation.cursor;
      let page;
      try {
        page = await this._ask({ type: "sync", conversation_id: id, after, limit: SYNC_PAGE });
      } catch (error) {
        if (error.code !== "bad_cursor") throw error;
        await this._load(id); // the store went back in time: what we have is of another history
        return;
      }
      for (const event of page.items || []) {
        if (event.client_id && event.user_id === this.store.my_id) this.outbox.settle(event.client_id);
      }
      this.store.applyPage(id, page.items || [], page.head);
      this._ackLater(id);
      if (!page.more && conversation.cursor >= (page.head || 0)) return;
      if (conversation.cursor === after) return; // nothing came: asking again would spin
    }
  }

  async _syncInbox() {
    for (;;) {
      const page = await this._ask({ type: "sync_inbox", after: this.store.inbox_cursor, limit: SYNC_PAGE });
      this.store.applyInboxPage(page.items || []);
      if (!page.more) return;
    }
  }

  _wantPerson(user_id) {
    if (!user_id || this.askedPeople.has(user_id)) return;
    if (!this.wantedPeople.size) setTimeout(() => this._loadPeople(), 15);
    this.wantedPeople.add(user_id);
    this.askedPeople.add(user_id);
  }

  async _loadPeople() {
    const user_ids = [...this.wantedPeople].slice(0, 500);
    for (const user_id of user_ids) this.wantedPeople.delete(user_id);
    if (this.wantedPeople.size) setTimeout(() => this._loadPeople(), 15);
    try {
      const reply = await this._ask({ type: "get_users", user_ids });
      this.store.setPeople(reply.items || []);
    } catch {
      for (const user_id of user_ids) this.askedPeople.delete(user_id); // the next render asks again
    }
  }

  // -- the list -------------------------------------------------------------------------------------

  async _loadList(after) {
    const reply = await this._ask({ type: "list_conversations", after, limit: PAGE });
    for (const summary of reply.items || []) {
      this.store.applySummary(summary);
      this._ackLater(summary.conversation_id);
    }
    this.store.list_next = reply.next || "";
    this.store.is_list_complete = !reply.next;
    this.onchange("list");
    this._watchPresence();
  }

  async loadMoreList() {
    if (this.store.is_list_complete || !this.store.list_next || this.isLoadingList) return;
    this.isLoadingList = true;
    try {
      await this._loadList(this.store.list_next);
    } catch {
      // the next scroll tries again
    } finally {
      this.isLoadingList = false;
    }
  }

  // -- one conversation -----------------------------------------------------------------------------

  /** Bring a conversation to the screen; "" for none. Resolves when its newest messages are there. */
  async open(id) {
    if (this.focused) this.stopTyping(this.focused);
    this.focused = id;
    this.store.focus = new Set(id ? [id] : []);
    this.connection.tell({ type: "focus", conversation_ids: id ? [id] : [] });
    if (!id || this.connection.state !== "open") return; // welcome catches up
    await this._catchUp(id);
    this._watchPresence();
  }

  async _catchUp(id) {
    const conversation = this.store.conversation(id);
    const members = this.loadMembers(id);
    if (conversation && conversation.is_live) {
      await Promise.all([this._sync(id), members]);
      await this._summary(id);
    } else await Promise.all([this._load(id), members]);
  }

  async _load(id) {
    const info = await this._ask({ type: "get_conversation", conversation_id: id });
    const summary = this.store.applySummary(info.conversation);
    if (!summary.divider_seq && summary.unread) summary.divider_seq = summary.read_seq || -1;
    const head = info.conversation.head || 0;
    const page = await this._ask({ type: "history", conversation_id: id, limit: PAGE });
    this.store.startTimeline(id, head, page.items || [], Boolean(page.more));
    for (const message of page.items || []) {
      if (message.client_id && message.user_id === this.store.my_id) this.outbox.settle(message.client_id);
    }
    this._ackLater(id);
    if (info.conversation.kind === "group") await this._loadNotes(id, page.items || [], page.more, head);
  }

  /** Who joined, left or renamed among the messages just read. One page at most: it is decoration. */
  async _loadNotes(id, messages, has_more, before_seq) {
    const after = has_more && messages.length ? messages[0].seq : 0;
    if (before_seq <= after) return;
    const limit = Math.min(500, before_seq - after);
    const page = await this._ask({ type: "sync", conversation_id: id, after, limit });
    this.store.addNotes(id, (page.items || []).filter((event) => event.seq <= before_seq));
  }

  async loadOlder(id) {
    const conversation = this.store.conversation(id);
    if (!conversation || !conversation.is_live || !conversation.has_more || this.loadingOlder.has(id)) return;
    this.loadingOlder.add(id);
    try {
      const first = Math.min(...conversation.messages.keys());
      const page = await this._ask({ type: "history", conversation_id: id, before: first, limit: PAGE });
      if (!conversation.messages.has(first)) return; // cut or dropped meanwhile
      this.store.addOlder(id, page.items || [], Boolean(page.more));
      if (conversation.kind === "group") await this._loadNotes(id, page.items || [], page.more, first);
    } finally {
      this.loadingOlder.delete(id);
    }
  }

  async loadMembers(id) {
    const reply = await this._ask({ type: "list_members", conversation_id: id });
    this.store.setMembers(id, reply.items || [], reply.banned || []);
    this._watchPresence();
  }

  /** A message outside the loaded stretch: quoted, or the first of a thread. */
  async loadMessage(id, seq) {
    const page = await this._ask({ type: "history", conversation_id: id, before: seq + 1, limit: 1 });
    const message = (page.items || []).find((one) => one.seq === seq);
    this.store.addExtra(id, message ? [message] : [], seq);
  }

  async loadThread(id, seq, before = 0) {
    const page = await this._ask({ type: "history", conversation_id: id, thread: seq, before, limit: PAGE });
    this.store.addExtra(id, page.items || []);
    return { more: Boolean(page.more), first: (page.items || []).reduce((low, one) => Math.min(low, one.seq), Infinity) };
  }

  /** The person has seen everything up to the end. Views call it only when that is so. */
  markRead(id) {
    const conversation = this.store.conversation(id);
    if (!conversation || !conversation.is_live || this.readTimer) return;
    if (conversation.cursor <= conversation.read_seq && !conversation.unread) return;
    this.readTimer = setTimeout(async () => {
      this.readTimer = null;
      if (this.focused !== id || document.visibilityState !== "visible") return;
      const seq = conversation.cursor;
      try {
        const reply = await this._ask({ type: "mark_read", conversation_id: id, seq });
        this.store.setRead(id, reply.read_seq, reply.unread);
      } catch {
        // the next scroll, event or welcome tries again
      }
    }, READ_MS);
  }

  typing(id) {
    const now = performance.now();
    if (now - (this.typingSentAt.get(id) || -Infinity) < TYPING_REPEAT_MS) return;
    this.typingSentAt.set(id, now);
    this.connection.tell({ type: "set_typing", conversation_id: id, on: true });
  }

  stopTyping(id) {
    if (!this.typingSentAt.delete(id)) return;
    this.connection.tell({ type: "set_typing", conversation_id: id, on: false });
  }

  send(fields) {
    this.typingSentAt.delete(fields.conversation_id); // the message itself ends the mark
    return this.outbox.add(fields);
  }

  _sendItem(item) {
    return this._ask({
      type: "send",
      conversation_id: item.conversation_id,
      client_id: item.client_id,
      text: item.text,
      reply_to: item.reply_to || 0,
      thread: item.thread || 0,
      mentions: item.mentions || [],
      file_ids: (item.files || []).map((file) => file.file_id),
    });
  }

  /** The ack may come before the event, or instead of it: the message takes its place now. */
  _sent(item, ack) {
    const conversation = this.store.conversation(item.conversation_id);
    if (!conversation || ack.duplicate) {
      if (conversation && conversation.is_live && ack.seq > conversation.cursor) this._need("sync", conversation.id);
      return;
    }
    this.store.apply({
      type: "message",
      conversation_id: item.conversation_id,
      seq: ack.seq,
      at_ms: ack.at_ms,
      user_id: this.store.my_id,
      text: item.text,
      client_id: item.client_id,
      reply_to: item.reply_to || 0,
      thread: item.thread || 0,
      mentions: item.mentions || [],
      files: item.files || [],
    });
    this._ackLater(item.conversation_id);
  }

  // -- people ---------------------------------------------------------------------------------------

  async refreshContacts() {
    const reply = await this._ask({ type: "list_contacts" });
    this.store.setContacts(reply.items || [], reply.blocked || []);
  }

  _watchPresence() {
    clearTimeout(this.watchTimer);
    this.watchTimer = setTimeout(() => this._sendWatch(), 50);
  }

  async _sendWatch() {
    const wanted = new Set();
    const open = this.store.conversation(this.focused);
    if (open && open.members) for (const user_id of open.members.keys()) wanted.add(user_id);
    for (const conversation of this.store.list()) {
      if (conversation.peer_id) wanted.add(conversation.peer_id);
    }
    for (const contact of this.store.contacts.values()) if (contact.state === "accepted") wanted.add(contact.user_id);
    wanted.delete(this.store.my_id);
    const user_ids = [...wanted].slice(0, MAX_WATCHED).sort();
    const watched = user_ids.join(" ");
    if (watched === this.watched || this.connection.state !== "open") return;
    this.watched = watched;
    try {
      const reply = await this._ask({ type: "watch_presence", user_ids, contacts: true });
      // The newest answer counts: an older one may miss somebody.
      if (watched !== this.watched) return;
      this.store.setPresence(reply.items || []);
    } catch {
      this.watched = "";
    }
  }

  // -- the person -----------------------------------------------------------------------------------

  _watchActivity() {
    const touch = () => {
      this.lastInputAt = performance.now();
      if (!this.isActive && document.visibilityState === "visible") this._setActive(true);
    };
    for (const name of ["pointerdown", "keydown", "pointermove", "wheel", "focus"]) {
      window.addEventListener(name, touch, { passive: true, capture: true });
    }
    document.addEventListener("visibilitychange", () => {
      this.hiddenAt = document.visibilityState === "visible" ? 0 : performance.now();
      if (!this.hiddenAt) touch();
      this.onchange("visible");
    });
    this.hiddenAt = document.visibilityState === "visible" ? 0 : performance.now();
    setInterval(() => {
      const now = performance.now();
      const isHidden = this.hiddenAt && now - this.hiddenAt > AWAY_HIDDEN_MS;
      if (this.isActive && (isHidden || now - this.lastInputAt > AWAY_IDLE_MS)) this._setActive(false);
    }, 5000);
  }

  _setActive(active) {
    this.isActive = active;
    this.connection.tell({ type: "activity", active });
  }
}
