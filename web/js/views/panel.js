// The side panel: the members of a conversation with what an admin may do, or one thread.

import { button, drawIcon, fill, h, reconcile } from "../dom.js";
import { ago, clock } from "../time.js";
import { Composer, postingNotice } from "./composer.js";
import { continues, copyText, messageRow, pendingRow } from "./message.js";
import { attempt, avatar, confirmDialog, openDialog, openMenu, personAvatar, userSearch } from "./parts.js";

const RANK = { owner: 2, admin: 1, member: 0 };

function frame(app, title, ...body) {
  const heading = h("h2", { class: "panel-title", text: title });
  const node = h("aside", { class: "panel", "aria-label": title },
    h("header", { class: "panel-head" }, heading, button("Close panel", () => app.closePanel(), { icon: "close", kind: "quiet" })), ...body);
  return { node, heading };
}

export class MembersPanel {
  constructor(app, id) {
    this.app = app;
    this.id = id;
    this.top = h("div", { class: "panel-top" });
    this.list = h("ul", { class: "people", "aria-label": "Members" });
    this.actions = h("div", { class: "panel-actions" });
    this.banned = h("div");
    this.node = frame(app, "Details", h("div", { class: "panel-scroll" }, this.top, this.actions, this.list, this.banned)).node;
  }

  opened() {
    this.node.querySelector("button")?.focus();
    this.app.client.loadMembers(this.id).catch(() => {});
  }

  close() {}

  render() {
    const { store } = this.app;
    const conversation = store.conversation(this.id);
    if (!conversation) return;
    const isGroup = conversation.kind === "group";
    const isAdmin = isGroup && conversation.role !== "member";
    const title = store.titleOf(conversation);
    const peer = store.people.get(conversation.peer_id);
    reconcile(this.top, [{
      key: "top",
      deps: [title, isAdmin, peer],
      render: () => h("div", { class: "panel-hero" },
        isGroup ? avatar(this.app, { id: this.id, name: title, size: "large avatar-group" }) : personAvatar(this.app, conversation.peer_id, { size: "large" }),
        h("div", { class: "hero-title", text: title }),
        !isGroup && peer ? h("div", { class: "person-sub", text: `@${peer.username}${peer.time_zone ? ` · ${peer.time_zone}` : ""}` }) : null,
        isAdmin ? button("Rename", () => this._rename(conversation), { kind: "link" }) : null),
    }]);
    reconcile(this.actions, !isGroup ? [] : [{
      key: "actions",
      deps: [isAdmin],
      render: () => h("div", { class: "action-row" },
        isAdmin ? h("button", { type: "button", class: "button", onclick: () => this._add() }, drawIcon("plus"), "Add people") : null,
        isAdmin ? h("button", { type: "button", class: "button", onclick: () => this._invites() }, drawIcon("link"), "Invite link") : null,
        h("button", { type: "button", class: "button danger", onclick: () => this.app.leave(conversation) }, drawIcon("out"), "Leave")),
    }]);
    const members = [...(conversation.members || new Map()).values()].sort((one, other) =>
      RANK[other.role] - RANK[one.role] || store.nameOf(one.user_id).localeCompare(store.nameOf(other.user_id)));
    const now = Date.now();
    reconcile(this.list, members.map((member) => {
      const known = store.presence.get(member.user_id);
      const isMe = member.user_id === store.my_id;
      const isSilenced = member.silenced_until_ms > now;
      const sub = isSilenced ? `silenced until ${clock(member.silenced_until_ms)}`
        : !known || isMe ? "" : known.state !== "offline" ? known.state : known.last_seen_ms ? `last seen ${ago(known.last_seen_ms)}` : "offline";
      const name = isMe ? `${store.nameOf(member.user_id)} (you)` : store.nameOf(member.user_id);
      return {
        key: member.user_id,
        deps: [name, sub, member.role, conversation.role, isSilenced, store.people.get(member.user_id), known ? known.state : "", store.contacts.get(member.user_id), store.blocked.has(member.user_id)],
        render: () => this._row(conversation, member, { name, sub, isMe, isSilenced, isGroup }),
      };
    }));
    reconcile(this.banned, isAdmin && conversation.banned.length ? [{
      key: "banned",
      deps: [conversation.banned.join(), conversation.banned.map((id) => store.nameOf(id)).join()],
      render: () => h("div", {}, h("h3", { class: "section", text: "Banned" }), h("ul", { class: "people" }, conversation.banned.map((user_id) =>
        h("li", { class: "person-row" }, h("span", { class: "person" }, personAvatar(this.app, user_id, { withPresence: false }), h("span", { class: "person-name", text: store.nameOf(user_id) })),
          h("button", { type: "button", class: "button small", text: "Lift ban", onclick: () => this._do({ type: "unban", user_id }) }))))),
    }] : []);
  }

