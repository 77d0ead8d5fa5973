// One item of a list of posts: a post with what can be done to it, an ad, or the line that is left of a hidden one.

import { linkFile, showFile } from "../api.js";
import { button, drawIcon, fill, h, reconcile, setText } from "../dom.js";
import { renderPost, mentionsIn, utf8Length } from "../text.js";
import { brief, bytes, full } from "../time.js";
import { attachment, copyText } from "./message.js";
import { attempt, confirmDialog, openDialog, openMenu, personAvatar, toast } from "./parts.js";

export const MAX_POST_BYTES = 10 * 1024; // protocol/limits.py
const LONG_CHARS = 1200; // folded until asked for
const MENU_PATIENCE_MS = 400;
const compact = new Intl.NumberFormat(undefined, { notation: "compact", maximumFractionDigits: 1 });

/**
 * Specs for `reconcile`, one for each item that is to be shown. `view` carries {editing, edit(post_id)}.
 * A post is changed in place, so that a count that moves neither stops a video nor takes a focus.
 */
export function itemSpecs(app, view, items, { isAlone = false } = {}) {
  const { feed } = app.store;
  return feed.shown(items).map((item) => {
    if (item.kind === "ad") return { key: item.key, deps: [item.ad], render: () => adCard(app, item.ad) };
    const said = feed.said.get(item.key);
    if (said) return { key: item.key, deps: ["hidden", said], render: () => hiddenLine(app, item, said) };
    const state = stateOf(app, view, item, isAlone);
    return {
      key: item.key,
      deps: ["shown", ...Object.values(state)],
      render: (old) => drawPost(app, view, old && old.matches(".post") ? old : null, item, state),
    };
  });
}

/** All that a card depends on, by value or identity. */
function stateOf(app, view, item, isAlone) {
  const { store } = app;
  const post = store.feed.post(item.root_id);
  const teller = store.feed.post(item.post_id);
  const mark = store.feed.mark(item.root_id);
  return {
    post,
    teller_id: teller.repost_of ? teller.author_id : "",
    teller_name: teller.repost_of ? store.nameOf(teller.author_id) : "",
    liked: mark.liked,
    reposted: mark.reposted,
    author: store.people.get(post.author_id),
    author_name: store.nameOf(post.author_id),
    names: post.mentions.map((user_id) => store.people.get(user_id)?.username || store.nameOf(user_id)).join(),
    isEditing: view.editing === post.post_id,
    isAlone,
  };
}

function drawPost(app, view, old, item, state) {
  const { post } = state;
  const node = old || h("li", { class: state.isAlone ? "post alone" : "post", dataset: { item: item.key, post: post.post_id } });
  let article = node.firstChild;
  if (!article) {
    article = h("article", { tabindex: "-1" });
    if (!state.isAlone) article.addEventListener("click", (event) => openByClick(app, article, event));
    node.append(article);
  }
  article.setAttribute("aria-label", `Post by ${state.author_name}, ${brief(post.at_ms)}`);
  article.hubbubPost = post.post_id;
  reconcile(article, [
    ...(state.teller_id ? [{ key: "why", deps: [state.teller_id, state.teller_name], render: () => whyLine(app, state) }] : []),
    { key: "head", deps: [post.edited_at_ms, post.visibility, state.author, state.author_name], render: () => headLine(app, view, item, state) },
    state.isEditing
      ? { key: "editor", deps: [], render: () => editor(app, view, post) }
      : { key: "text", deps: [post.text, post.hashtags.join(), state.names, state.isAlone], render: () => textBlock(app, item, state) },
    ...(post.files.length ? [{ key: "files", deps: [post.files.map((file) => file.file_id).join()], render: () => gallery(app, post.files) }] : []),
    { key: "bar", deps: [post.likes, post.comments, post.reposts, state.liked, state.reposted, post.visibility], render: (bar) => actionBar(app, bar, item, state) },
  ]);
  return node;
}

