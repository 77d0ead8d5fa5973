// Small parts that several views use: avatars, dialogs, menus, toasts, pickers.

import { showFile } from "../api.js";
import { button, fill, h } from "../dom.js";

/** A round picture of somebody: the uploaded one, or initials on a colour of their own. */
export function avatar(app, { id, name, file_id = "", presence = "", size = "" }) {
  const face = h("span", { class: `avatar ${size} hue-${hue(id)}`, "aria-hidden": "true" }, initials(name));
  if (file_id) {
    const image = h("img", { alt: "", class: "avatar-image", loading: "lazy" });
    showFile(image, app.session.token, file_id, () => image.remove());
    face.append(image);
  }
  if (presence) face.append(h("span", { class: `dot dot-${presence}` }));
  return face;
}

export function personAvatar(app, user_id, { size = "", withPresence = true } = {}) {
  const profile = app.store.people.get(user_id);
  const known = app.store.presence.get(user_id);
  return avatar(app, {
    id: user_id,
    name: app.store.nameOf(user_id),
    file_id: profile ? profile.avatar : "",
    presence: withPresence && known ? known.state : "",
    size,
  });
}

function initials(name) {
  const words = (name || "").trim().split(/\s+/).filter(Boolean);
  const letters = words.length > 1 ? [words[0], words.at(-1)] : words;
  return letters.map((word) => [...word][0]).join("").toUpperCase() || "?";
}

/** One of 12 hues, the same for an id everywhere. */
export function hue(id) {
  let sum = 0;
  for (const char of id || "") sum = (sum * 31 + char.codePointAt(0)) % 997;
  return sum % 12;
}

/** A modal dialog. Esc and a click beside it close it; the focus returns to where it was. */
export function openDialog(title, body, { onclose = () => {}, wide = false } = {}) {
  const heading = h("h2", { text: title, id: `dialog-${Math.random().toString(36).slice(2)}` });
  const dialog = h("dialog", { class: wide ? "dialog dialog-wide" : "dialog", "aria-labelledby": heading.id });
  const close = () => dialog.close();
  dialog.append(
    h("header", { class: "dialog-head" }, heading, button("Close", close, { icon: "close", kind: "quiet" })),
    h("div", { class: "dialog-body" }, body),
  );
  const before = document.activeElement;
  dialog.addEventListener("close", () => {
    dialog.remove();
    onclose();
    // This event comes a moment after the closing: whoever types on already must not lose the focus again, or the
    // first space would press the button that opened the dialog.
    if (before && before.isConnected && document.activeElement === document.body) before.focus({ preventScroll: true });
  });
  dialog.addEventListener("pointerdown", (event) => {
    if (event.target === dialog) close();
  });
  document.body.append(dialog);
  dialog.showModal();
  return { dialog, close };
}

/** Ask before something that cannot be taken back. */
export function confirmDialog(title, text, action, onyes) {
  const { close } = openDialog(title, [
    h("p", { text }),
    h(
      "div",
      { class: "dialog-actions" },
      h("button", { type: "button", class: "button", text: "Cancel", onclick: () => close() }),
      h("button", {
        type: "button",
        class: "button danger",
        text: action,
        onclick: () => {
          close();
          onyes();
        },
      }),
    ),
  ]);
}

let openMenuNode = null;

/** A menu below a control: arrow keys move, Esc closes. Items: {label, action, icon, danger} or null. */
export function openMenu(anchor, items, { label = "Actions", content = null } = {}) {
  closeMenu();
  const menu = h("div", { class: "menu", role: content ? "dialog" : "menu", "aria-label": label, tabindex: "-1" });
  for (const item of items.filter(Boolean)) {
    menu.append(
      h("button", {
        type: "button",
        role: "menuitem",
        class: item.danger ? "menu-item danger" : "menu-item",
        text: item.label,
        onclick: () => {
          closeMenu();
          item.action();
        },
      }),
    );
  }
  if (content) menu.append(content);
  menu.addEventListener("keydown", (event) => {
    const all = [...menu.querySelectorAll("button")];
    const at = all.indexOf(document.activeElement);
    if (event.key === "ArrowDown" || event.key === "ArrowRight") all[(at + 1) % all.length]?.focus();
    else if (event.key === "ArrowUp" || event.key === "ArrowLeft") all[(at - 1 + all.length) % all.length]?.focus();
    else if (event.key === "Escape") {
      event.stopPropagation();
      closeMenu();
      anchor.focus();
    } else return;
    if (event.target.tagName !== "INPUT" || event.key === "Escape") event.preventDefault();
  });
  (anchor.closest("dialog") || document.body).append(menu);
  place(menu, anchor);
  openMenuNode = menu;
  menu.querySelector("button, input")?.focus({ preventScroll: true });
  setTimeout(() => document.addEventListener("pointerdown", outside), 0);
}