  _row(conversation, member, { name, sub, isMe, isSilenced, isGroup }) {
    const items = isMe ? [] : this._memberActions(conversation, member, isSilenced, isGroup);
    const more = items.some(Boolean) ? button(`Actions for ${name}`, () => openMenu(more, items), { icon: "more", kind: "quiet", "aria-haspopup": "menu", dataset: { focus: "more" } }) : null;
    return h("li", { class: "person-row", dataset: { user: member.user_id } },
      h("span", { class: "person" }, personAvatar(this.app, member.user_id),
        h("span", { class: "person-words" }, h("span", { class: "person-name", text: name }), sub ? h("span", { class: "person-sub", text: sub }) : null)),
      isGroup && member.role !== "member" ? h("span", { class: "role", text: member.role }) : null, more);
  }

  _memberActions(conversation, member, isSilenced, isGroup) {
    const { user_id } = member;
    const outranks = isGroup && RANK[conversation.role] > RANK[member.role];
    const isOwner = conversation.role === "owner" && isGroup;
    const name = this.app.store.nameOf(user_id);
    const role = (value) => () => this._do({ type: "set_role", user_id, role: value });
    return [
      isGroup && { label: "Write to them", action: () => this.app.openDirect(user_id) },
      ...this.app.personActions(user_id),
      isOwner && member.role === "member" && { label: "Make admin", action: role("admin") },
      isOwner && member.role === "admin" && { label: "Make member", action: role("member") },
      isOwner && { label: "Hand the group over", action: () => confirmDialog("Hand the group over", `${name} becomes the owner, you become an admin.`, "Hand over", role("owner")) },
      outranks && !isSilenced && { label: "Silence for an hour", action: () => this._do({ type: "silence", user_id, until_ms: Date.now() + 3_600_000 }) },
      outranks && isSilenced && { label: "Let them post again", action: () => this._do({ type: "silence", user_id, until_ms: 0 }) },
      outranks && { label: "Remove", danger: true, action: () => this._do({ type: "remove_member", user_id }) },
      outranks && { label: "Ban", danger: true, action: () => confirmDialog("Ban", `${name} is removed and cannot come back.`, "Ban", () => this._do({ type: "remove_member", user_id, ban: true })) },
    ];
  }

  _do(command) {
    return attempt(this.app.client.ask({ conversation_id: this.id, ...command }));
  }

  _rename(conversation) {
    const field = h("input", { class: "field", maxlength: "200", "aria-label": "Group name", required: true, value: conversation.title });
    const form = h("form", {}, field, h("div", { class: "dialog-actions" }, h("button", { class: "button primary", type: "submit", text: "Save" })));
    const { close } = openDialog("Rename group", form);
    form.addEventListener("submit", async (event) => {
      event.preventDefault();
      if (field.value.trim() && (await this._do({ type: "rename", title: field.value.trim() }))) close();
    });
    field.focus();
  }

  _add() {
    const search = userSearch(this.app, {
      onpick: async (profile) => {
        if (await this._do({ type: "add_members", user_ids: [profile.user_id] })) search.refresh();
      },
      skip: (profile) => this.app.store.conversation(this.id)?.members?.has(profile.user_id),
    });
    openDialog("Add people", search.node);
    search.input.focus();
  }

