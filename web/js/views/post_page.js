// One post with its comments: those on the post, oldest first, and below each the answers to it.

import { button, drawIcon, h, reconcile, setText } from "../dom.js";
import { brief, full } from "../time.js";
import { confirmDialog, personAvatar } from "./parts.js";
import { openPeople } from "./people.js";
import { commentText, itemSpecs, stateLine } from "./post.js";
import { CommentComposer, deleteComment } from "./post_composer.js";
import { columns, Scroller } from "./feed.js";

const PAGE = 50;
const AGAIN_MS = 300; // a burst of comments is read once

export class PostPage {
  constructor(app, post_id) {
    this.app = app;
    this.post_id = post_id;
    this.title = "Post";
    this.editing = 0;
    this.item = null;
    this.comments = new Map(); // comment_id -> Comment
    this.threads = new Map([[0, newThread()]]); // parent_id -> what is read of its answers; 0: the post's own
    this.answering = 0;
    this.composers = new Map();
    this.problem = "";
    this.scroller = new Scroller(app, this, { label: "Post and comments", onend: () => this._more(0) });
    this.box = h("ol", { class: "posts" });
    this.people = h("div", { class: "post-people" });
    this.heading = h("h2", { class: "section comments-title" });
    this.list = h("ol", { class: "comments", "aria-label": "Comments" });
    this.state = h("div", { class: "feed-state", role: "status" });
    this.composer = new CommentComposer(app, post_id, {});
    this.below = h("div", {}, this.people, this.heading, this.composer.node, this.list);
    this.scroller.node.append(columns(
      h("header", { class: "feed-head" }, button("Back", () => app.back(), { icon: "back", kind: "quiet" }), h("h1", { text: "Post" })),
      this.box, this.below, this.state));
    this.node = h("main", { class: "feed", "aria-label": "Post" }, this.scroller.node);
    this.stop = [app.listen(["comment"], (comment) => this._arrived(comment))];
  }

  close() {
    this.scroller.close();
    clearTimeout(this.timer);
    for (const stop of this.stop) stop();
    this.app.store.feed.lists.delete(this);
  }

  get items() {
    return this.item ? [this.item] : [];
  }

  opened() {
    this.app.store.feed.lists.add(this);
    this._load();
  }

  edit(post_id) {
    this.editing = post_id;
    this.render();
  }

  async _load() {
    this.problem = "";
    try {
      this.item = await this.app.client.feed.loadPost(this.post_id);
    } catch (error) {
      if (error.code === "disconnected") return; // connected() asks again
      this.problem = error.code === "post_not_found" ? "This post is not there, or not for you to see." : error.message || error.code;
      this.isMissing = error.code === "post_not_found";
      this.render();
      return;
    }
    if (this.item.root_id !== this.post_id) { // a repost has no comments of its own
      this.app.visit(`post/${this.item.root_id}`, { isReplacing: true });
      return;
    }
    this.counted = this.app.store.feed.post(this.post_id).comments;
    this.render();
    await this._more(0);
  }

  /** Connected again: what came meanwhile is read. */
  connected() {
    if (this.item) this._again();
    else this._load();
  }

  // -- comments -------------------------------------------------------------------------------------

  async _more(parent_id) {
    const thread = this.threads.get(parent_id);
    if (!this.item || thread.isEnd || thread.isLoading || thread.problem) return;
    await this._read(parent_id, thread.last);
  }

  async _read(parent_id, after, limit = PAGE) {
    const thread = this.threads.get(parent_id);
    thread.isLoading = true;
    thread.problem = "";
    this.render();
    try {
      const page = await this.app.client.ask({ type: "list_comments", post_id: this.post_id, parent_id, after, limit });
      for (const comment of page.items || []) this.comments.set(comment.comment_id, comment);
      const last = page.next || Math.max(after, ...(page.items || []).map((comment) => comment.comment_id));
      if (last >= thread.last) Object.assign(thread, { last, isEnd: !page.next });
    } catch (error) {
      if (error.code !== "disconnected") thread.problem = error.message || error.code;
    } finally {
      thread.isLoading = false;
      this.render();
    }
  }

  /** Read again what is shown, as something was added or taken away. */
  async _again() {
    for (const [parent_id, thread] of this.threads) {
      if (!thread.isLoading) await this._read(parent_id, 0, 100);
    }
  }

