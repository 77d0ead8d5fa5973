// Turn a message's text into safe nodes: links and mentions, everything else as plain text.

import { h } from "./dom.js";

const LINK = /\bhttps?:\/\/[^\s<>"'`]+/gi;
const HASHTAG = /#([\p{L}\p{N}\p{M}_]+)/gu;
const WORD = /[\p{L}\p{N}_.-]/u;

/** Cut a text into {text}, {url} and {user_id, text} pieces. `names` maps a username to its user id. */
export function pieces(text, names = new Map()) {
  const found = [];
  let from = 0;
  for (const match of text.matchAll(LINK)) {
    const url = trimLink(match[0]);
    if (!url) continue;
    mentionPieces(text.slice(from, match.index), names, found);
    found.push({ url, text: url });
    from = match.index + url.length;
  }
  mentionPieces(text.slice(from), names, found);
  return found;
}

/** As `pieces`, with {hashtag, text} besides: those of `hashtags`, which is what the server found in the text. */
export function postPieces(text, names, hashtags) {
  const known = new Map(hashtags.map((tag) => [folded(tag), tag]));
  if (!known.size) return pieces(text, names);
  return pieces(text, names).flatMap((piece) => {
    if (piece.url || piece.user_id) return [piece];
    const found = [];
    let from = 0;
    for (const match of piece.text.matchAll(HASHTAG)) {
      const hashtag = known.get(folded(match[1]));
      if (!hashtag) continue;
      if (match.index > from) found.push({ text: piece.text.slice(from, match.index) });
      found.push({ hashtag, text: match[0] });
      from = match.index + match[0].length;
    }
    if (from < piece.text.length) found.push({ text: piece.text.slice(from) });
    return found;
  });
}

/** Compare hashtags as the server does: by case folding, which upper and then lower case comes near to. */
function folded(tag) {
  return tag.normalize("NFKC").toUpperCase().toLowerCase();
}

/** Punctuation behind a link belongs to the sentence; a closing bracket does unless it was opened inside. */
function trimLink(raw) {
  let url = raw;
  for (;;) {
    const last = url.at(-1);
    if (/[.,;:!?*_~]/.test(last)) url = url.slice(0, -1);
    else if (last === ")" && !url.includes("(")) url = url.slice(0, -1);
    else if (last === "]" && !url.includes("[")) url = url.slice(0, -1);
    else break;
  }
  try {
    const { protocol } = new URL(url);
    return protocol === "https:" || protocol === "http:" ? url : "";
  } catch {
    return "";
  }
}

function mentionPieces(text, names, found) {
  let from = 0;
  for (let at = text.indexOf("@"); at >= 0; at = text.indexOf("@", at + 1)) {
    if (at > 0 && WORD.test(text[at - 1])) continue; // an e-mail address
    let end = at + 1;
    while (end < text.length && WORD.test(text[end])) end += 1;
    while (end > at + 1 && !names.has(text.slice(at + 1, end).toLowerCase())) {
      end -= 1;
      if (!/[.-]/.test(text[end])) end = at + 1; // only trailing punctuation may be given up
    }
    if (end <= at + 1) continue;
    if (at > from) found.push({ text: text.slice(from, at) });
    found.push({ user_id: names.get(text.slice(at + 1, end).toLowerCase()), text: text.slice(at, end) });
    from = end;
  }
  if (from < text.length) found.push({ text: text.slice(from) });
}

export function renderText(text, names, my_id) {
  const fragment = document.createDocumentFragment();
  for (const piece of pieces(text, names)) {
    if (piece.url) {
      fragment.append(h("a", { href: piece.url, target: "_blank", rel: "noopener noreferrer nofollow", text: piece.text }));
    } else if (piece.user_id) {
      fragment.append(h("span", { class: piece.user_id === my_id ? "mention mention-me" : "mention", text: piece.text }));
    } else fragment.append(document.createTextNode(piece.text));
  }
  return fragment;
}

/** As `renderText`, for a post or a comment: those mentioned are links to their profiles, hashtags open a menu. */
export function renderPost(text, names, hashtags, my_id, onhashtag) {
  const fragment = document.createDocumentFragment();
  for (const piece of postPieces(text, names, hashtags)) {
    if (piece.url) {
      fragment.append(h("a", { href: piece.url, target: "_blank", rel: "noopener noreferrer nofollow", text: piece.text }));
    } else if (piece.user_id) {
      fragment.append(h("a", { class: piece.user_id === my_id ? "mention mention-me" : "mention", href: `#u/${piece.user_id}`, text: piece.text }));
    } else if (piece.hashtag) {
      fragment.append(h("button", { type: "button", class: "hashtag", text: piece.text, "aria-haspopup": "menu", onclick: (event) => onhashtag(event.currentTarget, piece.hashtag) }));
    } else fragment.append(document.createTextNode(piece.text));
  }
  return fragment;
}

/** The ids of those mentioned in a text that is about to be sent; at most 50, as the server accepts. */
export function mentionsIn(text, names) {
  const ids = pieces(text, names).map((piece) => piece.user_id).filter(Boolean);
  return [...new Set(ids)].slice(0, 50);
}

/** Bytes of a text as UTF-8, which is what the limit of 100 KB means. */
export function utf8Length(text) {
  return new TextEncoder().encode(text).length;
}