function openByClick(app, article, event) {
  if (event.defaultPrevented || event.target.closest("a, button, video, audio, textarea, select, input, label")) return;
  if (String(getSelection())) return;
  app.visit(`post/${article.hubbubPost}`);
}

function whyLine(app, state) {
  const name = state.teller_id === app.store.my_id ? "You" : state.teller_name;
  return h("p", { class: "post-why" }, drawIcon("repeat", "icon tiny"), h("a", { href: `#u/${state.teller_id}`, text: name }), " reposted");
}

function headLine(app, view, item, { post, author, author_name }) {
  const more = button("More about this post", () => postMenu(app, view, more, item), { icon: "more", kind: "quiet", "aria-haspopup": "menu", dataset: { focus: "more" } });
  return h("header", { class: "post-head" },
    h("a", { class: "post-face", href: `#u/${post.author_id}`, tabindex: "-1", "aria-hidden": "true" }, personAvatar(app, post.author_id, { withPresence: false })),
    h("div", { class: "post-names" },
      h("a", { class: "post-author", href: `#u/${post.author_id}`, text: author_name }),
      h("span", { class: "post-sub" },
        author ? h("span", { class: "post-handle", text: `@${author.username}` }) : null,
        h("a", { class: "post-time", href: `#post/${post.post_id}` }, h("time", { text: brief(post.at_ms), title: full(post.at_ms), datetime: new Date(post.at_ms).toISOString() })),
        post.edited_at_ms ? h("span", { class: "edited", text: "edited", title: full(post.edited_at_ms) }) : null,
        post.visibility === "followers" ? h("span", { class: "post-lock", title: "Only followers see this", role: "img", "aria-label": "Only followers see this" }, drawIcon("lock", "icon tiny")) : null)),
    more);
}

/** username -> user_id of those the server says are mentioned. */
function namesOf(app, user_ids) {
  const names = new Map();
  for (const user_id of user_ids) {
    const profile = app.store.people.get(user_id);
    if (profile) names.set(profile.username.toLowerCase(), user_id);
  }
  return names;
}

function textBlock(app, item, { post, isAlone }) {
  const block = h("div", { class: "post-text", dir: "auto" });
  const names = namesOf(app, post.mentions);
  const onhashtag = (anchor, hashtag) => openHashtag(app, anchor, hashtag, item.key);
  const render = (text) => renderPost(text, names, post.hashtags, app.store.my_id, onhashtag);
  if (isAlone || post.text.length <= LONG_CHARS) block.append(render(post.text));
  else {
    block.append(render(post.text.slice(0, LONG_CHARS)), "… ");
    block.append(h("button", { type: "button", class: "link", text: "Show all", onclick: () => block.replaceChildren(render(post.text)) }));
  }
  block.hidden = !post.text;
  return block;
}

/** What can be done about a hashtag. Said of an item (`key`) the undo stands there, elsewhere in a toast. */
export function openHashtag(app, anchor, hashtag, key = "") {
  const { feed } = app.client;
  const hide = async () => {
    const done = await attempt(feed.hide("hashtag", hashtag, key).then(() => true));
    if (done && !key) undoToast(app, `You will see less of #${hashtag}.`, () => attempt(feed.unhide("hashtag", hashtag)));
  };
  openMenu(anchor, [
    { label: `Not interested in #${hashtag}`, action: hide },
    { label: "What is trending", action: () => app.visit("trends") },
  ], { label: `#${hashtag}` });
}

/** The text of a comment. */
export function commentText(app, comment) {
  return h("div", { class: "comment-text", dir: "auto" }, renderPost(comment.text || "", namesOf(app, comment.mentions || []), [], app.store.my_id, () => {}));
}

// -- pictures, videos, files --------------------------------------------------------------------------

const isPicture = (file) => /^image\/(png|jpeg|gif|webp|avif)$/.test(file.media_type || "");
const isVideo = (file) => /^video\/(mp4|webm)$/.test(file.media_type || "");

