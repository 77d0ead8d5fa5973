// The conversation list, newest first, and what stands around it.

import { button, drawIcon, h, reconcile, setText } from "../dom.js";
import { brief } from "../time.js";
import { avatar, openMenu, personAvatar } from "./parts.js";

export class Sidebar {
  constructor(app) {
    this.app = app;
    this.filter = "";
    this.mine = h("button", { type: "button", class: "me", "aria-label": "Your profile and settings", onclick: () => this._openMine() });
    this.search = h("input", { class: "field search-field", type: "search", placeholder: "Search conversations", "aria-label": "Search conversations" });
    this.search.addEventListener("input", () => {
      this.filter = this.search.value.trim().toLowerCase();
      this.render();
    });
    this.list = h("ul", { class: "conversations", "aria-label": "Conversations" });
    this.list.addEventListener("keydown", (event) => this._arrow(event));
    this.empty = h("div", { class: "list-empty", hidden: true },
      h("p", { text: "No conversations yet." }),
      h("button", { type: "button", class: "button primary", text: "Start one", onclick: () => app.openNew() }));
    this.scroller = h("div", { class: "list-scroller" }, this.list, this.empty);
    this.scroller.addEventListener("scroll", () => {
      const { scrollTop, scrollHeight, clientHeight } = this.scroller;
      if (scrollHeight - scrollTop - clientHeight < 400) app.client.loadMoreList();
    });
    this.contactsBadge = h("span", { class: "count", hidden: true });
    const contacts = button("Contacts", () => app.openContacts(), { icon: "people", kind: "quiet" });
    contacts.append(this.contactsBadge);
    this.node = h(
      "aside",
      { class: "sidebar", "aria-label": "Conversations" },
      h("header", { class: "side-head" }, this.mine, h("span", { class: "spacer" }), contacts,
        button("New conversation", () => app.openNew(), { icon: "plus", kind: "quiet" })),
      h("div", { class: "side-search" }, this.search),
      this.scroller,
    );
  }

  render() {
    const { store } = this.app;
    const all = store.list();
    const shown = this.filter
      ? all.filter((conversation) => store.titleOf(conversation).toLowerCase().includes(this.filter))
      : all;
    const minute = Math.floor(Date.now() / 60_000);
    reconcile(this.list, shown.map((conversation) => {
      const typing = store.typingIn(conversation.id);
      const pending = this.app.client.outbox.of(conversation.id).at(-1);
      const isOpen = conversation.id === this.app.openId;
      const peer = conversation.peer_id ? store.presence.get(conversation.peer_id) : null;
      const title = store.titleOf(conversation);
      return {
        key: conversation.id,
        deps: [
          title, conversation.last_message, conversation.unread, conversation.mentions_unread, conversation.muted_until_ms,
          isOpen, peer ? peer.state : "", typing.map((id) => store.nameOf(id)).join(), minute, pending,
          pending ? pending.version : 0, store.people.get(conversation.peer_id),
          conversation.last_message ? store.nameOf(conversation.last_message.user_id) : "",
        ],
        render: () => this._row(conversation, { title, typing, isOpen, pending }),
      };
    }));
    this.empty.hidden = all.length > 0 || !store.is_list_complete;
    const me = store.me;
    reconcile(this.mine, [{
      key: "me",
      deps: [me],
      render: () => h("span", { class: "me-inner" },
        avatar(this.app, { id: me.user_id, name: me.name, file_id: me.avatar }),
        h("span", { class: "me-name", text: me.name })),
    }]);
    const incoming = [...store.contacts.values()].filter((contact) => contact.state === "incoming").length;
    this.contactsBadge.hidden = !incoming;
    setText(this.contactsBadge, String(incoming));
  }

  _row(conversation, { title, typing, isOpen, pending }) {
    const { store } = this.app;
    const isMuted = conversation.muted_until_ms > Date.now();
    const last = conversation.last_message;
    const at_ms = pending ? pending.at_ms : last ? last.at_ms : conversation.updated_at_ms;
    const unread = conversation.unread;
    const face = conversation.kind === "direct"
      ? personAvatar(this.app, conversation.peer_id)
      : avatar(this.app, { id: conversation.id, name: title, size: "avatar-group" });
    const line = typing.length
      ? h("span", { class: "typing-line", text: typing.length > 1 ? "several people are typing…" : `${store.nameOf(typing[0])} is typing…` })
      : h("span", { class: "last-line" }, pending ? drawIcon("clock", "icon tiny") : null, this._preview(conversation, pending || last));
    return h(
      "li",
      { class: isOpen ? "conversation-item open" : "conversation-item", dataset: { id: conversation.id } },
      h(
        "button",
        {
          type: "button", class: "conversation-link", "aria-current": isOpen ? "true" : null,
          dataset: { focus: "link" }, onclick: () => this.app.go(conversation.id),
        },
        face,
        h(
          "span",
          { class: "item-words" },
          h("span", { class: "item-top" },
            h("span", { class: "item-title", text: title }),
            isMuted ? drawIcon("bell", "icon tiny") : null,
            h("time", { class: "item-time", text: brief(at_ms) })),
          h("span", { class: "item-bottom" }, line,
            conversation.mentions_unread ? h("span", { class: "badge badge-mention", text: "@", "aria-label": "You were mentioned" }) : null,
            unread ? h("span", { class: isMuted ? "badge badge-muted" : "badge", text: unread > 999 ? "999+" : String(unread), "aria-label": `${unread} unread` }) : null),
        ),
      ),
    );
  }

  _preview(conversation, message) {
    const { store } = this.app;
    if (!message) return conversation.kind === "group" ? "Group created" : "No messages yet";
    if (message.deleted) return "Message deleted";
    const isMine = !message.user_id || message.user_id === store.my_id;
    const who = isMine ? "You: " : conversation.kind === "group" ? `${store.nameOf(message.user_id)}: ` : "";
    const files = message.files || [];
    const what = message.text || (files.length > 1 ? `${files.length} files` : files.length ? files[0].name : "");
    return who + what.slice(0, 160).replace(/\s+/g, " ");
  }

  _arrow(event) {
    if (event.key !== "ArrowDown" && event.key !== "ArrowUp") return;
    const links = [...this.list.querySelectorAll(".conversation-link")];
    const at = links.indexOf(document.activeElement);
    links[at + (event.key === "ArrowDown" ? 1 : -1)]?.focus();
    event.preventDefault();
  }

  _openMine() {
    openMenu(this.mine, [
      { label: "Profile", action: () => this.app.openProfile() },
      { label: "Contacts", action: () => this.app.openContacts() },
      { label: "Notification settings", action: () => this.app.visit("notification-settings") },
      { label: "Where you are logged in", action: () => this.app.openSessions() },
      { label: "Log out", action: () => this.app.logOut(), danger: true },
    ], { label: "Your account" });
  }
}
