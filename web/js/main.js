// Start the page: who is signed in, what the address says, and which view shows what changed.
//
// Addresses: #c/<conversation_id> an open conversation, #join/<code> an invite, nothing: the list of conversations;
// #notification-settings: what one is told of; #feed, #post/<post_id>, #u/<user_id>, #trends, #find and the lists
// below: the pages of the feed. What is none of these leads to a page that says so.

import { logOut as apiLogOut } from "./api.js";
import { Client } from "./client.js";
import { fill, h, setText } from "./dom.js";
import { dropPush } from "./push.js";
import { clearSession, loadSession, onSessionChanged } from "./session.js";
import { setLocale } from "./time.js";
import { showAuth } from "./views/auth.js";
import { ConversationView } from "./views/conversation.js";
import { openContactsDialog, openNewDialog, openProfileDialog, openSessionsDialog } from "./views/dialogs.js";
import { FeedView } from "./views/feed.js";
import { InterestsPage } from "./views/interests.js";
import { Nav } from "./views/nav.js";
import { linkOf } from "./views/notifications.js";
import { NotifySettingsPage } from "./views/notify_settings.js";
import { NothingPage } from "./views/nothing.js";
import { MembersPanel, ThreadPanel } from "./views/panel.js";
import { attempt, closeMenu, confirmDialog, toast } from "./views/parts.js";
import { PAGES } from "./views/people.js";
import { PostPage } from "./views/post_page.js";
import { ProfilePage } from "./views/profile.js";
import { Sidebar } from "./views/sidebar.js";
import { TrendsPage, TrendsPart } from "./views/trends.js";

