// What opens above the page: new conversations, joining, contacts, the own profile, log-ins.

import { upload } from "../api.js";
import { button, fill, h } from "../dom.js";
import { newClientId } from "../outbox.js";
import { ago, isLanguage, isZone } from "../time.js";
import { attempt, avatar, confirmDialog, openDialog, openMenu, personAvatar, toast, userSearch } from "./parts.js";

/** Start a direct chat, a group, or join by a link. */
export function openNewDialog(app) {
  const chosen = new Map();
  const chips = h("div", { class: "chips", hidden: true });
  const title = h("input", { class: "field", placeholder: "Group name", "aria-label": "Group name", maxlength: "200" });
  const create = h("button", { type: "button", class: "button primary", text: "Create group" });
  const link = h("input", { class: "field", placeholder: "Paste an invite link or code", "aria-label": "Invite link or code" });
  const client_id = newClientId(); // a second click or a retry makes the same group
  const tabs = h("div", { class: "tabs", role: "tablist" });
  const body = h("div", { class: "tab-body" });
  const { close } = openDialog("New conversation", [tabs, body]);

  const renderChips = () => {
    chips.hidden = !chosen.size;
    fill(chips, [...chosen.values()].map((profile) => h("button", {
      type: "button", class: "chip", "aria-label": `Remove ${profile.name}`,
      onclick: () => {
        chosen.delete(profile.user_id);
        renderChips();
      },
    }, profile.name, " ×")));
  };
  create.addEventListener("click", async () => {
    if (!title.value.trim()) {
      title.focus();
      return toast("Give the group a name.", { isError: true });
    }
    create.disabled = true;
    const reply = await attempt(app.client.ask({ type: "create_group", client_id, title: title.value.trim(), member_ids: [...chosen.keys()] }));
    create.disabled = false;
    if (!reply) return undefined;
    app.store.applySummary(reply.conversation);
    close();
    return app.go(reply.conversation.conversation_id);
  });
  const joinForm = h("form", {}, h("p", { class: "hint", text: "Somebody in a group can give you a link to it." }), link,
    h("div", { class: "dialog-actions" }, h("button", { class: "button primary", type: "submit", text: "Join" })));
  joinForm.addEventListener("submit", (event) => {
    event.preventDefault();
    const code = link.value.trim().split("#join/").at(-1).trim();
    if (!code) return;
    close();
    app.join(code);
  });

  const pages = {
    "Direct message": () => {
      const search = userSearch(app, { onpick: (profile) => {
        close();
        app.openDirect(profile.user_id);
      } });
      fill(body, search.node);
      search.input.focus();
    },
    Group: () => {
      const search = userSearch(app, { label: "Add people by name", skip: (profile) => chosen.has(profile.user_id), onpick: (profile) => {
        chosen.set(profile.user_id, profile);
        search.input.value = "";
        search.refresh();
        renderChips();
        search.input.focus();
      } });
      fill(body, title, chips, search.node, h("div", { class: "dialog-actions" }, create));
      title.focus();
    },
    "Join by link": () => {
      fill(body, joinForm);
      link.focus();
    },
  };
  for (const [name, show] of Object.entries(pages)) {
    tabs.append(h("button", { type: "button", role: "tab", class: "tab", text: name, "aria-selected": "false", onclick: (event) => {
      for (const tab of tabs.children) tab.setAttribute("aria-selected", String(tab === event.currentTarget));
      show();
    } }));
  }
  tabs.firstChild.click();
}

export function openContactsDialog(app) {
  const list = h("div", { class: "contact-list" });
  const { store, client } = app;
  const act = async (command) => {
    if (await attempt(client.ask(command))) await attempt(client.refreshContacts());
  };
  const row = (user_id, sub, ...actions) => h("li", { class: "person-row", dataset: { user: user_id } },
    h("span", { class: "person" }, personAvatar(app, user_id),
      h("span", { class: "person-words" }, h("span", { class: "person-name", text: store.nameOf(user_id) }), h("span", { class: "person-sub", text: sub }))), ...actions);
  const small = (text, onclick, kind = "") => h("button", { type: "button", class: `button small ${kind}`, text, onclick });
  const section = (title, rows) => (rows.length ? [h("h3", { class: "section", text: title }), h("ul", { class: "people" }, rows)] : []);
  const render = () => {
    const of = (state) => [...store.contacts.values()].filter((contact) => contact.state === state)
      .sort((one, other) => store.nameOf(one.user_id).localeCompare(store.nameOf(other.user_id)));
    const accepted = of("accepted").map(({ user_id }) => {
      const known = store.presence.get(user_id);
      const sub = !known ? "" : known.state !== "offline" ? known.state : known.last_seen_ms ? `last seen ${ago(known.last_seen_ms)}` : "offline";
      const more = button("More", () => openMenu(more, [
        { label: "Remove contact", danger: true, action: () => act({ type: "remove_contact", user_id }) },
        { label: "Block", danger: true, action: () => act({ type: "block", user_id }) },
      ]), { icon: "more", kind: "quiet" });
      return row(user_id, sub, small("Write", () => {
        close();
        app.openDirect(user_id);
      }), more);
    });
    fill(list,
      section("Wants to be your contact", of("incoming").map(({ user_id }) => row(user_id, "",
        small("Accept", () => act({ type: "answer_contact", user_id, accept: true }), "primary"),
        small("Decline", () => act({ type: "answer_contact", user_id, accept: false }))))),
      section("Contacts", accepted),
      section("Asked", of("requested").map(({ user_id }) => row(user_id, "no answer yet", small("Take back", () => act({ type: "remove_contact", user_id }))))),
      section("Blocked", [...store.blocked].map((user_id) => row(user_id, "", small("Unblock", () => act({ type: "unblock", user_id }))))),
      store.contacts.size || store.blocked.size ? null : h("p", { class: "empty-line", text: "No contacts yet. Find people above." }));
  };
  const search = userSearch(app, {
    onpick: (profile) => {
      close();
      app.openDirect(profile.user_id);
    },
    actions: (profile) => store.contacts.has(profile.user_id) || store.blocked.has(profile.user_id) ? null
      : h("button", { type: "button", class: "button small", text: "Add contact", onclick: async (event) => {
        event.target.disabled = true;
        await act({ type: "request_contact", user_id: profile.user_id });
        search.refresh();
      } }),
  });
  const stop = app.listen(["contacts", "people", "presence"], render);
  const { close } = openDialog("Contacts", [search.node, list], { onclose: stop });
  render();
  attempt(client.refreshContacts());
}

