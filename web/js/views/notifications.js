// The bell with its badge, and the panel that it opens: the notification centre.

import { announce, button, drawIcon, h, reconcile, setText } from "../dom.js";
import { UNDO_MS } from "../notify_client.js";
import { ago, full } from "../time.js";
import { attempt } from "./parts.js";
import { stateLine, undoToast } from "./post.js";

const NEAR_END_PX = 600;

/** Where an address leads: {href, isOutside}, or null where it is none that a page may open. */
export function linkOf(url) {
  if (!url) return null;
  try {
    const target = new URL(url, `${location.origin}/`);
    if (!/^https?:$/.test(target.protocol)) return null;
    return { href: target.href, isOutside: target.origin !== location.origin };
  } catch {
    return null;
  }
}

export function bellWords(unread) {
  return `Alerts: ${unread || "no"} unread ${unread === 1 ? "notification" : "notifications"}`;
}

export class Bell {
  constructor(app) {
    this.app = app;
    this.badge = h("span", { class: "count", hidden: true });
    this.node = h("button", { type: "button", class: "nav-link", "aria-haspopup": "dialog", "aria-expanded": "false", "aria-label": bellWords(0), onclick: () => this.panel.toggle() },
      h("span", { class: "nav-icon" }, drawIcon("ring"), this.badge), h("span", { class: "nav-words", "aria-hidden": "true", text: "Alerts" }));
    this.panel = new NotificationPanel(app, this.node);
  }

  close() {
    this.panel.stop();
  }

  render() {
    const { unread } = this.app.store.notify;
    this.badge.hidden = !unread;
    setText(this.badge, unread > 99 ? "99+" : String(unread));
    const words = bellWords(unread);
    if (this.node.getAttribute("aria-label") !== words) this.node.setAttribute("aria-label", words);
    this.app.client.notify.tellBadge();
    this.panel.render();
  }
}

class NotificationPanel {
  constructor(app, bell) {
    Object.assign(this, { app, bell });
    this.store = app.store.notify;
    this.isOpen = false;
    this.onScreen = new Map(); // row -> id
    this.newestTold = 0;
    this.list = h("ol", { class: "notifications", "aria-label": "Notifications" });
    this.list.addEventListener("keydown", (event) => this._key(event));
    this.state = h("div", { class: "notify-state", role: "status" });
    this.readAll = h("button", { type: "button", class: "button small", text: "Mark all as read", onclick: () => this._readAll() });
    this.scroller = h("div", { class: "notify-scroll", tabindex: "-1" }, this.list, this.state);
    this.scroller.addEventListener("scroll", () => this._scrolled(), { passive: true });
    this.heading = h("h2", { class: "panel-title", text: "Notifications", id: "notify-title", tabindex: "-1" });
    this.node = h("section", { class: "notify-panel", role: "dialog", "aria-labelledby": "notify-title", id: "notify-panel", hidden: true },
      h("header", { class: "panel-head" }, this.heading, h("span", { class: "spacer" }), this.readAll,
        h("a", { class: "button quiet", href: "#notification-settings", "aria-label": "Notification settings", title: "Notification settings", onclick: () => this.close() }, drawIcon("gear")),
        button("Close notifications", () => this.close(), { icon: "close", kind: "quiet" })),
      this.scroller);
    this.node.addEventListener("keydown", (event) => {
      if (event.key !== "Escape") return;
      event.preventDefault(); // the page behind stays as it is
      event.stopPropagation();
      this.close();
    });
    bell.setAttribute("aria-controls", this.node.id);
    this.watcher = new IntersectionObserver((entries) => this._moved(entries), { root: this.scroller, threshold: 0.5 });
    this._outside = (event) => {
      if (!this.node.contains(event.target) && !bell.contains(event.target) && !event.target.closest(".toasts")) this.close({ isFocusKept: true });
    };
    this.unlisten = app.listen(["visible", "notifications"], () => this._tellSeen());
  }

  stop() {
    this.unlisten();
    this.watcher.disconnect();
    document.removeEventListener("pointerdown", this._outside);
  }

  toggle() {
    if (this.isOpen) this.close();
    else this.open();
  }

  open() {
    this.isOpen = true;
    this.node.hidden = false;
    this.bell.setAttribute("aria-expanded", "true");
    document.addEventListener("pointerdown", this._outside);
    this.scroller.scrollTop = 0;
    this.render();
    (this.list.querySelector(".notification-link") || this.heading).focus({ preventScroll: true });
    this.isEmptyFocused = !this.list.children.length;
  }

  close({ isFocusKept = false } = {}) {
    if (!this.isOpen) return;
    this.isOpen = false;
    this.node.hidden = true;
    this.bell.setAttribute("aria-expanded", "false");
    document.removeEventListener("pointerdown", this._outside);
    if (!isFocusKept) this.bell.focus({ preventScroll: true });
  }

  render() {
    const items = this.store.shown();
    this._announce(items);
    if (!this.isOpen) return;
    const minute = Math.floor(Date.now() / 60_000);
    reconcile(this.list, items.map((item) => ({
      key: item.notification_id, deps: [item.title, item.text, item.url, item.image, item.count, item.read, minute], render: () => this._row(item),
    })));
    this.onScreen = new Map([...this.onScreen].filter(([row]) => row.isConnected));
    for (const row of this.list.children) {
      if (row.dataset.isWatched) continue;
      row.dataset.isWatched = "1";
      this.watcher.observe(row);
    }
    const { unread } = this.store;
    this.readAll.hidden = !items.length;
    this.readAll.disabled = !unread;
    const { notify } = this.app.client;
    stateLine(this.state, {
      problem: notify.problem, isLoading: !this.store.is_loaded || Boolean(notify.loading),
      words: items.length ? (this.store.is_end ? "That was all." : "") : "You have no notifications.", onretry: () => notify.retry(),
    });
    // Opened before anything was read: what comes then gets the focus, unless the person has moved it.
    if (items.length && this.isEmptyFocused && document.activeElement === this.heading) this.list.querySelector(".notification-link").focus({ preventScroll: true });
    if (items.length) this.isEmptyFocused = false;
    this._scrolled();
  }