export function gallery(app, files) {
  const shown = files.filter((file) => isPicture(file) || isVideo(file));
  const others = files.filter((file) => !shown.includes(file));
  const many = shown.length > 1;
  return h("div", { class: "post-files" },
    shown.length ? h("div", { class: many ? "gallery many" : "gallery" }, shown.map((file) => (isPicture(file) ? picture(app, file, many) : video(app, file)))) : null,
    others.map((file) => attachment(app, file)));
}

function picture(app, file, many) {
  const link = h("a", { class: "gallery-item", target: "_blank", rel: "noopener", title: file.name });
  linkFile(link, app.session.token, file.file_id);
  const image = h("img", { alt: file.name, loading: "lazy", width: file.width || null, height: file.height || null });
  // The place is kept free before the picture is there, so that nothing jumps when it comes.
  if (!many && file.width && file.height) image.style.aspectRatio = `${file.width} / ${file.height}`;
  showFile(image, app.session.token, file.file_id, () => {
    if (image.isConnected) image.replaceWith(h("span", { class: "file-name", text: `${file.name} (cannot be shown)` }));
  });
  link.append(image);
  return link;
}

function video(app, file) {
  const player = h("video", { class: "gallery-item", controls: true, preload: "metadata", playsinline: true, "aria-label": file.name });
  showFile(player, app.session.token, file.file_id, () => {
    if (player.isConnected) player.replaceWith(attachment(app, file));
  });
  return player;
}

// -- what can be done ---------------------------------------------------------------------------------

function actionBar(app, old, item, { post, liked, reposted }) {
  const { feed } = app.client;
  const bar = old || h("div", { class: "post-bar" },
    h("a", { class: "act act-comment", dataset: { focus: "comment" } }, drawIcon("thread"), h("span", { class: "act-count" })),
    h("button", { type: "button", class: "act act-repost", dataset: { focus: "repost" } }, drawIcon("repeat"), h("span", { class: "act-count" })),
    h("button", { type: "button", class: "act act-like", dataset: { focus: "like" } }, drawIcon("heart"), h("span", { class: "act-count" })));
  const [comment, repost, like] = bar.children;
  comment.href = `#post/${post.post_id}`;
  count(comment, post.comments, post.comments === 1 ? "comment" : "comments", "Comment");
  count(repost, post.reposts, post.reposts === 1 ? "repost" : "reposts", reposted ? "Take the repost back" : "Repost");
  count(like, post.likes, post.likes === 1 ? "like" : "likes", liked ? "Unlike" : "Like");
  repost.setAttribute("aria-pressed", String(reposted));
  like.setAttribute("aria-pressed", String(liked));
  repost.disabled = post.visibility === "followers" && !reposted;
  like.onclick = () => attempt(feed.like(post.post_id));
  repost.onclick = async () => {
    repost.disabled = true;
    const wasReposted = feed.store.mark(post.post_id).reposted;
    const done = await attempt((wasReposted ? feed.unrepost(post.post_id) : feed.repost(post.post_id)).then(() => true));
    repost.disabled = false;
    if (done) toast(wasReposted ? "Repost taken back" : "Reposted to your followers");
  };
  return bar;
}

function count(control, number, words, action) {
  setText(control.querySelector(".act-count"), number ? compact.format(number) : "");
  const label = number ? `${action}, ${number} ${words}` : action;
  control.setAttribute("aria-label", label);
  control.title = label;
}

