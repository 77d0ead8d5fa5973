// Files that are about to hang on a message or a post: chosen, uploaded with a progress bar, shown in a tray.

import { upload } from "../api.js";
import { button, drawIcon, fill, h } from "../dom.js";
import { bytes } from "../time.js";
import { toast } from "./parts.js";

const MAX_FILES = 20; // protocol/limits.py

export class Uploads {
  /** `what` they hang on, in words; `onchange()` when it may be sent now, or no longer. */
  constructor(app, { what, onchange, accept = "", label = "Choose files" }) {
    Object.assign(this, { app, what, onchange });
    this.files = []; // {file, state, share, record, url, abort, problem, mayHelp}
    this.tray = h("div", { class: "tray", hidden: true });
    this.picker = h("input", { type: "file", multiple: true, hidden: true, accept: accept || null, "aria-label": label });
    this.picker.addEventListener("change", () => {
      this.add(this.picker.files);
      this.picker.value = "";
    });
  }

  choose() {
    this.picker.click();
  }

  get isBusy() {
    return this.files.some((entry) => entry.state === "uploading");
  }

  get hasReady() {
    return this.files.some((entry) => entry.state === "ready");
  }

  add(list) {
    const max_bytes = this.app.store.limits ? this.app.store.limits.max_file_bytes : Infinity;
    for (const file of list) {
      if (this.files.length >= MAX_FILES) {
        toast(`At most ${MAX_FILES} files in one ${this.what}.`, { isError: true });
        break;
      }
      if (file.size > max_bytes) {
        toast(`${file.name} is larger than ${bytes(max_bytes)}.`, { isError: true });
        continue;
      }
      const hasPreview = /^(image|video)\//.test(file.type);
      this._upload({ file, state: "uploading", share: 0, record: null, url: hasPreview ? URL.createObjectURL(file) : "" });
    }
  }

  /** Hand over what is uploaded, as attachments, and empty the tray. */
  take() {
    const ready = this.files.filter((entry) => entry.state === "ready");
    for (const entry of ready) this._drop(entry);
    return ready.map(({ file, record }) => ({
      file_id: record.file_id, name: record.name || file.name, media_type: record.media_type || file.type,
      size_bytes: record.size_bytes || file.size, width: record.width || 0, height: record.height || 0,
    }));
  }

  /** Upload, and again where that may help: an upload that arrived twice is one file to the server. */
  async _upload(entry, triesLeft = 3) {
    if (!this.files.includes(entry)) this.files.push(entry);
    const stop = new AbortController();
    Object.assign(entry, { state: "uploading", share: 0, abort: () => stop.abort() });
    this._draw();
    try {
      entry.record = await upload(this.app.session.token, entry.file, {
        signal: stop.signal,
        onprogress: (share) => {
          entry.share = share;
          if (entry.bar) entry.bar.value = share;
        },
      });
      entry.state = "ready";
    } catch (error) {
      if (error.code === "aborted") return;
      const wait_s = error.retry_after_s ?? (error.code === "unreachable" ? 1 : null);
      if (wait_s !== null && triesLeft > 1) {
        await new Promise((resolve) => setTimeout(resolve, wait_s * 1000));
        if (this.files.includes(entry)) await this._upload(entry, triesLeft - 1);
        return;
      }
      Object.assign(entry, { state: "failed", problem: error.message || error.code, mayHelp: mayPass(error) });
    }
    this._draw();
  }

  _drop(entry) {
    entry.abort?.();
    this.files = this.files.filter((one) => one !== entry);
    if (entry.url) URL.revokeObjectURL(entry.url);
    this._draw();
  }

  _draw() {
    this.tray.hidden = !this.files.length;
    fill(this.tray, this.files.map((entry) => {
      entry.bar = entry.state === "uploading" ? h("progress", { max: "1", value: String(entry.share), "aria-label": `Uploading ${entry.file.name}` }) : null;
      entry.preview ||= preview(entry);
      return h("div", { class: `tray-item ${entry.state}` },
        entry.preview,
        h("span", { class: "tray-words" }, h("span", { class: "file-name", text: entry.file.name }),
          entry.state === "failed" ? h("span", { class: "file-problem", role: "alert", text: entry.problem }) : null,
          entry.state === "failed" && entry.mayHelp ? h("button", { type: "button", class: "link", text: "Try again", onclick: () => this._upload(entry) }) : null,
          entry.bar || (entry.state === "ready" ? h("span", { class: "file-size", text: bytes(entry.file.size) }) : null)),
        button(`Remove ${entry.file.name}`, () => this._drop(entry), { icon: "close", kind: "quiet" }));
    }));
    this.onchange();
  }
}

/** Whether the same file may be taken another time: not where the server has looked at it and declined. */
function mayPass({ code, status, retry_after_s }) {
  return code === "unreachable" || typeof retry_after_s === "number" || status >= 500 || status === 429;
}

function preview(entry) {
  const { file, url } = entry;
  if (!url) return drawIcon("file");
  if (file.type.startsWith("image/")) {
    const image = h("img", { src: url, alt: "", onerror: () => {
      entry.preview = drawIcon("file"); // no picture after all
      image.replaceWith(entry.preview);
    } });
    return image;
  }
  const video = h("video", { src: url, preload: "metadata", "aria-hidden": "true", tabindex: "-1" });
  video.muted = true;
  return video;
}
