// One message as a row, with what can be done to it. Used by the conversation and by the thread panel.

import { linkFile, showFile } from "../api.js";
import { button, drawIcon, h } from "../dom.js";
import { renderText } from "../text.js";
import { bytes, clock, full } from "../time.js";
import { attempt, confirmDialog, openDialog, openEmojiPicker, openMenu, personAvatar, toast, hue } from "./parts.js";

const EDIT_WINDOW_MS = 24 * 3600 * 1000; // protocol/limits.py; the server decides, this only hides what it refuses
const GROUP_MS = 5 * 60_000; // messages of one author closer than this stand together
const PICTURE_PX = 340;
const LONG_CHARS = 3000; // a text of 100 KB is folded until asked for

/** Tell whether a message continues the block of the one before. */
export function continues(message, before) {
  return Boolean(
    before && !before.type && !message.reply_to && before.user_id === message.user_id &&
    message.at_ms - before.at_ms < GROUP_MS,
  );
}

/**
 * Make the row. `state`: {isFirst, tick, readBy, isEditing, names, inThread}. `view` carries the actions:
 * reply, edit, thread, jump.
 */
export function messageRow(app, view, conversation, message, state) {
  const { store } = app;
  const isMine = message.user_id === store.my_id;
  const classes = ["message", isMine ? "own" : "other", state.isFirst ? "first" : "follow"];
  if (message.deleted) classes.push("deleted");
  if ((message.mentions || []).includes(store.my_id)) classes.push("mentions-me");
  const author = store.nameOf(message.user_id);
  const bubble = h("div", { class: "bubble" });
  if (message.reply_to) bubble.append(quote(app, view, conversation, message.reply_to));
  if (message.deleted) bubble.append(h("p", { class: "gone", text: "This message was deleted" }));
  else if (state.isEditing) bubble.append(editor(app, view, conversation, message, state));
  else {
    if (message.text) bubble.append(textBlock(message, state, store.my_id));
    for (const file of message.files || []) bubble.append(attachment(app, file));
  }
  bubble.append(meta(message, isMine, state));
  return h(
    "li",
    { class: classes.join(" "), dataset: { seq: message.seq }, "aria-label": `${author}, ${clock(message.at_ms)}` },
    h("div", { class: "gutter" }, state.isFirst && !isMine ? personAvatar(app, message.user_id, { size: "small", withPresence: false }) : null),
    h(
      "div",
      { class: "body" },
      state.isFirst && !isMine && conversation.kind === "group"
        ? h("span", { class: `author hue-text-${message.user_id ? hue(message.user_id) : 0}`, text: author })
        : null,
      h("div", { class: "bubble-line" }, bubble, message.deleted || state.isEditing ? null : tools(app, view, conversation, message, isMine, state)),
      reactions(app, conversation, message),
      message.thread_count && !state.inThread
        ? h("button", { type: "button", class: "thread-chip", onclick: () => view.thread(message.seq) }, drawIcon("thread", "icon tiny"),
            `${message.thread_count} ${message.thread_count === 1 ? "reply" : "replies"}`)
        : null,
      state.readBy
        ? h("button", { type: "button", class: "read-by", text: `Read by ${state.readBy}`, onclick: () => showReaders(app, conversation, message) })
        : null,
    ),
  );
}


function textBlock(message, state, my_id) {
  const block = h("div", { class: /^(\p{Extended_Pictographic}|\u200d|\ufe0f|\p{Emoji_Modifier}){1,8}$/u.test(message.text) ? "text jumbo" : "text", dir: "auto" });
  if (message.text.length <= LONG_CHARS) block.append(renderText(message.text, state.names, my_id));
  else {
    block.append(renderText(message.text.slice(0, LONG_CHARS), state.names, my_id), "… ");
    block.append(h("button", {
      type: "button", class: "link", text: `Show all (${bytes(message.text.length)})`,
      onclick: () => block.replaceChildren(renderText(message.text, state.names, my_id)),
    }));
  }
  return block;
}

const TICKS = {
  sent: ["check", "Sent"], delivered: ["checks", "Delivered"], read: ["checks", "Read"],
};