  /** Say it to who does not see the bell. What was there when the page opened is no news. */
  _announce(items) {
    const newest = items.length ? items[0].notification_id : 0;
    if (this.newestTold && newest > this.newestTold && this.store.is_loaded) {
      announce(`New notification: ${[items[0].title, items[0].text].filter(Boolean).join(". ")}`);
    }
    if (this.store.is_loaded) this.newestTold = Math.max(this.newestTold, newest, 1);
  }

  _row(item) {
    const id = item.notification_id;
    const { notify } = this.app.client;
    const link = linkOf(item.url);
    const words = h("span", { class: "notification-words" },
      item.title ? h("span", { class: "notification-title", dir: "auto", text: item.title }) : null,
      item.text ? h("span", { class: "notification-text", dir: "auto", text: item.text }) : null,
      h("span", { class: "person-sub" }, h("time", { datetime: new Date(item.at_ms).toISOString(), title: full(item.at_ms), text: ago(item.at_ms) }),
        item.count > 1 ? h("span", { text: ` · ${item.count} in all` }) : null));
    const state = item.read ? null : h("span", { class: "visually-hidden", text: "Unread. " });
    const picture = item.image && linkOf(item.image) && !linkOf(item.image).isOutside // the page's policy allows no others
      ? h("img", { class: "notification-image", src: linkOf(item.image).href, alt: "", loading: "lazy" }) : null;
    const opened = () => {
      notify.mark(id, link ? "clicked" : "opened");
      if (link && !link.isOutside) this.close({ isFocusKept: true });
    };
    const body = link
      ? h("a", { class: "notification-link", href: link.href, target: link.isOutside ? "_blank" : null, rel: link.isOutside ? "noopener noreferrer" : null, dataset: { focus: "link" }, onclick: opened, onauxclick: (event) => event.button === 1 && opened() }, state, words, picture)
      : h("button", { type: "button", class: "notification-link", dataset: { focus: "link" }, onclick: opened }, state, words, picture);
    const name = item.title || item.text.slice(0, 60) || "this notification";
    return h("li", { class: item.read ? "notification" : "notification unread", dataset: { id } }, body,
      h("span", { class: "notification-acts" },
        button(`${item.read ? "Mark as unread" : "Mark as read"}: ${name}`, () => notify.mark(id, item.read ? "unread" : "read"), { icon: item.read ? "dot" : "check", kind: "quiet", title: item.read ? "Mark as unread" : "Mark as read", "data-focus": "read" }),
        button(`Dismiss: ${name}`, () => this._dismiss(id, name), { icon: "close", kind: "quiet", title: "Dismiss", "data-focus": "dismiss" })));
  }

  _dismiss(id, name) {
    const row = this.list.querySelector(`[data-id="${id}"]`);
    const next = row && (row.nextElementSibling || row.previousElementSibling);
    const hadFocus = row && row.contains(document.activeElement);
    const { notify } = this.app.client;
    notify.dismiss(id);
    this.render();
    if (hadFocus) (next && next.isConnected ? next.querySelector(".notification-link") : this.heading).focus({ preventScroll: true });
    announce(`Dismissed: ${name}`);
    undoToast(this.app, "Dismissed", () => {
      notify.undoDismiss(id);
      this.render();
      this.list.querySelector(`[data-id="${id}"] .notification-link`)?.focus({ preventScroll: true });
    }, { ms: UNDO_MS });
  }

  async _readAll() {
    this.readAll.disabled = true;
    await attempt(this.app.client.notify.readAll());
    this.app._plan();
    if (document.activeElement === document.body && this.isOpen) this.heading.focus({ preventScroll: true }); // it is disabled now
  }

  _key(event) {
    const row = event.target.closest(".notification");
    if (!row) return;
    const links = [...this.list.querySelectorAll(".notification-link")];
    const at = links.indexOf(row.querySelector(".notification-link"));
    if (event.key === "ArrowDown") links[Math.min(at + 1, links.length - 1)].focus();
    else if (event.key === "ArrowUp") links[Math.max(at - 1, 0)].focus();
    else if (event.key === "Home") links[0].focus();
    else if (event.key === "End") links.at(-1).focus();
    else if (event.key === "Delete") row.querySelector("[data-focus=dismiss]").click();
    else return;
    event.preventDefault();
  }

  _scrolled() {
    const { scrollTop, scrollHeight, clientHeight } = this.scroller;
    if (this.isOpen && clientHeight && scrollHeight - scrollTop - clientHeight < NEAR_END_PX) this.app.client.notify.older();
  }

  _moved(entries) {
    for (const { target, isIntersecting } of entries) {
      if (isIntersecting) this.onScreen.set(target, Number(target.dataset.id));
      else this.onScreen.delete(target);
    }
    this._tellSeen();
  }

  _tellSeen() {
    if (!this.isOpen || document.visibilityState !== "visible") return;
    this.app.client.notify.markSeen([...this.onScreen].filter(([row]) => row.isConnected).map(([, id]) => id));
  }
}