  async _invites() {
    const list = h("ul", { class: "invites" });
    const fillList = async () => {
      const reply = await attempt(this.app.client.ask({ type: "list_invites", conversation_id: this.id }));
      if (!reply) return;
      const items = reply.items || [];
      fill(list, items.length ? items.map((invite) => {
        const link = `${location.origin}/#join/${invite.code}`;
        const used = `${invite.uses || 0}${invite.max_uses ? ` of ${invite.max_uses}` : ""} used`;
        return h("li", { class: "invite" },
          h("input", { class: "field invite-link", readonly: true, value: link, "aria-label": "Invite link", onfocus: (event) => event.target.select() }),
          h("span", { class: "person-sub", text: used }),
          h("button", { type: "button", class: "button small", text: "Copy", onclick: () => copyText(link) }),
          h("button", { type: "button", class: "button small danger", text: "Revoke", onclick: async () => {
            if (await this._do({ type: "revoke_invite", code: invite.code })) fillList();
          } }));
      }) : h("li", { class: "empty-line", text: "No invite link yet." }));
    };
    openDialog("Invite links", [
      h("p", { class: "hint", text: "Whoever opens the link can join the group." }), list,
      h("div", { class: "dialog-actions" }, h("button", { type: "button", class: "button primary", text: "Create link", onclick: async () => {
        if (await this._do({ type: "create_invite" })) fillList();
      } })),
    ], { wide: true });
    await fillList();
  }
}

export class ThreadPanel {
  constructor(app, id, root_seq) {
    this.app = app;
    this.id = id;
    this.root = root_seq;
    this.editing = 0;
    this.more = { more: false, first: 0 };
    this.older = h("button", { type: "button", class: "link older", hidden: true, text: "Older replies", onclick: () => this._load(this.more.first) });
    this.rows = h("ol", { class: "timeline", "aria-label": "Thread" });
    this.scroll = h("div", { class: "panel-scroll" }, this.older, this.rows);
    this.composer = new Composer(app, { conversation_id: id, thread: root_seq, names: () => app.view.names(), onsent: () => this._end() });
    this.node = frame(app, "Thread", this.scroll, this.composer.node).node;
  }

  opened() {
    this._load(0).then(() => this._end());
    this.composer.area.focus();
  }

  close() {}

  async _load(before) {
    const answer = await attempt(this.app.client.loadThread(this.id, this.root, before));
    if (!answer) return;
    this.more = answer;
    this.older.hidden = !answer.more;
    this.render();
  }

  _end() {
    this.scroll.scrollTop = this.scroll.scrollHeight;
  }

  // what rows call
  reply(seq) { this.composer.reply(seq); }
  edit(seq) { this.editing = seq; this.render(); }
  thread() {}
  jump(seq) { this.app.view.jump(seq); }
  wantMessage(seq) { this.app.view.wantMessage(seq); }
  mentions(text) { return this.app.view.mentions(text); }

  render() {
    const { store } = this.app;
    const conversation = store.conversation(this.id);
    if (!conversation) return;
    const isAtEnd = this.scroll.scrollHeight - this.scroll.scrollTop - this.scroll.clientHeight < 60;
    this.composer.setNotice(postingNotice(this.app, conversation));
    let before = null;
    const names = this.app.view.names();
    const specs = store.thread(this.id, this.root).map((message) => {
      const isFirst = !continues(message, before);
      before = message;
      const isEditing = this.editing === message.seq && !message.deleted;
      return {
        key: message.seq,
        deps: [message, isFirst, isEditing, store.nameOf(message.user_id), conversation.role, names.size],
        render: () => messageRow(this.app, this, conversation, message, { isFirst, tick: "", readBy: 0, isEditing, names, inThread: true }),
      };
    });
    for (const item of this.app.client.outbox.of(this.id, this.root)) {
      specs.push({ key: `own ${item.client_id}`, deps: [item.version || 0], render: () => pendingRow(this.app, item) });
    }
    reconcile(this.rows, specs);
    if (isAtEnd) this._end();
  }
}