/** How one stands to the author is asked first, but not waited for long. */
async function postMenu(app, view, anchor, item) {
  const { store } = app;
  const { feed } = app.client;
  const post = store.feed.post(item.root_id);
  const isMine = post.author_id === store.my_id;
  if (!isMine) await Promise.race([feed.loadAuthor(post.author_id).catch(() => {}), new Promise((resolve) => setTimeout(resolve, MENU_PATIENCE_MS))]);
  if (!anchor.isConnected) return;
  const teller_id = store.feed.post(item.post_id).author_id;
  const name = store.nameOf(post.author_id);
  const hide = (kind, target) => () => attempt(feed.hide(kind, target, item.key));
  openMenu(anchor, [
    isMine && { label: "Edit", action: () => view.edit(post.post_id) },
    isMine && { label: "Delete", danger: true, action: () => confirmDialog("Delete post", "It disappears for everybody.", "Delete", () => attempt(feed.deletePost(post.post_id))) },
    !isMine && { label: "Not interested in this post", action: hide("post", post.post_id) },
    !isMine && { label: `Not interested in ${name}`, action: hide("author", post.author_id) },
    teller_id !== post.author_id && teller_id !== store.my_id && { label: `Not interested in ${store.nameOf(teller_id)}`, action: hide("author", teller_id) },
    ...post.hashtags.slice(0, 6).map((hashtag) => ({ label: `Not interested in #${hashtag}`, action: hide("hashtag", hashtag) })),
    !isMine && { label: "Why am I seeing this?", action: () => explainDialog(app, item) },
    { label: "Copy link", action: () => copyText(`${location.origin}${location.pathname}#post/${post.post_id}`) },
    ...(isMine ? [] : authorActions(app, post.author_id)),
  ], { label: "Post actions" });
}

/** Follow, mute, block: wherever an author stands. */
export function authorActions(app, user_id) {
  const { store } = app;
  const { feed } = app.client;
  const name = store.nameOf(user_id);
  const author = store.feed.authors.get(user_id);
  const isMuted = store.feed.muted.has(user_id);
  const follow = author ? author.follow : "none";
  return [
    author && { label: follow === "following" ? `Unfollow ${name}` : follow === "requested" ? "Take the request back" : `Follow ${name}`, action: () => attempt(feed.follow(user_id, follow === "none")) },
    { label: isMuted ? `Unmute ${name}` : `Mute ${name}`, action: async () => {
      if (await attempt(feed.mute(user_id, !isMuted).then(() => true))) undoToast(app, isMuted ? `${name} is no longer muted` : `${name} is muted`, () => attempt(feed.mute(user_id, isMuted)));
    } },
    ...app.personActions(user_id).filter((one) => one && /block/i.test(one.label)),
  ];
}

/** Tell that something was done, with a way back. */
export function undoToast(app, text, undo, { ms = 8000 } = {}) {
  const shelf = document.querySelector(".toasts") || document.body.appendChild(h("div", { class: "toasts", role: "status" }));
  const node = h("div", { class: "toast toast-undo" }, text, h("button", { type: "button", class: "link", text: "Undo", onclick: () => {
    node.remove();
    undo();
  } }));
  shelf.append(node);
  setTimeout(() => node.remove(), ms);
}

function hiddenLine(app, item, said) {
  const [kind, ...rest] = said.split(" ");
  const target = rest.join(" ");
  const words = kind === "post" ? "You will not see this post again."
    : kind === "author" ? `You will see less of ${app.store.nameOf(target)}.` : `You will see less of #${target}.`;
  return h("li", { class: "post-hidden", dataset: { item: item.key } },
    h("span", { text: words }),
    h("span", { class: "post-hidden-actions" },
      h("button", { type: "button", class: "link", text: "Undo", dataset: { focus: "more" }, onclick: () => attempt(app.client.feed.unhide(kind, target)) }),
      h("a", { class: "link", href: "#interests", text: "What this does" })));
}

const WHY = {
  followed: (name) => `You follow ${name}.`,
  hot: (name) => `You follow ${name}. So many people do that their posts are merged in when you look.`,
  own: () => "You wrote it.",
  repost: (name) => `${name}, whom you follow, reposted it.`,
  public: (name) => `${name} posted it for everybody.`,
};
const LEFT_OUT = {
  deleted: "it was deleted", not_followed: "you do not follow its author", blocked: "one of you has blocked the other", muted: "you muted its author",
  not_visible: "it is for others", seen_from_author: "you got it from its author lately", not_interested: "you are not interested",
};
const FACTORS = { recency: "How new it is", affinity: "How often you meet its author", engagement: "What others did with it", interest: "Your “not interested”" };