const root = document.getElementById("app");
const ID = "([A-Za-z0-9_-]{1,64})";
/** Address, the part of the page that it belongs to, and what is shown there. */
const ROUTES = [
  [/^#feed$/, "feed", (app) => (app.feedView ||= new FeedView(app))],
  [/^#trends$/, "trends", (app) => new TrendsPage(app)],
  [/^#find$/, "trends", (app) => new TrendsPage(app, { isFinding: true })],
  [/^#post\/([1-9][0-9]{0,15})$/, "feed", (app, post_id) => (Number.isSafeInteger(Number(post_id)) ? new PostPage(app, Number(post_id)) : new NothingPage())],
  [new RegExp(`^#u/${ID}$`), "profile", (app, user_id) => new ProfilePage(app, user_id)],
  [new RegExp(`^#u/${ID}/followers$`), "profile", PAGES.followers],
  [new RegExp(`^#u/${ID}/following$`), "profile", PAGES.following],
  [/^#requests$/, "profile", PAGES.requests],
  [/^#muted$/, "profile", PAGES.muted],
  [/^#interests$/, "profile", (app) => new InterestsPage(app)],
  [/^#notification-settings$/, "profile", (app) => new NotifySettingsPage(app)],
];
const BANNER_AFTER_MS = 800; // a reconnect that takes less is not worth a line

class App {
  constructor(session) {
    this.session = session;
    this.openId = "";
    this.section = "chat";
    this.address = ""; // of the page of the feed that is shown; "" in chat
    this.lastChat = "";
    this.depth = 0; // pages that were opened here: how far back there is a way
    this.view = null;
    this.feedView = null; // kept while other pages are shown, so that it is where it was
    this.panel = null;
    this.listeners = new Map();
    this.isRenderPlanned = false;
    this.client = new Client({
      session,
      onchange: (topic, id) => this._changed(topic, id),
      onstate: (state, detail) => this._state(state, detail),
      onremoved: (id) => this._removed(id),
    });
    this.store = this.client.store;
    this.sidebar = new Sidebar(this);
    this.banner = h("div", { class: "banner", role: "status", hidden: true });
    this.place = h("div", { class: "place" });
    this.side = h("div", { class: "side", hidden: true });
    this.shell = h("div", { class: "shell", dataset: { view: "list" } }, this.sidebar.node, this.place, this.side);
    this.nav = new Nav(this);
    this.aside = new TrendsPart(this); // one for all pages of the feed
    this.frame = h("div", { class: "frame" }, this.nav.node, this.nav.bell.panel.node, this.shell);
    fill(root, this.banner, this.frame);
    this._onhash = () => this._route();
    window.addEventListener("hashchange", this._onhash);
    document.addEventListener("keydown", (this._onkey = (event) => this._key(event)));
    this.timer = setInterval(() => this._plan(), 1000); // typing marks end, "5 min ago" moves on
    setLocale(session.user.language, session.user.time_zone);
    this._showEmpty();
    this.client.start();
    this._route();
  }

  /** Leave nothing behind: another person may sign in on this page. */
  close() {
    window.removeEventListener("hashchange", this._onhash);
    document.removeEventListener("keydown", this._onkey);
    clearInterval(this.timer);
    clearTimeout(this.bannerTimer);
    if (this.view) this.view.close();
    if (this.feedView && this.feedView !== this.view) this.feedView.close();
    this.nav.bell.close();
    this.client.stop();
    for (const dialog of document.querySelectorAll("dialog")) dialog.close();
    closeMenu();
    document.title = "hubbub";
  }

  // -- changes --------------------------------------------------------------------------------------

  /** Call back when one of the topics changes; returns how to stop. */
  listen(topics, callback) {
    this.listeners.set(callback, topics);
    return () => this.listeners.delete(callback);
  }

  _changed(topic, id) {
    if (topic === "me" && this.store) setLocale(this.store.me.language, this.store.me.time_zone);
    if (topic === "notify_failed") toast(id, { isError: true });
    if (topic === "open") this._openAddress(id);
    for (const [callback, topics] of this.listeners) if (topics.includes(topic)) callback(id);
    this._plan();
  }

  /** Render once for however many events came. A hidden page has no animation frames, but has a title. */
  _plan() {
    if (this.isRenderPlanned) return;
    this.isRenderPlanned = true;
    const run = () => {
      this.isRenderPlanned = false;
      this._render();
    };
    if (document.visibilityState === "visible") requestAnimationFrame(run);
    else setTimeout(run, 50);
  }

  _render() {
    if (!this.sidebar) return;
    this.sidebar.render();
    this.nav.render();
    if (this.view) this.view.render();
    if (this.address) this.aside.render();
    if (this.panel) this.panel.render();
    const unread = this.store.unreadTotal() + this.store.notify.unread;
    const open = this.openId && this.store.conversation(this.openId);
    const name = this.address ? this.view.title : open && open.is_known ? this.store.titleOf(open) : "";
    const title = name ? `${name} · hubbub` : "hubbub";
    document.title = unread ? `(${unread}) ${title}` : title;
  }

  _state(state, detail) {
    clearTimeout(this.bannerTimer);
    document.documentElement.dataset.connection = state;
    if (state === "open") {
      this.banner.hidden = true;
      this.view?.connected?.();
      this._plan();
      return;
    }
    if (state === "stopped") {
      if (detail.code) this._stopped(detail);
      return;
    }
    if (!this.banner.hidden) return;
    this.bannerTimer = setTimeout(() => {
      fill(this.banner, h("span", { text: navigator.onLine ? "Connecting… What you write is kept and sent then." : "You are offline. What you write is kept and sent later." }),
        h("button", { type: "button", class: "link", text: "Try now", onclick: () => this.client.connection.retryNow() }));
      this.banner.hidden = false;
    }, BANNER_AFTER_MS);
  }

  /** The server closed for good. */
  _stopped({ code, error }) {
    if (code === 4502 || code === 4504) {
      signedOut("Your log-in has ended. Log in again.");
      return;
    }
    fill(this.banner, h("span", { text: (error && error.message) || `The server ended the connection (${code}).` }),
      h("button", { type: "button", class: "link", text: "Reload", onclick: () => location.reload() }));
    this.banner.hidden = false;
  }

  _removed(id) {
    if (this.openId !== id) return;
    toast("You are no longer in that conversation.");
    this.go("");
  }

  // -- where the person is --------------------------------------------------------------------------

  go(id) {
    const hash = id ? `#c/${id}` : "";
    if (location.hash !== hash) history.pushState(null, "", hash || location.pathname);
    this._route();
  }

  _route() {
    const join = /^#join\/([A-Za-z0-9_-]{1,64})$/.exec(location.hash);
    if (join) {
      history.replaceState(null, "", location.pathname);
      this.join(join[1]);
      return;
    }
    for (const [pattern, section, make] of ROUTES) {
      const found = pattern.exec(location.hash);
      if (found) {
        this._showPage(location.hash, section, () => make(this, ...found.slice(1)));
        return;
      }
    }
    const open = /^#c\/([A-Za-z0-9_-]{1,64})$/.exec(location.hash);
    if (open || !location.hash) this._show(open ? open[1] : "");
    else this._showPage(location.hash, "", () => new NothingPage());
  }

  /** A notification outside of the page was clicked: its address is of this origin. */
  _openAddress(url) {
    const link = linkOf(url);
    if (!link || link.isOutside) return;
    const { pathname, search, hash } = new URL(link.href);
    if (pathname !== location.pathname || search !== location.search) location.assign(link.href);
    else if (hash !== location.hash) location.hash = hash;
  }

  /** A page of the feed, as `path` behind the #. */
  visit(path, { isReplacing = false } = {}) {
    if (isReplacing) history.replaceState(null, "", `#${path}`);
    else if (location.hash !== `#${path}`) history.pushState(null, "", `#${path}`);
    this._route();
  }

  /** To where the person came from; the feed where this page was the first. */
  back() {
    if (this.depth > 1) {
      this.depth -= 2; // the page that is left, and the one that is shown again
      history.back();
    } else this.visit("feed");
  }

  goChat() {
    const isInList = this.section === "chat" || matchMedia("(max-width: 720px)").matches;
    this.go(isInList ? "" : this.lastChat);
  }

  _leave() {
    this.closePanel();
    closeMenu();
    if (this.view && this.view === this.feedView) this.view.left();
    else if (this.view) this.view.close();
    this.view = null;
  }

  _show(id) {
    if (!this.address && id === this.openId && (this.view || !id)) return;
    this._leave();
    Object.assign(this, { address: "", section: "chat", openId: id, lastChat: id });
    this.shell.dataset.view = this.frame.dataset.view = id ? "conversation" : "list";
    if (!id) {
      this._showEmpty();
      this.client.open("").catch(() => {});
    } else {
      this.view = new ConversationView(this, id);
      fill(this.place, this.view.node);
      this.view.opened();
    }
    this._render();
  }

  _showPage(address, section, make) {
    if (address === this.address) return;
    this._leave();
    if (this.openId) this.client.open("").catch(() => {});
    const isOthers = section === "profile" && /^#u\//.test(address) && !address.startsWith(`#u/${this.store.my_id}`);
    Object.assign(this, { address, section: isOthers ? "feed" : section, openId: "", depth: this.depth + 1 });
    this.shell.dataset.view = this.frame.dataset.view = "page";
    this.view = make();
    fill(this.place, this.view.node);
    const slot = this.view.node.querySelector(".feed-aside");
    if (slot) {
      slot.append(this.aside.node);
      this.aside.opened();
    }
    this.view.opened();
    if (document.activeElement === document.body) this.view.node.querySelector(".feed-scroller").focus({ preventScroll: true });
    this._render();
  }

  _showEmpty() {
    fill(this.place, h("main", { class: "empty" }, h("img", { src: "/icon.svg", alt: "" }), h("p", { text: "Choose a conversation, or start one." })));
  }

  openPanel(kind, seq = 0) {
    if (!this.openId) return;
    this.closePanel();
    this.panelReturn = document.activeElement;
    this.panel = kind === "thread" ? new ThreadPanel(this, this.openId, seq) : new MembersPanel(this, this.openId);
    fill(this.side, this.panel.node);
    this.side.hidden = false;
    this.shell.dataset.panel = kind;
    this.panel.render();
    this.panel.opened();
  }

  closePanel() {
    if (!this.panel) return;
    this.panel.close();
    this.panel = null;
    this.side.hidden = true;
    this.side.replaceChildren();
    delete this.shell.dataset.panel;
    if (this.panelReturn && this.panelReturn.isConnected) this.panelReturn.focus({ preventScroll: true });
  }

  _key(event) {
    if (event.key === "Escape" && !event.defaultPrevented && !document.querySelector("dialog[open]")) {
      if (this.panel) this.closePanel();
      else if (this.address && location.hash !== "#feed" && !event.target.closest("textarea, input, select")) this.back();
      else if (this.openId && matchMedia("(max-width: 720px)").matches) this.go("");
    } else if ((event.ctrlKey || event.metaKey) && event.key === "k") {
      event.preventDefault();
      if (this.section !== "chat") this.go("");
      this.sidebar.search.focus();
    }
  }

  // -- actions that several views share -------------------------------------------------------------

  async join(code) {
    if (this.client.connection.state !== "open") {
      const stop = this.listen(["me"], () => {
        stop();
        this.join(code);
      });
      return;
    }
    const reply = await attempt(this.client.ask({ type: "join", code }));
    if (!reply) return;
    this.store.applySummary(reply.conversation);
    this.go(reply.conversation.conversation_id);
  }

  async openDirect(user_id) {
    const reply = await attempt(this.client.ask({ type: "open_direct", user_id }));
    if (!reply) return;
    this.store.applySummary(reply.conversation);
    this.go(reply.conversation.conversation_id);
  }

  leave(conversation) {
    const name = this.store.titleOf(conversation);
    confirmDialog("Leave group", `You no longer get messages from ${name}.`, "Leave", async () => {
      if (!(await attempt(this.client.ask({ type: "leave", conversation_id: conversation.id })))) return;
      if (this.openId === conversation.id) this.go("");
      this.store.forget(conversation.id);
    });
  }

  /** What can be done about a person, wherever they stand. */
  personActions(user_id) {
    const contact = this.store.contacts.get(user_id);
    const isBlocked = this.store.blocked.has(user_id);
    const act = (command) => async () => {
      if (await attempt(this.client.ask({ ...command, user_id }))) await attempt(this.client.refreshContacts());
    };
    return [
      { label: "See profile", action: () => this.visit(`u/${user_id}`) },
      !contact && !isBlocked && { label: "Add contact", action: act({ type: "request_contact" }) },
      contact && contact.state === "incoming" && { label: "Accept contact", action: act({ type: "answer_contact", accept: true }) },
      contact && contact.state === "accepted" && { label: "Remove contact", action: act({ type: "remove_contact" }) },
      isBlocked
        ? { label: "Unblock", action: act({ type: "unblock" }) }
        : { label: "Block", danger: true, action: () => confirmDialog("Block", `${this.store.nameOf(user_id)} can no longer write to you or see whether you are online.`, "Block", act({ type: "block" })) },
    ];
  }

  openNew() {
    openNewDialog(this);
  }

  openContacts() {
    openContactsDialog(this);
  }

  openProfile() {
    openProfileDialog(this);
  }

  openSessions() {
    openSessionsDialog(this);
  }

  logOut() {
    const unsent = this.client.outbox.items.size + this.client.feed.outbox.items.size;
    const leave = async () => {
      if (this.client.notify.push.isOn) await this.client.notify.push.disable().catch(() => {});
      await apiLogOut(this.session.token).catch(() => {}); // without a network the log-in ends here all the same
      signedOut("");
    };
    if (unsent) confirmDialog("Log out", `${unsent} unsent ${unsent === 1 ? "message or post" : "messages or posts"} will be lost.`, "Log out", leave);
    else leave();
  }
}

let app = null;

function signedIn(session) {
  app?.close();
  app = new App(session);
}

function signedOut(note) {
  app?.close();
  app = null;
  clearSession();
  dropPush().catch(() => {}); // the next person must not get what is not for them
  if (!/^#join\//.test(location.hash)) history.replaceState(null, "", location.pathname);
  showAuth(root, { onsession: signedIn, note });
}

onSessionChanged((session) => {
  if (!session && app) signedOut("");
  else if (session && (!app || app.session.token !== session.token)) signedIn(session);
});

const kept = loadSession();
if (kept) signedIn(kept);
else showAuth(root, { onsession: signedIn });
setText(document.getElementById("announcer"), "");