export function openProfileDialog(app) {
  const { store } = app;
  const me = store.me;
  const name = h("input", { class: "field", id: "profile-name", maxlength: "64", required: true, value: me.name });
  const language = h("input", { class: "field", id: "profile-language", maxlength: "35", placeholder: navigator.language, value: me.language || "" });
  const zones = typeof Intl.supportedValuesOf === "function" ? Intl.supportedValuesOf("timeZone") : [];
  const zone = h("input", { class: "field", id: "profile-zone", maxlength: "64", list: "zones", placeholder: Intl.DateTimeFormat().resolvedOptions().timeZone, value: me.time_zone || "" });
  const face = h("div", { class: "profile-face" });
  let file_id = me.avatar || "";
  const draw = () => fill(face, avatar(app, { id: me.user_id, name: name.value || me.name, file_id, size: "large" }));
  const picker = h("input", { type: "file", accept: "image/png,image/jpeg,image/gif,image/webp", hidden: true, "aria-label": "Choose a picture" });
  picker.addEventListener("change", async () => {
    const file = picker.files[0];
    const record = file && (await attempt(upload(app.session.token, file)));
    if (!record) return;
    file_id = record.file_id;
    draw();
  });
  const message = h("p", { class: "form-message", role: "alert" });
  const row = (label, field) => h("div", { class: "form-row" }, h("label", { for: field.id, text: label }), field);
  const form = h("form", { novalidate: true },
    h("div", { class: "profile-top" }, face, h("div", {}, h("strong", { text: `@${me.username}` }),
      h("div", { class: "action-row" },
        h("button", { type: "button", class: "button small", text: "Change picture", onclick: () => picker.click() }),
        h("button", { type: "button", class: "button small", text: "No picture", onclick: () => {
          file_id = "";
          draw();
        } })))),
    picker, row("Display name", name), row("Language", language), row("Time zone", zone),
    h("datalist", { id: "zones" }, zones.map((value) => h("option", { value }))),
    message, h("div", { class: "dialog-actions" }, h("button", { class: "button primary", type: "submit", text: "Save" })));
  const { close } = openDialog("Profile", form);
  draw();
  form.addEventListener("submit", async (event) => {
    event.preventDefault();
    if (!name.value.trim()) message.textContent = "A name is needed.";
    else if (language.value && !isLanguage(language.value)) message.textContent = "That is not a language tag, such as en or pt-BR.";
    else if (zone.value && !isZone(zone.value)) message.textContent = "That is not a time zone, such as Europe/Berlin.";
    else {
      const reply = await attempt(app.client.ask({ type: "update_profile", name: name.value.trim(), avatar: file_id, language: language.value.trim(), time_zone: zone.value.trim() }));
      if (!reply) return;
      const mine = (reply.items || []).find((profile) => profile.user_id === me.user_id);
      if (mine) {
        store.me = mine;
        store.setPeople([mine]);
        store.onchange("me");
      }
      close();
      toast("Saved");
    }
  });
}

export async function openSessionsDialog(app) {
  const list = h("ul", { class: "people", "aria-label": "Log-ins" });
  const render = async () => {
    const reply = await attempt(app.client.ask({ type: "list_sessions" }));
    if (!reply) return;
    fill(list, [...(reply.items || [])].sort((one, other) => Number(Boolean(other.current)) - Number(Boolean(one.current))).map((session) =>
      h("li", { class: "person-row", dataset: { session: session.session_id } },
        h("span", { class: "person-words" },
          h("span", { class: "person-name", text: session.device_name || "Unnamed device" }),
          h("span", { class: "person-sub", text: session.current ? "this one" : `last used ${ago(session.last_seen_ms || session.created_at_ms)}` })),
        session.current
          ? h("button", { type: "button", class: "button small", text: "Log out", onclick: () => app.logOut() })
          : h("button", { type: "button", class: "button small danger", text: "End", onclick: () => confirmDialog("End this log-in", "That device is logged out at once.", "End it", async () => {
              if (await attempt(app.client.ask({ type: "revoke_session", session_id: session.session_id }))) render();
            }) }))));
  };
  const stop = app.listen(["sessions"], render);
  openDialog("Where you are logged in", list, { onclose: stop });
  await render();
}