  /** A comment of our own is stored. */
  _arrived(comment) {
    if (comment.post_id !== this.post_id) return;
    this.comments.set(comment.comment_id, comment);
    const parent = this.comments.get(comment.parent_id || 0);
    if (parent) this.comments.set(parent.comment_id, { ...parent, replies: (parent.replies || 0) + 1 });
    this.render();
  }

  _unfold(comment_id) {
    if (this.threads.has(comment_id)) this.threads.delete(comment_id);
    else {
      this.threads.set(comment_id, newThread());
      this._more(comment_id);
    }
    this.render();
  }

  _answer(comment) {
    this.answering = comment ? comment.comment_id : 0;
    if (comment && !this.threads.has(comment.comment_id) && comment.replies) this._unfold(comment.comment_id);
    this.render();
    this.composers.get(this.answering)?.area.focus();
  }

  _answerBox(comment) {
    let composer = this.composers.get(comment.comment_id);
    if (!composer) {
      composer = new CommentComposer(this.app, this.post_id, {
        parent_id: comment.comment_id, to: this.app.store.nameOf(comment.user_id), oncancel: () => this._answer(null),
        onsent: () => {
          if (!this.threads.has(comment.comment_id)) this._unfold(comment.comment_id);
          this._answer(null);
        },
      });
      this.composers.set(comment.comment_id, composer);
    }
    return composer.node;
  }

  _delete(comment) {
    confirmDialog("Delete comment", "It disappears for everybody, its answers stay.", "Delete", async () => {
      if (!(await deleteComment(this.app, comment))) return;
      this.comments.set(comment.comment_id, { ...comment, deleted: true, text: "" });
      const parent = this.comments.get(comment.parent_id || 0);
      if (parent) this.comments.set(parent.comment_id, { ...parent, replies: Math.max(0, (parent.replies || 0) - 1) });
      this.render();
    });
  }

  // -- rendering ------------------------------------------------------------------------------------

  render() {
    const { store } = this.app;
    const post = store.feed.post(this.post_id);
    const isGone = this.isMissing || (this.item && store.feed.isGone(this.item));
    reconcile(this.box, itemSpecs(this.app, this, this.items, { isAlone: true }));
    this.below.hidden = !this.item || isGone;
    const top = this.threads.get(0);
    stateLine(this.state, {
      problem: isGone && !this.problem ? "This post is gone." : this.problem || top.problem,
      isLoading: !isGone && (!this.item || top.isLoading),
      words: this.item && top.isEnd && !this._of(0).length ? "No comments yet." : "",
      link: isGone ? { href: "#feed", text: "Go to the feed" } : null,
      onretry: isGone ? null : () => {
        top.problem = "";
        if (this.item) this._more(0);
        else this._load();
      },
    });
    if (!this.item || isGone || !post) return;
    if (post.comments !== this.counted && !this.timer) {
      this.counted = post.comments;
      this.timer = setTimeout(() => {
        this.timer = null;
        this._again();
      }, AGAIN_MS);
    }
    setText(this.heading, post.comments ? `${post.comments} ${post.comments === 1 ? "comment" : "comments"}` : "Comments");
    reconcile(this.people, [{ key: "likes", deps: [post.likes, post.at_ms], render: () => h("p", { class: "post-facts" },
      h("time", { text: full(post.at_ms) }),
      post.likes ? h("button", { type: "button", class: "link", text: `${post.likes} ${post.likes === 1 ? "like" : "likes"}`, onclick: () => openPeople(this.app, "Liked by", { type: "list_likes", post_id: this.post_id }) }) : null) }]);
    reconcile(this.list, this._specs(0));
    this.scroller.watch(this.box);
  }

  _of(parent_id) {
    const { feed, blocked } = this.app.store;
    return [...this.comments.values()]
      .filter((comment) => (comment.parent_id || 0) === parent_id && (!comment.deleted || comment.replies) && !feed.muted.has(comment.user_id) && !blocked.has(comment.user_id))
      .sort((one, other) => one.comment_id - other.comment_id);
  }