function outside(event) {
  if (openMenuNode && !openMenuNode.contains(event.target)) closeMenu();
}

export function closeMenu() {
  document.removeEventListener("pointerdown", outside);
  openMenuNode?.remove();
  openMenuNode = null;
}

function place(menu, anchor) {
  const box = anchor.getBoundingClientRect();
  const width = menu.offsetWidth;
  const height = menu.offsetHeight;
  const wanted = box.left < innerWidth / 2 ? box.left : box.right - width; // inwards from the anchor
  const left = Math.max(8, Math.min(wanted, innerWidth - width - 8));
  const below = box.bottom + 4;
  const top = below + height > innerHeight - 8 ? Math.max(8, box.top - height - 4) : below;
  // Inline styles set by script are what a strict CSP allows; a style attribute is what it forbids.
  menu.style.left = `${left}px`;
  menu.style.top = `${top}px`;
}

export function toast(text, { isError = false } = {}) {
  const shelf = document.querySelector(".toasts") || document.body.appendChild(h("div", { class: "toasts", role: "status" }));
  const node = h("div", { class: isError ? "toast toast-error" : "toast", text });
  shelf.append(node);
  setTimeout(() => node.remove(), 5000);
}

/** Run a command; tell the person where it fails. Returns its reply, or null. */
export async function attempt(promise) {
  try {
    return await promise;
  } catch (error) {
    toast(error.message || error.code, { isError: true });
    return null;
  }
}

const EMOJI = ["👍", "❤️", "😂", "🎉", "😮", "😢", "🙏", "👀", "✅", "🔥", "🤔", "👎"];

export function openEmojiPicker(anchor, onpick) {
  const pick = (emoji) => {
    closeMenu();
    onpick(emoji);
  };
  const grid = h("div", { class: "emoji-grid" });
  for (const emoji of EMOJI) {
    grid.append(h("button", { type: "button", class: "emoji", text: emoji, "aria-label": `React with ${emoji}`, onclick: () => pick(emoji) }));
  }
  const other = h("input", { class: "field", maxlength: "16", placeholder: "Another…", "aria-label": "Another emoji" });
  other.addEventListener("keydown", (event) => {
    if (event.key === "Enter" && other.value.trim()) pick(other.value.trim());
  });
  openMenu(anchor, [], { label: "Choose an emoji", content: [h("div", {}, grid, other)][0] });
}

/** Find users by the beginning of a name. `onpick(profile)`; `skip(profile)` leaves some out. */
export function userSearch(app, { onpick, skip = () => false, label = "Find people by name", actions = null }) {
  const input = h("input", { class: "field", type: "search", placeholder: label, "aria-label": label, maxlength: "64", autocomplete: "off" });
  const results = h("ul", { class: "people", "aria-label": "People found" });
  let asked = 0;
  let timer = 0;
  const find = async () => {
    const prefix = input.value.trim();
    const mine = (asked += 1);
    if (!prefix) return fill(results);
    const reply = await attempt(app.client.ask({ type: "find_users", prefix, limit: 20 }));
    if (mine !== asked || !reply) return undefined;
    app.store.setPeople(reply.items || []);
    const found = (reply.items || []).filter((profile) => profile.user_id !== app.store.my_id && !skip(profile));
    if (!found.length) return fill(results, h("li", { class: "empty-line", text: "Nobody found" }));
    return fill(
      results,
      found.map((profile) =>
        h(
          "li",
          { class: "person-row" },
          h(
            "button",
            { type: "button", class: "person", onclick: () => onpick(profile) },
            personAvatar(app, profile.user_id, { withPresence: false }),
            h("span", { class: "person-words" },
              h("span", { class: "person-name", text: profile.name }),
              h("span", { class: "person-sub", text: `@${profile.username}${profile.is_bot ? " · bot" : ""}` })),
          ),
          actions ? actions(profile) : null,
        ),
      ),
    );
  };
  input.addEventListener("input", () => {
    clearTimeout(timer);
    timer = setTimeout(find, 120);
  });
  input.addEventListener("keydown", (event) => {
    if (event.key === "ArrowDown") results.querySelector("button")?.focus();
  });
  return { node: h("div", { class: "search" }, input, results), input, refresh: find };
}