async function explainDialog(app, item) {
  const told = await attempt(app.client.ask({ type: "explain_post", post_id: item.post_id }));
  if (!told) return;
  const name = app.store.nameOf(app.store.feed.post(item.post_id).author_id);
  const why = told.why ? WHY[told.why](name) : `It is no longer in your feed: ${LEFT_OUT[told.left_out] || "it was left out"}${told.until_ms ? ` until ${full(told.until_ms)}` : ""}.`;
  const factors = told.factors || [];
  const largest = Math.max(1, ...factors.map((part) => part.factor || 0));
  openDialog("Why am I seeing this?", [
    h("p", { text: why }),
    factors.length ? h("h3", { class: "section", text: "How it is ranked" }) : null,
    factors.length ? h("table", { class: "factors" }, h("tbody", {}, factors.map((part) => h("tr", {},
      h("th", { scope: "row", text: FACTORS[part.name] || part.name }),
      h("td", {}, h("meter", { min: "0", max: String(largest), value: String(part.factor || 0), "aria-label": FACTORS[part.name] || part.name })),
      h("td", { class: "factor", text: `× ${rounded(part.factor)}` }))),
      h("tr", { class: "factor-sum" }, h("th", { scope: "row", text: "Score" }), h("td"), h("td", { class: "factor", text: rounded(told.score) })))) : null,
    told.held_back ? h("p", { class: "hint", text: `It stands ${Math.abs(told.held_back)} ${Math.abs(told.held_back) === 1 ? "place" : "places"} ${told.held_back > 0 ? "lower" : "higher"} than that, so that no author fills the feed.` }) : null,
    factors.length ? h("p", { class: "hint", text: "The score is the product of its factors. “Latest” goes by time alone." }) : null,
  ]);
}

function rounded(number) {
  return new Intl.NumberFormat(undefined, { maximumSignificantDigits: 3 }).format(number || 0);
}

function editor(app, view, post) {
  const area = h("textarea", { class: "field edit-field", "aria-label": "Edit post", rows: "3", dataset: { focus: "edit" } });
  area.value = post.text;
  const who = visibilitySelect(post.visibility);
  const save = async () => {
    const text = area.value.trim();
    if (!text && !post.files.length) return toast("A post needs text or a file. Delete it instead.", { isError: true });
    if (utf8Length(text) > MAX_POST_BYTES) return toast(`A post may be at most ${bytes(MAX_POST_BYTES)} long.`, { isError: true });
    const done = await attempt(app.client.feed.editPost(post.post_id, { text, visibility: who.value, mentions: mentionsIn(text, knownNames(app)) }).then(() => true));
    return done ? view.edit(0) : undefined;
  };
  area.addEventListener("keydown", (event) => {
    if (event.key === "Escape") {
      event.stopPropagation();
      view.edit(0);
    } else if (event.key === "Enter" && (event.ctrlKey || event.metaKey)) {
      event.preventDefault();
      save();
    }
  });
  queueMicrotask(() => {
    area.focus();
    area.style.height = `${Math.min(area.scrollHeight + 2, 400)}px`;
  });
  return h("div", { class: "post-editor" }, area,
    h("div", { class: "edit-actions" }, who, h("span", { class: "spacer" }),
      h("button", { type: "button", class: "button small", text: "Cancel", onclick: () => view.edit(0) }),
      h("button", { type: "button", class: "button small primary", text: "Save", onclick: save })));
}

export function visibilitySelect(value) {
  const select = h("select", { class: "visibility", "aria-label": "Who sees it" },
    h("option", { value: "public", text: "Everybody" }), h("option", { value: "followers", text: "Followers" }));
  select.value = value;
  return select;
}