  _specs(parent_id) {
    const { store } = this.app;
    const thread = this.threads.get(parent_id);
    const specs = this._of(parent_id).map((comment) => {
      const isOpen = this.threads.has(comment.comment_id);
      const isAnswering = this.answering === comment.comment_id;
      const profile = store.people.get(comment.user_id);
      return {
        key: comment.comment_id,
        deps: [comment, profile, store.nameOf(comment.user_id), isOpen, isAnswering, (comment.mentions || []).map((id) => store.nameOf(id)).join(), isOpen ? {} : null],
        render: (old) => this._comment(old, comment, { isOpen, isAnswering }),
      };
    });
    for (const item of this.app.client.feed.outbox.of(`post ${this.post_id}`)) {
      if ((item.parent_id || 0) !== parent_id) continue;
      specs.push({ key: `pending ${item.client_id}`, deps: [item.version || 0], render: () => this._pending(item) });
    }
    if (parent_id && thread && !thread.isEnd) {
      specs.push({ key: "more", deps: [thread.isLoading, thread.problem], render: () => h("li", { class: "comments-more" }, thread.problem ? `${thread.problem} ` : null,
        h("button", { type: "button", class: "link", disabled: thread.isLoading, text: thread.isLoading ? "Loading…" : thread.problem ? "Try again" : "More answers", onclick: () => {
          thread.problem = "";
          this._more(parent_id);
        } })) });
    }
    return specs;
  }

  _comment(old, comment, { isOpen, isAnswering }) {
    const { store } = this.app;
    const node = old || h("li", { class: "comment", dataset: { comment: comment.comment_id } });
    const name = store.nameOf(comment.user_id);
    const isMine = comment.user_id === store.my_id;
    const mayDelete = !comment.deleted && (isMine || store.feed.post(this.post_id).author_id === store.my_id);
    const answers = node.querySelector(":scope > .comments") || h("ol", { class: "comments answers", "aria-label": `Answers to ${name}` });
    reconcile(node, [
      {
        key: "body", deps: [comment, name, store.people.get(comment.user_id), isOpen],
        render: () => h("div", { class: comment.deleted ? "comment-body deleted" : "comment-body" },
          personAvatar(this.app, comment.user_id, { size: "small", withPresence: false }),
          h("div", { class: "comment-words" },
            h("div", { class: "comment-head" }, h("a", { class: "post-author", href: `#u/${comment.user_id}`, text: name }),
              h("time", { class: "post-sub", text: brief(comment.at_ms), title: full(comment.at_ms) })),
            comment.deleted ? h("p", { class: "gone", text: "This comment was deleted" }) : commentText(this.app, comment),
            h("div", { class: "comment-row" },
              comment.parent_id || comment.deleted ? null : h("button", { type: "button", class: "link quiet-link", text: "Answer", dataset: { focus: "answer" }, onclick: () => this._answer(comment) }),
              comment.replies ? h("button", { type: "button", class: "link quiet-link", "aria-expanded": String(isOpen), dataset: { focus: "unfold" }, onclick: () => this._unfold(comment.comment_id) },
                drawIcon("thread", "icon tiny"), `${comment.replies} ${comment.replies === 1 ? "answer" : "answers"}`) : null,
              mayDelete ? h("button", { type: "button", class: "link quiet-link", text: "Delete", dataset: { focus: "delete" }, onclick: () => this._delete(comment) }) : null))),
      },
      ...(isOpen ? [{ key: "answers", deps: [], render: () => answers }] : []),
      ...(isAnswering ? [{ key: "answer", deps: [], render: () => this._answerBox(comment) }] : []),
    ]);
    if (isOpen) reconcile(answers, this._specs(comment.comment_id));
    return node;
  }

  _pending(item) {
    const { outbox } = this.app.client.feed;
    const isFailed = item.state === "failed";
    return h("li", { class: `comment pending ${item.state}` }, h("div", { class: "comment-body" },
      personAvatar(this.app, this.app.store.my_id, { size: "small", withPresence: false }),
      h("div", { class: "comment-words" }, h("div", { class: "comment-text", dir: "auto", text: item.text }),
        isFailed
          ? h("div", { class: "failed-line" }, h("span", { text: item.error }),
              h("button", { type: "button", class: "link", text: "Try again", onclick: () => outbox.retry(item.client_id) }),
              h("button", { type: "button", class: "link danger", text: "Discard", onclick: () => outbox.settle(item.client_id) }))
          : h("span", { class: "post-sub" }, drawIcon("clock", "icon tiny"), "Sending…"))));
  }
}

function newThread() {
  return { last: 0, isEnd: false, isLoading: false, problem: "" };
}