function meta(message, isMine, state) {
  const line = h("span", { class: "meta" });
  if (message.edited_at_ms && !message.deleted) line.append(h("span", { class: "edited", text: "edited", title: full(message.edited_at_ms) }));
  line.append(h("time", { text: clock(message.at_ms), title: full(message.at_ms), datetime: new Date(message.at_ms).toISOString() }));
  if (isMine && state.tick && !message.deleted) {
    const [icon, words] = TICKS[state.tick];
    line.append(h("span", { class: `tick tick-${state.tick}`, role: "img", "aria-label": words, title: words }, drawIcon(icon, "icon tiny")));
  }
  return line;
}

function quote(app, view, conversation, seq) {
  const quoted = app.store.message(conversation.id, seq);
  if (quoted === undefined) view.wantMessage(seq);
  const words = !quoted ? (quoted === null ? "Message not available" : "…")
    : quoted.deleted ? "Message deleted" : quoted.text || (quoted.files || []).map((file) => file.name).join(", ");
  return h("button", { type: "button", class: "quote", onclick: () => view.jump(seq), "aria-label": "Go to the quoted message" },
    h("span", { class: "quote-author", text: quoted ? app.store.nameOf(quoted.user_id) : "" }),
    h("span", { class: "quote-text", text: words.slice(0, 200) }));
}

/** A picture is shown, anything else is a link that downloads. */
export function attachment(app, file) {
  const isPicture = /^image\/(png|jpeg|gif|webp|avif)$/.test(file.media_type || "");
  const link = h("a", { class: isPicture ? "picture" : "file", target: "_blank", rel: "noopener", title: file.name });
  linkFile(link, app.session.token, file.file_id);
  if (!isPicture) {
    link.download = file.name;
    link.append(drawIcon("file"), h("span", { class: "file-name", text: file.name }), h("span", { class: "file-size", text: bytes(file.size_bytes || 0) }));
    return link;
  }
  // The place is kept free before the picture is there, so that nothing jumps when it comes.
  const scale = Math.min(1, PICTURE_PX / (file.width || PICTURE_PX), PICTURE_PX / (file.height || PICTURE_PX));
  const size = (length) => (length ? Math.max(1, Math.round(length * scale)) : null);
  const image = h("img", { alt: file.name, loading: "lazy", width: size(file.width), height: size(file.height) });
  showFile(image, app.session.token, file.file_id, () => {
    if (image.isConnected) image.replaceWith(h("span", { class: "file-name", text: `${file.name} (cannot be shown)` }));
  });
  link.append(image);
  return link;
}

function tools(app, view, conversation, message, isMine, state) {
  const more = button("More", () => {
    const isYoung = Date.now() - message.at_ms < EDIT_WINDOW_MS;
    const isAdmin = conversation.kind === "group" && conversation.role !== "member";
    openMenu(more, [
      { label: "Copy text", action: () => copyText(message.text) },
      isMine && { label: "Who has read it", action: () => showReaders(app, conversation, message) },
      isMine && isYoung && { label: "Edit", action: () => view.edit(message.seq) },
      ((isMine && isYoung) || isAdmin) && {
        label: "Delete", danger: true,
        action: () => confirmDialog("Delete message", "It disappears for everybody.", "Delete", () =>
          attempt(app.client.ask({ type: "delete", conversation_id: conversation.id, target: message.seq }))),
      },
    ], { label: "Message actions" });
  }, { icon: "more", kind: "tool", "aria-haspopup": "menu" });
  const smile = button("React", () => openEmojiPicker(smile, (emoji) => react(app, conversation, message, emoji, false)), { icon: "smile", kind: "tool" });
  return h("div", { class: "tools" },
    smile,
    button("Reply", () => view.reply(message.seq), { icon: "reply", kind: "tool" }),
    state.inThread ? null : button("Open thread", () => view.thread(message.thread || message.seq), { icon: "thread", kind: "tool" }),
    more);
}

function react(app, conversation, message, emoji, removed) {
  return attempt(app.client.ask({ type: "react", conversation_id: conversation.id, target: message.seq, emoji, removed }));
}

function reactions(app, conversation, message) {
  if (!(message.reactions || []).length) return null;
  const line = h("div", { class: "reactions" });
  for (const { emoji, user_ids } of message.reactions) {
    const isMine = user_ids.includes(app.store.my_id);
    const names = user_ids.slice(0, 20).map((id) => (id === app.store.my_id ? "You" : app.store.nameOf(id))).join(", ");
    line.append(h("button", {
      type: "button", class: isMine ? "reaction mine" : "reaction", title: `${names} reacted with ${emoji}`,
      "aria-pressed": String(isMine), "aria-label": `${emoji}, ${user_ids.length}: ${names}`,
      onclick: () => react(app, conversation, message, emoji, isMine),
    }, h("span", { class: "reaction-emoji", text: emoji }), h("span", { text: String(user_ids.length) })));
  }
  return line;
}