/** username -> user_id of everybody this page knows of: a post may mention anybody. */
export function knownNames(app) {
  return new Map([...app.store.people.values()].map((profile) => [profile.username.toLowerCase(), profile.user_id]));
}

// -- ads, and posts under way -------------------------------------------------------------------------

function adCard(app, ad) {
  const href = /^https?:\/\//i.test(ad.url || "") ? ad.url : null;
  const link = h(href ? "a" : "div", {
    class: "ad-card", href, target: href ? "_blank" : null, rel: href ? "noopener noreferrer nofollow sponsored" : null,
    onclick: href ? () => app.client.feed.adClicked(ad.slot_id) : null,
  });
  // Only files of this server: a picture from elsewhere would tell the advertiser who looks at it.
  if (ad.image && !/[:/]/.test(ad.image)) {
    const image = h("img", { class: "ad-image", alt: "", loading: "lazy" });
    showFile(image, app.session.token, ad.image, () => image.remove());
    link.append(image);
  }
  link.append(h("span", { class: "ad-words" },
    h("strong", { class: "ad-title", text: ad.title || ad.sponsor }),
    ad.text ? h("span", { class: "ad-text", dir: "auto", text: ad.text }) : null,
    href ? h("span", { class: "ad-host", text: new URL(href).hostname }) : null));
  return h("li", { class: "post ad", dataset: { item: `ad ${ad.slot_id}`, slot: ad.slot_id } },
    h("article", { "aria-label": `Sponsored: ${ad.title || ad.sponsor}` },
      h("p", { class: "ad-label" }, h("span", { text: "Sponsored" }), ad.sponsor && ad.sponsor !== ad.title ? h("span", { class: "ad-sponsor", text: ad.sponsor }) : null), link));
}

/** A post that is not stored yet, or was refused. */
export function pendingPost(app, item) {
  const isFailed = item.state === "failed";
  const { outbox } = app.client.feed;
  return h("li", { class: `post pending ${item.state}`, dataset: { client: item.client_id } },
    h("article", { "aria-label": isFailed ? "Not posted" : "Posting" },
      h("header", { class: "post-head" }, personAvatar(app, app.store.my_id, { withPresence: false }),
        h("div", { class: "post-names" }, h("span", { class: "post-author", text: app.store.me.name }),
          h("span", { class: "post-sub" }, drawIcon(isFailed ? "warn" : "clock", "icon tiny"), isFailed ? "Not posted" : "Posting…"))),
      h("div", { class: "post-text", dir: "auto", text: item.text.slice(0, LONG_CHARS) }),
      (item.files || []).length ? gallery(app, item.files) : null,
      isFailed ? h("div", { class: "failed-line" }, h("span", { text: item.error }),
        h("button", { type: "button", class: "link", text: "Try again", onclick: () => outbox.retry(item.client_id) }),
        h("button", { type: "button", class: "link danger", text: "Discard", onclick: () => outbox.settle(item.client_id) })) : null));
}

export function pendingSpecs(app) {
  return app.client.feed.outbox.of("posts").reverse()
    .map((item) => ({ key: `pending ${item.client_id}`, deps: [item.version || 0], render: () => pendingPost(app, item) }));
}

/** An empty list, an error with another try, or what is being waited for; `link` {href, text} leads to what helps. */
export function stateLine(node, { problem = "", isLoading = false, words = "", link = null, onretry = null }) {
  const key = problem ? `problem ${problem}` : isLoading ? "loading" : `words ${words}`;
  if (node.dataset.state === key) return;
  const guide = link && h("a", { class: "button primary", href: link.href, text: link.text });
  node.dataset.state = key;
  if (problem) fill(node, h("p", { text: problem }), onretry ? h("button", { type: "button", class: "button small", text: "Try again", onclick: onretry }) : null, guide);
  else if (isLoading) fill(node, h("span", { class: "spinner", "aria-hidden": "true" }), h("span", { class: "visually-hidden", text: "Loading…" }));
  else fill(node, words ? h("p", { text: words }) : null, words ? guide : null);
}