function editor(app, view, conversation, message, state) {
  const area = h("textarea", { class: "field edit-field", "aria-label": "Edit message", rows: "2", dataset: { focus: "edit" } });
  // The row is made again when its ticks or reactions change; what was typed so far must outlive that.
  const isBegun = view.edited && view.edited.seq === message.seq;
  area.value = isBegun ? view.edited.text : message.text;
  area.addEventListener("input", () => (view.edited = { seq: message.seq, text: area.value }));
  const close = () => {
    view.edited = null;
    view.edit(0);
  };
  const save = async () => {
    const text = area.value.trim();
    if (!text) return toast("A message needs text. Delete it instead.", { isError: true });
    if (text !== message.text) {
      const command = { type: "edit", conversation_id: conversation.id, target: message.seq, text, mentions: view.mentions(text) };
      if (!(await attempt(app.client.ask(command)))) return undefined;
    }
    return close();
  };
  area.addEventListener("keydown", (event) => {
    if (event.key === "Escape") {
      event.stopPropagation();
      close();
    } else if (event.key === "Enter" && !event.shiftKey && !event.isComposing) {
      event.preventDefault();
      save();
    }
  });
  queueMicrotask(() => {
    area.focus();
    area.setSelectionRange(area.value.length, area.value.length);
    area.style.height = `${Math.min(area.scrollHeight + 2, 300)}px`;
  });
  return h("div", { class: "edit-box" }, area,
    h("div", { class: "edit-actions" },
      h("button", { type: "button", class: "link", text: "Cancel", onclick: close }),
      h("button", { type: "button", class: "link strong", text: "Save", onclick: save })));
}

/** A message that is not stored yet, or was refused. */
export function pendingRow(app, item) {
  const isFailed = item.state === "failed";
  const bubble = h("div", { class: "bubble" }, item.text ? h("div", { class: "text", dir: "auto", text: item.text.slice(0, LONG_CHARS) }) : null,
    (item.files || []).map((file) => attachment(app, file)),
    h("span", { class: "meta" }, drawIcon(isFailed ? "warn" : "clock", "icon tiny"), isFailed ? "Not sent" : "Sending"));
  return h("li", { class: `message own follow pending ${item.state}`, dataset: { client: item.client_id } },
    h("div", { class: "gutter" }),
    h("div", { class: "body" }, h("div", { class: "bubble-line" }, bubble),
      isFailed
        ? h("div", { class: "failed-line" }, h("span", { text: item.error }),
            h("button", { type: "button", class: "link", text: "Try again", onclick: () => app.client.outbox.retry(item.client_id) }),
            h("button", { type: "button", class: "link danger", text: "Discard", onclick: () => app.client.outbox.settle(item.client_id) }))
        : null));
}

export function showReaders(app, conversation, message) {
  const members = [...(conversation.members || new Map()).values()].filter((member) => member.user_id !== app.store.my_id);
  const read = members.filter((member) => (member.read_seq || 0) >= message.seq);
  const delivered = members.filter((member) => (member.read_seq || 0) < message.seq && (member.delivered_seq || 0) >= message.seq);
  const rest = members.filter((member) => (member.delivered_seq || 0) < message.seq && (member.read_seq || 0) < message.seq);
  const section = (title, list) => list.length
    ? [h("h3", { class: "section", text: `${title} (${list.length})` }),
       h("ul", { class: "people" }, list.map((member) => h("li", { class: "person-row" },
         h("span", { class: "person" }, personAvatar(app, member.user_id), h("span", { class: "person-name", text: app.store.nameOf(member.user_id) })))))]
    : [];
  openDialog("Message info", [...section("Read", read), ...section("Delivered", delivered), ...section("Not delivered yet", rest)]);
}

export async function copyText(text) {
  try {
    await navigator.clipboard.writeText(text);
  } catch {
    // Not a secure context, or not allowed: the old way still works.
    const area = h("textarea", { class: "visually-hidden", value: text });
    document.body.append(area);
    area.select();
    document.execCommand("copy");
    area.remove();
  }
  toast("Copied");
}
